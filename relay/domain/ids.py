"""Every ID is its own type. The core compares and stores them; only an adapter may look inside one."""

from dataclasses import dataclass
from enum import StrEnum


class Platform(StrEnum):
    """A chat platform that an adapter exists for; the value is what stands in the store."""

    DISCORD = "discord"
    MATRIX = "matrix"


@dataclass(frozen=True, slots=True, order=True)
class ChannelAddress:
    """Where a channel is, as the operator wrote it: a channel ID, a room ID or a room alias.

    Unique per pair file. An alias may come to name another room: the adapter resolves it to a `ChannelRef`.
    """

    platform: Platform
    value: str


@dataclass(frozen=True, slots=True, order=True)
class ChannelRef:
    """A Discord channel (snowflake) or a Matrix room (room ID). Minted by the platform, unique on it."""

    platform: Platform
    id: str


@dataclass(frozen=True, slots=True, order=True)
class MessageRef:
    """A Discord message (snowflake) or a Matrix event (event ID). Minted by the platform, unique on it."""

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
class MediaRef:
    """Where a platform keeps a file: an https URL of Discord's CDN, an `mxc://` URI. Only its adapter opens it."""

    platform: Platform
    locator: str
