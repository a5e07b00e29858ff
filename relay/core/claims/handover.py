"""What becomes of pairs when another relay takes them over, or leaves them to us. `agreement.py` decides when."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from relay.core.claims.register import Positions
from relay.core.clock import wait_at_most
from relay.core.intake.inbox import Lanes
from relay.core.pairs import PairDirectory
from relay.core.ports import Adapter, Clock
from relay.core.storage import Store, UnitOfWork
from relay.domain.ids import ChannelAddress, ChannelRef
from relay.domain.pair import LaneKey, Pair
from relay.errors import DeliveryError, StoreUnavailable
from relay.logs import get_logger

_log = get_logger(__name__)

_DELIVERED_WITHIN = 120.0
"""Seconds that another relay is made to wait until what we have read is delivered: a rate limit may hold it back."""
_AT_REST_WITHIN = 5.0
_LOOK_SECONDS = 0.1
_AGAIN_SECONDS = 5.0
_STEP = 200
_REASON = "another relay on the same accounts has held this pair since, and may have sent it"


@runtime_checkable
class ReadingPositions(Protocol):
    """An adapter that can tell another relay how far a channel was read, and go on from where another one stopped."""

    def reads(self) -> bool:
        """Whether it has begun to read, and knows which channels were declared when it began. No I/O."""
        ...

    def at_rest(self, action: Callable[[], Awaitable[None]]) -> Awaitable[None]:
        """Call `action` at a moment when nothing is half received. May have to wait for the platform."""
        ...

    async def position(self, channel: ChannelRef, uow: UnitOfWork) -> str:
        """How far `channel` was read, as far as `uow` knows; "" if that is not known. Only at rest."""
        ...

    async def read_from(self, address: ChannelAddress, position: str) -> None:
        """The channel `address`, once it is declared, is read on from a position that another relay has told.

        "": from then on, whatever was read before. Only once the adapter `reads`.
        Raises a `DeliveryError` where that cannot be written down now.
        """
        ...


def claim_key(pair: Pair) -> str:
    """What a claim to a pair names: the side that has one address only, whatever the operator writes."""
    return pair.sides[0].value


def claim_keys(pairs: Iterable[Pair]) -> frozenset[str]:
    """What the claims to these pairs name. Nobody mirrors an archived one, so nobody claims it."""
    return frozenset(claim_key(pair) for pair in pairs if pair.destinations)


@dataclass(slots=True, kw_only=True)
class Handover:
    """Implements `agreement.PairSwitch`."""

    store: Store
    pairs: PairDirectory
    lanes: Lanes
    adapters: Sequence[Adapter]
    clock: Clock
    _held_back: Mapping[str, str] = field(init=False, default_factory=dict)
    # Pairs that are being handed over: nothing more is read in them, whatever is declared, until they are held back.
    _leaving: frozenset[str] = field(init=False, default=frozenset())

    def is_ready(self) -> bool:
        """See `PairSwitch.is_ready`."""
        return all(adapter.reads() for adapter in self.adapters if isinstance(adapter, ReadingPositions))

    async def hold_back(self, reasons: Mapping[str, str]) -> None:
        """See `PairSwitch.hold_back`."""
        changed = reasons.keys() != self._held_back.keys()
        self._held_back = dict(reasons)
        if changed:
            await self.watch()
        else:
            self._tell_directory()

    def _tell_directory(self) -> None:
        reasons = self._held_back
        pairs = [pair for pair in self.pairs.pairs if claim_key(pair) in reasons]
        self.pairs.hold_back({pair.sides[0]: reasons[claim_key(pair)] for pair in pairs})
        self._leaving -= reasons.keys()
        self._leave(self._leaving)

    def _leave(self, keys: frozenset[str]) -> None:
        self._leaving = keys
        self.pairs.leave(side for pair in self._pairs(keys) for side in pair.sides)

    async def watch(self) -> None:
        """Tell the adapters which channels are ours. To be called when the operator has changed the pairs, too."""
        self._tell_directory()
        self.lanes.retry_now()
        for adapter in self.adapters:
            await adapter.watch(self.pairs.watched(adapter.platform), secondary=self.pairs.secondary(adapter.platform))

    async def hand_over(self, keys: Collection[str]) -> Mapping[str, Positions]:
        """See `PairSwitch.hand_over`. What cannot be delivered in time stays here, and is told of."""
        pairs = self._pairs(keys)
        found: dict[str, Positions] = {}

        async def leave() -> None:
            # In a transaction of its own: no batch is half on disk.
            async with self.store.write() as uow:
                self._leave(frozenset(keys))
                found.update(await self._positions(pairs, uow))

        try:
            async with asyncio.timeout(_AT_REST_WITHIN):
                await self._all_at_rest(leave)
        except (TimeoutError, StoreUnavailable):
            # A platform does not answer, or nothing can be written. The other relay begins from now on.
            self._leave(frozenset(keys))
        with suppress(TimeoutError):
            async with asyncio.timeout(_DELIVERED_WITHIN):
                # Nothing is delivered any more for a pair that is removed meanwhile.
                while await self._waiting(self._pairs(keys)):
                    await self.clock.sleep(_LOOK_SECONDS)
        if waiting := await self._waiting(pairs):
            _log.error("messages stay here: they could not be delivered before the handover", messages=waiting)
        return found

    async def positions(self, keys: Collection[str]) -> Mapping[str, Positions]:
        """See `PairSwitch.positions`."""
        async with self.store.read() as uow:
            return await self._positions(self._pairs(keys), uow)

    async def idle(self, keys: Collection[str]) -> frozenset[str]:
        """Those of these pairs in which nothing waits. Nothing may be received meanwhile."""
        return frozenset([claim_key(pair) for pair in self._pairs(keys) if not await self._waiting([pair])])

    @asynccontextmanager
    async def resting(self, seconds: float) -> AsyncIterator[bool]:
        """Nothing is half received inside the block; False if that could not be had within so many seconds."""
        rests = asyncio.Event()

        async def rest() -> None:
            rests.set()
            await asyncio.Event().wait()

        resting = asyncio.create_task(self._all_at_rest(rest), name="rest")
        try:
            await wait_at_most(rests, seconds)
            yield rests.is_set()
        finally:
            resting.cancel()
            await asyncio.wait((resting,))

    async def stand_down(self, keys: Collection[str]) -> None:
        """See `PairSwitch.stand_down`. What waits is kept as dead letters: only people can tell whether it is there."""
        lanes = await self._lanes(keys)
        letters = 0
        async with self.lanes.moving(lanes):
            for lane in lanes:
                letters += await self._set_aside(lane)
        if letters:
            _log.error("what waited for pairs of another relay is kept as dead letters", messages=letters)

    async def _lanes(self, keys: Collection[str]) -> frozenset[LaneKey]:
        """Those of these pairs, and others of their channels in which something waits, whatever their pair is now."""
        lanes = {lane for pair in self._pairs(keys) for lane in self.pairs.lanes(pair)}
        while True:
            try:
                async with self.store.read() as uow:
                    depths = await uow.outbox.depths()
            except StoreUnavailable as error:
                await self._pause(error)
            else:
                return frozenset(lanes).union(
                    lane for lane in depths if lane.source.id in keys or lane.destination.id in keys
                )

    async def read_from(self, positions: Mapping[str, Positions]) -> None:
        """See `PairSwitch.read_from`."""
        for pair in self._pairs(positions):
            told = positions[claim_key(pair)]
            for adapter in self.adapters:
                position = told.get(str(adapter.platform), "")
                if isinstance(adapter, ReadingPositions):
                    try:
                        await adapter.read_from(pair.side(adapter.platform), position)
                    except DeliveryError as error:
                        _log.error("a channel starts from now", pair=pair.name, reason=str(error))

    def _pairs(self, keys: Collection[str]) -> list[Pair]:
        return [pair for pair in self.pairs.pairs if claim_key(pair) in keys and pair.destinations]

    async def _all_at_rest(self, action: Callable[[], Awaitable[None]]) -> None:
        for adapter in self.adapters:
            if isinstance(adapter, ReadingPositions):
                action = _nested(adapter, action)
        await action()

    async def _positions(self, pairs: Sequence[Pair], uow: UnitOfWork) -> dict[str, Positions]:
        found: dict[str, Positions] = {}
        for pair in pairs:
            told = {}
            for adapter in self.adapters:
                if isinstance(adapter, ReadingPositions):
                    channel = self.pairs.channel(pair.side(adapter.platform))
                    told[str(adapter.platform)] = await adapter.position(channel, uow)
            found[claim_key(pair)] = {platform: position for platform, position in told.items() if position}
        return found

    async def _waiting(self, pairs: Sequence[Pair]) -> int:
        try:
            async with self.store.read() as uow:
                depths = await uow.outbox.depths()
        except StoreUnavailable:
            return 0
        lanes = {lane for pair in pairs for lane in self.pairs.lanes(pair)}
        return sum(depth.waiting for lane, depth in depths.items() if lane in lanes)

    async def _pause(self, error: StoreUnavailable) -> None:
        """What waits must not be sent: the pair stays out of our hands, and so does that."""
        _log.warning("what waits for pairs of another relay cannot be set aside now", reason=str(error))
        await self.clock.sleep(_AGAIN_SECONDS)

    async def _set_aside(self, lane: LaneKey) -> int:
        letters = 0
        while True:
            try:
                async with self.store.write() as uow:
                    waiting = await uow.outbox.waiting(lane, _STEP)
                    for entry in waiting:
                        if lane.crosses:
                            await uow.outbox.dead_letter(entry.id, _REASON, self.clock.now())
                        else:
                            await uow.outbox.done(entry.id)
            except StoreUnavailable as error:
                await self._pause(error)
                continue
            if not waiting:
                return letters
            letters += len(waiting) if lane.crosses else 0


def _nested(adapter: ReadingPositions, action: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    async def nested() -> None:
        await adapter.at_rest(action)

    return nested
