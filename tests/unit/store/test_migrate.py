"""The revisions, one by one, up and down; and that they make the tables of `store.tables`."""

import asyncio
import logging
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from relay.errors import StoreError, StoreTooNew
from relay.store.migrate import Schema, check, downgrade, migration_engine, migrations_directory, upgrade
from relay.store.tables import metadata
from relay.store.unit_of_work import open_store


def revisions() -> list[str]:
    """Every revision, the first one first."""
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()))
    config.set_main_option("path_separator", "os")
    return [step.revision for step in ScriptDirectory.from_config(config).walk_revisions()][::-1]


HEAD = revisions()[-1]


@pytest.fixture
def new(tmp_path: Path) -> str:
    """The URL of a store that is not there yet; its path needs quoting."""
    directory = tmp_path / "a b%20#?"
    directory.mkdir()
    return f"sqlite:///{directory / 'relay.db'}"


def tables(url: str) -> dict[str, str]:
    """The SQL of every table and index, by name."""
    with migration_engine(url, create=False).begin() as connection:
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE name != 'alembic_version'")
        return {name: sql for name, sql in rows if not name.startswith("sqlite_")}


def test_the_states_of_a_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'relay.db'}"
    assert check(url) == Schema("missing", None, HEAD)
    assert not (tmp_path / "relay.db").exists()
    assert upgrade(url) == Schema("current", HEAD, HEAD)
    assert check(url) == Schema("current", HEAD, HEAD)
    assert upgrade(url) == Schema("current", HEAD, HEAD)
    assert downgrade(url, "base") == Schema("empty", None, HEAD)
    assert check(url) == Schema("empty", None, HEAD)
    assert upgrade(url) == Schema("current", HEAD, HEAD)


def test_each_revision_goes_up_and_down_again(url: str) -> None:
    made = {"base": {}, HEAD: tables(url)}
    path = ["base", *revisions()]
    for revision in reversed(path[:-1]):
        downgrade(url, revision)
        made[revision] = tables(url)
    assert made["base"] == {}
    upgrade(url)
    assert tables(url) == made[HEAD]
    for lower in path[:-1]:
        downgrade(url, lower)
        assert tables(url) == made[lower]
        upgrade(url)
        assert tables(url) == made[HEAD]


def test_the_revisions_make_the_tables_that_the_program_uses(url: str) -> None:
    with migration_engine(url, create=False).begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_the_tables_are_exactly_those_of_the_program(url: str, new: str) -> None:
    """What Alembic does not compare: checks, AUTOINCREMENT, WITHOUT ROWID, partial indexes."""
    engine = migration_engine(new, create=True)
    with engine.begin() as connection:
        metadata.create_all(connection)
    described = {name: normal(sql) for name, sql in tables(new).items()}
    assert {name: normal(sql) for name, sql in tables(url).items()} == described


def normal(sql: str) -> list[str]:
    """The clauses of a statement, in any order: the two sides list constraints differently."""
    words = " ".join(sql.replace("(", " ").replace(")", " ").split())
    return sorted(clause.strip() for clause in words.replace("WITHOUT ROWID", ", WITHOUT ROWID").split(","))


def test_a_store_of_a_newer_relay_is_left_alone(url: str) -> None:
    with migration_engine(url, create=False).begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    before = tables(url)
    with pytest.raises(StoreTooNew, match=r"made by a newer relay .*9999.*; install that version again"):
        upgrade(url)
    with pytest.raises(StoreTooNew):
        downgrade(url, "base")
    assert check(url) == Schema("too_new", "9999", HEAD)
    assert tables(url) == before


def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "relay.db")
    connection.execute("CREATE TABLE recipe (name TEXT)")
    connection.close()
    url = f"sqlite:///{tmp_path / 'relay.db'}"
    with pytest.raises(StoreError, match="somebody else's tables; name another file"):
        upgrade(url)
    assert list(tables(url)) == ["recipe"]


def test_an_unknown_revision_to_go_back_to(url: str) -> None:
    with pytest.raises(StoreError, match=f"cannot go back to 'xyz'; choose one of: base, {revisions()[0]}"):
        downgrade(url, "xyz")
    assert check(url).state == "current"


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "relay.db")
    connection.execute("CREATE TABLE alembic_version (version_num TEXT PRIMARY KEY)")
    connection.execute("CREATE INDEX ix_outbox_position ON alembic_version (version_num)")  # in the way, half through
    url = f"sqlite:///{tmp_path / 'relay.db'}"
    with pytest.raises(StoreError, match="index ix_outbox_position already exists"):
        upgrade(url)
    assert list(tables(url)) == ["ix_outbox_position"]
    connection.execute("DROP INDEX ix_outbox_position")
    connection.close()
    assert upgrade(url).state == "current"


async def test_within_a_running_loop(new: str) -> None:
    await asyncio.to_thread(upgrade, new)
    store = await open_store(new)
    await store.close()


def test_logging_stays_as_it_was(new: str) -> None:
    mine = logging.getLogger("relay.test")
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    upgrade(new)
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger().level == level
    assert not mine.disabled


def test_copies_cross_the_revision_of_their_key(url: str) -> None:
    downgrade(url, "0004")
    with migration_engine(url, create=False).begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO message (id, platform, channel, native_id, author, created_at) "
            "VALUES (1, 'discord', '1', '10', '7', 0)"
        )
        for pair, channel, native_id in (("old", "!a", "$1"), ("new", "!a", "$2"), ("other", "!b", "$3")):
            connection.exec_driver_sql(
                "INSERT INTO message_copy (message_id, pair, part, platform, channel, native_id) "
                "VALUES (1, ?, 0, 'matrix', ?, ?)",
                (pair, channel, native_id),
            )
    upgrade(url)  # of two names of one pair the later counts
    downgrade(url, "0004")
    with migration_engine(url, create=False).begin() as connection:
        rows = connection.exec_driver_sql("SELECT pair, channel, native_id FROM message_copy ORDER BY id").all()
        assert [tuple(row) for row in rows] == [("matrix !a", "!a", "$2"), ("matrix !b", "!b", "$3")]
    upgrade(url)


def test_two_at_once(new: str) -> None:
    program = "import sys; from relay.store.migrate import upgrade; print(upgrade(sys.argv[1]).state)"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, new], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60) for process in running]
    assert [out.strip() for out, _ in said] == ["current"] * 3, said
