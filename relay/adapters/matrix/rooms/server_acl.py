"""Whether a room's access list for servers denies one: what is sent from there reaches nobody on any other server.

https://spec.matrix.org/latest/client-server-api/#server-access-control-lists-acls-for-rooms. Servers do not tell: the
homeserver takes what its own people send, and all others refuse it.
"""

import re
from ipaddress import ip_address

from relay.core.moderation.globs import GlobSet
from relay.domain.jsontext import Json, as_list

_PORT = re.compile(r":[0-9]+\Z")


def is_denied(content: Json, server: str) -> bool:
    """Whether an `m.room.server_acl` event denies a server."""
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
