"""One history: people write, platforms misbehave, the process is killed and started again; then the invariant."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from relay.core.bootstrap import Core, assemble
from relay.core.ports import Adapter, HistoryReader, LatestReader
from relay.core.storage import Store
from relay.domain.commands import DeleteMessage
from relay.domain.ids import Platform
from relay.domain.pair import LaneKey, PairPolicy
from relay.errors import StoreUnavailable, Transient
from relay.store.unit_of_work import open_store
from tests.simulation.invariant import copies_in, crossed_in_secret, violations, wrongly_linked
from tests.simulation.loop import Stuck, Undead, VirtualLoop
from tests.simulation.moderators import Moderators
from tests.simulation.operator import Operator
from tests.simulation.past import Past
from tests.simulation.people import People
from tests.simulation.place import Life, Place
from tests.simulation.trouble import UNDELETABLE, Trouble
from tests.support.memory_adapter import MarkingAdapter, MemoryAdapter
from tests.support.platform import MemoryPlatform

T = TypeVar("T")

_DAWN = datetime(2026, 1, 1, tzinfo=UTC)
_QUIET_CHECKS = 5
_QUIET_EVERY = 30.0  # virtual seconds
_DYING = 100_000  # turns of the loop
_PATIENCE = 4 * 3600.0  # virtual seconds after the last trouble


@dataclass(slots=True)
class Report:
    """How a history went; `violations` is empty if the promise was kept."""

    seed: int
    violations: list[str]
    trace: list[str]
    messages: int
    kills: int
    troubles: dict[str, int]


@dataclass(slots=True)
class _Clock:
    """Virtual time; it goes on between two runs of the process."""

    seconds: float = 0.0
    loop: VirtualLoop | None = None

    def elapsed(self) -> float:
        return self.seconds if self.loop is None else self.loop.now

    def now(self) -> datetime:
        return _DAWN + timedelta(seconds=self.elapsed())

    def monotonic(self) -> float:
        return self.elapsed()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class History:
    """The world of one seed."""

    seed: int
    store: Place
    clock: _Clock = field(default_factory=_Clock)
    trace: list[str] = field(default_factory=list)
    ready_at: datetime | None = None

    def run(self) -> Report:
        """Play it to the end."""
        rng = random.Random(self.seed)
        policy = PairPolicy(batch_when_behind=rng.choice((0.0, 0.5, 20.0)))
        platforms = tuple(MemoryPlatform(platform, self.clock.now) for platform in Platform)
        over = rng.uniform(5, 40)
        operator = Operator.of(rng, policy, over, self.note)
        people = People(rng, (platforms[0], platforms[1]), operator, self.note)
        people.moderators = Moderators.of(self.seed, people.platforms, operator, self.note)
        past = Past.of(self.seed, people.platforms, operator, over, self.note)
        for platform in platforms:
            platform.orphans = _orphans(self.seed, platform)
            platform.returns = _returns(self.seed, platform)
        if rng.random() < 0.1:
            operator.grow_backlog(self.store)
        troubles = [Trouble.of(rng, self.clock.elapsed, self.note, platform, over) for platform in Platform]
        for trouble in troubles:
            trouble.keep_copies(self.seed)
        acts = sorted(rng.uniform(1, over) for _ in range(rng.choice((3, 8, 15, 30))))
        kills = rng.choice((0, 1, 1, 2, 4))
        found: list[str] = []
        for life in range(kills + 1):
            last = life == kills
            kill_at = None if last else rng.choice((rng.randint(50, 400), rng.randint(400, 3000)))
            adapters = [_adapter(platform, trouble) for platform, trouble in zip(platforms, troubles, strict=True)]
            adapters[-1].ghosts = _ghosts(self.seed)
            try:
                self._live(rng, adapters, people, acts, over, kill_at, past)
            except (Stuck, TimeoutError) as error:
                found.append(f"never quiet: {type(error).__name__}")
                break
            except Undead as error:
                found.append(f"goes on although it was cancelled: {error}")
                break
            if people.moderators is not None:
                people.moderators.end()
            for platform in platforms:
                platform.listeners.clear()
                platform.mark_listeners.clear()
            self._absence(rng, people, acts)
            if not last and rng.random() < 0.2:
                operator.damage(self.store)
        found += violations(self.store, (platforms[0], platforms[1]), operator, people.removed, self.ready_at, past)
        if people.moderators is not None:
            found += people.moderators.violations(copies_in(self.store))
        found += crossed_in_secret(self.store, people.secret)
        found += wrongly_linked(self.store, people.is_linked(platforms[-1]))
        counts = dict(self.store.troubles)
        for trouble in troubles:
            for what, count in trouble.counts.items():
                counts[what] = counts.get(what, 0) + count
        return Report(self.seed, found, self.trace, people.written, kills, counts)

    def note(self, line: str) -> None:
        self.trace.append(f"{self.clock.elapsed():10.3f}  {line}")

    def _live(
        self,
        rng: random.Random,
        adapters: list[MemoryAdapter],
        people: People,
        acts: list[float],
        over: float,
        kill_at: int | None,
        past: Past | None,
    ) -> None:
        """One life of the process: until the world is quiet, or until it is killed."""
        loop = VirtualLoop(self.clock.seconds)
        self.clock.loop = loop
        with self.store.life(rng, loop) as life:
            main = loop.create_task(self._bounded(self._process(rng, adapters, people, acts, over, past), over))
            main.add_done_callback(lambda _: loop.stop())
            loop.kill_at = kill_at
            try:
                loop.run_forever()
                if not main.done():
                    self.note("killed")
                    self._bury(loop, life, adapters, main)
                else:
                    main.result()
            finally:
                self.clock.seconds, self.clock.loop = loop.now, None
                loop.close()

    def _bury(self, loop: VirtualLoop, life: Life, adapters: list[MemoryAdapter], main: "asyncio.Task[None]") -> None:
        """Nothing that the dying tasks still try reaches the disk or a platform."""
        life.die()
        for adapter in adapters:
            adapter.before = adapter.after = _dead
        main.cancel()
        loop.kill_at, loop.end_at = None, loop.steps + _DYING
        with suppress(Stuck):  # a task of the dead process waits for what will never come, and may
            loop.run_forever()

    async def _bounded(self, process: Awaitable[None], over: float) -> None:
        """Raise `TimeoutError` for a process that does not come as far as to be quiet, whatever it waits for."""
        async with asyncio.timeout(max(0.0, over - self.clock.elapsed()) + 2 * _PATIENCE):
            await process

    async def _process(
        self,
        rng: random.Random,
        adapters: list[MemoryAdapter],
        people: People,
        acts: list[float],
        over: float,
        past: Past | None,
    ) -> None:
        store = await _insist(partial(open_store, self.store.url))
        core = assemble(
            store=store,
            pairs=people.operator.pairs(),
            adapters={adapter.platform: adapter for adapter in adapters},
            clock=_WrongClock(self.clock, people.operator),
            rng=rng,
        )
        await _insist(core.inbox.begin)
        await _insist(partial(core.moderation.declare, people.operator.pairs()))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(core.dispatcher.run())]
            if people.moderators is not None:
                tasks.append(group.create_task(core.moderation.bans.run()))
                people.moderators.begin(core, adapters)
            for adapter in adapters:
                await _insist(partial(adapter.watch, core.pairs.watched(adapter.platform)))
                tasks.append(group.create_task(adapter.run(core.inbox)))
                if isinstance(adapter, MarkingAdapter):
                    tasks.append(group.create_task(adapter.tell_of_marks()))
            if past is not None:
                tasks.append(group.create_task(core.backfills.run()))
                tasks.append(group.create_task(past.ask(store, self.clock.elapsed)))
            await _ready(adapters)
            self.ready_at = self.ready_at or self.clock.now()
            changes = people.operator.changes
            while acts or changes:
                change = bool(changes) and (not acts or changes[0] <= acts[0])
                await asyncio.sleep(max(0.0, (changes if change else acts)[0] - self.clock.elapsed()))
                await asyncio.sleep(0.001)
                if change:
                    await _reload(core, adapters, people.operator)
                else:
                    acts.pop(0)
                    people.act()
                    if people.wants_code:
                        await people.ask_for_code(core.inbox)
                    if people.moderators is not None and people.moderators.block_list_changed:
                        await _redeclare(core, adapters, people.operator)
                        people.moderators.block_list_changed = False
            if people.moderators is not None:
                people.moderators.settle()
            await _quiet(store, core, adapters, self.clock, over, past)
            for task in tasks:
                task.cancel()
        await store.close()

    def _absence(self, rng: random.Random, people: People, acts: list[float]) -> None:
        """The process is down for a while; people go on."""
        back = self.clock.seconds + rng.expovariate(1 / 5)
        while acts and acts[0] <= back:
            self.clock.seconds = max(self.clock.seconds + 0.001, acts.pop(0))
            people.act()
            people.wants_code = False  # Discord tells her that the relay does not answer
        self.clock.seconds = max(self.clock.seconds, back)


@dataclass(slots=True)
class _WrongClock:
    """The machine's own clock, which is set back and forth; the platforms have better ones."""

    clock: _Clock
    operator: Operator

    def now(self) -> datetime:
        return self.clock.now() + self.operator.offset(self.clock.elapsed())

    def monotonic(self) -> float:
        return self.clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self.clock.sleep(seconds)


