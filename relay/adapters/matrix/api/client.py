"""Requests to the homeserver: nio sends them, and this module reads every answer.

nio's own methods parse answers into objects that lose the fields they do not know, keep a model of each room that
costs half a second for ten thousand members, save the sync token before anything was handled, and retry for ever. So
only its transport is used, and answers stay JSON. Nothing is retried here: the callers know what may be.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from nio.client.async_client import AsyncClient, AsyncClientConfig
from yarl import URL

from relay.adapters.matrix.api.redirects import ForbiddenAddress, RedirectClient
from relay.adapters.matrix.api.unread import Unread, read_partly
from relay.core.clock import retry_after_seconds
from relay.core.offload import Conversions
from relay.core.ports import NOT_OURS
from relay.domain.jsontext import Json, as_dict, as_string, loads
from relay.errors import cause_of

_CLIENT = "/_matrix/client/v3/"
_REQUEST_TIMEOUT = 30.0
_CHUNK = 256 * 1024
_READ_TIMEOUT = 30.0  # Seconds without a byte after which a download has failed.
_MIN_UPLOAD_RATE = 64 * 1024  # In bytes per second: slower uploads time out.
_MOST_ERROR_BYTES = 64 * 1024
_UNCOMPRESSED = {"Accept-Encoding": "identity"}  # The length of a compressed file would not be known.
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 3
_GONE = frozenset({404, 410})
_DONE = frozenset({200, 201})  # 201: a device of an appservice's user was made.
# How deep an event is in a sync response: rooms, join, the room, timeline, events, the event.
_EVENT_LEVELS = 6
# Lists and objects in one event. A message has ten; the read receipts of a large room have a thousand.
_MOST_CONTAINERS = 2_000
# Bytes of an answer from which on parts of it may be left unread. To read them later takes half as long again.
_UNREAD_BYTES = 64 * 1024


class Refused(Exception):
    """The homeserver answered with an error.

    `code` is its `errcode`, `retry_after` is in seconds. The code is "" only for 413, 429 and 5xx: these mean the same
    when they come from a proxy in front of the homeserver.
    """

    def __init__(self, status: int, code: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(
            f"the homeserver answered {status} {code}: {reason}" if code else f"the homeserver answered {status}"
        )
        self.status = status
        self.code = code
        self.reason = reason
        self.retry_after = retry_after


class Unreachable(Exception):
    """No answer, or not a homeserver's.

    `sent`: the request may have been carried out all the same. `answered`: this request did get an answer; `status`:
    that of one that says no, which no homeserver wrote.
    """

    def __init__(self, reason: str, *, sent: bool, answered: bool = False, status: int | None = None) -> None:
        super().__init__(reason)
        self.sent = sent
        self.answered = answered
        self.status = status


class TooLong(Unreachable):
    """The answer is longer than the caller can use."""

    def __init__(self) -> None:
        super().__init__("the homeserver's answer is too long", sent=True, answered=True)


@dataclass(frozen=True, slots=True)
class Identity:
    """Another account to act as, with the token of an appservice that may do that.

    https://spec.matrix.org/latest/application-service-api/#identity-assertion
    """

    # "": as the appservice itself.
    user_id: str
    token: str = field(repr=False)
    # Always given where the account has a device: transaction IDs are known per device.
    device_id: str = ""

    def query(self) -> dict[str, str | list[str]]:
        """What says so in the URL of a request."""
        asserted = {"user_id": self.user_id, "device_id": self.device_id}
        return {name: value for name, value in asserted.items() if value}


@dataclass(frozen=True, slots=True)
class Download:
    """A file on its way from the homeserver."""

    # In bytes; None: not known yet.
    size: int | None
    content_type: str
    chunks: AsyncIterator[bytes]


class _Transport(AsyncClient):
    """nio's transport, but without redirects: they would take our token and messages to any address.

    And without its tracing, which looks at each chunk of each request.
    """

    async def send(
        self,
        method: str,
        path: str,
        data: Any = None,
        headers: dict[str, str] | None = None,
        trace_context: Any = None,
        timeout: Any = None,
    ) -> aiohttp.ClientResponse:
        return await self._session().request(
            method, self.homeserver + path, data=data, headers=headers, timeout=timeout, allow_redirects=False
        )

    async def read(
        self, url: URL, *, headers: Mapping[str, str], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """GET what is at `url`, without the token."""
        return await self._session().get(url, headers=headers, timeout=timeout, allow_redirects=False)

    def _session(self) -> aiohttp.ClientSession:
        if self.client_session is None:
            self.client_session = aiohttp.ClientSession()  # with nio's own close
        return self.client_session


class Api:
    """The client-server API of one account (https://spec.matrix.org/latest/client-server-api/)."""

    def __init__(
        self,
        homeserver_url: str,
        user_id: str,
        conversions: Conversions | None = None,
        # Whether this process may still change anything there. Looked at right before each request.
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self.user_id = user_id
        self.homeserver_url = homeserver_url.rstrip("/")
        self._redirects = RedirectClient()
        self._client = _Transport(
            self.homeserver_url,
            user_id,
            config=AsyncClientConfig(
                max_limit_exceeded=0,
                max_timeouts=0,
                request_timeout=_REQUEST_TIMEOUT,
                encryption_enabled=False,
                store_sync_tokens=False,
            ),
        )
        self._conversions = conversions or Conversions()
        self._may_write = may_write
        self._token = ""

    def use_token(self, access_token: str) -> None:
        """Authenticate with `access_token` from now on; "" with nothing."""
        self._token = access_token

    @property
    def token_digest(self) -> str:
        """What tells one login from another one, and shows nothing of its token."""
        return hashlib.sha256(self._token.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]
        await self._redirects.close()

    async def call(
        self,
        method: str,
        *path: str,
        query: Mapping[str, str | list[str]] | None = None,
        body: Json | None = None,
        timeout: float = _REQUEST_TIMEOUT,
        root: str = _CLIENT,
        most: int | None = None,
        identity: Identity | None = None,
        unread: Sequence[str] = (),
    ) -> Json:
        """One request. The segments of `path` follow `root`; they are percent-encoded here.

        `timeout`: for the whole request, in seconds. `identity`: as whom, if not as the relay's own account. `unread`:
        the path to the object of which the values are left `Unread` if the answer is long. Raises `Refused` or
        `Unreachable`; `TooLong` if the answer has more than `most` bytes.
        """
        data = None if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        headers = {"Content-Type": "application/json"}
        if identity is not None:
            query = {**(query or {}), **identity.query()}
        if method != "GET" and not self._may_write():
            raise Unreachable(NOT_OURS, sent=False)
        with self._translated_errors(timeout):
            response = await self._client.send(
                method, _address(root, path, query), data, self._authorised(headers, identity), None, timeout
            )
            async with response:
                raw = await response.read() if most is None else await _read(response, most)
        return await self._conversions.run(
            len(raw), parse_response, response.status, response.headers.get("Retry-After"), raw, unread
        )

    async def read(self, value: Any) -> Any:
        """A value of an answer, which may be `Unread`."""
        return await self._conversions.run(len(value), value.read) if isinstance(value, Unread) else value

    async def upload(
        self,
        *path: str,
        query: Mapping[str, str],
        root: str,
        chunks: AsyncIterator[bytes],
        size: int,
        content_type: str,
    ) -> Json:
        """POST `size` bytes, as they arrive. Raises `Refused` or `Unreachable`."""
        timeout = _transfer_timeout(size)
        headers = {"Content-Type": content_type, "Content-Length": str(size)}
        if not self._may_write():
            raise Unreachable(NOT_OURS, sent=False)
        with self._translated_errors(timeout.total or 0.0):
            response = await self._client.send(
                "POST",
                _address(root, path, query),
                chunks,
                self._authorised(headers),
                None,
                timeout,
            )
            async with response:
                raw = await response.read()
        return parse_response(response.status, response.headers.get("Retry-After"), raw)

    @asynccontextmanager
    async def download(self, *path: str, query: Mapping[str, str], root: str) -> AsyncIterator[Download]:
        """GET a file. Raises `Refused` or `Unreachable`, and `Unreachable` also while its chunks are read."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=_READ_TIMEOUT)
        headers = self._authorised(_UNCOMPRESSED)
        with self._translated_errors(_READ_TIMEOUT):
            response = await self._client.send(
                "GET",
                _address(root, path, query),
                None,
                headers,
                None,
                timeout,
            )
        async with AsyncExitStack() as stack:
            response = await stack.enter_async_context(await self._follow_redirects(response, timeout))
            if response.status != 200:
                with self._translated_errors(_READ_TIMEOUT):
                    raw = await response.content.read(_MOST_ERROR_BYTES)
                parse_response(response.status, response.headers.get("Retry-After"), raw)
            plain = "Content-Encoding" not in response.headers
            yield Download(
                response.content_length if plain else None,
                response.headers.get("Content-Type", ""),
                self._chunks(response),
            )

    async def _follow_redirects(
        self, response: aiohttp.ClientResponse, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """`response`, or the file that it redirects to: asked for without our token, and only where that is safe."""
        redirects = 0
        while response.status in _REDIRECTS and redirects < _MOST_REDIRECTS:
            response.release()
            redirects += 1
            try:
                url = response.url.join(URL(response.headers.get("Location", "")))
                get = self._client.read if url.origin() == URL(self.homeserver_url).origin() else self._redirects.get
                response = await get(url, headers=_UNCOMPRESSED, timeout=timeout)
            except (ValueError, ForbiddenAddress):
                break
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                # `sent`, because the homeserver itself can be reached.
                raise Unreachable(
                    f"the server that keeps it cannot be reached ({cause_of(error)})", sent=True
                ) from error
        if response.status in _REDIRECTS:
            response.release()
            raise Refused(response.status, "", "it redirects to an address from which files are not fetched")
        if redirects and response.status != 200:
            response.release()
            if response.status in _GONE:
                raise Refused(response.status, "", "it redirects to where the file is not")
            raise Unreachable(f"the server that keeps it answered HTTP {response.status}", sent=True)
        return response

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        with self._translated_errors(_READ_TIMEOUT):
            async for chunk in response.content.iter_chunked(_CHUNK):
                yield chunk

    def _authorised(self, headers: dict[str, str], identity: Identity | None = None) -> dict[str, str]:
        token = self._token if identity is None else identity.token
        return headers | {"Authorization": f"Bearer {token}"} if token else headers

    @contextmanager
    def _translated_errors(self, timeout: float) -> Iterator[None]:
        here = f"the homeserver at {self.homeserver_url}"
        try:
            yield
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(f"no connection to {here} ({cause_of(error)})", sent=False) from error
        except TimeoutError as error:
            raise Unreachable(f"{here} did not answer within {timeout:.0f} s", sent=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{here} broke off ({cause_of(error)})", sent=True) from error


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    raw = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        raw += chunk
        if len(raw) > most:
            response.close()
            raise TooLong
    return bytes(raw)


def _address(root: str, path: tuple[str, ...], query: Mapping[str, str | list[str]] | None) -> str:
    if "." in path or ".." in path:
        # Percent-encoding does not help: URLs are normalised on the way, and this would be another path.
        raise ValueError("not a segment of a path")
    url = root + "/".join(quote(segment, safe="") for segment in path)
    return f"{url}?{urlencode(query, doseq=True)}" if query else url


def _transfer_timeout(size: int) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT + size / _MIN_UPLOAD_RATE, sock_connect=10.0)


def parse_response(status: int, retry_after: str | None, raw: bytes, unread: Sequence[str] = ()) -> Json:
    """The answer as JSON. Raises `Refused` if a homeserver refuses, `Unreachable` if it is no homeserver's. Pure."""
    try:
        if unread and len(raw) > _UNREAD_BYTES:
            answer = read_partly(raw, unread, levels=_EVENT_LEVELS, max_containers=_MOST_CONTAINERS)
        else:
            answer = loads(raw, levels=_EVENT_LEVELS, max_containers=_MOST_CONTAINERS)
    except ValueError:
        answer = None
    if status in _DONE and isinstance(answer, dict):
        return answer
    if status in _DONE:
        raise Unreachable("what answers there does not speak Matrix", sent=True, answered=True)
    error = as_dict(answer)
    code = as_string(error.get("errcode"))
    if not code and status < 500 and status not in {413, 429}:
        # For example a proxy's page, while the homeserver behind it restarts: it says nothing about the request.
        reason = f"what answers there does not speak Matrix (status {status})"
        if 300 <= status < 400:
            reason += "; it redirects: set [matrix] homeserver_url to the new address"
        raise Unreachable(reason, sent=True, answered=True, status=status)
    raise Refused(status, code, str(error.get("error", ""))[:300], _retry_after(status, retry_after, error))


def _retry_after(status: int, header: str | None, error: Json) -> float | None:
    """Seconds to wait. The header replaces the deprecated `retry_after_ms`, but most servers still send only that."""
    wait = retry_after_seconds(error.get("retry_after_ms"), unit=0.001)
    if wait is None:
        wait = retry_after_seconds(header)
    return 5.0 if wait is None and status == 429 else wait
