"""The cursors of the Matrix side: what each is called, and what the store remembers in it.

A cursor is a stream's name and a position (`core.ports.Cursor`). Both are only of this adapter's making.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from relay.adapters.matrix.identifiers import is_event_id, is_room_id
from relay.adapters.matrix.retrying_inbox import RetryingInbox
from relay.core.ports import Cursor
from relay.domain.ids import Platform
from relay.domain.jsontext import Json, as_dict, loads

SYNC = "sync"
"""Holds how far sync has been read: a `SyncPosition`."""

RESTORED = "restored"
"""Holds when it was noticed last that the homeserver had been restored from a backup."""

GHOST_PREFIXES = "ghosts"
"""Holds the prefixes that ghosts have had, with spaces between them. No position, but to be kept in the same way."""

LOGIN = "login"
"""Holds a digest of the access token in use, and since when it is. No position, but to be kept in the same way."""

UPLOAD_LIMIT = "upload limit"
"""Holds how large files may be, as the homeserver said last. No position, but to be kept in the same way."""

_LONGEST_CREATION = 2000
"""Characters. Anybody may name a thousand creators of a room."""

OUTSIDE = "out "
"""Stands before the token in a room's cursor while we are out of that room. Alone: the token was lost."""

# Synapse, Dendrite and others begin a token with the number of the last event, after a letter or with none.
_NUMBERED = re.compile(r"([a-z]?)(\d{1,18})(?=[_~]|\Z)", re.ASCII)

# A token, a room, an event in it, and milliseconds.
_TOLD = re.compile(r"(.+) (\S+) (\S+) (\d{1,14})", re.ASCII)
_EPOCH = datetime.fromtimestamp(0, UTC)

# No room has been upgraded more often than this. Tombstones that lead round in a ring end here, too.
_LONGEST_CHAIN = 50


def cursor(stream: str, position: str) -> Cursor:
    """A cursor of this platform."""
    return Cursor(Platform.MATRIX, stream, position)


@dataclass(frozen=True, slots=True)
class LastTold:
    """The newest event that the homeserver has told us of, in a room that we were in then."""

    room_id: str
    event_id: str
    # No event that was told until then was written later.
    latest: datetime


@dataclass(frozen=True, slots=True)
class SyncPosition:
    """How far sync has been read. As one value, so that neither is ever on disk without the other."""

    # The `next_batch` of the last response that is on disk.
    token: str
    # None: there has been none since the position was lost.
    told: LastTold | None = None

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """What `str` made; None of nothing."""
        if not text:
            return None
        found = _TOLD.fullmatch(text)
        if found is None or not (is_room_id(found[2]) and is_event_id(found[3])):
            return cls(text)
        return cls(found[1], LastTold(found[2], found[3], _EPOCH + timedelta(milliseconds=int(found[4]))))

    def __str__(self) -> str:
        """As it is written to the store."""
        if self.told is None:
            return self.token
        milliseconds = (self.told.latest - _EPOCH) // timedelta(milliseconds=1)
        return f"{self.token} {self.told.room_id} {self.told.event_id} {milliseconds}"


def moment(text: str | None) -> datetime | None:
    """What `isoformat` wrote; None of nothing, and of a damaged row."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return None if found.tzinfo is None else found


def went_back(before: str, now: str) -> bool:
    """Whether a token counts fewer events than one that the same homeserver gave before. Its own events are numbered.

    What a token says is the homeserver's own affair: False where both do not begin with such a number, of one kind.
    """
    one, other = _NUMBERED.match(before), _NUMBERED.match(now)
    if one is None or other is None or one[1] != other[1]:
        return False
    return int(other[2]) < int(one[2])


def room_stream(room_id: str) -> str:
    """Holds the token from which a room has been read; none before we first came in.

    With `OUTSIDE` before it: we are out of the room, and read on from there once we are let in again.
    """
    return f"room:{room_id}"


def creation_stream(room_id: str) -> str:
    """Holds how a room was made (`RoomState.creation`), which never changes. No position, but kept in the same way."""
    return f"created:{room_id}"


def creation_cursor(room_id: str, creation: Json) -> Cursor | None:
    """Remembers how a room was made; None if that is too long."""
    text = json.dumps(creation, separators=(",", ":"))
    return cursor(creation_stream(room_id), text) if len(text) <= _LONGEST_CREATION else None


def creation(text: str | None) -> Json:
    """What `creation_cursor` wrote; nothing of nothing, and of a damaged row."""
    try:
        return as_dict(loads(text or "null"))
    except ValueError:
        return {}


def is_inside(position: str) -> bool:
    """Whether the position of a room's cursor says that we are in the room."""
    return position != "" and not position.startswith(OUTSIDE)


def gap_stream(room_id: str) -> str:
    """Holds the token at which the last gap of a room began whose skipped messages were reported."""
    return f"gap:{room_id}"


def alias_stream(alias: str) -> str:
    """Holds the ID of the room that an alias named last."""
    return f"alias:{alias}"


# A room upgrade leaves a tombstone in the old room, which names the new one, and the new one names the old one as its
# predecessor (https://spec.matrix.org/latest/client-server-api/#room-upgrades). Anybody can write one half of that, so
# only both together count. For users the new room is the same place, so it is read from the moment of the upgrade on.


def tombstone_stream(room_id: str) -> str:
    """Holds the last token before a room was upgraded."""
    return f"tombstone:{room_id}"


def successor_stream(room_id: str) -> str:
    """Holds the ID of the room that has replaced a room."""
    return f"successor:{room_id}"


def predecessor_stream(room_id: str) -> str:
    """Holds the ID of the room that a room has replaced."""
    return f"predecessor:{room_id}"


async def predecessors_of(room_id: str, inbox: RetryingInbox) -> tuple[str, ...]:
    """The rooms that were upgraded one after the other, the last one to `room_id`; the oldest first."""
    rooms = [room_id]
    while len(rooms) < _LONGEST_CHAIN:
        earlier = await inbox.position(predecessor_stream(rooms[0]))
        if not earlier or earlier in rooms:
            break
        rooms.insert(0, earlier)
    return tuple(rooms[:-1])


async def upgrade_chain(room_id: str, inbox: RetryingInbox) -> tuple[str, ...]:
    """A room and those that have replaced it one after the other; the last one is in use now."""
    rooms = [room_id]
    while len(rooms) < _LONGEST_CHAIN:
        following = await inbox.position(successor_stream(rooms[-1]))
        if not following or following in rooms or not is_room_id(following):
            break
        rooms.append(following)
    return tuple(rooms)
