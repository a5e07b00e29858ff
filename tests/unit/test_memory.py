"""The process gives back to the system what it does not need."""

import ctypes
import gc
import subprocess
import sys
from pathlib import Path
from typing import Any, get_overloads, overload

import discord
import pytest
from aiohttp import ClientSession
from nio.client.async_client import AsyncClient
from sqlalchemy import Select

from relay.memory import give_back, import_libraries, settle, without_docstrings

_HAS_TRIM = hasattr(ctypes.CDLL(None), "malloc_trim")


def anonymous_bytes() -> int:
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Anonymous:")) * 1024


_MODULE = '''
"""Of the module."""
from dataclasses import dataclass

def plain():
    """Of the function."""
    assert plain.__doc__ == "…"
    return "words"

def echo():
    "the same words"
    return "the same words"

def silent():
    return "words"

def outer():
    def inner():
        """Of the inner one."""
    return inner

class Thing:
    """Of the class."""
    said = "Of the class."
    def method(self):
        """Of the method."""
        return [("x", word) for word in self.said.split()]

@dataclass
class Data:
    """Of the data."""
    number: int = 1
'''


def test_code_without_docstrings_does_the_same() -> None:
    code = compile(_MODULE, "module", "exec", dont_inherit=True)
    slim: dict[str, Any] = {"__name__": __name__}
    exec(without_docstrings(code), slim)
    assert (slim["plain"].__doc__, slim["silent"].__doc__) == ("…", None)
    assert [slim[name]() for name in ("plain", "silent")] == ["words", "words"]
    assert slim["echo"]() == "the same words"
    assert slim["outer"]().__doc__ == "…"
    assert (slim["Thing"].said, slim["Thing"].method.__doc__) == ("Of the class.", "…")
    assert slim["Thing"]().method() == [("x", "Of"), ("x", "the"), ("x", "class.")]
    assert slim["Data"].__doc__ == slim["__doc__"] == "…"
    assert slim["Data"]() == slim["Data"](number=1)
    with pytest.raises(AssertionError):
        exec("plain.__doc__ = 'x'; plain()", slim)


def test_whatever_the_daemon_may_import_works_without_docstrings_and_keeps_its_asserts() -> None:
    # In a process of its own: this one has imported it all. SQLAlchemy's ORM, which PostgreSQL's engine brings, asserts
    # that its functions have one.
    script = """
from relay.memory import import_without_docstrings
import_without_docstrings()
import pkgutil, textwrap, discord, nio, sqlalchemy
import relay
for package in ("relay.adapters", "relay.config", "relay.core", "relay.media", "relay.store", "relay.web", "relay.cli"):
    for found in pkgutil.walk_packages(__import__(package, fromlist="x").__path__, package + "."):
        __import__(found.name)
import alembic.command, asyncpg, PIL.Image, prometheus_client, regex, relay.app, relay.tenants
import sqlalchemy.ext.asyncio, sqlalchemy.dialects.postgresql.asyncpg
from relay.adapters.matrix.adapter import MatrixAdapter
from relay.store.unit_of_work import SqlStore
for one in (textwrap.dedent, discord.Client, discord.Client.connect, nio.RoomMessageText, sqlalchemy.select):
    assert one.__doc__ == "…", one.__doc__
for one in (MatrixAdapter, MatrixAdapter.run, SqlStore, SqlStore.read):
    assert one.__doc__ == "…", one.__doc__
try:
    assert False
except AssertionError:
    print("asserted")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "asserted\n"), done.stderr


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


@pytest.mark.skipif(not _HAS_TRIM, reason="this C library gives memory back by itself, or never")
def test_until_it_has_settled_what_is_large_goes_back_at_once() -> None:
    script = """
from relay.memory import begin, settle
from tests.unit.test_memory import anonymous_bytes

def gives_back():
    blocks = [bytearray(100_000) for _ in range(400)]
    full = anonymous_bytes()
    del blocks[:-1]
    return full - anonymous_bytes() > 30_000_000

begin()
before = gives_back()
settle()
print(before, gives_back())
"""
    # In a process of its own: what others have left free is used first.
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True False\n"), done.stderr


def test_annotations_of_the_libraries_are_gone_and_ours_are_there() -> None:
    gc.unfreeze()
    import_libraries()
    for function in (discord.Client.login, AsyncClient.sync, ClientSession.get, Select.where):
        assert function.__annotations__ == {}
    assert give_back.__annotations__ == {"return": None}