async def _reload(core: Core, adapters: list[MemoryAdapter], operator: Operator) -> None:
    """The file is changed once everything that was written has been read: it is clear then where that belongs."""
    while any(adapter.health().state != "ready" or adapter.unread() for adapter in adapters):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    operator.changes.pop(0)
    operator.change()
    await _redeclare(core, adapters, operator)


async def _redeclare(core: Core, adapters: list[MemoryAdapter], operator: Operator) -> None:
    """The daemon reads the file again."""
    await _insist(partial(core.moderation.declare, operator.pairs()))
    core.inbox.declare(operator.pairs())
    for adapter in adapters:
        while True:
            try:
                await adapter.watch(core.pairs.watched(adapter.platform))
            except (Transient, StoreUnavailable):
                await asyncio.sleep(1)
            else:
                break
    await core.inbox.keep_names()


def _adapter(platform: MemoryPlatform, trouble: Trouble) -> MemoryAdapter:
    kind = MemoryAdapter if platform.platform is Platform.MATRIX else MarkingAdapter
    return kind(
        platform,
        replays=platform.platform is Platform.MATRIX,
        before=trouble.before,
        after=trouble.after,
        doubled=trouble.doubled,
    )


def _ghosts(seed: int) -> Callable[[], bool] | None:
    """In every other history people have ghosts, which cannot always speak: each try may be made by another account."""
    if seed % 2:
        return None
    rng = random.Random(~seed)
    share = rng.choice((1.0, 0.9, 0.5))
    return lambda: rng.random() < share


