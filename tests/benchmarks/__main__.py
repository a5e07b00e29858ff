"""What the relay costs, each figure beside the two bare libraries back to back (`bare.py`), in one run.

    python -m tests.benchmarks           # short, as CI prints it: some minutes
    python -m tests.benchmarks --long    # for CONTRIBUTING: an hour or so, on a machine that does nothing else

Both are processes of their own between the same sandbox (without limits) and the same Synapse, and are measured in
turns: the machine decides about seconds, so only the ratios can be compared with those of another run. Nothing is
asserted. The daemon is measured from its second start on, without the migration of its first.
"""

import argparse
import asyncio
import operator
import os
import platform
import resource
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from relay.demo.homeserver import Homeserver
from relay.domain.ids import Platform
from relay.store.migrate import upgrade
from relay.store.unit_of_work import open_store
from tests.benchmarks import map_lookup
from tests.benchmarks.roundtrip import DIRECTIONS, Stage, bare_process, latencies, staged, throughput
from tests.support.payloads import cases, play
from tests.support.stack import eventually

_PAGES = 5
_NOTHING = 0.05
"""Less than this cannot be divided by: the bare libraries do nothing while nothing happens."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    pairs: Sequence[int]  # a stage for each; messages cross on the first
    starts: int
    # Until a process counts as idle: the relay keeps lists of threads for half a minute after a start.
    settle_seconds: float
    idle_seconds: float
    messages: int  # one at a time, in each direction
    burst: int  # messages in each pair and round
    rounds: int
    maps: Sequence[int]


SHORT = Sizes(
    pairs=(20,), starts=2, settle_seconds=5, idle_seconds=20, messages=30, burst=5, rounds=2, maps=(10_000, 100_000)
)
LONG = Sizes(
    pairs=(20, 60, 1000),
    starts=5,
    settle_seconds=45,
    idle_seconds=60,
    messages=300,
    burst=15,
    rounds=5,
    maps=(10_000, 1_000_000, 10**7),
)


@dataclass(slots=True)
class Table:
    """The lines as they come."""

    # Of each number of pairs: what the relay's process and the bare one occupy when they are idle, in MiB.
    memory: dict[int, tuple[float, float]] = field(default_factory=dict)

    def line(self, what: str, unit: str, relay: float, bare: float | None, *, bar: str = "") -> None:
        """One figure."""
        ratio = "" if bare is None or bare < _NOTHING else f"{relay / bare:8.2f}"
        beside = "" if bare is None else f"{bare:10.2f}"
        print(f"{what:<48}{relay:10.2f}{beside:>10}{ratio:>9}  {unit:<14}{bar}", flush=True)


def cpu_seconds(pid: int) -> float:
    """What the threads of a process have used so far; those that ended are not in it."""
    threads = (task / "schedstat" for task in Path(f"/proc/{pid}/task").iterdir())
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def wake_ups(pid: int) -> int:
    """How often the threads of a process have waited for something so far; those that ended are not in it."""
    threads = (task / "status" for task in Path(f"/proc/{pid}/task").iterdir())
    lines = (line for thread in threads for line in thread.read_text().splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def resident_mib(pid: int) -> float:
    """What a process occupies in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def measure_processes(stage: Stage, sizes: Sizes, pairs: int, table: Table) -> None:
    """From the start to ready, and then the memory and CPU of a process in which nothing happens."""
    daemon = stage.place.daemon
    relay_starts, bare_starts = [], []
    wiring = stage.wiring | {"joins": []}
    for _ in range(sizes.starts):
        await daemon.stop()
        began = time.perf_counter()
        await daemon.start()
        relay_starts.append(time.perf_counter() - began)
        began = time.perf_counter()
        async with bare_process(wiring):
            bare_starts.append(time.perf_counter() - began)
    of = f", {pairs} pairs"
    table.line(f"start to ready{of}", "s", *map(statistics.median, (relay_starts, bare_starts)), bar="1.5")
    # The libraries keep channels and rooms, too.
    async with bare_process(wiring | {"pairs": stage.wired}) as bare:
        await asyncio.sleep(sizes.settle_seconds)
        pids = (daemon.pid, bare.pid)
        table.memory[pairs] = (resident_mib(daemon.pid), resident_mib(bare.pid))
        table.line(f"memory, idle{of}", "MiB", *table.memory[pairs], bar="1.4")
        woken = [wake_ups(pid) for pid in pids]
        before, began = [cpu_seconds(pid) for pid in pids], time.perf_counter()
        await asyncio.sleep(sizes.idle_seconds)
        seconds = time.perf_counter() - began
        relay, idle = (100 * (cpu_seconds(pid) - spent) / seconds for pid, spent in zip(pids, before, strict=True))
        table.line(f"CPU, idle{of}", "% of a core", relay, idle, bar="0.5 %")
        relay, idle = ((wake_ups(pid) - times) / seconds for pid, times in zip(pids, woken, strict=True))
        table.line(f"wake-ups, idle{of}", "a second", relay, idle)


