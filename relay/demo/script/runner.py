"""A conversation that is played between the two sides, and what a reader must see of each line of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import aiohttp

from relay.demo.daemon import Counters, DaemonProcess
from relay.demo.matrix_client import MatrixError
from relay.demo.sides.base import (
    OTHER,
    ActionRefused,
    ChangeSignal,
    DisplayedMessage,
    Kind,
    Side,
    SideName,
    letters,
)
from relay.demo.sides.discord import DiscordSide
from relay.demo.sides.matrix import MatrixSide
from relay.domain.jsontext import Json

DEADLINE = 15.0
"""Seconds that a line may take until what it expects is there."""

_LOOK_AGAIN = 0.5
_COUNT_AGAIN = 0.05
_QUOTED = 90

T = TypeVar("T")
Way = Literal["to_matrix", "to_discord", "both"]


class Mismatch(Exception):
    """What a line expects is not there (yet): what is seen instead."""


@dataclass(frozen=True, slots=True)
class View:
    """Both sides as a reader gets them; `known`: messages that the script expected or has seen before."""

    sides: dict[SideName, list[DisplayedMessage]]
    known: frozenset[tuple[SideName, str]]

    def fresh(self, side: SideName, kind: Kind = "copy", name: str = "") -> list[DisplayedMessage]:
        """New messages, without copies of what people write on the page meanwhile."""
        others = {letters(seen.words) for seen in self._unknown(OTHER[side]) if seen.kind == "person"}
        return [
            seen
            for seen in self._unknown(side)
            if seen.kind == kind
            and name in ("", seen.author.name)
            and not (kind == "copy" and letters(seen.body) in others)
        ]

    def _unknown(self, side: SideName) -> list[DisplayedMessage]:
        return [seen for seen in self.sides[side] if (side, seen.id) not in self.known]

    def only(self, side: SideName, name: str) -> DisplayedMessage:
        """The one new copy under a name. Raises `Mismatch`."""
        found = self.fresh(side, "copy", name)
        if len(found) != 1:
            raise Mismatch(f"{len(found)} new messages from {name}" if found else f"nothing from {name} has arrived")
        return found[0]

    def get(self, side: SideName, message: str) -> DisplayedMessage:
        """A message by its ID. Raises `Mismatch` if it was deleted."""
        for seen in self.sides[side]:
            if seen.id == message:
                return seen
        raise Mismatch("the message is not there")

    def absent(self, side: SideName, messages: Sequence[str]) -> None:
        """Raises `Mismatch` while one of them is there."""
        left = [seen for seen in self.sides[side] if seen.id in messages]
        if left:
            raise Mismatch(f"still there: {quoted(left[0].body)}")


def same(seen: str, expected: str) -> None:
    """Raises `Mismatch` where a text is not the expected one."""
    if seen != expected:
        raise Mismatch(f"it says {quoted(seen)}")


def contains(seen: str, *expected: str) -> None:
    """Raises `Mismatch` where a text lacks one of these."""
    missing = [words for words in expected if words not in seen]
    if missing:
        raise Mismatch(f"no {missing[0]} in {quoted(seen)}")


def quoted(text: str) -> str:
    """A text for a line of a table."""
    words = " ".join(text.split())
    return f"“{words[:_QUOTED]}…”" if len(words) > _QUOTED else f"“{words}”"


@dataclass(slots=True)
class ScriptRun:
    """What the lines of a script share: the sides, the daemon, and what has been said so far."""

    discord: DiscordSide
    matrix: MatrixSide
    daemon: DaemonProcess
    changes: ChangeSignal
    ghosts: bool = False  # people of Discord have accounts of their own on the homeserver
    known: set[tuple[SideName, str]] = field(default_factory=set)
    notes: dict[str, str] = field(default_factory=dict)
    said: dict[SideName, int] = field(default_factory=lambda: {"discord": 0, "matrix": 0})
    before: Counters = field(default_factory=lambda: Counters({}, {}))
    acted_at: float = 0.0
    deadline: float = DEADLINE

    async def begin(self) -> None:
        """Ignore what is there already, and remember the counters."""
        await self.take_all()
        self.before = await self.daemon.counters()

    def side(self, name: SideName) -> Side:
        """One of the two."""
        return self.discord if name == "discord" else self.matrix

    async def look(self) -> View:
        """Both sides, read again."""
        sides: dict[SideName, list[DisplayedMessage]] = {
            "discord": await self.discord.read(),
            "matrix": await self.matrix.read(),
        }
        return View(sides, frozenset(self.known))

    async def until(self, check: Callable[[View], T]) -> T:
        """Look at each change until `check` raises no `Mismatch`; after `deadline` seconds, raise the last one."""
        deadline = time.monotonic() + self.deadline
        while True:
            happened = self.changes.next()
            try:
                return check(await self.look())
            except Mismatch:
                if time.monotonic() > deadline:
                    raise
            await _wait(happened, _LOOK_AGAIN)

    async def until_dropped(self, way: str, feature: str, count: int, before: Counters) -> None:
        """Wait until the daemon has counted `count` more drops. Raises `Mismatch` after `deadline` seconds."""
        deadline = time.monotonic() + self.deadline
        while True:
            counted = (await self.daemon.counters()).drops(way, feature) - before.drops(way, feature)
            if counted == count:
                return
            if time.monotonic() > deadline or counted > count:
                raise Mismatch(f"relay_dropped_total rose by {counted}, not {count}")
            await asyncio.sleep(_COUNT_AGAIN)

    def act(self) -> None:
        """Start the clock of the line: everything before was preparation."""
        self.acted_at = time.monotonic()

    async def say(self, side: SideName, who: str, body: str, html: str = "", *, reply_to: str | None = None) -> str:
        """Write as a participant; the message's ID."""
        return self.spoken(side, await self.side(side).say(who, body, html, reply_to=reply_to))

    def spoken(self, side: SideName, message: str) -> str:
        """A message of the script's own, that has to cross."""
        self.said[side] += 1
        self.known.add((side, message))
        return message

    def take(self, side: SideName, *messages: DisplayedMessage) -> None:
        """Mark these messages as expected."""
        self.known |= {(side, seen.id) for seen in messages}

    async def take_all(self) -> None:
        """Mark everything as expected: what a failed line has left must not make the lines after it fail."""
        view = await self.look()
        self.known |= {(side, seen.id) for side, messages in view.sides.items() for seen in messages}

    async def across(self, side: SideName, name: str, body: str) -> DisplayedMessage:
        """The copy on the other side of what somebody just wrote, word for word."""

        def check(view: View) -> DisplayedMessage:
            copy = view.only(OTHER[side], name)
            same(copy.body, body)
            return copy

        copy = await self.until(check)
        self.take(OTHER[side], copy)
        return copy

    def note(self, name: str) -> str:
        """What an earlier line has stored under a name. Raises `Mismatch` if that line failed."""
        if name not in self.notes:
            raise Mismatch("an earlier line that it builds on failed")
        return self.notes[name]


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the script. `play` acts, waits until it shows, and returns what was seen; or raises `Mismatch`."""

    title: str
    way: Way
    play: Callable[[ScriptRun], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a line went; `ms` from the act until a reader saw all that was expected. `seen` is a remark."""

    title: str
    way: Way
    state: Literal["waiting", "playing", "ok", "failed"] = "waiting"
    ms: float | None = None
    seen: str = ""

    def as_json(self) -> Json:
        """For the page."""
        return {name: getattr(self, name) for name in self.__slots__}


