"""`relay db copy`: from each implementation to each."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import select

from relay.config.store_url import names_postgresql, without_schema
from relay.core.clock import SystemClock
from relay.core.ports import Cursor
from relay.core.storage import Copy, Store
from relay.domain.commands import Digest, DigestItem
from relay.domain.content import Author, Content
from relay.domain.ids import MessageRef, Platform, UserRef
from relay.errors import StoreError, StoreHeld
from relay.store import migrate
from relay.store.backup import TAKEN
from relay.store.copying import copy_store, prepared
from relay.store.lease import hold
from relay.store.tables import key_value, last_commits, lease, metadata
from relay.store.unit_of_work import SqlStore, open_store
from tests.support.postgresql import server
from tests.support.store_contract import ANN, LANE, NOON, ROOM, here, sending, there

CLOCK = SystemClock()


@pytest.fixture(params=product(("sqlite", "postgresql"), repeat=2), ids="-to-".join)
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The URLs of two stores that are not there yet."""
    with ExitStack() as stack:
        yield tuple(
            stack.enter_context(server().database(migrated=False))
            if kind == "postgresql"
            else f"sqlite:///{tmp_path / name}.db"
            for kind, name in zip(request.param, ("old", "new"), strict=True)
        )  # type: ignore[misc]


async def copied(source: str, target: str) -> dict[str, int]:
    """As the command does it."""

    def work() -> dict[str, int]:
        with prepared(source, target) as made:
            return dict(asyncio.run(copy_store(source, made, CLOCK)))

    return await asyncio.to_thread(work)


async def fill(store: Store) -> None:
    """Something in every kind of column."""
    async with store.write() as unit:
        for number in range(2_500):
            ref = there(number) if number % 3 else MessageRef(ROOM, f"$odd\0{number}")
            answered = there(number - 1) if number % 3 == 2 else None
            row = await unit.messages.add(ref, UserRef(Platform.DISCORD, f"{number}"), NOON, answered)
            assert row is not None
            await unit.messages.record_copy(Copy(row, 0, here(number)), retries=number % 2)
            if number % 100 == 0:
                await unit.messages.record_edit(here(f"edit-{number}"), row)
                await unit.messages.mark_edited(row, NOON + timedelta(seconds=number))
        entries = [await unit.outbox.append(LANE, sending(number), NOON) for number in range(3)]
        await unit.outbox.dead_letter(entries[0].id, "“no” \N{SNOWMAN}", NOON)
        await unit.outbox.done(entries[2].id)
        await unit.cursors.put(Cursor(Platform.DISCORD, "channel:1", "77"))
        await unit.digests.put(here("digest"), Digest((DigestItem(there(1), Author(ANN, "Ann"), Content(), NOON),)))
        await unit.people.link(ANN, UserRef(Platform.MATRIX, "@ann:example.org"), NOON)
        assert await unit.once_keys.claim(ROOM, "thread 1")


async def rows(store: SqlStore) -> dict[str, list[Any]]:
    """Everything in a store, but who holds it, and what it knows of its last commits."""
    async with store.read() as unit:
        return {
            table.name: sorted((tuple(row) for row in await unit.transaction.all(select(table), {})), key=repr)
            for table in metadata.sorted_tables
            if table not in (lease, last_commits, key_value)
        }


async def test_everything_is_there_and_no_number_is_given_out_again(urls: tuple[str, str]) -> None:
    await asyncio.to_thread(prepare_new, urls[0])
    old = await open_store(urls[0])
    await fill(old)
    counts = await copied(*urls)
    assert counts["message"] == counts["message_copy"] == 2_500
    new = await open_store(urls[1])
    assert new.id == old.id
    before, after = await rows(old), await rows(new)
    assert str(after).replace("\N{REPLACEMENT CHARACTER}", "\\x00") == str(before).replace(
        "\N{REPLACEMENT CHARACTER}", "\\x00"
    )
    async with new.write() as unit:
        entry = await unit.outbox.append(LANE, sending(9), NOON)
        row = await unit.messages.add(there("new"), ANN, NOON, None)
        assert (await unit.key_values.get(TAKEN) or "") > "2026"
    last = before["outbox"][-1][0]
    assert entry.id > last + 1, "the number of what was delivered was given out again"
    assert row is not None
    assert row > 2_500
    for store in (old, new):
        await store.close()


async def test_what_is_in_use_or_not_new_is_left_alone(urls: tuple[str, str]) -> None:
    await asyncio.to_thread(prepare_new, urls[0])
    with pytest.raises(StoreError, match="it cannot be copied into itself"):
        await copied(urls[0], urls[0])
    old = await open_store(urls[0])
    async with hold(old, CLOCK):
        with pytest.raises(StoreHeld):
            await copied(*urls)
    await copied(*urls)
    with pytest.raises(StoreError, match="it is not new: "):
        await copied(*urls)
    await old.close()


async def names_at(url: str) -> list[str]:
    """What there is where a store is: files, or schemas and tables."""
    if not names_postgresql(url):
        file = Path(url.removeprefix("sqlite:///"))
        found = sorted(path.name for path in file.parent.glob(f"{file.name}*"))
        if file.exists():
            with closing(sqlite3.connect(file)) as connection:
                found += [name for (name,) in connection.execute("SELECT name FROM sqlite_master ORDER BY name")]
        return found
    server = await asyncpg.connect(without_schema(url))
    rows = await server.fetch(
        "SELECT table_schema || '.' || table_name AS name FROM information_schema.tables UNION SELECT schema_name"
        " FROM information_schema.schemata UNION SELECT proname FROM pg_proc ORDER BY name"
    )
    await server.close()
    return [row["name"] for row in rows]


@pytest.mark.parametrize("existing", ["nothing", "an empty file or a schema"])
async def test_what_fails_leaves_nothing_behind(urls: tuple[str, str], existing: str) -> None:
    """The next try was refused, because there was a store already."""
    source, target = urls
    await asyncio.to_thread(prepare_new, source)
    if existing != "nothing" and names_postgresql(target):
        target += "&search_path=tenant_a"
    elif existing != "nothing":
        Path(target.removeprefix("sqlite:///")).touch()
    before = await names_at(target)
    old = await open_store(source)
    async with hold(old, CLOCK):
        with pytest.raises(StoreHeld):
            await copied(source, target)
    assert await names_at(target) == before
    assert (await copied(source, target))["message"] == 0
    new = await open_store(target)
    async with hold(new, CLOCK):
        assert new.id == old.id
    for store in (old, new):
        await store.close()


async def test_an_older_relays_store_is_not_upgraded_by_a_copy_that_is_refused(urls: tuple[str, str]) -> None:
    await asyncio.to_thread(prepare_new, urls[0])
    await asyncio.to_thread(prepare_new, urls[1])
    await asyncio.to_thread(migrate.downgrade, urls[1], "-1")
    before = await asyncio.to_thread(migrate.check, urls[1])
    with pytest.raises(StoreError, match="it is not new: it is another relay's"):
        await copied(*urls)
    assert await asyncio.to_thread(migrate.check, urls[1]) == before


def prepare_new(url: str) -> None:
    """Make a store."""
    migrate.upgrade(url)
