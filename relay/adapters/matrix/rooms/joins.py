"""Getting into the declared rooms: looking aliases up, joining, following upgrades, and trying again.

A homeserver lets an ordinary account join one room in ten seconds, or one remote room in a hundred (`rc_joins` in
https://element-hq.github.io/synapse/latest/usage/configuration/config_documentation.html). So a few joins are made
at a time, each waits as long as the homeserver asks for, and rooms that are joined already do not wait for them.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.adapters.matrix.cursors import (
    OUTSIDE,
    SYNC,
    SyncPosition,
    alias_stream,
    cursor,
    predecessor_stream,
    predecessors_of,
    room_stream,
    successor_stream,
    tombstone_stream,
    upgrade_chain,
)
from relay.adapters.matrix.identifiers import is_room_id, is_server_name
from relay.adapters.matrix.retrying_inbox import RetryingInbox
from relay.adapters.matrix.rooms.access_list import denied_by_others
from relay.adapters.matrix.rooms.declared import MOST_SERVERS, DeclaredRoom, DeclaredRooms
from relay.adapters.matrix.rooms.state import TOMBSTONE
from relay.core.ports import Clock, EventBatch
from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.domain.jsontext import Json, as_dict, as_list
from relay.errors import RateLimited, StoreError, StoreUnavailable, Transient
from relay.logs import get_logger

_log = get_logger(__name__)

_JOINS_AT_ONCE = 3
_JOIN_TIMEOUT = 180.0  # A remote room with many servers in it takes minutes.
_JOIN_SHOWS_WITHIN = 60.0  # Seconds until sync has told of a join; after that it is tried again.
_REPORT_PENDING_AFTER = 60.0
_UNANSWERED_TRIES = 3  # After so many a join without an answer is reported.
_UNREADABLE_TRIES = 6  # After so many a room is left behind whose last messages the homeserver cannot tell.
_LOOKUP_ANSWERED_WITHIN = 5.0  # A look-up that takes longer is still waited for, but other rooms go on without it.
_LOOK_UP_EVERY = 600.0
_ONE_PAIR = "declare the room in one pair only."
_DEFAULT_RETRY = 5.0  # Seconds, where the homeserver limits joins and does not say for how long.


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class RoomJoiner:
    """Works on each declared address until it names a room that we are in, and again when that ends."""

    api: Api
    rooms: DeclaredRooms
    clock: Clock
    # Set once the first sync is answered.
    connected: asyncio.Event
    # See `outbound/stranded.py`.
    post_again: Callable[[str, str, bool], Awaitable[Mapping[MessageRef, MessageRef]]]
    take_back: Callable[[Iterable[MessageRef]], Awaitable[None]]
    _joins: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(_JOINS_AT_ONCE))

    # What works on a room now, and when it is looked at again.
    _tasks: dict[DeclaredRoom, asyncio.Task[None]] = field(init=False, default_factory=dict)
    _timers: dict[DeclaredRoom, asyncio.TimerHandle] = field(init=False, default_factory=dict)

    async def run(self, inbox: RetryingInbox) -> None:
        """A task for each declared room in which there may be something to do, until cancelled.

        There is none for the others, nearly all: a task that waits takes two KiB.
        """
        known: set[DeclaredRoom] = set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._report_pending(inbox), name="matrix rooms pending")
                while True:
                    self.rooms.redeclared.clear()
                    rooms = set(self.rooms.declared)
                    for gone in known - rooms:
                        self._forget(gone)
                    for room in rooms - known:
                        self._start(room, self._enter(room, inbox), group)
                    known = rooms
                    while not self.rooms.redeclared.is_set():
                        for room in self.rooms.take_woken():
                            if room in known and room not in self._tasks:
                                self._start(room, self._keep_joined(room, inbox), group)
                        await self.rooms.woken.wait()
        finally:
            for room in known:
                self._forget(room)

    def _start(self, room: DeclaredRoom, work: Coroutine[Any, Any, None], group: asyncio.TaskGroup) -> None:
        self._forget(room)
        self._tasks[room] = group.create_task(work, name=f"room {room.name}")

    def _forget(self, room: DeclaredRoom) -> None:
        """Nothing works on the room any more, nor will."""
        if (task := self._tasks.pop(room, None)) is not None:
            task.cancel()
        if (timer := self._timers.pop(room, None)) is not None:
            timer.cancel()

    async def _report_pending(self, inbox: RetryingInbox) -> None:
        """Rooms that still are to be joined after a minute are reported, so that the start does not wait for them."""
        await self.connected.wait()
        await self.clock.sleep(_REPORT_PENDING_AFTER)
        for room in self.rooms.declared:
            if not room.reported:
                problem = f"{room.name} is still to be entered: the homeserver limits how often an account may join."
                await self.rooms.report_problem(room, problem, inbox)

    async def _enter(self, room: DeclaredRoom, inbox: RetryingInbox) -> None:
        known = await inbox.position(alias_stream(room.name)) if room.is_alias else room.room_id
        if known and is_room_id(known):
            # The room that the alias named last time. It is synced from the very start, so that the first sync covers
            # it. Whether the alias names another one by now is asked next.
            if await self._point(room, known, inbox):
                room.looked_up.set()
            if not room.is_alias:
                await self._settle_claims(room, inbox)
        await self._keep_joined(room, inbox)

    async def _settle_claims(self, room: DeclaredRoom, inbox: RetryingInbox) -> None:
        """An address that was declared before may name the room of an ID. An alias is looked up, which tells that."""
        other = None if room.room_id is None else self.rooms.find(room.room_id)
        if other is None or other is room:
            return
        if other.secondary and not room.secondary:
            await self._give_way(other, room, inbox)
        else:
            await self._give_way(room, other, inbox)

    async def _keep_joined(self, room: DeclaredRoom, inbox: RetryingInbox) -> None:
        """Do what can be done now, and see to it that somebody looks again when there may be more."""
        while True:
            # Clear before the attempt, so that a wake-up during it is not lost.
            room.woken = False
            try:
                seconds = await self._advance(room, inbox)
            except StoreError:
                raise
            except Exception:  # noqa: BLE001 - the top of this worker
                _log.exception("bug while entering a room", room=room.name)
                seconds = room.backoff.next()
            if not room.woken:
                break
        # Nothing is awaited from here on: who wakes the room then starts a new task.
        if self._tasks.get(room) is asyncio.current_task():
            del self._tasks[room]
            if seconds is not None:
                self._timers[room] = asyncio.get_running_loop().call_later(seconds, self.rooms.wake, room)

    async def _advance(self, room: DeclaredRoom, inbox: RetryingInbox) -> float | None:
        """Do what can be done now. Returns the seconds until the next attempt; None if there is nothing more to do."""
        if room.is_alias and room.resolved and self.clock.monotonic() >= room.resolve_at:
            room.resolved = False
        unresolved = False
        if room.is_alias and not room.resolved:
            try:
                room.resolved = await self._resolve(room, inbox)
            except Unreachable:
                room.resolved = False
            room.resolve_at = self.clock.monotonic() + _LOOK_UP_EVERY
            room.looked_up.set()
            unresolved = not room.resolved
        if room.room_id is None:
            return room.backoff.next() if unresolved else None
        if room.joined is None:
            return None
        if room.joined:
            if self.rooms.state(room.room_id).upgraded:
                return await self._follow_upgrade(room, room.room_id, inbox)
            if unresolved:
                return room.backoff.next()
            again = await self._look_at_list(room, room.room_id, inbox)
            return _LOOK_UP_EVERY if room.is_alias and again is None else again
        wait = room.rejoin_at - self.clock.monotonic()
        if wait > 0 and not room.invited:
            return wait
        async with self._joins:
            return await self._join(room, room.room_id, inbox)

    # --- Which room an alias names ------------------------------------------------------------------------

    async def _resolve(self, room: DeclaredRoom, inbox: RetryingInbox) -> bool:
        """Look the alias up. Returns whether it is known now which room it names."""
        try:
            answer = await self._look_up(room, inbox)
        except Unreachable as error:
            await self._report_unanswered(room, str(error), inbox)
            return False
        except Refused as refused:
            # If we know the room from an earlier look-up, it goes on working without its alias.
            if room.room_id is None and refused.status != 429:
                await self.rooms.report_problem(room, lookup_problem(room.name, refused), inbox)
            return False
        room_id = answer.get("room_id")
        if not isinstance(room_id, str) or not is_room_id(room_id):
            return False
        servers = as_list(answer.get("servers"))
        room.learn_servers(server for server in servers if isinstance(server, str) and is_server_name(server))
        current = (await upgrade_chain(room_id, inbox))[-1]
        other = self.rooms.find(current)
        if other is not None and other is not room and other.secondary and not room.secondary:
            await self._give_way(other, room, inbox)
        elif other is not None and other is not room:
            if room.secondary and not other.secondary:
                await self._give_way(room, other, inbox)
                return False
            problem = f"{room.name} names the same room as {other.name}: {_ONE_PAIR}"
            if room.room_id is not None:
                # The alias does not name its old room any more, and the other alias may be about to name that one.
                self.rooms.point(room, None)
            other.resolved = False
            self.rooms.wake(other)
            await self.rooms.report_problem(room, problem, inbox)
            return False
        if current != room.room_id:
            if (
                room.room_id is not None
                and current not in room.rejected_successors
                and current == await self._replacement(room.room_id)
            ):
                # The room was upgraded. It is followed as an upgrade, so that nothing is lost, once sync tells of it.
                return True
            if room.room_id is not None:
                _log.info("alias names another room now", alias=room.name, room=current)
            if not await self._point(room, room_id, inbox):
                return False
            await inbox.receive(EventBatch(cursors=(cursor(alias_stream(room.name), room_id),)))
        return True

    async def _give_way(self, room: DeclaredRoom, to: DeclaredRoom, inbox: RetryingInbox) -> None:
        """Another address keeps the room: a pair's must not be hit by that of no pair."""
        self.rooms.give_way(room)
        of_pair = f", which is in a pair: write {to.name} here, too." if room.secondary else f": {_ONE_PAIR}"
        problem = f"{room.name} names the same room as {to.name}{of_pair}"
        await self.rooms.report_problem(room, problem, inbox)

    async def _replacement(self, room_id: str) -> str | None:
        """The room that the tombstone of a room names; None without one. Raises `Unreachable`."""
        try:
            tombstone = await self.api.call("GET", "rooms", room_id, "state", TOMBSTONE, "")
        except Refused:
            return None
        return tombstone.get("replacement_room")

    async def _point(self, room: DeclaredRoom, room_id: str, inbox: RetryingInbox) -> bool:
        """The address names `room_id`, or what has replaced that room since. False: another address has that."""
        first, *successors = await upgrade_chain(room_id, inbox)
        predecessors = await predecessors_of(first, inbox)
        if room.is_alias and self.rooms.find((first, *successors)[-1]) not in {None, room}:
            return False
        if room.room_id != first or successors:
            self.rooms.point(room, first, predecessors)
        room.predecessors = predecessors
        for successor in successors:
            self.rooms.point_to_successor(room, successor)
        if successors and not room.is_alias:
            _warn_of_new_room(room, successors[-1])
        return True

    async def _look_up(self, room: DeclaredRoom, inbox: RetryingInbox) -> Json:
        """What the room directory says of the alias. Its server may be away, and ours waits long for the answer."""
        call = asyncio.create_task(self.api.call("GET", "directory", "room", room.name), name=f"alias {room.name}")
        try:
            answered, _ = await asyncio.wait({call}, timeout=_LOOKUP_ANSWERED_WITHIN)
            if not answered:
                await self._report_unanswered(room, f"no answer within {_LOOKUP_ANSWERED_WITHIN:.0f} s", inbox)
            return await call
        finally:
            call.cancel()

    async def _report_unanswered(self, room: DeclaredRoom, reason: str, inbox: RetryingInbox) -> None:
        """The pair does not work for now. The look-up goes on, but other rooms do not wait for it."""
        if room.room_id is None and not room.reported:
            problem = f"The alias {room.name} could not be looked up yet ({reason}): its server may be away; trying on."
            await self.rooms.report_problem(room, problem, inbox)
        room.looked_up.set()

    # --- Upgrades -----------------------------------------------------------------------------------------

    async def _follow_upgrade(self, room: DeclaredRoom, room_id: str, inbox: RetryingInbox) -> float | None:
        """Go on in the room that has replaced this one. Returns what `_advance` does."""
        state = self.rooms.state(room_id)
        successor = state.successor
        if not state.creator_known:
            return room.backoff.next()  # Whether its creator may upgrade it is not known yet.
        if successor is None or successor in room.rejected_successors or not state.may_upgrade(state.upgrader):
            return self._stay(room)
        if successor in {room_id, *room.predecessors}:
            # The rooms name each other in a ring: following that would never end.
            return await self._reject_successor(room, room_id, successor, inbox, "which it has replaced", leave=False)
        other = self.rooms.find(successor)
        if other is not None and other.secondary and not room.secondary:
            await self._give_way(other, room, inbox)
        elif other is not None and await inbox.position(room_stream(successor)):
            problem = (
                f"{room.name} has been upgraded to {successor}, which {other.name} names: remove one of the pairs."
            )
            self.rooms.reject_upgrade(room, problem)
            await self.rooms.report(room_id, inbox)
            return self._stay(room) or _LOOK_UP_EVERY
        # Each upgrade makes sync send the state of all rooms again: nobody may cause that many times in a row.
        if (wait := room.upgrade_at - self.clock.monotonic()) > 0:
            problem = f"{room.name} has been upgraded once more, to {successor}: it is followed in some minutes."
            if room.upgrade_problem != problem:
                self.rooms.reject_upgrade(room, problem)
                await self.rooms.report(room_id, inbox)
            return wait
        query = _via(room, state.upgrader, successor)
        try:
            joined = (await self.api.call("GET", "joined_rooms")).get("joined_rooms")
            async with self._joins:
                await self.api.call("POST", "join", successor, query=query, body={}, timeout=_JOIN_TIMEOUT)
            created = await self.api.call("GET", "rooms", successor, "state", "m.room.create")
        except Unreachable as error:
            _log.info("replacement not entered yet", room=room.name, successor=successor, reason=str(error))
            return room.backoff.next()
        except Refused as refused:
            if refused.status == 429:
                return max(refused.retry_after or _DEFAULT_RETRY, 0.1)
            why = f"{self.api.user_id} is not let in there ({refused.reason or refused.code}): invite it"
            problem = f"{room.name} has been upgraded to {successor}, and {why}."
            self.rooms.await_invitation(room, successor, problem)
            await self.rooms.report(room_id, inbox)
            room.resolve_at = 0.0
            return room.backoff.next(refused.retry_after)
        if as_dict(created.get("predecessor")).get("room_id") != room_id:
            # Leave it only if we were not in it before: anybody's room can be named in a tombstone.
            leave = isinstance(joined, list) and successor not in joined and self.rooms.find(successor) is None
            return await self._reject_successor(room, room_id, successor, inbox, "which does not say so", leave=leave)
        if (again := await self._post_again(room, room_id, successor, inbox)) is not None:
            return again
        if self.rooms.find(successor) is not None and await inbox.position(room_stream(successor)):
            return 0.0  # An alias was looked up meanwhile, and the room is read for it.
        await self._move_to_successor(room, room_id, successor, inbox)
        return None

    def _stay(self, room: DeclaredRoom) -> float | None:
        # The alias may be about to name another room.
        if room.is_alias:
            room.resolve_at = 0.0
            return room.backoff.next()
        return None

    async def _look_at_list(self, room: DeclaredRoom, room_id: str, inbox: RetryingInbox) -> float | None:
        """Ask by which list other servers go, if that may be another one than ours. Returns what `_advance` does."""
        state = self.rooms.state(room_id)
        if not state.list_in_doubt and not (state.allowed_here and state.denies_us):
            return None
        denies = state.denies_us
        try:
            denies = await denied_by_others(self.api, room_id)
        except Unreachable:
            return room.backoff.next()
        except Refused as refused:
            if refused.status == 429:
                return room.backoff.next(refused.retry_after)
            _log.info("not known by which access list other servers go", room=room.name, reason=str(refused))
        if self.rooms.state(room_id) is state and state.allowed_here:
            state.settle_list(denies=denies)
            await self.rooms.report(room_id, inbox)
        return _LOOK_UP_EVERY if denies else None

    async def _post_again(self, room: DeclaredRoom, room_id: str, successor: str, inbox: RetryingInbox) -> float | None:
        """What we said before sync told of the upgrade goes on in the new room, in front of all else.

        Returns the seconds until it is tried again; None if it need not be.
        """
        patient = room.stranded_failures < _UNREADABLE_TRIES
        post = partial(self.post_again, room_id, successor, patient)
        try:
            await self.take_back(await inbox.post_again(ChannelRef(Platform.MATRIX, room_id), post))
        except RateLimited as error:
            return max(error.retry_after or _DEFAULT_RETRY, 0.1)
        except StoreUnavailable:
            return room.backoff.next()  # what is known of ghosts could not be read
        except Transient as error:
            if error.failed and not patient:
                _log.warning("what was said behind a tombstone is left there", room=room.name, reason=str(error))
                return None
            room.stranded_failures += error.failed
            _log.info("what was said behind a tombstone waits", room=room.name, reason=str(error))
            return room.backoff.next(error.retry_after)
        return None

    async def _move_to_successor(self, room: DeclaredRoom, room_id: str, successor: str, inbox: RetryingInbox) -> None:
        """Store that one room has replaced the other, and from where the new one is read; then sync it."""
        since = await inbox.position(tombstone_stream(room_id))
        if not since:
            position = SyncPosition.parse(await inbox.position(SYNC))
            since = "" if position is None else position.token
        cursors = [cursor(successor_stream(room_id), successor), cursor(predecessor_stream(successor), room_id)]
        if not await inbox.position(room_stream(successor)):
            cursors.append(cursor(room_stream(successor), OUTSIDE + since))
        await inbox.receive(EventBatch(cursors=tuple(cursors)))
        _log.warning("room upgraded, going on in its replacement", room=room.name, old=room_id, new=successor)
        if not room.is_alias:
            _warn_of_new_room(room, successor)
        room.backoff.reset()
        room.start_upgrade_pause(self.clock.monotonic())
        alias = self.rooms.find(successor)
        if alias is not None:
            self.rooms.point(alias, None)
        self.rooms.point_to_successor(room, successor)
        if alias is not None:
            # It came to name the room before sync told of the upgrade. Looked up again, it is said to be taken.
            alias.resolved = False
            self.rooms.wake(alias)

    async def _reject_successor(
        self, room: DeclaredRoom, room_id: str, successor: str, inbox: RetryingInbox, why: str, *, leave: bool
    ) -> float | None:
        """The tombstone names a room that does not replace this one. `leave`: it was joined just to find out."""
        _log.warning("tombstone not followed", room=room.name, successor=successor)
        room.rejected_successors |= {successor}
        if leave:
            room.start_upgrade_pause(self.clock.monotonic())
            with contextlib.suppress(Refused, Unreachable):
                await self.api.call("POST", "rooms", successor, "leave", body={})
        problem = f"{room.name} is said to be upgraded to {successor}, {why}: declare the right room."
        self.rooms.reject_upgrade(room, problem)
        await self.rooms.report(room_id, inbox)
        return self._stay(room)

    # --- Joining ------------------------------------------------------------------------------------------

    async def _join(self, room: DeclaredRoom, room_id: str, inbox: RetryingInbox) -> float:
        while not room.joined:
            try:
                await self.api.call("POST", "join", room_id, query=_via(room), body={}, timeout=_JOIN_TIMEOUT)
            except Unreachable as error:
                if room.backoff.tries >= _UNANSWERED_TRIES:
                    await self.rooms.report_problem(room, f"{room.name} could not be joined yet: {error}.", inbox)
                return room.backoff.next()
            except Refused as refused:
                if refused.status == 429:
                    # Keep the place in the queue while waiting: the limit is the account's, not the room's.
                    _log.info("joins are limited, waiting", room=room.name, seconds=refused.retry_after)
                    await self.clock.sleep(refused.retry_after or _DEFAULT_RETRY)
                    continue
                room.invited = False
                room.resolved = False  # The alias may name another room by now.
                await self.rooms.report_problem(room, join_problem(room.name, refused, self.api.user_id), inbox)
                return room.backoff.next(refused.retry_after)
            room.entered = True
            break
        return _JOIN_SHOWS_WITHIN


