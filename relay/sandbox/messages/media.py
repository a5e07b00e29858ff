"""What Discord finds out about an uploaded file: its type, and the size of a picture. Reads the first bytes only."""

import base64
import mimetypes
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_HEAD = 64 * 1024
_UNTOLD = frozenset({None, "", "application/octet-stream"})
# `mimetypes` depends on the machine for these.
_BY_SUFFIX = {
    ".webp": "image/webp",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".mp3": "audio/mpeg",
    ".m4a": "audio/mp4",
    ".flac": "audio/flac",
    ".md": "text/markdown; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".json": "application/json; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Description:
    """`content_type` None: unknown. `width` and `height` in pixels, for pictures."""

    content_type: str | None
    width: int | None = None
    height: int | None = None


def describe(path: Path, filename: str, declared: str | None) -> Description:
    """Look at a file. The declared type counts only where nothing better is known."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for sniff in (_png, _gif, _jpeg, _webp):
        found = sniff(head)
        if found is not None:
            return found
    suffix = Path(filename).suffix.lower()
    guessed = _BY_SUFFIX.get(suffix) or mimetypes.guess_type(f"x{suffix}")[0]
    return Description(guessed or (declared if declared not in _UNTOLD else None))


def _png(head: bytes) -> Description | None:
    if not head.startswith(b"\x89PNG\r\n\x1a\n") or len(head) < 24:
        return None
    width, height = struct.unpack(">II", head[16:24])
    return Description("image/png", width, height)


def _gif(head: bytes) -> Description | None:
    if head[:6] not in {b"GIF87a", b"GIF89a"} or len(head) < 10:
        return None
    width, height = struct.unpack("<HH", head[6:10])
    return Description("image/gif", width, height)


def _jpeg(head: bytes) -> Description | None:
    if not head.startswith(b"\xff\xd8\xff"):
        return None
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return Description("image/jpeg", width, height)
        at += 2 + max(length, 2)
    return Description("image/jpeg")


def _webp(head: bytes) -> Description | None:
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    if head[12:16] == b"VP8X" and len(head) >= 30:
        width = int.from_bytes(head[24:27], "little") + 1
        height = int.from_bytes(head[27:30], "little") + 1
        return Description("image/webp", width, height)
    return Description("image/webp")


# Eight by eight pixels.
GREY_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAFA3PEY8MlBGQUZaVVBfeMiCeG5uePWvuZHI////////////////////////////////////////////"
    "////////wAALCAAIAAgBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AP//Z"
)


def flat_png(colour: int, side: int = 128) -> bytes:
    """A square of one colour, 0xRRGGBB."""
    row = b"\x00" + colour.to_bytes(3, "big") * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * side)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
