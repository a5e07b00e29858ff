"""A store that takes nothing: the daemon says so, acknowledges nothing, loses nothing, and goes on when it is well."""

import asyncio
import json
import os
import resource
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from relay.demo.homeserver import Homeserver
from tests.support.stack import FullStack, eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def place(homeserver: Homeserver, tmp_path: Path) -> AsyncIterator[FullStack]:
    async with stack(tmp_path, homeserver) as made:
        await made.daemon.start()
        yield made


def store(place: FullStack) -> Path:
    return place.folder / "relay.db"


async def until_store_problem(place: FullStack, *words: str) -> None:
    """Wait until `/readyz` says that the store is in trouble."""

    async def problem() -> str:
        status, text = await place.daemon.get("/readyz")
        body = json.loads(text)
        # The adapters, which wait for the store too, may be the first to say so.
        reasons = [body["store"]["problem"], body["discord"]["problem"], body["matrix"]["problem"]]
        return " ".join(reason for reason in reasons if reason) if status == 503 else ""

    await eventually(problem, lambda said: all(word in said for word in words) and bool(said), what=place.daemon.log)


async def test_a_locked_store(place: FullStack) -> None:
    await place.talk("before")
    await place.crossed("before")
    # As a backup, or an operator's sqlite3 shell, would.
    other = sqlite3.connect(store(place), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    await place.talk("one", "two")
    await until_store_problem(place, f"store {store(place)}: it is locked by another process", "stop that process")
    assert not {"d one", "d two"} & set(await place.matrix_words("help"))
    other.execute("ROLLBACK")
    other.close()
    await place.talk("three")
    await place.crossed("before", "one", "two", "three")
    await place.daemon.until_ready()


async def test_a_disk_that_takes_nothing_more(place: FullStack) -> None:
    await place.talk("before")
    await place.crossed("before")
    process = place.daemon.pid
    limits = resource.prlimit(process, resource.RLIMIT_FSIZE)
    # No file may grow beyond what the log has now: to SQLite, a disk that reports errors.
    wal = store(place).with_name("relay.db-wal")
    resource.prlimit(process, resource.RLIMIT_FSIZE, (wal.stat().st_size, limits[1]))
    await place.talk("one", "two")
    await until_store_problem(place, f"store {store(place)}: ", "disk")
    assert "d one" not in await place.matrix_words("help")
    resource.prlimit(process, resource.RLIMIT_FSIZE, limits)
    await place.talk("three")
    await place.crossed("before", "one", "two", "three")
    await place.daemon.until_ready()


async def test_a_store_that_goes_away(place: FullStack) -> None:
    await place.talk("before")
    await place.crossed("before")
    # A volume that is no longer mounted.
    store(place).rename(place.folder / "away.db")
    await place.talk("one", "two")
    await until_store_problem(place, f"store {store(place)}: ")
    assert not store(place).exists()
    (place.folder / "away.db").rename(store(place))
    await place.talk("three")
    await place.crossed("before", "one", "two", "three")
    await place.daemon.until_ready()


async def test_a_killed_daemon_whose_store_was_locked_loses_nothing(place: FullStack) -> None:
    other = sqlite3.connect(store(place), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    await place.talk("one", "two")
    await until_store_problem(place, "locked")
    await place.daemon.kill()
    other.close()
    await place.daemon.start()
    await place.talk("three")
    await place.crossed("one", "two", "three")


async def test_a_damaged_store(place: FullStack) -> None:
    await place.talk("before")
    await place.crossed("before")
    assert await place.daemon.stop() == 0
    backup = store(place).read_bytes()
    pages = bytearray(backup)
    for page in range(1, len(pages) // 4096):
        pages[page * 4096 : page * 4096 + 64] = os.urandom(64)
    store(place).write_bytes(pages)
    await place.talk("one")
    await place.daemon.start(ready=False)
    assert await place.daemon.exit_status() == 1
    line = place.daemon.log(1)
    assert line.startswith(f"error: store {store(place)}: the file is damaged")
    assert "restore a backup" in line
    assert "Traceback" not in place.daemon.log(1000)
    store(place).write_bytes(backup)
    await place.daemon.start()
    await place.crossed("before", "one")


async def test_a_store_that_may_not_be_written(place: FullStack) -> None:
    assert await place.daemon.stop() == 0
    store(place).chmod(0o444)
    place.folder.chmod(0o555)
    try:
        status, output = await unprivileged("-m", "relay", "run", "--config", str(place.daemon.config))
    finally:
        place.folder.chmod(0o755)
        store(place).chmod(0o644)
    assert status == 1
    (line,) = [line for line in output.splitlines() if not line.startswith("{")]
    assert line.startswith(f"error: store {store(place)}: ")
    assert "the relay's user" in line
    mode = place.daemon.config.stat().st_mode
    place.daemon.config.chmod(0o200)
    try:
        status, output = await unprivileged("-m", "relay", "run", "--config", str(place.daemon.config))
    finally:
        place.daemon.config.chmod(mode)
    assert status == 2
    assert output.startswith(f"error: {place.daemon.config}: cannot be read: permission denied; "), output
    await place.daemon.start()
    await place.talk("one")
    await place.crossed("one")


async def unprivileged(*arguments: str) -> tuple[int, str]:
    """Python without root's right to write everywhere; exit status and output."""
    command: Sequence[str] = (sys.executable, *arguments)
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        assert setpriv, "util-linux is needed to run this test as root"
        command = (setpriv, "--bounding-set=-dac_override,-dac_read_search", *command)
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()
