"""`python -m tests.support.killed_restores STORE BACKUP FOLDER`: restore, and be killed before each step in turn.

STORE's folder is copied for each try, to FOLDER/<the restore's step>-<the next opener's step>: the process that opens
the store next is killed, too. A step is whatever the interpreter tells of files: written, renamed, linked, removed, or
opened by SQLite. With `--no-links`, the disk knows no hard links. A process of its own, since it forks.
"""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from relay.store.backup import restore
from relay.store.sqlite.engine import connect

_STEPS = ("open", "os.rename", "os.link", "os.remove", "sqlite3.connect")
_DONE = 0


def _killed(work: Callable[[], object], folder: Path, at: int, *, links: bool) -> bool:
    """Whether a process that works is killed before its step number `at`; else it has finished."""
    pid = os.fork()
    if pid:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status not in (_DONE, -signal.SIGKILL):
            raise RuntimeError(f"the restore ended with status {status}")
        return status != _DONE
    steps = 0

    def count(event: str, arguments: Sequence[Any]) -> None:
        nonlocal steps
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY):
            return
        if event in _STEPS and str(folder) in str(arguments[:2]):
            steps += 1
            if steps == at:
                os.kill(os.getpid(), signal.SIGKILL)
            if event == "os.link" and not links:
                raise OSError(errno.EPERM, "no hard links")

    status = 1
    try:
        sys.addaudithook(count)
        work()
        status = _DONE
    finally:
        os._exit(status)


def _main(store: Path, backup: Path, folder: Path, *, links: bool) -> None:
    folder.mkdir()
    step, killed = 0, True
    while killed:
        step += 1
        tried = folder / f"{step}-0"
        _copy(store.parent, tried)
        there = tried / store.name
        killed = _killed(lambda there=there: restore(backup, there), tried, step, links=links)  # type: ignore[misc]
        then, again = 0, killed and there.with_name(f"{there.name}.replacement").exists()
        while again:
            then += 1
            next_tried = folder / f"{step}-{then}"
            _copy(tried, next_tried)
            opened = next_tried / store.name
            again = _killed(lambda opened=opened: _open(opened), next_tried, then, links=links)  # type: ignore[misc]


def _copy(folder: Path, to: Path) -> None:
    subprocess.run(["cp", "-a", folder, to], check=True)  # which keeps hard links


def _open(store: Path) -> None:
    with closing(connect(store, create=True)):
        pass


if __name__ == "__main__":
    _main(*map(Path, sys.argv[1:4]), links="--no-links" not in sys.argv)
