"""Every property of the tests, tried at random for as long as asked: `python -m tests.properties --minutes 10`.

The suite tries the same few examples each time. This takes new ones, round after round, until the time is up or one
fails: then it prints the example, the line that brings it back (`@reproduce_failure`), and exits 1.
`--only WORD` tries those whose name holds the word.
"""

import argparse
import sys
import time
from pathlib import Path

import pytest


class Search:
    """Runs what is a property again and again until `minutes` are over."""

    def __init__(self, minutes: float, only: str) -> None:
        self._end = time.monotonic() + minutes * 60
        self._only = only
        self.rounds = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out what is no property."""
        items[:] = [item for item in items if item.get_closest_marker("hypothesis") and self._only in item.nodeid]

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Rounds of all of them, instead of one."""
        while time.monotonic() < self._end and session.items:
            self.rounds += 1
            for item in session.items:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                if session.testsfailed:
                    return True
                if time.monotonic() >= self._end:
                    break
        return True


def main() -> int:
    """Search; 0 if every example held, 1 if one did not or there was no property at all."""
    parser = argparse.ArgumentParser(prog="python -m tests.properties", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long (10)")
    parser.add_argument("--only", default="", metavar="WORD", help="only those whose name holds this")
    arguments = parser.parse_args()
    search = Search(arguments.minutes, arguments.only)
    tests = str(Path(__file__).parent / "unit")
    options = ["-q", "--no-header", "-p", "no:randomly", "-p", "no:cacheprovider", "-o", "console_output_style=classic"]
    status = pytest.main([tests, "--hypothesis-profile=search", *options], plugins=[search])
    print(f"{search.rounds} rounds")
    return 0 if status == pytest.ExitCode.OK and search.rounds else 1


if __name__ == "__main__":
    sys.exit(main())
