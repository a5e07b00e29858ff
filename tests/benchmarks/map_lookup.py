"""What a look-up costs in a small message map and in a large one.

    python -m tests.benchmarks.map_lookup                                # 10,000 and 300,000 messages: half a minute
    python -m tests.benchmarks.map_lookup --small 10000 --large 10000000 # the bar of the design: at most 1.2 times

Both maps are made of the same migrations and hold the same mixture: twenty pairs, half of the messages from each
side, one in twenty in two parts. The two are measured in turns, through `SqlStore`, as the daemon does it.
"""

import argparse
import asyncio
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.store.migrate import upgrade
from relay.store.tables import EPOCH, MICROSECOND
from relay.store.unit_of_work import SqlStore, SqlUnitOfWork, open_store

PAIRS = 20
BATCH = 50_000
START = datetime(2024, 1, 1, tzinfo=UTC)
EVERY = timedelta(seconds=7)

LookUp = Callable[[SqlUnitOfWork, int], Awaitable[object]]


def discord(number: int) -> MessageRef:
    """The Discord side of message `number`: snowflakes rise with time."""
    return MessageRef(
        ChannelRef(Platform.DISCORD, f"10000000000000000{number % PAIRS:02}"), str(1_100_000_000_000_000_000 + number)
    )


def matrix(number: int) -> MessageRef:
    """The Matrix side of message `number`: event IDs are hashes, in no order, of 44 characters."""
    spread = number * 0x9E3779B97F4A7C15 % 2**64
    return MessageRef(
        ChannelRef(Platform.MATRIX, f"!aaaaaaaaaaaaaaaa{number % PAIRS:02}:example.org"), f"${spread:020}{number:023}"
    )


def sides(number: int) -> tuple[MessageRef, MessageRef]:
    """The original and its copy."""
    return (discord(number), matrix(number)) if number % 2 else (matrix(number), discord(number))


def fill(path: Path, count: int) -> None:
    """Put `count` messages into the map, without the daemon's care: the file is thrown away."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000", "temp_store = FILE"):
        connection.execute(f"PRAGMA {pragma}")
    secondary = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name LIKE 'message%'"
    ).fetchall()
    for name, _ in secondary:
        connection.execute(f"DROP INDEX {name}")
    numbers: Iterator[int] = iter(range(1, count + 1))
    while batch := list(islice(numbers, BATCH)):
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO message (id, platform, channel, native_id, author, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            map(_message, batch),
        )
        connection.executemany(
            "INSERT INTO message_copy (message_id, part, platform, channel, native_id) VALUES (?, ?, ?, ?, ?)",
            (row for number in batch for row in _copies(number)),
        )
        connection.execute("COMMIT")
        if sys.stderr.isatty():
            print(f"\r{batch[-1]:,} of {count:,}", end="", file=sys.stderr)
    for _, statement in secondary:
        connection.execute(statement)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


def _message(number: int) -> tuple[int, str, str, str, str, int]:
    ref = sides(number)[0]
    created = (START + number * EVERY - EPOCH) // MICROSECOND
    return number, ref.platform, ref.channel.id, ref.id, f"author{number % 500}", created


def _copies(number: int) -> Iterator[tuple[int, int, str, str, str]]:
    ref = sides(number)[1]
    yield number, 0, ref.platform, ref.channel.id, ref.id
    if number % 20 == 0:
        yield number, 1, ref.platform, ref.channel.id, f"{ref.id}1"


async def _recent(unit: SqlUnitOfWork, number: int) -> object:
    channel = sides(number)[0].channel
    return await unit.messages.recent(channel, START + number * EVERY, 50)


LOOK_UPS: dict[str, LookUp] = {
    "find": lambda unit, number: unit.messages.find(sides(number)[0]),
    "find (none)": lambda unit, number: unit.messages.find(MessageRef(sides(number)[0].channel, "none")),
    "is_copy": lambda unit, number: unit.messages.is_copy(sides(number)[1]),
    "is_copy (none)": lambda unit, number: unit.messages.is_copy(sides(number)[0]),
    "copies": lambda unit, number: unit.messages.copies(number, sides(number)[1].channel),
    "counterpart of an original": lambda unit, number: unit.messages.counterpart(
        sides(number)[0], sides(number)[1].channel
    ),
    "counterpart of a copy": lambda unit, number: unit.messages.counterpart(sides(number)[1], sides(number)[0].channel),
    "last_copy": lambda unit, number: unit.messages.last_copy(sides(number)[1].channel),
    "recent": _recent,
}


async def measure(store: SqlStore, look_up: LookUp, numbers: list[int]) -> float:
    """The median of one look-up in a read transaction of its own, in microseconds."""
    taken = []
    for number in numbers:
        started = time.perf_counter()
        async with store.read() as unit:
            await look_up(unit, number)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1e6


async def compare(stores: tuple[SqlStore, SqlStore], sizes: tuple[int, int], *, near: int) -> float:
    """Print every look-up in both; return the worst ratio.

    Asked for are the last `near` messages: what people reply to, edit and delete. The whole of a map that is larger
    than memory would measure the disk.
    """
    rng = random.Random(1)
    worst = 0.0
    print(f"{'look-up':<28}{sizes[0]:>14,}{sizes[1]:>14,}   ratio")
    for name, look_up in LOOK_UPS.items():
        medians: tuple[list[float], list[float]] = ([], [])
        for turn in range(11):
            for which in (0, 1):
                newest = sizes[which]
                numbers = [rng.randint(max(1, newest - near), newest) for _ in range(150)]
                median = await measure(stores[which], look_up, numbers)
                if turn:  # the first turn warms up
                    medians[which].append(median)
        small, large = min(medians[0]), min(medians[1])  # what else the machine does only ever adds
        worst = max(worst, large / small)
        print(f"{name:<28}{small:>11.0f} us{large:>11.0f} us   {large / small:.2f}")
    return worst


async def main() -> int:
    """Make both maps, measure, and compare with the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=10_000, help="messages in the small map")
    parser.add_argument("--large", type=int, default=300_000, help="messages in the large map")
    parser.add_argument("--near", type=int, default=10_000, help="look for one of the last so many messages")
    parser.add_argument("--at-most", type=float, default=1.2, help="exit status 1 above this ratio")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        opened = []
        for size in (arguments.small, arguments.large):
            path = Path(directory) / f"{size}.db"
            upgrade(f"sqlite:///{path}")
            started = time.perf_counter()
            fill(path, size)
            print(f"{size:,} messages: {path.stat().st_size / 2**20:,.0f} MiB in {time.perf_counter() - started:.0f} s")
            opened.append(await open_store(f"sqlite:///{path}"))
        worst = await compare((opened[0], opened[1]), (arguments.small, arguments.large), near=arguments.near)
        for store in opened:
            await store.close()
    print(f"worst ratio {worst:.2f} (at most {arguments.at_most})")
    return int(worst > arguments.at_most)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
