"""A damaged row, or one from the future, stops nobody: each column of each table holds what it should not."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Table

from relay.cli import main
from relay.core.clock import SystemClock
from relay.core.people.storage import AvatarRecord, ForgetRequest, Ghost, LinkCode
from relay.core.ports import Cursor
from relay.core.status.recorder import StatusRecorder
from relay.core.storage import Copy
from relay.domain.commands import DeleteMessage, Digest, DigestItem
from relay.domain.content import Author, Content
from relay.domain.ids import ChannelAddress, ChannelRef, MediaRef, MessageRef, PlaceRef, Platform, UserRef
from relay.domain.pair import LaneKey
from relay.store.lease import Holder, SqlLeases, hold, is_running
from relay.store.pruning import Pruner
from relay.store.tables import last_commits, metadata
from relay.store.unit_of_work import open_store
from tests.support.platform import MemoryPlatform
from tests.support.world import World, pair, world

pytestmark = pytest.mark.slow

CONFIG = """
[discord]
token = "MTk4NjIyNDgzNDcxOTI1MjQ4.secret-discord-token"
[matrix]
homeserver_url = "http://127.0.0.1:1"
user_id = "@relay:example.org"
access_token = "syt_secret_matrix_token"
[[pairs]]
name = "help"
discord_channel = 1234567890123456789
matrix_room = "#help:example.org"
"""
NOW = datetime(2026, 3, 1, tzinfo=UTC)
AUTHOR = Author(UserRef(Platform.DISCORD, "ann"), "ann")
ODD = ("nonsense", -7, 2**63 - 1, b"\xff\x00\xfe", 1.5, "", '{"lanes": [7, {"source": 5}], "daemon": [], "x": 5}', None)
MOST_COLUMNS = max(len(table.columns) for table in metadata.sorted_tables)


class QuickClock(SystemClock):
    """A hundred times as fast: a holder of which nothing is known is watched for half a minute."""

    def monotonic(self) -> float:
        """Seconds."""
        return super().monotonic() * 100

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await super().sleep(seconds / 100)


async def _populate(made: World) -> None:
    """Something in every table: by a life of the relay, and by hand where that takes longer."""
    here, there = made.channels()
    async with made.relay() as core:
        first = made.discord.say(here, "ann", "one")
        await made.shows(there, "one")
        made.discord.edit(first, "one, mended")
        reply = made.matrix.say(there, "ben", "two")
        made.matrix.edit(reply, "two, mended")
        await made.shows(there, "one, mended", "two, mended")
        await made.quiet()
        recorder = StatusRecorder(store=made.store, status=core.status, clock=SystemClock())
        await recorder.look()
    async with made.store.write() as unit:
        for number in range(len(ODD)):
            ref, copy = MessageRef(here, f"{900000 + number}"), MessageRef(there, f"{900000 + number}")
            message = await unit.messages.add(ref, AUTHOR.user, datetime.now(UTC), first)
            assert message is not None
            for part in range(2):
                await unit.messages.record_copy(Copy(message, part, copy))
            await unit.messages.record_edit(MessageRef(here, f"edit {number}"), message)
            await unit.digests.put(copy, Digest((DigestItem(ref, AUTHOR, Content(), NOW),)))
            await unit.media.put(MediaRef(Platform.DISCORD, f"x{number}"), MediaRef(Platform.MATRIX, "mxc://x/y"))
            await unit.avatars.put(AvatarRecord(AUTHOR.user, f"mxc://x/{number}", "x", MediaRef(Platform.DISCORD, "1")))
            await unit.once_keys.claim(there, f"thread {number}")
            await unit.cursors.put(Cursor(Platform.DISCORD, f"threads:{number}", "1"))
            await unit.channels.bind(ChannelAddress(Platform.MATRIX, f"#{number}"), there)
            await unit.key_values.put(f"names {number}", "{}")
            account, other = UserRef(Platform.DISCORD, f"a{number}"), UserRef(Platform.MATRIX, f"b{number}")
            await unit.people.link(account, other, NOW)
            await unit.people.put_code(LinkCode(account, "a", UserRef(Platform.MATRIX, "ben"), "digest", NOW))
            await unit.people.opt_out(account, NOW)
            await unit.people.put_request(ForgetRequest(account, copies=True))
            await unit.people.ban(PlaceRef(Platform.MATRIX, f"!{number}"), account, other)
            await unit.ghosts.put(Ghost(f"@_discord_{number}:x"))
            await unit.ghosts.join(f"@_discord_{number}:x", there, "digest")
            lane = LaneKey(ChannelRef(Platform.DISCORD, f"gone {number}"), there)
            await unit.outbox.append(lane, DeleteMessage(ref), NOW)
            dead = await unit.outbox.append(lane, DeleteMessage(ref), NOW)
            await unit.outbox.dead_letter(dead.id, "no permission", NOW)
            await unit.outbox.name(lane, f"gone {number}")
        ended = replace(Holder.this_process("token", NOW), pid=2**22 + 1, host="elsewhere")
        await SqlLeases(unit.transaction).put(ended)


@pytest.fixture(scope="module")
def populated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("populated")

    async def populate() -> None:
        async with world(folder) as made:
            await _populate(made)

    asyncio.run(populate())
    return (folder / "relay.db").read_bytes()


def _damage(path: Path, table: Table, column: "Column[Any]", shift: int) -> int:
    """Write odd values into a column, another one into each row; how many the table took."""
    where = " AND ".join(f'"{key.name}" IS ?' for key in table.primary_key)
    taken = 0
    with closing(sqlite3.connect(path)) as connection, connection:
        rows = connection.execute(
            f"SELECT {', '.join(key.name for key in table.primary_key)} FROM {table.name}"
        ).fetchall()
        assert rows
        for number, row in enumerate(rows):
            value = ODD[(number + shift) % len(ODD)]
            try:
                connection.execute(f'UPDATE {table.name} SET "{column.name}" = ? WHERE {where}', (value, *row))
            except (sqlite3.IntegrityError, sqlite3.OperationalError):
                continue  # a rowid that is no number, nothing where something has to be, the same key twice
            taken += 1
    return taken


async def _goes_on(path: Path) -> None:
    """A daemon starts on the store, forgets what is old, and brings messages across both ways."""
    store = await open_store(f"sqlite:///{path}")
    try:
        async with hold(store, QuickClock()):
            await store.recount()
            discord, matrix = (MemoryPlatform(one, SystemClock().now, numbers=500_000) for one in Platform)
            made = World(store, (pair(),), discord, matrix)
            here, there = made.channels()
            async with made.relay() as core:
                recorder = StatusRecorder(store=store, status=core.status, clock=SystemClock())
                await recorder.restore()
                await Pruner(store=store, clock=SystemClock(), messages=1e12, dead_letters=1e12).sweep()
                await recorder.look()
                async with store.write() as unit:
                    await unit.avatars.use(await unit.avatars.known(Platform.DISCORD, 100))
                    await unit.avatars.trim(Platform.DISCORD, 3)
                    await unit.avatars.disown(AUTHOR.user)
                    for copy in await unit.avatars.unowned(Platform.DISCORD):
                        await unit.avatars.forget_copy(copy)
                made.discord.say(here, "ann", "goes on")
                await made.shows(there, "goes on")
                made.matrix.say(there, "ben", "here too")
                await made.shows(here, "goes on", "here too")
                await recorder.look()
                assert core.status.store_problem is None
    finally:
        await store.close()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relay.toml").write_text(CONFIG)

    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        out, err = capsys.readouterr()
        assert exit_.value.code in (0, 1), out + err
        assert "Traceback" not in out + err
        assert "bug" not in out + err
        return out

    return call


@pytest.mark.parametrize("number", range(MOST_COLUMNS))
def test_odd_values_stop_nobody(
    populated: bytes, tmp_path: Path, cli: Callable[..., str], capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """In one column of each table at a time, until each has had its turn."""
    path = tmp_path / "relay.db"
    path.write_bytes(populated)
    for table in metadata.sorted_tables:
        if table is not last_commits and number < len(table.columns):
            _damage(path, table, list(table.columns)[number], shift=number)
    cli("status")
    assert isinstance(json.loads(cli("status", "--json"))["pairs"], list)
    cli("dead", "list")
    asyncio.run(_goes_on(path))
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert "bug" not in out + err


@pytest.mark.parametrize("column", list(metadata.tables["lease"].columns), ids=lambda it: it.name)
def test_an_odd_lease_is_a_lease_that_can_be_taken(populated: bytes, tmp_path: Path, column: "Column[Any]") -> None:
    path = tmp_path / "relay.db"

    async def take() -> None:
        store = await open_store(f"sqlite:///{path}")
        try:
            async with store.read() as unit:
                is_running(await SqlLeases(unit.transaction).get(), path)
            async with hold(store, QuickClock()):
                pass
        finally:
            await store.close()

    for shift in range(len(ODD)):
        path.write_bytes(populated)
        if _damage(path, metadata.tables["lease"], column, shift):
            asyncio.run(take())
