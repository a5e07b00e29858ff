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
from typing import Any, Literal, Protocol, Self

import asyncpg
from sqlalchemy import BigInteger, Boolean, Row, bindparam, delete, literal_column, select, update

from relay.config.store_url import schema_in
from relay.core.ports import Clock
from relay.errors import StoreHeld, StoreUnavailable
from relay.logs import get_logger
from relay.store.lease import Holder, ProcessState, cancelled_by, held
from relay.store.portable import insert
from relay.store.postgresql.connections import NOW, connect, failure, quoted, translated, writer_name
from relay.store.postgresql.shared import Shared
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
_RELEASE_WITHIN, _RELEASE_ALL_WITHIN = 1.0, 5.0
"""Seconds that the server has to take a lease back, and those of all tenants at once; after that it runs out."""

_log = get_logger(__name__)

_now = literal_column(NOW, BigInteger())
_l = lease_table.c
TAKE_LOCK = "SELECT pg_advisory_lock_shared(hashtextextended($1, 0))"
"""Shows for as long as the session lasts that the process lives which has this token.

Shared: where the network was away, the server may keep a session of ours for hours that we have left.
"""


LOCKS = """
    SELECT (CAST(classid AS bigint) << 32) | CAST(objid AS bigint) AS key FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
"""The advisory locks that somebody has in this database. `pg_locks` has their numbers in two halves."""


def has_lock(token: str) -> str:
    """Whether a session has the lock of `TAKE_LOCK` for the token in this column."""
    return f"hashtextextended({token}, 0) IN ({LOCKS})"


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
        return self.state_where(process_of(self.holder))

    def state_where(self, process: ProcessState) -> Literal["free", "held", "unknown"]:
        """See `state`; `process` is its holder's, which may have been looked at for another lease already."""
        if process == "ended" or self.now - self.holder.renewed_at > (LENGTH if self.connected else SILENT):
            return "free"
        return "held" if process == "alive" else "unknown"


def process_of(holder: Holder) -> ProcessState:
    """Whether a holder's process lives. Two machines may have one name: only of this one we know that it has ended."""
    return holder.process_state() if holder.on_this_kernel() else "unknown"


class Session(Protocol):
    """How a holder shows that it lives. Every call but `end` may raise `StoreError`."""

    async def show(self, token: str) -> None:
        """Begin to show it by the lock of `TAKE_LOCK`, if that is not so already."""
        ...

    async def seen(self) -> SeenLease | None:
        """The lease, None if nobody has it."""
        ...

    def due(self, asked: float) -> float:
        """When to renew the lease again that was to be renewed at `asked`, on the monotonic clock."""
        ...

    async def renew(self, token: str) -> bool:
        """Renew the lease; whether it is still that one's."""
        ...

    async def end_sessions(self, token: str) -> None:
        """End the transactions of one that has lost it: it may be stopped, and keep the lock of all writers."""
        ...

    def failed(self) -> None:
        """No answer came in time."""
        ...

    async def end(self, token: str) -> None:
        """Show nothing any more."""
        ...


