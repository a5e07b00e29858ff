"""The grammar of Discord's identifiers: what is none never becomes part of a URL, a key or a log line.

https://docs.discord.com/developers/reference#snowflakes
"""

import re
from datetime import UTC, datetime, timedelta

import structlog

from relay.domain.ids import ChannelRef, Platform

_log = structlog.get_logger(__name__)

_SNOWFLAKE = re.compile(r"[0-9]{1,20}")
_LARGEST = (1 << 64) - 1
# https://docs.discord.com/developers/reference#snowflakes: the first second of 2015, in milliseconds.
_EPOCH = datetime(2015, 1, 1, tzinfo=UTC)
# A webhook's token, the hash of a picture: letters, digits, and what Base64 in URLs has besides.
_WORD = re.compile(r"[0-9A-Za-z_.-]{0,199}[0-9A-Za-z_-]")


def is_snowflake(value: object) -> bool:
    """Whether `value` is an ID, as text or as a number."""
    text = str(value)
    return _SNOWFLAKE.fullmatch(text) is not None and int(text) <= _LARGEST


def snowflake(value: object) -> str:
    """`value` as an ID. Raises `ValueError` where it is none."""
    if not is_snowflake(value):
        raise ValueError("not a snowflake")
    return str(value)


def is_word(value: object) -> bool:
    """Whether `value` may be a webhook's token or the hash of a picture."""
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def path_segment(value: str) -> str:
    """`value`, which is to be one segment of a path. Raises `ValueError` where it would be read as another place."""
    if value.strip(".") == "" or "/" in value or "\\" in value:
        raise ValueError("not a segment of a path")
    return value


def created_at(snowflake: str) -> datetime:
    """The moment in an ID."""
    return _EPOCH + timedelta(milliseconds=int(snowflake) >> 22)


def snowflake_at(moment: datetime) -> str:
    """The smallest ID that a message of that moment may have."""
    return str(max(0, (moment - _EPOCH) // timedelta(milliseconds=1)) << 22)


def jump_url(guild: str, channel: str, message: str) -> str:
    """A link that opens a message."""
    return f"https://discord.com/channels/{guild}/{channel}/{message}"


def reference(channel: str) -> ChannelRef:
    """A channel of Discord."""
    return ChannelRef(Platform.DISCORD, channel)


# --- Names of our cursors ------------------------------------------------------------------------------------


DECLARED = "declared"
"""The cursor that holds which channels were declared last, by ID, with spaces between them."""


def stream(channel: str) -> str:
    """The cursor of a channel, or of a thread."""
    return f"channel:{channel}"


def threads_stream(channel: str) -> str:
    """The cursor that holds in which threads of a channel something was said, by ID, with spaces between them."""
    return f"threads:{channel}"


def webhooks_stream(channel: str) -> str:
    """The cursor that holds which webhooks were used for a channel lately, by ID, with spaces between them."""
    return f"webhooks:{channel}"


def snowflakes(text: str | None, *, what: str) -> list[str]:
    """The IDs in a cursor that holds some, with spaces between them; what is none is left out, and said."""
    words = (text or "").split()
    found = [word for word in words if is_snowflake(word)]
    if len(found) < len(words):
        _log.error("cursor cannot be read", stream=what, position=(text or "")[:100])
    return found
