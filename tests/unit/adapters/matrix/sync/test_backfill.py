"""Gaps of a homeserver that fetches from others: these may be slow, and must not hold up all rooms."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from relay.adapters.matrix.api.client import Api
from relay.adapters.matrix.sync.backfill import Backfiller, Gap

ROOM, TOLD, MISSED, NEW = "!room", "$told", "$missed", "$new"


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


@pytest.fixture
async def reader(homeserver: Homeserver) -> AsyncIterator[Backfiller]:
    application = web.Application()
    application.router.add_get("/{path:.*}", homeserver.messages)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = Api(f"http://127.0.0.1:{runner.addresses[0][1]}", "@relay:example.org")
    yield Backfiller(api, lambda _: 100)
    await api.close()
    await runner.cleanup()


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
