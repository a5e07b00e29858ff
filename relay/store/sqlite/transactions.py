"""Transactions: the one connection that writes, a few that only read, and a repository's way to either.

A commit waits for the disk: 0.2 ms on a good one, 10 ms on a poor one. So write transactions that queue up behind each
other share one transaction of SQLite: each has a savepoint of its own, and one commit ends them all. Each of them
returns once the data is on the disk. A transaction that nobody queues behind is committed at once.

If a statement fails because of its own values, only its transaction is undone. This can come to light late, because
deferred statements of one transaction may run together with the next one's.

Each finished transaction waits for the lock again, to commit: the first to get it commits for all. By then those that
were queued have had their turn, and no transaction depends on another one to do the commit.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import structlog
from sqlalchemy import Executable, Row, literal, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from relay.domain.ids import ChannelRef, MessageRef
from relay.errors import StoreError, StoreUnavailable
from relay.store.sqlite.driver import PipelineConnection, Step, settled
from relay.store.sqlite.engine import READERS, begin_immediate, driver_of, reader_engine, translated, writer_engine
from relay.store.tables import packed

T = TypeVar("T")

_log = structlog.get_logger(__name__)

# As SQLite itself counts: whatever became of the row of the sequence, no ID is given out that is there. A damaged ID at
# the end of all numbers is not counted on from.
_LAST_ENTRY = (
    "SELECT max(coalesce((SELECT max(seq) FROM sqlite_sequence WHERE name = 'outbox' AND typeof(seq) = 'integer'"
    " AND seq < 1 << 62), 0), coalesce((SELECT max(id) FROM outbox WHERE id < 1 << 62), 0))"
)
_NOTHING = select(literal(1))
# As text: with each message, and SQLAlchemy takes longer over it than SQLite.
_CHANNEL = "INSERT INTO channel (platform, native_id) VALUES (?, ?) ON CONFLICT DO NOTHING"
_LAST_COPY = (
    "INSERT INTO channel (platform, native_id, last_copy) VALUES (?, ?, ?)"
    " ON CONFLICT (platform, native_id) DO UPDATE SET last_copy = excluded.last_copy"
)
_LAST_COPY_OF_LANE = (
    "UPDATE lane SET last_copy = ? WHERE id = (SELECT l.id FROM message m JOIN channel c ON c.id = m.channel_id"
    " JOIN lane l ON l.source_platform = c.platform AND l.source_channel = c.native_id"
    " AND l.destination_platform = ? AND l.destination_channel = ? WHERE m.id = ?)"
)


class EntryNumbers:
    """The IDs of the outbox, given out here: a row whose ID is known needs no trip of its own.

    `read` is one of the first steps of each write transaction: under the write lock nobody else gives any out.
    """

    def __init__(self) -> None:
        self._last: int | None = None

    def forget(self) -> None:
        """A transaction begins: `read` has not been carried out yet."""
        self._last = None

    def read(self, connection: sqlite3.Connection) -> None:
        """Learn the last ID that was ever given out. On the connection's thread."""
        (self._last,) = connection.execute(_LAST_ENTRY).fetchone()

    def next(self) -> int | None:
        """The next ID; None before `read`."""
        if self._last is not None:
            self._last += 1
        return self._last


