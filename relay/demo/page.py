"""The demo's page: static files, one stream of events, and what people do, as JSON. For this machine only."""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files

from aiohttp import web

from relay.demo.environment import Environment, script
from relay.demo.feed import events
from relay.demo.script.runner import Outcome, play
from relay.demo.sides.base import ActionRefused, OutgoingFile, Side
from relay.demo.sides.discord import CHANNEL, GUILD
from relay.domain.jsontext import Json
from relay.errors import FatalError
from relay.logs import get_logger

_log = get_logger(__name__)

# Everything comes from this address, and nothing in a message can become a script or load anything. `blob:` is what the
# page itself makes of a file that somebody chose, to show it before it is sent.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_SHOWN = frozenset(
    {"image/png", "image/apng", "image/jpeg", "image/gif", "image/webp"}
    | {"audio/ogg", "audio/mpeg", "video/webm", "video/mp4"}
)
"""Types that the page shows; anything else can only be saved."""
_MOST_BYTES = 64 * 1024 * 1024
"""Of the files of one message. Each platform has a lower limit of its own, and says so."""

_NONSENSE = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""What reading a wish raises that makes no sense."""

_PAUSE = 0.4
"""Seconds between two lines of the script, so that people can watch."""


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1 for a page that comes later; port 0 lets the system choose.

    Who connects before waits for the page. Raises `FatalError` where the port cannot be used.
    """
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen()
    except OSError as error:
        listening.close()
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise FatalError(f"port {port} cannot be used ({reason})", "choose another with --port") from error
    return listening


class Page:
    """Serves `environment` on a socket that listens on 127.0.0.1."""

    def __init__(self, environment: Environment, listening: socket.socket) -> None:
        self._environment = environment
        self._listening = listening
        self._port: int = listening.getsockname()[1]
        self._outcomes: Sequence[Outcome] = ()
        self._playing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        # Held while people of Discord get accounts of their own, or lose them.
        self._switching = asyncio.Lock()
        self._static = {
            item.name: item.read_bytes()
            for item in files("relay.demo").joinpath("static").iterdir()
            if f".{item.name.rpartition('.')[2]}" in _TYPES
        }
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        """Begin to serve; the page's address."""
        application = web.Application(middlewares=[self._guard], client_max_size=_MOST_BYTES)
        application.router.add_get("/events", self._events)
        application.router.add_post("/api/play", self._play)
        application.router.add_post("/api/ghosts", self._ghosts)
        application.router.add_post("/api/{side:discord|matrix}", self._act)
        application.router.add_get("/files/{side:discord|matrix}/{key:[\\w.:/-]+}", self._attachment)
        application.router.add_get("/{name:[a-z]*(?:\\.[a-z]+)?}", self._file)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.SockSite(self._runner, self._listening).start()
        return f"http://127.0.0.1:{self._port}/"

    async def close(self) -> None:
        """Stop serving, and playing."""
        self._closing.set()
        if self._playing is not None:
            self._playing.cancel()
            await asyncio.wait([self._playing])
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse requests from other sites' scripts, also from those that reach this address under another name."""
        own = {f"127.0.0.1:{self._port}", f"localhost:{self._port}"}
        origin = request.headers.get("Origin")
        is_theirs = origin is not None and origin.removeprefix("http://") not in own
        # A picture of another site's page has no origin. A link to this page may be followed from anywhere.
        is_embedded = request.headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none"}
        is_embedded = is_embedded and request.headers.get("Sec-Fetch-Mode") != "navigate"
        if request.host not in own or is_theirs or is_embedded:
            return web.json_response({"error": "this is the demo's own address"}, status=403, headers=HEADERS)
        if request.method == "POST" and not (_is_json(request) or _is_own_form(request)):
            return web.json_response({"error": "JSON is expected"}, status=415, headers=HEADERS)
        try:
            response = await handler(request)
        except web.HTTPRequestEntityTooLarge:
            error = f"the demo takes {_MOST_BYTES >> 20} MiB at once"
            return web.json_response({"error": error}, status=413, headers=HEADERS)
        except web.HTTPException as refusal:
            refusal.headers.update(HEADERS)
            raise
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"] or "index.html"
        if name not in self._static:
            raise web.HTTPNotFound
        kind = _TYPES[f".{name.rpartition('.')[2]}"]
        return web.Response(body=self._static[name], content_type=kind, charset="utf-8")

    async def _attachment(self, request: web.Request) -> web.Response:
        environment = self._environment
        side: Side = environment.discord if request.match_info["side"] == "discord" else environment.matrix
        found = await side.file(request.match_info["key"])
        if found is None:
            raise web.HTTPNotFound
        data, kind = found
        if kind not in _SHOWN:
            headers = {"Content-Disposition": "attachment"}
            return web.Response(body=data, content_type="application/octet-stream", headers=headers)
        return _part(request, data, kind)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=HEADERS | {"Content-Type": "text/event-stream"})
        await response.prepare(request)
        closing = asyncio.create_task(self._closing.wait())
        stream = events(self._environment.feed, self._hello())
        try:
            while True:
                item = asyncio.ensure_future(anext(stream))
                await asyncio.wait((item, closing), return_when=asyncio.FIRST_COMPLETED)
                if not item.done():
                    item.cancel()
                    await asyncio.wait((item,))
                    return response
                name, data = item.result()
                line = f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n" if name else ": alive\n\n"
                await response.write(line.encode("utf-8", "replace"))
        except ConnectionResetError:
            return response
        finally:
            closing.cancel()
            await stream.aclose()

    def _hello(self) -> Json:
        environment = self._environment
        discord = {"name": f"#{CHANNEL}", "note": f"{GUILD} · Discord", **environment.discord.names()}
        matrix = {"name": environment.matrix.alias.partition(":")[0], "note": f"{environment.matrix.alias} · Matrix"}
        sides: dict[str, Side] = {"discord": environment.discord, "matrix": environment.matrix}
        return {
            "places": {"discord": discord, "matrix": matrix},
            "people": {
                name: [{"key": one.key, "name": one.name, "avatar": side.avatar(one.key)} for one in side.participants]
                for name, side in sides.items()
            },
            "script": self._progress(),
            "ghosts": environment.ghosts,
        }

    # --- What people do -----------------------------------------------------------------------------------

    async def _act(self, request: web.Request) -> web.Response:
        side: Side = self._environment.discord if request.match_info["side"] == "discord" else self._environment.matrix
        try:
            wish, files = (await request.json(), ()) if _is_json(request) else await _form(request)
            await _carry_out(side, wish, files)
        except ActionRefused as refusal:
            return web.json_response({"error": str(refusal)}, status=409)
        except _NONSENSE:
            return web.json_response({"error": "that is not something to do"}, status=400)
        return web.json_response({})

    async def _ghosts(self, request: web.Request) -> web.Response:
        try:
            wanted = bool((await request.json())["ghosts"])
        except _NONSENSE:
            return web.json_response({"error": "that is not something to do"}, status=400)
        async with self._switching:
            if self._is_playing:
                return web.json_response({"error": "wait until everything has been shown"}, status=409)
            try:
                await self._environment.use_ghosts(wanted)
            except TimeoutError as error:
                return web.json_response({"error": str(error)}, status=504)
        return web.json_response({})

    async def _play(self, _request: web.Request) -> web.Response:
        async with self._switching:
            if self._is_playing:
                return web.json_response({"error": "it is being shown already"}, status=409)
            self._playing = asyncio.create_task(self._perform(), name="demo script")
        return web.json_response({})

    async def _perform(self) -> None:
        try:
            self._tell(await play(self._environment.new_run(), script(), self._tell, pause=_PAUSE))
        except Exception:  # noqa: BLE001 - the top of a worker: logged, and the page goes on
            _log.exception("the script broke off")
        finally:
            self._playing = None
            self._tell(self._outcomes)

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes = tuple(outcomes)
        self._environment.feed.tell("script", self._progress())

    @property
    def _is_playing(self) -> bool:
        return self._playing is not None and not self._playing.done()

    def _progress(self) -> Json:
        return {"playing": self._is_playing, "lines": [outcome.as_json() for outcome in self._outcomes]}


