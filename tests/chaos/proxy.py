"""A proxy in front of the homeserver, for the relay alone: it sees what is asked and answered, and fails to order."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Self

import aiohttp
from aiohttp import web
from yarl import URL

from relay.sandbox.faults import reset

Failure = Literal["status", "rate_limit", "hang", "reset"]
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "expect", "te", "trailer", "upgrade"}
)
_MAX_BODY = 1 << 26
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5)


@dataclass(slots=True)
class Fault:
    """The next `count` requests whose path `path` is found in fail.

    `after`: the homeserver carries the request out first. `seconds`: of a hang, or of what a 429 asks for.
    """

    failure: Failure
    path: str
    after: bool
    count: int
    status: int = 502
    seconds: float = 1.0

    @property
    def name(self) -> str:
        """For the counters."""
        if self.failure == "rate_limit":
            return "matrix 429"
        what = str(self.status) if self.failure == "status" else self.failure
        return f"matrix {what} {'after' if self.after else 'before'} commit"


@dataclass(slots=True)
class Proxy:
    """Use as `async with`. `happened(point)` is called at once when something passes: see `daemon_runs.POINTS`."""

    upstream: str
    happened: Callable[[str], None]
    faults: list[Fault] = field(default_factory=list)
    fired: Counter[str] = field(default_factory=Counter)
    port: int = 0
    _runner: web.AppRunner | None = None
    _session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        """What the relay takes for the homeserver."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            auto_decompress=False, timeout=_TIMEOUT, connector=aiohttp.TCPConnector(limit=0)
        )
        application = web.Application(client_max_size=_MAX_BODY)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    def arm(self, fault: Fault) -> None:
        """From now on."""
        self.faults.append(fault)

    def clear(self) -> None:
        """Everything passes again."""
        self.faults.clear()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        body = await request.read()
        kind = _kind(request.method, path)
        self.happened(f"matrix {kind} asked")
        fault = self._strike(path)
        if fault is not None and not fault.after:
            return await self._fail(request, fault)
        try:
            answer = await self._pass_on(request, body)
        except (aiohttp.ClientError, OSError):
            return web.Response(status=502, text="no homeserver", content_type="text/html")
        has_news = isinstance(answer.body, bytes) and b'"timeline"' in answer.body
        if answer.status == 200 and (kind != "sync" or has_news):
            self.happened(f"matrix {kind} committed")
        if fault is not None:
            return await self._fail(request, fault)
        return answer

    def _strike(self, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.count > 0 and re.search(fault.path, path):
                fault.count -= 1
                self.fired[fault.name] += 1
                return fault
        return None

    async def _pass_on(self, request: web.Request, body: bytes) -> web.Response:
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        url = self.upstream + request.raw_path
        async with self._session.request(request.method, URL(url, encoded=True), data=body, headers=headers) as answer:
            content = await answer.read()
            passed = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            return web.Response(status=answer.status, body=content, headers=passed)

    async def _fail(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        match fault.failure:
            case "status":
                return web.Response(status=fault.status, text="<h1>no</h1>", content_type="text/html")
            case "rate_limit":
                milliseconds = int(fault.seconds * 1000)
                body = {"errcode": "M_LIMIT_EXCEEDED", "error": "Too many", "retry_after_ms": milliseconds}
                return web.json_response(body, status=429)
            case "hang":
                await asyncio.sleep(fault.seconds)
        if request.transport is not None:
            reset(request.transport)
        return web.Response(status=500)


def _kind(method: str, path: str) -> str:
    if method == "PUT" and "/send/" in path:
        return "send"
    if method == "PUT" and "/redact/" in path:
        return "redact"
    if method == "POST" and path.endswith("/upload"):
        return "upload"
    return "sync" if path.endswith("/sync") else "other"
