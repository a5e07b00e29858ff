"""A program of its own: a Lottie drawing on standard input, a moving WebP picture on standard output.

It runs in a process with nothing in its environment and little to use up, because what it reads comes from anybody and
rlottie is C++. A drawing may name picture files beside it, which would be read from our disk: such parts are left out.
Whatever it cannot draw ends it with a status other than 0.
"""

import io
import json
import os
import resource
import sys
from typing import Any

from PIL import Image
from rlottie_python.rlottie_wrapper import LottieAnimation

_CPU_SECONDS = 15
_MEMORY = 2 * 1024**3
# As large as Discord's other stickers are. https://docs.discord.com/developers/resources/sticker
_SIDE = 320
_MOST_FRAMES = 150
_MOST_PER_SECOND = 30.0
_LONGEST_SECONDS = 10.0
# What homeservers take without ado; most are a tenth of it.
_MOST_BYTES = 2 * 1024**2


def main() -> None:
    """Read, draw, write."""
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.buffer.write(draw(sys.stdin.buffer.read()))


def draw(drawing: bytes) -> bytes:
    """The picture. Raises ValueError for what is no drawing."""
    animation = LottieAnimation.from_data(json.dumps(_without_files(json.loads(drawing))))
    total, rate = animation.lottie_animation_get_totalframe(), animation.lottie_animation_get_framerate()
    if total < 1 or not 0 < rate <= 1000:
        raise ValueError("nothing to be drawn")
    seconds = min(total / rate, _LONGEST_SECONDS)
    count = max(1, min(_MOST_FRAMES, round(seconds * min(rate, _MOST_PER_SECOND))))
    step = seconds * rate / count
    first, *rest = (_frame(animation, min(total - 1, int(number * step))) for number in range(count))
    milliseconds = round(seconds * 1000 / count)
    made = _moving(first, rest, milliseconds, lossless=True)
    return made if len(made) <= _MOST_BYTES else _moving(first, rest, milliseconds, quality=50)


def _moving(first: Image.Image, rest: list[Image.Image], milliseconds: int, **options: int) -> bytes:
    made = io.BytesIO()
    first.save(made, "WEBP", save_all=True, append_images=rest, duration=milliseconds, loop=0, **options)
    return made.getvalue()


def _frame(animation: LottieAnimation, number: int) -> Image.Image:
    pixels = animation.lottie_animation_render(number, width=_SIDE, height=_SIDE)
    return Image.frombytes("RGBA", (_SIDE, _SIDE), pixels, "raw", "BGRa", 0, 1)


def _without_files(drawing: Any) -> Any:
    assets = drawing.get("assets") or []
    drawing["assets"] = [asset for asset in assets if "p" not in asset or str(asset["p"]).startswith("data:")]
    return drawing


if __name__ == "__main__":
    main()