@dataclass(slots=True)
class OwnSession:
    """A connection that shows that the process lives and renews the lease: no other work may keep it waiting."""

    store: PostgresqlStore
    _connection: asyncpg.Connection | None = field(init=False, default=None)

    async def show(self, token: str) -> None:
        """See `Session.show`."""
        if self._connection is None or self._connection.is_closed():
            connection = await _connect(self.store)
            try:
                with translated(self.store.name):
                    await connection.execute(TAKE_LOCK, token)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection

    async def seen(self) -> SeenLease | None:
        """See `Session.seen`."""
        return await _seen(self._each_by_itself())

    def due(self, asked: float) -> float:
        """See `Session.due`."""
        return asked + RENEW_EVERY

    async def renew(self, token: str) -> bool:
        """See `Session.renew`."""
        await self.show(token)
        return bool(await self._each_by_itself().execute(_RENEW, {"token": token}))

    async def end_sessions(self, token: str) -> None:
        """See `Session.end_sessions`."""
        if self._connection is not None:
            with translated(self.store.name):
                await self._connection.execute(_END_SESSIONS, writer_name(token))

    def failed(self) -> None:
        """See `Session.failed`."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def end(self, token: str) -> None:
        """See `Session.end`."""
        self.failed()

    def _each_by_itself(self) -> PostgresqlTransaction:
        return _each_by_itself(self.store, self._connection)


@dataclass(slots=True)
class SharedSession:
    """The same for one of several tenants of this process: the session and a few connections are for all of them."""

    store: PostgresqlStore
    shared: Shared
    clock: Clock
    _schema: str = field(init=False)
    # Its renewal had to wait for its own transaction.
    _held_up: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._schema = schema_in(self.store.url)

    async def show(self, token: str) -> None:
        """See `Session.show`."""
        await self.shared.session.show(token)

    async def seen(self) -> SeenLease | None:
        """See `Session.seen`."""
        async with self.store.look() as unit:
            return await _seen(unit.transaction)

    def due(self, asked: float) -> float:
        """See `Session.due`. For all tenants at the same time, so that they are renewed together."""
        return (asked // RENEW_EVERY + 1) * RENEW_EVERY

    async def renew(self, token: str) -> bool:
        """See `Session.renew`: together with the other tenants, if it can be.

        Where a transaction of the tenant holds it up it asks by itself, again and again, so that it is renewed at once,
        and no other tenant waits for it for long.
        """
        if await self.shared.together.renew(self._schema, token):
            self._held_up = False
            return True
        renew = f"UPDATE {quoted(self._schema)}.lease SET renewed_at = {NOW} WHERE holder = '{token}'"  # noqa: S608 - names of our own
        deadline = self.clock.monotonic() + LENGTH.total_seconds()
        while True:
            try:
                done = await self._run(renew)
            except asyncpg.LockNotAvailableError as error:
                self._held_up = True
                if self.clock.monotonic() > deadline:
                    raise failure(self.store.name, error) from error
            else:
                self._held_up = False
                return done != "UPDATE 0"

    async def end_sessions(self, token: str) -> None:
        """See `Session.end_sessions`."""
        await self._run(_END_SESSIONS, writer_name(token))

    async def _run(self, sql: str, *values: str) -> str:
        """Run a statement by itself; what the server says of it. A lock that is not free is raised as such."""
        place = await self.shared.renewals.enter(self._schema, slow=self._held_up)
        try:
            with translated(self.store.name, but=asyncpg.LockNotAvailableError):
                return str(await (await place.open()).execute(sql, *values))
        except asyncpg.LockNotAvailableError:
            raise
        except BaseException:
            place.drop()
            raise
        finally:
            place.leave()

    def failed(self) -> None:
        """See `Session.failed`. What did not answer is closed already."""

    async def end(self, token: str) -> None:
        """See `Session.end`."""
        await self.shared.session.hide(token)


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class PostgresqlLease:
    """The right to write and to send."""

    store: PostgresqlStore
    session: Session
    clock: Clock
    # This process.
    holder: Holder
    # See `HeldLease.before`.
    before: datetime | None = field(init=False, default=None)
    _renewed: float = field(init=False)

    def valid(self) -> bool:
        """Whether the lease is certainly still ours, by the monotonic clock. No I/O."""
        return self.clock.monotonic() - self._renewed < SENDS_FOR

    async def take(self) -> None:
        """Wait until the lease is free, and take it. Raises `StoreHeld` if its holder is alive."""
        first: tuple[str, datetime] | None = None
        while True:
            asked = self.clock.monotonic()
            await self.session.show(self.holder.token)
            seen = await self.session.seen()
            if seen is None or seen.state == "free":
                if seen is not None and process_of(seen.holder) != "ended":
                    await self.session.end_sessions(seen.holder.token)
                async with self.store.write() as unit:
                    seen = await _seen(unit.transaction)
                    if seen is None or seen.state == "free":
                        await self._put(unit.transaction)
                        break
            if seen.is_alive(first):
                raise held(self.store.name, seen.holder)
            if first is None:
                first = seen.sign
                _log.info("another process may hold the store: watching it", host=seen.holder.host, pid=seen.holder.pid)
            await self.clock.sleep(WATCH_EVERY)
        self._renewed = asked
        if seen is not None:
            self.before = seen.holder.renewed_at
            _log.warning("store taken over from a process that has ended", host=seen.holder.host, pid=seen.holder.pid)

    async def _put(self, transaction: Transaction) -> None:
        mine = self.holder
        values = {"slot": 1, "holder": mine.token, "host": mine.host, "pid": mine.pid, "started": mine.started}
        await transaction.execute(_TAKE, values)

    async def keep(self) -> None:
        """Renew the lease until cancelled. Raises `StoreHeld` when it is lost; waits while the store is away."""
        tries, asked = 0, self.clock.monotonic()
        while True:
            # Counted from the last renewal, however long it took: a slow server is asked at once.
            await self.clock.sleep(max(0.0, self.session.due(asked) - self.clock.monotonic()))
            try:
                asked = self.clock.monotonic()
                if not await self.session.renew(self.holder.token):
                    raise await self._lost()
                self._renewed, tries = asked, 0
            except StoreUnavailable as error:
                tries += 1
                _log.warning("the lease on the store was not renewed", reason=str(error), tries=tries)
                self.session.failed()

    async def _lost(self) -> StoreHeld:
        seen = await self.session.seen()
        now = "nobody has it" if seen is None else f"process {seen.holder.pid} on {seen.holder.host} has it"
        return StoreHeld(self.store.name, f"this daemon has lost its lease; {now}", "run one daemon only")

    async def release(self) -> None:
        """Give it back. Not where it could not be renewed: the server does not answer, and it runs out by itself."""
        if not self.valid():
            _log.warning("the lease on the store was not given back", reason="it could not be renewed before")
            return
        within = _RELEASE_WITHIN if self.store.shared is None else _RELEASE_ALL_WITHIN
        try:
            async with asyncio.timeout(within), self.store.write() as unit:
                await unit.transaction.execute(_RELEASE, {"token": self.holder.token})
        except (StoreUnavailable, StoreHeld) as error:
            _log.warning("the lease on the store was not given back", reason=str(error))
        except TimeoutError:
            _log.warning("the lease on the store was not given back", reason="the server does not answer in time")


@asynccontextmanager
async def hold(store: SqlStore, clock: Clock) -> AsyncIterator[PostgresqlLease]:
    """Take the lease, renew it while the block runs, and give it back at the end. Raises `StoreHeld`.

    If the lease is lost meanwhile, the block is cancelled and `StoreHeld` is raised.
    """
    opened = _on_postgresql(store)
    holder = Holder.this_process(opened.token, clock.now())
    shared = opened.shared
    session = OwnSession(opened) if shared is None else SharedSession(opened, shared, clock)
    lease = PostgresqlLease(store=opened, session=session, clock=clock, holder=holder)
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
        await session.end(holder.token)


async def holder_of(store: SqlStore) -> Holder | None:
    """The daemon that runs on the store, as far as one look can tell."""
    async with store.look() as unit:
        return _running(await _seen(unit.transaction))


async def is_held(store: SqlStore) -> bool:
    """Whether a daemon runs on the database: also one on this machine that cannot renew its lease."""
    async with store.look() as unit:
        seen = await _seen(unit.transaction)
    return seen is not None and (
        seen.state != "free" or (seen.holder.on_this_kernel() and seen.holder.process_state() == "alive")
    )


async def last_seen(store: SqlStore) -> datetime | None:
    """When a holder that did not give the lease back last showed that it was alive."""
    async with store.look() as unit:
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


def _each_by_itself(store: PostgresqlStore, connection: asyncpg.Connection | None) -> PostgresqlTransaction:
    """What runs statements outside of transactions."""

    async def begin() -> asyncpg.Connection:
        if connection is None:
            raise asyncpg.InterfaceError("connection is closed")
        return connection

    return PostgresqlTransaction(store.name, begin)


def _on_postgresql(store: SqlStore) -> PostgresqlStore:
    if not isinstance(store, PostgresqlStore):
        raise TypeError(f"{store.name} is not on PostgreSQL")
    return store


async def _seen(transaction: Transaction) -> SeenLease | None:
    row = await transaction.first(GET_LEASE, {})
    return None if row is None else SeenLease.of_row(row)
