"""The sync loop: one request after the other, each response on disk before the next request.

https://spec.matrix.org/latest/client-server-api/#syncing. The token of a response is written together with its
events. So however the process ends, the next one asks again for what was not written.
"""

import asyncio
import json
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Literal, TypeVar

from relay.adapters.matrix.api.address import correction
from relay.adapters.matrix.api.client import Api, Refused, TooLong, Unreachable
from relay.adapters.matrix.api.session import MatrixSession, is_token_refusal
from relay.adapters.matrix.cursors import RESTORED, SYNC, SyncPosition, cursor, moment, went_back
from relay.adapters.matrix.register import REGISTER_TYPES, AccountRegister
from relay.adapters.matrix.retrying_inbox import RetryingInbox
from relay.adapters.matrix.rooms.declared import DeclaredRooms
from relay.adapters.matrix.sync.response import ResponseHandler, RoomsChanged
from relay.adapters.matrix.sync.update import SyncRequest
from relay.core.clock import Backoff, wait_at_most
from relay.core.ports import Clock, SideState
from relay.domain.jsontext import Json
from relay.errors import FatalError, StoreError, StoreUnavailable
from relay.logs import get_logger

_T = TypeVar("_T")

_log = get_logger(__name__)

_LONG_POLL = 30.0
_GRACE = 15.0  # If the answer takes so much longer than it was asked to, the connection counts as dead.
_CATCH_UP_TIMEOUT = 300.0  # After weeks of absence a response takes its time.
# After so many refusals in a row, over so many seconds, it must be the position that the homeserver does not accept:
# not a restart of some part of it, a proxy, or a filter that it has forgotten.
_REFUSALS, _REFUSED_SECONDS = 5, 120.0
# Seconds without a login after which the address itself is looked at, and from one look to the next.
_ADDRESS_PATIENCE, _ADDRESS_AGAIN = 5.0, 60.0
# For so long the status says that the homeserver was restored from a backup.
_RESTORE_NOTED = timedelta(days=1)
# Characters, which are a few rooms: to store a filter is one more request at each start.
_LONGEST_FILTER = 750
_TIMELINE = 100  # Synapse sends no more events of a room than that, whatever is asked for.
# An event may have 64 KiB, and all rooms are in one answer. Beyond so many bytes a tenth is asked for of each room, and
# then one event: the rest is read room by room, as any gap.
_MOST_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class ConnectionStatus:
    """How the connection is; see `core.ports.SideHealth`."""

    state: SideState = "connecting"
    detail: str = ""
    caught_up: asyncio.Event = field(default_factory=asyncio.Event)
    # Told of each change.
    changed: Callable[[], None] = field(default=lambda: None, repr=False)

    def set(self, state: SideState, detail: str = "") -> None:
        """Change the state, and the sentence that explains it. Each response says `ready` again: nobody is told."""
        if (self.state, self.detail) != (state, detail):
            self.state, self.detail = state, detail
            self.changed()


class _PositionRefused(Exception):
    """The homeserver does not know the position to read on from: its row in the store may be damaged."""