async def play(
    run: ScriptRun, lines: Sequence[Line], tell: Callable[[Sequence[Outcome]], None], *, pause: float = 0.0
) -> Sequence[Outcome]:
    """Play the lines, and report each step to `tell`; `pause` seconds between them let people watch."""
    outcomes = [Outcome(line.title, line.way) for line in lines]
    try:
        await run.begin()
    except (MatrixError, aiohttp.ClientError, TimeoutError) as problem:
        return [replace(outcome, state="failed", seen=f"not played: {problem}") for outcome in outcomes]
    for number, line in enumerate(lines):
        outcomes[number] = replace(outcomes[number], state="playing")
        tell(outcomes)
        outcomes[number] = await play_line(run, line)
        tell(outcomes)
        await asyncio.sleep(pause)
    return outcomes


async def play_line(run: ScriptRun, line: Line) -> Outcome:
    """Play one line of a run that has begun."""
    run.act()
    try:
        remark = await line.play(run)
    except (Mismatch, ActionRefused, MatrixError, aiohttp.ClientError, TimeoutError) as problem:
        words = str(problem) or type(problem).__name__
        await run.take_all()
        return Outcome(line.title, line.way, "failed", None, words)
    return Outcome(line.title, line.way, "ok", (time.monotonic() - run.acted_at) * 1000, remark)
