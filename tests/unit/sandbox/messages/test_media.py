"""What an uploaded file is."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.sandbox.messages.media import describe

_JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffc0001108000700050311")


@pytest.mark.parametrize(
    ("head", "name", "declared", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + bytes([0, 0, 0, 5, 0, 0, 0, 7]), "x.bin", None, ("image/png", 5, 7)),
        (b"GIF89a" + bytes([5, 0, 7, 0]), "x", None, ("image/gif", 5, 7)),
        (_JPEG, "x.png", None, ("image/jpeg", 5, 7)),
        (b"RIFF0000WEBPVP8X" + bytes(8) + bytes([4, 0, 0, 6, 0, 0]), "x", None, ("image/webp", 5, 7)),
        (b"hello", "x.txt", "application/octet-stream", ("text/plain; charset=utf-8", None, None)),
        (b"OggS", "voice.ogg", None, ("audio/ogg", None, None)),
        (b"?", "x.unknown-thing", "application/octet-stream", (None, None, None)),
        (b"?", "x.unknown-thing", "application/x-mine", ("application/x-mine", None, None)),
    ],
)
def test_what_a_file_is(
    tmp_path: Path, head: bytes, name: str, declared: str | None, expected: tuple[str | None, int | None, int | None]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(head)
    found = describe(path, name, declared)
    assert (found.content_type, found.width, found.height) == expected


@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"RIFF0000WEBP"]), st.binary(max_size=64))
def test_a_broken_picture_is_no_error(magic: bytes, rest: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(magic + rest)
        file.flush()
        describe(Path(file.name), "x", None)
