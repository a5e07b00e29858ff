"""What the core needs of the store, as protocols: one transaction at a time, and its repositories.

What concerns people is in `core/people/storage.py`. `relay.store` implements both; every implementation
passes `tests/contract/store`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from relay.core.people.storage import Avatars, Ghosts, People
from relay.core.ports import Cursor
from relay.domain.commands import Command, Digest, SendMessage
from relay.domain.ids import ChannelAddress, ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.pair import LaneKey


@dataclass(frozen=True, slots=True)
class Original:
    """A message that was routed: one row of the message map."""

    id: int  # the store's own
    ref: MessageRef
    author: UserRef
    created_at: datetime
    edited_at: datetime | None = None
    reply_to: MessageRef | None = None
    deleted: bool = False
    left_out: bool = False  # there was nothing in it that can cross
    from_past: bool = False  # it was written before the relay first read there


@dataclass(frozen=True, slots=True)
class Copy:
    """Where a part of an original stands on the other side. Several originals may share one copy."""

    message_id: int
    part: int  # of the original; counts from 0
    ref: MessageRef
    # 0: it stands in its place. Else: the first, second … copy of its part that was posted again elsewhere, or that the
    # message has no part for any more, and must be deleted; or, where it is the last of its part, that is to be posted
    # again (see `standing`).
    superseded: int = 0


def standing(copies: Iterable[Copy]) -> tuple[Copy, ...]:
    """Of the copies of an original in a channel those that stand for its parts, by part; the others are too many.

    One that is superseded stands in front of a part that comes before its own, and has to be posted again behind that.
    """
    found: dict[int, Copy] = {}
    for copy in sorted(copies, key=lambda copy: (bool(copy.superseded), -copy.superseded)):
        found.setdefault(copy.part, copy)
    return tuple(found[part] for part in sorted(found))


@dataclass(frozen=True, slots=True)
class Unreadable:
    """In place of a command that cannot be read: a damaged row, or one that a newer relay wrote."""

    payload: str
    why: str  # a sentence for people
    source: MessageRef | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the outbox."""

    id: int  # rises, and is never used again
    lane: LaneKey
    command: Command | Unreadable
    queued_at: datetime
    # The message to be sent, if it was routed together with this entry and not tried yet: it need not be looked up.
    # None says nothing.
    original: Original | None = None
    last_try: bool = False  # see `Delivery`
    size: int = field(default=0, compare=False)  # of the command in the store, in bytes
    retries: int = field(default=0, compare=False)  # tries of it that failed, as far as this process knows


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A command that failed for good, kept until the operator retries or discards it."""

    entry: Entry
    reason: str
    died_at: datetime
    pair: str | None = None  # as in `LaneDepth`
    # Whether it is queued again by itself when its channel is opened: see `errors.Postponed`.
    postponed: bool = False


@dataclass(frozen=True, slots=True)
class LaneDepth:
    """How much waits in a lane."""

    waiting: int
    oldest: datetime | None  # when the command at its head was queued
    dead: int
    pair: str | None = None  # what the operator called its pair when that was last declared


@dataclass(frozen=True, slots=True)
class CopyTrace:
    """What is on record of one copy."""

    copy: Copy
    # None: recorded by an earlier relay.
    sent_at: datetime | None
    # See `Entry`.
    retries: int


@dataclass(frozen=True, slots=True)
class MessageTrace:
    """What is on record of an original."""

    original: Original
    copies: tuple[CopyTrace, ...] = ()
    # None: recorded by an earlier relay.
    received_at: datetime | None = None
    deleted_at: datetime | None = None
    # Why it was left out, as a sentence; None: it was not, or an earlier relay did it.
    left_out_why: str | None = None


@dataclass(frozen=True, slots=True)
class EntryTrace:
    """A row of the outbox, and what is in front of it."""

    entry: Entry
    # How many entries of its lane are carried out before it; None: it is a dead letter.
    ahead: int | None
    # Of a dead letter.
    reason: str = ""
    died_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A message that was left out when it was received, and has no row in the map."""

    ref: MessageRef
    # The `Feature` because of which.
    feature: str
    # To the second.
    at: datetime


