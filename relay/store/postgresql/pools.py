"""Connections for transactions: some of one store, or a few that all tenants of a process share.

Who wants one waits for a place, in the order of asking; one place is one connection at most, whatever happens to it.
Where stores share, nothing of one may be left to the next: what a transaction sets ends with it (`SET LOCAL`), one that
has not ended takes its connection along, and the server looks at a prepared statement again under another schema. A
single question has no transaction: it says in which schema first, unless it was asked there last (`use_schema`).
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import asyncpg

from relay.config.store_url import without_password
from relay.errors import StoreUnavailable
from relay.store.postgresql.connections import ERRORS, connect, quoted

_GRACE = 0.5  # seconds that the server has to take our leave


class Pool:
    """So many connections to one database, each for one transaction at a time."""

    def __init__(
        self,
        url: str,
        size: int,
        *,
        lock_timeout: float,
        patience: float | None = None,
        longest_wait: float | None = None,
        name: str = "relay",
    ) -> None:
        # How many were opened so far: a new one may lead to another server than those before.
        self.opened = 0
        self._url = url
        self._lock_timeout, self._patience, self._name = lock_timeout, patience, name
        self._longest_wait = longest_wait
        self._places = asyncio.Semaphore(size)
        # Of those, for stores that were held up by a lock: the others must not wait for them.
        self._places_for_slow = asyncio.Semaphore(max(1, size // 2))
        # The store that used it last, and the connection; what was used last is at the end.
        self._free: list[tuple[str, asyncpg.Connection]] = []
        # The schema in which each looks up names outside of transactions, where that was set since it was opened.
        self._schemas: WeakKeyDictionary[asyncpg.Connection, str] = WeakKeyDictionary()

    async def enter(self, store: str, *, slow: bool = False) -> "Place":
        """Wait for a place, for a transaction of that store. Raises `StoreUnavailable` after the longest wait."""
        wanted = (self._places_for_slow, self._places) if slow else (self._places,)
        taken: list[asyncio.Semaphore] = []
        try:
            async with asyncio.timeout(self._longest_wait):
                for places in wanted:
                    await places.acquire()
                    taken.append(places)
        except BaseException as error:
            for places in taken:
                places.release()
            if isinstance(error, TimeoutError):
                raise StoreUnavailable(
                    without_password(self._url), "all connections of this process are in use", "it is tried again"
                ) from error
            raise
        return Place(self, store, taken)

    async def close(self) -> None:
        """Close those that nobody uses."""
        free, self._free = self._free, []
        # All at once: a server that is silent is so on each of them.
        async with asyncio.TaskGroup() as group:
            for _, connection in free:
                group.create_task(close(connection))

    async def _open(self) -> asyncpg.Connection:
        self.opened += 1
        return await connect(self._url, lock_timeout=self._lock_timeout, patience=self._patience, name=self._name)

    def _take_free(self, store: str) -> asyncpg.Connection | None:
        """One that this store used last: the server need not look at its statements again. Else any."""
        self._free = [(last, one) for last, one in self._free if not one.is_closed()]
        if not self._free:
            return None
        fit = next((place for place in range(len(self._free) - 1, -1, -1) if self._free[place][0] == store), -1)
        return self._free.pop(fit)[1]


@dataclass(slots=True)
class Place:
    """The place of one transaction in a pool. `leave` gives it back."""

    _pool: Pool
    _store: str
    _taken: list[asyncio.Semaphore]
    connection: asyncpg.Connection | None = field(init=False, default=None)
    # Whether the connection was opened for this transaction.
    is_new: bool = field(init=False, default=False)

    async def open(self, *, new: bool = False) -> asyncpg.Connection:
        """Its connection. `new`: no other one will do."""
        if self.connection is None:
            free = None if new else self._pool._take_free(self._store)
            self.is_new = free is None
            self.connection = free or await self._pool._open()
        return self.connection

    async def use_schema(self, schema: str) -> None:
        """Until something else is said, its connection looks up names there. A transaction that says so itself does."""
        if self.connection is not None and schema and self._pool._schemas.get(self.connection) != schema:
            await self.connection.execute(f"SET search_path = {quoted(schema)}")
            self._pool._schemas[self.connection] = schema

    def drop(self) -> None:
        """End the connection: it is lost, or nobody knows what is left on it."""
        dropped, self.connection = self.connection, None
        if dropped is not None:
            dropped.terminate()

    def leave(self) -> None:
        """Let somebody else have the place, and the connection if its transaction has ended."""
        if self.connection is not None and (self.connection.is_closed() or self.connection.is_in_transaction()):
            self.drop()
        if self.connection is not None:
            self._pool._free.append((self._store, self.connection))
            self.connection = None
        for places in self._taken:
            places.release()
        self._taken = []


async def close(connection: asyncpg.Connection) -> None:
    """Close it in good order, if the server listens."""
    with suppress(*ERRORS):
        await connection.close(timeout=_GRACE)
