"""Which room has replaced which: a room upgrade, as the store remembers it.

https://spec.matrix.org/latest/client-server-api/#room-upgrades: an upgrade leaves a tombstone in the old room, which
names the new one, and the new one names the old one as its predecessor. Anybody can write one half of that, so only
both together count. A replacement is the same place as the room before it: it is read from the moment of the upgrade.
"""

from relay.adapters.matrix.identifiers import is_room_id
from relay.adapters.matrix.sync.retrying_inbox import RetryingInbox

TOMBSTONE = "m.room.tombstone"
# No room has been upgraded more often than this; a ring of tombstones ends here.
_LONGEST_CHAIN = 50


def room_stream(room_id: str) -> str:
    """The cursor of a room; see `intake.py`."""
    return f"room:{room_id}"


def tombstone_stream(room_id: str) -> str:
    """The cursor that holds the token before which a room had not been replaced yet."""
    return f"tombstone:{room_id}"


def successor_stream(room_id: str) -> str:
    """The cursor that holds which room has replaced a room."""
    return f"successor:{room_id}"


def predecessor_stream(room_id: str) -> str:
    """The cursor that holds which room a room has replaced."""
    return f"predecessor:{room_id}"


async def before(room_id: str, inbox: RetryingInbox) -> tuple[str, ...]:
    """The rooms that a room has replaced one after the other, as far as we have followed that; the oldest first."""
    rooms = [room_id]
    while len(rooms) < _LONGEST_CHAIN:
        earlier = await inbox.position(predecessor_stream(rooms[0]))
        if not earlier or earlier in rooms:
            break
        rooms.insert(0, earlier)
    return tuple(rooms[:-1])


async def chain(room_id: str, inbox: RetryingInbox) -> tuple[str, ...]:
    """A room and those that have replaced it one after the other, as far as we have followed them; the last counts."""
    rooms = [room_id]
    while len(rooms) < _LONGEST_CHAIN:
        following = await inbox.position(successor_stream(rooms[-1]))
        if not following or following in rooms or not is_room_id(following):
            break
        rooms.append(following)
    return tuple(rooms)
