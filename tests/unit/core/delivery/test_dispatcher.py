"""The dispatcher wakes lanes when a platform is back."""

import asyncio

from relay.core.ports import SideHealth
from relay.domain.ids import Platform
from relay.errors import Transient
from tests.support.world import World, until


async def test_nothing_waits_for_its_next_try_once_its_platform_is_back(bridge: World) -> None:
    discord, room = bridge.channels()
    tries: list[str] = []
    seen: list[str] = []

    async def before(call: str) -> None:
        if call == "send" and len(tries) < 9:
            tries.append(call)
            raise Transient("nobody answers")

    async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)) as core:
        assert bridge.matrix_adapter is not None
        ask = bridge.matrix_adapter.health

        def health() -> SideHealth:
            seen.append(ask().state)
            return ask()

        core.status.health = {**core.status.health, Platform.MATRIX: health}
        watching = asyncio.create_task(core.dispatcher.watch())
        bridge.discord.say(discord, "mira", "one")
        while len(tries) < 9:  # by then it waits for half a minute at least
            core.dispatcher.retry_now()
            await asyncio.sleep(0)
        seen.clear()
        bridge.matrix_adapter.state = SideHealth("connecting")
        await until(lambda: "connecting" in seen)
        bridge.matrix_adapter.state = SideHealth("ready")
        await bridge.shows(room, "one")
        watching.cancel()
