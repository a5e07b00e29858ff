"""Getting into the declared rooms: resolving aliases, joining, and trying again.

A homeserver lets an ordinary account join one room in ten seconds, or one remote room in a hundred (`rc_joins` in
https://element-hq.github.io/synapse/latest/usage/configuration/config_documentation.html). So a few joins are made
at a time, each waits as long as it is told to, and rooms that are joined already do not wait for them.
"""

import asyncio
import contextlib

import structlog

from relay.adapters.matrix.api.client import Api, Json, Refused, Unreachable
from relay.adapters.matrix.cursors import (
    TOMBSTONE,
    before,
    chain,
    predecessor_stream,
    room_stream,
    successor_stream,
    tombstone_stream,
)
from relay.adapters.matrix.identifiers import is_room_id, is_server_name
from relay.adapters.matrix.rooms.declared import DeclaredRoom, DeclaredRooms
from relay.adapters.matrix.sync.response import OUT
from relay.adapters.matrix.sync.retrying_inbox import RetryingInbox, at
from relay.core.ports import Clock, EventBatch
from relay.errors import StoreError

_log = structlog.get_logger(__name__)

_JOINS_AT_ONCE = 3
_JOIN_TIMEOUT = 180.0  # A remote room with many servers in it takes minutes.
_JOIN_SHOWS_WITHIN = 60.0
_PATIENCE = 60.0
_UNANSWERED_TRIES = 3
_ANSWERED_WITHIN = 5.0  # A look-up that takes longer is still waited for, but holds up nobody else.
_SERVERS_ASKED = 10
_ALIAS_ASKED_EVERY = 600.0
_DECLARE = "matrix_room may name the new room"


