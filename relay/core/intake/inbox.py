"""What the adapters call: it hands events to the router, and tells the lanes what is new in the outbox."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from traceback import extract_tb
from typing import Protocol

from relay.core.intake.catchup import CatchUp, last_originals
from relay.core.intake.router import Router
from relay.core.moderation.age_marks import AgeMarks
from relay.core.pairs import PairDirectory
from relay.core.people.commands import Commands
from relay.core.people.directory import PeopleDirectory
from relay.core.ports import CommandCall, EventBatch, HistoryReader, OnRecord
from relay.core.status.counters import Status
from relay.core.storage import Entry, Store, UnitOfWork, waiting_under
from relay.domain.commands import DeleteMessage
from relay.domain.events import (
    Event,
    FeatureUsed,
    HistorySkipped,
    MemberBanned,
    MemberLeft,
    MemberUnbanned,
    PictureChanged,
    PolicyListRead,
)
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, Platform, UserRef
from relay.domain.pair import LaneKey, Pair
from relay.domain.text.nodes import RichText
from relay.errors import RelayError, StoreUnavailable
from relay.logs import get_logger

_log = get_logger(__name__)

_STEP = 200
"""Rows that are discarded in one transaction: few enough that nobody has to wait for it."""


class Lanes(Protocol):
    """What the inbox tells delivery; `core.delivery.dispatcher.Dispatcher` is one."""

    def enqueue(self, entry: Entry) -> None:
        """`entry` was queued just now."""
        ...

    def wake(self, key: LaneKey, *, suspect: bool = False) -> None:
        """Something was queued in the lane. `suspect`: what is at its head may have been sent."""
        ...

    def wake_all(self) -> None:
        """Something may have been queued; it is not known in which lane."""
        ...

    def retry_now(self, lanes: Iterable[LaneKey] | None = None) -> None:
        """Something has improved for these lanes (None: for all): they do not wait for their next try."""
        ...

    def look_at_sides(self) -> None:
        """A platform may be back, or gone."""
        ...

    def moving(self, lanes: Iterable[LaneKey]) -> AbstractAsyncContextManager[None]:
        """Nothing of these lanes is being sent inside the block, in which what waits moves from one to another."""
        ...


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class CoreInbox:
    """Implements `core.ports.Inbox`."""

    store: Store
    pairs: PairDirectory
    status: Status
    router: Router
    lanes: Lanes
    commands: Commands
    people: PeopleDirectory
    age_marks: AgeMarks
    readers: Mapping[Platform, HistoryReader]
    # How old a message may be whose edits and deletions are still looked for in a catch-up.
    reconcile_window: timedelta
    _catch_up: CatchUp = field(init=False)
    # The channel that the store has of each declared address.
    _bound: dict[ChannelAddress, ChannelRef] = field(init=False, default_factory=dict)
    # Addresses that were opened in this process, even if they have been closed since.
    _opened: set[ChannelAddress] = field(init=False, default_factory=set)
    # Addresses whose opening is worth a line in the log: new in the file, or closed before. Those of a start are many.
    _awaited: set[ChannelAddress] = field(init=False, default_factory=set)
    # What the pair of each lane with an open channel is called in the store.
    _names: dict[LaneKey, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._catch_up = CatchUp(
            store=self.store,
            pairs=self.pairs,
            readers=self.readers,
            receive=self.receive,
            window=self.reconcile_window,
        )

    async def receive(self, batch: EventBatch) -> None:
        """See `Inbox.receive`. An event that makes the core fail is left out, counted and logged."""
        try:
            await self._receive(batch)
        except RelayError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug
            # Nothing of a failed batch is written. To try the same batch again would stop all channels for ever.
            _log_bug("bug while receiving a batch; event by event now", error, events=len(batch.events))
            for event in batch.events:
                await self._receive_alone(event)
            await self._receive(EventBatch(cursors=batch.cursors))

    async def _receive_alone(self, event: Event) -> None:
        try:
            await self._receive(EventBatch((event,)))
        except RelayError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            channels: Sequence[ChannelRef]
            if isinstance(event, FeatureUsed | HistorySkipped | PictureChanged):
                channels, message = (event.channel,), ""
            elif isinstance(event, MemberLeft):
                channels, message = event.channels, ""
            elif isinstance(event, PolicyListRead | MemberBanned | MemberUnbanned):
                channels, message = (), ""
            else:
                # In ASCII: the ID itself may be what is wrong, and not printable.
                channels, message = (event.ref.channel,), ascii(event.ref.id)
            _log_bug("bug while receiving an event; it is left out", error, kind=type(event).__name__, message=message)
            await self._receive(EventBatch(tuple(FeatureUsed(channel, "unreadable") for channel in channels[:1])))

    async def _receive(self, batch: EventBatch) -> None:
        try:
            entries = await self.router.receive(batch)
        except BaseException:
            # It may be on disk all the same, and then it counts as known when it comes again.
            self.lanes.wake_all()
            raise
        for entry in entries:
            self.lanes.enqueue(entry)

    async def cursor(self, platform: Platform, stream: str) -> str | None:
        """See `Inbox.cursor`."""
        async with self.store.look() as uow:
            return await uow.cursors.get(platform, stream)

    def health_changed(self) -> None:
        """See `Inbox.health_changed`."""
        self.lanes.look_at_sides()

    async def last_originals(self, channel: ChannelRef, limit: int) -> Sequence[OnRecord]:
        """See `Inbox.last_originals`."""
        async with self.store.read() as uow:
            return await last_originals(uow, channel, limit)

    async def begin(self) -> None:
        """Read from the store what earlier processes knew of the declared channels. Raises `StoreUnavailable`."""
        async with self.store.look() as uow:
            known = await uow.channels.known()
        async with self.store.look() as uow:
            names = await uow.outbox.names()
        self._bound = dict(known)
        self.pairs.remember(known)
        lanes = [lane for pair in self.pairs.pairs for lane in self.pairs.lanes(pair)]
        self._names = {lane: names[lane] for lane in lanes if lane in names}
        await self._write_names()

    def declare(self, pairs: Iterable[Pair]) -> None:
        """The operator changed the file. What waits is delivered if its two channels are still, or again, a pair.

        Call `Adapter.watch` before you await anything, so that no adapter seems ready for pairs it does not know yet;
        then call `keep_names`.
        """
        known = {side for pair in self.pairs.pairs for side in pair.sides}
        self.pairs.replace(pairs)
        self._awaited.update({side for pair in self.pairs.pairs for side in pair.sides} - known)
        self.lanes.retry_now()

    async def keep_names(self) -> None:
        """Save what the pair of each lane is called now, for the time when it is not declared any more."""
        try:
            await self._write_names()
        except StoreUnavailable as error:
            _log.warning("the names of the pairs could not be written down", reason=error.reason)

    async def _write_names(self) -> None:
        """Save only what has changed: a lane gets its first name when one of its channels is opened."""
        gone = self._bound.keys() - {side for pair in self.pairs.pairs for side in pair.sides}
        lanes = {lane: pair.name for pair in self.pairs.pairs for lane in self.pairs.lanes(pair)}
        # What is stored of the others may be forgotten until they are declared again: then it is written anew.
        self._names = {lane: name for lane, name in self._names.items() if lane in lanes}
        renamed = {lane: name for lane, name in lanes.items() if self._names.get(lane, name) != name}
        if not gone and not renamed:
            return
        async with self.store.write() as uow:
            for address in gone:
                await uow.channels.forget(address)
            for lane, name in renamed.items():
                await uow.outbox.name(lane, name)
        for address in gone:
            self._bound.pop(address, None)
        self._names |= renamed

    async def discard_undeclared(self, before: datetime) -> int:
        """Forget some of what has waited since before `before` for pairs that are not declared, and return how much.

        Call it again until that is 0. What may belong to a declared pair, of which not both channels are known yet, is
        kept until they have been open. Raises `StoreUnavailable`.
        """
        async with self.store.look() as uow:
            depths = await uow.outbox.depths()
        for lane, depth in depths.items():
            is_old = depth.oldest is not None and depth.oldest < before
            if is_old and self.pairs.pair_for(lane) is None and not self._may_be_declared(lane, depth.pair):
                async with self.store.write() as uow:
                    waiting = await uow.outbox.waiting(lane, _STEP)
                    old = [entry for entry in waiting if entry.queued_at < before]
                    for entry in old:
                        await uow.outbox.done(entry.id)
                _log.warning("discarded", pair=depth.pair, direction=lane.direction, messages=len(old))
                return len(old)
        return 0

    def _may_be_declared(self, lane: LaneKey, name: str | None) -> bool:
        """Whether the lane may yet be a declared pair's: that has its name or a channel, and was not all open."""
        return any(
            pair.destinations
            and not self._opened.issuperset(pair.sides)
            and (
                pair.name == name or not {lane.source, lane.destination}.isdisjoint(map(self.pairs.channel, pair.sides))
            )
            for pair in self.pairs.pairs
        )

    async def opened(
        self, address: ChannelAddress, channel: ChannelRef, *, predecessors: frozenset[ChannelRef] = frozenset()
    ) -> None:
        """See `Inbox.opened`."""
        pair = self.pairs.open(address, channel, predecessors)
        if pair is None:
            return
        known_lanes = self._known_lanes(pair, channel)
        moves = self._moves(address, channel, pair, predecessors)
        moved = retried = frozenset[LaneKey]()
        if await self._is_as_before(address, channel, pair, moves, known_lanes):
            self._follow(moves)
        else:
            # Both ends: what is received for a lane meanwhile comes after what moves there, and must not be sent first.
            async with self.lanes.moving(lane for move in moves for lane in move), self.store.write() as uow:
                moved = await self._bind(uow, address, channel, pair, moves, known_lanes)
                await self.age_marks.look(uow, channel)
                retried = await self._retry(uow, self.pairs.lanes(pair, towards=channel.platform))
        self._bound[address] = channel
        self._opened.add(address)
        self._names |= dict.fromkeys(known_lanes, pair.name)
        if address in self._awaited:
            self._awaited.discard(address)
            _log.info("channel open", pair=pair.name, platform=str(channel.platform), channel=channel.id)
        lanes = self.pairs.lanes(pair)
        # No others: what waits there is known, and a lane in which nothing does would be opened for nothing.
        for lane in sorted(moved | retried):
            # What was queued for another channel may have been sent there already.
            self.lanes.wake(lane, suspect=lane in moved)
        self.lanes.retry_now(lanes)

    def _moves(
        self, address: ChannelAddress, channel: ChannelRef, pair: Pair, predecessors: frozenset[ChannelRef]
    ) -> Sequence[tuple[LaneKey, LaneKey]]:
        """Which lanes become which others, now that `address` is known to be `channel`.

        An alias may have been given to another room altogether: what waits for the old room never goes there.
        """
        other = self.pairs.channel(pair.side(pair.other(channel.platform)))
        moves = [
            (LaneKey(other, waiting_under(pair.name, channel.platform)), LaneKey(other, channel)),
            (LaneKey(channel, waiting_under(pair.name, other.platform)), LaneKey(channel, other)),
        ]
        for before in ({ChannelRef(address.platform, address.value)} | predecessors) - {channel}:
            moves += [
                (LaneKey(other, before), LaneKey(other, channel)),
                (LaneKey(before, other), LaneKey(channel, other)),
            ]
            if self.pairs.pair_of(before) is None:
                moves.append((LaneKey.within(before), LaneKey.within(channel)))
        return moves

    async def _is_as_before(
        self,
        address: ChannelAddress,
        channel: ChannelRef,
        pair: Pair,
        moves: Sequence[tuple[LaneKey, LaneKey]],
        known_lanes: Iterable[LaneKey],
    ) -> bool:
        """Whether an address is opened for the first time as an earlier process left it, so there is nothing to write.

        A look does not wait for who is writing. So this is asked only where no transaction of this process can have
        queued something in a lane that has to move: both channels were known before it received anything.
        """
        is_known = address not in self._opened and self._bound.get(address) == channel
        if not is_known or self.pairs.across(channel) is None:
            return False
        if any(self._names.get(lane) != pair.name for lane in known_lanes):
            return False
        moving, towards = {lane for lane, _ in moves}, self.pairs.lanes(pair, towards=channel.platform)
        async with self.store.look() as uow:
            there = await uow.outbox.dead_letters_of(moving.union(towards))
        if not moving.isdisjoint(there) or any(there.get(lane) for lane in towards):
            return False
        return await self.age_marks.is_on_record(channel)

    async def _bind(
        self,
        uow: UnitOfWork,
        address: ChannelAddress,
        channel: ChannelRef,
        pair: Pair,
        moves: Sequence[tuple[LaneKey, LaneKey]],
        known_lanes: Iterable[LaneKey],
    ) -> frozenset[LaneKey]:
        """Move the lanes of an address to its channel, in the store; into which something came that waited."""
        known = await uow.channels.get(address)
        moved = frozenset([to for lane, to in moves if await uow.outbox.move(lane, to)])
        self._follow(moves)
        if known != channel:
            await uow.channels.bind(address, channel)
        for lane in known_lanes:
            if self._names.get(lane) != pair.name:
                await uow.outbox.name(lane, pair.name)
        return moved

    def _follow(self, moves: Iterable[tuple[LaneKey, LaneKey]]) -> None:
        """What is known of these lanes in memory moves, too."""
        for lane, to in moves:
            self.status.move(lane, to)
            self._names.pop(lane, None)

    async def _retry(self, uow: UnitOfWork, lanes: Iterable[LaneKey]) -> frozenset[LaneKey]:
        """Queue again what may be possible now that its channel is open; in which lanes."""
        retried = set()
        for lane in lanes:
            for letter in await uow.outbox.dead_in(lane):
                # Perhaps a permission was missing to remove messages, and is back.
                if isinstance(letter.entry.command, DeleteMessage) or letter.postponed:
                    await uow.outbox.retry(letter.entry.id)
                    retried.add(lane)
        return frozenset(retried)

    def _known_lanes(self, pair: Pair, channel: ChannelRef) -> tuple[LaneKey, ...]:
        """The lanes of a pair whose channels are known: all of them, or if the other side was never open, only one."""
        return self.pairs.lanes(pair) if self.pairs.across(channel) is not None else (LaneKey.within(channel),)

    async def closed(self, address: ChannelAddress, problem: str) -> None:
        """See `Inbox.closed`."""
        pair = self.pairs.close(address, problem)
        if pair is not None:
            self._awaited.add(address)
            _log.warning("channel closed", pair=pair.name, platform=str(address.platform), problem=problem)

    async def post_again(
        self, channel: ChannelRef, post: Callable[[], Awaitable[Mapping[MessageRef, MessageRef]]]
    ) -> Collection[MessageRef]:
        """See `Inbox.post_again`."""
        pair = self.pairs.pair_of(channel)
        if pair is None:
            return ()
        async with self.lanes.moving(self.pairs.lanes(pair, towards=channel.platform)):
            posted = await post()
            if not posted:
                return ()
            async with self.store.write() as uow:
                return [one for one, again in posted.items() if await _record_again(uow, one, again, posted.keys())]

    async def catch_up(self, channel: ChannelRef, after: str) -> None:
        """See `Inbox.catch_up`."""
        # What was read of the past is not on record yet, and what became of it meanwhile may never be told.
        self.router.note_change(channel)
        await self._catch_up.channel(channel, after)

    async def command(self, call: CommandCall) -> RichText:
        """See `Inbox.command`."""
        changed: set[UserRef] = set()
        try:
            async with self.store.write() as uow:
                return (await self.commands.answer(uow, call, changed)).words
        finally:
            self.people.settle(changed)


