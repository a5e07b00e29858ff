"""The gateway: https://discord.com/developers/docs/events/gateway. One connection is in `connection.py`."""

from collections import deque
from collections.abc import Callable
from typing import Any

from aiohttp import web

from relay.sandbox.gateway.connection import Connection
from relay.sandbox.gateway.sessions import Sessions
from relay.sandbox.rest.errors import Json
from relay.sandbox.rest.faults import Faults
from relay.sandbox.world import render


class Gateway:
    """Accepts connections. `heartbeat_interval` in seconds."""

    def __init__(self, sessions: Sessions, faults: Faults, heartbeat_interval: float) -> None:
        self.sessions = sessions
        self.faults = faults
        self.heartbeat_interval = heartbeat_interval
        self.connections: set[Connection] = set()
        self.acknowledge = True
        self.refuse = 0
        self.offline = False
        self.history: deque[Json] = deque(maxlen=1000)
        self.listeners: list[Callable[[Json], None]] = []

    async def accept(self, request: web.Request) -> web.StreamResponse:
        """One connection, from its start to its end."""
        if self.offline or self.refuse:
            self.refuse = max(0, self.refuse - 1)
            self.faults.note("gateway_refused")
            return web.Response(status=503, text="sandbox: no gateway")
        socket = web.WebSocketResponse(compress=False, max_msg_size=1 << 20, timeout=1.0)
        await socket.prepare(request)
        connection = Connection(self, socket, request)
        self.connections.add(connection)
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)
        return socket

    def note(self, what: str, **details: Any) -> None:
        """Remember what a client did, for the control interface."""
        entry = {"what": what, "at": render.iso(self.sessions.state.clock())} | details
        self.history.append(entry)
        for listener in self.listeners:
            listener(entry)

    # --- Done to the connections at once ------------------------------------------------------------------

    def drop(self, code: int) -> int:
        """Close every connection with a code; how many there were."""
        for connection in tuple(self.connections):
            self.faults.note(f"gateway_close_{code}")
            connection.close(code)
        return len(self.connections)

    def abort(self) -> int:
        """Reset every connection's TCP stream; how many there were."""
        for connection in tuple(self.connections):
            self.faults.note("gateway_abort")
            connection.abort()
        return len(self.connections)

    def ask_reconnect(self) -> int:
        """Opcode 7; how many connections there were."""
        for connection in tuple(self.connections):
            self.faults.note("gateway_reconnect")
            connection.send({"op": 7, "d": None, "s": None, "t": None})
        return len(self.connections)

    def invalidate(self, *, resumable: bool) -> int:
        """Opcode 9. Not resumable: sessions without a connection are forgotten too."""
        for session in tuple(self.sessions.by_id.values()):
            if session.sender is None and not resumable:
                self.sessions.end(session)
        for connection in tuple(self.connections):
            self.faults.note("session_invalidated")
            connection.invalidate(resumable=resumable)
        return len(self.connections)

    def send_garbage(self, event: str = "MESSAGE_CREATE") -> int:
        """A dispatch that no client can parse, to every session."""
        for session in self.sessions.by_id.values():
            self.faults.note("gateway_unparseable")
            session.dispatch(event, {"id": "not a snowflake", "sandbox": True})
        return len(self.sessions.by_id)