async def measure_operating(stage: Stage, pairs: int, table: Table) -> None:
    """What operators ask for, and one pair that they add: the CPU of the process that does it."""
    place, of = stage.place, f", {pairs} pairs"
    daemon, names = place.daemon, list(place.channels)
    for path in ("/readyz", "/", "/metrics"):
        before = cpu_seconds(daemon.pid)
        for _ in range(_PAGES):
            await daemon.get(path)
        table.line(f"{path}{of}", "ms of CPU", 1000 * (cpu_seconds(daemon.pid) - before) / _PAGES, None)
    before = _ended_seconds()
    await daemon.relay("status")
    table.line(f"relay status{of}", "s of CPU", _ended_seconds() - before, None)
    for declared, told, times in ((names[:-1], "pair removed", 1), (names, "channel open", 2)):
        seen, before = await _told(stage, told, names[-1]), cpu_seconds(daemon.pid)
        place.write_config(pairs=declared)
        daemon.send_signal(signal.SIGHUP)
        await eventually(partial(_told, stage, told, names[-1]), partial(operator.le, seen + times), what=daemon.log)
    table.line(f"a pair added by SIGHUP, until it is open{of}", "s of CPU", cpu_seconds(daemon.pid) - before, None)


async def _told(stage: Stage, event: str, pair: str) -> int:
    """How often the daemon's log has said that of the pair."""
    return sum(f'"{event}"' in line and f'"{pair}"' in line for line in stage.place.daemon.log(1000).splitlines())


def _ended_seconds() -> float:
    """The CPU of the processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def measure_messages(stage: Stage, sizes: Sizes, pairs: int, table: Table) -> None:
    """How long messages take, and how many cross in a second."""
    for direction in DIRECTIONS:
        found = await latencies(stage, direction, sizes.messages)
        for name, percent, bar in (("p50", 50, "1.06"), ("p99", 99, "1.0")):
            relay, bare = (1000 * statistics.quantiles(found[who], n=100)[percent - 1] for who in ("relay", "bare"))
            table.line(f"latency {name}, {direction}", "ms", relay, bare, bar=bar)
    before = cpu_seconds(stage.place.daemon.pid)
    rates = await throughput(stage, sizes.burst, sizes.rounds)
    spent = cpu_seconds(stage.place.daemon.pid) - before
    for direction in DIRECTIONS:
        # Beside a bare sender, which puts as many messages into as many rooms of the same homeserver.
        relay, bare = (statistics.median(rates[who]) for who in (direction, "bare sender"))
        table.line(f"burst over {pairs} pairs, {direction}", "messages/s", relay, bare, bar="0.95")
    crossed = len(DIRECTIONS) * sizes.rounds * pairs * sizes.burst
    table.line("CPU a message in bursts, both ways", "ms", 1000 * spent / crossed, None)


async def measure_conversions(table: Table) -> None:
    """The files of `tests/payloads`, as they are tested: read, converted, written; what the tests set up is in it."""
    for source in Platform:
        corpus = cases(source)
        taken = []
        for number in range(6):
            began = time.process_time()
            for case in corpus:
                await play(case, source)
            if number:  # the first time fills caches
                taken.append(time.process_time() - began)
        each = 1000 * min(taken) / len(corpus)
        table.line(f"conversion, {len(corpus)} payloads of {source.value.capitalize()}", "ms each", each, None)


async def measure_maps(sizes: Sizes, folder: Path, table: Table) -> None:
    """A look-up in small and large maps; beside the smallest map, not the bare libraries."""
    stores = []
    for size in sizes.maps:
        path = folder / f"{size}.db"
        await asyncio.to_thread(upgrade, f"sqlite:///{path}")
        await asyncio.to_thread(map_lookup.fill, path, size)
        stores.append(await open_store(f"sqlite:///{path}"))
        table.line(f"bytes a message, {size:,} in the map", "bytes", path.stat().st_size / size, None, bar="250")
    small = stores[0]
    for size, store in zip(sizes.maps[1:], stores[1:], strict=True):
        found = await map_lookup.ratios((small, store), (sizes.maps[0], size), near=sizes.maps[0])
        worst = max(found, key=lambda name: found[name][1] / found[name][0])
        before, now = found[worst]
        table.line(f"slowest look-up ({worst}), {size:,}", "us", now, before, bar="1.2")
    for store in stores:
        await store.close()


async def main(sizes: Sizes) -> None:
    """Measure and print."""
    load = os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f} before the run\n")
    print(f"{'':<48}{'relay':>10}{'bare':>10}{'ratio':>9}  {'unit':<14}to be, at most (bursts: at least)")
    table = Table()
    with tempfile.TemporaryDirectory(prefix="relay-benchmarks-") as made:
        folder = Path(made)
        await measure_conversions(table)
        await measure_maps(sizes, folder, table)
        for pairs in sizes.pairs:
            at = folder / f"{pairs}-pairs"
            at.mkdir()
            async with Homeserver() as homeserver, staged(at, homeserver, pairs) as stage:
                await measure_processes(stage, sizes, pairs, table)
                await measure_operating(stage, pairs, table)
                if pairs == sizes.pairs[0]:
                    await measure_messages(stage, sizes, pairs, table)
                    grown = resident_mib(stage.place.daemon.pid) - table.memory[pairs][0]
                    table.line("memory that the messages above added", "MiB", grown, None)
    few, many = min(sizes.pairs), max(sizes.pairs)
    if many > few:
        relay, bare = (1024 * (table.memory[many][n] - table.memory[few][n]) / (many - few) for n in range(2))
        table.line("memory a further pair", "KiB", relay, bare, bar="20")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="as it stands in CONTRIBUTING")
    asyncio.run(main(LONG if parser.parse_args().long else SHORT))
