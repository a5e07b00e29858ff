"""Connections that only read, kept open: opening one for each look-up costs more than the look-up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from relay.errors import StoreError
from relay.store.session import Session
from relay.store.sqlite.engine import READERS, reader_engine
from relay.store.sqlite.writer import Opened, opened


class Readers:
    """A few connections, each for one reader at a time."""

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
