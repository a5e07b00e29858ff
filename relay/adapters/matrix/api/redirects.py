"""Files that the homeserver keeps on another server: it may answer a download with a redirect to it.

https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid (307, 308).
With a redirect, whoever runs the homeserver could make the relay read from its own private network and copy that into
a room. So redirects are followed only over HTTPS and to public addresses, and never with the access token.
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
    """The relay does not fetch files from this address."""


class _PrivateAddress(OSError):
    """A host name whose addresses are all private."""


class RedirectClient:
    """Fetches from servers other than the homeserver."""

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
            raise ForbiddenAddress from None  # for example an IP address in an unusual form
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _PrivateAddress):
                raise ForbiddenAddress from None
            raise

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


def _is_allowed(url: URL) -> bool:
    """Whether the URL may be fetched, before its host is looked up. Pure."""
    if url.scheme != "https" or not url.host or url.user is not None or url.password is not None:
        return False
    try:
        # An IP address is not resolved, so `_PublicResolver` does not see it.
        return is_public(url.host)
    except ValueError:
        return True


def is_public(address: str) -> bool:
    """Whether an IP address is public. Raises `ValueError` if it is no IP address. Pure."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = embedded or ip
    return ip.is_global and not ip.is_multicast


class _PublicResolver(AbstractResolver):
    """Returns public addresses only. The check is made when connecting: before that, the name could still change."""

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
