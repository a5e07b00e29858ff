"""The real daemon, as a process, between the Discord sandbox and a real homeserver: what crosses."""

from pathlib import Path

import aiohttp
import pytest

from relay.demo.homeserver import Homeserver
from tests.support.stack import FullStack, eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.crosses("the author", "to_matrix", "to_discord")
async def test_text_crosses_under_the_author_s_name(own_pair: FullStack) -> None:
    own_pair.say("help", "hello from Discord")
    await own_pair.until_matrix("help", lambda words: words == ["hello from Discord"])
    await own_pair.tell("help", "hello from Matrix")
    await own_pair.until_discord("help", lambda words: words[1:] == ["hello from Matrix"])
    copy = (await own_pair.on_matrix("help"))[0]
    assert copy.name == "Ada"
    assert copy.body == "Ada: hello from Discord"
    assert copy.formatted_body.startswith("<strong data-mx-profile-fallback>Ada: </strong>")
    assert own_pair.on_discord("help")[1]["author"]["username"] == "Mia"


@pytest.mark.crosses("text", "to_matrix", "to_discord")
async def test_formatting_crosses_both_ways(own_pair: FullStack) -> None:
    markdown = "**bold** *italic* __under__ ~~gone~~ ||secret|| `code` [link](https://example.org)\nnext line"
    own_pair.say("help", f"{markdown}\n```py\nprint(1)\n```\n> quoted")
    await own_pair.until_matrix("help", lambda words: len(words) == 1)
    html = (await own_pair.on_matrix("help"))[0].formatted_body
    for piece in (
        "<strong>bold</strong>",
        "<em>italic</em>",
        "<u>under</u>",
        "<del>gone</del>",
        "<span data-mx-spoiler>secret</span>",
        "<code>code</code>",
        '<a href="https://example.org">link</a>',
        '<pre><code class="language-py">print(1)',
        "<blockquote>",
    ):
        assert piece in html
    await own_pair.mia.html(
        own_pair.rooms["help"],
        "plain",
        "<b>bold</b> <i>italic</i> <u>under</u> <del>gone</del> <span data-mx-spoiler>secret</span> <code>code</code>"
        '<br><a href="https://example.org">link</a><pre><code class="language-py">print(1)\n</code></pre>',
    )
    words = await own_pair.until_discord("help", lambda words: len(words) == 2)
    assert words[1] == (
        "**bold** *italic* __under__ ~~gone~~ ||secret|| `code`\n[link](<https://example.org>)\n```py\nprint(1)\n```"
    ) or words[1] == (
        "**bold** *italic* __under__ ~~gone~~ ||secret|| `code`\n[link](https://example.org)\n```py\nprint(1)\n```"
    )


@pytest.mark.crosses("reply", "to_matrix", "to_discord")
async def test_replies_are_native_on_matrix_and_quoted_with_a_jump_link_on_discord(own_pair: FullStack) -> None:
    question = own_pair.say("help", "what is ||hidden|| here?")
    await own_pair.until_matrix("help", lambda words: len(words) == 1)
    copy = (await own_pair.on_matrix("help"))[0].event_id
    await own_pair.mia.reply(own_pair.rooms["help"], copy, "nothing")
    words = await own_pair.until_discord("help", lambda words: len(words) == 2)
    quoted, answer = words[1].split("\n", 1)
    link = f"https://discord.com/channels/{own_pair.guild}/{own_pair.channels['help']}/{question}"
    assert quoted.startswith("> ")
    assert link in quoted
    assert "Ada" in quoted
    assert "hidden" not in quoted
    assert answer == "nothing"
    own_pair.say("help", "thank you", reply_to=own_pair.on_discord("help")[1]["id"])
    await own_pair.until_matrix("help", lambda words: len(words) == 3)
    shown = await own_pair.on_matrix("help")
    assert shown[2].reply_to == shown[1].event_id


@pytest.mark.crosses("edit", "to_matrix", "to_discord")
async def test_edits_and_deletions_follow_both_ways(own_pair: FullStack) -> None:
    first = own_pair.say("help", "frist")
    second = own_pair.say("help", "second")
    event = await own_pair.tell("help", "thrid")
    gone = await own_pair.tell("help", "fourth")
    await own_pair.until_discord("help", lambda words: len(words) == 4)
    await own_pair.until_matrix("help", lambda words: len(words) == 4)
    own_pair.control.edit(own_pair.channels["help"], first, "first")
    own_pair.control.delete(own_pair.channels["help"], second)
    await own_pair.mia.edit(own_pair.rooms["help"], event, "third")
    await own_pair.mia.redact(own_pair.rooms["help"], gone)
    await own_pair.until_matrix("help", lambda words: sorted(words) == ["first", "third"])
    await own_pair.until_discord("help", lambda words: sorted(words) == ["first", "third"])


