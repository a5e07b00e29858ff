"""What is more than words through the real daemon: who is called, feeds, polls, system messages, and what stays."""

import asyncio

import pytest

from relay.domain.ids import Platform
from relay.domain.jsontext import Json
from tests.support.chat import Chat
from tests.support.payloads import OUR_WEBHOOK, Case, cases
from tests.support.stack import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

POLL = {"question": {"text": "Lunch?"}, "answers": [{"poll_media": {"text": "Soup"}}], "duration": 24}


def _of_webhooks() -> list[Case]:
    """Payloads of other people's webhooks: feeds, above all."""
    return [
        case
        for case in cases(Platform.DISCORD)
        if case.input["t"] == "MESSAGE_CREATE"
        and not case.context
        and isinstance(case.expected, list)
        and case.input["d"]["type"] == 0
        and case.input["d"].get("webhook_id") not in (None, OUR_WEBHOOK)
    ]


def _of_bots() -> list[Case]:
    """Payloads of a bot that writes as itself, with what stands below its words."""
    return [
        case
        for case in cases(Platform.DISCORD)
        if case.input["t"] == "MESSAGE_CREATE"
        and not case.context
        and isinstance(case.expected, list)
        and case.input["d"]["type"] == 0
        and case.input["d"].get("webhook_id") is None
        and case.input["d"]["author"]["username"] == "Dyno"
        and not case.input["d"]["attachments"]
    ]


@pytest.mark.crosses("bots", "to_matrix")
async def test_the_table_s_feeds(chat: Chat) -> None:
    feed = chat.stack.control.create_webhook(chat.channel, "Feed", chat.stack.people["Ben"])
    table = _of_webhooks()
    for case in table:
        data = case.input["d"]
        raw = {key: data[key] for key in ("content", "embeds", "components", "flags")}
        chat.stack.control.say_as_webhook(feed["id"], "-", username=data["author"]["username"], raw=raw)
    await chat.shows(table)
    assert len(table) > 8


@pytest.mark.crosses("bots", "to_matrix")
async def test_the_table_s_bots(chat: Chat) -> None:
    bot = chat.stack.control.create_bot("Dyno", chat.stack.guild)["id"]
    table = _of_bots()
    for case in table:
        raw = {key: case.input["d"][key] for key in ("content", "embeds", "components", "flags")}
        chat.stack.control.say(chat.channel, bot, "-", raw=raw)
    await chat.shows(table)
    assert len(table) > 5


@pytest.mark.crosses("bots", "to_discord")
async def test_a_bot_on_matrix(chat: Chat) -> None:
    await chat.stack.mia.html(chat.room, "Build 7 failed", "Build <b>7</b> failed", msgtype="m.notice")
    await chat.stack.mia.text(chat.room, "shrugs", msgtype="m.emote")
    assert await chat.words(2) == ["Build **7** failed", "*shrugs*"]


@pytest.mark.crosses("the author", "to_matrix")
async def test_the_name_that_people_have_here(chat: Chat) -> None:
    control, guild = chat.stack.control, chat.stack.guild
    eve = control.create_person("eve", "Eve <b>\u202e\n\u200bx")["id"]
    control.join(guild, eve)
    control.say(chat.channel, eve, "one")
    (copy,) = await chat.on_matrix()
    assert copy.content["com.beeper.per_message_profile"]["displayname"] == "Eve <b> x"
    assert copy.formatted_body == "<strong data-mx-profile-fallback>Eve &lt;b&gt; x: </strong>one"
    control.rename(eve, guild, nick="Evelyn")
    control.say(chat.channel, eve, "two")
    assert (await chat.on_matrix(2))[1].name == "Evelyn"


