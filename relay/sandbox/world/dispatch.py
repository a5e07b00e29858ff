"""Gateway events before they are sent, and who may see what of them.

Intents: https://discord.com/developers/docs/events/gateway#gateway-intents.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag

from relay.sandbox.world.models import Channel, Json


class Intent(IntFlag):
    """Groups of events that a session asks for."""

    GUILDS = 1 << 0
    GUILD_MEMBERS = 1 << 1
    GUILD_MODERATION = 1 << 2
    GUILD_EXPRESSIONS = 1 << 3
    GUILD_INTEGRATIONS = 1 << 4
    GUILD_WEBHOOKS = 1 << 5
    GUILD_INVITES = 1 << 6
    GUILD_VOICE_STATES = 1 << 7
    GUILD_PRESENCES = 1 << 8
    GUILD_MESSAGES = 1 << 9
    GUILD_MESSAGE_REACTIONS = 1 << 10
    GUILD_MESSAGE_TYPING = 1 << 11
    DIRECT_MESSAGES = 1 << 12
    DIRECT_MESSAGE_REACTIONS = 1 << 13
    DIRECT_MESSAGE_TYPING = 1 << 14
    MESSAGE_CONTENT = 1 << 15
    GUILD_SCHEDULED_EVENTS = 1 << 16
    AUTO_MODERATION_CONFIGURATION = 1 << 20
    AUTO_MODERATION_EXECUTION = 1 << 21
    GUILD_MESSAGE_POLLS = 1 << 24
    DIRECT_MESSAGE_POLLS = 1 << 25


ALL_INTENTS = Intent(sum(Intent))


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of a bot's guilds that a session is told of. What is of no guild is told to the first.

    https://discord.com/developers/docs/events/gateway#sharding
    """

    number: int = 0
    total: int = 1

    def covers(self, guild_id: int) -> bool:
        """Whether a guild is in it."""
        return (guild_id >> 22) % self.total == self.number


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at a message."""

    user_id: int | None  # None: somebody who may see everything
    content: bool = True  # False: text, embeds and files are blank in messages that do not concern them


OMNISCIENT = Viewer(None)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Something that happened."""

    event: str
    intents: Intent  # a session needs one of them; none: it needs none
    guild_id: int
    render: Callable[[Viewer], Json]  # makes the payload for one viewer
    channel: Channel | None = None  # only for those who may view it
    user_id: int | None = None  # only for this user
