"""`python -m relay` for tests, as a fork of a process that has loaded the daemon's modules: nine tenths of a start.

In every other way it is a process of its own: it has its own environment, files, signals and exit status, and runs
`relay/__main__.py` to the interpreter's end. `tests/e2e/test_imports.py` starts the real one and holds what it loads;
so do the demo, the chaos of one process and the benchmarks. What an interpreter reads only when it starts gets a real
one, too.

Synapse starts the same way (`tests/support/homeserver.py`): three quarters of its start are imports, too.

The forks do not outlive the process that asked for them, in whatever way it ends.
"""

import asyncio
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import IO, Any, Protocol

from tests.support.patience import PATIENCE

LOADED, READING = ("relay.cli.run", "relay.app"), ("relay.config.loading", "tomllib")
"""What the process that forks has loaded, with all that they load: what a daemon does, and what reads for it."""

_BLOCKED = (signal.SIGTERM, signal.SIGHUP)

_AT_THE_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_")
"""Beginnings of environment variables that are read when an interpreter starts."""


class Process(Protocol):
    """What tests need of a process; `asyncio.subprocess.Process` has it."""

    @property
    def pid(self) -> int:
        """Its process ID."""

    @property
    def returncode(self) -> int | None:
        """Its exit status, or the number of the signal that ended it, negative; None while it runs."""

    def send_signal(self, signal: int) -> None:
        """Nothing if it has ended."""

    async def wait(self) -> int:
        """Until it has ended; its `returncode`."""


async def start(
    *arguments: str,
    output: IO[bytes],
    errors: IO[bytes] | None = None,
    folder: Path | None = None,
    checkout: Path | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Process:
    """`python -m relay` with these arguments, in a folder. What it prints goes into `output`, or `errors`.

    `checkout`: where the relay is imported from; None: this one. `environment`: what it has besides ours.
    """
    whole = {**os.environ, **environment}
    forks = Forks.of_this_process
    if forks is None or checkout is not None or _at_the_start(whole) != forks.environment:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", *arguments),
            stdout=output,
            stderr=errors or output,
            cwd=folder or checkout,
            env=whole,
        )
    return forks.start(arguments, output, errors or output, folder or Path.cwd(), whole)


async def run(*arguments: str, folder: Path | None = None) -> tuple[int, str, str]:
    """The same, until it has ended; its exit status, output and errors."""
    with TemporaryFile() as output, TemporaryFile() as errors:
        process = await start(*arguments, output=output, errors=errors, folder=folder)
        async with asyncio.timeout(PATIENCE):
            status = await process.wait()
        for file in (output, errors):
            file.seek(0)
        return status, output.read().decode(), errors.read().decode()


@contextmanager
def preloaded() -> Iterator["Forks"]:
    """While it lasts, `start` forks."""
    Forks.of_this_process = forks = Forks()
    try:
        yield forks
    finally:
        Forks.of_this_process = None
        forks.end()


def _at_the_start(environment: Any) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_AT_THE_START)}


class Forks:
    """The process that forks, seen from the one that asks for it."""

    of_this_process: "Forks | None" = None

    def __init__(self, program: str = "main") -> None:
        """`program`: the function of this module that the process runs."""
        self.environment = _at_the_start(os.environ)
        self._forks: list[Fork] = []
        self._asked, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from tests.support.preloaded import {program}; {program}()"],
                cwd=Path(__file__).parents[2],
                stdin=theirs.fileno(),
            )

    def start(
        self,
        arguments: Sequence[str],
        output: IO[bytes],
        errors: IO[bytes],
        folder: Path,
        environment: Mapping[str, str],
    ) -> "Fork":
        told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        wanted = {"arguments": list(arguments), "environment": environment, "folder": str(folder)}
        with theirs:
            files = [output.fileno(), errors.fileno(), theirs.fileno()]
            socket.send_fds(self._asked, [json.dumps(wanted).encode()], files)
        fork = Fork(told)
        self._forks.append(fork)
        return fork

    def running(self) -> Sequence[Process]:
        """Those that have not ended."""
        self._forks = [fork for fork in self._forks if fork.returncode is None]
        return self._forks

    def end(self) -> None:
        """End it, and all forks."""
        self._asked.close()
        self._process.wait()


