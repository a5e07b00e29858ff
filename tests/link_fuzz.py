"""Altered, expired and replayed links to files against the web server: `python -m tests.link_fuzz --links 100000`.

None may be served, and none may cost a request to a platform. Prints a bad one and exits 1, else counts the answers.
"""

import argparse
import asyncio
import logging
import random
import sys
import time
from collections import Counter

from relay.web import media
from relay.web.media import Rates
from tests.support.links import PNG, Asker, Files, bad_paths, serving, signed

_REFUSED = frozenset({400, 404, 410})


async def search(count: int, seed: int) -> int:
    """Ask for so many; 0 if none was served."""
    files = Files(a=PNG, b=PNG, c=PNG)
    answers: Counter[int] = Counter()
    begun = time.monotonic()
    async with serving(files) as served:
        url = served.url("/")
        asker = Asker(url.host or "", url.port or 0)
        paths = bad_paths(random.Random(seed), signed(), [files.ref(name) for name in files.files])
        for _ in range(count):
            path = next(paths)
            status = await asker.status(path, "relay.example.org")
            answers[status] += 1
            if status not in _REFUSED or files.opened:
                print(f"served with {status}: {path}")
                return 1
        good = await asker.status(served.path("a"))
        asker.close()
    print(f"{count:,} bad links in {time.monotonic() - begun:.0f} s: {dict(answers)}; a good one: {good}")
    return 0 if good == 200 else 1


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m tests.link_fuzz", description=__doc__)
    parser.add_argument("--links", type=int, default=100_000, help="how many (100000)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    logging.disable()  # aiohttp tells of each request that is none
    media.Rates = lambda: Rates(requests_burst=1e9, all_requests_burst=1e9)  # type: ignore[misc,assignment]
    return asyncio.run(search(arguments.links, arguments.seed))


if __name__ == "__main__":
    sys.exit(main())
