"""Rows of the table that meet in one message, through the real daemon."""

import pytest

from relay.sandbox.messages.media import flat_png
from tests.support.chat import Chat, file

pytestmark = pytest.mark.asyncio(loop_scope="session")

PNG = flat_png(0x336699, 48)


@pytest.mark.crosses("reply", "to_matrix")
@pytest.mark.crosses("a text that is too long", "to_discord")
async def test_an_answer_to_any_part_answers_the_whole(chat: Chat) -> None:
    long = " ".join(f"word{number:04}" for number in range(400))
    event = await chat.tell(long)
    first, second = await chat.on_discord(2)
    chat.say("to the second", reply_to=second["id"])
    chat.say("to the first", reply_to=first["id"])
    _, *answers = await chat.on_matrix(3)
    assert [answer.reply_to for answer in answers] == [event, event]


@pytest.mark.crosses("reply", "to_discord")
@pytest.mark.crosses("files", "to_matrix")
async def test_an_answer_to_one_of_several_files(chat: Chat) -> None:
    message = chat.say("three", attachments=[file(f"{name}.png", PNG) for name in "abc"])
    *_, last = await chat.on_matrix(3)
    await chat.stack.mia.reply(chat.room, last.event_id, "the last is best")
    _, answer = await chat.on_discord(2)
    assert answer["content"].startswith("> [↪ Ada](")
    assert f"/{message}>)" in answer["content"]
    assert answer["content"].endswith("\nthe last is best")


@pytest.mark.crosses("edit", "to_discord")
@pytest.mark.crosses("reply", "to_discord")
async def test_an_edited_answer_keeps_what_it_answers(chat: Chat) -> None:
    chat.say("a question")
    (question,) = await chat.on_matrix()
    event = await chat.stack.mia.reply(chat.room, question.event_id, "an anser")
    _, answer = await chat.on_discord(2)
    quoted = answer["content"].split("\n")[0]
    await chat.stack.mia.edit(chat.room, event, "an answer")
    await chat.stack.until_discord(chat.pair, lambda words: words[1] == f"{quoted}\nan answer")


@pytest.mark.crosses("bots", "to_matrix")
@pytest.mark.crosses("edit", "to_matrix")
async def test_previews_are_no_edits_and_a_feed_s_are(chat: Chat) -> None:
    link = chat.say("see https://example.org")
    feed = chat.stack.control.create_webhook(chat.channel, "CI", chat.stack.people["Ben"])
    run = chat.stack.control.say_as_webhook(feed["id"], embeds=[{"title": "Build 7", "description": "running"}])["id"]
    await chat.on_matrix(2)
    preview = {"type": "link", "title": "Example", "url": "https://example.org"}
    chat.stack.control.unfurl(chat.channel, link, [preview])
    chat.stack.control.edit(chat.channel, run, embeds=[{"title": "Build 7", "description": "**failed**"}])
    await chat.stack.until_matrix(chat.pair, lambda words: "**failed**" in words[1])
    assert [message.edits for message in await chat.on_matrix(2)] == [0, 1]


@pytest.mark.crosses("polls", "to_matrix")
@pytest.mark.crosses("files", "to_matrix")
async def test_a_forwarded_picture(chat: Chat) -> None:
    original = chat.say("look at *this*", attachments=[file("cat.png", PNG, description="a cat")])
    chat.say(who="Ben", forward={"channel": chat.channel, "message": original})
    _, copy = await chat.on_matrix(2)
    assert (copy.name, copy.msgtype, copy.content["filename"]) == ("Ben", "m.image", "cat.png")
    assert "look at <em>this</em>" in copy.formatted_body
    assert "Forwarded" in copy.body
    assert (await chat.stack.mia.download(copy.content["url"]))[0] == PNG


@pytest.mark.crosses("reply", "to_matrix")
@pytest.mark.crosses("stickers", "to_matrix")
async def test_a_sticker_and_a_picture_as_answers(chat: Chat) -> None:
    data = {"data": file("x", PNG)["data"]}
    sticker = chat.stack.control.create_sticker(chat.stack.guild, "yes", 1, data)
    event = await chat.tell("shall we?")
    (question,) = await chat.on_discord()
    chat.say(reply_to=question["id"], stickers=[sticker["id"]])
    chat.say("like this", reply_to=question["id"], attachments=[file("a.png", PNG), file("b.png", PNG)])
    _, first, second, third = await chat.on_matrix(4)
    assert [one.reply_to for one in (first, second, third)] == [event, event, None]
    assert [one.msgtype for one in (first, second, third)] == ["m.image"] * 3


@pytest.mark.crosses("edit", "to_matrix")
@pytest.mark.crosses("stickers", "to_matrix")
@pytest.mark.crosses("a text that is too long", "to_matrix")
async def test_deleting_takes_every_part_along(chat: Chat) -> None:
    long = " ".join(f"word{number:04}" for number in range(400))
    picture = chat.say("two files", attachments=[file("a.png", PNG), file("b.txt", b"words")])
    event = await chat.tell(long)
    await chat.on_discord(3)
    await chat.on_matrix(3)
    chat.stack.control.bulk_delete(chat.channel, [picture])
    await chat.stack.mia.redact(chat.room, event)
    await chat.stack.until_discord(chat.pair, lambda words: not words)
    await chat.stack.until_matrix(chat.pair, lambda words: not words)


@pytest.mark.crosses("text", "to_matrix", "to_discord")
@pytest.mark.crosses("custom emoji", "to_matrix")
@pytest.mark.crosses("people", "to_matrix")
async def test_everything_in_one_message(chat: Chat) -> None:
    party = chat.stack.control.create_emoji(chat.stack.guild, "yay", {"data": file("x", PNG)["data"]})
    text = (
        f"# Hi <:yay:{party['id']}>\n> **@Mia** said ||a *secret*||\n"
        f"1. see <#{chat.channel}>\n   - `code` and [a link](https://example.org/a_(b))\n"
        "```py\nprint('**')\n```\n-# bye"
    )
    chat.say(text)
    (copy,) = await chat.on_matrix()
    mia = chat.stack.mia.user_id
    html = copy.formatted_body
    called = f'<a href="https://matrix.to/#/{mia}">Mia</a>'
    for piece in (
        "<h1>Hi <img data-mx-emoticon ",
        f"<blockquote><strong>{called}</strong> said <span data-mx-spoiler>a <em>secret</em></span></blockquote>",
        f'<ol><li>see <a href="https://matrix.to/#/{chat.room}',
        '<ul><li><code>code</code> and <a href="https://example.org/a_(b)">a link</a></li></ul>',
        "<pre><code class=\"language-py\">print('**')\n</code></pre>",
        "<sub>bye</sub>",
    ):
        assert piece in html, (piece, html)
    assert copy.content["m.mentions"] == {"user_ids": [mia]}
    await chat.html(html.replace(html[: html.index("<h1>")], ""), copy.body)
    _, back = await chat.on_discord(2)
    returned = back["content"]
    for piece in (
        "# Hi ",
        "||a *secret*||",
        f"1. see <#{chat.channel}>",
        "   - `code` and [a link](",
        "```py\nprint('**')\n```",
    ):
        assert piece in returned, (piece, returned)
