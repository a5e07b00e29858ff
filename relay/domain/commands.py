"""What to do on the other side. The outbox keeps commands; the dispatcher carries them out, in order, per lane.

A command names messages by their *originals*: where their copies are is looked up when it is delivered, because
only then have the commands before it been carried out.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from relay.domain.content import Attachment, Author, Content
from relay.domain.ids import MessageRef, ThreadRef
from relay.domain.text.nodes import RichText


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Copy `source` to the other side.

    `parts`: how it was cut when it was first tried, where it takes several messages. A later try has to go on with the
    same parts, whatever has changed since (what the reply quotes, what the channel takes).
    """

    source: MessageRef
    author: Author
    content: Content
    created_at: datetime
    reply_to: MessageRef | None = None
    parts: tuple[Content, ...] = ()
    kind: Literal["send"] = field(default="send", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class EditMessage:
    """Make the copy of `source` say `content`. `parts` as in `SendMessage`."""

    source: MessageRef
    author: Author
    content: Content
    edited_at: datetime
    reply_to: MessageRef | None = None
    parts: tuple[Content, ...] = ()
    kind: Literal["edit"] = field(default="edit", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class RefreshMessage:
    """Make the copy of `source` say what `source` says by now: an edit of it was taken back.

    `edited_at` is that of the last edit that is known; the words are looked up when this is delivered.
    """

    source: MessageRef
    edited_at: datetime
    reply_to: MessageRef | None = None
    kind: Literal["refresh"] = field(default="refresh", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class RequoteMessage:
    """Make what the copy of `source`, an answer to `reply_to`, quotes say what stands there by now, if it quotes."""

    source: MessageRef
    reply_to: MessageRef
    kind: Literal["requote"] = field(default="requote", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class DeleteMessage:
    """Remove every copy of `source`; only those that have been posted anew elsewhere, if `leftovers`."""

    source: MessageRef
    leftovers: bool = False
    kind: Literal["delete"] = field(default="delete", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class RemoveOriginal:
    """Remove `source`, an original where this is delivered: a moderator has removed its copy on the other side."""

    source: MessageRef
    kind: Literal["remove"] = field(default="remove", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class PostNotice:
    """Say something in the relay's own name. `thread`: inside that thread rather than in the channel itself."""

    text: RichText
    thread: ThreadRef | None = None
    kind: Literal["notice"] = field(default="notice", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class DigestItem:
    """One message among those that cross together. `above` is the quoted line of a reply, if it is one."""

    source: MessageRef
    author: Author
    content: Content
    created_at: datetime
    above: RichText = field(default_factory=RichText)


@dataclass(frozen=True, slots=True)
class Digest:
    """Copy several messages to the other side as one, because it does not take them one by one in time.

    `under`: the names that it stands under, where some of their messages have left it since.
    """

    items: tuple[DigestItem, ...]
    under: Author | None = None
    kind: Literal["send_batch"] = field(default="send_batch", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class MarkFailed:
    """Show the author of `source`, where they wrote it, that it did not cross; `reason` is a sentence."""

    source: MessageRef
    reason: str
    kind: Literal["mark_failed"] = field(default="mark_failed", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class LateFile:
    """A file of `source` that did not come in time, and was named in words: it follows as a message of its own.

    In the lane of a channel to itself: see whether it has come. In the lane that crosses: send it. `edited_at`: when
    the message had been edited last; a later edit brings its files by itself. `since`: when the file was given up.
    """

    source: MessageRef
    author: Author
    attachment: Attachment
    since: datetime
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
    | MarkFailed
    | Digest
    | LateFile
)
