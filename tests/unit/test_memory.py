"""The process gives back to the system what it does not need."""

import ctypes
import gc
import sys
from pathlib import Path
from typing import get_overloads, overload

import pytest

from relay.memory import give_back, settle

_HAS_TRIM = hasattr(ctypes.CDLL(None), "malloc_trim")


def anonymous_bytes() -> int:
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Anonymous:")) * 1024


def test_what_stays_is_not_looked_through_again() -> None:
    held = [[number] for number in range(1000)]

    def looked_through() -> bool:
        return any(found is held for found in gc.get_objects())

    assert looked_through()
    settle()
    assert not looked_through()


def test_what_imports_leave_behind_goes() -> None:
    @overload
    def either(value: int) -> int: ...
    @overload
    def either(value: str) -> str: ...
    def either(value: int | str) -> int | str:
        return value

    assert get_overloads(either)
    settle()
    assert not get_overloads(either)
    assert sys.path_importer_cache == {}


@pytest.mark.skipif(not _HAS_TRIM, reason="this C library gives memory back by itself, or never")
def test_what_is_free_goes_back_to_the_system_although_what_came_after_it_stays() -> None:
    # Below the size from which glibc asks the system for each, which grows with what was freed before.
    blocks = [bytearray(100_000) for _ in range(400)]
    behind = bytearray(100_000)
    full = anonymous_bytes()
    blocks.clear()
    give_back()
    assert full - anonymous_bytes() > 30_000_000
    assert len(behind) == 100_000
