"""`relay backfill`: what was said before the relay came crosses once, in order, silently, and goes on after a kill."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relay.demo.homeserver import Homeserver
from tests.support.stack import FullStack, eventually, stack
from tests.support.terminal import terminal

pytestmark = pytest.mark.asyncio(loop_scope="session")

TODAY = f"{datetime.now(UTC).day} {datetime.now(UTC):%B %Y}"
NOTICE = f"Said before the relay was here, on {TODAY}:"


async def test_the_past_of_both_sides_crosses_once_in_order_and_notifies_nobody(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with stack(tmp_path, homeserver) as place:
        ada = place.people["Ada"]
        first = place.say("help", "one")
        place.say("help", f"two for <@{ada}>", who="Ben", reply_to=first)
        gone = place.say("help", "gone")
        edited = place.say("help", "thre")
        place.control.edit(place.channels["help"], edited, "three")
        place.control.delete(place.channels["help"], gone)
        place.control.react(place.channels["help"], first, ada, "👍")
        told = await place.tell("help", "eins")
        slip = await place.tell("help", "zwo")
        await place.mia.edit(place.rooms["help"], slip, "zwei")
        await place.mia.redact(place.rooms["help"], await place.tell("help", "weg"))
        await place.tell("help", "!relay help")
        await place.daemon.start()
        place.say("help", "today")
        await place.tell("help", "heute")
        await place.until_matrix("help", lambda words: "today" in words)
        await place.until_discord("help", lambda words: "heute" in words)

        status, output = await place.daemon.relay("backfill", "help")
        assert status == 0, output
        assert "help to Matrix: 3 messages brought across." in output
        assert "help to Discord: 2 messages brought across, 1 left out." in output
        on_matrix = await place.until_matrix("help", lambda words: "three" in words)
        assert on_matrix[on_matrix.index("today") :] == ["today", NOTICE, "one", "two for @Ada", "three"]
        on_discord = await place.until_discord("help", lambda words: "zwei" in words)
        assert on_discord[on_discord.index("heute") :] == ["heute", NOTICE, "eins", "zwei"]
        for message in place.on_discord("help")[-3:]:
            assert message["flags"] == 1 << 12
        shown = {message.body: message for message in await place.on_matrix("help")}
        assert shown["Ada: one"].content["msgtype"] == "m.notice"
        assert shown["Ben: two for @Ada"].content["m.mentions"] == {}
        assert shown["Ben: two for @Ada"].reply_to == shown["Ada: one"].event_id

        # What crossed is known from then on: an edit and a deletion follow, and to ask again begins nothing.
        await place.mia.edit(place.rooms["help"], told, "eins!")
        place.control.delete(place.channels["help"], edited)
        await place.until_discord("help", lambda words: "eins!" in words)
        await place.until_matrix("help", lambda words: "three" not in words)
        status, output = await place.daemon.relay("backfill", "help")
        assert status == 0, output
        assert "help to Matrix: 3 messages brought across." in output
        before = (await place.matrix_words("help"), await place.discord_words("help"))
        await place.daemon.kill()
        await place.daemon.start()
        await place.talk("later")
        await place.until_matrix("help", lambda words: "d later" in words)
        await place.until_discord("help", lambda words: "m later" in words)
        after = (await place.matrix_words("help"), await place.discord_words("help"))
        assert [[word for word in words if "later" not in word] for words in after] == list(before)


async def test_it_goes_on_after_each_kill_beside_what_is_said_today(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver) as place:
        said = [f"d past {number}" for number in range(80)]
        for word in said:
            place.say("help", word)
        await place.daemon.start()
        status, output = await place.daemon.relay("backfill", "help", "--to", "matrix", "--no-wait")
        assert status == 0, output
        for number, reached in enumerate((1, 23, 41, 60)):
            await place.until_matrix("help", lambda words, reached=reached: said[reached] in words)  # type: ignore[misc]
            await place.daemon.kill()
            place.say("help", f"d today {number}")
            await place.daemon.start()
        await place.until_matrix("help", lambda words: said[-1] in words and "d today 3" in words)
        words = await place.matrix_words("help")
        assert [word for word in words if "past" in word] == said
        assert [word for word in words if "today" in word] == [f"d today {number}" for number in range(4)]
        assert words.count(NOTICE) == 1


async def test_it_rests_and_goes_on_from_there(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver) as place:
        said = [f"d {number}" for number in range(120)]
        for word in said:
            place.say("help", word)
        await place.daemon.start()
        relay = place.daemon.relay
        assert (await relay("backfill", "help", "--stop"))[0] == 1
        assert (await relay("backfill", "help", "--to", "matrix", "--no-wait"))[0] == 0
        await place.until_matrix("help", lambda words: said[20] in words)
        found = await place.until_status(lambda pairs: bool(pairs["help"]["note"]))
        assert "What was said before the relay came crosses to Matrix, and has reached" in found["help"]["note"]
        status, output = await relay("backfill", "help", "--since", "2020-01-01")
        assert status == 1
        assert "is not at its end: let it go on without options" in output
        assert (await relay("backfill", "help", "--stop"))[0] == 0
        await place.until_status(lambda pairs: not pairs["help"]["note"] and not pairs["help"]["to_matrix"]["backlog"])
        rested = await place.matrix_words("help")
        assert said[-1] not in rested
        status, output = await relay("backfill", "help")
        assert status == 0, output
        assert "help to Matrix: 120 messages brought across." in output
        words = await place.until_matrix("help", lambda words: said[-1] in words)
        assert words == [NOTICE, *said]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nobody"], "there is no pair nobody"),
        (["help", "--since", "yesterday"], "yesterday"),
        (["help", "--since", "2024-02-01", "--before", "2024-02-01"], "--since has to be earlier than --before"),
        (["help", "--since", "0001-01-01", "--to", "irc"], "irc"),
        (["help", "--stop", "--to", "matrix"], "--stop takes no other options"),
        (["help", "--to", "both"], "both is no side of a pair: write discord or matrix"),
        ([], "PAIR"),
    ],
)
async def test_what_is_asked_for_wrongly_is_told(help_stack: FullStack, arguments: list[str], told: str) -> None:
    status, output = await help_stack.daemon.relay("backfill", *arguments)
    assert status == 2, output
    assert told in output


async def test_where_the_store_does_not_know_since_when_it_mirrors_the_day_has_to_be_said(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with stack(tmp_path, homeserver) as place:
        place.say("help", "past")
        await place.daemon.start()
        place.say("help", "today")
        await place.until_matrix("help", lambda words: "today" in words)
        assert await place.daemon.stop() == 0
        with closing(sqlite3.connect(place.store_url.removeprefix("sqlite:///"))) as store, store:
            store.execute("UPDATE cursor SET began = NULL")
        await place.daemon.start()
        relay = place.daemon.relay
        status, output = await relay("backfill", "help", "--to", "matrix")
        assert status == 1
        assert "say with --before which messages are older than the first that crossed" in output
        tomorrow = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}"
        status, output = await relay("backfill", "help", "--to", "matrix", "--before", tomorrow)
        assert status == 0, output
        assert await place.until_matrix("help", lambda words: "past" in words) == ["today", NOTICE, "past"]


async def test_a_terminal_shows_a_bar(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver) as place:
        for number in range(30):
            place.say("help", f"d {number}")
        await place.daemon.start()
        config = str(place.daemon.config)
        async with terminal("backfill", "help", "--to", "matrix", "--config", config, folder=place.folder) as screen:
            await screen.ended()
            told = screen.text
        assert "30 messages brought across" in told, told
        assert "100%" in told, told
        await eventually(lambda: place.matrix_words("help"), lambda words: "d 29" in words, what=place.daemon.log)


async def test_the_past_of_a_thread_a_post_and_a_voice_channel_crosses(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver, ("help", "thread", "post", "voice")) as place:
        ada, here = place.people["Ada"], place.channels["help"]
        forum = place.control.create_channel(place.guild, "ideas", type=15)["id"]
        place.channels |= {
            "thread": place.control.open_thread(here, ada, "long ago", place.say("help", "of a thread"))["id"],
            "post": place.control.open_post(forum, ada, "an idea", "What about this?")["id"],
            "voice": place.control.create_channel(place.guild, "talk", type=2)["id"],
        }
        for pair in place.channels:
            place.say(pair, f"d {pair}")
            await place.tell(pair, f"m {pair}")
        for start in (None, place.say("help", "of another")):
            place.control.say(place.control.open_thread(here, ada, "aside", start)["id"], ada, "without a pair")
        place.control.archive_thread(place.channels["thread"])
        place.write_config()
        await place.daemon.start()
        for pair in place.channels:
            status, output = await place.daemon.relay("backfill", pair)
            assert status == 0, output
            assert ("without what was said in 2 threads" in output) is (pair == "help"), output
        before = {"help": ["of a thread"], "post": ["What about this?"]}
        after = {"help": ["of another"]}
        for pair in place.channels:
            said = [*before.get(pair, []), f"d {pair}", *after.get(pair, [])]
            words = await place.until_matrix(pair, lambda words, last=said[-1]: last in words)  # type: ignore[misc]
            assert words == [f"m {pair}", NOTICE, *said]
            words = await place.until_discord(pair, lambda words, pair=pair: f"m {pair}" in words)  # type: ignore[misc]
            assert words[-2:] == [NOTICE, f"m {pair}"]
