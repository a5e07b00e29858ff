"""The store: transactions and their repositories."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from relay.errors import StoreError, StoreUnavailable
from relay.store.cursors import SqlCursors
from relay.store.driver import PipelineConnection, Step, settled
from relay.store.engine import BUSY_TIMEOUT, begin_immediate, database_path, driver_of, reader_engine, writer_engine
from relay.store.failures import translated
from relay.store.holder import SqlLeases
from relay.store.message_map import SqlMessageMap
from relay.store.notebook import SqlNotebook, SqlNotices
from relay.store.outbox import SqlOutbox
from relay.store.session import EntryNumbers, Session
from relay.store.tables import store as store_table

_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A connection, and what is under it."""

    connection: AsyncConnection
    driver: PipelineConnection


class SqlUnitOfWork:
    """`core.ports.UnitOfWork` on one connection."""

    def __init__(self, session: Session) -> None:
        self.messages = SqlMessageMap(session)
        self.outbox = SqlOutbox(session)
        self.cursors = SqlCursors(session)
        self.notices = SqlNotices(session)
        self.notebook = SqlNotebook(session)
        self.leases = SqlLeases(session)


class SqlStore:
    """`core.ports.Store` on one SQLite file: one connection that writes, a few that read.

    Made by `open_store`, ended by `close`.
    """

    def __init__(self, path: Path, busy_timeout: float = BUSY_TIMEOUT) -> None:
        self.path = path
        self._id = ""
        self._fence: Step | None = None
        self._numbers = EntryNumbers()
        self._writing = asyncio.Lock()
        self._writer: _Opened | None = None
        self._writer_engine = writer_engine(path, self._first_steps, busy_timeout)
        self._reader_engine = reader_engine(path, busy_timeout)
        self._file: tuple[int, int] | None = None

    @property
    def id(self) -> str:
        """Six characters that tell this store from every other."""
        return self._id

    def fence(self, check: Step | None) -> None:
        """From now on every write transaction begins with `check`, on the connection's thread; None ends that.

        It raises when this process may not write any more (`lease.py`).
        """
        self._fence = check

    @asynccontextmanager
    async def write(self) -> AsyncIterator[SqlUnitOfWork]:
        """A transaction that commits when its block ends and rolls back when it raises. One at a time."""
        async with self._writing:
            opened = await self._open_writer()
            self._numbers.forget()
            try:
                yield SqlUnitOfWork(Session(opened.connection, opened.driver, self._numbers, self.path))
                with translated(self.path):
                    await opened.connection.commit()
            except BaseException as error:
                await settled(asyncio.create_task(self._abandon(opened.connection, error), name="rollback"))
                raise

    @asynccontextmanager
    async def read(self) -> AsyncIterator[SqlUnitOfWork]:
        """A consistent view that changes nothing."""
        opened = await self._connected(self._reader_engine)
        try:
            yield SqlUnitOfWork(Session(opened.connection, opened.driver, None, self.path))
        except StoreError:
            await opened.connection.invalidate()  # whatever it was may be over for a new connection
            raise
        finally:
            await opened.connection.close()

    async def close(self) -> None:
        """Close every connection, once the transaction under way has ended."""
        async with self._writing:
            await self._drop_writer()
            await self._writer_engine.dispose()
            await self._reader_engine.dispose()

    async def load_id(self) -> None:
        """Read the store's ID; make one up for a new store."""
        async with self.write():
            connection = (await self._open_writer()).connection
            with translated(self.path):
                known = (await connection.execute(select(store_table.c.id))).scalar()
                if known is None:
                    known = "".join(secrets.choice(_ID_ALPHABET) for _ in range(6))
                    await connection.execute(insert(store_table).values(id=known))
            self._id = known

    def _first_steps(self) -> tuple[Step, ...]:
        steps = (begin_immediate, self._numbers.read)
        return steps if self._fence is None else (*steps, self._fence)

    async def _open_writer(self) -> "_Opened":
        """The connection for writing, to the file that has the store's name now."""
        with translated(self.path):
            status = self.path.stat()
        file = (status.st_dev, status.st_ino)
        if self._writer is not None and file != self._file:
            await self._drop_writer()
            await self._reader_engine.dispose()
        if self._writer is None:
            self._writer = await self._connected(self._writer_engine)
            self._file = file
        return self._writer

    async def _connected(self, engine: AsyncEngine) -> "_Opened":
        with translated(self.path):
            connection = await engine.connect()
            return _Opened(connection, await driver_of(connection))

    async def _abandon(self, connection: AsyncConnection, error: BaseException) -> None:
        """Roll back. After a failure of the disk, or a cancellation in mid-statement, the connection is given up."""
        try:
            await connection.rollback()
        except (SQLAlchemyError, StoreError) as failure:
            _log.warning("store_rollback_failed", reason=str(failure))
            await self._drop_writer()
            return
        if isinstance(error, StoreUnavailable) or connection.invalidated:
            await self._drop_writer()

    async def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.connection.invalidate()
            await writer.connection.close()


async def open_store(url: str, *, busy_timeout: float = BUSY_TIMEOUT) -> SqlStore:
    """Open the store that `url` (`sqlite:///relay.db`) names; it must exist and be migrated (`store.migrate`).

    `busy_timeout`: seconds to wait for another process's transaction before the store counts as locked. Raises
    `StoreError` when it cannot be used.
    """
    store = SqlStore(database_path(url), busy_timeout)
    try:
        await store.load_id()
    except BaseException:
        await store.close()
        raise
    return store
