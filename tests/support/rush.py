"""A rush of messages towards a homeserver with its default limits: 0.2 messages a second for an ordinary account."""

import asyncio
import re
import time
from dataclasses import dataclass

from tests.support.stack import FullStack

_MARK = re.compile(r"<(\d+)\.(\w+)>")


@dataclass(frozen=True, slots=True)
class Rush:
    """What came of it. `late`: seconds from writing to standing there, by message."""

    written: int
    late: dict[str, float]
    events: int
    in_order: bool

    @property
    def latest(self) -> float:
        """How long the slowest message took."""
        return max(self.late.values())


async def rush(place: FullStack, pairs: list[str], *, count: int, seconds: float, patience: float) -> Rush:
    """`count` messages on Discord, spread evenly over the pairs and over `seconds`; then wait until all are across.

    Fails after `patience` seconds from the last one.
    """
    loop = asyncio.get_running_loop()
    written: dict[str, float] = {}
    start = loop.time()
    for number in range(count):
        await asyncio.sleep(max(0.0, start + number * seconds / count - loop.time()))
        pair = pairs[number % len(pairs)]
        author = ("Ada", "Ben")[number // len(pairs) % 2]
        place.say(pair, f"number {number} <{number}.{pair}>", who=author)
        written[f"{number}.{pair}"] = asyncio.get_running_loop().time()
    deadline = loop.time() + patience
    while True:
        seen, events, in_order = await _look(place, pairs)
        if len(seen) == count:
            break
        if loop.time() > deadline:
            missing = sorted(written.keys() - seen.keys(), key=lambda mark: int(mark.split(".")[0]))
            raise AssertionError(f"still missing after {patience} s: {missing}\n{place.daemon.log()}")
        await asyncio.sleep(1)
    # The homeserver's clock and ours are the same machine's; one event carries the time of all its messages.
    skew = loop.time() - _now()
    late = {mark: seen[mark] + skew - at for mark, at in written.items()}
    return Rush(count, late, events, in_order)


def _now() -> float:
    return time.time()


async def _look(place: FullStack, pairs: list[str]) -> tuple[dict[str, float], int, bool]:
    """When each message stood there (seconds since the epoch), in how many events, and whether in order."""
    seen: dict[str, float] = {}
    events = 0
    in_order = True
    for pair in pairs:
        shown = await place.on_matrix(pair)
        events += len(shown)
        numbers = []
        for message in shown:
            for number, name in _MARK.findall(message.body):
                numbers.append(int(number))
                seen[f"{number}.{name}"] = message.at / 1000
        in_order = in_order and numbers == sorted(set(numbers))
    return seen, events, in_order
