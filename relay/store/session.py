"""One transaction's way to the database, shared by its repositories."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import Executable, Row, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.domain.ids import ChannelRef, MessageRef
from relay.store.sqlite.driver import PipelineConnection
from relay.store.sqlite.failures import translated
from relay.store.tables import packed

T = TypeVar("T")

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
