"""The revisions, one by one, up and down; and that they make the tables of `store.tables`."""

import asyncio
import logging
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from relay.adapters.matrix.cursors import LastTold, SyncPosition
from relay.errors import StoreError, StoreTooNew
from relay.store.migrate import (
    Schema,
    check,
    downgrade,
    known_revisions,
    migration_engine,
    migrations_directory,
    upgrade,
)
from relay.store.tables import metadata
from relay.store.unit_of_work import open_store
from tests.support.logs import captured_logs
from tests.support.patience import PATIENCE

FOLDERS = ("sqlite", "versions")


def scripts() -> ScriptDirectory:
    """The revisions as Alembic finds them."""
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(str(migrations_directory() / each) for each in FOLDERS))
    return ScriptDirectory.from_config(config)


def revisions() -> list[str]:
    """Every revision, the first one first."""
    return [step.revision for step in scripts().walk_revisions()][::-1]


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


def test_each_revision_follows_one_other() -> None:
    assert scripts().get_heads() == [HEAD], "two revisions follow the same one"
    assert revisions() == known_revisions(), "a file's name begins with another revision, or is out of order"


@pytest.mark.slow
def test_a_file_that_needs_no_migration_is_opened_without_alembic_and_postgresql(url: str) -> None:
    program = "import sys, relay.app; from relay.store import migrate; migrate.upgrade(sys.argv[1])"
    without = "{'alembic', 'asyncpg', 'sqlalchemy.dialects.postgresql'}"
    quiet = f"{program}; sys.exit(bool({without} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", quiet, url], timeout=PATIENCE).returncode == 0


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


@pytest.mark.slow
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
    with pytest.raises(StoreError, match="the tables of another program; set another file"):
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


def test_an_older_relay_finds_the_token_of_sync_alone(url: str) -> None:
    """It sent the last event told along with it, and the homeserver refused that for as long as it ran."""
    token = "s12_34_0_1_a b"
    told = str(SyncPosition(token, LastTold("!room:example.org", "$event", datetime.now(UTC))))
    rows = {("matrix", "sync"): told, ("matrix", "room:!a"): told, ("discord", "sync"): "7"}
    with migration_engine(url, create=False).begin() as connection:
        for (platform, stream), position in rows.items():
            connection.exec_driver_sql(
                "INSERT INTO cursor (platform, stream, position) VALUES (?, ?, ?)", (platform, stream, position)
            )
    for expected in (token, token):  # the older one wrote it as it was
        downgrade(url, "0018")
        with migration_engine(url, create=False).begin() as connection:
            found = connection.exec_driver_sql("SELECT platform, stream, position FROM cursor").all()
        assert {(row[0], row[1]): row[2] for row in found} == rows | {("matrix", "sync"): expected}
        upgrade(url)


