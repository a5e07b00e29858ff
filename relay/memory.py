"""What the process gives back to the system. Nearly all of its memory is modules, which stay as long as it runs."""

import ctypes
import gc
import sys
from typing import clear_overloads


def settle() -> None:
    """What is there now stays: it is not looked through for garbage again. What is free goes back to the system.

    To look through imported modules takes 0.1 s each time, and strangers can make the collector do it with events that
    contain a thousand lists. What imports leave behind goes: every `@overload` (half a mebibyte, most of it
    SQLAlchemy's and discord.py's), and which files there are beside each module.
    """
    clear_overloads()
    sys.path_importer_cache.clear()
    gc.collect()
    gc.freeze()
    give_back()


def give_back() -> None:
    """Return what is free to the system: glibc keeps it where anything after it is in use."""
    # musl and macOS have no such thing.
    if (malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        malloc_trim(0)
