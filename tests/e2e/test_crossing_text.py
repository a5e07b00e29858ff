"""What people write, through the real daemon: every text of the conversion table that stands for itself, and more."""

import pytest

from relay.domain.ids import Platform
from tests.support.chat import Chat, stored
from tests.support.payloads import Case, cases
from tests.support.stack import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

_ADA = {"global_name": "Ada", "bot": False}
_MENTIONS = ("mentions", "mention_roles", "mention_everyone", "mention_channels", "resolved")
_MORE_THAN_TEXT = ("attachments", "embeds", "components", "sticker_items", "poll", "webhook_id", "message_reference")


def _from_discord() -> list[Case]:
    """Payloads of which the text is all there is, written by Ada."""
    return [
        case
        for case in cases(Platform.DISCORD)
        if case.input["t"] == "MESSAGE_CREATE"
        and not case.context
        and isinstance(case.expected, list)
        and (data := case.input["d"])["type"] == 0
        and data["author"].get("global_name") == "Ada"
        and (data.get("member") or {}).get("nick") is None
        and data["content"]
        and not any(data.get(name) for name in (*_MORE_THAN_TEXT, *_MENTIONS))
        and data["flags"] in (0, 1 << 12)
    ]


def _from_matrix() -> list[Case]:
    """Payloads of messages by Mia about which nothing else has to be known."""
    return [
        case
        for case in cases(Platform.MATRIX)
        if case.input["type"] == "m.room.message"
        and case.input["sender"].startswith("@mia:")
        and not case.context.keys() - {"state"}
        and [event["content"].get("displayname") for event in case.context["state"]] == ["Mia"]
        and isinstance(case.expected, list)
        and "url" not in case.input["content"]
        and not any("attachments" in body for body in case.expected if isinstance(body, dict))
        and "file" not in case.input["content"]
        and "m.relates_to" not in case.input["content"]
        and not case.name.startswith("mention-")
        and [body.get("username") for body in case.expected] == ["Mia"] * len(case.expected) != []
    ]


@pytest.mark.crosses("text", "to_matrix")
@pytest.mark.crosses("small print", "to_matrix")
@pytest.mark.crosses("what only looks like markup", "to_matrix")
async def test_the_table_s_texts_from_discord(chat: Chat) -> None:
    table = _from_discord()
    for case in table:
        chat.say(case.input["d"]["content"], flags=case.input["d"]["flags"])
    await chat.shows(table)
    assert len(table) > 60


@pytest.mark.crosses("text", "to_discord")
@pytest.mark.crosses("small print", "to_discord")
@pytest.mark.crosses("what only looks like markup", "to_discord")
async def test_the_table_s_texts_from_matrix(chat: Chat) -> None:
    table = _from_matrix()
    for case in table:
        await chat.tell(case.input["content"])
    shown = await chat.on_discord(sum(len(case.expected) for case in table))
    expected = [(case.name, body["content"]) for case in table for body in case.expected]
    names = [name for name, _ in expected]
    assert list(zip(names, [message["content"] for message in shown], strict=True)) == expected
    assert {message["author"]["username"] for message in shown} == {"Mia"}
    assert not any(any(message["pinged"].values()) for message in shown)
    assert len(table) > 60


@pytest.mark.crosses("a text that is too long", "to_discord")
async def test_what_is_open_at_a_cut_is_open_after_it(chat: Chat) -> None:
    code = "".join(f"line {number} of the program\n" for number in range(100))
    quoted = " ".join(f"word{number}" for number in range(100))
    event = await chat.html(f'<pre><code class="language-py">{code}</code></pre><blockquote>{quoted}</blockquote>end')
    first, second = await chat.words(2)
    assert first.startswith("```py\nline 0 of")
    assert first.endswith("\n```")
    assert second.startswith("```py\nline ")
    assert f"> {quoted}\nend" in second
    lines = [line for line in f"{first}\n{second}".splitlines() if line.startswith("line ")]
    assert lines == code.splitlines()
    hidden = " ".join(f"secret{number}" for number in range(400))
    await chat.stack.mia.edit(chat.room, event, "-", f"<p>so: <span data-mx-spoiler>{hidden}</span></p>")

    def both(words: list[str]) -> bool:
        return len(words) == 2 and words[0].startswith("so: ||secret0 ")

    parts = await chat.stack.until_discord(chat.pair, lambda words: both(words) and words[1].startswith("||"))
    assert all(part.endswith("||") and len(part) <= 2000 for part in parts)
    assert " ".join(part.removeprefix("so: ").strip("| ") for part in parts) == hidden


