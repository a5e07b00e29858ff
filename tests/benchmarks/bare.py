"""The two libraries wired back to back, without a store or a second try: what the relay is measured against.

A room gets its messages one after the other, all rooms at once. Without that two hundred requests would wait for the
library's hundred connections, and the sync behind them: it would read its echoes in a few large answers.

Started by `roundtrip.py`. Reads one JSON object a line from standard input, and answers each with one: first what to
connect (`Wiring`), then `{"send": [room IDs], "count": n, "tag": "…"}`: send that many messages into each room, one
after the other in a room, all rooms at once.
"""

import asyncio
import json
import sys
import time
import warnings
from dataclasses import dataclass
from html import escape
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # audioop, see pyproject.toml
    import discord
import aiohttp
import yarl
from discord.gateway import DiscordWebSocket
from nio import Event, JoinResponse, MatrixRoom, RoomMessageText, RoomSendResponse, SyncResponse
from nio.client.async_client import AsyncClient, AsyncClientConfig

_LONGEST_LINE = 2**22
"""Bytes: a thousand pairs are described in one line."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A channel, its webhook, and the room."""

    channel: int
    webhook: int
    webhook_token: str
    room: str


@dataclass(frozen=True, slots=True)
class Wiring:
    """Channels and rooms, and the bot between them; a sender that only writes, and the rooms it enters."""

    api_url: str
    discord_token: str
    homeserver_url: str
    user_id: str
    access_token: str
    pairs: list[Pair]
    sender_id: str
    sender_token: str
    joins: list[str]


class Matrix:
    """One account, through nio."""

    def __init__(self, homeserver_url: str, user_id: str, access_token: str) -> None:
        config = AsyncClientConfig(encryption_enabled=False, store_sync_tokens=False)
        self.client = AsyncClient(homeserver_url, user_id, config=config)
        self.client.access_token = access_token
        self.client.user_id = user_id

    async def enter(self, rooms: list[str]) -> None:
        """Be in these rooms."""
        for room in rooms:
            answer = await self.client.join(room)
            assert isinstance(answer, JoinResponse), answer

    async def look(self) -> None:
        """Sync once, so that nothing old comes."""
        answer = await self.client.sync(full_state=True)
        assert isinstance(answer, SyncResponse), answer

    async def send(self, room: str, name: str, text: str) -> None:
        """What the relay sends, too: a name for those clients that show no profile."""
        html = f"<strong data-mx-profile-fallback>{escape(name)}: </strong>{escape(text)}"
        content = {
            "msgtype": "m.text",
            "body": f"{name}: {text}",
            "format": "org.matrix.custom.html",
            "formatted_body": html,
            "com.beeper.per_message_profile": {"id": name, "displayname": name, "has_fallback": True},
            "m.mentions": {},
        }
        answer = await self.client.room_send(room, "m.room.message", content)
        assert isinstance(answer, RoomSendResponse), answer

    async def flood(self, rooms: list[str], count: int, tag: str) -> float:
        """Seconds that it takes the homeserver to accept `count` messages in each room."""

        async def fill(number: int, room: str) -> None:
            for message in range(count):
                await self.send(room, "Bare", f"#{tag}-{number}-{message}")

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, room in enumerate(rooms):
                group.create_task(fill(number, room))
        return time.perf_counter() - began

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()  # type: ignore[no-untyped-call]


async def point_library_at(api_url: str, token: str) -> None:
    """Let discord.py find the sandbox."""
    discord.http.Route.BASE = api_url
    headers = {"Authorization": f"Bot {token}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(f"{api_url}/gateway/bot") as answer:
        DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL((await answer.json())["url"])


def wired(wiring: Wiring, matrix: Matrix, ready: asyncio.Event) -> discord.Client:
    """Both directions, with the least code that there is for it."""
    client = discord.Client(
        intents=discord.Intents(guilds=True, guild_messages=True, message_content=True),
        max_messages=None,
        member_cache_flags=discord.MemberCacheFlags.none(),
        chunk_guilds_at_startup=False,
    )

    rooms = {pair.channel: pair.room for pair in wiring.pairs}
    turns = {room: asyncio.Lock() for room in rooms.values()}

    @client.event
    async def on_message(message: discord.Message) -> None:
        if message.channel.id in rooms and message.webhook_id is None:
            room = rooms[message.channel.id]
            async with turns[room]:
                await matrix.send(room, message.author.display_name, message.content)

    @client.event
    async def on_ready() -> None:
        hooks = {
            pair.room: discord.Webhook.partial(pair.webhook, pair.webhook_token, client=client) for pair in wiring.pairs
        }

        async def on_text(room: MatrixRoom, event: Event) -> None:
            if room.room_id in hooks and event.sender != wiring.user_id and isinstance(event, RoomMessageText):
                name = room.user_name(event.sender) or event.sender
                await hooks[room.room_id].send(
                    event.body, username=name, allowed_mentions=discord.AllowedMentions.none(), wait=True
                )

        matrix.client.add_event_callback(on_text, RoomMessageText)
        ready.set()

    return client


async def main() -> None:
    """Connect, answer commands, end with standard input."""
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    asked = json.loads(await reader.readline())
    wiring = Wiring(**asked | {"pairs": [Pair(**pair) for pair in asked["pairs"]]})
    await point_library_at(wiring.api_url, wiring.discord_token)
    matrix = Matrix(wiring.homeserver_url, wiring.user_id, wiring.access_token)
    await matrix.enter([pair.room for pair in wiring.pairs])
    await matrix.look()
    sender = Matrix(wiring.homeserver_url, wiring.sender_id, wiring.sender_token)
    await sender.enter(wiring.joins)
    ready = asyncio.Event()
    client = wired(wiring, matrix, ready)
    tasks = [
        asyncio.create_task(client.start(wiring.discord_token)),
        asyncio.create_task(matrix.client.sync_forever(timeout=30_000)),
    ]
    await ready.wait()
    say({"ready": True})
    while line := await reader.readline():
        command = json.loads(line)
        say({"seconds": await sender.flood(command["send"], command["count"], command["tag"])})
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()
    await matrix.close()
    await sender.close()


def say(answer: dict[str, Any]) -> None:
    """One line for the process that started this."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
