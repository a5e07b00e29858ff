"""What the process gives back to the system. Nearly all of its memory is modules, which stay as long as it runs."""

import ctypes
import gc

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h


def keep_together() -> None:
    """Let all threads take memory from one place: glibc gives each a place of its own. Call it before there are any."""
    if (mallopt := _libc("mallopt")) is not None:
        mallopt(_ARENA_MAX, 1)


def settle() -> None:
    """What is there now stays: it is not looked through for garbage again. What is free goes back to the system.

    To look through imported modules takes 0.1 s each time, and strangers can make the collector do it with events that
    contain a thousand lists.
    """
    gc.collect()
    gc.freeze()
    give_back()


def give_back() -> None:
    """Return what is free to the system: glibc keeps it where anything after it is in use."""
    if (malloc_trim := _libc("malloc_trim")) is not None:
        malloc_trim(0)


def _libc(name: str) -> "ctypes._NamedFuncPointer | None":
    """A function of the C library; None where it has no such thing (musl, macOS)."""
    return getattr(ctypes.CDLL(None), name, None)
