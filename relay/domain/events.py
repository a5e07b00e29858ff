"""What happened on a platform, as its adapter saw it. Past tense; commands (`commands.py`) are what to do about it."""

from dataclasses import dataclass
from datetime import datetime

from relay.domain.content import Author, Content
from relay.domain.ids import ChannelRef, MessageRef, ThreadRef
from relay.domain.pair import SystemMessage


@dataclass(frozen=True, slots=True)
class MessageCreated:
    """Somebody wrote a message.

    `edited_at` is set where it was edited before it was read. `reply_to` is in the same channel. `thread` is set for a
    message inside a thread; `ref.channel` is then still the channel that the thread belongs to.
    `system`: the platform itself says it of the author.
    """

    ref: MessageRef
    author: Author
    content: Content
    created_at: datetime
    reply_to: MessageRef | None = None
    thread: ThreadRef | None = None
    edited_at: datetime | None = None
    system: SystemMessage | None = None


@dataclass(frozen=True, slots=True)
class MessageEdited:
    """A message now says `content`; `edited_at` orders two edits of one message.

    `edit`: the edit itself, where the platform keeps it as a message: once that is deleted, the edit is taken back.
    """

    ref: MessageRef
    author: Author
    content: Content
    edited_at: datetime
    edit: MessageRef | None = None


@dataclass(frozen=True, slots=True)
class MessageDeleted:
    """A message is gone, by whomever, or an edit is. A bulk deletion is one of these for each message.

    `by_self`: we have removed it ourselves.
    """

    ref: MessageRef
    by_self: bool = False


@dataclass(frozen=True, slots=True)
class FeatureUsed:
    """Somebody used what no bridge carries: `feature` is one word (`reaction`, `typing`, `presence`, `receipt`, …)."""

    channel: ChannelRef
    feature: str
    user_is_self: bool = False


@dataclass(frozen=True, slots=True)
class HistorySkipped:
    """`count` messages of the channel were written while the relay was away and are too many to catch up.

    `count` is a lower bound where the platform does not tell the number, and None where it is not known whether there
    were any.
    """

    channel: ChannelRef
    count: int | None


Event = MessageCreated | MessageEdited | MessageDeleted | FeatureUsed | HistorySkipped
