"""What a file is. Pure.

The type that a platform tells is what its user's client said; the first bytes know better.
"""

import re

_UNKNOWN = "application/octet-stream"
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypheic", "image/heic"),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftypqt", "video/quicktime"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"ID3", "audio/mpeg"),
    (8, b"WAVE", "audio/wav"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"PK\x03\x04", "application/zip"),
)
# Containers whose declared type may say more than the signature does: an .odt is a zip, a .mka is no video.
_VAGUE = {
    "application/zip": ("application/",),
    "video/mp4": ("video/", "audio/"),
    "video/webm": ("video/", "audio/"),
    "audio/ogg": ("audio/", "video/"),
}
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,60}")


def content_type(head: bytes, *declared: str) -> str:
    """The media type of a file that begins with `head`; `declared` counts where its bytes say nothing."""
    told = next((kind for kind in map(_tidy, declared) if kind not in {"", _UNKNOWN}), "")
    found = next((kind for at, sign, kind in _SIGNATURES if head.startswith(sign, at)), "")
    if found in {"image/webp", "audio/wav"} and not head.startswith(b"RIFF"):
        found = ""
    if found == "image/png" and b"acTL" in head[:4096]:
        return "image/apng"
    if found in _VAGUE and told.startswith(_VAGUE[found]):
        return told
    return found or told or _UNKNOWN


def _tidy(kind: str) -> str:
    kind = kind.partition(";")[0].strip().lower()
    return kind if _TYPE.fullmatch(kind) else ""
