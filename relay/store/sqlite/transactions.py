"""Transactions: the one connection that writes, a few that only read, and a repository's way to either.

A commit waits for the disk: 0.2 ms on a good one, 10 ms on a poor one. So write transactions that queue up behind each
other share one transaction of SQLite: each has a savepoint of its own, and one commit ends them all. Each of them
returns once the data is on the disk. A transaction that nobody queues behind is committed at once.

If a statement fails because of its own values, only its transaction is undone. This can come to light late, because
deferred statements of one transaction may run together with the next one's.

The last of those that are queued commits for all. If it is cancelled before its turn, or undone, a task commits for
those that wait for it.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Executable, Row
from sqlalchemy.dialects.sqlite import dialect
from sqlalchemy.exc import SQLAlchemyError

from relay.domain.ids import ChannelRef, MessageRef
from relay.errors import StoreError, StoreUnavailable
from relay.logs import get_logger
from relay.store.prepared import Prepared, prepared
from relay.store.sqlite.driver import CertainFuture, Outcome, PipelineConnection, Step, executed, settled
from relay.store.sqlite.engine import READERS, begin_immediate, begin_snapshot, opened, translated
from relay.store.tables import packed
from relay.store.transaction import Chain, one_less

_log = get_logger(__name__)

_DIALECT = dialect()
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


@dataclass(slots=True)
class SqliteTransaction:
    """Runs statements in one transaction of `connection`. Errors of SQLite and of the disk become `StoreError`s."""

    connection: PipelineConnection
    path: Path
    read_only: bool = False
    # See `Store.look`; None: as many statements as anybody likes.
    looks: int | None = None

    async def all(self, statement: Executable, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """Every row."""
        query, outcome = await self._run(statement, values)
        return query.rows(outcome.rows, outcome.names)

    async def first(self, statement: Executable, values: Mapping[str, Any]) -> Row[Any] | None:
        """The first row, None if there is none."""
        query, outcome = await self._run(statement, values)
        return next(iter(query.rows(outcome.rows[:1], outcome.names)), None)

    async def execute(self, statement: Executable, values: Mapping[str, Any]) -> int:
        """Change rows. Returns how many were changed."""
        _, outcome = await self._run(statement, values)
        return outcome.changed

    async def _run(self, statement: Executable, values: Mapping[str, Any]) -> tuple[Prepared, Outcome]:
        if self.looks is not None:
            self.looks = one_less(self.looks)
        query = prepared(statement, values, _DIALECT)
        sql, parameters = query.sql, query.bind(values)
        with translated(self.path):
            return query, await self.connection.submit(lambda connection: executed(connection, sql, parameters))

    async def execute_all(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement that changes something once for each of `rows`."""
        if not rows:
            return
        query = prepared(statement, rows[0], _DIALECT)
        sql, parameters = query.sql, [query.bind(values) for values in rows]
        with translated(self.path):
            await self.connection.submit(lambda connection: connection.executemany(sql, parameters).close())

    async def record_channel(self, channel: ChannelRef) -> None:
        """Give a channel its row, if it has none yet. Runs with the next statement."""
        self._defer(_CHANNEL, (channel.platform.value, channel.id))

    async def record_last_copy(self, message_id: int, copy: MessageRef) -> None:
        """Record the copy of an original as the last one in its channel and lane. Runs with the next statement."""
        channel, copied = (copy.platform.value, copy.channel.id), packed(copy.id)
        self._defer(_LAST_COPY, (*channel, copied))
        self._defer(_LAST_COPY_OF_LANE, (copied, *channel, message_id))

    async def defer(self, statement: Executable, values: Mapping[str, Any]) -> None:
        """Change something without waiting for the result: it runs with the next statement, or with the commit."""
        query = prepared(statement, values, _DIALECT)
        self._defer(query.sql, query.bind(values))

    async def defer_chain(self, *statements: tuple[Executable, Mapping[str, Any]]) -> Chain:
        """See `Transaction.defer_chain`."""
        queries = [prepared(statement, values, _DIALECT) for statement, values in statements]
        bound = [query.bind(values) for query, (_, values) in zip(queries, statements, strict=True)]
        outcomes: list[Outcome] = []

        def step(connection: sqlite3.Connection) -> None:
            for query, parameters in zip(queries, bound, strict=True):
                outcome = executed(connection, query.sql, parameters)
                if not outcome.rows:
                    return
                outcomes.append(outcome)

        self._defer_step(step)
        return lambda: [
            query.rows(outcome.rows[:1], outcome.names)[0] for query, outcome in zip(queries, outcomes, strict=False)
        ]

    def _defer(self, sql: str, parameters: tuple[Any, ...]) -> None:
        self._defer_step(lambda connection: executed(connection, sql, parameters))

    def _defer_step(self, step: Step) -> None:
        if self.read_only:
            raise TypeError("a read transaction cannot change anything")
        self.connection.defer(step)


