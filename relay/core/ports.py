"""What the core needs of the world, and what it offers to the adapters, as protocols.

The adapters implement `Adapter` (and, where the platform's stream does not replay what was missed,
`HistoryReader`), the store implements `Store`. Every implementation passes the suites in `tests/contract`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from relay.domain.capabilities import Capabilities
from relay.domain.commands import Command, SendBatch
from relay.domain.content import Attachment, Author, Content
from relay.domain.events import Event, MessageCreated
from relay.domain.ids import ChannelAddress, ChannelRef, MediaRef, MessageRef, Platform, ThreadRef, UserRef
from relay.domain.pair import LaneKey
from relay.domain.richtext import RichText
from relay.errors import DeliveryError


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
    """How far a stream of one platform has been read.

    `stream` names it for its adapter (`channel:<snowflake>`, `sync`); `position` is the adapter's own.
    """

    platform: Platform
    stream: str
    position: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Events in the order of the platform, and the cursors that stand behind them.

    The core writes both in one transaction: a cursor never runs ahead of what it stands for.
    """

    events: tuple[Event, ...] = ()
    cursors: tuple[Cursor, ...] = ()


class Inbox(Protocol):
    """What an adapter may call."""

    async def receive(self, batch: Batch) -> None:
        """Take a batch. Returns once it is on disk.

        Events that were received before are recognised and ignored. Raises `StoreUnavailable` when nothing was
        written: the adapter keeps the batch, does not go on, and calls again.
        """
        ...

    async def cursor(self, platform: Platform, stream: str) -> str | None:
        """The position last written for a stream, None before the first."""
        ...

    async def opened(self, address: ChannelAddress, channel: ChannelRef) -> None:
        """The channel that the operator declared as `address` is `channel`, and can be read now.

        Returns once the core can route its events; call it before the first `receive` with events of `channel`.
        """
        ...

    async def closed(self, address: ChannelAddress, problem: str) -> None:
        """The declared channel cannot be used now: a sentence with the remedy. `opened` ends it."""
        ...

    async def catch_up(self, channel: ChannelRef) -> None:
        """Read what was missed in `channel` through the adapter's `HistoryReader`, from its cursor on.

        Returns once it has all been received; the adapter holds that channel's live events back meanwhile.
        """
        ...


# --- From the core to the adapters ------------------------------------------------------------------------