def test_the_map_becomes_small_and_large_again(url: str) -> None:
    downgrade(url, "0006")
    hashed = "$" + "A" * 43
    rows: dict[str, list[tuple[object, ...]]] = {
        "message": [
            (1, "discord", "10", "100", "7", 1_700_000_000_000_000, None, None, 0),
            (2, "matrix", "!r", "$old:b", "@ann:b", 253_000_000_000_000_000, 1_700_000_000_000_001, hashed, 1),
        ],
        "message_copy": [
            (1, 1, 0, "matrix", "!r", hashed),
            (2, 1, 1000, "matrix", "!r", "$b"),
            (3, 2, 0, "discord", "10", "007"),
        ],
        "message_edit": [("discord", "10", "101", 1)],
        "batch": [("matrix", "!r", hashed, "{}")],
    }
    with migration_engine(url, create=False).begin() as connection:
        for table, values in rows.items():
            marks = ", ".join("?" for _ in values[0])
            for row in values:
                connection.exec_driver_sql(f"INSERT INTO {table} VALUES ({marks})", row)
    upgrade(url)
    with migration_engine(url, create=False).begin() as connection:
        last = connection.exec_driver_sql("SELECT native_id, last_copy FROM channel ORDER BY 1").all()
        assert [tuple(row) for row in last] == [("!r", bytes(32)), ("10", "007")]
        clock = "CAST(strftime('%s', 'now') AS INTEGER)"
        used = connection.exec_driver_sql(f"SELECT used, used > {clock} FROM message").all()
        assert [tuple(row) for row in used] == [(1_700_000_000 // 3600 * 3600, 0), (used[1].used, 0)]
    downgrade(url, "0006")
    with migration_engine(url, create=False).begin() as connection:
        for table, values in rows.items():
            now = [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}")]
            if table == "message_copy":  # in another order, but for the last one of a channel
                assert sorted(str(row[1:]) for row in now) == sorted(str(row[1:]) for row in values)
                assert [row[5] for row in now if row[3] == "matrix"] == ["$b", hashed]
            else:
                assert now == values
    upgrade(url)


def test_old_copies_are_still_known_as_such_after_the_revision_of_their_column(url: str) -> None:
    downgrade(url, "0012")
    copies = [(1, 1, 0, "$new"), (1, 1, 1000, "$old"), (1, 1, 1001, "$part"), (1, 1, 2000, "$older"), (1, 1, 1, "$1")]
    with migration_engine(url, create=False).begin() as connection:
        for statement in (
            "INSERT INTO channel (id, platform, native_id) VALUES (1, 'matrix', '!r')",
            "INSERT INTO message (id, channel_id, native_id, author, created_at) VALUES (1, 1, '$0', '@a', 1)",
        ):
            connection.exec_driver_sql(statement)
        for row in copies:
            connection.exec_driver_sql("INSERT INTO message_copy VALUES (?, ?, ?, ?)", row)
    upgrade(url)
    assert rows(url, "SELECT part, superseded, native_id FROM message_copy ORDER BY superseded, part") == [
        (0, 0, "$new"),
        (1, 0, "$1"),
        (0, 1, "$old"),
        (1, 1, "$part"),
        (0, 2, "$older"),
    ]
    downgrade(url, "0012")
    assert sorted(rows(url, "SELECT * FROM message_copy")) == sorted(copies)
    upgrade(url)
    with migration_engine(url, create=False).begin() as connection:
        connection.exec_driver_sql("UPDATE message_copy SET part = 1000 WHERE native_id = '$1'")
    with pytest.raises(StoreError, match="more than 1000 parts; go back to 0013 at most"):
        downgrade(url, "0012")
    assert check(url).state == "current"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
async def test_nobody_else_may_read_a_store(tmp_path: Path, umask: int) -> None:
    new = f"sqlite:///{tmp_path / 'relay.db'}"
    before = os.umask(umask)
    try:
        await asyncio.to_thread(upgrade, new)
        store = await open_store(new)
        async with store.write() as unit:
            await unit.key_values.put("a", "b")
        modes = {path.name: f"{path.stat().st_mode & 0o777:o}" for path in tmp_path.iterdir()}
        await store.close()
    finally:
        os.umask(before)
    assert {"relay.db", "relay.db-wal", "relay.db-shm"} <= modes.keys()
    assert set(modes.values()) <= {"600"}


def test_a_store_that_others_could_read_is_closed_to_them_and_told_of(url: str) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    keeper = sqlite3.connect(path)  # leaves -wal and -shm there
    keeper.execute("SELECT * FROM store").fetchall()
    files = sorted(path.parent.glob("relay.db*"))
    for file in files:
        file.chmod(0o644)
    with captured_logs() as lines:
        upgrade(url)
    assert [f"{file.stat().st_mode & 0o777:o}" for file in files] == ["600"] * len(files)
    told = [line["path"] for line in lines if line["event"] == "the store was open to others" and line["mode"] == "644"]
    assert sorted(told) == sorted(map(str, files))
    with captured_logs() as lines:
        upgrade(url)
    assert lines == []
    keeper.close()


def test_no_downgrade_forgets_what_stands_in_shared_copies(url: str) -> None:
    with migration_engine(url, create=False).begin() as connection:
        connection.exec_driver_sql("INSERT INTO channel (id, platform, native_id) VALUES (1, 'matrix', '!r')")
        connection.exec_driver_sql("INSERT INTO batch VALUES (1, '$1', '{}')")
    with pytest.raises(StoreError, match=r"some copies contain several messages.*; go back to 0002 at most"):
        downgrade(url, "0001")
    assert check(url).state == "current"


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("INSERT INTO opted_out VALUES ('matrix', '@a', 1)", "some people have opted out"),
        ("INSERT INTO forgetting VALUES ('matrix', '@a', 1, 0)", "some people have asked to be forgotten"),
    ],
)
def test_no_downgrade_forgets_what_people_do_not_want(url: str, statement: str, why: str) -> None:
    with migration_engine(url, create=False).begin() as connection:
        connection.exec_driver_sql(statement)
    with pytest.raises(StoreError, match=f"{why}.*; go back to 0014 at most"):
        downgrade(url, "0013")
    assert check(url).state == "current"
    downgrade(url, "0014")
    assert upgrade(url).state == "current"