@dataclass(slots=True)
class _CommitGroup:
    """Transactions that share a commit."""

    connection: PipelineConnection
    path: Path
    # How many of them have written something.
    members: int = 0
    # Whether it was committed or rolled back: has a result then.
    ended: CertainFuture[None] = field(default_factory=CertainFuture)
    # Why all of them were rolled back.
    failure: BaseException | None = None

    def raise_failure(self) -> None:
        """Raise the failure, as a new error for each member."""
        if isinstance(self.failure, StoreError):
            raise type(self.failure)(self.path, self.failure.reason, self.failure.remedy)
        if self.failure is not None:
            raise self.failure


class Writer:
    """Write transactions, one at a time.

    `replaced` is called when there is another file under the store's name.
    """

    def __init__(self, path: Path, busy_timeout: float, replaced: Callable[[], Awaitable[None]]) -> None:
        self.fence: Step | None = None
        self._path = path
        self._replaced = replaced
        self._busy_timeout = busy_timeout
        self._lock = asyncio.Lock()
        self._queued = 0
        self._connection: PipelineConnection | None = None
        self._file: tuple[int, int] | None = None
        self._group: _CommitGroup | None = None
        self._commits: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqliteTransaction]:
        """A transaction that commits when its block ends and rolls back when it raises."""
        self._queued += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._queued -= 1
            self._commit_for_others()
            raise
        self._queued -= 1
        try:
            group = await self._join_group()
            connection = group.connection
            late_errors: list[Exception] = []
            try:
                yield SqliteTransaction(connection, self._path)
                with translated(self._path):
                    connection.end_unit(late_errors.append)
            except BaseException as error:
                await settled(asyncio.create_task(self._undo(group, error), name="rollback"))
                raise
            group.members += connection.active
            if not self._queued:
                await self._commit(group)
        finally:
            self._lock.release()
            self._commit_for_others()
        if not group.ended.done():
            await group.ended
        group.raise_failure()
        if late_errors:
            raise late_errors[0]

    async def close(self) -> None:
        """Close the connection when the running transactions have ended."""
        async with self._lock:
            if self._group is not None:
                await self._commit(self._group)
            await self._drop()

    def _first_steps(self) -> tuple[Step, ...]:
        steps = (begin_immediate,)
        return steps if self.fence is None else (*steps, self.fence)

    async def _join_group(self) -> _CommitGroup:
        group = self._group
        if group is None:
            group = self._group = _CommitGroup(await self._open(), self._path)
            group.connection.begin()
        elif group.members:
            group.connection.next_unit()
        return group

    async def _open(self) -> PipelineConnection:
        """A connection to the file that is under the store's name now."""
        with translated(self._path):
            status = self._path.stat()
        file = (status.st_dev, status.st_ino)
        if self._connection is not None and file != self._file:
            await self._drop()
            await self._replaced()
        if self._connection is None:
            self._connection = await opened(
                self._path, self._first_steps, read_only=False, busy_timeout=self._busy_timeout
            )
            self._file = file
        return self._connection

    def _commit_for_others(self) -> None:
        """Commit the group whose members wait for that, if nobody is left to do it."""
        group = self._group
        if group is not None and not self._queued and not self._lock.locked():
            task = asyncio.create_task(self._commit_in_turn(group), name="commit")
            self._commits.add(task)
            task.add_done_callback(self._commits.discard)

    async def _commit_in_turn(self, group: _CommitGroup) -> None:
        async with self._lock:
            await self._commit(group)

    async def _commit(self, group: _CommitGroup) -> None:
        """Commit the group. If that fails, every member raises the error. A cancellation is raised after that."""
        if group.ended.done():
            return
        cancelled: asyncio.CancelledError | None = None
        try:
            with translated(self._path):
                cancelled = await group.connection.commit_units()
                group.connection.raise_failure()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - every member raises it
            await settled(asyncio.create_task(self._fail(group, error), name="rollback"))
        else:
            self._end(group)
        if cancelled is not None:
            raise cancelled

    async def _undo(self, group: _CommitGroup, error: BaseException) -> None:
        """Undo one transaction. The earlier ones of the group are undone only if they cannot be kept."""
        if group.members and not group.connection.lost:
            try:
                await group.connection.undo_unit()
            except sqlite3.Error as failure:
                error = failure
            else:
                return
        await self._fail(group, error)

    async def _fail(self, group: _CommitGroup, error: BaseException) -> None:
        """Roll back the whole group. After an error of the disk, drop the connection too."""
        if isinstance(error, StoreError | SQLAlchemyError):
            group.failure = error
        else:
            reason = f"a transaction that shared its commit failed ({type(error).__name__})"
            group.failure = StoreUnavailable(self._path, reason, "the relay tries again by itself")
        self._end(group)
        try:
            await group.connection.rollback()
        except sqlite3.Error as failure:
            _log.warning("a transaction of the store was not rolled back", reason=str(failure))
            await self._drop()
            return
        if isinstance(error, StoreUnavailable):
            await self._drop()

    def _end(self, group: _CommitGroup) -> None:
        if not group.ended.done():
            group.ended.set_result(None)
        if self._group is group:
            self._group = None

    async def _drop(self) -> None:
        dropped, self._connection = self._connection, None
        if dropped is not None:
            await dropped.end()