class _CountedAnew(_PositionRefused):
    """The homeserver would not refuse the position, but skip what is said until it has counted that far again."""

    def __init__(self, reason: str, *, restored: bool) -> None:
        super().__init__(f"{reason}: it was restored from a backup" if restored else reason)
        # From a backup; else nothing is known to be lost.
        self.restored = restored


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class SyncLoop:
    """Asks, hands the response over, asks again. Backs off while the homeserver does not answer."""

    api: Api
    session: MatrixSession
    rooms: DeclaredRooms
    responses: ResponseHandler
    status: ConnectionStatus
    clock: Clock
    rng: random.Random
    # Told of each response, for what it says about other relays on the account.
    register: AccountRegister
    # Awaited after each login, and where an earlier one still holds.
    logged_in: Callable[[], Awaitable[None]]

    # What is to be done between two responses.
    _visitors: list[tuple[Callable[[], Awaitable[None]], asyncio.Future[None]]] = field(
        init=False, default_factory=list
    )
    # Of the position, in a row.
    _refusals: int = field(init=False, default=0)
    _first_refusal: float = field(init=False, default=0.0)
    # A request has failed, or there has been none: it may not be the homeserver any more that it was.
    _unsure: bool = field(init=False, default=True)
    # When it was noticed last that it was restored from a backup.
    _restored: datetime | None = field(init=False, default=None)
    # The filter or its ID, and the rooms that it names.
    _filter: str = field(init=False, default="")
    _filtered: frozenset[str] | None = field(init=False, default=None)
    _backoff: Backoff = field(init=False)
    # How many events of each room are asked for.
    _timeline: int = field(init=False)
    # The position in the last request, and when it was first asked from there. For two minutes Synapse gives the answer
    # of a request that was lost to the next one, unless that answer stays at that position.
    _asked: tuple[str | None, float] | None = field(init=False, default=None)
    # Waits for other rooms to ask for, from one request to the next.
    _changed: asyncio.Task[Literal[True]] | None = field(init=False, default=None)
    # Set at the first failure, and what is wrong with the homeserver's address; before the login only.
    _failed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _advice: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self._backoff = Backoff(self.rng, first=0.5, longest=20.0)
        self._timeline = _TIMELINE

    async def connect(self) -> None:
        """Log in, however long the homeserver takes to answer. Raises `FatalError` if it refuses us."""
        looking = asyncio.create_task(self._look_at_address(), name="matrix address")
        try:
            await self._retry(self._log_in)
        finally:
            looking.cancel()
            self._advice = ""

    async def _look_at_address(self) -> None:
        """Find out whether a homeserver answers at the configured address at all, and say what to write instead."""
        await wait_at_most(self._failed, _ADDRESS_PATIENCE)
        told = ""
        while True:
            self._advice = await correction(self.api.homeserver_url, self.api.user_id) or ""
            if self._advice:
                self._report_unconnected(self._advice)
            if self._advice and self._advice != told:
                told = self._advice
                _log.warning("no homeserver at this address", reason=told)
            await self.clock.sleep(_ADDRESS_AGAIN)

    def _report_unconnected(self, problem: str) -> None:
        self.status.set("connecting", f"{problem[:1].upper()}{problem[1:]}; trying again.")

    async def run(self, inbox: RetryingInbox) -> None:
        """Sync until cancelled.

        Raises `FatalError` once the homeserver refuses us for good, `StoreError` once the store is not ours any more.
        """
        try:
            await self._run(inbox)
        finally:
            if self._changed is not None:
                self._changed.cancel()

    async def _run(self, inbox: RetryingInbox) -> None:
        position = SyncPosition.parse(await inbox.position(SYNC))
        self._restored = moment(await inbox.position(RESTORED))
        # The version of the declared rooms for which a full sync has been handed over.
        synced: int | None = None
        while True:
            if synced != self.rooms.version:
                # As long as it is not known which room an address names, messages in it would be missed.
                await self.rooms.looked_up()
            self.rooms.changed.clear()
            await self._receive_visitors()
            version = self.rooms.version
            # The whole state is asked for when it is not known for some room; after that only what changes.
            request = self._request(position, full=version != synced or self.responses.tries_again())
            try:
                response = await self._retry(partial(self._sync, request, inbox))
            except _PositionRefused as refused:
                if isinstance(refused, _CountedAnew):
                    await self._note_restore(refused, inbox)
                position, synced = None, None
                _log.error("position of the sync cannot be used, reading behind what is on record", reason=str(refused))
                continue
            if response is None:
                continue
            if not self.status.caught_up.is_set():
                self.status.set("catching_up", "Reading what was missed.")
            try:
                position = await self._retry(partial(self.responses.handle, response, request, inbox))
            except RoomsChanged:
                continue
            synced = version
            del response  # nothing may happen for half a minute
            self.status.set("ready")
            self.status.caught_up.set()

    def _request(self, position: SyncPosition | None, *, full: bool) -> SyncRequest:
        since, told = (None, None) if position is None else (position.token, position.told)
        return SyncRequest(since, self.rooms.to_sync, full, self.rooms.declarations, told)

    def notes(self) -> Sequence[str]:
        """What the operator may want to know of each room: sentences."""
        if self._restored is None or self.clock.now() - self._restored > _RESTORE_NOTED:
            return ()
        noticed = f"{self._restored:%Y-%m-%d %H:%M} UTC"
        return (f"The homeserver was restored from a backup (noticed {noticed}): the copies that it lost stay lost.",)

    async def _note_restore(self, counted: _CountedAnew, inbox: RetryingInbox) -> None:
        if counted.restored:
            self._restored = self.clock.now()
            await inbox.receive_all((), (cursor(RESTORED, self._restored.isoformat()),))
        await self.responses.forget_tokens(inbox)

    async def at_rest(self, action: Callable[[], Awaitable[None]]) -> None:
        """Call `action` between two responses: all that was received until then is on disk, and nothing else."""
        done = asyncio.get_running_loop().create_future()
        self._visitors.append((action, done))
        self.interrupt()
        await done

    async def _receive_visitors(self) -> None:
        while self._visitors:
            action, done = self._visitors.pop(0)
            if done.cancelled():
                continue
            acting = asyncio.ensure_future(action())
            try:
                # Whoever asked may stop waiting, and then `done` is cancelled.
                await asyncio.wait({acting, done}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                acting.cancel()
                await asyncio.wait({acting})
            if done.done():
                continue
            if error := None if acting.cancelled() else acting.exception():
                done.set_exception(error)
            else:
                done.set_result(None)

    def interrupt(self) -> None:
        """End the request that is waiting and make a new one: its response may never come."""
        self.rooms.changed.set()

    async def _sync(self, request: SyncRequest, inbox: RetryingInbox) -> Json | None:
        """One sync request; None if there were other rooms to ask for before it was answered."""
        since, full = request.since, request.full
        if self._unsure and await self.responses.was_restored(request, inbox):
            raise _CountedAnew("it does not know the last event any more that it told", restored=True)
        self._unsure = False
        if self._asked is None or self._asked[0] != since:
            self._asked = (since, self.clock.monotonic())
        at_once = full or not self.status.caught_up.is_set()
        query: dict[str, str | list[str]] = {"set_presence": "offline"}
        query["filter"] = await self._filter_of(request.rooms)
        # For two minutes Synapse answers the same request from its cache, and a first response must not be that old.
        # So a full sync gets a random time-out, which makes it differ. It is answered at once whatever that is.
        milliseconds = secrets.randbelow(60_000) + 1 if full else 0 if at_once else int(_LONG_POLL * 1000)
        query["timeout"] = str(milliseconds)
        query |= {"since": since} if since else {}
        query |= {"full_state": "true"} if full and since else {}
        timeout = _CATCH_UP_TIMEOUT if at_once else _LONG_POLL + _GRACE
        most = _MOST_BYTES if self._timeline > 1 else None
        asking = self.api.call("GET", "sync", query=query, timeout=timeout, unread=("rooms", "join"), most=most)
        asked = asyncio.create_task(asking, name="matrix sync")
        if self._changed is None or self._changed.done():
            self._changed = asyncio.create_task(self.rooms.changed.wait(), name="matrix rooms changed")
        try:
            await asyncio.wait({asked, self._changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not asked.done():
                asked.cancel()
                await asyncio.wait({asked})
            # Taken here, so that asyncio does not warn of an exception that nobody looked at.
            failed = None if asked.cancelled() else asked.exception()
        if asked.cancelled():
            return None
        if isinstance(failed, TooLong):
            self._ask_for(self._timeline // 10)
            return None
        if isinstance(failed, Refused) and failed.status == 400 and failed.code and since:
            self._count_refusal(failed)
        else:
            self._refusals = 0
        if failed is not None:
            raise failed
        response = asked.result()
        token = response.get("next_batch")
        if not isinstance(token, str):
            raise Unreachable("the answer to a sync has no next_batch", sent=True)
        if since and went_back(since, token):
            restored = await self.responses.was_restored(request, inbox, counts_anew=True)
            raise _CountedAnew(f"after {since} it says {token}", restored=restored)
        self._ask_for(_TIMELINE)
        self.register.synced(response, self._asked[1])
        if token == since:
            self._asked = None
        return response

    def _ask_for(self, events: int) -> None:
        """The next request asks for so many events of each room."""
        if self._timeline != events:
            _log.info("asking for another number of events of each room", events=events)
            self._timeline, self._filtered = events, None

    def _count_refusal(self, refused: Refused) -> None:
        """Raise `_PositionRefused` if the homeserver has long refused every request with this position."""
        self._filtered = None  # The next request has a new filter.
        now = self.clock.monotonic()
        if self._refusals == 0:
            self._first_refusal = now
        self._refusals += 1
        if self._refusals >= _REFUSALS and now - self._first_refusal >= _REFUSED_SECONDS:
            self._refusals = 0
            raise _PositionRefused(str(refused))

    async def _filter_of(self, rooms: frozenset[str]) -> str:
        """The filter itself, or with many rooms, where it is too long for a URL, its ID on the homeserver."""
        if self._filtered != rooms:
            body = _filter(rooms, self._timeline)
            self._filter = json.dumps(body, separators=(",", ":"))
            if len(self._filter) > _LONGEST_FILTER:
                answer = await self.api.call("POST", "user", self.api.user_id, "filter", body=body)
                self._filter = str(answer.get("filter_id", ""))
            self._filtered = rooms
        return self._filter

    async def _retry(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """The result of `call`, which is made again after a while for as long as it fails."""
        while True:
            try:
                result = await self._once(call)
            except (Refused, Unreachable) as error:
                wait = self._backoff.next(error.retry_after if isinstance(error, Refused) else None)
                problem = self._advice or str(error)
            except StoreUnavailable as error:
                wait = self._backoff.next()
                problem = str(error)
            except (FatalError, StoreError, RoomsChanged, _PositionRefused):
                raise
            except Exception as error:  # noqa: BLE001 - the top of this worker
                # A bug of ours must not end the daemon. What it failed at is still there for the next attempt.
                _log.exception("bug while syncing", tries=self._backoff.tries + 1)
                wait = self._backoff.next()
                problem = f"internal error ({type(error).__name__})"
            else:
                if self._backoff.tries:
                    _log.info("the homeserver answers again", failures=self._backoff.tries)
                self._backoff.reset()
                return result
            self._failed.set()
            self._unsure = True
            self._report_unconnected(problem)
            self.status.caught_up.clear()
            _log.warning(
                "no connection to the homeserver", reason=problem, seconds=round(wait, 1), tries=self._backoff.tries
            )
            await self.clock.sleep(wait)

    async def _once(self, call: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await call()
        except Refused as refused:
            if not is_token_refusal(refused):
                raise
            # Fatal if the operator gave the token; with a password we log in and get a new one.
            _log.warning("the access token is refused", code=refused.code)
            await self._log_in()
            return await call()

    async def _log_in(self) -> None:
        await self.session.establish()
        await self.logged_in()


def _filter(rooms: frozenset[str], timeline: int) -> Json:
    """What sync sends: everything in `rooms`, with the members who write there, the register, and nothing else.

    Event types are not restricted, because kicks and bans have to be seen. `include_redundant_members`: each response
    has all the members that are needed to read it, whatever an earlier process was sent.
    """
    nothing = {"not_types": ["*"]}
    lazy = {"lazy_load_members": True, "include_redundant_members": True}
    room = {
        "rooms": sorted(rooms),
        "timeline": {"limit": timeline, **lazy},
        "state": lazy,
        "ephemeral": {"types": ["m.typing", "m.receipt"]},
        "account_data": nothing,
    }
    return {"room": room, "presence": nothing, "account_data": {"types": list(REGISTER_TYPES)}}
