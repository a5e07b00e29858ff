"""Transactions: those that write, one at a time, those that only read, and a repository's way to either.

Writers take turns, in this process and among all processes: each write transaction first takes an advisory lock of the
database, as one on SQLite takes the file's. So both stores behave alike, and the core needs to know only one of them.

Is a commit done whose answer was lost? Each write transaction leaves a mark of its own, which is there if it is, and
the server is asked until it answers. So a write transaction that returns was committed, and one that raises was not,
whatever happens to the network or the server. (`pg_xact_status` says yes for one that a crash took along, too, as soon
as another one has been given its number.)
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Executable, Row, bindparam, select, update
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from relay.config.store_url import schema_in, without_password
from relay.domain.ids import ChannelRef, MessageRef
from relay.errors import StoreError, StoreHeld, StoreUnavailable
from relay.logs import get_logger
from relay.store.portable import insert
from relay.store.postgresql.connections import ERRORS, connect, failure, is_lost, quoted, translated, writer_name
from relay.store.postgresql.pools import Place, Pool, close
from relay.store.prepared import prepared
from relay.store.tables import channel, lane, message
from relay.store.transaction import Chain, one_less

T = TypeVar("T")

_log = get_logger(__name__)

READERS = 4
"""So many of one store read at a time. Of a tenant fewer, so that one that is slow leaves some to the others."""

READERS_OF_TENANT = 3
# Of the advisory lock of all write transactions of one store.
WRITE_LOCK = 0x72656C6179


def write_lock(url: str) -> int:
    """The number of the lock of a store: one in a schema of its own has its own."""
    schema = schema_in(url)
    return int.from_bytes(blake2b(schema.encode(), digest_size=7).digest()) if schema else WRITE_LOCK


def _end_holder(url: str) -> str:
    return f"""
        SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (CAST(l.classid AS bigint) << 32) | CAST(l.objid AS bigint) = {write_lock(url)}
    """  # noqa: S608 - a number of our own


def end_stale(url: str) -> str:
    """Ends the process of the server that has the lock and has waited for its client for long: it is stopped, or gone.

    `idle_in_transaction_session_timeout` does so, but not within a statement, and asyncpg prepares each one by itself.
    """
    stale = "a.wait_event = 'ClientRead' AND a.state_change < clock_timestamp() - interval '15 seconds'"
    return f"{_end_holder(url)} AND {stale}"


_GRACE = 2.0  # seconds that a cancelled commit may still take
_ASK_EVERY = 0.5  # seconds

_DIALECT = dialect()  # type: ignore[no-untyped-call]  # not annotated there
# The lock comes first: what stands beside it is read once it is ours. FOR SHARE lets whoever takes the lease wait for
# the end of this transaction. The marks are of the last dozen transactions: others may write before somebody asks.
_ENTER = (
    "WITH locked AS MATERIALIZED (SELECT pg_advisory_xact_lock($1)), marked AS ("
    "INSERT INTO last_commits (slot, marks) SELECT 1, $2 FROM locked ON CONFLICT (slot)"
    " DO UPDATE SET marks = left(excluded.marks || ' ' || last_commits.marks, 155))"
    " SELECT pg_backend_pid() AS process, (SELECT holder FROM lease WHERE slot = 1 FOR SHARE) AS holder FROM locked"
)
_MARK_BYTES = 9
_HOLDER = "SELECT host, pid FROM lease"
_MARKS = "SELECT marks FROM last_commits WHERE slot = 1"
_CHANNEL = insert(channel).values(platform=bindparam("platform"), native_id=bindparam("native_id")).or_ignore().inline()
_channel_insert = insert(channel).values({name: bindparam(name) for name in ("platform", "native_id", "last_copy")})
_LAST_COPY = _channel_insert.or_update("platform", "native_id", last_copy=_channel_insert.new.last_copy).inline()
_of = lane.alias("of_message")
_LAST_COPY_OF_LANE = (
    update(lane)
    .where(
        lane.c.id
        == select(_of.c.id)
        .select_from(message)
        .join(channel, channel.c.id == message.c.channel_id)
        .join(
            _of,
            (_of.c.source_platform == channel.c.platform)
            & (_of.c.source_channel == channel.c.native_id)
            & (_of.c.destination_platform == bindparam("to_platform"))
            & (_of.c.destination_channel == bindparam("to_channel")),
        )
        .where(message.c.id == bindparam("of_message"))
        .scalar_subquery()
    )
    .values(last_copy=bindparam("copied"))
)


@dataclass(slots=True)
class PostgresqlTransaction:
    """Runs statements in one transaction, which begins with the first of them. Errors become `StoreError`s."""

    name: str
    # Begins the transaction.
    begin: Callable[[], Awaitable[asyncpg.Connection]]
    read_only: bool = False
    # None until it has begun.
    connection: asyncpg.Connection | None = field(init=False, default=None)
    # Why it can only be rolled back.
    failure: BaseException | None = field(init=False, default=None)

    async def all(self, statement: Executable, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """Every row."""
        query = prepared(statement, values, _DIALECT)
        found = await self._run(lambda connection: connection.fetch(query.sql, *query.bind(values)))
        return query.rows([tuple(record) for record in found], list(found[0].keys()) if found else ())

    async def first(self, statement: Executable, values: Mapping[str, Any]) -> Row[Any] | None:
        """The first row, None if there is none."""
        return next(iter(await self.all(statement, values)), None)

    async def execute(self, statement: Executable, values: Mapping[str, Any]) -> int:
        """Change rows. Returns how many were changed."""
        self._writable()
        query = prepared(statement, values, _DIALECT)
        done = await self._run(lambda connection: connection.execute(query.sql, *query.bind(values)))
        return int(done.rpartition(" ")[2])

    async def execute_all(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement that changes something once for each of `rows`."""
        self._writable()
        if rows:
            query = prepared(statement, rows[0], _DIALECT)
            bound = [query.bind(values) for values in rows]
            await self._run(lambda connection: connection.executemany(query.sql, bound))

    async def defer(self, statement: Executable, values: Mapping[str, Any]) -> None:
        """Change something. Nothing is deferred here: each statement is a trip to the server."""
        await self.execute(statement, values)

    async def defer_chain(self, *statements: tuple[Executable, Mapping[str, Any]]) -> Chain:
        """See `Transaction.defer_chain`. Nothing is deferred here."""
        self._writable()
        rows: list[Row[Any]] = []
        for statement, values in statements:
            row = await self.first(statement, values)
            if row is None:
                break
            rows.append(row)
        return lambda: rows

    async def record_channel(self, channel: ChannelRef) -> None:
        """Give a channel its row, if it has none yet."""
        await self.defer(_CHANNEL, {"platform": channel.platform, "native_id": channel.id})

    async def record_last_copy(self, message_id: int, copy: MessageRef) -> None:
        """Record the copy of an original as the last one in its channel and lane."""
        values = {"platform": copy.platform, "native_id": copy.channel.id, "last_copy": copy.id}
        await self.defer(_LAST_COPY, values)
        of_lane = {"to_platform": copy.platform, "to_channel": copy.channel.id, "of_message": message_id}
        await self.defer(_LAST_COPY_OF_LANE, {**of_lane, "copied": copy.id})

    async def _run(self, work: Callable[[asyncpg.Connection], Coroutine[Any, Any, T]]) -> T:
        if self.failure is not None:
            # The server would answer a commit with a rollback, and no error.
            raise StoreUnavailable(self.name, "an earlier statement of the transaction failed", "it is tried again")
        try:
            with translated(self.name):
                if self.connection is None:
                    self.connection = await self.begin()
                return await work(self.connection)
        except BaseException as error:
            self.failure = error
            raise

    def _writable(self) -> None:
        if self.read_only:
            raise TypeError("a read transaction cannot change anything")


