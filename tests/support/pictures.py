"""Small pictures of every kind, made for a test."""

import base64
import io

from PIL import Image

_COLOURS = ("red", "green", "blue")


def still(kind: str = "PNG", width: int = 64, height: int = 64, colour: str = "red") -> bytes:
    """A picture of one colour; `kind` as Pillow names it."""
    made = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(made, kind)
    return made.getvalue()


def moving(kind: str = "GIF", width: int = 64, height: int = 64) -> bytes:
    """A picture with three frames."""
    frames = [Image.new("RGB", (width, height), colour) for colour in _COLOURS]
    made = io.BytesIO()
    frames[0].save(made, kind, save_all=True, append_images=frames[1:], duration=100, loop=0)
    return made.getvalue()


def data_uri(data: bytes, content_type: str = "image/png") -> str:
    """A picture as Discord's API takes it."""
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"
