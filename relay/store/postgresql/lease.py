"""One daemon per database: only the holder of the lease writes to it and sends messages.

The holder renews its row every second. One that has not for `LENGTH`, by the database's clock, has lost it: so two
machines need not agree on the time, and nobody need see whether the other one's process is alive. Two things show
earlier that it has ended: its process, on the same machine, and its session, which has an advisory lock for as long as
it is connected. A session can also break while its process goes on, so that one still has `SILENT`.

The holder itself counts from before each renewal, by a clock that only runs forwards. It sends nothing for longer than
`SENDS_FOR`, which is shorter than both. Every write transaction checks the row (`transactions.Writer`).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Self

import asyncpg
from sqlalchemy import BigInteger, Boolean, Row, bindparam, delete, literal_column, select, update

from relay.core.ports import Clock
from relay.errors import StoreHeld, StoreUnavailable
from relay.logs import get_logger
from relay.store.lease import Holder, cancelled_by, held
from relay.store.portable import insert
from relay.store.postgresql.connections import connect, translated, writer_name
from relay.store.postgresql.store import PostgresqlStore
from relay.store.postgresql.transactions import PostgresqlTransaction
from relay.store.tables import Timestamp
from relay.store.tables import lease as lease_table
from relay.store.transaction import Transaction
from relay.store.unit_of_work import SqlStore

LENGTH = timedelta(seconds=5)
SILENT = timedelta(seconds=2.5)
SENDS_FOR = 2.0  # seconds
RENEW_EVERY = 1.0  # seconds
WATCH_EVERY = 0.5  # seconds
_LOOK_EVERY = 0.25  # seconds, of one that stands by

_log = get_logger(__name__)

NOW = "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"
_now = literal_column(NOW, BigInteger())
_l = lease_table.c
TAKE_LOCK = "SELECT pg_advisory_lock_shared(hashtextextended($1, 0))"
"""Shows for as long as the session lasts that the process lives which has this token.

