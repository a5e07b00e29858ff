"""Names that mean harm: `python -m tests.name_fuzz --names 100000`. Prints those that become unsafe, and exits 1."""

import argparse
import random
import sys

from tests.support.names import unsafe_names


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m tests.name_fuzz", description=__doc__)
    parser.add_argument("--names", type=int, default=100_000, help="how many (100000)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    found = unsafe_names(arguments.names, arguments.seed)
    print(f"seed {arguments.seed}, {arguments.names:,} names: {len(found)} unsafe", *found[:20], sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
