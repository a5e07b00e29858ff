"""Faces for the people of the demo, drawn when it starts: a picture for each, and one for the relay itself."""

import io
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw

_PIXELS = 256
_FINER = 4
"""Drawn larger and then reduced, which makes the edges smooth."""

_INK = "#2b2230"
_RELAY = "#3b3f8f"


@dataclass(frozen=True, slots=True)
class _Look:
    wall: str
    clothes: str
    skin: str
    hair: str
    cut: Literal["long", "short", "curly", "bun"]
    beard: bool = False
    glasses: bool = False


_LOOKS = {
    "mira": _Look("#f2b84b", "#2c6e91", "#f0c6a0", "#4a2c1d", "long"),
    "jonas": _Look("#8fc7b5", "#8a3b3b", "#f3d0b3", "#b9752f", "short", beard=True),
    "ines": _Look("#e58a76", "#3f4f8c", "#c98f64", "#241a18", "bun", glasses=True),
    "yusuf": _Look("#9db4e8", "#e0a43a", "#8d5a3b", "#171212", "curly"),
}


def portrait(key: str) -> bytes:
    """The face of a participant, as a PNG."""
    look = _LOOKS[key]
    image, pen = _canvas(look.wall)
    match look.cut:
        case "long":
            pen.rounded((60, 60, 196, 214), 62, look.hair)
        case "bun":
            pen.ellipse((98, 14, 158, 74), look.hair)
        case "curly":
            for x, y in ((64, 104), (68, 72), (94, 48), (128, 40), (162, 48), (188, 72), (192, 104)):
                pen.ellipse((x - 28, y - 28, x + 28, y + 28), look.hair)
        case "short":
            pass
    pen.ellipse((34, 192, 222, 352), look.clothes)
    pen.rounded((106, 160, 150, 222), 20, _shade(look.skin))
    pen.ellipse((66, 44, 190, 180), look.hair)
    pen.ellipse((72, 74, 184, 196), look.skin)
    if look.beard:
        pen.chord((72, 74, 184, 196), 8, 172, look.hair)
        pen.ellipse((98, 128, 158, 168), look.skin)
    if look.cut == "long":
        pen.chord((70, 50, 184, 140), 160, 292, look.hair)
    for x in (106, 150):
        pen.ellipse((x - 7, 114, x + 7, 130), _INK)
        if look.glasses:
            pen.ring((x - 20, 102, x + 20, 142), 5, _INK)
    if look.glasses:
        pen.line((126, 120, 130, 120), 5, _INK)
    pen.arc((104, 126, 152, 164), 25, 155, 6, _INK)
    return _png(image)


def relay_picture() -> bytes:
    """The picture of the relay's own account: its sign, as on the page."""
    image, pen = _canvas(_RELAY)
    for points in ([(56, 96), (176, 96), (144, 64)], [(200, 160), (80, 160), (112, 192)]):
        pen.path(points, 24, "#ffffff")
    return _png(image)


class _Pen:
    """Draws on a larger canvas in the measures of the picture."""

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)

    def ellipse(self, box: tuple[int, int, int, int], colour: str) -> None:
        self._draw.ellipse(_scaled(box), colour)

    def rounded(self, box: tuple[int, int, int, int], radius: int, colour: str) -> None:
        self._draw.rounded_rectangle(_scaled(box), radius * _FINER, colour)

    def chord(self, box: tuple[int, int, int, int], start: int, end: int, colour: str) -> None:
        self._draw.chord(_scaled(box), start, end, colour)

    def ring(self, box: tuple[int, int, int, int], width: int, colour: str) -> None:
        self._draw.ellipse(_scaled(box), outline=colour, width=width * _FINER)

    def arc(self, box: tuple[int, int, int, int], start: int, end: int, width: int, colour: str) -> None:
        self._draw.arc(_scaled(box), start, end, colour, width * _FINER)

    def line(self, box: tuple[int, int, int, int], width: int, colour: str) -> None:
        self._draw.line(_scaled(box), colour, width * _FINER)

    def path(self, points: list[tuple[int, int]], width: int, colour: str) -> None:
        """A line through points, with round ends."""
        scaled = [(x * _FINER, y * _FINER) for x, y in points]
        self._draw.line(scaled, colour, width * _FINER, joint="curve")
        half = width * _FINER // 2
        for x, y in scaled:
            self._draw.ellipse((x - half, y - half, x + half, y + half), colour)


def _scaled(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    return left * _FINER, top * _FINER, right * _FINER, bottom * _FINER


def _canvas(colour: str) -> tuple[Image.Image, _Pen]:
    image = Image.new("RGB", (_PIXELS * _FINER, _PIXELS * _FINER), colour)
    return image, _Pen(image)


def _shade(colour: str) -> str:
    """A little darker."""
    parts = (int(colour[at : at + 2], 16) * 85 // 100 for at in (1, 3, 5))
    return "#" + "".join(f"{part:02x}" for part in parts)


def _png(image: Image.Image) -> bytes:
    found = io.BytesIO()
    image.resize((_PIXELS, _PIXELS), Image.Resampling.LANCZOS).save(found, "PNG")
    return found.getvalue()
