"""The forms that values in `relay.toml` may have, as types that pydantic checks. Their errors never contain the value.

pydantic is imported only where it asks for what it is to check: the daemon has the values, and does without.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from string import Formatter
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from yarl import URL

from relay.config.store_url import names_postgresql, problem_with_database
from relay.domain.names import is_hidden, without_relay_signs
from relay.domain.pair import SYSTEM_MESSAGES, SystemMessage


class Wrong(ValueError):
    """What a check raises. It becomes a `Mistake`, and does not contain the value."""

    def __init__(self, what: str, remedy: str | None) -> None:
        super().__init__(what)
        self.what = what
        # None: to write a value as the example of the key has it.
        self.remedy = remedy


class Secret:
    """A text that is not shown."""

    __slots__ = ("_text", "source")

    def __init__(self, text: str) -> None:
        self._text = text
        # Where it was taken from: "relay.toml:3: [discord] token", "the file …". "" if that is not known.
        self.source = ""

    def get_secret_value(self) -> str:
        """The text."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> Any:
        from pydantic_core.core_schema import no_info_after_validator_function, str_schema

        return no_info_after_validator_function(cls, str_schema())


@dataclass(frozen=True, slots=True)
class Before:
    """In an annotation: makes what the type takes of what was written. Raises `Wrong`."""

    check: Callable[[Any], object]

    def __get_pydantic_core_schema__(self, source: object, handler: Callable[[object], Any]) -> Any:
        from pydantic_core.core_schema import no_info_before_validator_function

        return no_info_before_validator_function(self.check, handler(source))


@dataclass(frozen=True, slots=True)
class After:
    """In an annotation: looks at a value of the type, or changes it. Raises `Wrong`."""

    check: Callable[[Any], object]

    def __get_pydantic_core_schema__(self, source: object, handler: Callable[[object], Any]) -> Any:
        from pydantic_core.core_schema import no_info_after_validator_function

        return no_info_after_validator_function(self.check, handler(source))


