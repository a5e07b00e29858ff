"""What the two sides of the demo have in common: messages as a reader sees them, and what people can do."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol

from relay.domain.content import MediaKind
from relay.domain.jsontext import Json

SideName = Literal["discord", "matrix"]
Kind = Literal["person", "bot", "system", "copy", "notice", "command", "private"]

DIRECTION: dict[SideName, str] = {"discord": "to_matrix", "matrix": "to_discord"}
"""The word for the way that starts on a side."""

OTHER: dict[SideName, SideName] = {"discord": "matrix", "matrix": "discord"}


@dataclass(frozen=True, slots=True)
class Participant:
    """Somebody in whose name the demo can write."""

    key: str  # what the page calls them
    name: str


@dataclass(frozen=True, slots=True)
class MessageAuthor:
    """Who a message is from, as its platform shows it."""

    name: str
    key: str | None = None  # of a participant
    badge: str = ""  # how a client marks those who are no people
    avatar: str = ""  # the key for `Side.file`; empty where there is no picture, or none that can be loaded


@dataclass(frozen=True, slots=True)
class Quoted:
    """What a reply answers."""

    id: str
    author: str  # empty, as the body is, if the message is gone
    body: str


@dataclass(frozen=True, slots=True)
class File:
    """An attachment. A number is 0 where nobody tells it."""

    name: str
    size: int  # bytes
    kind: MediaKind = "file"
    source: str = ""  # the key for `Side.file`
    width: int = 0  # pixels
    height: int = 0
    duration: float = 0.0  # seconds
    spoiler: bool = False
    alt: str = ""  # what a picture shows, in words
    waveform: tuple[float, ...] = ()  # the loudness of a voice message over time, 0 to 1


@dataclass(frozen=True, slots=True)
class OutgoingFile:
    """A file to send, with what a client measures before it does. A number is 0 where that is unknown."""

    name: str
    data: bytes
    content_type: str
    width: int = 0  # pixels
    height: int = 0
    duration: float = 0.0  # seconds
    spoiler: bool = False


@dataclass(frozen=True, slots=True)
class ReactionCount:
    """A reaction and how many people gave it."""

    key: str
    count: int


@dataclass(frozen=True, slots=True)
class Appearance:
    """How another client shows the same message."""

    author: MessageAuthor
    body: str
    html: str
    reply: Quoted | None

    def as_json(self) -> Json:
        """For the page."""
        return {
            "author": asdict(self.author),
            "body": self.body,
            "html": self.html,
            "reply": asdict(self.reply) if self.reply else None,
        }


@dataclass(frozen=True, slots=True)
class DisplayedMessage:
    """A message as a client shows it now."""

    id: str
    order: int  # sorts a side's messages
    at: int  # milliseconds since 1970, by the platform's clock
    author: MessageAuthor
    # "copy": written by somebody on the other side; "notice": by the relay itself; "system": by Discord; "command": to
    # the relay; "private": an answer to a command, for one person.
    kind: Kind
    body: str  # Discord's markdown, or Matrix's plain body
    html: str = ""  # Matrix only
    reply: Quoted | None = None
    edited_at: int | None = None
    emote: bool = False  # it says what its author does
    files: tuple[File, ...] = ()
    cards: tuple[Json, ...] = ()  # what stands below the words: embeds, polls, forwards, places, each with its `kind`
    reactions: tuple[ReactionCount, ...] = ()
    thread: "tuple[DisplayedMessage, ...] | None" = None  # the replies in the thread that starts here
    plain: Appearance | None = None  # Matrix only: in a client without per-message profiles, where that differs
    raw: Json = field(default_factory=dict, compare=False, repr=False)  # the platform's own JSON

    @property
    def words(self) -> str:
        """All that it says, also in its cards."""
        return "\n".join(filter(None, (self.body, *(text for card in self.cards for text in _texts(card)))))

    def as_json(self) -> Json:
        """For the page."""
        return {
            "id": self.id,
            "order": self.order,
            "at": self.at,
            "author": asdict(self.author),
            "kind": self.kind,
            "body": self.body,
            "html": self.html,
            "reply": asdict(self.reply) if self.reply else None,
            "edited": self.edited_at is not None,
            "emote": self.emote,
            "files": [asdict(file) for file in self.files],
            "cards": list(self.cards),
            "reactions": [asdict(tally) for tally in self.reactions],
            "thread": {"messages": [reply.as_json() for reply in self.thread]} if self.thread is not None else None,
            "plain": self.plain.as_json() if self.plain else None,
        }


def _texts(card: Json) -> Iterator[str]:
    """The words of a card, in the order in which they are read."""
    for name in ("question", "author", "title", "body", "description"):
        if card.get(name):
            yield str(card[name])
    for item in (*card.get("answers", ()), *card.get("fields", ())):
        yield from (str(item[name]) for name in ("text", "name", "value") if item.get(name))
    if card.get("footer"):
        yield str(card["footer"])


def letters(text: str) -> str:
    """The letters and digits of a text: to compare without markup what was written with what arrived."""
    return "".join(filter(str.isalnum, text)).casefold()


class ActionRefused(Exception):
    """A platform refused an action; `str()` is the platform's own message."""


class Side(Protocol):
    """One platform as its people use it. `who` is the key of a participant. Raises `ActionRefused`."""

    @property
    def participants(self) -> Sequence[Participant]: ...

    def seen(self) -> list[DisplayedMessage]:
        """The channel now, from the live events. No I/O."""
        ...

    async def read(self) -> list[DisplayedMessage]:
        """The channel, read again from the platform."""
        ...

    async def say(self, who: str, body: str, html: str = "", *, reply_to: str | None = None) -> str:
        """Write; the message's ID."""
        ...

    async def edit(self, who: str, target: str, body: str, html: str = "") -> None: ...
    async def delete(self, who: str, target: str) -> None: ...
    async def react(self, who: str, target: str, key: str) -> None: ...

    async def thread(self, who: str, root: str, body: str, html: str = "") -> str:
        """Write in the thread that starts at `root`, which opens it; the message's ID."""
        ...

    async def attach(
        self, who: str, files: Sequence[OutgoingFile], body: str = "", html: str = "", *, reply_to: str | None = None
    ) -> str:
        """Send files with the words of `body`; the ID of the first message."""
        ...

    def avatar(self, who: str) -> str:
        """The key of a participant's picture."""
        ...

    async def file(self, key: str) -> tuple[bytes, str] | None:
        """A file as the platform hands it out, and its type; None if there is none."""
        ...


class ChangeSignal:
    """Wakes everybody who waits for a change. Take the event of `next` before looking: then no change is missed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Something happened."""
        self._event.set()
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """An event that the next `notify` sets."""
        return self._event
