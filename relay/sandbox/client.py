"""The control interface from another process: what tests, the demo and chaos use.

Each method is the one of `relay.sandbox.control.http.Control` of the same name, where its arguments are described.
"""

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
        """Any method by its name. Raises `SandboxError`."""
        async with self._http.post(f"{self.base_url}/_sandbox/{method}", json=arguments) as response:
            return await _result(response)

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use the client as an async context manager")
        return self._session

    # --- Who and what there is ----------------------------------------------------------------------------

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

    async def create_person(self, name: str, display_name: str | None = None, **options: Any) -> int:
        """A person; their ID."""
        return int((await self.call("create_person", name=name, display_name=display_name, **options))["id"])

    async def create_guild(self, name: str, **options: Any) -> int:
        """A guild; its ID."""
        return int((await self.call("create_guild", name=name, **options))["id"])

    async def create_channel(self, guild: Id, name: str, **options: Any) -> int:
        """A channel; its ID."""
        return int((await self.call("create_channel", guild=guild, name=name, **options))["id"])

    async def create_bot(self, name: str, guild: Id | None = None, **options: Any) -> tuple[int, str]:
        """A bot; its ID and token."""
        made = await self.call("create_bot", name=name, guild=guild, **options)
        return int(made["id"]), made["token"]

    async def create_role(self, guild: Id, name: str, **options: Any) -> int:
        """A role; its ID."""
        return int((await self.call("create_role", guild=guild, name=name, **options))["id"])

    async def create_webhook(self, channel: Id, name: str, creator: Id) -> tuple[int, str]:
        """Somebody's webhook; its ID and token."""
        made = await self.call("create_webhook", channel=channel, name=name, creator=creator)
        return int(made["id"]), made["token"]

    async def join(self, guild: Id, user: Id, **options: Any) -> None:
        """A person joins a guild."""
        await self.call("join", guild=guild, user=user, **options)

    async def delete_webhook(self, webhook: Id) -> None:
        """Somebody deletes a webhook."""
        await self.call("delete_webhook", webhook=webhook)

    async def webhooks(self, channel: Id) -> list[Json]:
        """The webhooks of a channel."""
        return list(await self.call("webhooks", channel=channel))

    async def set_channel_permissions(
        self, channel: Id, target: Id, allow: list[str] | None = None, deny: list[str] | None = None
    ) -> None:
        """What a role or user may do in a channel; neither list: back to the guild's rules."""
        await self.call("set_channel_permissions", channel=channel, target=target, allow=allow, deny=deny)

    async def set_bot_permissions(self, bot: Id, guild: Id, permissions: list[str] | None = None) -> None:
        """What the bot's own role gives it; None: what a relay is given."""
        await self.call("set_bot_permissions", bot=bot, guild=guild, permissions=permissions)

    async def set_intents(self, bot: Id, **switches: bool) -> None:
        """`message_content`, `members`, `presences`."""
        await self.call("set_intents", bot=bot, **switches)

    # --- What people do -----------------------------------------------------------------------------------

    async def say(self, channel: Id, author: Id, content: str = "", **options: Any) -> Json:
        """Somebody writes; the message."""
        return dict(await self.call("say", channel=channel, author=author, content=content, **options))

    async def say_many(self, channel: Id, author: Id, contents: list[str]) -> list[int]:
        """One message for each text; their IDs."""
        return [int(i) for i in await self.call("say_many", channel=channel, author=author, contents=contents)]

    async def say_as_webhook(self, webhook: Id, content: str = "", **options: Any) -> Json:
        """Somebody else's webhook posts; the message."""
        return dict(await self.call("say_as_webhook", webhook=webhook, content=content, **options))

    async def edit(self, channel: Id, message: Id, content: str | None = None, **options: Any) -> Json:
        """The author edits; the message."""
        return dict(await self.call("edit", channel=channel, message=message, content=content, **options))

    async def delete(self, channel: Id, message: Id) -> None:
        """Somebody deletes."""
        await self.call("delete", channel=channel, message=message)

    async def bulk_delete(self, channel: Id, messages: list[int]) -> None:
        """A moderation bot deletes many."""
        await self.call("bulk_delete", channel=channel, messages=messages)

    async def react(self, channel: Id, message: Id, user: Id, emoji: str, on: bool = True) -> None:
        """Put an emoji under a message, or take it away."""
        await self.call("react", channel=channel, message=message, user=user, emoji=emoji, on=on)

    async def typing(self, channel: Id, user: Id) -> None:
        """Somebody starts typing."""
        await self.call("typing", channel=channel, user=user)

    async def open_thread(self, channel: Id, user: Id, name: str, message: Id | None = None) -> int:
        """A thread; its ID."""
        return int((await self.call("open_thread", channel=channel, user=user, name=name, message=message))["id"])

    async def messages(self, channel: Id, after: Id = 0) -> list[Json]:
        """All messages of a channel or thread, oldest first, each with `pinged`."""
        return list(await self.call("messages", channel=channel, after=after))

    async def upload(self, chunks: AsyncIterator[bytes] | bytes) -> str:
        """Bytes for a file of `say`: its `upload`."""
        async with self._http.post(f"{self.base_url}/_sandbox/uploads", data=chunks) as response:
            return str((await _result(response))["upload"])

    # --- What happened ------------------------------------------------------------------------------------

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
            for message in await self.messages(channel):
                if matches(message):
                    return message
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no such message within {timeout} s")
            await self.events(after, left, "", channel)

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

    async def statistics(self) -> Json:
        """What clients did."""
        return dict(await self.call("statistics"))

    # --- What goes wrong ----------------------------------------------------------------------------------

    async def add_fault(self, kind: str, **options: Any) -> int:
        """Arm a fault of the REST API or the CDN; its ID."""
        return int((await self.call("add_fault", kind=kind, **options))["id"])

    async def add_gateway_fault(self, kind: str, **options: Any) -> int:
        """Arm a fault of dispatches; its ID."""
        return int((await self.call("add_gateway_fault", kind=kind, **options))["id"])

    async def faults(self) -> Json:
        """All faults with how often each fired."""
        return dict(await self.call("faults"))

    async def clear_faults(self) -> None:
        """Disarm all."""
        await self.call("clear_faults")

    async def close_gateway(self, code: int = 4000) -> int:
        """Close every connection with a code; how many."""
        return int(await self.call("close_gateway", code=code))

    async def abort_gateway(self) -> int:
        """Reset every connection's TCP stream; how many."""
        return int(await self.call("abort_gateway"))

    async def ask_reconnect(self) -> int:
        """Opcode 7; to how many."""
        return int(await self.call("ask_reconnect"))

    async def invalidate_sessions(self, resumable: bool = False) -> int:
        """Opcode 9; to how many."""
        return int(await self.call("invalidate_sessions", resumable=resumable))

    async def send_unparseable(self, event: str = "MESSAGE_CREATE") -> int:
        """A dispatch that no client can parse; to how many sessions."""
        return int(await self.call("send_unparseable", event=event))

    async def acknowledge_heartbeats(self, on: bool) -> None:
        """Stop acknowledging heartbeats, or go on."""
        await self.call("acknowledge_heartbeats", on=on)

    async def refuse_gateway(self, count: int = 1) -> None:
        """The next connections are refused with 503."""
        await self.call("refuse_gateway", count=count)

    async def go_offline(self, offline: bool = True) -> None:
        """Discord is down, or up again."""
        await self.call("go_offline", offline=offline)

    async def expire_attachments(self) -> None:
        """Every URL of an attachment that was handed out before is dead."""
        await self.call("expire_attachments")

    async def set_limits(self, **changes: float) -> Json:
        """Change the limits; `factor=0` turns all off."""
        return dict(await self.call("set_limits", **changes))


async def _result(response: aiohttp.ClientResponse) -> Any:
    body = await response.json()
    if response.status >= 400:
        raise SandboxError(response.status, body.get("code", 0), body.get("message", ""))
    return body
