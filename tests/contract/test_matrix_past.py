"""What was said before the relay first read in a room, the oldest first; on a real homeserver."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from relay.adapters.matrix.cursors import OUTSIDE, room_stream, tombstone_stream
from relay.core.ports import Delivery, PastPage
from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.domain.text.nodes import plain_text
from relay.errors import ActionNeeded, Permanent, RateLimited, Transient
from tests.support.matrix import (
    BOB,
    HomeserverProxy,
    SavedState,
    Side,
    matrix_side,
    numbers,
    past_lines,
    past_messages,
    person,
    read_past,
    room,
    words,
)


@dataclass
class Town:
    """Ann, who makes rooms, and an account for the relay, which is in none at first."""

    homeserver: Homeserver
    ann: Person
    bot_id: str
    token: str
    saved: SavedState = field(default_factory=SavedState)

    async def read(self, side: Side, room_id: str, position: str = "") -> list[PastPage]:
        """All pages. Most rooms are entered once in these tests, so their first position is still the last one."""
        return await read_past(side, room_id, self.saved.position, position=position)


@pytest.fixture
async def town(homeserver: Homeserver) -> AsyncIterator[Town]:
    number = next(numbers)
    async with person(homeserver, f"ann{number}", displayname="Ann") as ann:
        token = await homeserver.register(f"bot{number}")
        yield Town(homeserver, ann, f"@bot{number}:localhost", token)


@pytest.mark.parametrize("version", ["11", "12"])
@pytest.mark.parametrize("is_declared_later", [False, True])
async def test_all_that_was_said_before_is_read_in_order_and_from_each_position_on(
    town: Town, version: str, is_declared_later: bool
) -> None:
    """The relay joins, or is in the room long before it is declared."""
    place = await town.ann.create_room(version=version)
    said = [str(number) for number in range(120)]
    for line in said:
        await town.ann.text(place, line)
    if is_declared_later:
        async with Person(town.homeserver.url, town.bot_id, town.token) as bot:
            await bot.join(place)
        await town.ann.text(place, "and what is declared later")
        said.append("and what is declared later")
    async with matrix_side(town.homeserver, town.bot_id, [place], token=town.token, saved=town.saved) as side:
        await town.ann.text(place, "now")
        await side.until_said("now")
        pages = await town.read(side, place)
        assert past_lines(pages) == said
        assert [message.ref.channel for message in past_messages(pages)] == [room(place)] * len(said)
        assert max(len(page.messages) for page in pages) <= 25
        for number, page in enumerate(pages):
            assert await town.read(side, place, page.position) == pages[number + 1 :]
        assert past_lines(await town.read(side, place, "a damaged row")) == said


@pytest.mark.parametrize(
    ("visibility", "seen"),
    [
        ("world_readable", ["before", "invited"]),
        ("shared", ["before", "invited"]),
        ("invited", ["invited"]),
        ("joined", []),
    ],
)
async def test_what_members_who_come_later_may_not_see_is_not_read(
    town: Town, visibility: str, seen: list[str]
) -> None:
    place = await town.ann.create_room(public=False)
    await town.ann.set_state(place, "m.room.history_visibility", {"history_visibility": visibility})
    await town.ann.text(place, "before")
    await town.ann.invite(place, town.bot_id)
    await town.ann.text(place, "invited")
    async with matrix_side(town.homeserver, town.bot_id, [place], token=town.token, saved=town.saved) as side:
        await town.ann.text(place, "now")
        await side.until_said("now")
        assert past_lines(await town.read(side, place)) == seen


async def test_messages_say_what_they_were_edited_to_and_what_is_none_is_left_out(town: Town) -> None:
    ann = town.ann
    place = await ann.create_room()
    edited = await ann.text(place, "firts")
    await ann.edit(place, edited, "furst")
    await ann.edit(place, edited, "first")
    gone = await ann.text(place, "gone")
    await ann.redact(place, gone)
    await ann.react(place, edited)
    await ann.reply(place, edited, "an answer")
    await ann.thread(place, edited, "in its thread")
    await ann.text(place, "!relay help")
    encrypted = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x", "session_id": "x"}
    secret = await ann.send(place, encrypted, "m.room.encrypted")
    relation = {"m.relates_to": {"rel_type": "m.replace", "event_id": secret}}
    await ann.send(place, encrypted | relation, "m.room.encrypted")
    await ann.send(place, {"question": "?"}, "org.example.unknown")
    await ann.text(place, "still first")
    async with matrix_side(town.homeserver, town.bot_id, [place], token=town.token, saved=town.saved) as side:
        pages = await town.read(side, place)
    first, answer, threaded, command, last = past_messages(pages)
    assert past_lines(pages) == ["first", "an answer", "in its thread", "!relay help", "still first"]
    assert first.ref.id == edited
    assert first.edited_at is not None
    assert first.edited_at > first.created_at
    assert (answer.reply_to, answer.edited_at) == (first.ref, None)
    assert threaded.thread is not None
    assert threaded.thread.id == edited
    assert (command.command, last.command) == (("help",), None)
    assert sum(page.unreadable for page in pages) == 1


async def test_names_are_those_of_that_time_and_our_own_messages_are_left_out(town: Town) -> None:
    """Of those who have left, too."""
    ann = town.ann
    async with person(town.homeserver, f"ben{next(numbers)}", displayname="Ben") as ben:
        place = await ann.create_room()
        await ben.join(place)
        for number in range(30):
            await ben.text(place, f"as Ben {number}")
        await ann.set_state(place, "m.room.member", {"membership": "join", "displayname": "Anna"}, ann.user_id)
        await ann.text(place, "as Anna")
        await ben.set_state(place, "m.room.member", {"membership": "join", "displayname": "Benno"}, ben.user_id)
        await ben.text(place, "as Benno")
        await ben.leave(place)
    async with matrix_side(town.homeserver, town.bot_id, [place], token=town.token, saved=town.saved) as side:
        pages = await town.read(side, place)
        named = [(message.author.name, plain_text(message.content.text)) for message in past_messages(pages)]
        assert named == [
            *(("Ben", f"as Ben {number}") for number in range(30)),
            ("Anna", "as Anna"),
            ("Benno", "as Benno"),
        ]
        # As after the records of a store were lost: what the relay posted stands before where it begins.
        await side.adapter.send(Delivery(room(place), "k", BOB, words("ours")))
        await ann.text(place, "theirs")
        await side.until_said("theirs")
        later = side.inbox.saved.cursors["sync"].partition(" ")[0]

        async def began(stream: str) -> str | None:
            return later

        assert past_lines(await read_past(side, place, began))[-2:] == ["as Benno", "theirs"]


async def test_what_was_written_before_a_time_is_left_out(town: Town) -> None:
    place = await town.ann.create_room()
    for number in range(230):
        await town.ann.text(place, str(number))
    async with matrix_side(town.homeserver, town.bot_id, [place], token=town.token, saved=town.saved) as side:
        everything = past_messages(await town.read(side, place))
        since = everything[220].created_at
        wanted = [message for message in everything if message.created_at >= since]
        pages = await read_past(side, place, town.saved.position, since=since)
        assert past_messages(pages) == wanted
        assert len(pages) < 10, "not all of it was read"


async def test_the_rooms_that_a_room_has_replaced_come_first(town: Town) -> None:
    ann = town.ann
    old = await ann.create_room(version="11")
    await ann.text(old, "long ago")
    async with matrix_side(town.homeserver, town.bot_id, [old], token=town.token, saved=town.saved) as side:
        await ann.text(old, "then")
        await side.until_said("then")
        answer = await ann.call("POST", f"client/v3/rooms/{old}/upgrade", {"new_version": "12"})
        new = str(answer["replacement_room"])
        await ann.text(new, "now")
        await side.until_said("then", "now")
        await side.until(lambda: side.inbox.channels[old].id == new)
        # As the new one was entered; by now it is read from a later position on.
        cursors = town.saved.cursors
        first = {
            room_stream(old): cursors[room_stream(old)],
            room_stream(new): OUTSIDE + cursors[tombstone_stream(old)],
        }

        async def began(stream: str) -> str | None:
            return first.get(stream)

        pages = await read_past(side, new, began)
        assert [(message.ref.channel, plain_text(message.content.text)) for message in past_messages(pages)] == [
            (room(old), "long ago")
        ]

        # The one that it replaced was read before, too, as where an alias had come to name it.
        first[room_stream(new)] = cursors["sync"].partition(" ")[0]
        pages = await read_past(side, new, began)
        assert past_lines(pages) == ["long ago", "now"]
        for number, page in enumerate(pages):
            assert await read_past(side, new, began, position=page.position) == pages[number + 1 :]
        async with Person(town.homeserver.url, town.bot_id, town.token) as bot:
            await bot.leave(old)
            await bot.call("POST", f"client/v3/rooms/{old}/forget")
        assert past_lines(await read_past(side, new, began)) == ["now"]
        first[room_stream(new)] = OUTSIDE
        assert await read_past(side, new, began) == []


async def test_without_a_record_of_where_the_relay_began_nothing_is_read(town: Town) -> None:
    async def began(stream: str) -> str | None:
        return None

    place, closed = await town.ann.create_room(), await town.ann.create_room(public=False)
    rooms = [place, closed]
    async with matrix_side(town.homeserver, town.bot_id, rooms, token=town.token, saved=town.saved) as side:
        with pytest.raises(Permanent, match="say with --before which messages are older"):
            await read_past(side, place, began)
        with pytest.raises(ActionNeeded, match="invite it"):
            await town.read(side, closed)
        with pytest.raises(ActionNeeded, match="not declared"):
            await town.read(side, "!another:localhost")
        with pytest.raises(Permanent, match="cannot be read"):
            await town.read(side, place, f"b {place} 0 damaged")
        await town.ann.kick(place, town.bot_id)
        await side.until(lambda: place in side.inbox.problems)
        with pytest.raises(ActionNeeded, match="has been removed"):
            await town.read(side, place)


@pytest.mark.parametrize(
    ("answer", "error", "is_failed"),
    [
        (
            lambda: web.json_response({"errcode": "M_UNKNOWN", "error": "Internal server error"}, status=500),
            Transient,
            True,
        ),
        (lambda: web.Response(status=502), Transient, True),
        (lambda: web.Response(text="<html>"), Transient, True),
        (
            lambda: web.json_response({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 2000}, status=429),
            RateLimited,
            False,
        ),
        (lambda: web.json_response({"errcode": "M_UNKNOWN_TOKEN"}, status=401), Transient, False),
        (lambda: web.json_response({"errcode": "M_FORBIDDEN"}, status=403), ActionNeeded, False),
    ],
)
async def test_what_the_homeserver_does_not_answer_now_is_read_later(
    town: Town, answer: Callable[[], web.Response], error: type[Transient], is_failed: bool
) -> None:
    place = await town.ann.create_room()
    said = [str(number) for number in range(30)]
    for line in said:
        await town.ann.text(place, line)
    async with HomeserverProxy(town.homeserver.url) as proxy:
        side_of = matrix_side(town.homeserver, town.bot_id, [place], token=town.token, saved=town.saved, url=proxy.url)
        async with side_of as side:
            asked = fails_at = 0

            async def fail(request: web.Request) -> web.Response | None:
                nonlocal asked
                asked += request.path.endswith("/messages")
                return answer() if request.path.endswith("/messages") and asked == fails_at else None

            proxy.answer = fail
            assert past_lines(await town.read(side, place)) == said
            for number in range(1, asked + 1):
                asked, fails_at = 0, number
                pages: list[PastPage] = []
                with pytest.raises(error) as raised:
                    await read_past(side, place, town.saved.position, pages=pages)
                assert raised.value.failed is is_failed
                assert raised.value.retry_after == (2 if error is RateLimited else None)
                assert past_lines([*pages, *await town.read(side, place, pages[-1].position if pages else "")]) == said


async def test_long_messages_are_read_in_smaller_pages(town: Town) -> None:
    """Three times the length that an answer may have, on the way back."""
    place = await town.ann.create_room()
    length = 60_000
    for number in range(100):
        await town.ann.text(place, f"{number} ".ljust(length, "x"))
    async with matrix_side(town.homeserver, town.bot_id, [place], token=town.token, saved=town.saved) as side:
        said = past_lines(await town.read(side, place))
    assert [line.split()[0] for line in said] == [str(number) for number in range(100)]


async def test_a_page_on_the_way_back_is_asked_for_until_nothing_is_added_to_it(town: Town) -> None:
    """Others may give the homeserver only a part of what it asks them for."""
    place = await town.ann.create_room()
    await town.ann.text(place, "before")
    asked: list[str] = []
    async with HomeserverProxy(town.homeserver.url) as proxy:

        async def lack(request: web.Request) -> web.Response | None:
            if request.query.get("dir") != "b":
                return None
            asked.append(request.query["from"])
            answer = json.loads((await proxy.carry_out(request)).text or "")
            return web.json_response(answer | {"chunk": answer["chunk"][3 - min(len(asked), 3) :]})

        proxy.answer = lack
        side_of = matrix_side(town.homeserver, town.bot_id, [place], token=town.token, saved=town.saved, url=proxy.url)
        async with side_of as side:
            assert past_lines(await town.read(side, place)) == ["before"]
            assert asked == [town.saved.cursors[room_stream(place)]] * 4
