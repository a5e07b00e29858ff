"""The gateway and its connections: https://discord.com/developers/docs/events/gateway."""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

from relay.sandbox.faults import Faults, GatewayFault, reset
from relay.sandbox.gateway.handshake import (
    FATAL,
    REASONS,
    Closed,
    Compressor,
    check_identify,
    compressor_for,
    members_chunk,
)
from relay.sandbox.gateway.sessions import Session, Sessions
from relay.sandbox.world import render
from relay.sandbox.world.dispatch import Intent
from relay.sandbox.world.models import Json
from relay.sandbox.world.state import new_token

MAX_PAYLOAD = 4096


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

    # Each is about all shards, or about one; and returns how many connections that were.

    def drop(self, code: int, shard: int | None = None) -> int:
        """Close with a code."""
        return self._each(shard, f"gateway_close_{code}", lambda connection: connection.close(code))

    def abort(self, shard: int | None = None) -> int:
        """Reset the TCP stream."""
        return self._each(shard, "gateway_abort", lambda connection: connection.abort())

    def ask_reconnect(self, shard: int | None = None) -> int:
        """Opcode 7."""
        ask: Json = {"op": 7, "d": None, "s": None, "t": None}
        return self._each(shard, "gateway_reconnect", lambda connection: connection.send(ask))

    def invalidate(self, shard: int | None = None, *, resumable: bool) -> int:
        """Opcode 9. Not resumable: sessions without a connection are forgotten too."""
        for session in tuple(self.sessions.by_id.values()):
            if session.sender is None and not resumable and shard in {None, session.shard.number}:
                self.sessions.end(session)
        return self._each(shard, "session_invalidated", lambda connection: connection.invalidate(resumable=resumable))

    def _each(self, shard: int | None, fault: str, strike: "Callable[[Connection], None]") -> int:
        struck = [connection for connection in self.connections if shard in {None, connection.shard}]
        for connection in struck:
            self.faults.note(fault)
            strike(connection)
        return len(struck)

    def send_unparseable(self, event: str = "MESSAGE_CREATE") -> int:
        """A dispatch that no client can parse, to every session."""
        for session in self.sessions.by_id.values():
            self.faults.note("gateway_unparseable")
            session.dispatch(event, {"id": "not a snowflake", "sandbox": True})
        return len(self.sessions.by_id)


