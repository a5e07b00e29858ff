"""Redirected downloads: from which addresses files are fetched."""

import aiohttp
import pytest
from yarl import URL

from relay.adapters.matrix.api.redirects import ForbiddenAddress, RedirectClient, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.example/a",
        "https://127.0.0.1/a",
        "https://[::1]/a",
        "https://[::ffff:169.254.169.254]/latest/meta-data",
        "https://localhost/a",
        "https://2130706433/a",
        "https://0x7f.1/a",
        "https://user:secret@cdn.example/a",
        "file:///etc/passwd",
        "ftp://cdn.example/a",
    ],
)
async def test_urls_that_are_not_fetched(url: str) -> None:
    elsewhere = RedirectClient()
    try:
        with pytest.raises(ForbiddenAddress):
            await elsewhere.get(URL(url), headers={}, timeout=aiohttp.ClientTimeout(total=5))
    finally:
        await elsewhere.close()
