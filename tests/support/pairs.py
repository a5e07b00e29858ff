"""Pairs that change while the relay runs: pairs by name, declaring them again, and what waits in their lanes."""

import asyncio

from relay.domain.ids import ChannelAddress, Platform
from relay.domain.pair import LaneKey, Pair, PairPolicy
from relay.errors import Transient
from tests.support.memory_adapter import MemoryAdapter
from tests.support.patience import PATIENCE
from tests.support.world import World


def joined(name: str, discord: str, matrix: str, *destinations: Platform) -> Pair:
    """A pair called `name` of a channel and a room."""
    sides = (ChannelAddress(Platform.DISCORD, discord), ChannelAddress(Platform.MATRIX, f"#{matrix}"))
    return Pair(name, sides, frozenset(destinations or Platform), PairPolicy())


STAFF, PUBLIC = joined("staff", "staff", "staff"), joined("public", "public", "public")


class Gate:
    """Sends to Matrix fail until it is opened."""

    def __init__(self) -> None:
        self.closed = True
        self.tried = 0

    async def before(self, call: str) -> None:
        if call in ("send", "mark") and self.closed:
            self.tried += 1
            raise Transient("the homeserver is down")

    def prepare(self, _: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before = self.before


async def declare(bridge: World, *pairs: Pair) -> None:
    """As the daemon does after SIGHUP."""
    bridge.pairs = pairs
    assert bridge.core is not None
    bridge.core.inbox.declare(pairs)
    for adapter in (bridge.discord_adapter, bridge.matrix_adapter):
        assert adapter is not None
        await adapter.watch(bridge.core.pairs.watched(adapter.platform))
    await bridge.core.inbox.keep_names()


async def depth(bridge: World, key: LaneKey) -> int:
    """How much waits in a lane."""
    async with bridge.store.read() as uow:
        depths = await uow.outbox.depths()
    return depths[key].waiting if key in depths else 0


async def waits(bridge: World, key: LaneKey, count: int) -> None:
    """Until so much waits in a lane."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if await depth(bridge, key) == count:
                return
            await asyncio.sleep(0.002)