class RoomJoiner:
    """Works until every declared address leads into a room, and whenever one does not any more."""

    def __init__(self, api: Api, rooms: DeclaredRooms, clock: Clock, connected: asyncio.Event) -> None:
        self._api = api
        self._connected = connected
        self._rooms = rooms
        self._clock = clock
        self._joins = asyncio.Semaphore(_JOINS_AT_ONCE)

    async def run(self, inbox: RetryingInbox) -> None:
        """One task for each door, until cancelled."""
        keepers: dict[DeclaredRoom, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._wait_no_longer(inbox), name="doors that take long")
            while True:
                self._rooms.redeclared.clear()
                doors = set(self._rooms.doors)
                for gone in keepers.keys() - doors:
                    keepers.pop(gone).cancel()
                for door in doors - keepers.keys():
                    keepers[door] = group.create_task(self._tend(door, inbox), name=f"door {door.name}")
                await self._rooms.redeclared.wait()

    async def _wait_no_longer(self, inbox: RetryingInbox) -> None:
        """After a while the rooms that are still to be entered are pairs in trouble, and hold nobody up."""
        await self._connected.wait()
        await self._clock.sleep(_PATIENCE)
        for door in self._rooms.doors:
            if not door.settled:
                problem = f"{door.name} is still to be entered: the homeserver limits how often an account may join."
                await self._rooms.refuse(door, problem, inbox)

    async def _tend(self, door: DeclaredRoom, inbox: RetryingInbox) -> None:
        known = await inbox.position(_alias_stream(door)) if door.is_alias else door.room_id
        if known and is_room_id(known):
            # The room that the alias named last time: listened to from the very start, so that the first sync
            # covers it. Whether the alias has moved meanwhile is asked next.
            await self._lead(door, known, inbox)
            door.looked.set()
        while True:
            door.wake.clear()
            try:
                seconds = await self._advance(door, inbox)
            except StoreError:
                raise
            except Exception:  # noqa: BLE001 - the top of this worker
                _log.exception("bug while entering a room", room=door.name)
                seconds = door.backoff.next()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await door.wake.wait()

    async def _advance(self, door: DeclaredRoom, inbox: RetryingInbox) -> float | None:
        """Do what can be done now; seconds until it is worth coming back, None if there is nothing more to do."""
        if door.is_alias and door.resolved and self._clock.monotonic() >= door.ask_again_at:
            door.resolved = False
        unresolved = False
        if door.is_alias and not door.resolved:
            try:
                door.resolved = await self._resolve(door, inbox)
            except Unreachable:
                door.resolved = False
            door.ask_again_at = self._clock.monotonic() + _ALIAS_ASKED_EVERY
            door.looked.set()
            unresolved = not door.resolved
        if door.room_id is None:
            return door.backoff.next() if unresolved else None
        if door.joined is None:
            return None
        if door.joined:
            if self._rooms.state(door.room_id).upgraded:
                return await self._follow(door, door.room_id, inbox)
            if unresolved:
                return door.backoff.next()
            return _ALIAS_ASKED_EVERY if door.is_alias else None
        patience = door.not_before - self._clock.monotonic()
        if patience > 0 and not door.invited:
            return patience
        async with self._joins:
            return await self._join(door, door.room_id, inbox)

    # --- Which room it is ---------------------------------------------------------------------------------

    async def _resolve(self, door: DeclaredRoom, inbox: RetryingInbox) -> bool:
        """Ask which room the alias names; whether that is known now."""
        try:
            answer = await self._looked_up(door, inbox)
        except Unreachable as error:
            await self._unanswered(door, str(error), inbox)
            return False
        except Refused as refused:
            # A room that is known already goes on working without its alias.
            if door.room_id is None and refused.status != 429:
                await self._rooms.refuse(door, _unresolved(door, refused), inbox)
            return False
        room_id, servers = answer.get("room_id"), answer.get("servers")
        if not isinstance(room_id, str) or not is_room_id(room_id):
            return False
        named = servers if isinstance(servers, list) else ()
        door.servers |= {server for server in named if isinstance(server, str) and is_server_name(server)}
        now = (await chain(room_id, inbox))[-1]
        other = self._rooms.door(now)
        if other is not None and other is not door:
            problem = f"{door.name} names the same room as {other.name}: declare the room in one pair only."
            if door.room_id is not None:
                # It is not the old one any more, and the other alias may be about to name that.
                self._rooms.let_go(door)
            other.resolved = False
            other.wake.set()
            await self._rooms.refuse(door, problem, inbox)
            return False
        if now != door.room_id:
            if door.room_id is not None and now not in door.refused and now == await self._replacement(door.room_id):
                return True  # Followed as what it is, the same place, once a sync has told of the upgrade.
            if door.room_id is not None:
                _log.info("alias names another room now", alias=door.name, room=now)
            await self._lead(door, room_id, inbox)
            await inbox.receive(EventBatch(cursors=(at(_alias_stream(door), room_id),)))
        return True

    async def _replacement(self, room_id: str) -> str | None:
        """The room that has replaced a room, as that says itself. Raises `Unreachable`."""
        try:
            tombstone = await self._api.call("GET", "rooms", room_id, "state", TOMBSTONE, "")
        except Refused:
            return None
        return tombstone.get("replacement_room")

    async def _lead(self, door: DeclaredRoom, room_id: str, inbox: RetryingInbox) -> None:
        """The address names `room_id`, or what has replaced that room since."""
        first, *others = await chain(room_id, inbox)
        predecessors = await before(first, inbox)
        if door.room_id != first or others:
            self._rooms.lead(door, first, predecessors)
        door.predecessors = predecessors
        for following in others:
            self._rooms.succeed(door, following)
        if others and not door.is_alias:
            _log.warning(
                "declared room was upgraded and is followed", room=door.name, successor=others[-1], remedy=_DECLARE
            )

    async def _looked_up(self, door: DeclaredRoom, inbox: RetryingInbox) -> Json:
        """What the directory says. The server that made an alias may be away, and ours waits long for its answer."""
        call = asyncio.create_task(self._api.call("GET", "directory", "room", door.name), name=f"alias {door.name}")
        try:
            answered, _ = await asyncio.wait({call}, timeout=_ANSWERED_WITHIN)
            if not answered:
                await self._unanswered(door, f"no answer within {_ANSWERED_WITHIN:.0f} s", inbox)
            return await call
        finally:
            call.cancel()

    async def _unanswered(self, door: DeclaredRoom, reason: str, inbox: RetryingInbox) -> None:
        """A pair in trouble, for now: tried again all the same."""
        if door.room_id is None and not door.settled:
            problem = f"The alias {door.name} could not be looked up yet ({reason}): its server may be away; trying on."
            await self._rooms.refuse(door, problem, inbox)
        door.looked.set()

    # --- Upgrades -----------------------------------------------------------------------------------------

    async def _follow(self, door: DeclaredRoom, room_id: str, inbox: RetryingInbox) -> float | None:
        """Go on in the room that has replaced the door's."""
        state = self._rooms.state(room_id)
        successor = state.successor
        if not state.created:
            return door.backoff.next()  # It is not known yet what the creator may do.
        if successor is None or successor in door.refused or not state.may_upgrade(state.upgrader):
            return self._stay(door)
        if successor in {room_id, *door.predecessors}:
            # Rooms that name each other in a ring: followed, that would never end.
            return await self._refuse_successor(door, room_id, successor, inbox, "which it has replaced", leave=False)
        other = self._rooms.door(successor)
        if other is not None:
            problem = (
                f"{door.name} has been upgraded to {successor}, which {other.name} names: remove one of the pairs."
            )
            self._rooms.not_followed(door, problem)
            await self._rooms.settle(room_id, inbox)
            return self._stay(door) or _ALIAS_ASKED_EVERY
        # The state of all rooms is asked for each time: nobody's room may make the others pay for that in a row.
        if (patience := door.follow_at - self._clock.monotonic()) > 0:
            problem = f"{door.name} has been upgraded once more, to {successor}: it is followed in some minutes."
            if door.not_followed != problem:
                self._rooms.not_followed(door, problem)
                await self._rooms.settle(room_id, inbox)
            return patience
        named = {state.upgrader.partition(":")[2], successor.partition(":")[2]}
        via = sorted({server for server in named if is_server_name(server)} | door.servers)[:_SERVERS_ASKED]
        try:
            joined = (await self._api.call("GET", "joined_rooms")).get("joined_rooms")
            async with self._joins:
                query: dict[str, str | list[str]] = {"via": via, "server_name": via}
                await self._api.call("POST", "join", successor, query=query, body={}, timeout=_JOIN_TIMEOUT)
            created = await self._api.call("GET", "rooms", successor, "state", "m.room.create")
        except Unreachable as error:
            _log.info("replacement not entered yet", room=door.name, successor=successor, reason=str(error))
            return door.backoff.next()
        except Refused as refused:
            if refused.status == 429:
                return max(refused.retry_after or 5.0, 0.1)
            why = f"{self._api.user_id} is not let in there ({refused.reason or refused.code}): invite it"
            self._rooms.wait_for(door, successor, f"{door.name} has been upgraded to {successor}, and {why}.")
            await self._rooms.settle(room_id, inbox)
            door.ask_again_at = 0.0
            return door.backoff.next(refused.retry_after)
        predecessor = created.get("predecessor")
        if not isinstance(predecessor, dict) or predecessor.get("room_id") != room_id:
            # A room that the relay was in before is somebody's, whoever names it in a tombstone.
            leave = isinstance(joined, list) and successor not in joined and self._rooms.door(successor) is None
            return await self._refuse_successor(door, room_id, successor, inbox, "which does not say so", leave=leave)
        await self._succeed(door, room_id, successor, inbox)
        return None

    def _stay(self, door: DeclaredRoom) -> float | None:
        # Its alias may be about to name another room.
        if door.is_alias:
            door.ask_again_at = 0.0
            return door.backoff.next()
        return None

    async def _succeed(self, door: DeclaredRoom, room_id: str, successor: str, inbox: RetryingInbox) -> None:
        """Write down that one room has replaced the other, and from where it is to be read; then listen to it."""
        since = await inbox.position(tombstone_stream(room_id)) or await inbox.position("sync") or ""
        cursors = [at(successor_stream(room_id), successor), at(predecessor_stream(successor), room_id)]
        if not await inbox.position(room_stream(successor)):
            cursors.append(at(room_stream(successor), OUT + since))
        await inbox.receive(EventBatch(cursors=tuple(cursors)))
        _log.warning("room upgraded, going on in its replacement", room=door.name, old=room_id, new=successor)
        if not door.is_alias:
            _log.warning(
                "declared room was upgraded and is followed", room=door.name, successor=successor, remedy=_DECLARE
            )
        door.backoff.reset()
        door.followed(self._clock.monotonic())
        self._rooms.succeed(door, successor)

    async def _refuse_successor(
        self, door: DeclaredRoom, room_id: str, successor: str, inbox: RetryingInbox, why: str, *, leave: bool
    ) -> float | None:
        """A tombstone that names a room which does not replace this one. `leave`: it was joined just to find out."""
        _log.warning("tombstone not followed", room=door.name, successor=successor)
        door.refused |= {successor}
        if leave:
            door.followed(self._clock.monotonic())
            with contextlib.suppress(Refused, Unreachable):
                await self._api.call("POST", "rooms", successor, "leave", body={})
        problem = f"{door.name} is said to be upgraded to {successor}, {why}: declare the right room."
        self._rooms.not_followed(door, problem)
        await self._rooms.settle(room_id, inbox)
        return self._stay(door)

    # --- Getting in ---------------------------------------------------------------------------------------

    async def _join(self, door: DeclaredRoom, room_id: str, inbox: RetryingInbox) -> float:
        while not door.joined:
            try:
                await self._api.call("POST", "join", room_id, query=_via(door), body={}, timeout=_JOIN_TIMEOUT)
            except Unreachable as error:
                if door.backoff.tries >= _UNANSWERED_TRIES:
                    await self._rooms.refuse(door, f"{door.name} could not be joined yet: {error}.", inbox)
                return door.backoff.next()
            except Refused as refused:
                if refused.status == 429:
                    # Waited for with the place in the queue kept: the limit is the account's, not the room's.
                    _log.info("joins are limited, waiting", room=door.name, seconds=refused.retry_after)
                    await self._clock.sleep(refused.retry_after or 5.0)
                    continue
                door.invited = False
                door.resolved = False  # Perhaps the alias has moved on.
                await self._rooms.refuse(door, _not_joined(door, refused, self._api.user_id), inbox)
                return door.backoff.next(refused.retry_after)
            _log.info("room joined", room=door.name)
            break
        return _JOIN_SHOWS_WITHIN


