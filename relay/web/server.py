"""The HTTP server: `/`, `/metrics`, `/healthz`, `/readyz`, and where that is set up `/directory` and `/media/…`.

It writes nothing but what somebody who has signed in to the status page decides on dead letters.
"""

import asyncio
import errno
import os
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web
from yarl import URL

from relay.config.settings import WebSettings
from relay.core.status.counters import Histogram, LimitStatus
from relay.core.status.report import Report, side_as_json
from relay.domain.jsontext import Json
from relay.errors import FatalError, StoreError
from relay.logs import get_logger
from relay.web.access import Access
from relay.web.directory import Directory
from relay.web.directory_pages import html, page_policy
from relay.web.media import MEDIA, FileSource, MediaRoutes
from relay.web.status_pages import OPEN, LetterBox, StatusPages, sign_in_page

if TYPE_CHECKING:
    from relay.web.metrics import Source

_log = get_logger(__name__)

# What an answer may do in a browser, unless it says otherwise itself (the pages do): nothing.
HEADERS = {
    "Content-Security-Policy": ("default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": with that, browsers do not say from where a form of ours comes.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    # Instead of the names and versions of our libraries.
    "Server": "relay",
}
_SHUTDOWN_SECONDS = 1.0
# The names of routes, and for how many seconds their page stays as it is.
_DIRECTORY = ("directory", "directory-below")
_ROOMS_SECONDS = 5.0
# That an answer waits for the store.
_LOOK_SECONDS = 4.0
# Whoever starts and stops the daemon asks for these, and cannot sign in.
_HEALTH = frozenset({"/healthz", "/readyz"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


# --- Which host names the server answers to ---------------------------------------------------------------

# https://www.rfc-editor.org/rfc/rfc9110#field.host; some clients leave the zone of a link-local address in it.
_FIELD = re.compile(
    r"(\[[0-9A-Fa-f:.]{2,45}(?:%[0-9A-Za-z_.~%-]{1,40})?\]|[0-9A-Za-z_.-]{1,254})(?::[0-9]{0,5})?", re.ASCII
)


class AllowedHosts:
    """The names of loopback, the host in `listen`, and `more`. The port does not matter: it may be forwarded."""

    def __init__(self, listen: str, more: Sequence[str] = ()) -> None:
        self._names = {_normalised(name) for name in ("localhost", listen.rpartition(":")[0], *more)}
        # If we listen on all addresses, any address may be asked for: another machine may forward the port.
        self._every_address = any(name in {"0.0.0.0", "::"} for name in self._names)  # noqa: S104 - it is not bound

    def allows(self, host: str, local_address: str = "") -> bool:
        """Whether to answer a request with this `Host` header. `local_address`: the one on which it arrived."""
        match = _FIELD.fullmatch(host.strip())
        if match is None:
            return False
        name = _normalised(match[1])
        if name in self._names or name.endswith(".localhost"):
            return True
        # A page that was opened by an IP address belongs to no other site.
        address, local = _address(name), _normalised(local_address)
        return address is not None and (self._every_address or address.is_loopback or name == local)


def _normalised(name: str) -> str:
    """`name` in normal form: as DNS writes it in lower case, or an address without its zone."""
    plain = name.strip().strip("[]").lower().removesuffix(".")
    address = _address(plain)
    if address is not None:
        return str(address)
    if plain.isascii():
        return plain
    try:
        return (URL.build(scheme="http", host=plain).raw_host or plain).removesuffix(".")
    except ValueError:  # not a possible host name
        return plain


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(name.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


# --- How many connections there are, and how long each may wait ------------------------------------------
# aiohttp itself accepts any number of connections, and waits for the first request of each for ever.

_MOST_CONNECTIONS = 64
_STEP_SECONDS = 10.0
"""From connecting to the end of the request, and from there to the end of the answer."""

_IDLE_SECONDS = 75.0
"""Between an answer and the next request. Prometheus usually asks each minute."""


class Connections:
    """Makes a server's protocols. A connection is closed when its time is up, or when there are too many."""

    def __init__(self, inner: Callable[[], asyncio.Protocol], *, seconds: float = _STEP_SECONDS) -> None:
        self._inner = inner
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
        if len(self._waiting) + len(self._answering) > _MOST_CONNECTIONS:
            oldest = next(iter(self._waiting))
            self.closed(oldest)
            _end(oldest)

    def asked(self, transport: asyncio.BaseTransport | None) -> None:
        """A request was read."""
        if transport is not None and (handle := self._waiting.pop(transport, None)) is not None:
            handle.cancel()
            self._answering[transport] = _after(self._seconds, transport)

    def goes_on(self, transport: asyncio.BaseTransport | None, seconds: float) -> None:
        """The answer takes longer, or a piece of it was written: it has so many seconds from now."""
        if transport is not None and (handle := self._answering.pop(transport, None)) is not None:
            handle.cancel()
            self._answering[transport] = _after(seconds, transport)

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


# --- The server -------------------------------------------------------------------------------------------


class StatusSource(Protocol):
    """Where the shown values come from. `core.status.counters.Status` is one."""

    async def report(self) -> Report:
        """How things are now. Raises `StoreError` when the store cannot be read."""
        ...

    def last_report(self) -> Report:
        """As `report`, without I/O; the outbox as it was when it was last read."""
        ...

    def glance(self) -> Report:
        """As `last_report`, without the pairs: quick."""
        ...

    def delivery_seconds(self) -> Mapping[str, Histogram]:
        """How long deliveries took, by direction."""
        ...

    def limits(self) -> Mapping[str, LimitStatus]:
        """How much each platform lets the relay send, by its name. No I/O."""
        ...


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class WebServer:
    """Serves the status page, the metrics, the health checks, and files to those who have a link."""

    status: StatusSource
    # With port 0 in `listen`, the system chooses one.
    settings: WebSettings
    # What the links under `public_url` lead to.
    files: FileSource | None = None
    # The directory of rooms as it is now, unless `directory` in the settings is off.
    directory: Callable[[], Directory] | None = None
    # Where this process serves several communities: the status of each; None where one cannot be served.
    tenants: Callable[[], Mapping[str, StatusSource | None]] | None = None
    # The dead letters that the page's buttons are about.
    letters: LetterBox | None = None
    _hosts: AllowedHosts = field(init=False)
    _access: Access = field(init=False)
    # The host of `public_url`: nothing but files is there for the world, whatever a proxy passes on.
    _public_host: str = field(init=False, default="")
    # The page of rooms, and until when it is shown as it is.
    _rooms_page: tuple[str, float] = field(init=False, default=("", 0.0))
    _connections: Connections | None = field(init=False, default=None)
    _server: asyncio.Server | None = field(init=False, default=None)
    _runner: web.AppRunner | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._hosts = AllowedHosts(self.settings.listen, self.settings.hosts)
        if self.settings.public_url:
            self._public_host = _normalised(URL(self.settings.public_url).host or "")
        token = self.settings.token
        self._access = Access(None if token is None else token.get_secret_value())

    async def run(self) -> None:
        """Serve until cancelled. Raises `FatalError` if the address cannot be used."""
        _log.info("status page is up", url=await self.start())
        try:
            await asyncio.Event().wait()
        finally:
            await self.close()

    async def start(self) -> str:
        """Start serving, and return the page's URL. Raises `FatalError` if the address cannot be used."""
        host, _, port = self.settings.listen.rpartition(":")
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await self._runner.setup()
        assert self._runner.server is not None  # noqa: S101 - it was set up
        self._connections = Connections(self._runner.server)
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._connections, host.strip("[]"), int(port), reuse_address=True)
        except OSError as error:
            await self.close()
            raise FatalError(*_unusable(self.settings.listen, error)) from error
        # There is one socket for each address of the host. With port 0, the first one's port is returned.
        bound = self._server.sockets[0].getsockname()[1]
        return f"http://{host}:{bound}/"

    async def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _application(self) -> web.Application:
        checks = [self._timed, _add_security_headers, self._check_host, self._check_access]
        application = web.Application(middlewares=checks)
        pages = StatusPages(report=self._report, access=self._access, letters=self.letters)
        application.router.add_routes(pages.routes())
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        if self.directory is not None and self.settings.directory != "off":
            # A proxy may pass on the path of `public_url`, or take it off.
            prefix = urlsplit(self.settings.public_url).path.rstrip("/")
            for name, start in zip(_DIRECTORY, ("", prefix) if prefix else ("",), strict=False):
                application.router.add_get(f"{start}/directory", self._rooms, name=name)
        if self.files is not None:
            media = MediaRoutes(self.files, self.settings.public_url, goes_on=self._goes_on)
            application.router.add_routes(media.routes())
        return application

    def _goes_on(self, request: web.Request, seconds: float) -> None:
        assert self._connections is not None  # noqa: S101 - the server has started
        self._connections.goes_on(request.transport, seconds)

    @web.middleware
    async def _timed(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Tell the connection when its request was read and when it was answered: it has a limited time."""
        assert self._connections is not None  # noqa: S101 - the server has started
        transport = request.transport
        self._connections.asked(transport)
        try:
            return await handler(request)
        finally:
            self._connections.answered(transport)

    @web.middleware
    async def _check_host(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse unknown host names: a web site whose own name points here could read our answers (DNS rebinding)."""
        named = request.headers.getall("Host", [])
        if not named and request.version >= HttpVersion11:
            raise web.HTTPBadRequest(text="The request has no Host header.")
        # Before HTTP/1.1 the header is optional, but every browser sends it.
        socket_name = request.get_extra_info("sockname") or ("",)
        if len(named) <= 1 and all(self._hosts.allows(name, socket_name[0]) for name in named):
            return await handler(request)
        if len(named) == 1 and self._is_public(named[0]):
            if request.match_info.route.name in self._public_routes:
                return await handler(request)
            raise web.HTTPNotFound
        raise web.HTTPMisdirectedRequest(text="This host name is not served. Add it to [web] hosts.")

    @web.middleware
    async def _check_access(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Where there is a token, ask for it: all but what is for the world, and whether the relay is alive."""
        for_all = request.path in OPEN | _HEALTH or request.match_info.route.name in self._public_routes
        if for_all or self._access.may_see(request):
            return await handler(request)
        if request.path == "/" and request.method in {"GET", "HEAD"}:
            return sign_in_page()
        raise web.HTTPUnauthorized(
            text="Sign in on the status page, or send [web] token as Authorization: Bearer.",
            headers={"WWW-Authenticate": 'Bearer realm="relay"'},
        )

    @property
    def _public_routes(self) -> Collection[str]:
        """What is there for the world: files, and the page that the operator publishes."""
        return {*MEDIA, *_DIRECTORY} if self.settings.directory == "public" else MEDIA

    def _is_public(self, host: str) -> bool:
        """Whether a `Host` header names the host of `public_url`."""
        match = _FIELD.fullmatch(host.strip())
        return match is not None and bool(self._public_host) and _normalised(match[1]) == self._public_host

    async def _report(self) -> Report:
        return await latest(self.status)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def _readyz(self, request: web.Request) -> web.Response:
        # Asked for often, and 1,000 pairs take 0.1 s to describe.
        report = self.status.glance()
        body: Json = {"ready": report.ready}
        if report.stands_by_for:
            body["standby"] = f"It stands by for {report.stands_by_for}."
        if self._access.may_see(request):
            body |= {name: side_as_json(side) for name, side in report.sides.items()}
            body["store"] = {"problem": report.store_problem}
        return web.json_response(body, status=200 if report.ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        # Not before somebody asks: it is a mebibyte, and not every relay has a Prometheus.
        from prometheus_client.exposition import choose_encoder

        from relay.web.metrics import registry, tenants_registry

        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        if self.tenants is None:
            found = registry(*await _source(self.status))
        else:
            tenants = self.tenants()
            there = {name: one for name, one in tenants.items() if one is not None}
            # Side by side: a hundred slow looks one after the other would take longer than an answer may.
            looks = dict(zip(there, await asyncio.gather(*map(_source, there.values())), strict=True))
            found = tenants_registry({name: looks.get(name) for name in tenants})
        body = encode(found)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _rooms(self, _request: web.Request) -> web.Response:
        assert self.directory is not None  # noqa: S101 - else there is no such route
        page, until = self._rooms_page
        now = asyncio.get_running_loop().time()
        if now >= until:
            # The world may ask for it as often as it likes.
            page = html(self.directory())
            self._rooms_page = (page, now + _ROOMS_SECONDS)
        return web.Response(text=page, content_type="text/html", headers={"Content-Security-Policy": page_policy()})


async def latest(status: StatusSource) -> Report:
    """How things are, with the store as it was when it was read last where it cannot be read in a moment."""
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            return await status.report()
    except (StoreError, TimeoutError):
        return status.last_report()


async def _source(status: StatusSource) -> "Source":
    """What metrics are made of."""
    return await latest(status), status.delivery_seconds(), status.limits()


@web.middleware
async def _add_security_headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as refusal:
        refusal.headers.update(HEADERS)
        raise
    for name, value in HEADERS.items():
        # A file has some of its own.
        response.headers.setdefault(name, value)
    return response


async def listen_problem(listen: str) -> tuple[str, str] | None:
    """Why the relay could not listen on an address now, and the fix; None if it could."""
    if not listen:
        return None
    host, _, port = listen.rpartition(":")
    try:
        server = await asyncio.get_running_loop().create_server(
            asyncio.Protocol, host.strip("[]"), int(port), reuse_address=True
        )
    except OSError as error:
        return _unusable(listen, error)
    server.close()
    return None


def _unusable(listen: str, error: OSError) -> tuple[str, str]:
    """Why the relay cannot listen on an address, and the fix."""
    remedy = 'choose another address in [web] listen, or "" to do without'
    if error.errno == errno.EADDRINUSE:
        return f"another program listens on {listen} already", f"stop it, {remedy}"
    if error.errno == errno.EACCES:
        return f"this user may not listen on {listen}", f"use a port above 1023: {remedy}"
    # Newer Pythons give no number where none of a host's addresses is this machine's.
    number = errno.EADDRNOTAVAIL if error.errno is None else error.errno
    reason = os.strerror(number).lower() if number > 0 else "the host is not known"
    return f"cannot listen on {listen} ({reason})", remedy
