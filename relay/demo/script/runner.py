"""A conversation that is played between the two sides, and what a reader must see of each line of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import aiohttp

from relay.demo.daemon import Counters, DaemonProcess
from relay.demo.matrix_client import Refused
from relay.demo.sides.base import OTHER, Bell, Json, Kind, Refusal, Seen, Side, SideName, letters
from relay.demo.sides.discord import DiscordSide
from relay.demo.sides.matrix import MatrixSide

DEADLINE = 15.0
"""Seconds that a line may take until what it expects is there."""

_LOOK_AGAIN = 0.5
_COUNT_AGAIN = 0.05
_QUOTED = 90

T = TypeVar("T")
Way = Literal["to_matrix", "to_discord", "both"]


class Unmet(Exception):
    """What a line expects is not there (yet): what is seen instead."""


@dataclass(frozen=True, slots=True)
class View:
    """Both sides as a reader gets them; `known` are the messages that the script has accounted for."""

    sides: dict[SideName, list[Seen]]
    known: frozenset[tuple[SideName, str]]

    def fresh(self, side: SideName, kind: Kind = "copy", name: str = "") -> list[Seen]:
        """Messages that nothing has accounted for yet; no copies of what others write meanwhile."""
        others = {letters(seen.words) for seen in self._unknown(OTHER[side]) if seen.kind == "person"}
        return [
            seen
            for seen in self._unknown(side)
            if seen.kind == kind
            and name in ("", seen.author.name)
            and not (kind == "copy" and letters(seen.body) in others)
        ]

    def _unknown(self, side: SideName) -> list[Seen]:
        return [seen for seen in self.sides[side] if (side, seen.id) not in self.known]

    def only(self, side: SideName, name: str) -> Seen:
        """The one new copy under a name. Raises `Unmet`."""
        found = self.fresh(side, "copy", name)
        if len(found) != 1:
            raise Unmet(f"{len(found)} new messages from {name}" if found else f"nothing from {name} has arrived")
        return found[0]

    def get(self, side: SideName, message: str) -> Seen:
        """A message by its ID. Raises `Unmet` where it is gone."""
        for seen in self.sides[side]:
            if seen.id == message:
                return seen
        raise Unmet("the message is not there")

    def absent(self, side: SideName, messages: Sequence[str]) -> None:
        """Raises `Unmet` while one of them is there."""
        left = [seen for seen in self.sides[side] if seen.id in messages]
        if left:
            raise Unmet(f"still there: {quoted(left[0].body)}")


def same(seen: str, expected: str) -> None:
    """Raises `Unmet` where a text is not the expected one."""
    if seen != expected:
        raise Unmet(f"it says {quoted(seen)}")


def contains(seen: str, *expected: str) -> None:
    """Raises `Unmet` where a text lacks one of these."""
    missing = [words for words in expected if words not in seen]
    if missing:
        raise Unmet(f"no {missing[0]} in {quoted(seen)}")


def quoted(text: str) -> str:
    """A text for a line of a table."""
    words = " ".join(text.split())
    return f"“{words[:_QUOTED]}…”" if len(words) > _QUOTED else f"“{words}”"


@dataclass(slots=True)
class Scene:
    """What the lines of a script share: the sides, the daemon, and what has been said so far."""

    discord: DiscordSide
    matrix: MatrixSide
    daemon: DaemonProcess
    bell: Bell
    known: set[tuple[SideName, str]] = field(default_factory=set)
    notes: dict[str, str] = field(default_factory=dict)
    said: dict[SideName, int] = field(default_factory=lambda: {"discord": 0, "matrix": 0})
    before: Counters = field(default_factory=lambda: Counters({}, {}))
    acted_at: float = 0.0
    deadline: float = DEADLINE

    async def begin(self) -> None:
        """What is there already is none of the script's business."""
        await self.take_all()
        self.before = await self.daemon.counters()

    def side(self, name: SideName) -> Side:
        """One of the two."""
        return self.discord if name == "discord" else self.matrix

    async def look(self) -> View:
        """Both sides, read anew."""
        sides: dict[SideName, list[Seen]] = {"discord": await self.discord.read(), "matrix": await self.matrix.read()}
        return View(sides, frozenset(self.known))

    async def until(self, check: Callable[[View], T]) -> T:
        """Look whenever something happens until `check` raises no `Unmet`. Raises the last after `deadline` seconds."""
        deadline = time.monotonic() + self.deadline
        while True:
            happened = self.bell.next()
            try:
                return check(await self.look())
            except Unmet:
                if time.monotonic() > deadline:
                    raise
            await _wait(happened, _LOOK_AGAIN)

    async def until_dropped(self, way: str, feature: str, count: int, before: Counters) -> None:
        """Wait until the daemon has counted `count` more drops. Raises `Unmet` after `deadline` seconds."""
        deadline = time.monotonic() + self.deadline
        while True:
            counted = (await self.daemon.counters()).drops(way, feature) - before.drops(way, feature)
            if counted == count:
                return
            if time.monotonic() > deadline or counted > count:
                raise Unmet(f"relay_dropped_total rose by {counted}, not {count}")
            await asyncio.sleep(_COUNT_AGAIN)

    def act(self) -> None:
        """From here on the time counts: what was done before only prepared the line."""
        self.acted_at = time.monotonic()

    async def say(self, side: SideName, who: str, body: str, html: str = "", *, reply_to: str | None = None) -> str:
        """Let somebody write; the message's ID."""
        return self.spoken(side, await self.side(side).say(who, body, html, reply_to=reply_to))

    def spoken(self, side: SideName, message: str) -> str:
        """A message of the script's own, that has to cross."""
        self.said[side] += 1
        self.known.add((side, message))
        return message

    def take(self, side: SideName, *messages: Seen) -> None:
        """These are accounted for."""
        self.known |= {(side, seen.id) for seen in messages}

    async def take_all(self) -> None:
        """What a failed line has left behind must not be held against the lines after it."""
        view = await self.look()
        self.known |= {(side, seen.id) for side, messages in view.sides.items() for seen in messages}

    async def across(self, side: SideName, name: str, body: str) -> Seen:
        """The copy on the other side of what somebody just wrote, word for word."""

        def check(view: View) -> Seen:
            copy = view.only(OTHER[side], name)
            same(copy.body, body)
            return copy

        copy = await self.until(check)
        self.take(OTHER[side], copy)
        return copy

    def note(self, name: str) -> str:
        """What an earlier line has left under a name. Raises `Unmet` where that line failed."""
        if name not in self.notes:
            raise Unmet("an earlier line that it builds on failed")
        return self.notes[name]


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the script. `play` acts, waits until it shows, and returns what was seen; or raises `Unmet`."""

    title: str
    way: Way
    play: Callable[[Scene], Awaitable[str]]


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
    scene: Scene, lines: Sequence[Line], tell: Callable[[Sequence[Outcome]], None], *, pause: float = 0.0
) -> Sequence[Outcome]:
    """Play the lines, telling how far it is; `pause` seconds between them let people watch."""
    outcomes = [Outcome(line.title, line.way) for line in lines]
    try:
        await scene.begin()
    except (Refused, aiohttp.ClientError, TimeoutError) as problem:
        return [replace(outcome, state="failed", seen=f"not played: {problem}") for outcome in outcomes]
    for number, line in enumerate(lines):
        outcomes[number] = replace(outcomes[number], state="playing")
        tell(outcomes)
        outcomes[number] = await play_line(scene, line)
        tell(outcomes)
        await asyncio.sleep(pause)
    return outcomes


async def play_line(scene: Scene, line: Line) -> Outcome:
    """Play one line of a scene that has begun."""
    scene.act()
    try:
        remark = await line.play(scene)
    except (Unmet, Refusal, Refused, aiohttp.ClientError, TimeoutError) as problem:
        words = str(problem) or type(problem).__name__
        await scene.take_all()
        return Outcome(line.title, line.way, "failed", None, words)
    return Outcome(line.title, line.way, "ok", (time.monotonic() - scene.acted_at) * 1000, remark)
