"""The aiosqlite connection that the engine opens: as few trips to its thread as can be.

aiosqlite carries out every call on a thread of the connection, and SQLAlchemy makes four calls of each statement. A
trip there and back costs more than SQLite's own work, and much more while the event loop is busy. So here a
statement is one trip, results included, and what nobody waits for (BEGIN, statements under `deferring`) travels with
the next one.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import aiosqlite

from relay.errors import StoreError

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], object]


class PipelineConnection(aiosqlite.Connection):
    """A connection in whose transactions statements may be deferred, and whose transactions consist of units.

    A unit (one, unless `next_unit` begins others) stands behind a savepoint. Of its deferred statements it may be
    known only in the trip of a later one that they cannot be carried out: see `end_unit`.

    `opener` opens the database, on the thread. `first_steps` begin each transaction. `read_only` connections do
    not wait for the end of a transaction.
    """

    def __init__(
        self, opener: Callable[[], sqlite3.Connection], first_steps: Callable[[], tuple[Step, ...]], *, read_only: bool
    ) -> None:
        super().__init__(opener, iter_chunk_size=64)
        # A daemon thread: a connection that was not closed must not keep the process from ending.
        self._thread.daemon = True
        self._first_steps = first_steps
        self._read_only = read_only
        self._deferred: list[Step] = []
        self._first = 0
        self._unit: int | None = None  # where in what is deferred the unit begins; None: it has begun on the thread
        self._begun = False
        self._failure: BaseException | None = None
        self._lost = False
        self._deferring = False

    def begin(self) -> None:
        """Start a transaction: BEGIN travels with its first statement."""
        self._deferred = list(self._first_steps())
        if not self._read_only:
            self._unit = len(self._deferred)
            self._deferred.append(_savepoint)
        self._first = len(self._deferred)
        self._begun = False
        self._failure, self._lost = None, False

    def next_unit(self) -> None:
        """The unit has ended; what follows belongs to the next one of the same transaction."""
        self._unit = len(self._deferred)
        self._deferred.append(_next_savepoint)

    def end_unit(self, refused: Callable[[Exception], None]) -> None:
        """Nothing more comes of this unit. Raises what failed in it, if it went on after that.

        Where what it deferred turns out to be at fault, it alone is undone, and `refused` told on the connection's
        thread.
        """
        if self._failure is not None:
            raise self._failure
        start = self._unit or 0
        first, steps = self._deferred[:start], self._deferred[start:]
        if not self.active or not steps:
            return

        def whole(connection: sqlite3.Connection) -> None:
            try:
                for step in steps:
                    step(connection)
            except Exception as error:
                if not _is_own_fault(error, connection):
                    raise
                _undo(connection)
                refused(error)

        self._deferred = [*first, whole]
        self._first = len(first)

    async def undo_unit(self) -> None:
        """Take back what was done since the unit began, and let the next one begin."""
        self._failure = None
        if self._unit is not None:
            del self._deferred[self._unit + 1 :]
        else:
            self._deferred = []
            await self.submit(_undo)

    @property
    def active(self) -> bool:
        """Whether something has been done, or is to be done, since `begin`."""
        return self._begun or len(self._deferred) > self._first

    @property
    def lost(self) -> bool:
        """Whether the whole transaction can only be rolled back."""
        return self._lost

    def defer(self, step: Step) -> None:
        """Carry out `step` with the next statement, or the commit."""
        self._deferred.append(step)

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Statements executed in this block are not carried out before the next one outside, or the commit."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def cursor(self) -> "PipelineCursor":  # type: ignore[override]  # SQLAlchemy asks for no more than this
        """A cursor. No trip to the thread."""
        return PipelineCursor(self)

    async def submit(self, step: Callable[[sqlite3.Connection], T]) -> T | None:
        """Carry out what was deferred and `step`, in one trip; None at once under `deferring`.

        After a failure the unit can only be undone. SQLite itself ends the transaction after some errors, and what came
        after would be written on its own: then the transaction is `lost`.
        """
        if self._failure is not None:
            raise sqlite3.OperationalError("an earlier statement of this transaction failed")
        if self._deferring:
            self._deferred.append(step)
            return None
        steps, self._deferred = self._deferred, []
        self._unit = None
        self._begun = True

        def trip() -> T:
            connection = self._conn
            try:
                for earlier in steps:
                    earlier(connection)
                return step(connection)
            except BaseException as error:
                self._failure, self._lost = error, not _is_own_fault(error, connection)
                raise

        return await self._trip(trip)

    async def commit(self) -> None:
        """Commit; no trip for a transaction in which nothing happened."""
        if self.active or self._failure is not None:
            await self.submit(sqlite3.Connection.commit)
        self._deferred = []
        self._first, self._unit = 0, None
        self._begun = False

    async def rollback(self) -> None:
        """Roll back; no trip for a transaction in which nothing happened."""
        self._deferred = []
        self._first, self._unit = 0, None
        if self._begun:
            self._begun = False
            if self._read_only:
                self._tx.put_nowait((None, self._roll_back))
            else:
                await self._trip(self._roll_back)
        self._failure, self._lost = None, False

    def _roll_back(self) -> None:
        """On the thread: a connection that is closed has no `_conn`."""
        self._conn.rollback()

    async def _trip(self, work: Callable[[], T]) -> T:
        if not self._running or self._connection is None:
            self._lost = True
            raise sqlite3.OperationalError("connection closed")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((done, work))
        return await settled(done)  # the thread is at it: who comes next must find the connection in a known state


async def settled(future: asyncio.Future[T]) -> T:
    """The outcome of `future`; a cancellation is passed on only once there is one."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()  # seen: the cancellation goes first
        raise