async def _record_again(uow: UnitOfWork, copy: MessageRef, again: MessageRef, posted: Collection[MessageRef]) -> bool:
    """Whether what stands in a copy is on record in the new one, too, if it is on record at all."""
    try:
        digest = await uow.digests.get(copy)
    except ValueError as error:
        # Without it, the new copy would be taken for one of a single message.
        _log.error("what stands in a shared copy cannot be read, it stays on record as it was", reason=str(error))
        return False
    await uow.messages.record_again(copy, again, less=await _left_behind(uow, copy, again, posted))
    if digest is not None:
        await uow.digests.put(again, digest)
    return True


async def _left_behind(uow: UnitOfWork, copy: MessageRef, again: MessageRef, posted: Collection[MessageRef]) -> int:
    """How many parts of its message that come before a copy were not posted again.

    In each channel the parts are counted without a gap: an edit puts the new words into one after the other.
    """
    for original in await uow.messages.originals_of(copy):
        copies = await uow.messages.copies(original.id, copy.channel)
        before = {one.part for one in copies for here in copies if here.ref == copy and one.part < here.part}
        now = {one.part for one in copies if one.ref in posted}
        there = {one.part for one in await uow.messages.copies(original.id, again.channel)}
        # After an interruption only the last of them are posted again; those before are there.
        return max(0, len(before - now) - max(0, len(there) - len(now)))
    return 0


def _log_bug(what: str, error: Exception, **facts: object) -> None:
    """Log where an error happened, but not its text, which may quote a message."""
    place = [f"{frame.name}:{frame.lineno}" for frame in extract_tb(error.__traceback__)[-4:]]
    _log.error(what, error=type(error).__name__, place=" > ".join(place), **facts)
