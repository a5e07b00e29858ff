"""A program of its own that draws: it reads from standard input, and writes a picture to the output.

Its argument says what it reads: `sticker`, a Lottie animation; `avatar`, any picture; `letters`, what to write on an
avatar. Anybody may have made the first two, and the libraries that read them are written in C. So before it reads the
first byte, the process gives up what could do harm (`confine`): it can open no file and no socket and start no program,
and it has little memory and time. An animation may refer to picture files beside it, which are left out; pictures
inside it must be small. If nothing can be drawn, the exit status is not 0.
"""

import base64
import colorsys
import ctypes
import errno
import io
import json
import os
import platform
import resource
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont, ImageOps, ImageSequence, UnidentifiedImageError

if TYPE_CHECKING:
    from rlottie_python.rlottie_wrapper import LottieAnimation

_CPU_SECONDS = 15
_MEMORY = 1024**3
_NOBODY = 65534
# As large as Discord's other stickers are. https://docs.discord.com/developers/resources/sticker
_SIDE = 320
_MAX_FRAMES = 150
_MAX_FRAME_RATE = 30.0
_MAX_SECONDS = 10.0
# Of all pictures inside a drawing together: 64 MiB of memory.
_MAX_PIXELS = 16 * 1024**2
_PICTURE_FORMATS = ("PNG", "JPEG", "GIF")
# Bytes that every homeserver accepts. Most pictures are a tenth of it.
_MAX_SIZE = 2 * 1024**2


def main() -> None:
    """Read, draw, write."""
    # Libraries, plugins and fonts are files: all that is needed of them is read before the process is confined.
    Image.init()
    program: Callable[[bytes], bytes]
    match sys.argv[1:]:
        case ["sticker"]:
            load_lottie()
            blank = Image.new("RGBA", (1, 1))
            _moving(blank, [Image.new("RGBA", (1, 1), "red")], 10, lossless=True)
            program = draw
        case ["avatar"]:
            for sample in _samples():
                avatar(sample)
            program = avatar
        case ["letters"]:
            program = Letters().draw
        case _:
            sys.exit("tell what to draw: sticker, avatar or letters")
    confine()
    made = program(sys.stdin.buffer.read())
    sys.stdout.buffer.write(made)
    sys.stdout.buffer.flush()
    os._exit(0)


# --- What the process may do --------------------------------------------------------------------------------


def confine() -> None:
    """Give up files, sockets, processes, privileges, and most memory and time. Raises OSError."""
    os.nice(10)
    limits = {
        resource.RLIMIT_CPU: _CPU_SECONDS,
        resource.RLIMIT_AS: _MEMORY,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        # No file can be opened, not even after one was closed. Those that are open stay usable.
        resource.RLIMIT_NOFILE: 0,
    }
    for limit, most in limits.items():
        resource.setrlimit(limit, (most, most))
    if os.geteuid() == 0:
        # Root could lift the limits again.
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    if sys.platform == "linux":
        _filter_system_calls()