@pytest.mark.crosses("a text that is too long", "to_matrix")
@pytest.mark.crosses("edit", "to_matrix")
async def test_a_feed_longer_than_an_event_and_its_edit(chat: Chat) -> None:
    feed = chat.stack.control.create_webhook(chat.channel, "Feed", chat.stack.people["Ben"])
    whales = "🐋" * 900
    embeds = [{"title": f"Part {number}", "description": f"{whales} {number}"} for number in range(6)]
    message = chat.stack.control.say_as_webhook(feed["id"], whales * 2, embeds=embeds)["id"]
    parts = await chat.on_matrix(3)
    assert "".join(part.body for part in parts).count("🐋") == 900 * 8
    assert [part.name for part in parts] == ["Feed"] * 3
    titles = [word for part in parts for word in part.body.split("**") if word.startswith("Part ")]
    assert titles == [f"Part {number}" for number in range(6)]
    chat.stack.control.edit(chat.channel, message, "short now", embeds=[])
    await chat.stack.until_matrix(chat.pair, lambda words: words == ["short now"])
    chat.stack.control.edit(chat.channel, message, whales * 2, embeds=embeds)
    await chat.stack.until_matrix(chat.pair, lambda words: len(words) == 3 and "Part 5" in words[2])
    chat.stack.control.delete(chat.channel, message)
    await chat.stack.until_matrix(chat.pair, lambda words: not words)


@pytest.mark.crosses("edit", "to_discord")
async def test_an_edit_changes_the_formatting_too(chat: Chat) -> None:
    event = await chat.html("<h2>Plan</h2><ul><li>one<ul><li>deep</li></ul></li></ul>")
    await chat.stack.until_discord(chat.pair, lambda words: words == ["## Plan\n- one\n  - deep"])
    await chat.stack.mia.edit(chat.room, event, "-", "<ol><li>first</li><li><del>second</del></li></ol>")
    await chat.stack.until_discord(chat.pair, lambda words: words == ["1. first\n2. ~~second~~"])
    (shown,) = chat.stack.on_discord(chat.pair)
    assert shown["edited_timestamp"] is not None


@pytest.mark.crosses("a text that is too long", "to_discord")
async def test_an_edit_of_a_text_that_crossed_as_a_file_changes_the_file(chat: Chat) -> None:
    def text(word: str) -> str:
        return "\n".join(f"line {number} of a very long message" for number in range(500)) + f"\n{word}"

    async def standing() -> list[str]:
        files = [item for message in chat.stack.on_discord(chat.pair) for item in message["attachments"]]
        try:
            return [(await stored(item["url"])).decode() for item in files]
        except AssertionError:  # it is replaced just now
            return []

    event = await chat.tell(text("first"))
    (first,) = await chat.on_discord()
    assert await standing() == [text("first")]
    # As long as the first: its size tells nothing.
    await chat.stack.mia.edit(chat.room, event, text("fifth"))
    await eventually(standing, lambda seen: seen == [text("fifth")])
    await chat.stack.mia.edit(chat.room, event, "short")
    await chat.stack.until_discord(chat.pair, lambda words: words == ["short"])
    assert await standing() == []
    await chat.stack.mia.edit(chat.room, event, text("last"))
    await eventually(standing, lambda seen: seen == [text("last")])
    (last,) = await chat.on_discord()
    assert last["id"] == first["id"]