def test_whatever_else_is_known_of_people_keeps_nobody_from_going_back(url: str) -> None:
    with migration_engine(url, create=False).begin() as connection:
        for statement in (
            "INSERT INTO notebook VALUES ('names discord 1', '{}')",
            "INSERT INTO channel (id, platform, native_id) VALUES (1, 'matrix', '!r')",
            "INSERT INTO person_link VALUES ('matrix', '@a', 'discord', '1', 1)",
            "INSERT INTO link_code VALUES ('discord', '1', 'Ann', 'matrix', '@a', 'digest', 1)",
            "INSERT INTO avatar VALUES ('discord', 'matrix', '@a', 'mxc://a/b', 'relay_1', '1', 1)",
            "INSERT INTO ghost VALUES (1, '@_discord_1:a', 'RELAY', '')",
            "INSERT INTO ghost_member VALUES (1, 1, 'digest')",
        ):
            connection.exec_driver_sql(statement)
    downgrade(url, "0013")
    assert upgrade(url).state == "current"
    assert rows(url, "SELECT name FROM notebook") == [("names discord 1",)]
    for table in ("person_link", "link_code", "avatar", "ghost", "ghost_member"):
        assert rows(url, f"SELECT * FROM {table}") == []


def test_what_an_earlier_relay_postponed_is_known_after_the_revision_of_its_column(url: str) -> None:
    downgrade(url, "0018")
    with migration_engine(url, create=False).begin() as connection:
        for statement in (
            """
            INSERT INTO lane (id, source_platform, source_channel, destination_platform, destination_channel)
            VALUES (1, 'discord', '1', 'matrix', '!r')
            """,
            """
            INSERT INTO outbox (id, lane_id, position, state, queued_at, reason, command)
            VALUES (1, 1, 1, 'dead', '2026-01-01', 'its ghost is gone; it is tried again once that is mended', '{}'),
                   (2, 1, 2, 'dead', '2026-01-01', 'no permission', '{}'),
                   (3, 1, 3, 'waiting', '2026-01-01', NULL, '{}')
            """,
        ):
            connection.exec_driver_sql(statement)
    upgrade(url)
    assert rows(url, "SELECT id, postponed FROM outbox ORDER BY id") == [(1, 1), (2, 0), (3, 0)]


