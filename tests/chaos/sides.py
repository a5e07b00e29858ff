"""People on either platform: what they can do, and what they see. They use no part of the relay's adapters."""

import asyncio
import base64
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp

from relay.demo.matrix_client import MatrixError, Person, Shown, shown
from relay.domain.jsontext import Json
from relay.sandbox.control.http import Control
from tests.chaos import reading
from tests.chaos.ledger import File
from tests.chaos.reading import Standing
from tests.chaos.replies import Place


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that somebody adds to a message."""

    name: str
    data: bytes
    content_type: str

    @property
    def file(self) -> File:
        """What others should get."""
        return File(self.name, digest(self.data))


@dataclass(frozen=True, slots=True)
class View:
    """What a channel shows now, in its order: what people wrote there, and the copies."""

    originals: tuple[Standing, ...]
    copies: tuple[Standing, ...]


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

    def place(self, pair: str) -> Place:
        """Its channel of a pair, as links name it."""
        ...

    async def say(self, pair: str, author: str, text: str, *, reply_to: str, file: Upload | None) -> str:
        """Write; the message's ID."""
        ...

    async def edit(self, pair: str, author: str, message: str, text: str) -> None:
        """The author changes the words."""
        ...

    async def delete(self, pair: str, author: str, messages: Sequence[str]) -> None:
        """The author deletes."""
        ...

    async def recent(self, pair: str) -> Sequence[Standing]:
        """The last messages, copies too: what one may reply to."""
        ...

    async def view(self, pair: str) -> View:
        """What a reader sees now, with the content of all files."""
        ...


