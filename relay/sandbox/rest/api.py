"""What every route of the REST API has in common: authentication, rate limits, faults, and the form of the answers."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from aiohttp import web

from relay.sandbox import errors
from relay.sandbox.errors import ApiError
from relay.sandbox.faults import Fault, Faults, reset
from relay.sandbox.messages.forms import parse_snowflake
from relay.sandbox.rate_limits import InvalidRequests, Limits, RateLimiter, Refusal
from relay.sandbox.rest.requests import Call
from relay.sandbox.world.files import FileStore
from relay.sandbox.world.models import Application, Json
from relay.sandbox.world.state import State

PREFIX = "/api/v10"
_VIA = {"Via": "1.1 google"}
_MAJOR = ("channel_id", "guild_id", "webhook_id", "webhook_token", "interaction_token")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is not a plain 200 with JSON, or 204 for None."""

    body: Any
    status: int = 200


Handler = Callable[[Call], Awaitable[Any]]


@dataclass(slots=True)
class Statistics:
    """How often each route was called and each status given, for the control interface."""

    requests: dict[str, int] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)

    def count(self, route: str, status: int) -> None:
        """One answer; a status of 0 is a connection that was cut."""
        self.requests[route] = self.requests.get(route, 0) + 1
        self.statuses[status] = self.statuses.get(status, 0) + 1