def test_a_message_that_was_edited_and_stayed_empty_goes_with_its_edits(url: str) -> None:
    with migration_engine(url, create=False).begin() as connection:
        for statement in (
            "INSERT INTO channel (id, platform, native_id) VALUES (1, 'matrix', '!r')",
            """
            INSERT INTO message (id, channel_id, native_id, author, created_at, left_out)
            VALUES (1, 1, '$1', '@a', 1, 1), (2, 1, '$2', '@a', 1, 0)
            """,
            "INSERT INTO message_edit (channel_id, native_id, message_id) VALUES (1, '$3', 1), (1, '$4', 2)",
            "INSERT INTO message_copy (message_id, channel_id, part, native_id) VALUES (1, 1, 0, '5'), (2, 1, 0, '6')",
        ):
            connection.exec_driver_sql(statement)
    downgrade(url, "0008")
    assert rows(url, "SELECT id FROM message") == [(2,)]
    assert rows(url, "SELECT message_id FROM message_edit") == [(2,)]
    assert rows(url, "SELECT message_id FROM message_copy") == [(2,)]


def test_what_came_from_the_past_goes_with_its_copies_and_edits(url: str) -> None:
    with migration_engine(url, create=False).begin() as connection:
        for statement in (
            "INSERT INTO channel (id, platform, native_id) VALUES (1, 'matrix', '!r'), (2, 'discord', '1')",
            """
            INSERT INTO message (id, channel_id, native_id, author, created_at, from_past)
            VALUES (1, 1, '$1', '@a', 1, 0), (2, 1, '$2', '@a', 1, 1)
            """,
            "INSERT INTO message_edit (channel_id, native_id, message_id) VALUES (1, '$3', 1), (1, '$4', 2)",
            "INSERT INTO message_copy (message_id, channel_id, part, native_id) VALUES (1, 2, 0, '5'), (2, 2, 0, '6')",
        ):
            connection.exec_driver_sql(statement)
    downgrade(url, "0019")
    for table, column in (("message", "id"), ("message_copy", "message_id"), ("message_edit", "message_id")):
        assert rows(url, f"SELECT {column} FROM {table}") == [(1,)]


@pytest.mark.slow
def test_two_at_once(new: str) -> None:
    program = "import sys; from relay.store.migrate import upgrade; print(upgrade(sys.argv[1]).state)"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, new], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=PATIENCE) for process in running]
    assert [out.strip() for out, _ in said] == ["current"] * 3, said


BEFORE_LANES = """
INSERT INTO outbox (id, position, pair, destination, state, queued_at, source_platform, source_channel, source_id,
                    reason, died_at, command) VALUES
  (3, 1, 'help', 'matrix', 'waiting', 1, 'discord', '1', 'a', NULL, NULL, '{"kind":"third"}'),
  (2, 5, 'help', 'matrix', 'waiting', 1, 'discord', '1', 'b', NULL, NULL, '{"kind":"second"}'),
  (4, 6, 'other', 'matrix', 'dead', 1, 'discord', '1', 'c', 'forbidden', 9, '{}'),
  (5, 7, 'help', 'discord', 'waiting', 1, 'discord', '1', 'd', NULL, NULL, '{"kind":"mark_failed"}'),
  (6, 8, 'help', 'discord', 'waiting', 1, NULL, NULL, NULL, NULL, NULL,
   '{"kind":"notice","thread":{"channel":{"platform":"discord","id":"1"},"id":"7"}}'),
  (7, 9, 'help', 'matrix', 'waiting', 1, NULL, NULL, NULL, NULL, NULL, '{"kind":"notice"}'),
  (8, 10, 'help', 'matrix', 'waiting', 1, NULL, NULL, NULL, NULL, NULL, 'no JSON');
DELETE FROM outbox WHERE id = 8;
INSERT INTO notice VALUES ('help', 'matrix', 'thread 7');
"""


def rows(url: str, sql: str) -> list[tuple[object, ...]]:
    """What a query finds."""
    with migration_engine(url, create=False).begin() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(sql)]


