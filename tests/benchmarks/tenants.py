"""Several processes that share tenants on one PostgreSQL: what they occupy, and how soon others go on for one of them.

    python -m tests.benchmarks.tenants --tenants 20 --processes 2

Each tenant has one pair, and nothing is said: it is about being there. The sandbox, Synapse and PostgreSQL are on the
same machine, where a process that has ended is seen at once; elsewhere that takes up to three seconds more. The server
takes a hundred connections, as PostgreSQL does where nobody has set it. Beside each time stands what the processes that
serve then have used of the processor: on a machine that does much else, only that can be compared.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.demo.homeserver import Homeserver
from tests.support.postgresql import SHORT, Server, start, stop
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


async def seconds(look: Callable[[], Awaitable[bool]], began: float = 0.0) -> float:
    """Until that is so; from now, or from that time."""
    began = began or time.monotonic()
    await eventually(look, bool, patience=_PATIENCE)
    return time.monotonic() - began


async def measure(place: World, running: Server, tenants: int, processes: int) -> None:
    """Print all of it."""

    async def served(by: list[Daemon]) -> bool:
        return sum([max(0, await serves(one)) for one in by]) == tenants

    async def balanced() -> bool:
        counts = [await serves(one) for one in place.processes]
        return sum(counts) == tenants and max(counts) - min(counts) <= 1

    async def say_until(what: str, look: Callable[[], Awaitable[bool]], by: list[Daemon], began: float = 0.0) -> None:
        used = sum(map(processor, by))
        took = await seconds(look, began)
        say(f"{what}: {took:.1f} s, {sum(map(processor, by)) - used:.1f} s of processor")

    first = await place.start()
    await say_until(f"started, until all {tenants} are served by one", lambda: served([first]), [first])
    for _ in range(processes - 1):
        await say_until("one more, until the shares are equal", balanced, [await place.start()])
    count = "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'relay')"
    (connections,) = running.run(count)[0]
    before = [processor(one) for one in place.processes]
    await asyncio.sleep(_IDLE_SECONDS)
    idle = [(processor(one) - used) / _IDLE_SECONDS for one, used in zip(place.processes, before, strict=True)]
    say(f"idle: {connections} connections to PostgreSQL")
    for one, share in zip(place.processes, idle, strict=True):
        say(f"  {await serves(one)} tenants: {memory(one):.0f} MiB, {share:.1%} of a core")
    if processes == 1:
        return
    others = place.processes[1:]
    began = time.monotonic()
    await first.kill()
    await say_until("killed, until the others serve all", lambda: served(others), others, began)
    await first.start(ready=False)
    await seconds(balanced)
    began = time.monotonic()
    first.send_signal(signal.SIGSTOP)
    await say_until("stopped (SIGSTOP), until the others serve all", lambda: served(others), others, began)
    first.send_signal(signal.SIGCONT)
    await say_until("continued, until the shares are equal", balanced, others)
    began = time.monotonic()
    await first.stop()
    await say_until("told to stop, until the others serve all", lambda: served(others), others, began)


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
    with tempfile.TemporaryDirectory() as folder, stock_server() as running:
        url = running.url("postgres")
        async with Homeserver() as homeserver, world(Path(folder), homeserver, url, names) as place:
            await measure(place, running, wanted.tenants, wanted.processes)


@contextmanager
def stock_server() -> Iterator[Server]:
    """One of our own that takes as many connections as it does where nobody says how many."""
    folder = Path(tempfile.mkdtemp(prefix="relay-pg-tenants-", dir=SHORT))
    process = start(folder, os.getpid(), "-c", "max_connections=100")
    try:
        yield Server(folder)
    finally:
        stop(process, signal.SIGINT)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
