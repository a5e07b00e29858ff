"""Threads that were written in, and archived, while the daemon was away: read where they cross, else not asked for."""

from pathlib import Path

import pytest

from relay.demo.homeserver import Homeserver
from tests.support.stack import FullStack, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGES, LISTS = "GET /channels/{channel_id}/messages", "GET /channels/{channel_id}/threads/archived/public"


async def start(place: FullStack, policy: str) -> dict[str, int]:
    """Start the daemon with a policy; what it asks of its channel until it is ready."""
    place.pair_settings["help"] = f'thread_messages = "{policy}"'
    place.write_config()
    asked = place.sandbox.api.statistics.requests
    before = dict(asked)
    await place.daemon.start()
    return {request: asked.get(request, 0) - before.get(request, 0) for request in (PAGES, LISTS)}


def archived_thread(place: FullStack, words: str) -> tuple[str, str]:
    """A thread that is over, and the message in it."""
    ada = place.people["Ada"]
    thread = place.control.open_thread(place.channels["help"], ada, "aside")["id"]
    message = place.control.say(thread, ada, words)["id"]
    place.control.archive_thread(thread)
    return thread, message


@pytest.mark.parametrize("policy", ["drop", "flatten"])
async def test_a_start_lists_archived_threads_only_where_they_cross(
    homeserver: Homeserver, tmp_path: Path, policy: str
) -> None:
    async with stack(tmp_path, homeserver) as place:
        channel = place.channels["help"]
        await start(place, policy)
        mended, removed = (place.say("help", words) for words in ("to be mended", "to be removed"))
        await place.until_matrix("help", lambda words: words == ["to be mended", "to be removed"])
        await place.daemon.stop()
        asked = await start(place, policy)
        assert asked == {PAGES: 1, LISTS: policy == "flatten"}
        await place.daemon.stop()
        place.control.edit(channel, mended, content="mended")
        archived_thread(place, "in a thread")
        await start(place, policy)
        place.say("help", "afterwards")
        words = await place.until_matrix("help", lambda words: "afterwards" in words and "mended" in words)
        assert ("in a thread" in words) == (policy == "flatten")
        assert not any("thread goes on" in text for text in words)
        await place.daemon.stop()
        place.control.delete(channel, removed)
        await start(place, policy)
        await place.until_matrix("help", lambda words: "to be removed" not in words)


async def test_what_crossed_from_a_thread_is_removed_although_threads_do_not_cross_any_more(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with stack(tmp_path, homeserver) as place:
        await start(place, "flatten")
        place.say("help", "kept")
        thread, removed = archived_thread(place, "in a thread")
        archived_thread(place, "in another")
        await place.until_matrix("help", lambda words: {"kept", "in a thread", "in another"} <= set(words))
        await place.daemon.stop()
        place.control.delete(thread, removed)
        await start(place, "drop")
        place.say("help", "afterwards")
        words = await place.until_matrix("help", lambda words: "afterwards" in words)
        assert {"kept", "in another"} <= set(words)
        assert "in a thread" not in words
