"""The daemon's way to its configuration: a child process reads it, and ends. The 10 MiB of pydantic end with it.

At the start the child is a fork, which reads while the daemon imports its libraries. Later the daemon has threads and
must not fork: the child is a new interpreter. What was read, secrets too, comes through a pipe and is nowhere else.
"""

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, cast

from relay import errors
from relay.config import settings
from relay.config.settings import HOST_VARIABLE, Settings
from relay.errors import ConfigurationError, ConfigurationUnread, Mistake, reason_of

if TYPE_CHECKING:
    from relay.config.tenants import Host

_FORM = blake2b(b"".join(Path(str(one.__file__)).read_bytes() for one in (settings, errors)), digest_size=16).digest()
"""Comes first in an answer. A relay that was installed while the daemon runs may have other settings."""

_SECONDS = 60
"""A running daemon waits for so long: a secret may be in a pipe that nobody writes into."""

_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
_AGAIN = "start the relay again"
_PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from relay.config.child import main; main(sys.argv[1])"


@dataclass(frozen=True, slots=True)
class Reading:
    """A child that has begun to read."""

    path: Path
    process: int
    pipe: int

    def result(self) -> "Settings | Host":
        """What the file says, once it is read. Raises `ConfigurationError`."""
        with os.fdopen(self.pipe, "rb") as pipe:
            answer = pipe.read()
        status = 0
        with suppress(ChildProcessError):  # who started us may have told the system to forget children
            status = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        return _taken(self.path, answer, status)


def begin(path: Path) -> Reading:
    """Read the file and the environment in a fork. Only while there is one thread. Raises `ConfigurationError`."""
    daemon = os.getpid()
    pipe, answers = os.pipe()
    try:
        process = os.fork()
    except OSError as error:
        raise _not_started(path, error) from error
    if process == 0:
        try:
            os.close(pipe)
            # It ends with the daemon, also where it waits for a secret in a pipe that nobody writes into.
            if (prctl := getattr(ctypes.CDLL(None), "prctl", None)) is not None:
                prctl(_END_WITH_PARENT, signal.SIGKILL)
            if os.getppid() != daemon:
                os._exit(1)
            # What it has to say is its answer: in the log the two would write into each other's lines.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            with os.fdopen(answers, "wb") as stream:
                stream.write(_first_answer(path))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(answers)
    return Reading(path, process, pipe)


def read_again(path: Path) -> Settings:
    """Read the file and the environment in a new interpreter. Raises `ConfigurationError`."""
    # It inherits what this process has inherited (`--config /dev/fd/3`), and nothing that was opened since.
    command = [sys.executable, "-c", _PROGRAM, str(path), *sys.path]
    try:
        done = subprocess.run(command, check=False, capture_output=True, close_fds=False)  # noqa: S603
    except (OSError, ValueError) as error:
        raise _not_started(path, error) from error
    if done.returncode > 0:
        # Not its words, in which values may be.
        kind = done.stderr.decode(errors="replace").rstrip().rpartition("\n")[2].partition(":")[0]
        raise ConfigurationUnread(path, f"nothing reads it any more ({kind})", _AGAIN)
    return cast("Settings", _taken(path, done.stdout, done.returncode))


def main(path: str) -> None:
    """Write to standard output what `read_again` takes."""
    signal.alarm(_SECONDS)
    sys.stdout.buffer.write(_answer(partial(_load, Path(path))))
    sys.stdout.flush()


# --- What the child does ------------------------------------------------------------------------------------


def _first_answer(path: Path) -> bytes:
    try:
        return _answer(partial(_load_any, path))
    except Exception:  # noqa: BLE001 - the top of the process
        return _FORM + pickle.dumps(traceback.format_exc())


def _answer(read: "Callable[[], Settings | Host]") -> bytes:
    try:
        return _FORM + pickle.dumps(read())
    except ConfigurationError as error:
        return _FORM + pickle.dumps(error.mistakes)


def _load(path: Path) -> Settings:
    from relay.config.loading import load

    return load(path, os.environ)


def _load_any(path: Path) -> "Settings | Host":
    try:
        return _load(path)
    except ConfigurationError:
        from relay.config.tenants import load_host

        if os.environ.get(HOST_VARIABLE) or (host := load_host(path, os.environ)) is None:
            raise
        return host


# --- What the daemon makes of it ----------------------------------------------------------------------------


def _taken(path: Path, answer: bytes, status: int) -> "Settings | Host":
    if status == -signal.SIGALRM:
        what = f"reading it took more than {_SECONDS} seconds"
        raise ConfigurationUnread(path, what, "see which of the files that it names does not end")
    if status or not answer:
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise ConfigurationUnread(path, f"reading it ended early ({how})", "see whether there is enough memory")
    if not answer.startswith(_FORM):
        raise ConfigurationUnread(path, "another version of the relay was installed meanwhile", _AGAIN)
    found: Settings | Host | tuple[Mistake, ...] | str = pickle.loads(answer[len(_FORM) :])  # noqa: S301 - from ourselves
    if isinstance(found, tuple):
        raise ConfigurationError(found)
    if isinstance(found, str):
        raise RuntimeError(f"the configuration is not read:\n{found}")
    return found


def _not_started(path: Path, error: OSError | ValueError) -> ConfigurationUnread:
    reason = reason_of(error) if isinstance(error, OSError) else str(error)
    return ConfigurationUnread(path, f"no process can be started that reads it: {reason}", _AGAIN)
