"""Discord's REST API: one call is one request, and what became of it is known at once.

Why not discord.py's client: after a 5xx it sends a webhook message again by itself, although the first may have been
posted (webhooks have no idempotency key). And where a bucket is used up, it returns an answer only when the bucket has
refilled, so a caller that is cancelled never learns the ID of what it posted. The gateway stays with discord.py.

Everything raised here is an `ApiError`; see `api/errors.py`.
"""

import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import quote

import aiohttp

import relay
from relay.adapters.discord.api.errors import NOT_FOUND, TOO_LARGE, Limited, Refused, Unanswered
from relay.adapters.discord.api.rate_limits import MAX_WAIT, Bucket, RateLimits, WaitTooLong
from relay.adapters.discord.identifiers import path_segment
from relay.core.clock import ServerTime, http_date, retry_after_seconds
from relay.core.offload import Conversions
from relay.core.ports import NOT_OURS, Clock
from relay.domain.jsontext import Json, as_dict, loads
from relay.errors import cause_of
from relay.logs import get_logger

_log = get_logger(__name__)

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

# The form that Discord asks bots to use: https://docs.discord.com/developers/reference#user-agent
USER_AGENT = f"DiscordBot (discord-matrix-relay, {relay.__version__})"
MAX_RETRY_PAUSE = 30.0
_DATE_STEP = timedelta(seconds=1)  # A Date header has whole seconds.
_CHUNK = 256 * 1024
_MIN_UPLOAD_SPEED = 64 * 1024  # Bytes per second. A slower upload times out.


@dataclass(frozen=True, slots=True)
class Route:
    """The address of a request."""

    method: Method
    # With `{names}` in it, which `ids` fills in.
    path: str
    # The first is the one that Discord limits by: a channel, a guild, or a webhook with its token.
    ids: Mapping[str, str]
    # Send the bot's token. Not for webhooks, whose address is the credential itself.
    token: bool = True
    # Seconds that the client waits for the bucket. If it takes longer, it raises `Limited`, and the caller waits.
    max_wait: float = MAX_WAIT
    # False for answers to commands: the limit of all requests together does not count them, and as each has an address
    # of its own, no bucket needs to be kept for it.
    limited: bool = True
    # What always follows the `?`.
    query: Mapping[str, str] = field(default_factory=dict)
    # It gives way to everything else: it is sent only while half of what the whole bot may send is left.
    background: bool = False

    @property
    def url(self) -> str:
        """The path with the IDs filled in. Secret for a webhook."""
        return self.path.format_map({name: quote(path_segment(value), safe="") for name, value in self.ids.items()})

    @property
    def bucket(self) -> Bucket:
        """The bucket whose limit it counts against."""
        return Bucket(f"{self.method} {self.path}", next(iter(self.ids.values()), ""))


