"""What an answer to a sync says about other relays, and what the log says while there is no homeserver."""

import asyncio
import json
import random
from typing import cast

import pytest

from relay.adapters.matrix.api.client import Api, Unreachable
from relay.adapters.matrix.api.session import MatrixSession
from relay.adapters.matrix.identifiers import OwnAccounts
from relay.adapters.matrix.register import AccountRegister
from relay.adapters.matrix.retrying_inbox import RetryingInbox
from relay.adapters.matrix.rooms.declared import DeclaredRooms
from relay.adapters.matrix.sync.loop import ConnectionStatus, SyncLoop
from relay.adapters.matrix.sync.response import ResponseHandler
from relay.adapters.matrix.sync.update import SyncRequest
from relay.core.clock import Backoff, SystemClock
from relay.domain.jsontext import Json
from tests.support.logs import captured_logs
from tests.support.world import until


class Clock(SystemClock):
    """A second passes with each request, and none while somebody sleeps."""

    def __init__(self) -> None:
        self.time = 1_000.0
        self.sleeps = 0

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        await asyncio.sleep(0)

    def monotonic(self) -> float:
        return self.time


class Homeserver:
    """Answers one request after the other with what it is given."""

    user_id = "@relay:example.org"

    def __init__(self, clock: Clock, *answers: Json | Exception) -> None:
        self.clock = clock
        self.answers = iter(answers)
        self.filters: list[str] = []

    async def call(self, method: str, *path: str, query: dict[str, str] | None = None, **_: object) -> Json:
        if path[-1] == "filter":
            return {"filter_id": "1"}
        self.filters.append((query or {}).get("filter", ""))
        self.clock.time += 1
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Responses:
    """Knows of no restore."""

    async def was_restored(self, *_: object) -> bool:
        return False


async def nothing() -> None:
    pass


def sync_loop(api: Api, clock: Clock) -> SyncLoop:
    rng = random.Random(1)
    return SyncLoop(
        api=api,
        session=cast(MatrixSession, None),
        rooms=DeclaredRooms(OwnAccounts(me=api.user_id), backoff=lambda: Backoff(rng), now=clock.monotonic),
        responses=cast(ResponseHandler, Responses()),
        status=ConnectionStatus(),
        clock=clock,
        rng=rng,
        register=AccountRegister(api=api, clock=clock),
        logged_in=nothing,
    )


async def test_what_is_wrong_with_the_address_is_logged_once() -> None:
    """It was, each minute, for as long as the homeserver was away at the start."""
    clock, api = Clock(), Api("http://127.0.0.1:9", "@relay:localhost")
    loop = sync_loop(api, clock)
    loop._failed.set()
    with captured_logs() as lines:
        looking = asyncio.create_task(loop._look_at_address())
        await until(lambda: clock.sleeps >= 3)
        looking.cancel()
    await api.close()
    assert [line["event"] for line in lines] == ["no homeserver at this address"]


async def test_an_answer_counts_from_the_first_request_with_its_position() -> None:
    clock = Clock()
    lost = Unreachable("the connection was lost", sent=True)
    answers: list[Json | Exception] = [
        {"next_batch": "a"},
        lost,
        lost,
        {"next_batch": "b"},
        {"next_batch": "b"},
        {"next_batch": "b"},
    ]
    loop = sync_loop(cast(Api, Homeserver(clock, *answers)), clock)
    register = loop.register

    async def confirmed(since: str | None) -> float:
        await loop._sync(SyncRequest(since, frozenset(), full=since is None, declarations=0), cast(RetryingInbox, None))
        return register.confirmed - 1_000

    assert await confirmed(None) == 0
    for _ in range(2):
        with pytest.raises(Unreachable):
            await confirmed("a")
    # A homeserver that keeps answers may have made this one when it was asked first, two seconds ago.
    assert await confirmed("a") == 1
    # None keeps an answer at the same position.
    assert [await confirmed("b"), await confirmed("b")] == [4, 5]


async def test_only_a_filter_with_many_rooms_is_stored_on_the_homeserver() -> None:
    clock = Clock()
    homeserver = Homeserver(clock, *({"next_batch": "a"},) * 2)
    loop = sync_loop(cast(Api, homeserver), clock)
    for number in (2, 60):
        rooms = frozenset(f"!{room}:example.org" for room in range(number))
        await loop._sync(SyncRequest(None, rooms, full=True, declarations=0), cast(RetryingInbox, None))
    few, many = homeserver.filters
    assert json.loads(few)["room"]["rooms"] == ["!0:example.org", "!1:example.org"]
    assert many == "1"
