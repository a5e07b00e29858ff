"""What the core needs of the world, and what it offers to the adapters, as protocols.

The adapters implement `Adapter` (and, where the platform's stream does not replay what was missed,
`HistoryReader`) and pass the suites in `tests/contract`. What the core needs of the store is in `core/storage.py`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from relay.domain.content import Attachment, Author, Capabilities, Content, Quotation
from relay.domain.events import Event, MessageCreated
from relay.domain.ids import ChannelAddress, ChannelRef, MediaRef, MessageRef, Platform, ThreadRef, UserRef
from relay.domain.text.nodes import RichText
from relay.errors import DeliveryError, sentence


class Clock(Protocol):
    """Time. The simulation has one of its own."""

    def now(self) -> datetime:
        """The time of day, with UTC as its zone."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


# --- From the adapters to the core ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a stream of one platform has been read."""

    platform: Platform
    stream: str  # its adapter's name for it: `channel:<snowflake>`, `sync`
    position: str  # in the adapter's own form


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events in the order of the platform, and the cursors that stand behind them.

    The core writes both in one transaction: a cursor never runs ahead of what it stands for.
    """

    events: tuple[Event, ...] = ()
    cursors: tuple[Cursor, ...] = ()


@dataclass(frozen=True, slots=True)
class CommandCall:
    """Somebody asks the relay for something."""

    user: UserRef
    # Where they asked.
    channel: ChannelRef
    # The command's name and what follows it; empty counts as `help`. What there is: `core.people.commands.COMMANDS`.
    words: tuple[str, ...]
    # The answer is shown to that person alone.
    private: bool
    # What people call them there, unchecked; "" if that is not known.
    name: str = ""


class Inbox(Protocol):
    """What an adapter may call."""

    async def receive(self, batch: EventBatch) -> None:
        """Take events and their cursors. Returns once both are on disk.

        Events that were received before are recognised and ignored; one that makes the core fail is left out and
        counted. Raises `StoreUnavailable` when nothing was written: the adapter keeps the events, and calls again.
        """
        ...

    async def cursor(self, platform: Platform, stream: str) -> str | None:
        """The position last written for a stream, None before the first."""
        ...

    async def last_original(self, channel: ChannelRef) -> MessageRef | None:
        """The last message on record that was written in `channel`, and not deleted; None if there is none.

        What came before it has been received.
        """
        ...

    async def opened(
        self, address: ChannelAddress, channel: ChannelRef, *, predecessors: frozenset[ChannelRef] = frozenset()
    ) -> None:
        """The channel that the operator declared as `address` is `channel`, and can be read now.

        `predecessors`: channels that it has replaced and is the same place as. What waits for them goes there.
        Returns once the core can route its events; call it before the first `receive` with events of `channel`.
        """
        ...

    async def closed(self, address: ChannelAddress, problem: str) -> None:
        """The declared channel cannot be used now: a sentence with the remedy. `opened` ends it."""
        ...

    async def catch_up(self, channel: ChannelRef, after: str) -> None:
        """Read what was missed in `channel` since the cursor position `after`, through the adapter's `HistoryReader`.

        Returns once all of it has been received; the adapter holds that channel's live events back meanwhile.
        """
        ...

    async def command(self, call: CommandCall) -> RichText:
        """Carry out what somebody asks for, and return the answer.

        Each call is carried out: an adapter whose platform sends a command again makes it an event instead. Raises
        `StoreUnavailable` when nothing was done.
        """
        ...


# --- From the core to the adapters ------------------------------------------------------------------------

SideState = Literal["connecting", "catching_up", "ready", "failed", "stopped"]
"""`ready`: everything said from now on will cross. `stopped`: no daemon runs; only `relay status` says so."""


@dataclass(frozen=True, slots=True)
class SideHealth:
    """How an adapter is."""

    state: SideState
    # A sentence for the operator, "" if there is nothing to say.
    detail: str = ""

    @property
    def connected(self) -> bool:
        """Whether the platform answers."""
        return self.state in ("ready", "catching_up")

    @property
    def problem(self) -> str | None:
        """Why it is not ready; None while it is."""
        return None if self.state == "ready" else sentence(self.detail or self.state.replace("_", " "))


async def _not_on_record(_: MessageRef) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to make (or to turn an existing one into), already cut to what the channel can carry.

    Where it is `suspect`, the adapter finds out before it sends whether an earlier try was carried out. It looks at the
    channel's messages since `after` that are not `on_record` for another command.
    """

    channel: ChannelRef
    # Unique for ever and the same for each try of the same message, at most 25 characters of [a-z0-9.].
    key: str
    author: Author | None  # None: the relay speaks in its own name
    content: Content
    reply_to: MessageRef | None = None
    thread: ThreadRef | None = None
    part: int = 0  # counts from 0
    suspect: bool = False  # an earlier try may have been carried out
    after: MessageRef | None = None  # the last message of this lane in that channel that is on record
    on_record: Callable[[MessageRef], Awaitable[bool]] = _not_on_record
    alone: bool = True  # no other lane has anything on its way into that channel: what looks like ours is ours
    queued_at: datetime | None = None  # when its command was queued; None if that is not known
    # Whose message is replied to; None where somebody of the other side wrote it.
    replied_author: UserRef | None = None
    last_try: bool = False  # if no earlier try was carried out, nothing is sent: raise `Permanent`
    # The store is a backup that was restored, and the message was written before that: since this time it may have
    # crossed without being on record, and so may others. Its copy says the same, or was edited; `after` tells nothing.
    restored_since: datetime | None = None
    # The author's name without what the operator adds to it; "" where that is not known.
    bare_name: str = ""

    @property
    def sender(self) -> "Sender | None":
        """Whose files it brings."""
        return None if self.author is None else Sender(self.channel, self.author.user)


