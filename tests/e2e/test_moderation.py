"""Moderators of one side, and what was written on the other."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.sandbox.messages.media import flat_png
from tests.support.chat import file
from tests.support.stack import FullStack, eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

PNG = flat_png(0x336699, 48)


def contains(text: str, words: list[str]) -> bool:
    return text in words


def lacks(text: str, words: list[str]) -> bool:
    return text not in words


async def on_record(place: FullStack, pair: str, direction: str, copies: int = 1) -> None:
    """Wait until so many are on record: a copy can be seen before, and what is not on record is none to the relay."""
    await place.until_metric("relay_messages_total", copies, pair=pair, direction=direction)


async def copy_on_matrix(place: FullStack, pair: str, text: str) -> str:
    await place.until_matrix(pair, partial(contains, text))
    shown = await place.on_matrix(pair)
    return str(next(message.event_id for message in shown if message.body.endswith(text)))


async def test_a_removed_copy_takes_its_original_along_where_the_pair_says_so(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with stack(tmp_path, homeserver, ("help", "kept")) as place:
        place.pair_settings["help"] = "moderation.deletions = true"
        for pair in place.rooms:
            await place.mia.set_power(place.rooms[pair], users={place.relay_user: 50})
        place.write_config()
        await place.daemon.start()
        for pair in place.rooms:
            place.say(pair, "rude on Discord")
            event = await copy_on_matrix(place, pair, "rude on Discord")
            await on_record(place, pair, "to_matrix")
            await place.mia.redact(place.rooms[pair], event)
            await place.tell(pair, "rude on Matrix")
            await place.until_discord(pair, partial(contains, "rude on Matrix"))
            await on_record(place, pair, "to_discord")
            copy = next(message for message in place.on_discord(pair) if message["content"] == "rude on Matrix")
            place.control.delete(place.channels[pair], copy["id"])
        await place.until_discord("help", partial(lacks, "rude on Discord"))
        await place.until_matrix("help", partial(lacks, "rude on Matrix"))
        # By default what was written stays where it was written.
        place.say("kept", "the end")
        await place.tell("kept", "the end")
        for until in (place.until_matrix, place.until_discord):
            await until("kept", lambda words: words.count("the end") == 2)
        assert "rude on Discord" in await place.discord_words("kept")
        assert "rude on Matrix" in await place.matrix_words("kept")

        # What the relay removes itself, when an edit makes a message shorter, takes nothing along.
        long = place.say("help", "word " * 390 + "*" * 20)
        event = await place.tell("help", "long " * 500)
        await place.until_discord("help", lambda words: sum("long long" in text for text in words) > 1)
        await place.mia.edit(place.rooms["help"], event, "short")
        await place.until_discord("help", lambda words: "short" in words and not any("long long" in t for t in words))
        await place.mia.text(place.rooms["help"], "the end")
        place.say("help", "the end")
        for until in (place.until_matrix, place.until_discord):
            await until("help", lambda words: words.count("the end") == 2)
        assert "short" in await place.matrix_words("help")
        assert any(message["id"] == long for message in place.on_discord("help"))


async def test_where_the_bot_may_not_remove_it_it_stays_and_is_counted(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver) as place:
        place.pair_settings["help"] = "moderation.deletions = true"
        place.write_config()
        await place.daemon.start()
        await place.tell("help", "rude on Matrix")
        await place.until_discord("help", partial(contains, "rude on Matrix"))
        await on_record(place, "help", "to_discord")
        place.control.delete(place.channels["help"], place.on_discord("help")[0]["id"])
        place.say("help", "after that")
        await place.until_matrix("help", partial(contains, "after that"))
        await place.until_metric("relay_dropped_total", 1, pair="help", feature="moderation")
        assert "rude on Matrix" in await place.matrix_words("help")


async def test_whoever_is_blocked_or_on_a_policy_list_does_not_cross(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver, ("help", "open")) as place:
        bans = await place.mia.create_room()
        rule = {"entity": f"@mal-*:{homeserver.server_name}", "recommendation": "m.ban", "reason": "spam"}
        await place.mia.set_state(bans, "m.policy.rule.user", rule, "mal")
        place.pair_settings["help"] = (
            f'moderation.policy_lists = "{bans}"\nmoderation.blocked = "{place.people["Ben"]}, @*:evil.example"'
        )
        place.write_config()
        async with another(homeserver, "mal", *place.rooms.values()) as mal:
            await place.daemon.start()
            await until_logged(place, "policy list read", added=1)
            _, told = await place.daemon.relay("check", "--json")
            [finding] = [one for one in json.loads(told)["findings"] if one["subject"] == f"policy list {bans}"]
            assert finding["state"] == "ok"
            for pair in place.rooms:
                await mal.text(place.rooms[pair], "spam on Matrix")
                place.say(pair, "spam on Discord", who="Ben")
                place.say(pair, "hello")
                await place.tell(pair, "hi")
            await place.until_discord("help", lambda words: "hi" in words)
            await place.until_matrix("help", lambda words: "hello" in words)
            assert "spam on Matrix" not in await place.discord_words("help")
            assert "spam on Discord" not in await place.matrix_words("help")
            await place.until_metric("relay_dropped_total", 1, pair="help", direction="to_matrix", feature="moderation")
            await place.until_metric(
                "relay_dropped_total", 1, pair="help", direction="to_discord", feature="moderation"
            )
            # A list holds where it is named.
            await place.until_discord("open", partial(contains, "spam on Matrix"))
            await place.until_matrix("open", partial(contains, "spam on Discord"))

            # It is known before it is read again, and a rule that is taken back lets them speak.
            await place.daemon.kill()
            await mal.text(place.rooms["help"], "spam while it was away")
            await place.daemon.start()
            await place.tell("help", "after")
            await place.until_discord("help", partial(contains, "after"))
            await place.mia.set_state(bans, "m.policy.rule.user", {}, "mal")
            await until_logged(place, "policy list read", removed=1)
            await mal.text(place.rooms["help"], "sorry")
            await place.until_discord("help", partial(contains, "sorry"))
            spam = [text for text in await place.discord_words("help") if "spam" in text]
            assert spam == ["spam on Discord"]  # Ben's own words, where he wrote them

            # A reload takes the list out, and what the operator has blocked is another matter.
            await place.mia.set_state(bans, "m.policy.rule.user", rule, "mal")
            await until_logged(place, "policy list read", times=2, added=1)
            place.pair_settings["help"] = f'moderation.blocked = "{place.people["Ben"]}"'
            place.write_config()
            await until_logged(place, "policy list no longer followed")
            await mal.text(place.rooms["help"], "back")
            place.say("help", "spam once more", who="Ben")
            place.say("help", "the end")
            await place.until_discord("help", partial(contains, "back"))
            await place.until_matrix("help", partial(contains, "the end"))
            assert "spam once more" not in await place.matrix_words("help")


async def until_logged(place: FullStack, event: str, *, times: int = 1, **facts: Any) -> None:
    """Wait until the daemon has written a line of the log so often, in all its lives."""

    async def count() -> int:
        lines = [json.loads(line) for line in place.daemon.log(1_000_000).splitlines() if line.startswith("{")]
        return sum(line.get("event") == event and facts.items() <= line.items() for line in lines)

    await eventually(count, lambda number: number >= times, what=lambda: place.daemon.log(200))


@asynccontextmanager
async def another(homeserver: Homeserver, name: str, *rooms: str) -> AsyncIterator[Person]:
    """Somebody else in some rooms."""
    account = f"{name}-{os.urandom(4).hex()}"
    token = await homeserver.register(account, displayname=name.title())
    async with Person(homeserver.url, f"@{account}:{homeserver.server_name}", token) as person:
        for room in rooms:
            await person.join(room)
        yield person


async def test_bans_of_either_side_follow_and_remove_what_was_written_last(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with stack(tmp_path, homeserver, ("help", "free")) as place:
        guild, ben = place.guild, place.people["Ben"]
        place.pair_settings["help"] = 'moderation.bans = true\nmoderation.ban_removes = "1h"'
        place.write_config()
        async with another(homeserver, "mal", *place.rooms.values()) as mal:
            place.write_config(extra=f'[[people]]\ndiscord = {ben}\nmatrix = "{mal.user_id}"')
            await place.daemon.start()
            # The bot may not list the bans of the server, and says so.
            await until_logged(place, "bans cannot be listed")
            await until_logged(place, "bans listed", platform="matrix")

            async def noted() -> str:
                status = await place.daemon.status()
                return next(found["note"] or "" for found in status["pairs"] if found["name"] == "help")

            await eventually(noted, lambda note: "Ban Members" in note, what=place.daemon.log)
            found, told = await place.daemon.relay("check")
            assert found == 1
            assert "give the bot's role Ban Members" in " ".join(told.split())
            role = place.control.create_role(guild, "moderators", ["BAN_MEMBERS"])["id"]
            place.control.set_role(guild, place.bot, role)
            await until_logged(place, "bans listed", platform="discord")
            _, told = await place.daemon.relay("check")
            assert "Ban Members" not in told
            assert "they can be listed" in " ".join(told.split())
            for pair in place.rooms:
                await mal.text(place.rooms[pair], "spam on Matrix")
                place.say(pair, "hello")
                await place.until_discord(pair, partial(contains, "spam on Matrix"))
                await place.until_matrix(pair, partial(contains, "hello"))
            await place.mia.ban(place.rooms["help"], mal.user_id)
            await until_logged(place, "ban followed", user=mal.user_id, linked=ben)
            await place.until_discord("help", partial(lacks, "spam on Matrix"))
            # The same person's other account is not heard there either; elsewhere nothing has changed.
            for pair in place.rooms:
                place.say(pair, "spam on Discord", who="Ben")
                place.say(pair, "after that")
                await place.until_matrix(pair, partial(contains, "after that"))
            assert "spam on Discord" not in await place.matrix_words("help")
            assert "spam on Discord" in await place.matrix_words("free")
            assert "spam on Matrix" in await place.discord_words("free")
            await place.mia.unban(place.rooms["help"], mal.user_id)
            await until_logged(place, "ban lifted", user=mal.user_id)
            place.say("help", "sorry", who="Ben")
            await place.until_matrix("help", partial(contains, "sorry"))
            await on_record(place, "help", "to_matrix", 3)

            # While the relay is away, somebody is banned on Discord.
            await place.daemon.kill()
            place.control.ban(guild, ben, reason="spam")
            await place.daemon.start()
            await until_logged(place, "ban followed", user=ben, linked=mal.user_id)
            await place.until_matrix("help", partial(lacks, "sorry"))
            await mal.join(place.rooms["help"])
            await mal.text(place.rooms["help"], "spam once more")
            await place.tell("help", "the end")
            await place.until_discord("help", partial(contains, "the end"))
            assert "spam once more" not in await place.discord_words("help")
            # Nobody was banned by the relay.
            assert mal.user_id in await place.mia.members(place.rooms["help"])
            place.control.unban(guild, ben)
            await until_logged(place, "ban lifted", user=ben)
            await mal.text(place.rooms["help"], "back")
            await place.until_discord("help", partial(contains, "back"))


async def test_what_is_for_adults_waits_then_crosses_or_is_named_as_the_operator_decides(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with stack(tmp_path, homeserver) as place:
        channel = place.channels["help"]

        async def pictures() -> list[str]:
            return [message.body for message in await place.on_matrix("help") if message.msgtype == "m.image"]

        def noted(pairs: dict[str, dict[str, Any]]) -> bool:
            return "only words cross" in (pairs["help"]["note"] or "")

        await place.daemon.start()
        place.say("help", "hello")
        await place.until_matrix("help", partial(contains, "hello"))

        # The mark is set while the relay runs: the pair waits, both ways, and says what can be done.
        place.control.set_age_restriction(channel)
        await until_logged(place, "age mark", restricted=True)
        place.say("help", "first", attachments=[file("a.png", PNG)])
        place.say("help", "second")
        await place.tell("help", "from the room")
        await place.until_status(
            lambda pairs: (
                (pairs["help"]["to_matrix"]["backlog"], pairs["help"]["to_discord"]["backlog"]) == (2, 1)
                and "age-restricted" in (pairs["help"]["problem"] or "")
            )
        )

        def refused(told: tuple[int, str]) -> bool:
            return told[0] == 1 and "write nsfw = true in this pair" in " ".join(told[1].split())

        await eventually(partial(place.daemon.relay, "status"), refused, what=place.daemon.log)
        assert await place.matrix_words("help") == ["hello", "from the room"]
        assert "from the room" not in await place.discord_words("help")

        # Saving the operator's word lets all of it cross, in order, pictures too.
        place.pair_settings["help"] = "nsfw = true"
        place.write_config()
        await place.until_matrix("help", lambda words: words == ["hello", "from the room", "first", "second"])
        await place.until_discord("help", partial(contains, "from the room"))
        assert len(await pictures()) == 1
        await place.until_status(lambda pairs: pairs["help"]["problem"] is None)

        # Where only words are to cross, a picture is named, with a link to its message, and counted.
        place.pair_settings["help"] = 'moderation.nsfw_mismatch = "mirror"'
        place.write_config()
        await place.until_status(noted)
        named = place.say("help", "third", attachments=[file("b.png", PNG)])
        await place.until_matrix("help", lambda words: any("third" in text for text in words))
        [shown] = [message for message in await place.on_matrix("help") if "third" in message.body]
        assert (shown.msgtype, "b.png" in shown.body) == ("m.text", True)
        assert f"https://discord.com/channels/{place.guild}/{channel}/{named}" in shown.formatted_body
        await place.until_metric("relay_dropped_total", 1, pair="help", direction="to_matrix", feature="nsfw")

        # Once the mark is gone, what was written under it stays words, also when it is edited; what is new crosses.
        place.control.set_age_restriction(channel, restricted=False)
        await until_logged(place, "age mark", restricted=False)
        place.control.edit(channel, named, "third, edited")
        place.say("help", "fourth", attachments=[file("c.png", PNG)])
        words = await place.until_matrix("help", lambda words: words[-1] == "fourth")
        assert any(text.startswith("third, edited") and "b.png" in text for text in words)
        assert len(await pictures()) == 2
        await place.until_status(lambda pairs: not (pairs["help"]["problem"] or noted(pairs)))
