"""A TCP gate in front of a server: shut, nobody gets through; stuck, everybody waits for ever."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from relay.demo.homeserver import free_port


class Gate:
    """Forwards connections to the server of `url`; an async context manager.

    `shut` refuses connections and resets those that stand, `stick` takes them and says nothing, `open` forwards.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._behind = parts.hostname or "", parts.port or 80
        self._port = free_port()
        self._stuck = False
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        """Where the server seems to be; the same whatever the gate does."""
        return f"http://127.0.0.1:{self._port}"

    async def open(self) -> None:
        """Let everybody through from now on."""
        await self.shut()
        self._stuck = False
        await self._listen()

    async def shut(self) -> None:
        """Refuse everybody from now on."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task, writer in tuple(self._connections.items()):
            writer.transport.abort()
            task.cancel()
        while self._connections:
            await asyncio.wait(tuple(self._connections))

    async def stick(self) -> None:
        """Take connections and answer nothing from now on."""
        await self.shut()
        self._stuck = True
        await self._listen()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shut()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.CancelledError):
                if self._stuck:
                    await reader.read(-1)
                    return
                behind_reader, behind_writer = await asyncio.open_connection(self._host, self._behind)
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(_pump(reader, behind_writer))
                        group.create_task(_pump(behind_reader, writer))
                finally:
                    behind_writer.transport.abort()
        finally:
            writer.transport.abort()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        target.write_eof()
