"""Sync on a real homeserver: nothing is lost or read twice through absences and outages; and the login."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice

import pytest
from aiohttp import web

from relay.adapters.matrix.api.client import Api
from relay.adapters.matrix.sync.backfill import Backfiller, Gap
from relay.core.ports import Delivery
from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.domain.events import Event, MessageCreated
from relay.domain.ids import MessageRef
from relay.domain.text.nodes import plain_text
from relay.errors import FatalError, StoreHeld, Transient
from tests.support.matrix import (
    BOB,
    HomeserverProxy,
    SavedState,
    Side,
    address,
    matrix_side,
    numbers,
    pass_on,
    person,
    room,
    words,
)
from tests.support.patience import PATIENCE


@dataclass
class Town:
    """Ann in a room, and an account for the relay."""

    homeserver: Homeserver
    ann: Person
    bot_id: str
    token: str
    room: str


@pytest.fixture
async def town(homeserver: Homeserver) -> AsyncIterator[Town]:
    number = next(numbers)
    async with person(homeserver, f"ann{number}") as ann:
        token = await homeserver.register(f"bot{number}", password="rosebud")
        yield Town(homeserver, ann, f"@bot{number}:localhost", token, await ann.create_room())


@pytest.fixture(autouse=True)
def rooms_are_read_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in long answers, those of many rooms."""
    monkeypatch.setattr("relay.adapters.matrix.api.client._UNREAD_BYTES", 0)


# --- Absences -----------------------------------------------------------------------------------------------


async def test_what_happened_meanwhile_arrives_once_and_in_order(town: Town) -> None:
    saved = SavedState()
    other = await town.ann.create_room()
    rooms = [town.room, other]
    async with matrix_side(town.homeserver, town.bot_id, rooms, token=town.token, saved=saved) as side:
        first = await town.ann.text(town.room, "first")
        await side.until_said("first")
    lines = [str(number) for number in range(160)]
    for line in lines:
        await town.ann.text(town.room, line)
        if line == "100":
            await town.ann.edit(town.room, first, "changed")
    await town.ann.redact(town.room, first)
    await town.ann.text(other, "elsewhere")
    expected = ["elsewhere", *lines[:101], "edit: changed", *lines[101:], "deletion"]
    async with matrix_side(town.homeserver, town.bot_id, rooms, token=town.token, saved=saved) as side:
        # `ready` means caught up: everything is there by now.
        assert side.said == ["first", *expected]


async def test_positions_that_cannot_be_read_do_not_stop_it(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.adapters.matrix.sync.loop._REFUSED_SECONDS", 0.0)
    saved = SavedState()
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved) as side:
        await town.ann.text(town.room, "first")
        await side.until_said("first")
    await town.ann.text(town.room, "missed")
    saved.cursors |= dict.fromkeys(saved.cursors, "nonsense")
    saved.cursors[f"successor:{town.room}"] = "nonsense"
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved) as side:
        await town.ann.text(town.room, "live")
        await side.until_said("first", "missed", "live")