class Traces(Protocol):
    """What is on record of one message, for the operator."""

    async def leave_out(self, ref: MessageRef, feature: str) -> None:
        """Remember that a message was left out, for as long as other messages are remembered."""
        ...

    async def left_out(self, native_id: str) -> Sequence[LeftOut]:
        """Those of this ID that were left out like that."""
        ...

    async def messages(self, native_id: str) -> Sequence[MessageTrace]:
        """Those of which this is the ID: as an original, as a copy, or of an edit. In the order of routing."""
        ...

    async def entries(self, native_id: str, channel: ChannelRef | None = None) -> Sequence[EntryTrace]:
        """What waits or is dead about the message of this ID, in the lanes from and to `channel`.

        Costs the same however much there is in other lanes. None: in all of them.
        """
        ...


class MessageMap(Protocol):
    """Which message is a copy of which."""

    async def add(
        self,
        ref: MessageRef,
        author: UserRef,
        created_at: datetime,
        reply_to: MessageRef | None,
        *,
        from_past: bool = False,
    ) -> int | None:
        """Remember an original; its row's ID, or None if it was known already (a replay) or is a copy of ours."""
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

    async def leave_out(self, message_id: int, why: str | None) -> None:
        """Remember that the original was left out, and why, as a sentence. None: it crosses now."""
        ...

    async def record_edit(self, edit: MessageRef, message_id: int) -> None:
        """Remember that `edit` is an edit of an original."""
        ...

    async def answers(self, ref: MessageRef, limit: int) -> tuple[Original, ...]:
        """The newest originals that answer `ref` and are not deleted, oldest first."""
        ...

    async def edited_by(self, edit: MessageRef) -> Original | None:
        """The original that `edit` is an edit of; None if it is none."""
        ...

    async def is_copy(self, ref: MessageRef) -> bool:
        """Whether we made it."""
        ...

    async def copies(self, message_id: int, channel: ChannelRef) -> tuple[Copy, ...]:
        """The copies of an original in a channel, by part; those that are superseded after the others."""
        ...

    async def channels_of_copies(self, message_id: int, platform: Platform) -> frozenset[ChannelRef]:
        """The channels of a platform in which an original has copies."""
        ...

    async def record_copy(self, copy: Copy, *, retries: int = 0) -> None:
        """Remember a copy; a replay of the same (message, channel, part) replaces it. `retries`: see `Entry`."""
        ...

    async def record_again(self, copy: MessageRef, again: MessageRef, *, less: int = 0) -> None:
        """Whatever stands in a copy stands in another channel, too, in the same way: edits go there, deletions to both.

        `less`: how many parts of it that come before do not stand there. Nothing happens if `copy` is not on record.
        """
        ...

    async def supersede(self, copy: Copy, *, part: int | None = None) -> Copy:
        """The copy was posted again, or has to be (see `standing`): it is on record until `forget_copy`.

        `part`: among whose copies it is from now on, if not its own: the message has no such part any more. Returned as
        it is on record then.
        """
        ...

    async def forget_copy(self, copy: Copy) -> None:
        """The copy is gone from its platform."""
        ...

    async def counterpart(self, ref: MessageRef, channel: ChannelRef) -> MessageRef | None:
        """The same message in `channel`: the first copy of an original, or the original of a copy.

        For a copy that several originals share, the last of them.
        """
        ...

    async def originals_of(self, copy: MessageRef) -> tuple[Original, ...]:
        """The originals that stand in one copy, in the order in which they were routed; empty if it is no copy."""
        ...

    async def recent(
        self, channel: ChannelRef, since: datetime, limit: int, *, with_past: bool = False
    ) -> tuple[Original, ...]:
        """Of the last `limit` originals of `channel` that are not deleted those written since, oldest first.

        `with_past`: also of the last that are `from_past`, which are none of them else.
        """
        ...

    async def waiting_past(self, channel: ChannelRef, limit: int) -> tuple[Original, ...]:
        """Of the last `limit` originals of `channel` that are `from_past` those without a copy yet, oldest first."""
        ...

    async def written_by(self, author: UserRef, after: int, limit: int) -> tuple[int, tuple[Original, ...]]:
        """Look at the `limit` rows behind row `after`: the last of them, and those that `author` wrote.

        The last of them is `after` once there are no more.
        """
        ...

    async def last_before(self, moment: datetime) -> int:
        """The row ID of the last original that was received before this moment; 0 if none was."""
        ...

    async def forget_author(self, message_id: int) -> None:
        """Remember an original no longer as somebody's: its author's ID is empty from now on."""
        ...


