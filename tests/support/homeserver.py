"""The demo's homeserver for tests, as a fork of a process that has loaded Synapse.

`tests/contract/test_homeserver.py` and the demo's tests start the real one.
"""

import atexit
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from relay.demo.homeserver import Homeserver, Process
from tests.support.preloaded import Fork, Forks


class ForkedHomeserver(Homeserver):
    """A homeserver that starts in a quarter of the time."""

    def _spawn(self, configuration: Path, log: IO[bytes]) -> Process:
        return _Process(_forks().start(["-c", str(configuration)], log, log, self.directory, {**os.environ}))


@cache
def _forks() -> Forks:
    """The process that forks, from the first homeserver on."""
    made = Forks("synapse")
    atexit.register(made.end)
    return made


@dataclass(frozen=True, slots=True)
class _Process:
    fork: Fork
    # It ends with the process that forks, and that with this one.
    stdin: None = None

    @property
    def pid(self) -> int:
        return self.fork.pid

    def poll(self) -> int | None:
        return self.fork.returncode

    def wait(self, timeout: float | None = None) -> int:
        return self.fork.wait_in_thread(timeout)

    def send_signal(self, number: int, /) -> None:
        self.fork.send_signal(number)
