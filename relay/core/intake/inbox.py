"""What the adapters talk to: the inbox in front of router, catch-up and dispatcher."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import structlog

from relay.core.delivery.dispatcher import Dispatcher
from relay.core.intake.catchup import CatchUp, last_original
from relay.core.intake.router import Router
from relay.core.pairs import PairDirectory
from relay.core.ports import EventBatch, HistoryReader
from relay.core.status.counters import Status
from relay.core.storage import Store, UnitOfWork, waiting_under
from relay.domain.commands import DeleteMessage
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, Platform
from relay.domain.pair import LaneKey, Pair
from relay.errors import StoreUnavailable

_log = structlog.get_logger(__name__)

_STEP = 200
"""Rows that are discarded in one transaction: nobody waits for its end."""


class Bridge:
    """Implements `core.ports.Inbox`."""

    def __init__(
        self,
        *,
        store: Store,
        pairs: PairDirectory,
        status: Status,
        router: Router,
        dispatcher: Dispatcher,
        readers: Mapping[Platform, HistoryReader],
        reconcile_window: timedelta,
    ) -> None:
        self._store = store
        self._pairs = pairs
        self._status = status
        self._router = router
        self._courier = dispatcher
        self._bound: set[ChannelAddress] = set()  # addresses whose channel is in the store
        self._opened: set[ChannelAddress] = set()  # in this process, whatever became of them since
        self._names: dict[LaneKey, str] = {}  # as they are in the store, of lanes with an open channel
        self._catch_up = CatchUp(
            store=store, pairs=pairs, readers=readers, receive=self.receive, window=reconcile_window
        )

    async def receive(self, batch: EventBatch) -> None:
        """See `Inbox.receive`."""
        try:
            entries = await self._router.receive(batch)
        except BaseException:
            # It may be on disk all the same, and when it comes again it counts as known.
            self._courier.wake_all()
            raise
        for entry in entries:
            self._courier.enqueue(entry)

    async def cursor(self, platform: Platform, stream: str) -> str | None:
        """See `Inbox.cursor`."""
        async with self._store.read() as uow:
            return await uow.cursors.get(platform, stream)

    async def last_original(self, channel: ChannelRef) -> MessageRef | None:
        """See `Inbox.last_original`."""
        async with self._store.read() as uow:
            return await last_original(uow, channel)

    async def begin(self) -> None:
        """Learn from the store what earlier processes knew of the declared channels. Raises `StoreUnavailable`."""
        async with self._store.read() as uow:
            known = await uow.channels.known()
        self._bound = set(known)
        self._pairs.remember(known)
        await self._write_names()

    def declare(self, pairs: Iterable[Pair]) -> None:
        """The operator changed the file. What waits goes on where its two channels are still, or again, a pair.

        Call `Adapter.watch` before anything is awaited, so that no adapter seems ready for pairs it has not heard of;
        then `keep_names`.
        """
        self._pairs.replace(pairs)
        self._courier.retry_now()

    async def keep_names(self) -> None:
        """Write down what the pair of each lane is called now, for the day on which it is not declared any more."""
        try:
            await self._write_names()
        except StoreUnavailable as error:
            _log.warning("the names of the pairs could not be written down", reason=error.reason)

    async def _write_names(self) -> None:
        """Only what has changed: a lane gets its first name when one of its channels is opened."""
        gone = self._bound - {side for pair in self._pairs.pairs for side in pair.sides}
        lanes = {lane: pair.name for pair in self._pairs.pairs for lane in self._pairs.lanes(pair)}
        renamed = {lane: name for lane, name in lanes.items() if self._names.get(lane, name) != name}
        if not gone and not renamed:
            return
        async with self._store.write() as uow:
            for address in gone:
                await uow.channels.forget(address)
            for lane, name in renamed.items():
                await uow.outbox.name(lane, name)
        self._bound -= gone
        self._names |= renamed

    async def discard_undeclared(self, before: datetime) -> int:
        """Forget some of what has waited since before that moment for pairs that are not declared; how much that was.

        Call it again while it was some. What may turn out to belong to a declared pair once both its channels are
        known stays until they have been open. Raises `StoreUnavailable`.
        """
        async with self._store.read() as uow:
            depths = await uow.outbox.depths()
        for lane, depth in depths.items():
            is_old = depth.oldest is not None and depth.oldest < before
            if is_old and self._pairs.pair_for(lane) is None and not self._may_be_declared(lane, depth.pair):
                async with self._store.write() as uow:
                    waiting = await uow.outbox.waiting(lane, _STEP)
                    old = [entry for entry in waiting if entry.queued_at < before]
                    for entry in old:
                        await uow.outbox.done(entry.id)
                _log.warning("discarded", pair=depth.pair, direction=lane.direction, messages=len(old))
                return len(old)
        return 0

    def _may_be_declared(self, lane: LaneKey, name: str | None) -> bool:
        """Whether a pair touches the lane, by a channel or by name, of which not every channel has been open yet."""
        return any(
            pair.destinations
            and not self._opened.issuperset(pair.sides)
            and (
                pair.name == name
                or not {lane.source, lane.destination}.isdisjoint(map(self._pairs.channel, pair.sides))
            )
            for pair in self._pairs.pairs
        )

    async def opened(
        self, address: ChannelAddress, channel: ChannelRef, *, predecessors: frozenset[ChannelRef] = frozenset()
    ) -> None:
        """See `Inbox.opened`."""
        pair = self._pairs.open(address, channel, predecessors)
        if pair is None:
            return
        known_lanes = self._known_lanes(pair, channel)
        moves = self._moves(address, channel, pair, predecessors)
        async with self._courier.moving(lane for lane, _ in moves), self._store.write() as uow:
            moved = await self._bind(uow, address, channel, pair, moves, known_lanes)
            for lane in self._pairs.lanes(pair, towards=channel.platform):
                for letter in await uow.outbox.dead_in(lane):
                    # A permission may be back without which nothing could be removed.
                    if isinstance(letter.entry.command, DeleteMessage):
                        await uow.outbox.retry(letter.entry.id)
        self._bound.add(address)
        self._opened.add(address)
        self._names |= dict.fromkeys(known_lanes, pair.name)
        _log.info("channel open", pair=pair.name, platform=str(channel.platform), channel=channel.id)
        lanes = self._pairs.lanes(pair)
        for lane in lanes:
            # What was queued for another channel may have been sent there.
            self._courier.wake(lane, suspect=moved)
        self._courier.retry_now(lanes)

    def _moves(
        self, address: ChannelAddress, channel: ChannelRef, pair: Pair, predecessors: frozenset[ChannelRef]
    ) -> Sequence[tuple[LaneKey, LaneKey]]:
        """Which lanes become which others once an address stands for a channel.

        An alias may come to name another room altogether: what waits for the old one never goes there.
        """
        other = self._pairs.channel(pair.side(pair.other(channel.platform)))
        moves = [
            (LaneKey(other, waiting_under(pair.name, channel.platform)), LaneKey(other, channel)),
            (LaneKey(channel, waiting_under(pair.name, other.platform)), LaneKey(channel, other)),
        ]
        for before in ({ChannelRef(address.platform, address.value)} | predecessors) - {channel}:
            moves += [
                (LaneKey(other, before), LaneKey(other, channel)),
                (LaneKey(before, other), LaneKey(channel, other)),
            ]
            if self._pairs.pair_of(before) is None:
                moves.append((LaneKey.within(before), LaneKey.within(channel)))
        return moves

    async def _bind(
        self,
        uow: UnitOfWork,
        address: ChannelAddress,
        channel: ChannelRef,
        pair: Pair,
        moves: Sequence[tuple[LaneKey, LaneKey]],
        known_lanes: Iterable[LaneKey],
    ) -> bool:
        """Give the lanes of an address to the channel that it stands for; whether something waited in them."""
        known = await uow.channels.get(address)
        moved = [await uow.outbox.move(lane, to) for lane, to in moves]
        for lane, to in moves:
            self._status.move(lane, to)
            self._names.pop(lane, None)
        if known != channel:
            await uow.channels.bind(address, channel)
        for lane in known_lanes:
            if self._names.get(lane) != pair.name:
                await uow.outbox.name(lane, pair.name)
        return any(moved)

    def _known_lanes(self, pair: Pair, channel: ChannelRef) -> tuple[LaneKey, ...]:
        """The lanes of a pair whose channels are known; `channel` is. An address that was never opened is none."""
        return self._pairs.lanes(pair) if self._pairs.across(channel) is not None else (LaneKey.within(channel),)

    async def closed(self, address: ChannelAddress, problem: str) -> None:
        """See `Inbox.closed`."""
        pair = self._pairs.close(address, problem)
        if pair is not None:
            _log.warning("channel closed", pair=pair.name, platform=str(address.platform), problem=problem)

    async def catch_up(self, channel: ChannelRef) -> None:
        """See `Inbox.catch_up`."""
        await self._catch_up.channel(channel)