_SERVER = r"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)(?::[0-9]{1,5})?"
_HOST_NAME = re.compile(r"[\w-]+(?:\.[\w-]+)*\.?")
_ALIAS = re.compile(rf"#[^\s:\x00-\x1f]+:{_SERVER}")
# https://spec.matrix.org/latest/rooms/v12/: from room version 12 on a room ID is the hash of an event, and no server.
_ROOM_ID = re.compile(rf"!(?:[^\s:\x00-\x1f]+:{_SERVER}|[0-9A-Za-z_-]{{40,}})")
_USER_ID = re.compile(rf"@[!-9;-~]+:{_SERVER}")
_USER_GLOB = re.compile(r"@[!-9;-~]+:[0-9A-Za-z.*?:\[\]_-]+")
# No digit at its end: an ID follows, which is a number.
_GHOST_PREFIX = re.compile(r"_[a-z0-9._=/-]{0,48}[a-z._=/-]")
_REGISTRATION_ID = re.compile(r"[A-Za-z0-9_.-]{1,50}")
_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(s|m|h|d)?\s*")
_UNITS = {None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BEFORE_A_TOKEN = re.compile(r"(bot|bearer)\s", re.IGNORECASE)
_QUOTES = "\"'“”„‟‘’«»"
_MATRIX_ID_LIMIT = 255
# Characters around the name, of the 80 that Discord shows. The handle takes 24 at most.
_TEMPLATE_LIMIT = 24
# Of `[web] token`, and how many different ones there have to be among them.
_SHORTEST_WEB_TOKEN, _FEWEST_CHARACTERS = 16, 6


def _channel_id(value: object) -> str:
    return _snowflake(value, "channel", "Copy Channel ID")


def _discord_user(value: object) -> str:
    return _snowflake(value, "user", "Copy User ID")


def _snowflake(value: object, what: str, button: str) -> str:
    if what == "channel" and isinstance(value, str):
        if "/channels/@me" in value:
            raise Wrong("is a direct message, which cannot be mirrored", "name a channel of a server")
        if (mention := _CHANNEL_MENTION.fullmatch(value.strip())) is not None:
            raise Wrong("is a mention of a channel", f"write the number in it: {mention[1]}")
    of_link = ": of a channel's link it is the last number" if "/channels/" in str(value) else ""
    digits = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[1-9][0-9]{0,19}", digits.strip()) or int(digits) >= 2**64:
        raise Wrong(
            f"is not a {what} ID",
            f"write the number that “{button}” gives in Discord’s developer mode, like 1234567890123456789{of_link}",
        )
    return digits.strip()


_CHANNEL_MENTION = re.compile(r"<#([1-9][0-9]{0,19})>")

# What clients copy as the link to a room: https://matrix.to/#/#help:example.org?via=example.org, and Element's own.
_ROOM_LINK = re.compile(r"https?://[^\s#]*/#/(?:room/)?([^\s?/]+)")
# https://spec.matrix.org/latest/appendices/#matrix-uri-scheme
_ROOM_URI = re.compile(r"matrix:(r|roomid)/([^\s?/]+)")


def _room(value: str) -> str:
    value = value.strip()
    valid = _ALIAS.fullmatch(value) or _ROOM_ID.fullmatch(value)
    if valid and len(value.encode()) <= _MATRIX_ID_LIMIT:
        return value
    if (link := _ROOM_LINK.match(value)) is not None:
        room = unquote(link[1])
        known = _ALIAS.fullmatch(room) or _ROOM_ID.fullmatch(room)
        raise Wrong("is a link", f'write "{room}"' if known else "write the alias or the ID of the room in it")
    if (uri := _ROOM_URI.match(value)) is not None:
        raise Wrong("is a link", f'write "{"#" if uri[1] == "r" else "!"}{unquote(uri[2])}"')
    if _USER_ID.fullmatch(value):
        raise Wrong("is an account, and no room", 'write the room, by its alias, like "#help:example.org", or its ID')
    what = "is neither a room alias nor a room ID"
    if value[:1] not in ("#", "!"):
        what += ": it begins with neither # nor !"
    elif ":" not in value:
        what += ": it names no server"
    raise Wrong(what, 'write an alias like "#help:example.org", or a room ID like "!opaque:example.org"')


def _optional_room(value: str) -> str:
    return _room(value) if value else value


def _rooms(value: object) -> object:
    rooms = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(rooms, list | tuple) or not all(isinstance(room, str) for room in rooms):
        raise Wrong("is not a list of rooms", 'write aliases with commas between, like "#help:example.org"')
    return tuple(map(_room, rooms))


def _accounts(value: object) -> object:
    accounts = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(accounts, list | tuple) or not all(isinstance(one, str) and is_account(one) for one in accounts):
        raise Wrong(
            "is not a list of accounts",
            'write Discord’s user IDs and Matrix user IDs, which may have * and ? in them, like "123456789012345678, '
            '@spam*:example.org, @*:evil.example"',
        )
    return tuple(accounts)


def is_account(text: str) -> bool:
    """Whether `text` is the ID of a user of Discord, or a glob of user IDs of Matrix."""
    return bool(re.fullmatch(r"[1-9][0-9]{0,19}", text) or _USER_GLOB.fullmatch(text)) and len(text) <= _MATRIX_ID_LIMIT


def _directory_access(value: object) -> object:
    """`true` and `false` are what people try first."""
    words = str(value).lower() if isinstance(value, bool | str) else value
    return "local" if words == "true" else "off" if words == "false" else value


def _user_id(value: str) -> str:
    value = value.strip()
    if not _USER_ID.fullmatch(value) or len(value) > _MATRIX_ID_LIMIT:
        raise Wrong("is not a Matrix user ID", 'write it in full, like "@relay:example.org"')
    return value


def _url(value: str) -> str:
    value = value.strip()
    try:
        parts = urlsplit(value)
        well = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        bare = parts.username is None and not parts.query and not parts.fragment
    except ValueError:
        well = bare = False
    if not well or any(character.isspace() for character in value):
        more = ", and an address of IPv6 in brackets" if value.count(":") > 2 else ""
        raise Wrong("is not a web address", f'write it with its scheme, like "https://example.org"{more}')
    if not bare:
        raise Wrong("has more than the address", "remove the user name, the query and the fragment")
    return value.rstrip("/")


def _homeserver_url(value: str) -> str:
    url = _url(value)
    if (bare := url.partition("/_matrix")[0].rstrip("/")) != url:
        raise Wrong("has a path in it that the relay adds by itself", f'write "{bare}"')
    return url


def _public_url(value: str) -> str:
    return _url(value) if value else value


def _store_url(value: str) -> str:
    if names_postgresql(value):
        if (problem := problem_with_database(value)) is not None:
            raise Wrong(*problem)
        return value
    path = value.removeprefix("sqlite:///")
    if path == value or path in ("", ":memory:") or path.endswith("/") or set(path) & set("?#\0"):
        raise Wrong(
            "is the address of neither an SQLite file nor a PostgreSQL database",
            'write "sqlite:///relay.db" or "sqlite:////var/lib/relay/relay.db", or "postgresql://user@host/relay"',
        )
    return value


def _listen(value: str) -> str:
    host, _, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if value and not (
        host and port.isascii() and port.isdigit() and int(port) < 2**16 and (bracketed or ":" not in host)
    ):
        raise Wrong("is not an address to listen on", 'write "127.0.0.1:9464" or "[::1]:9464", or "" to turn it off')
    return value


def _hosts(value: object) -> object:
    names = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and _is_host(name) for name in names):
        raise Wrong(
            "is not a list of host names", 'write names without scheme and port, like "relay, status.example.org"'
        )
    return tuple(names)


