"""Which answers are a homeserver's, and which come from something in front of it."""

from collections.abc import AsyncIterator

import pytest

from relay.adapters.matrix.api.client import Api, Refused, Unreachable, parse_response
from relay.core.ports import NOT_OURS


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 410])
@pytest.mark.parametrize(
    "page", [b"<html>nothing here", b"{}", b"[]", b'{"errcode": ""}', b'{"errcode": 404}', b"\xff"]
)
def test_a_refusal_without_a_code_is_not_from_the_homeserver(status: int, page: bytes) -> None:
    with pytest.raises(Unreachable, match=f"status {status}") as error:
        parse_response(status, None, page)
    assert error.value.sent


@pytest.mark.parametrize(("status", "retry_after"), [(413, None), (429, 7.0), (500, 7.0), (502, 7.0), (503, 7.0)])
def test_statuses_that_mean_the_same_from_a_proxy_are_refusals(status: int, retry_after: float | None) -> None:
    with pytest.raises(Refused) as refused:
        parse_response(status, None if retry_after is None else "7", b"<html>")
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (status, "", retry_after)


def test_a_refusal_with_a_code_is_from_the_homeserver() -> None:
    with pytest.raises(Refused) as refused:
        parse_response(404, None, b'{"errcode": "M_NOT_FOUND", "error": "gone"}')
    assert (refused.value.code, refused.value.reason) == ("M_NOT_FOUND", "gone")


@pytest.mark.parametrize("page", [b"<html>", b"[]", b""])
def test_a_page_with_status_200_is_no_answer(page: bytes) -> None:
    with pytest.raises(Unreachable):
        parse_response(200, None, page)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("2500", 2.5), ("1e999", 3600.0), ("NaN", 5.0), ("-1", 0.0), ("true", 5.0), ("1" + "0" * 400, 3600.0)],
)
def test_no_wait_is_longer_than_an_hour(told: str, seconds: float) -> None:
    with pytest.raises(Refused) as refused:
        parse_response(429, None, b'{"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": %s}' % told.encode())
    assert refused.value.retry_after == seconds


def test_that_something_was_made_is_no_error() -> None:
    assert parse_response(201, None, b"{}") == {}


async def test_one_that_may_have_lost_the_store_changes_nothing_and_still_reads() -> None:
    api = Api("http://127.0.0.1:1", "@relay:example.org", may_write=lambda: False)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    try:
        with pytest.raises(Unreachable, match=NOT_OURS) as refused:
            await api.call("PUT", "rooms", "!a", "send", "m.room.message", "1", body={})
        assert not refused.value.sent
        with pytest.raises(Unreachable, match=NOT_OURS):
            await api.upload("upload", query={}, root="/", chunks=chunks(), size=1, content_type="text/plain")
        with pytest.raises(Unreachable, match="no connection"):
            await api.call("GET", "sync")
    finally:
        await api.close()
