"""A room as `relay check` and `relay init` see it: what is asked for, and what of it is looked at. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from relay.adapters.matrix.rooms.state import RoomState
from relay.core.operations.findings import Finding
from relay.domain.jsontext import Json, as_dict, as_list, as_string

_BRIDGES = ("m.bridge", "uk.half-shot.bridge")
# What is asked for of each room.
_STATE = (
    "m.room.create",
    "m.room.name",
    "m.room.topic",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.power_levels",
    "m.room.server_acl",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.tombstone",
    # Which bridge a room is connected by: https://github.com/matrix-org/matrix-spec-proposals/pull/2346
    *_BRIDGES,
)


@dataclass(slots=True, kw_only=True)
class Room:
    """A room that the account is in, or is invited into."""

    state: RoomState
    # The latest state event of each type and key.
    events: Mapping[tuple[str, str], Json]
    invited: bool = False
    # How the account came to be out of it, as a sentence with the remedy.
    removed: str | None = None

    def content(self, kind: str, key: str = "") -> Json:
        """The content of a state event; empty without one."""
        return as_dict(as_dict(self.events.get((kind, key))).get("content"))

    @property
    def alias(self) -> str:
        """Its main alias; "" for none."""
        return as_string(self.content("m.room.canonical_alias").get("alias"))

    @property
    def name(self) -> str:
        """What people call it."""
        return self.state.name or self.alias or self.state.room_id


def room_of(room_id: str, events: Sequence[Json], server: str, *, invited: bool = False) -> Room:
    """A room by its state. `server`: that of the account."""
    state = RoomState(room_id, server=server)
    latest: dict[tuple[str, str], Json] = {}
    for event in events:
        if isinstance(event.get("state_key"), str):
            state.apply(event)
            latest[str(event.get("type")), event["state_key"]] = event
    state.complete = not invited
    return Room(state=state, events=latest, invited=invited)


def events_in(room: object, part: str) -> list[Json]:
    """The events in a part of what sync tells of a room."""
    return [event for event in as_list(as_dict(as_dict(room).get(part)).get("events")) if isinstance(event, dict)]


def other_bridges(name: str, room: Room) -> Iterator[Finding]:
    """The first other bridge that connects the room, if one says so there. `name`: what the finding is about."""
    for kind, key in room.events:
        if kind not in _BRIDGES:
            continue
        content = room.content(kind, key)
        protocol, channel = as_dict(content.get("protocol")), as_dict(content.get("channel"))
        what = as_string(protocol.get("displayname")) or as_string(protocol.get("id")) or "something"
        where = as_string(channel.get("displayname")) or as_string(channel.get("id"))
        if where or protocol:
            words = f"another bridge connects it to {what}{f' ({where})' if where else ''}"
            remedy = "turn it off if that is the same channel: each message would cross twice"
            yield Finding(name, "note", words, remedy)
            return


def state_filter(only: Collection[str] | None) -> Json:
    """One sync that brings the state of all rooms, and nothing that was said."""
    nothing = {"not_types": ["*"]}
    rooms = {} if only is None else {"rooms": sorted(only), "include_leave": True}
    # Of members only our own, and whoever caused the last event.
    types = {"types": [*_STATE, "m.room.member"], "lazy_load_members": True}
    return {
        "room": {
            **rooms,
            "timeline": {"limit": 1, **types},
            "state": types,
            "ephemeral": nothing,
            "account_data": nothing,
        },
        "presence": nothing,
        "account_data": nothing,
    }
