"""Limits the web server's connections: how many there are, and how long each may wait.

aiohttp itself accepts any number of connections, and waits for the first request of each for ever.
"""

import asyncio
from collections.abc import Callable

_MOST = 64
_SECONDS = 10.0
"""From connecting to the end of the request, and from there to the end of the answer."""

_IDLE_SECONDS = 75.0
"""Between an answer and the next request. Prometheus usually asks each minute."""


class Connections:
    """Makes a server's protocols. A connection is closed when its time is up, or when there are too many."""

    def __init__(self, inner: Callable[[], asyncio.Protocol], *, most: int = _MOST, seconds: float = _SECONDS) -> None:
        self._inner = inner
        self._most = most
        self._seconds = seconds
        # In the order in which they began to wait. Each handle closes its connection.
        self._waiting: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}
        self._answering: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}

    def __call__(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return _Connection(self._inner(), self)

    def opened(self, transport: asyncio.BaseTransport) -> None:
        """A client connected. If there are too many, the one that has been silent for longest is closed."""
        self._wait(transport, self._seconds)
        if len(self._waiting) + len(self._answering) > self._most:
            oldest = next(iter(self._waiting))
            self.closed(oldest)
            _end(oldest)

    def asked(self, transport: asyncio.BaseTransport | None) -> None:
        """A request was read."""
        if transport is not None and (handle := self._waiting.pop(transport, None)) is not None:
            handle.cancel()
            self._answering[transport] = _after(self._seconds, transport)

    def answered(self, transport: asyncio.BaseTransport | None) -> None:
        """The answer is there, and is about to be written."""
        if transport is not None and (handle := self._answering.pop(transport, None)) is not None:
            handle.cancel()
            self._wait(transport, _IDLE_SECONDS)

    def closed(self, transport: asyncio.BaseTransport) -> None:
        """The connection is gone."""
        for handle in (self._waiting.pop(transport, None), self._answering.pop(transport, None)):
            if handle is not None:
                handle.cancel()

    def _wait(self, transport: asyncio.BaseTransport, seconds: float) -> None:
        self._waiting[transport] = _after(seconds, transport)


def _after(seconds: float, transport: asyncio.BaseTransport) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(seconds, _end, transport)


def _end(transport: asyncio.BaseTransport) -> None:
    # Not `close`: that would wait until the client has read everything.
    assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - connections of TCP are
    transport.abort()


class _Connection(asyncio.Protocol):
    """aiohttp's protocol, which also tells `Connections` when it begins and ends."""

    def __init__(self, inner: asyncio.Protocol, connections: Connections) -> None:
        self._inner = inner
        self._connections = connections
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._inner.connection_made(transport)
        self._connections.opened(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._connections.closed(self._transport)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
