"""The grammar of Matrix's identifiers: what is none never becomes part of a URL, a key or a log line. Pure.

https://spec.matrix.org/latest/appendices/#common-identifier-format, and for the addresses of files
https://spec.matrix.org/latest/client-server-api/#matrix-content-mxc-uris. Where the grammar is wider than what servers
make (it allows the server name `..`), this is narrower.
"""

import re

_LONGEST = 255  # Bytes, sigil and server name included.
_LABEL = r"[0-9A-Za-z_-]++"
_SERVER = rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]{{2,45}}\])(?::[0-9]{{1,5}})?"
_SERVER_NAME = re.compile(_SERVER)
_MXC = re.compile(rf"mxc://({_SERVER})/([0-9A-Za-z_-]{{1,{_LONGEST}}})")
# Older room versions put the server's name into event and room IDs. What stands before it is anybody's choice.
_OPAQUE = r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+"
_EVENT_ID = re.compile(rf"\${_OPAQUE}")
_ROOM_ID = re.compile(rf"!{_OPAQUE}")
_USER_ID = re.compile(rf"@[^:\x00-\x1f\x7f-\x9f\ud800-\udfff]*+:{_SERVER}")
_ALIAS = re.compile(rf"#[^:\x00-\x1f\x7f-\x9f\ud800-\udfff]++:{_SERVER}")


def is_server_name(text: str) -> bool:
    """Whether `text` names a homeserver."""
    return _is(_SERVER_NAME, text)


def is_event_id(text: str) -> bool:
    """Whether `text` is the ID of an event, of any room version."""
    return _is(_EVENT_ID, text)


def is_room_id(text: str) -> bool:
    """Whether `text` is the ID of a room, of any room version."""
    return _is(_ROOM_ID, text)


def is_alias(text: str) -> bool:
    """Whether `text` is the alias of a room."""
    return _is(_ALIAS, text)


def is_user_id(text: str) -> bool:
    """Whether `text` is the ID of a user. Old ones may have any characters but those that nobody can see."""
    return _is(_USER_ID, text)


def read_mxc(uri: str) -> tuple[str, str] | None:
    """The server name and the media ID in an `mxc://` URI; None for anything else."""
    match = _MXC.fullmatch(uri)
    return (match[1], match[2]) if match is not None and len(match[1]) <= _LONGEST else None


def _is(grammar: re.Pattern[str], text: str) -> bool:
    # A character is a byte at least.
    return len(text) <= _LONGEST and grammar.fullmatch(text) is not None and len(text.encode()) <= _LONGEST
