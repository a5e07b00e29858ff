"""The HTTP server: `/`, `/metrics`, `/healthz`, `/readyz`. Reads `core.status` and writes nothing."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Protocol

import structlog
from aiohttp import web
from prometheus_client.exposition import choose_encoder

from relay.core.status import Histogram, Snapshot, side_as_json
from relay.errors import FatalError, StoreError
from relay.web.metrics import registry
from relay.web.page import render

_log = structlog.get_logger(__name__)

# The page has one style sheet of its own, no script, and nothing in it comes from elsewhere.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    # Not which versions of what we run on.
    "Server": "relay",
}
_SHUTDOWN_SECONDS = 1.0


class StatusSource(Protocol):
    """What is shown; `core.status.Status` is one."""

    async def snapshot(self) -> Snapshot:
        """How things are now. Raises `StoreError` when the store cannot be read."""
        ...

    def cached_snapshot(self) -> Snapshot:
        """As `snapshot`, without I/O; the outbox as it was when it was last read."""
        ...

    def delivery_seconds(self) -> Mapping[str, Histogram]:
        """How long deliveries took, by direction."""
        ...


class WebServer:
    """Serves the status on `listen`, `host:port`; port 0 lets the system choose one."""

    def __init__(self, status: StatusSource, listen: str) -> None:
        self._status = status
        self._listen = listen
        self._style = files("relay.web").joinpath("page.css").read_text(encoding="utf-8")
        self._runner: web.AppRunner | None = None

    async def run(self) -> None:
        """Serve until cancelled. Raises `FatalError` where the address cannot be used."""
        _log.info("status page is up", url=await self.start())
        try:
            await asyncio.Event().wait()
        finally:
            await self.close()

    async def start(self) -> str:
        """Begin to serve, and return the page's URL. Raises `FatalError` where the address cannot be used."""
        host, _, port = self._listen.rpartition(":")
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host.strip("[]"), int(port))
        try:
            await site.start()
        except OSError as error:
            await self.close()
            raise FatalError(*_unusable(self._listen, error)) from error
        # A host that resolves to several addresses gets a socket for each; with port 0 the first one's is shown.
        bound = self._runner.addresses[0][1]
        return f"http://{host}:{bound}/"

    async def close(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[_secure])
        application.router.add_get("/", self._page)
        application.router.add_get("/page.css", self._style_sheet)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        return application

    async def _snapshot(self) -> Snapshot:
        try:
            return await self._status.snapshot()
        except StoreError:
            return self._status.cached_snapshot()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def _readyz(self, _request: web.Request) -> web.Response:
        snapshot = self._status.cached_snapshot()
        reasons = {name: side_as_json(side) for name, side in snapshot.sides.items()}
        body = {"ready": snapshot.ready, **reasons, "store": {"problem": snapshot.store_problem}}
        return web.json_response(body, status=200 if snapshot.ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = encode(registry(await self._snapshot(), self._status.delivery_seconds()))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(text=render(await self._snapshot()), content_type="text/html")

    async def _style_sheet(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._style, content_type="text/css")


@web.middleware
async def _secure(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as refusal:
        refusal.headers.update(HEADERS)
        raise
    response.headers.update(HEADERS)
    return response


def _unusable(listen: str, error: OSError) -> tuple[str, str]:
    """Why an address cannot be listened on, and what to do about it."""
    remedy = 'choose another address in [web] listen, or "" to do without'
    if error.errno == errno.EADDRINUSE:
        return f"another program listens on {listen} already", f"stop it, {remedy}"
    if error.errno == errno.EACCES:
        return f"this user may not listen on {listen}", f"use a port above 1023: {remedy}"
    reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else "the host is not known"
    return f"cannot listen on {listen} ({reason})", remedy
