"""The store: transactions and their repositories."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import bindparam, insert, select

from relay.domain.pair import LaneKey
from relay.store.batches import SqlBatches
from relay.store.channels import SqlChannels
from relay.store.cursors import SqlCursors
from relay.store.driver import Step
from relay.store.engine import BUSY_TIMEOUT, database_path
from relay.store.holder import SqlLeases
from relay.store.media_cache import SqlMediaCache
from relay.store.message_map import SqlMessageMap
from relay.store.notebook import SqlNotebook, SqlNotices
from relay.store.outbox import SqlOutbox
from relay.store.readers import Readers
from relay.store.session import Session
from relay.store.tables import store as store_table
from relay.store.writer import Writer

_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_GET_ID = select(store_table.c.id)
_PUT_ID = insert(store_table).values(id=bindparam("id")).inline()


class SqlUnitOfWork:
    """`core.storage.UnitOfWork` on one connection. `lanes`: those that are known to have a row."""

    def __init__(self, session: Session, lanes: set[LaneKey]) -> None:
        self.session = session
        self.messages = SqlMessageMap(session)
        self.outbox = SqlOutbox(session, lanes)
        self.channels = SqlChannels(session)
        self.batches = SqlBatches(session)
        self.cursors = SqlCursors(session)
        self.media = SqlMediaCache(session)
        self.notices = SqlNotices(session)
        self.notebook = SqlNotebook(session)
        self.leases = SqlLeases(session)


class SqlStore:
    """`core.storage.Store` on one SQLite file: one connection that writes, a few that read.

    Made by `open_store`, ended by `close`.
    """

    def __init__(self, path: Path, busy_timeout: float = BUSY_TIMEOUT) -> None:
        self.path = path
        self._id = ""
        self._readers = Readers(path, busy_timeout)
        self._writer = Writer(path, busy_timeout, replaced=self._replaced)
        self._lanes: set[LaneKey] = set()

    @property
    def id(self) -> str:
        """Six characters that tell this store from every other."""
        return self._id

    def fence(self, check: Step | None) -> None:
        """From now on every write transaction begins with `check`, on the connection's thread; None ends that.

        It raises when this process may not write any more (`lease.py`).
        """
        self._writer.fence = check

    @asynccontextmanager
    async def write(self) -> AsyncIterator[SqlUnitOfWork]:
        """A transaction that commits when its block ends and rolls back when it raises. One at a time."""
        async with self._writer.transaction() as session:
            lanes = self._lanes
            unit = SqlUnitOfWork(session, lanes)
            yield unit
        lanes |= unit.outbox.made

    @asynccontextmanager
    async def read(self) -> AsyncIterator[SqlUnitOfWork]:
        """A consistent view that changes nothing."""
        async with self._readers.session() as session:
            yield SqlUnitOfWork(session, set())

    async def close(self) -> None:
        """Close every connection, once the transactions under way have ended."""
        await self._writer.close()
        await self._readers.dispose()

    async def _replaced(self) -> None:
        """The store's name stands for another file."""
        self._lanes = set()
        await self._readers.dispose()

    async def load_id(self) -> None:
        """Read the store's ID; make one up for a new store."""
        async with self._writer.transaction() as session:
            row = await session.first(_GET_ID, {})
            known = "" if row is None else str(row.id)
            if not known:
                known = "".join(secrets.choice(_ID_ALPHABET) for _ in range(6))
                await session.later(_PUT_ID, {"id": known})
        self._id = known


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
