"""The store: transactions, each with its repositories."""

import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Row, bindparam, delete, func, insert, select, update

from relay.config.store_url import names_postgresql
from relay.core.ports import Cursor
from relay.domain.pair import LaneKey
from relay.logs import get_logger
from relay.store.repositories.ghosts import SqlGhosts
from relay.store.repositories.message_map import SqlMessageMap
from relay.store.repositories.outbox import SqlOutbox
from relay.store.repositories.people import SqlPeople
from relay.store.repositories.small_tables import (
    KnownValues,
    SqlAvatars,
    SqlChannels,
    SqlCursors,
    SqlDigests,
    SqlKeyValues,
    SqlMediaCache,
    SqlOnceKeys,
    WaitingCursors,
)
from relay.store.repositories.traces import SqlTraces
from relay.store.sqlite.driver import Step
from relay.store.sqlite.engine import BUSY_TIMEOUT, database_path
from relay.store.sqlite.transactions import Readers, Writer
from relay.store.tables import EntryState, lane, outbox
from relay.store.tables import store as store_table
from relay.store.transaction import Transaction

_log = get_logger(__name__)

_number = func.count().filter
_COUNT = (
    select(
        lane.c.id,
        lane.c.waiting,
        lane.c.dead,
        _number(outbox.c.state == EntryState.WAITING.value).label("true_waiting"),
        _number(outbox.c.state == EntryState.DEAD.value).label("true_dead"),
    )
    .outerjoin(outbox, outbox.c.lane_id == lane.c.id)
    .group_by(lane.c.id)
)
_ENTRIES = select(func.count().label("number")).select_from(outbox)
_CORRECT = (
    update(lane).where(lane.c.id == bindparam("of_lane")).values(waiting=bindparam("waiting"), dead=bindparam("dead"))
)
_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_GET_ID = select(store_table.c.id)
_ID_LENGTH = 6
_FORGET_ID = delete(store_table)
_PUT_ID = insert(store_table).values(id=bindparam("id")).inline()


class SqlUnitOfWork:
    """`core.storage.UnitOfWork`. `lanes`: the lanes that are known to have a row."""

    def __init__(
        self, transaction: Transaction, lanes: set[LaneKey], waiting: WaitingCursors, known: KnownValues
    ) -> None:
        self.transaction = transaction
        self.messages = SqlMessageMap(transaction)
        self.outbox = SqlOutbox(transaction, lanes)
        self.avatars = SqlAvatars(transaction)
        self.channels = SqlChannels(transaction)
        self.digests = SqlDigests(transaction)
        self.cursors = SqlCursors(transaction, waiting, known)
        self.media = SqlMediaCache(transaction)
        self.once_keys = SqlOnceKeys(transaction)
        self.ghosts = SqlGhosts(transaction)
        self.key_values = SqlKeyValues(transaction, known)
        self.people = SqlPeople(transaction)
        self.traces = SqlTraces(transaction)


class Reading(Protocol):
    """Connections that only read."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A consistent view that changes nothing. Raises `StoreError`."""
        ...

    def look(self) -> AbstractAsyncContextManager[Transaction]:
        """The same for a single statement."""
        ...

    async def dispose(self) -> None:
        """Close those that nobody uses."""
        ...


class Writing(Protocol):
    """The connection that writes."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction that commits when its block ends and rolls back when it raises. One at a time."""
        ...

    async def close(self) -> None:
        """Close the connection when the running transaction has ended."""
        ...