def _beginning(schema: str, how: str = "", token: str = "") -> str:
    """Begins a transaction, in one trip. On shared connections it says whose it is, until it ends."""
    if not schema:
        return f"BEGIN{how}"
    name = f"; SET LOCAL application_name = '{writer_name(token)}'" if token else ""
    return f"BEGIN{how}; SET LOCAL search_path = {quoted(schema)}{name}"


class Writer:
    """Write transactions, one at a time. `pool` has the connections; that of one store has a single one."""

    def __init__(
        self, url: str, busy_timeout: float, pool: Callable[[], Pool], replaced: Callable[[], None], token: str
    ) -> None:
        # The token of the lease that we must hold to write. None: none.
        self.fence: str | None = None
        self._url, self._name, self._schema = url, without_password(url), schema_in(url)
        # With the token of this process, by which whoever replaces it ends its connection.
        # Said, since a server may be set to another: what is read has to be what stands there once the lock is ours.
        self._begins = _beginning(self._schema, " ISOLATION LEVEL READ COMMITTED", token)
        self._write_lock, self._end_holder = write_lock(url), _end_holder(url)
        self._busy_timeout = busy_timeout
        self._pool = pool
        self._replaced = replaced
        # How many connections had been opened when what we know of the database was learnt.
        self._opened = 0
        self._lock = asyncio.Lock()
        self._place: Place | None = None
        # Another process had the lock for longer than we wait.
        self._held_up = False
        # The mark of the running transaction, and the process of the server that carries it out.
        self._running = ("", 0)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresqlTransaction]:
        """A transaction that commits when its block ends and rolls back when it raises."""
        async with self._lock:
            transaction = PostgresqlTransaction(self._name, self._begin)
            try:
                try:
                    yield transaction
                    if transaction.failure is not None:
                        raise transaction.failure
                except BaseException:
                    await _finished(self._roll_back(transaction))
                    raise
                if transaction.connection is not None:
                    await _finished(self._commit(transaction.connection))
            finally:
                place, self._place = self._place, None
                if place is not None:
                    place.leave()

    async def close(self) -> None:
        """Return when the running transaction has ended."""
        async with self._lock:
            pass

    async def _begin(self) -> asyncpg.Connection:
        self._place = await self._pool().enter(self._schema, slow=self._held_up)
        try:
            return await self._enter(await self._open(self._place))
        except ERRORS as error:
            if not is_lost(error):
                raise
            # The server was restarted since the last transaction: nothing of this one is done yet.
            self._drop()
            return await self._enter(await self._open(self._place, new=True))

    async def _open(self, place: Place, *, new: bool = False) -> asyncpg.Connection:
        connection = await place.open(new=new)
        if self._opened != (opened := self._pool().opened):
            self._replaced()
            self._opened = opened
        return connection

    async def _enter(self, connection: asyncpg.Connection) -> asyncpg.Connection:
        try:
            await connection.execute(self._begins)
            mark = secrets.token_urlsafe(_MARK_BYTES)
            row = await connection.fetchrow(_ENTER, self._write_lock, mark)
            self._running = (mark, row["process"])
            if self.fence is not None and row["holder"] != self.fence:
                other = await connection.fetchrow(_HOLDER)
                now = "nobody has it" if other is None else f"process {other['pid']} on {other['host']} has it"
                raise StoreHeld(self._name, f"this daemon has lost its lease; {now}", "run one daemon only")
        except asyncpg.LockNotAvailableError:
            self._held_up = True
            await self._end_stale(connection)
            raise
        except BaseException:
            self._drop()
            raise
        self._held_up = False
        return connection

    async def _end_stale(self, connection: asyncpg.Connection) -> None:
        try:
            await connection.execute("ROLLBACK")
            if await connection.fetch(end_stale(self._url)):
                _log.warning("a transaction is broken off whose process is stopped")
        except BaseException:
            self._drop()
            raise

    async def _roll_back(self, transaction: PostgresqlTransaction) -> None:
        connection = transaction.connection
        if connection is None:
            return
        if isinstance(transaction.failure, StoreError | asyncio.CancelledError):
            self._drop()  # a statement was cut off, or the connection lost: the server rolls back
            return
        try:
            await connection.execute("ROLLBACK")
        except ERRORS as error:
            _log.warning("a transaction of the store was not rolled back", reason=failure(self._name, error).reason)
            self._drop()
        except BaseException:
            self._drop()
            raise

    async def _commit(self, connection: asyncpg.Connection) -> None:
        mark, process = self._running
        try:
            with translated(self._name):
                done = await connection.execute("COMMIT")
        except StoreError as error:
            self._drop()
            if not await self._was_committed(mark, process):
                raise
            _log.info("a commit whose answer was lost is done", reason=error.reason)
            return
        except BaseException:
            self._drop()
            raise
        if done != "COMMIT":
            raise StoreUnavailable(self._name, f"the server answered a commit with {done}", "it is tried again")

    async def _was_committed(self, mark: str, process: int) -> bool:
        """What became of a transaction whose commit was not answered. Asks until the server knows."""
        tries = 0
        while True:
            tries += 1
            try:
                connection = await connect(self._url, lock_timeout=self._busy_timeout)
                try:
                    with translated(self._name, but=asyncpg.UndefinedTableError):
                        # Who holds the lock waits for a commit that cannot reach it any more, or is writing it. Asked
                        # before the mark, not with it: else it could end in between.
                        if not await connection.fetch(f"{self._end_holder} AND a.pid = $1", process):
                            return mark in str(await connection.fetchval(_MARKS)).split()
                finally:
                    await close(connection)
            except asyncpg.UndefinedTableError:
                return False  # the server has been replaced by one that never saw it
            except StoreError as error:
                if tries in (1, 20):
                    _log.warning("is a commit done? asking until the store knows", reason=error.reason, tries=tries)
            await asyncio.sleep(_ASK_EVERY)

    def _drop(self) -> None:
        if self._place is not None:
            self._place.drop()


