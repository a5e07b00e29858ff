"""What people on one side do, by seed: they write, reply, edit, delete, say the same twice and go on at length."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.ledger import SAME, Ledger, Written
from tests.chaos.sides import Side

_WORDS = (
    "tea",
    "rain",
    "kettle",
    "木",
    "lantern",
    "café",
    "harbour",
    "Grüße",
    "moss",
    "ticket",
    "🫖",
    "window",
    "ladder",
)
_ACTS = {"say": 50, "reply": 14, "same": 8, "file": 5, "long": 5, "edit": 15, "grow": 3, "delete": 9, "sweep": 1}
_LATELY = 60
"""Only so many of a channel's last messages are still edited, deleted or replied to."""


@dataclass(slots=True)
class Pace:
    """How many messages may be written yet: granted bit by bit, so that traffic is spread over the whole run."""

    granted: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    def grant(self, messages: int) -> None:
        """Allow some more."""
        for _ in range(messages):
            self.granted.release()


@dataclass(slots=True)
class _Said:
    id: str
    author: str
    written: Written
    revision: int = 0


@dataclass(slots=True)
class Traffic:
    """The people of one side. `ledgers` by pair."""

    side: Side
    rng: random.Random
    pairs: tuple[str, ...]
    pace: Pace
    trace: Callable[[str], None]
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    sent: int = 0
    edited: int = 0
    deleted: int = 0
    _said: dict[str, list[_Said]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledgers = {pair: Ledger() for pair in self.pairs}
        self._said = {pair: [] for pair in self.pairs}

    async def run(self, messages: int) -> None:
        """Until so many messages are written."""
        while self.sent < messages:
            pair = self.rng.choice(self.pairs)
            act = self.rng.choices(list(_ACTS), list(_ACTS.values()))[0]
            author = self.rng.choice(self.side.authors)
            if act in {"edit", "grow"}:
                await self._edit(pair, long=act == "grow")
            elif act in {"delete", "sweep"}:
                await self._delete(pair, 1 if act == "delete" else self.rng.randint(2, 6))
            else:
                await self.pace.granted.acquire()
                await self._say(pair, author, act)

    async def _say(self, pair: str, author: str, act: str) -> None:
        name = f"{self.side.letter}{self.sent}"
        text = self.rng.choice(SAME) if act == "same" else self._words(name, 0, long=act == "long")
        file = f"{name}.0-notes.pdf" if act == "file" else ""
        if file and self.rng.random() < 0.5:
            text = ""
        target = None
        if act == "reply" and (recent := await self.side.recent(pair)):
            target = self.rng.choice(recent)
        written = Written(name, text, (file,) if file else (), at=time.monotonic())
        # In the books before it is out: its copy may be there before we hear that it was taken.
        self.ledgers[pair].written.append(written)
        self.sent += 1
        message = await self.side.say(pair, author, text, reply_to=target, file=file)
        self._said[pair].append(_Said(message, author, written))
        self.trace(f"{pair} {author} {act} {name} {message}")

    async def _edit(self, pair: str, *, long: bool) -> None:
        choice = [said for said in self._said[pair][-_LATELY:] if not said.written.files]
        if not choice:
            return
        said = self.rng.choice(choice)
        said.revision += 1
        text = self._words(said.written.name, said.revision, long=long)
        await self.side.edit(pair, said.author, said.id, text)
        said.written.text = text
        said.written.edited = True
        self.edited += 1
        self.trace(f"{pair} {said.author} edits {said.written.name} to revision {said.revision}")

    async def _delete(self, pair: str, count: int) -> None:
        choice = self._said[pair][-_LATELY:]
        if not choice:
            return
        first = self.rng.choice(choice)
        gone = [first, *(said for said in choice if said.author == first.author and said is not first)][:count]
        self._said[pair] = [said for said in self._said[pair] if said not in gone]
        await self.side.delete(pair, first.author, [said.id for said in gone])
        for said in gone:
            said.written.deleted = True
        self.deleted += len(gone)
        self.trace(f"{pair} {first.author} deletes {' '.join(said.written.name for said in gone)}")

    def _words(self, name: str, revision: int, *, long: bool) -> str:
        tag = f"{name}.{revision}"
        if not long:
            return f"{tag} {' '.join(self.rng.choices(_WORDS, k=self.rng.randint(1, 8)))}"
        # Discord takes 2,000 characters of its own people; a Matrix message may become several of Discord's.
        words = self.rng.randint(60, 130) if self.side.letter == "d" else self.rng.randint(60, 500)
        return " ".join(f"{tag}w{number:03}" for number in range(words))
