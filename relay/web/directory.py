"""The directory of rooms: what the community's page lists, from the configuration and from the rooms themselves.

Whoever reads the page may not be in any of the rooms. So a name or a topic is taken from a room only where anybody may
enter, and a pair that the configuration says nothing about is listed only there. What the operator wrote is shown as
it is. `directory_pages` makes Markdown and HTML of it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from relay.config.settings import PairSettings, RoomSettings, Settings
from relay.core.ports import ChannelInfo
from relay.domain.ids import ChannelAddress, Platform
from relay.domain.jsontext import Json
from relay.domain.names import shortened, visible

# What people know the channels by.
Known = Mapping[ChannelAddress, ChannelInfo]

_MATRIX_TO = "https://matrix.to/#/"
_LONGEST_NAME = 80
_LONGEST_TOPIC = 300
_MOST_ALIASES = 5
# What only the page itself may say of a room, not a name or a topic.
_FORGED = re.compile(r"\[NSFW\]|\((?:bridged|archived)\)", re.IGNORECASE)
# Stands above rooms for which the operator names no section.
_NO_SECTION = "Rooms"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a room or a space is."""

    # An alias, or an ID.
    text: str
    # Servers that know it, for an ID.
    via: tuple[str, ...] = ()

    @property
    def is_readable(self) -> bool:
        """Nobody reads or remembers an ID: where something else names the room, that leads to it."""
        return not self.text.startswith("!")

    @property
    def link(self) -> str:
        """A link that opens it in any client (https://spec.matrix.org/latest/appendices/#matrixto-navigation).

        The `#` of an alias stays, as in the links that people know.
        """
        servers = "&".join(f"via={quote(server, safe=':')}" for server in self.via)
        return f"{_MATRIX_TO}{quote(self.text, safe='#!:')}{'?' if servers else ''}{servers}"

    def as_json(self) -> Json:
        """For `relay directory --json`."""
        return {"address": self.text, "link": self.link}


@dataclass(frozen=True, slots=True)
class Room:
    """One room of the page."""

    address: Address
    # "" if nobody may know it, or nobody named it.
    name: str = ""
    # As the operator wrote it, or the topic of the room.
    purpose: str = ""
    # Members wrote the purpose: it is shown as plain text.
    is_topic: bool = False
    alternatives: tuple[Address, ...] = ()
    bridged: bool = False
    # Which way messages cross, if it is bridged: as in the configuration.
    direction: str = "both"
    nsfw: bool = False
    archived: bool = False
    # The name of its channel on Discord, and what opens it; "" if that is not known.
    channel: str = ""
    channel_link: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """As they stand behind the address."""
        marks = (("[NSFW]", self.nsfw), ("(bridged)", self.bridged), ("(archived)", self.archived))
        return tuple(mark for mark, stands in marks if stands)

    def as_json(self) -> Json:
        """For `relay directory --json`."""
        channel = {"name": self.channel, "link": self.channel_link} if self.channel_link else None
        return {
            "name": self.name or None,
            **self.address.as_json(),
            "alternative_addresses": [other.as_json() for other in self.alternatives],
            "nsfw": self.nsfw,
            "bridged": self.bridged,
            "direction": self.direction if self.bridged else None,
            "archived": self.archived,
            "purpose": self.purpose,
            "discord_channel": channel,
        }


@dataclass(frozen=True, slots=True)
class RoomGroup:
    """Rooms under one heading."""

    name: str
    rooms: tuple[Room, ...]


@dataclass(frozen=True, slots=True)
class Directory:
    """All of the page."""

    title: str
    description: str = ""
    discord_invite: str = ""
    space: Address | None = None
    space_alternatives: tuple[Address, ...] = ()
    sections: tuple[RoomGroup, ...] = ()
    # No pair lets the words of threads cross.
    threads_stay: bool = True
    # The pairs that are not listed, because only invited people may enter.
    left_out: tuple[str, ...] = field(default=(), compare=False)

    @property
    def rooms(self) -> tuple[Room, ...]:
        """All of them, in order."""
        return tuple(room for section in self.sections for room in section.rooms)

    def as_json(self) -> Json:
        """For `relay directory --json`."""
        alternatives = [other.as_json() for other in self.space_alternatives]
        space = None if self.space is None else {**self.space.as_json(), "alternative_addresses": alternatives}
        return {
            "title": self.title,
            "description": self.description,
            "discord_invite": self.discord_invite or None,
            "matrix_space": space,
            "sections": [
                {"name": section.name, "rooms": [room.as_json() for room in section.rooms]} for section in self.sections
            ],
        }


