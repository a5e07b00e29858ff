"""Mentions and links through the real daemon: who is called, who is not, and where a link leads."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from relay.demo.homeserver import Homeserver
from tests.support.stack import FullStack, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOBODY = {"everyone": False, "users": [], "roles": []}


@pytest_asyncio.fixture(loop_scope="session")
async def two(homeserver: Homeserver, tmp_path: Path) -> AsyncIterator[FullStack]:
    """The full stack with two pairs, one of which lets people call everybody."""
    async with stack(tmp_path, homeserver, ("help", "general")) as place:
        place.pair_settings["general"] = "allow_broadcast = true"
        place.write_config()
        await place.daemon.start()
        yield place


async def copy_on_matrix(place: FullStack, pair: str, words: str) -> dict[str, Any]:
    await place.until_matrix(pair, lambda seen: words in seen)
    shown = await place.on_matrix(pair)
    return next(message.content for message in shown if message.body.endswith(words))


async def copy_on_discord(place: FullStack, pair: str, words: str) -> dict[str, Any]:
    await place.until_discord(pair, lambda seen: words in seen)
    return next(message for message in place.on_discord(pair) if message["content"] == words)


@pytest.mark.crosses("people", "to_matrix", "to_discord")
async def test_people_are_called_by_their_name(two: FullStack) -> None:
    ada, mia = two.people["Ada"], two.mia.user_id
    two.say("help", "@Mia are you there?")
    content = await copy_on_matrix(two, "help", "Mia are you there?")
    assert content["m.mentions"] == {"user_ids": [mia]}
    assert f'<a href="https://matrix.to/#/{mia}">Mia</a>' in content["formatted_body"]
    await two.tell("help", "yes, @Ada, I am")
    copy = await copy_on_discord(two, "help", f"yes, <@{ada}>, I am")
    assert copy["pinged"] == NOBODY | {"users": [ada]}
    two.say("help", f"hello <@{two.people['Ben']}>")
    assert (await copy_on_matrix(two, "help", "hello @Ben"))["m.mentions"] == {}
    await two.tell("help", "and @Nobody and ada@example.org")
    assert (await copy_on_discord(two, "help", "and @Nobody and ada@example.org"))["pinged"] == NOBODY


async def test_a_name_that_two_people_have_calls_neither(two: FullStack) -> None:
    twin = two.control.create_person("ada2", "Ada")["id"]
    two.control.join(two.guild, twin, nick="Ada")
    # Discord tells of it before this, and what comes from Matrix may be quicker.
    two.say("help", "somebody has joined", who="Ben")
    await copy_on_matrix(two, "help", "somebody has joined")
    await two.tell("help", "@Ada?")
    assert (await copy_on_discord(two, "help", "@Ada?"))["pinged"] == NOBODY


async def test_an_edit_calls_nobody_again(two: FullStack) -> None:
    message = two.say("help", "hello")
    await copy_on_matrix(two, "help", "hello")
    two.control.edit(two.channels["help"], message, "hello @Mia")
    await two.until_matrix("help", lambda seen: "hello Mia" in seen)
    [edit] = [
        event["content"]
        for event in await two.mia.events(two.rooms["help"])
        if event.get("content", {}).get("m.new_content")
    ]
    assert edit["m.mentions"] == {}


async def test_a_reply_lets_its_author_on_matrix_know(two: FullStack) -> None:
    await two.tell("help", "a question")
    question = await copy_on_discord(two, "help", "a question")
    two.say("help", "an answer", reply_to=question["id"])
    content = await copy_on_matrix(two, "help", "an answer")
    assert content["m.mentions"] == {"user_ids": [two.mia.user_id]}


@pytest.mark.crosses("channels", "to_matrix", "to_discord")
async def test_channels_become_their_rooms_and_rooms_their_channels(two: FullStack) -> None:
    room, channel = two.rooms["general"], two.channels["general"]
    two.say("help", f"see <#{channel}>")
    content = await copy_on_matrix(two, "help", "see #general")
    assert f'<a href="https://matrix.to/#/{room}' in content["formatted_body"]
    await two.mia.html(two.rooms["help"], "see general", f'see <a href="https://matrix.to/#/{room}">general</a>')
    await copy_on_discord(two, "help", f"see <#{channel}>")


@pytest.mark.crosses("channels", "to_matrix")
async def test_what_not_everybody_may_view_is_named_nowhere_else(two: FullStack) -> None:
    general, insiders = two.channels["general"], (two.bot, two.people["Ada"])
    original = two.say("general", "psst")
    await copy_on_matrix(two, "general", "psst")
    secret = two.control.create_channel(two.guild, "layoffs")["id"]
    for channel in (secret, general):
        for insider in insiders:
            two.control.set_channel_permissions(channel, insider, allow=["VIEW_CHANNEL"])
        two.control.set_channel_permissions(channel, two.guild, deny=["VIEW_CHANNEL"])
    link = f"https://discord.com/channels/{two.guild}/{general}/{original}"
    two.say("help", f"not <#{secret}>, <#{general}> or {link}")
    content = await copy_on_matrix(two, "help", f"not #private-channel, #private-channel or {link}")
    assert two.rooms["general"] not in content["formatted_body"]
    two.say("general", f"we are in <#{general}>")
    await copy_on_matrix(two, "general", "we are in #general")


@pytest.mark.crosses("channels", "to_matrix", "to_discord")
async def test_links_to_messages_lead_to_their_copies(two: FullStack) -> None:
    original = two.say("general", "the original")
    await copy_on_matrix(two, "general", "the original")
    # The copy can be seen before it is on record, and another pair's lane does not wait for that.
    await two.until_metric("relay_messages_total", 1, pair="general", direction="to_matrix")
    copy = next(message for message in await two.on_matrix("general"))
    link = f"https://discord.com/channels/{two.guild}/{two.channels['general']}/{original}"
    two.say("help", f"[there]({link})")
    await two.until_matrix("help", lambda seen: any("there" in words for words in seen))
    content = (await two.on_matrix("help"))[-1].content
    assert f"https://matrix.to/#/{two.rooms['general']}/{copy.event_id}" in content["formatted_body"]
    assert "discord.com" not in content["formatted_body"]
    await two.tell("help", f"https://matrix.to/#/{two.rooms['general']}/{copy.event_id}")
    await copy_on_discord(two, "help", link)


@pytest.mark.crosses("@everyone", "to_matrix", "to_discord")
async def test_everybody_is_called_only_by_those_who_may_and_where_the_pair_allows_it(two: FullStack) -> None:
    # Mia has made the rooms; Ada and Ben have no permission to call everybody, until Ada gets it.
    await two.mia.text(two.rooms["help"], "@room quiet", extra={"m.mentions": {"room": True}})
    assert (await copy_on_discord(two, "help", "@room quiet"))["pinged"] == NOBODY
    await two.mia.text(two.rooms["general"], "@room loud", extra={"m.mentions": {"room": True}})
    assert (await copy_on_discord(two, "general", "@everyone loud"))["pinged"] == NOBODY | {"everyone": True}
    two.say("general", "@everyone from Ben", who="Ben")
    assert (await copy_on_matrix(two, "general", "@everyone from Ben"))["m.mentions"] == {}
    role = two.control.create_role(two.guild, "Crier", permissions=["MENTION_EVERYONE"])["id"]
    two.control.set_role(two.guild, two.people["Ada"], role)
    two.say("general", "@everyone from Ada")
    assert (await copy_on_matrix(two, "general", "@room from Ada"))["m.mentions"] == {"room": True}
    two.say("help", "@everyone in help")
    assert (await copy_on_matrix(two, "help", "@everyone in help"))["m.mentions"] == {}


@pytest.mark.crosses("reply", "to_matrix", "to_discord")
async def test_an_answer_to_what_is_older_than_the_relay(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver) as place:
        told = await place.tell("help", "the key is under the mat")
        said = place.say("help", "it is ||blue||, they say", who="Ben")
        await place.daemon.start()
        place.say("help", "who?", reply_to=said)
        words = await place.until_matrix("help", lambda seen: len(seen) == 2)
        copy = (await place.on_matrix("help"))[1]
        assert copy.body.endswith("who?")
        link = f"https://discord.com/channels/{place.guild}/{place.channels['help']}/{said}"
        assert "blue" not in words[1]
        assert f'<blockquote><a href="{link}">↪ Ben</a>: it is ' in copy.formatted_body
        await place.mia.reply(place.rooms["help"], told, "still there?")
        await place.until_discord("help", lambda seen: seen[-1].endswith("\nstill there?"))
        quoted, _ = place.on_discord("help")[-1]["content"].split("\n")
        assert quoted.startswith("> [↪ Mia](<https://matrix.to/#/")
        assert quoted.endswith(": the key is under the mat")


@pytest.mark.crosses("reply", "to_discord")
async def test_what_is_quoted_follows_its_source(two: FullStack) -> None:
    room, channel = two.rooms["help"], two.channels["help"]
    theirs = await two.tell("help", "the code is 1234")
    ours = two.say("help", "the safe is open")
    await two.until_discord("help", lambda seen: len(seen) == 2)
    await two.until_matrix("help", lambda seen: len(seen) == 2)
    copy = (await two.on_matrix("help"))[1].event_id
    await two.mia.reply(room, theirs, "sure?")
    await two.mia.reply(room, copy, "since when?")
    await two.until_discord("help", lambda seen: len(seen) == 4)
    assert "1234" in two.on_discord("help")[2]["content"]
    assert "safe" in two.on_discord("help")[3]["content"]

    await two.mia.edit(room, theirs, "the code is secret")
    two.control.edit(channel, ours, "the door is open")
    await two.until_discord("help", lambda seen: "secret" in seen[2] and "door" in seen[3])
    answers = [message["content"].split("\n")[1] for message in two.on_discord("help")[2:]]
    assert answers == ["sure?", "since when?"]

    await two.mia.redact(room, theirs)
    two.control.delete(channel, ours)
    gone = "> ↪ a message that is not here"
    await two.until_discord("help", lambda seen: seen == [f"{gone}\nsure?", f"{gone}\nsince when?"])
