"""What a message asks of the store and of the CPU, between two platforms in memory: the core and the store alone.

    python -m tests.benchmarks.hot_path                         # half a minute
    python -m tests.benchmarks.hot_path --against ../before     # beside another checkout, in turns

A message is received, sent, and its echo received: one after the other ("alone"), or in twenty pairs at once ("burst").
Counts are those of SQLite itself. CPU is that of the process with all its threads; only ratios can be compared.
"""

import argparse
import asyncio
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.platform import MemoryPlatform
from tests.support.store_counts import StoreCounts, counting
from tests.support.world import World, pair, until, world

PAIRS = 20
WORDS = "some words " * 6


async def crossed(place: World, source: MemoryPlatform, channels: int, each: int, first: int) -> None:
    """Say so much in so many channels at once, and wait until it has crossed, with receipt and echo."""
    there = place.matrix if source is place.discord else place.discord
    assert place.core is not None
    status = place.core.status
    before = status.accepted(there.platform)
    for number in range(each):
        for channel in range(channels):
            source.say(source.channel(f"pair{channel}"), "ann", f"{WORDS}{first + number}")
    adapters = (place.discord_adapter, place.matrix_adapter)
    await until(lambda: status.accepted(there.platform) == before + channels * each)
    await until(lambda: not any(adapter is not None and adapter.unread() for adapter in adapters))


def per_message(counts: StoreCounts, messages: int) -> dict[str, float]:
    """The counts of one message."""
    return {
        "transactions": counts.transactions / messages,
        "trips": counts.trips / messages,
        "statements": counts.statements.total() / messages,
        "reads": counts.reads / messages,
    }


async def measure(count: int, rounds: int) -> dict[str, dict[str, float]]:
    """All figures, by direction and mode."""
    found: dict[str, dict[str, float]] = {}
    names = [f"pair{number}" for number in range(PAIRS)]
    with tempfile.TemporaryDirectory() as folder, counting() as counts:
        async with world(Path(folder), *map(pair, names)) as place, place.relay():
            for source in (place.discord, place.matrix):
                direction = f"from {source.platform}"
                await crossed(place, source, PAIRS, 2, 0)

                async def alone(source: MemoryPlatform = source) -> None:
                    for number in range(count):
                        await crossed(place, source, 1, 1, number)

                async def burst(source: MemoryPlatform = source) -> None:
                    await crossed(place, source, PAIRS, count // PAIRS * 4, 0)

                for mode, act, messages in (("alone", alone, count), ("burst", burst, count // PAIRS * 4 * PAIRS)):
                    counts.reset()
                    spent = []
                    for _ in range(rounds):
                        place.discord.messages.clear()
                        place.matrix.messages.clear()
                        began = time.process_time()
                        await act()
                        spent.append(1000 * (time.process_time() - began) / messages)
                    found[f"{direction}, {mode}"] = per_message(counts, messages * rounds) | {"cpu": min(spent)}
    return found


def report(figures: dict[str, list[dict[str, dict[str, float]]]]) -> None:
    """One line for each checkout, direction and mode."""
    own = next(iter(figures))
    for key in figures[own][0]:
        print(key)
        for name, runs in figures.items():
            median = {unit: statistics.median(run[key][unit] for run in runs) for unit in runs[0][key]}
            ratio = median["cpu"] / statistics.median(run[key]["cpu"] for run in figures[own])
            counts = "".join(f"{median[unit]:6.2f} {unit}" for unit in ("transactions", "trips", "statements", "reads"))
            print(f"  {name:<24} {counts}   CPU {median['cpu']:5.2f} ms ({ratio:4.2f})")


def main() -> None:
    """Measure here, and in each other checkout with this program; print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=3, help="how often each checkout is measured")
    parser.add_argument("--against", type=Path, action="append", default=[], help="another checkout")
    parser.add_argument("--json", action="store_true", help="measure this checkout once, and print only numbers")
    arguments = parser.parse_args()
    logging.getLogger("relay").setLevel(logging.CRITICAL)
    if arguments.json:
        print(json.dumps(asyncio.run(measure(arguments.messages, arguments.rounds))))
        return
    program = ["-m", "tests.benchmarks.hot_path", "--json"]
    program += ["--messages", str(arguments.messages), "--rounds", str(arguments.rounds)]
    checkouts = {"this": Path.cwd(), **{str(path): path for path in arguments.against}}
    figures: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in checkouts}
    for _ in range(arguments.turns):
        for name, path in checkouts.items():
            run = subprocess.run([sys.executable, *program], cwd=path, check=True, capture_output=True, text=True)
            figures[name].append(json.loads(run.stdout))
    report(figures)


if __name__ == "__main__":
    main()
