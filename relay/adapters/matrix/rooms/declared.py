"""The rooms that the operator declared: which room each address names, and whether the relay can use it.

Tells the core when that changes.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache

from relay.adapters.matrix.identifiers import OwnAccounts, is_user_id, matrix_to_link, room_link
from relay.adapters.matrix.markup import NameLookup
from relay.adapters.matrix.retrying_inbox import RetryingInbox
from relay.adapters.matrix.rooms.state import MEMBERS, Members, RoomState
from relay.core.clock import Backoff, Flag
from relay.core.ports import ChannelInfo
from relay.domain.ids import ChannelAddress, ChannelRef, Platform
from relay.domain.jsontext import Json, as_dict, as_string
from relay.logs import get_logger

_log = get_logger(__name__)

_LOOKUP_WAIT = 5.0
"""Seconds that the first sync waits for aliases to be looked up."""
_FIRST_UPGRADE_PAUSE, _LONGEST_UPGRADE_PAUSE = 60.0, 3600.0
_UPGRADES_REMEMBERED = 3600.0
# An event may list thousands.
_MOST_ALIASES = 10
MOST_SERVERS = 10
"""Through so many servers a room is joined. Each may be away, and ours asks one after the other."""
_NO_PREDECESSORS: frozenset[ChannelRef] = frozenset()


@dataclass(slots=True, eq=False)
class DeclaredRoom:
    """One declared address, and what is known about its room."""

    address: ChannelAddress
    # Between attempts to get into the room.
    backoff: Backoff
    # The room that the address names; None until that is known.
    room_id: str | None = None
    # Whether it gives way to another address that names the same room, and whether it has.
    secondary: bool = False
    gave_way: bool = False

    # None: the homeserver has not said yet.
    joined: bool | None = None
    invited: bool = False
    # It was joined just now. The log says so once sync has told its name.
    entered: bool = False
    # How we came to be out of the room, as a sentence for the operator; None if we were not removed from it.
    removed_reason: str | None = None
    # After a removal there is no attempt to join before this time.
    rejoin_at: float = 0.0
    # Servers that are in the room, as was told last: it can be joined through them.
    servers: tuple[str, ...] = ()

    # Whether the alias has been looked up, and nothing says that it names another room by now.
    resolved: bool = False
    # When the alias is looked up again.
    resolve_at: float = 0.0
    # Set once it is known which room it is, or that finding out takes long.
    looked_up: Flag = field(default_factory=Flag)
    # The aliases that the room itself lists. When they change, the address is looked up again.
    listed_aliases: frozenset[str] | None = None

    # Whether the core knows which room the address names.
    opened: bool = False
    # What the core knows to be wrong with the room; None if nothing.
    problem: str | None = None

    # The rooms that this one has replaced, the oldest first.
    predecessors: tuple[str, ...] = ()
    # The replacement, while we wait for an invitation into it.
    awaited: str | None = None
    # Why the replacement has not been entered, as a sentence for the operator.
    upgrade_problem: str | None = None
    # Rooms that a tombstone names, and that do not name this room as their predecessor.
    rejected_successors: frozenset[str] = frozenset()
    # No replacement is entered before this time, which is `upgrade_pause` seconds after the last upgrade.
    upgrade_at: float = 0.0
    upgrade_pause: float = 0.0
    # How often the homeserver has failed with what was said in this room behind its tombstone.
    stranded_failures: int = 0

    # Whether `RoomJoiner` may have something to do for the room; see `DeclaredRooms.wake`.
    woken: bool = False

    @property
    def name(self) -> str:
        """The address as the operator wrote it."""
        return self.address.value

    @property
    def is_alias(self) -> bool:
        """Whether the address is an alias, which may come to name another room."""
        return self.name.startswith("#")

    @property
    def reported(self) -> bool:
        """Whether the core has been told that the room works, or why it does not."""
        return self.opened or self.problem is not None

    def learn_servers(self, servers: Iterable[str]) -> None:
        """These are in the room, the best first. Anybody may tell of any number."""
        self.servers = tuple(dict.fromkeys((*servers, *self.servers)))[:MOST_SERVERS]

    def start_upgrade_pause(self, now: float) -> None:
        """Enter no other replacement for a while. If the room is upgraded again and again, each pause is longer."""
        again = now < self.upgrade_at + _UPGRADES_REMEMBERED
        longer = min(2 * self.upgrade_pause, _LONGEST_UPGRADE_PAUSE)
        self.upgrade_pause = longer if again and self.upgrade_pause else _FIRST_UPGRADE_PAUSE
        self.upgrade_at = now + self.upgrade_pause

    def point_to(self, room_id: str | None) -> None:
        """From now on the address names `room_id`; None: nobody knows which room."""
        self.room_id = room_id
        self.joined, self.invited, self.removed_reason, self.opened = None, False, None, False
        self.predecessors, self.upgrade_problem, self.awaited, self.listed_aliases = (), None, None, None
        self.stranded_failures = 0


class DeclaredRooms:
    """All declared rooms, and the state of each."""

    def __init__(self, accounts: OwnAccounts, *, backoff: Callable[[], Backoff], now: Callable[[], float]) -> None:
        self.accounts = accounts
        self._me = accounts.me
        self._backoff = backoff
        self._now = now
        self._declared: dict[ChannelAddress, DeclaredRoom] = {}
        # By the room that each names; None: to be made again. It is asked for several times a room in each sync.
        self._by_room: dict[str, DeclaredRoom] | None = None
        self._to_sync: tuple[frozenset[str], frozenset[str]] | None = None
        self._states: dict[str, RoomState] = {}
        self._members = Members(MEMBERS)
        self._all_tried = False
        # Counts what may leave a room without its state: other addresses, or an address that names another room.
        self.version = 0
        # Counts how often the operator has changed the addresses.
        self.declarations = 0
        # Set when other rooms are to be synced.
        self.changed = asyncio.Event()
        # Set when the operator has changed the addresses.
        self.redeclared = asyncio.Event()
        # Set then, too, and when there may be something to do for a room.
        self.woken = asyncio.Event()
        self._woken: list[DeclaredRoom] = []

    def declare(self, addresses: Iterable[ChannelAddress], secondary: frozenset[ChannelAddress] = frozenset()) -> None:
        """From now on these are the addresses; those that stay keep their rooms. `secondary`: see `Adapter.watch`."""
        wanted = frozenset(addresses)
        for address in self._declared.keys() - wanted:
            self._states.pop(self._declared.pop(address).room_id or "", None)
        for address in sorted(wanted - self._declared.keys()):
            room = DeclaredRoom(address, self._backoff())
            if not room.is_alias:
                room.room_id = room.name
            self._declared[address] = room
        self._forget_rooms()
        for address, room in self._declared.items():
            room.secondary = address in secondary
            if room.gave_way and (room.is_alias or self.find(room.name) is None):
                # The pair to which it gave way may be gone.
                room.gave_way = room.resolved = False
                room.room_id = None if room.is_alias else room.name
                self._forget_rooms()
                self.wake(room)
        self.version += 1
        self.declarations += 1
        self.redeclared.set()
        self.woken.set()
        self.changed.set()

    def wake(self, room: DeclaredRoom) -> None:
        """There may be something to do for a room."""
        if not room.woken:
            room.woken = True
            self._woken.append(room)
            self.woken.set()

    def take_woken(self) -> list[DeclaredRoom]:
        """Those that were woken since the last time."""
        self.woken.clear()
        woken, self._woken = self._woken, []
        return woken

    def point(self, room: DeclaredRoom, room_id: str | None, predecessors: tuple[str, ...] = ()) -> None:
        """From now on the address names `room_id`, which has replaced `predecessors`. None: nobody knows which room."""
        self._states.pop(room.room_id or "", None)
        room.point_to(room_id)
        self._forget_rooms()
        room.predecessors = predecessors
        self.version += 1
        self.changed.set()

    def give_way(self, room: DeclaredRoom) -> None:
        """Another address names the room, and keeps it."""
        room.gave_way = True
        self.point(room, None)

    def point_to_successor(self, room: DeclaredRoom, room_id: str) -> None:
        """From now on the address names `room_id`, which has replaced the room that it named so far."""
        before = room.room_id
        self.point(room, room_id, (*room.predecessors, before) if before is not None else room.predecessors)

    def await_invitation(self, room: DeclaredRoom, successor: str, problem: str) -> None:
        """The replacement of the room lets us in only when invited, so sync tells us of an invitation there, too."""
        room.upgrade_problem = problem
        if room.awaited != successor:
            room.awaited = successor
            self._forget_rooms()
            self.changed.set()

    def reject_upgrade(self, room: DeclaredRoom, problem: str) -> None:
        """The replacement of the room is not entered, for now or for good."""
        room.awaited, room.upgrade_problem = None, problem
        self._forget_rooms()

    @property
    def declared(self) -> tuple[DeclaredRoom, ...]:
        """All of them."""
        return tuple(self._declared.values())

    @property
    def pending(self) -> int:
        """How many addresses have not been tried yet. 0 once all have been: addresses declared later do not count."""
        return 0 if self._all_tried else sum(not room.reported for room in self._declared.values())

    @property
    def to_sync(self) -> frozenset[str]:
        """The rooms that sync has to tell us about."""
        return self._asked[0]

    @property
    def awaited(self) -> frozenset[str]:
        """Rooms that are no declared ones yet: of them only an invitation matters."""
        return self._asked[1]

    @property
    def _asked(self) -> tuple[frozenset[str], frozenset[str]]:
        """Both. They are asked for with each sync, so they are worked out only after a change."""
        if self._to_sync is None:
            named = {room.room_id for room in self._declared.values() if room.room_id is not None}
            awaited = {room.awaited for room in self._declared.values() if room.awaited is not None} - named
            self._to_sync = frozenset(named | awaited), frozenset(awaited)
        return self._to_sync

    def _forget_rooms(self) -> None:
        """Another room may be named."""
        self._by_room = self._to_sync = None

    def find(self, room_id: str) -> DeclaredRoom | None:
        """The declared room with this ID."""
        if self._by_room is None:
            # Of two that name the same room for a moment, the first.
            rooms = reversed(self._declared.values())
            self._by_room = {room.room_id: room for room in rooms if room.room_id is not None}
        return self._by_room.get(room_id)

    def state(self, room_id: str) -> RoomState:
        """What is known of a room."""
        if room_id not in self._states:
            self._states[room_id] = RoomState(room_id, self._members, server=self._me.partition(":")[2])
        return self._states[room_id]

    def describe(self, room_id: str) -> ChannelInfo | None:
        """What people know a declared room by; None while its state is not known, or where it has no name."""
        room, state = self.find(room_id), self._states.get(room_id)
        if room is None or state is None or not state.complete:
            return None
        if state.described is None:
            state.described = _described(room, room_id, state)
        return state.described

    def names(self) -> NameLookup:
        """What the declared rooms are called, and which room an alias names now. May be used in another thread.

        All aliases are looked through once, and only if one is asked for: a text may hold hundreds.
        """
        by_alias = cache(self._by_alias)
        return NameLookup(
            room_id=lambda alias: by_alias().get(alias), room_name=self._room_name, person=self.accounts.person
        )

    def _by_alias(self) -> dict[str, str]:
        """The room that each alias names: what the operator declared comes before what rooms say of themselves."""
        listed = {alias: state.room_id for state in list(self._states.values())[::-1] for alias in state.aliases}
        return listed | {room.name: room.room_id for room in list(self._declared.values()) if room.room_id is not None}

    def _room_name(self, room_id: str) -> str | None:
        state = self._states.get(room_id)
        return None if state is None else state.public_name.removeprefix("#") or None

    async def looked_up(self) -> None:
        """Returns once every address has been looked up, or has taken too long for the others to wait."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOKUP_WAIT):
                for room in self.declared:
                    await room.looked_up.wait()

    # --- From sync ----------------------------------------------------------------------------------------

    def mark_joined(self, room_id: str, *, complete: bool) -> None:
        """We are in the room. `complete`: all of its state was asked for."""
        room = self.find(room_id)
        if complete or (room is not None and room.joined is False):
            # When we join a room, sync sends all of its state unasked
            # (https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3sync).
            self.state(room_id).complete = True
        if room is not None and not room.joined:
            if room.removed_reason is None:
                # After a removal the backoff goes on: if we are removed again, the next wait is longer.
                room.backoff.reset()
            room.joined, room.invited, room.removed_reason = True, False, None
            self.wake(room)

    def mark_invited(self, room_id: str, inviters: Iterable[str]) -> None:
        """We are invited into the room."""
        for waiting in self._declared.values():
            if waiting.awaited == room_id:
                waiting.backoff.reset()
                self.wake(waiting)
        if room := self.find(room_id):
            room.joined, room.invited = False, True
            room.learn_servers(user.partition(":")[2] for user in inviters if is_user_id(user))
            room.backoff.reset()
            self.wake(room)

    def mark_outside(self, room_id: str, removed_reason: str | None = None) -> None:
        """We are not in the room. `removed_reason` if we were: a moderator decided that, so we wait before we join."""
        if room := self.find(room_id):
            room.joined, room.invited = False, False
            if removed_reason is not None:
                room.removed_reason = removed_reason
                room.rejoin_at = self._now() + room.backoff.next()
            self._states.pop(room_id, None)
            self.wake(room)

    # --- To the core --------------------------------------------------------------------------------------

    async def open(self, room_id: str, inbox: RetryingInbox) -> None:
        """Tell the core which room the address names, unless it knows. Events of the room may follow then."""
        room = self.find(room_id)
        if room is not None and not room.opened:
            await self._open(room, room_id, inbox)

    async def reopen(self, inbox: RetryingInbox) -> None:
        """Open every room again that works: something that was missing everywhere is back."""
        for room in self.declared:
            if room.opened and room.problem is None and room.room_id is not None:
                await self._open(room, room.room_id, inbox)

    def is_open(self, room_id: str) -> bool:
        """Whether the core knows which address the room is."""
        room = self.find(room_id)
        return room is not None and room.opened

    async def report(self, room_id: str, inbox: RetryingInbox) -> None:
        """Tell the core whether the room works, unless it knows."""
        room = self.find(room_id)
        if room is None or (room.joined and not self.state(room_id).complete):
            return  # The next sync says more.
        if room.joined and room.entered:
            room.entered = False
            _log.info("room joined", room=room.name, name=self.state(room_id).name or None)
        aliases = self.state(room_id).aliases
        if room.is_alias and room.listed_aliases not in (None, aliases):
            room.resolved = False
            self.wake(room)
        room.listed_aliases = aliases
        if self.state(room_id).list_in_doubt and room.joined:
            self.wake(room)
        problem = self.send_blocker(room_id)
        if problem is not None:
            if room.joined:
                await self.open(room_id, inbox)
            if room.problem != problem:
                self.wake(room)  # An upgraded room's alias may name the new room.
            await self.report_problem(room, problem, inbox)
        elif not room.opened or room.problem is not None:
            await self._open(room, room_id, inbox)

    async def report_problem(self, room: DeclaredRoom, problem: str, inbox: RetryingInbox) -> None:
        """Tell the core why a room does not work, unless it knows."""
        if room.problem != problem:
            await inbox.closed(room.address, problem)
            room.problem = problem
            self._check_all_tried()

    async def _open(self, room: DeclaredRoom, room_id: str, inbox: RetryingInbox) -> None:
        # Not a new one for each, which would be kept, and takes 216 bytes.
        predecessors = frozenset(ChannelRef(Platform.MATRIX, one) for one in room.predecessors) or _NO_PREDECESSORS
        await inbox.opened(room.address, ChannelRef(Platform.MATRIX, room_id), predecessors=predecessors)
        if room.room_id != room_id:
            return  # It was upgraded meanwhile: the core does not know the new room yet.
        room.opened, room.problem = True, None
        self._check_all_tried()

    def _check_all_tried(self) -> None:
        self._all_tried = self._all_tried or all(room.reported for room in self._declared.values())

    def is_moving(self, room_id: str) -> bool:
        """Whether a declared room is about to be left for the one that replaces it. Not where that lets nobody in."""
        room, state = self.find(room_id), self.state(room_id)
        if room is None or not state.upgraded or room.upgrade_problem is not None:
            return False
        leads_on = state.successor is not None and state.successor not in room.rejected_successors
        return leads_on and (not state.creator_known or state.may_upgrade(state.upgrader))

    def is_replacement(self, room_id: str) -> bool:
        """Whether a declared room is about to be left for this one: both say that this one replaces it."""
        before = self.state(room_id).predecessor
        return self.find(before) is not None and self.state(before).successor == room_id and self.is_moving(before)

    def send_blocker(self, room_id: str) -> str | None:
        """Why we cannot send into a room now, as a sentence with the remedy; None if we can."""
        room = self.find(room_id)
        if room is None:
            return f"{room_id} is not declared: put it back into the configuration."
        if not room.joined:
            return room.removed_reason or room.problem or f"{self._me} is not in {room.name} yet: it is being joined."
        state = self.state(room_id)
        if not state.complete:
            return f"{room.name} is not known yet: the homeserver is being asked for its state."
        if state.encrypted:
            return encrypted_problem(room.name)
        if state.is_space:
            return space_problem(room.name)
        if state.upgraded and room.upgrade_problem is not None:
            return room.upgrade_problem
        if state.upgraded:
            successor = f" to {state.successor}" if state.successor else ""
            return f"{room.name} has been upgraded{successor}: declare the new room, or let the alias name it."
        return power_problem(room.name, state, self._me) or acl_problem(room.name, state, self._me)


