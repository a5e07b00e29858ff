"""People on either platform: what they can do, and what they see. They use no part of the relay's adapters."""

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp

from relay.sandbox.control import Control
from relay.sandbox.people import Json, Person, Refused, shown

# A name in front of the words: where the bot itself had to post, and where several people share a copy.
_SIGNATURE = re.compile(r"\A\*\*[^\n]{1,100}?\*\*:? ?")


@dataclass(frozen=True, slots=True)
class View:
    """What stands in a channel now, in its order: what people wrote there, and the copies.

    Each as the author's own words and the names of the files, without the name and the quoted line that the relay
    puts around them. What several messages share is each of them: here, nobody writes more than a line.
    """

    originals: tuple[str, ...]
    copies: tuple[str, ...]


class Side(Protocol):
    """One platform, for those who write on it. Every call lasts until the platform has taken it."""

    @property
    def letter(self) -> str:
        """What its messages' names begin with."""
        ...

    @property
    def authors(self) -> Sequence[str]:
        """Who writes there."""
        ...

    async def say(self, pair: str, author: str, text: str, *, reply_to: str | None, file: str) -> str:
        """Write, with a file of that name if there is one; the message's ID."""
        ...

    async def edit(self, pair: str, author: str, message: str, text: str) -> None:
        """The author changes the words."""
        ...

    async def delete(self, pair: str, author: str, messages: Sequence[str]) -> None:
        """The author deletes."""
        ...

    async def recent(self, pair: str) -> Sequence[str]:
        """The IDs of the last messages, copies too: what one may reply to."""
        ...

    async def view(self, pair: str) -> View:
        """What a reader sees now."""
        ...


@dataclass(slots=True)
class DiscordSide:
    """The sandbox. `channels` by pair, `people` by name."""

    control: Control
    channels: dict[str, str]
    people: dict[str, str]
    letter: str = "d"
    authors: Sequence[str] = ("Ada", "Ben")

    async def say(self, pair: str, author: str, text: str, *, reply_to: str | None, file: str) -> str:
        """See `Side`."""
        attachments = [{"filename": file, "zeros": 2_000, "content_type": "application/pdf"}] if file else []
        seen = {message["id"] for message in self.control.messages(self.channels[pair])} if reply_to else frozenset()
        said = self.control.say(
            self.channels[pair],
            self.people[author],
            text,
            reply_to=reply_to if reply_to in seen else None,
            attachments=attachments,
        )
        return str(said["id"])

    async def edit(self, pair: str, author: str, message: str, text: str) -> None:
        """See `Side`."""
        self.control.edit(self.channels[pair], message, text)

    async def delete(self, pair: str, author: str, messages: Sequence[str]) -> None:
        """See `Side`. Several at once are a bulk deletion."""
        if len(messages) == 1:
            self.control.delete(self.channels[pair], messages[0])
        else:
            self.control.bulk_delete(self.channels[pair], list(messages))

    async def recent(self, pair: str) -> Sequence[str]:
        """See `Side`."""
        return [str(message["id"]) for message in self.control.messages(self.channels[pair])[-20:]]

    async def view(self, pair: str) -> View:
        """See `Side`."""
        originals: list[str] = []
        copies: list[str] = []
        for message in self.control.messages(self.channels[pair]):
            files = [attachment["filename"] for attachment in message["attachments"]]
            mine = message["author"]["id"] in self.people.values()
            if mine:
                originals.append(" ".join([message["content"], *files]))
            else:
                copies += [*own_words(message["content"]), *files]
        return View(tuple(originals), tuple(copies))


def own_words(copy: str) -> list[str]:
    """What people said, a line each, of what the relay says for them."""
    lines = (_SIGNATURE.sub("", line) for line in copy.split("\n") if not line.startswith("> "))
    return [line for line in lines if line.strip()]


@dataclass(slots=True)
class MatrixSide:
    """The homeserver. `rooms` by pair, `people` by name; `relay` is the relay's user ID."""

    people: dict[str, Person]
    rooms: dict[str, str]
    relay: str
    letter: str = "m"
    _transactions: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def authors(self) -> Sequence[str]:
        """See `Side`."""
        return tuple(self.people)

    async def say(self, pair: str, author: str, text: str, *, reply_to: str | None, file: str) -> str:
        """See `Side`."""
        content: Json = {"msgtype": "m.text", "body": text}
        if file:
            content = {"msgtype": "m.file", "body": text or file, "filename": file, "url": "mxc://localhost/chaos"}
            content["info"] = {"size": 2_000, "mimetype": "application/pdf"}
        if reply_to is not None:
            content["m.relates_to"] = {"m.in_reply_to": {"event_id": reply_to}}
        return await self._send(author, "send", pair, "m.room.message", content)

    async def edit(self, pair: str, author: str, message: str, text: str) -> None:
        """See `Side`."""
        content: Json = {
            "msgtype": "m.text",
            "body": f"* {text}",
            "m.new_content": {"msgtype": "m.text", "body": text},
            "m.relates_to": {"rel_type": "m.replace", "event_id": message},
        }
        await self._send(author, "send", pair, "m.room.message", content)

    async def delete(self, pair: str, author: str, messages: Sequence[str]) -> None:
        """See `Side`."""
        for message in messages:
            await self._send(author, "redact", pair, message, {})

    async def recent(self, pair: str) -> Sequence[str]:
        """See `Side`."""
        room = quote(self.rooms[pair], safe="")
        path = f"client/v3/rooms/{room}/messages"
        reader = next(iter(self.people.values()))
        page = await insist(lambda: reader.call("GET", path, query={"dir": "b", "limit": "30"}))
        return [message.event_id for message in shown(page["chunk"][::-1]) if not message.redacted]

    async def view(self, pair: str) -> View:
        """See `Side`."""
        reader = next(iter(self.people.values()))
        originals: list[str] = []
        copies: list[str] = []
        for message in await insist(lambda: reader.messages(self.rooms[pair])):
            if message.redacted:
                continue
            prefix = f"{message.name}: " if message.name else ""
            file = str(message.content.get("filename", ""))
            words = message.body.removeprefix(prefix)
            more = [file] if file and file not in words else []
            if message.sender != self.relay:
                originals.append(" ".join([words, *more]))
            else:
                copies += [*own_words(words), *more]
        return View(tuple(originals), tuple(copies))

    async def _send(self, author: str, verb: str, pair: str, target: str, content: Json) -> str:
        # The same transaction ID for every try: whatever becomes of an answer, it is one message.
        room = quote(self.rooms[pair], safe="")
        path = f"client/v3/rooms/{room}/{verb}/{quote(target, safe='')}/chaos.{next(self._transactions)}"
        answer = await insist(lambda: self.people[author].call("PUT", path, content))
        return str(answer["event_id"])


async def insist(call: Callable[[], Awaitable[Any]]) -> Any:
    """Try until the homeserver answers: it may be stopped, or just starting."""
    while True:
        try:
            return await call()
        except Refused as refused:
            if refused.status < 500:
                raise
        except (aiohttp.ClientError, TimeoutError, ValueError):
            pass
        await asyncio.sleep(0.1)
