"""Requests to the homeserver: nio carries them, this module looks at every answer.

nio's own wrappers parse answers into objects that lose what they do not know, keep a model of each room that costs
half a second for ten thousand members, save the sync token before anything was handled, and retry for ever. So
only its transport is used, and answers stay JSON. Nothing is retried here: callers know what may be.
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from nio.client.async_client import AsyncClient, AsyncClientConfig, client_session
from yarl import URL

from relay.adapters.matrix.api.redirects import ForbiddenAddress, RedirectClient
from relay.core.clock import retry_after_seconds
from relay.core.offload import Conversions
from relay.domain.jsontext import loads

Json = dict[str, Any]

CLIENT = "/_matrix/client/v3/"
REQUEST_TIMEOUT = 30.0
CHUNK = 256 * 1024
_SILENCE = 30.0  # Seconds without a byte after which a download counts as broken off.
_SLOWEST = 64 * 1024  # Bytes a second that an upload makes at least.
_LONGEST_ERROR = 64 * 1024
_PLAIN = {"Accept-Encoding": "identity"}  # Compressed, the length of a file would not be known.
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 3
_GONE = frozenset({404, 410})
_EVENT_LEVELS = 6
"""Where events stand in the answer to a sync: rooms, join, the room, timeline, events, the event."""
_MOST_HOLDERS = 2_000
"""Lists and objects in one event. A message has ten; a list of who has read in a large room has a thousand."""


class Refused(Exception):
    """The homeserver answered with an error. `code` is its `errcode`; `retry_after` in seconds.

    Only 413, 429 and 5xx come without a code: whatever stands in front of a homeserver means the same by them.
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
    """No answer, or none that a homeserver gives. `sent`: the request may have been carried out all the same.

    `answered`: there was one, to this very request.
    """

    def __init__(self, reason: str, *, sent: bool, answered: bool = False) -> None:
        super().__init__(reason)
        self.sent = sent
        self.answered = answered


class TooLong(Unreachable):
    """The answer is longer than the caller can use."""

    def __init__(self) -> None:
        super().__init__("the homeserver's answer is too long", sent=True, answered=True)


@dataclass(frozen=True, slots=True)
class Download:
    """A file that is being answered. `size` in bytes, None where it is not announced."""

    size: int | None
    content_type: str
    chunks: AsyncIterator[bytes]


