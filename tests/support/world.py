"""The real core and the real store between two platforms in memory: the environment of the core's tests."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from relay.core.bootstrap import Core, assemble
from relay.core.clock import SystemClock
from relay.core.files import Files, MediaLinks
from relay.core.ports import Clock
from relay.domain.ids import ChannelAddress, ChannelRef, Platform
from relay.domain.pair import LaneKey, Pair, PairPolicy
from relay.store.unit_of_work import SqlStore, open_store
from tests.support.memory_adapter import MarkingAdapter, MemoryAdapter
from tests.support.patience import PATIENCE
from tests.support.platform import MemoryPlatform, Message
from tests.support.store import new_store


def pair(name: str = "help", **policy: object) -> Pair:
    """A pair of the two channels that are called `name`."""
    sides = (ChannelAddress(Platform.DISCORD, name), ChannelAddress(Platform.MATRIX, f"#{name}"))
    return Pair(name, sides, frozenset(Platform), PairPolicy(**policy))  # type: ignore[arg-type]


def lane(destination: Platform, name: str = "help") -> LaneKey:
    """The lane of the pair of that name that leads to a platform."""
    source = next(platform for platform in Platform if platform is not destination)
    return LaneKey(ChannelRef(source, name), ChannelRef(destination, name))


class WrongClock(SystemClock):
    """A machine's clock that is off by so much; its seconds are right."""

    def __init__(self, off: timedelta) -> None:
        self._off = off

    def now(self) -> datetime:
        """The time of day as this machine has it."""
        return super().now() + self._off


@dataclass(slots=True)
class World:
    """Two platforms, which live on, and the relay between them, which may be started and stopped."""

    store: SqlStore
    pairs: tuple[Pair, ...]
    discord: MemoryPlatform
    matrix: MemoryPlatform
    seed: int = 1
    core: Core | None = None
    files: Files | None = None
    links: MediaLinks | None = None
    clock: Clock = field(default_factory=SystemClock)
    discord_adapter: MemoryAdapter | None = None
    matrix_adapter: MemoryAdapter | None = None
    # Where the operators are told what is wrong.
    operators: tuple[ChannelAddress, ...] = ()
    # Every how many seconds it looks for a new backfill; None: as the daemon.
    backfills_every: float | None = None

    def channels(self, name: str = "help") -> tuple[ChannelRef, ChannelRef]:
        """The Discord channel and the Matrix room of a pair."""
        return self.discord.channel(name), self.matrix.channel(name)

    @asynccontextmanager
    async def relay(self, prepare: Callable[[MemoryAdapter, MemoryAdapter], None] | None = None) -> AsyncIterator[Core]:
        """One life of the relay; it ends without a good-bye, as after a kill."""
        discord = MarkingAdapter(self.discord, replays=False)
        matrix = MemoryAdapter(self.matrix, replays=True)
        self.discord_adapter, self.matrix_adapter = discord, matrix
        if prepare is not None:
            prepare(discord, matrix)
        core = self.core = assemble(
            store=self.store,
            pairs=self.pairs,
            adapters={Platform.DISCORD: discord, Platform.MATRIX: matrix},
            files=self.files,
            links=self.links,
            clock=self.clock,
            rng=random.Random(self.seed),
            operators=self.operators,
        )
        if self.backfills_every is not None:
            core.backfills.look_every = self.backfills_every
        await core.inbox.begin()
        await core.moderation.declare(self.pairs)
        for adapter in (discord, matrix):
            await adapter.watch(core.pairs.watched(adapter.platform), secondary=core.pairs.secondary(adapter.platform))
        tasks = [
            asyncio.create_task(core.dispatcher.run()),
            asyncio.create_task(core.forgetter.run()),
            asyncio.create_task(core.moderation.bans.run()),
            asyncio.create_task(core.operators.run()),
            asyncio.create_task(core.backfills.run()),
            asyncio.create_task(discord.tell_of_marks()),
            asyncio.create_task(discord.run(core.inbox)),
            asyncio.create_task(matrix.run(core.inbox)),
        ]
        try:
            await until(lambda: all(adapter.health().state == "ready" for adapter in (discord, matrix)), tasks)
            yield core
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def shown(self, channel: ChannelRef) -> list[Message]:
        """What a reader of the channel sees."""
        return (self.discord if channel.platform is Platform.DISCORD else self.matrix).shown(channel)

    def words(self, channel: ChannelRef) -> list[str]:
        """The words that a reader of the channel sees, message by message."""
        return [message.text for message in self.shown(channel)]

    async def shows(self, channel: ChannelRef, *words: str) -> None:
        """Wait until the channel shows exactly these messages; fails with what it shows instead."""
        try:
            await until(lambda: self.words(channel) == list(words))
        except TimeoutError:
            assert self.words(channel) == list(words)

    async def quiet(self) -> None:
        """Wait until nothing waits in the outbox, while the relay runs; `TimeoutError` after a while."""
        async with asyncio.timeout(PATIENCE):
            while True:
                async with self.store.read() as uow:
                    if not await uow.outbox.lanes():
                        return
                await asyncio.sleep(0.002)


async def until(condition: Callable[[], bool], tasks: list["asyncio.Task[None]"] | None = None) -> None:
    """Wait for a condition; `TimeoutError` after a while, or the error of a task that ended."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            for task in tasks or ():
                if task.done():
                    task.result()
            await asyncio.sleep(0.002)


@asynccontextmanager
async def world(folder: Path, *pairs: Pair) -> AsyncIterator[World]:
    """A world with a store in `folder`."""
    store = await open_store(new_store(folder))
    clock = SystemClock()
    try:
        yield World(
            store,
            pairs or (pair(),),
            MemoryPlatform(Platform.DISCORD, clock.now),
            MemoryPlatform(Platform.MATRIX, clock.now),
        )
    finally:
        await store.close()


async def redeclare(core: Core, *pairs: Pair) -> None:
    """The operator saves the file."""
    await core.moderation.declare(pairs)
    core.inbox.declare(pairs)
