"""Rows of the table that meet in one message, through the real daemon."""

from typing import Any

import pytest

from relay.sandbox.messages.media import flat_png
from tests.support.street import House, file

pytestmark = pytest.mark.asyncio(loop_scope="session")

Json = dict[str, Any]

PNG = flat_png(0x336699, 48)


@pytest.mark.crosses("reply", "to_matrix")
@pytest.mark.crosses("a text that is too long", "to_discord")
async def test_an_answer_to_any_part_answers_the_whole(house: House) -> None:
    long = " ".join(f"word{number:04}" for number in range(400))
    event = await house.tell(long)
    first, second = await house.on_discord(2)
    house.say("to the second", reply_to=second["id"])
    house.say("to the first", reply_to=first["id"])
    _, *answers = await house.on_matrix(3)
    assert [answer.reply_to for answer in answers] == [event, event]


@pytest.mark.crosses("reply", "to_discord")
@pytest.mark.crosses("files", "to_matrix")
async def test_an_answer_to_one_of_several_files(house: House) -> None:
    message = house.say("three", attachments=[file(f"{name}.png", PNG) for name in "abc"])
    *_, last = await house.on_matrix(3)
    await house.town.mia.reply(house.room, last.event_id, "the last is best")
    _, answer = await house.on_discord(2)
    assert answer["content"].startswith("> [↪ Ada](")
    assert f"/{message}>)" in answer["content"]
    assert answer["content"].endswith("\nthe last is best")


@pytest.mark.crosses("edit", "to_discord")
@pytest.mark.crosses("reply", "to_discord")
async def test_an_edited_answer_keeps_what_it_answers(house: House) -> None:
    house.say("a question")
    (question,) = await house.on_matrix()
    event = await house.town.mia.reply(house.room, question.event_id, "an anser")
    _, answer = await house.on_discord(2)
    quoted = answer["content"].split("\n")[0]
    await house.town.mia.edit(house.room, event, "an answer")
    await house.town.until_discord(house.pair, lambda words: words[1] == f"{quoted}\nan answer")


@pytest.mark.crosses("bots", "to_matrix")
@pytest.mark.crosses("edit", "to_matrix")
async def test_previews_are_no_edits_and_a_feed_s_are(house: House) -> None:
    link = house.say("see https://example.org")
    feed = house.town.control.create_webhook(house.channel, "CI", house.town.people["Ben"])
    run = house.town.control.say_as_webhook(feed["id"], embeds=[{"title": "Build 7", "description": "running"}])["id"]
    await house.on_matrix(2)
    preview = {"type": "link", "title": "Example", "url": "https://example.org"}
    house.town.control.unfurl(house.channel, link, [preview])
    house.town.control.edit(house.channel, run, embeds=[{"title": "Build 7", "description": "**failed**"}])
    await house.town.until_matrix(house.pair, lambda words: "**failed**" in words[1])
    assert [message.edits for message in await house.on_matrix(2)] == [0, 1]


@pytest.mark.crosses("polls", "to_matrix")
@pytest.mark.crosses("files", "to_matrix")
async def test_a_forwarded_picture(house: House) -> None:
    original = house.say("look at *this*", attachments=[file("cat.png", PNG, description="a cat")])
    house.say(who="Ben", forward={"channel": house.channel, "message": original})
    _, copy = await house.on_matrix(2)
    assert (copy.name, copy.msgtype, copy.content["filename"]) == ("Ben", "m.image", "cat.png")
    assert "look at <em>this</em>" in copy.formatted_body
    assert "Forwarded" in copy.body
    assert (await house.town.mia.download(copy.content["url"]))[0] == PNG


@pytest.mark.crosses("reply", "to_matrix")
@pytest.mark.crosses("stickers", "to_matrix")
async def test_a_sticker_and_a_picture_as_answers(house: House) -> None:
    data = {"data": file("x", PNG)["data"]}
    sticker = house.town.control.create_sticker(house.town.guild, "yes", 1, data)
    event = await house.tell("shall we?")
    (question,) = await house.on_discord()
    house.say(reply_to=question["id"], stickers=[sticker["id"]])
    house.say("like this", reply_to=question["id"], attachments=[file("a.png", PNG), file("b.png", PNG)])
    _, first, second, third = await house.on_matrix(4)
    assert [one.reply_to for one in (first, second, third)] == [event, event, None]
    assert [one.msgtype for one in (first, second, third)] == ["m.image"] * 3


@pytest.mark.crosses("edit", "to_matrix")
@pytest.mark.crosses("stickers", "to_matrix")
@pytest.mark.crosses("a text that is too long", "to_matrix")
async def test_deleting_takes_every_part_along(house: House) -> None:
    long = " ".join(f"word{number:04}" for number in range(400))
    picture = house.say("two files", attachments=[file("a.png", PNG), file("b.txt", b"words")])
    event = await house.tell(long)
    await house.on_discord(3)
    await house.on_matrix(3)
    house.town.control.bulk_delete(house.channel, [picture])
    await house.town.mia.redact(house.room, event)
    await house.town.until_discord(house.pair, lambda words: not words)
    await house.town.until_matrix(house.pair, lambda words: not words)


@pytest.mark.crosses("text", "to_matrix", "to_discord")
@pytest.mark.crosses("custom emoji", "to_matrix")
@pytest.mark.crosses("people", "to_matrix")
async def test_everything_in_one_message(house: House) -> None:
    party = house.town.control.create_emoji(house.town.guild, "yay", {"data": file("x", PNG)["data"]})
    text = (
        f"# Hi <:yay:{party['id']}>\n> **@Mia** said ||a *secret*||\n"
        f"1. see <#{house.channel}>\n   - `code` and [a link](https://example.org/a_(b))\n"
        "```py\nprint('**')\n```\n-# bye"
    )
    house.say(text)
    (copy,) = await house.on_matrix()
    mia = house.town.mia.user_id
    html = copy.formatted_body
    called = f'<a href="https://matrix.to/#/{mia}">Mia</a>'
    for piece in (
        "<h1>Hi <img data-mx-emoticon ",
        f"<blockquote><strong>{called}</strong> said <span data-mx-spoiler>a <em>secret</em></span></blockquote>",
        f'<ol><li>see <a href="https://matrix.to/#/{house.room}',
        '<ul><li><code>code</code> and <a href="https://example.org/a_(b)">a link</a></li></ul>',
        "<pre><code class=\"language-py\">print('**')\n</code></pre>",
        "<sub>bye</sub>",
    ):
        assert piece in html, (piece, html)
    assert copy.content["m.mentions"] == {"user_ids": [mia]}
    await house.html(html.replace(html[: html.index("<h1>")], ""), copy.body)
    _, back = await house.on_discord(2)
    returned = back["content"]
    for piece in (
        "# Hi ",
        "||a *secret*||",
        f"1. see <#{house.channel}>",
        "   - `code` and [a link](",
        "```py\nprint('**')\n```",
    ):
        assert piece in returned, (piece, returned)
