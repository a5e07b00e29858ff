"""What a file may be called."""

import mimetypes
import unicodedata

from relay.domain.names import is_hidden

_UNKNOWN = "application/octet-stream"
_LONGEST_NAME = 120
# `mimetypes` depends on the machine for these.
_SUFFIXES = {
    "image/png": ".png",
    "image/apng": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/avif": ".avif",
    "audio/ogg": ".ogg",
    "audio/mpeg": ".mp3",
    "audio/mp4": ".m4a",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "application/pdf": ".pdf",
    "text/plain": ".txt",
}
# Not in a name on one system or another.
_FORBIDDEN = frozenset('/\\:*?"<>|')


def file_name(name: str, kind: str) -> str:
    """`name` as any system takes it: one path segment, no hidden characters, an ending where it had none."""
    shown = "".join(
        "_" if char in _FORBIDDEN else char for char in unicodedata.normalize("NFC", name) if not is_hidden(char)
    )
    shown = " ".join(shown.split()).strip(". ") or "file"
    stem, dot, ending = shown.rpartition(".")
    if not (dot and stem and ending.isalnum() and len(ending) <= 10):
        stem, ending = shown, _suffix(kind).removeprefix(".")
    stem = stem[: _LONGEST_NAME - len(ending) - 1].rstrip(". ") or "file"
    return f"{stem}.{ending}" if ending else stem


def _suffix(kind: str) -> str:
    return _SUFFIXES.get(kind) or ("" if kind == _UNKNOWN else mimetypes.guess_extension(kind) or "")
