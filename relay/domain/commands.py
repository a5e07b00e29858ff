"""What to do on the other side. Commands wait in the outbox, and the lanes carry them out in order.

A command names messages by their *originals*. Where their copies are is looked up when the command is delivered:
only then have the commands before it been carried out.

`kind` tells the commands apart in the store. Its values never change, and `store.codec` writes it as the first key of
the JSON: an index and the pruning look at the first characters only.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from relay.domain.content import Attachment, Author, Content
from relay.domain.ids import MessageRef, ThreadRef, UserRef
from relay.domain.text.nodes import RichText


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Copy `source` to the other side."""

    source: MessageRef
    author: Author
    content: Content
    created_at: datetime
    reply_to: MessageRef | None = None
    # If it takes several messages: how it was cut at the first try. Later tries have to go on with the same parts,
    # whatever has changed since (the quoted message, the channel's limits).
    parts: tuple[Content, ...] = ()
    kind: Literal["send"] = field(default="send", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class EditMessage:
    """Make the copy of `source` say `content`."""

    source: MessageRef
    author: Author
    content: Content
    edited_at: datetime
    reply_to: MessageRef | None = None
    # As in `SendMessage`.
    parts: tuple[Content, ...] = ()
    kind: Literal["edit"] = field(default="edit", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class RefreshMessage:
    """An edit of `source` was deleted: make the copy say what `source` says now, which is looked up at delivery."""

    source: MessageRef
    # The time of the last edit that is known.
    edited_at: datetime
    reply_to: MessageRef | None = None
    kind: Literal["refresh"] = field(default="refresh", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class RequoteMessage:
    """`reply_to` has changed: update the quoted line in the copy of `source`, a reply to it, if it has one."""

    source: MessageRef
    reply_to: MessageRef
    kind: Literal["requote"] = field(default="requote", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class DeleteMessage:
    """Remove every copy of `source`."""

    source: MessageRef
    # Remove only the old copies, which have been posted again elsewhere.
    leftovers: bool = False
    kind: Literal["delete"] = field(default="delete", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class RemoveOriginal:
    """Remove `source`, an original on the side where this is delivered: a moderator removed its copy on the other."""

    source: MessageRef
    kind: Literal["remove"] = field(default="remove", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class PostNotice:
    """Say something in the relay's own name."""

    text: RichText
    # Post it inside this thread instead of the channel itself.
    thread: ThreadRef | None = None
    # The message in the same channel that it answers.
    reply_to: MessageRef | None = None
    # It notifies nobody.
    silent: bool = False
    kind: Literal["notice"] = field(default="notice", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class RemoveMember:
    """Take the account that stands for somebody who has left out of the channel on the other side."""

    user: UserRef
    kind: Literal["remove_member"] = field(default="remove_member", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class DigestItem:
    """One message of a digest."""

    source: MessageRef
    author: Author
    content: Content
    created_at: datetime
    # The quoted line, if it is a reply.
    above: RichText = field(default_factory=RichText)


@dataclass(frozen=True, slots=True)
class Digest:
    """Copy several messages to the other side as one, because its rate limit is too low for one by one."""

    items: tuple[DigestItem, ...]
    # The names above it. Set once messages of some of these people have been taken out of it.
    under: Author | None = None
    kind: Literal["send_batch"] = field(default="send_batch", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class MarkFailed:
    """Show the author of `source`, where they wrote it, that it did not cross."""

    source: MessageRef
    # A sentence.
    reason: str
    kind: Literal["mark_failed"] = field(default="mark_failed", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class MarkAnswered:
    """Show by a sign at `source`, a command to the relay, what came of it: its channel is full of answers in words."""

    source: MessageRef
    # Whether what was asked for is so now.
    done: bool
    kind: Literal["mark_answered"] = field(default="mark_answered", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class LateFile:
    """A file of `source` that did not arrive in time, and was described in words: it follows as its own message.

    In the lane of a channel to itself: check whether the file has arrived. In the lane that crosses: send it.
    """

    source: MessageRef
    author: Author
    attachment: Attachment
    # When we stopped waiting for it.
    since: datetime
    # When the message had last been edited. A later edit brings its files by itself.
    edited_at: datetime | None = None
    kind: Literal["late_file"] = field(default="late_file", kw_only=True, repr=False)


Command = (
    SendMessage
    | EditMessage
    | RefreshMessage
    | RequoteMessage
    | DeleteMessage
    | RemoveOriginal
    | PostNotice
    | RemoveMember
    | MarkFailed
    | MarkAnswered
    | Digest
    | LateFile
)
