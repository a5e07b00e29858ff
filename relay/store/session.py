"""One transaction's way to the database, shared by its repositories."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Executable, Row
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.store.driver import PipelineConnection
from relay.store.failures import translated


class Session:
    """Executes statements in the transaction of `connection`; raises only `StoreError`s for what the disk does."""

    def __init__(self, connection: AsyncConnection, driver: PipelineConnection, path: Path) -> None:
        self._connection = connection
        self._driver = driver
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

    async def insert(self, statement: Executable, values: Mapping[str, Any]) -> int:
        """Insert a row; its ID."""
        with translated(self._path):
            result = await self._connection.execute(statement, values)
            key = result.inserted_primary_key
        if key is None:
            raise TypeError("the statement inserts nothing")
        return int(key[0])

    async def later(self, statement: Executable, values: Mapping[str, Any]) -> None:
        """Change something whose outcome nobody asks for: carried out with the next statement, or the commit."""
        with translated(self._path), self._driver.deferring():
            await self._connection.execute(statement, values)
