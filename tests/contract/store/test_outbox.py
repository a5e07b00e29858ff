"""What every implementation of `core.storage.Outbox` does."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from relay.core.storage import LaneDepth, Store
from relay.domain.commands import Command, LateFile
from relay.domain.content import Attachment, Author, Content
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.store import codec
from tests.support.store_contract import (
    ANN,
    ELSEWHERE,
    LANE,
    NOON,
    ROOM,
    Closable,
    add,
    copy,
    here,
    queue,
    sending,
    there,
    waiting,
)


class TestOutbox:
    async def test_a_new_message_is_queued_once(self, store: Store) -> None:
        before = await add(store, 7)
        await copy(store, before, here("copy"))
        as_copy = replace(sending(8), source=here("copy"))
        edited = replace(sending(1), reply_to=there(7))
        async with store.write() as unit:
            told = [
                await unit.outbox.append_new(LANE, edited, NOON, edited_at=NOON),
                await unit.outbox.append_new(LANE.back, as_copy, NOON),
                await unit.outbox.append_new(LANE, sending(7), NOON),
                await unit.outbox.append_new(LANE, edited, NOON),
            ]
            other = await unit.outbox.append(LANE, sending(2), NOON)
            told.append(await unit.outbox.append_new(LANE, sending(3), NOON))
        first, *none, last = [tell() for tell in told]
        assert none == [None] * 3
        assert first is not None
        assert last is not None
        assert first.id < other.id < last.id
        async with store.read() as unit:
            assert first.original == await unit.messages.find(there(1))
            assert first.original is not None
            assert (first.original.edited_at, first.original.reply_to) == (NOON, there(7))
        assert await waiting(store) == [replace(entry, original=None) for entry in (first, other, last)]
        assert await waiting(store, LANE.back) == []

    async def test_what_is_read_ahead_is_bounded_by_number_and_bytes(self, store: Store) -> None:
        queued = await queue(store, *range(9))
        size = queued[0].size
        assert size > 0
        async with store.read() as unit:
            assert await unit.outbox.read_ahead(LANE, 10, 1 << 20) == (queued, True)
            assert await unit.outbox.read_ahead(LANE, 9, 1 << 20) == (queued, False)
            # As far as the entry with which they come to as much.
            assert await unit.outbox.read_ahead(LANE, 10, 3 * size) == (queued[:3], False)
            assert await unit.outbox.read_ahead(LANE, 10, 1) == (queued[:1], False)
            assert await unit.outbox.read_ahead(LANE.back, 10, 1) == ([], True)

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
            waits = [await unit.outbox.is_waiting(entry.id) for entry in (first, second, third)]
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
            await unit.outbox.dead_letter(third.id, "too large", died, postponed=True)
        assert await waiting(store) == [second]
        async with store.read() as unit:
            letters = await unit.outbox.dead()
            assert [(letter.entry, letter.reason, letter.died_at, letter.postponed) for letter in letters] == [
                (first, "forbidden", died, False),
                (third, "too large", died, True),
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

    async def test_which_lanes_have_a_name_and_which_is_known(self, store: Store) -> None:
        await queue(store, 1, lane=ELSEWHERE)
        async with store.write() as unit:
            await unit.outbox.name(LANE, "help")
            await unit.outbox.name(LANE.back, "staff")
        async with store.look() as unit:
            assert await unit.outbox.names() == {LANE: "help", LANE.back: "staff"}

    async def test_which_of_some_lanes_are_there_and_how_many_dead_letters_each_has(self, store: Store) -> None:
        [first, second, _] = await queue(store, 1, 2, 3)
        await queue(store, 1, lane=ELSEWHERE)
        async with store.write() as unit:
            await unit.outbox.name(LANE.back, "help")
            for entry in (first, second):
                await unit.outbox.dead_letter(entry.id, "forbidden", NOON)
        unknown = LaneKey(LANE.destination, ELSEWHERE.destination)
        async with store.look() as unit:
            assert await unit.outbox.dead_letters_of([LANE, LANE.back, unknown]) == {LANE: 2, LANE.back: 0}
        async with store.look() as unit:
            assert await unit.outbox.dead_letters_of([]) == {}

    async def test_a_lane_and_an_id_of_a_transaction_that_failed_are_given_again(self, store: Store) -> None:
        async def fail() -> None:
            async with store.write() as unit:
                await unit.outbox.append(LANE, sending(1), NOON)
                raise KeyError("x")

        with pytest.raises(KeyError):
            await fail()
        entries = await queue(store, 2)
        assert await waiting(store) == entries


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