class Fork:
    """A fork, seen from who asked for it."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told
        self.pid = int(told.recv(64))
        self._returncode: int | None = None
        # One thread may look while another one waits.
        self._reading = threading.Lock()
        told.setblocking(False)

    @property
    def returncode(self) -> int | None:
        with self._reading:
            if self._returncode is None:
                with contextlib.suppress(BlockingIOError):
                    self._returncode = int(self._told.recv(64))
                    self._told.close()
            return self._returncode

    def send_signal(self, signal: int) -> None:
        if self.returncode is None:
            # It is reaped only after its end was told.
            os.kill(self.pid, signal)

    async def wait(self) -> int:
        while (status := self.returncode) is None:
            loop, over = asyncio.get_running_loop(), asyncio.Event()
            # A number of its own: several may wait.
            watched = os.dup(self._told.fileno())
            loop.add_reader(watched, over.set)
            try:
                await over.wait()
            finally:
                loop.remove_reader(watched)
                os.close(watched)
        return status

    def wait_in_thread(self, timeout: float | None) -> int:
        """The same without a loop. Raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.returncode) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired("fork", timeout or 0)
            with contextlib.suppress(ValueError):  # it was closed in between: the status is there
                select.select([self._told], [], [], left)
        return status


# --- The process that forks ---------------------------------------------------------------------------------------


def main() -> None:
    """Load the relay's modules, and be the relay in each fork."""
    for name in (*LOADED, *READING):
        __import__(name)
    wanted = _fork_on_demand()
    if wanted is not None:
        _take_on("relay", wanted)
        runpy.run_module("relay", run_name="__main__", alter_sys=True)


def synapse() -> None:
    """Load Synapse's modules, and be Synapse in each fork."""
    from synapse.app import homeserver
    from twisted.internet import reactor

    wanted = _fork_on_demand()
    if wanted is not None:
        # Made anew: it was made when it was imported, and all forks would share what it waits with.
        reactor.__init__()  # type: ignore[misc]
        _take_on("synapse", wanted)
        homeserver.main()


def _fork_on_demand() -> dict[str, Any] | None:
    """Fork whenever it is asked for, until nobody can ask any more. In a fork: what it is to do. None at the end."""
    # What is loaded stays. Else the collector of each fork looks through all of it, most of it when the fork ends, and
    # copies the memory that it looks at: 0.4 s of a processor, three times what a short command takes.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends who asks
    # So does whoever ends all of its group: the forks, which have groups of their own, have to be ended from here then.
    signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    return _serve(socket.socket(fileno=os.dup(0)))


def _serve(asked: socket.socket) -> dict[str, Any] | None:
    """In a fork: what it is to do. None at the end."""
    running: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor of the process: its ID, and who is told
    while True:
        ready, _, _ = select.select([asked.fileno(), *running], [], [])
        for each in ready:
            if each in running:
                _tell(*running.pop(each))
                os.close(each)
        if asked.fileno() not in ready:
            continue
        message, files, _, _ = socket.recv_fds(asked, 1 << 20, 3)
        if not message:
            for process, _ in running.values():
                os.kill(process, signal.SIGKILL)
            return None
        output, errors, report = files
        process = os.fork()
        # By both, so that whoever is told of it finds its group.
        with contextlib.suppress(OSError):
            os.setpgid(process, process)
        if process == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)  # what has come since the fork counts
            for descriptor in (*running, report):
                os.close(descriptor)
            for _, told in running.values():
                told.close()
            asked.close()
            os.dup2(output, 1)
            os.dup2(errors, 2)
            os.close(output)
            os.close(errors)
            wanted: dict[str, Any] = json.loads(message)
            return wanted
        os.close(output)
        os.close(errors)
        told = socket.socket(fileno=report)
        told.send(str(process).encode())
        running[os.pidfd_open(process)] = (process, told)


def _tell(process: int, told: socket.socket) -> None:
    """Told before it is reaped: until then nobody else can get its ID."""
    status = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    assert status is not None
    with told, contextlib.suppress(OSError):  # who asked may be gone
        told.send(str(status.si_status if status.si_code == os.CLD_EXITED else -status.si_status).encode())
    os.waitpid(process, 0)


def _take_on(name: str, wanted: dict[str, Any]) -> None:
    """Have the arguments, the environment and the folder of the process that was asked for."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    time.tzset()
    sys.path[0] = wanted["folder"]  # as `-m` has it
    sys.argv = [name, *wanted["arguments"]]