class Adapter(Protocol):
    """One platform. Raises only errors of `relay.errors`.

    Whatever it is asked for: a 5xx in answer is a `Transient` that is `failed`, and nothing that only has to wait is.
    """

    @property
    def platform(self) -> Platform:
        """Which."""
        ...

    @property
    def shared_limit(self) -> bool:
        """Whether what may be sent in a time is counted over all channels together, rather than for each."""
        ...

    async def run(self, inbox: Inbox) -> None:
        """Connect and stay connected until cancelled, through every outage.

        Raises `FatalError` for what no retry mends (a refused token).
        """
        ...

    async def watch(self, addresses: frozenset[ChannelAddress]) -> None:
        """From now on these are the declared channels; may be called before and while `run` runs.

        For each the adapter calls `Inbox.opened` or `Inbox.closed`, and goes on trying those that are closed.
        """
        ...

    async def close(self) -> None:
        """Release connections. Called after `run` has ended."""
        ...

    def health(self) -> SideHealth:
        """How it is now. No I/O."""
        ...

    def capabilities(self, channel: ChannelRef) -> Capabilities:
        """What `channel` can carry. No I/O."""
        ...

    def measure(self, text: RichText, author: Author | None) -> int:
        """The length of `text` as rendered, all that is put around it for `author` included. Pure."""
        ...

    async def send(self, delivery: Delivery) -> MessageRef:
        """Post, and return the new message's ID; or find the one that a suspect earlier try made.

        Raises `FileRejected` for a file that cannot cross or not yet, `Unsupported` for what this platform cannot
        carry, `Permanent` when no try will succeed, `Transient` else.
        """
        ...

    async def edit(self, target: MessageRef, delivery: Delivery) -> None:
        """Make `target`, one of ours, say `delivery`; nothing is sent where it is known to say that already.

        Raises `TargetGone` when it is gone, `CopyNotEditable` when it can only be posted again, `FileRejected` for a
        file that cannot cross or not yet, `Permanent` when no try will succeed, `Transient` else.
        """
        ...

    async def delete(self, target: MessageRef, key: str) -> None:
        """Remove `target`, one of ours. Raises `TargetGone` when it is gone, `Permanent` or `Transient` else."""
        ...

    async def quote(self, target: MessageRef) -> Quotation | None:
        """What to show of `target` in a reply to it; None when it is gone. Raises `Transient`."""
        ...

    def permalink(self, target: MessageRef) -> str:
        """A link that opens `target`. No I/O."""
        ...

    def own_names(self, channel: ChannelRef) -> frozenset[str]:
        """Under which names the relay's own account speaks in `channel`, as far as is known. No I/O."""
        ...

    async def people(self, channel: ChannelRef, names: frozenset[str]) -> Mapping[str, UserRef]:
        """The people who can be mentioned in `channel` under these names. Keys: see `convert.references.folded`.

        Only if exactly one person there has the name. Best effort: what cannot be looked up now is not found.
        """
        ...

    async def mark_failed(self, source: MessageRef, reason: str) -> bool:
        """Show the author of `source`, a message on this platform, that it did not cross (a reaction of ours).

        False where that is not possible here; the core posts a notice instead.
        """
        ...


