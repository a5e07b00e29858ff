"""What a message takes while old ones are forgotten, against what it takes without.

    python -m tests.benchmarks.pruning              # a map of 1,000,000 old messages: some minutes
    python -m tests.benchmarks.pruning --rows 50000 --rounds 2

The real core and the real store between two platforms in memory; a message's time is from its being said to its copy
being shown. Rounds with and without the pruning take turns, so that whatever else the machine does troubles both.
"""

import argparse
import asyncio
import logging
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from relay.core.clock import SystemClock
from relay.store.pruning import Pruner
from tests.support.world import World, world

DAY = 86400.0
FILL = """
    INSERT INTO channel (id, platform, native_id) VALUES (1000, 'discord', 'old'), (1001, 'matrix', 'old');
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
    INSERT INTO message (id, channel_id, native_id, author, created_at, used) SELECT i, 1000, i, 7, 1, 1 FROM n;
    INSERT INTO message_copy (message_id, channel_id, part, native_id) SELECT id, 1001, 0, randomblob(32) FROM message;
    PRAGMA wal_checkpoint(TRUNCATE);
"""


def fill(path: Path, rows: int) -> None:
    """A map of that many messages that nobody has used for years, each with a copy."""
    connection = sqlite3.connect(path)
    connection.executescript(FILL.format(rows=rows))
    connection.close()


def left(path: Path) -> int:
    """How many messages are in the map."""
    connection = sqlite3.connect(path)
    (count,) = connection.execute("SELECT count(*) FROM message").fetchone()
    connection.close()
    return int(count)


async def deliver(made: World, messages: int) -> list[float]:
    """Milliseconds of one message after the other."""
    here, there = made.channels()
    taken = []
    for _ in range(messages):
        before = len(made.shown(there))
        started = time.perf_counter()
        made.discord.say(here, "ann", "some words " * 12)
        while len(made.shown(there)) == before:  # noqa: ASYNC110 - a platform in memory tells nobody
            await asyncio.sleep(0.0005)
        taken.append((time.perf_counter() - started) * 1000)
    return taken


async def measure(made: World, rounds: int, messages: int) -> tuple[list[float], list[float], float]:
    """Without, with, and how many messages a second were forgotten meanwhile."""
    clock = SystemClock()
    pruner = Pruner(store=made.store, clock=clock, messages=90 * DAY, dead_letters=30 * DAY)
    without: list[float] = []
    during: list[float] = []
    forgotten, seconds = 0, 0.0
    async with made.relay():
        await deliver(made, 20)
        for _ in range(rounds):
            without += await deliver(made, messages)
            before, started = left(made.store.path), time.perf_counter()
            sweeping = asyncio.create_task(pruner.sweep())
            during += await deliver(made, messages)
            seconds += time.perf_counter() - started
            if sweeping.done():
                raise RuntimeError("everything was forgotten before the round was over: take more rows")
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping
            forgotten += before - left(made.store.path) + messages
    return without, during, forgotten / seconds


async def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pruning", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--messages", type=int, default=100, help="in each round")
    options = parser.parse_args(arguments)
    logging.getLogger("relay").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        async with world(Path(folder)) as made:
            fill(made.store.path, options.rows)
            without, during, rate = await measure(made, options.rounds, options.messages)
    print(f"{options.rows:,} messages in the map, {rate:.0f} forgotten a second")
    print(f"{'ms a message':<14}{'without':>10}{'pruning':>10}{'ratio':>8}")
    for name, which in (("median", 50), ("90 %", 90), ("99 %", 99)):
        plain, pruned = (statistics.quantiles(times, n=100)[which - 1] for times in (without, during))
        print(f"{name:<14}{plain:>10.2f}{pruned:>10.2f}{pruned / plain:>8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
