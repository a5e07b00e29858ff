"""What to do on the other side. The outbox keeps commands; the courier carries them out, in order, per lane.

A command names messages by their *originals*: where their copies are is looked up when it is delivered, because
only then have the commands before it been carried out.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from relay.domain.content import Author, Content
from relay.domain.ids import MessageRef, ThreadRef
from relay.domain.richtext import RichText


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Copy `source` to the other side."""

    source: MessageRef
    author: Author
    content: Content
    created_at: datetime
    reply_to: MessageRef | None = None
    kind: Literal["send"] = field(default="send", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class EditMessage:
    """Make the copy of `source` say `content`."""

    source: MessageRef
    author: Author
    content: Content
    edited_at: datetime
    reply_to: MessageRef | None = None
    kind: Literal["edit"] = field(default="edit", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class DeleteMessage:
    """Remove every copy of `source`."""

    source: MessageRef
    kind: Literal["delete"] = field(default="delete", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class PostNotice:
    """Say something in the relay's own name. `thread`: inside that thread rather than in the channel itself."""

    text: RichText
    thread: ThreadRef | None = None
    kind: Literal["notice"] = field(default="notice", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class MarkFailed:
    """Show the author of `source`, where they wrote it, that it did not cross; `reason` is a sentence."""

    source: MessageRef
    reason: str
    kind: Literal["mark_failed"] = field(default="mark_failed", kw_only=True, repr=False)


Command = SendMessage | EditMessage | DeleteMessage | PostNotice | MarkFailed
