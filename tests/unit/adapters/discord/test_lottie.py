"""Lottie stickers become moving pictures, whatever is in them."""

import io
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from relay.adapters.discord import lottie
from relay.errors import Permanent
from relay.sandbox.media import flat_png
from tests.support.lottie import drawing

# What none of the pictures of a drawing have: this red.
BLUE = (0, 0, 255)


async def drawn(data: bytes) -> Image.Image:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    picture = Image.open(io.BytesIO(await lottie.Artist().picture(chunks())))
    assert picture.format == "WEBP"
    return picture


async def test_a_drawing_moves() -> None:
    picture = await drawn(drawing(frames=30, rate=30))
    assert picture.size == (320, 320)
    frames = getattr(picture, "n_frames", 1)
    assert 25 <= frames <= 31
    seen = []
    for number in (0, frames - 1):
        picture.seek(number)
        pixels = picture.convert("RGBA")
        seen.append([pixels.getpixel((x, 160)) for x in (60, 260)])
        assert pixels.getpixel((160, 10)) == (0, 0, 0, 0)
    assert seen[0][0] == (255, 0, 0, 255)
    assert seen[1][1] == (255, 0, 0, 255)


async def test_a_long_one_is_cut_and_a_fast_one_thinned() -> None:
    picture = await drawn(drawing(frames=100_000, rate=60))
    assert getattr(picture, "n_frames", 1) <= 150


async def test_a_still_one_is_one_picture() -> None:
    assert getattr(await drawn(drawing(frames=0)), "n_frames", 1) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        drawing(rate=0),
        b" " * 2_000_000,
    ],
    ids=lambda data: str(data[:8]),
)
async def test_what_is_no_drawing_is_refused(data: bytes) -> None:
    with pytest.raises(Permanent):
        await drawn(data)


async def test_no_file_of_ours_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(flat_png(0x0000FF, 320))
    named = {"id": "0", "w": 320, "h": 320, "u": f"{tmp_path}/", "p": "secret.png", "e": 0}
    for asset in (named, named | {"u": "", "p": f"{tmp_path}/secret.png"}):
        picture = (await drawn(drawing(assets=[asset]))).convert("RGB")
        assert BLUE not in {color for _, color in picture.getcolors(1 << 20) or ()}


async def test_what_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "endless.py"
    program.write_text("import sys; sys.stdin.read()\nwhile True: pass\n")
    monkeypatch.setattr(lottie, "_PROGRAM", program)
    monkeypatch.setattr(lottie, "_SECONDS", 0.3)
    started = time.monotonic()
    with pytest.raises(Permanent, match="impossible to draw"):
        await drawn(drawing())
    assert time.monotonic() - started < 5


def test_addresses_of_drawings() -> None:
    assert lottie.is_drawing("/stickers/123.json")
    assert not any(map(lottie.is_drawing, ("/stickers/123.png", "/x/stickers/1.json", "/attachments/1/2/3.json")))
