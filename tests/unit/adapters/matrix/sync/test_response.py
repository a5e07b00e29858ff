"""Rooms with many or long events do not make other rooms wait, and do not hold the event loop."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from relay.adapters.matrix.api.client import Api, Unreachable
from relay.adapters.matrix.cursors import OUTSIDE, SYNC, cursor, room_stream
from relay.adapters.matrix.identifiers import OwnAccounts
from relay.adapters.matrix.retrying_inbox import RetryingInbox
from relay.adapters.matrix.rooms.declared import DeclaredRooms
from relay.adapters.matrix.sync.backfill import Backfiller
from relay.adapters.matrix.sync.response import ResponseHandler
from relay.adapters.matrix.sync.update import RoomUpdate, SyncRequest
from relay.core.clock import Backoff, SystemClock
from relay.core.offload import Conversions
from relay.core.ports import CommandCall, EventBatch, OnRecord
from relay.domain.events import MessageCreated
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef
from relay.domain.text.nodes import RichText
from tests.support.patience import PATIENCE

ME = "@relay:example.org"
LONG = "<table>" + "<tr><td>a<td>b" * 400


class RecordingInbox:
    """An inbox that remembers what it was given."""

    def __init__(self) -> None:
        self.batches: list[EventBatch] = []

    async def receive(self, batch: EventBatch) -> None:
        self.batches.append(batch)

    async def opened(
        self, address: ChannelAddress, channel: ChannelRef, *, predecessors: frozenset[ChannelRef] = frozenset()
    ) -> None:
        raise AssertionError

    async def closed(self, address: ChannelAddress, problem: str) -> None:
        raise AssertionError

    async def post_again(
        self, channel: ChannelRef, post: Callable[[], Awaitable[Mapping[MessageRef, MessageRef]]]
    ) -> Collection[MessageRef]:
        raise AssertionError

    def health_changed(self) -> None:
        pass

    async def last_originals(self, channel: ChannelRef, limit: int) -> Sequence[OnRecord]:
        raise AssertionError

    async def catch_up(self, channel: ChannelRef, after: str) -> None:
        raise AssertionError

    async def command(self, call: CommandCall) -> RichText:
        return RichText.plain(" ".join(call.words))

    async def cursor(self, platform: object, stream: str) -> str | None:
        return None


def message(number: int, html: str) -> dict[str, Any]:
    content = {"msgtype": "m.text", "body": "x", "format": "org.matrix.custom.html", "formatted_body": html}
    return {
        "type": "m.room.message",
        "event_id": f"${number}",
        "sender": "@ann:example.org",
        "origin_server_ts": 1_700_000_000_000,
        "content": content,
    }


def handler_of(api: Api) -> tuple[ResponseHandler, DeclaredRooms, RetryingInbox]:
    rooms = DeclaredRooms(
        OwnAccounts(me=ME),
        backoff=partial(Backoff, random.Random(0), first=1.0, longest=2.0),
        now=SystemClock().monotonic,
    )
    reader = Backfiller(api, lambda _: 100)
    handler = ResponseHandler(api, rooms, reader, Conversions(), lambda *_: None, SystemClock().now)
    return handler, rooms, RetryingInbox(RecordingInbox(), SystemClock(), random.Random(0))


async def delivered(timelines: dict[str, list[dict[str, Any]]]) -> tuple[list[EventBatch], int]:
    """The batches, and how many turns the event loop had meanwhile."""
    api = Api("http://127.0.0.1:9", ME)
    handler, rooms, inbox = handler_of(api)
    recorded = inbox.inbox
    assert isinstance(recorded, RecordingInbox)
    updates = [RoomUpdate(room, rooms.state(room), timeline, []) for room, timeline in timelines.items()]
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await handler._hand_over(
        updates, (cursor(SYNC, "t2"),), SyncRequest("t1", frozenset(timelines), False, rooms.declarations), inbox
    )
    counting.cancel()
    await api.close()
    return recorded.batches, turns


def told(batch: EventBatch) -> list[str]:
    return [event.ref.id for event in batch.events if isinstance(event, MessageCreated)]


async def test_small_rooms_come_before_those_with_long_texts() -> None:
    heavy = [message(number, LONG * 5) for number in range(40)]
    batches, turns = await delivered({"!heavy:a": heavy, "!small:a": [message(99, "hello")]})
    assert told(batches[0]) == ["$99"]
    assert [one for batch in batches for one in told(batch)] == ["$99", *(f"${number}" for number in range(40))]
    assert len(batches) > 5
    # The token is written after everything else.
    assert [bool(batch.cursors) for batch in batches] == [False] * (len(batches) - 1) + [True]
    assert turns > 40


async def test_rooms_with_long_texts_take_turns() -> None:
    rooms = {f"!{name}:a": [message(base + n, LONG * 5) for n in range(20)] for name, base in (("a", 100), ("b", 200))}
    batches, _ = await delivered(rooms)
    first, second = told(batches[0]), told(batches[1])
    assert first[0] == "$100"
    assert second[0] == "$200"
    assert len(first) < 20


@asynccontextmanager
async def homeserver(answer: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[Api]:
    """One that answers each GET by `answer`."""
    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = Api(f"http://127.0.0.1:{runner.addresses[0][1]}", ME)
    try:
        yield api
    finally:
        await api.close()
        await runner.cleanup()


async def test_rooms_whose_gaps_take_too_much_memory_together_come_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relay.adapters.matrix.sync.backfill._IN_MEMORY", 100_000)

    async def answer(request: web.Request) -> web.Response:
        end = {"newest": 0, "1": 1, "2": 2}[request.query["from"]]
        base = 100 if "!a:a" in request.path else 200
        chunk = [message(base - 10 * end - n, LONG * 10) for n in range(10)]
        return web.json_response({"chunk": chunk} | ({"end": str(end + 1)} if end < 2 else {}))

    async with homeserver(answer) as api:
        handler, rooms, inbox = handler_of(api)
        recorded = inbox.inbox
        assert isinstance(recorded, RecordingInbox)
        updates = [RoomUpdate(room, rooms.state(room), [], [], "newest", "since") for room in ("!a:a", "!b:a")]
        await handler._hand_over(updates, (), SyncRequest("since", frozenset(), False, rooms.declarations), inbox)
    found = [one for batch in recorded.batches for one in told(batch)]
    assert found == [f"${base - 29 + n}" for base in (100, 200) for n in range(30)]


async def test_short_timelines_are_one_batch() -> None:
    rooms = {f"!{number}:a": [message(number, "hello")] for number in range(20)}
    (batch,), _ = await delivered(rooms)
    assert told(batch) == [f"${number}" for number in range(20)]


@pytest.mark.parametrize("is_away", [True, False])
async def test_a_room_whose_history_cannot_be_read_holds_up_the_others_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch, *, is_away: bool
) -> None:
    """Where the homeserver itself is in trouble, none is put off for that."""
    monkeypatch.setattr("relay.adapters.matrix.sync.response._FAILING_SECONDS", 0.0)
    monkeypatch.setattr("relay.adapters.matrix.sync.response._READ_SECONDS", 0.05)
    monkeypatch.setattr("relay.adapters.matrix.sync.response._PUT_OFF_SECONDS", 1.0)

    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("/messages"):
            await asyncio.Event().wait()
        return web.json_response({}, status=502 if is_away else 200)

    async with homeserver(answer) as api:
        handler, rooms, inbox = handler_of(api)
        recorded = inbox.inbox
        assert isinstance(recorded, RecordingInbox)

        async def hand_over() -> RoomUpdate:
            broken = RoomUpdate("!broken:a", rooms.state("!broken:a"), [message(2, "late")], [], "t1", "t0")
            other = RoomUpdate("!other:a", rooms.state("!other:a"), [message(1, "hello")], [])
            request = SyncRequest("t0", frozenset(), False, rooms.declarations)
            await handler._hand_over([broken, other], (cursor(SYNC, "t2"),), request, inbox)
            return broken

        for _ in range(2):
            with pytest.raises(Unreachable):
                await hand_over()
        if is_away:
            with pytest.raises(Unreachable):
                await hand_over()
            return
        # It is read from where it was, later; and nothing waits for it any more.
        for _ in range(2):
            assert (await hand_over()).cursors == (cursor(room_stream("!broken:a"), f"{OUTSIDE}t0"),)
        assert {one for batch in recorded.batches for one in told(batch)} == {"$1"}
        assert [one.position for one in recorded.batches[-1].cursors][-1] == "t2"
        deadline = SystemClock().monotonic() + PATIENCE
        while not handler.tries_again():
            assert SystemClock().monotonic() < deadline
            await asyncio.sleep(0.05)
        assert not handler.tries_again()