Shared: where the network was away, the server may keep a session of ours for hours that we have left.
"""


def has_lock(token: str) -> str:
    """Whether a session has the lock of `TAKE_LOCK` for the token in this column. `pg_locks` has it in two halves."""
    return f"""EXISTS (
        SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (CAST(classid AS bigint) << 32) | CAST(objid AS bigint) = hashtextextended({token}, 0))"""  # noqa: S608


CONNECTED = has_lock("lease.holder")
GET_LEASE = select(
    lease_table,
    literal_column(NOW, Timestamp()).label("now"),
    literal_column(CONNECTED, Boolean()).label("connected"),
)
_TAKE = (
    insert(lease_table)
    .values({column.name: bindparam(column.name) for column in (_l.slot, _l.holder, _l.host, _l.pid, _l.started)})
    .values(since=_now, renewed_at=_now)
    .or_replace()
    .inline()
)
_RENEW = update(lease_table).where(_l.holder == bindparam("token")).values(renewed_at=_now)
# Of one that has lost the lease: it may be stopped within a transaction, and keep the lock of all writers.
_END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1"
_STANDS_BY = "relay stands by: "
_STANDBYS = (
    "SELECT application_name AS name FROM pg_stat_activity"
    " WHERE datname = current_database() AND starts_with(application_name, $1) ORDER BY backend_start"
)
_RELEASE = delete(lease_table).where(_l.holder == bindparam("token"))


@dataclass(frozen=True, slots=True)
class SeenLease:
    """The row of the lease, and the database's time when it was read."""

    holder: Holder
    now: datetime
    # Whether its session is there. The process may have ended all the same (never the other way round).
    connected: bool

    @classmethod
    def of_row(cls, row: Row[Any]) -> Self:
        """From a row of `GET_LEASE`."""
        return cls(Holder.of_row(row), row.now, row.connected)

    @property
    def sign(self) -> tuple[str, datetime]:
        """It changes with each renewal."""
        return self.holder.token, self.holder.renewed_at

    def is_alive(self, first: tuple[str, datetime] | None) -> bool:
        """Whether its holder certainly lives. `first`: its sign at an earlier look."""
        return self.state == "held" or (self.state == "unknown" and first is not None and self.sign != first)

    @property
    def state(self) -> Literal["free", "held", "unknown"]:
        """Whether it can be taken. `unknown`: it cannot yet, but its holder may have ended."""
        # Two machines may have one name: only of a process of this one we know that it has ended.
        process = self.holder.process_state() if self.holder.on_this_kernel() else "unknown"
        if process == "ended" or self.now - self.holder.renewed_at > (LENGTH if self.connected else SILENT):
            return "free"
        return "held" if process == "alive" else "unknown"


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class PostgresqlLease:
    """The right to write and to send."""

    store: PostgresqlStore
    clock: Clock
    # This process.
    holder: Holder
    _renewed: float = field(init=False)
    # The session that shows that the process lives, and renews the lease: no other work may keep it waiting.
    _session: asyncpg.Connection | None = field(init=False, default=None)

    def valid(self) -> bool:
        """Whether the lease is certainly still ours, by the monotonic clock. No I/O."""
        return self.clock.monotonic() - self._renewed < SENDS_FOR

    async def take(self) -> None:
        """Wait until the lease is free, and take it. Raises `StoreHeld` if its holder is alive."""
        first: tuple[str, datetime] | None = None
        while True:
            asked = self.clock.monotonic()
            session = await self._connected()
            seen = await _seen(self._on(session))
            if seen is None or seen.state == "free":
                if seen is not None:
                    with translated(self.store.name):
                        await session.execute(_END_SESSIONS, writer_name(seen.holder.token))
                async with self.store.write() as unit:
                    seen = await _seen(unit.transaction)
                    if seen is None or seen.state == "free":
                        await self._put(unit.transaction)
                        break
            if seen.is_alive(first):
                raise held(self.store.name, seen.holder)
            if first is None:
                first = seen.sign
                _log.info("lease_watched", host=seen.holder.host, pid=seen.holder.pid)
            await self.clock.sleep(WATCH_EVERY)
        self._renewed = asked
        if seen is not None:
            _log.warning("lease_taken_over", host=seen.holder.host, pid=seen.holder.pid)

    async def _put(self, transaction: Transaction) -> None:
        mine = self.holder
        values = {"slot": 1, "holder": mine.token, "host": mine.host, "pid": mine.pid, "started": mine.started}
        await transaction.execute(_TAKE, values)

    async def keep(self) -> None:
        """Renew the lease until cancelled. Raises `StoreHeld` when it is lost; waits while the store is away."""
        tries, asked = 0, self.clock.monotonic()
        while True:
            # Counted from the last renewal, however long it took: a slow server is asked at once.
            await self.clock.sleep(max(0.0, asked + RENEW_EVERY - self.clock.monotonic()))
            try:
                asked = self.clock.monotonic()
                if not await self._on(await self._connected()).execute(_RENEW, {"token": self.holder.token}):
                    raise await self._lost()
                self._renewed, tries = asked, 0
            except StoreUnavailable as error:
                tries += 1
                _log.warning("lease_not_renewed", reason=str(error), tries=tries)
                self.disconnect()

    async def _lost(self) -> StoreHeld:
        seen = await _seen(self._on(await self._connected()))
        now = "nobody has it" if seen is None else f"process {seen.holder.pid} on {seen.holder.host} has it"
        return StoreHeld(self.store.name, f"this daemon has lost its lease; {now}", "run one daemon only")

    async def _connected(self) -> asyncpg.Connection:
        """The session, with its lock."""
        if self._session is None or self._session.is_closed():
            session = await _connect(self.store)
            try:
                with translated(self.store.name):
                    await session.execute(TAKE_LOCK, self.holder.token)
            except BaseException:
                session.terminate()
                raise
            self._session = session
        return self._session

    def _on(self, session: asyncpg.Connection) -> PostgresqlTransaction:
        return _each_by_itself(self.store, session)

    async def release(self) -> None:
        """Give it back."""
        try:
            async with self.store.write() as unit:
                await unit.transaction.execute(_RELEASE, {"token": self.holder.token})
        except (StoreUnavailable, StoreHeld) as error:
            _log.warning("lease_not_released", reason=str(error))

    def disconnect(self) -> None:
        """End the session."""
        if self._session is not None:
            self._session.terminate()
            self._session = None


