"""Pictures that the relay draws for Discord or of it, each in a confined process (`program.py`)."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from relay.errors import FileUnavailable, Permanent
from relay.logs import get_logger

_log = get_logger(__name__)

_PROGRAM = Path(__file__).with_name("program.py")
_TIMEOUT = 60.0
"""Seconds until a process is ended that does nothing. One that works is ended by its limit of processor time, which can
take long where others want the processor: it gives way to them. No message waits for that: see `media/deadlines.py`."""
_CHUNK = 64 * 1024

# Discord accepts half of it: https://docs.discord.com/developers/resources/sticker#create-guild-sticker
_MAX_LOTTIE_SIZE = 1024 * 1024
_MAX_STICKER_SIZE = 8 * 1024 * 1024
# https://docs.discord.com/developers/resources/emoji#create-application-emoji
MAX_AVATAR_SIZE = 256 * 1024


@dataclass(slots=True)
class Pictures:
    """Draws one sticker and one avatar at a time, so that pictures never take all CPUs of a small machine.

    A message waits for its sticker, but none for an avatar: so no sticker waits for somebody's avatar either.
    """

    _stickers: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(1))
    _avatars: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(1))

    async def sticker(self, animation: AsyncIterator[bytes]) -> bytes:
        """A Lottie animation as a moving picture. Raises `Permanent` if it cannot be drawn, `FileUnavailable`."""
        read = bytearray()
        async for chunk in animation:
            read += chunk
            if len(read) > _MAX_LOTTIE_SIZE:
                raise Permanent("too large to be drawn")
        return await self._draw("sticker", bytes(read), _MAX_STICKER_SIZE)

    async def avatar(self, picture: bytes) -> bytes:
        """Any picture as an avatar, a PNG or a GIF. Raises `Permanent` if it cannot be drawn, `FileUnavailable`."""
        return await self._draw("avatar", picture, MAX_AVATAR_SIZE)

    async def letters(self, letters: Sequence[str], hue: int) -> bytes:
        """An avatar with letters on it: the first of these for which there is a font. Raises as `avatar` does."""
        order = json.dumps({"letters": list(letters), "hue": hue})
        return await self._draw("letters", order.encode(), MAX_AVATAR_SIZE)

    async def _draw(self, what: Literal["sticker", "avatar", "letters"], data: bytes, max_size: int) -> bytes:
        async with self._stickers if what == "sticker" else self._avatars:
            return await _draw(what, data, max_size)


async def _draw(what: str, data: bytes, max_size: int) -> bytes:
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", str(_PROGRAM), what, stdin=pipe, stdout=pipe, stderr=nothing, env={}
        )
    except OSError as error:
        raise FileUnavailable(f"a process to draw the {what} cannot be started ({error.strerror})") from None
    try:
        async with asyncio.timeout(_TIMEOUT):
            picture = await _run(process, data, max_size)
            status = await process.wait()
    except (TimeoutError, OSError):
        picture, status = b"", -1
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status != 0 or not 0 < len(picture) <= max_size:
        _log.warning("picture not drawn", kind=what, status=status, size=len(picture))
        raise Permanent("impossible to draw")
    return picture


async def _run(process: asyncio.subprocess.Process, data: bytes, max_size: int) -> bytes:
    """The output of the program for the input `data`, up to the allowed size."""
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(data)
    process.stdin.write_eof()
    picture = bytearray()
    while len(picture) <= max_size and (chunk := await process.stdout.read(_CHUNK)):
        picture += chunk
    return bytes(picture)
