"""`python -m tests.chaos.total FOLDER…`: the figures of several runs, each given by its folder, added up."""

import argparse
import sys
from pathlib import Path

from tests.chaos.outcome import Outcome, total


def main(arguments: list[str]) -> int:
    """The exit status: 0 if every run kept the promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.total", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    folders = parser.parse_args(arguments).folders
    outcomes = [Outcome.load(folder / "outcome.json") for folder in folders]
    broken = [str(folder) for folder, outcome in zip(folders, outcomes, strict=True) if not outcome.kept]
    whole = total(outcomes)
    print(
        f"{len(outcomes)} runs, broken: {', '.join(broken) or 'none'}; {whole.seconds / 60:.0f} min one after the other"
    )
    print("\n".join(whole.lines()))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
