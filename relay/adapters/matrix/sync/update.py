"""What was asked for with a sync, and what its response says: of one room, and last of all."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from relay.adapters.matrix.cursors import LastTold
from relay.adapters.matrix.identifiers import is_event_id
from relay.adapters.matrix.inbound.events import timestamp
from relay.adapters.matrix.rooms.state import RoomState
from relay.core.ports import Cursor
from relay.domain.events import Event
from relay.domain.jsontext import Json, as_dict, as_list, as_string

# So far ahead of ours a homeserver's clock may be; and so late it may tell of what others wrote: what crossed is on
# record for longer.
_AHEAD, _LATE = timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What was asked for: everything in `rooms` after the token `since`."""

    since: str | None
    rooms: frozenset[str]
    # Asked for all the rooms, with their whole state.
    full: bool
    # How often the operator had changed the declared rooms at that time.
    declarations: int
    # The newest event that was told before.
    told: LastTold | None = None


@dataclass(slots=True)
class RoomUpdate:
    """What a response says of one room."""

    room_id: str
    state: RoomState
    timeline: list[Json]
    # State events, in effect behind the gap: with lazy loading, the members who wrote in the timeline.
    members: list[Json]
    # Where the timeline begins.
    prev_batch: str = ""
    # The token at which the gap before the timeline begins; None: no gap. "": the token was lost.
    since: str | None = None
    # Tells the event after which the gap begins, where that is not a token.
    starts: Callable[[Json], bool] = field(default=lambda event: False)
    # The token from which on we were told of the room, and which events are of late: among these is looked for what
    # others told the homeserver late. "": it is not.
    joined: str = ""
    is_recent: Callable[[Json], bool] = field(default=lambda event: False)
    # The last message on record, where the token was lost.
    last_on_record: str = ""
    # We came into the room only now: nothing counts that was before our own join.
    first_join: bool = False
    # Of a timeline that is not taken, as more is read: what is certainly new, should that not be readable.
    after_join: list[Json] = field(default_factory=list)
    # Typing, receipts, and what was found out about gaps: goes to the core after the messages.
    extras: list[Event] = field(default_factory=list)
    # Written once all of it is on disk.
    cursors: tuple[Cursor, ...] = ()


def is_recent(told: LastTold, now: Callable[[], datetime], event: Json) -> bool:
    """Whether an event was written not long before the newest that we were told. Any server can write any date."""
    return told.latest - _LATE < timestamp(event.get("origin_server_ts")) <= now() + _AHEAD


def sections_of(value: Any, wanted: frozenset[str]) -> dict[str, Json]:
    """What a response says of the rooms `wanted`, by their IDs."""
    return {room_id: as_dict(section) for room_id, section in as_dict(value).items() if room_id in wanted}


def events_of(section: Any) -> list[Json]:
    """The events of a timeline, or of a room's state."""
    return [event for event in as_list(as_dict(section).get("events")) if isinstance(event, dict)]


@dataclass(slots=True)
class Told:
    """The newest event of a response that can be asked for later: of a room that we are in."""

    # Until then.
    before: LastTold | None
    now: datetime
    _latest: datetime = field(init=False)
    _found: tuple[str, str] | None = field(init=False)
    _newest: datetime | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._found = None if self.before is None else (self.before.room_id, self.before.event_id)
        self._latest = timestamp(0) if self.before is None else self.before.latest

    def see(self, room_id: str, section: Json) -> None:
        """What the response says of a room."""
        written = timestamp(0)
        events = events_of(section.get("timeline"))
        for event in events:
            # Any server can write any date, and clocks differ.
            written = min(timestamp(event.get("origin_server_ts")), self.now + _AHEAD)
            self._latest = max(self._latest, written)
        event_id = as_string(events[-1].get("event_id")) if events else ""
        if is_event_id(event_id) and (self._newest is None or written > self._newest):
            self._found, self._newest = (room_id, event_id), written

    @property
    def last(self) -> LastTold | None:
        """Of all that was seen."""
        return None if self._found is None else LastTold(*self._found, self._latest)
