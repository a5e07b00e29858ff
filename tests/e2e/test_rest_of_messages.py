"""What is no plain text through the real daemon: feeds, polls, forwards, system messages, places, other bridges."""

from pathlib import Path
from typing import Any

import pytest

from relay.demo.homeserver import Homeserver
from tests.support.stack import FullStack, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

POLL = {
    "question": {"text": "Lunch?"},
    "answers": [{"poll_media": {"text": "Soup"}}, {"poll_media": {"text": "Salad"}}],
    "duration": 24,
}


async def matrix_copies(place: FullStack, count: int) -> list[dict[str, Any]]:
    await place.until_matrix("help", lambda seen: len(seen) >= count)
    return [message.content for message in await place.on_matrix("help")]


@pytest.mark.crosses("bots", "to_matrix")
async def test_a_feed_reads_well(own_pair: FullStack) -> None:
    feed = own_pair.control.create_webhook(own_pair.channels["help"], "GitHub", own_pair.people["Ben"])
    push = {
        "author": {"name": "octocat", "url": "https://github.com/octocat"},
        "title": "[stash:develop] 1 new commit",
        "url": "https://github.com/stashapp/stash/commit/1a2b",
        "description": "[`1a2b`](https://github.com/stashapp/stash/commit/1a2b) Fix the **login**",
        "fields": [{"name": "Branch", "value": "develop", "inline": True}],
    }
    own_pair.control.say_as_webhook(feed["id"], "", embeds=[push])
    [copy] = await matrix_copies(own_pair, 1)
    assert copy["msgtype"] == "m.notice"
    assert copy["formatted_body"].endswith(
        '<blockquote><p><a href="https://github.com/octocat">octocat</a></p>'
        '<p><strong><a href="https://github.com/stashapp/stash/commit/1a2b">[stash:develop] 1 new commit</a>'
        "</strong></p>"
        '<p><a href="https://github.com/stashapp/stash/commit/1a2b"><code>1a2b</code></a> Fix the '
        "<strong>login</strong></p><p><strong>Branch</strong><br>develop</p></blockquote>"
    )


@pytest.mark.crosses("polls", "to_matrix", "to_discord")
async def test_polls_and_their_results(own_pair: FullStack) -> None:
    channel, ada = own_pair.channels["help"], own_pair.people["Ada"]
    poll = own_pair.control.say(channel, ada, "", poll=POLL)["id"]
    [copy] = await matrix_copies(own_pair, 1)
    assert copy["body"].startswith("Ada: 📊 **Lunch?**\n- Soup\n- Salad\nEnds: ")
    own_pair.control.vote(channel, poll, ada, 1)
    own_pair.control.end_poll(channel, poll)
    words = await own_pair.until_matrix("help", lambda seen: len(seen) == 2 and "(1)" in seen[0])
    assert words[0] == "📊 **Lunch?**\n- Soup (1)\n- Salad (0)"
    assert words[1] == "The poll has ended: **Lunch?**\n\nSoup (1 of 1 vote)"
    start = {
        "org.matrix.msc3381.poll.start": {
            "question": {"org.matrix.msc1767.text": "Tea?"},
            "answers": [{"id": "1", "org.matrix.msc1767.text": "Yes"}, {"id": "2", "org.matrix.msc1767.text": "No"}],
        }
    }
    await own_pair.mia.send(own_pair.rooms["help"], start, "org.matrix.msc3381.poll.start")
    await own_pair.until_discord("help", lambda seen: "**📊 Tea?**\n1. Yes\n2. No" in seen)


@pytest.mark.crosses("polls", "to_matrix")
async def test_a_forward(own_pair: FullStack) -> None:
    original = own_pair.say("help", "the **news**")
    own_pair.control.say(
        own_pair.channels["help"],
        own_pair.people["Ben"],
        "",
        forward={"channel": own_pair.channels["help"], "message": original},
    )
    _, copy = await matrix_copies(own_pair, 2)
    assert copy["body"] == "Ben: *↪ Forwarded:*\n> the **news**"


