"""What people on one side do, by seed: they write, reply, edit, delete, send files, say the same twice and
go on at length.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tests.chaos.ledger import FIRST_PAST, SAME, Ledger, Written, is_past
from tests.chaos.pairs import Pairs, loose_among
from tests.chaos.sides import Side, Upload

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
_ACTS = {"say": 44, "reply": 16, "same": 8, "file": 8, "long": 5, "edit": 16, "grow": 3, "delete": 9, "sweep": 1}
_LATELY = 60
"""Only so many of a channel's last messages are still edited, deleted or replied to."""
_FILES = (("notes.pdf", "application/pdf"), ("cat.png", "image/png"), ("log.txt", "text/plain"))
_LARGEST = 40_000  # bytes


Act = Literal["say", "file", "edit", "delete"]
"""What somebody can be made to do out of turn. Files on Discord only: there, nothing comes between two messages."""


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
    author: str
    written: Written
    revision: int = 0
    busy: bool = False


@dataclass(slots=True)
class Traffic:
    """The people of one side. `ledgers` by pair; `over`: everything has been written."""

    side: Side
    rng: random.Random
    pairs: tuple[str, ...]
    pace: Pace
    led: Pairs
    trace: Callable[[str], None]
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    over: bool = False
    sent: int = 0
    files: int = 0
    edited: int = 0
    deleted: int = 0
    _said: dict[str, list[_Said]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledgers = {pair: Ledger() for pair in self.pairs}
        self._said = {pair: [] for pair in self.pairs}

    def tight(self, place: str) -> list[Written]:
        """What was written there and has to cross; see `sorted_out`."""
        unclear = SAME if loose_among(self.ledgers) else ()
        return [each for each in self.ledgers[place].written if not each.loose and each.key not in unclear]

    async def say_before(self, rng: random.Random, most: int) -> None:
        """Before the first start, people write up to so many messages in each pair."""
        number = FIRST_PAST
        for pair in self.pairs:
            for _ in range(rng.randint(0, most)):
                author, text = rng.choice(self.side.authors), f"{self.side.letter}{number}.0 {rng.choice(_WORDS)}"
                written = Written(f"{self.side.letter}{number}", text, author, at=time.monotonic(), past=True)
                written.led_to = self.led.leads_to(self.side.letter, pair)
                written.id = await self.side.say(pair, author, text, reply_to="", file=None)
                self.ledgers[pair].written.append(written)
                self._said[pair].append(_Said(author, written))
                number += 1

    async def run(self, messages: int) -> None:
        """Until so many messages are written."""
        while self.sent < messages:
            pair = self.rng.choice(self.led.open(self.pairs))
            act = self.rng.choices(list(_ACTS), list(_ACTS.values()))[0]
            author = self.rng.choice(self.side.authors)
            if act in {"edit", "grow"}:
                await self._edit(pair, long=act == "grow")
            elif act in {"delete", "sweep"}:
                await self._delete(pair, 1 if act == "delete" else self.rng.randint(2, 6))
            else:
                await self.pace.granted.acquire()
                await self._say(pair, author, act)
        self.over = True

    async def do(self, act: Act) -> None:
        """Do something out of turn, so that there is something for the relay to do."""
        pair = self.rng.choice(self.led.open(self.pairs))
        match act:
            case "say" if not self.over:
                self.pace.grant(1)
            case "say":
                await self._say(pair, self.rng.choice(self.side.authors), "say")
            case "file":
                await self._say(pair, self.rng.choice(self.side.authors), "file")
            case "edit":
                await self._edit(pair, long=False)
            case "delete":
                await self._delete(pair, 1)

    async def _say(self, pair: str, author: str, act: str) -> None:
        async with self.led.inside(pair):
            await self._write(pair, author, act)

    async def _write(self, pair: str, author: str, act: str) -> None:
        name = f"{self.side.letter}{self.sent}"
        self.sent += 1
        text = self.rng.choice(SAME) if act == "same" else self._words(name, 0, long=act == "long")
        file = self._file(name) if act == "file" else None
        if file is not None and self.rng.random() < 0.5:
            text = ""
        written = Written(name, text, author, None if file is None else file.file, at=time.monotonic())
        written.plain_at_first = act == "same"
        written.led_to = self.led.leads_to(self.side.letter, pair)
        if act == "reply" and (recent := [it for it in await self.side.recent(pair) if not any(map(is_past, it.keys))]):
            # Often to what has only just appeared, and may not be on record yet.
            target = self.rng.choice(recent[-3:] if self.rng.random() < 0.5 else recent)
            written.reply_to, written.reply_keys = target.id, target.keys
        # In the books before it is out: its copy may be there before we hear that it was taken.
        self.ledgers[pair].written.append(written)
        written.id = await self.side.say(pair, author, text, reply_to=written.reply_to, file=file)
        self._said[pair].append(_Said(author, written))
        self.trace(f"{pair} {author} {act} {name} {written.id}")

    async def _edit(self, pair: str, *, long: bool) -> None:
        choice = [said for said in self._said[pair][-_LATELY:] if not said.busy]
        if not choice:
            return
        said = self.rng.choice(choice)
        said.revision += 1
        text = self._words(said.written.name, said.revision, long=long)
        said.busy = True
        async with self.led.inside(pair):
            await self.side.edit(pair, said.author, said.written.id, text)
            said.written.text = text
        said.busy = False
        self.edited += 1
        self.trace(f"{pair} {said.author} edits {said.written.name} to revision {said.revision}")

    async def _delete(self, pair: str, count: int) -> None:
        choice = [said for said in self._said[pair][-_LATELY:] if not said.busy]
        if not choice:
            return
        first = self.rng.choice(choice)
        gone = [first, *(said for said in choice if said.author == first.author and said is not first)][:count]
        self._said[pair] = [said for said in self._said[pair] if said not in gone]
        async with self.led.inside(pair):
            await self.side.delete(pair, first.author, [said.written.id for said in gone])
            for said in gone:
                said.written.deleted = True
        self.deleted += len(gone)
        self.trace(f"{pair} {first.author} deletes {' '.join(said.written.name for said in gone)}")

    def _file(self, name: str) -> Upload:
        self.files += 1
        suffix, content_type = self.rng.choice(_FILES)
        return Upload(f"{name}.0-{suffix}", self.rng.randbytes(self.rng.randint(1, _LARGEST)), content_type)

    def _words(self, name: str, revision: int, *, long: bool) -> str:
        tag = f"{name}.{revision}"
        if not long:
            return f"{tag} {' '.join(self.rng.choices(_WORDS, k=self.rng.randint(1, 8)))}"
        # Discord takes 2,000 characters of its own people; a Matrix message may become several of Discord's.
        words = self.rng.randint(60, 130) if self.side.letter == "d" else self.rng.randint(60, 500)
        return " ".join(f"{tag}w{number:03}" for number in range(words))
