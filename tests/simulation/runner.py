"""Plays histories, each on a store of its own."""

import atexit
import gc
import logging
import os
import sqlite3
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from pathlib import Path

from relay.store.migrate import upgrade
from tests.simulation.disk import File
from tests.simulation.history import History, Report
from tests.simulation.mishaps import Mishaps
from tests.simulation.server import OwnServer, own_server

_CRITICAL = 50


@contextmanager
def workshop() -> Iterator[Path]:
    """A folder, in memory where there is one, with a migrated store that each history starts from."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        template = Path(name) / "template.db"
        upgrade(f"sqlite:///{template}")
        with closing(sqlite3.connect(template)) as connection, connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        yield template


def hush() -> None:
    """What a dying process leaves behind is expected; what the relay logs of trouble is not news here."""
    warnings.simplefilter("ignore")
    sys.unraisablehook = _unless_dead
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # what a history leaves behind is little: looking for it costs a tenth of the time
    for name in ("sqlalchemy", "asyncio", "alembic"):
        logging.getLogger(name).setLevel(_CRITICAL + 1)
    logging.getLogger("relay").setLevel(_CRITICAL)


def _unless_dead(problem: "sys.UnraisableHookArgs") -> None:
    """What the garbage of a dead process says about its disk is not news either."""
    if not (isinstance(problem.exc_value, sqlite3.OperationalError) and "process is dead" in str(problem.exc_value)):
        sys.__unraisablehook__(problem)


def play(seed: int, template: Path) -> Report:
    """One history, on a store of its own that is removed afterwards."""
    store = template.parent / f"{os.getpid()}-{seed}.db"
    store.write_bytes(template.read_bytes())
    try:
        return History(seed, File(store)).run()
    finally:
        for path in template.parent.glob(f"{store.name}*"):
            path.unlink()


def play_on(server: OwnServer, seed: int) -> Report:
    """One history, on a store of its own on PostgreSQL."""
    mishaps = Mishaps.of(seed)
    with server.place(seed, mishaps) as base:
        history = History(seed, base)
        mishaps.now, mishaps.trace = history.clock.elapsed, history.note
        return history.run()


def play_on_own_server(seed: int) -> Report:
    """One history on the server of this process, which ends with it."""
    return play_on(_server(), seed)


@cache
def _server() -> OwnServer:
    exits = ExitStack()
    atexit.register(exits.close)
    return exits.enter_context(own_server())
