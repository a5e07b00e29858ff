"""The server of the tests leaves nothing behind, however often it is stopped."""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgresql import SHORT, keep_in_memory, start, stop
from tests.support.stack import eventually


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(SHORT, f"relay-pg-{os.getpid()}-{secrets.token_hex(4)}")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def processes(*arguments: object) -> list[str]:
    """Which have these arguments at the end of their command line."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = each.read_bytes().split(b"\0")[:-1]
        except OSError:
            continue
        if words[-len(arguments) :] == [str(argument).encode() for argument in arguments]:
            found.append(each.parent.name)
    return found


async def test_what_watches_a_server_ends_with_it_and_a_server_with_who_wanted_it(folder: Path) -> None:
    data = keep_in_memory(folder)
    first = start(folder, os.getpid())
    assert len(await processes("keeper", os.getpid(), first, folder)) == 1
    stop(first, signal.SIGQUIT)
    await eventually(lambda: processes("keeper", os.getpid(), first, folder), lambda found: not found)
    with subprocess.Popen(["/bin/sleep", "1000"]) as owner:
        try:
            second = start(folder, owner.pid)
            assert len(await processes("keeper", owner.pid, second, folder)) == 1
        finally:
            owner.kill()
    await asyncio.to_thread(os.waitpid, second, 0)
    await eventually(lambda: processes("keeper", owner.pid, second, folder), lambda found: not found)
    assert not folder.exists()
    assert not data.exists()
