"""What a file is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.media.library import content_type
from relay.sandbox.messages.media import flat_png


@pytest.mark.parametrize(
    ("head", "declared", "expected"),
    [
        (flat_png(0), "text/plain", "image/png"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20) + b"acTL", "image/png", "image/apng"),
        (b"\xff\xd8\xff\xe0", "", "image/jpeg"),
        (b"GIF89a", "image/png", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "", "image/webp"),
        (b"12345678WEBP", "", "application/octet-stream"),
        (b"\0\0\0\x18ftypmp42", "", "video/mp4"),
        (b"\0\0\0\x18ftypiso5", "audio/mp4", "audio/mp4"),
        (b"OggS", "video/ogg", "video/ogg"),
        (b"OggS", "image/png", "audio/ogg"),
        (b"PK\x03\x04", "application/vnd.oasis.opendocument.text", "application/vnd.oasis.opendocument.text"),
        (b"hello", "text/plain; charset=utf-8", "text/plain"),
        (b"hello", "nonsense\r\nX-Header: 1", "application/octet-stream"),
        (b"", "application/octet-stream", "application/octet-stream"),
    ],
)
def test_bytes_know_better_than_what_was_declared(head: bytes, declared: str, expected: str) -> None:
    assert content_type(head, declared) == expected


def test_the_first_that_says_something_counts() -> None:
    assert content_type(b"x", "application/octet-stream", "", "text/csv", "text/plain") == "text/csv"


@given(st.binary(max_size=64), st.text(max_size=80))
def test_any_bytes_have_a_type(head: bytes, declared: str) -> None:
    kind = content_type(head, declared)
    assert kind.isascii()
    assert kind.count("/") == 1
    assert not set(" \r\n;") & set(kind)
