"""The declared rooms: which room an address names, and whether it works. Tells the core when that changes."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from relay.adapters.matrix.api.client import Json
from relay.adapters.matrix.identifiers import is_user_id
from relay.adapters.matrix.markup import NameLookup
from relay.adapters.matrix.rooms.state import RoomState
from relay.adapters.matrix.sync.retrying_inbox import RetryingInbox
from relay.core.clock import Backoff
from relay.domain.ids import ChannelAddress, ChannelRef, Platform

_FIRST_LOOK = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 60.0, 3600.0
_FOLLOWS_REMEMBERED = 3600.0


@dataclass(slots=True, eq=False)
class DeclaredRoom:
    """One declared address, and what is known about its room.

    `joined` None: the homeserver has not said yet. `removed_reason`: how we came to be outside, as a sentence.
    `bound`: the core knows which room it is. `problem`: what the core was told; None = that it works, or nothing.
    `wake` is set when there may be something to do for its keeper, `looked` once it is known which room it is, or
    that this is not easily known. `servers` are in the room.

    `predecessors` are the rooms that this one has replaced. `refused` are rooms that a tombstone named and that do not
    say the same; `not_followed` is why the room's replacement has not been entered, as a sentence. `aliases` are those
    that the room lists; the alias is looked up again when they change, and at `ask_again_at`. No replacement is entered
    before `follow_at`, which lies `follow_pause` seconds behind the last one.
    """

    address: ChannelAddress
    backoff: Backoff
    room_id: str | None = None
    joined: bool | None = None
    invited: bool = False
    removed_reason: str | None = None
    not_before: float = 0.0
    resolved: bool = False
    bound: bool = False
    problem: str | None = None
    servers: frozenset[str] = frozenset()
    predecessors: tuple[str, ...] = ()
    refused: frozenset[str] = frozenset()
    not_followed: str | None = None
    awaited: str | None = None
    aliases: frozenset[str] | None = None
    ask_again_at: float = 0.0
    follow_at: float = 0.0
    follow_pause: float = 0.0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    looked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """The address as the operator wrote it."""
        return self.address.value

    @property
    def is_alias(self) -> bool:
        """Whether the address is an alias, and so may come to name another room."""
        return self.name.startswith("#")

    @property
    def settled(self) -> bool:
        """Whether it is known to work, or known not to."""
        return self.bound or self.problem is not None

    def followed(self, now: float) -> None:
        """A replacement was entered at `now`: whoever upgrades a room again and again costs more patience each time."""
        again = now < self.follow_at + _FOLLOWS_REMEMBERED
        self.follow_pause = min(2 * self.follow_pause, _LONGEST_PAUSE) if again and self.follow_pause else _FIRST_PAUSE
        self.follow_at = now + self.follow_pause

    def lead_to(self, room_id: str) -> None:
        """From now on the address names `room_id`."""
        self.room_id = room_id
        self.joined, self.invited, self.removed_reason, self.bound = None, False, None, False
        self.predecessors, self.not_followed, self.awaited, self.aliases = (), None, None, None


class DeclaredRooms:
    """All doors. `changed`: there are other rooms to listen to now. `redeclared`: there are other doors.

    `version` counts whatever may have left a room without its state: other doors, or a door that leads elsewhere;
    `declarations` only the former.
    """

    def __init__(self, me: str, *, backoff: Callable[[], Backoff], now: Callable[[], float]) -> None:
        self._me = me
        self._backoff = backoff
        self._now = now
        self._doors: dict[ChannelAddress, DeclaredRoom] = {}
        self._states: dict[str, RoomState] = {}
        self._tried = False
        self.version = 0
        self.declarations = 0
        self.changed = asyncio.Event()
        self.redeclared = asyncio.Event()

    def declare(self, addresses: Iterable[ChannelAddress]) -> None:
        """From now on these are the addresses; those that stay keep their rooms."""
        wanted = frozenset(addresses)
        for address in self._doors.keys() - wanted:
            self._states.pop(self._doors.pop(address).room_id or "", None)
        for address in sorted(wanted - self._doors.keys()):
            door = DeclaredRoom(address, self._backoff())
            if not door.is_alias:
                door.room_id = door.name
            self._doors[address] = door
        self.version += 1
        self.declarations += 1
        self.redeclared.set()
        self.changed.set()

    def lead(self, door: DeclaredRoom, room_id: str, predecessors: tuple[str, ...] = ()) -> None:
        """From now on `door` names `room_id`, which has replaced `predecessors`."""
        self._states.pop(door.room_id or "", None)
        door.lead_to(room_id)
        door.predecessors = predecessors
        self.version += 1
        self.changed.set()

    def succeed(self, door: DeclaredRoom, room_id: str) -> None:
        """From now on `door` names `room_id`, which has replaced the room that it named so far."""
        before = door.room_id
        self.lead(door, room_id, (*door.predecessors, before) if before is not None else door.predecessors)

    def let_go(self, door: DeclaredRoom) -> None:
        """It is not known any more which room `door` names."""
        self._states.pop(door.room_id or "", None)
        door.lead_to("")
        door.room_id = None
        self.version += 1
        self.changed.set()

    def wait_for(self, door: DeclaredRoom, room_id: str, problem: str) -> None:
        """The replacement of the door's room cannot be entered yet; whether we are invited is listened for."""
        door.not_followed = problem
        if door.awaited != room_id:
            door.awaited = room_id
            self.changed.set()

    def not_followed(self, door: DeclaredRoom, problem: str) -> None:
        """The replacement of the door's room is not to be entered."""
        door.awaited, door.not_followed = None, problem

    @property
    def doors(self) -> tuple[DeclaredRoom, ...]:
        """All of them."""
        return tuple(self._doors.values())

    @property
    def pending(self) -> int:
        """How many addresses are still to be tried, until all have been once: later ones hold nobody up."""
        return 0 if self._tried else sum(not door.settled for door in self._doors.values())

    @property
    def room_ids(self) -> frozenset[str]:
        """The rooms to listen to."""
        rooms = {door.room_id for door in self._doors.values()} | self.awaited
        return frozenset(room_id for room_id in rooms if room_id is not None)

    @property
    def awaited(self) -> frozenset[str]:
        """Rooms of which nothing matters yet but that we are invited."""
        named = {door.room_id for door in self._doors.values()}
        return frozenset(door.awaited for door in self._doors.values() if door.awaited is not None) - named

    def door(self, room_id: str) -> DeclaredRoom | None:
        """The address that names a room."""
        return next((door for door in self._doors.values() if door.room_id == room_id), None)

    def state(self, room_id: str) -> RoomState:
        """What is known of a room."""
        if room_id not in self._states:
            self._states[room_id] = RoomState(room_id)
        return self._states[room_id]

    def names(self) -> NameLookup:
        """What the declared rooms are called, and which room is meant. May be asked from another thread."""
        return NameLookup(room_id=self._room_id, room_name=self._room_name)

    def _room_id(self, alias: str) -> str | None:
        declared = next((door.room_id for door in list(self._doors.values()) if door.name == alias), None)
        states = list(self._states.values())
        return declared or next((state.room_id for state in states if alias in state.aliases), None)

    def _room_name(self, room_id: str) -> str | None:
        state = self._states.get(room_id)
        return None if state is None else state.name_elsewhere.removeprefix("#") or None

    async def looked(self) -> None:
        """Returns once every address has been looked up, or has taken too long for the others to wait."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK):
                for door in self.doors:
                    await door.looked.wait()

    # --- What the sync loop sees --------------------------------------------------------------------------

    def seen_inside(self, room_id: str, *, whole: bool) -> None:
        """We are in the room. `whole`: all of its state was asked for."""
        door = self.door(room_id)
        if whole or (door is not None and door.joined is False):
            # Of a room that is entered all state comes unasked
            # (https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3sync).
            self.state(room_id).whole = True
        if door is not None and not door.joined:
            if door.removed_reason is None:
                # Somebody who is put out again and again comes back later each time.
                door.backoff.reset()
            door.joined, door.invited, door.removed_reason = True, False, None
            door.wake.set()

    def seen_invited(self, room_id: str, inviters: Iterable[str]) -> None:
        """Somebody lets us in."""
        for waiting in self._doors.values():
            if waiting.awaited == room_id:
                waiting.backoff.reset()
                waiting.wake.set()
        if door := self.door(room_id):
            door.joined, door.invited = False, True
            door.servers |= {user.partition(":")[2] for user in inviters if is_user_id(user)}
            door.backoff.reset()
            door.wake.set()

    def seen_outside(self, room_id: str, removed_reason: str | None = None) -> None:
        """We are not in the room. `removed_reason`, a sentence, if we were: then a moderator has the first word."""
        if door := self.door(room_id):
            door.joined, door.invited = False, False
            if removed_reason is not None:
                door.removed_reason = removed_reason
                door.not_before = self._now() + door.backoff.next()
            self._states.pop(room_id, None)
            door.wake.set()

    # --- What the core is told ----------------------------------------------------------------------------

    async def bind(self, room_id: str, inbox: RetryingInbox) -> None:
        """Let the core know which room the address is, before events of it are handed over."""
        door = self.door(room_id)
        if door is not None and not door.bound:
            await self._open(door, room_id, inbox)

    def is_bound(self, room_id: str) -> bool:
        """Whether the core knows which address the room is."""
        door = self.door(room_id)
        return door is not None and door.bound

    async def settle(self, room_id: str, inbox: RetryingInbox) -> None:
        """Tell the core whether a room works, if that is news."""
        door = self.door(room_id)
        if door is None or (door.joined and not self.state(room_id).whole):
            return  # The next answer says more.
        aliases = self.state(room_id).aliases
        if door.is_alias and door.aliases not in (None, aliases):
            door.resolved = False
            door.wake.set()
        door.aliases = aliases
        problem = self.send_blocker(room_id)
        if problem is not None:
            if door.joined:
                await self.bind(room_id, inbox)
            if door.problem != problem:
                door.wake.set()  # An upgraded room's alias may lead on.
            await self.refuse(door, problem, inbox)
        elif not door.bound or door.problem is not None:
            await self._open(door, room_id, inbox)

    async def refuse(self, door: DeclaredRoom, problem: str, inbox: RetryingInbox) -> None:
        """Tell the core that an address does not work, if that is news."""
        if door.problem != problem:
            await inbox.closed(door.address, problem)
            door.problem = problem
            self._count()

    async def _open(self, door: DeclaredRoom, room_id: str, inbox: RetryingInbox) -> None:
        before = frozenset(ChannelRef(Platform.MATRIX, one) for one in door.predecessors)
        await inbox.opened(door.address, ChannelRef(Platform.MATRIX, room_id), predecessors=before)
        door.bound, door.problem = True, None
        self._count()

    def _count(self) -> None:
        self._tried = self._tried or all(door.settled for door in self._doors.values())

    def send_blocker(self, room_id: str) -> str | None:
        """What keeps us from sending into a room now, as a sentence with the remedy; None if nothing does."""
        door = self.door(room_id)
        if door is None:
            return f"{room_id} is not declared: put it back into the configuration."
        if not door.joined:
            return door.removed_reason or door.problem or f"{self._me} is not in {door.name} yet: it is being joined."
        state = self.state(room_id)
        if not state.whole:
            return f"{door.name} is not known yet: the homeserver is being asked for its state."
        if state.encrypted:
            return (
                f"{door.name} is encrypted, and the relay can neither read nor write there: "
                "pair it with a room without encryption."
            )
        if state.upgraded and door.not_followed is not None:
            return door.not_followed
        if state.upgraded:
            successor = f" to {state.successor}" if state.successor else ""
            return f"{door.name} has been upgraded{successor}: declare the new room, or let the alias name it."
        if not state.may_send(self._me):
            needed = state.level_to_send("m.room.message")
            return f"{self._me} may not write in {door.name}: give it the power level {needed} there."
        return None


def removal_reason(event: Json, me: str, name: str) -> str:
    """How we came to be outside, from our own membership event: a sentence with the remedy."""
    sender, content = str(event.get("sender", "")), event.get("content")
    told = content if isinstance(content, dict) else {}
    reason = f" ({told['reason']})" if isinstance(told.get("reason"), str) and told["reason"] else ""
    if told.get("membership") == "ban":
        return f"{me} has been banned from {name} by {sender}{reason}: lift the ban and invite it."
    if sender == me:
        return f"{me} has left {name}: invite it again."
    return f"{me} has been removed from {name} by {sender or 'somebody'}{reason}: invite it again."
