"""What the process does without, and gives back to the system. Nearly all of its memory is modules, which stay."""

import ctypes
import dis
import gc
import inspect
import sys
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from types import CodeType, FunctionType
from typing import clear_overloads

_LOADS = tuple(operation for operation in dis.hasconst if operation < 256)
_LOAD, _STORE, _EXTENDED = (dis.opmap[name] for name in ("LOAD_CONST", "STORE_NAME", "EXTENDED_ARG"))
_WITH_ANNOTATIONS = {"aiohttp", "discord", "nio", "sqlalchemy"}
_NO_WORDS = "…"
"""Stands in their place: SQLAlchemy asserts that there is something, and `dataclass` writes words itself where not."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE, _HUGE = 32 * 1024, 320 * 1024

_AS_USUAL = gc.get_threshold()
_SELDOM, _NEVER = 10 * _AS_USUAL[0], 1_000_000


def import_without_docstrings() -> None:
    """Whatever is imported from now on has no docstrings: a seventeenth of what the daemon is, most of it libraries'.

    `python -OO` does that, too, but takes every `assert` along.
    """
    loaders = (
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (_WithoutDocstrings, SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )
    sys.path_hooks.insert(0, FileFinder.path_hook(*loaders))
    sys.path_importer_cache.clear()


class _WithoutDocstrings(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType | None:
        code = super().get_code(fullname)
        return None if code is None else without_docstrings(code)


def without_docstrings(code: CodeType) -> CodeType:
    """The same code, of a module, a class or a function, and of all within."""
    changed: dict[int, object] = {}
    for number, one in enumerate(code.co_consts):
        if isinstance(one, CodeType) and (without := without_docstrings(one)) is not one:
            changed[number] = without
    if code.co_flags & inspect.CO_OPTIMIZED:
        # A function's is its first constant, which nothing loads: unless the function says the same words, too.
        if code.co_consts and isinstance(code.co_consts[0], str) and not _loads(code, 0):
            changed[0] = _NO_WORDS
    elif "__doc__" in code.co_names:
        # A module or a class stores its own as a variable.
        place = code.co_code.find(bytes((_STORE, code.co_names.index("__doc__"))))
        load, number = code.co_code[place - 2 : place] if place >= 2 and place % 2 == 0 else (_STORE, 0)
        if load == _LOAD and isinstance(code.co_consts[number], str) and _loads(code, number) == 1:
            changed[number] = _NO_WORDS
    if not changed:
        return code
    return code.replace(co_consts=tuple(changed.get(number, one) for number, one in enumerate(code.co_consts)))


def _loads(code: CodeType, number: int) -> int:
    """How often the code loads this constant, which is one of the first 256."""
    raw, found = code.co_code, 0
    for load in _LOADS:
        place = raw.find(bytes((load, number)))
        while place >= 0:
            found += place % 2 == 0 and (place == 0 or raw[place - 2] != _EXTENDED)
            place = raw.find(bytes((load, number)), place + 1)
    return found


def import_libraries() -> None:
    """Import what is large, and forget what of it only type checkers read: its place is taken by what is imported next.

    It is a mebibyte and a half: the annotations of functions, which nothing looks up afterwards, and every `@overload`.
    """
    for name in ("discord", "nio", "aiohttp.web", "sqlalchemy", "sqlalchemy.dialects.sqlite"):
        __import__(name)
    clear_overloads()
    for one in gc.get_objects():
        if isinstance(one, FunctionType) and str(one.__module__).partition(".")[0] in _WITH_ANNOTATIONS:
            del one.__annotations__


def begin() -> None:
    """Until `settle`, what is large has memory of its own, and what is free of the rest goes back at once.

    Else answers, and tables that grow, leave holes between small things that stay: 11 KiB for each pair.
    """
    _set(_MMAP_THRESHOLD, _LARGE)


def settle() -> None:
    """What is there now stays: it is not looked through for garbage again. What is free goes back to the system.

    To look through imported modules takes 0.1 s each time, and strangers can make the collector do it with events that
    contain a thousand lists. What imports leave behind goes: every `@overload`, and which files are beside each module.
    """
    # Now what was large is asked for again and again: whatever is read from a socket has 256 KiB until it is there.
    _set(_MMAP_THRESHOLD, _HUGE)
    _set(_TRIM_THRESHOLD, 4 * _HUGE)
    clear_overloads()
    sys.path_importer_cache.clear()
    gc.collect()
    gc.freeze()
    give_back()


def hurry() -> None:
    """Until `take_time`, look for garbage seldom, and not through all: what comes up now is to stay, mostly.

    To look through a hundred tenants takes 0.1 s, and it is done again whenever they are a quarter more.
    """
    gc.set_threshold(_SELDOM, _AS_USUAL[1], _NEVER)


def take_time() -> None:
    """Look for garbage as usual."""
    gc.set_threshold(*_AS_USUAL)


def _set(parameter: int, value: int) -> None:
    # See mallopt(3). From the first time on glibc changes neither of them by itself.
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(parameter, value)


def give_back() -> None:
    """Return what is free to the system: glibc keeps it where anything after it is in use."""
    # musl and macOS have no such thing.
    if (malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        malloc_trim(0)
