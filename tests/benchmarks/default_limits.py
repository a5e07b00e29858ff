"""240 messages in a minute over 6 pairs, to a homeserver with its default limits (0.2 messages/s, a burst of 10).

    python -m tests.benchmarks.default_limits

The bar (design, section 5): all across, in order, the last within 90 s. One by one they would take some 20 minutes.
"""

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path

from relay.demo.homeserver import Homeserver
from tests.support.rush import rush
from tests.support.stack import stack


async def main(count: int, seconds: float, pairs: int) -> None:
    """Play it once and print what came of it."""
    names = [f"pair{number}" for number in range(pairs)]
    with tempfile.TemporaryDirectory() as folder:
        async with (
            Homeserver(default_limits=True) as homeserver,
            stack(Path(folder), homeserver, names, lift_limits=False) as place,
        ):
            await place.daemon.start()
            result = await rush(place, names, count=count, seconds=seconds, patience=300)
    late = sorted(result.late.values())
    print(f"messages {result.written} in {seconds:.0f} s over {pairs} pairs, in {result.events} events")
    print(f"in order: {'yes' if result.in_order else 'NO'}")
    print(f"late: median {statistics.median(late):.1f} s, slowest {late[-1]:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=240)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pairs", type=int, default=6)
    options = parser.parse_args()
    asyncio.run(main(options.messages, options.seconds, options.pairs))
