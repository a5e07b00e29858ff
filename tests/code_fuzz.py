"""Guessed, altered and stolen codes that would link two accounts: `python -m tests.code_fuzz --codes 100000`.

None may link anything, or make the relay say the code. Prints what did and exits 1.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.support.codes import guess


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m tests.code_fuzz", description=__doc__)
    parser.add_argument("--codes", type=int, default=100_000, help="how many (100000)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(guess(Path(folder), arguments.codes, arguments.seed))
    print(f"seed {arguments.seed}, {arguments.codes:,} guesses in {time.monotonic() - begun:.0f} s: {found or 'none'}")
    return 0 if found is None else 1


if __name__ == "__main__":
    sys.exit(main())
