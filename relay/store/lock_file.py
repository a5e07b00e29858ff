"""The file beside the store that its holder keeps locked: the kernel knows whether the holder lives, no clock has to.

https://man7.org/linux/man-pages/man2/flock.2.html: the lock ends with the process, holds across containers that share
the directory, and costs no write. For processes on other machines the holder sets the file's time now and then.
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

_log = structlog.get_logger(__name__)

_MODE = 0o600
_UNSUPPORTED = frozenset((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL))


class LockFile:
    """The lock of one store, seen from one process. `close` gives it back."""

    def __init__(self, store: Path) -> None:
        self.path = store.with_name(f"{store.name}-lock")
        self._open: int | None = None
        self._works = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def take(self) -> bool:
        """Lock the file, if no other process of this machine has; True also when it is ours already.

        Where the file system knows no locks, everybody gets it: then only `beat` tells. Raises `OSError`.
        """
        if self._open is not None:
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        with suppress(OSError):
            os.fchmod(descriptor, _MODE)  # whatever the umask
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                os.close(descriptor)
                raise
            _log.warning("lock_not_supported", path=str(self.path), reason=error.strerror)
            self._works = False
        self._open = descriptor
        return True

    def sign(self, token: str) -> None:
        """Write down which holder of the store locks the file. Raises `OSError`."""
        if self._open is not None and self._works:
            os.ftruncate(self._open, 0)
            os.pwrite(self._open, token.encode(), 0)

    def signed_by(self, token: str) -> bool:
        """Whether that holder of the store locked the file: where it is not locked any more, that one has ended."""
        if not self._works:
            return False
        try:
            return self.path.read_text(encoding="utf-8", errors="replace") == token
        except OSError:
            return False

    def beat(self, token: str) -> None:
        """Show that the holder is there; make the file again if somebody removed it. Raises `OSError`."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            self.close()
        # Also where the beat before made the file, and somebody who only looked at it had the lock just then.
        if self._open is None and self.take():
            self.sign(token)

    def last_beat(self) -> int:
        """Changes with each `beat`."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0

    def is_taken(self) -> bool:
        """Whether another process of this machine has the lock; False where that cannot be seen."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            # Shared: two who ask do not disturb each other.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return False

    def close(self) -> None:
        """Let go of it. The file stays: whoever removed it would let two processes lock two files of one name."""
        if self._open is not None:
            with suppress(OSError):
                os.close(self._open)
            self._open = None