class Readers:
    """A few connections that only read, each for one reader at a time.

    They stay open: opening one for each look-up costs more than the look-up.
    """

    def __init__(self, path: Path, busy_timeout: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._slots = asyncio.Semaphore(READERS)
        self._free: list[PipelineConnection] = []
        self._generation = 0

    @asynccontextmanager
    async def transaction(self, *, looks: int | None = None) -> AsyncIterator[SqliteTransaction]:
        """A consistent view that changes nothing. Raises `StoreError`."""
        async with self._slots:
            generation = self._generation
            reader = self._free.pop() if self._free else await self._open()
            usable = True
            try:
                reader.begin()
                yield SqliteTransaction(reader, self._path, read_only=True, looks=looks)
            except StoreError:
                usable = False  # a new connection may work again
                raise
            finally:
                await reader.rollback()
                if usable and generation == self._generation:
                    self._free.append(reader)
                else:
                    await reader.end()

    def look(self) -> AbstractAsyncContextManager[SqliteTransaction]:
        """See `Store.look`. Here it costs what a view costs."""
        return self.transaction(looks=1)

    async def _open(self) -> PipelineConnection:
        return await opened(self._path, lambda: (begin_snapshot,), read_only=True, busy_timeout=self._busy_timeout)

    async def dispose(self) -> None:
        """Close all of them. Those in use are closed when their reader is done."""
        self._generation += 1
        free, self._free = self._free, []
        for reader in free:
            await reader.end()