SideState = Literal["connecting", "catching_up", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class SideHealth:
    """How an adapter is. `detail` is a sentence for the operator, empty when there is nothing to say.

    `ready` = connected, and everything said from now on will cross.
    """

    state: SideState
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to make (or to turn an existing one into), already cut to what the channel can carry.

    `key` is unique for ever and the same for each try of the same message, at most 25 characters of [a-z0-9.].
    `author` None: the relay speaks in its own name. `suspect`: an earlier try may have been carried out; the
    adapter finds out before it sends (`after` = the last message of ours in that channel that is accounted for;
    `queued_at` = when the command was queued). `part` counts from 0. `replied_author`: the person of the destination's
    platform whose message is replied to, None where somebody of the other side wrote it.
    """

    channel: ChannelRef
    key: str
    author: Author | None
    content: Content
    reply_to: MessageRef | None = None
    thread: ThreadRef | None = None
    part: int = 0
    suspect: bool = False
    after: MessageRef | None = None
    queued_at: datetime | None = None
    replied_author: UserRef | None = None


@dataclass(frozen=True, slots=True)
class Quotation:
    """What is shown of a message that is replied to, where replies are not native."""

    author: str
    text: RichText
    url: str


class Adapter(Protocol):
    """One platform. Raises only errors of `relay.errors`."""

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

        Raises a `DeliveryError`.
        """
        ...

    async def edit(self, target: MessageRef, delivery: Delivery) -> None:
        """Make `target`, one of ours, say `delivery`. Raises a `DeliveryError`; `TargetGone` when it is gone."""
        ...

    async def delete(self, target: MessageRef, key: str) -> None:
        """Remove `target`, one of ours. Raises a `DeliveryError`; `TargetGone` when it is gone."""
        ...

    async def quote(self, target: MessageRef) -> Quotation | None:
        """What to show of `target` in a reply to it; None when it is gone. Raises `Transient`."""
        ...

    def permalink(self, target: MessageRef) -> str:
        """A link that opens `target`. No I/O."""
        ...

    async def people(self, channel: ChannelRef, names: frozenset[str]) -> Mapping[str, UserRef]:
        """The people who can be mentioned in `channel` under these names; keys as `core.references.folded` makes them.

        Only where exactly one person there has the name. Best effort: what cannot be looked up now is not found.
        """
        ...

    async def mark_failed(self, source: MessageRef, reason: str) -> bool:
        """Show the author of `source`, a message on this platform, that it did not cross (a reaction of ours).

        False where that is not possible here; the core posts a notice instead.
        """
        ...


class HistoryReader(Protocol):
    """An adapter whose platform's stream does not replay what was missed. Both raise only `Transient`."""

    def history(self, channel: ChannelRef, after: str, *, newest: int) -> AsyncIterator[Batch]:
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


# --- Files ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MediaStream:
    """The bytes of a file as they arrive from its platform. `size` in bytes, None where it does not say."""

    size: int | None
    content_type: str
    chunks: AsyncIterator[bytes]


class MediaSource(Protocol):
    """An adapter's files, for the other side."""

    def open_media(self, media: MediaRef) -> AbstractAsyncContextManager[MediaStream]:
        """Open a file of this platform. Raises `TargetGone` where there is none, `FileTrouble`, `Transient`.

        Chunks raise the last two.
        """
        ...


@dataclass(slots=True)
class File:
    """A file on its way to the other side: exactly `size` bytes, read once. `name` is safe on any platform.

    `failure`: why its platform did not deliver it whole, once reading has raised that; HTTP libraries wrap it.
    """

    name: str
    content_type: str
    size: int
    chunks: AsyncIterator[bytes]
    failure: DeliveryError | None = None


class Files(Protocol):
    """Files of all platforms, for an adapter to send to its own."""

    def open(self, attachment: Attachment, *, most: int) -> AbstractAsyncContextManager[File]:
        """Open a file of at most `most` bytes. Raises `Uncarried` for what never can, else `Transient`."""
        ...

    async def copy_of(self, media: MediaRef, destination: Platform) -> MediaRef | None:
        """Where a small picture that many messages show (an emoji, an avatar) stands already; None: nowhere yet."""
        ...

    async def remember(self, media: MediaRef, copy: MediaRef) -> None:
        """The picture `media` stands as `copy` from now on."""
        ...


# --- The store --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Original:
    """A message that was routed: one row of the message map. `id` is the store's own."""

    id: int
    ref: MessageRef
    author: UserRef
    created_at: datetime
    edited_at: datetime | None = None
    reply_to: MessageRef | None = None
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Copy:
    """Where a part of an original stands on the other side. Several originals may share one copy."""

    message_id: int
    pair: str
    part: int
    ref: MessageRef


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the outbox. `id` rises, and is never used again."""

    id: int
    lane: LaneKey
    command: Command
    queued_at: datetime


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A command that failed for good, kept until the operator retries or discards it."""

    entry: Entry
    reason: str
    died_at: datetime


@dataclass(frozen=True, slots=True)
class LaneDepth:
    """What waits in a lane. `oldest` = when the oldest waiting command was queued."""

    waiting: int
    oldest: datetime | None
    dead: int


class MessageMap(Protocol):
    """Which message is a copy of which."""

    async def add(
        self, ref: MessageRef, author: UserRef, created_at: datetime, reply_to: MessageRef | None
    ) -> int | None:
        """Remember an original; its row's ID, or None if it was known already (a replay)."""
        ...

    async def find(self, ref: MessageRef) -> Original | None:
        """The original that `ref` is; None if it is none."""
        ...

    async def mark_edited(self, message_id: int, edited_at: datetime) -> None:
        """Remember the latest edit."""
        ...

    async def mark_deleted(self, message_id: int) -> None:
        """Remember that the original is gone."""
        ...

    async def is_copy(self, ref: MessageRef) -> bool:
        """Whether we made it."""
        ...

    async def copies(self, message_id: int, channel: ChannelRef) -> tuple[Copy, ...]:
        """The copies of an original in a channel, by part."""
        ...

    async def record_copy(self, copy: Copy) -> None:
        """Remember a copy; a replay of the same (message, pair, part) replaces it."""
        ...

    async def forget_copy(self, copy: Copy) -> None:
        """The copy is gone from its platform."""
        ...

    async def counterpart(self, ref: MessageRef, channel: ChannelRef) -> MessageRef | None:
        """The same message in `channel`: the first copy of an original, or the original of a copy.

        For a copy that several originals share, the last of them.
        """
        ...

    async def last_copy(self, channel: ChannelRef) -> MessageRef | None:
        """The copy that was recorded last in `channel`."""
        ...

    async def sharing(self, copy: MessageRef) -> tuple[Original, ...]:
        """The originals that stand in one copy, in the order in which they were routed; empty if it is no copy."""
        ...

    async def recent(self, channel: ChannelRef, since: datetime, limit: int) -> tuple[Original, ...]:
        """The last `limit` originals of `channel` written at or after `since` and not deleted, oldest first."""
        ...


class Outbox(Protocol):
    """Commands that wait for delivery, in order per lane."""

    async def append(self, lane: LaneKey, command: Command, queued_at: datetime) -> Entry:
        """Queue a command at the end of its lane."""
        ...

    async def waiting(self, lane: LaneKey, limit: int) -> Sequence[Entry]:
        """The head of a lane, oldest first."""
        ...

    async def expand(self, entry: Entry, commands: Sequence[Command]) -> None:
        """Several commands take the place of one, in its place in the lane; the first keeps its ID."""
        ...

    async def done(self, entry_id: int) -> None:
        """The command has been carried out (or dropped): forget it."""
        ...

    async def bury(self, entry_id: int, reason: str, died_at: datetime) -> None:
        """The command failed for good: make it a dead letter."""
        ...

    async def lanes(self) -> frozenset[LaneKey]:
        """Every lane in which something waits, whether its pair is still declared or not."""
        ...

    async def depths(self) -> Mapping[LaneKey, LaneDepth]:
        """What waits and what is dead, per lane."""
        ...

    async def rename(self, source: ChannelRef, pair: str) -> int:
        """Commands about messages of `source` belong to the pair now called `pair`; how many changed theirs."""
        ...

    async def dead(self) -> Sequence[DeadLetter]:
        """All dead letters, oldest first."""
        ...

    async def dead_about(self, source: MessageRef) -> Sequence[DeadLetter]:
        """The dead letters about one message: what an edit or a deletion of it has to reach, too."""
        ...

    async def amend(self, entry_id: int, command: Command) -> None:
        """An entry, waiting or dead, says `command` from now on."""
        ...

    async def retry(self, entry_id: int) -> bool:
        """Put a dead letter back at the end of its lane; False if there is none of that ID."""
        ...

    async def discard(self, entry_id: int) -> bool:
        """Forget a dead letter; False if there is none of that ID."""
        ...


class Cursors(Protocol):
    """How far each stream has been read."""

    async def get(self, platform: Platform, stream: str) -> str | None:
        """The last position, None before the first."""
        ...

    async def put(self, cursor: Cursor) -> None:
        """Remember a position."""
        ...


class Notices(Protocol):
    """Which one-time notices have been posted."""

    async def claim(self, lane: LaneKey, key: str) -> bool:
        """True the first time that `key` is claimed in the lane, False ever after."""
        ...


class Batches(Protocol):
    """What stands in the copies that several originals share."""

    async def get(self, copy: MessageRef) -> SendBatch | None:
        """The messages of a shared copy; None for a copy of one original."""
        ...

    async def put(self, copy: MessageRef, batch: SendBatch) -> None:
        """Remember what stands in a shared copy now."""
        ...

    async def forget(self, copy: MessageRef) -> None:
        """The copy is gone."""
        ...


class MediaCache(Protocol):
    """Where pictures that many messages show have been uploaded to."""

    async def get(self, source: MediaRef, destination: Platform) -> MediaRef | None:
        """The copy of `source` on a platform, None if there is none."""
        ...

    async def put(self, source: MediaRef, copy: MediaRef) -> None:
        """Remember a copy; it replaces an earlier one on the same platform."""
        ...


class Notebook(Protocol):
    """Small named values that outlive the process: a session's token, the last status snapshot."""

    async def get(self, name: str) -> str | None:
        """The value, None if there is none."""
        ...

    async def put(self, name: str, value: str) -> None:
        """Remember a value under a name."""
        ...


class UnitOfWork(Protocol):
    """One transaction and its repositories."""

    @property
    def messages(self) -> MessageMap: ...
    @property
    def outbox(self) -> Outbox: ...
    @property
    def cursors(self) -> Cursors: ...
    @property
    def batches(self) -> Batches: ...
    @property
    def media(self) -> MediaCache: ...
    @property
    def notices(self) -> Notices: ...
    @property
    def notebook(self) -> Notebook: ...


class Store(Protocol):
    """Transactions. Every call may raise `StoreUnavailable`; then nothing of the transaction was written."""

    @property
    def id(self) -> str:
        """Six characters of [a-z2-7] that tell this store from every other: the prefix of delivery keys."""
        ...

    def write(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """A transaction that commits when its block ends and rolls back when it raises. One at a time."""
        ...

    def read(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """A consistent view that changes nothing."""
        ...
