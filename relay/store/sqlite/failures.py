"""SQLite's errors as the relay's, each with what the operator can do about it."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DBAPIError, IntegrityError

from relay.errors import StoreError, StoreUnavailable

# https://www.sqlite.org/rescode.html: by primary result code, which extended codes begin with.
_REASONS = {
    "SQLITE_FULL": ("the disk is full", "make room; the relay goes on by itself"),
    "SQLITE_BUSY": ("it is locked by another process", "end that process (a backup? an sqlite3 shell?)"),
    "SQLITE_LOCKED": ("it is locked", "end whatever else uses it"),
    "SQLITE_READONLY": ("it cannot be written", "let the relay's user write to the file and to its directory"),
    "SQLITE_PERM": ("access was refused", "let the relay's user read and write the file and its directory"),
    "SQLITE_AUTH": ("access was refused", "let the relay's user read and write the file and its directory"),
    "SQLITE_CANTOPEN": ("it cannot be opened", "see that its directory exists and the relay's user may write there"),
    "SQLITE_CORRUPT": (
        "the file is damaged",
        "stop the relay, then restore a backup or try `sqlite3 FILE .recover`; keep the damaged file",
    ),
    "SQLITE_NOTADB": ("it is not a store", "name another file in [store] url, or move this one away"),
    "SQLITE_IOERR": ("the disk reports an error", "look at the system's log and at the disk"),
    "SQLITE_NOMEM": ("there is no memory left", "give the relay more memory"),
    "SQLITE_PROTOCOL": ("its lock files are in disorder", "put it on a local disk: network file systems do not do"),
}
_OTHER = ("it does not answer", "look at the disk and at the system's log")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the errors of SQLite and SQLAlchemy in the block into `StoreError`s that name `path`.

    A violated constraint is a mistake of the program, not of the disk: it goes through unchanged. What went wrong
    while a cancelled statement was cleaned up does not hide that it was cancelled: its task would go on for ever.
    """
    try:
        yield
    except (IntegrityError, sqlite3.IntegrityError):
        raise
    except (DBAPIError, sqlite3.Error, OSError) as error:
        if _was_cancelled(error):
            raise asyncio.CancelledError from error
        if isinstance(error, OSError):
            raise StoreUnavailable(path, error.strerror or str(error), _OTHER[1]) from error
        orig = error.orig if isinstance(error, DBAPIError) else error
        raise failure(path, orig if isinstance(orig, sqlite3.Error) else error) from error


def _was_cancelled(error: BaseException) -> bool:
    """Whether `error` came up while a cancellation was handled."""
    earlier = error.__context__
    return earlier is not None and (isinstance(earlier, asyncio.CancelledError) or _was_cancelled(earlier))


def failure(path: Path, error: BaseException) -> StoreError:
    """What `error` means for the operator."""
    message = str(error)
    if "no such table" in message or "no such column" in message:
        return StoreError(path, "its tables are missing or outdated", "run `relay db upgrade`")
    name = getattr(error, "sqlite_errorname", "") or ""
    primary = next((code for code in _REASONS if name == code or name.startswith(f"{code}_")), "")
    reason, remedy = _REASONS.get(primary, _OTHER)
    return StoreUnavailable(path, f"{reason} ({message})", remedy)