class Readers:
    """Transactions that only read, some at a time."""

    def __init__(self, url: str, pool: Callable[[], Pool]) -> None:
        self._name, self._schema = without_password(url), schema_in(url)
        self._begins = _beginning(self._schema, " ISOLATION LEVEL REPEATABLE READ READ ONLY")
        self._pool = pool
        self._slots = asyncio.Semaphore(READERS_OF_TENANT if self._schema else READERS)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresqlTransaction]:
        """A consistent view that changes nothing. Raises `StoreError`."""
        async with self._slots:
            place: Place | None = None

            async def begin() -> asyncpg.Connection:
                nonlocal place
                place = await self._pool().enter(self._schema)
                return await self._view(place)

            transaction = PostgresqlTransaction(self._name, begin, read_only=True)
            try:
                yield transaction
            finally:
                if place is not None:
                    try:
                        if transaction.failure is None:
                            await _finished(_end_view(place))
                        else:
                            place.drop()
                    finally:
                        place.leave()

    @asynccontextmanager
    async def look(self) -> AsyncIterator[PostgresqlTransaction]:
        """A single statement, which is a transaction by itself. Raises `StoreError`."""
        async with self._slots:
            place = await self._pool().enter(self._schema)
            look = _Look(self._name, place.open, read_only=True, place=place, schema=self._schema)
            try:
                yield look
            finally:
                if look.failure is not None:
                    place.drop()
                place.leave()

    async def dispose(self) -> None:
        """Nothing: connections are closed with their pool."""

    async def _view(self, place: Place) -> asyncpg.Connection:
        while True:
            connection = await place.open()
            try:
                await connection.execute(self._begins)
            except ERRORS as error:
                place.drop()
                if not is_lost(error) or place.is_new:
                    raise
            except BaseException:
                place.drop()
                raise
            else:
                return connection


