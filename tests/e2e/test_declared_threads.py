"""A thread or a forum's post as one side of a pair: a channel of its own."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from relay.demo.homeserver import Homeserver
from tests.support.stack import FullStack, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


def contains(text: str, words: list[str]) -> bool:
    return text in words


async def until_problem(place: FullStack, pair: str, words: str) -> None:
    """Wait until `relay status` says `words` of a pair's problem."""
    await place.until_status(lambda pairs: words in (pairs[pair]["problem"] or ""))


async def crosses(place: FullStack, pair: str, number: int = 0) -> None:
    """What is said in a pair from now on crosses both ways, under the names of those who said it."""
    place.say(pair, f"to {pair} {number}")
    await place.until_matrix(pair, lambda words: f"to {pair} {number}" in words)
    await place.tell(pair, f"from {pair} {number}")
    await place.until_discord(pair, lambda words: f"from {pair} {number}" in words)
    copy = next(message for message in place.on_discord(pair) if message["content"] == f"from {pair} {number}")
    assert copy["author"]["username"] == "Mia"


def archived(place: FullStack, thread: str) -> bool:
    found: dict[str, Any] = next(one for one in place.control.channels() if one["id"] == thread)
    return bool(found["thread_metadata"]["archived"])


async def test_threads_and_posts_are_mirrored_like_channels(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver, ("help", "thread", "post", "private", "asleep")) as place:
        ada = place.people["Ada"]
        forum = place.control.create_channel(place.guild, "ideas", type=15)["id"]
        place.channels["thread"] = place.control.open_thread(place.channels["help"], ada, "a thread")["id"]
        place.channels["post"] = place.control.open_post(forum, ada, "an idea", "What about this?")["id"]
        private = place.control.open_thread(place.channels["help"], ada, "among us", private=True)["id"]
        place.channels["private"] = private
        place.control.join_thread(private, place.bot)
        place.channels["asleep"] = place.control.open_thread(place.channels["help"], ada, "long ago")["id"]
        place.say("asleep", "said long ago")
        place.control.archive_thread(place.channels["asleep"])
        place.write_config()
        await place.daemon.start()
        for pair in place.channels:
            await crosses(place, pair)
        # A thread has no webhook of its own, and the parent's pair says nothing of a thread that has a pair.
        assert len(place.control.webhooks(place.channels["help"])) == 1
        assert len(place.control.webhooks(forum)) == 1
        for pair in place.channels:
            assert not any("Threads do not cross" in text for text in await place.discord_words(pair))
            assert not any("thread goes on" in text for text in await place.matrix_words(pair))
        assert await place.matrix_words("help") == ["to help 0", "from help 0"]
        assert "said long ago" not in await place.matrix_words("asleep")
        assert await place.daemon.metric("relay_dropped_total", pair="help", feature="thread") == 0

        # Edits and deletions, also where the thread has gone to sleep since.
        event = await place.tell("thread", "to be mended")
        gone = await place.tell("thread", "to be removed")
        await place.until_discord("thread", lambda words: "to be removed" in words)
        place.control.archive_thread(place.channels["thread"])
        await place.mia.edit(place.rooms["thread"], event, "mended")
        await place.until_discord("thread", lambda words: "mended" in words)
        assert not archived(place, place.channels["thread"])
        place.control.archive_thread(place.channels["thread"])
        await place.mia.redact(place.rooms["thread"], gone)
        await place.until_discord("thread", lambda words: "to be removed" not in words)

        # What is said while the relay is away.
        await place.daemon.stop()
        for pair in ("thread", "post", "private", "asleep"):
            place.say(pair, f"meanwhile in {pair}")
            await place.tell(pair, f"meanwhile to {pair}")
        place.control.archive_thread(place.channels["asleep"])
        await place.daemon.start()
        for pair in ("thread", "post", "private", "asleep"):
            await place.until_matrix(pair, partial(contains, f"meanwhile in {pair}"))
            await place.until_discord(pair, partial(contains, f"meanwhile to {pair}"))
        await crosses(place, "help", 2)
        assert not any("meanwhile" in text for text in await place.matrix_words("help"))


async def test_a_locked_and_a_deleted_thread_say_so(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver, ("help", "locked", "deleted", "hidden", "fine")) as place:
        ada = place.people["Ada"]
        for pair in ("locked", "deleted", "fine"):
            place.channels[pair] = place.control.open_thread(place.channels["help"], ada, pair)["id"]
        hidden = place.control.open_thread(place.channels["help"], ada, "hidden", private=True)["id"]
        place.channels["hidden"] = hidden
        place.write_config()
        await place.daemon.start()
        await until_problem(place, "hidden", "private")
        for pair in ("locked", "deleted", "fine"):
            await crosses(place, pair)
        place.control.archive_thread(place.channels["locked"], locked=True)
        place.control.delete_channel(place.channels["deleted"])
        place.control.join_thread(hidden, place.bot)
        await until_problem(place, "locked", "Manage Threads")
        await until_problem(place, "deleted", "There is no #deleted")
        await place.until_status(lambda pairs: pairs["hidden"]["problem"] is None)
        await place.tell("locked", "said to the locked one")
        await crosses(place, "hidden", 1)
        await crosses(place, "fine", 1)
        place.control.archive_thread(place.channels["locked"], archived=False, locked=False)
        await place.until_discord("locked", lambda words: "said to the locked one" in words)
        await crosses(place, "locked", 1)


async def test_a_webhook_that_is_moved_away_from_a_thread_s_channel(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver, ("help", "thread")) as place:
        place.channels["thread"] = place.control.open_thread(place.channels["help"], place.people["Ada"], "one")["id"]
        place.write_config()
        await place.daemon.start()
        await crosses(place, "thread")
        event = await place.tell("thread", "to be mended")
        await place.until_discord("thread", lambda words: "to be mended" in words)
        staff = place.control.create_channel(place.guild, "staff")["id"]
        place.control.add_gateway_fault("drop", event="WEBHOOKS_UPDATE", count=5)
        place.control.move_webhook(place.control.webhooks(place.channels["help"])[0]["id"], staff)
        await crosses(place, "thread", 1)
        await place.mia.edit(place.rooms["thread"], event, "mended")
        await place.until_discord("thread", lambda words: "mended" in words and "to be mended" not in words)
        assert place.control.messages(staff) == []
