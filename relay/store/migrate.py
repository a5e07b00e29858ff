"""Creates and changes the tables with Alembic. The revisions are in `migrations/`.

All revisions of one call run in one transaction: either all of them are applied, or the store stays as it was.
Alembic is imported only when something is migrated: the import takes a quarter of a second, and most starts need no
migration. These functions block; where an event loop runs, `in_background` waits for them.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.pool import NullPool

import relay
from relay.config.store_url import names_postgresql, schema_in
from relay.errors import StoreError, StoreTooNew
from relay.store.lease import WATCH_EVERY, Watch, watch_holder
from relay.store.lock_file import LockFile
from relay.store.sqlite.engine import connect, database_path, keep_private, translated
from relay.store.sqlite.replacing import is_there

if TYPE_CHECKING:
    from alembic.config import Config

    from relay.store.postgresql.schema import PostgresqlSchema

_ALEMBIC = threading.Lock()
"""Alembic keeps what it works on in globals of its modules: stores of one process are changed one after the other."""

_AT_ONCE = threading.BoundedSemaphore(6)
"""So many stores are looked at at a time, where one process begins to serve many: each look is a connection."""


@dataclass(frozen=True, slots=True)
class Schema:
    """Which tables a store has."""

    state: Literal["missing", "empty", "outdated", "current", "too_new"]
    # The store's revision. None: it has no tables yet.
    revision: str | None
    # The revision that this relay needs.
    head: str


def upgrade(url: str) -> Schema:
    """Create the store if it is missing, and bring it to this relay's revision. Raises `StoreTooNew`, `StoreError`."""
    if names_postgresql(url):
        return _on_postgresql(url).upgrade()
    path = database_path(url)

    def bring_up(connection: Connection, free: Callable[[], bool]) -> bool:
        return bring_to_head(path, connection, free)

    schema = _migrate(path, bring_up, create=True)
    keep_private(path)  # only once it is known to be ours
    return schema


async def in_background(work: Callable[[str], Schema], url: str) -> Schema:
    """`upgrade` or `check`, in a thread that nobody waits for: who is told to stop meanwhile can end at once.

    It may be waiting for another process for minutes. When this one ends, what was half done is rolled back.
    """
    outcome: Future[Schema] = Future()

    def run() -> None:
        with _AT_ONCE:
            try:
                outcome.set_result(work(url))
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                outcome.set_exception(error)

    outcome.set_running_or_notify_cancel()
    threading.Thread(target=run, name="migration", daemon=True).start()
    return await asyncio.wrap_future(outcome)


async def is_current(url: str, busy_timeout: float) -> bool:
    """Whether a tenant has the tables of this relay: asked on the connections that all share, in a thousandth second.

    False: it is not known. `upgrade` then says what is wrong, on a connection of its own.
    """
    if not schema_in(url):
        return False
    from relay.store.postgresql.schema import is_current

    return await is_current(url, busy_timeout)


def bring_to_head(name: Path | str, connection: Connection, free: Callable[[], bool]) -> bool:
    """Upgrade in the transaction of `connection`. False: somebody may be using the store, ask again."""
    schema = schema_of(connection)
    refuse_newer(name, schema)
    if schema.state == "empty" and set(inspect(connection).get_table_names()) - {"alembic_version"}:
        raise StoreError(name, "it holds the tables of another program", "set another file in [store] url")
    if schema.state == "current":
        return True
    if not free():
        return False
    from alembic import command

    with _ALEMBIC:
        command.upgrade(_config(connection), "head")
    return True


def downgrade(url: str, revision: str) -> Schema:
    """Downgrade the store to `revision` (`base` = no tables). Raises `StoreTooNew`, `StoreError`."""
    if names_postgresql(url):
        return _on_postgresql(url).downgrade(revision)
    path = database_path(url)
    return _migrate(path, lambda connection, free: take_back(path, connection, revision, free), create=False)


