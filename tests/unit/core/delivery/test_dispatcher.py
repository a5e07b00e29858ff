"""The dispatcher wakes lanes when a platform is back."""

import asyncio

from relay.core.ports import SideHealth
from relay.errors import Transient
from tests.support.world import World


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