@dataclass(slots=True)
class DiscordSide:
    """The sandbox. `channels` by pair, `people` by name."""

    control: Control
    guild: str
    channels: dict[str, str]
    people: dict[str, str]
    letter: str = "d"
    authors: Sequence[str] = ("Ada", "Ben")
    _digests: dict[str, str] = field(default_factory=dict)

    def place(self, pair: str) -> Place:
        """See `Side`."""
        return Place(f"{self.guild}/{self.channels[pair]}")

    async def say(self, pair: str, author: str, text: str, *, reply_to: str, file: Upload | None) -> str:
        """See `Side`."""
        attachments = [] if file is None else [_attached(file)]
        said = self.control.say(
            self.channels[pair], self.people[author], text, reply_to=reply_to or None, attachments=attachments
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

    async def recent(self, pair: str) -> Sequence[Standing]:
        """See `Side`. Asked without a pause before `say`, so nothing of it is gone by then."""
        return [self._standing(message) for message in self.control.messages(self.channels[pair])[-20:]]

    async def view(self, pair: str) -> View:
        """See `Side`."""
        messages = self.control.messages(self.channels[pair])
        async with aiohttp.ClientSession() as session:
            for attachment in (attachment for message in messages for attachment in message["attachments"]):
                if attachment["id"] not in self._digests:
                    self._digests[attachment["id"]] = digest(await insist(partial(_content, session, attachment)))
        return View(
            tuple(self._standing(message) for message in messages if self._is_original(message)),
            tuple(self._standing(message) for message in messages if not self._is_original(message)),
        )

    def _standing(self, message: Json) -> Standing:
        files = reading.files_of(message, self._digests)
        if self._is_original(message):
            # People are known by the names that they gave themselves.
            author = next(name for name, user in self.people.items() if user == message["author"]["id"])
            return reading.discord_original(message | {"author": {"username": author}}, files)
        return reading.discord_copy(message, files)

    def _is_original(self, message: Json) -> bool:
        return message["author"]["id"] in self.people.values()


def _attached(file: Upload) -> Json:
    data = base64.b64encode(file.data).decode()
    return {"filename": file.name, "data": data, "content_type": file.content_type}


@dataclass(slots=True)
class MatrixSide:
    """The homeserver. `rooms` by pair, `people` by name; `relay` is the relay's user ID.

    `ghosts`: of its other accounts, for whom each of them stands.
    """

    people: dict[str, Person]
    rooms: dict[str, str]
    relay: str
    letter: str = "m"
    _transactions: "itertools.count[int]" = field(default_factory=itertools.count)
    ghosts: dict[str, str] = field(default_factory=dict)
    _digests: dict[str, str] = field(default_factory=dict)
    _file_parts: dict[str, Json] = field(default_factory=dict)

    @property
    def authors(self) -> Sequence[str]:
        """See `Side`."""
        return tuple(self.people)

    def place(self, pair: str) -> Place:
        """See `Side`."""
        return Place(self.rooms[pair])

    async def say(self, pair: str, author: str, text: str, *, reply_to: str, file: Upload | None) -> str:
        """See `Side`."""
        content: Json = {"msgtype": "m.text", "body": text}
        part: Json = {}
        if file is not None:
            uri = await insist(lambda: self.people[author].upload(file.data, file.content_type, file.name))
            msgtype = "m.image" if file.content_type.startswith("image/") else "m.file"
            info = {"size": len(file.data), "mimetype": file.content_type}
            part = {"msgtype": msgtype, "filename": file.name, "url": uri, "info": info}
            content = part | {"body": text or file.name}
        if reply_to:
            content["m.relates_to"] = {"m.in_reply_to": {"event_id": reply_to}}
        event_id = await self._send(author, "send", pair, "m.room.message", content)
        if part:
            self._file_parts[event_id] = part
        return event_id

    async def edit(self, pair: str, author: str, message: str, text: str) -> None:
        """See `Side`. The caption of a file is changed together with the file, as clients do."""
        new = {"msgtype": "m.text"} | self._file_parts.get(message, {}) | {"body": text}
        content: Json = new | {
            "body": f"* {text}",
            "m.new_content": new,
            "m.relates_to": {"rel_type": "m.replace", "event_id": message},
        }
        await self._send(author, "send", pair, "m.room.message", content)

    async def delete(self, pair: str, author: str, messages: Sequence[str]) -> None:
        """See `Side`."""
        for message in messages:
            await self._send(author, "redact", pair, message, {})

    async def recent(self, pair: str) -> Sequence[Standing]:
        """See `Side`."""
        room = quote(self.rooms[pair], safe="")
        path = f"client/v3/rooms/{room}/messages"
        page = await insist(lambda: self._reader.call("GET", path, query={"dir": "b", "limit": "30"}))
        found = [message for message in shown(page["chunk"][::-1]) if not message.redacted]
        return [self._standing(message) for message in found]

    async def view(self, pair: str) -> View:
        """See `Side`."""
        messages = await insist(lambda: self._reader.messages(self.rooms[pair]))
        messages = [message for message in messages if not message.redacted]
        for message in messages:
            uri = str(message.content.get("url", ""))
            if uri and uri not in self._digests:
                data, _ = await insist(partial(self._reader.download, uri))
                self._digests[uri] = digest(data)
        return View(
            tuple(self._standing(message) for message in messages if not self._is_copy(message)),
            tuple(self._standing(message) for message in messages if self._is_copy(message)),
        )

    @property
    def _reader(self) -> Person:
        return next(iter(self.people.values()))

    def _is_copy(self, message: Shown) -> bool:
        return message.sender == self.relay or message.sender in self.ghosts

    def _standing(self, message: Shown) -> Standing:
        uri = str(message.content.get("url", ""))
        files = (File(str(message.content.get("filename", "")), self._digests.get(uri, "")),) if uri else ()
        if message.sender in self.ghosts:
            return reading.matrix_copy(replace(message, name=message.name or self.ghosts[message.sender]), files)
        if message.sender == self.relay:
            return reading.matrix_copy(message, files)
        author = next(name for name, person in self.people.items() if person.user_id == message.sender)
        return reading.matrix_original(message, author, files)

    async def _send(self, author: str, verb: str, pair: str, target: str, content: Json) -> str:
        # The same transaction ID for every try: whatever becomes of an answer, it is one message.
        room = quote(self.rooms[pair], safe="")
        path = f"client/v3/rooms/{room}/{verb}/{quote(target, safe='')}/chaos.{next(self._transactions)}"
        answer = await insist(lambda: self.people[author].call("PUT", path, content))
        return str(answer["event_id"])


def digest(data: bytes) -> str:
    """SHA-256, shortened for the eye."""
    return hashlib.sha256(data).hexdigest()[:16]


async def _content(session: aiohttp.ClientSession, attachment: Json) -> bytes:
    async with session.get(attachment["url"]) as answer:
        answer.raise_for_status()
        return await answer.read()


async def insist(call: Callable[[], Awaitable[Any]]) -> Any:
    """Try until there is an answer: the homeserver may be stopped, or just starting, and Discord in trouble."""
    while True:
        try:
            return await call()
        except MatrixError as refused:
            if refused.status < 500:
                raise
        except (aiohttp.ClientError, TimeoutError, ValueError):
            pass
        await asyncio.sleep(0.1)