def _savepoint(connection: sqlite3.Connection) -> None:
    connection.execute("SAVEPOINT unit")


def _next_savepoint(connection: sqlite3.Connection) -> None:
    connection.execute("RELEASE unit")
    connection.execute("SAVEPOINT unit")


def _undo(connection: sqlite3.Connection) -> None:
    connection.execute("ROLLBACK TO unit")


def _is_own_fault(error: BaseException, connection: sqlite3.Connection) -> bool:
    """Whether only the unit has failed whose statement raised `error`: a constraint, say, or a value of no use.

    Of the disk, and of whether we may write at all, all units have to hear.
    """
    of_all = sqlite3.OperationalError | sqlite3.InternalError | StoreError
    return connection.in_transaction and not isinstance(error, of_all) and type(error) is not sqlite3.DatabaseError


class PipelineCursor:
    """What SQLAlchemy's adapter needs of a cursor; all rows arrive with the execution."""

    def __init__(self, connection: PipelineConnection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Self:
        """Execute, and fetch every row."""
        self._take(await self._connection.submit(lambda connection: _execute(connection, sql, parameters)))
        return self

    async def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> Self:
        """Execute once for each set of parameters."""
        self._take(await self._connection.submit(lambda connection: _execute_many(connection, sql, parameters)))
        return self

    async def fetchall(self) -> list[Any]:
        """The rows."""
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        """Nothing is open."""

    def _take(self, outcome: "_Outcome | None") -> None:
        if outcome is not None:
            self._rows, self.description, self.rowcount, self.lastrowid = outcome


_Outcome = tuple[list[Any], Any, int, int | None]


def _execute(connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> _Outcome:
    cursor = connection.execute(sql, parameters)
    rows = cursor.fetchall() if cursor.description else []
    outcome = (rows, cursor.description, cursor.rowcount, cursor.lastrowid)
    cursor.close()
    return outcome


def _execute_many(connection: sqlite3.Connection, sql: str, parameters: Sequence[Sequence[Any]]) -> _Outcome:
    cursor = connection.executemany(sql, parameters)
    outcome: _Outcome = ([], None, cursor.rowcount, cursor.lastrowid)
    cursor.close()
    return outcome
