"""Who changes the pairs in the file while everything else goes on: names, rooms, pairs taken out and put back."""

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import aiohttp

from relay.store.tables import unpacked
from tests.chaos.daemon_runs import DaemonRuns
from tests.chaos.ledger import Ledger
from tests.chaos.outcome import Trace
from tests.chaos.pairs import Pairs, PairsFile, value, with_value

_UNTIL_READ = 45.0
_UNTIL_TAKEN = 240.0
_SETTLED = 2.0


def in_file(store: Path) -> set[str]:
    """The messages that a store on SQLite has on record."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        return {unpacked(row[0]) for row in connection.execute("SELECT native_id FROM message")}


class Operator:
    """Changes the file. `ledgers`: of each side, by place. `problems` takes what should not be.

    What decides where a message belongs is what the file said when it was read. So people keep quiet in a pair that
    changes until all that they wrote has been read, and then until the daemon has taken the change; what they wrote
    may be waiting meanwhile. (Only for this is the relay's store looked at.)
    """

    def __init__(
        self,
        pairs: Pairs,
        file: Path,
        on_record: Callable[[], set[str]],
        ledgers: Sequence[dict[str, Ledger]],
        runs: DaemonRuns,
        trace: Trace,
    ) -> None:
        self._pairs = pairs
        self._file = PairsFile(file)
        self._known = on_record
        self._ledgers = ledgers
        self._runs = runs
        self._trace = trace
        self._versions = 0
        self._asking = False
        # By channel, the place that it belongs to.
        self._places = {value(text, "discord_channel"): value(text, "name") for text in self._file.sections()}

    def swap_names(self, rng: random.Random) -> None:
        """Two pairs swap their names, whatever waits; a lone one gets another. Not while one is asked for by name."""
        if self._asking:
            return
        sections = self._file.sections()
        one, *more = rng.sample(range(len(sections)), min(2, len(sections)))
        names = [value(section, "name") for section in sections]
        other = more[0] if more else one
        new = (names[other], names[one]) if more else (f"{names[one]}-renamed",) * 2
        sections[one] = with_value(sections[one], "name", new[0])
        if more:
            sections[other] = with_value(sections[other], "name", new[1])
        self._file.write(sections)

    async def let_past_cross(self, relay: Callable[..., Awaitable[tuple[int, str]]]) -> None:
        """What was said before the first start crosses, but for channels that have led elsewhere since."""
        for place in self._places.values():
            async with self._pairs.inside(place):
                if any(written.loose for side in self._ledgers for written in side[place].written):
                    continue
                self._asking, status, output = True, 1, ""
                with suppress(TimeoutError):
                    async with asyncio.timeout(_UNTIL_TAKEN):
                        while status != 0:
                            name = value(self._file.sections()[self._number(place)], "name")
                            status, output = await relay("backfill", name, "--no-wait")
                            await asyncio.sleep(0.2)
                self._asking = False
                self._trace(f"OPERATOR lets the past of {place} cross: {output.strip()}")
                if status != 0:
                    self._runs.problems.append(f"a backfill of {place} could not be asked for: {output}")

    async def swap_rooms(self, rng: random.Random) -> int:
        """Two channels swap their rooms: what was written before crosses to where it was said, or not at all.

        How many times: not where what was written is not read in time.
        """
        if len(self._places) < 2:
            return 0
        one, other = rng.sample(sorted(self._places.values()), 2)
        places = self._pairs.around(one, other)
        async with self._pairs.closed(places):
            if not await self._read(places):
                return 0
            numbers = [self._number(place) for place in (one, other)]
            sections = self._file.sections()
            rooms = [value(sections[number], "matrix_room") for number in numbers]
            for number, room in zip(numbers, reversed(rooms), strict=True):
                sections[number] = self._renamed(with_value(sections[number], "matrix_room", room))
            for place in (one, other):
                for side, here in zip(self._ledgers, (place, self._pairs.leads_to("d", place)), strict=True):
                    for written in side[here].written:
                        written.loose = True
            self._pairs.swap(one, other)
            self._file.write(sections)
            self._trace(f"OPERATOR swaps the rooms of {one} and {other}")
            await self._taken()
        return 1

    async def take_out(self, rng: random.Random, a_while: Callable[[], Awaitable[None]]) -> int:
        """A pair is taken out, and put back later: what waits for it waits until then, and crosses."""
        place = rng.choice(sorted(self._places.values()))
        places = self._pairs.around(place)
        async with self._pairs.closed(places):
            if not await self._read(places):
                return 0
            sections = self._file.sections()
            section = sections.pop(self._number(place))
            self._file.write(sections)
            self._trace(f"OPERATOR takes {place} out")
            if rng.random() < 0.7:
                await self._taken()
            await a_while()
            self._file.write([*sections, self._renamed(section)])
            self._trace(f"OPERATOR puts {place} back")
            await self._taken()
        return 1

    def _number(self, place: str) -> int:
        """The index of the section of a place's channel."""
        channels = [value(section, "discord_channel") for section in self._file.sections()]
        return next(number for number, channel in enumerate(channels) if self._places[channel] == place)

    def _renamed(self, section: str) -> str:
        """The section under a name that has not been: so it is seen when the daemon has taken it."""
        self._versions += 1
        name = value(section, "name").partition(".")[0]
        return with_value(section, "name", f"{name}.{self._versions}")

    # --- What the daemon knows ----------------------------------------------------------------------------

    async def _read(self, places: set[str]) -> bool:
        """Wait until the daemon has read all that was written there; False where that takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_UNTIL_READ):
                while not (await self._ready() and await asyncio.to_thread(self._on_record, places)):  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.2)
                await asyncio.sleep(_SETTLED)  # edits and deletions
                return await self._ready()
        self._trace(f"OPERATOR waits in vain for {sorted(places)}")
        return False

    def _on_record(self, places: set[str]) -> bool:
        known = self._known()
        messages = [each for side in self._ledgers for place in places for each in side[place].written]
        return all(each.id in known for each in messages if not (each.deleted or each.past))

    async def _taken(self) -> None:
        """Wait until a life of the daemon that lasts has the pairs that are in the file."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_UNTIL_TAKEN):
                while True:
                    life = self._runs.number
                    if await self._has_them():
                        await asyncio.sleep(_SETTLED)
                        if life == self._runs.number and await self._has_them():
                            return
                    await asyncio.sleep(0.2)
        self._runs.problems.append(f"the pairs were not taken within {_UNTIL_TAKEN:.0f} s: {self._file.names()}")

    async def _has_them(self) -> bool:
        names = self._file.names()
        text = await self._page("/metrics") if await self._ready() else ""
        return {name for name in names if f'pair="{name}"' in text} == names and text.count(
            "relay_outbox_depth{"
        ) == 2 * len(names)

    async def _ready(self) -> bool:
        daemon = self._runs.daemon
        with suppress(aiohttp.ClientError, KeyError, AssertionError, OSError):
            return daemon is not None and daemon.running and await daemon.ready()
        return False

    async def _page(self, path: str) -> str:
        daemon = self._runs.daemon
        with suppress(aiohttp.ClientError, KeyError, OSError):
            return "" if daemon is None else (await daemon.get(path))[1]
        return ""
