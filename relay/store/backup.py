"""Copies of the store, and what a store that was restored from one does not know.

A copy says when it was made. What crossed after that is not on record in it: the first start on it notes the gap, and
what is read again from then on is looked for on the other side before it is sent (`core.delivery.lookups`).

One that was made without the relay (`cp`, a copied volume) says nothing, and may be old. It is told by where it lies: a
store knows the file, or the database, that it was used in last. One that was moved while no daemon ran looks the same,
and is looked through for nothing, which does no harm.
"""

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from relay.core.delivery.lookups import RestoredGap
from relay.core.pairs import PairDirectory
from relay.core.ports import Clock
from relay.core.status.reading import read_record, with_end
from relay.core.status.report import COPIED, RESTORED, STATUS_KEY
from relay.errors import StoreError, StoreHeld
from relay.logs import get_logger
from relay.store.lease import place_of
from relay.store.lock_file import LockFile
from relay.store.sqlite.engine import connect, translated
from relay.store.sqlite.replacing import BESIDE, finish_replacing, is_there, put_in_place, remove_with_log
from relay.store.unit_of_work import SqlStore

_log = get_logger(__name__)

TAKEN = "backup taken"
_GAP = "restored gap"
_PLACE = "place"
"""Where the store was used last."""
_LOOKED_FOR = timedelta(days=7)
"""After the start on a backup: a message that waits for longer than that is not looked for any more."""


def back_up(store: Path, target: Path, now: datetime) -> Path:
    """Copy the store, which a daemon may be using; returns the new file. In a folder, its name is the time.

    Nobody else may read the copy, as the store. Raises `StoreError`.
    """
    with translated(store):
        found = is_there(store)
    if not found:
        raise StoreError(store, "it does not exist yet", "start the daemon once with `relay run`")
    with translated(target):
        if target.is_dir():
            target = target / f"{store.stem}-{now:%Y%m%d-%H%M%S}.db"
        found = is_there(target)
    if found:
        raise StoreError(target, "there is such a file already", "choose another name, or a folder")
    partly = target.with_name(f"{target.name}.part")
    remove_with_log(partly)
    try:
        with translated(store), closing(connect(store)) as source:
            _copy(source, partly, now)
        with translated(target):
            partly.rename(target)
    finally:
        remove_with_log(partly)
    return target


def restore(backup: Path, store: Path) -> Path | None:
    """Put a copy of `backup` in the store's place; returns where the old store is now, None if there was none.

    Raises `StoreError`; then nothing has changed. Killed at any moment, it leaves the old store or the new one.
    """
    with translated(backup):
        found = is_there(backup) and backup.is_file()
    if not found:
        raise StoreError(backup, "there is no such file", "name a file that `relay db backup` made")
    with LockFile(store) as lock:
        with translated(store):
            free = lock.take()
        if not free:
            raise StoreHeld(store, "a daemon is using it", "stop the daemon first")
        with translated(store):
            finish_replacing(store)  # an earlier restore that was killed
        fresh = store.with_name(f"{store.name}.replacement.part")
        remove_with_log(fresh)
        try:
            _check(backup)
            made_at = datetime.fromtimestamp(backup.stat().st_mtime, UTC)
            with translated(backup), closing(_read_only(backup)) as source:
                # Any other copy of a store, made while no daemon ran: it is as old as its file.
                taken = source.execute("SELECT 1 FROM notebook WHERE name = ? AND value <> ''", (TAKEN,)).fetchone()
                _copy(source, fresh, None if taken else made_at)
            with translated(store):
                return put_in_place(store, fresh)
        finally:
            remove_with_log(fresh)


async def restored_gap(store: SqlStore, clock: Clock) -> RestoredGap | None:
    """What the store does not know, if it is a copy. At the first start on it, that is noted.

    Call it before anything else is written. Raises `StoreUnavailable`.
    """
    place = place_of(store)
    async with store.look() as uow:
        taken, known, used_in, status = await uow.key_values.several(TAKEN, _GAP, _PLACE, STATUS_KEY)
    by_itself = bool(taken)
    if not taken and used_in and place and used_in != place:
        last_saved = read_record(status, PairDirectory()).daemon.updated_at
        taken = last_saved.isoformat() if last_saved is not None else None
    if not taken:
        if place and used_in != place:
            async with store.write() as uow:
                await uow.key_values.put(_PLACE, place)
        gap = _gap(known)
        return gap if gap is not None and clock.now() - gap.until < _LOOKED_FOR else None
    found = f"{taken} {clock.now().isoformat()}"
    gap = _gap(found)
    end = with_end(status, replace(RESTORED if by_itself else COPIED, at=None if gap is None else gap.since))
    async with store.write() as uow:
        if end is not None:
            await uow.key_values.put(STATUS_KEY, end)
        await uow.key_values.put(_GAP, found)
        await uow.key_values.put(TAKEN, "")
        await uow.key_values.put(_PLACE, place)
    if by_itself:
        _log.warning("the store is a backup: what has crossed since is looked for before it is sent", made_at=taken)
    else:
        _log.warning(
            "the store was moved or copied: what has crossed since is looked for before it is sent", last_used=taken
        )
    return gap


def _gap(text: str | None) -> RestoredGap | None:
    since, _, until = (text or "").partition(" ")
    try:
        return RestoredGap(datetime.fromisoformat(since), datetime.fromisoformat(until))
    except ValueError:
        return None


def _copy(source: sqlite3.Connection, target: Path, taken_at: datetime | None) -> None:
    """Copy in one read transaction, which keeps no writer waiting. `taken_at`: None leaves what it says of that."""
    with translated(target), closing(connect(target, create=True)) as copy:
        source.backup(copy)
        # Nobody holds the copy.
        copy.execute("DELETE FROM lease")
        if taken_at is not None:
            copy.execute("INSERT OR REPLACE INTO notebook (name, value) VALUES (?, ?)", (TAKEN, taken_at.isoformat()))
            for (status,) in copy.execute("SELECT value FROM notebook WHERE name = ?", (STATUS_KEY,)).fetchall():
                restored = with_end(status, replace(RESTORED, at=taken_at))
                copy.execute("UPDATE notebook SET value = ? WHERE name = ?", (restored, STATUS_KEY))
        # One file, without a log beside it.
        copy.execute("PRAGMA journal_mode = DELETE")


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def _check(backup: Path) -> None:
    """Raises `StoreError` if the file is no store, or damaged."""
    with translated(backup):
        has_log = any(is_there(backup.with_name(f"{backup.name}{suffix}")) for suffix in BESIDE)
    if has_log:
        reason = "it has a log beside it, so it is a store that was not closed, and no backup"
        raise StoreError(backup, reason, "make a backup of it with `relay db backup`")
    with translated(backup), closing(_read_only(backup)) as connection:
        if connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise StoreError(backup, "it is damaged", "choose another backup")
        tables = {str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"notebook", "lease"} <= tables:
        raise StoreError(backup, "it is no store of a relay", "name a file that `relay db backup` made")
