"""Which names the web server answers to. Pure."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

# https://www.rfc-editor.org/rfc/rfc9110#field.host
_FIELD = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z_.-]{1,254})(?::[0-9]{0,5})?", re.ASCII)


class Hosts:
    """Loopback names, what `listen` says, and `more`. The port is not looked at: it may be forwarded."""

    def __init__(self, listen: str, more: Sequence[str] = ()) -> None:
        self._names = {_bare(name) for name in ("localhost", listen.rpartition(":")[0], *more)}
        # Whoever listens on all addresses answers to each. A page that was opened by its address is no other site's.
        self._every_address = any(name in {"0.0.0.0", "::"} for name in self._names)  # noqa: S104 - it is not bound

    def answer_to(self, host: str) -> bool:
        """Whether a request with this `Host` is for us."""
        match = _FIELD.fullmatch(host.strip())
        if match is None:
            return False
        name = _bare(match[1])
        if name in self._names or name.endswith(".localhost"):
            return True
        address = _address(name)
        return address is not None and (self._every_address or address.is_loopback)


def _bare(name: str) -> str:
    plain = name.strip().strip("[]").lower().removesuffix(".")
    address = _address(plain)
    return plain if address is None else str(address)


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(name)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
