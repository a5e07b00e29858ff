"""The control interface from another process: any call by its name, and waiting for what happens."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from relay.sandbox.world.models import Json

Id = int | str


class SandboxError(Exception):
    """The sandbox refused. `code` is Discord's."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(f"{status} {code} {message}")
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class World:
    """What `bootstrap` made; `channels` and `people` by name."""

    guild: int
    bot: int
    token: str
    channels: dict[str, int]
    people: dict[str, int]


class SandboxClient:
    """`base_url` is the sandbox's origin, `http://127.0.0.1:PORT`. An async context manager."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    @property
    def api_url(self) -> str:
        """What `discord.api_url` is set to."""
        return f"{self.base_url}/api/v10"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(self, method: str, /, **arguments: Any) -> Any:
        """A method of `relay.sandbox.control.http.Control` by its name; its arguments are described there.

        Raises `SandboxError`.
        """
        async with self._http.post(f"{self.base_url}/_sandbox/{method}", json=arguments) as response:
            return await _result(response)

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use the client as an async context manager")
        return self._session

    async def bootstrap(
        self,
        channels: list[str] | None = None,
        people: list[str] | None = None,
        guild: str = "Sandbox",
        bot: str = "relay",
    ) -> World:
        """A guild with channels, people and a bot at once."""
        made = await self.call("bootstrap", channels=channels, people=people, guild=guild, bot=bot)
        return World(
            int(made["guild"]),
            int(made["bot"]),
            made["token"],
            {name: int(found) for name, found in made["channels"].items()},
            {name: int(found) for name, found in made["people"].items()},
        )

    async def upload(self, chunks: AsyncIterator[bytes] | bytes) -> str:
        """Bytes for a file of `say`: its `upload`."""
        async with self._http.post(f"{self.base_url}/_sandbox/uploads", data=chunks) as response:
            return str((await _result(response))["upload"])

    async def events(
        self, after: int = 0, timeout: float = 0.0, event: str = "", channel: Id = ""
    ) -> tuple[list[Json], int]:
        """The events behind a number, waiting up to `timeout` seconds for one; and the last number of all."""
        query = {"after": str(after), "timeout": str(timeout), "event": event, "channel": str(channel)}
        async with self._http.get(f"{self.base_url}/_sandbox/events", params=query) as response:
            body = await _result(response)
            return body["events"], body["last"]

    async def wait_for(
        self,
        matches: Callable[[Json], bool],
        timeout: float = 10.0,
        *,
        after: int = 0,
        event: str = "",
        channel: Id = "",
    ) -> Json:
        """The first event behind `after` that `matches`. Raises `TimeoutError`."""
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no such event within {timeout} s")
            found, _ = await self.events(after, left, event, channel)
            for entry in found:
                if matches(entry):
                    return entry
            after = found[-1]["seq"] if found else after

    async def wait_for_message(self, channel: Id, matches: Callable[[Json], bool], timeout: float = 10.0) -> Json:
        """The first message of a channel, from the first on, that `matches` once it was written or edited."""
        deadline = time.monotonic() + timeout
        after = 0
        while True:
            _, after = await self.events(1 << 62)
            for message in await self.call("messages", channel=channel):
                if matches(message):
                    return dict(message)
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no such message within {timeout} s")
            await self.events(after, left, "", channel)

    async def use_command(
        self, channel: Id, user: Id, command: str, options: Json | None = None, timeout: float = 10.0
    ) -> Json:
        """A person uses a slash command; what they see once it was answered, or was not: see `interaction`.

        Raises `TimeoutError` when the bot goes on thinking.
        """
        made = await self.call("use_command", channel=channel, user=user, command=command, options=options)
        deadline = time.monotonic() + timeout
        while True:
            _, after = await self.events(1 << 62)
            seen = await self.call("interaction", interaction=made["id"])
            if seen["state"] not in {"waiting", "thinking"}:
                return dict(seen)
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"/{command} was not answered within {timeout} s")
            await self.events(after, left, "SANDBOX_INTERACTION")

    async def wait_connected(self, bot: Id, timeout: float = 20.0) -> None:
        """Until a session of the bot has a connection. Raises `TimeoutError`."""
        deadline = time.monotonic() + timeout
        while True:
            _, after = await self.events(1 << 62)
            if await self.call("connected", bot=bot):
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"bot {bot} did not connect within {timeout} s")
            await self.events(after, left, "SANDBOX_GATEWAY")


async def _result(response: aiohttp.ClientResponse) -> Any:
    body = await response.json()
    if response.status >= 400:
        raise SandboxError(response.status, body.get("code", 0), body.get("message", ""))
    return body
