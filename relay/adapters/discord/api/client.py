"""Discord's REST API over a small client of our own.

Why not discord.py's: it sends a webhook message again by itself after a 5xx, although the first may have been
posted (webhooks know no idempotency key), and where a bucket is used up it keeps the answer to itself until the
bucket refills, so that a cancelled caller never learns the ID of what it posted. Here each call is one request,
and what becomes of it is known at once. The gateway, which is the hard part, stays with discord.py.

Everything raised here is an `ApiError`; `outbound.py` turns it into the relay's errors.
"""

import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import quote

import aiohttp
import structlog

import relay
from relay.adapters.discord.api.errors import NOT_FOUND, Limited, Refused, Unanswered
from relay.adapters.discord.api.rate_limits import MAX_WAIT, Bucket, RateLimits, WaitTooLong
from relay.adapters.discord.identifiers import path_segment
from relay.core.clock import ServerTime, retry_after_seconds
from relay.core.offload import Conversions
from relay.core.ports import Clock
from relay.domain.jsontext import loads

_log = structlog.get_logger(__name__)

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Json = Any  # whatever a JSON document may be

# What Discord asks bots to call themselves: https://docs.discord.com/developers/reference#user-agent
USER_AGENT = f"DiscordBot (discord-matrix-relay, {relay.__version__})"
MAX_RETRY_PAUSE = 30.0
_DATE_STEP = timedelta(seconds=1)  # A Date header has whole seconds.
_CHUNK = 256 * 1024
_SLOWEST = 64 * 1024  # Bytes a second that an upload makes at least.


