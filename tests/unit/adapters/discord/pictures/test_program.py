"""Lottie stickers become moving pictures, whatever is in them."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from relay.adapters.discord import media
from relay.adapters.discord.pictures import drawing as parent
from relay.adapters.discord.pictures import program as picture_program
from relay.adapters.discord.pictures.drawing import Pictures
from relay.errors import Permanent
from relay.sandbox.messages.media import flat_png
from tests.support.lottie import declared_png, drawing, embedded
from tests.support.patience import PATIENCE

# What none of the pictures of a drawing have: this red.
BLUE = (0, 0, 255)


async def drawn(data: bytes) -> Image.Image:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    picture = Image.open(io.BytesIO(await Pictures().sticker(chunks())))
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


@pytest.mark.slow
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


@pytest.mark.slow
async def test_no_file_of_ours_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(flat_png(0x0000FF, 320))
    named = {"id": "0", "w": 320, "h": 320, "u": f"{tmp_path}/", "p": "secret.png", "e": 0}
    for asset in (named, named | {"u": "", "p": f"{tmp_path}/secret.png"}):
        picture = (await drawn(drawing(assets=[asset]))).convert("RGB")
        assert BLUE not in {color for _, color in picture.getcolors(1 << 20) or ()}


async def test_what_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "endless.py"
    program.write_text("import sys; sys.stdin.read()\nwhile True: pass\n")
    monkeypatch.setattr(parent, "_PROGRAM", program)
    monkeypatch.setattr(parent, "_TIMEOUT", 0.3)
    with pytest.raises(Permanent, match="impossible to draw"):
        async with asyncio.timeout(PATIENCE):
            await drawn(drawing())


def test_addresses_of_drawings() -> None:
    assert media.is_lottie("/stickers/123.json")
    assert not any(map(media.is_lottie, ("/stickers/123.png", "/x/stickers/1.json", "/attachments/1/2/3.json")))


async def test_a_picture_inside_a_drawing_is_drawn() -> None:
    picture = (await drawn(drawing(assets=[embedded(flat_png(0x0000FF, 320))]))).convert("RGB")
    assert BLUE in {color for _, color in picture.getcolors(1 << 20) or ()}


@pytest.mark.parametrize(
    "assets",
    [
        [embedded(declared_png(30_000))],
        [embedded(declared_png(3_000)) | {"id": str(number)} for number in range(4)],
        [embedded(b"BM" + bytes(1000))],
        [{"id": "0", "p": "data:image/png;base64,AAAA", "e": 1}],
    ],
    ids=["large", "many", "another format", "none"],
)
def test_pictures_that_decode_to_gigabytes_are_refused_by_their_headers(assets: list[object]) -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match="picture"):
        picture_program.draw(drawing(assets=assets))
    assert time.process_time() - started < 1


ATTEMPTS = {
    "a file": "open(sys.executable, 'rb')",
    "a file in the place of a stream": "os.close(0); os.open(sys.executable, os.O_RDONLY)",
    "a socket": "socket.socket()",
    "a pipe": "os.pipe()",
    "a process": "os.fork() or os._exit(os.write(1, b'child, '))",
    "a program": "os.execv(sys.executable, [sys.executable, '-c', ''])",
    "an unlinked file": "os.unlink(here)",
    "a renamed file": "os.rename(here, here + '.bak')",
    "a folder": "os.mkdir(here + '.d')",
    "a changed mode": "os.chmod(here, 0o666)",
    "an emptied file": "os.truncate(here, 0)",
    "a listing": "os.listdir('/')",
    "what there is": "os.stat(here)",
    "a signal to the daemon": "os.kill(os.getppid(), 0)",
    "higher limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
    "another user": "os.setuid(os.getuid() or 1)",
    "memory": "bytearray(2 * 1024**3)",
    "growing output": "resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))",
}


@pytest.mark.skipif(sys.platform != "linux", reason="what the kernel refuses is Linux's")
@pytest.mark.parametrize("user", ["ours", "another"])
def test_the_drawing_process_gets_out_nowhere(user: str, tmp_path: Path) -> None:
    if user == "another" and os.geteuid() != 0:
        pytest.skip("only root can become another user")
    here = tmp_path / "relay.db"
    here.write_text("words")
    here.chmod(0o666)
    tmp_path.chmod(0o777)
    lines = [
        "import os, resource, runpy, socket, sys",
        f"program, here = runpy.run_path({picture_program.__file__!r}), {str(here)!r}",
        "os.setuid(1000)" if user == "another" else "",
        "program['confine']()",
    ]
    for name, attempt in ATTEMPTS.items():
        lines += [f"try: {attempt}", "except (OSError, MemoryError, ValueError): pass"]
        lines += [f"else: os.write(1, {f'{name}, '.encode()!r})"]
    lines.append("os.write(1, b'all tried'); os._exit(0)")
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], timeout=PATIENCE, check=True, capture_output=True)
    assert done.stdout == b"all tried"
    assert here.read_text() == "words"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can become another user")
async def test_the_drawing_process_is_nobody_where_we_are_root() -> None:
    program = (
        f"import os, runpy; runpy.run_path({picture_program.__file__!r})['confine']()\n"
        "os.write(1, b'confined')\n"
        "while True: os.read(0, 1)\n"
    )
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdin=pipe, stdout=pipe)
    try:
        assert process.stdout is not None
        await process.stdout.read(1)
        status = Path(f"/proc/{process.pid}/status").read_text()
    finally:
        process.kill()
        await process.wait()
    assert "Uid:\t65534\t65534\t65534\t65534" in status
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status


@pytest.mark.slow
def test_a_drawing_process_that_never_ends_is_ended() -> None:
    program = (
        f"import runpy; program = runpy.run_path({picture_program.__file__!r})\n"
        "program['confine'].__globals__['_CPU_SECONDS'] = 1\n"
        "program['confine']()\nwhile True: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=PATIENCE, check=False)
    assert done.returncode in {-signal.SIGKILL, -signal.SIGXCPU}