@runtime_checkable
class HistoryReader(Protocol):
    """An adapter whose platform's stream does not replay what was missed. Its readings raise only `Transient`.

    The ID of a message is a cursor position, too: what was written after it.
    """

    def knows(self, position: str) -> bool:
        """Whether that can be a position at all: a damaged row of the store may hold anything."""
        ...

    def position_at(self, moment: datetime) -> str:
        """The position before everything that was written since a moment."""
        ...

    def now(self) -> datetime:
        """The time of day by the platform's own clock, as far as it is known. No I/O."""
        ...

    def history(self, channel: ChannelRef, after: str, *, newest: int) -> AsyncIterator[EventBatch]:
        """What was written after the cursor position `after`, oldest first, a page at a time, each with its cursor.

        At most the `newest` last messages; where there are more, the first batch says how many were passed over
        (`HistorySkipped`). Messages carry their latest text, and `edited_at` where they were edited.
        """
        ...

    def reread(self, first: MessageRef, last: MessageRef) -> AsyncIterator[Sequence[MessageCreated] | None]:
        """What stands now between two messages of a channel, both included, oldest first, a page at a time.

        None instead of a page: some of it could not be looked at, so what is missing need not have been deleted.
        """
        ...


@runtime_checkable
class MemberMirror(Protocol):
    """An adapter on whose platform people of the other side may have accounts of their own."""

    async def channels_of(self, user: UserRef) -> frozenset[ChannelRef]:
        """In which channels somebody of the other side has one, as far as is on record. Raises `StoreUnavailable`."""
        ...

    async def members_of(self, channel: ChannelRef) -> frozenset[UserRef]:
        """Who has one in a channel, as far as is on record. Raises `StoreUnavailable`."""
        ...

    async def remove_member(self, channel: ChannelRef, user: UserRef) -> None:
        """Take it out of a channel; to do it again does no harm. Raises `Transient`."""
        ...

    def wants_everybody(self, channel: ChannelRef) -> bool:
        """Whether everybody who may read the other side is to have one in a channel, before they speak. No I/O."""
        ...

    async def add_member(self, channel: ChannelRef, author: Author) -> bool:
        """Bring it into a channel, however long that has to wait; False if it is there, or cannot be.

        Raises `Transient`, `StoreUnavailable`.
        """
        ...


@runtime_checkable
class MemberLister(Protocol):
    """An adapter that can list who may read a channel."""

    def members(self, channel: ChannelRef) -> AsyncIterator[Sequence[Author]]:
        """They, a page at a time. Raises a `DeliveryError`."""
        ...


@runtime_checkable
class DepartureFinder(Protocol):
    """An adapter that can tell who has left, of those who were among the people of a channel."""

    async def departed(self, channel: ChannelRef, people: frozenset[UserRef]) -> frozenset[UserRef]:
        """They; none where the operator does not want that to be asked. Raises a `DeliveryError`."""
        ...


@runtime_checkable
class ChannelNotes(Protocol):
    """An adapter that can say what the operator may correct about a channel although it works."""

    def notes(self, channel: ChannelRef) -> Sequence[str]:
        """Sentences, each with its remedy. No I/O."""
        ...


