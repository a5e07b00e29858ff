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

import sqlalchemy
import structlog
from sqlalchemy import event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from relay.errors import StoreError, StoreUnavailable
from relay.store.sqlite.driver import PipelineConnection, Step

BUSY_TIMEOUT = 5.0  # seconds that a statement waits for another process's transaction
READERS = 4

_log = structlog.get_logger(__name__)

_PRIVATE = 0o600
_OF_OTHERS = 0o077

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA journal_size_limit = 67108864",  # bytes: after a burst the log shrinks again
)


def database_path(url: str) -> Path:
    """The file that `url` (`sqlite:///relay.db`, `sqlite:////var/lib/relay/relay.db`) names.

    Raises `StoreError` for anything else.
    """
    try:
        parsed: URL = make_url(url)
    except ArgumentError as error:
        raise StoreError(url, "this is no database URL", "write it like sqlite:///relay.db") from error
    if parsed.get_backend_name() != "sqlite":
        raise StoreError(parsed.render_as_string(), "only SQLite is supported", "write it like sqlite:///relay.db")
    if not parsed.database or parsed.database.startswith((":memory:", "file:")):
        raise StoreError(url, "the store has to be a file", "write it like sqlite:///relay.db")
    return Path(parsed.database).absolute()


def connect(
    path: Path, *, create: bool = False, read_only: bool = False, busy_timeout: float = BUSY_TIMEOUT
) -> sqlite3.Connection:
    """A connection with our settings, in autocommit mode. May be used on any thread, one at a time.

    A file that is not there is made only with `create`: a store that vanishes under a running daemon must not come
    back empty.
    """
    if create:
        _make_private(path)
    mode = "rwc" if create else "rw"
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=busy_timeout,
        isolation_level=None,  # we say BEGIN ourselves: Python's own comes too late for reads that precede a write
        check_same_thread=False,
        cached_statements=256,
    )
    # One damaged word must not hide the rows that are read together with it.
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
    """See that nobody else on the machine may read the store, and say so where somebody could.

    It holds an access token, and what people wrote. Refuses nothing: an operator may have meant it.
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
            _log.warning("store_was_open_to_others", path=str(file), mode=mode, now="600")


def _make_private(path: Path) -> None:
    """Make the file if it is not there. SQLite gives its own files beside it the same mode."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
    except OSError:
        return  # it is there; or SQLite says better than we do why it cannot be made
    os.fchmod(descriptor, _PRIVATE)  # whatever the umask
    os.close(descriptor)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def begin_immediate(connection: sqlite3.Connection) -> None:
    """Take the write lock at once: two readers that both went on to write would lose an update."""
    connection.execute("BEGIN IMMEDIATE")


def begin_snapshot(connection: sqlite3.Connection) -> None:
    """A read transaction: all its statements see one state."""
    connection.execute("BEGIN")


def writer_engine(path: Path, first_steps: Callable[[], tuple[Step, ...]], busy_timeout: float) -> AsyncEngine:
    """An engine of one connection; `first_steps` begin each of its transactions."""
    return _engine(path, lambda: connect(path, busy_timeout=busy_timeout), first_steps=first_steps, read_only=False)


def reader_engine(path: Path, busy_timeout: float) -> AsyncEngine:
    """An engine of a few connections that cannot write."""
    return _engine(
        path,
        lambda: connect(path, read_only=True, busy_timeout=busy_timeout),
        first_steps=lambda: (begin_snapshot,),
        read_only=True,
    )


def _engine(
    path: Path,
    opener: Callable[[], sqlite3.Connection],
    *,
    first_steps: Callable[[], tuple[Step, ...]],
    read_only: bool,
) -> AsyncEngine:
    def open_connection() -> PipelineConnection:
        return PipelineConnection(opener, first_steps, read_only=read_only)

    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        async_creator=open_connection,
        pool_size=READERS if read_only else 1,
        max_overflow=0,
        pool_timeout=60,
        hide_parameters=True,  # they are what people wrote
    )

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: sqlalchemy.Connection) -> None:
        driver = connection.connection.driver_connection
        if isinstance(driver, PipelineConnection):
            driver.begin()

    return engine


async def driver_of(connection: AsyncConnection) -> PipelineConnection:
    """The aiosqlite connection under SQLAlchemy's."""
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    if not isinstance(driver, PipelineConnection):
        raise TypeError(f"{driver!r} was not opened by this engine")
    return driver


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
