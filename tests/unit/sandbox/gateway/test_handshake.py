"""Compressed payloads can be read one by one."""

import json
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from relay.sandbox.gateway.handshake import ZlibStream, ZstdStream, compressor_for


@given(st.lists(st.text(max_size=200).map(lambda text: json.dumps({"d": text})), min_size=1, max_size=10))
def test_each_payload_can_be_read_when_it_arrives(payloads: list[str]) -> None:
    deflate, inflate = ZlibStream(), zlib.decompressobj()
    squeeze, release = ZstdStream(), zstandard.ZstdDecompressor().decompressobj()
    for payload in payloads:
        assert inflate.decompress(deflate.compress(payload)).decode() == payload
        assert release.decompress(squeeze.compress(payload)).decode() == payload


def test_a_compression_that_does_not_exist() -> None:
    assert compressor_for("") is None
    with pytest.raises(KeyError):
        compressor_for("brotli")