@dataclass(frozen=True, slots=True)
class ChannelInfo:
    """What people know a channel by."""

    # `#help`, `Help room`.
    name: str
    # The server that it is in; "" where channels stand by themselves.
    place: str = ""
    topic: str = ""
    # Opens it in a client; "" if there is none.
    link: str = ""
    # Whether anybody may know that it exists, as far as its platform says.
    public: bool = False
    # It is marked as unsuitable for minors.
    nsfw: bool = False
    # Other addresses that lead there, the best known first.
    aliases: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For the operator: `#help on Some server`."""
        return f"{self.name} on {self.place}" if self.place else self.name


@runtime_checkable
class ChannelDescriber(Protocol):
    """An adapter that can say what people know a channel by."""

    def describe(self, channel: ChannelRef) -> ChannelInfo | None:
        """As it is now; None while that is not known. No I/O."""
        ...


@runtime_checkable
class LimitReader(Protocol):
    """An adapter whose platform tells how much the relay may still ask of it."""

    def limits_left(self) -> Mapping[str, float]:
        """What is left of each limit now, from 0 (nothing) to 1 (all of it), by a word for the limit. No I/O."""
        ...


@runtime_checkable
class ChannelLookup(Protocol):
    """An adapter that can find out what people know a channel by that is not mirrored."""

    async def look_up(self, address: ChannelAddress) -> ChannelInfo | None:
        """As it is now; None where nobody tells. Raises `Transient`."""
        ...


@runtime_checkable
class LatestReader(Protocol):
    """An adapter that can be asked for one message: an edit of it was taken back, or what it quotes has changed."""

    async def latest(self, ref: MessageRef) -> MessageCreated | None:
        """What a message says now; None when it is gone. Raises `Transient`."""
        ...


@runtime_checkable
class CommandReader(Protocol):
    """An adapter on whose platform people may give commands."""

    @property
    def command_prefix(self) -> str:
        """What people write in front of a command's name, as answers quote it."""
        ...

    def person(self, written: str) -> UserRef | None:
        """The account whose ID somebody wrote; None if that is no ID of this platform. No I/O."""
        ...


@runtime_checkable
class PersonForgetter(Protocol):
    """An adapter, or a part of one, that keeps something of people: their pictures, accounts that it made for them."""

    async def forget_person(self, user: UserRef) -> None:
        """Remove what is kept of somebody; to do it again does no harm. Raises a `DeliveryError` to be tried again."""
        ...


@runtime_checkable
class RoleReader(Protocol):
    """An adapter on whose platform people have roles, by which a text can call them."""

    async def having_role(self, channel: ChannelRef, role: str, people: Collection[UserRef]) -> frozenset[UserRef]:
        """Which of these people have a role where `channel` is. Best effort: what takes long is left out."""
        ...


@runtime_checkable
class PictureKeeper(Protocol):
    """An adapter that has to make a person's picture ready before it can be shown."""

    def expect(self, author: Author) -> None:
        """Make the picture of somebody ready who has spoken there before, and may again. No I/O."""
        ...


@runtime_checkable
class NameReader(Protocol):
    """An adapter on whose platform a text may refer to somebody whose name does not come along with it."""

    async def names(
        self, channel: ChannelRef, wanted: Sequence[UserRef | ChannelRef]
    ) -> Mapping[UserRef | ChannelRef, str]:
        """What people and channels are called where `channel` is. Best effort: without those that are not known."""
        ...


# --- Files ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MediaStream:
    """The bytes of a file as they arrive from its platform."""

    size: int | None  # in bytes; None if the platform does not say
    content_type: str
    chunks: AsyncIterator[bytes]


class MediaSource(Protocol):
    """An adapter's files, for the other side."""

    def open_media(self, media: MediaRef) -> AbstractAsyncContextManager[MediaStream]:
        """Open a file of this platform. Raises `TargetGone` where there is none, `FileUnavailable`, `Transient`.

        Chunks raise the last two. `Permanent`: it is there, and of no use; its words follow "it is".
        """
        ...


