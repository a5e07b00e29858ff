"""Both sides go on while the daemon is away. The long ones: `python -m tests.chaos.absence`."""

import random
from pathlib import Path

import pytest

from relay.demo.homeserver import Homeserver
from relay.sandbox.rate_limits import Limits
from tests.support.outage import converge, live_without_the_relay, start_and_kill
from tests.support.stack import stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_what_happened_meanwhile_is_there_once_in_order(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver, limits=Limits(factor=0)) as place:
        await place.daemon.start()
        await live_without_the_relay(place, "help", messages=10, edits=0, deletions=0, seed=1)
        await place.until_discord("help", lambda words: len(words) == 20)
        await place.until_matrix("help", lambda words: len(words) == 20)
        assert await place.daemon.stop() == 0
        expected = await live_without_the_relay(place, "help", messages=120, edits=15, deletions=8, seed=2)
        await start_and_kill(place, "help", 4, random.Random(3), step=40, total=len(expected.on_matrix))
        await converge(place, "help", expected)
