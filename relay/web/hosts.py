"""Which names the web server answers to. Pure."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from yarl import URL

# https://www.rfc-editor.org/rfc/rfc9110#field.host; some clients leave the zone of a link-local address in it.
_FIELD = re.compile(
    r"(\[[0-9A-Fa-f:.]{2,45}(?:%[0-9A-Za-z_.~%-]{1,40})?\]|[0-9A-Za-z_.-]{1,254})(?::[0-9]{0,5})?", re.ASCII
)


class Hosts:
    """Loopback names, what `listen` says, and `more`. The port is not looked at: it may be forwarded."""

    def __init__(self, listen: str, more: Sequence[str] = ()) -> None:
        self._names = {_bare(name) for name in ("localhost", listen.rpartition(":")[0], *more)}
        # Whoever listens on all addresses answers to each: it may be another machine's that forwards the port.
        self._every_address = any(name in {"0.0.0.0", "::"} for name in self._names)  # noqa: S104 - it is not bound

    def answer_to(self, host: str, asked_at: str = "") -> bool:
        """Whether a request with this `Host` is for us. `asked_at`: the address of ours at which it came in."""
        match = _FIELD.fullmatch(host.strip())
        if match is None:
            return False
        name = _bare(match[1])
        if name in self._names or name.endswith(".localhost"):
            return True
        # A page that was opened by an address is no other site's: no name led there.
        address = _address(name)
        return address is not None and (self._every_address or address.is_loopback or name == _bare(asked_at))


def _bare(name: str) -> str:
    """`name` in the one form that is compared: that of DNS in lower case, or an address without its zone."""
    plain = name.strip().strip("[]").lower().removesuffix(".")
    address = _address(plain)
    if address is not None:
        return str(address)
    if plain.isascii():
        return plain
    try:
        return (URL.build(scheme="http", host=plain).raw_host or plain).removesuffix(".")
    except ValueError:  # no name that anybody could ask for
        return plain


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(name.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
