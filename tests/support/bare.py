"""A server that speaks Discord's protocol and sends only what it must, in front of the sandbox.

Few routes, plain 404s, no rate-limit headers, no compression, few fields.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

from relay.sandbox.server import SandboxServer

_ROUTES = re.compile(
    r"GET /(users/@me|gateway/bot|channels/\d+/(messages(/\d+)?|webhooks))"
    r"|(POST|PATCH|DELETE) /(channels/\d+/(messages|webhooks)(/\d+)?|webhooks/\d+/[^/]+(/messages/\d+)?)"
)
_GUILD = {"id", "name", "channels", "unavailable"}
_CHANNEL = {"id", "type", "name", "guild_id"}


class BareServer:
    """The server in front."""

    def __init__(self, sandbox: SandboxServer, session: aiohttp.ClientSession) -> None:
        self._sandbox = sandbox
        self._session = session
        self.origin = ""

    @property
    def api_url(self) -> str:
        """Where its REST API starts."""
        return f"{self.origin}/api/v10"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._gateway(request)
        path = request.path.removeprefix("/api/v10")
        if not _ROUTES.fullmatch(f"{request.method} {path}"):
            return web.Response(status=404, text="404: Not Found")
        headers = {
            name: request.headers[name]
            for name in ("Authorization", "Content-Type", "User-Agent")
            if name in request.headers
        }
        url = self._sandbox.api_url + request.raw_path.removeprefix("/api/v10")
        async with self._session.request(request.method, url, data=await request.read(), headers=headers) as response:
            body = await response.read()
            if response.status >= 400:
                return web.Response(status=response.status, text=f"{response.status}")
            if not body:
                return web.Response(status=response.status)
            return web.json_response(self._less(path, json.loads(body)), status=response.status)

    def _less(self, path: str, body: Any) -> Any:
        if path == "/gateway/bot":
            return {"url": self.origin.replace("http", "ws")}
        if path.endswith("/webhooks"):
            for hook in body if isinstance(body, list) else [body]:
                hook["application_id"] = None
        return body

    async def _gateway(self, request: web.Request) -> web.StreamResponse:
        here = web.WebSocketResponse(max_msg_size=0)
        await here.prepare(request)
        url = self._sandbox.sessions.gateway_url + "/?v=10&encoding=json"
        async with self._session.ws_connect(url, max_msg_size=0) as there:
            upwards = asyncio.create_task(_pass_on(here, there))
            try:
                async for message in there:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        await here.send_str(json.dumps(self._dispatch(json.loads(message.data))))
            finally:
                upwards.cancel()
                await asyncio.wait([upwards])
        await here.close(code=there.close_code or 1000)
        return here

    def _dispatch(self, frame: Any) -> Any:
        data = frame.get("d")
        match frame.get("t"):
            case "READY":
                kept = {name: data[name] for name in ("v", "user", "guilds", "session_id")}
                frame["d"] = kept | {"resume_gateway_url": self.origin.replace("http", "ws")}
            case "GUILD_CREATE":
                frame["d"] = _only(data, _GUILD)
                frame["d"]["channels"] = [_only(channel, _CHANNEL) for channel in data["channels"]]
            case "MESSAGE_CREATE" | "MESSAGE_UPDATE":
                data.pop("member", None)
                data.pop("application_id", None)
        return frame


def _only(data: Any, names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name in names}


async def _pass_on(source: web.WebSocketResponse, target: aiohttp.ClientWebSocketResponse) -> None:
    async for message in source:
        if message.type is aiohttp.WSMsgType.TEXT:
            await target.send_str(message.data)
    await target.close()


@asynccontextmanager
async def bare(sandbox: SandboxServer) -> AsyncIterator[BareServer]:
    """Such a server, running."""
    async with aiohttp.ClientSession() as session:
        server = BareServer(sandbox, session)
        application = web.Application(client_max_size=2**26)
        application.router.add_route("*", "/{path:.*}", server.answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            server.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield server
        finally:
            await runner.cleanup()
