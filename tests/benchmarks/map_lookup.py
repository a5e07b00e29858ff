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
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import islice
from pathlib import Path

from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.domain.pair import LaneKey
from relay.store.migrate import upgrade
from relay.store.tables import EPOCH, MICROSECOND, packed
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
    spread = urlsafe_b64encode(sha256(str(number).encode()).digest()).decode().rstrip("=")
    return MessageRef(ChannelRef(Platform.MATRIX, f"!aaaaaaaaaaaaaaaa{number % PAIRS:02}:example.org"), f"${spread}")


def sides(number: int) -> tuple[MessageRef, MessageRef]:
    """The original and its copy."""
    return (discord(number), matrix(number)) if number % 2 else (matrix(number), discord(number))


def fill(path: Path, count: int, at_once: int = BATCH) -> None:
    """Put `count` messages into the map, without the daemon's care: the file is thrown away.

    `at_once`: in one transaction. Few, and the indexes grow with the tables, as they do in a daemon.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000", "temp_store = FILE"):
        connection.execute(f"PRAGMA {pragma}")
    secondary = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name LIKE 'message%'"
    ).fetchall()
    if at_once < BATCH:
        secondary = []
    for name, _ in secondary:
        connection.execute(f"DROP INDEX {name}")
    for ref in {
        _number(side.channel): side for number in range(PAIRS) for side in (discord(number), matrix(number))
    }.values():
        row = (_number(ref.channel), ref.channel.platform, ref.channel.id)
        connection.execute("INSERT INTO channel (id, platform, native_id) VALUES (?, ?, ?)", row)
    numbers: Iterator[int] = iter(range(1, count + 1))
    while batch := list(islice(numbers, at_once)):
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO message (id, channel_id, native_id, author, created_at, used, received_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            map(_message, batch),
        )
        connection.executemany(
            "INSERT INTO message_copy (message_id, part, channel_id, native_id, sent_at) VALUES (?, ?, ?, ?, ?)",
            (row for number in batch for row in _copies(number)),
        )
        connection.execute("COMMIT")
        if sys.stderr.isatty():
            print(f"\r{batch[-1]:,} of {count:,}", end="", file=sys.stderr)
    for _, statement in secondary:
        connection.execute(statement)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


def _number(channel: ChannelRef) -> int:
    """The channel's row: those of Discord come first."""
    return 1 + int(channel.id[-2:]) if channel.platform is Platform.DISCORD else 1 + PAIRS + int(channel.id[17:19])


def _message(number: int) -> tuple[object, ...]:
    ref = sides(number)[0]
    created = (START + number * EVERY - EPOCH) // MICROSECOND
    someone = (
        str(10**18 + number % 500)
        if ref.channel.platform is Platform.DISCORD
        else f"@someone{number % 500:03}:example.org"
    )
    return (
        number,
        _number(ref.channel),
        packed(ref.id),
        packed(someone),
        created,
        created // 3_600_000_000,
        created // 1000,
    )


def _copies(number: int) -> Iterator[tuple[object, ...]]:
    ref = sides(number)[1]
    sent = (START + number * EVERY - EPOCH) // MICROSECOND // 1000
    yield number, 0, _number(ref.channel), packed(ref.id), sent
    if number % 20 == 0:
        yield number, 1, _number(ref.channel), packed(sides(10**9 + number)[1].id), sent


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
    "last_copy": lambda unit, number: unit.outbox.last_copy(
        LaneKey(sides(number)[0].channel, sides(number)[1].channel)
    ),
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


async def ratios(
    stores: tuple[SqlStore, SqlStore], sizes: tuple[int, int], *, near: int
) -> dict[str, tuple[float, float]]:
    """Microseconds of every look-up in both.

    Asked for are the last `near` messages: what people reply to, edit and delete. The whole of a map that is larger
    than memory would measure the disk.
    """
    rng = random.Random(1)
    found = {}
    for name, look_up in LOOK_UPS.items():
        medians: tuple[list[float], list[float]] = ([], [])
        for turn in range(11):
            for which in (0, 1):
                newest = sizes[which]
                numbers = [rng.randint(max(1, newest - near), newest) for _ in range(150)]
                median = await measure(stores[which], look_up, numbers)
                if turn:  # the first turn warms up
                    medians[which].append(median)
        found[name] = (min(medians[0]), min(medians[1]))  # what else the machine does only ever adds
    return found


async def compare(stores: tuple[SqlStore, SqlStore], sizes: tuple[int, int], *, near: int) -> float:
    """Print every look-up in both; return the worst ratio."""
    print(f"{'look-up':<28}{sizes[0]:>14,}{sizes[1]:>14,}   ratio")
    worst = 0.0
    for name, (small, large) in (await ratios(stores, sizes, near=near)).items():
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
            each, taken = path.stat().st_size / size, time.perf_counter() - started
            print(f"{size:,} messages: {each:,.0f} bytes each, indexes included, in {taken:.0f} s")
            opened.append(await open_store(f"sqlite:///{path}"))
        worst = await compare((opened[0], opened[1]), (arguments.small, arguments.large), near=arguments.near)
        for store in opened:
            await store.close()
    print(f"worst ratio {worst:.2f} (at most {arguments.at_most})")
    return int(worst > arguments.at_most)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