class SqlStore:
    """`core.storage.Store` on one SQLite file: one connection that writes, a few that read.

    `open_store` opens it, and `close` closes it.
    """

    on_postgresql = False

    def __init__(self, path: Path, busy_timeout: float = BUSY_TIMEOUT) -> None:
        self.path = path
        # For errors.
        self.name = str(path)
        # Tells a database on a server from all others, once it is open; "" for a file.
        self.database = ""
        self._id = ""
        self._file_writer = Writer(path, busy_timeout, replaced=self._replaced)
        # Another database has others.
        self._readers: Reading = Readers(path, busy_timeout)
        self._writer: Writing = self._file_writer
        self._lanes: set[LaneKey] = set()
        self._waiting_cursors = WaitingCursors()
        self._known = KnownValues()

    @property
    def id(self) -> str:
        """Six characters that identify this store."""
        return self._id

    def fence(self, check: Step | None) -> None:
        """Begin every later write transaction with `check`, on the connection's thread. None: no longer.

        `check` raises if this process may not write any more (`lease.py`).
        """
        self._file_writer.fence = check

    @asynccontextmanager
    async def write(self) -> AsyncIterator[SqlUnitOfWork]:
        """A transaction that commits when its block ends and rolls back when it raises. One at a time."""
        unit: SqlUnitOfWork | None = None
        lanes, committed = self._lanes, False
        try:
            async with self._writer.transaction() as transaction:
                lanes = self._lanes
                unit = SqlUnitOfWork(transaction, lanes, self._waiting_cursors, self._known)
                yield unit
                await unit.cursors.take_waiting()
            committed = True
            lanes |= unit.outbox.made
        finally:
            if unit is not None:
                unit.cursors.ended(committed=committed)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[SqlUnitOfWork]:
        """A consistent view that changes nothing."""
        async with self._readers.transaction() as transaction:
            yield SqlUnitOfWork(transaction, set(), self._waiting_cursors, self._known)

    @asynccontextmanager
    async def look(self) -> AsyncIterator[SqlUnitOfWork]:
        """See `Store.look`."""
        async with self._readers.look() as transaction:
            yield SqlUnitOfWork(transaction, set(), self._waiting_cursors, self._known)

    def put_later(self, cursors: Iterable[Cursor]) -> None:
        """See `Store.put_later`."""
        self._waiting_cursors.put(cursors)

    def forget_lanes(self) -> None:
        """Forget which lanes have a row. For a transaction that deletes lanes: later ones make the rows again."""
        self._lanes = set()

    async def close(self) -> None:
        """Close every connection when the running transactions have ended."""
        await self._writer.close()
        await self._readers.dispose()

    async def _replaced(self) -> None:
        """There is another file under the store's name: forget what was known of the old one."""
        self._lanes = set()
        await self._readers.dispose()

    async def load_id(self) -> None:
        """Read the store's ID, or create it for a new store. Writes nothing else: a daemon may be using the store."""
        async with self._readers.look() as transaction:
            known = valid_id(await transaction.first(_GET_ID, {}))
        if not known:
            async with self._writer.transaction() as transaction:
                row = await transaction.first(_GET_ID, {})
                known = valid_id(row)  # another process may have created it just now
                if not known:
                    if row is not None:
                        found = str(row.id)[:100]
                        _log.error("the ID of the store cannot be read, it has another one now", id=found)
                    known = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))
                    await transaction.defer(_FORGET_ID, {})
                    await transaction.defer(_PUT_ID, {"id": known})
        self._id = known

    async def prepare_start(self) -> None:
        """Get ready for a start, which asks for much, bit by bit. Needs the lease: nobody else may write.

        Of a file each bit costs next to nothing.
        """

    async def problem(self) -> str | None:
        """Why nothing can be written now, as far as reading tells: a sentence for the operator."""
        return None

    async def recount(self) -> None:
        """Count the entries of all lanes again, in case a row is damaged. Needs the lease: nobody else may write."""
        async with self._readers.look() as transaction:
            counted = await transaction.all(_COUNT, {})
        async with self._readers.look() as transaction:
            entries = await transaction.first(_ENTRIES, {})
        wrong = [row for row in counted if (row.waiting, row.dead) != (row.true_waiting, row.true_dead)]
        if wrong:
            # Entries of a lane whose count is 0 would never be read.
            async with self._writer.transaction() as transaction:
                for row in wrong:
                    counts = {"of_lane": row.id, "waiting": row.true_waiting, "dead": row.true_dead}
                    await transaction.execute(_CORRECT, counts)
            _log.error("lanes were counted wrongly", lanes=len(wrong))
        without = (entries.number if entries else 0) - sum(row.true_waiting + row.true_dead for row in counted)
        if without:
            _log.error("some entries of the outbox belong to no lane: nobody knows where to", entries=without)


def valid_id(row: Row[Any] | None) -> str:
    """The ID in a row. Empty if there is no row, or if its value cannot be an ID."""
    known = "" if row is None else str(row.id)
    return known if len(known) == _ID_LENGTH and set(known) <= set(_ID_ALPHABET) else ""


def store_at(url: str, busy_timeout: float = BUSY_TIMEOUT) -> SqlStore:
    """The store at `url`, which connects when it is used, and does not know its ID."""
    if names_postgresql(url):
        from relay.store.postgresql.store import PostgresqlStore

        return PostgresqlStore(url, busy_timeout)
    return SqlStore(database_path(url), busy_timeout)


async def open_store(url: str, *, busy_timeout: float = BUSY_TIMEOUT) -> SqlStore:
    """Open the store at `url` (`sqlite:///relay.db`). It must exist and be migrated (`store.migrate`).

    `busy_timeout`: seconds to wait for another process's transaction before the store counts as locked. Raises
    `StoreError` if the store cannot be used.
    """
    store = store_at(url, busy_timeout)
    try:
        await store.load_id()
    except BaseException:
        await store.close()
        raise
    return store
