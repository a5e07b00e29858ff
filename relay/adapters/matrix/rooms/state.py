"""What the relay knows of a room: who may do what in it, and what its people are called."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from relay.adapters.matrix.identifiers import is_alias, is_room_id, parse_mxc
from relay.domain.ids import MediaRef, Platform

Json = dict[str, Any]

# From room version 12 on creators stand above every level and are not in the list
# (https://spec.matrix.org/latest/rooms/v12/). Older rooms without the event: the creator has 100, others 0.
_CREATOR = 2**53
_FIRST_VERSION_WITH_PRIVILEGED_CREATORS = 12
_MEMBERS_REMEMBERED = 2_000
LONGEST_NAME = 500
"""Characters of a display name that are looked at. An event may hold 60,000, and many places remember names."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How somebody appears in a room."""

    name: str
    avatar: MediaRef | None = None


class RoomState:
    """The state of one room, as far as it matters here. Members are remembered while they speak, not all of them.

    `name` "" = none; `aliases` are those that the room itself lists.
    `whole`: all of the state has been told, and what is not known is not so.
    `public`: whoever wants may join, as the specification has it for `join_rules` alone.
    `created`: it is known who made the room, and as which version. `upgraded`: it has been replaced, by `successor`, as
    `upgrader` says.
    """

    def __init__(self, room_id: str) -> None:
        self.room_id = room_id
        self.whole = False
        self.created = False
        self.encrypted = False
        self.upgraded = False
        self.successor: str | None = None
        self.upgrader = ""
        self.public = False
        self.name = ""
        self.aliases: frozenset[str] = frozenset()
        self._creators: frozenset[str] = frozenset()
        self._creators_are_privileged = False
        self._power: Json | None = None
        self._members: OrderedDict[str, Profile] = OrderedDict()

    def apply(self, event: Json) -> None:
        """Take in a state event; any other is ignored."""
        content = event.get("content")
        key = event.get("state_key")
        if not isinstance(content, dict) or not isinstance(key, str):
            return
        if event.get("type") == "m.room.member":
            self._apply_member(key, content)
        elif key == "":
            self._apply(str(event.get("type")), str(event.get("sender")), content)

    def profile(self, user_id: str) -> Profile:
        """The display name (the user ID where there is none) and avatar of a member."""
        return self._members.get(user_id) or Profile(user_id)

    def name_of(self, user_id: str) -> str | None:
        """The display name of a member; None where there is none, or none is remembered."""
        name = self.profile(user_id).name
        return None if name == user_id else name

    @property
    def name_elsewhere(self) -> str:
        """What other rooms may be told that this one is called: "" where one has to be invited to know it."""
        return self.name if self.public else ""

    def knows(self, user_id: str) -> bool:
        """Whether the profile of a member is remembered."""
        return user_id in self._members

    def level(self, user_id: str) -> int:
        """The power level of a user."""
        if self._creators_are_privileged and user_id in self._creators:
            return _CREATOR
        if self._power is None:
            return 100 if user_id in self._creators else 0
        users = self._power.get("users")
        default = _level(self._power.get("users_default"), 0)
        return _level(users.get(user_id), default) if isinstance(users, dict) else default

    def level_to_send(self, kind: str) -> int:
        """The power level that sending an event of type `kind` (not a state event) takes."""
        if self._power is None:
            return 0
        events = self._power.get("events")
        default = _level(self._power.get("events_default"), 0)
        return _level(events.get(kind), default) if isinstance(events, dict) else default

    def may_upgrade(self, user_id: str) -> bool:
        """Whether a user may replace the room by another one."""
        power = self._power or {}
        events = power.get("events")
        default = _level(power.get("state_default"), 50 if self._power is not None else 0)
        needed = _level(events.get("m.room.tombstone"), default) if isinstance(events, dict) else default
        return self.level(user_id) >= needed

    def may_send(self, user_id: str, kind: str = "m.room.message") -> bool:
        """Whether a user may send events of type `kind`."""
        return self.level(user_id) >= self.level_to_send(kind)

    def may_broadcast(self, user_id: str) -> bool:
        """Whether a user may notify the whole room (`@room`)."""
        notifications = (self._power or {}).get("notifications")
        needed = _level(notifications.get("room"), 50) if isinstance(notifications, dict) else 50
        return self.level(user_id) >= needed

    def _apply(self, kind: str, sender: str, content: Json) -> None:
        match kind:
            case "m.room.create":
                self._apply_create(sender, content)
            case "m.room.power_levels":
                self._power = content
            case "m.room.encryption":
                # An event without an algorithm does not take encryption back: nothing does.
                self.encrypted = True
            case "m.room.join_rules":
                self.public = content.get("join_rule") == "public"
            case "m.room.name":
                self.name = _words(content.get("name"))[:LONGEST_NAME]
            case "m.room.canonical_alias":
                others = content.get("alt_aliases")
                listed = [content.get("alias"), *(others if isinstance(others, list) else ())]
                self.aliases = frozenset(alias for alias in listed if isinstance(alias, str) and is_alias(alias))
            case "m.room.tombstone":
                self.upgraded = True
                successor = content.get("replacement_room")
                self.successor = successor if isinstance(successor, str) and is_room_id(successor) else None
                self.upgrader = sender
            case _:
                pass

    def _apply_create(self, sender: str, content: Json) -> None:
        self.created = True
        version = str(content.get("room_version", "1"))
        self._creators_are_privileged = (
            version.isdecimal() and int(version) >= _FIRST_VERSION_WITH_PRIVILEGED_CREATORS
        ) or version.startswith("org.matrix.hydra")
        creators = {sender}
        if self._creators_are_privileged:
            more = content.get("additional_creators")
            creators |= {user for user in more if isinstance(user, str)} if isinstance(more, list) else set()
        elif isinstance(content.get("creator"), str):
            creators = {content["creator"]}
        self._creators = frozenset(creators)

    def _apply_member(self, user_id: str, content: Json) -> None:
        if content.get("membership") not in {"join", "invite"}:
            # The last words of somebody who left still carry their name.
            return
        name = content.get("displayname")
        url = content.get("avatar_url")
        self._members[user_id] = Profile(
            name[:LONGEST_NAME] if isinstance(name, str) and name[:LONGEST_NAME].strip() else user_id,
            MediaRef(Platform.MATRIX, url) if isinstance(url, str) and parse_mxc(url) is not None else None,
        )
        self._members.move_to_end(user_id)
        while len(self._members) > _MEMBERS_REMEMBERED:
            self._members.popitem(last=False)


def _words(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _level(value: Any, default: int) -> int:
    """A power level. Rooms up to version 9 may hold levels as strings (https://spec.matrix.org/latest/rooms/v10/)."""
    if isinstance(value, bool):
        return default
    if isinstance(value, int):
        return value
    if isinstance(value, float | str):
        try:
            return int(value)
        except (ValueError, OverflowError):
            return default
    return default
