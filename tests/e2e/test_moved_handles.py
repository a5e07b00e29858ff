"""What the relay knows of a platform changes under it: a webhook is moved, an alias names another room."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from relay.demo.homeserver import Homeserver
from tests.support.matrix import HomeserverProxy
from tests.support.patience import PATIENCE
from tests.support.stack import FullStack, eventually, stack
from tests.support.unsynced import Unsynced

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def until_logged(place: FullStack, words: str) -> None:
    """Wait for a line of the daemon's log."""

    async def lines() -> list[str]:
        return [line for line in place.daemon.log(10_000).splitlines() if words in line]

    await eventually(lines, bool, what=place.daemon.log)


def contains(text: str, words: list[str]) -> bool:
    return text in words


async def started(place: FullStack) -> str:
    """A daemon that has posted through its webhook and heard all that Discord says of it; the webhook's ID."""
    await place.daemon.start()
    for text in ("one", "two"):
        await place.tell("help", text)
        await place.until_discord("help", partial(contains, text))
        place.say("help", f"{text} arrived")
        await place.until_matrix("help", partial(contains, f"{text} arrived"))
    return str(place.control.webhooks(place.channels["help"])[0]["id"])


@pytest.mark.parametrize("announced", [True, False])
async def test_a_webhook_that_a_moderator_moves_posts_nothing_elsewhere(
    homeserver: Homeserver, tmp_path: Path, announced: bool
) -> None:
    async with stack(tmp_path, homeserver) as place:
        hook = await started(place)
        staff = place.control.create_channel(place.guild, "staff")["id"]
        if not announced:
            place.control.add_gateway_fault("drop", event="WEBHOOKS_UPDATE", count=5)
        place.control.move_webhook(hook, staff)
        await place.tell("help", "three")
        shown = await place.until_discord("help", lambda words: "three" in words)
        assert shown == ["one", "one arrived", "two", "two arrived", "three"]
        assert place.control.messages(staff) == []
        if not announced:
            await until_logged(place, "webhook moved by somebody")
            await until_logged(place, "message taken back from the wrong channel")


