"""The daemon is away while 1,000 messages, 100 edits and 50 deletions happen on each side; then it catches up.

python -m tests.chaos.absence                # once, undisturbed
python -m tests.chaos.absence --kills 20     # and once killed twenty times in the middle of the catch-up
"""

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path

from relay.demo.homeserver import Homeserver
from relay.sandbox.rate_limits import Limits
from tests.support.outage import converge, live_without_the_relay, start_and_kill
from tests.support.stack import stack


async def main(messages: int, edits: int, deletions: int, kills: int, seed: int) -> None:
    """Play it once. Fails with what is missing or too much."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            Homeserver() as homeserver,
            stack(Path(folder), homeserver, limits=Limits(factor=0)) as place,
        ):
            await place.daemon.start()
            await live_without_the_relay(place, "help", messages=50, edits=0, deletions=0, seed=seed)
            await place.until_discord("help", lambda words: len(words) == 100)
            await place.until_matrix("help", lambda words: len(words) == 100)
            await place.daemon.stop()
            expected = await live_without_the_relay(
                place, "help", messages=messages, edits=edits, deletions=deletions, seed=seed + 1
            )
            started = time.monotonic()
            await start_and_kill(
                place,
                "help",
                kills,
                random.Random(seed + 2),
                step=max(1, messages * 2 // (kills + 1)),
                total=len(expected.on_matrix),
            )
            await converge(place, "help", expected, patience=900)
            seconds = time.monotonic() - started
    print(f"{messages} messages, {edits} edits, {deletions} deletions on each side, {kills} kills in the catch-up")
    print(f"there once, in order, edited and deleted: yes; after {seconds:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--deletions", type=int, default=50)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    asyncio.run(main(options.messages, options.edits, options.deletions, options.kills, options.seed))