_NO_NEW_PRIVILEGES, _DUMPABLE, _SECCOMP, _FILTER = 38, 4, 22, 2
# Memory, the standard streams, threads, signals and clocks. By name: read write close fstat lseek, mmap mprotect munmap
# mremap madvise brk, rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack, sched_yield restart_syscall nanosleep
# clock_nanosleep clock_gettime, getpid gettid futex set_robust_list rseq getrandom exit exit_group.
_X86 = (0, 1, 3, 5, 8, 9, 10, 11, 25, 28, 12, 13, 14, 15, 131, 24, 219, 35, 230, 228, 39, 186, 202, 273, 334, 318)
_ARM = (63, 64, 57, 80, 62, 222, 226, 215, 216, 233, 214, 134, 135, 139, 132, 124, 128, 101, 115, 113, 172, 178, 98)
# By machine: AUDIT_ARCH_*, clone, what is allowed.
_MACHINES = {
    "x86_64": (0xC000003E, 56, (*_X86, 60, 231)),
    "aarch64": (0xC00000B7, 220, (*_ARM, 99, 293, 278, 93, 94)),
}
_CLONE3 = 435
_CLONE_THREAD = 0x00010000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _filter_system_calls() -> None:
    """Let the kernel refuse all system calls but a few. On other architectures only the limits apply."""
    _prctl(_NO_NEW_PRIVILEGES, 1)
    # Otherwise another process of the same user could read this one's memory.
    _prctl(_DUMPABLE, 0)
    machine = _MACHINES.get(platform.machine())
    if machine is None or sys.maxsize < 2**32:
        return
    code = _filter(*machine)
    program = _Program(len(code) // 8, code)
    _prctl(_SECCOMP, _FILTER, ctypes.addressof(program))


def _filter(machine: int, clone: int, allowed: tuple[int, ...]) -> bytes:
    """The filter as BPF. https://docs.kernel.org/userspace-api/seccomp_filter.html"""
    load, equal, has_bits, answer = 0x20, 0x15, 0x45, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000, 0x80000000
    number, architecture, first_argument = 0, 4, 16
    count = len(allowed)
    lines = [
        (load, 0, 0, architecture),
        (equal, 1, 0, machine),
        (answer, 0, 0, kill),
        (load, 0, 0, number),
        *((equal, count - place + 2, 0, call) for place, call in enumerate(allowed)),
        (equal, 3, 0, clone),
        (equal, 6, 0, _CLONE3),
        # Reached by nothing else: neither allowed nor a clone.
        (answer, 0, 0, refuse | errno.EPERM),
        (answer, 0, 0, allow),
        # rlottie draws in threads, so threads are allowed, and processes are not.
        (load, 0, 0, first_argument),
        (has_bits, 0, 1, _CLONE_THREAD),
        (answer, 0, 0, allow),
        (answer, 0, 0, refuse | errno.EPERM),
        # The arguments of clone3 are in memory, which a filter cannot read. The C library then uses clone.
        (answer, 0, 0, refuse | errno.ENOSYS),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _prctl(option: int, *values: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    padded = (*values, 0, 0, 0, 0)[:4]
    if library.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, padded)) != 0:
        raise OSError(ctypes.get_errno(), "the system does not allow the process to be confined")


# --- Stickers -----------------------------------------------------------------------------------------------


def load_lottie() -> "type[LottieAnimation]":
    """The library that draws animations: loaded only where there is one."""
    from rlottie_python.rlottie_wrapper import LottieAnimation

    return LottieAnimation


def draw(document: bytes) -> bytes:
    """The picture of an animation. Raises ValueError if it is not one."""
    animation = load_lottie().from_data(json.dumps(_without_files(json.loads(document))))
    total, rate = animation.lottie_animation_get_totalframe(), animation.lottie_animation_get_framerate()
    if total < 1 or not 0 < rate <= 1000:
        raise ValueError("nothing to be drawn")
    seconds = min(total / rate, _MAX_SECONDS)
    count = max(1, min(_MAX_FRAMES, round(seconds * min(rate, _MAX_FRAME_RATE))))
    step = seconds * rate / count
    first, *rest = (_frame(animation, min(total - 1, int(number * step))) for number in range(count))
    milliseconds = round(seconds * 1000 / count)
    made = _moving(first, rest, milliseconds, lossless=True)
    return made if len(made) <= _MAX_SIZE else _moving(first, rest, milliseconds, quality=50)


def _moving(first: Image.Image, rest: list[Image.Image], milliseconds: int, **options: int) -> bytes:
    made = io.BytesIO()
    first.save(made, "WEBP", save_all=True, append_images=rest, duration=milliseconds, loop=0, **options)
    return made.getvalue()


def _frame(animation: "LottieAnimation", number: int) -> Image.Image:
    pixels = animation.lottie_animation_render(number, width=_SIDE, height=_SIDE)
    return Image.frombytes("RGBA", (_SIDE, _SIDE), pixels, "raw", "BGRa", 0, 1)


def _without_files(animation: Any) -> Any:
    """The animation with only the pictures inside it. Raises ValueError if these are too large."""
    assets = animation.get("assets") or []
    animation["assets"] = [asset for asset in assets if "p" not in asset or str(asset["p"]).startswith("data:")]
    pixels = sum(_pixels(str(asset["p"])) for asset in animation["assets"] if "p" in asset)
    if pixels > _MAX_PIXELS:
        raise ValueError("too large pictures")
    return animation


def _pixels(picture: str) -> int:
    """The pixels of a picture when it is decoded, as its header tells. Raises ValueError."""
    data = io.BytesIO(base64.b64decode(picture.partition(",")[2]))
    try:
        with Image.open(data, formats=_PICTURE_FORMATS) as opened:
            return opened.width * opened.height
    except (Image.DecompressionBombError, UnidentifiedImageError) as error:
        raise ValueError("a picture that cannot be decoded") from error


# --- Avatars ------------------------------------------------------------------------------------------------

# As large as Discord's emoji, and in as many bytes. https://docs.discord.com/developers/resources/emoji
AVATAR_SIDE = 128
AVATAR_BYTES = 256 * 1024
# What a homeserver makes, and what it may pass on as it is. SVG is none of them: it is a program, too.
_AVATAR_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
_MAX_AVATAR_PIXELS = 4096 * 4096
# Of all frames together that are decoded, and how many of them are looked at: 64 MiB, two seconds.
_MAX_FRAME_PIXELS = 16 * 1024**2
_MAX_AVATAR_FRAMES = 120
_MAX_AVATAR_MILLISECONDS = 10_000
_LEAST_FRAME_MILLISECONDS = 20  # viewers show shorter ones for longer
_USUAL_FRAME_MILLISECONDS = 100


def avatar(data: bytes) -> bytes:
    """A picture as an avatar: a PNG, or a GIF if it moves. Raises if it cannot be decoded."""
    try:
        opened = Image.open(io.BytesIO(data), formats=_AVATAR_FORMATS)
    except (Image.DecompressionBombError, UnidentifiedImageError) as error:
        raise ValueError("not a picture") from error
    with opened:
        # The size is in the header, and nothing has been decoded yet.
        pixels = opened.width * opened.height
        if not 0 < pixels <= _MAX_AVATAR_PIXELS:
            raise ValueError("too large")
        if opened.format == "JPEG":
            opened.draft("RGB", (2 * AVATAR_SIDE, 2 * AVATAR_SIDE))
        count = max(1, min(_MAX_AVATAR_FRAMES, _MAX_FRAME_PIXELS // pixels))
        frames = _avatar_frames(opened, count)
    while len(frames) > 1:
        made = _gif(frames)
        if len(made) <= AVATAR_BYTES:
            return made
        frames = _half(frames)
    return _png(frames[0][0])


def _samples() -> Iterator[bytes]:
    """A moving picture of each format. Decoding them loads all that is needed of Pillow."""
    red, blue = (Image.new("RGBA", (2, 2), colour) for colour in ("red", "blue"))
    for name in _AVATAR_FORMATS:
        made = io.BytesIO()
        moving = {} if name == "JPEG" else {"save_all": True, "append_images": [blue], "duration": 50}
        (red.convert("RGB") if name == "JPEG" else red).save(made, name, **moving)
        yield made.getvalue()


# A frame, and for how many milliseconds it is shown.
_Frame = tuple[Image.Image, int]


def _avatar_frames(picture: Image.Image, count: int) -> list[_Frame]:
    """The first frames, each a square. A damaged one ends the picture, unless it is the first."""
    frames: list[_Frame] = []
    shown = 0
    try:
        for frame in islice(ImageSequence.Iterator(picture), count):
            upright = ImageOps.exif_transpose(frame.convert("RGBA"))
            square = ImageOps.fit(upright, (AVATAR_SIDE, AVATAR_SIDE), Image.Resampling.LANCZOS)
            told = frame.info.get("duration")
            milliseconds = int(told) if isinstance(told, int | float) and 0 < told < _MAX_AVATAR_MILLISECONDS else 0
            frames.append((square, max(milliseconds or _USUAL_FRAME_MILLISECONDS, _LEAST_FRAME_MILLISECONDS)))
            shown += frames[-1][1]
            if shown >= _MAX_AVATAR_MILLISECONDS:
                break
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        if not frames:
            raise
    if not frames:
        raise ValueError("without a picture")
    return frames


def _half(frames: list[_Frame]) -> list[_Frame]:
    """Every other frame, shown for as long as both."""
    pairs = [frames[start : start + 2] for start in range(0, len(frames), 2)]
    return [(pair[0][0], sum(milliseconds for _, milliseconds in pair)) for pair in pairs]


def _gif(frames: list[_Frame]) -> bytes:
    made = io.BytesIO()
    first, *rest = (picture for picture, _ in frames)
    first.save(
        made,
        "GIF",
        save_all=True,
        append_images=rest,
        duration=[milliseconds for _, milliseconds in frames],
        loop=0,
        disposal=2,
    )
    return made.getvalue()


def _png(picture: Image.Image) -> bytes:
    made = io.BytesIO()
    picture.save(made, "PNG", optimize=True)
    return made.getvalue()


# --- Letters --------------------------------------------------------------------------------------------------

# Of white letters on their ground: https://www.w3.org/TR/WCAG22/#contrast-minimum
LEAST_CONTRAST = 4.5
_WHITE = (255, 255, 255)
# It has the letters of many scripts, and many systems have it. Pillow brings a font with A to Z.
_FONT = "DejaVuSans-Bold.ttf"
_FONT_SIZES = {1: 76, 2: 58}
_MISSING = "\uffff"  # no font has it, so this is what a missing character looks like


class Letters:
    """Draws one or two letters on a coloured ground."""

    def __init__(self) -> None:
        self._fonts = {count: _font(size) for count, size in _FONT_SIZES.items()}
        self.draw(json.dumps({"letters": ["A", "AA"], "hue": 0}).encode())

    def draw(self, order: bytes) -> bytes:
        """The picture for an order: `letters`, of which the first is taken that the font has, and `hue` in degrees."""
        wanted = json.loads(order)
        picture = Image.new("RGB", (AVATAR_SIDE, AVATAR_SIDE), ground(float(wanted["hue"])))
        pen = ImageDraw.Draw(picture)
        letters = next((text for text in wanted["letters"] if self._has(text)), "")
        if letters:
            middle = (AVATAR_SIDE / 2, AVATAR_SIDE / 2)
            left, top, right, bottom = pen.textbbox(middle, letters, font=self._fonts[len(letters)], anchor="mm")
            place = (AVATAR_SIDE - (left + right) / 2, AVATAR_SIDE - (top + bottom) / 2)
            pen.text(place, letters, fill=_WHITE, font=self._fonts[len(letters)], anchor="mm")
        else:
            # Head and shoulders.
            pen.ellipse((44, 26, 84, 66), fill=_WHITE)
            pen.ellipse((24, 76, 104, 156), fill=_WHITE)
        return _png(picture)

    def _has(self, text: str) -> bool:
        font = self._fonts.get(len(text))
        if font is None:
            return False
        return all(bytes(font.getmask(char)) not in (bytes(font.getmask(_MISSING)), b"") for char in text)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.truetype(_FONT, size)
    except OSError:
        return ImageFont.load_default(size)


def ground(hue: float) -> tuple[int, int, int]:
    """A colour of this hue, dark enough for white letters."""
    lightness = 0.5
    while True:
        red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue % 360 / 360, lightness, 0.5))
        if contrast((red, green, blue), _WHITE) >= LEAST_CONTRAST:
            return red, green, blue
        lightness -= 0.01


def contrast(one: Sequence[int], other: Sequence[int]) -> float:
    """How much two colours differ in brightness, from 1 to 21: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio"""
    darker, brighter = sorted(map(_luminance, (one, other)))
    return (brighter + 0.05) / (darker + 0.05)


def _luminance(colour: Sequence[int]) -> float:
    parts = (part / 255 for part in colour)
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


if __name__ == "__main__":
    main()