def _part(request: web.Request, data: bytes, kind: str) -> web.Response:
    """A file, or the requested range of it: a player reads the end of a file to know how long it is."""
    headers = {"Accept-Ranges": "bytes"}
    try:
        asked = request.http_range
    except ValueError:
        asked = slice(None)
    if asked == slice(None, None, 1) or asked.start is None:
        return web.Response(body=data, content_type=kind, headers=headers)
    start, stop, _ = asked.indices(len(data))
    if start >= stop:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{len(data)}"})
    headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
    return web.Response(status=206, body=data[start:stop], content_type=kind, headers=headers)


def _is_json(request: web.Request) -> bool:
    return request.content_type == "application/json"


def _is_own_form(request: web.Request) -> bool:
    """Whether it is a form with files from our page: a header of its own is what another site's form cannot send."""
    return request.content_type == "multipart/form-data" and "X-Relay-Demo" in request.headers


async def _form(request: web.Request) -> tuple[Json, Sequence[OutgoingFile]]:
    """What is to be done, the part `wish`, and the files for it, the parts `file`. Raises `KeyError` and the like."""
    form = await request.post()
    wish: Json = json.loads(str(form["wish"]))
    parts = [part for part in form.getall("file") if isinstance(part, web.FileField)]
    files = [
        OutgoingFile(
            name=part.filename,
            data=await asyncio.to_thread(part.file.read),
            content_type=part.content_type,
            width=int(measured["width"]),
            height=int(measured["height"]),
            duration=float(measured["duration"]),
            spoiler=bool(measured["spoiler"]),
        )
        for part, measured in zip(parts, wish["files"], strict=True)
    ]
    return wish, files


async def _carry_out(side: Side, wish: Json, files: Sequence[OutgoingFile]) -> None:
    """Do what the page asks for. Raises `ActionRefused`, and `KeyError` and the like for what makes no sense."""
    who = str(wish["as"])
    body, html = str(wish.get("body") or ""), str(wish.get("html") or "")
    answered = str(wish["target"]) if wish["act"] == "reply" else None
    match wish["act"]:
        case "say" | "reply" if files:
            await side.attach(who, files, body, html, reply_to=answered)
        case "say" | "reply":
            await side.say(who, body, html, reply_to=answered)
        case "edit":
            await side.edit(who, str(wish["target"]), body, html)
        case "delete":
            await side.delete(who, str(wish["target"]))
        case "react":
            await side.react(who, str(wish["target"]), str(wish["key"]))
        case "thread":
            await side.thread(who, str(wish["target"]), body, html)
        case _:
            raise ValueError("act")
