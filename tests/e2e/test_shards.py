"""A bot in so many servers that Discord divides them: one of three connections is lost, and the relay is killed."""

from functools import partial
from pathlib import Path

import pytest

from relay.demo.homeserver import Homeserver
from tests.support.stack import FullStack, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOTAL = 3


def divide(place: FullStack) -> None:
    """Give each pair a server in a shard of its own."""
    control = place.control
    for number, pair in enumerate(place.channels):
        while True:
            guild = control.create_guild(f"Guild {pair}")["id"]
            if (int(guild) >> 22) % TOTAL == number:
                break
        control.invite(place.bot, guild)
        control.join(guild, place.people["Ada"])
        place.channels[pair] = control.create_channel(guild, pair)["id"]
    place.write_config()
    control.set_limits(shards=TOTAL, max_concurrency=TOTAL, guilds_per_shard=2)


def contains(wanted: str, words: list[str]) -> bool:
    return wanted in words


async def test_each_shard_is_a_connection_of_its_own(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver, ["a", "b", "c"]) as place:
        divide(place)
        await place.daemon.start()
        expected: list[str] = []

        async def talk(word: str) -> None:
            for pair in place.channels:
                place.say(pair, f"{word} from Discord")
                await place.tell(pair, f"{word} from Matrix")
            expected.append(word)

        async def all_is_there() -> None:
            """Each once, in order, on both sides."""
            for pair in place.channels:
                for side, look in (("Discord", place.until_matrix), ("Matrix", place.until_discord)):
                    wanted = [f"{word} from {side}" for word in expected]
                    seen = await look(pair, partial(contains, wanted[-1]))
                    assert [words for words in seen if words.endswith(side)] == wanted

        await talk("first")
        await all_is_there()

        place.sandbox.gateway.refuse = 1
        assert place.control.invalidate_sessions(shard=1) == 1
        await talk("while one session is lost")
        await all_is_there()
        history = place.sandbox.gateway.history
        await place.daemon.until_ready()
        assert [entry["shard"] for entry in history if entry["what"] == "identified"][TOTAL:] == [[1, TOTAL]]

        assert place.control.abort_gateway(shard=2) == 1
        await talk("while one connection is lost")
        await all_is_there()
        assert [entry["shard"] for entry in history if entry["what"] == "resumed"] == [2]

        await place.daemon.kill()
        await talk("while nobody is there")
        await place.daemon.start()
        await all_is_there()
        assert place.leaked() == []
