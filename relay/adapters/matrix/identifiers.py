"""The grammar of Matrix's identifiers, and of links to what they name. Pure.

Everything from outside is checked here before it becomes part of a URL, a key or a log line. The grammars:
https://spec.matrix.org/latest/appendices/#common-identifier-format, for links
https://spec.matrix.org/latest/appendices/#uris, and for the addresses of files
https://spec.matrix.org/latest/client-server-api/#matrix-content-mxc-uris. Where they allow more than servers make (for
example the server name `..`), this is stricter.
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote

from relay.domain.ids import MessageRef

_LONGEST = 255  # Bytes, sigil and server name included.
_LABEL = r"[0-9A-Za-z_-]++"
_SERVER = rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]{{2,45}}\])(?::[0-9]{{1,5}})?"
_SERVER_NAME = re.compile(_SERVER)
_MXC = re.compile(rf"mxc://({_SERVER})/([0-9A-Za-z_-]{{1,{_LONGEST}}})")
# In older room versions, event and room IDs contain a server name; the server may choose any characters before it.
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
    """Whether `text` is the ID of a user. Old ones may have any visible characters."""
    return _is(_USER_ID, text)


def parse_mxc(uri: str) -> tuple[str, str] | None:
    """The server name and the media ID in an `mxc://` URI; None for anything else."""
    match = _MXC.fullmatch(uri)
    return (match[1], match[2]) if match is not None and len(match[1]) <= _LONGEST else None


def _is(grammar: re.Pattern[str], text: str) -> bool:
    # The length in characters first, because it is cheap: no text has fewer bytes than characters.
    return len(text) <= _LONGEST and grammar.fullmatch(text) is not None and len(text.encode()) <= _LONGEST


_MATRIX_TO = re.compile(r"https?://matrix\.to/#/([^/?]++)(?:/([^/?]++))?(?:\?.*)?", re.IGNORECASE | re.DOTALL)
_MATRIX_URI = re.compile(
    r"matrix:(u|user|r|room|roomid)/([^/?#]++)(?:/(?:e|event)/([^/?#]++))?(?:\?([^#]*+))?(?:#.*)?",
    re.IGNORECASE | re.DOTALL,
)
_MOST_SERVERS = 10
_KINDS = (is_user_id, is_room_id, is_alias)
_SIGILS = {"u": "@", "user": "@", "r": "#", "room": "#", "roomid": "!"}


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """What a link leads to."""

    # A user ID, a room ID or an alias.
    id: str
    # The ID of an event in that room, or "".
    event: str = ""


def parse_link(url: str) -> LinkTarget | None:
    """The user, room or event that `url` leads to; None if it is not a link of Matrix."""
    if match := _MATRIX_TO.fullmatch(url):
        identifier, event = unquote(match[1]), unquote(match[2] or "")
    elif match := _MATRIX_URI.fullmatch(url):
        identifier = _SIGILS[match[1].lower()] + unquote(match[2])
        event = "$" + unquote(match[3]) if match[3] else ""
    else:
        return None
    if event and (identifier.startswith("@") or not is_event_id(event)):
        return None
    return LinkTarget(identifier, event) if any(is_one(identifier) for is_one in _KINDS) else None


def browser_link(url: str) -> str:
    """`url` as a link that a browser can open: a `matrix:` URI becomes a matrix.to link, any other stays."""
    match = _MATRIX_URI.fullmatch(url)
    target = parse_link(url) if match else None
    if match is None or target is None:
        return url
    servers = [value for key, value in parse_qsl(match[4] or "") if key == "via" and is_server_name(value)]
    return matrix_to_link(target.id, target.event, tuple(servers[:_MOST_SERVERS]))


def matrix_to_link(identifier: str, event: str = "", via: tuple[str, ...] = ()) -> str:
    """The matrix.to link of a user, room or alias, or of an event in a room. `via`: servers that know the room."""
    parts = "/".join(quote(part, safe="@!$:") for part in (identifier, event) if part)
    servers = "&".join(f"via={quote(server, safe=':')}" for server in via)
    return f"https://matrix.to/#/{parts}{'?' if servers else ''}{servers}"


def permalink(message: MessageRef) -> str:
    """The link to a message (https://spec.matrix.org/latest/appendices/#matrixto-navigation)."""
    return matrix_to_link(message.channel.id, message.id, via=_servers(message.channel.id))


def room_link(room_id: str) -> str:
    """The link to a room."""
    return matrix_to_link(room_id, via=_servers(room_id))


def _servers(room_id: str) -> tuple[str, ...]:
    """The server in a room's ID, which knows the room; from room version 12 on there is none. An alias needs none."""
    server = room_id.partition(":")[2]
    return (server,) if server and room_id.startswith("!") else ()
