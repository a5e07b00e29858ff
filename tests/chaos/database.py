"""A PostgreSQL that misbehaves: connections are ended, and the server is restarted or crashes, at any moment."""

import asyncio
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.postgresql import SHORT, Server, start, stop

_END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'relay%'"


@dataclass(slots=True)
class Database:
    """A server of its own, and what is done to it."""

    server: Server
    trace: Callable[[str], None]
    rng: random.Random
    happened: Counter[str] = field(default_factory=Counter)
    _process: int = 0

    @property
    def url(self) -> str:
        """Of the store."""
        return self.server.url("postgres")

    def known(self) -> set[str]:
        """The messages that the relay has on record."""
        with suppress(OSError):
            return {str(row[0]) for row in self.server.run("SELECT native_id FROM message")}
        return set()

    async def begin(self) -> None:
        """Start the server."""
        self._process = await asyncio.to_thread(start, self.server.folder, os.getpid())

    async def disturb(self, slower: float = 1.0) -> None:
        """Something every few seconds, or so many times more rarely, until cancelled; then the server runs."""
        while True:
            await asyncio.sleep(slower * self.rng.uniform(2.0, 12.0))
            what = self.rng.choice(("connections ended", "restarted", "crashed", "away"))
            self.trace(f"DATABASE {what}")
            self.happened[f"database {what}"] += 1
            doing = asyncio.create_task(self._do(what))
            try:
                await asyncio.shield(doing)
            except asyncio.CancelledError:
                await doing  # the server has to run in the end
                raise

    async def _do(self, what: str) -> None:
        if what == "connections ended":
            await asyncio.to_thread(self.server.run, _END)
            return
        await asyncio.to_thread(stop, self._process, signal.SIGQUIT if what == "crashed" else signal.SIGINT)
        if what == "away":
            await asyncio.sleep(self.rng.uniform(0.5, 6.0))
        await self.begin()


@asynccontextmanager
async def database(seed: int, trace: Callable[[str], None]) -> AsyncIterator[Database]:
    """A new one, gone afterwards. A socket's path is short, so its folder is not among the run's."""
    folder = Path(tempfile.mkdtemp(prefix="relay-pg-chaos-", dir=SHORT))
    found = Database(Server(folder), trace, random.Random(f"database {seed}"))
    try:
        await found.begin()
        yield found
    finally:
        await asyncio.to_thread(stop, found._process, signal.SIGINT)
        shutil.rmtree(folder, ignore_errors=True)
