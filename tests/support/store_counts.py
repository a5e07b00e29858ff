"""Counts what the store asks of SQLite: trips to its thread, transactions, statements. Numbers, never times."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

from relay.store.sqlite.driver import PipelineConnection

T = TypeVar("T")


@dataclass(slots=True)
class StoreCounts:
    """What was counted since `reset`."""

    transactions: int = 0  # that write
    trips: int = 0  # for those
    reads: int = 0  # trips for those that only read
    # By the first word: INSERT, SELECT, … What triggers do is not counted, nor COMMIT.
    statements: Counter[str] = field(default_factory=Counter)

    def reset(self) -> None:
        """Count from 0."""
        self.transactions = self.trips = self.reads = 0
        self.statements.clear()

    def count(self, statement: str) -> None:
        """SQLite is given a statement."""
        self.transactions += statement == "BEGIN IMMEDIATE"
        self.statements[statement.split(maxsplit=1)[0].upper()] += 1


@contextmanager
def counting() -> Iterator[StoreCounts]:
    """Count for each store that is opened inside the block."""
    counts = StoreCounts()
    connect, trip = sqlite3.connect, PipelineConnection._trip

    class Counted(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            counts.count(sql)
            return super().execute(sql, *parameters)

    async def counted(self: PipelineConnection, work: Callable[[], T]) -> T:
        if self._read_only:
            counts.reads += 1
        else:
            counts.trips += 1
        return await trip(self, work)

    connecting = patch.object(sqlite3, "connect", partial(connect, factory=Counted))
    with connecting, patch.object(PipelineConnection, "_trip", counted):
        yield counts
