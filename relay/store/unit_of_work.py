"""The store: transactions and their repositories."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from sqlalchemy import bindparam, delete, insert, select, text

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

_log = structlog.get_logger(__name__)

# What waits in a lane that counts nothing would never be looked at.
_RECOUNT = text(
    "UPDATE lane SET waiting = true_waiting, dead = true_dead FROM ("
    " SELECT l.id AS lane_id, coalesce(sum(o.state = 'waiting'), 0) AS true_waiting,"
    " coalesce(sum(o.state = 'dead'), 0) AS true_dead"
    " FROM lane l LEFT JOIN outbox o ON o.lane_id = l.id GROUP BY l.id)"
    " WHERE lane.id = lane_id AND (waiting IS NOT true_waiting OR dead IS NOT true_dead)"
)
_WITHOUT_LANE = text(
    "SELECT (SELECT count(*) FROM outbox) - (SELECT coalesce(sum(waiting + dead), 0) FROM lane) AS number"
)
_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_GET_ID = select(store_table.c.id)
_ID_LENGTH = 6
_FORGET_ID = delete(store_table)
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

    def forget_lanes(self) -> None:
        """Some have no row any more. Call it in the transaction that deletes them: the next one makes them again."""
        self._lanes = set()

    async def close(self) -> None:
        """Close every connection, once the transactions under way have ended."""
        await self._writer.close()
        await self._readers.dispose()

    async def _replaced(self) -> None:
        """The store's name stands for another file."""
        self._lanes = set()
        await self._readers.dispose()

    async def load_id(self) -> None:
        """Read the store's ID; make one up for a new store. Count again what is in the lanes: a row may be damaged."""
        async with self._writer.transaction() as session:
            row = await session.first(_GET_ID, {})
            known = "" if row is None else str(row.id)
            if len(known) != _ID_LENGTH or not set(known) <= set(_ID_ALPHABET):
                if row is not None:
                    _log.error("the ID of the store cannot be read, it has another one now", id=known[:100])
                known = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))
                await session.later(_FORGET_ID, {})
                await session.later(_PUT_ID, {"id": known})
            if recounted := await session.count(_RECOUNT, {}):
                _log.error("lanes were counted wrongly", lanes=recounted)
            if (row := await session.first(_WITHOUT_LANE, {})) is not None and row.number:
                _log.error("some entries of the outbox belong to no lane: nobody knows where to", entries=row.number)
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
