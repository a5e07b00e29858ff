"""What goes wrong with one delivery: a webhook that is gone, a permission that is lost, a dead letter."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from relay.demo.homeserver import Homeserver
from tests.support.stack import FullStack, eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def place(homeserver: Homeserver, tmp_path: Path) -> AsyncIterator[FullStack]:
    async with stack(tmp_path, homeserver, ("help", "other")) as made:
        await made.daemon.start()
        yield made


async def until_problem(place: FullStack, *words: str) -> None:
    """Wait until the status page says `words`, and `relay status` says them of the pair `help`."""

    def told(text: str) -> bool:
        return all(word in text for word in words)

    await eventually(place.daemon.page, told, what=place.daemon.log)
    # What `relay status` reads is written down a moment later.
    await place.until_status(lambda pairs: told(pairs["help"]["problem"] or ""))


async def until_well(place: FullStack) -> None:
    """Wait until nothing waits and no pair has a problem."""

    def well(pair: dict[str, Any]) -> bool:
        return pair["problem"] is None and not pair["to_discord"]["backlog"] + pair["to_matrix"]["backlog"]

    await place.until_status(lambda pairs: all(map(well, pairs.values())))


async def test_a_webhook_that_somebody_deletes_is_made_again(place: FullStack) -> None:
    first = await place.tell("help", "first")
    await place.until_discord("help", lambda words: words == ["first"])
    (hook,) = place.control.webhooks(place.channels["help"])
    place.control.delete_webhook(hook["id"])
    await place.tell("help", "second")
    await place.until_discord("help", lambda words: words == ["first", "second"])
    (again,) = place.control.webhooks(place.channels["help"])
    assert again["id"] != hook["id"]
    # Nobody can edit what a deleted webhook has posted: the copy is posted anew.
    await place.mia.edit(place.rooms["help"], first, "first, corrected")
    await place.until_discord("help", lambda words: words == ["second", "first, corrected"])
    assert all(message["author"]["username"] == "Mia" for message in place.on_discord("help"))


async def test_a_lost_permission_on_discord_pauses_the_lane(place: FullStack) -> None:
    channel = place.channels["help"]
    await place.tell("help", "before")
    await place.until_discord("help", lambda words: words == ["before"])
    place.control.set_channel_permissions(channel, place.bot, deny=["MANAGE_WEBHOOKS", "SEND_MESSAGES"])
    (hook,) = place.control.webhooks(channel)
    place.control.delete_webhook(hook["id"])
    for word in ("one", "two"):
        await place.tell("help", word)
    await until_problem(place, "The bot may not write in #help", "Send Messages")
    await place.tell("other", "unimpeded")
    await place.until_discord("other", lambda words: words == ["unimpeded"])
    await place.daemon.until_ready()
    place.control.set_channel_permissions(channel, place.bot)
    await place.until_discord("help", lambda words: words == ["before", "one", "two"])
    await until_well(place)


async def test_without_webhooks_the_bot_speaks(place: FullStack) -> None:
    channel = place.channels["help"]
    place.control.set_channel_permissions(channel, place.bot, deny=["MANAGE_WEBHOOKS"])
    event = await place.tell("help", "hello")
    await place.until_discord("help", lambda words: words == ["**Mia**: hello"])
    await place.mia.edit(place.rooms["help"], event, "goodbye")
    await place.until_discord("help", lambda words: words == ["**Mia**: goodbye"])
    place.control.set_channel_permissions(channel, place.bot)
    await place.tell("help", "again")
    await place.until_discord("help", lambda words: len(words) == 2)


async def test_a_lost_power_level_on_matrix_pauses_the_lane(place: FullStack) -> None:
    room = place.rooms["help"]
    place.say("help", "before")
    await place.until_matrix("help", lambda words: words == ["before"])
    await place.mia.set_power(room, events_default=50)
    for word in ("one", "two"):
        place.say("help", word)
    await until_problem(place, "may not write in", "give it the power level 50 there")
    place.say("other", "unimpeded")
    await place.until_matrix("other", lambda words: words == ["unimpeded"])
    await place.mia.set_power(room, events_default=0)
    await place.until_matrix("help", lambda words: words == ["before", "one", "two"])
    await until_well(place)


async def test_dead_letters_are_listed_shown_retried_and_discarded(place: FullStack) -> None:
    # The operators are told of them, in a channel and a room that belong to no pair.
    ops = place.control.create_channel(place.guild, "ops")["id"]
    ops_room = await place.mia.create_room("ops", invite=[place.relay_user])
    place.write_config(extra=f'[operators]\ndiscord_channel = {ops}\nmatrix_room = "{ops_room}"')
    await place.daemon.stop()
    await place.daemon.start()

    async def told() -> list[list[str]]:
        messages = await place.mia.messages(ops_room)
        return [[one["content"] for one in place.control.messages(ops)], [one.body for one in messages]]

    rejected = {"method": "POST", "path": "^/webhooks/", "status": 400, "code": 200000, "message": "Blocked by AutoMod"}
    place.control.add_fault("status", count=2, **rejected)
    first = await place.tell("help", "first, of great beauty")
    second = await place.tell("help", "second")
    await place.tell("help", "third")
    await place.until_discord("help", lambda words: words == ["third"])
    await place.until_metric("relay_dead_letters", 2, pair="help", direction="to_discord")

    status, printed = await place.daemon.relay("dead", "list", "--json")
    assert status == 0
    letters = json.loads(printed)
    assert [(letter["pair"], letter["direction"], letter["author"]) for letter in letters] == [
        ("help", "to_discord", "Mia")
    ] * 2
    assert all("Blocked by AutoMod" in letter["reason"] for letter in letters)
    assert "beauty" not in printed
    one, two = (str(letter["id"]) for letter in letters)
    status, printed = await place.daemon.relay("dead", "show", one)
    assert status == 0
    assert "first, of great beauty" in printed
    assert "beauty" not in place.daemon.log(10_000)

    # The author can see that it did not cross.
    async def reactions() -> list[str]:
        events = await place.mia.events(place.rooms["help"])
        found = [event["content"].get("m.relates_to", {}) for event in events if event["type"] == "m.reaction"]
        return [relation["event_id"] for relation in found if relation]

    dead = ["2 messages of help did not cross, and the relay does not try again by itself: see relay dead list."]
    # The first may have been told before the second was there.
    one_dead = [dead[0].replace("2 messages", "1 message")]
    seen = await eventually(told, all, what=place.daemon.log)
    assert all(words in (dead, one_dead) for words in seen)

    async def logged() -> set[str | None]:
        lines = [line for line in place.daemon.log(10_000).splitlines() if '"operators told"' in line]
        return {json.loads(line).get("channel_name") for line in lines}

    await eventually(logged, lambda names: names == {"#ops on Sandbox", "ops"}, what=place.daemon.log)
    await eventually(reactions, lambda marked: sorted(marked) == sorted((first, second)), what=place.daemon.log)

    assert await place.daemon.relay("dead", "retry", one) == (0, f"{one}: queued again\n")
    await place.until_discord("help", lambda words: words == ["third", "first, of great beauty"])
    assert await place.daemon.relay("dead", "discard", two) == (0, f"{two}: discarded\n")
    status, printed = await place.daemon.relay("dead", "retry", two)
    assert status == 1
    assert f"there is no dead letter {two}" in printed
    assert await place.daemon.relay("dead", "list") == (0, "There are no dead letters.\n")
    await until_well(place)
    over = "help has no messages left that did not cross."
    await eventually(told, lambda now: now == [[*words, over] for words in seen], what=place.daemon.log)