def _orphans(seed: int, platform: MemoryPlatform) -> Callable[[], bool]:
    """In every third history copies lose what posted them, so that each edit may have to post one anew."""
    rng = random.Random(f"orphans {seed} {platform.platform}")
    share = 0.0 if seed % 3 else rng.choice((0.1, 0.3, 0.6))
    return lambda: share > 0 and rng.random() < share


def _returns(seed: int, platform: MemoryPlatform) -> Callable[[], bool]:
    """In every other history these come back, so that what one try could not edit the next one can."""
    rng = random.Random(f"returns {seed} {platform.platform}")
    share = rng.choice((0.0, 0.2))
    return lambda: share > 0 and rng.random() < share


async def _dead(call: str) -> None:
    raise asyncio.CancelledError


async def _ready(adapters: list[MemoryAdapter]) -> None:
    while any(adapter.health().state != "ready" for adapter in adapters):  # noqa: ASYNC110 - time is virtual
        await asyncio.sleep(0.1)


async def _quiet(
    store: Store, core: Core, adapters: list[MemoryAdapter], clock: _Clock, over: float, past: Past | None
) -> None:
    """Until nothing has waited for a while."""
    async with asyncio.timeout(max(0.0, over - clock.elapsed()) + _PATIENCE):
        quiet = 0
        while quiet < _QUIET_CHECKS:
            await asyncio.sleep(_QUIET_EVERY)
            if clock.elapsed() >= over:
                await _insist(partial(_delete_again, store, core))
            waiting = [lane for lane in await _insist(partial(_lanes, store)) if core.pairs.carries(lane)]
            busy = waiting or clock.elapsed() < over or any(adapter.health().state != "ready" for adapter in adapters)
            if past is not None and not busy:
                busy = await _insist(partial(past.is_under_way, store, core))
            quiet = 0 if busy else quiet + 1


async def _delete_again(store: Store, core: Core) -> None:
    """The operator queues again what could not be deleted when that was not allowed."""
    async with store.write() as uow:
        letters = [letter for letter in await uow.outbox.dead() if isinstance(letter.entry.command, DeleteMessage)]
        again = [
            letter.entry for letter in letters if letter.reason == UNDELETABLE and core.pairs.carries(letter.entry.lane)
        ]
        for entry in again:
            await uow.outbox.retry(entry.id)
    for entry in again:
        core.dispatcher.wake(entry.lane)


async def _lanes(store: Store) -> Collection[LaneKey]:
    async with store.read() as uow:
        return await uow.outbox.lanes()


async def _insist(call: Callable[[], Awaitable[T]]) -> T:
    """What a process needs at its start: without it, it ends, and its supervisor starts it again."""
    while True:
        try:
            return await call()
        except StoreUnavailable:
            await asyncio.sleep(1)


def check_types(adapter: MemoryAdapter) -> tuple[Adapter, HistoryReader, LatestReader]:
    """For the type checker alone: the adapter in memory fits the ports."""
    return adapter, adapter, adapter
