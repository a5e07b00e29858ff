"""What every implementation of `core.storage.Traces` tells of a message."""

from datetime import UTC, datetime, timedelta

from relay.core.storage import Copy, Store
from relay.domain.commands import DeleteMessage, Digest, DigestItem, RemoveOriginal
from relay.domain.content import Author, Content
from relay.domain.ids import ChannelRef
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from tests.support.store_contract import ANN, LANE, NOON, ROOM, add, copy, here, queue, there


def item(number: int, text: str = "x") -> DigestItem:
    return DigestItem(there(number), Author(ANN, "Ann"), Content(RichText.plain(text)), NOON)


class TestTraces:
    async def test_a_message_is_found_by_its_id_its_copies_and_its_edits(self, store: Store) -> None:
        began = datetime.now(UTC) - timedelta(milliseconds=2)
        number = await add(store, 1)
        await add(store, 2)
        await copy(store, number, here("a"))
        async with store.write() as unit:
            await unit.messages.record_copy(Copy(number, 1, here("b")), retries=3)
            await unit.messages.record_edit(there(9), number)
        async with store.read() as unit:
            traces = [await unit.traces.messages(ref.id) for ref in (there(1), here("a"), here("b"), there(9))]
            assert traces[0] == traces[1] == traces[2] == traces[3]
            assert await unit.traces.messages("404") == []
        (trace,) = traces[0]
        assert trace.original.ref == there(1)
        assert [(one.copy.part, one.copy.ref, one.retries) for one in trace.copies] == [
            (0, here("a"), 0),
            (1, here("b"), 3),
        ]
        times = [trace.received_at, *(one.sent_at for one in trace.copies)]
        assert all(at is not None and began <= at <= datetime.now(UTC) for at in times)
        assert (trace.deleted_at, trace.left_out_why) == (None, None)

    async def test_why_it_was_left_out_and_when_it_was_deleted(self, store: Store) -> None:
        number = await add(store, 1)
        async with store.write() as unit:
            await unit.messages.leave_out(number, "it is empty")
        async with store.read() as unit:
            (trace,) = await unit.traces.messages("1")
            assert (trace.original.left_out, trace.left_out_why) == (True, "it is empty")
        async with store.write() as unit:
            await unit.messages.leave_out(number, None)
            await unit.messages.mark_deleted(number)
        async with store.read() as unit:
            (trace,) = await unit.traces.messages("1")
            assert (trace.original.left_out, trace.left_out_why) == (False, None)
            assert trace.received_at is not None
            assert trace.deleted_at is not None
            assert trace.received_at <= trace.deleted_at

    async def test_several_originals_share_a_copy(self, store: Store) -> None:
        for number in (1, 2):
            await copy(store, await add(store, number), here("shared"))
        async with store.read() as unit:
            traces = await unit.traces.messages(here("shared").id)
        assert [trace.original.ref for trace in traces] == [there(1), there(2)]

    async def test_what_waits_and_what_is_dead(self, store: Store) -> None:
        entries = await queue(store, 1, 2, 1, 3)
        async with store.write() as unit:
            await unit.outbox.dead_letter(entries[2].id, "no", NOON)
        async with store.read() as unit:
            waiting, dead = await unit.traces.entries("1")
            (last,) = await unit.traces.entries("3")
            assert await unit.traces.entries("404") == []
        assert (waiting.entry.id, waiting.ahead, waiting.entry.command) == (entries[0].id, 0, entries[0].command)
        assert (dead.ahead, dead.reason, dead.died_at) == (None, "no", NOON)
        assert (last.ahead, last.entry.lane) == (2, LANE)

    async def test_what_waits_in_the_lanes_of_a_channel(self, store: Store) -> None:
        await queue(store, 1)
        async with store.write() as unit:
            back = await unit.outbox.append(LANE.back, RemoveOriginal(there(1)), NOON)
            await unit.outbox.append(LaneKey.within(ChannelRef(ROOM.platform, "else")), DeleteMessage(there(1)), NOON)
        async with store.read() as unit:
            for channel in (LANE.source, LANE.destination):
                sent, removed = await unit.traces.entries("1", channel)
                assert (sent.entry.lane, removed.entry.id) == (LANE, back.id)
            assert await unit.traces.entries("1", ChannelRef(ROOM.platform, "nowhere")) == []
            assert len(await unit.traces.entries("1")) == 3

    async def test_a_message_within_a_digest(self, store: Store) -> None:
        async with store.write() as unit:
            await unit.outbox.append(LANE, Digest((item(1), item(2, "and 3"))), NOON)
        async with store.read() as unit:
            assert len(await unit.traces.entries("2")) == 1
            assert await unit.traces.entries("3") == []

    async def test_what_was_left_out_on_arrival(self, store: Store) -> None:
        for _ in range(2):  # a replay
            async with store.write() as unit:
                await unit.traces.leave_out(there(1), "thread")
                await unit.traces.leave_out(there(11), "system")
        async with store.read() as unit:
            (found,) = await unit.traces.left_out("1")
            assert await unit.traces.left_out("404") == []
            assert await unit.traces.messages("1") == []
        assert (found.ref, found.feature) == (there(1), "thread")
        assert timedelta() <= datetime.now(UTC) - found.at < timedelta(minutes=5)

    async def test_hostile_ids_find_nothing(self, store: Store) -> None:
        await copy(store, await add(store, 1), here("a"))
        await queue(store, 1)
        async with store.read() as unit:
            for text in ("' OR 1=1 --", "%", "", "1 ", "\0", ROOM.id):
                assert await unit.traces.messages(text) == []
                assert await unit.traces.entries(text) == []
                assert await unit.traces.left_out(text) == []
