"""What an account on a homeserver can see and do: for `relay check`, and to choose rooms from."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.adapters.matrix.api.session import LoadSession, MatrixSession, SaveSession
from relay.adapters.matrix.rooms.state import RoomState
from relay.config.settings import MatrixSettings
from relay.core.findings import VisibleChannel
from relay.domain.jsontext import Json, as_dict, as_list, as_string
from relay.errors import Transient

_SYNC_TIMEOUT = 120.0
# What is asked for of each room.
_STATE = (
    "m.room.create",
    "m.room.name",
    "m.room.topic",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.tombstone",
    # Which bridge a room is connected by: https://github.com/matrix-org/matrix-spec-proposals/pull/2346
    "m.bridge",
    "uk.half-shot.bridge",
)


@dataclass(slots=True, kw_only=True)
class Room:
    """A room that the account is in, or is invited into."""

    state: RoomState
    # The latest state event of each type and key.
    events: Mapping[tuple[str, str], Json]
    invited: bool = False

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


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class MatrixSurvey:
    """Lists what an account can see.

    With a password, `load` and `save` keep the session that a login makes, as for the adapter.
    """

    settings: MatrixSettings
    load: LoadSession
    save: SaveSession
    _api: Api = field(init=False)
    _established: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._api = Api(self.settings.homeserver_url, self.settings.user_id)

    async def close(self) -> None:
        """See `Survey.close`."""
        await self._api.close()

    async def channels(self) -> Sequence[VisibleChannel]:
        """See `Survey.channels`: the rooms that the account is in, and those that it is invited into, by name."""
        rooms = [self._visible(room) for room in (await self.rooms()).values() if not room.state.upgraded]
        return sorted(rooms, key=lambda room: (room.name.casefold(), room.address))

    async def rooms(self, only: Collection[str] | None = None) -> Mapping[str, Room]:
        """The rooms that the account is in or invited into, by their IDs. Raises `Transient`."""
        try:
            await self._establish()
            body = _filter(only)
            answer = await self._api.call("POST", "user", self._api.user_id, "filter", body=body)
            query: dict[str, str | list[str]] = {
                "filter": str(answer.get("filter_id", "")),
                "timeout": "0",
                "set_presence": "offline",
            }
            response = await self._api.call("GET", "sync", query=query, timeout=_SYNC_TIMEOUT)
        except (Refused, Unreachable) as error:
            raise Transient(str(error)) from error
        found = as_dict(response.get("rooms"))
        joined = {
            room_id: _room(room_id, _events(room, "state") + _events(room, "timeline"))
            for room_id, room in as_dict(found.get("join")).items()
        }
        invited = {
            room_id: _room(room_id, _events(room, "invite_state"), invited=True)
            for room_id, room in as_dict(found.get("invite")).items()
        }
        return joined | invited

    async def _establish(self) -> None:
        if not self._established:
            await MatrixSession(api=self._api, settings=self.settings, load=self.load, save=self.save).establish()
            self._established = True

    def _visible(self, room: Room) -> VisibleChannel:
        listed = room.state.aliases | {room.state.room_id}
        return VisibleChannel(
            address=room.alias or room.state.room_id,
            name=room.name,
            kind="room, invited" if room.invited else "room",
            topic=as_string(room.content("m.room.topic").get("topic")),
            problem=self._blocked(room),
            also=listed - {room.alias},
        )

    def _blocked(self, room: Room) -> str | None:
        """Why a room cannot be mirrored as it is, with the remedy; None if it can. Of an invitation little is known."""
        me, state = self._api.user_id, room.state
        if state.encrypted:
            return f"{room.name} is encrypted, which cannot be undone: make another room without encryption"
        if not room.invited and not state.may_send(me):
            needed = state.level_to_send("m.room.message")
            return f"{me} may not write in {room.name}: give it the power level {needed} there"
        return None


def _events(room: object, part: str) -> list[Json]:
    return [event for event in as_list(as_dict(as_dict(room).get(part)).get("events")) if isinstance(event, dict)]


def _room(room_id: str, events: Sequence[Json], *, invited: bool = False) -> Room:
    state = RoomState(room_id)
    latest: dict[tuple[str, str], Json] = {}
    for event in events:
        if isinstance(event.get("state_key"), str):
            state.apply(event)
            latest[str(event.get("type")), event["state_key"]] = event
    state.complete = not invited
    return Room(state=state, events=latest, invited=invited)


def _filter(only: Collection[str] | None) -> Json:
    """One sync that brings the state of all rooms, and nothing that was said."""
    nothing = {"not_types": ["*"]}
    rooms = {} if only is None else {"rooms": sorted(only)}
    types = {"types": list(_STATE)}
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