def directory_of(settings: Settings, known: Known, *, known_only: bool = False, private: bool = False) -> Directory:
    """The directory, as far as the channels are `known`.

    `known_only`: also leave out pairs that the configuration says nothing about and of which nobody knows yet who may
    enter. `private`: show everything, also the names and topics of rooms that only invited people may enter.
    """
    own = settings.directory
    sections: dict[str, list[Room]] = {}
    left_out = []
    for listed in settings.listed_rooms():
        sides = [known.get(address) for address in _sides(listed)]
        # Not by its section alone: `relay init` writes that of any channel.
        is_described = isinstance(listed, RoomSettings) or bool(listed.purpose) or listed.archived
        is_closed = any(side is not None and not side.public for side in sides)
        is_unknown = known_only and any(side is None for side in sides)
        if not (private or is_described) and (is_closed or is_unknown):
            left_out.append(listed.label if isinstance(listed, PairSettings) else listed.matrix_room)
            continue
        shown = [side if side is not None and (side.public or private) else None for side in sides]
        is_nsfw = listed.nsfw or any(side is not None and side.nsfw for side in sides)
        room = _room(listed, *shown, server=settings.matrix.user_id.partition(":")[2], nsfw=is_nsfw)
        sections.setdefault(visible(listed.section) or _NO_SECTION, []).append(room)
    return Directory(
        title=visible(own.title),
        description=visible(own.description),
        discord_invite=own.discord_invite,
        space=_address(own.matrix_space) if own.matrix_space else None,
        space_alternatives=tuple(map(_address, own.matrix_space_alternatives)),
        sections=tuple(RoomGroup(name, tuple(rooms)) for name, rooms in sections.items()),
        threads_stay=all(pair.thread_messages == "drop" for pair in settings.pairs if not pair.archived),
        left_out=tuple(left_out),
    )


def unmirrored(settings: Settings) -> frozenset[ChannelAddress]:
    """The channels of the directory of which the mirroring tells nothing."""
    listed = (one for one in settings.listed_rooms() if isinstance(one, RoomSettings) or one.archived)
    return frozenset(address for one in listed for address in _sides(one))


def _sides(listed: PairSettings | RoomSettings) -> Sequence[ChannelAddress]:
    """The room, and the channel that it is paired with."""
    room = ChannelAddress(Platform.MATRIX, listed.matrix_room)
    if isinstance(listed, RoomSettings):
        return (room,)
    return (room, ChannelAddress(Platform.DISCORD, listed.discord_channel))


def _room(
    listed: PairSettings | RoomSettings,
    room: ChannelInfo | None,
    channel: ChannelInfo | None = None,
    *,
    server: str,
    nsfw: bool,
) -> Room:
    """`server`: the relay's own, which knows the rooms that it is in."""
    in_room = isinstance(listed, PairSettings) and not listed.archived
    known = () if room is None else room.aliases
    # An alias cannot be cleaned: it would lead elsewhere.
    aliases = [alias for alias in known if alias != listed.matrix_room and alias == visible(alias)]
    text = listed.matrix_room if room is None else _led_to(listed.matrix_room, room.link)
    if text.startswith("!") and aliases:
        # People remember an alias, and it follows the room when it is upgraded.
        text = aliases.pop(0)
    topics = [_cut(side.topic, _LONGEST_TOPIC) for side in (room, channel) if side is not None]
    topic = next(filter(None, topics), "")
    return Room(
        address=_address(text, server if in_room else ""),
        name=visible(listed.name or "") or _name_of(room, listed.matrix_room),
        purpose=visible(listed.purpose) or topic,
        is_topic=not visible(listed.purpose) and bool(topic),
        alternatives=tuple(_address(alias) for alias in aliases[:_MOST_ALIASES]),
        bridged=isinstance(listed, PairSettings),
        direction=listed.direction if isinstance(listed, PairSettings) else "both",
        nsfw=nsfw,
        archived=listed.archived,
        channel="" if channel is None else _cut(channel.name, _LONGEST_NAME),
        channel_link="" if channel is None else channel.link,
    )


def _led_to(address: str, link: str) -> str:
    """The ID of the room that replaced the one that is declared by its ID, if one did: nobody should enter that."""
    if not address.startswith("!"):
        return address
    found = unquote(link.removeprefix(_MATRIX_TO).partition("?")[0])
    return found if found.startswith("!") else address


def _name_of(room: ChannelInfo | None, address: str) -> str:
    """A room without a name is known by an alias, which stands beside it."""
    if room is None or room.name in (address, *room.aliases):
        return ""
    return _cut(room.name, _LONGEST_NAME)


def _address(text: str, server: str = "") -> Address:
    """`server`: one that knows the room, besides the one in its ID."""
    if not text.startswith("!"):
        return Address(text)
    # From room version 12 on an ID names no server.
    return Address(text, tuple(dict.fromkeys(filter(None, (text.partition(":")[2], server)))))


def _cut(words: str, most: int) -> str:
    """What members wrote, as a line of at most so many characters."""
    shown = visible(_FORGED.sub("", visible(words[: 4 * most])))
    cut = shortened(shown, max_length=most, max_bytes=4 * most)
    return cut if cut == shown else f"{cut.rstrip()}…"
