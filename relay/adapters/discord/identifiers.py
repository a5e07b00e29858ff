"""Discord's IDs and what is made from them: dates, links, and the names of our cursors.

What is not a valid ID never gets into a URL, a key or a log line.
https://docs.discord.com/developers/reference#snowflakes
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from relay.domain.ids import ChannelRef, Platform
from relay.logs import get_logger

_log = get_logger(__name__)

_SNOWFLAKE = re.compile(r"[0-9]{1,20}")
# A user's ID as people copy it, or a mention of them. A short number is no ID.
_USER = re.compile(r"(?:<@!?([0-9]{15,20})>|([0-9]{15,20}))")
_MAX_SNOWFLAKE = (1 << 64) - 1
# https://docs.discord.com/developers/reference#snowflakes: the first second of 2015, in milliseconds.
_EPOCH = datetime(2015, 1, 1, tzinfo=UTC)
# A message as people copy it: its link, on any host (another Discord-compatible server has its own), or "Copy ID" with
# the shift key held, which gives the channel, too.
_MESSAGE = re.compile(
    r"https?://[^\s/]+/channels/(?:[0-9]{1,20}|@me)/([0-9]{1,20})/([0-9]{1,20})/?|([0-9]{15,20})-([0-9]{15,20})"
)
# A webhook's or an interaction's token, or the hash of a picture: the characters of Base64 in URLs, and dots. The token
# of an interaction has 214 of them, and Discord promises no length.
_TOKEN = re.compile(r"[0-9A-Za-z_.-]{0,999}[0-9A-Za-z_-]")


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of the bot's servers, which has a connection of its own. Nearly every bot has one shard.

    https://docs.discord.com/developers/events/gateway#sharding
    """

    number: int = 0
    total: int = 1

    def covers(self, guild: str) -> bool:
        """Whether a server is in it."""
        return shard_of(guild, self.total) == self.number

    def label(self) -> Mapping[str, str]:
        """What tells a line of the log from those about other shards; nothing where there is one."""
        return {} if self.total == 1 else {"shard": f"{self.number} of {self.total}"}

    def __str__(self) -> str:
        return f"shard {self.number} of {self.total}"


def shard_of(guild: str, total: int) -> int:
    """The number of the shard that a server is in."""
    return 0 if total == 1 else (int(guild) >> 22) % total


def is_snowflake(value: object) -> bool:
    """Whether `value` is an ID, as text or as a number."""
    text = str(value)
    return _SNOWFLAKE.fullmatch(text) is not None and int(text) <= _MAX_SNOWFLAKE


def snowflake(value: object) -> str:
    """`value` as an ID. Raises `ValueError` if it is not one."""
    if not is_snowflake(value):
        raise ValueError("not a snowflake")
    return str(value)


def mentioned_user(written: str) -> str | None:
    """The user whose ID or mention somebody wrote; None if it is neither."""
    match = _USER.fullmatch(written)
    found = None if match is None else match[1] or match[2]
    return found if found is not None and is_snowflake(found) else None


def copied_message(written: str) -> tuple[str, str] | None:
    """The channel and the message that a link leads to, or a copied ID names; None for anything else."""
    match = _MESSAGE.fullmatch(written)
    found = None if match is None else (match[1] or match[3], match[2] or match[4])
    return found if found is not None and all(map(is_snowflake, found)) else None


def is_token(value: object) -> bool:
    """Whether `value` may be the token of a webhook or an interaction, or the hash of a picture."""
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None


def path_segment(value: str) -> str:
    """`value` as one segment of a URL's path. Raises `ValueError` if it would lead to another path."""
    if value.strip(".") == "" or "/" in value or "\\" in value:
        raise ValueError("not a segment of a path")
    return value


def created_at(snowflake: str) -> datetime:
    """When the message, or whatever else, with this ID was created: IDs contain the time."""
    return _EPOCH + timedelta(milliseconds=int(snowflake) >> 22)


def snowflake_at(moment: datetime) -> str:
    """The smallest ID that a message created at that moment can have."""
    return str(max(0, (moment - _EPOCH) // timedelta(milliseconds=1)) << 22)


def jump_url(guild: str, channel: str, message: str) -> str:
    """A link that opens a message."""
    return f"{channel_url(guild, channel)}/{message}"


def channel_url(guild: str, channel: str) -> str:
    """A link that opens a channel or thread."""
    return f"https://discord.com/channels/{guild}/{channel}"


def channel_ref(channel: str) -> ChannelRef:
    """A channel or thread of Discord, as the core names it."""
    return ChannelRef(Platform.DISCORD, channel)


# --- Names of our cursors ------------------------------------------------------------------------------------


DECLARED_STREAM = "declared"
"""Holds the IDs of the channels that were declared last, with spaces between them."""


def messages_stream(channel: str) -> str:
    """Holds the ID of the last message that was read in a channel or thread."""
    return f"channel:{channel}"


def threads_stream(channel: str) -> str:
    """Holds the IDs of a channel's threads in which somebody wrote lately, with spaces between them."""
    return f"threads:{channel}"


def webhooks_stream(channel: str) -> str:
    """Holds the IDs of the webhooks that were used lately to post into a channel, with spaces between them."""
    return f"webhooks:{channel}"


def parse_ids(text: str | None, *, stream: str) -> list[str]:
    """The IDs in a cursor's position. What is not an ID is left out and logged."""
    words = (text or "").split()
    found = [word for word in words if is_snowflake(word)]
    if len(found) < len(words):
        _log.error("cursor cannot be read", stream=stream, position=(text or "")[:100])
    return found
