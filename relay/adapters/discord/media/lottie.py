"""Lottie stickers as moving pictures: nothing but Discord's own clients plays the drawings themselves."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from relay.errors import FileUnavailable, Permanent

_log = structlog.get_logger(__name__)

CONTENT_TYPE = "image/webp"
SUFFIX = "webp"

_PROGRAM = Path(__file__).with_name("lottie_program.py")
_ADDRESS = re.compile(r"/stickers/\d{1,20}\.json", re.ASCII)
# Discord takes half of it: https://docs.discord.com/developers/resources/sticker#create-guild-sticker
_LARGEST_DRAWING = 1024 * 1024
_LARGEST_PICTURE = 8 * 1024 * 1024
_SECONDS = 20.0


def is_drawing(path: str) -> bool:
    """Whether a path on Discord's CDN is that of a Lottie sticker."""
    return _ADDRESS.fullmatch(path) is not None


class Artist:
    """Draws, one at a time: what others send must not take both hands of a small machine."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(1)

    async def picture(self, drawing: AsyncIterator[bytes]) -> bytes:
        """The picture that a drawing makes. Raises `Permanent` where it makes none, `FileUnavailable`."""
        read = bytearray()
        async for chunk in drawing:
            read += chunk
            if len(read) > _LARGEST_DRAWING:
                raise Permanent("too large to be drawn")
        async with self._free:
            return await _drawn(bytes(read))


async def _drawn(drawing: bytes) -> bytes:
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", str(_PROGRAM), stdin=pipe, stdout=pipe, stderr=nothing, env={}
        )
    except OSError as error:
        raise FileUnavailable(f"no process to draw a sticker in ({error.strerror})") from None
    try:
        async with asyncio.timeout(_SECONDS):
            picture = await _through(process, drawing)
            status = await process.wait()
    except (TimeoutError, OSError):
        picture, status = b"", -1
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status != 0 or not 0 < len(picture) <= _LARGEST_PICTURE:
        _log.warning("sticker not drawn", status=status, size=len(picture))
        raise Permanent("impossible to draw")
    return picture


async def _through(process: asyncio.subprocess.Process, drawing: bytes) -> bytes:
    """What the program says to `drawing`, as much of it as may be."""
    assert process.stdin is not None  # noqa: S101 - both were asked for
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(drawing)
    process.stdin.write_eof()
    picture = bytearray()
    while len(picture) <= _LARGEST_PICTURE and (chunk := await process.stdout.read(65_536)):
        picture += chunk
    return bytes(picture)