def _described(room: DeclaredRoom, room_id: str, state: RoomState) -> ChannelInfo | None:
    alias = room.name if room.is_alias else state.alias
    if not (name := state.name or alias):
        return None
    link = matrix_to_link(alias) if alias else room_link(room_id)
    aliases = (*filter(None, (state.alias,)), *sorted(state.aliases - {state.alias}))
    return ChannelInfo(name, topic=state.topic, link=link, public=state.public, aliases=aliases[:_MOST_ALIASES])


def encrypted_problem(name: str) -> str:
    """Why an encrypted room cannot be mirrored, with the remedy."""
    return (
        f"{name} is encrypted, so that only its members' devices can read it, and the relay is none. "
        "Encryption cannot be switched off again: make another room without it (Element switches it on for a new "
        "private room unless asked not to), and declare that one."
    )


def space_problem(name: str) -> str:
    """Why a space cannot be mirrored, with the remedy."""
    return f"{name} is a space, which lists rooms, and in which nobody sees messages: declare one of its rooms."


def power_problem(name: str, state: RoomState, me: str) -> str | None:
    """Why we may not write in a room, with the remedy; None if we may."""
    if state.may_send(me):
        return None
    needed = state.level_to_send("m.room.message")
    return f"{me} may not write in {name}: give it the power level {needed} there."


def acl_problem(name: str, state: RoomState, me: str) -> str | None:
    """Why nobody on other servers would see what we write in a room, with the remedy; None if they would.

    Synapse lets none of its own people deny it: a moderator elsewhere did. `access_list.py` asks what became of that.
    """
    if not state.denies_us:
        return None
    server = me.partition(":")[2]
    return (
        f"{name} denies the server {server} (m.room.server_acl), so that nobody on another server sees what is written "
        f"from it: somebody on another one has to allow it in that list, a moderator or a bot of theirs like Draupnir. "
        "What somebody here changes in it reaches no other server."
    )


def removal_reason(event: Json, me: str, name: str) -> str:
    """How we came to be out of a room, from our own membership event: a sentence with the remedy."""
    sender, content = str(event.get("sender", "")), as_dict(event.get("content"))
    reason = f" ({given})" if (given := as_string(content.get("reason"))) else ""
    if content.get("membership") == "ban":
        return f"{me} has been banned from {name} by {sender}{reason}: lift the ban and invite it."
    if sender == me:
        return f"{me} has left {name}: invite it again."
    return f"{me} has been removed from {name} by {sender or 'somebody'}{reason}: invite it again."
