"""What a file really is, and the small copies that the CDN makes of emoji."""

import io
import struct
import zlib

import pytest
from PIL import Image

from relay.sandbox.messages.media import flat_png
from relay.sandbox.world.pictures import Picture, emoji_copy, read_picture
from tests.support.pictures import moving, still


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("GIF", "image/gif"),
        ("WEBP", "image/webp"),
        ("AVIF", "image/avif"),
    ],
)
def test_what_a_picture_is(kind: str, content_type: str) -> None:
    assert read_picture(still(kind, 30, 20)) == Picture(content_type, 30, 20, animated=False)


@pytest.mark.parametrize(("kind", "animated"), [("GIF", True), ("WEBP", True), ("PNG", False)])
def test_which_pictures_move(kind: str, animated: bool) -> None:
    found = read_picture(moving(kind, 16, 16))
    assert found is not None
    assert found.animated is animated


def _huge_png() -> bytes:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + flat_png(0)[33:]


@pytest.mark.parametrize(
    "data",
    [b"", b"\x89PNG\r\n\x1a\n" + bytes(16), b"<svg/>", still("PNG", 64, 64)[:80], still("BMP", 8, 8), _huge_png()],
    ids=["empty", "header only", "svg", "cut", "bmp", "huge"],
)
def test_what_is_no_picture(data: bytes) -> None:
    assert read_picture(data) is None


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif", ".gif"])
@pytest.mark.parametrize(("side", "expected"), [(128, (128, 64)), (32, (32, 16)), (4096, (128, 64))])
def test_copies_are_small_and_of_the_format_asked_for(suffix: str, side: int, expected: tuple[int, int]) -> None:
    made = emoji_copy(moving("GIF", 300, 150), suffix, side, moving=False)
    assert made is not None
    found = read_picture(made[0])
    assert found == Picture(made[1], *expected, animated=False)
    assert emoji_copy(still("PNG", 8, 8), ".svg", 128, moving=False) is None


def test_copies_move_where_that_is_asked_for() -> None:
    for suffix in (".gif", ".webp"):
        made = emoji_copy(moving("GIF", 20, 20), suffix, 128, moving=True)
        assert made is not None
        with Image.open(io.BytesIO(made[0])) as image:
            assert (getattr(image, "n_frames", 1), image.size) == (3, (20, 20))