def _is_host(name: str) -> bool:
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        pass
    else:
        return True
    try:
        return bool(_HOST_NAME.fullmatch(name) and URL.build(scheme="http", host=name).raw_host)  # as DNS writes it
    except ValueError:
        return False


def _seconds(value: object) -> object:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return float(match[1]) * _UNITS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Wrong("is not a length of time", 'write seconds as a number, or with a unit: "90s", "30m", "48h", "7d"')
    return value


def _finite(value: float) -> float:
    if value == math.inf:
        raise Wrong("is not valid", None)
    return _within(0, math.inf, value)


def _kept_for(value: object) -> object:
    if value == "forever":
        return None
    # Days are what is meant, and seconds would forget all that is on record.
    if (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.strip().isdigit()):
        raise Wrong("has no unit", 'write a number with a unit: "90d" for days, "36h" for hours')
    seconds = _seconds(value) if isinstance(value, str) and _DURATION.fullmatch(value) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise Wrong("is not a length of time", 'write a number with a unit: "90d", "36h", or "forever"')
    return seconds


def _system_messages(value: object) -> object:
    if not isinstance(value, str):
        raise Wrong("must be text", 'put it in quotes; write, for example, system_messages = "join, pin, boost, other"')
    kinds = value.replace(",", " ").split()
    if not set(kinds) <= set(SYSTEM_MESSAGES):
        raise Wrong("is not a list of kinds", 'write some of "join, pin, boost, other", or "" for none')
    return tuple(dict.fromkeys(kinds))


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise Wrong("must be a whole number", "write it in digits")
    return value


def _within(least: int, most: float, value: float) -> float:
    if not value >= least:  # as NaN is not
        raise Wrong("is too small", f"write at least {least}")
    if value > most:
        raise Wrong("is too large", f"write at most {most}")
    return value