class Api:
    """Registers routes, and answers their requests."""

    def __init__(self, state: State, files: FileStore, faults: Faults, limits: Limits) -> None:
        self.state = state
        self.files = files
        self.faults = faults
        self.limiter = RateLimiter(limits)
        self.invalid = InvalidRequests(limits)
        self.statistics = Statistics()
        self.routes: set[tuple[str, str]] = set()
        self.offline = False
        self._later: set[asyncio.Task[None]] = set()

    def add(self, router: web.UrlDispatcher, method: str, path: str, handler: Handler, *, bot: bool = True) -> None:
        """A route; `bot`: only with a bot's token. An aiohttp handler is built around it."""

        async def answer(request: web.Request) -> web.StreamResponse:
            return await self._answer(request, method, path, handler, bot=bot)

        self.routes.add((method, path))
        router.add_route(method, PREFIX + path, answer)

    async def not_found(self, request: web.Request) -> web.StreamResponse:
        """Every path that is no route."""
        return self._json(404, errors.no_route().body(), {})

    async def _answer(
        self, request: web.Request, method: str, path: str, handler: Handler, *, bot: bool
    ) -> web.StreamResponse:
        now = self.state.clock()
        if self.offline:
            return await cut(request)
        if self.invalid.banned(now):
            return _banned(self.invalid.banned_until - now)
        fault = self.faults.strike(method, request.path.removeprefix(PREFIX))
        if fault is not None and fault.when == "late":
            await request.read()  # kept for then; a form is not
            self._later.add(asyncio.create_task(self._carry_out_late(request, method, path, handler, fault, bot=bot)))
        early = await self._fault_before(request, fault)
        response = early if early is not None else await self._carry_out(request, method, path, handler, bot=bot)
        if early is None and fault is not None:
            response = await self._fault_after(request, fault, response)
        status = 0 if isinstance(response, _Cut) else response.status
        self.statistics.count(f"{method} {path}", status)
        self.invalid.count(response.status, response.headers.get("X-RateLimit-Scope"), self.state.clock())
        return response

    async def _carry_out_late(
        self, request: web.Request, method: str, path: str, handler: Handler, fault: Fault, *, bot: bool
    ) -> None:
        """Do what a proxy in front of Discord has given up waiting for."""
        await asyncio.sleep(fault.seconds)
        await self._carry_out(request, method, path, handler, bot=bot)
        fault.carried_out += 1

    async def _carry_out(
        self, request: web.Request, method: str, path: str, handler: Handler, *, bot: bool
    ) -> web.StreamResponse:
        headers: dict[str, str] = {}
        call: Call | None = None
        try:
            if not request.headers.get("User-Agent"):
                raise ApiError(403, 40333, "internal network error")
            app = self._authenticate(request, bot=bot)
            who = str(app.id) if app is not None else f"ip:{request.remote}"
            major = ":".join(request.match_info[name] for name in _MAJOR if name in request.match_info)
            verdict = self.limiter.take(
                who, method, path, major, self.state.clock(), counted=not self._for_interaction(request)
            )
            headers = verdict.headers
            if verdict.refusal is not None:
                return self._too_fast(verdict.refusal, headers)
            call = Call(request, self.state, self.files, app)
            result = await handler(call)
            call.kept = True
        except TooFast as refused:
            return self._too_fast(refused.refusal, headers)
        except ApiError as error:
            return self._json(error.status, error.body(), headers)
        except (ConnectionResetError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("a request of the sandbox failed: %s %s", method, path)
            return self._json(500, {"message": "500: Internal Server Error", "code": 0}, headers)
        finally:
            if call is not None:
                call.discard()
        reply = result if isinstance(result, Reply) else Reply(result, 204 if result is None else 200)
        return self._json(reply.status, reply.body, headers)

    def _authenticate(self, request: web.Request, *, bot: bool) -> Application | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        app = self.state.application_of(token.strip()) if scheme == "Bot" else None
        if app is None and (bot or scheme):
            raise errors.unauthorised()
        return app

    def _for_interaction(self, request: web.Request) -> bool:
        """Whether a request answers an interaction: these do not count towards the global limit."""
        named = request.match_info
        return "interaction_token" in named or ("webhook_token" in named and self._is_application(named["webhook_id"]))

    def _is_application(self, number: str) -> bool:
        return (parse_snowflake(number) or 0) in self.state.applications

    # --- Faults -------------------------------------------------------------------------------------------

    async def _fault_before(self, request: web.Request, fault: Fault | None) -> web.StreamResponse | None:
        if fault is None or (fault.when == "after" and fault.kind not in {"rate_limit", "delay"}):
            return None
        match fault.kind:
            case "rate_limit":
                await _drain(request)
                return self._too_fast(Refusal(fault.scope, fault.seconds), {}, fault.code)
            case "delay":
                await asyncio.sleep(fault.seconds)
                return None
            case "malformed":
                return None
            case _:
                await _drain(request)
                return await self._fail(request, fault)

    async def _fault_after(
        self, request: web.Request, fault: Fault, response: web.StreamResponse
    ) -> web.StreamResponse:
        if fault.kind == "malformed":
            return web.Response(body=b'{"id": "1', content_type="application/json", headers=_VIA)
        if fault.when == "after" and fault.kind in {"status", "hang", "reset"}:
            return await self._fail(request, fault)
        return response

    async def _fail(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        if fault.kind == "status":
            message = fault.message or f"{fault.status}: sandbox fault"
            if fault.status in {502, 503, 504}:  # these come from the proxy in front of Discord, not as JSON
                return web.Response(status=fault.status, text=message, content_type="text/html", headers=_VIA)
            return self._json(fault.status, {"message": message, "code": fault.code}, {})
        if fault.kind == "hang":
            await asyncio.sleep(fault.seconds)
        return await cut(request)

    # --- Answers ------------------------------------------------------------------------------------------

    def _too_fast(self, refusal: Refusal, headers: dict[str, str], code: int = 0) -> web.Response:
        body: Json = {
            "message": "You are being rate limited.",
            "retry_after": ceil(refusal.retry_after * 1000) / 1000,
            "global": refusal.scope == "global",
        }
        if code:
            body["code"] = code
        headers = headers | {"X-RateLimit-Scope": refusal.scope, "Retry-After": str(int(refusal.retry_after) + 1)}
        if refusal.scope == "global":
            headers["X-RateLimit-Global"] = "true"
        return self._json(429, body, headers)

    @staticmethod
    def _json(status: int, body: Any, headers: dict[str, str]) -> web.Response:
        if status == 204:
            return web.Response(status=204, headers=_VIA | headers)
        # Exactly this type, without a charset: discord.py compares it as a whole.
        headers = _VIA | headers | {"Content-Type": "application/json"}
        return web.Response(status=status, body=json.dumps(body).encode(), headers=headers)


class TooFast(Exception):
    """A handler found that an allowance is used up."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.scope)
        self.refusal = refusal


class _Cut(web.Response):
    """The connection was reset: nothing of this is sent."""


async def _drain(request: web.Request) -> None:
    """Read what the client sends: an answer before the end of a request often never arrives."""
    async for _ in request.content.iter_chunked(1 << 16):
        pass


async def cut(request: web.Request) -> web.StreamResponse:
    """Reset the TCP connection, as a proxy or a network does when it fails."""
    transport = request.transport
    if transport is not None:
        reset(transport)
    return _Cut(status=500)


def _banned(seconds: float) -> web.Response:
    # Cloudflare's own answer: no JSON, no Via header, so that discord.py does not wait for it.
    headers = {"Retry-After": str(int(seconds) + 1)}
    return web.Response(status=429, text="error code: 1015", content_type="text/html", headers=headers)
