"""More is written on Matrix than Discord takes from a webhook by default: five messages in two seconds."""

import re
from pathlib import Path

import pytest

from relay.demo.homeserver import Homeserver
from tests.support.stack import eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

COUNT = 120


async def test_a_rush_crosses_together_and_in_order(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver) as place:
        place.pair_settings["help"] = 'batch_when_behind = "2s"'
        place.write_config()
        await place.daemon.start()
        # Nothing is taken until all is written: else a slow machine would write no faster than Discord takes it.
        place.control.add_fault("rate_limit", method="POST", path="^/webhooks/", count=None, seconds=1.0)
        for number in range(COUNT):
            await place.tell("help", f"number <{number}>")
        place.control.clear_faults()

        async def numbers() -> list[int]:
            return [
                int(found) for words in await place.discord_words("help") for found in re.findall(r"<(\d+)>", words)
            ]

        crossed = await eventually(numbers, lambda seen: len(seen) >= COUNT, what=place.daemon.log)
        assert crossed == list(range(COUNT))
        assert len(place.on_discord("help")) < COUNT / 3
