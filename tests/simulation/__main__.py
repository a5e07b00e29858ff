"""`python -m tests.simulation --seeds 2000 --from 0`: play histories, and print the ones that break the promise.

`--trace SEED` plays one and prints everything that happened in it. `--postgresql`: the store is on a real server, and
what a server and the network do to it happens, too.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from tests.simulation.history import Report
from tests.simulation.runner import hush, play, play_on_own_server, workshop

_CHUNK = 25


def main(arguments: list[str]) -> int:
    """The exit status: 0 if every history kept the promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2000, help="how many histories")
    parser.add_argument("--from", type=int, default=0, dest="start", help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--trace", type=int, metavar="SEED", help="play one history and print what happened")
    parser.add_argument("--postgresql", action="store_true", help="the store is on PostgreSQL")
    options = parser.parse_args(arguments)
    with workshop() as template:
        play_one = play_on_own_server if options.postgresql else partial(play, template=template)
        if options.trace is not None:
            hush()
            return _print_one(play_one(options.trace))
        return _play_many(range(options.start, options.start + options.seeds), options.jobs, play_one)


def _play_many(seeds: range, jobs: int, play_one: Callable[[int], Report]) -> int:
    started = time.monotonic()
    broken: list[Report] = []
    messages = kills = played = 0
    troubles: Counter[str] = Counter()
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=hush, maxtasksperchild=40) as pool:
        for report in pool.imap_unordered(play_one, seeds, chunksize=_CHUNK):
            played += 1
            messages += report.messages
            kills += report.kills
            troubles.update(report.troubles)
            if report.violations:
                broken.append(report)
                print(f"seed {report.seed}: {'; '.join(report.violations)}", flush=True)
            if played % 1000 == 0:
                print(f"{played} of {len(seeds)} played, {len(broken)} broken", file=sys.stderr, flush=True)
    minutes = (time.monotonic() - started) / 60
    print(f"histories {played}, broken {len(broken)}, {played / minutes:.0f} a minute")
    print(
        f"messages {messages}, kills {kills}, " + ", ".join(f"{what} {count}" for what, count in troubles.most_common())
    )
    return 1 if broken else 0


def _print_one(report: Report) -> int:
    print("\n".join(report.trace))
    for violation in report.violations:
        print(f"BROKEN  {violation}")
    print(f"seed {report.seed}: {'broken' if report.violations else 'kept'}")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
