"""Lottie drawings: a dot that goes from left to right. https://lottie.github.io/lottie-spec/latest/specs/"""

import base64
import json
import struct
import zlib
from typing import Any


def drawing(*, frames: float = 30, rate: float = 30, assets: list[Any] | None = None) -> bytes:
    """The drawing as Discord's CDN has it."""
    still: dict[str, Any] = {"a": 0, "k": [0, 0]}
    dot = {
        "ty": "gr",
        "it": [
            {"ty": "el", "p": still, "s": {"a": 0, "k": [100, 100]}},
            {"ty": "fl", "c": {"a": 0, "k": [1, 0, 0, 1]}, "o": {"a": 0, "k": 100}},
            {"ty": "tr", "p": still, "a": still, "s": {"a": 0, "k": [100, 100]}, "r": {"a": 0, "k": 0}},
        ],
    }
    ease = {"i": {"x": 0.5, "y": 0.5}, "o": {"x": 0.5, "y": 0.5}}
    path = [{"t": 0, "s": [60, 160, 0], "e": [260, 160, 0], **ease}, {"t": frames, "s": [260, 160, 0]}]
    place = {"o": {"a": 0, "k": 100}, "r": {"a": 0, "k": 0}, "p": {"a": 1, "k": path}, "a": {"a": 0, "k": [0, 0, 0]}}
    times = {"ip": 0, "op": frames}
    dots = {"ind": 1, "ty": 4, "nm": "dot", "sr": 1, "ks": place, "ao": 0, "shapes": [dot], "st": 0, "bm": 0} | times
    layers = [dots]
    if assets:
        layers += [{"ind": 2, "ty": 2, "nm": "picture", "refId": "0", "sr": 1, "ks": {}, "st": 0, "bm": 0} | times]
    whole = {"v": "5.5.2", "fr": rate, "w": 320, "h": 320, "nm": "dot", "ddd": 0, "assets": assets or []} | times
    return json.dumps(whole | {"layers": layers}).encode()


def laborious(dots: int = 250) -> bytes:
    """A drawing of so many dots, one over the other: it takes longer than a sticker is worth."""
    whole = json.loads(drawing(frames=300))
    (dot,) = whole["layers"]
    return json.dumps(whole | {"layers": [dot | {"ind": number} for number in range(dots)]}).encode()


def embedded(picture: bytes) -> dict[str, object]:
    """A picture inside a drawing, one of its `assets`."""
    data = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return {"id": "0", "w": 320, "h": 320, "u": "", "p": data, "e": 1}


def declared_png(side: int) -> bytes:
    """A few bytes that say of themselves to be a picture of that size."""
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b""))
    written = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)