def take_back(name: Path | str, connection: Connection, revision: str, free: Callable[[], bool]) -> bool:
    """Downgrade in the transaction of `connection`. False: somebody may be using the store, ask again."""
    refuse_newer(name, schema_of(connection))
    if not free():
        return False
    from alembic import command
    from alembic.util import CommandError

    try:
        with _ALEMBIC:
            command.downgrade(_config(connection), revision)
    except CommandError as error:
        known = ", ".join(["base", *known_revisions(connection.dialect.name)])
        raise StoreError(name, f"cannot go back to {revision!r}", f"choose one of: {known}") from error
    except ValueError as refusal:  # a revision that would lose data: the reason and the fix
        match refusal.args:
            case (str(why), str(remedy)):
                raise StoreError(name, f"cannot go back to {revision!r}: {why}", remedy) from refusal
        raise
    return True


def check(url: str) -> Schema:
    """Look at the store without changing it. Raises `StoreError` if it cannot be read."""
    if names_postgresql(url):
        return _on_postgresql(url).check()
    path = database_path(url)
    with translated(path):
        found = is_there(path)
    if not found:
        return Schema("missing", None, known_revisions()[-1])
    with _opened(path, create=False) as connection:
        return schema_of(connection)


def migration_engine(url: str, *, create: bool) -> Engine:
    """An engine that sends BEGIN itself, so that a failed migration is rolled back completely."""
    path = database_path(url)

    def open_connection() -> object:
        connection = connect(path, create=create)
        # To rebuild a table, Alembic drops it. That must not delete the rows that refer to it.
        connection.execute("PRAGMA foreign_keys = OFF")
        return connection

    engine = create_engine("sqlite+pysqlite://", creator=open_connection, poolclass=NullPool, hide_parameters=True)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def migrations_directory() -> Path:
    """The revisions' directory: inside an installed wheel, or beside the package in a checkout."""
    package = Path(relay.__file__).parent
    for candidate in (package / "_migrations", package.parent / "migrations"):
        if (candidate / "env.py").is_file():
            return candidate
    raise StoreError(package, "the migrations are missing from this installation", "install the relay again")


def known_revisions(database: str = "sqlite") -> list[str]:
    """The revisions of this relay, the first one first: each file's name begins with its own."""
    folders = _folders(database)
    found = sorted(file.name.partition("_")[0] for folder in folders for file in folder.glob("[0-9]*_*.py"))
    if not found:
        raise StoreError(folders[0], "there are no migrations", "install the relay again")
    return found


def _folders(database: str) -> tuple[Path, Path]:
    """Where the revisions are: those of one database, with which its stores begin, and those of both."""
    return migrations_directory() / database, migrations_directory() / "versions"


def _on_postgresql(url: str) -> "PostgresqlSchema":
    from relay.store.postgresql.schema import PostgresqlSchema

    return PostgresqlSchema(url)


def _migrate(path: Path, work: Callable[[Connection, Callable[[], bool]], bool], *, create: bool) -> Schema:
    """Run `work` in one transaction, when no daemon uses the store: its second argument tells."""
    with LockFile(path) as lock:
        watch = Watch(lock, time.monotonic)
        while True:
            with _opened(path, create=create) as connection:
                if work(connection, partial(watch_holder, connection, path, watch)):
                    _check_references(path, connection)
                    return schema_of(connection)
            time.sleep(WATCH_EVERY)


@contextmanager
def _opened(path: Path, *, create: bool) -> Iterator[Connection]:
    with translated(path), migration_engine(f"sqlite:///{path}", create=create).begin() as connection:
        yield connection


def _config(connection: Connection) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    folders = "\n".join(map(str, _folders(connection.dialect.name)))
    config.set_main_option("version_locations", folders.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def schema_of(connection: Connection) -> Schema:
    """Which tables there are."""
    known = known_revisions(connection.dialect.name)
    revision = None
    if inspect(connection).has_table("alembic_version"):
        revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one_or_none()
    if revision is None:
        return Schema("empty", None, known[-1])
    if revision == known[-1]:
        return Schema("current", revision, known[-1])
    return Schema("outdated" if revision in known else "too_new", revision, known[-1])


def refuse_newer(path: Path | str, schema: Schema) -> None:
    """Raise `StoreTooNew` where this relay does not know the tables."""
    if schema.state == "too_new":
        raise StoreTooNew(
            path,
            f"it was made by a newer relay (revision {schema.revision}, this one knows {schema.head})",
            "install that version again, or let it run `relay db downgrade` first",
        )


def _check_references(path: Path, connection: Connection) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        raise StoreError(path, f"the migration would break references of {broken[0]}", "report this; nothing changed")