@asynccontextmanager
async def hold(store: SqlStore, clock: Clock) -> AsyncIterator[PostgresqlLease]:
    """Take the lease, renew it while the block runs, and give it back at the end. Raises `StoreHeld`.

    If the lease is lost meanwhile, the block is cancelled and `StoreHeld` is raised.
    """
    opened = _on_postgresql(store)
    lease = PostgresqlLease(store=opened, clock=clock, holder=Holder.this_process(opened.token, clock.now()))
    opened.write_only_with(None)
    try:
        await lease.take()
        opened.write_only_with(lease.holder.token)
        renewal = asyncio.create_task(lease.keep(), name="lease")
        try:
            async with cancelled_by(renewal):
                yield lease
        finally:
            renewal.cancel()
            await asyncio.wait((renewal,))
            await lease.release()
    finally:
        lease.disconnect()


async def holder_of(store: SqlStore) -> Holder | None:
    """The daemon that runs on the store, as far as one look can tell."""
    async with store.read() as unit:
        return _running(await _seen(unit.transaction))


async def is_held(store: SqlStore) -> bool:
    """Whether a daemon runs on the database: also one on this machine that cannot renew its lease."""
    async with store.read() as unit:
        seen = await _seen(unit.transaction)
    return seen is not None and (
        seen.state != "free" or (seen.holder.on_this_kernel() and seen.holder.process_state() == "alive")
    )


async def last_seen(store: SqlStore) -> datetime | None:
    """When a holder that did not give the lease back last showed that it was alive."""
    async with store.read() as unit:
        seen = await _seen(unit.transaction)
    return None if seen is None else seen.holder.renewed_at


@asynccontextmanager
async def standing_by(store: SqlStore, who: str) -> AsyncIterator[Callable[[], Awaitable[Holder | None]]]:
    """See `store.lease.standing_by`. The name of a connection says it: it ends when the process does."""
    opened = _on_postgresql(store)
    connection: asyncpg.Connection | None = None

    async def look() -> Holder | None:
        nonlocal connection
        if connection is None or connection.is_closed():
            connection = await _connect(opened, _STANDS_BY + who)
        return _running(await _seen(_each_by_itself(opened, connection)))

    try:
        yield look
    finally:
        if connection is not None:
            connection.terminate()


async def standbys(store: SqlStore) -> Sequence[str]:
    """See `store.lease.standbys`."""
    connection = await _connect(_on_postgresql(store))
    try:
        with translated(store.name):
            found = await connection.fetch(_STANDBYS, _STANDS_BY)
        return [str(row["name"]).removeprefix(_STANDS_BY) for row in found]
    finally:
        connection.terminate()


def _running(seen: SeenLease | None) -> Holder | None:
    return None if seen is None or seen.state == "free" else seen.holder


async def _connect(store: PostgresqlStore, name: str = "relay") -> asyncpg.Connection:
    """A connection beside those of the store, on which no answer is waited for longer than a lease lasts."""
    seconds = LENGTH.total_seconds()
    return await connect(store.url, lock_timeout=seconds, patience=seconds, name=name)


def _each_by_itself(store: PostgresqlStore, connection: asyncpg.Connection) -> PostgresqlTransaction:
    """What runs statements outside of transactions."""

    async def begin() -> asyncpg.Connection:
        return connection

    return PostgresqlTransaction(store.name, begin)


def _on_postgresql(store: SqlStore) -> PostgresqlStore:
    if not isinstance(store, PostgresqlStore):
        raise TypeError(f"{store.name} is not on PostgreSQL")
    return store


async def _seen(transaction: Transaction) -> SeenLease | None:
    row = await transaction.first(GET_LEASE, {})
    return None if row is None else SeenLease.of_row(row)
