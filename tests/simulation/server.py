"""A real PostgreSQL server, with one store for each history; and a loop of its own for who looks at it from outside."""

import asyncio
import os
import random
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from relay.store.migrate import upgrade
from relay.store.postgresql.shared import forget_all
from tests.simulation.lines import Lines
from tests.simulation.loop import VirtualLoop
from tests.simulation.mishaps import Mishaps
from tests.support.postgresql import SHORT, Server, start, stop

T = TypeVar("T")

_USER = "daemon"
_TEMPLATE = "migrated"


@dataclass(slots=True)
class OwnServer:
    """A server that nothing else uses, so that it may be restarted. `begin` starts it; it ends with this process."""

    folder: Path
    _process: int = field(init=False, default=0)
    _admin: "_Admin" = field(init=False)

    def begin(self) -> None:
        """Start it, and make the tables that every history starts from."""
        self._process = start(self.folder, os.getpid())
        self._admin = _Admin(Server(self.folder).url("postgres"))
        self._admin.run(f"CREATE ROLE {_USER} LOGIN")
        self._admin.run(f"CREATE DATABASE {_TEMPLATE} OWNER {_USER}")
        upgrade(self.url(_TEMPLATE))

    def end(self) -> None:
        """Stop it."""
        self._admin.close()
        stop(self._process, signal.SIGINT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        """As the relay is told: for somebody who owns the database, and may do nothing else."""
        return f"postgresql://{_USER}@/{database}?host={self.folder}"

    @property
    def socket(self) -> str:
        """Its path."""
        return str(self.folder / ".s.PGSQL.5432")

    def restart(self, *, crash: bool) -> None:
        """Let it end in good order, or as in a crash, and start it again."""
        self._admin.close()
        stop(self._process, signal.SIGQUIT if crash else signal.SIGINT)
        self._process = start(self.folder, os.getpid())

    def run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement as the server's owner."""
        return self._admin.run(sql, *values)

    @contextmanager
    def place(self, seed: int, mishaps: Mishaps) -> Iterator["Base"]:
        """A store for one history. Every other one has its connections as a tenant of many has them."""
        name = f"seed_{seed}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} OWNER {_USER}")
        base = Base(self, name, mishaps, shared=seed % 2 == 1)
        try:
            yield base
        finally:
            base.leave()
            self.run(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """A new one, gone afterwards."""
    server = OwnServer(Path(tempfile.mkdtemp(prefix="relay-pg-sim-", dir=SHORT)))
    server.begin()
    try:
        yield server
    finally:
        server.end()


class Base:
    """`Place` for a store on the server: `mishaps` says what goes wrong with it."""

    takes_any_bytes = False

    def __init__(self, server: OwnServer, name: str, mishaps: Mishaps, *, shared: bool) -> None:
        self._server = server
        self._shared = shared
        self._name = name
        self._mishaps = mishaps
        # Of `SPELLS`: what the server is under, which outlasts a process that is killed meanwhile.
        self.holds: str | None = None
        self._admin = _Admin(Server(server.folder).url(name))

    @property
    def url(self) -> str:
        """See `Place`."""
        url = self._server.url(self._name)
        return f"{url}&search_path=public" if self._shared else url

    @property
    def troubles(self) -> dict[str, int]:
        """See `Place`."""
        return self._mishaps.counts

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """See `Place`."""
        numbers = iter(range(1, 100))
        return self._admin.run(re.sub(r"\?", lambda _: f"${next(numbers)}", sql), *values)

    def change(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """See `Place`."""
        for row in rows:
            self.rows(sql, *row)

    @contextmanager
    def life(self, rng: random.Random, loop: VirtualLoop) -> Iterator[Lines]:
        """See `Place`."""
        lines = Lines(loop, self._server.socket, self._mishaps, self)
        loop.connect = lines.connect
        try:
            yield lines
        finally:
            lines.die()
            forget_all()  # as a process that ends

    def leave(self) -> None:
        """Nobody looks at it any more."""
        self._admin.close()

    def wait_until_gone(self, process: int | None = None) -> None:
        """Until the server has noticed that a connection of the relay has ended: one, or all of them."""
        which = "" if process is None else f" AND pid = {process}"
        sql = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{self._name}' AND usename = '{_USER}'{which}"
        while self._server.run(sql):
            pass

    def end_connections(self) -> None:
        """End all connections of the relay."""
        self._server.run(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'"
            f" AND usename = '{_USER}'"
        )
        self.wait_until_gone()

    def make_read_only(self, on: bool) -> None:
        """Nothing can be written from now on, as after a failover to a server that is only being read."""
        self._server.run(f"ALTER DATABASE {self._name} SET default_transaction_read_only = {'on' if on else 'off'}")
        self.end_connections()

    def crowd(self, on: bool) -> None:
        """Others have all connections of the server."""
        self._server.run(f"ALTER DATABASE {self._name} CONNECTION LIMIT {0 if on else -1}")
        self.end_connections()

    def restart(self, *, crash: bool) -> None:
        """The whole server is restarted."""
        self._admin.close()
        self._server.restart(crash=crash)


class _Admin:
    """A connection of somebody who may do everything, made when it is used; for code that is in no loop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.new_event_loop()
        self._connection: asyncpg.Connection | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self._in_thread(self._run(sql, values))

    def close(self) -> None:
        self._in_thread(self._close())

    def _in_thread(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _run(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        if self._connection is None or self._connection.is_closed():
            settings = {"default_transaction_read_only": "off"}
            self._connection = await asyncpg.connect(self._url, server_settings=settings)
        return [tuple(row) for row in await self._connection.fetch(sql, *values)]

    async def _close(self) -> None:
        if self._connection is not None:
            await self._connection.close(timeout=5)
            self._connection = None
