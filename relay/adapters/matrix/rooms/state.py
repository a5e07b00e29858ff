"""What the relay knows of a room: who may do what in it, and what its members are called. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal

from relay.adapters.matrix.identifiers import is_alias, is_room_id, parse_mxc
from relay.adapters.matrix.rooms.access_list import is_denied
from relay.core.ports import ChannelInfo
from relay.core.recent import Recent
from relay.domain.ids import MediaRef, Platform
from relay.domain.jsontext import Json, as_dict, as_list, as_string

TOMBSTONE = "m.room.tombstone"
# From room version 12 on creators are above every power level, and the event of power levels does not list them
# (https://spec.matrix.org/latest/rooms/v12/). Before, in rooms without that event the creator has 100 and others 0.
_CREATOR_LEVEL = 2**53
_FIRST_VERSION_WITH_PRIVILEGED_CREATORS = 12
# https://spec.matrix.org/latest/rooms/v11/#moving-the-redacts-property-of-mroomredaction-events-to-a-content-property
_FIRST_VERSION_WITH_REDACTS_IN_CONTENT = 11
MEMBERS = 8 * 1024 * 1024
"""Bytes of what the members of all rooms are called. They are asked for where they are not remembered."""

SPACE = "m.space"
LONGEST_NAME, LONGEST_TOPIC = 500, 1_000
"""Characters of a name and of a topic that are kept. An event may hold 60,000, and they are kept in many places."""

_NONE: frozenset[str] = frozenset()
"""Each new one takes 216 bytes."""


@dataclass(frozen=True, slots=True)
class MemberProfile:
    """How a member appears in a room."""

    name: str
    avatar: MediaRef | None = None


Sent = Literal["m.room.message", "m.reaction"]
"""What we send, or may want to."""


@dataclass(frozen=True, slots=True)
class PowerLevels:
    """What an `m.room.power_levels` event says, as far as it matters here: whole, it takes three KiB in each room."""

    # Those who have another level than the others, and the others.
    users: Mapping[str, int]
    others: int
    to_write: int
    to_react: int
    to_upgrade: int
    to_redact: int
    to_broadcast: int

    @classmethod
    def of(cls, content: Json, *, state_default: int = 50) -> "PowerLevels":
        """The levels of a room with that event."""
        others, default = _level(content.get("users_default"), 0), _level(content.get("events_default"), 0)
        events, users = as_dict(content.get("events")), as_dict(content.get("users"))
        levels = {user: level for user, told in users.items() if (level := _level(told, others)) != others}
        return cls(
            users=levels,
            others=others,
            to_write=_level(events.get("m.room.message"), default),
            to_react=_level(events.get("m.reaction"), default),
            to_upgrade=_level(events.get(TOMBSTONE), _level(content.get("state_default"), state_default)),
            to_redact=_level(content.get("redact"), 50),
            to_broadcast=_level(as_dict(content.get("notifications")).get("room"), 50),
        )


# By a mark of one room's state, and a user.
Members = Recent[tuple[object, str], MemberProfile]


@dataclass(slots=True, eq=False, repr=False)
class RoomState:
    """The state of one room, as far as it matters here. Of its members only those who speak are remembered."""

    room_id: str
    # Of all rooms together.
    members: Members = field(default_factory=lambda: Members(MEMBERS))
    # Whose accounts are ours.
    server: str = field(default="", kw_only=True)
    # Whether all of the state has been received: what is not known then does not exist.
    complete: bool = field(init=False, default=False)
    encrypted: bool = field(init=False, default=False)
    # Whether other servers refuse what is sent from ours, as far as the lists tell that have been seen.
    denies_us: bool = field(init=False, default=False)
    # The list allows us, and our own people wrote it over another one: who goes by one that does not never got it.
    allowed_here: bool = field(init=False, default=False)
    # Nobody has asked yet by which list others go.
    list_in_doubt: bool = field(init=False, default=False)
    _list_seen: bool = field(init=False, default=False)
    # Whether anybody may join without an invitation, as far as `join_rules` say.
    public: bool = field(init=False, default=False)
    # "" for none.
    name: str = field(init=False, default="")
    topic: str = field(init=False, default="")
    # The one that the room itself shows, "" for none; and all that it lists.
    alias: str = field(init=False, default="")
    aliases: frozenset[str] = field(init=False, default=_NONE)
    # Whether it is a space: a list of rooms, in which clients show no messages.
    is_space: bool = field(init=False, default=False)
    # Whether the room has been replaced by another one, by which, and who did it.
    upgraded: bool = field(init=False, default=False)
    successor: str | None = field(init=False, default=None)
    upgrader: str = field(init=False, default="")
    # Whether the event that made the room is known, which says who is above all power levels.
    creator_known: bool = field(init=False, default=False)
    # The room's version, "" until that is known.
    version: str = field(init=False, default="")
    # The room that this one says it replaces, "" for none.
    predecessor: str = field(init=False, default="")
    # Digests: they are kept beyond the end of the process, where no names are to be.
    _creators: tuple[str, ...] = field(init=False, default=())
    _creators_are_privileged: bool = field(init=False, default=False)
    _power: PowerLevels | None = field(init=False, default=None)
    # What people know the room by, until it changes: it is asked for each second.
    described: ChannelInfo | None = field(init=False, default=None)
    # Not of the room: what an earlier state said of its members no longer holds.
    _mark: object = field(init=False, default_factory=object)

    def apply(self, event: Json) -> None:
        """Take in a state event; any other is ignored."""
        content = event.get("content")
        key = event.get("state_key")
        if not isinstance(content, dict) or not isinstance(key, str):
            return
        if event.get("type") == "m.room.member":
            self._apply_member(key, content)
        elif key == "":
            self.described = None
            self._apply(str(event.get("type")), str(event.get("sender")), content, as_dict(event.get("unsigned")))

    def profile(self, user_id: str) -> MemberProfile:
        """The avatar of a member, and the display name; without one, the user ID."""
        return self.members.get((self._mark, user_id)) or MemberProfile(user_id)

    def name_of(self, user_id: str) -> str | None:
        """The display name of a member; None if there is none, or the member is not remembered."""
        name = self.profile(user_id).name
        return None if name == user_id else name

    @property
    def public_name(self) -> str:
        """The name as other rooms may show it: "" where only invited people may know it."""
        return self.name if self.public else ""

    def knows_member(self, user_id: str) -> bool:
        """Whether the profile of a member is remembered."""
        return (self._mark, user_id) in self.members

    def level(self, user_id: str) -> int:
        """The power level of a user."""
        if self._creators_are_privileged and self._digest(user_id) in self._creators:
            return _CREATOR_LEVEL
        if self._power is None:
            return 100 if self._digest(user_id) in self._creators else 0
        return self._power.users.get(user_id, self._power.others)

    @property
    def _levels(self) -> PowerLevels:
        return _NO_POWER_LEVELS if self._power is None else self._power

    def level_to_send(self, kind: Sent) -> int:
        """The power level that is needed to send an event of type `kind`."""
        return self._levels.to_react if kind == "m.reaction" else self._levels.to_write

    def may_upgrade(self, user_id: str) -> bool:
        """Whether a user may replace the room by another one."""
        return self.level(user_id) >= self._levels.to_upgrade

    def may_send(self, user_id: str, kind: Sent = "m.room.message") -> bool:
        """Whether a user may send events of type `kind`."""
        return self.level(user_id) >= self.level_to_send(kind)

    @property
    def redactions_name_inside(self) -> bool:
        """Whether what a redaction removes stands in its content, and not beside it: from room version 11 on."""
        if not self.version.isdecimal():
            return self.version != ""
        return int(self.version) >= _FIRST_VERSION_WITH_REDACTS_IN_CONTENT

    @property
    def level_to_redact(self) -> int:
        """The power level that is needed to redact what others wrote."""
        return self._levels.to_redact

    @property
    def level_to_broadcast(self) -> int:
        """The power level that is needed to notify the whole room (`@room`)."""
        return self._levels.to_broadcast

    def may_redact(self, user_id: str) -> bool:
        """Whether a user may redact what others wrote."""
        return self.level(user_id) >= self.level_to_redact

    def may_broadcast(self, user_id: str) -> bool:
        """Whether a user may notify the whole room (`@room`)."""
        return self.level(user_id) >= self.level_to_broadcast

    def _apply(self, kind: str, sender: str, content: Json, unsigned: Json) -> None:
        match kind:
            case "m.room.create":
                self._apply_create(sender, content)
            case "m.room.power_levels":
                self._power = PowerLevels.of(content)
            case "m.room.encryption":
                # Whatever the event says: encryption cannot be switched off again.
                self.encrypted = True
            case "m.room.server_acl":
                self._apply_access_list(sender, content, unsigned.get("prev_content"))
            case "m.room.join_rules":
                self.public = content.get("join_rule") == "public"
            case "m.room.name":
                self.name = " ".join(as_string(content.get("name")).split())[:LONGEST_NAME]
            case "m.room.topic":
                self.topic = " ".join(as_string(content.get("topic")).split())[:LONGEST_TOPIC]
            case "m.room.canonical_alias":
                self.alias = alias if isinstance(alias := content.get("alias"), str) and is_alias(alias) else ""
                listed = [content.get("alias"), *as_list(content.get("alt_aliases"))]
                aliases = {alias for alias in listed if isinstance(alias, str) and is_alias(alias)}
                self.aliases = frozenset(aliases) if aliases else _NONE
            case "m.room.tombstone":
                self.upgraded = True
                successor = content.get("replacement_room")
                self.successor = successor if isinstance(successor, str) and is_room_id(successor) else None
                self.upgrader = sender
            case _:
                pass

    def _apply_access_list(self, sender: str, content: Json, before: object) -> None:
        if not self.server:
            return
        denies, own = is_denied(content, self.server), sender.partition(":")[2] == self.server
        # Others take nothing from a server that they deny: not the event either that would allow it.
        denied = self.denies_us or (isinstance(before, dict) and is_denied(before, self.server))
        self.denies_us = denies or (denied and own)
        # The first one that is seen may stand over others of our own people.
        replaced = self.allowed_here or denied or (isinstance(before, dict) and not self._list_seen)
        was_seen, self._list_seen = self._list_seen, True
        self.allowed_here = own and not denies and replaced
        self.list_in_doubt = self.allowed_here and (self.list_in_doubt or denied or not was_seen)

    def settle_list(self, *, denies: bool) -> None:
        """Others have been asked for: whether they go by a list that denies us."""
        self.denies_us, self.list_in_doubt = denies, False

    def creation(self) -> Json:
        """How the room was made, as far as it matters here, without anybody's name."""
        return {
            "version": self.version,
            "space": self.is_space,
            "predecessor": self.predecessor,
            "creators": list(self._creators),
        }

    def apply_creation(self, kept: Json) -> None:
        """Take in what `creation` returned for the same room; anything else is ignored."""
        version, creators = kept.get("version"), kept.get("creators")
        if not isinstance(version, str) or not isinstance(creators, list):
            return
        self.is_space, self.predecessor = kept.get("space") is True, as_string(kept.get("predecessor"))
        self._set_version(version)
        self._creators = tuple(one for one in creators if isinstance(one, str))

    def _set_version(self, version: str) -> None:
        self.creator_known, self.version = True, version
        self._creators_are_privileged = (
            version.isdecimal() and int(version) >= _FIRST_VERSION_WITH_PRIVILEGED_CREATORS
        ) or version.startswith("org.matrix.hydra")

    def _digest(self, user_id: str) -> str:
        return blake2b(f"{self.room_id} {user_id}".encode("utf-8", "replace"), digest_size=16).hexdigest()

    def _apply_create(self, sender: str, content: Json) -> None:
        self.is_space = content.get("type") == SPACE
        self.predecessor = as_string(as_dict(content.get("predecessor")).get("room_id"))
        self._set_version(str(content.get("room_version", "1")))
        creators = {sender}
        if self._creators_are_privileged:
            creators |= {user for user in as_list(content.get("additional_creators")) if isinstance(user, str)}
        elif isinstance(content.get("creator"), str):
            creators = {content["creator"]}
        self._creators = tuple(map(self._digest, creators))

    def _apply_member(self, user_id: str, content: Json) -> None:
        profile = joined_profile(user_id, content)
        if profile is None:
            # Keep the profile of a member who left: their last messages may still be read.
            return
        self.members[self._mark, user_id] = profile


def joined_profile(user_id: str, content: Json) -> MemberProfile | None:
    """What an `m.room.member` event says of somebody who is in the room, or invited; None if it is about another."""
    if content.get("membership") not in ("join", "invite"):  # no set: JSON may hold a list
        return None
    name, url = content.get("displayname"), content.get("avatar_url")
    return MemberProfile(
        name[:LONGEST_NAME] if isinstance(name, str) and name[:LONGEST_NAME].strip() else user_id,
        MediaRef(Platform.MATRIX, url) if isinstance(url, str) and parse_mxc(url) is not None else None,
    )


def _level(value: Any, default: int) -> int:
    """A power level. In rooms up to version 9 it may be a string (https://spec.matrix.org/latest/rooms/v10/)."""
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


_NO_POWER_LEVELS = PowerLevels.of({}, state_default=0)
"""Where there is no such event."""
