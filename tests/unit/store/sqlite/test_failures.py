"""What the disk may do, and that the store is well again afterwards, with nothing lost and nothing half written."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from relay.core.ports import Cursor
from relay.domain.commands import DeleteMessage
from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.domain.pair import LaneKey
from relay.errors import StoreError, StoreUnavailable
from relay.store.migrate import upgrade
from relay.store.sqlite.engine import failure
from relay.store.unit_of_work import SqlStore, open_store
from tests.support.patience import PATIENCE

LANE = LaneKey(ChannelRef(Platform.DISCORD, "1"), ChannelRef(Platform.MATRIX, "!room"))


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    opened = await open_store(url, busy_timeout=0.05)
    yield opened
    await opened.close()


def deletion(number: int) -> DeleteMessage:
    """A command that is told apart by its number."""
    return DeleteMessage(MessageRef(ChannelRef(Platform.DISCORD, "1"), str(number)))


async def queue(store: SqlStore, number: int) -> None:
    """One transaction: a command and the cursor behind it."""
    async with store.write() as unit:
        await unit.outbox.append(LANE, deletion(number), datetime.now(UTC))
        await unit.cursors.put(Cursor(Platform.DISCORD, "channel:1", str(number)))


async def queued(store: SqlStore) -> list[int]:
    """The numbers that are on the disk; the cursor stands behind the last one."""
    async with store.read() as unit:
        entries = await unit.outbox.waiting(LANE, 10_000)
        cursor = await unit.cursors.get(Platform.DISCORD, "channel:1")
    numbers = [int(entry.command.source.id) for entry in entries if isinstance(entry.command, DeleteMessage)]
    assert cursor == (str(numbers[-1]) if numbers else None)
    return numbers


async def test_locked_by_another_process(store: SqlStore) -> None:
    await queue(store, 1)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=r"relay\.db: it is locked by another process .*; stop that process"):
        await queue(store, 2)
    assert await queued(store) == [1]
    other.execute("ROLLBACK")
    other.close()
    await queue(store, 3)
    assert await queued(store) == [1, 3]


async def test_opening_a_store_takes_nobodys_turn_to_write(store: SqlStore, url: str) -> None:
    """A daemon may be at work on it, whose lease is looked at only after that."""
    await queue(store, 1)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    second = await open_store(url, busy_timeout=0.05)
    assert second.id == store.id
    await second.recount()
    other.execute("ROLLBACK")
    other.execute("UPDATE lane SET waiting = 0, dead = 'x'")
    other.close()
    await second.recount()
    async with second.read() as unit:
        assert {lane: (it.waiting, it.dead) for lane, it in (await unit.outbox.depths()).items()} == {LANE: (1, 0)}
    await second.close()


async def test_a_full_disk(store: SqlStore) -> None:
    await queue(store, 1)
    async with store.write() as unit:
        await unit.key_values.put("a", "b")
    assert store._file_writer._connection is not None
    await store._file_writer._connection.submit(lambda connection: connection.execute("PRAGMA max_page_count = 1"))

    async def write_much() -> None:
        async with store.write() as unit:
            await unit.cursors.put(Cursor(Platform.DISCORD, "channel:1", "2"))
            await unit.key_values.put("large", "x" * 1_000_000)
            await unit.outbox.append(LANE, deletion(2), datetime.now(UTC))

    with pytest.raises(StoreUnavailable, match=r"the disk is full .*; free some space; a relay that still runs"):
        await write_much()
    assert await queued(store) == [1]
    await write_much()
    assert await queued(store) == [1, 2]


async def test_nothing_is_written_after_a_failure_that_was_swallowed(store: SqlStore) -> None:
    """SQLite ends a transaction by itself when the disk is full: what follows must not be written on its own."""
    async with store.write() as unit:
        await unit.key_values.put("a", "b")
    assert store._file_writer._connection is not None
    await store._file_writer._connection.submit(lambda connection: connection.execute("PRAGMA max_page_count = 1"))

    async def careless() -> None:
        async with store.write() as unit:
            await unit.key_values.put("large", "x" * 1_000_000)
            with pytest.raises(StoreUnavailable):
                await unit.key_values.get("large")
            await unit.cursors.put(Cursor(Platform.DISCORD, "channel:1", "2"))

    with pytest.raises(StoreUnavailable):
        await careless()
    assert await queued(store) == []


async def test_a_file_that_vanishes_does_not_come_back_empty(store: SqlStore, tmp_path: Path) -> None:
    await queue(store, 1)
    away = tmp_path / "away"
    away.mkdir()
    files = list(tmp_path.glob("relay.db*"))
    for path in files:
        path.rename(away / path.name)
    with pytest.raises(StoreUnavailable, match=r"relay\.db: No such file"):
        await queue(store, 2)
    assert not store.path.exists()
    for path in files:
        (away / path.name).rename(path)
    await queue(store, 3)
    assert await queued(store) == [1, 3]


async def test_a_file_that_was_replaced_is_opened_anew(store: SqlStore, tmp_path: Path) -> None:
    await queue(store, 1)
    backup = tmp_path / "backup.db"
    with closing(sqlite3.connect(store.path)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    await queue(store, 2)
    for path in tmp_path.glob("relay.db*"):
        path.unlink()
    backup.rename(store.path)
    await queue(store, 3)
    assert await queued(store) == [1, 3]


async def test_a_damaged_file(store: SqlStore, url: str) -> None:
    for number in range(200):
        await queue(store, number)
    await store.close()
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[:4096] + os.urandom(len(whole) - 8192) + whole[-4096:])
    with pytest.raises(StoreUnavailable, match=r"the file is damaged .*; stop the relay, then restore a backup"):
        await open_store(url)
    store.path.write_bytes(whole)
    again = await open_store(url)
    assert await queued(again) == list(range(200))
    await again.close()


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    content = b"not a database at all, " * 100
    (tmp_path / "relay.db").write_bytes(content)
    url = f"sqlite:///{tmp_path / 'relay.db'}"
    with pytest.raises(StoreUnavailable, match=r"it is not a store .*; set another file"):
        await open_store(url)
    with pytest.raises(StoreUnavailable, match=r"it is not a store .*; set another file"):
        await asyncio.to_thread(upgrade, url)
    assert (tmp_path / "relay.db").read_bytes() == content


async def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'nowhere' / 'relay.db'}"
    with pytest.raises(StoreUnavailable, match=r"nowhere/relay\.db: it cannot be opened .*; make sure that its dir"):
        await asyncio.to_thread(upgrade, url)
    with pytest.raises(StoreError, match=r"relay\.db"):
        await open_store(url)


async def test_a_directory_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="it is a directory"):
        await asyncio.to_thread(upgrade, f"sqlite:///{tmp_path}")


async def test_a_store_without_tables(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "relay.db").close()
    (tmp_path / "relay.db").touch()
    with pytest.raises(StoreError, match="run `relay db upgrade`"):
        await open_store(f"sqlite:///{tmp_path / 'relay.db'}")


@pytest.mark.parametrize("url", ["", "relay.db", "sqlite://", "sqlite:///:memory:", "mysql://u:secret@h/d"])
async def test_a_url_that_names_no_file(url: str) -> None:
    with pytest.raises(StoreError, match=r"write it like sqlite:///relay\.db") as caught:
        await open_store(url)
    assert "secret" not in str(caught.value)


def test_a_store_that_may_only_be_read(url: str) -> None:
    connection = sqlite3.connect(f"file:{url.removeprefix('sqlite:///')}?mode=ro", uri=True)
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("INSERT INTO notebook VALUES ('a', 'b')")
    connection.close()
    error = failure(Path("relay.db"), caught.value)
    assert isinstance(error, StoreUnavailable)
    assert "give the relay's user read and write access" in str(error)


_LIMITED = """
import asyncio, resource, signal, sys
from relay.errors import StoreUnavailable
from relay.store.unit_of_work import open_store
from tests.unit.store.sqlite.test_failures import queue, queued