class Outbox(Protocol):
    """Commands that wait for delivery, in order per lane."""

    async def append(self, lane: LaneKey, command: Command, queued_at: datetime) -> Entry:
        """Queue a command at the end of its lane."""
        ...

    async def append_new(
        self, lane: LaneKey, command: SendMessage, queued_at: datetime, *, edited_at: datetime | None = None
    ) -> Callable[[], Entry | None]:
        """Remember an original and queue its command, unless it was known already (a replay) or is a copy of ours.

        Nothing is waited for: what is returned tells the entry, or None, once the transaction has been committed.
        """
        ...

    async def is_repeated(self, entry: Entry) -> bool:
        """Whether one of the next entries of its lane says just the same."""
        ...

    async def waiting(self, lane: LaneKey, limit: int) -> Sequence[Entry]:
        """The head of a lane, oldest first."""
        ...

    async def read_ahead(self, lane: LaneKey, limit: int, size: int) -> tuple[Sequence[Entry], bool]:
        """The head of a lane, at least one entry and at most `size` bytes; whether that is all of it."""
        ...

    async def is_waiting(self, entry_id: int) -> bool:
        """Whether an entry is still there to be carried out."""
        ...

    async def late_files(self, source: MessageRef) -> Sequence[Entry]:
        """The files of one message that wait to follow it, in any lane. Costs the same however much else waits."""
        ...

    async def replace(self, entry: Entry, commands: Sequence[Command]) -> None:
        """Several commands take the place of one, in its place in the lane; the first keeps its ID."""
        ...

    async def done(self, entry_id: int) -> None:
        """The command has been carried out (or dropped): forget it."""
        ...

    async def dead_letter(self, entry_id: int, reason: str, died_at: datetime, *, postponed: bool = False) -> None:
        """The command failed for good, or is `postponed`: make it a dead letter."""
        ...

    async def lanes(self) -> frozenset[LaneKey]:
        """Every lane in which something waits, whether its pair is still declared or not."""
        ...

    async def lanes_and_mark(self) -> tuple[frozenset[LaneKey], str | None]:
        """As `lanes`, with a word that is another one each time that a dead letter was put back, by whatever process.

        In one look, for whoever asks again and again. The word is not looked for where nothing waits.
        """
        ...

    async def depths(self) -> Mapping[LaneKey, LaneDepth]:
        """What waits and what is dead, for each lane in which there is something. Costs the same however much it is."""
        ...

    async def clear(self, lane: LaneKey, limit: int) -> int:
        """Forget what waits in a lane, at most `limit` of it, the oldest first; how much that was."""
        ...

    async def last_copy(self, lane: LaneKey) -> MessageRef | None:
        """The copy that was recorded last for a message of the lane, also if it has been forgotten since.

        Before there is one: the copy that was the last one in its channel when the lane came into being. A lane that
        leads nowhere else has none of its own: the last one in its channel.
        """
        ...

    async def is_alone(self, lane: LaneKey) -> bool:
        """Whether nothing waits in any other lane from another channel to the one that `lane` leads to."""
        ...

    async def name(self, lane: LaneKey, pair: str) -> None:
        """Remember what the operator calls the pair of a lane: all that can be said of it once it is not declared."""
        ...

    async def names(self) -> Mapping[LaneKey, str]:
        """What was remembered so, of each lane of which something was."""
        ...

    async def move(self, lane: LaneKey, to: LaneKey) -> bool:
        """What is in `lane` belongs to the lane `to` from now on, the older first; False if there was nothing.

        For a channel that turns out to be another one (an alias, once it is known which room it names).
        """
        ...

    async def dead_letters_of(self, lanes: Collection[LaneKey]) -> Mapping[LaneKey, int]:
        """How many dead letters each of these lanes has; those of which nothing is on record are left out."""
        ...

    async def dead_in(self, lane: LaneKey) -> Sequence[DeadLetter]:
        """The dead letters of one lane, oldest first."""
        ...

    async def dead(self, limit: int | None = None) -> Sequence[DeadLetter]:
        """The dead letters, oldest first: at most `limit`, the newest of them; None: all."""
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

    async def began(self, platform: Platform, stream: str) -> str | None:
        """The first position; None before it, and where it is not known: an earlier or another relay read there."""
        ...

    async def put(self, cursor: Cursor) -> None:
        """Remember a position."""
        ...