@pytest.mark.crosses("people", "to_matrix")
@pytest.mark.crosses("@everyone", "to_matrix", "to_discord")
async def test_nobody_is_called_who_must_not_be(chat: Chat) -> None:
    control, guild = chat.stack.control, chat.stack.guild
    role = control.create_role(guild, "Moderators", permissions=["MENTION_EVERYONE"], mentionable=True)["id"]
    carl = control.create_person("carl", "Carl")["id"]
    control.join(guild, carl, nick="Carl <i>")
    control.set_role(guild, carl, role)
    control.say(chat.channel, carl, f"@here @everyone <@&{role}> <@{carl}> <@&12345678> <@12345678>")
    (copy,) = await chat.on_matrix()
    assert copy.body == "Carl <i>: @here @everyone @Moderators @Carl <i> @unknown-role @unknown-user"
    assert copy.content["m.mentions"] == {}
    await chat.stack.mia.text(chat.room, f"@room @here <@{carl}>", extra={"m.mentions": {"room": True}})
    copy_there = (await chat.on_discord(2))[1]
    assert not any(copy_there["pinged"].values())


@pytest.mark.crosses("reply", "to_discord")
async def test_a_reply_pings_whom_it_answers_where_it_means_them(chat: Chat) -> None:
    ada = chat.stack.people["Ada"]
    chat.say("tea?")
    (copy,) = await chat.on_matrix()
    reply = {"msgtype": "m.text", "body": "yes", "m.relates_to": {"m.in_reply_to": {"event_id": copy.event_id}}}
    await chat.tell(reply | {"m.mentions": {}})
    await chat.tell(reply | {"m.mentions": {"user_ids": [copy.sender]}})
    _, quiet, loud = await chat.on_discord(3)
    assert not any(quiet["pinged"].values())
    assert loud["pinged"]["users"] == [ada]
    assert f"<@{ada}>: tea?\nyes" in loud["content"]


@pytest.mark.crosses("bots", "to_matrix")
async def test_somebody_named_in_an_embed_by_number_alone(chat: Chat) -> None:
    control, guild = chat.stack.control, chat.stack.guild
    nora = control.create_person("nora", "Nora")["id"]
    control.join(guild, nora, nick="Nora B.")
    feed = control.create_webhook(chat.channel, "Feed", chat.stack.people["Ben"])
    for _ in range(2):
        control.say_as_webhook(feed["id"], "", embeds=[{"title": "Welcome", "description": f"<@{nora}> has joined"}])
    copies = await chat.on_matrix(2)
    assert [copy.body for copy in copies] == ["Feed: > **Welcome**\n> \n> @Nora B. has joined"] * 2


@pytest.mark.crosses("polls", "to_discord")
async def test_a_poll_of_matrix_and_its_end(chat: Chat) -> None:
    answers = [{"id": "1", "org.matrix.msc1767.text": "Yes"}, {"id": "2", "org.matrix.msc1767.text": "*No*"}]
    start = {"question": {"org.matrix.msc1767.text": "Tea?"}, "answers": answers}
    poll = await chat.tell({"org.matrix.msc3381.poll.start": start}, "org.matrix.msc3381.poll.start")
    relation = {"m.relates_to": {"rel_type": "m.reference", "event_id": poll}}
    vote = {"org.matrix.msc3381.poll.response": {"answers": ["1"]}}
    await chat.tell(relation | vote, "org.matrix.msc3381.poll.response")
    words = {"org.matrix.msc1767.text": "The poll has ended. Top answer: Yes"}
    await chat.tell(relation | words | {"org.matrix.msc3381.poll.end": {}}, "org.matrix.msc3381.poll.end")
    question, result = await chat.words(2)
    assert question == "**📊 Tea?**\n1. Yes\n2. \\*No\\*"
    quoted, words_of_result = result.split("\n", 1)
    assert quoted.startswith("> [↪ Mia](")
    assert words_of_result == "The poll has ended. Top answer: Yes"
    labels = {"pair": chat.pair, "direction": "to_discord", "feature": "vote"}
    await chat.stack.until_metric("relay_dropped_total", 1, **labels)