@runtime_checkable
class ThumbnailSource(Protocol):
    """An adapter whose platform can make pictures small."""

    def open_thumbnail(self, media: MediaRef, side: int) -> AbstractAsyncContextManager[MediaStream]:
        """Open a picture that is about `side` pixels wide and high; it moves if the whole one does.

        Raises as `MediaSource.open_media` does. `TargetGone` also where the platform takes it for no picture.
        """
        ...


@dataclass(slots=True)
class File:
    """A file on its way to the other side: exactly `size` bytes, read once."""

    name: str  # safe on any platform
    content_type: str
    size: int
    chunks: AsyncIterator[bytes]
    # Why its platform did not deliver it whole, once reading has raised that: HTTP libraries wrap the error.
    failure: DeliveryError | None = None


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose files are waited for, and by what: the messages to `channel` behind theirs."""

    channel: ChannelRef
    author: UserRef


@runtime_checkable
class PublicSource(Protocol):
    """A `MediaSource` whose platform itself lets anyone read a file, at an address that may end soon."""

    async def public_url(self, media: MediaRef) -> str:
        """An address of the file that works now. Raises `TargetGone`, `FileUnavailable`, `Transient`."""
        ...


class MediaLinks(Protocol):
    """Links that anyone can open, without an account, to files that cannot cross."""

    def link(self, file: Attachment, message: MessageRef, *, since: datetime) -> str | None:
        """A link to a file of a message; None where none can be made. No I/O; the same arguments give the same link.

        Whoever has it may read the file. So it is made only while a command of a pair that names the file is resolved:
        that is the proof that the file belongs to a message that is mirrored. It ends when the message is deleted, and
        some time after `since`, when the command was queued.
        """
        ...


class PictureLinks(Protocol):
    """Links that anyone can open to pictures of people."""

    def picture_link(self, picture: MediaRef) -> str | None:
        """A link to the picture of somebody who wrote in a pair, made small; None where none can be made. No I/O.

        It does not end, because their messages go on showing it.
        """
        ...


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """A file that a link leads to, while it is read."""

    name: str  # safe on any platform
    # If browsers may show it: its first bytes say the same as its platform, and such files cannot run anything.
    inline_type: str | None
    size: int | None  # in bytes; None if that is not known yet
    tag: str  # tells it from every other file, and shows nothing of it
    read: Callable[[int], AsyncIterator[bytes]]  # the bytes from a place on; raises `FileUnavailable`, `Permanent`


@dataclass(frozen=True, slots=True)
class LinkedElsewhere:
    """A file that a link leads to, which its platform itself gives to anyone."""

    url: str


class Files(Protocol):
    """Files of all platforms, for an adapter to send to its own."""

    def open(
        self, attachments: Sequence[Attachment], *, max_bytes: int, sender: Sender | None = None
    ) -> AbstractAsyncContextManager[Sequence[File]]:
        """Open the files of one message side by side, each of at most `max_bytes` bytes.

        Raises `FileRejected` for one that never can cross, or not in the time that `sender` has; else `Transient`.
        `sender` None: the caller sets the time.
        """
        ...

    async def fetch(self, attachment: Attachment, *, channel: ChannelRef, max_bytes: int, wait: float) -> bool | None:
        """Whether a late file is at hand by now, for `open`; False if it never will be, None while it is being fetched.

        Fetching goes on in the background. `channel`: where the file is wanted. `wait`: how long to wait here.
        """
        ...

    def forget(self, attachment: Attachment) -> None:
        """A late file is not wanted any more."""
        ...

    async def picture(self, media: MediaRef, *, side: int, max_bytes: int, wait: float) -> bytes:
        """A picture in about that size, of at most `max_bytes`, within `wait` seconds.

        Its type is unknown. Raises `TargetGone` where there is none, `Permanent` if it is of no use, else `Transient`.
        """
        ...

    async def copy_of(self, media: MediaRef, destination: Platform) -> MediaRef | None:
        """Where a small picture that many messages show (an emoji, a sticker) stands already; None: nowhere yet."""
        ...

    async def remember(self, media: MediaRef, copy: MediaRef) -> None:
        """The picture `media` stands as `copy` from now on."""
        ...
