"""What a file is and what it may be called."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.media.kinds import content_type, file_name
from relay.sandbox.media import flat_png


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


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("cat.png", "image/png", "cat.png"),
        ("wave", "image/png", "wave.png"),
        ("../../etc/passwd", "text/plain", "_.._etc_passwd.txt"),
        ("a\u202egnp.exe", "application/octet-stream", "agnp.exe"),
        ("  two   words .txt", "text/plain", "two words.txt"),
        ("", "image/jpeg", "file.jpg"),
        ("...", "application/octet-stream", "file"),
        (".profile", "text/plain", "profile.txt"),
        ("日本語.pdf", "application/pdf", "日本語.pdf"),
        ("x" * 300 + ".png", "image/png", "x" * 116 + ".png"),
    ],
)
def test_safe_names(name: str, kind: str, expected: str) -> None:
    assert file_name(name, kind) == expected


@given(st.text(max_size=400), st.sampled_from(["image/png", "application/octet-stream", "text/plain"]))
def test_any_name_is_one_visible_segment(name: str, kind: str) -> None:
    safe = file_name(name, kind)
    assert 0 < len(safe) <= 120
    assert not set('/\\:*?"<>|') & set(safe)
    assert safe not in {".", ".."}
    assert not any(unicodedata.category(char) in {"Cc", "Cf", "Cs"} for char in safe)
    assert file_name(safe, kind) == safe


@given(st.binary(max_size=64), st.text(max_size=80))
def test_any_bytes_have_a_type(head: bytes, declared: str) -> None:
    kind = content_type(head, declared)
    assert kind.isascii()
    assert kind.count("/") == 1
    assert not set(" \r\n;") & set(kind)
