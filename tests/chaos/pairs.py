"""Which channel leads to which room, as the operator has it in the file, and where people write nothing meanwhile.

A place is a channel on Discord and the room on Matrix that it was paired with at first; both go by that pair's name.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from tests.chaos.ledger import SAME, Ledger, Written
from tests.chaos.reading import Said, Standing

_SECTION = "[[pairs]]\n"


class Pairs:
    """Where each place leads now, and the places in which nobody may write."""

    def __init__(self, places: Sequence[str]) -> None:
        self._rooms = {place: place for place in places}
        self._closed: set[str] = set()
        self._inside: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    def leads_to(self, letter: str, place: str) -> str:
        """The place of which a channel's room is (`d`), or a room's channel (`m`)."""
        if letter == "d":
            return self._rooms[place]
        return next(channel for channel, room in self._rooms.items() if room == place)

    def swap(self, one: str, other: str) -> None:
        """The channels of two places lead to each other's rooms from now on."""
        self._rooms[one], self._rooms[other] = self._rooms[other], self._rooms[one]

    def around(self, *places: str) -> set[str]:
        """The places of these channels, and of the rooms to which they lead."""
        return {*places, *(self._rooms[place] for place in places)}

    def open(self, places: Sequence[str]) -> Sequence[str]:
        """Those in which somebody may write now; all, where nobody may write anywhere."""
        return [place for place in places if place not in self._closed] or places

    @asynccontextmanager
    async def inside(self, place: str) -> AsyncIterator[None]:
        """While somebody writes there."""
        async with self._changed:
            await self._changed.wait_for(lambda: place not in self._closed)
            self._inside[place] += 1
        try:
            yield
        finally:
            self._inside[place] -= 1
            async with self._changed:
                self._changed.notify_all()

    @asynccontextmanager
    async def closed(self, places: set[str]) -> AsyncIterator[None]:
        """While nobody writes there; begins when all have finished."""
        self._closed |= places
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not any(self._inside[place] for place in places))
            yield
        finally:
            self._closed -= places
            async with self._changed:
                self._changed.notify_all()


def loose_among(ledgers: Mapping[str, Ledger]) -> dict[str, Written]:
    """Of what one side wrote, by key: what need not cross any more."""
    return {each.key: each for ledger in ledgers.values() for each in ledger.written if each.loose}


def sorted_out(
    copies: Sequence[Standing], ledgers: Mapping[str, Ledger], place: str
) -> tuple[list[Standing], list[str]]:
    """The copies at `place` that have to be right, and those that may not be there at all, a line each.

    Of what was said before its channel was given to another, copies may stand where it led then, and nowhere else.
    What says the same as others cannot be told apart, so that from then on nothing of it has to be right.
    """
    loose = loose_among(ledgers)
    left: list[Standing] = []
    strays: list[str] = []
    for copy in copies:
        kept: list[Said] = []
        for said in copy.said:
            if loose and said.key in SAME:
                continue
            if (of := loose.get(said.key)) is None:
                kept.append(said)
            elif of.led_to != place:
                strays.append(f"{said.key} in a room where it was not said: {said.text[:40]!r}")
        if kept:
            left.append(replace(copy, said=tuple(kept)))
    return left, strays


class PairsFile:
    """The pairs in `relay.toml`. Each change replaces the file as a whole: the daemon reads it by itself."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def sections(self) -> list[str]:
        """The text of each pair."""
        return self._path.read_text().split(_SECTION)[1:]

    def write(self, sections: Sequence[str]) -> None:
        """Put these in the place of all pairs."""
        head = self._path.read_text().split(_SECTION)[0]
        new = self._path.with_suffix(".new")
        new.write_text(_SECTION.join((head, *sections)))
        new.replace(self._path)

    def change(self, edit: Callable[[str], str]) -> None:
        """Change each section by itself."""
        self.write([edit(section) for section in self.sections()])

    def names(self) -> set[str]:
        """What the declared pairs are called."""
        return {value(section, "name") for section in self.sections()}


def value(section: str, key: str) -> str:
    """The value of a key in a section."""
    lines = [line for line in section.splitlines() if line.startswith(f"{key} = ")]
    return lines[0].removeprefix(f"{key} = ").strip('"')


def with_value(section: str, key: str, new: str) -> str:
    """The section with something else under a key, which is text."""
    return section.replace(f'{key} = "{value(section, key)}"', f'{key} = "{new}"')
