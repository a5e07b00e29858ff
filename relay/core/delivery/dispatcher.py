"""Keeps one ordered lane for each channel and the one it leads to, and starts and stops them together."""

import asyncio
import itertools
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from relay.core.clock import Backoff, Bell
from relay.core.delivery.entries import Entries
from relay.core.delivery.execute import Executor
from relay.core.delivery.lane import Lane
from relay.core.delivery.rate_limit import Budgets
from relay.core.delivery.resolve import Resolver
from relay.core.pairs import PairDirectory
from relay.core.ports import Clock, SideHealth
from relay.core.status.counters import Status
from relay.core.storage import Entry, Store
from relay.domain.ids import Platform
from relay.domain.pair import LaneKey
from relay.errors import StoreUnavailable

_CHECK_SECONDS = 1.0
_READ_AHEAD, _ALL_READ_AHEAD = 256 * 1024, 32 * 1024 * 1024
"""Bytes that a lane reads ahead of the store, and all of them together: each lane has a backlog after an outage."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Dispatcher:
    """Delivers what is in the outbox. A lane comes into being when something is first queued in it."""

    store: Store
    pairs: PairDirectory
    status: Status
    clock: Clock
    rng: random.Random
    budgets: Budgets
    may_send: Callable[[], bool]  # whether this process still holds the store
    resolver: Resolver
    executor: Executor
    entries: Entries
    # Every how many seconds it looks whether another process has queued something.
    outbox_every: int = 1
    # Rings each time that nothing waits any more in some lane.
    drained: Bell = field(init=False, default_factory=Bell)
    _lanes: dict[LaneKey, Lane] = field(default_factory=dict, init=False)
    _sending: defaultdict[LaneKey, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock), init=False)
    # How the sides were when they were last looked at.
    _sides: Mapping[str, SideHealth] = field(default_factory=dict, init=False)
    # The mark that `Outbox.lanes_and_mark` returned last.
    _retried: str | None = field(default=None, init=False)
    _movers: int = field(default=0, init=False)  # who moves what waits, and may wait for locks of `_sending`
    # Lanes that end once nothing waits in them, as the pairs were at that change.
    _passing: set[LaneKey] = field(default_factory=set, init=False)
    _pairs_at: int = field(default=0, init=False)
    # Lanes to open or to wake, and whether what is at their head may have been sent. None: stop.
    _wanted: asyncio.Queue[tuple[LaneKey, bool] | None] = field(default_factory=asyncio.Queue, init=False)

    async def run(self) -> None:
        """Work until `stop`; ends once every lane has finished what it had in flight.

        What was queued in an earlier life counts as possibly sent.
        """
        left_over = await self._left_over()
        async with asyncio.TaskGroup() as group:
            for key in left_over:
                self._open(key, group, suspect=True)
            while (wanted := await self._wanted.get()) is not None:
                key, suspect = wanted
                if key in self._lanes:
                    self._lanes[key].wake(suspect=suspect)
                else:
                    self._open(key, group, suspect=suspect)
            for lane in tuple(self._lanes.values()):
                lane.stop()
            self.budgets.close()

    def wake(self, key: LaneKey, *, suspect: bool = False) -> None:
        """Something was queued in the lane. `suspect`: what is at its head may have been sent."""
        lane = self._lanes.get(key)
        if lane is None:
            self._wanted.put_nowait((key, suspect))
        else:
            lane.wake(suspect=suspect)

    def wake_all(self) -> None:
        """Something may have been queued, nobody knows in which lane."""
        for lane in self._lanes.values():
            lane.wake()

    def enqueue(self, entry: Entry) -> None:
        """`entry` was queued just now; an idle lane takes it without asking the store."""
        lane = self._lanes.get(entry.lane)
        if lane is None:
            self._wanted.put_nowait((entry.lane, False))
        else:
            lane.enqueue(entry)

    def learnt(self, lane: LaneKey) -> float:
        """How many seconds a message took when the platform last refused one; 0 if it never did."""
        return self.budgets.of(lane).learnt

    def retry_now(self, lanes: Iterable[LaneKey] | None = None) -> None:
        """Something changed for the better for these lanes (None: for all): they do not wait for their next try."""
        for key in self._lanes if lanes is None else lanes:
            if key in self._lanes:
                self._lanes[key].retry_event.set()

    def platform_is_back(self, platform: Platform) -> None:
        """A platform that was out of reach answers again: no lane to it waits for its next try."""
        for key, lane in self._lanes.items():
            if key.destination.platform is platform:
                lane.retry_event.set()

    @asynccontextmanager
    async def moving(self, lanes: Iterable[LaneKey]) -> AsyncIterator[None]:
        """What waits is moved out of these lanes, or into them, in the block: none of it is being sent meanwhile.

        What a lane was about is finished first, receipt and all. Afterwards each asks the store what waits in it.
        """
        keys = sorted(set(lanes))
        self._movers += 1
        try:
            async with AsyncExitStack() as held:
                for key in keys:
                    await held.enter_async_context(self._sending[key])
                try:
                    yield
                finally:
                    for key in keys:
                        if key in self._lanes:
                            self._lanes[key].moved()
        finally:
            self._movers -= 1
            if not self._movers:
                for key in self._sending.keys() - self._lanes.keys():
                    del self._sending[key]

    async def watch(self) -> None:
        """Wake lanes when a platform is back, or when another process has queued something. Works until cancelled."""
        # What waited at the start is known by then.
        for second in itertools.count(1):
            # Adapters tell of what matters at once. How far they are, say, is seen here.
            self.look_at_sides()
            await self.clock.sleep(_CHECK_SECONDS)
            if second % self.outbox_every == 0:
                await self.check_outbox()

    def look_at_sides(self) -> None:
        """A platform may be back, or gone."""
        before, self._sides = self._sides, self.status.sides()
        for name, side in self._sides.items():
            if side.connected and name in before and not before[name].connected:
                self.platform_is_back(Platform(name))
        if before != self._sides:
            self.status.news.ring()

    async def check_outbox(self) -> None:
        """Wake the lanes in which something waits of which they do not know, and end those that nothing needs."""
        try:
            # `relay dead retry` is another process: only the outbox tells us that it queued something.
            async with self.store.look() as uow:
                waiting, mark = await uow.outbox.lanes_and_mark()
                retried = mark if waiting else self._retried
        except StoreUnavailable as error:
            self.status.store_problem = str(error)
            return
        if waiting:
            self.status.queued()
        # A lane that is about something knows what else was queued, and would have to look it all up again.
        for key in waiting:
            if retried != self._retried or key not in self._lanes or self._lanes[key].is_idle:
                self.wake(key)
        self._retried = retried
        self._end_unused(waiting)

    def _end_unused(self, waiting: AbstractSet[LaneKey]) -> None:
        """End the lanes in which nothing waits, unless they are kept for a pair that is declared."""
        if self._pairs_at != self.pairs.changes:
            # Only then: a thousand pairs have thousands of lanes.
            self._pairs_at = self.pairs.changes
            self._passing = {key for key, lane in self._lanes.items() if not lane.is_kept}
        for key in self._passing - waiting:
            self._lanes[key].unused()

    def stop(self) -> None:
        """Let every lane finish what is in flight, and `run` end."""
        self._wanted.put_nowait(None)

    def _open(self, key: LaneKey, group: asyncio.TaskGroup, *, suspect: bool) -> None:
        lane = self._lanes[key] = Lane(
            key=key,
            store=self.store,
            pairs=self.pairs,
            status=self.status,
            resolver=self.resolver,
            executor=self.executor,
            entries=self.entries,
            budget=self.budgets.of(key),
            backoff=Backoff(self.rng),
            may_send=self.may_send,
            suspect=suspect,
            most_ahead=self._most_ahead,
            drained=self.drained,
            sending=self._sending[key],
        )
        if not lane.is_kept:
            self._passing.add(key)
        group.create_task(self._run(key, lane), name=f"lane {key.source.id} {key.destination.id}")

    def _most_ahead(self) -> int:
        return min(_READ_AHEAD, _ALL_READ_AHEAD // max(1, len(self._lanes)))

    async def _run(self, key: LaneKey, lane: Lane) -> None:
        await lane.run()
        # Nothing is awaited in between: who wakes the lane from here on opens a new one.
        del self._lanes[key]
        self._passing.discard(key)
        if not self._movers:
            del self._sending[key]

    async def _left_over(self) -> list[LaneKey]:
        backoff = Backoff(self.rng)
        while True:
            try:
                async with self.store.look() as uow:
                    return sorted(await uow.outbox.lanes())
            except StoreUnavailable as error:
                self.status.store_problem = str(error)
                await asyncio.sleep(backoff.next())
