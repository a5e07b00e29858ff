"""The lines between the relay and a real PostgreSQL: every trip takes virtual time, and can go wrong on either way.

asyncpg is given transports of ours. What it writes up to the end of a request is carried to the server and answered at
once, between two pauses of virtual time: a kill, or a mishap, can fall on either side of it, as in `disk.py`.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.simulation.loop import VirtualLoop
from tests.simulation.mishaps import REFUSALS, Mishaps

if TYPE_CHECKING:
    from tests.simulation.server import Base

_CANCEL = 80877102
_COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
# The last message of an answer. A statement that is only prepared is not followed by "ready for query".
_READY, _PREPARED = b"Z", b"TnE"
_WRITING = (b"INSERT", b"UPDATE", b"DELETE")
_SECONDS = 60.0  # Real ones, for one answer of the server.


@dataclass(slots=True)
class _Request:
    """What is carried to the server in one trip."""

    kind: str  # "start", "query", "prepare", "run", "end", or "cancel"
    data: bytes
    # The SQL that it prepares or runs.
    sql: bytes = b""
    cancelled: bool = False


class Lines:
    """All connections of one life of the process. A dead process sends nothing more."""

    def __init__(self, loop: VirtualLoop, path: str, mishaps: Mishaps, base: "Base") -> None:
        self.loop = loop
        self.path = path
        self.mishaps = mishaps
        self.base = base
        self.dead = False
        self.open: list[Line] = []
        # Of connections that the server does not know to be lost.
        self.half_open: list[Line] = []

    async def connect(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol]
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """In place of a socket's connection."""
        await asyncio.sleep(self.mishaps.pause())
        if self.dead:
            raise ConnectionRefusedError("this process is dead")
        if self.look() == "away":
            raise ConnectionRefusedError(111, "Connection refused")
        protocol = protocol_factory()
        line = Line(self, protocol)
        self.open.append(line)
        self.loop.call_soon(protocol.connection_made, line)
        return line, protocol

    def look(self) -> str | None:
        """What holds now. It begins and ends when somebody comes to the server."""
        holds = self.mishaps.spell()
        before = self.base.holds
        if holds == before:
            return holds
        self.base.holds = holds
        if before == "read-only":
            self.base.make_read_only(False)
        elif before == "crowded":
            self.base.crowd(False)
        if holds is not None:
            self.mishaps.happened(holds)
        if holds == "read-only":
            self.base.make_read_only(True)
        elif holds == "crowded":
            self.base.crowd(True)
        elif holds in ("away", "starting"):
            if self.mishaps.restarts:
                self.base.restart(crash=holds == "starting")
            else:
                self.base.end_connections()
        return holds

    def was_run(self, request: _Request) -> None:
        """Ending a connection takes the server a moment."""
        if b"pg_terminate_backend" in request.sql and request.kind != "prepare":
            for line in self.half_open:
                self.base.wait_until_gone(line.process)
            self.half_open.clear()

    def die(self) -> None:
        """See `Life`."""
        self.dead = True
        for line in [*self.open, *self.half_open]:
            line.hang_up()
        self.open.clear()
        self.half_open.clear()
        self.loop.connect = None
        self.base.wait_until_gone()


