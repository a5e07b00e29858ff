"""The register of relays in the account's data."""

from typing import Any, cast

import pytest

from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.adapters.matrix.register import REGISTER, AccountRegister
from relay.core.claims.register import NoRegister
from relay.core.clock import SystemClock
from relay.domain.jsontext import Json
from relay.errors import RateLimited, Transient


class Homeserver:
    """Answers with what it is given."""

    user_id = "@relay:example.org"

    def __init__(self, answer: Json | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, ...]] = []

    async def call(self, *path: str, body: Json | None = None) -> Json:
        self.asked.append((*path, body))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def register(answer: Json | Exception) -> tuple[AccountRegister, Homeserver]:
    homeserver = Homeserver(answer)
    return AccountRegister(api=cast(Api, homeserver), clock=SystemClock()), homeserver


def told(value: Json) -> Json:
    return {"account_data": {"events": [{"type": "m.direct", "content": {}}, {"type": REGISTER, "content": value}]}}


async def test_it_is_account_data() -> None:
    made, homeserver = register({"relays": []})
    assert await made.read() == {"relays": []}
    await made.write({"relays": [1]})
    path = ("user", "@relay:example.org", "account_data", REGISTER)
    assert homeserver.asked == [("GET", *path, None), ("PUT", *path, {"relays": [1]})]


async def test_what_was_never_written_is_empty() -> None:
    assert await register(Refused(404, "M_NOT_FOUND", "Account data not found"))[0].read() == {}


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
    made, _ = register(answer)
    with pytest.raises(expected):
        await made.read()
    with pytest.raises(expected):
        await made.write({})


async def test_a_response_without_a_change_confirms_what_was_read() -> None:
    made, _ = register({})
    made.synced({}, 5.0)
    made.synced({"account_data": {"events": [3, {"type": "m.direct"}]}}, 4.0)
    assert made.confirmed == 5.0


async def test_nothing_is_confirmed_while_a_change_is_not_acted_on() -> None:
    made, _ = register({})
    made.synced(told({"relays": [1]}), 5.0)
    made.synced({}, 6.0)
    assert made.confirmed < 5.0
    assert await made.news() == ({"relays": [1]}, 5.0)
    # A later change arrives while the first is acted on.
    made.synced(told({"relays": [2]}), 7.0)
    made.settle(5.0)
    made.synced({}, 8.0)
    assert made.confirmed == 5.0
    assert await made.news() == ({"relays": [2]}, 7.0)
    made.settle(7.0)
    made.synced({}, 9.0)
    assert made.confirmed == 9.0
