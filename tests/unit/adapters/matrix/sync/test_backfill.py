"""Gaps of a homeserver that fetches from others, which may be slow, and gaps that are too long to be handed over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from relay.adapters.matrix.api.client import Api
from relay.adapters.matrix.sync.backfill import Backfiller, Gap
from relay.domain.jsontext import Json
from relay.domain.text.rewrite import weight

ROOM, TOLD, MISSED, NEW = "!room", "$told", "$missed", "$new"
LAST = "$left out", "$first", "$second"


class Flood:
    """A room in which somebody wrote forty thousand bytes in each of a hundred edits, which other messages follow."""

    def __init__(self) -> None:
        self.events = [_edit(TOLD, TOLD, ""), *(_edit(f"${number}", TOLD, "x" * 40_000) for number in range(100))]
        # As older rooms have it: https://spec.matrix.org/latest/rooms/v10/#redactions
        redaction: Json = {"event_id": "$redaction", "type": "m.room.redaction", "redacts": TOLD, "content": {}}
        self.events += [_edit("$late", TOLD, "late"), redaction, *map(_said, LAST)]

    async def messages(self, request: web.Request) -> web.Response:
        end = len(self.events) if request.query["from"] == "newest" else int(request.query["from"])
        begin = max(0, end - int(request.query["limit"]))
        # Who wrote it: a member whose profile is as long as an event may be.
        answer: Json = {"chunk": self.events[begin:end][::-1], "state": [_said("$member") | {"reason": "x" * 60_000}]}
        return web.json_response(answer | ({"end": str(begin)} if begin else {}))


def _said(event_id: str) -> Json:
    return {"event_id": event_id, "type": "m.room.message", "content": {"body": "hi"}}


def _edit(event_id: str, of: str, body: str) -> Json:
    return _said(event_id) | {"content": {"body": body, "m.relates_to": {"rel_type": "m.replace", "event_id": of}}}


class Homeserver:
    """It was told of `NEW`, and fetches `MISSED`, which stands before that, from another one that may be in trouble."""

    def __init__(self) -> None:
        self.trouble = ""
        self.asked = 0

    async def messages(self, request: web.Request) -> web.Response:
        match request.query["from"], request.query.get("to"):
            case "since", "joined":
                found = [TOLD]
            case _, "since":
                found = [NEW]
            case _:
                self.asked += 1
                if self.trouble == "slow":
                    await asyncio.Event().wait()
                if self.trouble == "broken":
                    return web.json_response({"errcode": "M_UNKNOWN"}, status=500)
                found = [NEW, *([MISSED] if self.asked > 1 else []), TOLD]
        return web.json_response({"chunk": [{"event_id": event, "type": "m.room.message"} for event in found]})


@pytest.fixture
async def homeserver() -> Homeserver:
    return Homeserver()


@asynccontextmanager
async def api_of(homeserver: Homeserver | Flood) -> AsyncIterator[Api]:
    application = web.Application()
    application.router.add_get("/{path:.*}", homeserver.messages)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = Api(f"http://127.0.0.1:{runner.addresses[0][1]}", "@relay:example.org")
    try:
        yield api
    finally:
        await api.close()
        await runner.cleanup()


@pytest.fixture
async def reader(homeserver: Homeserver) -> AsyncIterator[Backfiller]:
    async with api_of(homeserver) as api:
        yield Backfiller(api, lambda _: 100)


async def missing(reader: Backfiller) -> tuple[list[str], bool]:
    gap = Gap(room_id=ROOM, oldest="since", joined="joined", is_recent=lambda event: True)
    await reader.fill(gap, "newest")
    pages = [page async for page in reader.pages(gap)]
    return [event["event_id"] for page in pages for event in page.events or []], gap.incomplete


async def test_what_the_homeserver_fetches_is_waited_for(reader: Backfiller) -> None:
    assert await missing(reader) == ([MISSED, NEW], False)


@pytest.mark.parametrize("trouble", ["slow", "broken"])
async def test_a_homeserver_elsewhere_that_is_in_trouble_is_not_waited_for_again(
    homeserver: Homeserver, reader: Backfiller, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr("relay.adapters.matrix.sync.backfill._FETCH_SECONDS", 0.2)
    homeserver.trouble = trouble
    assert await missing(reader) == ([NEW], True)
    homeserver.trouble = ""
    assert await missing(reader) == ([NEW], False)
    assert homeserver.asked == 1


async def test_edits_and_redactions_of_what_is_left_out_are_handed_over_in_order_and_do_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relay.adapters.matrix.sync.backfill._IN_MEMORY", 256 * 1024)
    async with api_of(Flood()) as api:
        reader = Backfiller(api, lambda _: 2, page=9)
        gap = Gap(room_id=ROOM, starts=lambda event: event["event_id"] == TOLD)
        await reader.fill(gap, "newest")
        assert (gap.skipped, gap.found_start) == (1, True)
        assert sum(weight(page.events) for page in gap.pages) < 1024 * 1024
        found = [event["event_id"] async for page in reader.pages(gap) for event in page.events or []]
    assert found == [*(f"${number}" for number in range(100)), "$late", "$redaction", "$first", "$second"]


async def test_of_pages_that_are_not_kept_their_members_are_not_kept_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.adapters.matrix.sync.backfill._IN_MEMORY", 256 * 1024)
    async with api_of(Flood()) as api:
        reader = Backfiller(api, lambda _: 1000, page=4)
        gap = Gap(room_id=ROOM, starts=lambda event: event["event_id"] == TOLD)
        await reader.fill(gap, "newest")
        assert sum(page.events is None for page in gap.pages) > 20
        assert sum(weight(page.state) for page in gap.pages) < 300_000
        found = [page async for page in reader.pages(gap)]
    assert [len(page.state) for page in found] == [1] * len(found)
    assert gap.memory.held == 0


async def test_a_flood_of_edits_is_not_read_for_ever_and_what_stands_before_it_is_told_to_be_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relay.adapters.matrix.sync.backfill._PAGES_COUNTED", 5)
    async with api_of(Flood()) as api:
        reader = Backfiller(api, lambda _: 20, page=4)
        gap = Gap(room_id=ROOM)
        await reader.fill(gap, "newest")
        found = [event["event_id"] async for page in reader.pages(gap) for event in page.events or []]
    # Of five pages and two more for twenty messages; and the edits of another five.
    assert found == [*(f"${number}" for number in range(57, 100)), "$late", "$redaction", *LAST]
    assert (gap.skipped, gap.incomplete) == (0, True)
