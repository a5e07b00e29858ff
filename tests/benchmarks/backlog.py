"""What a message, the status and the opening of a channel cost while much waits elsewhere.

    python -m tests.benchmarks.backlog              # nothing, 100,000 and 1,000,000 rows: two minutes
    python -m tests.benchmarks.backlog --rows 0 20000

The rows wait in forty lanes of other pairs, as an outage leaves them; the last line measures the status with all of
them in the lane of the pair itself. Everything goes through `SqlStore` and the core, as the daemon does it. Times are
first deciles; the factor is that of the first count.
"""

import argparse
import asyncio
import logging
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from relay.core.bootstrap import Core, assemble
from relay.core.clock import SystemClock
from relay.core.status.reading import read_report
from relay.domain.commands import SendMessage
from relay.domain.content import Content
from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.store import codec
from relay.store.migrate import upgrade
from relay.store.unit_of_work import SqlStore, open_store
from tests.support.memory_adapter import MemoryAdapter
from tests.support.platform import MemoryPlatform
from tests.support.world import lane, pair

LANES = 40
START = datetime(2026, 1, 1, tzinfo=UTC)
CHANNEL = ChannelRef(Platform.DISCORD, "help")
COLUMNS = ("one message", "status", "snapshot", "opening a channel", "taking a batch apart")


def said(number: int) -> SendMessage:
    """Some words of somebody's."""
    author = MemoryPlatform(Platform.DISCORD, lambda: START).person("ann")
    return SendMessage(MessageRef(CHANNEL, str(number)), author, Content(RichText.plain("some words " * 12)), START)


def fill(path: Path, rows: int, lanes: list[LaneKey]) -> None:
    """Let that many rows wait, spread over the lanes; one in each at least, for a lane costs something in any case."""
    connection = sqlite3.connect(path, isolation_level=None)
    payload = codec.encode(said(1))
    connection.execute("BEGIN")
    for key in lanes:
        connection.execute(
            "INSERT OR IGNORE INTO lane (source_platform, source_channel, destination_platform, destination_channel)"
            " VALUES (?, ?, ?, ?)",
            (key.source.platform, key.source.id, key.destination.platform, key.destination.id),
        )
    ids = [
        connection.execute(
            "SELECT id FROM lane WHERE source_channel = ? AND destination_platform = ?",
            (key.source.id, key.destination.platform),
        ).fetchone()[0]
        for key in lanes
    ]
    connection.executemany(
        "INSERT INTO outbox (lane_id, position, state, queued_at, source_platform, source_channel, source_id, command)"
        " VALUES (?, ?, 'waiting', 1, 'discord', 'elsewhere', ?, ?)",
        ((ids[number % len(ids)], number << 20, str(number), payload) for number in range(max(rows, len(ids)))),
    )
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def core_on(store: SqlStore) -> Core:
    """The core with nobody at its ends."""
    clock = SystemClock()
    adapters = {
        platform: MemoryAdapter(MemoryPlatform(platform, clock.now), replays=platform is Platform.MATRIX)
        for platform in Platform
    }
    return assemble(store=store, pairs=(pair(),), adapters=adapters, clock=clock, rng=random.Random(1))


async def milliseconds(act: Callable[[], Awaitable[object]], times: int) -> float:
    """The least of many, but for a tenth: whatever else the machine does is not ours."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        await act()
        taken.append(time.perf_counter() - started)
    return statistics.quantiles(taken, n=10)[0] * 1000


async def measure(path: Path, times: int) -> list[float]:
    """The columns, in milliseconds."""
    store = await open_store(f"sqlite:///{path}")
    core = core_on(store)
    await core.inbox.begin()
    numbers = iter(range(1_000_000, 2_000_000))

    async def message() -> None:
        command = said(next(numbers))
        async with store.write() as unit:
            added = await unit.messages.add(command.source, command.author.user, START, None)
            assert added is not None
            entry = await unit.outbox.append(lane(Platform.MATRIX), command, START)
        async with store.read() as unit:
            await unit.outbox.waiting(lane(Platform.MATRIX), 50)
        async with store.write() as unit:
            await unit.outbox.done(entry.id)

    async def status() -> None:
        await read_report(store, (pair(),), running=True, now=START + timedelta(1))

    async def opened() -> None:
        for side in pair().sides:
            await core.inbox.opened(side, ChannelRef(side.platform, "help"))

    async def apart() -> None:
        async with store.write() as unit:
            entry = await unit.outbox.append(lane(Platform.MATRIX), said(1), START)
            await unit.outbox.replace(entry, [said(number) for number in range(10)])
            await unit.outbox.clear(lane(Platform.MATRIX), 10)

    try:
        return [await milliseconds(act, times) for act in (message, status, core.status.report, opened, apart)]
    finally:
        await store.close()


async def main(arguments: list[str]) -> int:
    """Print the table; the exit status is 1 where something costs more than `--most` times as much."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.backlog", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[0, 100_000, 1_000_000])
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--most", type=float, default=3.0, help="the factor that is still called flat")
    options = parser.parse_args(arguments)
    logging.getLogger("relay").setLevel(logging.WARNING)
    elsewhere = [
        LaneKey(ChannelRef(here, f"other {number}"), ChannelRef(there, f"other {number}"))
        for number in range(LANES // 2)
        for here, there in ((Platform.DISCORD, Platform.MATRIX), (Platform.MATRIX, Platform.DISCORD))
    ]
    print(f"{'rows waiting':>14}  " + "  ".join(f"{name:>22}" for name in COLUMNS))
    first: list[float] = []
    worst = 0.0
    for rows, lanes, what in (
        *((rows, elsewhere, "") for rows in options.rows),
        (max(options.rows), [lane(Platform.MATRIX)], " in the lane itself"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "relay.db"
            upgrade(f"sqlite:///{path}")
            fill(path, rows, lanes)
            seen = await measure(path, options.times)
        first = first or seen
        factors = [now / before for now, before in zip(seen, first, strict=True)]
        worst = max(worst, *factors)
        cells = (f"{now:8.2f} ms {factor:6.2f} x" for now, factor in zip(seen, factors, strict=True))
        print(f"{rows:>14,}  " + "  ".join(f"{cell:>22}" for cell in cells) + what, flush=True)
    return 1 if worst > options.most else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
