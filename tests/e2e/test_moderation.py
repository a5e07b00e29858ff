"""Moderators of one side, and what was written on the other."""

from functools import partial
from pathlib import Path

import pytest

from relay.demo.homeserver import Homeserver
from tests.support.stack import FullStack, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


def contains(text: str, words: list[str]) -> bool:
    return text in words


def lacks(text: str, words: list[str]) -> bool:
    return text not in words


async def copy_on_matrix(place: FullStack, pair: str, text: str) -> str:
    await place.until_matrix(pair, partial(contains, text))
    shown = await place.on_matrix(pair)
    return str(next(message.event_id for message in shown if message.body.endswith(text)))


async def test_a_removed_copy_takes_its_original_along_where_the_pair_says_so(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with stack(tmp_path, homeserver, ("help", "kept")) as place:
        place.pair_settings["help"] = "moderation.deletions = true"
        for pair in place.rooms:
            await place.mia.set_power(place.rooms[pair], users={place.relay_user: 50})
        place.write_config()
        await place.daemon.start()
        for pair in place.rooms:
            place.say(pair, "rude on Discord")
            event = await copy_on_matrix(place, pair, "rude on Discord")
            await place.mia.redact(place.rooms[pair], event)
            await place.tell(pair, "rude on Matrix")
            await place.until_discord(pair, partial(contains, "rude on Matrix"))
            copy = next(message for message in place.on_discord(pair) if message["content"] == "rude on Matrix")
            place.control.delete(place.channels[pair], copy["id"])
        await place.until_discord("help", partial(lacks, "rude on Discord"))
        await place.until_matrix("help", partial(lacks, "rude on Matrix"))
        # By default what was written stays where it was written.
        assert "rude on Discord" in await place.discord_words("kept")
        assert "rude on Matrix" in await place.matrix_words("kept")

        # What the relay removes itself, when an edit makes a message shorter, takes nothing along.
        long = place.say("help", "word " * 390 + "*" * 20)
        event = await place.tell("help", "long " * 500)
        await place.until_discord("help", lambda words: sum("long long" in text for text in words) > 1)
        await place.mia.edit(place.rooms["help"], event, "short")
        await place.until_discord("help", lambda words: "short" in words and not any("long long" in t for t in words))
        await place.mia.text(place.rooms["help"], "the end")
        await place.until_discord("help", partial(contains, "the end"))
        assert "short" in await place.matrix_words("help")
        assert any(message["id"] == long for message in place.on_discord("help"))


async def test_where_the_bot_may_not_remove_it_it_stays_and_is_counted(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver) as place:
        place.pair_settings["help"] = "moderation.deletions = true"
        place.write_config()
        await place.daemon.start()
        await place.tell("help", "rude on Matrix")
        await place.until_discord("help", partial(contains, "rude on Matrix"))
        place.control.delete(place.channels["help"], place.on_discord("help")[0]["id"])
        place.say("help", "after that")
        await place.until_matrix("help", partial(contains, "after that"))
        await place.until_metric("relay_dropped_total", 1, pair="help", feature="moderation")
        assert "rude on Matrix" in await place.matrix_words("help")