@dataclass(frozen=True, slots=True)
class Route:
    """One request's address. `path` holds `{names}`, which `ids` fills in.

    The first of `ids` is what Discord limits by (a channel, a guild, a webhook with its token). `token` false:
    the address itself is the credential, as it is with webhooks. `patience`: seconds for which its bucket is waited
    for here, rather than by whoever asked. `query`: what always stands behind the `?`.
    """

    method: Method
    path: str
    ids: Mapping[str, str]
    token: bool = True
    patience: float = MAX_WAIT
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The path with the IDs in it. A secret, for a webhook."""
        return self.path.format_map({name: quote(path_segment(value), safe="") for name, value in self.ids.items()})

    @property
    def bucket(self) -> Bucket:
        """What it is limited with."""
        return Bucket(f"{self.method} {self.path}", next(iter(self.ids.values()), ""))


@dataclass(frozen=True, slots=True)
class Download:
    """A file that is being answered, or why not: `status`. `size` in bytes, None where it is not announced."""

    status: int
    size: int | None
    content_type: str
    retry_after: float
    chunks: AsyncIterator[bytes]


class RestClient:
    """Requests to one API with one token. `timeout` in seconds, for each request.

    `on_refused_token` is called when the API no longer takes the token. `time` is Discord's own.
    """

    def __init__(
        self,
        *,
        token: str,
        api_url: str,
        clock: Clock,
        limits: RateLimits,
        timeout: float = 30.0,
        on_refused_token: Callable[[], None] = lambda: None,
        conversions: Conversions | None = None,
    ) -> None:
        self._token = token
        self._api_url = api_url.rstrip("/")
        self._clock = clock
        self._limits = limits
        self._seconds = timeout
        self._on_refused_token = on_refused_token
        self._conversions = conversions or Conversions()
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self.time = ServerTime(clock)

    async def close(self) -> None:
        """Close the connections, for good."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    def check(self, route: Route) -> None:
        """Raise `Limited` if `call` would for want of time: before anything is fetched for it."""
        try:
            self._limits.check(route.bucket, route.patience)
        except WaitTooLong as error:
            raise Limited(error.retry_after, error.reason) from None

    async def call(
        self,
        route: Route,
        *,
        body: Mapping[str, Json] | None = None,
        form: aiohttp.MultipartWriter | None = None,
        size: int = 0,
        query: Mapping[str, str] | None = None,
        reason: str | None = None,
    ) -> Json:
        """Send one request, once; the answer's JSON (None for an empty one). Raises an `ApiError`.

        `form`: sent instead of `body`, about `size` bytes. `reason` is shown in the guild's audit log.
        """
        bucket = route.bucket
        try:
            await self._limits.enter(bucket, route.patience)
        except WaitTooLong as error:
            raise Limited(error.retry_after, error.reason) from None
        try:
            return await self._send(route, body, query, reason, form=form, timeout=self._timeout_for(size))
        finally:
            self._limits.leave(bucket)

    async def read(self, route: Route, *, query: Mapping[str, str] | None = None) -> Json:
        """`call` for what changes nothing: tried until there is an answer. Raises `Refused` only."""
        pause = 0.5
        while True:
            try:
                return await self.call(route, query=query)
            except Limited as error:
                wait = error.retry_after
            except Unanswered as error:
                wait = pause * random.uniform(0.5, 1.0)
                pause = min(pause * 2, MAX_RETRY_PAUSE)
                _log.warning("discord not answering", request=route.bucket.route, reason=str(error))
            await self._clock.sleep(wait)

    @asynccontextmanager
    async def download(self, url: str) -> AsyncIterator[Download]:
        """GET a file, without our token. Raises `Unanswered`, also while its chunks are read."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=self._seconds)
        # Compressed, its length would not be known.
        headers = {"Accept-Encoding": "identity"}
        with _unanswered():
            response = await self._connect().get(url, headers=headers, timeout=timeout, allow_redirects=False)
        async with response:
            plain = "Content-Encoding" not in response.headers
            yield Download(
                response.status,
                response.content_length if plain else None,
                response.headers.get("Content-Type", ""),
                _seconds(response.headers.get("Retry-After")),
                _chunks(response),
            )

    def _timeout_for(self, size: int) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=self._seconds + size / _SLOWEST, sock_connect=10.0)

    async def _send(
        self,
        route: Route,
        body: Mapping[str, Json] | None,
        query: Mapping[str, str] | None,
        reason: str | None,
        *,
        form: aiohttp.MultipartWriter | None,
        timeout: aiohttp.ClientTimeout,
    ) -> Json:
        headers = {"Authorization": f"Bot {self._token}"} if route.token else {}
        if reason is not None:
            headers["X-Audit-Log-Reason"] = quote(reason, safe=" ")
        with _unanswered():
            async with self._connect().request(
                route.method,
                self._api_url + route.url,
                json=body,
                data=form,
                params={**route.query, **(query or {})},
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                raw = await response.read()
        self._limits.learn(route.bucket, response.status, response.headers)
        if response.ok and (moment := _moment(response.headers.get("Date"))) is not None:
            self.time.told(moment, within=_DATE_STEP)
        document = await self._conversions.run(len(raw), _decode, raw)
        return self._answer(route, response.status, response.headers, raw, document)

    def _answer(self, route: Route, status: int, headers: Mapping[str, str], raw: bytes, document: Json) -> Json:
        if 200 <= status < 300:
            if raw and document is None:
                raise Unanswered("an answer from Discord that is no JSON", sent=True, answered=True)
            return document
        fields = document if isinstance(document, dict) else {}
        if status == 429:
            retry_after = _seconds(fields.get("retry_after"), headers.get("Retry-After"))
            # Without JSON it comes from Cloudflare, which blocks the address, not a route.
            everywhere = bool(fields.get("global")) or "X-RateLimit-Global" in headers or not fields
            self._limits.exhausted(route.bucket, retry_after, everywhere=everywhere)
            raise Limited(retry_after)
        if status >= 500 or status < 400:
            raise Unanswered(f"Discord answered HTTP {status}", sent=True, answered=True)
        if not fields and status in NOT_FOUND:
            # A server that is not Discord's own need not give a reason, nor have every route.
            raise Refused(status, 0, "no reason given")
        if not fields:
            # Discord always says why; this came from something in between.
            raise Unanswered(f"HTTP {status} from something that is not Discord's API", sent=True, answered=True)
        code = fields.get("code")
        mistakes = _mistakes(fields)
        named = frozenset(path.partition(".")[0] for path, _ in mistakes)
        refused = Refused(status, code if isinstance(code, int) else 0, _words(fields, mistakes), named)
        if status == 401 and route.token:
            self._on_refused_token()
        raise refused

    def _connect(self) -> aiohttp.ClientSession:
        if self._closed:
            raise Unanswered("the connection to Discord is closed", sent=False)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"User-Agent": USER_AGENT}, connector=aiohttp.TCPConnector(limit=64)
            )
        return self._session


@contextmanager
def _unanswered() -> Iterator[None]:
    # These say nothing about what the server did: the request may have been carried out. Their own words
    # may hold the address, and so a webhook's token.
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise Unanswered(f"Discord cannot be reached ({type(error).__name__})", sent=False) from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unanswered(f"no answer from Discord ({type(error).__name__})", sent=True) from None


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    with _unanswered():
        async for chunk in response.content.iter_chunked(_CHUNK):
            yield chunk


def _decode(raw: bytes) -> Json:
    try:
        return loads(raw, levels=1) if raw else None  # lists are of messages, each of them as long as it may be
    except ValueError:
        return None


def _moment(date: str | None) -> datetime | None:
    """A moment as HTTP tells it (https://www.rfc-editor.org/rfc/rfc9110#name-date-origination)."""
    try:
        found = None if date is None else parsedate_to_datetime(date)
    except ValueError:
        return None
    return found if found is None or found.tzinfo is not None else found.replace(tzinfo=UTC)


def _seconds(*candidates: object) -> float:
    waits = (wait for wait in map(retry_after_seconds, candidates) if wait is not None)
    return max(0.05, next(waits, 5.0))


def _mistakes(fields: Mapping[str, Json]) -> list[tuple[str, str]]:
    """The fields of a request that Discord finds fault with, each with its code."""
    errors = fields.get("errors")
    return _field_errors(errors, "") if isinstance(errors, dict) else []


def _words(fields: Mapping[str, Json], mistakes: list[tuple[str, str]]) -> str:
    """Discord's message and the fields that it names: never what was in them."""
    message = fields.get("message")
    words = [message if isinstance(message, str) else "no reason given"]
    words.extend(f"{path} {code}" for path, code in mistakes)
    return "; ".join(words[:6])[:500]


def _field_errors(errors: Mapping[str, Json], path: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in errors.items():
        if name == "_errors" and isinstance(value, list):
            found.extend((path, str(item.get("code", ""))) for item in value if isinstance(item, dict))
        elif isinstance(value, dict):
            found.extend(_field_errors(value, f"{path}.{name}" if path else name))
    return found
