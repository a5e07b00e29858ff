"""The lock file beside the store. Its holder keeps it locked, so the kernel knows whether the holder is alive.

https://man7.org/linux/man-pages/man2/flock.2.html: the lock ends with the process, works between containers that share
the directory, and costs no write. For processes on other machines the holder also updates the file's time.
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from relay.logs import get_logger

_log = get_logger(__name__)

_MODE = 0o600
_LONGEST = 200
_UNSUPPORTED = frozenset((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL))


class LockFile:
    """The lock of one store, as one process sees it. `close` releases it."""

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
        """Lock the file, unless another process of this machine has locked it. True if the lock is ours.

        On a file system without locks every process gets True: then only `beat` shows who is alive. Raises `OSError`.
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
            _log.warning("the lock file is not supported here", path=str(self.path), reason=error.strerror)
            self._works = False
        self._open = descriptor
        return True

    def sign(self, token: str) -> None:
        """Write the token of the store's holder into the locked file. Raises `OSError`."""
        if self._open is not None and self._works:
            os.ftruncate(self._open, 0)
            os.pwrite(self._open, token.encode(), 0)

    def signed_by(self, token: str) -> bool:
        """Whether this holder locked the file. If so, and the file is not locked now, the holder has ended."""
        if not self._works:
            return False
        return self.signature() == token

    def signature(self) -> str:
        """What the last one that signed it has written there."""
        try:
            return self.path.read_text(encoding="utf-8", errors="replace")[:_LONGEST]
        except OSError:
            return ""

    def beat(self, token: str) -> None:
        """Show that the holder is alive. Create the file again if somebody removed it. Raises `OSError`."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            self.close()
        # Also if the last beat created the file, but another process held the lock for a moment to look at it.
        if self._open is None and self.take():
            self.sign(token)

    def last_beat(self) -> int:
        """A number that changes with each `beat`."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0

    def is_taken(self) -> bool:
        """Whether another process of this machine holds the lock. False if that cannot be found out."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            # A shared lock, so that two processes that ask do not disturb each other.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return False

    def close(self) -> None:
        """Release the lock. The file stays: if it were removed, two processes could lock two files of the same name."""
        if self._open is not None:
            with suppress(OSError):
                os.close(self._open)
            self._open = None
