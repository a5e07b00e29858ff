"""A program of its own: reads a Lottie animation from standard input, writes an animated WebP picture to the output.

Anybody may have made the animation, and rlottie is written in C++. So before it reads the first byte, the process gives
up what could do harm (`confine`): it can open no file and no socket and start no program, and it has little memory and
time. An animation may refer to picture files beside it, which are left out; pictures inside it must be small. If the
animation cannot be drawn, the exit status is not 0.
"""

import base64
import ctypes
import errno
import io
import json
import os
import platform
import resource
import struct
import sys
from typing import Any

from PIL import Image, UnidentifiedImageError
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
    # Pillow loads its plugins, which are files, when it writes the first picture. So write one now.
    blank = Image.new("RGBA", (1, 1))
    _moving(blank, [Image.new("RGBA", (1, 1), "red")], 10, lossless=True)
    Image.init()
    confine()
    made = draw(sys.stdin.buffer.read())
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


# --- Drawing ------------------------------------------------------------------------------------------------


def draw(document: bytes) -> bytes:
    """The picture of an animation. Raises ValueError if it is not one."""
    animation = LottieAnimation.from_data(json.dumps(_without_files(json.loads(document))))
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


def _frame(animation: LottieAnimation, number: int) -> Image.Image:
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


if __name__ == "__main__":
    main()
