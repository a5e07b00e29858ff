"""The register of relays in the account's data."""

import json
from typing import Any, cast

import pytest

from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.adapters.matrix.register import AccountRegister
from relay.core.claims.register import NoRegister
from relay.domain.jsontext import Json
from relay.errors import RateLimited, Transient
from tests.support.clocks import FakeClock


class Homeserver:
    """Answers with what it is given."""

    user_id = "@relay:example.org"

    def __init__(self, answer: Json | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, ...]] = []
        self.queries: list[dict[str, str]] = []

    async def call(self, *path: str, query: dict[str, str] | None = None, body: Json | None = None) -> Json:
        self.asked.append((*path, body))
        self.queries.append(query or {})
        if isinstance(self.answer, Exception) and path[1:] != ("account", "whoami"):
            raise self.answer
        return {} if isinstance(self.answer, Exception) else self.answer


def register(answer: Json | Exception) -> tuple[AccountRegister, Homeserver, FakeClock]:
    homeserver, clock = Homeserver(answer), FakeClock()
    return AccountRegister(api=cast(Api, homeserver), clock=clock), homeserver, clock


def told(**values: Json) -> Json:
    events: list[Json] = [{"type": "m.direct", "content": {}}, {"type": "relay.claims-of-others", "content": {}}]
    events += [{"type": f"relay.claims.{name}", "content": value} for name, value in values.items()]
    return {"account_data": {"events": events}}


async def test_it_is_account_data() -> None:
    answer = told(one={"a": 1}, other={})
    answer["account_data"]["events"].append(3)
    made, homeserver, _ = register(answer)
    assert await made.read() == {"one": {"a": 1}, "other": {}}
    await made.write("some.1", {"b": 2})
    path = ("PUT", "user", "@relay:example.org", "account_data", "relay.claims.some.1")
    assert homeserver.asked[1:] == [(*path, {"b": 2})]


async def test_no_reading_is_answered_from_a_cache_or_with_the_rooms() -> None:
    made, homeserver, _ = register({})
    for _ in range(20):
        assert await made.read() == {}
    assert len({tuple(query.items()) for query in homeserver.queries}) > 10
    asked = json.loads(homeserver.queries[0]["filter"])
    assert asked["room"] == {"rooms": []}
    assert asked["account_data"] == {"types": ["relay.claims.*"]}
    assert "since" not in homeserver.queries[0]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Refused(429, "M_LIMIT_EXCEEDED", "", 3.0), RateLimited),
        (Refused(502, "", ""), Transient),
        (Refused(401, "M_UNKNOWN_TOKEN", ""), Transient),
        (Unreachable("no connection", sent=False), Transient),
        (Refused(404, "M_UNRECOGNIZED", ""), NoRegister),
        (Refused(403, "M_FORBIDDEN", ""), NoRegister),
    ],
)
async def test_errors_are_the_core_s(answer: Exception, expected: type[Exception]) -> None:
    made, _, _ = register(answer)
    with pytest.raises(expected):
        await made.read()
    with pytest.raises(expected):
        await made.write("some.1", {})


async def test_no_relay_waits_for_ever_for_a_homeserver_that_cannot_write_it() -> None:
    made, homeserver, clock = register({})
    for error in (Transient, Transient, NoRegister):
        homeserver.answer = Refused(500, "M_UNKNOWN", "")
        with pytest.raises(error):
            await made.write("some.1", {})
        # That it can be read says nothing.
        homeserver.answer = {}
        await made.read()
        clock.seconds += 40


async def test_a_response_without_a_change_confirms_what_was_read() -> None:
    made, _, _ = register({})
    made.synced({}, 5.0)
    made.synced({"account_data": {"events": [3, {"type": "m.direct"}]}}, 4.0)
    assert made.confirmed == 5.0


async def test_nothing_is_confirmed_while_a_change_is_not_acted_on() -> None:
    made, _, clock = register({})
    now = clock.monotonic()
    made.synced(told(one={"a": 1}), now - 5)
    made.synced({}, now)
    assert made.confirmed < now - 5
    await made.changed()
    # What was read before the change was told of may not show it.
    made.settle(now - 1)
    made.synced({}, now)
    assert made.confirmed == now - 1
    await made.changed()
    clock.seconds += 1
    made.settle(now + 1)
    made.synced({}, now + 2)
    assert made.confirmed == now + 2


async def test_what_was_read_and_acted_on_is_no_change_where_sync_tells_it_once_more() -> None:
    """At a start, the first response tells what this process has just written: it was read a third time for that."""
    made, _, clock = register(told(one={"a": 1}, other={}))
    asked = clock.monotonic()
    await made.read()
    made.synced(told(one={"a": 1}), asked)
    await made.changed()  # nobody has acted on it yet
    clock.seconds += 1
    await made.read()
    made.settle(clock.monotonic())
    clock.seconds += 1
    made.synced(told(one={"a": 1}, other={}), clock.monotonic())
    assert made.confirmed == clock.monotonic()
    made.synced(told(one={"a": 2}), clock.monotonic() + 1)
    await made.changed()
    assert made.confirmed == clock.monotonic()


async def test_what_was_acted_on_is_a_change_where_something_later_was_told_or_may_be_read_now() -> None:
    made, homeserver, clock = register(told(one={"a": 1}))
    await made.read()
    made.settle(clock.monotonic())
    made.synced(told(one={"a": 2}), clock.monotonic())
    clock.seconds += 1
    homeserver.answer = told(one={"a": 2})
    await made.read()
    asked = clock.monotonic()
    clock.seconds += 1
    # It is what it was before, and what was read in between is not acted on.
    made.synced(told(one={"a": 1}), clock.monotonic())
    made.settle(asked)
    await made.changed()
    assert made.confirmed == asked