@dataclass(frozen=True, slots=True)
class Download:
    """The answer to a request for a file."""

    status: int
    # In bytes; None where the server does not tell.
    size: int | None
    content_type: str
    # Seconds, for a status 429.
    retry_after: float
    chunks: AsyncIterator[bytes]


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class RestClient:
    """Sends requests to one API with one token."""

    token: str = field(repr=False)
    # Where that was taken from; "" if that is not known.
    token_source: str = ""
    api_url: str
    clock: Clock
    limits: RateLimits
    # Seconds for each request, without the time that files take.
    timeout: float = 30.0
    # Called when the API refuses the token.
    on_refused_token: Callable[[], None] = lambda: None
    conversions: Conversions = field(default_factory=Conversions)
    # Whether this process may still change anything there. Looked at right before each request.
    may_write: Callable[[], bool] = lambda: True
    # Discord's clock, as its answers tell it.
    time: ServerTime = field(init=False)
    _session: aiohttp.ClientSession | None = field(init=False, default=None)
    _closed: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.api_url = self.api_url.rstrip("/")
        self.time = ServerTime(self.clock)

    async def close(self) -> None:
        """Close the connections, for good."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    def check(self, route: Route) -> None:
        """Raise `Limited` if `call` would. Used before a file is fetched to be sent with it."""
        try:
            self.limits.check(route.bucket, route.max_wait)
        except WaitTooLong as error:
            raise Limited(error.retry_after, error.reason) from None

    async def call(
        self,
        route: Route,
        *,
        body: Json | None = None,
        form: aiohttp.MultipartWriter | None = None,
        size: int = 0,
        query: Mapping[str, str] | None = None,
        reason: str | None = None,
    ) -> Any:
        """Send one request, once. Returns the answer's JSON, None for an empty one. Raises `ApiError`.

        `form` is sent instead of `body`, and has about `size` bytes. `reason` is shown in the guild's audit log.
        """
        if not route.limited:
            return await self._send(route, body, query, reason, form=form, timeout=self._timeout_for(size))
        bucket = route.bucket
        try:
            await self.limits.acquire(bucket, route.max_wait, background=route.background)
        except WaitTooLong as error:
            raise Limited(error.retry_after, error.reason) from None
        try:
            return await self._send(route, body, query, reason, form=form, timeout=self._timeout_for(size))
        finally:
            self.limits.release(bucket)

    async def read(self, route: Route, *, query: Mapping[str, str] | None = None) -> Any:
        """`call` for requests that change nothing: tries until there is an answer. Raises only `Refused`."""
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
            await self.clock.sleep(wait)

    @asynccontextmanager
    async def download(self, url: str) -> AsyncIterator[Download]:
        """GET a file, without our token. Raises `Unanswered`, also while the chunks are read."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=self.timeout)
        # The length of a compressed answer would not be known.
        headers = {"Accept-Encoding": "identity"}
        with _unanswered():
            response = await self._connect().get(url, headers=headers, timeout=timeout, allow_redirects=False)
        async with response:
            plain = "Content-Encoding" not in response.headers
            yield Download(
                response.status,
                response.content_length if plain else None,
                response.headers.get("Content-Type", ""),
                _retry_after(response.headers.get("Retry-After")),
                _chunks(response),
            )

    def _timeout_for(self, size: int) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=self.timeout + size / _MIN_UPLOAD_SPEED, sock_connect=10.0)

    async def _send(
        self,
        route: Route,
        body: Json | None,
        query: Mapping[str, str] | None,
        reason: str | None,
        *,
        form: aiohttp.MultipartWriter | None,
        timeout: aiohttp.ClientTimeout,
    ) -> Any:
        headers = {"Authorization": f"Bot {self.token}"} if route.token else {}
        if reason is not None:
            headers["X-Audit-Log-Reason"] = quote(reason, safe=" ")
        if route.method != "GET" and not self.may_write():
            raise Unanswered(NOT_OURS, sent=False)
        with _unanswered():
            async with self._connect().request(
                route.method,
                self.api_url + route.url,
                json=body,
                data=form,
                params={**route.query, **(query or {})},
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                raw = await response.read()
        if route.limited:
            self.limits.update(route.bucket, response.status, response.headers)
        if response.ok and (moment := http_date(response.headers.get("Date"))) is not None:
            self.time.told(moment, within=_DATE_STEP)
        document = await self.conversions.run(len(raw), _decode, raw)
        return self._answer(route, response.status, response.headers, raw, document)

    def _answer(self, route: Route, status: int, headers: Mapping[str, str], raw: bytes, document: Any) -> Any:
        if 200 <= status < 300:
            if raw and document is None:
                raise Unanswered("Discord's answer is not JSON", sent=True, answered=True)
            return document
        fields = as_dict(document)
        if status == 429:
            retry_after = _retry_after(fields.get("retry_after"), headers.get("Retry-After"))
            # An answer without JSON comes from Cloudflare, which blocks our address and not one route.
            everywhere = bool(fields.get("global")) or "X-RateLimit-Global" in headers or not fields
            if route.limited:
                self.limits.limit_reached(route.bucket, retry_after, everywhere=everywhere)
            raise Limited(retry_after)
        if status >= 500 or status < 400:
            raise Unanswered(f"Discord answered HTTP {status}", sent=True, answered=True)
        if not fields and status in NOT_FOUND:
            # Other servers that speak Discord's API may give no reason, and may not have every route.
            raise Refused(status, 0, "no reason given")
        if not fields and status == TOO_LARGE:
            # From a proxy in front of it, which has a limit of its own. It will never take that.
            raise Refused(status, 0, "the request is too large")
        if not fields:
            # Discord always gives a reason, so this came from a proxy in between.
            raise Unanswered(f"HTTP {status} from something that is not Discord's API", sent=True, answered=True)
        code = fields.get("code")
        field_errors = _all_field_errors(fields)
        named = frozenset(path.partition(".")[0] for path, _ in field_errors)
        refused = Refused(status, code if isinstance(code, int) else 0, _reason(fields, field_errors), named)
        if status == 401 and route.token:
            self.on_refused_token()
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
    """Turn aiohttp's errors into `Unanswered`."""
    # The texts of these errors are left out: they may contain the address, and so a webhook's token.
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise Unanswered(f"Discord cannot be reached ({cause_of(error)})", sent=False) from None
    except TimeoutError:
        raise Unanswered("Discord does not answer in time", sent=True) from None
    except (aiohttp.ClientError, OSError) as error:
        raise Unanswered(f"Discord does not answer ({cause_of(error)})", sent=True) from None


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    with _unanswered():
        async for chunk in response.content.iter_chunked(_CHUNK):
            yield chunk


def _decode(raw: bytes) -> Any:
    try:
        return loads(raw, levels=1) if raw else None  # a list may hold many messages, each of the full length
    except ValueError:
        return None


def _retry_after(*candidates: object) -> float:
    waits = (wait for wait in map(retry_after_seconds, candidates) if wait is not None)
    return max(0.05, next(waits, 5.0))


def _all_field_errors(fields: Json) -> list[tuple[str, str]]:
    """The fields of the request that Discord complains about, each with the code of its error."""
    errors = fields.get("errors")
    return _field_errors(errors, "") if isinstance(errors, dict) else []


def _reason(fields: Json, field_errors: list[tuple[str, str]]) -> str:
    """Discord's message and the fields that it names, but never their contents."""
    message = fields.get("message")
    words = [message if isinstance(message, str) else "no reason given"]
    words.extend(f"{path} {code}" for path, code in field_errors)
    return "; ".join(words[:6])[:500]


def _field_errors(errors: Json, path: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in errors.items():
        if name == "_errors" and isinstance(value, list):
            found.extend((path, str(item.get("code", ""))) for item in value if isinstance(item, dict))
        elif isinstance(value, dict):
            found.extend(_field_errors(value, f"{path}.{name}" if path else name))
    return found