def _name(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise Wrong("is not a name", "write a few printable characters, or leave the key out")
    return value.strip()


def _ghost_prefix(value: str) -> str:
    # https://spec.matrix.org/latest/appendices/#user-identifiers; 255 bytes with an ID and a server's name behind it.
    if not _GHOST_PREFIX.fullmatch(value):
        raise Wrong(
            "is not the beginning of a user name",
            'write "_" and then a-z, 0-9, ".", "_", "=", "-" and "/", no digit at the end, up to 50, like "_discord_"',
        )
    return value


def _registration_id(value: str) -> str:
    if not _REGISTRATION_ID.fullmatch(value):
        raise Wrong("is not the name of a registration", 'write letters, digits, "_", "." and "-", at most 50')
    return value


def _name_template(value: str) -> str:
    try:
        parts = list(Formatter().parse(value))
    except ValueError:
        parts = []
    fields = [name for _, name, _, _ in parts if name is not None]
    around = "".join(text for text, _, _, _ in parts)
    plain = all(not spec and conversion is None for _, _, spec, conversion in parts)
    shown = around.isprintable() and not any(map(is_hidden, around)) and without_relay_signs(around) == around
    if not (plain and shown and sorted(fields) in (["name"], ["handle", "name"])):
        raise Wrong(
            "is not a template of a name",
            'write {name} once, {handle} once if you like, and printable characters around, like "{name} (Matrix)"',
        )
    first, *rest = [place for place, (_, name, _, _) in enumerate(parts) if name is not None]
    if rest and not any(" " in text for text, *_ in parts[first + 1 : rest[0] + 1]):
        # Otherwise two people could have the same name: Bo and bx, Bob and x.
        raise Wrong("may give two people the same name", "write a space between {name} and {handle}")
    if len(around) > _TEMPLATE_LIMIT:
        raise Wrong("leaves too little room for the name", f"write {_TEMPLATE_LIMIT} characters around it at most")
    return value


def _token(value: Secret) -> Secret:
    text = value.get_secret_value().strip()
    if not text:
        raise Wrong("is empty", "write the token, or leave the key out and name a file that holds it")
    if word := _BEFORE_A_TOKEN.match(text):
        raise Wrong(f"begins with “{word[1]} ”, which belongs to requests and not to the token", "leave that out")
    if text[0] in _QUOTES or text[-1] in _QUOTES:
        remedy = 'write one pair of straight ones around it in relay.toml ("…"), and none in a file of its own'
        raise Wrong("has quotes too many", remedy)
    if not text.isascii() or not text.isprintable() or " " in text:
        raise Wrong("contains a space, a line break or another character that no token has", "copy the token again")
    return Secret(text)


def _web_token(value: Secret) -> Secret:
    text = _token(value).get_secret_value()
    if len(text) < _SHORTEST_WEB_TOKEN or len(set(text)) < _FEWEST_CHARACTERS:
        raise Wrong(
            "can be guessed",
            f"write at least {_SHORTEST_WEB_TOKEN} random characters, as `openssl rand -hex 24` makes them",
        )
    return Secret(text)


def _password(value: Secret) -> Secret:
    if not value.get_secret_value():
        raise Wrong("is empty", "write the password, or leave the key out and use an access token")
    return value


Snowflake = Annotated[str, Before(_channel_id)]
DiscordUser = Annotated[str, Before(_discord_user)]
Room = Annotated[str, After(_room)]
OptionalRoom = Annotated[str, After(_optional_room)]
Url = Annotated[str, After(_url)]
HomeserverUrl = Annotated[str, After(_homeserver_url)]
PublicUrl = Annotated[str, After(_public_url)]
Seconds = Annotated[float, Before(_seconds), After(_finite)]
KeptFor = Annotated[float | None, Before(_kept_for)]
Count = Annotated[int, Before(_number), After(partial(_within, 0, math.inf))]
PartLimit = Annotated[int, Before(_number), After(partial(_within, 1, 50))]
# Text in the file and in the environment.
SystemMessages = Annotated[tuple[SystemMessage, ...], Before(_system_messages)]
HostNames = Annotated[tuple[str, ...], Before(_hosts)]
RoomList = Annotated[tuple[str, ...], Before(_rooms)]
AccountList = Annotated[tuple[str, ...], Before(_accounts)]
DirectoryAccess = Annotated[Literal["off", "local", "public"], Before(_directory_access)]
Name = Annotated[str, After(_name)]
GhostPrefix = Annotated[str, After(_ghost_prefix)]
RegistrationId = Annotated[str, After(_registration_id)]
NameTemplate = Annotated[str, After(_name_template)]
Token = Annotated[Secret, After(_token)]
WebToken = Annotated[Secret, After(_web_token)]
Password = Annotated[Secret, After(_password)]
UserId = Annotated[str, After(_user_id)]
StoreUrl = Annotated[str, After(_store_url)]
ListenAddress = Annotated[str, After(_listen)]
