"""Encrypted files: read only with the right key, and only if nothing in them was changed."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.matrix.encrypted_files import decrypted, encrypted_source, read_source
from relay.core.offload import TemporaryFile
from relay.domain.ids import MediaRef
from relay.errors import Permanent
from tests.support.encrypted import encrypted

URI = "mxc://example.org/secret"


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read(secret: bytes, file: dict[str, Any], size: int = 7) -> list[bytes]:
    source = encrypted_source({"url": URI, **file})
    assert isinstance(source, MediaRef)
    uri, key = read_source(source.locator)
    assert uri == URI
    assert key is not None
    assert "secret" not in repr(key)
    with TemporaryFile() as spool:
        return [chunk async for chunk in decrypted(pieces(secret, size), key, spool)]


@given(st.binary(max_size=200), st.integers(1, 50))
async def test_a_file_is_decrypted_whatever_its_chunks_are(data: bytes, size: int) -> None:
    secret, file = encrypted(data)
    assert b"".join(await read(secret, file, size)) == data


@given(st.binary(min_size=1, max_size=100), st.data())
async def test_nothing_of_a_changed_file_is_passed_on(data: bytes, draw: st.DataObject) -> None:
    secret, file = encrypted(data)
    place = draw.draw(st.integers(0, len(secret) - 1))
    changed = bytearray(secret)
    changed[place] ^= draw.draw(st.integers(1, 255))
    source = encrypted_source({"url": URI, **file})
    assert isinstance(source, MediaRef)
    key = read_source(source.locator)[1]
    assert key is not None
    with TemporaryFile() as spool:
        passed_on = decrypted(pieces(bytes(changed), 9), key, spool)
        with pytest.raises(Permanent):
            await anext(passed_on)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"v": "v1"}, "does not know"),
        ({"v": None}, "does not know"),
        ({"key": {"kty": "oct", "alg": "A128GCM", "k": "AA"}}, "does not know"),
        ({"key": {"kty": "RSA"}}, "without a key"),
        ({"key": "k"}, "without a key"),
        ({"hashes": None}, "without a key"),
        ({"key": {"kty": "oct", "k": "AAAA"}}, "broken key"),
        ({"key": {"kty": "oct", "k": 7}}, "broken key"),
        ({"iv": "é"}, "broken key"),
        ({"hashes": {"sha1": "AAAA"}}, "broken key"),
        ({"url": "https://example.org/x"}, "cannot be read"),
        ({"url": None}, "cannot be read"),
    ],
)
def test_why_an_encrypted_file_cannot_be_read(change: dict[str, Any], words: str) -> None:
    _, file = encrypted(b"x")
    found = encrypted_source({"url": URI, **file, **change})
    assert isinstance(found, str)
    assert words in found


@pytest.mark.parametrize("file", [None, [], "mxc://a/b", 7])
def test_values_that_are_no_encrypted_file(file: object) -> None:
    assert encrypted_source(file) == "cannot be read"


def test_an_address_with_a_broken_key_is_no_address() -> None:
    assert read_source(f"{URI}#key=AA&iv=AA&sha256=AA") == ("", None)
    assert read_source(URI) == (URI, None)
