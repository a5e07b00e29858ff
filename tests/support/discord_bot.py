"""The real discord.py against a sandbox.

`Route.BASE` and `DEFAULT_GATEWAY` belong to the whole process: one sandbox at a time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import discord
import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route

from relay.sandbox.server import SandboxServer
from tests.support.patience import PATIENCE


class Bot(discord.Client):
    """A client that keeps what happens: `(event, payload)` in order."""

    def __init__(self, intents: discord.Intents | None = None) -> None:
        if intents is None:
            intents = discord.Intents.default()
            intents.message_content = True
        super().__init__(intents=intents, max_messages=None, guild_ready_timeout=0.05, chunk_guilds_at_startup=False)
        self.happened: list[tuple[str, Any]] = []
        self._changed = asyncio.Event()

    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
        """discord.py would wait for five seconds here."""

    def dispatch(self, event: str, /, *args: Any, **kwargs: Any) -> None:
        super().dispatch(event, *args, **kwargs)
        if event != "socket_event_type":
            self.happened.append((event, args[0] if args else None))
            self._changed.set()

    def count(self, event: str) -> int:
        """How often an event happened."""
        return sum(name == event for name, _ in self.happened)

    def texts(self) -> list[str]:
        """What was said, in order."""
        return [payload.content for event, payload in self.happened if event == "message"]

    async def until(self, condition: Callable[[], bool], timeout: float = PATIENCE) -> None:
        """Wait until something holds; looked at after each event."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def next(self, event: str, number: int = 1, timeout: float = PATIENCE) -> Any:
        """The payload of the `number`th event of a kind."""
        await self.until(lambda: self.count(event) >= number, timeout)
        return [payload for name, payload in self.happened if name == event][number - 1]


@asynccontextmanager
async def pointed_at(sandbox: SandboxServer) -> AsyncIterator[None]:
    """discord.py talks to the sandbox while this lasts."""
    before = Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY
    Route.BASE = sandbox.api_url
    DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(sandbox.sessions.gateway_url)
    try:
        yield
    finally:
        Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY = before


@asynccontextmanager
async def logged_in(sandbox: SandboxServer, token: str, intents: discord.Intents | None = None) -> AsyncIterator[Bot]:
    """A bot that uses the REST API only."""
    async with pointed_at(sandbox):
        bot = Bot(intents)
        try:
            await bot.login(token)
            yield bot
        finally:
            await bot.close()


@asynccontextmanager
async def running(sandbox: SandboxServer, token: str, intents: discord.Intents | None = None) -> AsyncIterator[Bot]:
    """A bot that is connected to the gateway and ready."""
    async with logged_in(sandbox, token, intents) as bot:
        connection = asyncio.create_task(bot.connect(), name="discord.py")
        ready = asyncio.create_task(bot.next("ready"), name="ready")
        try:
            await asyncio.wait({connection, ready}, return_when=asyncio.FIRST_COMPLETED)
            if connection.done():
                await connection
            await ready
            yield bot
        finally:
            ready.cancel()
            await bot.close()
            connection.cancel()
            await asyncio.gather(connection, ready, return_exceptions=True)


class Raw:
    """Plain requests, for what discord.py would never send."""

    def __init__(self, sandbox: SandboxServer, session: aiohttp.ClientSession, token: str | None) -> None:
        self.sandbox = sandbox
        self.session = session
        self.headers = {} if token is None else {"Authorization": f"Bot {token}"}

    async def __call__(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """The status and the body: JSON, or text, or None."""
        status, body, _ = await self.full(method, path, **options)
        return status, body

    async def full(self, method: str, path: str, **options: Any) -> tuple[int, Any, dict[str, str]]:
        """With the headers, in lower case."""
        headers = self.headers | options.pop("headers", {})
        async with self.session.request(method, self.sandbox.api_url + path, headers=headers, **options) as response:
            found = {name.lower(): value for name, value in response.headers.items()}
            if response.status == 204:
                return 204, None, found
            is_json = response.headers.get("Content-Type") == "application/json"
            return response.status, await response.json() if is_json else await response.text(), found


@asynccontextmanager
async def raw(sandbox: SandboxServer, token: str | None) -> AsyncIterator[Raw]:
    """Plain requests with a bot's token."""
    async with aiohttp.ClientSession() as session:
        yield Raw(sandbox, session, token)
