"""IDs, each kind a type of its own. The core compares and stores them; only an adapter may look inside."""

from dataclasses import dataclass
from enum import StrEnum


class Platform(StrEnum):
    """A chat platform that has an adapter. The store holds the value."""

    DISCORD = "discord"
    MATRIX = "matrix"

    # Every reference is hashed with its platform, and an enum's own hash is a function in Python.
    __hash__ = str.__hash__


@dataclass(frozen=True, slots=True, order=True)
class ChannelAddress:
    """A channel as the operator wrote it: a channel ID, a room ID or a room alias.

    Unique in a configuration. An alias may be given to another room, so the adapter resolves it to a `ChannelRef`.
    """

    platform: Platform
    value: str


@dataclass(frozen=True, slots=True, order=True)
class ChannelRef:
    """A Discord channel (snowflake) or a Matrix room (room ID). Given by the platform, unique there."""

    platform: Platform
    id: str


@dataclass(frozen=True, slots=True, order=True)
class MessageRef:
    """A Discord message (snowflake) or a Matrix event (event ID). Given by the platform, unique there."""

    channel: ChannelRef
    id: str

    @property
    def platform(self) -> Platform:
        """The platform whose message this is."""
        return self.channel.platform


@dataclass(frozen=True, slots=True, order=True)
class ThreadRef:
    """A thread inside a channel: a Discord thread's snowflake, or the event ID of a Matrix thread's root."""

    channel: ChannelRef
    id: str


@dataclass(frozen=True, slots=True, order=True)
class UserRef:
    """A Discord user, bot or webhook (snowflake), or a Matrix user ID. Unique on its platform.

    A webhook's ID is the author of what is posted through it; the display name it posts under is not.
    """

    platform: Platform
    id: str


@dataclass(frozen=True, slots=True, order=True)
class PlaceRef:
    """Where a ban holds: a Discord server (snowflake), a Matrix room (room ID)."""

    platform: Platform
    id: str


@dataclass(frozen=True, slots=True, order=True)
class MediaRef:
    """Where a platform keeps a file: an https URL of Discord's CDN, an `mxc://` URI. Only its adapter opens it."""

    platform: Platform
    locator: str
