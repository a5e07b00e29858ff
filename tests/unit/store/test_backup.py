"""Backups: complete, of one file, for nobody else to read; and what is refused in a store's place."""

import asyncio
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relay.core.clock import SystemClock
from relay.core.pairs import PairDirectory
from relay.core.status.reading import read_record
from relay.core.status.report import COPIED, RESTORED, STATUS_KEY, DaemonEnd
from relay.errors import StoreError, StoreHeld
from relay.store.backup import back_up, restore, restored_gap
from relay.store.lease import hold
from relay.store.migrate import check
from relay.store.sqlite.engine import connect, database_path
from relay.store.unit_of_work import SqlStore, open_store
from tests.support.world import WrongClock

NOW = datetime(2026, 11, 28, 12, 30, tzinfo=UTC)


def value(path: Path, name: str) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT value FROM notebook WHERE name = ?", (name,)).fetchone()[0])


def ended(path: Path) -> DaemonEnd | None:
    """How the daemon ended that used the store last, as `relay status` tells it."""
    return read_record(value(path, STATUS_KEY), PairDirectory()).daemon.end(None)


async def put(store: SqlStore, name: str, text: str) -> None:
    async with store.write() as uow:
        await uow.key_values.put(name, text)


async def test_a_backup_of_a_store_in_use_is_one_private_file(store: SqlStore, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        async with hold(store, SystemClock()):
            await put(store, "a", "in the log of the store, not in its file yet")
            made = back_up(store.path, tmp_path, NOW)
            await put(store, "a", "later")
    finally:
        os.umask(old)
    assert made == tmp_path / f"{store.path.stem}-20261128-123000.db"
    assert made.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(made.name)] == [made.name]
    assert value(made, "a") == "in the log of the store, not in its file yet"
    assert check(f"sqlite:///{made}").state == "current"
    with closing(sqlite3.connect(made)) as connection:
        assert connection.execute("SELECT count(*) FROM lease").fetchone() == (0,)


async def test_a_restored_store_knows_since_when_it_knows_nothing(store: SqlStore, tmp_path: Path) -> None:
    await put(store, "a", "old")
    await put(store, STATUS_KEY, json.dumps({"daemon": {"running": True, "updated_at": NOW.isoformat()}, "lanes": []}))
    made = back_up(store.path, tmp_path / "copy.db", NOW)
    await put(store, "a", "new")
    assert await restored_gap(store, SystemClock()) is None
    await store.close()
    old = restore(made, store.path)
    assert old == store.path.with_name(f"{store.path.name}.replaced-1")
    assert (value(old, "a"), value(store.path, "a")) == ("new", "old")
    assert restore(made, store.path) == store.path.with_name(f"{store.path.name}.replaced-2")
    before = datetime.now(UTC)
    # Not that it left no word: how the daemon ended from which it was copied is not known here.
    assert ended(store.path) == replace(RESTORED, at=NOW)
    again = await open_store(f"sqlite:///{store.path}")
    try:
        gap = await restored_gap(again, SystemClock())
        assert ended(store.path) == replace(RESTORED, at=NOW)
        assert gap is not None
        assert gap.since == NOW
        assert before <= gap.until <= datetime.now(UTC)
        # The next start, which may come before everything has been looked for.
        assert await restored_gap(again, SystemClock()) == gap
        assert await restored_gap(again, WrongClock(timedelta(days=8))) is None
        assert gap.covers(gap.until + timedelta(minutes=30))
        assert not gap.covers(gap.until + timedelta(hours=2))
    finally:
        await again.close()


async def test_a_store_that_was_copied_by_hand_knows_that_it_may_be_old(store: SqlStore, tmp_path: Path) -> None:
    assert await restored_gap(store, SystemClock()) is None
    await put(store, STATUS_KEY, json.dumps({"daemon": {"updated_at": NOW.isoformat()}}))
    assert await restored_gap(store, SystemClock()) is None
    await store.close()
    shutil.copy(store.path, tmp_path / "copy.db")
    before = datetime.now(UTC)
    copy = await open_store(f"sqlite:///{tmp_path / 'copy.db'}")
    try:
        gap = await restored_gap(copy, SystemClock())
        assert gap is not None
        assert gap.since == NOW
        assert before <= gap.until <= datetime.now(UTC)
        assert await restored_gap(copy, SystemClock()) == gap
        assert ended(copy.path) == replace(COPIED, at=NOW)
    finally:
        await copy.close()