@dataclass(slots=True)
class _Look(PostgresqlTransaction):
    """One statement that reads, on the connection as it is: without BEGIN and COMMIT."""

    place: Place = field(kw_only=True)
    schema: str = field(kw_only=True)
    _left: int = field(init=False, default=1)

    async def _run(self, work: Callable[[asyncpg.Connection], Coroutine[Any, Any, T]]) -> T:
        self._left = one_less(self._left)
        return await PostgresqlTransaction._run(self, partial(self._once, work))

    async def _once(self, work: Callable[[asyncpg.Connection], Coroutine[Any, Any, T]], _: asyncpg.Connection) -> T:
        while True:
            connection = await self.place.open()
            try:
                await self.place.use_schema(self.schema)
                return await work(connection)
            except ERRORS as error:
                self.place.drop()
                # The server was restarted since the last one, perhaps: nothing but a new connection tells.
                if not is_lost(error) or self.place.is_new:
                    raise


async def _end_view(place: Place) -> None:
    try:
        if place.connection is not None:
            await place.connection.execute("COMMIT")
    except ERRORS:
        place.drop()
    except BaseException:
        place.drop()
        raise


async def _finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. If we are cancelled meanwhile, it still has a moment to end."""
    task = asyncio.create_task(work, name="end of a transaction")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        deadline = asyncio.get_running_loop().time() + _GRACE
        while not task.done() and (left := deadline - asyncio.get_running_loop().time()) > 0:
            with suppress(asyncio.CancelledError):
                await asyncio.wait((task,), timeout=left)
        task.cancel()
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # marks it as seen: the cancellation is raised instead
        raise