@pytest.mark.crosses("who joined", "to_matrix")
async def test_system_messages_are_chosen_for_each_pair(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver) as place:
        place.pair_settings["help"] = 'system_messages = "pin"'
        place.write_config()
        await place.daemon.start()
        eve = place.control.create_person("eve", "Eve")["id"]
        place.control.join(place.guild, eve, announce_in=place.channels["help"])
        message = place.say("help", "read this")
        place.control.pin(place.channels["help"], message, place.people["Ben"])
        words = await place.until_matrix("help", lambda seen: len(seen) == 2)
        assert words == ["read this", "*pinned a message to this channel.*"]
        await place.until_metric("relay_dropped_total", 1, pair="help", direction="to_matrix", feature="system")


@pytest.mark.crosses("bots", "to_discord")
@pytest.mark.crosses("polls", "to_discord")
@pytest.mark.crosses("a message of which nothing", "to_discord")
async def test_places_emotes_notices_and_what_nobody_knows(own_pair: FullStack) -> None:
    room, mia = own_pair.rooms["help"], own_pair.mia
    await mia.send(room, {"msgtype": "m.location", "body": "the pub", "geo_uri": "geo:51.5008,-0.1247"})
    await mia.text(room, "waves", msgtype="m.emote")
    await mia.text(room, "build passed", msgtype="m.notice")
    await mia.send(room, {"msgtype": "com.example.dice", "body": "rolled a 4"})
    words = await own_pair.until_discord("help", lambda seen: len(seen) == 4)
    assert words[0].startswith("📍 the pub\nhttps://www.openstreetmap.org/?mlat=51.500800&mlon=-0.124700")
    assert words[1:] == ["*waves*", "build passed", "rolled a 4\n\n*(a message of the type com.example.dice)*"]


@pytest.mark.crosses("the author", "to_discord")
async def test_another_bridge_s_people_keep_their_names(own_pair: FullStack) -> None:
    content = {
        "msgtype": "m.text",
        "body": "liz: hi",
        "format": "org.matrix.custom.html",
        "formatted_body": "<strong data-mx-profile-fallback>liz: </strong>hi",
        "com.beeper.per_message_profile": {"id": "irc_liz", "displayname": "liz", "has_fallback": True},
    }
    await own_pair.mia.send(own_pair.rooms["help"], content)
    await own_pair.until_discord("help", lambda seen: seen == ["hi"])
    assert own_pair.on_discord("help")[0]["author"]["username"] == "liz (via Mia)"


@pytest.mark.crosses("the author", "to_discord")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Discord Support", "Dіscord Support"),
        ("everyone", "evеryone"),
        ("\u202egnilles\u202c", "gnilles"),
        ("Ｃｌｙｄｅ", "Clуde"),
        ("x" * 100, "x" * 80),
    ],
)
async def test_no_name_deceives(own_pair: FullStack, name: str, shown: str) -> None:
    content = {"membership": "join", "displayname": name}
    await own_pair.mia.set_state(own_pair.rooms["help"], "m.room.member", content, own_pair.mia.user_id)
    await own_pair.tell("help", "hi")
    await own_pair.until_discord("help", lambda seen: seen == ["hi"])
    assert own_pair.on_discord("help")[0]["author"]["username"] == shown


@pytest.mark.crosses("what only looks like markup", "to_matrix", "to_discord")
async def test_no_text_breaks_out(own_pair: FullStack) -> None:
    ada = own_pair.people["Ada"]
    attempts = (
        f"<@{ada}> <@&1> @everyone @here",
        f"```\n<@{ada}> @everyone",
        "`` ` @everyone ``",
        "||" * 700 + "@everyone",
        "[" * 1500 + "@here",
        f"https://example.org/@everyone <https://example.org/<@{ada}>>",
    )
    for text in attempts:
        await own_pair.tell("help", text)
    await own_pair.tell("help", "the end")
    await own_pair.until_discord("help", lambda seen: "the end" in seen)
    for message in own_pair.on_discord("help"):
        assert message["pinged"] == {"everyone": False, "users": [], "roles": []}
        assert not message["mention_everyone"]
        assert not message["mentions"]
    own_pair.say("help", "</p></blockquote><script>alert(1)</script><mx-reply>x</mx-reply> [x](javascript:alert(1))")
    [copy] = [shown for shown in await wait_for_script(own_pair) if "script" in shown["body"]]
    assert "<script" not in copy["formatted_body"]
    assert "<mx-reply" not in copy["formatted_body"]
    assert "href" not in copy["formatted_body"]


async def wait_for_script(place: FullStack) -> list[dict[str, Any]]:
    await place.until_matrix("help", lambda seen: any("script" in words for words in seen))
    return [message.content for message in await place.on_matrix("help")]
