"""`relay db copy`: from each implementation to each."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from relay.core.clock import SystemClock
from relay.core.ports import Cursor
from relay.core.storage import Copy, Store
from relay.domain.commands import Digest, DigestItem
from relay.domain.content import Author, Content
from relay.domain.ids import MessageRef, Platform, UserRef
from relay.errors import StoreError, StoreHeld
from relay.store.backup import TAKEN
from relay.store.copying import copy_store, prepare
from relay.store.lease import hold
from relay.store.tables import key_value, lease, metadata
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
    await asyncio.to_thread(prepare, source, target)
    return dict(await copy_store(source, target, CLOCK))


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
    """Everything in a store, but who holds it."""
    async with store.read() as unit:
        return {
            table.name: sorted((tuple(row) for row in await unit.transaction.all(select(table), {})), key=repr)
            for table in metadata.sorted_tables
            if table not in (lease, key_value)
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


def prepare_new(url: str) -> None:
    """Make a store."""
    from relay.store.migrate import upgrade

    upgrade(url)
