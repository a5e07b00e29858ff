"""One running daemon with many pairs, a new pair for each test: many tests for the price of one start."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from relay.demo.matrix_client import Shown
from relay.domain.jsontext import Json
from tests.support.payloads import Case
from tests.support.stack import FullStack


@dataclass(slots=True)
class Chat:
    """A pair in which nothing has been said yet. Ada writes on Discord, Mia on Matrix."""

    stack: FullStack
    pair: str

    @property
    def channel(self) -> str:
        """The ID of its channel."""
        return self.stack.channels[self.pair]

    @property
    def room(self) -> str:
        """The ID of its room."""
        return self.stack.rooms[self.pair]

    def say(self, text: str = "", *, who: str = "Ada", **more: Any) -> str:
        """Somebody writes on Discord; the message's ID."""
        return self.stack.say(self.pair, text, who=who, **more)

    async def tell(self, content: str | Json, kind: str = "m.room.message") -> str:
        """Mia writes on Matrix, words or a whole content; the event's ID."""
        if isinstance(content, str):
            return await self.stack.mia.text(self.room, content)
        return await self.stack.mia.send(self.room, content, kind)

    async def html(self, formatted_body: str, body: str = "-") -> str:
        """Mia writes with formatting; the event's ID."""
        return await self.stack.mia.html(self.room, body, formatted_body)

    async def on_matrix(self, count: int = 1) -> list[Shown]:
        """What the room shows once there are `count` messages."""
        await self.stack.until_matrix(self.pair, lambda words: len(words) >= count)
        shown = await self.stack.on_matrix(self.pair)
        assert len(shown) == count, [message.body for message in shown]
        return shown

    async def shows(self, table: Sequence[Case]) -> None:
        """Wait until the room shows everything that these payloads become, in their order, and nothing else."""
        expected = [(case.name, _visible(event)) for case in table for event in case.expected]
        shown = [_visible(message.content) for message in await self.on_matrix(len(expected))]
        assert list(zip([name for name, _ in expected], shown, strict=True)) == expected

    async def on_discord(self, count: int = 1) -> list[Json]:
        """What the channel shows once there are `count` messages."""
        await self.stack.until_discord(self.pair, lambda words: len(words) >= count)
        shown = self.stack.on_discord(self.pair)
        assert len(shown) == count, [message["content"] for message in shown]
        return shown

    async def words(self, count: int = 1) -> list[str]:
        """The words in the channel once there are `count` messages."""
        return [message["content"] for message in await self.on_discord(count)]

    async def upload(self, data: bytes, content_type: str) -> str:
        """Mia uploads a file; its `mxc://` URI."""
        return await self.stack.mia.upload(data, content_type)


def _visible(content: Json) -> Json:
    return {key: content.get(key) for key in ("msgtype", "body", "formatted_body", "m.mentions")}


def chats(stack: FullStack) -> Iterator[Chat]:
    """Each pair of a stack, one after the other."""
    return (Chat(stack, name) for name in stack.channels)


def file(name: str, data: bytes, **more: Any) -> Json:
    """A file for `Control.say`."""
    return {"filename": name, "data": base64.b64encode(data).decode(), **more}


async def stored(url: str) -> bytes:
    """A file as Discord's CDN sends it."""
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
        return await answer.read()
