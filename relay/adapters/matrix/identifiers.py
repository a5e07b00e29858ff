"""The grammar of Matrix's identifiers, and of links to what they name; and which accounts are the relay's. Pure.

Everything from outside is checked here before it becomes part of a URL, a key or a log line. The grammars:
https://spec.matrix.org/latest/appendices/#common-identifier-format, for links
https://spec.matrix.org/latest/appendices/#uris, and for the addresses of files
https://spec.matrix.org/latest/client-server-api/#matrix-content-mxc-uris. Where they allow more than servers make (for
example the server name `..`), this is stricter.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote

from relay.domain.ids import MessageRef, Platform, UserRef

_LONGEST = 255  # Bytes, sigil and server name included.
_LABEL = r"[0-9A-Za-z_-]++"
_SERVER = rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]{{2,45}}\])(?::[0-9]{{1,5}})?"
_PORT = re.compile(r":[0-9]{1,5}\Z")
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


def server_of(user_id: str) -> str:
    """The name of the server of a user, in small letters and without its port."""
    return _PORT.sub("", user_id.partition(":")[2].lower())


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
# What Element and other clients have in the address bar, and in the links of a homeserver with a client of its own.
_CLIENT_LINK = re.compile(r"[a-z]+://[^\s#]++#/room/([^/?]++)/([^/?]++)(?:\?.*)?", re.IGNORECASE | re.DOTALL)
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
    return _target(identifier, event)


def copied_event(url: str) -> LinkTarget | None:
    """The event that somebody means who copied `url` in a client, from a message's menu or from the address bar."""
    match = _CLIENT_LINK.fullmatch(url)
    target = _target(unquote(match[1]), unquote(match[2])) if match else parse_link(url)
    return target if target is not None and target.event else None


def _target(identifier: str, event: str) -> LinkTarget | None:
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


# --- The relay's own accounts ------------------------------------------------------------------------------

# Nothing but a number stands behind a prefix, and no prefix ends with one: so no ghost of one relay can be another's.
_NUMBER = re.compile(r"[0-9]{1,20}")


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class OwnAccounts:
    """The accounts of the relay: its own, and its ghosts. Told by their IDs, never by a name.

    Those of earlier prefixes count as well: what they wrote is still ours.
    """

    # The account that listens, in full.
    me: str
    # What the names of ghosts begin with now; None: there are none.
    prefix: str | None = None
    # Other prefixes that ghosts had before.
    earlier: set[str] = field(default_factory=set)
    # Whose people they are.
    platform: Platform = Platform.DISCORD

    def is_ghost(self, user_id: str) -> bool:
        """Whether an account is one of our ghosts."""
        return self.person(user_id) is not None

    def is_own(self, user_id: str) -> bool:
        """Whether an account is the relay's own, or one of its ghosts."""
        return user_id == self.me or self.is_ghost(user_id)

    def person(self, user_id: str) -> UserRef | None:
        """For whom a ghost was made; None for any other account."""
        if not user_id.startswith("@_"):
            return None
        name, _, server = user_id[1:].partition(":")
        if server != self.server:
            return None
        for prefix in self._prefixes:
            if name.startswith(prefix) and _NUMBER.fullmatch(number := name.removeprefix(prefix)):
                return UserRef(self.platform, number)
        return None

    def ghost_of(self, user: UserRef) -> str | None:
        """The ID of somebody's ghost, whether it exists or not; None for those who can have none."""
        if self.prefix is None or user.platform is not self.platform or not _NUMBER.fullmatch(user.id):
            return None
        return f"@{self.prefix}{user.id}:{self.server}"

    def ghosts_of(self, user: UserRef) -> list[str]:
        """The IDs that somebody's ghost may have had at any time."""
        if user.platform is not self.platform or not _NUMBER.fullmatch(user.id):
            return []
        return [f"@{prefix}{user.id}:{self.server}" for prefix in self._prefixes]

    def is_current(self, user_id: str) -> bool:
        """Whether an account is a ghost of the prefix in use, as which the relay may act."""
        return self.prefix is not None and self.is_ghost(user_id) and user_id.startswith(f"@{self.prefix}")

    @property
    def has_ghosts(self) -> bool:
        """Whether there are ghosts, or have ever been any."""
        return self.prefix is not None or bool(self.earlier)

    @property
    def server(self) -> str:
        """The homeserver's name."""
        return self.me.partition(":")[2]

    @property
    def _prefixes(self) -> Iterable[str]:
        return self.earlier if self.prefix is None else {self.prefix, *self.earlier}
