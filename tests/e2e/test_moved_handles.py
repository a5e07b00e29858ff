"""What the relay knows of a platform changes under it: a webhook is moved, an alias names another room."""

from functools import partial
from pathlib import Path

import pytest

from relay.sandbox.homeserver import Homeserver
from tests.support.town import Town, eventually, town

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def until_logged(place: Town, words: str) -> None:
    """Wait for a line of the daemon's log."""

    async def lines() -> list[str]:
        return [line for line in place.daemon.log(10_000).splitlines() if words in line]

    await eventually(lines, bool, what=place.daemon.log)


def contains(text: str, words: list[str]) -> bool:
    return text in words


async def started(place: Town) -> str:
    """A daemon that has posted through its webhook and heard all that Discord says of it; the webhook's ID."""
    await place.daemon.start()
    for text in ("one", "two"):
        await place.tell("help", text)
        await place.until_discord("help", partial(contains, text))
        place.say("help", f"{text} arrived")
        await place.until_matrix("help", partial(contains, f"{text} arrived"))
    return str(place.control.webhooks(place.channels["help"])[0]["id"])


@pytest.mark.parametrize("announced", [True, False])
async def test_a_webhook_that_a_moderator_moves_posts_nothing_elsewhere(
    homeserver: Homeserver, tmp_path: Path, announced: bool
) -> None:
    async with town(tmp_path, homeserver) as place:
        hook = await started(place)
        staff = place.control.create_channel(place.guild, "staff")["id"]
        if not announced:
            place.control.add_gateway_fault("drop", event="WEBHOOKS_UPDATE", count=5)
        place.control.move_webhook(hook, staff)
        await place.tell("help", "three")
        shown = await place.until_discord("help", lambda words: "three" in words)
        assert shown == ["one", "one arrived", "two", "two arrived", "three"]
        assert place.control.messages(staff) == []
        if not announced:
            await until_logged(place, "webhook moved by somebody")
            await until_logged(place, "message taken back from the wrong channel")


async def test_a_kill_between_a_stray_message_and_its_removal_leaves_nothing_behind(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with town(tmp_path, homeserver, ("help", "staff")) as place:
        hook = await started(place)
        # The same words by the same person, where they belong.
        await place.tell("staff", "three")
        await place.until_discord("staff", lambda words: words == ["three"])
        place.control.add_gateway_fault("drop", event="WEBHOOKS_UPDATE", count=5)
        place.control.move_webhook(hook, place.channels["staff"])
        place.control.add_fault("hang", method="DELETE", path="/webhooks/", when="before", seconds=600)
        await place.tell("help", "three")
        await place.until_discord("staff", lambda words: words == ["three", "three"])
        await place.daemon.kill()
        place.control.clear_faults()

        await place.daemon.start()
        await place.until_discord("help", lambda words: "three" in words)
        await place.tell("staff", "four")
        shown = await place.until_discord("staff", lambda words: "four" in words)
        assert shown == ["three", "four"]
        assert (await place.discord_words("help"))[-1] == "three"
        assert not any(message["webhook_id"] == hook for message in place.on_discord("staff"))
        assert await place.matrix_words("staff") == ["three", "four"]


async def test_a_copy_whose_webhook_was_moved_is_edited_and_removed(homeserver: Homeserver, tmp_path: Path) -> None:
    async with town(tmp_path, homeserver) as place:
        hook = await started(place)
        first, second = [await place.tell("help", text) for text in ("to be mended", "to be removed")]
        await place.until_discord("help", lambda words: "to be removed" in words)
        place.control.move_webhook(hook, place.control.create_channel(place.guild, "staff")["id"])
        await place.mia.edit(place.rooms["help"], first, "mended")
        await place.mia.redact(place.rooms["help"], second)
        old = {"to be mended", "to be removed"}
        await place.until_discord("help", lambda words: "mended" in words and not old & {*words})
