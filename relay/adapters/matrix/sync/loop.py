"""The sync loop: one request after the other, each answer on disk before the next is asked for.

https://spec.matrix.org/latest/client-server-api/#syncing. The token of an answer is written together with the
events it stands for, so that whatever ends the process, the next one asks again for what was not written.
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import structlog

from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.adapters.matrix.api.session import MatrixSession, is_token_refusal
from relay.adapters.matrix.rooms.declared import DeclaredRooms
from relay.adapters.matrix.sync.response import ResponseHandler, Superseded, SyncRequest
from relay.adapters.matrix.sync.retrying_inbox import RetryingInbox
from relay.core.clock import Backoff
from relay.core.ports import Clock, SideState
from relay.errors import FatalError, StoreError, StoreUnavailable

Json = dict[str, Any]
_T = TypeVar("_T")

_log = structlog.get_logger(__name__)

_LONG_POLL = 30.0
_GRACE = 15.0  # How much longer than it was asked to the homeserver may take before the connection counts as dead.
_CATCH_UP_TIMEOUT = 300.0  # After weeks of absence an answer takes its time.
# After so many in a row, over so many seconds, it is the position that the homeserver does not take: no restart of a
# part of it, no proxy, and no filter that it has forgotten.
_REFUSALS, _REFUSED_SECONDS = 5, 120.0
_TIMELINE = 100  # Synapse gives no more, whatever is asked for.


@dataclass(slots=True)
class ConnectionStatus:
    """How the connection is; see `core.ports.SideHealth`."""

    state: SideState = "connecting"
    detail: str = ""
    caught_up: asyncio.Event = field(default_factory=asyncio.Event)


class _PositionRefused(Exception):
    """The homeserver does not know the position to read on from: its row in the store may be damaged."""


class SyncLoop:
    """Asks, hands over to the intake, asks again; backs off while the homeserver does not answer."""

    def __init__(
        self,
        *,
        api: Api,
        session: MatrixSession,
        rooms: DeclaredRooms,
        intake: ResponseHandler,
        status: ConnectionStatus,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._api = api
        self._session = session
        self._rooms = rooms
        self._intake = intake
        self._status = status
        self._clock = clock
        self._refusals = 0
        self._first_refusal = 0.0
        self._filter = ""
        self._filtered: frozenset[str] | None = None
        self._backoff = Backoff(rng, first=0.5, most=20.0)

    async def connect(self) -> None:
        """Log in, however long the homeserver takes to answer. Raises `FatalError` where it refuses us."""
        await self._persist(self._session.establish)

    async def run(self, inbox: RetryingInbox) -> None:
        """Sync until cancelled.

        Raises `FatalError` once the homeserver refuses us for good, `StoreError` once the store is not ours any more.
        """
        since = await inbox.position("sync")
        heard: int | None = None
        while True:
            if heard != self._rooms.version:
                # Until it is known which room an address names, what is said there would be passed over.
                await self._rooms.looked()
            self._rooms.changed.clear()
            version = self._rooms.version
            # State is asked for in full when there are rooms whose state is not known; after that it comes in parts.
            question = SyncRequest(since, self._rooms.room_ids, version != heard, self._rooms.declarations)
            try:
                answer = await self._persist(partial(self._ask, question))
            except _PositionRefused as refused:
                since, heard = None, None
                _log.error("position of the sync cannot be used, reading behind what is on record", reason=str(refused))
                continue
            if answer is None:
                continue
            if not self._status.caught_up.is_set():
                self._status.state, self._status.detail = "catching_up", "Reading what was missed."
            try:
                await self._persist(partial(self._intake.take, answer, question, inbox))
            except Superseded:
                continue
            since, heard = answer["next_batch"], version
            self._status.state, self._status.detail = "ready", ""
            self._status.caught_up.set()

    def interrupt(self) -> None:
        """Ask again at once: what is being waited for may never come."""
        self._rooms.changed.set()

    async def _ask(self, question: SyncRequest) -> Json | None:
        """One sync request; None if there are other rooms to ask for before it was answered."""
        since, full = question.since, question.full
        at_once = full or not self._status.caught_up.is_set()
        query: dict[str, str | list[str]] = {"set_presence": "offline"}
        query["filter"] = await self._filter_id(question.rooms)
        # Synapse answers a request like an earlier one from memory for two minutes; a first sync must not be as old
        # as that. Such a request is answered at once, whatever time-out it carries.
        milliseconds = secrets.randbelow(60_000) + 1 if full else 0 if at_once else int(_LONG_POLL * 1000)
        query["timeout"] = str(milliseconds)
        query |= {"since": since} if since else {}
        query |= {"full_state": "true"} if full and since else {}
        timeout = _CATCH_UP_TIMEOUT if at_once else _LONG_POLL + _GRACE
        asked = asyncio.create_task(self._api.call("GET", "sync", query=query, timeout=timeout), name="matrix sync")
        changed = asyncio.create_task(self._rooms.changed.wait(), name="matrix rooms changed")
        try:
            await asyncio.wait({asked, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            asked.cancel()
            # An error that nobody asks for any more is not worth a warning.
            await asyncio.wait({asked})
            failed = None if asked.cancelled() else asked.exception()
        if asked.cancelled():
            return None
        if isinstance(failed, Refused) and failed.status == 400 and failed.code and since:
            self._refused(failed)
        else:
            self._refusals = 0
        if failed is not None:
            raise failed
        answer = asked.result()
        if not isinstance(answer.get("next_batch"), str):
            raise Unreachable("the answer to a sync has no next_batch", sent=True)
        return answer

    def _refused(self, refused: Refused) -> None:
        """Raise `_PositionRefused` where the homeserver has long said no to everything that can be asked with it."""
        self._filtered = None  # The next request has a new one.
        now = self._clock.monotonic()
        if self._refusals == 0:
            self._first_refusal = now
        self._refusals += 1
        if self._refusals >= _REFUSALS and now - self._first_refusal >= _REFUSED_SECONDS:
            self._refusals = 0
            raise _PositionRefused(str(refused))

    async def _filter_id(self, rooms: frozenset[str]) -> str:
        """The filter is kept by the homeserver: with many rooms it is longer than a URL may be."""
        if self._filtered != rooms:
            body = _filter(rooms)
            answer = await self._api.call("POST", "user", self._api.user_id, "filter", body=body)
            self._filter, self._filtered = str(answer.get("filter_id", "")), rooms
        return self._filter

    async def _persist(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """The result of `call`, which is made again after a while for as long as it fails."""
        while True:
            try:
                result = await self._once(call)
            except (Refused, Unreachable) as error:
                wait = self._backoff.next(error.retry_after if isinstance(error, Refused) else None)
                problem = f"{error}; trying again."
            except StoreUnavailable as error:
                wait = self._backoff.next()
                problem = str(error)
            except (FatalError, StoreError, Superseded, _PositionRefused):
                raise
            except Exception as error:  # noqa: BLE001 - the top of this worker
                # A bug of ours must not end the daemon; what it stumbled over is still there for the next try.
                _log.exception("bug while syncing")
                wait = self._backoff.next()
                problem = f"internal error ({type(error).__name__}); trying again."
            else:
                self._backoff.reset()
                return result
            self._status.state, self._status.detail = "connecting", problem[:1].upper() + problem[1:]
            self._status.caught_up.clear()
            _log.warning("no connection to the homeserver", reason=problem, seconds=round(wait, 1))
            await self._clock.sleep(wait)

    async def _once(self, call: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await call()
        except Refused as refused:
            if not is_token_refusal(refused):
                raise
            # Fatal where the operator gave the token; with a password a new one is to be had.
            _log.warning("the access token is refused", code=refused.code)
            await self._session.establish()
            return await call()


def _filter(rooms: frozenset[str]) -> Json:
    """What to be told about: everything in the declared rooms, with the members that speak, and nothing else.

    Not restricted by event type: kicks and bans have to be seen. `include_redundant_members`: each answer has all
    that is needed to read it, whatever an earlier process has been sent.
    """
    nothing = {"not_types": ["*"]}
    lazy = {"lazy_load_members": True, "include_redundant_members": True}
    room = {
        "rooms": sorted(rooms),
        "timeline": {"limit": _TIMELINE, **lazy},
        "state": lazy,
        "ephemeral": {"types": ["m.typing", "m.receipt"]},
        "account_data": nothing,
    }
    return {"room": room, "presence": nothing, "account_data": nothing}
