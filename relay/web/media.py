"""`/media/…`: files for anyone who has a link, with nothing in them that a browser would run."""

import asyncio
import math
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Protocol
from urllib.parse import quote, urlsplit

from aiohttp import web

from relay.core.files import LinkedElsewhere, LinkedFile
from relay.core.recent import keep
from relay.errors import DeliveryError, Permanent, TargetGone, Transient
from relay.logs import get_logger

_log = get_logger(__name__)

MEDIA = ("media", "media-below-a-path")
"""The names of the routes."""

NO_SUCH_FILE = "There is no such file."
"""What is answered to a link that leads to nothing: `relay check` knows the relay by it."""

# Beside those of every answer. A sandbox gives the file an origin of its own, without scripts, forms and plugins.
_HEADERS = {
    "Content-Security-Policy": (
        "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "cross-origin",
    # The sandbox's origin is another one than ours, also to the player that a browser shows for a film.
    "Access-Control-Allow-Origin": "*",
    # Browsers refuse to show what has both this and a sandbox.
    "Cross-Origin-Opener-Policy": "unsafe-none",
    "X-Robots-Tag": "noindex",
    # The bytes never change; that a link has ended must not stay hidden for long.
    "Cache-Control": "private, max-age=3600",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Server": "relay",
}
_PIECE = 64 * 1024
_PIECE_SECONDS = 15.0
"""In which a client has to take a piece: whoever is slower holds up others."""

_WAIT_SECONDS = 55.0
"""Until the first bytes are there. What serves files gives up before."""

_SOON = {"Retry-After": "10"}
_MB = 1_000_000
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", re.ASCII | re.IGNORECASE)


class FileSource(Protocol):
    """What opens the files. `media.proxy.MediaProxy` is one."""

    def open(self, path: str) -> AbstractAsyncContextManager[LinkedFile | LinkedElsewhere]:
        """What the link with this path leads to. Raises `TargetGone`, `Permanent`, `FileUnavailable`, `Transient`."""
        ...


# --- How much one client gets, and all together -----------------------------------------------------------


@dataclass(slots=True)
class Bucket:
    """What was taken of late: `burst` at once, then `rate` in a second."""

    rate: float
    burst: float
    level: float = 0.0
    at: float = 0.0

    def full(self, now: float) -> bool:
        """Whether one more is too much."""
        self._drain(now)
        return self.level + 1 > self.burst

    def take(self, amount: float, now: float) -> float:
        """Take some; how many seconds to wait before more is taken."""
        self._drain(now)
        self.level += amount
        return max(0.0, (self.level - self.burst) / self.rate)

    def _drain(self, now: float) -> None:
        self.level = max(0.0, self.level - max(0.0, now - self.at) * self.rate)
        self.at = now


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The limits."""

    # A player asks anew for each place that somebody jumps to.
    requests: float = 4.0  # in a second, of one client
    requests_burst: float = 120.0
    all_requests: float = 50.0
    all_requests_burst: float = 500.0
    bytes: float = 8.0 * _MB  # in a second, to one client
    bytes_burst: float = 32.0 * _MB
    all_bytes: float = 32.0 * _MB
    all_bytes_burst: float = 64.0 * _MB
    open: int = 6  # answers at once, of one client: as many connections as browsers open
    all_open: int = 32
    clients: int = 2_000  # that are remembered


@dataclass(slots=True)
class _Client:
    requests: Bucket
    bytes: Bucket
    open: int = 0


class Throttle:
    """Who may ask now, and how fast the bytes go out."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._requests = Bucket(rates.all_requests, rates.all_requests_burst)
        self._bytes = Bucket(rates.all_bytes, rates.all_bytes_burst)
        self._open = 0
        self._clients: OrderedDict[str, _Client] = OrderedDict()

    @contextmanager
    def admitted(self, name: str) -> Iterator[Callable[[int], float]]:
        """Let a client's request in for as long as the block lasts. Raises an `HTTPException` if that is too much.

        The block is given a function that counts bytes, and says how many seconds to wait before they are sent.
        """
        loop = asyncio.get_running_loop()
        client = self._client(name)
        if client.open >= self._rates.open or client.requests.full(loop.time()):
            raise web.HTTPTooManyRequests(text="Too many requests from your address.", headers=_SOON)
        if self._open >= self._rates.all_open or self._requests.full(loop.time()):
            raise web.HTTPServiceUnavailable(text="Too many requests now.", headers=_SOON)

        def pace(size: int) -> float:
            return max(client.bytes.take(size, loop.time()), self._bytes.take(size, loop.time()))

        for bucket in (client.requests, self._requests):
            bucket.take(1, loop.time())
        client.open += 1
        self._open += 1
        try:
            yield pace
        finally:
            client.open -= 1
            self._open -= 1

    def _client(self, name: str) -> _Client:
        client = self._clients.get(name)
        if client is None:
            rates = self._rates
            client = _Client(Bucket(rates.requests, rates.requests_burst), Bucket(rates.bytes, rates.bytes_burst))
        keep(self._clients, name, client, self._rates.clients)
        return client


def client_of(remote: str, forwarded: Sequence[str]) -> str:
    """Whose request it is: the address, of IPv6 the network. `forwarded`: the `X-Forwarded-For` headers. Pure.

    A proxy in front of us has a private address and puts the client's at the end. What stands before that, or comes
    from a public address, may be made up.
    """
    peer = _address(remote)
    if peer is None or not peer.is_global:
        told = _address(",".join(forwarded).rpartition(",")[2])
        peer = told or peer
    if peer is None:
        return ""
    return str(ip_network((peer, 64), strict=False)) if isinstance(peer, IPv6Address) else str(peer)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.strip().strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


# --- Parts of files ---------------------------------------------------------------------------------------


def asked_range(header: str | None, size: int) -> range | None:
    """The bytes that a `Range` header asks for; None for all of them. Empty if the file has none of those. Pure.

    Several ranges at once, and what is no range, count as no header:
    https://www.rfc-editor.org/rfc/rfc9110#field.range
    """
    match = _RANGE.fullmatch((header or "").strip())
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return range(max(0, size - int(suffix)), size)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(size, int(last) + 1) if last else size)


