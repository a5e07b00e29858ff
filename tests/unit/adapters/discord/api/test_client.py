"""Requests to Discord that are not made, and answers that are no JSON."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.errors import Refused, Unanswered, translate_errors
from relay.adapters.discord.api.rate_limits import RateLimits
from relay.adapters.discord.media import form_of
from relay.core.clock import SystemClock
from relay.core.files import File
from relay.core.ports import NOT_OURS
from relay.domain.content import Attachment
from relay.domain.ids import MediaRef, Platform
from relay.errors import DeliveryError, Permanent, Transient


async def test_one_that_may_have_lost_the_store_changes_nothing_and_still_reads() -> None:
    clock = SystemClock()
    client = RestClient(
        token="a", api_url="http://127.0.0.1:1", clock=clock, limits=RateLimits(clock), may_write=lambda: False
    )
    try:
        with pytest.raises(Unanswered, match=NOT_OURS) as refused:
            await client.call(Route("POST", "/channels/{channel}/messages", {"channel": "1"}), body={})
        assert not refused.value.sent
        with pytest.raises(Unanswered, match=r"cannot be reached \(connection refused\)"):
            await client.call(Route("GET", "/channels/{channel}/messages", {"channel": "1"}))
    finally:
        await client.close()


@pytest.mark.parametrize("chunks_before", [1, 3])
async def test_an_upload_is_broken_off_by_one_that_was_stopped_meanwhile(chunks_before: int) -> None:
    whole: list[bytes] = []
    ours = True

    async def take(request: web.Request) -> web.Response:
        whole.append(await request.read())
        return web.json_response({})

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal ours
        for number in range(1, 4):
            ours = ours and number < chunks_before
            yield bytes(100_000)

    application = web.Application(client_max_size=1 << 20)
    application.router.add_post("/channels/1/messages", take)
    clock = SystemClock()
    async with TestServer(application) as server:
        client = RestClient(
            token="a", api_url=str(server.make_url("")), clock=clock, limits=RateLimits(clock), may_write=lambda: ours
        )
        try:
            attachment = Attachment("a", "a", "file", MediaRef(Platform.MATRIX, "mxc://example.org/a"))
            form = form_of({}, [attachment], [File("a", "text/plain", 300_000, chunks())], client.may_write)
            with pytest.raises(Unanswered) as broken:
                await client.call(Route("POST", "/channels/{channel}/messages", {"channel": "1"}), form=form)
            assert broken.value.sent
            assert not whole
        finally:
            await client.close()


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, Transient), (403, Transient), (413, Permanent), (429, Transient), (302, Transient), (504, Transient)],
)
async def test_what_a_proxy_says_in_html(status: int, error: type[DeliveryError]) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text="<html>no</html>", content_type="text/html")

    application = web.Application()
    application.router.add_post("/channels/1/messages", answer)
    clock = SystemClock()
    async with TestServer(application) as server:
        client = RestClient(token="a", api_url=str(server.make_url("")), clock=clock, limits=RateLimits(clock))
        try:
            with pytest.raises(error), translate_errors("1"):
                await client.call(Route("POST", "/channels/{channel}/messages", {"channel": "1"}), body={})
        finally:
            await client.close()


@pytest.mark.parametrize("status", [400, 403])
def test_what_discord_has_turned_off_for_a_while_waits(status: int) -> None:
    with pytest.raises(Transient) as caught, translate_errors("1"):
        raise Refused(status, 40004, "Send messages has been temporarily disabled")
    assert caught.value.retry_after