class Line(asyncio.Transport):
    """One connection, as asyncpg sees it."""

    def __init__(self, lines: Lines, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._lines = lines
        self._protocol = protocol
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_SECONDS)
        self._socket.connect(lines.path)
        self._started = self._closing = False
        self._gathered = b""
        self._statements: dict[bytes, bytes] = {}
        self._sql = b""
        # It is the one that writes.
        self._writes = False
        self._requests: list[_Request] = []
        self._busy = False
        self._received = b""
        # What the server calls it.
        self.process = 0

    # --- What asyncpg does ----------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        """Gather messages until a request is complete."""
        if self._closing or self._lines.dead:
            return
        self._gathered += bytes(data)
        self._queue_complete()

    def writelines(self, list_of_data: Any) -> None:
        """See `write`."""
        self.write(b"".join(bytes(data) for data in list_of_data))

    def is_closing(self) -> bool:
        """Whether it is of no more use."""
        return self._closing

    def close(self) -> None:
        """Hang up."""
        self.abort()

    def abort(self) -> None:
        """Hang up."""
        self._lose(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """There is nothing to tell."""
        return default

    def pause_reading(self) -> None:
        """Answers are short."""

    def resume_reading(self) -> None:
        """Answers are short."""

    # --- Requests -------------------------------------------------------------------------------------------

    def _queue_complete(self) -> None:
        place = 0
        while (request := self._next_message(place)) is not None:
            kind, end = request
            if kind:
                self._requests.append(_Request(kind, self._gathered[:end], self._sql))
                self._gathered, place = self._gathered[end:], 0
            else:
                place = end
        if not self._busy and self._requests:
            self._busy = True
            self._later(self._carry_out)

    def _next_message(self, place: int) -> tuple[str, int] | None:
        """What kind of request ends with the message at `place` ("" for none), and where that ends."""
        typed = int(self._started)
        if len(self._gathered) < place + typed + 4:
            return None
        (length,) = struct.unpack_from("!i", self._gathered, place + typed)
        end = place + typed + length
        if len(self._gathered) < end:
            return None
        if not self._started:
            (code,) = struct.unpack_from("!i", self._gathered, 4)
            self._started = True
            return ("cancel" if code == _CANCEL else "start"), end
        body = self._gathered[place + 5 : end]
        match self._gathered[place : place + 1]:
            case b"Q":
                self._sql = body
                return "query", end
            case b"P":
                name, self._sql, _ = body.split(b"\0", 2)
                self._writes = self._writes or b"pg_advisory_xact_lock" in self._sql
                self._statements[name] = self._sql
            case b"B":
                self._sql = self._statements.get(body.split(b"\0")[1], b"")
            case b"H":
                return "prepare", end
            case b"S":
                return "run", end
            case b"X":
                return "end", end
        return "", end

    def _carry_out(self) -> None:
        request = self._requests[0]
        if self._closing or self._lines.dead:
            return
        if request.kind == "cancel":
            self._cancel(request)
            return
        if request.kind == "end":
            self._lose(None)
            return
        holds = self._lines.look()
        commits = request.data == _COMMIT
        what = self._lines.mishaps.of_trip(commits=commits) if request.kind != "start" else None
        if holds == "away":
            self._lose(ConnectionResetError(104, "Connection reset by peer"))
        elif holds == "starting":
            self._answer(_error("57P03", "the database system is starting up", "FATAL"), lost=True)
        elif what in ("lost before", "half open"):
            self._lines.mishaps.happened(what)
            half_open = what == "half open" and self._writes
            self._lose(ConnectionResetError(104, "Connection reset by peer"), half_open=half_open)
        elif request.cancelled:
            self._refuse(request, "57014")
        elif holds == "full" and any(word in request.sql for word in _WRITING):
            self._refuse(request, "53100")
        elif what in REFUSALS and request.kind != "start" and b"ROLLBACK" not in request.sql:
            self._lines.mishaps.happened(what)
            self._refuse(request, what)
        else:
            slow = what == "slow"
            if slow and self._lines.mishaps.rng.random() < 0.5:
                # It is the server that is slow: the request is still to be carried out.
                self._lines.mishaps.happened("slow to begin")
                self._lines.loop.call_later(self._lines.mishaps.long_pause(), self._run, request, what)
                return
            self._run(request, what)

    def _run(self, request: _Request, what: str | None) -> None:
        if self._closing or self._lines.dead:
            return
        if request.cancelled:
            self._refuse(request, "57014")
            return
        answer, lost = self._trip(request)
        self._lines.was_run(request)
        if what == "lost after":
            self._lines.mishaps.happened(what)
            self._lose(ConnectionResetError(104, "Connection reset by peer"))
            return
        if what == "slow":
            self._lines.mishaps.happened("slow to answer")
            self._lines.loop.call_later(self._lines.mishaps.long_pause(), self._answer, answer, lost)
            return
        self._later(self._answer, answer, lost)

    def _refuse(self, request: _Request, code: str) -> None:
        """Let the server itself refuse it, so that it breaks off the transaction."""
        raised = f"DO $$ BEGIN RAISE '%', 'refused' USING ERRCODE = '{code}'; END $$".encode() + b"\0"
        answer, lost = self._trip(_Request("query", b"Q" + struct.pack("!i", len(raised) + 4) + raised))
        if request.kind == "prepare":
            answer = answer[: 1 + struct.unpack_from("!i", answer, 1)[0]]  # a "sync" follows, and is answered then
        self._later(self._answer, answer, lost)

    def _cancel(self, request: _Request) -> None:
        _, _, process, _ = struct.unpack("!iiii", request.data)
        for line in self._lines.open:
            if line.process == process and line._requests:
                line._requests[0].cancelled = True
        self._lose(None)

    def _trip(self, request: _Request) -> tuple[bytes, bool]:
        """The server's answer, and whether the connection has ended."""
        last = _PREPARED if request.kind == "prepare" else _READY
        with suppress(OSError):  # what the server said before it hung up can still be read
            self._socket.sendall(request.data)
        answer = b""
        while True:
            place = len(answer)
            while len(answer) < place + 5 or len(answer) < place + 1 + struct.unpack_from("!i", answer, place + 1)[0]:
                try:
                    more = self._received or self._socket.recv(65536)
                except OSError:
                    more = b""
                self._received = b""
                if not more:
                    return answer[:place], True
                answer += more
            end = place + 1 + struct.unpack_from("!i", answer, place + 1)[0]
            kind = answer[place : place + 1]
            if kind == b"K":
                (self.process,) = struct.unpack_from("!i", answer, place + 5)
            self._received = answer[end:]
            answer = answer[:end]
            if kind in [bytes([each]) for each in last]:
                return answer, False

    def _answer(self, answer: bytes, lost: bool) -> None:
        if self._closing or self._lines.dead:
            return
        if answer and isinstance(self._protocol, asyncio.Protocol):
            self._protocol.data_received(answer)
        if lost:
            self._lose(None)
            return
        self._requests.pop(0)
        self._busy = bool(self._requests)
        if self._busy:
            self._later(self._carry_out)

    # --- The end --------------------------------------------------------------------------------------------

    def _lose(self, error: Exception | None, *, half_open: bool = False) -> None:
        if self._closing:
            return
        self._closing = True
        if self in self._lines.open:
            self._lines.open.remove(self)
        if half_open:
            self._lines.half_open.append(self)
        else:
            self.hang_up()
            if self.process:
                self._lines.base.wait_until_gone(self.process)
        self._lines.loop.call_soon(self._protocol.connection_lost, error)

    def hang_up(self) -> None:
        """Close the socket."""
        self._closing = True
        self._socket.close()

    def _later(self, callback: Callable[..., None], *arguments: Any) -> None:
        self._lines.loop.call_later(self._lines.mishaps.pause(), callback, *arguments)


def _error(code: str, message: str, severity: str) -> bytes:
    fields = b"".join(
        f"{key}{value}\0".encode() for key, value in (("S", severity), ("V", severity), ("C", code), ("M", message))
    )
    return b"E" + struct.pack("!i", len(fields) + 5) + fields + b"\0"
