"""Pictures as Discord reads and serves them: what the bytes of a file really are, and small copies of them."""

import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

EMOJI_SIDE = 128
_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp", "AVIF": "image/avif"}
_BY_SUFFIX = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".gif": "GIF", ".webp": "WEBP", ".avif": "AVIF"}
_MAY_MOVE = frozenset({"GIF", "WEBP", "AVIF"})  # of a PNG, only the first picture is shown
_MAX_PIXELS = 32_000_000


@dataclass(frozen=True, slots=True)
class Picture:
    """What a file turned out to be."""

    content_type: str
    width: int
    height: int
    animated: bool


def read_picture(data: bytes) -> Picture | None:
    """Decode a picture; None unless it is a PNG, JPEG, GIF, WebP or AVIF, whole, and of a size that can be read."""
    try:
        with Image.open(io.BytesIO(data), formats=tuple(_TYPES)) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS:
                return None
            image.load()
            kind = str(image.format)
            animated = kind in _MAY_MOVE and getattr(image, "n_frames", 1) > 1
            return Picture(_TYPES[kind], width, height, animated)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        return None


def emoji_copy(data: bytes, suffix: str, side: int, *, moving: bool) -> tuple[bytes, str] | None:
    """An emoji in the format of a suffix, at most `side` pixels wide and high, and its type; None: no such format.

    `moving`: with all its frames, where the format has them.
    """
    kind = _BY_SUFFIX.get(suffix)
    if kind is None:
        return None
    with Image.open(io.BytesIO(data)) as image:
        frames = getattr(image, "n_frames", 1) if moving and kind in _MAY_MOVE else 1
        copies, durations = [], []
        for number in range(frames):
            image.seek(number)
            copy = image.convert("RGB" if kind == "JPEG" else "RGBA")
            copy.thumbnail((min(side, EMOJI_SIDE), min(side, EMOJI_SIDE)))
            copies.append(copy)
            durations.append(image.info.get("duration", 100))
    made = io.BytesIO()
    if frames > 1:
        copies[0].save(made, kind, save_all=True, append_images=copies[1:], duration=durations, loop=0)
    else:
        copies[0].save(made, kind)
    return made.getvalue(), _TYPES[kind]
