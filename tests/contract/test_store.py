"""What every implementation of `core.storage.Store` has to do; one is added by another opener in `OPENERS`."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import pytest

from relay.core.ports import Cursor
from relay.core.storage import Copy, Entry, LaneDepth, Original, Store
from relay.domain.commands import Command, LateFile, SendMessage
from relay.domain.content import Attachment, Author, Content
from relay.domain.ids import ChannelAddress, ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.store import codec
from relay.store.unit_of_work import open_store
from tests.support.store import new_store


class Closable(Store, Protocol):
    """A store that a test closes and opens again."""

    async def close(self) -> None:
        """Close it."""
        ...


async def sqlite(directory: Path) -> Closable:
    """The store on one SQLite file."""
    path = directory / "relay.db"
    return await open_store(f"sqlite:///{path}" if path.exists() else new_store(directory))


OPENERS: tuple[Callable[[Path], Awaitable[Closable]], ...] = (sqlite,)
DISCORD = ChannelRef(Platform.DISCORD, "1")
ROOM = ChannelRef(Platform.MATRIX, "!room")
ANN = UserRef(Platform.DISCORD, "7")
LANE = LaneKey(DISCORD, ROOM)
ELSEWHERE = LaneKey(DISCORD, ChannelRef(Platform.MATRIX, "!elsewhere"))
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture(params=OPENERS, ids=lambda opener: opener.__name__)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Awaitable[Closable]]:
    """Opens the store of this test, also again."""
    return lambda: request.param(tmp_path)


@pytest.fixture
async def store(opener: Callable[[], Awaitable[Closable]]) -> AsyncIterator[Store]:
    opened = await opener()
    yield opened
    await opened.close()


def there(number: int | str) -> MessageRef:
    """A message on Discord."""
    return MessageRef(DISCORD, str(number))


def here(number: int | str) -> MessageRef:
    """An event in the room."""
    return MessageRef(ROOM, f"${number}")


def sending(number: int) -> SendMessage:
    """The command that copies that message."""
    return SendMessage(there(number), Author(ANN, "Ann"), Content(RichText.plain(f"message {number}")), NOON)


async def add(store: Store, number: int, created_at: datetime = NOON) -> int:
    """An original in the map."""
    async with store.write() as unit:
        message_id = await unit.messages.add(there(number), ANN, created_at, None)
    assert message_id is not None
    return message_id


async def copy(store: Store, message_id: int, ref: MessageRef, part: int = 0) -> None:
    """A copy in the map."""
    async with store.write() as unit:
        await unit.messages.record_copy(Copy(message_id, part, ref))


async def queue(store: Store, *numbers: int, lane: LaneKey = LANE) -> list[Entry]:
    """Commands in the outbox."""
    async with store.write() as unit:
        return [await unit.outbox.append(lane, sending(number), NOON) for number in numbers]


async def waiting(store: Store, lane: LaneKey = LANE, limit: int = 100) -> list[Entry]:
    """What waits in a lane."""
    async with store.read() as unit:
        return list(await unit.outbox.waiting(lane, limit))


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


class TestMessageMap:
    async def test_an_original_comes_back_as_it_was(self, store: Store) -> None:
        async with store.write() as unit:
            first = await unit.messages.add(there(1), ANN, NOON, None)
            second = await unit.messages.add(there(2), ANN, NOON, there(1))
        async with store.read() as unit:
            assert first is not None
            assert await unit.messages.find(there(1)) == Original(first, there(1), ANN, NOON)
            assert second is not None
            assert await unit.messages.find(there(2)) == Original(second, there(2), ANN, NOON, reply_to=there(1))
            assert await unit.messages.find(here(1)) is None

    async def test_a_replay_is_recognised(self, store: Store) -> None:
        await add(store, 1)
        async with store.write() as unit:
            assert await unit.messages.add(there(1), ANN, NOON + timedelta(1), None) is None
            assert await unit.messages.add(MessageRef(ChannelRef(Platform.DISCORD, "2"), "1"), ANN, NOON, None)

    async def test_a_copy_is_no_original(self, store: Store) -> None:
        await copy(store, await add(store, 1), here("a"))
        async with store.write() as unit:
            assert await unit.messages.add(here("a"), ANN, NOON, None) is None
            assert await unit.messages.add(here("b"), ANN, NOON, None) is not None

    async def test_an_edit_leads_to_its_original(self, store: Store) -> None:
        message_id = await add(store, 1)
        async with store.write() as unit:
            await unit.messages.record_edit(there(2), message_id)
            await unit.messages.record_edit(there(2), message_id)
        async with store.read() as unit:
            found = await unit.messages.edited_by(there(2))
            assert found == await unit.messages.find(there(1))
            assert await unit.messages.edited_by(there(1)) is None

    async def test_marks(self, store: Store) -> None:
        message_id = await add(store, 1)
        later = NOON + timedelta(seconds=1)
        async with store.write() as unit:
            await unit.messages.mark_edited(message_id, later)
            await unit.messages.mark_deleted(message_id)
        async with store.read() as unit:
            found = await unit.messages.find(there(1))
        assert found == Original(message_id, there(1), ANN, NOON, edited_at=later, deleted=True)

    async def test_times_come_back_with_their_zone(self, store: Store) -> None:
        there_it_is = NOON.astimezone(timezone(timedelta(hours=5)))
        await add(store, 1, there_it_is)
        async with store.read() as unit:
            found = await unit.messages.find(there(1))
        assert found is not None
        assert found.created_at == NOON
        assert found.created_at.tzinfo is UTC

    async def test_copies_by_part_in_their_channel(self, store: Store) -> None:
        message_id = await add(store, 1)
        await copy(store, message_id, here("b"), part=1)
        await copy(store, message_id, here("a"), part=0)
        elsewhere = MessageRef(ChannelRef(Platform.MATRIX, "!other"), "$c")
        await copy(store, message_id, elsewhere)
        async with store.read() as unit:
            assert await unit.messages.copies(message_id, ROOM) == (
                Copy(message_id, 0, here("a")),
                Copy(message_id, 1, here("b")),
            )
            assert await unit.messages.is_copy(elsewhere)
            assert not await unit.messages.is_copy(there(1))
            assert await unit.messages.places(message_id, Platform.MATRIX) == {ROOM, elsewhere.channel}
            assert await unit.messages.places(message_id, Platform.DISCORD) == frozenset()

    async def test_a_replayed_copy_replaces_and_a_forgotten_one_is_gone(self, store: Store) -> None:
        message_id = await add(store, 1)
        await copy(store, message_id, here("old"))
        await copy(store, message_id, here("new"))
        async with store.read() as unit:
            assert await unit.messages.copies(message_id, ROOM) == (Copy(message_id, 0, here("new")),)
            assert not await unit.messages.is_copy(here("old"))
        async with store.write() as unit:
            await unit.messages.forget_copy(Copy(message_id, 0, here("old")))
            assert await unit.messages.is_copy(here("new"))
            await unit.messages.forget_copy(Copy(message_id, 0, here("new")))
            assert await unit.messages.copies(message_id, ROOM) == ()

    async def test_a_copy_that_was_posted_again_stays_on_record_until_it_is_forgotten(self, store: Store) -> None:
        message_id = await add(store, 1)
        await copy(store, message_id, here("b"), part=1)
        posted = "first", "second", "third"
        await copy(store, message_id, here("first"))
        for number, (before, after) in enumerate(pairwise(posted), start=1):
            async with store.write() as unit:
                stands = Copy(message_id, 0, here(before))
                assert await unit.messages.supersede(stands) == replace(stands, superseded=number)
                await unit.messages.record_copy(Copy(message_id, 0, here(after)))
        async with store.write() as unit:
            assert await unit.messages.counterpart(there(1), ROOM) == here("third")
            assert await unit.messages.is_copy(here("first"))
            assert await unit.messages.copies(message_id, ROOM) == (
                Copy(message_id, 0, here("third")),
                Copy(message_id, 1, here("b")),
                Copy(message_id, 0, here("first"), superseded=1),
                Copy(message_id, 0, here("second"), superseded=2),
            )
            await unit.messages.forget_copy(Copy(message_id, 0, here("first"), superseded=1))
            assert [one.ref.id for one in await unit.messages.copies(message_id, ROOM)] == [
                here("third").id,
                here("b").id,
                here("second").id,
            ]

    async def test_a_second_copy_elsewhere_leaves_the_first_on_record(self, store: Store) -> None:
        message_id = await add(store, 1)
        elsewhere = MessageRef(ChannelRef(Platform.MATRIX, "!other"), "$b")
        await copy(store, message_id, here("a"))
        await copy(store, message_id, elsewhere)
        async with store.read() as unit:
            assert await unit.messages.is_copy(here("a"))
            assert await unit.messages.is_copy(elsewhere)

    async def test_counterparts_both_ways(self, store: Store) -> None:
        message_id = await add(store, 1)
        await copy(store, message_id, here("b"), part=1)
        await copy(store, message_id, here("a"), part=0)
        async with store.read() as unit:
            assert await unit.messages.counterpart(there(1), ROOM) == here("a")
            assert await unit.messages.counterpart(here("a"), DISCORD) == there(1)
            assert await unit.messages.counterpart(here("b"), DISCORD) == there(1)
            assert await unit.messages.counterpart(there(1), DISCORD) is None
            assert await unit.messages.counterpart(there(2), ROOM) is None

    async def test_several_originals_in_one_copy(self, store: Store) -> None:
        for number in (1, 2, 3):
            await copy(store, await add(store, number), here("batch"))
        async with store.read() as unit:
            assert await unit.messages.counterpart(here("batch"), DISCORD) == there(3)
            assert await unit.messages.counterpart(there(1), ROOM) == here("batch")


class TestOutbox:
    async def test_what_is_read_ahead_is_bounded_by_number_and_bytes(self, store: Store) -> None:
        queued = await queue(store, *range(9))
        size = queued[0].size
        assert size > 0
        async with store.read() as unit:
            assert await unit.outbox.ahead(LANE, 10, 1 << 20) == (queued, True)
            assert await unit.outbox.ahead(LANE, 9, 1 << 20) == (queued, False)
            # As far as the entry with which they come to as much.
            assert await unit.outbox.ahead(LANE, 10, 3 * size) == (queued[:3], False)
            assert await unit.outbox.ahead(LANE, 10, 1) == (queued[:1], False)
            assert await unit.outbox.ahead(LANE.back, 10, 1) == ([], True)

    async def test_the_last_copy_is_the_one_recorded_last(self, store: Store) -> None:
        async with store.write() as unit:
            await unit.outbox.append(LANE, sending(1), NOON)
            await unit.outbox.append(LANE.back, sending(1), NOON)
        first, second = await add(store, 1), await add(store, 2)
        async with store.read() as unit:
            assert await unit.outbox.last_copy(LANE) is None
        await copy(store, first, here(1))
        await copy(store, second, here(2))
        async with store.read() as unit:
            assert await unit.outbox.last_copy(LANE) == here(2)
        await copy(store, first, here("again"))
        async with store.read() as unit:
            assert await unit.outbox.last_copy(LANE) == here("again")
            assert await unit.outbox.last_copy(LANE.back) is None
            assert await unit.outbox.last_copy(LaneKey.within(ROOM)) == here("again")

    async def test_two_lanes_to_one_channel_have_a_last_copy_each(self, store: Store) -> None:
        other = LaneKey(ChannelRef(Platform.DISCORD, "2"), ROOM)
        async with store.write() as unit:
            await unit.outbox.append(LANE, sending(1), NOON)
        await copy(store, await add(store, 1), here(1))
        async with store.write() as unit:
            await unit.outbox.append(other, sending(2), NOON)
            theirs = await unit.messages.add(MessageRef(other.source, "2"), ANN, NOON, None)
        async with store.read() as unit:
            assert await unit.outbox.last_copy(other) == here(1), "nothing of it can stand before that"
        assert theirs is not None
        await copy(store, theirs, here(2))
        async with store.read() as unit:
            assert await unit.outbox.last_copy(LANE) == here(1)
            assert await unit.outbox.last_copy(other) == here(2)

    async def test_a_lane_takes_its_last_copy_along(self, store: Store) -> None:
        moved = LaneKey(ChannelRef(Platform.DISCORD, "2"), ROOM)
        async with store.write() as unit:
            await unit.outbox.append(LANE, sending(1), NOON)
        await copy(store, await add(store, 1), here(1))
        async with store.write() as unit:
            assert await unit.outbox.move(LANE, moved)
        async with store.read() as unit:
            assert await unit.outbox.last_copy(moved) == here(1)

    async def test_a_lane_is_alone_while_nothing_else_waits_for_its_channel(self, store: Store) -> None:
        other = LaneKey(ChannelRef(Platform.DISCORD, "2"), ROOM)
        async with store.write() as unit:
            for lane in (LANE, LANE.back, LaneKey.within(ROOM), ELSEWHERE):
                await unit.outbox.append(lane, sending(1), NOON)
        async with store.read() as unit:
            assert await unit.outbox.is_alone(LANE)
        async with store.write() as unit:
            queued = await unit.outbox.append(other, sending(2), NOON)
        async with store.read() as unit:
            assert not await unit.outbox.is_alone(LANE)
        async with store.write() as unit:
            await unit.outbox.done(queued.id)
        async with store.read() as unit:
            assert await unit.outbox.is_alone(LANE)

    async def test_an_entry_waits_until_it_is_done_or_dead(self, store: Store) -> None:
        first, second = await queue(store, 1, 2)
        async with store.write() as unit:
            await unit.outbox.done(first.id)
            await unit.outbox.dead_letter(second.id, "no", NOON)
            third = await unit.outbox.append(LANE, sending(3), NOON)
        async with store.read() as unit:
            waits = [await unit.outbox.waits(entry.id) for entry in (first, second, third)]
        assert waits == [False, False, True]

    async def test_the_files_that_follow_a_message_are_found_among_all_else(self, store: Store) -> None:
        await queue(store, *range(1, 80))
        picture = Attachment("a", "p.png", "image", MediaRef(Platform.DISCORD, "https://cdn.test/p.png"))

        def late(number: int) -> LateFile:
            return LateFile(there(number), Author(ANN, "Ann"), picture, NOON)

        async with store.write() as unit:
            crosses = await unit.outbox.append(LANE, late(79), NOON)
            waits = await unit.outbox.append(LaneKey.within(ROOM), late(79), NOON)
            dead = await unit.outbox.append(LANE, late(79), NOON)
            await unit.outbox.dead_letter(dead.id, "no", NOON)
            await unit.outbox.append(LANE, late(78), NOON)
        async with store.read() as unit:
            assert await unit.outbox.late_files(there(79)) == [crosses, waits]

    async def test_lanes_keep_their_order_and_their_commands(self, store: Store) -> None:
        other = LANE.back
        entries = await queue(store, 1, 2, 3)
        await queue(store, 9, lane=other)
        assert await waiting(store) == entries
        assert [entry.command for entry in entries] == [sending(1), sending(2), sending(3)]
        assert [entry.queued_at for entry in entries] == [NOON] * 3
        assert await waiting(store, limit=2) == entries[:2]
        async with store.read() as unit:
            assert await unit.outbox.lanes() == {LANE, other}

    async def test_ids_rise_and_are_never_used_again(self, opener: Callable[[], Awaitable[Closable]]) -> None:
        store = await opener()
        seen: list[int] = []
        for number in range(3):
            seen += [entry.id for entry in await queue(store, number, number + 10)]
            async with store.write() as unit:
                for entry in seen:
                    await unit.outbox.done(entry)
            await store.close()
            store = await opener()
        await store.close()
        assert seen == sorted(set(seen))

    async def test_an_id_of_a_transaction_that_failed_was_never_given(self, store: Store) -> None:
        async def fail() -> None:
            async with store.write() as unit:
                await unit.outbox.append(LANE, sending(1), NOON)
                raise KeyError("x")

        with pytest.raises(KeyError):
            await fail()
        entries = await queue(store, 2)
        assert await waiting(store) == entries

    async def test_what_is_done_is_gone(self, store: Store) -> None:
        first, second = await queue(store, 1, 2)
        async with store.write() as unit:
            await unit.outbox.done(first.id)
        assert await waiting(store) == [second]

    async def test_dead_letters_wait_for_the_operator(self, store: Store) -> None:
        first, second, third = await queue(store, 1, 2, 3)
        died = NOON + timedelta(minutes=1)
        async with store.write() as unit:
            await unit.outbox.dead_letter(first.id, "forbidden", died)
            await unit.outbox.dead_letter(third.id, "too large", died)
        assert await waiting(store) == [second]
        async with store.read() as unit:
            letters = await unit.outbox.dead()
            assert [(letter.entry, letter.reason, letter.died_at) for letter in letters] == [
                (first, "forbidden", died),
                (third, "too large", died),
            ]
        async with store.write() as unit:
            assert await unit.outbox.discard(third.id)
            assert not await unit.outbox.discard(third.id)
            assert not await unit.outbox.discard(second.id)
            assert await unit.outbox.retry(first.id)
            assert not await unit.outbox.retry(first.id)
            assert not await unit.outbox.retry(second.id)
            assert not await unit.outbox.retry(999)
        assert await waiting(store) == [second, first]
        fourth = (await queue(store, 4))[0]
        assert await waiting(store) == [second, first, fourth]

    async def test_depths(self, store: Store) -> None:
        async with store.write() as unit:
            await unit.outbox.append(LANE, sending(1), NOON)
            await unit.outbox.append(LANE, sending(2), NOON + timedelta(1))
            dead = await unit.outbox.append(LANE, sending(3), NOON - timedelta(1))
            await unit.outbox.dead_letter(dead.id, "forbidden", NOON)
            only_dead = await unit.outbox.append(ELSEWHERE, sending(4), NOON)
            await unit.outbox.dead_letter(only_dead.id, "forbidden", NOON)
            await unit.outbox.name(ELSEWHERE, "old")
            await unit.outbox.name(LANE.back, "help")
        async with store.read() as unit:
            assert await unit.outbox.depths() == {
                LANE: LaneDepth(2, NOON, 1),
                ELSEWHERE: LaneDepth(0, None, 1, "old"),
            }
            assert await unit.outbox.lanes() == {LANE}

    async def test_counts_follow_whatever_becomes_of_a_row(self, store: Store) -> None:
        first, second, third = await queue(store, 1, 2, 3)

        async def counted() -> tuple[int, int]:
            async with store.read() as unit:
                depth = (await unit.outbox.depths()).get(LANE)
            return (0, 0) if depth is None else (depth.waiting, depth.dead)

        assert await counted() == (3, 0)
        async with store.write() as unit:
            await unit.outbox.dead_letter(first.id, "forbidden", NOON)
            await unit.outbox.dead_letter(second.id, "forbidden", NOON)
            await unit.outbox.done(third.id)
            await unit.outbox.done(third.id)
        assert await counted() == (0, 2)
        async with store.write() as unit:
            await unit.outbox.retry(first.id)
            await unit.outbox.discard(second.id)
            await unit.outbox.replace(first, [sending(4), sending(5)])
        assert await counted() == (2, 0)
        async with store.write() as unit:
            for entry in await unit.outbox.waiting(LANE, 9):
                await unit.outbox.done(entry.id)
        assert await counted() == (0, 0)

    async def test_a_lane_that_turns_out_to_be_another_one(self, store: Store) -> None:
        before, (between,), after = (
            await queue(store, 1, 2, lane=ELSEWHERE),
            await queue(store, 3),
            await queue(store, 4, lane=LANE.back),
        )
        async with store.write() as unit:
            await unit.outbox.dead_letter(before[0].id, "forbidden", NOON)
            assert await unit.outbox.move(ELSEWHERE, LANE)
            assert not await unit.outbox.move(ELSEWHERE, LANE)
            assert await unit.outbox.move(LANE.back, LANE)
            assert await unit.outbox.retry(before[0].id)
        assert [entry.id for entry in await waiting(store)] == [before[1].id, between.id, after[0].id, before[0].id]
        assert {entry.lane for entry in await waiting(store)} == {LANE}
        async with store.read() as unit:
            assert await unit.outbox.depths() == {LANE: LaneDepth(4, NOON, 0)}

    async def test_what_waits_in_a_lane_is_forgotten_from_its_head_on(self, store: Store) -> None:
        first, _, _, last = await queue(store, 1, 2, 3, 4)
        (elsewhere,) = await queue(store, 5, lane=ELSEWHERE)
        async with store.write() as unit:
            await unit.outbox.dead_letter(first.id, "forbidden", NOON)
            assert await unit.outbox.clear(LANE, 2) == 2
            assert await unit.outbox.waiting(LANE, 9) == [last]
            assert await unit.outbox.clear(LANE, 2) == 1
            assert await unit.outbox.clear(LANE, 2) == 0
            assert await unit.outbox.depths() == {LANE: LaneDepth(0, None, 1), ELSEWHERE: LaneDepth(1, NOON, 0)}
        assert await waiting(store, ELSEWHERE) == [elsewhere]

    async def test_a_lane_goes_by_the_name_that_its_pair_had_last(self, store: Store) -> None:
        (entry,) = await queue(store, 1)
        async with store.write() as unit:
            await unit.outbox.name(LANE, "help")
            await unit.outbox.name(LANE, "support")
            await unit.outbox.dead_letter(entry.id, "forbidden", NOON)
        async with store.read() as unit:
            assert [letter.pair for letter in await unit.outbox.dead()] == ["support"]

    async def test_a_lane_made_in_a_transaction_that_failed_is_made_again(self, store: Store) -> None:
        async def fail() -> None:
            async with store.write() as unit:
                await unit.outbox.append(LANE, sending(1), NOON)
                raise KeyError("x")

        with pytest.raises(KeyError):
            await fail()
        await queue(store, 2)
        assert [entry.command for entry in await waiting(store)] == [sending(2)]


class TestSmallThings:
    async def test_cursors(self, store: Store) -> None:
        async with store.write() as unit:
            await unit.cursors.put(Cursor(Platform.DISCORD, "channel:1", "10"))
            await unit.cursors.put(Cursor(Platform.DISCORD, "channel:1", "11"))
            await unit.cursors.put(Cursor(Platform.MATRIX, "sync", "s1"))
        async with store.read() as unit:
            assert await unit.cursors.get(Platform.DISCORD, "channel:1") == "11"
            assert await unit.cursors.get(Platform.MATRIX, "sync") == "s1"
            assert await unit.cursors.get(Platform.MATRIX, "channel:1") is None

    async def test_a_notice_is_claimed_once(self, store: Store) -> None:
        async with store.write() as unit:
            assert await unit.once_keys.claim(ROOM, "thread 1")
            assert not await unit.once_keys.claim(ROOM, "thread 1")
            assert await unit.once_keys.claim(DISCORD, "thread 1")
        async with store.write() as unit:
            assert not await unit.once_keys.claim(ROOM, "thread 1")
            assert await unit.once_keys.claim(ELSEWHERE.destination, "thread 1")

    async def test_what_an_address_stands_for(self, store: Store) -> None:
        alias, other = (ChannelAddress(Platform.MATRIX, f"#{name}:b") for name in ("one", "two"))
        async with store.write() as unit:
            assert await unit.channels.get(alias) is None
            await unit.channels.bind(alias, ELSEWHERE.destination)
            await unit.channels.bind(other, ROOM)
            await unit.channels.bind(alias, ROOM)
        async with store.write() as unit:
            assert await unit.channels.get(alias) == ROOM
            assert await unit.channels.known() == {alias: ROOM, other: ROOM}
            await unit.channels.forget(alias)
            assert await unit.channels.known() == {other: ROOM}

    async def test_the_notebook(self, store: Store) -> None:
        async with store.write() as unit:
            await unit.key_values.put("a", "1")
            await unit.key_values.put("a", "☃" * 100_000)
        async with store.read() as unit:
            assert await unit.key_values.get("a") == "☃" * 100_000
            assert await unit.key_values.get("b") is None


async def test_several_commands_take_the_place_of_one(store: Store) -> None:
    first, second, third = await queue(store, 1, 2, 3)
    async with store.write() as unit:
        await unit.outbox.replace(second, [sending(21), sending(22), sending(23)])
    async with store.read() as unit:
        waiting = await unit.outbox.waiting(LANE, 9)
    assert [entry.command for entry in waiting] == [sending(number) for number in (1, 21, 22, 23, 3)]
    assert (waiting[0].id, waiting[1].id, waiting[4].id) == (first.id, second.id, third.id)
    assert len({entry.id for entry in waiting}) == 5


async def test_reading_long_commands_lets_others_come_between(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    long = replace(sending(1), content=Content(RichText.plain("x" * 50_000)))
    async with store.write() as unit:
        for _ in range(20):
            await unit.outbox.append(LANE, long, NOON)
    turn = 0
    decoded_in: list[int] = []

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    def noticed(payload: str) -> Command:
        decoded_in.append(turn)
        return decode(payload)

    decode = codec.decode
    monkeypatch.setattr(codec, "decode", noticed)
    counting = asyncio.create_task(count())
    assert len(await waiting(store)) == 20
    counting.cancel()
    assert len(set(decoded_in)) > 10


async def test_a_very_long_command_is_read_beside_the_loop(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def noticed(payload: str) -> Command:
        threads.append(threading.get_ident())
        return decode(payload)

    decode = codec.decode
    monkeypatch.setattr(codec, "decode", noticed)
    long = replace(sending(2), content=Content(RichText.plain("x" * 100_000)))
    async with store.write() as unit:
        for command in (sending(1), long, sending(3)):
            await unit.outbox.append(LANE, command, NOON)
    assert [entry.command for entry in await waiting(store)] == [sending(1), long, sending(3)]
    here = threading.get_ident()
    assert [thread == here for thread in threads] == [True, False, True]
