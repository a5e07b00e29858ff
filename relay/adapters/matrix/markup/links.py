"""Links to people, rooms and messages of Matrix: https://spec.matrix.org/latest/appendices/#uris."""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote

from relay.adapters.matrix.identifiers import is_alias, is_event_id, is_room_id, is_server_name, is_user_id

_MATRIX_TO = re.compile(r"https?://matrix\.to/#/([^/?]++)(?:/([^/?]++))?(?:\?.*)?", re.IGNORECASE | re.DOTALL)
_MATRIX_URI = re.compile(
    r"matrix:(u|user|r|room|roomid)/([^/?#]++)(?:/(?:e|event)/([^/?#]++))?(?:\?([^#]*+))?(?:#.*)?",
    re.IGNORECASE | re.DOTALL,
)
_MOST_SERVERS = 10
_KINDS = (is_user_id, is_room_id, is_alias)
_SIGILS = {"u": "@", "user": "@", "r": "#", "room": "#", "roomid": "!"}


@dataclass(frozen=True, slots=True)
class Target:
    """What a link leads to: `id` is a user ID, a room ID or an alias; `event` an event ID in that room, or ""."""

    id: str
    event: str = ""


def read_link(url: str) -> Target | None:
    """What of Matrix `url` leads to; None if it leads elsewhere."""
    if match := _MATRIX_TO.fullmatch(url):
        identifier, event = unquote(match[1]), unquote(match[2] or "")
    elif match := _MATRIX_URI.fullmatch(url):
        identifier = _SIGILS[match[1].lower()] + unquote(match[2])
        event = "$" + unquote(match[3]) if match[3] else ""
    else:
        return None
    if event and (identifier.startswith("@") or not is_event_id(event)):
        return None
    return Target(identifier, event) if any(is_one(identifier) for is_one in _KINDS) else None


def web_link(url: str) -> str:
    """`url` as a link that a browser opens: a `matrix:` URI as its matrix.to link, any other as it is."""
    match = _MATRIX_URI.fullmatch(url)
    target = read_link(url) if match else None
    if match is None or target is None:
        return url
    servers = [value for key, value in parse_qsl(match[4] or "") if key == "via" and is_server_name(value)]
    return write_link(target.id, target.event, tuple(servers[:_MOST_SERVERS]))


def write_link(identifier: str, event: str = "", via: tuple[str, ...] = ()) -> str:
    """The matrix.to link of a user, room or alias, or of an event in a room. `via`: servers that know the room."""
    parts = "/".join(quote(part, safe="@!$:") for part in (identifier, event) if part)
    servers = "&".join(f"via={quote(server, safe=':')}" for server in via)
    return f"https://matrix.to/#/{parts}{'?' if servers else ''}{servers}"