async def main(url: str) -> None:
    store = await open_store(url)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    written = []
    for number in range(400):
        if number == 100:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        if number == 200:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        try:
            await queue(store, number)
            written.append(number)
        except StoreUnavailable as error:
            print(error)
    assert written == [*range(100), *range(200, 400)], written
    assert await queued(store) == written, (await queued(store), written)
    await store.close()

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while(url: str) -> None:
    """The real thing: the system refuses to let the files grow, then gives way."""
    ran = subprocess.run([sys.executable, "-c", _LIMITED, url], capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("the disk reports an error") == 100


_WRITER = """
import asyncio, sys
from relay.store.unit_of_work import open_store
from tests.unit.store.sqlite.test_failures import queue

async def main(url: str, start: int) -> None:
    store = await open_store(url)
    for number in range(start, 1_000_000):
        await queue(store, number)
        print(number, flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.slow
async def test_killed_at_any_moment_nothing_that_was_promised_is_lost(url: str) -> None:
    promised = -1
    for lines in (1, 7, 40):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, url, str(promised + 1)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            said = writer.stdout.read().split()
        store = await open_store(url)
        numbers = await queued(store)
        await store.close()
        assert numbers == list(range(len(numbers)))
        assert not said or numbers[-1] >= int(said[-1])
        promised = numbers[-1]


async def test_a_copy_of_the_file_alone_is_not_needed_after_close(store: SqlStore, tmp_path: Path) -> None:
    """Closed, the store is one file: the log is folded into it."""
    await queue(store, 1)
    await store.close()
    shutil.copy(store.path, tmp_path / "moved.db")
    moved = await open_store(f"sqlite:///{tmp_path / 'moved.db'}")
    assert await queued(moved) == [1]
    await moved.close()