class Connection:
    """One WebSocket."""

    def __init__(self, gateway: Gateway, socket: web.WebSocketResponse, request: web.Request) -> None:
        self.gateway = gateway
        self.sessions = gateway.sessions
        self.socket = socket
        self.request = request
        self.session: Session | None = None
        self._compressor: Compressor | None = None
        self._outgoing: asyncio.Queue[Json | int] = asyncio.Queue()
        self._sends: deque[float] = deque()
        self._clock = asyncio.get_running_loop().time
        self._last_heartbeat = self._clock()
        self._closed_here = False

    @property
    def shard(self) -> int | None:
        """The number of its session's shard; None while it has no session."""
        return None if self.session is None else self.session.shard.number

    async def run(self) -> None:
        """Serve the connection until one side closes it."""
        try:
            self._check_query()
        except Closed as closed:
            await self._close_socket(closed.code)
            return
        interval = int(self.gateway.heartbeat_interval * 1000)
        self.send({"t": None, "s": None, "op": 10, "d": {"heartbeat_interval": interval, "_trace": ["sandbox"]}})
        writer = asyncio.create_task(self._write(), name="sandbox gateway writer")
        watchdog = asyncio.create_task(self._watch_heartbeats(), name="sandbox gateway watchdog")
        code = None
        try:
            await self._read()
            code = self.socket.close_code
        except Closed as closed:
            code = closed.code
            self._detach(ended=code in FATAL)
            await self._close_socket(code)
        finally:
            for task in (writer, watchdog):
                task.cancel()
            await asyncio.gather(writer, watchdog, return_exceptions=True)
            # A client that says goodbye properly cannot come back to its session.
            self._detach(ended=code in {1000, 1001} and not self._closed_here)
            self.gateway.note("closed", code=code, session=self.session.id if self.session else None)

    def _check_query(self) -> None:
        query = self.request.query
        if query.get("v") not in {"9", "10"}:
            raise Closed(4012)
        if query.get("encoding", "json") != "json":
            raise Closed(4002)
        try:
            self._compressor = compressor_for(query.get("compress", ""))
        except (KeyError, ImportError):
            raise Closed(4002) from None

    # --- Sending ------------------------------------------------------------------------------------------

    def send(self, payload: Json) -> None:
        """Queue a payload."""
        self._outgoing.put_nowait(payload)

    def close(self, code: int) -> None:
        """Close after what is queued has been sent."""
        self._detach(ended=code in FATAL)
        self._outgoing.put_nowait(code)

    def abort(self) -> None:
        """Reset the TCP stream."""
        self._detach(ended=False)
        if self.request.transport is not None:
            reset(self.request.transport)

    def invalidate(self, *, resumable: bool) -> None:
        """Opcode 9."""
        self._detach(ended=not resumable)
        self.session = None
        self.send({"op": 9, "d": resumable, "s": None, "t": None})

    def _detach(self, *, ended: bool) -> None:
        session = self.session
        if session is None:
            return
        if ended:
            self.sessions.end(session)
        elif session.sender == self.send:
            self.sessions.lose(session)

    async def _write(self) -> None:
        held: Json | None = None
        while True:
            payload = await self._next(held)
            if isinstance(payload, int):
                await self._close_socket(payload)
                return
            fault = self._fault(payload)
            if fault is not None and fault.kind == "reorder" and held is None:
                held = payload
                continue
            await self._send_struck(payload, fault)
            if held is not None and held is not payload:
                await self._send_text(held)
            held = None

    async def _next(self, held: Json | None) -> Json | int:
        if held is None:
            return await self._outgoing.get()
        try:
            return await asyncio.wait_for(self._outgoing.get(), 1.0)
        except TimeoutError:
            return held

    def _fault(self, payload: Json) -> GatewayFault | None:
        event = payload.get("t")
        return self.gateway.faults.strike_dispatch(event) if event else None

    async def _send_struck(self, payload: Json, fault: GatewayFault | None) -> None:
        if fault is not None and fault.kind == "drop":
            return
        if fault is not None and fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        await self._send_text(payload)
        if fault is not None and fault.kind == "duplicate":
            await self._send_text(payload)

    async def _send_text(self, payload: Json) -> None:
        text = json.dumps(payload, separators=(",", ":"))
        try:
            if self._compressor is None:
                await self.socket.send_str(text)
            else:
                await self.socket.send_bytes(self._compressor.compress(text))
        except ConnectionError:
            self._detach(ended=False)

    async def _close_socket(self, code: int) -> None:
        self._closed_here = True
        await self.socket.close(code=code, message=REASONS.get(code, "").encode())

    # --- Receiving ----------------------------------------------------------------------------------------

    async def _read(self) -> None:
        async for message in self.socket:
            if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
                return
            self._count_send()
            try:
                self._handle(self._decode(message.data))
            except (KeyError, TypeError, ValueError):
                raise Closed(4002) from None

    def _count_send(self) -> None:
        limits = self.sessions.limits
        now = self._clock()
        self._sends.append(now)
        while self._sends[0] < now - 60:
            self._sends.popleft()
        if limits.on and len(self._sends) > limits.gateway_sends_per_minute:
            raise Closed(4008)

    @staticmethod
    def _decode(data: str | bytes) -> Json:
        raw = data.encode() if isinstance(data, str) else data
        if len(raw) > MAX_PAYLOAD:
            raise Closed(4002)
        try:
            payload = json.loads(raw)
        except ValueError:
            raise Closed(4002) from None
        if not isinstance(payload, dict) or not isinstance(payload.get("op"), int):
            raise Closed(4002)
        return payload

    def _handle(self, payload: Json) -> None:
        match payload["op"]:
            case 1:
                self._heartbeat()
            case 2:
                self._identify(payload.get("d"))
            case 6:
                self._resume(payload.get("d"))
            case 3 | 4 | 8 | 31 if self.session is None:
                raise Closed(4003)
            case 8:
                self._request_members(payload.get("d"))
            case 3 | 4 | 31:
                return
            case _:
                raise Closed(4001)

    def _heartbeat(self) -> None:
        self._last_heartbeat = self._clock()
        if self.gateway.acknowledge:
            self.send({"op": 11, "d": None, "s": None, "t": None})
        else:
            self.gateway.faults.note("gateway_ack_withheld")

    async def _watch_heartbeats(self) -> None:
        patience = self.gateway.heartbeat_interval * 1.5
        while True:
            waited = self._clock() - self._last_heartbeat
            if waited > patience:
                self.close(4009)
                return
            await asyncio.sleep(patience - waited + 0.001)

    def _identify(self, data: Any) -> None:
        if self.session is not None:
            raise Closed(4005)
        wanted = check_identify(self.sessions.state, data, self.sessions.limits.guilds_per_shard)
        app, shard = wanted.app, wanted.shard
        if not self.sessions.may_identify(app, shard) or self.sessions.used_up(app):
            self.gateway.note("identify refused")
            if self.sessions.used_up(app):
                app.token = new_token(app.id)
                raise Closed(4004)
            self.send({"op": 9, "d": False, "s": None, "t": None})
            return
        self.session = self.sessions.start(wanted)
        self.session.sender = self.send
        self.gateway.note("identified", session=self.session.id, shard=[shard.number, shard.total])
        self.sessions.greet(self.session)

    def _resume(self, data: Any) -> None:
        if self.session is not None:
            raise Closed(4005)
        if not isinstance(data, dict):
            raise Closed(4002)
        token = str(data.get("token", "")).removeprefix("Bot ")
        if self.sessions.state.application_of(token) is None:
            raise Closed(4004)
        sequence = data.get("seq")
        if not isinstance(sequence, int):
            raise Closed(4007)
        session = self.sessions.find(str(data.get("session_id")), token, sequence)
        if session is None:
            self.gateway.note("resume refused")
            self.send({"op": 9, "d": False, "s": None, "t": None})
            return
        if sequence > session.sequence:
            raise Closed(4007)
        self._take_over(session, sequence)

    def _take_over(self, session: Session, sequence: int) -> None:
        for other in tuple(self.gateway.connections):
            if other is not self and other.session is session:
                other.session = None
                other.close(4000)
        missed = self.sessions.replay(session, sequence)
        self.session = session
        session.sender, session.lost_at = self.send, None
        for payload in missed:
            self.send(payload)
        self.gateway.note("resumed", session=session.id, shard=session.shard.number, replayed=len(missed))
        session.dispatch("RESUMED", {"_trace": ["sandbox"]})

    def _request_members(self, data: Any) -> None:
        session = self.session
        guild = self.sessions.state.guilds.get(int(data["guild_id"])) if isinstance(data, dict) else None
        if session is None or guild is None or not session.shard.covers(guild.id):
            return
        if session.app.user.id not in guild.members:
            return
        wanted = data.get("user_ids")
        if wanted is None and not (data.get("query") or session.intents & Intent.GUILD_MEMBERS):
            return
        session.dispatch("GUILD_MEMBERS_CHUNK", members_chunk(guild, data))