def disposition(name: str, *, inline: bool) -> str:
    """The `Content-Disposition` header (https://www.rfc-editor.org/rfc/rfc6266). Pure."""
    plain = "".join(char if char.isascii() and char.isprintable() and char not in '"\\%' else "_" for char in name)
    kind = "inline" if inline else "attachment"
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"


# --- The routes -------------------------------------------------------------------------------------------


class MediaRoutes:
    """Answers requests for files."""

    def __init__(self, files: FileSource, public_url: str, *, goes_on: Callable[[web.Request, float], None]) -> None:
        """`goes_on`: gives a request so many more seconds."""
        self._files = files
        # Some proxies pass on the whole path, some leave this part away.
        self._prefix = urlsplit(public_url).path.rstrip("/")
        self._goes_on = goes_on
        self._throttle = Throttle(Rates())

    def routes(self) -> list[web.RouteDef]:
        """What the server answers. HEAD as well."""
        prefixes = dict.fromkeys(("", self._prefix))
        return [
            web.get(f"{prefix}/media/{{link:.*}}", self._get, name=name)
            for prefix, name in zip(prefixes, MEDIA, strict=False)
        ]

    async def _get(self, request: web.Request) -> web.StreamResponse:
        client = client_of(request.remote or "", request.headers.getall("X-Forwarded-For", []))
        with self._throttle.admitted(client) as pace:
            self._goes_on(request, _WAIT_SECONDS)
            try:
                async with self._files.open(request.raw_path.removeprefix(self._prefix)) as found:
                    if isinstance(found, LinkedElsewhere):
                        return web.Response(status=302, headers={"Location": found.url})
                    return await self._file(request, found, pace)
            except DeliveryError as error:
                raise _refusal(error) from None

    async def _file(self, request: web.Request, file: LinkedFile, pace: Callable[[int], float]) -> web.StreamResponse:
        tag = f'"{file.tag}"'
        response = web.StreamResponse(headers=_HEADERS | {"ETag": tag})
        if tag in request.headers.get("If-None-Match", ""):
            response.set_status(304)
            await response.prepare(request)
            return response
        asked = None
        if file.size is not None:
            response.headers["Accept-Ranges"] = "bytes"
            if request.headers.get("If-Range", tag) == tag:
                asked = asked_range(request.headers.get("Range"), file.size)
            if asked is not None and not asked:
                headers = {"Content-Range": f"bytes */{file.size}"}
                raise web.HTTPRequestRangeNotSatisfiable(headers=headers)
            if asked is not None:
                response.set_status(206)
                response.headers["Content-Range"] = f"bytes {asked[0]}-{asked[-1]}/{file.size}"
            asked = asked if asked is not None else range(file.size)
            response.content_length = len(asked)
        response.headers["Content-Type"] = file.inline_type or "application/octet-stream"
        response.headers["Content-Disposition"] = disposition(file.name, inline=file.inline_type is not None)
        if request.method == "HEAD":
            await response.prepare(request)
            return response
        # The first bytes before the headers: while they do not come, there can still be another answer.
        start, left = (0, None) if asked is None else (asked.start, len(asked))
        async with aclosing(_cut(file.read(start), left)) as pieces:
            first = await anext(pieces, b"")
            try:
                await response.prepare(request)
                await self._write(request, response, first, pieces, pace)
            except ConnectionError:
                _log.debug("a reader of a linked file has left")
            except DeliveryError as error:
                _log.info("a linked file broke off", reason=str(error))
                if request.transport is not None:
                    request.transport.abort()  # the client sees that it does not have all of it
        return response

    async def _write(
        self,
        request: web.Request,
        response: web.StreamResponse,
        first: bytes,
        rest: AsyncIterator[bytes],
        pace: Callable[[int], float],
    ) -> None:
        piece: bytes | None = first
        while piece:
            wait = pace(len(piece))
            self._goes_on(request, wait + _PIECE_SECONDS)
            await asyncio.sleep(wait)
            await response.write(piece)
            self._goes_on(request, _WAIT_SECONDS)
            piece = await anext(rest, None)


async def _cut(chunks: AsyncIterator[bytes], most: int | None) -> AsyncGenerator[bytes]:
    """The first `most` bytes, in pieces."""
    async for chunk in chunks:
        whole = chunk if most is None else chunk[:most]
        for start in range(0, len(whole), _PIECE):
            yield whole[start : start + _PIECE]
        if most is not None:
            most -= len(whole)
            if not most:
                return


def _refusal(error: DeliveryError) -> web.HTTPException:
    """What somebody outside is told: nothing of who did not answer what."""
    match error:
        case TargetGone():
            return web.HTTPNotFound(text=NO_SUCH_FILE)
        case Permanent():
            return web.HTTPGone(text=f"This file is {error}.")
        case Transient(retry_after=seconds) if seconds is not None:
            headers = {"Retry-After": str(math.ceil(seconds))}
            return web.HTTPServiceUnavailable(text="This file cannot be read now.", headers=headers)
        case _:
            return web.HTTPServiceUnavailable(text="This file cannot be read now.", headers=_SOON)
