"""What memory the daemon has after each thousand messages: flat, if nothing is kept that nobody needs.

    python -m tests.benchmarks.soak                        # 10,000 messages: some ten minutes
    python -m tests.benchmarks.soak --thousands 140 --rate 20    # two hours

The real daemon between the sandbox (without limits) and a real homeserver, four pairs; half of the messages come from
either side, on Discord from two hundred people, and one in ten is edited, one in twenty deleted. Printed are the
resident memory after each thousand, and how much the second half of the run added to the first; with how many messages
a second they came. Nothing is asserted.
"""

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path

from relay.demo.homeserver import Homeserver
from relay.sandbox.rate_limits import Limits
from tests.benchmarks.media_memory import memory
from tests.support.stack import FullStack, eventually, stack

PAIRS = ("one", "two", "three", "four")
PEOPLE = 200
_PATIENCE = 600.0


async def write(place: FullStack, pair: str, people: list[str], rng: random.Random, count: int, rate: float) -> None:
    """Half of `count` messages on each side of a pair, some edited and deleted at once; at most `rate` a second."""
    control = place.control
    channel = place.channels[pair]
    began = time.monotonic()
    for number in range(count // 2):
        await asyncio.sleep(began + 2 * number / rate - time.monotonic())
        said = control.say(channel, rng.choice(people), f"{number} {'word ' * rng.randint(1, 60)}")["id"]
        event = await place.tell(pair, f"{number} {'word ' * rng.randint(1, 60)}")
        if rng.random() < 0.1:
            control.edit(channel, said, f"{number} edited")
            await place.mia.edit(place.rooms[pair], event, f"{number} edited")
        elif rng.random() < 0.05:
            control.delete(channel, said)
            await place.mia.redact(place.rooms[pair], event)


async def settled(place: FullStack) -> None:
    """Wait until nothing waits any more."""

    async def backlog() -> float:
        ways = ("to_matrix", "to_discord")
        status = await place.daemon.status()
        return sum(float(pair[way]["backlog"]) for pair in status["pairs"] for way in ways)

    await eventually(backlog, lambda waiting: waiting == 0, what=place.daemon.log, patience=_PATIENCE)


async def main(thousands: int, rate: float, seed: int) -> None:
    """Soak, and print."""
    rng = random.Random(seed)
    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        async with Homeserver() as homeserver, stack(Path(folder), homeserver, PAIRS, limits=Limits(factor=0)) as place:
            people = [place.control.create_person(f"person{number}")["id"] for number in range(PEOPLE)]
            for person in people:
                place.control.join(place.guild, person)
            await place.daemon.start()
            for number in range(thousands + 1):
                # The first thousand only warms it up.
                began = time.monotonic()
                async with asyncio.TaskGroup() as writers:
                    for pair in PAIRS:
                        work = write(place, pair, people, rng, 1000 // len(PAIRS), rate / len(PAIRS))
                        writers.create_task(work)
                await settled(place)
                found.append(memory(place.daemon.pid, "VmRSS"))
                at = 1000 / (time.monotonic() - began)
                print(f"{(number + 1) * 1000:>8} messages  {found[-1]:7.1f} MiB  {at:5.1f}/s", flush=True)
    warm = found[1:]
    half = len(warm) // 2
    if half:
        more = sum(warm[-half:]) / half - sum(warm[:half]) / half
        print(f"the second half of the run: {more:+.1f} MiB, {1024 * more / (half * 1000):+.2f} KiB a message")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--thousands", type=int, default=10, help="how many messages, after a first thousand")
    parser.add_argument("--rate", type=float, default=20.0, help="messages a second at most, both sides together")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    asyncio.run(main(options.thousands, options.rate, options.seed))
