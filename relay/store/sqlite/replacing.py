"""Puts another file in the place of a store: all of it or nothing, whenever the process is killed.

Beside a store lies its log, which belongs to that one file: another file would be damaged by it, and the store without
it has lost its last commits. The two cannot be renamed in one step. So the new file is given a name first that says it
is complete. From then on it is the store, and whoever opens the store next does what is left to do.
"""

import os
from contextlib import suppress
from pathlib import Path

from relay.errors import StoreUnavailable
from relay.logs import get_logger
from relay.store.lock_file import LockFile

_log = get_logger(__name__)

BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a file, by the ends of the names."""


def put_in_place(store: Path, file: Path) -> Path | None:
    """Make `file`, which is closed and whole, the store; returns where the old one is now, None if there was none.

    Needs the store's lock. Raises `OSError`.
    """
    file.rename(_complete(store))
    return _finish(store)


def finish_replacing(store: Path) -> Path | None:
    """Do what a process that was killed has left to do; needs the store's lock. Raises `OSError`."""
    return _finish(store) if is_there(_complete(store)) else None


def before_opening(store: Path) -> None:
    """The same for whoever opens the store, without its lock. Raises `StoreUnavailable`, `OSError`."""
    if not is_there(_complete(store)):
        return
    with LockFile(store) as lock:
        if not lock.take():
            raise StoreUnavailable(store, "a backup is being put in its place", "try again in a moment")
        old = finish_replacing(store)
    _log.warning("finished a restore that was interrupted", old=str(old))


def is_there(path: Path) -> bool:
    """Whether there is such a file. Raises `OSError` where nobody can see that: since 3.14 `Path.exists` says no."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return True


def remove_with_log(file: Path) -> None:
    """Remove a file of SQLite and what it left beside it."""
    for suffix in (*BESIDE, ""):
        with suppress(OSError):
            file.with_name(f"{file.name}{suffix}").unlink()


def _complete(store: Path) -> Path:
    return store.with_name(f"{store.name}.replacement")


def _finish(store: Path) -> Path | None:
    _sync_folder(store)  # a power cut must not undo this step and leave the next ones
    aside = _aside(store)
    # The log goes first: as long as the store stands there, the next try finds the same name for it.
    for suffix in BESIDE:
        with suppress(FileNotFoundError):
            store.with_name(f"{store.name}{suffix}").rename(aside.with_name(f"{aside.name}{suffix}"))
    existed = is_there(store)
    if existed and not is_there(aside):
        try:
            aside.hardlink_to(store)  # so that there is a store at any moment
        except OSError:
            store.rename(aside)
    _complete(store).rename(store)
    _sync_folder(store)
    return aside if existed else None


def _aside(store: Path) -> Path:
    """Where the store that is replaced goes, or is already."""
    if not is_there(store):
        return store.with_name(f"{store.name}.without-store")  # a log whose store somebody has removed
    number = 1
    while is_there(aside := store.with_name(f"{store.name}.replaced-{number}")) and not aside.samefile(store):
        number += 1
    return aside


def _sync_folder(store: Path) -> None:
    """Bring the names in the store's folder onto the disk. Not every file system can."""
    with suppress(OSError):
        folder = os.open(store.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
