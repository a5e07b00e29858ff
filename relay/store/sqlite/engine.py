"""How the database file is opened, and what its errors mean for the operator.

`synchronous=FULL`: a commit is on the disk when it returns; see CONTRIBUTING, "Decisions".
"""

import asyncio
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError

from relay.errors import StoreError, StoreUnavailable
from relay.logs import get_logger
from relay.store.sqlite.driver import PipelineConnection, Step, settled
from relay.store.sqlite.replacing import before_opening

BUSY_TIMEOUT = 5.0  # seconds that a statement waits for the transaction of another process
READERS = 4

_log = get_logger(__name__)

_PRIVATE = 0o600
_OF_OTHERS = 0o077

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA journal_size_limit = 67108864",  # bytes: the log shrinks again after a burst
)


def database_path(url: str) -> Path:
    """The file that `url` (`sqlite:///relay.db`, `sqlite:////var/lib/relay/relay.db`) names.

    Raises `StoreError` for anything else.
    """
    try:
        parsed: URL = make_url(url)
    except ArgumentError as error:
        raise StoreError(url, "this is not a database URL", "write it like sqlite:///relay.db") from error
    if parsed.get_backend_name() != "sqlite":
        raise StoreError(parsed.render_as_string(), "only SQLite is supported", "write it like sqlite:///relay.db")
    if not parsed.database or parsed.database.startswith((":memory:", "file:")):
        raise StoreError(url, "the store must be a file", "write it like sqlite:///relay.db")
    return Path(parsed.database).absolute()


def connect(
    path: Path, *, create: bool = False, read_only: bool = False, busy_timeout: float = BUSY_TIMEOUT
) -> sqlite3.Connection:
    """A connection with our settings, in autocommit mode. Any thread may use it, but only one at a time.

    A missing file is created only with `create`: if the store disappears while the daemon runs, it must not come back
    empty.
    """
    before_opening(path)
    if create:
        _make_private(path)
    mode = "rwc" if create else "rw"
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=busy_timeout,
        isolation_level=None,  # we send BEGIN ourselves: Python's comes too late for reads before a write
        check_same_thread=False,
        cached_statements=256,
    )
    # One damaged text must not make the other rows of a result unreadable.
    connection.text_factory = _text
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def keep_private(path: Path) -> None:
    """Make the store unreadable for other users of the machine, and log a warning where it was not.

    It holds an access token and people's messages. Nothing is refused: the operator may have opened it on purpose.
    """
    for suffix in ("", "-wal", "-shm", "-journal", "-lock"):
        file = path.with_name(f"{path.name}{suffix}")
        try:
            status = file.stat()
        except OSError:
            continue
        if not status.st_mode & _OF_OTHERS:
            continue
        mode = f"{stat.S_IMODE(status.st_mode):o}"
        try:
            if status.st_uid != os.geteuid():
                raise PermissionError(f"the file belongs to user {status.st_uid}")
            file.chmod(status.st_mode & stat.S_IRWXU)
        except OSError as error:
            _log.warning(
                "store_open_to_others", path=str(file), mode=mode, remedy=f"chmod 600 {file}", reason=str(error)
            )
        else:
            _log.warning("the store was open to others", path=str(file), mode=mode, now="600")


def _make_private(path: Path) -> None:
    """Create the file if it is missing. SQLite gives its own files beside it the same mode."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
    except OSError:
        return  # it exists; or SQLite reports better than we do why it cannot be created
    os.fchmod(descriptor, _PRIVATE)  # whatever the umask
    os.close(descriptor)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def begin_immediate(connection: sqlite3.Connection) -> None:
    """Take the write lock at once: two transactions that read first and write later would lose an update."""
    connection.execute("BEGIN IMMEDIATE")


def begin_snapshot(connection: sqlite3.Connection) -> None:
    """Begin a read transaction: all of its statements see the same state."""
    connection.execute("BEGIN")


async def opened(
    path: Path, first_steps: Callable[[], tuple[Step, ...]], *, read_only: bool, busy_timeout: float
) -> PipelineConnection:
    """A connection to the file; `first_steps` begin each of its transactions. Raises `StoreError`."""

    def open_file() -> sqlite3.Connection:
        return connect(path, read_only=read_only, busy_timeout=busy_timeout)

    with translated(path):
        connection = PipelineConnection(open_file, first_steps, read_only=read_only)
        try:
            await settled(asyncio.create_task(_opening(connection), name="open the store"))
        except BaseException:
            await connection.end()
            raise
        return connection


async def _opening(connection: PipelineConnection) -> None:
    await connection


_ACCESS = "give the relay's user read and write access to the file and its directory, or run this as that user"
# https://www.sqlite.org/rescode.html: by primary result code, which extended codes begin with.
_REASONS = {
    "SQLITE_FULL": ("the disk is full", "free some space; a relay that still runs then continues by itself"),
    "SQLITE_BUSY": ("it is locked by another process", "stop that process (a backup? an sqlite3 shell?)"),
    "SQLITE_LOCKED": ("it is locked", "stop whatever else uses it"),
    "SQLITE_READONLY": ("it cannot be written", _ACCESS),
    "SQLITE_PERM": ("access was refused", _ACCESS),
    "SQLITE_AUTH": ("access was refused", _ACCESS),
    "SQLITE_CANTOPEN": (
        "it cannot be opened",
        "make sure that its directory exists and that the relay's user can write there, or run this as that user",
    ),
    "SQLITE_CORRUPT": (
        "the file is damaged",
        "stop the relay, then restore a backup or try `sqlite3 FILE .recover`; keep the damaged file",
    ),
    "SQLITE_NOTADB": ("it is not a store", "set another file in [store] url, or move this one away"),
    "SQLITE_IOERR": ("the disk reports an error", "check the system's log and the disk"),
    "SQLITE_NOMEM": ("there is no memory left", "give the relay more memory"),
    "SQLITE_PROTOCOL": ("its lock files do not work", "put it on a local disk: network file systems are not supported"),
}
_OTHER = ("it does not answer", "check the disk and the system's log")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the errors of SQLite and SQLAlchemy in the block into `StoreError`s that name `path`.

    A violated constraint is a bug of the program, not a problem of the disk: it is raised unchanged. An error while a
    cancelled statement is cleaned up becomes the cancellation again: otherwise its task would go on for ever.
    """
    try:
        yield
    except (IntegrityError, sqlite3.IntegrityError):
        raise
    except (DBAPIError, sqlite3.Error, OSError) as error:
        if _was_cancelled(error):
            raise asyncio.CancelledError from error
        if isinstance(error, OSError):
            remedy = _ACCESS if isinstance(error, PermissionError) else _OTHER[1]
            raise StoreUnavailable(path, error.strerror or str(error), remedy) from error
        orig = error.orig if isinstance(error, DBAPIError) else error
        raise failure(path, orig if isinstance(orig, sqlite3.Error) else error) from error


def _was_cancelled(error: BaseException) -> bool:
    """Whether `error` was raised while a cancellation was handled."""
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
    if primary == "SQLITE_CANTOPEN" and os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where it may not look
        reason, remedy = "it is a directory", "name a file in it, in [store] url"
    return StoreUnavailable(path, f"{reason} ({message})", remedy)
