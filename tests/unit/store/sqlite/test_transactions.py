"""Transactions that share a commit: each is kept or undone on its own, and none returns before the disk has it."""

import asyncio
import inspect
import re
import sqlite3
import tomllib
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path

import aiosqlite
import pytest
from sqlalchemy.exc import IntegrityError

from relay.core.ports import Cursor
from relay.core.storage import Copy
from relay.domain.commands import DeleteMessage
from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.domain.pair import LaneKey
from relay.errors import StoreUnavailable
from relay.store.sqlite.driver import PipelineConnection
from relay.store.sqlite.engine import translated
from relay.store.unit_of_work import SqlStore
from tests.support.patience import PATIENCE

LANE = LaneKey(ChannelRef(Platform.DISCORD, "1"), ChannelRef(Platform.MATRIX, "!room"))
NOW = datetime(2026, 3, 1, tzinfo=UTC)


async def write(store: SqlStore, number: int, error: Exception | None = None, size: int = 1) -> int:
    """One transaction of several statements; raises `error` in its middle."""
    async with store.write() as unit:
        await unit.key_values.put("last", str(number) * size)
        entry = await unit.outbox.append(LANE, DeleteMessage(MessageRef(ChannelRef(Platform.DISCORD, "1"), "1")), NOW)
        await unit.key_values.get("last")
        if error is not None:
            raise error
        await unit.cursors.put(Cursor(Platform.DISCORD, str(number), str(entry.id)))
    return entry.id


async def kept(store: SqlStore, numbers: range) -> dict[int, int]:
    """The entry of each transaction that is on the disk; checked against the outbox."""
    async with store.read() as unit:
        cursors = {number: await unit.cursors.get(Platform.DISCORD, str(number)) for number in numbers}
        waiting = {entry.id for entry in await unit.outbox.waiting(LANE, 1000)}
    found = {number: int(position) for number, position in cursors.items() if position is not None}
    assert set(found.values()) == waiting
    assert len(waiting) == len(found)
    return found


async def statements(store: SqlStore) -> list[str]:
    """From now on every statement that the writing connection executes."""
    seen: list[str] = []
    await write(store, 0)
    assert store._file_writer._connection is not None
    await store._file_writer._connection.submit(lambda connection: connection.set_trace_callback(seen.append))
    return seen


async def test_those_that_wait_share_a_commit(store: SqlStore) -> None:
    seen = await statements(store)
    entries = await asyncio.gather(*(write(store, number) for number in range(1, 21)))
    assert len(set(entries)) == 20
    assert seen.count("COMMIT") <= 3
    assert len(await kept(store, range(21))) == 21


async def test_a_lone_one_is_committed_at_once(store: SqlStore) -> None:
    seen = await statements(store)
    await write(store, 1)
    assert seen.count("COMMIT") == 1


async def test_one_that_raises_is_undone_alone(store: SqlStore) -> None:
    outcomes = await asyncio.gather(
        *(write(store, number, KeyError("x") if number % 3 == 0 else None) for number in range(20)),
        return_exceptions=True,
    )
    assert [isinstance(outcome, KeyError) for outcome in outcomes] == [number % 3 == 0 for number in range(20)]
    found = await kept(store, range(20))
    assert found == {number: outcome for number, outcome in enumerate(outcomes) if number % 3}
    async with store.read() as unit:
        assert await unit.key_values.get("last") == "19"


async def write_at_fault(store: SqlStore, number: int, *, asked: bool) -> None:
    """As `write`, with a copy of a message that is not there: a violated reference. `asked`: seen in its own turn."""
    async with store.write() as unit:
        await unit.cursors.put(Cursor(Platform.DISCORD, str(number), "0"))
        await unit.messages.record_copy(Copy(404, 0, MessageRef(LANE.destination, "$copy")))
        if asked:
            await unit.key_values.get("last")


@pytest.mark.parametrize("asked", [False, True])
async def test_a_lone_one_that_is_at_fault_leaves_nothing_behind(store: SqlStore, asked: bool) -> None:
    for number in range(3):
        with pytest.raises((IntegrityError, sqlite3.IntegrityError)):
            await write_at_fault(store, number, asked=asked)
        await write(store, 10 + number)
    assert sorted(await kept(store, range(20))) == [10, 11, 12]


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("guilty", [{0}, {1}, {4}, {7}, {0, 1, 6, 7}])
async def test_one_that_is_at_fault_is_undone_alone(store: SqlStore, guilty: set[int], asked: bool) -> None:
    outcomes = await asyncio.gather(
        *(write_at_fault(store, n, asked=asked) if n in guilty else write(store, n) for n in range(8)),
        return_exceptions=True,
    )
    assert {n for n, it in enumerate(outcomes) if isinstance(it, IntegrityError | sqlite3.IntegrityError)} == guilty
    assert await kept(store, range(8)) == {n: it for n, it in enumerate(outcomes) if n not in guilty}


async def test_one_that_goes_on_after_a_failure_is_not_kept(store: SqlStore) -> None:
    async def goes_on(number: int) -> None:
        async with store.write() as unit:
            await unit.cursors.put(Cursor(Platform.DISCORD, str(number), "0"))
            with suppress(IntegrityError):
                await unit.messages.record_copy(Copy(404, 0, MessageRef(LANE.destination, "$copy")))
                await unit.key_values.get("last")

    outcomes = await asyncio.gather(
        *(goes_on(n) if n == 2 else write(store, n) for n in range(5)), return_exceptions=True
    )
    assert isinstance(outcomes[2], sqlite3.IntegrityError)
    assert sorted(await kept(store, range(5))) == [0, 1, 3, 4]