def test_what_was_queued_under_a_name_waits_under_it_until_it_is_known_where_it_leads(url: str) -> None:
    downgrade(url, "0005")
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        connection.executescript(BEFORE_LANES)
    queued = rows(url, "SELECT * FROM outbox WHERE id != 7 ORDER BY id")
    upgrade(url)
    lanes = rows(
        url,
        "SELECT o.id, l.source_platform || l.source_channel, l.destination_platform || l.destination_channel, l.pair"
        " FROM outbox o JOIN lane l ON l.id = o.lane_id ORDER BY l.id, o.position",
    )
    assert sorted(lanes) == [
        (2, "discord1", "matrix?help", "help"),
        (3, "discord1", "matrix?help", "help"),
        (4, "discord1", "matrix?other", "other"),
        (5, "discord1", "discord1", "help"),
        (6, "discord1", "discord1", "help"),
    ]
    assert [row[0] for row in lanes if row[2] == "matrix?help"] == [3, 2]
    assert rows(url, "SELECT waiting, dead FROM lane ORDER BY destination_platform, destination_channel") == [
        (2, 0), (2, 0), (0, 1),
    ]  # fmt: skip
    assert rows(url, "SELECT seq FROM sqlite_sequence WHERE name LIKE 'outbox%'") == [(8,)]
    downgrade(url, "0005")
    back = rows(url, "SELECT * FROM outbox ORDER BY id")
    assert [(row[0], *row[2:]) for row in back] == [(row[0], *row[2:]) for row in queued]
    assert rows(url, "SELECT id FROM outbox WHERE pair = 'help' AND destination = 'matrix' ORDER BY position") == [
        (3,), (2,),
    ]  # fmt: skip
    assert rows(url, "SELECT * FROM notice") == [("help", "matrix", "thread 7")]
    assert rows(url, "SELECT seq FROM sqlite_sequence WHERE name LIKE 'outbox%'") == [(8,)]


@pytest.mark.parametrize(("name", "why"), [("'help'", "another pair has that name now"), ("NULL", "is not known")])
def test_what_would_go_to_another_room_under_its_name_cannot_go_back(url: str, name: str, why: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        connection.executescript(
            f"""
            INSERT INTO lane (id, source_platform, source_channel, destination_platform, destination_channel, pair)
            VALUES (1, 'discord', '1', 'matrix', '!staff', {name}), (2, 'discord', '2', 'matrix', '!public', 'help');
            INSERT INTO address VALUES ('matrix', '#public:x', '!public');
            INSERT INTO outbox (lane_id, position, state, queued_at, command) VALUES (1, 1, 'waiting', 1, '{{}}');
            """
        )
    before = tables(url)
    with pytest.raises(StoreError, match=rf"cannot go back to '0005': .*{why}; let the daemon deliver it"):
        downgrade(url, "0005")
    assert tables(url) == before


def test_an_empty_lane_that_is_not_declared_any_more_keeps_nobody_from_going_back(url: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        connection.executescript(
            """
            INSERT INTO address VALUES ('matrix', '#help:x', '!new');
            INSERT INTO lane (id, source_platform, source_channel, destination_platform, destination_channel, pair)
            VALUES (1, 'discord', '1', 'matrix', '!old', 'help'), (2, 'discord', '1', 'matrix', '!new', 'help');
            INSERT INTO outbox (lane_id, position, state, queued_at, command) VALUES (2, 1, 'waiting', 1, '{}');
            """
        )
    downgrade(url, "0005")
    assert rows(url, "SELECT pair, destination FROM outbox") == [("help", "matrix")]


def test_an_address_and_its_channel_are_not_mistaken_for_each_other(url: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        connection.executescript(
            """
            INSERT INTO address VALUES ('matrix', '#help:x', '!help');
            INSERT INTO lane (id, source_platform, source_channel, destination_platform, destination_channel, pair)
            VALUES (1, 'discord', '1', 'matrix', '#help:x', 'help'), (2, 'discord', '1', 'matrix', '!help', 'help'),
                   (3, 'discord', '1', 'matrix', '?help', 'help');
            INSERT INTO outbox (lane_id, position, state, queued_at, command) VALUES (2, 1, 'waiting', 1, '{}');
            """
        )
    downgrade(url, "0005")
    assert rows(url, "SELECT pair, destination FROM outbox") == [("help", "matrix")]
