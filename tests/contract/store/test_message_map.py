"""What every implementation of `core.storage.MessageMap` does."""

from dataclasses import replace
from datetime import UTC, timedelta, timezone
from itertools import pairwise

from relay.core.intake.catchup import last_originals
from relay.core.ports import OnRecord
from relay.core.storage import Copy, Original, Store
from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.domain.pair import LaneKey
from tests.support.store_contract import ANN, DISCORD, ELSEWHERE, NOON, ROOM, add, copy, here, there


class TestMessageMap:
    async def test_what_comes_from_the_past_is_not_the_newest(self, store: Store) -> None:
        async with store.write() as unit:
            await unit.messages.add(there(1), ANN, NOON, None)
            past = await unit.messages.add(there(2), ANN, NOON, None, from_past=True)
            assert await unit.messages.add(there(2), ANN, NOON, None, from_past=True) is None
        async with store.read() as unit:
            assert [one.ref for one in await unit.messages.recent(there(1).channel, NOON, 1)] == [there(1)]
            both = await unit.messages.recent(there(1).channel, NOON, 1, with_past=True)
            assert [one.ref for one in both] == [there(1), there(2)]
            assert [one.ref for one in await unit.messages.waiting_past(there(1).channel, 9)] == [there(2)]
            found = await unit.messages.find(there(2))
        assert found is not None
        assert (found.id, found.from_past) == (past, True)
        async with store.write() as unit:
            await unit.messages.record_copy(Copy(found.id, 0, here(1)))
            assert await unit.messages.waiting_past(there(1).channel, 9) == ()

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
            assert await unit.messages.channels_of_copies(message_id, Platform.MATRIX) == {ROOM, elsewhere.channel}
            assert await unit.messages.channels_of_copies(message_id, Platform.DISCORD) == frozenset()

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

    async def test_copies_that_are_posted_again_in_another_channel_are_on_record_in_both(self, store: Store) -> None:
        one, other = await add(store, 1), await add(store, 2)
        await copy(store, one, here("shared"))
        await copy(store, other, here("shared"))
        await copy(store, other, here("old"), part=1)
        async with store.write() as unit:
            old = await unit.messages.supersede(Copy(other, 1, here("old")))
        elsewhere = ELSEWHERE.destination
        moved = {here(name): MessageRef(elsewhere, f"$new {name}") for name in ("shared", "old", "of nobody")}
        for _ in range(2):
            async with store.write() as unit:
                for before, now in moved.items():
                    await unit.messages.record_again(before, now)
        async with store.read() as unit:
            shared = moved[here("shared")]
            assert await unit.messages.copies(one, elsewhere) == (Copy(one, 0, shared),)
            assert await unit.messages.copies(other, elsewhere) == (
                Copy(other, 0, shared),
                replace(old, ref=moved[here("old")]),
            )
            assert await unit.messages.copies(other, ROOM) == (Copy(other, 0, here("shared")), old)
            assert not await unit.messages.is_copy(moved[here("of nobody")])
            # What is looked for in the new channel, because nobody knows whether it was sent, is behind that.
            assert await unit.outbox.last_copy(LaneKey.within(elsewhere)) == moved[here("old")]

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

    async def test_the_last_originals_come_in_the_order_in_which_they_were_received(self, store: Store) -> None:
        async with store.read() as unit:
            assert await last_originals(unit, DISCORD, 9) == []
        # Anybody may write a date of their own.
        dates = {number: NOON + timedelta(hours=hours) for number, hours in ((1, 5), (2, -5), (3, 0), (4, 1))}
        ids = {number: await add(store, number, date) for number, date in dates.items()}
        async with store.write() as unit:
            await unit.messages.mark_deleted(ids[3])
            assert await unit.messages.add(here("elsewhere"), ANN, NOON, None)
        await copy(store, ids[1], here("copy"))
        async with store.read() as unit:
            expected = [OnRecord(there(number), dates[number]) for number in (4, 2, 1)]
            assert list(await last_originals(unit, DISCORD, 9)) == expected
            assert list(await last_originals(unit, DISCORD, 2)) == expected[:2]
            assert [known.ref for known in await last_originals(unit, ROOM, 9)] == [here("elsewhere")]
