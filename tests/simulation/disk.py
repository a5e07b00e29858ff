"""The real SQLite store without threads: every trip to the database takes a moment of virtual time instead.

aiosqlite carries out each call on a thread; whose turn it is there is up to the operating system, so nothing would be
replayable. Here its queue carries the call out on the loop: first some time passes, then the database does the work,
then some time passes before the caller hears of it. A kill can fall on either side of the work.
"""

import asyncio
import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiosqlite.core
import pytest

from tests.simulation.loop import VirtualLoop

Call = tuple["asyncio.Future[Any] | None", Callable[[], Any]]


class Disk:
    """The machine's disk in one life of the process. A dead process writes nothing more."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._connections: list[aiosqlite.core.Connection] = []
        self.dead = False

    def pause(self) -> float:
        """Seconds that one way of a trip takes: mostly none worth the name, now and then a hiccup."""
        return 0.0 if self._rng.random() < 0.9 else self._rng.uniform(0.0, 0.02)

    def made(self, connection: aiosqlite.core.Connection) -> None:
        """Remember a connection, to be cut off."""
        self._connections.append(connection)

    def die(self) -> None:
        """The process is gone: what was not committed is rolled back."""
        self.dead = True
        for connection in self._connections:
            if connection._connection is not None:
                connection._connection.close()
                connection._connection = None


class _Queue:
    """In place of `SimpleQueue`: one call after the other, on the loop."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._calls: list[Call] = []
        self._busy = False

    def put_nowait(self, call: Call) -> None:
        if self._disk.dead:
            _refuse(call[0])
            return
        self._calls.append(call)
        if not self._busy:
            self._busy = True
            self._later(self._work)

    def _later(self, callback: Callable[..., None], *arguments: Any) -> None:
        loop = asyncio.get_running_loop()
        if pause := self._disk.pause():
            loop.call_later(pause, callback, *arguments)
        else:
            loop.call_soon(callback, *arguments)

    def _work(self) -> None:
        future, function = self._calls.pop(0)
        if self._disk.dead:
            self._refuse_all(future)
            return
        outcome: Any = None
        error: BaseException | None = None
        try:
            outcome = function()
        except Exception as raised:  # noqa: BLE001 - aiosqlite hands every error to the caller, and so does this
            error = raised
        self._later(self._answer, future, outcome, error)

    def _answer(self, future: "asyncio.Future[Any] | None", outcome: Any, error: BaseException | None) -> None:
        if self._disk.dead:
            self._refuse_all(future)
            return
        if future is not None and not future.done():
            if error is None:
                future.set_result(outcome)
            else:
                future.set_exception(error)
        self._busy = bool(self._calls)
        if self._busy:
            self._later(self._work)

    def _refuse_all(self, first: "asyncio.Future[Any] | None") -> None:
        """Nobody waits for the disk of a dead process: who waits for its answer cannot be cancelled."""
        for future in (first, *(future for future, _ in self._calls)):
            _refuse(future)
        self._calls.clear()


def _refuse(future: "asyncio.Future[Any] | None") -> None:
    if future is not None and not future.done():
        future.set_exception(sqlite3.OperationalError("this process is dead"))
        future.exception()  # seen: the dead report nothing


class _NoThread:
    """In place of `Thread`: there is none."""

    daemon = True

    def __init__(self, **_: Any) -> None: ...

    def start(self) -> None: ...


@dataclass(frozen=True, slots=True)
class File:
    """`Place` for a store in a file."""

    path: Path
    takes_any_bytes: bool = True

    @property
    def url(self) -> str:
        """See `Place`."""
        return f"sqlite:///{self.path}"

    @property
    def troubles(self) -> dict[str, int]:
        """See `Place`: this disk always works."""
        return {}

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """See `Place`."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(sql, values).fetchall()

    def change(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """See `Place`."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.executemany(sql, rows)

    @contextmanager
    def life(self, rng: random.Random, loop: VirtualLoop) -> Iterator[Disk]:
        """See `Place`."""
        disk = Disk(rng)
        with threadless(disk):
            yield disk


@contextmanager
def threadless(disk: Disk) -> Iterator[None]:
    """While this lasts, new aiosqlite connections work on the loop."""
    make = aiosqlite.core.Connection.__init__

    def made(self: aiosqlite.core.Connection, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        disk.made(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aiosqlite.core.Connection, "__init__", made)
        patch.setattr(aiosqlite.core, "SimpleQueue", lambda: _Queue(disk))
        patch.setattr(aiosqlite.core, "Thread", _NoThread)
        yield