@pytest.mark.crosses("polls", "to_matrix")
async def test_a_forward_of_a_feed(chat: Chat) -> None:
    feed = chat.stack.control.create_webhook(chat.channel, "Feed", chat.stack.people["Ben"])
    original = chat.stack.control.say_as_webhook(
        feed["id"], "", embeds=[{"title": "Release 2", "description": "*new*"}]
    )
    forward = {"channel": chat.channel, "message": original["id"]}
    chat.say(who="Ben", forward=forward)
    *_, copy = await chat.on_matrix(2)
    assert copy.body == "Ben: *↪ Forwarded:*\n> > **Release 2**\n> > \n> > *new*"


@pytest.mark.crosses("who joined", "to_matrix")
async def test_what_discord_says_of_people(chat: Chat) -> None:
    control, ada, ben = chat.stack.control, chat.stack.people["Ada"], chat.stack.people["Ben"]
    zoe = control.create_person("zoe", "Zoe")["id"]
    control.join(chat.stack.guild, zoe, announce_in=chat.channel)
    control.say_as_system(chat.channel, ben, 8)
    message = chat.say("read this")
    control.pin(chat.channel, message, ben)
    control.say_as_system(chat.channel, ada, 4, "lobby")
    shown = await chat.on_matrix(5)
    assert [message.body for message in shown] == [
        "Zoe: *joined the server.*",
        "Ben: *boosted the server.*",
        "Ada: read this",
        "Ben: *pinned a message to this channel.*",
        "Ada: *changed the channel's name: lobby*",
    ]
    assert [message.msgtype for message in shown] == ["m.notice", "m.notice", "m.text", "m.notice", "m.notice"]


@pytest.mark.crosses("a message of which nothing", "to_matrix", "to_discord")
async def test_nothing_vanishes_without_a_word(chat: Chat) -> None:
    chat.say("-", raw={"content": ""})
    (copy,) = await chat.on_matrix()
    assert copy.body == "Ada: *A message with nothing in it that can be shown here.*"
    await chat.tell({"msgtype": "com.example.dice", "body": "rolled a 4"})
    assert (await chat.words(2))[1] == "rolled a 4\n\n*(a message of the type com.example.dice)*"


@pytest.mark.crosses("reactions", "to_matrix", "to_discord")
async def test_what_stays_is_counted_and_everybody_can_see_it(chat: Chat) -> None:
    control, mia, ada = chat.stack.control, chat.stack.mia, chat.stack.people["Ada"]
    message, event = chat.say("one"), await chat.tell("two")
    (_, theirs), _ = await asyncio.gather(chat.on_matrix(2), chat.on_discord(2))
    control.react(chat.channel, message, ada, "👍")
    control.typing(chat.channel, ada)
    thread = control.open_thread(chat.channel, ada, "aside", message=message)["id"]
    control.say(thread, ada, "between us")
    await mia.react(chat.room, event)
    await mia.typing(chat.room)
    await mia.read(chat.room, theirs.event_id)
    await mia.thread(chat.room, event, "between us, too")
    encrypted = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x", "device_id": "D", "session_id": "s"}
    await chat.tell(encrypted, "m.room.encrypted")
    await chat.tell({"call_id": "c", "version": "1", "party_id": "p", "candidates": []}, "m.call.candidates")
    expected = {
        "to_matrix": {"reaction": 1, "typing": 1, "thread": 1},
        "to_discord": {"reaction": 1, "typing": 1, "receipt": 1, "thread": 1, "encryption": 1, "call": 1},
    }
    for direction, features in expected.items():
        for feature, count in features.items():
            labels = {"pair": chat.pair, "direction": direction, "feature": feature}
            await chat.stack.until_metric("relay_dropped_total", count, **labels)

    async def reported() -> Json:
        pairs = (await chat.stack.daemon.status())["pairs"]
        pair = next(pair for pair in pairs if pair["name"] == chat.pair)
        return {direction: pair[direction]["dropped"] for direction in expected}

    await eventually(reported, lambda seen: seen == expected)
    _, page = await chat.stack.daemon.get("/")
    assert "What does not cross" in page
    assert all(f">{feature}</th>" in page for features in expected.values() for feature in features)
    await chat.stack.until_matrix(chat.pair, lambda words: len([one for one in words if "hread" in one]) == 2)