async def test_none_of_them_is_promised_when_the_disk_is_full(store: SqlStore) -> None:
    await write(store, 0)
    assert store._file_writer._connection is not None
    await store._file_writer._connection.submit(lambda connection: connection.execute("PRAGMA max_page_count = 1"))
    outcomes = await asyncio.gather(
        *(write(store, number, size=100_000 if number == 5 else 1) for number in range(1, 10)), return_exceptions=True
    )
    failed = [number for number, outcome in enumerate(outcomes, 1) if isinstance(outcome, StoreUnavailable)]
    assert 5 in failed
    assert len(failed) > 1  # those that shared its commit
    async with store.read() as unit:
        for number, outcome in enumerate(outcomes, 1):
            position = await unit.cursors.get(Platform.DISCORD, str(number))
            assert position == (None if isinstance(outcome, BaseException) else str(outcome))
    assert await write(store, 99) > 0


async def test_cancelling_some_leaves_the_others_whole(store: SqlStore) -> None:
    for turn in range(10):
        tasks = [asyncio.create_task(write(store, 100 * turn + number)) for number in range(12)]
        await asyncio.sleep(0.0004 * turn)
        for task in tasks[turn % 4 :: 4]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        async with store.read() as unit:
            for number, outcome in enumerate(outcomes):
                position = await unit.cursors.get(Platform.DISCORD, str(100 * turn + number))
                if isinstance(outcome, int):
                    assert position == str(outcome)
                elif isinstance(outcome, StoreUnavailable):  # its neighbour was cut off in the middle of a statement
                    assert position is None
    await write(store, 5000)


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_the_end_of_whoever_was_to_come_next_does_not_strand_those_before(
    store: SqlStore, cancelled: int
) -> None:
    inside, leave = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with store.write() as unit:
            await unit.key_values.put("a", "b")
            inside.set()
            await leave.wait()

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        group.create_task(first())
        await inside.wait()
        waiters = [asyncio.create_task(write(store, number)) for number in range(2)]
        await asyncio.sleep(0)
        leave.set()
        await asyncio.sleep(0)
        waiters[cancelled].cancel()
        await asyncio.wait(waiters)
    async with store.read() as unit:
        assert await unit.key_values.get("a") == "b"


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("turns", range(4))
async def test_the_end_of_all_who_were_to_come_does_not_strand_those_before(
    store: SqlStore, turns: int, *, writes: bool
) -> None:
    inside, leave = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        # Who has written nothing may be told that nothing could be written.
        with nullcontext() if writes else suppress(StoreUnavailable):
            async with store.write() as unit:
                if writes:
                    await unit.key_values.put("a", "b")
                inside.set()
                await leave.wait()

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        group.create_task(first())
        await inside.wait()
        waiters = [asyncio.create_task(write(store, number)) for number in range(3)]
        await asyncio.sleep(0)
        leave.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)
    async with store.read() as unit:
        assert await unit.key_values.get("a") == ("b" if writes else None)
    await write(store, 9)


async def test_who_is_cancelled_during_a_commit_hears_of_it_once_that_is_over(store: SqlStore) -> None:
    await write(store, 0)
    connection = store._file_writer._connection
    assert connection is not None

    async def quick() -> None:
        async with store.write() as unit:
            await unit.cursors.put(Cursor(Platform.DISCORD, "1", "here"))

    task = asyncio.create_task(quick())
    await asyncio.sleep(0)
    assert connection._begun  # on its way to the thread, with the commit
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store._file_writer._group is None
    async with store.read() as unit:
        assert await unit.cursors.get(Platform.DISCORD, "1") == "here"


async def test_a_cancellation_counts_whatever_its_undoing_meets(store: SqlStore) -> None:
    """Whoever catches `StoreUnavailable` tries again: a cancelled task that gets that instead goes on for ever."""
    inside = asyncio.Event()

    async def stuck() -> None:
        async with store.write() as unit:
            await unit.key_values.put("a", "b")
            await unit.key_values.get("a")
            opened = store._file_writer._connection
            assert opened is not None
            await opened.close()
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stuck())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await write(store, 1)


async def test_a_cancellation_is_not_translated_into_trouble_of_the_disk(tmp_path: Path) -> None:
    def cleaned_up() -> None:
        try:
            raise asyncio.CancelledError
        finally:
            raise sqlite3.OperationalError("connection closed")

    with pytest.raises(asyncio.CancelledError), translated(tmp_path):
        cleaned_up()


def test_the_private_attributes_that_the_driver_uses_are_there() -> None:
    """aiosqlite may rename them in any minor release: pyproject.toml bounds it."""
    source = inspect.getsource(PipelineConnection)
    own = set(vars(PipelineConnection)) | set(re.findall(r"self\.(_[a-z_]+)(?:: [^=\n]+)? = ", source))
    theirs = set(re.findall(r"self\.(_[a-z_]+)\b", source)) - own
    assert theirs == {"_conn", "_connection", "_running", "_thread", "_tx"}
    assert theirs <= set(dir(aiosqlite.Connection(lambda: sqlite3.connect(":memory:"), 64)))
    declared = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "dependencies"
    ]
    assert "aiosqlite>=0.22,<0.23" in declared