def _warn_of_new_room(room: DeclaredRoom, successor: str) -> None:
    remedy = "matrix_room may name the new room"
    _log.warning("declared room was upgraded and is followed", room=room.name, successor=successor, remedy=remedy)


def _via(room: DeclaredRoom, *ids: str) -> dict[str, str | list[str]]:
    """Servers that may know the room, first those that `ids` and its address name: of a large room many may be away.

    Before version 1.12 of the specification `via` was called `server_name`.
    """
    named = (one.partition(":")[2] for one in (*ids, room.name, room.room_id or ""))
    servers = list(dict.fromkeys((*filter(is_server_name, named), *room.servers)))[:MOST_SERVERS]
    return {"via": servers, "server_name": servers} if servers else {}


def lookup_problem(name: str, refused: Refused) -> str:
    """Why an alias names no room, as a sentence with the remedy."""
    if refused.status == 404:
        return f"No room has the alias {name}: correct matrix_room, or give the room that alias."
    return f"The alias {name} cannot be looked up ({refused.reason or refused.code}): correct matrix_room."


def join_problem(name: str, refused: Refused, me: str) -> str:
    """Why a room cannot be joined, as a sentence with the remedy."""
    if "banned" in refused.reason.lower():
        return f"{me} is banned from {name}: lift the ban."
    if refused.status == 403:
        return f"{me} is not let into {name} ({refused.reason or refused.code}): invite it, or open the room."
    if refused.status == 404:
        return f"{name} cannot be found ({refused.reason}): correct matrix_room, or invite {me} into it."
    return f"{name} cannot be joined ({refused.reason or refused.status}): invite {me} into it."