def waiting_under(pair: str, platform: Platform) -> ChannelRef:
    """Stands for the channel in lanes of an earlier relay, which queued commands under a pair's name.

    Once the pair of that name is opened, they move to the lane of its channel.
    """
    return ChannelRef(platform, f"?{pair}")


class Channels(Protocol):
    """Which channel each declared address stood for when it was last opened."""

    async def get(self, address: ChannelAddress) -> ChannelRef | None:
        """The channel of one address, None if it was never opened."""
        ...

    async def known(self) -> Mapping[ChannelAddress, ChannelRef]:
        """All of them."""
        ...

    async def bind(self, address: ChannelAddress, channel: ChannelRef) -> None:
        """`address` stands for `channel` from now on."""
        ...

    async def forget(self, address: ChannelAddress) -> None:
        """`address` is not declared any more. While a lane of its channel holds anything, what it stood for is kept."""
        ...


class OnceKeys(Protocol):
    """Which one-time notices have been posted."""

    async def claim(self, destination: ChannelRef, key: str) -> bool:
        """True the first time that `key` is claimed for the channel, False ever after."""
        ...


class Digests(Protocol):
    """What stands in the copies that several originals share."""

    async def get(self, copy: MessageRef) -> Digest | None:
        """The messages of a shared copy; None for a copy of one original. Raises ValueError if it cannot be read."""
        ...

    async def put(self, copy: MessageRef, digest: Digest) -> None:
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


class KeyValues(Protocol):
    """Small named values that outlive the process: a session's token, the last status snapshot."""

    async def get(self, name: str) -> str | None:
        """The value, None if there is none."""
        ...

    async def several(self, *names: str) -> Sequence[str | None]:
        """The values of these (one at least), in this order, by one statement."""
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
    def digests(self) -> Digests: ...
    @property
    def media(self) -> MediaCache: ...
    @property
    def avatars(self) -> Avatars: ...
    @property
    def channels(self) -> Channels: ...
    @property
    def once_keys(self) -> OnceKeys: ...
    @property
    def ghosts(self) -> Ghosts: ...
    @property
    def key_values(self) -> KeyValues: ...
    @property
    def people(self) -> People: ...
    @property
    def traces(self) -> Traces: ...


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

    def look(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """As `read`, for a single question: on a server that is one trip there, and a view takes three.

        A second question raises `TypeError`: what it finds may be newer.
        """
        ...

    def put_later(self, cursors: Iterable[Cursor]) -> None:
        """Write these with the next transaction, whatever that is about; `Cursors.get` knows them at once.

        Until then a crash forgets them. Call it only where nothing is lost if what is behind them comes again.
        """
        ...
