"""Random histories of relays that agree on who mirrors what: `python -m tests.claims_fuzz --histories 10000`.

Prints those in which something is mirrored twice, or by nobody, and exits 1; `--trace SEED` prints what happens in one.
"""

import argparse
import logging
import multiprocessing
import os
import random
import sys
import time

from tests.support.claim_histories import play_history


def play_one(seed: int) -> tuple[int, str]:
    """The seed, and what is wrong."""
    logging.disable()
    return seed, play_history(seed)[0]


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m tests.claims_fuzz", description=__doc__)
    parser.add_argument("--histories", type=int, default=1_000, help="how many (1000)")
    parser.add_argument("--from", type=int, default=random.randrange(2**32), dest="start", help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--trace", type=int, metavar="SEED", help="play one, and print what happens")
    arguments = parser.parse_args()
    if arguments.trace is not None:
        wrong, story = play_history(arguments.trace)
        print(*story, wrong or "nothing is wrong", sep="\n")
        return 1 if wrong else 0
    begun, broken = time.monotonic(), 0
    seeds = range(arguments.start, arguments.start + arguments.histories)
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        for played, (seed, wrong) in enumerate(pool.imap_unordered(play_one, seeds, chunksize=20)):
            if played % 500 == 0:
                print(f"{played} played, {broken} broken", file=sys.stderr, flush=True)
            if wrong:
                broken += 1
                print(f"seed {seed}: {wrong}", flush=True)
    print(f"from seed {arguments.start}, {len(seeds):,} histories in {time.monotonic() - begun:.0f} s: {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
