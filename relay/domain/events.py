"""What happened on a platform, as its adapter saw it. Past tense; commands (`commands.py`) are what to do about it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from relay.domain.content import Author, Content
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, PlaceRef, ThreadRef, UserRef
from relay.domain.pair import SystemMessage


@dataclass(frozen=True, slots=True)
class MessageCreated:
    """Somebody wrote a message."""

    ref: MessageRef
    author: Author
    content: Content
    created_at: datetime
    # In the same channel.
    reply_to: MessageRef | None = None
    # Set for a message inside a thread; `ref.channel` is then still the channel that the thread belongs to.
    thread: ThreadRef | None = None
    # Set if it was edited before we read it; `edit` as in `MessageEdited`.
    edited_at: datetime | None = None
    edit: MessageRef | None = None
    # Set if the platform itself says it about the author.
    system: SystemMessage | None = None
    # Set if it is a command to the relay: the command's name and what follows it.
    command: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class MessageEdited:
    """A message now says `content`."""

    ref: MessageRef
    author: Author
    content: Content
    # Orders two edits of one message.
    edited_at: datetime
    # The edit itself, if the platform keeps it as a message: when that is deleted, the edit is taken back.
    edit: MessageRef | None = None
    # What it says now has the form of a command. Edits are not carried out.
    is_command: bool = False


@dataclass(frozen=True, slots=True)
class MessageDeleted:
    """Somebody deleted a message, or an edit. A bulk deletion is one of these events for each message."""

    ref: MessageRef
    # We deleted it ourselves.
    by_self: bool = False


# The words under which what does not cross is counted. README's "What crosses" says what each of them means.
Feature = Literal[
    "call",
    "command",
    "empty",
    "encryption",
    "file",
    "foreign",
    "former",
    "location",
    "moderation",
    "nsfw",
    "optout",
    "paused",
    "reaction",
    "receipt",
    "system",
    "thread",
    "typing",
    "unknown",
    "unreadable",
    "verification",
    "vote",
]


@dataclass(frozen=True, slots=True)
class FeatureUsed:
    """Somebody used a feature that does not cross."""

    channel: ChannelRef
    feature: Feature
    user_is_self: bool = False


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """Somebody is not among the people of these channels any more, which belong together."""

    channels: tuple[ChannelRef, ...]
    user: UserRef


@dataclass(frozen=True, slots=True)
class HistorySkipped:
    """Messages that were written while the relay was away do not cross, because they are too many."""

    channel: ChannelRef
    # How many, or at least how many if the platform does not say; None if there may have been none.
    count: int | None


@dataclass(frozen=True, slots=True)
class PictureChanged:
    """Somebody has another picture from now on. Nothing is said, but the picture can be made ready."""

    channel: ChannelRef
    author: Author


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule of a policy list: what these accounts write is not wanted."""

    # Whether `entity` is about accounts, or about the servers that they are on.
    kind: Literal["account", "home"]
    # A glob: `*` stands for any characters, `?` for one.
    entity: str
    # Whatever its author wrote there.
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PolicyListRead:
    """A policy list has these rules from now on, and no others."""

    # As the operator declared it.
    address: ChannelAddress
    rules: tuple[PolicyRule, ...]


@dataclass(frozen=True, slots=True)
class MemberBanned:
    """Moderators have banned somebody from a place."""

    place: PlaceRef
    # Whoever speaks: of an account that the relay has for somebody of the other side, them.
    user: UserRef
    # It was banned before the relay looked for the first time.
    is_old: bool = False
    # It was found in the list of all bans. What was told since the list was asked for is newer.
    is_listed: bool = False
    # All that they ever wrote there is to go.
    removes_all: bool = False


@dataclass(frozen=True, slots=True)
class MemberUnbanned:
    """Moderators have lifted a ban."""

    place: PlaceRef
    user: UserRef
    # See `MemberBanned.is_listed`.
    is_listed: bool = False


Event = (
    MessageCreated
    | MessageEdited
    | MessageDeleted
    | FeatureUsed
    | HistorySkipped
    | MemberLeft
    | PictureChanged
    | PolicyListRead
    | MemberBanned
    | MemberUnbanned
)