async def test_without_a_position_it_reads_on_after_the_last_message_on_record(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.adapters.matrix.sync.loop._REFUSED_SECONDS", 0.0)
    monkeypatch.setattr("relay.adapters.matrix.sync.loop._TIMELINE", 3)
    saved = SavedState()
    rooms = [town.room, await town.ann.create_room()]
    async with matrix_side(town.homeserver, town.bot_id, rooms, token=town.token, saved=saved) as side:
        for text in ("forgotten", "first"):
            await town.ann.text(town.room, text)
        await town.ann.text(rooms[1], "forgotten as well")
        await side.until(lambda: len(side.said) == 3)
    for number in range(5):
        await town.ann.text(town.room, str(number))
    saved.cursors["sync"] = "nonsense"
    # As pruning does it.
    saved.events = [event for event in saved.events if _line(event) == "first"]
    async with matrix_side(town.homeserver, town.bot_id, rooms, token=town.token, saved=saved) as side:
        await town.ann.text(rooms[1], "live")
        await side.until(lambda: "live" in side.said)
        assert sorted(side.said) == sorted(["first", "0", "1", "2", "3", "4", "skipped None", "live"])
        assert [line for line in side.said if len(line) == 1] == ["0", "1", "2", "3", "4"]


def _line(event: Event) -> str:
    return plain_text(event.content.text) if isinstance(event, MessageCreated) else ""


async def test_a_position_is_kept_while_the_homeserver_is_in_trouble(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of it that is being restarted, or a filter that it has forgotten, may be answered with 400 as well."""
    monkeypatch.setattr("relay.adapters.matrix.sync.loop._LONGEST_FILTER", 0)
    saved = SavedState()
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved) as side:
        await town.ann.text(town.room, "first")
        await side.until_said("first")
    asked: list[str | None] = []
    filters = 0

    async def trouble(request: web.Request) -> web.Response | None:
        nonlocal filters
        filters += request.path.endswith("/filter")
        if not request.path.endswith("/sync"):
            return None
        asked.append(request.query.get("since"))
        return web.json_response({"errcode": "M_UNKNOWN", "error": "trouble"}, status=400) if len(asked) <= 3 else None

    async with HomeserverProxy(town.homeserver.url) as proxy:
        proxy.answer = trouble
        async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved, url=proxy.url):
            assert asked[:4] == [asked[0]] * 4
            assert asked[0] is not None
            assert filters == 4


@pytest.mark.parametrize("damaged", [False, True])
async def test_who_made_a_room_is_asked_for_once(town: Town, damaged: bool) -> None:
    saved, asked = SavedState(), list[str]()

    async def count(request: web.Request) -> web.Response | None:
        asked.extend([request.path] if request.path.endswith("/m.room.create") else [])
        return None

    async with HomeserverProxy(town.homeserver.url) as proxy:
        proxy.answer = count
        for number in range(3):
            async with matrix_side(
                town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved, url=proxy.url
            ) as side:
                await town.ann.text(town.room, f"number {number}")
                await side.until_said(*(f"number {earlier}" for earlier in range(number + 1)))
            assert saved.events[-1].author.may_broadcast  # type: ignore[union-attr]  # it is a message
            if damaged:
                saved.cursors[f"created:{town.room}"] = '{"sender": 3, "content"'
    assert len(asked) == (3 if damaged else 1)


async def test_the_size_of_files_that_was_told_last_holds_until_it_is_asked_for_again(town: Town) -> None:
    saved, asked = SavedState(), list[str]()

    async def count(request: web.Request) -> web.Response | None:
        if not request.path.endswith("/media/config"):
            return None
        asked.append(request.path)
        return web.json_response({"m.upload.size": 1234})

    async with HomeserverProxy(town.homeserver.url) as proxy:
        proxy.answer = count
        for _ in range(2):
            async with matrix_side(
                town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved, url=proxy.url
            ) as side:
                await side.until(lambda side=side: side.adapter.capabilities(room(town.room)).max_file_size == 1234)  # type: ignore[misc]
                await side.until(lambda: saved.cursors.get("upload limit") == "1234")
    assert len(asked) == 1


async def test_somebody_who_wrote_before_the_start_is_quoted_under_their_name(town: Town) -> None:
    saved = SavedState()
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved) as side:
        ref = MessageRef(room(town.room), await town.ann.text(town.room, "wise words"))
        await side.until_said("wise words")
        before = await side.adapter.quote(ref)
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved) as side:
        assert before is not None
        assert await side.adapter.quote(ref) == before
        assert not before.author.startswith("@")


@pytest.mark.parametrize("answer", ["no answer", "hidden", "unknown"])
async def test_who_wrote_before_the_start_is_not_called_by_an_id_while_members_cannot_be_read(
    town: Town, answer: str
) -> None:
    saved = SavedState()
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved) as side:
        ref = MessageRef(room(town.room), await town.ann.text(town.room, "wise words"))
        await side.until_said("wise words")

    async def refuse(request: web.Request) -> web.Response | None:
        if answer == "unknown" and ("/state/m.room.member/" in request.path or "/profile/" in request.path):
            return web.json_response({"errcode": "M_NOT_FOUND", "error": "not found"}, status=404)
        if "/state/m.room.member/" not in request.path:
            return None
        if answer == "no answer":
            return web.Response(status=502, text="<html>502")
        return web.json_response({"errcode": "M_FORBIDDEN", "error": "you are not in this room"}, status=403)

    async with HomeserverProxy(town.homeserver.url) as proxy:
        proxy.answer = refuse
        async with matrix_side(
            town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved, url=proxy.url
        ) as side:
            if answer == "no answer":
                with pytest.raises(Transient):
                    await side.adapter.latest(ref)
                proxy.answer = pass_on
            latest = await side.adapter.latest(ref)
            assert latest is not None
            assert latest.author.name.startswith(town.ann.user_id if answer == "unknown" else "Ann")


async def test_missed_messages_are_read_after_a_removal_and_a_new_invitation(town: Town) -> None:
    saved = SavedState()
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved) as side:
        await town.ann.text(town.room, "first")
        await side.until_said("first")
    lines = [str(number) for number in range(160)]
    for line in lines:
        await town.ann.text(town.room, line)
    removed = asyncio.Event()

    async def remove_us(request: web.Request) -> web.StreamResponse | None:
        if removed.is_set() or not request.path.endswith("/messages"):
            return None
        await town.ann.kick(town.room, town.bot_id)
        removed.set()
        return web.json_response({"errcode": "M_FORBIDDEN", "error": "not in room"}, status=403)

    async with HomeserverProxy(town.homeserver.url) as proxy:
        proxy.answer = remove_us
        async with matrix_side(
            town.homeserver,
            town.bot_id,
            [town.room],
            token=town.token,
            saved=saved,
            url=proxy.url,
            ready=False,
        ) as side:
            await removed.wait()
            await town.ann.invite(town.room, town.bot_id)
            await side.until_said("first", *lines)


async def test_what_is_said_once_the_relay_is_back_crosses_where_what_it_missed_cannot_be_read(town: Town) -> None:
    saved = SavedState()
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved) as side:
        await town.ann.text(town.room, "first")
        await side.until_said("first")
    await town.ann.kick(town.room, town.bot_id)
    await town.ann.text(town.room, "missed")
    await town.ann.invite(town.room, town.bot_id)
    async with Person(town.homeserver.url, town.bot_id, town.token) as bot:
        await bot.join(town.room)
    await town.ann.text(town.room, "welcome")

    async def refuse(request: web.Request) -> web.Response | None:
        if not request.path.endswith("/messages"):
            return None
        return web.json_response({"errcode": "M_INVALID_PARAM", "error": "no such token"}, status=400)

    async with HomeserverProxy(town.homeserver.url) as proxy:
        proxy.answer = refuse
        side_of = matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved, url=proxy.url)
        async with side_of as side:
            await side.until_said("first", "skipped 1", "welcome")


async def test_a_room_whose_history_cannot_be_read_waits_alone(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("loop._TIMELINE", 3), ("response._FAILING_SECONDS", 0.0), ("response._PUT_OFF_SECONDS", 1.0)):
        monkeypatch.setattr(f"relay.adapters.matrix.sync.{name}", value)
    monkeypatch.setattr("relay.adapters.matrix.sync.response._MOST_PUT_OFF", 1_000)
    saved, rooms = SavedState(), [town.room, await town.ann.create_room()]
    broken = True

    async def trouble(request: web.Request) -> web.Response | None:
        if broken and request.path.endswith("/messages"):
            return web.json_response({"errcode": "M_UNKNOWN", "error": "no"}, status=500)
        return None

    async with HomeserverProxy(town.homeserver.url) as proxy:
        proxy.answer = trouble
        using = {"token": town.token, "saved": saved, "url": proxy.url}
        async with matrix_side(town.homeserver, town.bot_id, rooms, **using) as side:  # type: ignore[arg-type]
            await town.ann.text(town.room, "first")
            await side.until_said("first")
        for number in range(6):
            await town.ann.text(town.room, str(number))
        async with matrix_side(town.homeserver, town.bot_id, rooms, **using) as side:  # type: ignore[arg-type]
            await town.ann.text(rooms[1], "elsewhere")
            await side.until_said("first", "elsewhere")
            broken = False
            # Nobody says anything there, and it is read all the same.
            await side.until_said("first", "elsewhere", *map(str, range(6)))


@pytest.mark.parametrize("odd", [b"[" * 1_000 + b"]" * 1_000, b"[" * 99_999 + b"]" * 99_999, b"9" * 5_000])
async def test_json_that_cannot_be_parsed_stops_nothing(town: Town, odd: bytes) -> None:
    # Synapse refuses such events, but another homeserver in the room may accept them.
    async with (
        HomeserverProxy(town.homeserver.url) as proxy,
        matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, url=proxy.url) as side,
    ):
        proxy.alter = lambda answer: answer.replace(b'"odd"', odd)
        await town.ann.send(town.room, {"msgtype": "m.text", "body": "with something odd", "org.example.odd": "odd"})
        await town.ann.send(town.room, {"msgtype": "m.text", "body": "odd"})
        await town.ann.text(town.room, "behind it")
        # The one that has become empty is left out later by the core, which tells its author.
        await side.until_said("with something odd", "", "behind it")


async def test_an_answer_that_is_too_long_is_asked_for_with_less_of_each_room(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.adapters.matrix.sync.loop._MOST_BYTES", 60_000)
    saved, asked = SavedState(), list[int]()
    async with HomeserverProxy(town.homeserver.url) as proxy:

        async def answer(request: web.Request) -> web.StreamResponse | None:
            wanted = json.loads(request.query["filter"]) if request.path.endswith("/sync") else {}
            limit = wanted.get("room", {}).get("timeline", {}).get("limit")
            if limit is not None and asked[-1:] != [limit]:
                asked.append(limit)
            return None

        proxy.answer = answer
        start = partial(
            matrix_side, town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved, url=proxy.url
        )
        async with start() as side:
            await town.ann.text(town.room, "before")
            await side.until_said("before")
        missed = [f"{number} {'x' * 2_000}" for number in range(40)]
        for line in missed:
            await town.ann.text(town.room, line)
        asked.clear()
        async with start() as side:
            await town.ann.text(town.room, "after")
            await side.until_said("before", *missed, "after")
            await side.until(lambda: asked == [100, 10, 100])


async def test_beyond_the_limit_only_the_newest_arrive_and_the_number_of_the_others(town: Town) -> None:
    saved = SavedState()
    side_of = {"token": town.token, "saved": saved}
    async with matrix_side(town.homeserver, town.bot_id, [town.room], **side_of) as side:  # type: ignore[arg-type]
        first = await town.ann.text(town.room, "first")
        await side.until_said("first")
    for number in range(10):
        await town.ann.text(town.room, f"lost {number}")
    await town.ann.edit(town.room, first, "changed")
    for number in range(130):
        await town.ann.text(town.room, str(number))
    inbox_of = matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved, catchup_limit=20)
    async with inbox_of as side:
        # The sync itself brings a hundred; twenty more are read.
        assert side.said == ["first", "skipped 20", "edit: changed", *map(str, range(10, 130))]


async def test_each_room_has_a_limit_of_its_own(town: Town) -> None:
    saved = SavedState()
    other = await town.ann.create_room()
    rooms = [town.room, other]
    async with matrix_side(town.homeserver, town.bot_id, rooms, token=town.token, saved=saved):
        pass
    for number in range(110):
        await asyncio.gather(town.ann.text(town.room, f"a{number}"), town.ann.text(other, f"b{number}"))
    limits = {address(town.room): 4, address(other): 7}
    starting = matrix_side(
        town.homeserver, town.bot_id, rooms, token=town.token, saved=saved, catchup_limits=limits.__getitem__
    )
    async with starting as side:
        for letter, skipped in (("a", 6), ("b", 3)):
            assert f"skipped {skipped}" in side.said
            assert [line for line in side.said if line[0] == letter] == [f"{letter}{n}" for n in range(skipped, 110)]


async def test_while_the_store_is_unavailable_the_adapter_waits(town: Town) -> None:
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token) as side:
        side.inbox.broken = 3
        await town.ann.text(town.room, "one")
        await side.until(lambda: side.adapter.health().state != "ready")
        assert "disk is full" in side.adapter.health().detail
        await town.ann.text(town.room, "two")
        await side.until_said("one", "two")
        await side.until_ready()


@pytest.mark.parametrize("where", ["receive", "opened"])
async def test_a_store_that_is_lost_for_good_ends_it(town: Town, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with matrix_side(
        town.homeserver, town.bot_id, [town.room], token=town.token, ready=False, failing=True
    ) as side:

        async def held(*_: object, **__: object) -> None:
            raise StoreHeld("x", "another daemon holds it", "stop one of them")

        monkeypatch.setattr(side.inbox, where, held)
        with pytest.raises(StoreHeld):
            await asyncio.wait_for(asyncio.shield(side.task), PATIENCE)
        assert side.adapter.health().state == "failed"


async def test_ended_at_any_moment_of_a_catch_up_nothing_is_lost_or_read_twice(town: Town) -> None:
    saved = SavedState()
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved):
        pass
    lines = [str(number) for number in range(150)]
    for line in lines:
        await town.ann.text(town.room, line)
    for batches in range(3):
        once = matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved, ready=False)
        async with once as side:

            async def enough(running: Side = side, number: int = batches) -> None:
                await running.until(lambda: running.inbox.batches > number or running.adapter.health().state == "ready")

            await enough()
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved) as side:
        assert side.said == lines


async def test_a_first_start_looks_at_the_room_as_it_is_now(town: Town) -> None:
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token):
        pass
    await town.ann.text(town.room, "between two first starts")
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token) as side:
        await town.ann.text(town.room, "after")
        await side.until_said("after")


@pytest.mark.parametrize("in_memory", [0, 16 * 1024 * 1024])
async def test_a_gap_is_read_page_by_page_and_ends_where_it_should(
    town: Town, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr("relay.adapters.matrix.sync.backfill._IN_MEMORY", in_memory)
    async with Person(town.homeserver.url, town.bot_id, town.token) as bot:
        await bot.join(town.room)
        beginning = (await bot.call("GET", "client/v3/sync", query={"timeout": "0"}))["next_batch"]
        for number in range(10):
            await town.ann.text(town.room, f"told {number}")
        since = (await bot.call("GET", "client/v3/sync", query={"timeout": "2"}))["next_batch"]
        ids = [await town.ann.text(town.room, str(number)) for number in range(47)]
        # Not the same request: Synapse answers that one from its cache for two minutes.
        newest = (await bot.call("GET", "client/v3/sync", query={"timeout": "1"}))["next_batch"]
    api = Api(town.homeserver.url, town.bot_id)
    api.use_token(town.token)

    async def read_gap(limit: int, joined: str, start: str | None = None) -> tuple[list[str], int]:
        reader = Backfiller(api, lambda _: limit, page=4)
        gap = Gap(
            room_id=town.room,
            oldest=since,
            starts=lambda event: event["event_id"] == start,
            joined=joined,
            is_recent=lambda event: True,
        )
        await reader.fill(gap, newest)
        assert gap.found_start == (start is not None)
        assert in_memory or all(page.events is None for page in islice(gap.pages, 2, None))
        pages = [page async for page in reader.pages(gap)]
        return [event["event_id"] for page in pages for event in page.events or []], gap.skipped

    try:
        # Whether something is looked for that the homeserver was told late. Here is none.
        for joined in ("", beginning):
            assert await read_gap(1000, joined) == (ids, 0)
            assert await read_gap(10, joined) == (ids[-10:], 37)
            assert await read_gap(1000, joined, start=ids[20]) == (ids[21:], 0)
            assert await read_gap(10, joined, start=ids[20]) == (ids[-10:], 16)
    finally:
        await api.close()


# --- Outages ------------------------------------------------------------------------------------------------


async def test_a_homeserver_that_goes_away_is_waited_for(town: Town) -> None:
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token) as side:
        await town.ann.text(town.room, "before")
        await side.until_said("before")
        await town.homeserver.kill()
        await side.until(lambda: side.adapter.health().state == "connecting")
        assert town.homeserver.url in side.adapter.health().detail
        await town.homeserver.start()
        await town.ann.text(town.room, "while it finds out")
        await side.until_ready()
        await town.ann.text(town.room, "after")
        await side.until_said("before", "while it finds out", "after")


async def test_messages_sent_through_a_crash_of_the_homeserver_are_posted_once(town: Town) -> None:
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token) as side:
        sent: list[int] = []

        async def talk() -> int:
            failures = 0
            for number in range(60):
                while True:
                    try:
                        await side.adapter.send(Delivery(room(town.room), f"k{number}", BOB, words(str(number))))
                        sent.append(number)
                        break
                    except Transient:
                        failures += 1
                        await asyncio.sleep(0.05)
            return failures

        talking = asyncio.create_task(talk())
        # Not when a sync has told of so many: it may tell of all at once.
        await side.until(lambda: len(sent) > 6)
        await town.homeserver.kill()
        await town.homeserver.start()
        assert await talking > 0
    assert [line.body for line in await town.ann.messages(town.room)] == [f"Bob: {number}" for number in range(60)]


async def test_a_homeserver_that_is_not_there_yet_is_waited_for(town: Town) -> None:
    await town.homeserver.stop()
    starting = matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, ready=False)
    async with starting as side:
        try:
            await side.until(lambda: "Nothing answers" in side.adapter.health().detail)
        finally:
            await town.homeserver.start()
        await side.until_ready()
        assert town.room in side.inbox.channels


# --- Login --------------------------------------------------------------------------------------------------


async def test_a_refused_token_and_somebody_elses_token_are_fatal(town: Town) -> None:
    for token, reason in (("wrong", r"refuses \[matrix\] access_token"), ("", "belongs to @ann")):
        given = token or town.ann._token
        failing = matrix_side(town.homeserver, town.bot_id, [town.room], token=given, ready=False, failing=True)
        async with failing as side:
            with pytest.raises(FatalError, match=reason) as refused:
                await asyncio.wait_for(asyncio.shield(side.task), PATIENCE)
            assert given not in str(refused.value)
            assert side.adapter.health().state == "failed"


async def test_a_token_that_is_taken_back_while_it_runs_is_fatal(town: Town) -> None:
    async with (
        matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, failing=True) as side,
        Person(town.homeserver.url, town.bot_id, town.token) as bot,
    ):
        await bot.call("POST", "client/v3/logout")
        with pytest.raises(FatalError, match="access_token"):
            await asyncio.wait_for(asyncio.shield(side.task), PATIENCE)


async def test_a_password_logs_in_once_and_keeps_the_device(town: Town) -> None:
    saved = SavedState()

    async def device(key: str) -> tuple[str, str, MessageRef]:
        using = matrix_side(town.homeserver, town.bot_id, [town.room], password="rosebud", saved=saved)
        async with using as side:
            ref = await side.adapter.send(Delivery(room(town.room), key, BOB, words("hi")))
        kept = json.loads(saved.session or "{}")
        return kept["device_id"], kept["access_token"], ref

    first_device, first_token, first_ref = await device("k")
    assert await device("k") == (first_device, first_token, first_ref)

    async with Person(town.homeserver.url, town.bot_id, first_token) as bot:
        await bot.call("POST", "client/v3/logout")
    second_device, second_token, _ = await device("k2")
    assert (second_device, second_token != first_token) == (first_device, True)


async def test_a_kept_token_that_is_taken_back_while_it_runs_is_replaced(town: Town) -> None:
    saved = SavedState()
    using = matrix_side(town.homeserver, town.bot_id, [town.room], password="rosebud", saved=saved)
    async with using as side:
        async with Person(town.homeserver.url, town.bot_id, json.loads(saved.session or "{}")["access_token"]) as bot:
            await bot.call("POST", "client/v3/logout")
        await town.ann.text(town.room, "still there?")
        await side.until_said("still there?")


async def test_an_answer_that_was_lost_before_a_new_login_makes_no_second_copy(town: Town) -> None:
    saved, queued_at = SavedState(), datetime.now(UTC)
    delivery = Delivery(room(town.room), "k1", BOB, words("once"), queued_at=queued_at)
    async with matrix_side(town.homeserver, town.bot_id, [town.room], token=town.token, saved=saved) as side:
        sent = await side.adapter.send(delivery)
    # The operator's new token is that of another device.
    using = matrix_side(town.homeserver, town.bot_id, [town.room], password="rosebud", saved=saved)
    async with using as side:
        assert await side.adapter.send(replace(delivery, suspect=True)) == sent
    assert len(await town.ann.messages(town.room)) == 1


async def test_a_wrong_password_is_fatal_and_not_logged(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    failing = matrix_side(town.homeserver, town.bot_id, [], password="rosebus", ready=False, failing=True)
    async with failing as side:
        with pytest.raises(FatalError, match="refuses the password") as refused:
            await asyncio.wait_for(asyncio.shield(side.task), PATIENCE)
        assert "rosebus" not in f"{refused.value} {caplog.text} {side.adapter.__dict__!r}"
