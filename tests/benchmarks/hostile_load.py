"""What one member's large messages cost everybody else: `python -m tests.benchmarks.hostile_load`.

A real Synapse, the sandbox and the daemon, with two pairs. Measured are, each against the same daemon in peace:

* `--tables` tables of 60 KiB, written in one room while the daemon was down: how long a message of the other pair takes
  while they cross, and the longest time in which `/healthz` did not answer;
* `--dense` messages full of markup: the daemon's memory before and after.

On two quiet cores the ratio is to stay below 2. `--tables 10 --dense 100` is a short run.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import aiohttp

from relay.demo.homeserver import Homeserver
from relay.sandbox.rate_limits import Limits
from tests.support.stack import FullStack, stack

LOUD, QUIET = "loud", "quiet"
TABLE = "<table>" + "<tr><td>tea<td>cake</tr>" * 2_400
DENSE = "<b>a</b> <i>b</i> <code>c</code> <del>d</del> " * 40
PATIENCE = 900.0


async def seconds_each(place: FullStack, what: str, count: int) -> float:
    """What a message of the quiet pair takes, in the middle of several, each way in turn."""
    taken: list[float] = []
    for number in range(count):
        text, started = f"{what} {number}", time.perf_counter()
        if number % 2:
            place.say(QUIET, text)
        else:
            await place.mia.text(place.rooms[QUIET], text)
        read = place.matrix_words if number % 2 else place.discord_words
        await _until(lambda text=text, read=read: _says(read(QUIET), text))  # type: ignore[misc]
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


async def longest_silence(place: FullStack, done: asyncio.Event) -> float:
    """The longest time that `/healthz` took to answer."""
    longest = 0.0
    async with aiohttp.ClientSession() as session:
        while not done.is_set():
            started = time.perf_counter()
            async with session.get(place.daemon.url + "/healthz") as answer:
                await answer.read()
            longest = max(longest, time.perf_counter() - started)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await done.wait()
    return longest


async def measured(place: FullStack, what: str, count: int) -> tuple[float, float]:
    """Seconds for a message of the quiet pair, and the longest silence meanwhile."""
    done = asyncio.Event()
    silence = asyncio.create_task(longest_silence(place, done))
    each = await seconds_each(place, what, count)
    done.set()
    return each, await silence


async def started(place: FullStack) -> None:
    """The daemon is there, and has only begun to read what it missed."""
    await place.daemon.start(ready=False)
    await _until(lambda: _answers(place))


def memory(place: FullStack) -> float:
    """What the daemon has in memory, in MiB."""
    status = Path(f"/proc/{place.daemon.pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


async def crossed(place: FullStack, last: str) -> None:
    """Everything in the loud room has crossed."""
    await place.mia.text(place.rooms[LOUD], last)
    await _until(lambda: _says(place.discord_words(LOUD), last))


async def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tables", type=int, default=120)
    options.add_argument("--dense", type=int, default=2_000)
    options.add_argument("--messages", type=int, default=10, help="of the quiet pair, each time")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        homeserver = Homeserver(path / "homeserver")
        await homeserver.start()
        try:
            async with stack(path, homeserver, (LOUD, QUIET), limits=Limits(identify_every=0, factor=0)) as place:
                await place.daemon.start()
                await seconds_each(place, "warm", 2)
                await place.daemon.stop()
                await started(place)
                peace, silence = await measured(place, "before", chosen.messages)
                print(f"in peace, just started: {peace * 1000:.0f} ms a message, {_silent(silence)}")
                await place.daemon.stop()
                for _ in range(chosen.tables):
                    await place.mia.html(place.rooms[LOUD], "a table", TABLE)
                await started(place)
                each, silence = await measured(place, "during", chosen.messages)
                times = f"{each * 1000:.0f} ms a message, {each / peace:.1f} times as long"
                print(f"{chosen.tables} tables: {times}, {_silent(silence)}")
                await crossed(place, "the tables have crossed")
                print(f"after the tables: {memory(place):.0f} MiB")
                before = memory(place)
                for number in range(chosen.dense):
                    await place.mia.html(place.rooms[LOUD], f"dense {number}", f"{DENSE}{number}")
                await crossed(place, "the dense ones have crossed")
                after = memory(place)
                print(f"{chosen.dense} dense messages: {before:.0f} MiB before, {after:.0f} MiB after")
        finally:
            await homeserver.kill()


def _silent(seconds: float) -> str:
    return f"/healthz silent for {seconds * 1000:.0f} ms at most"


async def _until(there: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await there():  # noqa: ASYNC110 - what is waited for happens in a server
            await asyncio.sleep(0.02)


async def _says(words: Awaitable[list[str]], text: str) -> bool:
    return text in await words


async def _answers(place: FullStack) -> bool:
    try:
        return (await place.daemon.get("/healthz"))[0] > 0
    except (aiohttp.ClientError, KeyError):
        return False


if __name__ == "__main__":
    asyncio.run(main())