def _alias_stream(door: DeclaredRoom) -> str:
    return f"alias:{door.name}"


def _via(door: DeclaredRoom) -> dict[str, str | list[str]]:
    """Servers that may know the room. The second name is the one before version 1.12 of the specification."""
    known = {door.name.partition(":")[2], (door.room_id or "").partition(":")[2]} | door.servers
    servers = sorted(known - {""})[:_SERVERS_ASKED]
    return {"via": servers, "server_name": servers} if servers else {}


def _unresolved(door: DeclaredRoom, refused: Refused) -> str:
    if refused.status == 404:
        return f"No room has the alias {door.name}: correct matrix_room, or give the room that alias."
    return f"The alias {door.name} cannot be looked up ({refused.reason or refused.code}): correct matrix_room."


def _not_joined(door: DeclaredRoom, refused: Refused, me: str) -> str:
    if "banned" in refused.reason.lower():
        return f"{me} is banned from {door.name}: lift the ban."
    if refused.status == 403:
        return f"{me} is not let into {door.name} ({refused.reason or refused.code}): invite it, or open the room."
    if refused.status == 404:
        return f"{door.name} cannot be found ({refused.reason}): correct matrix_room, or invite {me} into it."
    return f"{door.name} cannot be joined ({refused.reason or refused.status}): invite {me} into it."
