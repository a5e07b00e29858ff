"""What people know a room by that we need not be in: asked of the homeserver."""

from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.adapters.matrix.identifiers import is_alias, is_room_id, matrix_to_link, room_link
from relay.adapters.matrix.rooms.state import LONGEST_NAME, LONGEST_TOPIC
from relay.core.ports import ChannelInfo
from relay.domain.ids import ChannelAddress
from relay.domain.jsontext import Json, as_string
from relay.errors import Transient

_TIMEOUT = 30.0
# An answer may hold the topic of a room, which may have 60,000 characters.
_MOST_BYTES = 256 * 1024
# https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1room_summaryroomidoralias, and the same before it
# was in the specification (MSC3266).
_PATHS = (
    ("/_matrix/client/v1/", ("room_summary",)),
    ("/_matrix/client/unstable/im.nheko.summary/", ("summary",)),
)
_UNKNOWN_REQUEST = "M_UNRECOGNIZED"
_HIDDEN = (403, 404)


async def look_up(api: Api, address: ChannelAddress) -> ChannelInfo | None:
    """Any room; None where this homeserver tells nothing. Raises `Transient`."""
    name = address.value
    via = name.partition(":")[2] if name.startswith("!") else ""
    query: dict[str, str | list[str]] = {"via": [via]} if via else {}
    for root, path in _PATHS:
        try:
            found = await api.call("GET", *path, name, query=query, root=root, timeout=_TIMEOUT, most=_MOST_BYTES)
        except Unreachable as error:
            raise Transient(str(error)) from error
        except Refused as error:
            if error.code == _UNKNOWN_REQUEST:
                continue
            if error.status in _HIDDEN:
                return ChannelInfo("")
            raise Transient(str(error)) from error
        return _from_summary(found, name)
    return None


def _from_summary(found: Json, address: str) -> ChannelInfo:
    alias = as_string(found.get("canonical_alias"))
    aliases = (alias,) if is_alias(alias) else ()
    return ChannelInfo(
        as_string(found.get("name"))[:LONGEST_NAME],
        topic=as_string(found.get("topic"))[:LONGEST_TOPIC],
        link=room_link(address) if is_room_id(address) else matrix_to_link(address),
        public=found.get("join_rule") == "public",
        aliases=aliases,
    )