class _Transport(AsyncClient):
    """nio's, which would follow redirects: with what was said, to wherever whoever runs the homeserver likes."""

    @client_session  # type: ignore[untyped-decorator]
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

    @client_session  # type: ignore[untyped-decorator]
    async def read(
        self, url: URL, *, headers: Mapping[str, str], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """GET what is at `url`, without the token."""
        return await self._session().get(url, headers=headers, timeout=timeout, allow_redirects=False)

    def _session(self) -> aiohttp.ClientSession:
        if self.client_session is None:
            raise RuntimeError("nio made no session")
        return self.client_session


class Api:
    """The client-server API of one account (https://spec.matrix.org/latest/client-server-api/)."""

    def __init__(self, homeserver_url: str, user_id: str, conversions: Conversions | None = None) -> None:
        self.user_id = user_id
        self.homeserver_url = homeserver_url.rstrip("/")
        self._redirects = RedirectClient()
        self._client = _Transport(
            self.homeserver_url,
            user_id,
            config=AsyncClientConfig(
                max_limit_exceeded=0,
                max_timeouts=0,
                request_timeout=REQUEST_TIMEOUT,
                encryption_enabled=False,
                store_sync_tokens=False,
            ),
        )
        self._conversions = conversions or Conversions()
        self._token = ""

    def use_token(self, access_token: str) -> None:
        """Authenticate with `access_token` from now on; "" with nothing."""
        self._token = access_token

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
        timeout: float = REQUEST_TIMEOUT,
        root: str = CLIENT,
        most: int | None = None,
    ) -> Json:
        """One request; the segments of `path` stand behind `root`, not yet percent-encoded.

        Raises `Refused` or `Unreachable`; `TooLong` for an answer of more than `most` bytes. `timeout` in seconds, over
        all.
        """
        data = None if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        headers = {"Content-Type": "application/json"}
        with self._translated(timeout):
            response = await self._client.send(
                method, _address(root, path, query), data, self._authorised(headers), None, timeout
            )
            async with response:
                raw = await response.read() if most is None else await _read(response, most)
        return await self._conversions.run(
            len(raw), parse_response, response.status, response.headers.get("Retry-After"), raw
        )

    async def upload(
        self,
        *path: str,
        query: Mapping[str, str],
        root: str,
        chunks: AsyncIterator[bytes],
        size: int,
        content_type: str,
    ) -> Json:
        """POST `size` bytes as they come. Raises `Refused` or `Unreachable`."""
        timeout = _transfer_timeout(size)
        headers = {"Content-Type": content_type, "Content-Length": str(size)}
        with self._translated(timeout.total or 0.0):
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
        """GET a file. Raises `Refused` or `Unreachable`, the latter also while its chunks are read."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=_SILENCE)
        headers = self._authorised(_PLAIN)
        with self._translated(_SILENCE):
            response = await self._client.send(
                "GET",
                _address(root, path, query),
                None,
                headers,
                None,
                timeout,
            )
        async with AsyncExitStack() as stack:
            response = await stack.enter_async_context(await self._followed(response, timeout))
            if response.status != 200:
                with self._translated(_SILENCE):
                    raw = await response.content.read(_LONGEST_ERROR)
                parse_response(response.status, response.headers.get("Retry-After"), raw)
            plain = "Content-Encoding" not in response.headers
            yield Download(
                response.content_length if plain else None,
                response.headers.get("Content-Type", ""),
                self._chunks(response),
            )

    async def _followed(
        self, response: aiohttp.ClientResponse, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """`response`, or what stands where it leads to: asked for without our token, and only where that is safe."""
        redirects = 0
        while response.status in _REDIRECTS and redirects < _MOST_REDIRECTS:
            response.release()
            redirects += 1
            try:
                url = response.url.join(URL(response.headers.get("Location", "")))
                get = self._client.read if url.origin() == URL(self.homeserver_url).origin() else self._redirects.get
                response = await get(url, headers=_PLAIN, timeout=timeout)
            except (ValueError, ForbiddenAddress):
                break
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                # Not "not sent": the homeserver itself is not away.
                raise Unreachable(f"where it is kept is out of reach ({_cause(error)})", sent=True) from error
        if response.status in _REDIRECTS:
            response.release()
            raise Refused(response.status, "", "it leads to a place that files are not fetched from")
        if redirects and response.status != 200:
            response.release()
            if response.status in _GONE:
                raise Refused(response.status, "", "it leads to where the file is not")
            raise Unreachable(f"where the homeserver keeps it answered HTTP {response.status}", sent=True)
        return response

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        with self._translated(_SILENCE):
            async for chunk in response.content.iter_chunked(CHUNK):
                yield chunk

    def _authorised(self, headers: dict[str, str]) -> dict[str, str]:
        return headers | {"Authorization": f"Bearer {self._token}"} if self._token else headers

    @contextmanager
    def _translated(self, timeout: float) -> Iterator[None]:
        here = f"the homeserver at {self.homeserver_url}"
        try:
            yield
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(f"no connection to {here} ({_cause(error)})", sent=False) from error
        except TimeoutError as error:
            raise Unreachable(f"{here} did not answer within {timeout:.0f} s", sent=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{here} broke off ({_cause(error)})", sent=True) from error


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    raw = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK):
        raw += chunk
        if len(raw) > most:
            response.close()
            raise TooLong
    return bytes(raw)


def _address(root: str, path: tuple[str, ...], query: Mapping[str, str | list[str]] | None) -> str:
    if "." in path or ".." in path:
        # Percent-encoding does not help: URLs are normalised on the way, and this would be another place.
        raise ValueError("not a segment of a path")
    url = root + "/".join(quote(segment, safe="") for segment in path)
    return f"{url}?{urlencode(query, doseq=True)}" if query else url


def _transfer_timeout(size: int) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=REQUEST_TIMEOUT + size / _SLOWEST, sock_connect=10.0)


def parse_response(status: int, retry_after: str | None, raw: bytes) -> Json:
    """The answer as JSON. Raises `Refused` where a homeserver says no, `Unreachable` where none has spoken. Pure."""
    try:
        answer = loads(raw, levels=_EVENT_LEVELS, most=_MOST_HOLDERS)
    except ValueError:
        answer = None
    if status == 200 and isinstance(answer, dict):
        return answer
    if status == 200:
        raise Unreachable("what answers there does not speak Matrix", sent=True, answered=True)
    told: Json = answer if isinstance(answer, dict) else {}
    code = told.get("errcode")
    if (not isinstance(code, str) or not code) and status < 500 and status not in {413, 429}:
        # A proxy's page, while the homeserver behind it is restarted: it says nothing about what was asked.
        words = f"what answers there does not speak Matrix (status {status})"
        if 300 <= status < 400:
            words += "; it leads elsewhere: set matrix.homeserver_url to where"
        raise Unreachable(words, sent=True, answered=True)
    raise Refused(
        status,
        code if isinstance(code, str) else "",
        str(told.get("error", ""))[:300],
        _patience(status, retry_after, told),
    )


def _patience(status: int, header: str | None, told: Json) -> float | None:
    """Seconds to wait. `retry_after_ms` is deprecated for the header, but most servers still send only that."""
    wait = retry_after_seconds(told.get("retry_after_ms"), unit=0.001)
    if wait is None:
        wait = retry_after_seconds(header)
    return 5.0 if wait is None and status == 429 else wait


def _cause(error: Exception) -> str:
    # The request's headers, and so the token, are in the `repr` of some of aiohttp's errors: never print that.
    cause = getattr(error, "os_error", None)
    return str(cause.strerror or cause) if isinstance(cause, OSError) else type(error).__name__
