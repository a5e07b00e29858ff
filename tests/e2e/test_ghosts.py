"""People of Discord as accounts of their own on Matrix, with a real registration at a real homeserver."""

import io
import json
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from PIL import Image

from relay.demo.matrix_client import MatrixError, Person
from relay.domain.jsontext import Json
from tests.support.chat import file
from tests.support.ghosts import (
    APPSERVICE,
    SECOND_APPSERVICE,
    SECOND_PREFIX,
    GhostHomeserver,
    ghost,
    shown,
    with_ghosts,
)
from tests.support.matrix import HomeserverProxy, pass_on
from tests.support.stack import FullStack, eventually, stack
from tests.support.unsynced import Unsynced

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ghost_homeserver(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GhostHomeserver]:
    async with GhostHomeserver(tmp_path_factory.mktemp("registration")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def place(ghost_homeserver: GhostHomeserver, tmp_path: Path) -> AsyncIterator[FullStack]:
    """A stack with ghosts, and the daemon running."""
    async with stack(tmp_path, ghost_homeserver) as made:
        with_ghosts(made)
        await made.daemon.start()
        yield made


async def member(place: FullStack, user_id: str, room: str = "") -> Json:
    return await place.mia.state(room or place.rooms["help"], "m.room.member", user_id)


async def note_says(place: FullStack, *words: str, pair: str = "help") -> None:
    await place.until_status(lambda pairs: all(word in (pairs[pair]["note"] or "") for word in words))


async def test_a_person_is_an_account_with_its_own_name(place: FullStack) -> None:
    place.say("help", "hello")
    place.say("help", "hello from Ben", who="Ben")
    place.say("help", "again")
    lines = await shown(place, "help", "hello", "hello from Ben", "again")
    assert [line.sender for line in lines] == [ghost(place), ghost(place, "Ben"), ghost(place)]
    assert (lines[0].name, lines[0].body) == ("", "hello")
    assert (await member(place, ghost(place)))["displayname"] == "Ada"
    # What they say is not taken for something that was said on Matrix.
    await place.tell("help", "an answer")
    await place.until_discord("help", lambda words: words[-1:] == ["an answer"])
    assert await place.discord_words("help") == ["hello", "hello from Ben", "again", "an answer"]


async def test_a_ghost_edits_and_removes_what_it_posted(place: FullStack) -> None:
    first, second = place.say("help", "frist"), place.say("help", "gone soon")
    await shown(place, "help", "frist", "gone soon")
    place.control.edit(place.channels["help"], first, "first")
    await shown(place, "help", "first", "gone soon")
    place.control.delete(place.channels["help"], second)
    await shown(place, "help", "first")
    events = await place.mia.events(place.rooms["help"])
    assert {event["sender"] for event in events if event["type"] == "m.room.redaction"} == {ghost(place)}


async def test_name_and_picture_are_kept_in_step_with_one_event_each(place: FullStack) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    avatar = file("cleo.png", picture.getvalue())
    cleo = place.people["Cleo"] = str(place.control.create_person("Cleo", avatar=avatar)["id"])
    place.control.join(place.guild, cleo)
    place.say("help", "here I am", who="Cleo")
    place.say("help", "still here", who="Cleo")
    await shown(place, "help", "here I am", "still here")
    profile = await member(place, ghost(place, "Cleo"))
    assert profile["displayname"] == "Cleo"
    data, _ = await place.mia.download(profile["avatar_url"])
    assert Image.open(io.BytesIO(data)).getpixel((5, 5)) == (255, 0, 0)

    place.control.rename(cleo, place.guild, nick="Cleo the Second")
    place.say("help", "under a new name", who="Cleo")
    lines = await shown(place, "help", "here I am", "still here", "under a new name")
    # It has just come in: another name so soon is said by the message itself, so that nobody floods a room with names.
    assert (lines[-1].name, lines[-1].sender) == ("Cleo the Second", ghost(place, "Cleo"))
    events = await place.mia.events(place.rooms["help"])
    assert sum(event.get("state_key") == ghost(place, "Cleo") for event in events) == 1


async def test_the_bot_invites_into_a_private_room(ghost_homeserver: GhostHomeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, ghost_homeserver, ("help", "closed")) as place:
        for pair, level in (("help", 0), ("closed", 100)):
            room = await place.mia.create_room(pair, public=False, invite=[place.relay_user])
            await place.mia.set_power(room, invite=level)
            place.rooms[pair] = room
        with_ghosts(place)
        await place.daemon.start()
        for pair in place.rooms:
            place.say(pair, "hello")
            place.say(pair, "again")
        lines = await shown(place, "help", "hello", "again")
        assert {line.sender for line in lines} == {ghost(place)}
        # Where there is no way in, the words matter more than whose they are.
        lines = await shown(place, "closed", "hello", "again")
        assert {(line.sender, line.name) for line in lines} == {(place.relay_user, "Ada")}
        await note_says(place, "the power to invite", pair="closed")
        await place.until_status(lambda pairs: pairs["closed"]["problem"] is None)


async def test_a_banned_ghost_is_silent_until_the_ban_is_lifted(place: FullStack) -> None:
    room = place.rooms["help"]
    place.say("help", "hello")
    await shown(place, "help", "hello")
    await place.mia.ban(room, ghost(place))
    await note_says(place, "Banned there", ghost(place))
    place.say("help", "does not cross")
    place.say("help", "but others do", who="Ben")
    await shown(place, "help", "hello", "but others do")
    await place.until_metric("relay_dropped_total", 1, pair="help", feature="moderation")
    # Nor after a restart, which has forgotten it.
    await place.daemon.stop()
    await place.daemon.start()
    place.say("help", "nor does this")
    await place.until_metric("relay_dropped_total", 2, pair="help", feature="moderation")
    # It has to be told before it can be over.
    await note_says(place, "Banned there", ghost(place))
    await place.mia.unban(room, ghost(place))
    await place.until_status(lambda pairs: "Banned" not in (pairs["help"]["note"] or ""))
    place.say("help", "back again")
    lines = await shown(place, "help", "hello", "but others do", "back again")
    assert lines[-1].sender == ghost(place)


async def test_one_who_was_kicked_comes_back_with_the_next_message(place: FullStack) -> None:
    place.say("help", "hello")
    await shown(place, "help", "hello")
    await place.mia.kick(place.rooms["help"], ghost(place))
    first = place.say("help", "again")
    lines = await shown(place, "help", "hello", "again")
    assert {line.sender for line in lines} == {ghost(place)}
    await place.mia.kick(place.rooms["help"], ghost(place))
    place.control.edit(place.channels["help"], first, "again, corrected")
    await shown(place, "help", "hello", "again, corrected")


async def test_where_the_registration_is_gone_the_bot_speaks(ghost_homeserver: GhostHomeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, ghost_homeserver) as place:
        with_ghosts(place)
        await place.daemon.start()
        channel = place.channels["help"]
        edited, deleted = place.say("help", "by the ghost"), place.say("help", "by the ghost, gone")
        await shown(place, "help", "by the ghost", "by the ghost, gone")

        source = f"; the as_token is from {place.daemon.config}:"

        async def letters() -> list[str]:
            _, listed = await place.daemon.relay("dead", "list", "--json")
            found = json.loads(listed)
            assert all(source in letter["reason"] for letter in found), listed
            return sorted(letter["kind"] for letter in found)

        try:
            await ghost_homeserver.stop()
            ghost_homeserver.know_registration(False)
            await ghost_homeserver.start()
            place.say("help", "by the bot")
            lines = await shown(place, "help", "by the ghost", "by the ghost, gone", "by the bot")
            assert (lines[-1].sender, lines[-1].name) == (place.relay_user, "Ada")
            await note_says(place, "does not know the registration", source)
            status, output = await place.daemon.relay("check")
            assert (status, "✗ ghosts: the homeserver does not know" in output) == (1, True), output
            assert source in output
            # Only the ghost may change what it posted. That keeps nobody waiting, and is done once the ghost is back.
            place.control.edit(channel, edited, "by the ghost, edited")
            place.control.delete(channel, deleted)
            place.say("help", "by the bot, too")
            await shown(place, "help", "by the ghost", "by the ghost, gone", "by the bot", "by the bot, too")
            await eventually(letters, lambda kinds: kinds == ["delete", "edit"], what=place.daemon.log)
        finally:
            await ghost_homeserver.stop()
            ghost_homeserver.know_registration()
            await ghost_homeserver.start()
        # Without a restart, it notices that within a minute: see the unit tests.
        await place.daemon.stop()
        await place.daemon.start()
        await shown(place, "help", "by the ghost, edited", "by the bot", "by the bot, too")
        await eventually(letters, lambda kinds: kinds == [], what=place.daemon.log)
        _, output = await place.daemon.relay("check")
        assert "✓ ghosts: the homeserver knows the registration" in output


async def test_a_pair_goes_from_the_bot_to_ghosts_and_back(place: FullStack) -> None:
    def changes() -> int:
        return sum("pair changed" in line for line in place.daemon.log(10_000).splitlines())

    async def seen() -> int:
        return changes()

    async def ghosts(wanted: bool) -> None:
        # Counted before the file is written: the daemon may notice that before the signal comes.
        before = changes()
        place.pair_settings["help"] = f"ghosts = {str(wanted).lower()}"
        with_ghosts(place)
        place.daemon.send_signal(signal.SIGHUP)
        await eventually(seen, lambda now: now > before, what=place.daemon.log)

    channel = place.channels["help"]
    first, gone = place.say("help", "by the ghost"), place.say("help", "by the ghost, gone")
    await shown(place, "help", "by the ghost", "by the ghost, gone")
    await ghosts(False)
    second, also = place.say("help", "by the bot"), place.say("help", "by the bot, gone")
    await shown(place, "help", "by the ghost", "by the ghost, gone", "by the bot", "by the bot, gone")
    place.control.edit(channel, first, "by the ghost, edited")
    place.control.delete(channel, gone)
    await shown(place, "help", "by the ghost, edited", "by the bot", "by the bot, gone")
    await ghosts(True)
    place.control.edit(channel, second, "by the bot, edited")
    place.control.delete(channel, also)
    place.say("help", "by the ghost again")
    lines = await shown(place, "help", "by the ghost, edited", "by the bot, edited", "by the ghost again")
    assert [line.sender for line in lines] == [ghost(place), place.relay_user, ghost(place)]


async def _come(place: FullStack, localpart: str, name: str) -> None:
    """Somebody joins the room."""
    token = await place.homeserver.register(localpart, displayname=name)
    async with Person(place.homeserver.url, f"@{localpart}:{place.homeserver.server_name}", token) as person:
        await place.mia.invite(place.rooms["help"], person.user_id)
        await person.join(place.rooms["help"])


async def test_what_a_ghost_sent_is_not_sent_again_after_a_crash(
    ghost_homeserver: GhostHomeserver, tmp_path: Path
) -> None:
    """Killed between the send and its record: by the same ghost, by the bot instead, and by the ghost instead of it.

    Meanwhile somebody comes whom the message names: it says the same in other words then.
    """

    async def carry_out_and_hang(request: web.Request, text: bytes) -> web.StreamResponse | None:
        if request.method == "PUT" and "/send/" in request.path and text in await request.read():
            await proxy.carry_out(request)
            sent.append(request.path)
            await place.daemon.kill()
            return web.Response(status=502)
        return None

    sent: list[str] = []
    async with HomeserverProxy(ghost_homeserver.url) as proxy, stack(tmp_path, ghost_homeserver) as place:
        expected: list[str] = []
        for number, (before, after) in enumerate(((True, True), (True, False), (False, True))):
            for wanted, text in ((before, f"before {number}"), (after, "")):
                place.pair_settings["help"] = f"ghosts = {str(wanted).lower()}"

                place.write_config(extra=APPSERVICE, homeserver_url=proxy.url)
                if text:
                    proxy.answer = partial(carry_out_and_hang, text=f"hello {number}".encode())
                    await place.daemon.start()
                    place.say("help", text)
                    expected.append(text)
                    await shown(place, "help", *expected)
                    place.say("help", f"hello {number} @Zed{number}")
                    expected.append(f"hello {number} @Zed{number}")
                    await place.daemon.wait()
                    proxy.answer = pass_on
                    await _come(place, f"zed{number}", f"Zed{number}")
            await place.daemon.start()
            place.say("help", f"after {number}")
            expected.append(f"after {number}")
            await shown(place, "help", *expected)
            await place.daemon.stop()
        assert len(sent) == 3


async def test_a_known_ghost_costs_one_request_a_message(ghost_homeserver: GhostHomeserver, tmp_path: Path) -> None:
    asked: list[str] = []

    async def note_down(request: web.Request) -> web.StreamResponse | None:
        # Every twenty seconds it is read which relay holds the pair, whatever is said.
        if "/sync" not in request.path and "/account_data/" not in request.path:
            asked.append(f"{request.method} {request.path.rpartition('/v3/')[2].split('/')[0]} {request.query_string}")
        return None

    async with HomeserverProxy(ghost_homeserver.url) as proxy, stack(tmp_path, ghost_homeserver) as place:
        place.write_config(extra=APPSERVICE, homeserver_url=proxy.url)
        await place.daemon.start()
        place.say("help", "one")
        await shown(place, "help", "one")
        await place.daemon.stop()
        await place.daemon.start()
        proxy.answer = note_down
        asked.clear()
        place.say("help", "two")
        await shown(place, "help", "one", "two")
        assert len(asked) == 1, asked
        assert "device_id=RELAY" in asked[0]


async def test_two_relays_on_one_homeserver_do_not_echo_each_other(
    place: FullStack, ghost_homeserver: GhostHomeserver, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """They have the same room, each with a channel of its own: to each, the other's ghosts are people of Matrix."""
    async with stack(tmp_path_factory.mktemp("second"), ghost_homeserver) as second:
        second.rooms["help"] = room = place.rooms["help"]
        await place.mia.invite(room, second.relay_user)
        second.write_config(extra=SECOND_APPSERVICE)
        await second.daemon.start()
        said: list[str] = []
        for number in range(3):
            for here, other in ((place, second), (second, place)):
                said.append(f"{'first' if here is place else 'second'} {number}")
                here.say("help", said[-1])
                await other.until_discord("help", lambda seen: seen == said)
                await shown(place, "help", *said)
        lines = await place.on_matrix("help")
        ours, theirs = ghost(place), ghost(second).replace("_discord_", SECOND_PREFIX)
        assert [line.sender for line in lines] == [ours, theirs] * 3
        await place.mia.text(room, "the end")
        for each in (place, second):
            # Whatever would still have come has come before this.
            await each.until_discord("help", lambda seen: seen == [*said, "the end"])


async def test_ghosts_follow_a_room_upgrade(place: FullStack) -> None:
    place.say("help", "in the old room")
    await shown(place, "help", "in the old room")
    old = place.rooms["help"]
    answer = await place.mia.call("POST", f"client/v3/rooms/{old}/upgrade", {"new_version": "12"})
    place.rooms["help"] = str(answer["replacement_room"])
    place.say("help", "in the new room")
    lines = await shown(place, "help", "in the new room")
    assert lines[0].sender == ghost(place)


@pytest.mark.parametrize("let_in", [True, False])
async def test_what_a_ghost_says_behind_a_tombstone_is_said_again_in_the_new_room(
    ghost_homeserver: GhostHomeserver, tmp_path: Path, let_in: bool
) -> None:
    """By the ghost, or under its name where the room does not let it in."""
    async with stack(tmp_path, ghost_homeserver) as place, HomeserverProxy(ghost_homeserver.url) as proxy:
        place.rooms["help"] = old = await place.mia.create_room("help", invite=[place.relay_user], version="11")
        place.write_config(extra=APPSERVICE, homeserver_url=proxy.url)
        unsynced = Unsynced(proxy)
        await place.daemon.start()
        place.say("help", "in the old room")
        await shown(place, "help", "in the old room")
        writers = {place.relay_user: 50, ghost(place): 50}
        await place.mia.set_power(old, users={place.mia.user_id: 100, **writers}, invite=50 if let_in else 100)
        if not let_in:
            await place.mia.set_state(old, "m.room.join_rules", {"join_rule": "invite"})
        unsynced.tells.clear()
        answer = await place.mia.call("POST", f"client/v3/rooms/{old}/upgrade", {"new_version": "12"})
        place.say("help", "behind the tombstone")
        await shown(place, "help", "in the old room", "behind the tombstone")
        place.rooms["help"] = new = str(answer["replacement_room"])
        unsynced.tells.set()
        if not let_in:
            await place.mia.invite(new, place.relay_user)
        (line,) = await shown(place, "help", "behind the tombstone")
        assert (line.sender, line.name) == ((ghost(place), "") if let_in else (place.relay_user, "Ada"))
        gone = place.say("help", "in the new room")
        await shown(place, "help", "behind the tombstone", "in the new room")
        place.control.delete(place.channels["help"], gone)
        await shown(place, "help", "behind the tombstone")
        place.rooms["help"] = old
        await shown(place, "help", "in the old room")


async def test_a_ghost_leaves_with_its_person_and_comes_back(ghost_homeserver: GhostHomeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, ghost_homeserver, ("help", "other")) as place:
        with_ghosts(place)
        config = place.daemon.config.read_text().replace("[discord]", "[discord]\nmembers_intent = true")
        place.daemon.config.write_text(config)
        await place.daemon.start()
        for pair in place.rooms:
            place.say(pair, "hello")
            place.say(pair, "hello from Ben", who="Ben")
            await shown(place, pair, "hello", "hello from Ben")
        gone = place.say("help", "my last words")
        ada = place.people["Ada"]
        place.control.kick(place.guild, ada)
        for room in place.rooms.values():
            await eventually(partial(place.mia.members, room), lambda there: ghost(place) not in there)
            assert ghost(place, "Ben") in await place.mia.members(room)
        await shown(place, "help", "hello", "hello from Ben", "my last words")
        # What it posted is removed all the same, and it does not stay for that.
        place.control.delete(place.channels["help"], gone)
        await shown(place, "help", "hello", "hello from Ben")
        await eventually(partial(place.mia.members, place.rooms["help"]), lambda there: ghost(place) not in there)
        place.control.join(place.guild, ada)
        place.say("help", "back again")
        lines = await shown(place, "help", "hello", "hello from Ben", "back again")
        assert lines[-1].sender == ghost(place)
        # Nobody tells of it while the daemon is away.
        await place.daemon.stop()
        place.control.kick(place.guild, ada)
        await place.daemon.start()
        for room in place.rooms.values():
            await eventually(partial(place.mia.members, room), lambda there: ghost(place) not in there)
            assert ghost(place, "Ben") in await place.mia.members(room)


async def test_who_is_forgotten_has_no_ghost_any_more(place: FullStack) -> None:
    place.say("help", "remember me")
    place.say("help", "and me", who="Ben")
    await shown(place, "help", "remember me", "and me")
    assert (await profile(place))["displayname"] == "Ada"
    channel, ada = place.channels["help"], place.people["Ada"]
    await eventually(partial(offered, place), bool, what=place.daemon.log)
    place.control.use_command(channel, ada, "relay forget", {"copies": "copies"})
    await shown(place, "help", "and me")
    room = place.rooms["help"]
    await eventually(partial(place.mia.members, room), lambda there: ghost(place) not in there, what=place.daemon.log)
    await eventually(partial(profile, place), lambda known: not known.get("displayname"), what=place.daemon.log)
    place.say("help", "a new beginning")
    lines = await shown(place, "help", "and me", "a new beginning")
    assert lines[-1].sender == ghost(place)


async def profile(place: FullStack) -> Json:
    try:
        return await place.mia.call("GET", f"client/v3/profile/{ghost(place)}")
    except MatrixError as error:
        if error.code != "M_NOT_FOUND":
            raise
        return {}


async def offered(place: FullStack) -> bool:
    return bool(place.control.commands(place.bot))


async def test_all_who_may_read_a_channel_are_there_before_they_speak(
    ghost_homeserver: GhostHomeserver, tmp_path: Path
) -> None:
    async with stack(tmp_path, ghost_homeserver, ("help", "staff")) as place:
        made = place.control.create_role(place.guild, "staff", [])
        place.control.set_role(place.guild, place.people["Ben"], made["id"])
        staff = place.channels["staff"]
        place.control.set_channel_permissions(staff, place.guild, deny=["VIEW_CHANNEL"])
        place.control.set_channel_permissions(staff, made["id"], allow=["VIEW_CHANNEL"])
        place.control.set_channel_permissions(staff, place.bot, allow=["VIEW_CHANNEL"])
        with_ghosts(place, 'ghost_membership = "all"\n')
        await place.daemon.start()
        listed = [one["user"] for one in place.control.members(place.guild)]
        server = place.homeserver.server_name
        everybody = {f"@_discord_{one['id']}:{server}" for one in listed if not one.get("bot")}
        everybody |= {place.mia.user_id, place.relay_user}

        async def members(pair: str) -> frozenset[str]:
            return await place.mia.members(place.rooms[pair])

        await eventually(partial(members, "help"), lambda there: there == everybody, what=place.daemon.log)
        await eventually(
            partial(members, "staff"), lambda there: there == everybody - {ghost(place)}, what=place.daemon.log
        )
        # Killed while others come in, it goes on with those who are missing.
        people = [str(place.control.create_person(f"Member {number}")["id"]) for number in range(8)]
        for person in people:
            place.control.join(place.guild, person)
        await place.daemon.kill()
        await place.daemon.start()
        everybody |= {f"@_discord_{person}:{server}" for person in people}
        await eventually(partial(members, "help"), lambda there: len(there) > 6, what=place.daemon.log)
        await place.daemon.kill()
        await place.daemon.start()
        await eventually(partial(members, "help"), lambda there: there == everybody, what=place.daemon.log)
        joins = [
            event["state_key"]
            for event in await place.mia.events(place.rooms["help"])
            if event["type"] == "m.room.member" and event["content"]["membership"] == "join"
        ]
        assert len(joins) == len(set(joins)) == len(everybody)


async def test_mentions_answers_and_files_of_ghosts(place: FullStack) -> None:
    name = file("notes.txt", b"some notes")
    first = place.say("help", "look at this", attachments=[name])
    lines = await shown(place, "help", "look at this")
    assert (lines[0].sender, lines[0].content["filename"]) == (ghost(place), "notes.txt")
    place.control.edit(place.channels["help"], first, "look at these")
    await shown(place, "help", "look at these")
    pill = f'hello <a href="https://matrix.to/#/{ghost(place)}">Ada</a>'
    await place.mia.html(place.rooms["help"], "hello Ada", pill)
    await place.until_discord("help", lambda words: words[-1:] == [f"hello <@{place.people['Ada']}>"])
    assert [one["id"] for one in place.on_discord("help")[-1]["mentions"]] == [place.people["Ada"]]


async def test_without_the_section_what_ghosts_wrote_is_still_our_own(
    ghost_homeserver: GhostHomeserver, tmp_path: Path
) -> None:
    async def hang(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PUT" and "/send/" in request.path and b"last words" in await request.read():
            await proxy.carry_out(request)
            await place.daemon.kill()
            return web.Response(status=502)
        return None

    async with HomeserverProxy(ghost_homeserver.url) as proxy, stack(tmp_path, ghost_homeserver) as place:
        place.write_config(extra=APPSERVICE, homeserver_url=proxy.url)
        await place.daemon.start()
        place.say("help", "by the ghost")
        await shown(place, "help", "by the ghost")
        proxy.answer = hang
        place.say("help", "last words of the ghost")
        await place.daemon.wait()
        proxy.answer = pass_on
        place.write_config(homeserver_url=proxy.url)
        await place.daemon.start()
        place.say("help", "by the bot")
        lines = await shown(place, "help", "by the ghost", "last words of the ghost", "by the bot")
        assert [line.sender for line in lines] == [ghost(place), ghost(place), place.relay_user]
        await place.tell("help", "an answer")
        await place.until_discord("help", lambda words: words[-1:] == ["an answer"])
        assert len(place.on_discord("help")) == 4