async def test_a_kill_between_a_stray_message_and_its_removal_leaves_nothing_behind(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with stack(tmp_path, homeserver, ("help", "staff")) as place:
        hook = await started(place)
        # The same words by the same person, where they belong.
        await place.tell("staff", "three")
        await place.until_discord("staff", lambda words: words == ["three"])
        place.control.add_gateway_fault("drop", event="WEBHOOKS_UPDATE", count=5)
        place.control.move_webhook(hook, place.channels["staff"])
        place.control.add_fault("hang", method="DELETE", path="/webhooks/", when="before", seconds=600)
        await place.tell("help", "three")
        await place.until_discord("staff", lambda words: words == ["three", "three"])
        await place.daemon.kill()
        place.control.clear_faults()

        await place.daemon.start()
        await place.until_discord("help", lambda words: "three" in words)
        await place.tell("staff", "four")
        shown = await place.until_discord("staff", lambda words: "four" in words)
        assert shown == ["three", "four"]
        assert (await place.discord_words("help"))[-1] == "three"
        assert not any(message["webhook_id"] == hook for message in place.on_discord("staff"))
        assert await place.matrix_words("staff") == ["three", "four"]


async def test_a_copy_whose_webhook_was_moved_is_edited_and_removed(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver) as place:
        hook = await started(place)
        first, second = [await place.tell("help", text) for text in ("to be mended", "to be removed")]
        await place.until_discord("help", lambda words: "to be removed" in words)
        place.control.move_webhook(hook, place.control.create_channel(place.guild, "staff")["id"])
        await place.mia.edit(place.rooms["help"], first, "mended")
        await place.mia.redact(place.rooms["help"], second)
        old = {"to be mended", "to be removed"}
        await place.until_discord("help", lambda words: "mended" in words and not old & {*words})


async def upgrade(place: FullStack) -> tuple[str, str]:
    """The pair's room is upgraded; the old one, and the new one that the stack goes on in."""
    old = place.rooms["help"]
    answer = await place.mia.call("POST", f"client/v3/rooms/{old}/upgrade", {"new_version": "12"})
    place.rooms["help"] = str(answer["replacement_room"])
    return old, place.rooms["help"]


async def test_a_room_upgrade_loses_nothing_and_writes_nothing_into_the_old_room(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with stack(tmp_path, homeserver) as place:
        place.rooms["help"] = await place.mia.create_room("help", invite=[place.relay_user], version="11")
        await place.mia.set_power(place.rooms["help"], users={place.mia.user_id: 100, place.relay_user: 50})
        place.write_config()
        await started(place)
        old, _ = await upgrade(place)
        await place.tell("help", "the first words in the new room")
        place.say("help", "and from over there")
        await place.until_discord("help", partial(contains, "the first words in the new room"))
        await place.until_matrix("help", partial(contains, "and from over there"))

        # Once more, while the relay is away and messages wait on both sides. It is still declared by its first ID.
        await place.daemon.stop()
        place.say("help", "said before the second upgrade")
        await place.tell("help", "the last words in the second room")
        second, _ = await upgrade(place)
        await place.tell("help", "the first words in the third room")
        await place.daemon.start()
        await place.until_discord("help", partial(contains, "the first words in the third room"))
        await place.until_matrix("help", partial(contains, "said before the second upgrade"))
        assert (await place.discord_words("help"))[-3:] == [
            "said before the second upgrade",
            "the last words in the second room",
            "the first words in the third room",
        ]
        for room, last in ((old, "two arrived"), (second, "and from over there")):
            shown = [message.body for message in await place.mia.messages(room) if message.name]
            assert shown[-1].endswith(last)
        note = f"{old} has been replaced by help ({place.rooms['help']})"
        await place.until_status(
            lambda pairs: pairs["help"]["problem"] is None and (pairs["help"]["note"] or "").startswith(note)
        )
        await until_logged(place, "matrix_room may name the new room")


@pytest.mark.parametrize("restarted", [False, True])
async def test_edits_and_deletions_reach_copies_in_a_room_that_was_upgraded(
    homeserver: Homeserver, tmp_path: Path, restarted: bool
) -> None:
    async with stack(tmp_path, homeserver) as place:
        place.rooms["help"] = await place.mia.create_room("help", invite=[place.relay_user], version="11")
        await place.mia.set_power(place.rooms["help"], users={place.mia.user_id: 100, place.relay_user: 50})
        place.write_config()
        await started(place)
        channel = place.channels["help"]
        mended, secret, later = [place.say("help", words) for words in ("to be mended", "a secret", "another secret")]
        await place.until_matrix("help", partial(contains, "another secret"))
        old, _ = await upgrade(place)
        place.say("help", "said in the new room")
        await place.until_matrix("help", partial(contains, "said in the new room"))
        if restarted:
            await place.daemon.stop()
        place.control.edit(channel, mended, "mended")
        place.control.delete(channel, secret)
        if restarted:
            await place.daemon.start()

        async def words() -> set[str]:
            return {message.body.partition(": ")[2] or message.body for message in await place.mia.messages(old)}

        def changed(shown: set[str]) -> bool:
            return "mended" in shown and not {"to be mended", "a secret"} & shown

        await eventually(words, changed)
        assert "another secret" in await words()
        # The operator has another room in its place: what is deleted goes from the old ones all the same.
        place.rooms["help"] = await place.mia.create_room("other", invite=[place.relay_user])
        place.write_config()
        place.daemon.send_signal(signal.SIGHUP)
        await until_logged(place, f'"channel": "{place.rooms["help"]}"')
        place.say("help", "said in another room")
        await place.until_matrix("help", partial(contains, "said in another room"))
        place.control.delete(channel, later)
        await eventually(words, lambda shown: "another secret" not in shown)


@asynccontextmanager
async def upgradable(homeserver: Homeserver, folder: Path) -> AsyncIterator[tuple[FullStack, Unsynced]]:
    """A stack whose room lets the relay write in it after an upgrade, too, behind what keeps things back."""
    async with stack(folder, homeserver) as place, HomeserverProxy(homeserver.url) as proxy:
        place.rooms["help"] = await place.mia.create_room("help", invite=[place.relay_user], version="11")
        await place.mia.set_power(place.rooms["help"], users={place.mia.user_id: 100, place.relay_user: 50})
        place.write_config(homeserver_url=proxy.url)
        yield place, Unsynced(proxy)


async def relay_words(place: FullStack, room: str) -> list[str]:
    """What the relay's account says in a room, without names."""
    found = [message for message in await place.mia.messages(room) if message.sender == place.relay_user]
    return [message.body.removeprefix(f"{message.name}: ") for message in found if not message.redacted]


async def test_what_is_posted_behind_a_tombstone_that_sync_has_not_told_is_posted_again(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with upgradable(homeserver, tmp_path) as (place, unsynced):
        await started(place)
        channel = place.channels["help"]
        unsynced.tells.clear()
        old, new = await upgrade(place)
        first, second, third = [place.say("help", words) for words in ("stranded", "to be mended", "to be removed")]
        place.say("help", "an answer", reply_to=second)
        crossed = ["one arrived", "two arrived", "stranded", "to be mended", "to be removed", "an answer"]
        await eventually(lambda: relay_words(place, old), lambda words: words == crossed, what=place.daemon.log)
        place.control.edit(channel, second, "mended")
        crossed[3] = "mended"
        await eventually(lambda: relay_words(place, old), lambda words: words == crossed, what=place.daemon.log)
        unsynced.tells.set()
        place.say("help", "behind them")
        expected = [*crossed[2:], "behind them"]
        await place.until_matrix("help", lambda words: words == expected)
        shown = await place.on_matrix("help")
        events = {event["event_id"]: event for event in await place.mia.events(new)}
        answer = next(message.event_id for message in shown if message.body.endswith("an answer"))
        relation = events[answer]["content"]["m.relates_to"]
        assert relation == {"m.in_reply_to": {"event_id": shown[1].event_id}}
        await eventually(lambda: relay_words(place, old), partial(eq, crossed[:2]), what=place.daemon.log)
        # From now on these are the copies.
        place.control.edit(channel, first, "still heard")
        place.control.delete(channel, third)
        await place.until_matrix("help", partial(eq, ["still heard", "mended", "an answer", "behind them"]))
        assert await relay_words(place, old) == crossed[:2]


@pytest.mark.parametrize("killed_in", ["old", "new"])
async def test_a_kill_while_what_was_stranded_is_posted_again_doubles_nothing(
    homeserver: Homeserver, tmp_path: Path, killed_in: str
) -> None:
    """Killed before it is on record that it was posted: in the old room, or in the new one."""
    async with upgradable(homeserver, tmp_path) as (place, unsynced):
        await started(place)
        unsynced.tells.clear()
        old, new = await upgrade(place)
        if killed_in == "new":
            place.say("help", "stranded")
            await eventually(lambda: relay_words(place, old), lambda words: "stranded" in words, what=place.daemon.log)
            unsynced.lost_in = new
            unsynced.tells.set()
        else:
            unsynced.lost_in = old
            place.say("help", "stranded")
        await asyncio.wait_for(unsynced.lost.wait(), PATIENCE)
        await place.daemon.kill()
        unsynced.lost_in = ""
        unsynced.tells.set()
        await place.daemon.start()
        place.say("help", "behind it")
        await place.until_matrix("help", partial(contains, "behind it"))
        assert await place.matrix_words("help") == ["stranded", "behind it"]
        await eventually(lambda: relay_words(place, old), lambda words: "stranded" not in words, what=place.daemon.log)


async def test_what_was_stranded_and_is_deleted_around_a_kill_stays_in_neither_room(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    """Posted in the new room, and not on record there: once it is gone from the old one, nothing leads to it."""
    async with upgradable(homeserver, tmp_path) as (place, unsynced):
        await started(place)
        unsynced.tells.clear()
        old, new = await upgrade(place)
        said = place.say("help", "stranded")
        await eventually(lambda: relay_words(place, old), lambda words: "stranded" in words, what=place.daemon.log)
        unsynced.lost_in = new
        unsynced.tells.set()
        await asyncio.wait_for(unsynced.lost.wait(), PATIENCE)
        place.control.delete(place.channels["help"], said)
        await place.until_status(lambda pairs: pairs["help"]["to_matrix"]["backlog"] == 1)
        await place.daemon.kill()
        unsynced.lost_in = ""
        await place.daemon.start()
        place.say("help", "behind it")
        await place.until_matrix("help", partial(eq, ["behind it"]))
        await eventually(lambda: relay_words(place, old), lambda words: "stranded" not in words, what=place.daemon.log)


async def test_a_reload_in_the_middle_of_an_upgrade_loses_nothing(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver) as place:
        place.rooms["help"] = await place.mia.create_room("help", invite=[place.relay_user], version="11")
        declared = place.rooms["help"]
        place.write_config()
        await started(place)
        channel = place.channels["help"]
        # What is sent just then is still under way.
        for number in range(5):
            place.control.say(channel, place.people["Ada"], f"said meanwhile {number}")
        await upgrade(place)
        new, place.rooms["help"] = place.rooms["help"], declared
        for _ in range(3):
            place.write_config(extra="[defaults]\nmax_parts = 4")
            place.daemon.send_signal(signal.SIGHUP)
            await place.mia.text(new, "said in the new room")
        place.rooms["help"] = new
        await place.until_discord("help", lambda words: words.count("said in the new room") == 3)
        place.say("help", "at last")
        await place.until_matrix("help", partial(contains, "at last"))
        said = [*(f"said meanwhile {number}" for number in range(5)), "at last"]
        in_old, in_new = [
            [words for words in await relay_words(place, room) if words in said] for room in (declared, new)
        ]
        assert len({*in_new}) == len(in_new)
        # What was said behind the tombstone is in both, because the relay has no power to remove it from the old room.
        assert list(dict.fromkeys(in_old + in_new)) == said


async def test_a_replacement_without_an_invitation_is_told_in_the_status(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with stack(tmp_path, homeserver) as place:
        place.rooms["help"] = await place.mia.create_room("help", public=False, invite=[place.relay_user], version="11")
        place.write_config()
        await started(place)
        _, new = await upgrade(place)

        def told(pairs: dict[str, dict[str, Any]]) -> bool:
            return all(words in (pairs["help"]["problem"] or "") for words in (f"upgraded to {new}", "invite it"))

        await place.until_status(told)
        await place.tell("help", "before the relay is let in")
        place.say("help", "and waiting for it")
        await place.mia.invite(new, place.relay_user)
        await place.until_discord("help", partial(contains, "before the relay is let in"))
        await place.until_matrix("help", partial(contains, "and waiting for it"))
        await place.until_status(lambda pairs: pairs["help"]["problem"] is None)


@pytest.mark.parametrize("restarted", [False, True])
async def test_an_alias_that_is_given_to_another_room_takes_its_pair_along(
    homeserver: Homeserver, tmp_path: Path, restarted: bool
) -> None:
    async with stack(tmp_path, homeserver) as place:
        localpart = f"given-{uuid4().hex}"
        first = await place.mia.create_room("first", alias=localpart)
        second = await place.mia.create_room("second")
        alias = place.rooms["help"] = f"#{localpart}:{homeserver.server_name}"
        place.write_config()
        place.rooms["help"] = first
        await started(place)
        await place.mia.text(second, "said before the alias named it")
        if restarted:
            await place.daemon.stop()
        await place.mia.set_alias(alias, second)
        await place.mia.set_state(first, "m.room.canonical_alias", {})
        place.rooms["help"] = second
        if restarted:
            await place.daemon.start()
        await until_logged(place, "alias names another room now")

        async def room() -> str:
            [pair] = (await place.daemon.status())["pairs"]
            return str(pair["channels"]["matrix"]["id"]) if pair["problem"] is None else ""

        await eventually(room, lambda found: found == second, what=place.daemon.log)
        place.say("help", "into the second room")
        await place.until_matrix("help", partial(contains, "into the second room"))
        await place.mia.text(first, "does anybody hear this?")
        await place.tell("help", "from the second room")
        shown = await place.until_discord("help", partial(contains, "from the second room"))
        assert shown[-2:] == ["into the second room", "from the second room"]
        in_first = [message.body for message in await place.mia.messages(first) if message.name]
        assert in_first[-1].endswith("two arrived")


async def test_a_tombstone_that_names_a_room_which_replaces_none_leads_nowhere(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with stack(tmp_path, homeserver) as place:
        await started(place)
        old, other = place.rooms["help"], await place.mia.create_room("other")
        await place.mia.set_state(old, "m.room.tombstone", {"body": "moved", "replacement_room": other})

        async def problem() -> str:
            return str((await place.daemon.status())["pairs"][0]["problem"])

        async def backlog() -> int:
            return int((await place.daemon.status())["pairs"][0]["to_matrix"]["backlog"])

        for waiting in (1, 2):
            await eventually(problem, lambda text: f"upgraded to {other}" in text and "declare the right room" in text)
            place.say("help", "waits for a room")
            await eventually(backlog, partial(eq, waiting), what=place.daemon.log)
            await place.daemon.stop()
            await place.daemon.start()

        async def in_other() -> bool:
            joined = await place.mia.call("GET", f"client/v3/rooms/{other}/joined_members")
            return place.relay_user in joined["joined"]

        # After each start it joins to see what that room replaces, and leaves.
        await eventually(in_other, lambda found: not found, what=place.daemon.log)
        for room in (old, other):
            assert not [message for message in await place.mia.messages(room) if "waits for a room" in message.body]
