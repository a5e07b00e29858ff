"""Why a request failed is told in plain words, whatever library says so."""

import asyncio
import socket
import ssl

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from relay.errors import cause_of


async def cause(url: str, **options: object) -> str:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(url, **options) as answer:  # type: ignore[arg-type]
                await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return cause_of(error)
    return ""


async def test_of_a_request() -> None:
    async def close(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def hang(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    application = web.Application()
    application.router.add_get("/close", close)
    application.router.add_get("/hang", hang)
    async with TestServer(application) as server:
        at = f"http://127.0.0.1:{server.port}"
        assert await cause(f"{at}/close") == "the connection was closed"
        assert await cause(f"{at}/hang", timeout=aiohttp.ClientTimeout(total=0.1)) == "no answer in time"
    assert await cause(at) == "connection refused"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionResetError(104, "x"), "connection reset by peer"),
        (socket.gaierror(-3, "Temporary failure in name resolution"), "Temporary failure in name resolution"),
        (ssl.SSLCertVerificationError(), "SSLCertVerificationError"),
        (ValueError("https://discord.com/api/webhooks/1/secret"), "ValueError"),
    ],
)
def test_of_an_error_by_itself(error: Exception, words: str) -> None:
    assert cause_of(error) == words