async def test_an_edit_that_is_taken_back_brings_the_earlier_words_back(help_stack: FullStack) -> None:
    place, room = help_stack, help_stack.rooms["help"]
    said = await place.tell("help", "one")
    await place.mia.edit(room, said, "two")
    await place.until_discord("help", lambda words: words == ["two"])
    last = await place.mia.edit(room, said, "three")
    await place.until_discord("help", lambda words: words == ["three"])
    await place.daemon.stop()
    await place.mia.redact(room, last)
    await place.daemon.start()
    await place.until_discord("help", lambda words: words == ["two"])
    await place.mia.edit(room, said, "four")
    await place.until_discord("help", lambda words: words == ["four"])
    await place.mia.redact(room, said)
    await place.until_discord("help", lambda words: words == [])


@pytest.mark.crosses("edit", "to_matrix")
async def test_a_bulk_deletion_takes_all_copies_along(own_pair: FullStack) -> None:
    ids = [own_pair.say("help", f"spam {number}") for number in range(10)]
    own_pair.say("help", "ham")
    await own_pair.until_matrix("help", lambda words: len(words) == 11)
    own_pair.control.bulk_delete(own_pair.channels["help"], list(ids))
    await own_pair.until_matrix("help", lambda words: words == ["ham"])


@pytest.mark.crosses("a text that is too long", "to_discord")
async def test_a_long_message_is_split_and_its_edits_follow(own_pair: FullStack) -> None:
    words = [f"word{number:04}" for number in range(600)]
    event = await own_pair.tell("help", " ".join(words))
    parts = await own_pair.until_discord("help", lambda seen: len(seen) == 3)
    assert " ".join(parts).split() == words
    assert all(len(part) <= 2000 for part in parts)
    await own_pair.mia.edit(own_pair.rooms["help"], event, " ".join(words[:300]))
    parts = await own_pair.until_discord("help", lambda seen: len(seen) == 2 and "word0299" in seen[1])
    assert " ".join(parts).split() == words[:300]
    await own_pair.mia.edit(own_pair.rooms["help"], event, " ".join(words))
    await own_pair.until_discord("help", lambda seen: " ".join(seen).split() == words)
    await own_pair.mia.redact(own_pair.rooms["help"], event)
    await own_pair.until_discord("help", lambda seen: not seen)


async def test_a_very_long_message_crosses_as_a_file_under_its_first_lines(own_pair: FullStack) -> None:
    text = "\n".join(f"line {number} of a very long message" for number in range(500))
    event = await own_pair.tell("help", text)
    seen = await own_pair.until_discord("help", lambda words: len(words) == 1)
    assert seen[0].startswith("line 0 of a very long message\nline 1 of")
    (file,) = own_pair.on_discord("help")[0]["attachments"]
    async with aiohttp.ClientSession() as session, session.get(file["url"]) as answer:
        assert await answer.text() == text
    await own_pair.mia.edit(own_pair.rooms["help"], event, "short")
    await own_pair.until_discord("help", lambda words: words == ["short"])


@pytest.mark.crosses("reactions", "to_matrix", "to_discord")
async def test_reactions_and_threads_are_dropped_counted_and_told_once(help_stack: FullStack) -> None:
    channel, ada = help_stack.channels["help"], help_stack.people["Ada"]
    root = help_stack.say("help", "root")
    event = await help_stack.tell("help", "wurzel")
    await help_stack.until_matrix("help", lambda words: "root" in words)
    await help_stack.until_discord("help", lambda words: "wurzel" in words)
    help_stack.control.react(channel, root, ada, "👍")
    await help_stack.mia.react(help_stack.rooms["help"], event)
    thread = help_stack.control.open_thread(channel, ada, "a thread", message=root)["id"]
    for text in ("in the thread", "still in the thread"):
        help_stack.control.say(thread, ada, text)
        await help_stack.mia.thread(help_stack.rooms["help"], event, text)
    for direction in ("to_matrix", "to_discord"):
        for feature, count in (("reaction", 1), ("thread", 2)):
            labels = {"pair": "help", "direction": direction, "feature": feature}
            await help_stack.until_metric("relay_dropped_total", count, **labels)

    def told(words: list[str]) -> int:
        return sum("Threads do not cross" in one for one in words)

    async def in_the_thread() -> list[str]:
        return [message["content"] for message in help_stack.control.messages(thread)]

    # What the relay says itself has lanes of its own: nothing that people say comes behind it.
    await help_stack.until_matrix("help", lambda words: told(words) == 2)
    await help_stack.until_discord("help", lambda words: any("hread" in one for one in words))
    await eventually(in_the_thread, lambda words: told(words) == 1, what=help_stack.daemon.log)
    help_stack.say("help", "the end")
    on_matrix = await help_stack.until_matrix("help", lambda words: "the end" in words)
    await help_stack.tell("help", "das ende")
    on_discord = await help_stack.until_discord("help", lambda words: "das ende" in words)
    assert not [
        words for words in (*on_matrix, *on_discord) if words.endswith("in the thread") and "hread" not in words
    ]
    assert told(on_matrix) == 2, on_matrix
    assert len([words for words in on_discord if "hread" in words]) == 1, on_discord
    assert told(await in_the_thread()) == 1