async def test_another_copy_of_a_closed_store_is_as_old_as_its_file(store: SqlStore, tmp_path: Path) -> None:
    await put(store, "a", "old")
    await store.close()
    copy = tmp_path / "snapshot.db"
    copy.write_bytes(store.path.read_bytes())
    os.utime(copy, (NOW.timestamp(), NOW.timestamp()))
    restore(copy, tmp_path / "new.db")
    assert value(tmp_path / "new.db", "backup taken") == NOW.isoformat()


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 64] = b"\xff" * 64
    path.write_bytes(data)


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE shopping (list)")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (damaged, "damaged"),
        (foreign, "no store of a relay"),
        (lambda path: path.write_text("not a database" * 100), "not a database"),
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.with_name("copy.db-wal").touch(), "was not closed"),
    ],
    ids=["damaged", "another program's", "text", "missing", "with a log"],
)
async def test_what_is_no_backup_changes_nothing(
    store: SqlStore, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    made = back_up(store.path, tmp_path / "copy.db", NOW)
    await store.close()
    spoil(made)
    before = store.path.read_bytes()
    with pytest.raises(StoreError, match=reason):
        restore(made, store.path)
    assert store.path.read_bytes() == before
    assert not list(tmp_path.glob("*.replaced-*")) + list(tmp_path.glob("*.replacement*"))


async def test_nothing_is_restored_under_a_daemon_and_nothing_overwritten(store: SqlStore, tmp_path: Path) -> None:
    made = back_up(store.path, tmp_path / "copy.db", NOW)
    async with hold(store, SystemClock()):
        with pytest.raises(StoreHeld):
            restore(made, store.path)
    with pytest.raises(StoreError, match="such a file already"):
        back_up(store.path, made, NOW)
    with pytest.raises(StoreError, match="does not exist yet"):
        back_up(database_path(f"sqlite:///{tmp_path}/none.db"), tmp_path / "other.db", NOW)
    assert not (tmp_path / "other.db").exists()


@pytest.mark.slow
@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none"])
async def test_a_restore_that_is_killed_leaves_the_old_store_or_the_new_one(
    store: SqlStore, tmp_path: Path, links: bool
) -> None:
    await put(store, "a", "new")
    made = back_up(store.path, tmp_path / "copy.db", NOW)
    (tmp_path / "killed").mkdir()
    await put(store, "a", "old, and only in the log")
    for file in tmp_path.glob(f"{store.path.name}*"):  # as a daemon that was killed leaves them
        shutil.copy(file, tmp_path / "killed" / file.name)
    await store.close()
    tried = tmp_path / "tried"
    arguments = [str(tmp_path / "killed" / store.path.name), str(made), str(tried), *(() if links else ("--no-links",))]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.support.killed_restores", *arguments)
    assert await process.wait() == 0
    outcomes = set()
    folders = list(tried.iterdir())
    assert len(folders) > 20
    for folder in folders:
        there = folder / store.path.name
        with closing(connect(there, create=True)):
            pass
        outcome = value(there, "a")
        kept = [file for file in folder.glob("*.replaced-*") if not file.name.endswith(("-wal", "-shm", "-journal"))]
        outcomes.add(outcome)
        if outcome == "new":
            assert [value(file, "a") for file in kept] == ["old, and only in the log"], folder.name
        else:
            assert not kept, folder.name
        if folder.name.endswith("-0"):  # the operator tries again
            restore(made, there)
            assert value(there, "a") == "new", folder.name
        assert not [*folder.glob("*.replacement*"), *folder.glob("*.without-store*")], folder.name
    assert outcomes == {"new", "old, and only in the log"}


async def test_the_log_of_a_store_that_is_gone_does_not_damage_the_new_one(store: SqlStore, tmp_path: Path) -> None:
    await put(store, "a", "new")
    made = back_up(store.path, tmp_path / "copy.db", NOW)
    await put(store, "a", "old")
    log = store.path.with_name(f"{store.path.name}-wal")
    kept = log.read_bytes()
    await store.close()
    store.path.unlink()
    log.write_bytes(kept)
    assert restore(made, store.path) is None
    assert value(store.path, "a") == "new"
    assert log.with_name(f"{store.path.name}.without-store-wal").read_bytes() == kept
