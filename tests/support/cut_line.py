"""A line to PostgreSQL that is cut while the server answers a COMMIT, or on which nothing passes for a while."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"  # https://www.postgresql.org/docs/current/protocol-message-formats.html


@dataclass(slots=True)
class CutLine:
    """Passes everything on, but for the answers to as many commits as `answers_lost` says."""

    # The server's socket.
    server: Path
    answers_lost: int = 0
    # Commits that never get to the server.
    commits_lost: int = 0
    # Refuses every new connection as long as it is set.
    refuses: bool = False
    # Words of a statement with which everything falls silent.
    silent_at: bytes | None = None
    # How many lines were cut.
    cut: int = 0
    # Cleared: nothing passes, and neither side is told.
    passes: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    # One for each connection that is open.
    taken: set[asyncio.Task[None]] = field(init=False, default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.passes.set()

    def hang_up(self) -> None:
        """Close all connections."""
        for writer in tuple(self._writers):
            writer.close()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side or a cut ends it."""
        if (task := asyncio.current_task()) is not None:
            self.taken.add(task)
            task.add_done_callback(self.taken.discard)
        if self.refuses:
            writer.close()
            return
        self._writers.add(writer)
        await self.passes.wait()
        try:
            to_server, from_client = await asyncio.open_unix_connection(str(self.server))
        except OSError:
            self._writers.discard(writer)
            writer.close()
            return
        self._writers.add(from_client)
        silent = asyncio.Event()
        tasks = [
            asyncio.create_task(self._up(reader, from_client, silent)),
            asyncio.create_task(self._down(to_server, writer, silent)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for end in (writer, from_client):
            end.close()
            with suppress(OSError):
                await end.wait_closed()
            self._writers.discard(end)

    async def _up(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.silent_at is not None and self.silent_at in data:
                    self.passes.clear()
                await self.passes.wait()
                if _COMMIT in data and self.commits_lost:
                    self.commits_lost -= 1
                    self.cut += 1
                    return
                if _COMMIT in data and self.answers_lost:
                    self.answers_lost -= 1
                    silent.set()
                server.write(data)
                await server.drain()

    async def _down(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self.passes.wait()
                if silent.is_set():
                    self.cut += 1
                    return
                client.write(data)
                await client.drain()


@asynccontextmanager
async def cut_line(server: Path, folder: Path) -> AsyncIterator[CutLine]:
    """A line from a socket in `folder` to the server's."""
    line = CutLine(server / ".s.PGSQL.5432")
    listener = await asyncio.start_unix_server(line.take, folder / ".s.PGSQL.5432")
    try:
        yield line
    finally:
        listener.close()
        line.passes.set()
        line.hang_up()
        if line.taken:
            await asyncio.wait(line.taken)
