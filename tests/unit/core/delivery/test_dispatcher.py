"""The dispatcher wakes lanes when a platform is back, and keeps those that have to be quick."""

import asyncio
import gc
import tracemalloc
from pathlib import Path

from relay.core.ports import SideHealth
from relay.domain.commands import PostNotice
from relay.domain.ids import Platform
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.errors import Transient
from tests.support.world import World, lane, pair, until, world


async def test_nothing_waits_for_its_next_try_once_its_platform_is_back(bridge: World) -> None:
    discord, room = bridge.channels()
    tries: list[str] = []

    async def before(call: str) -> None:
        if call == "send" and len(tries) < 9:
            tries.append(call)
            raise Transient("nobody answers")

    async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)) as core:
        assert bridge.matrix_adapter is not None
        bridge.discord.say(discord, "mira", "one")
        while len(tries) < 9:  # by then it waits for half a minute at least
            core.dispatcher.retry_now()
            await asyncio.sleep(0)
        for state in ("connecting", "ready"):
            bridge.matrix_adapter.state = SideHealth(state)
            core.inbox.health_changed()
        await bridge.shows(room, "one")


async def test_a_channel_s_lane_to_itself_ends_while_nothing_waits_in_it(bridge: World) -> None:
    discord, room = bridge.channels()
    async with bridge.relay() as core:
        lanes, itself = core.dispatcher._lanes, LaneKey.within(room)
        for words in (["one"], ["one", "two"]):
            async with bridge.store.write() as uow:
                await uow.outbox.append(itself, PostNotice(RichText.plain(words[-1])), bridge.discord.now())
            core.dispatcher.wake(itself)
            await bridge.shows(room, *words)
            await bridge.quiet()
            await core.dispatcher.check_outbox()
            await until(lambda: itself not in lanes)
        bridge.discord.say(discord, "ann", "three")
        await bridge.shows(room, "one", "two", "three")
        await bridge.quiet()
        await core.dispatcher.check_outbox()
        assert not lanes[lane(Platform.MATRIX)]._unused, "it takes the next message without asking the store"


async def test_an_idle_pair_takes_few_bytes(tmp_path: Path) -> None:
    number = 80
    async with world(tmp_path, *(pair(f"{each}") for each in range(number))) as bridge:
        for each in range(number):
            bridge.channels(f"{each}")
        tracemalloc.start()
        try:
            async with bridge.relay() as core:
                lanes = [one for it in core.pairs.pairs for one in core.pairs.lanes(it)]
                await until(lambda: all(map(core.pairs.is_open, lanes)))
                assert not core.dispatcher._lanes, "nothing was said in any"
                for one in lanes:
                    core.dispatcher.wake(one)
                await until(lambda: len(core.dispatcher._lanes) >= 2 * number)
                await until(lambda: all(one._complete for one in core.dispatcher._lanes.values()))
                await core.dispatcher.check_outbox()
                await until(lambda: len(core.dispatcher._lanes) == 2 * number)
                gc.collect()
                held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # 9 KiB, and what any number of pairs takes. It was 26.
    assert held / number < 18 * 1024
