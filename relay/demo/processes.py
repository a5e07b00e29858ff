"""Child processes and a directory that do not outlive this process, however it ends.

Each reads from a pipe whose other end only this process holds. When that end is closed, on purpose or because this
process was killed, the child is killed and the directory removed.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_TERMINATE = b"t"

# Runs its arguments as a process. A byte on the standard input is SIGTERM, the end of it SIGKILL.
_SUPERVISOR = """
import os, signal, subprocess, sys, threading

child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)

def watch():
    while os.read(0, 1):
        child.terminate()
    os.killpg(child.pid, signal.SIGKILL)

threading.Thread(target=watch, daemon=True).start()
status = child.wait()
sys.exit(status if status >= 0 else 128 - status)
"""

# Removes a directory at the end of its standard input; again and again, while dying processes still write there.
_CLEANER = """
import os, shutil, sys, time

print(flush=True)
while os.read(0, 1):
    pass
until = time.monotonic() + 10
while os.path.lexists(sys.argv[1]) and time.monotonic() < until:
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    time.sleep(0.02)
"""


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """A directory that is removed at the end of the block, and also when this process is killed."""
    # The directory is made only once the process that will remove it runs.
    path = Path(tempfile.gettempdir()) / f"relay-demo-{os.getpid()}-{os.urandom(4).hex()}"
    command = [sys.executable, "-I", "-S", "-c", _CLEANER, str(path)]
    with subprocess.Popen(  # noqa: S603 - our own program and arguments
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as sweeper:
        if sweeper.stdout is None or not sweeper.stdout.read(1):
            raise RuntimeError("the process that would clean up did not start")
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


class ChildProcess:
    """A process that ends with this one. Its output goes to the file `log`, its working directory is `directory`."""

    def __init__(self, command: Sequence[str], *, log: Path, directory: Path, environ: Mapping[str, str]) -> None:
        self._command = list(command)
        self._log = log
        self._directory = directory
        self._environ = dict(environ)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program and arguments
                [sys.executable, "-I", "-S", "-c", _SUPERVISOR, *self._command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env=self._environ,
                start_new_session=True,
            )

    @property
    def exit_status(self) -> int | None:
        """None while it runs; 128 and the signal's number where a signal ended it."""
        return None if self._process is None else self._process.poll()

    async def stop(self, grace: float) -> int | None:
        """SIGTERM, and SIGKILL `grace` seconds later; its exit status, None if it never ran."""
        process = self._process
        if process is None or process.stdin is None:
            return None
        if process.stdin.closed:
            return await asyncio.to_thread(process.wait)
        with suppress(BrokenPipeError):
            process.stdin.write(_TERMINATE)
            process.stdin.flush()
        try:
            await asyncio.to_thread(process.wait, grace)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()
        return await asyncio.to_thread(process.wait)

    def last_lines(self, count: int) -> str:
        """The end of what it wrote."""
        with suppress(FileNotFoundError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-count:])
        return ""
