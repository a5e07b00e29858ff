"""The tables on PostgreSQL: those of `store.tables`, made and removed in one transaction, by one process at a time."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from threading import enumerate as enumerate_threads
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.types import Text

from relay.config.store_url import of_tenant
from relay.core.clock import SystemClock
from relay.errors import StoreError, StoreHeld, StoreUnavailable
from relay.store.copying import prepared
from relay.store.lease import hold
from relay.store.migrate import Schema, check, downgrade, in_background, is_current, known_revisions, upgrade
from relay.store.tables import metadata
from relay.store.unit_of_work import SqlStore
from tests.support.cut_line import cut_line
from tests.support.patience import PATIENCE
from tests.support.postgresql import SHORT, Server

HEAD = known_revisions("postgresql")[-1]


def seen(url: str, look: Any) -> Any:
    """What `look` finds in a database."""

    async def run() -> Any:
        engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool)
        async with engine.connect() as connection:
            return await connection.run_sync(look)

    return asyncio.run(run())


def test_the_revisions_make_the_tables_of_the_code(url: str) -> None:
    def differences(connection: Connection) -> Any:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)

    assert seen(url, differences) == []


def test_keys_have_64_bits_and_text_is_compared_by_code_points(url: str) -> None:
    def columns(connection: Connection) -> list[tuple[str, Any]]:
        known = inspect(connection)
        return [
            (f"{table}.{column['name']}", column["type"])
            for table in metadata.tables
            for column in known.get_columns(table)
        ]

    for name, kind in seen(url, columns):
        assert str(kind) in ("BIGINT", "BOOLEAN", 'TEXT COLLATE "C"'), name
        assert not isinstance(kind, Text) or kind.collation == "C", name


def test_partial_indexes_are_partial(url: str) -> None:
    def conditions(connection: Connection) -> dict[str, str]:
        rows = connection.exec_driver_sql("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'")
        return {name: sql for name, sql in rows if " WHERE " in sql}

    partial = {index.name for table in metadata.sorted_tables for index in table.indexes if index.dialect_kwargs}
    assert partial
    assert seen(url, conditions).keys() == partial


def test_up_down_and_up_again(empty: str) -> None:
    assert check(empty) == Schema("empty", None, HEAD)
    assert upgrade(empty) == Schema("current", HEAD, HEAD) == upgrade(empty)
    assert downgrade(empty, "base") == Schema("empty", None, HEAD)
    assert seen(empty, lambda connection: inspect(connection).get_table_names()) == ["alembic_version"]
    assert upgrade(empty) == Schema("current", HEAD, HEAD)
    with pytest.raises(StoreError, match="cannot go back to '0003'"):
        downgrade(empty, "0003")


async def test_a_tenants_tables_are_looked_at_on_the_connections_of_all(empty: str) -> None:
    one = of_tenant(empty, "one")
    assert not await is_current(one, 1.0), "there are none yet"
    await asyncio.to_thread(upgrade, one)
    assert await is_current(one, 1.0)
    assert not await is_current(of_tenant(empty, "two"), 1.0)
    await asyncio.to_thread(downgrade, one, known_revisions("postgresql")[-2])
    assert not await is_current(one, 1.0), "it is outdated"
    assert not await is_current(empty, 1.0), "a store alone is looked at as it always was"


def test_several_at_once(empty: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(upgrade, [empty] * 4))
    assert found == [Schema("current", HEAD, HEAD)] * 4


def test_what_fails_leaves_nothing(empty: str, running: Server) -> None:
    database = empty.partition("@/")[2].partition("?")[0]
    running.run("CREATE TYPE outbox_row_counted AS ENUM ('in the way')", database)
    running.run("CREATE FUNCTION outbox_row_counted() RETURNS integer LANGUAGE sql AS 'SELECT 1'", database)
    with pytest.raises(Exception, match="outbox_row_counted"):
        upgrade(empty)
    assert check(empty) == Schema("empty", None, HEAD)


def test_somebody_elses_database_is_left_alone(empty: str, running: Server) -> None:
    running.run("CREATE TABLE recipe (name TEXT)", empty.partition("@/")[2].partition("?")[0])
    with pytest.raises(StoreError, match="the tables of another program"):
        upgrade(empty)


async def test_not_while_a_daemon_runs(url: str, store: SqlStore) -> None:
    async with hold(store, SystemClock()):
        with pytest.raises(StoreHeld, match=r"process \d+ on .* holds it"):
            await asyncio.to_thread(downgrade, url, "base")
    assert (await asyncio.to_thread(downgrade, url, "base")).state == "empty"


async def test_a_server_that_falls_silent_keeps_nobody_who_only_looks(
    running: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.store.postgresql.connections.ANSWER_TIMEOUT", 1.0)
    with TemporaryDirectory(prefix="relay-line-", dir=SHORT) as folder:
        async with cut_line(running.folder, Path(folder)) as line, asyncio.timeout(PATIENCE):
            line.silent_at = b"alembic_version"
            with pytest.raises(StoreUnavailable, match="does not answer in time"):
                await in_background(check, url.replace(str(running.folder), folder))


async def test_a_copy_that_fails_waits_for_no_name_server(
    running: Server, url: str, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it was copied, the server was reached in one way; when its tables are removed again, only by a name."""
    monkeypatch.setattr("relay.store.postgresql.connections.CONNECT_TIMEOUT", 1.0)
    answer, asked = Event(), Event()

    def silent(*_: object, **__: object) -> list[object]:
        asked.set()
        answer.wait()
        raise socket.gaierror("it has never answered")

    def fail() -> None:
        with TemporaryDirectory(prefix="relay-line-", dir=SHORT) as folder:
            way = Path(folder) / ".s.PGSQL.5432"
            way.symlink_to(running.folder / way.name)
            with prepared(url, empty.replace(str(running.folder), f"{folder},db.example.org")):
                way.unlink()
                monkeypatch.setattr(socket, "getaddrinfo", silent)
                raise StoreError("the store", "it cannot be copied", "try again")

    try:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(StoreError, match="it cannot be copied"):
                await asyncio.to_thread(fail)
        assert asked.is_set()
    finally:
        answer.set()


async def test_who_looks_again_and_again_has_no_more_threads() -> None:
    before = set(enumerate_threads())
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="refused"):
            await in_background(check, "postgresql://relay@localhost:1/relay")
    for thread in set(enumerate_threads()) - before:
        await asyncio.to_thread(thread.join, PATIENCE)
        assert not thread.is_alive()
