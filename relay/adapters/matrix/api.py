"""Requests to the homeserver: nio carries them, this module looks at every answer.

nio's own wrappers parse answers into objects that lose what they do not know, keep a model of each room that costs
half a second for ten thousand members, save the sync token before anything was handled, and retry for ever. So
only its transport is used, and answers stay JSON. Nothing is retried here: callers know what may be.
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from nio.client.async_client import AsyncClient, AsyncClientConfig

Json = dict[str, Any]

REQUEST_TIMEOUT = 30.0


class Refused(Exception):
    """The homeserver answered with an error. `code` is its `errcode`; `retry_after` in seconds."""

    def __init__(self, status: int, code: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(
            f"the homeserver answered {status} {code}: {reason}" if code else f"the homeserver answered {status}"
        )
        self.status = status
        self.code = code
        self.reason = reason
        self.retry_after = retry_after


class Unreachable(Exception):
    """No answer, or none that a homeserver gives. `sent`: the request may have been carried out all the same."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Api:
    """The client-server API of one account (https://spec.matrix.org/latest/client-server-api/)."""

    def __init__(self, homeserver_url: str, user_id: str) -> None:
        self.user_id = user_id
        self.homeserver_url = homeserver_url.rstrip("/")
        self._client = AsyncClient(
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
        self._token = ""

    def use_token(self, access_token: str) -> None:
        """Authenticate with `access_token` from now on; "" with nothing."""
        self._token = access_token

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def call(
        self,
        method: str,
        *path: str,
        query: Mapping[str, str | list[str]] | None = None,
        body: Json | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> Json:
        """One request; the segments of `path` stand behind `/_matrix/client/v3/`, not yet percent-encoded.

        Raises `Refused` or `Unreachable`. `timeout` in seconds, over all.
        """
        url = "/_matrix/client/v3/" + "/".join(quote(segment, safe="") for segment in path)
        if query:
            url += "?" + urlencode(query, doseq=True)
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        here = f"the homeserver at {self.homeserver_url}"
        try:
            response = await self._client.send(method, url, data, headers, None, timeout)
            async with response:
                raw = await response.read()
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(f"no connection to {here} ({_cause(error)})", sent=False) from error
        except TimeoutError as error:
            raise Unreachable(f"{here} did not answer within {timeout:.0f} s", sent=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{here} broke off ({_cause(error)})", sent=True) from error
        return _judge(response.status, response.headers.get("Retry-After"), raw)


def _judge(status: int, retry_after: str | None, raw: bytes) -> Json:
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        answer = None
    if status == 200 and isinstance(answer, dict):
        return answer
    if status == 200:
        raise Unreachable("what answers there does not speak Matrix", sent=True)
    told: Json = answer if isinstance(answer, dict) else {}
    raise Refused(
        status, str(told.get("errcode", "")), str(told.get("error", ""))[:300], _patience(status, retry_after, told)
    )


def _patience(status: int, header: str | None, told: Json) -> float | None:
    """Seconds to wait. `retry_after_ms` is deprecated for the header, but most servers still send only that."""
    milliseconds = told.get("retry_after_ms")
    if isinstance(milliseconds, int | float):
        return max(0.0, milliseconds / 1000)
    if header is not None and header.strip().isdigit():
        return float(header)
    return 5.0 if status == 429 else None


def _cause(error: Exception) -> str:
    # The request's headers, and so the token, are in the `repr` of some of aiohttp's errors: never print that.
    cause = getattr(error, "os_error", None)
    return str(cause.strerror or cause) if isinstance(cause, OSError) else type(error).__name__
