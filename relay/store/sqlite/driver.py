"""The aiosqlite connection of the store. It makes as few trips to the connection's thread as possible.

aiosqlite runs every call on the connection's own thread. One trip to the thread and back costs more than SQLite's own
work, and much more while the event loop is busy. So a statement with its results is one trip here. What nobody waits
for (BEGIN, what is deferred) runs in the trip of the next one.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import aiosqlite

from relay.errors import StoreError

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], object]


class PipelineConnection(aiosqlite.Connection):
    """A connection whose statements may be deferred, and whose transactions consist of units.

    Each unit has its own savepoint. A transaction has one unit, unless `next_unit` begins another. An error in deferred
    statements may come to light only in a later trip: see `end_unit`.

    `opener` opens the database, on the thread. `first_steps` begin each transaction. `read_only` connections do not
    wait for the end of a transaction.
    """

    def __init__(
        self, opener: Callable[[], sqlite3.Connection], first_steps: Callable[[], tuple[Step, ...]], *, read_only: bool
    ) -> None:
        super().__init__(opener, iter_chunk_size=64)
        # A daemon thread, so that a connection that was not closed cannot keep the process from exiting.
        self._thread.daemon = True
        self._first_steps = first_steps
        self._read_only = read_only
        self._deferred: list[Step] = []
        self._first = 0
        # Where the unit begins in `_deferred`. None: it has begun on the thread.
        self._unit: int | None = None
        self._begun = False
        self._failure: BaseException | None = None
        self._lost = False

    def begin(self) -> None:
        """Start a transaction. BEGIN runs in the trip of its first statement."""
        self._deferred = list(self._first_steps())
        if not self._read_only:
            self._unit = len(self._deferred)
            self._deferred.append(_savepoint)
        self._first = len(self._deferred)
        self._begun = False
        self._failure, self._lost = None, False

    def next_unit(self) -> None:
        """Begin the next unit of the same transaction."""
        self._unit = len(self._deferred)
        self._deferred.append(_next_savepoint)

    def end_unit(self, on_error: Callable[[Exception], None]) -> None:
        """End the unit. Raises the error of an earlier statement, if the unit went on after it.

        If a deferred statement of the unit fails later, only this unit is undone, and `on_error` is called on the
        connection's thread.
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
                if not _is_own_error(error, connection):
                    raise
                _undo(connection)
                on_error(error)

        self._deferred = [*first, whole]
        self._first = len(first)

    async def undo_unit(self) -> None:
        """Undo everything since the unit began. The next one can then begin."""
        self._failure = None
        if self._unit is not None:
            del self._deferred[self._unit + 1 :]
        else:
            self._deferred = []
            await self.submit(_undo)

    @property
    def active(self) -> bool:
        """Whether there has been any statement since `begin`, deferred ones included."""
        return self._begun or len(self._deferred) > self._first

    @property
    def lost(self) -> bool:
        """Whether the whole transaction can only be rolled back."""
        return self._lost

    def defer(self, step: Step) -> None:
        """Run `step` in the trip of the next statement, or of the commit."""
        self._deferred.append(step)

    async def submit(self, step: Callable[[sqlite3.Connection], T]) -> T:
        """Run the deferred steps and `step` in one trip.

        After an error the unit can only be undone. After some errors SQLite ends the whole transaction by itself, and
        any later statement would be written outside of it: the transaction is then `lost`.
        """
        if self._failure is not None:
            raise sqlite3.OperationalError("an earlier statement of this transaction failed")
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
                self._failure, self._lost = error, not _is_own_error(error, connection)
                raise

        return await self._trip(trip)

    async def commit_units(self) -> asyncio.CancelledError | None:
        """Commit. An empty transaction needs no trip.

        Returns a cancellation that came meanwhile: raise it once it is known by `raise_failure` how the commit ended.
        """
        cancelled: asyncio.CancelledError | None = None
        if self.active or self._failure is not None:
            try:
                await self.submit(sqlite3.Connection.commit)
            except asyncio.CancelledError as error:
                cancelled = error
        if self._failure is None:
            self._deferred = []
            self._first, self._unit = 0, None
            self._begun = False
        return cancelled

    def raise_failure(self) -> None:
        """Raise the error of a trip, if one has failed."""
        if self._failure is not None:
            raise self._failure

    async def rollback(self) -> None:
        """Roll back. An empty transaction needs no trip."""
        self._deferred = []
        self._first, self._unit = 0, None
        if self._begun:
            self._begun = False
            if self._read_only:
                self._tx.put_nowait((None, self._roll_back))
            else:
                await self._trip(self._roll_back)
        self._failure, self._lost = None, False

    async def end(self) -> None:
        """Close the connection, whatever state it is in. What was not committed is rolled back."""
        with suppress(sqlite3.Error, ValueError):
            await self.close()

    def _roll_back(self) -> None:
        """Runs on the thread: a closed connection has no `_conn`."""
        self._conn.rollback()

    async def _trip(self, work: Callable[[], T]) -> T:
        if not self._running or self._connection is None:
            self._lost = True
            raise sqlite3.OperationalError("connection closed")
        # The thread is working on it: whoever uses the connection next must find it in a known state.
        done: CertainFuture[T] = CertainFuture()
        self._tx.put_nowait((done, work))
        try:
            return await done
        except asyncio.CancelledError:
            self._failure = self._failure or done.exception()
            raise


class CertainFuture(asyncio.Future[T]):
    """A future that cannot be cancelled: a task that waits for it and is cancelled is told so once there is a result.

    As `settled`, without a second future, and the turns of the event loop that it takes.
    """

    def cancel(self, msg: object = None) -> bool:
        """Refuse. The task then raises its cancellation when it wakes up."""
        return False


async def settled(future: asyncio.Future[T]) -> T:
    """The result of `future`. A cancellation is raised only when there is a result."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()  # marks it as retrieved: the cancellation is raised instead
        raise


def _savepoint(connection: sqlite3.Connection) -> None:
    connection.execute("SAVEPOINT unit")


def _next_savepoint(connection: sqlite3.Connection) -> None:
    connection.execute("RELEASE unit")
    connection.execute("SAVEPOINT unit")


def _undo(connection: sqlite3.Connection) -> None:
    connection.execute("ROLLBACK TO unit")


def _is_own_error(error: BaseException, connection: sqlite3.Connection) -> bool:
    """Whether `error` concerns only the unit whose statement raised it: a violated constraint, say, or a wrong value.

    Errors of the disk, and a lost right to write, concern all units.
    """
    of_all = sqlite3.OperationalError | sqlite3.InternalError | StoreError
    return connection.in_transaction and not isinstance(error, of_all) and type(error) is not sqlite3.DatabaseError


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one statement."""

    rows: list[tuple[Any, ...]]
    # The names of the columns.
    names: tuple[str, ...]
    # How many rows were changed.
    changed: int


def executed(connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> Outcome:
    """Run a statement and fetch all of its rows."""
    cursor = connection.execute(sql, parameters)
    described = cursor.description or ()
    outcome = Outcome(cursor.fetchall() if described else [], tuple(it[0] for it in described), cursor.rowcount)
    cursor.close()
    return outcome
