"""The control interface over HTTP: `POST /_sandbox/<method>` with the arguments as a JSON object.

The methods are those of `Control`. Beside them: `GET /_sandbox/events` (what happened, waiting if asked to), `GET
/_sandbox/stream` (the same as server-sent events) and `POST /_sandbox/uploads` (a file's bytes).
"""

import inspect
import json
import re
from typing import Any

from aiohttp import web

from relay.sandbox.control.base import Parts
from relay.sandbox.control.faults import MischiefControl
from relay.sandbox.control.people import TalkControl
from relay.sandbox.control.world import WorldControl
from relay.sandbox.errors import ApiError
from relay.sandbox.world.files import CHUNK

MAX_UPLOAD = 1 << 30
_KEEP_ALIVE = 15.0


class Control(WorldControl, TalkControl, MischiefControl):
    """Everything that tests, the demo and chaos may do to the sandbox."""


class ControlRoutes:
    """`/_sandbox/…`."""

    def __init__(self, control: Control, parts: Parts) -> None:
        self.control = control
        self.parts = parts

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/_sandbox/events", self.events)
        router.add_get("/_sandbox/stream", self.stream)
        router.add_post("/_sandbox/uploads", self.upload)
        router.add_post("/_sandbox/{method}", self.call)

    async def call(self, request: web.Request) -> web.Response:
        """One method. 200 with its result; Discord's error with its status; 400 for wrong arguments."""
        name = request.match_info["method"]
        method = None if name.startswith("_") or name == "correct" else getattr(self.control, name, None)
        if method is None:
            return _error(404, f"no such method: {name}")
        try:
            arguments = json.loads(await request.read() or b"{}")
            bound = inspect.signature(method).bind(**arguments)
        except (TypeError, ValueError) as error:
            return _error(400, f"{name}: {error}")
        try:
            result = method(*bound.args, **bound.kwargs)
        except ApiError as error:
            return web.json_response(error.body(), status=error.status)
        except (KeyError, ValueError, TypeError, StopIteration, re.error) as error:
            return _error(400, f"{name}: {type(error).__name__} {error}")
        return web.json_response(result)

    async def events(self, request: web.Request) -> web.Response:
        """`?after=SEQ&timeout=SECONDS&event=NAME&channel=ID` -> `{"events": […], "last": SEQ}`."""
        query = request.query
        journal = self.parts.journal
        after = int(query.get("after", "0"))
        found = await journal.wait(
            after,
            min(float(query.get("timeout", "0")), 60.0),
            event=query.get("event", ""),
            channel=query.get("channel", ""),
        )
        return web.json_response({"events": found, "last": journal.last})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """`?after=SEQ&channel=ID` (default: from now on) -> `text/event-stream`; `id` is the number of the event."""
        journal = self.parts.journal
        given = request.headers.get("Last-Event-ID") or request.query.get("after")
        after = int(given) if given else journal.last
        channel = request.query.get("channel", "")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        await response.write(b": sandbox\n\n")
        while request.transport is not None and not request.transport.is_closing():
            found = await journal.wait(after, _KEEP_ALIVE, channel=channel)
            lines = [f"id: {entry['seq']}\ndata: {json.dumps(entry)}\n\n" for entry in found] or [": still here\n\n"]
            try:
                await response.write("".join(lines).encode())
            except ConnectionError:
                break
            after = found[-1]["seq"] if found else max(after, journal.last)
        return response

    async def upload(self, request: web.Request) -> web.Response:
        """The body as it is -> `{"upload": id}`, to be named once in a file of `say`."""
        stored, _ = await self.parts.files.receive(_Body(request), MAX_UPLOAD)
        if stored is None:
            return _error(413, "larger than 1 GiB")
        name = f"upload-{stored.path.name}"
        self.parts.uploads[name] = stored
        return web.json_response({"upload": name})


class _Body:
    def __init__(self, request: web.Request) -> None:
        self._content = request.content

    async def read_chunk(self, size: int = CHUNK) -> bytes:
        return await self._content.read(size)


def _error(status: int, message: str) -> web.Response:
    body: dict[str, Any] = {"message": message, "code": 0}
    return web.json_response(body, status=status)
