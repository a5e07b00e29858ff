"""Files that the homeserver keeps somewhere else: it may answer a download with the address of another server.

https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid (307, 308).
Whoever runs the homeserver could make the relay read from the network that it runs in, and what it reads ends up in a
room. So nothing is fetched from there but over HTTPS from public addresses, and never with the access token.
"""

import ipaddress
import socket
from collections.abc import Mapping

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from yarl import URL

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class ForbiddenAddress(Exception):
    """No place to fetch a file from."""


class _PrivateAddress(OSError):
    """A name that leads into a private network."""


class RedirectClient:
    """Other servers than the homeserver."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def get(
        self, url: URL, *, headers: Mapping[str, str], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """GET what is at `url`. Raises `ForbiddenAddress`, and what aiohttp raises."""
        if not _is_allowed(url):
            raise ForbiddenAddress
        if self._session is None:
            connector = aiohttp.TCPConnector(resolver=_PublicResolver(), limit=64)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        try:
            return await self._session.get(url, headers=headers, timeout=timeout, allow_redirects=False)
        except aiohttp.InvalidURL:
            raise ForbiddenAddress from None  # an IP address in a form that is hard to tell
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _PrivateAddress):
                raise ForbiddenAddress from None
            raise

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


def _is_allowed(url: URL) -> bool:
    """Whether an address is worth looking up. Pure."""
    if url.scheme != "https" or not url.host or url.user is not None or url.password is not None:
        return False
    try:
        # The resolver is not asked about these.
        return is_public(url.host)
    except ValueError:
        return True


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's. Raises `ValueError` for what is none. Pure."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        within = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            within = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = within or ip
    return ip.is_global and not ip.is_multicast


class _PublicResolver(AbstractResolver):
    """Tells of public addresses only: what a name leads to is looked at when it is connected to, not before."""

    def __init__(self) -> None:
        self._resolver = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        public = [one for one in found if is_public(one["host"])]
        if not public:
            raise _PrivateAddress("not a public address")
        return public

    async def close(self) -> None:
        await self._resolver.close()
