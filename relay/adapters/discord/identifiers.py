"""The grammar of Discord's identifiers: what is none never becomes part of a URL, a key or a log line.

https://docs.discord.com/developers/reference#snowflakes
"""

import re

import structlog

_log = structlog.get_logger(__name__)

_SNOWFLAKE = re.compile(r"[0-9]{1,20}")
_LARGEST = (1 << 64) - 1
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


def snowflakes(text: str | None, *, what: str) -> list[str]:
    """The IDs in a cursor that holds some, with spaces between them; what is none is left out, and said."""
    words = (text or "").split()
    found = [word for word in words if is_snowflake(word)]
    if len(found) < len(words):
        _log.error("cursor cannot be read", stream=what, position=(text or "")[:100])
    return found


def is_word(value: object) -> bool:
    """Whether `value` may be a webhook's token or the hash of a picture."""
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def path_segment(value: str) -> str:
    """`value`, which is to be one segment of a path. Raises `ValueError` where it would be read as another place."""
    if value.strip(".") == "" or "/" in value or "\\" in value:
        raise ValueError("not a segment of a path")
    return value
