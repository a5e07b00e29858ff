"""Whatever is called a picture becomes an avatar, or is refused in little time and memory."""

import asyncio
import io
import json
import resource
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from relay.adapters.discord.pictures import drawing, program
from relay.adapters.discord.pictures.drawing import Pictures
from relay.errors import Permanent
from tests.support.lottie import declared_png
from tests.support.patience import PATIENCE
from tests.support.pictures import moving, still

SVG = b"""<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script>
<image href="file:///etc/passwd"/></svg>"""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def apng_bomb(frames: int) -> bytes:
    """An APNG that says it has very many frames, each of them large."""
    side = 4000
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = zlib.compress(bytes((1 + 3 * side) * side), 9)
    control = chunk(b"acTL", struct.pack(">II", frames, 0))
    made = [b"\x89PNG\r\n\x1a\n", header, control]
    for number in range(10):
        made.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2 * number, side, side, 0, 0, 1, 50, 0, 0)))
        made.append(chunk(b"fdAT", struct.pack(">I", 2 * number + 1) + pixels) if number else chunk(b"IDAT", pixels))
    return b"".join([*made, chunk(b"IEND", b"")])


def opened(data: bytes) -> Image.Image:
    assert len(data) <= 256 * 1024
    picture = Image.open(io.BytesIO(data))
    assert picture.size == (128, 128)
    return picture


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
async def test_a_picture_becomes_a_square(kind: str) -> None:
    picture = opened(await Pictures().avatar(still(kind, 300, 200, "red")))
    assert picture.format == "PNG"
    red, green, blue = picture.convert("RGB").getpixel((64, 64))  # type: ignore[misc]
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
async def test_what_moves_still_moves(kind: str) -> None:
    picture = opened(await Pictures().avatar(moving(kind, 200, 300)))
    assert picture.format == "GIF"
    assert getattr(picture, "n_frames", 1) == 3
    assert picture.info["duration"] == 100


def test_what_moves_too_much_gets_fewer_frames() -> None:
    frames = [Image.effect_noise((256, 256), 90).convert("RGB") for _ in range(60)]
    made = io.BytesIO()
    frames[0].save(made, "GIF", save_all=True, append_images=frames[1:], duration=40, loop=0)
    picture = opened(program.avatar(made.getvalue()))
    assert 1 < getattr(picture, "n_frames", 1) < 60


def test_the_whole_of_a_picture_counts_which_way_up_it_is() -> None:
    tall = Image.new("RGB", (100, 100), "blue")
    tall.paste("red", (0, 0, 100, 50))
    made = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    tall.save(made, "JPEG", exif=exif, quality=95)
    red, _, blue = opened(program.avatar(made.getvalue())).convert("RGB").getpixel((64, 20))  # type: ignore[misc]
    assert blue > red


def test_nothing_but_the_pixels_is_passed_on() -> None:
    made = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    Image.new("RGB", (50, 50)).save(made, "JPEG", exif=exif, comment=b"my address")
    assert b"where I live" in made.getvalue()
    passed = program.avatar(made.getvalue())
    assert b"where I live" not in passed
    assert b"my address" not in passed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        SVG,
        b"<html><img src=x onerror=alert(1)>",
        declared_png(30_000),
        still("BMP"),
        still("TIFF"),
        still("ICO"),
        still("PPM"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run",
        still("PNG")[:60],
        b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(50),
        b"\0" * 2_000_000,
    ],
    ids=[
        "nothing",
        "half",
        "svg",
        "html",
        "30,000x30,000",
        "bmp",
        "tiff",
        "ico",
        "ppm",
        "postscript",
        "cut",
        "lie",
        "zeros",
    ],
)
async def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(Permanent, match="impossible to draw"):
        await Pictures().avatar(data)


def seconds_of_children() -> float:
    """What the processes that have ended took of a processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def test_a_bomb_is_one_picture_or_none() -> None:
    bomb = apng_bomb(2**31 - 1)
    assert len(bomb) < 2 * 1024 * 1024
    before = seconds_of_children()
    assert getattr(opened(await Pictures().avatar(bomb)), "n_frames", 1) == 1
    assert seconds_of_children() - before < 5, "some 0.4 s; all its frames would take hours"


ODD = (EOFError, LookupError, MemoryError, OSError, SyntaxError, ValueError, struct.error, zlib.error)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_pictures_never_do_more_than_fail(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP"]))
    whole = bytearray(moving(kind, 40, 40) if kind != "JPEG" else still(kind, 40, 40))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    del whole[data.draw(st.integers(0, len(whole))) :]
    # Whatever Pillow raises ends the process that draws, and nothing else.
    with suppress(*ODD):
        opened(program.avatar(bytes(whole)))


# --- Letters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("letters", [["A"], ["AL"], ["Ä"], ["\U0001f98a", "F"], ["你", "N"], ["\uffff"], []])
async def test_letters(letters: list[str]) -> None:
    picture = opened(await Pictures().letters(letters, 200)).convert("RGB")
    colours = picture.getcolors(1 << 16) or []
    assert {(255, 255, 255), program.ground(200)} <= {colour for _, colour in colours}
    white = sum(count for count, colour in colours if colour == (255, 255, 255))
    assert 100 < white < 128 * 128 / 2


def test_the_first_letters_that_the_font_has_are_taken() -> None:
    draw = program.Letters().draw
    order = {"letters": ["\uffff\uffff", "\uffff", "B"], "hue": 1}
    assert draw(json.dumps(order).encode()) == draw(json.dumps(order | {"letters": ["B"]}).encode())
    assert draw(json.dumps(order).encode()) != draw(json.dumps(order | {"letters": ["C"]}).encode())


def test_letters_can_be_read_on_every_colour() -> None:
    grounds = {program.ground(hue) for hue in range(0, 360, 15)}
    assert len(grounds) == 24
    for ground in grounds:
        assert program.contrast(ground, (255, 255, 255)) >= program.LEAST_CONTRAST


def test_contrast_is_as_defined() -> None:
    assert program.contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert program.contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


async def test_a_sticker_does_not_wait_for_avatars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody's avatar may take as long as it is allowed to, and a message waits for its sticker."""
    hangs = asyncio.Event()

    async def draws(what: str, data: bytes, max_size: int) -> bytes:
        if what == "avatar":
            await hangs.wait()
        return b"drawn"

    monkeypatch.setattr(drawing, "_draw", draws)
    pictures = Pictures()
    avatars = [asyncio.create_task(pictures.avatar(b"")) for _ in range(3)]
    await asyncio.sleep(0)

    async def animation() -> AsyncIterator[bytes]:
        yield b"{}"

    async with asyncio.timeout(PATIENCE):
        assert await pictures.sticker(animation()) == b"drawn"
    hangs.set()
    assert await asyncio.gather(*avatars) == [b"drawn"] * 3
