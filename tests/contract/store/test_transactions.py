"""What every implementation of `core.storage.Store` does: transactions."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from relay.core.ports import Cursor
from relay.core.storage import Copy, Store
from relay.domain.ids import Platform
from tests.support.store_contract import ANN, LANE, NOON, Closable, here, sending, there, waiting


class TestTransactions:
    async def test_the_id_is_short_and_lasts(self, opener: Callable[[], Awaitable[Closable]]) -> None:
        first = await opener()
        known = first.id
        await first.close()
        again = await opener()
        assert again.id == known
        assert len(known) == 6
        assert set(known) <= set("abcdefghijklmnopqrstuvwxyz234567")
        await again.close()

    async def test_what_raises_writes_nothing(self, store: Store) -> None:
        async def fail() -> None:
            async with store.write() as unit:
                await unit.messages.add(there(1), ANN, NOON, None)
                await unit.outbox.append(LANE, sending(1), NOON)
                await unit.cursors.put(Cursor(Platform.DISCORD, "channel:1", "1"))
                await unit.key_values.put("a", "b")
                raise KeyError("x")

        with pytest.raises(KeyError):
            await fail()
        async with store.read() as unit:
            assert await unit.messages.find(there(1)) is None
            assert await unit.outbox.lanes() == frozenset()
            assert await unit.cursors.get(Platform.DISCORD, "channel:1") is None
            assert await unit.key_values.get("a") is None

    async def test_a_look_answers_one_question_and_changes_nothing(self, store: Store) -> None:
        async with store.write() as unit:
            await unit.key_values.put("a", "b")
        async with store.look() as unit:
            assert await unit.key_values.get("a") == "b"
            with pytest.raises(TypeError, match="one question"):
                await unit.key_values.get("a")
        with pytest.raises(TypeError, match="cannot change"):
            async with store.look() as unit:
                await unit.key_values.put("a", "c")
        async with store.look() as unit:
            assert await unit.key_values.get("a") == "b"

    async def test_a_transaction_sees_what_it_wrote_and_others_do_not(self, store: Store) -> None:
        async with store.write() as unit:
            message_id = await unit.messages.add(there(1), ANN, NOON, None)
            assert message_id is not None
            await unit.messages.record_copy(Copy(message_id, 0, here(1)))
            await unit.messages.mark_deleted(message_id)
            await unit.cursors.put(Cursor(Platform.DISCORD, "s", "1"))
            await unit.key_values.put("a", "b")
            assert await unit.messages.is_copy(here(1))
            found = await unit.messages.find(there(1))
            assert found is not None
            assert found.deleted
            assert await unit.cursors.get(Platform.DISCORD, "s") == "1"
            assert await unit.key_values.get("a") == "b"
            async with store.read() as other:
                assert not await other.messages.is_copy(here(1))
        async with store.read() as unit:
            assert await unit.messages.is_copy(here(1))

    async def test_a_view_is_consistent(self, store: Store) -> None:
        async with store.read() as unit:
            assert await unit.key_values.get("a") is None
            async with store.write() as other:
                await other.key_values.put("a", "b")
            assert await unit.key_values.get("a") is None

    async def test_a_view_changes_nothing(self, store: Store) -> None:
        with pytest.raises(TypeError):
            async with store.read() as unit:
                await unit.outbox.append(LANE, sending(1), NOON)
        with pytest.raises(TypeError):
            async with store.read() as unit:
                await unit.key_values.put("a", "b")
        assert await waiting(store) == []

    async def test_no_update_is_lost_among_many_writers(self, store: Store) -> None:
        async def count() -> None:
            for _ in range(10):
                async with store.write() as unit:
                    seen = int(await unit.key_values.get("counter") or 0)
                    await asyncio.sleep(0)
                    await unit.key_values.put("counter", str(seen + 1))

        async def look() -> None:
            for _ in range(20):
                async with store.read() as unit:
                    await unit.key_values.get("counter")

        async with asyncio.TaskGroup() as group:
            for _ in range(12):
                group.create_task(count())
                group.create_task(look())
        async with store.read() as unit:
            assert await unit.key_values.get("counter") == "120"

    async def test_a_cancelled_transaction_writes_nothing_and_blocks_nobody(self, store: Store) -> None:
        inside = asyncio.Event()

        async def writer() -> None:
            async with store.write() as unit:
                await unit.key_values.put("a", "b")
                await unit.key_values.get("a")
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(writer())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with store.write() as unit:
            assert await unit.key_values.get("a") is None
            await unit.key_values.put("a", "c")

    async def test_cancelled_at_any_await_all_or_nothing(self, store: Store) -> None:
        async def writer(number: int) -> None:
            async with store.write() as unit:
                await unit.messages.add(there(number), ANN, NOON, None)
                await unit.outbox.append(LANE, sending(number), NOON)
                await unit.cursors.put(Cursor(Platform.DISCORD, "channel:1", str(number)))

        for number in range(1, 60):
            task = asyncio.create_task(writer(number))
            for _ in range(number):
                await asyncio.sleep(0)
            await asyncio.sleep(0.00002 * number)
            for _ in range(1 + number % 3):  # whoever cancels may be impatient
                task.cancel()
                await asyncio.sleep(0)
            await asyncio.wait((task,))
        sources = [entry.command for entry in await waiting(store)]
        async with store.read() as unit:
            known = [n for n in range(1, 60) if await unit.messages.find(there(n)) is not None]
            assert await unit.cursors.get(Platform.DISCORD, "channel:1") == (str(known[-1]) if known else None)
        assert sources == [sending(number) for number in known]