async def test_a_bot_s_message_crosses_and_our_own_does_not_come_back(own_pair: FullStack) -> None:
    feed = own_pair.control.create_webhook(own_pair.channels["help"], "GitHub", own_pair.people["Ben"])
    own_pair.control.say_as_webhook(feed["id"], "a new release")
    await own_pair.until_matrix("help", lambda words: words == ["a new release"])
    await own_pair.tell("help", "nice")
    await own_pair.until_discord("help", lambda words: words == ["a new release", "nice"])
    own_pair.say("help", "indeed")
    await own_pair.until_matrix("help", lambda words: len(words) == 3)
    assert await own_pair.matrix_words("help") == ["a new release", "nice", "indeed"]
    assert await own_pair.discord_words("help") == ["a new release", "nice", "indeed"]


async def test_what_cannot_cross_arrives_as_words(own_pair: FullStack) -> None:
    # 10 MiB is what an unboosted server takes.
    uri = await own_pair.mia.upload(b"x" * 10_500_000, "image/png", "cat.png")
    info = {"size": 10_500_000, "mimetype": "image/png"}
    content = {"msgtype": "m.image", "body": "see here", "filename": "cat.png", "url": uri, "info": info}
    event = await own_pair.mia.send(own_pair.rooms["help"], content)
    seen = await own_pair.until_discord("help", lambda words: len(words) == 1)
    assert "see here" in seen[0]
    assert "cat.png" in seen[0]
    assert "10.5 MB" in seen[0]
    assert event in seen[0]
    lottie = own_pair.control.create_sticker(own_pair.guild, "wave", 3, {"data": "e30="})
    own_pair.say("help", "", stickers=[lottie["id"]])
    words = await own_pair.until_matrix("help", lambda words: len(words) == 2)
    assert words[1] == "*sticker:* wave.webp (impossible to draw)\nwave"


async def test_nothing_pings_and_no_html_gets_through(own_pair: FullStack) -> None:
    await own_pair.tell("help", f"@everyone @here <@{own_pair.people['Ada']}> **not bold** <b>x</b>")
    await own_pair.until_discord("help", lambda words: len(words) == 1)
    message = own_pair.on_discord("help")[0]
    assert not message["mention_everyone"]
    assert not message["mentions"]
    assert message["pinged"] == {"everyone": False, "users": [], "roles": []}
    own_pair.say("help", "<script>alert(1)</script> <b>x</b> @room")
    await own_pair.until_matrix("help", lambda words: len(words) == 2)
    copy = (await own_pair.on_matrix("help"))[1]
    assert "<script" not in copy.formatted_body
    assert "<b>" not in copy.formatted_body
    assert not copy.content["m.mentions"].get("room")


async def test_three_pairs_at_once_with_a_restart_in_the_middle(homeserver: Homeserver, tmp_path: Path) -> None:
    names = ("one", "two", "three")
    async with stack(tmp_path, homeserver, names) as place:
        await place.daemon.start()

        async def talk(start: int, end: int) -> None:
            for number in range(start, end):
                for name in names:
                    place.say(name, f"d{number} in {name}")
                    await place.tell(name, f"m{number} in {name}")

        await talk(0, 10)
        assert await place.daemon.stop() == 0
        await talk(10, 20)
        await place.daemon.start()
        await talk(20, 30)
        await place.daemon.kill()
        await talk(30, 40)
        await place.daemon.start()
        await talk(40, 50)
        for name in names:
            # Whatever would be doubled or late has come before these.
            place.say(name, "the end")
            await place.tell(name, "la fin")
        for name in names:
            await place.until_matrix(name, lambda words: "the end" in words)
            await place.until_discord(name, lambda words: "la fin" in words)
            on_matrix, on_discord = await place.matrix_words(name), await place.discord_words(name)
            for letter, seen in (("d", on_matrix), ("m", on_discord)):
                crossed = [words for words in seen if words.startswith(letter)]
                assert crossed == [f"{letter}{number} in {name}" for number in range(50)]
            assert len(on_matrix) == len(on_discord) == 102


async def test_a_flattened_thread_crosses_as_replies_to_its_root(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver) as place:
        place.pair_settings["help"] = 'thread_messages = "flatten"'
        place.write_config()
        await place.daemon.start()
        channel, ada = place.channels["help"], place.people["Ada"]
        root = place.say("help", "root")
        await place.until_matrix("help", lambda words: words == ["root"])
        thread = place.control.open_thread(channel, ada, "branch", message=root)["id"]
        inside = place.control.say(thread, ada, "leaf")["id"]
        await place.until_matrix("help", lambda words: "leaf" in words)
        shown = await place.on_matrix("help")
        leaf = next(message for message in shown if message.body.endswith("leaf"))
        assert leaf.reply_to == shown[0].event_id
        # Links to what was said there, from here and from there.
        link = f"https://discord.com/channels/{place.guild}/{thread}/{inside}"
        place.say("help", f"see {link}")
        await place.until_matrix("help", lambda words: leaf.event_id in words[-1])
        await place.tell("help", f"https://matrix.to/#/{place.rooms['help']}/{leaf.event_id}")
        await place.until_discord("help", lambda words: words[-1] == link)
