"""The one connection that writes, and transactions that share a commit.

A commit waits for the disk: a fifth of a millisecond on a good one, ten on a poor one. So transactions that queue up
behind each other go into one transaction of SQLite, each behind a savepoint of its own, and one commit ends them
all; each returns once that is on the disk. A lone transaction is committed at once. One whose statements are at fault
is undone alone, whenever that turns out: what it deferred may be carried out in the turn of the next.

Who has finished queues up again, to commit: by then those that were waiting have had their turn, and whoever comes
first commits for all. Nobody relies on another to do it.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from relay.errors import StoreError, StoreUnavailable
from relay.store.session import EntryNumbers, Session
from relay.store.sqlite.driver import PipelineConnection, Step, settled
from relay.store.sqlite.engine import begin_immediate, driver_of, writer_engine
from relay.store.sqlite.failures import translated

_log = structlog.get_logger(__name__)


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