class Session:
    """Executes statements in the transaction of `connection`; raises only `StoreError`s for what the disk does.

    `numbers` None: a transaction that changes nothing.
    """

    def __init__(
        self, connection: AsyncConnection, driver: PipelineConnection, numbers: EntryNumbers | None, path: Path
    ) -> None:
        self._connection = connection
        self._driver = driver
        self._numbers = numbers
        self._path = path

    async def all(self, statement: Executable, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """Every row."""
        with translated(self._path):
            return (await self._connection.execute(statement, values)).all()

    async def first(self, statement: Executable, values: Mapping[str, Any]) -> Row[Any] | None:
        """The first row, None if there is none."""
        with translated(self._path):
            return (await self._connection.execute(statement, values)).first()

    async def count(self, statement: Executable, values: Mapping[str, Any]) -> int:
        """How many rows the statement changed."""
        with translated(self._path):
            return (await self._connection.execute(statement, values)).rowcount

    async def entry_id(self) -> int:
        """An ID for a new row of the outbox."""
        numbers = self._writable()
        number = numbers.next()
        if number is None:
            with translated(self._path):
                # The first statement of the transaction brings the numbers along.
                await self._connection.execute(_NOTHING)
            number = numbers.next()
        if number is None:
            raise RuntimeError("the transaction began without its numbers")
        return number

    async def direct(self, step: Callable[[sqlite3.Connection], T]) -> T:
        """Carry out `step` on the connection's thread, in the transaction."""
        with translated(self._path):
            if not self._connection.in_transaction():
                await self._connection.begin()
            return cast("T", await self._driver.submit(step))

    async def record_channel(self, channel: ChannelRef) -> None:
        """Give a channel its number, if it has none yet; with the next statement."""
        await self._defer(_CHANNEL, (channel.platform.value, channel.id))

    async def record_last_copy(self, message_id: int, copy: MessageRef) -> None:
        """`copy`, of an original, is the last one in its channel and of its lane; with the next statement."""
        place, copied = (copy.platform.value, copy.channel.id), packed(copy.id)
        await self._defer(_LAST_COPY, (*place, copied))
        await self._defer(_LAST_COPY_OF_LANE, (copied, *place, message_id))

    async def _defer(self, statement: str, values: tuple[int | bytes | str, ...]) -> None:
        self._writable()
        if not self._connection.in_transaction():
            await self._connection.begin()
        self._driver.defer(lambda connection: connection.execute(statement, values))

    async def later(self, statement: Executable, values: Mapping[str, Any]) -> None:
        """Change something whose outcome nobody asks for: carried out with the next statement, or the commit."""
        self._writable()
        with translated(self._path), self._driver.deferring():
            await self._connection.execute(statement, values)

    def _writable(self) -> EntryNumbers:
        if self._numbers is None:
            raise TypeError("a read transaction changes nothing")
        return self._numbers


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection, and what is under it."""

    connection: AsyncConnection
    driver: PipelineConnection


@dataclass(slots=True)
class _Group:
    """Transactions that share a commit. `members` have written something; `failure` is why none of them is kept."""

    opened: Opened
    path: Path
    members: int = 0
    ended: bool = False
    failure: BaseException | None = None

    def raise_failure(self) -> None:
        """Raise what went wrong, anew for each member."""
        if isinstance(self.failure, StoreError):
            raise type(self.failure)(self.path, self.failure.reason, self.failure.remedy)
        if self.failure is not None:
            raise self.failure


class Writer:
    """Write transactions, one at a time. `replaced` is called when the store's name stands for another file."""

    def __init__(self, path: Path, busy_timeout: float, replaced: Callable[[], Awaitable[None]]) -> None:
        self.fence: Step | None = None
        self._path = path
        self._replaced = replaced
        self._engine = writer_engine(path, self._first_steps, busy_timeout)
        self._numbers = EntryNumbers()
        self._turn = asyncio.Lock()
        self._queued = 0
        self._opened: Opened | None = None
        self._file: tuple[int, int] | None = None
        self._group: _Group | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """Commits when its block ends, and rolls back when it raises."""
        self._queued += 1
        try:
            await self._turn.acquire()
        finally:
            self._queued -= 1
        try:
            group = await self._join()
            driver = group.opened.driver
            refused: list[Exception] = []
            try:
                yield Session(group.opened.connection, driver, self._numbers, self._path)
                with translated(self._path):
                    driver.end_unit(refused.append)
            except BaseException as error:
                await settled(asyncio.create_task(self._leave(group, error), name="rollback"))
                raise
            group.members += driver.active
            if not self._queued:
                await settled(asyncio.create_task(self._commit(group), name="commit"))
        finally:
            self._turn.release()
        if not group.ended:
            await settled(asyncio.create_task(self._commit_in_turn(group), name="commit"))
        group.raise_failure()
        if refused:
            raise refused[0]

    async def close(self) -> None:
        """Close the connection once the transactions under way have ended."""
        async with self._turn:
            if self._group is not None:
                await self._commit(self._group)
            await self._drop()
            await self._engine.dispose()

    def _first_steps(self) -> tuple[Step, ...]:
        steps = (begin_immediate, self._numbers.read)
        return steps if self.fence is None else (*steps, self.fence)

    async def _join(self) -> _Group:
        group = self._group
        if group is None:
            group = self._group = _Group(await self._open(), self._path)
            self._numbers.forget()
        elif group.members:
            group.opened.driver.next_unit()
        return group

    async def _open(self) -> Opened:
        """The connection to the file that has the store's name now."""
        with translated(self._path):
            status = self._path.stat()
        file = (status.st_dev, status.st_ino)
        if self._opened is not None and file != self._file:
            await self._drop()
            await self._replaced()
        if self._opened is None:
            self._opened = await opened(self._engine, self._path)
            self._file = file
        return self._opened

    async def _commit_in_turn(self, group: _Group) -> None:
        async with self._turn:
            await self._commit(group)

    async def _commit(self, group: _Group) -> None:
        """End the group, well or badly; its members look which."""
        if group.ended:
            return
        try:
            with translated(self._path):
                await group.opened.connection.commit()
        except BaseException as error:  # noqa: BLE001 - every member raises it
            await self._fail(group, error)
        else:
            self._end(group)

    async def _leave(self, group: _Group, error: BaseException) -> None:
        """Undo one transaction, and those before it in the group only when they cannot be kept."""
        driver = group.opened.driver
        if group.members and not driver.lost and not group.opened.connection.invalidated:
            try:
                await driver.undo_unit()
            except sqlite3.Error as failure:
                error = failure
            else:
                return
        await self._fail(group, error)

    async def _fail(self, group: _Group, error: BaseException) -> None:
        """Roll everything back. After a failure of the disk, or of a statement cut short, drop the connection."""
        if isinstance(error, StoreError | SQLAlchemyError):
            group.failure = error
        else:
            why = f"a transaction that shared its commit failed ({type(error).__name__})"
            group.failure = StoreUnavailable(self._path, why, "the relay tries again by itself")
        self._end(group)
        connection = group.opened.connection
        try:
            await connection.rollback()
            if not connection.invalidated:
                # SQLAlchemy holds a failed commit for the end of its transaction.
                await group.opened.driver.rollback()
        except (SQLAlchemyError, sqlite3.Error) as failure:
            _log.warning("store_rollback_failed", reason=str(failure))
            await self._drop()
            return
        if isinstance(error, StoreUnavailable) or connection.invalidated:
            await self._drop()

    def _end(self, group: _Group) -> None:
        group.ended = True
        if self._group is group:
            self._group = None

    async def _drop(self) -> None:
        dropped, self._opened = self._opened, None
        if dropped is not None:
            await dropped.connection.invalidate()
            await dropped.connection.close()


async def opened(engine: AsyncEngine, path: Path) -> Opened:
    """A connection of `engine`. Raises `StoreError`."""
    with translated(path):
        connection = await engine.connect()
        return Opened(connection, await driver_of(connection))


class Readers:
    """A few connections that only read, each for one reader at a time.

    They stay open: opening one for each look-up costs more than the look-up.
    """

    def __init__(self, path: Path, busy_timeout: float) -> None:
        self._path = path
        self._engine = reader_engine(path, busy_timeout)
        self._turn = asyncio.Semaphore(READERS)
        self._free: list[Opened] = []
        self._generation = 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A consistent view that changes nothing. Raises `StoreError`."""
        async with self._turn:
            generation = self._generation
            reader = self._free.pop() if self._free else await opened(self._engine, self._path)
            try:
                yield Session(reader.connection, reader.driver, None, self._path)
                await reader.connection.rollback()
            except StoreError:
                await reader.connection.invalidate()  # whatever it was may be over for a new connection
                await reader.connection.close()
                raise
            except BaseException:
                await reader.connection.close()
                raise
            if generation == self._generation:
                self._free.append(reader)
            else:
                await reader.connection.close()

    async def dispose(self) -> None:
        """Close them all; those that are in use, when they are done."""
        self._generation += 1
        free, self._free = self._free, []
        for reader in free:
            await reader.connection.close()
        await self._engine.dispose()
