"""Which servers a room's list (`m.room.server_acl`) denies, and by which list other servers go."""

import json
import re
from ipaddress import ip_address

from relay.adapters.matrix.api.client import Api
from relay.core.moderation.globs import GlobSet
from relay.domain.jsontext import Json, as_dict, as_list, as_string

_PORT = re.compile(r":[0-9]+\Z")
_PAGES, _PAGE = 5, 20  # A list may hold thousands of servers, and a bot may write a new one for each.


async def denied_by_others(api: Api, room_id: str) -> bool:
    """Whether other servers refuse what is sent from ours, where our own people wrote the list that allows it.

    They go by the last list that one of them wrote, and by ours only if that one allows us: else ours reached nobody.
    Where no other server is in the room, all who see it go by ours. Raises `Refused`, `Unreachable`.
    """
    server = api.user_id.partition(":")[2]
    theirs = await _last_of_others(api, room_id, server)
    if theirs is None or not is_denied(theirs, server):
        return False
    members = as_dict((await api.call("GET", "rooms", room_id, "joined_members")).get("joined"))
    return any(user.partition(":")[2] != server for user in members)


async def _last_of_others(api: Api, room_id: str, server: str) -> Json | None:
    """The last list that somebody on another server wrote; None without one, or behind many of our own people's."""
    wanted = json.dumps({"types": ["m.room.server_acl"]})
    query: dict[str, str | list[str]] = {"dir": "b", "limit": str(_PAGE), "filter": wanted}
    for _ in range(_PAGES):
        page = await api.call("GET", "rooms", room_id, "messages", query=query)
        for event in map(as_dict, as_list(page.get("chunk"))):
            is_list = event.get("type") == "m.room.server_acl" and event.get("state_key") == ""
            if is_list and as_string(event.get("sender")).partition(":")[2] != server:
                return as_dict(event.get("content"))
        if not page.get("end"):
            return None
        query["from"] = str(page["end"])
    return None


def is_denied(content: Json, server: str) -> bool:
    """Whether an `m.room.server_acl` event denies a server: what is sent from there reaches nobody on any other one.

    https://spec.matrix.org/latest/client-server-api/#server-access-control-lists-acls-for-rooms. Servers do not tell:
    the homeserver takes what its own people send, and all others refuse it.
    """
    host = _PORT.sub("", server).casefold()
    if content.get("allow_ip_literals") is False and _is_address(host):
        return True
    allowed = _globs(content.get("allow"), host)
    if _globs(content.get("deny"), host).matching(host):
        return True
    # One that is too long to be used may be the one that allows it.
    return not allowed.matching(host) and not allowed.unused


def _globs(listed: object, host: str) -> GlobSet:
    """Those that may match, as far as the ends tell: there may be thousands."""
    globs = (glob.casefold() for glob in as_list(listed) if isinstance(glob, str))
    ends = ((glob, re.split(r"[*?]", glob)) for glob in globs)
    return GlobSet(glob for glob, parts in ends if host.startswith(parts[0]) and host.endswith(parts[-1]))


def _is_address(host: str) -> bool:
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
