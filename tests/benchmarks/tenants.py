"""Several processes that share tenants on one PostgreSQL: what they occupy, and how soon others go on for one of them.

    python -m tests.benchmarks.tenants --tenants 20 --processes 2

Each tenant has one pair, and nothing is said: it is about being there. The sandbox, Synapse and PostgreSQL are on the
same machine, where a process that has ended is seen at once; elsewhere that takes up to three seconds more.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from relay.demo.homeserver import Homeserver
from tests.support.postgresql import server
from tests.support.stack import Daemon, eventually
from tests.support.tenants import World, serves, world

_IDLE_SECONDS = 10.0
_PATIENCE = 600.0
_TICKS = os.sysconf("SC_CLK_TCK")


def memory(process: Daemon) -> float:
    """What a process occupies, in MiB."""
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def processor(process: Daemon) -> float:
    """The seconds of processor that it has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


async def seconds(look: Callable[[], Awaitable[bool]]) -> float:
    """Until that is so."""
    began = time.monotonic()
    await eventually(look, bool, patience=_PATIENCE)
    return time.monotonic() - began


async def measure(place: World, url: str, tenants: int, processes: int) -> None:
    """Print all of it."""

    async def served(by: list[Daemon]) -> bool:
        return sum([max(0, await serves(one)) for one in by]) == tenants

    async def balanced() -> bool:
        counts = [await serves(one) for one in place.processes]
        return sum(counts) == tenants and max(counts) - min(counts) <= 1

    first = await place.start()
    say(f"started, until all {tenants} are served by one: {await seconds(lambda: served([first])):.1f} s")
    for _ in range(processes - 1):
        await place.start()
        say(f"one more, until the shares are equal: {await seconds(balanced):.1f} s")
    name = url.partition("@/")[2].partition("?")[0]
    count = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND backend_type = 'client backend'"
    (connections,) = server().run(count)[0]
    before = [processor(one) for one in place.processes]
    await asyncio.sleep(_IDLE_SECONDS)
    idle = [(processor(one) - used) / _IDLE_SECONDS for one, used in zip(place.processes, before, strict=True)]
    say(f"idle: {connections} connections to PostgreSQL")
    for one, share in zip(place.processes, idle, strict=True):
        say(f"  {await serves(one)} tenants: {memory(one):.0f} MiB, {share:.1%} of a core")
    if processes == 1:
        return
    others = place.processes[1:]
    await first.kill()
    say(f"killed, until the others serve all: {await seconds(lambda: served(others)):.1f} s")
    await first.start(ready=False)
    await seconds(balanced)
    first.send_signal(signal.SIGSTOP)
    say(f"stopped (SIGSTOP), until the others serve all: {await seconds(lambda: served(others)):.1f} s")
    first.send_signal(signal.SIGCONT)
    say(f"continued, until the shares are equal: {await seconds(balanced):.1f} s")
    began = time.monotonic()
    await first.stop()
    await seconds(lambda: served(others))
    say(f"told to stop, until the others serve all: {time.monotonic() - began:.1f} s")


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tenants", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    wanted = parser.parse_args()
    names = [f"t{number:03}" for number in range(wanted.tenants)]
    with tempfile.TemporaryDirectory() as folder, server().database(migrated=False) as url:
        async with Homeserver() as homeserver, world(Path(folder), homeserver, url, names) as place:
            await measure(place, url, wanted.tenants, wanted.processes)


if __name__ == "__main__":
    asyncio.run(main())
