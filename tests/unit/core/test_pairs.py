"""The operator changes the pairs while messages wait: they go where their room was paired, or nowhere."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relay.core.bootstrap import Core
from relay.core.pairs import PairDirectory
from relay.core.ports import EventBatch
from relay.core.storage import waiting_under
from relay.domain.commands import SendMessage
from relay.domain.content import Content
from relay.domain.events import MessageCreated
from relay.domain.ids import ChannelAddress, ChannelRef, Platform
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.errors import Transient
from relay.store.pruning import Pruner
from relay.store.sqlite.engine import connect
from tests.support.memory_adapter import MemoryAdapter
from tests.support.pairs import PUBLIC, STAFF, Gate, declare, depth, joined, waits
from tests.support.patience import PATIENCE
from tests.support.world import World, lane, until, world


def crossed(core: Core) -> list[str]:
    """The pairs that have carried something to Matrix, by name."""
    pairs = core.status.last_report().pairs
    return [pair.name for pair in pairs if pair.directions["to_matrix"].messages]


@pytest.mark.parametrize(
    "restart", [pytest.param(False, id="reloaded"), pytest.param(True, id="while the daemon is down")]
)
async def test_two_pairs_swap_their_names(tmp_path: Path, restart: bool) -> None:
    async with world(tmp_path, STAFF, PUBLIC) as bridge:
        gate = Gate()
        (staff, staff_room), (_, public_room) = bridge.channels("staff"), bridge.channels("public")
        swapped = (joined("public", "staff", "staff"), joined("staff", "public", "public"))
        async with bridge.relay(gate.prepare):
            for word in ("one", "two", "three"):
                bridge.discord.say(staff, "ann", word)
            await waits(bridge, lane(Platform.MATRIX, "staff"), 3)
            if not restart:
                await declare(bridge, *swapped)
                gate.closed = False
                await bridge.shows(staff_room, "one", "two", "three")
                await bridge.quiet()
        if restart:
            bridge.pairs = swapped
            gate.closed = False
            async with bridge.relay(gate.prepare):
                await bridge.shows(staff_room, "one", "two", "three")
                await bridge.quiet()
        assert bridge.words(public_room) == []


def test_what_another_relay_holds_is_a_change_once() -> None:
    """It is told every few seconds. With 1,000 pairs, each look at all of them takes a tenth of a second."""
    pairs = PairDirectory([STAFF])
    side = STAFF.sides[0]
    seen = []
    for reasons in ({}, {side: "Another relay holds it."}, {side: "Another relay holds it."}, {side: "Taken."}, {}):
        pairs.hold_back(reasons)
        seen.append((pairs.changes, pairs.pair_of(pairs.channel(side)) is not None))
    begun = seen[0][0]
    assert seen == [(begun, True), (begun + 1, False), (begun + 1, False), (begun + 2, False), (begun + 3, True)]
    assert begun == PairDirectory([STAFF]).changes
    pairs.leave([side])
    pairs.hold_back({})
    assert pairs.changes == begun + 4
    assert not pairs.is_left(STAFF)


async def test_a_pair_comes_back_while_its_last_message_is_in_doubt(tmp_path: Path) -> None:
    """Another pair has posted into the channel meanwhile: what is in doubt stands before that."""
    async with world(tmp_path, STAFF, PUBLIC) as bridge:
        (staff, staff_room), (_, public_room) = bridge.channels("staff"), bridge.channels("public")
        swapped = (joined("staff", "staff", "public"), joined("public", "public", "staff"))
        asked = asyncio.Event()

        async def answer_gets_lost(call: str) -> None:
            if call == "send":
                asked.set()
                raise Transient("time-out", ambiguous=True)

        def prepare(discord: MemoryAdapter, _: MemoryAdapter) -> None:
            discord.after = answer_gets_lost

        async with bridge.relay(prepare):
            bridge.matrix.say(staff_room, "ben", "hello")
            await asyncio.wait_for(asked.wait(), PATIENCE)
        bridge.pairs = swapped
        async with bridge.relay():
            bridge.matrix.say(public_room, "ben", "hi")
            bridge.matrix.say(public_room, "ben", "hello")
            await bridge.shows(staff, "hello", "hi", "hello")
            await waits(bridge, LaneKey(public_room, staff), 0)
            await declare(bridge, STAFF, PUBLIC)
            bridge.matrix.say(staff_room, "ben", "bye")
            await bridge.shows(staff, "hello", "hi", "hello", "bye")


async def test_two_pairs_swap_their_rooms(tmp_path: Path) -> None:
    async with world(tmp_path, STAFF, PUBLIC) as bridge:
        gate = Gate()
        (staff, staff_room), (public, public_room) = bridge.channels("staff"), bridge.channels("public")
        async with bridge.relay(gate.prepare) as core:
            bridge.discord.say(staff, "ann", "secret")
            await waits(bridge, lane(Platform.MATRIX, "staff"), 1)
            await declare(bridge, joined("staff", "staff", "public"), joined("public", "public", "staff"))
            gate.closed = False
            bridge.discord.say(staff, "ann", "said to all")
            bridge.discord.say(public, "ben", "said to the staff")
            await bridge.shows(public_room, "said to all")
            await bridge.shows(staff_room, "said to the staff")
            retries = core.status.lane(lane(Platform.MATRIX, "staff")).retries
            (waiting,) = (await core.status.report()).undeclared
            assert (waiting.lane, waiting.pair, waiting.waiting) == (lane(Platform.MATRIX, "staff"), "staff", 1)
            await declare(bridge, STAFF, PUBLIC)
            await bridge.shows(staff_room, "said to the staff", "secret")
            assert core.status.lane(lane(Platform.MATRIX, "staff")).retries == retries
            await bridge.quiet()
            assert bridge.words(public_room) == ["said to all"]


async def test_a_pair_is_taken_out_and_comes_back(tmp_path: Path) -> None:
    async with world(tmp_path, STAFF, PUBLIC) as bridge:
        gate = Gate()
        (staff, staff_room), (public, public_room) = bridge.channels("staff"), bridge.channels("public")
        async with bridge.relay(gate.prepare) as core:
            for word in ("one", "two"):
                bridge.discord.say(staff, "ann", word)
            await waits(bridge, lane(Platform.MATRIX, "staff"), 2)
            await declare(bridge, PUBLIC)
            tried = gate.tried
            gate.closed = False
            core.dispatcher.retry_now()
            core.dispatcher.platform_is_back(Platform.MATRIX)
            bridge.discord.say(public, "ben", "hello")
            await bridge.shows(public_room, "hello")
            assert bridge.words(staff_room) == []
            assert gate.tried == tried
        async with bridge.relay(gate.prepare):
            bridge.discord.say(public, "ben", "again")
            await bridge.shows(public_room, "hello", "again")
            assert bridge.words(staff_room) == []
            await declare(bridge, PUBLIC, STAFF)
            await bridge.shows(staff_room, "one", "two")
            await bridge.quiet()


async def test_a_direction_that_is_switched_off_sends_no_more(tmp_path: Path) -> None:
    async with world(tmp_path, STAFF) as bridge:
        gate = Gate()
        staff, staff_room = bridge.channels("staff")
        async with bridge.relay(gate.prepare):
            bridge.discord.say(staff, "ann", "one")
            await until(lambda: gate.tried > 0)
            await declare(bridge, joined("staff", "staff", "staff", Platform.DISCORD))
            gate.closed = False
            bridge.matrix.say(staff_room, "ben", "other way")
            await bridge.shows(staff, "one", "other way")
            assert bridge.words(staff_room) == ["other way"]


@pytest.mark.parametrize("restart", [False, True])
async def test_a_paused_pair_keeps_what_waits_and_leaves_out_what_is_said(tmp_path: Path, restart: bool) -> None:
    """Its copies follow edits and deletions once it is resumed."""
    async with world(tmp_path, STAFF) as bridge:
        gate = Gate()
        gate.closed = False
        staff, staff_room = bridge.channels("staff")
        key = lane(Platform.MATRIX, "staff")
        async with AsyncExitStack() as lives:
            core = await lives.enter_async_context(bridge.relay(gate.prepare))
            edited, deleted = (bridge.discord.say(staff, "ann", word) for word in ("old", "bad"))
            await bridge.shows(staff_room, "old", "bad")
            gate.closed = True
            bridge.discord.say(staff, "ann", "waits")
            await until(lambda: gate.tried > 0)
            await declare(bridge, replace(STAFF, paused=True))
            gate.closed = False
            before = core.status.lane(key).dropped["paused"]
            unsaid = bridge.discord.say(staff, "ann", "said meanwhile")
            bridge.discord.edit(edited, "new")
            bridge.discord.delete(deleted)
            await waits(bridge, key, 3)
            bridge.matrix.say(staff_room, "ben", "also meanwhile")
            await until(lambda: core.status.lane(key.back).dropped["paused"] == 1)
            assert core.status.lane(key).dropped["paused"] == before + 1
            assert core.status.last_report().pairs[0].notes == ("Paused: nothing crosses until `relay pairs resume`.",)
            way = (await core.status.report()).pairs[0].directions["to_matrix"]
            assert (way.backlog, way.oldest_undelivered_seconds) == (3, None)
            if restart:
                await lives.aclose()
                await lives.enter_async_context(bridge.relay(gate.prepare))
            assert bridge.words(staff_room) == ["old", "bad", "also meanwhile"]
            await declare(bridge, STAFF)
            # Neither a replay nor an edit brings it across now.
            assert bridge.core is not None
            said, ann = Content(RichText.plain("said meanwhile")), bridge.discord.person("ann")
            replay = MessageCreated(unsaid, ann, said, bridge.discord.now())
            await bridge.core.inbox.receive(EventBatch((replay,)))
            bridge.discord.edit(unsaid, "said meanwhile, and edited")
            await bridge.shows(staff_room, "new", "also meanwhile", "waits")
            bridge.matrix.say(staff_room, "ben", "afterwards")
            await bridge.shows(staff, "new", "waits", "said meanwhile, and edited", "afterwards")
            await bridge.quiet()


async def test_a_renamed_pair_has_its_new_name_at_once_and_keeps_its_counters(tmp_path: Path) -> None:
    async with world(tmp_path, STAFF, PUBLIC) as bridge:
        staff, staff_room = bridge.channels("staff")
        async with bridge.relay() as core:
            bridge.discord.say(staff, "ann", "one")
            await bridge.shows(staff_room, "one")
            await until(lambda: crossed(core) == ["staff"])
            await declare(bridge, joined("crew", "staff", "staff"), joined("staff", "public", "public"))
            assert crossed(core) == ["crew"]


async def test_what_waits_for_a_room_that_was_never_found_goes_to_it_once_it_is(tmp_path: Path) -> None:
    async with world(tmp_path, STAFF) as bridge:
        staff, staff_room = bridge.channels("staff")
        async with bridge.relay() as core:
            unknown = ChannelRef(Platform.MATRIX, "#upgraded")
            key = LaneKey(staff, unknown)
            async with bridge.store.write() as uow:
                command = SendMessage(
                    bridge.discord.say(bridge.discord.channel("elsewhere"), "ann", "one"),
                    bridge.discord.person("ann"),
                    Content(RichText.plain("one")),
                    bridge.discord.now(),
                )
                await uow.outbox.append(key, command, bridge.discord.now())
            core.dispatcher.wake(key)
            core.status.dropped(key, "reaction")
            core.inbox.declare((joined("staff", "staff", "upgraded"),))
            assert core.pairs.pair_for(key) is not None
            await core.inbox.opened(ChannelAddress(Platform.MATRIX, "#upgraded"), staff_room)
            await bridge.shows(staff_room, "one")
            await until(lambda: core.status.lane(lane(Platform.MATRIX, "staff")).messages == 1)
            assert core.status.lane(lane(Platform.MATRIX, "staff")).dropped == {"reaction": 1}
            assert core.pairs.pair_for(key) is None


@pytest.mark.parametrize(
    ("name", "discord", "crosses"),
    [("staff", "staff", True), ("staff", "public", False), ("other", "staff", False)],
)
async def test_what_an_earlier_relay_queued_under_a_name(
    tmp_path: Path, name: str, discord: str, crosses: bool
) -> None:
    """Only where the pair of the name still has the channel in which it was said."""
    async with world(tmp_path, joined(name, discord, "staff"), joined("third", "third", "third")) as bridge:
        staff, staff_room = bridge.channels("staff")
        said = bridge.discord.say(staff, "ann", "one")
        async with bridge.store.write() as uow:
            command = SendMessage(
                said, bridge.discord.person("ann"), Content(RichText.plain("one")), bridge.discord.now()
            )
            await uow.outbox.append(
                LaneKey(staff, waiting_under("staff", Platform.MATRIX)), command, bridge.discord.now()
            )
        async with bridge.relay():
            if crosses:
                await bridge.shows(staff_room, "one")
                await bridge.quiet()
            else:
                third, third_room = bridge.channels("third")
                bridge.discord.say(third, "ben", "hello")
                await bridge.shows(third_room, "hello")
                assert bridge.words(staff_room) == []
                assert await depth(bridge, LaneKey(staff, waiting_under("staff", Platform.MATRIX))) == 1


async def test_what_waits_too_long_for_a_pair_to_come_back_is_discarded(tmp_path: Path) -> None:
    async with world(tmp_path, STAFF, PUBLIC) as bridge:
        gate = Gate()
        (staff, staff_room), (public, _) = bridge.channels("staff"), bridge.channels("public")
        async with bridge.relay(gate.prepare) as core:
            for channel in (staff, public):
                bridge.discord.say(channel, "ann", "old")
            await waits(bridge, lane(Platform.MATRIX, "staff"), 1)
            await waits(bridge, lane(Platform.MATRIX, "public"), 1)
            between = bridge.discord.now()
            bridge.discord.say(staff, "ann", "young")
            await waits(bridge, lane(Platform.MATRIX, "staff"), 2)
            await declare(bridge, PUBLIC)
            assert await core.inbox.discard_undeclared(between) == 1
            assert await core.inbox.discard_undeclared(between) == 0
            assert await depth(bridge, lane(Platform.MATRIX, "public")) == 1
            gate.closed = False
            await declare(bridge, PUBLIC, STAFF)
            await bridge.shows(staff_room, "young")


async def test_what_waits_has_its_pairs_name_although_what_was_stored_of_that_was_forgotten_meanwhile(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, STAFF, PUBLIC) as bridge:
        gate = Gate()
        gate.closed = False
        staff, staff_room = bridge.channels("staff")
        async with bridge.relay(gate.prepare) as core:
            bridge.discord.say(staff, "ann", "old")
            await bridge.shows(staff_room, "old")
            await bridge.quiet()
            await declare(bridge, PUBLIC)
            declared = core.pairs.declared_channels
            await Pruner(
                store=bridge.store, clock=bridge.clock, messages=1e9, dead_letters=1e9, declared=declared
            ).sweep()
            await declare(bridge, PUBLIC, STAFF)
            gate.closed = True
            bridge.discord.say(staff, "ann", "new")
            await waits(bridge, lane(Platform.MATRIX, "staff"), 1)
            await declare(bridge, PUBLIC)
            [waiting] = (await core.status.report()).undeclared
            assert (waiting.pair, waiting.waiting) == ("staff", 1)


async def test_nothing_counts_as_undeclared_before_the_channels_of_its_pair_have_been_open(tmp_path: Path) -> None:
    async with world(tmp_path, PUBLIC) as bridge:
        staff, _ = bridge.channels("staff")
        key = LaneKey(staff, waiting_under("staff", Platform.MATRIX))
        said = bridge.discord.say(bridge.discord.channel("elsewhere"), "ann", "one")
        command = SendMessage(said, bridge.discord.person("ann"), Content(RichText.plain("one")), bridge.discord.now())
        async with bridge.store.write() as uow:
            await uow.outbox.append(key, command, bridge.discord.now())
        async with bridge.relay() as core:
            now = bridge.discord.now()
            core.inbox.declare((PUBLIC, STAFF))
            assert await core.inbox.discard_undeclared(now) == 0
            core.inbox.declare((PUBLIC,))
            assert await core.inbox.discard_undeclared(now) == 1


async def test_lanes_are_those_of_channels_and_of_no_address(tmp_path: Path) -> None:
    async with world(tmp_path, PUBLIC) as bridge:
        staff, staff_room = bridge.channels("staff")
        async with bridge.relay() as core:
            async with bridge.store.write() as uow:
                await uow.outbox.name(LaneKey(staff, waiting_under("staff", Platform.MATRIX)), "staff")
            core.inbox.declare((PUBLIC, STAFF))
            await core.inbox.opened(ChannelAddress(Platform.DISCORD, "staff"), staff)
            await core.inbox.opened(ChannelAddress(Platform.MATRIX, "#staff"), staff_room)
        connection = connect(bridge.store.path)
        found = connection.execute("SELECT destination_channel FROM lane WHERE pair = 'staff'").fetchall()
        connection.close()
        assert {channel for (channel,) in found} == {staff.id, staff_room.id}


@pytest.mark.parametrize("restart", [True, False])
async def test_a_pair_that_is_back_has_what_waits_for_it_before_its_room_is_found(
    tmp_path: Path, restart: bool
) -> None:
    async with world(tmp_path, STAFF, PUBLIC) as bridge:
        gate = Gate()
        staff, _ = bridge.channels("staff")
        async with bridge.relay(gate.prepare) as core:
            bridge.discord.say(staff, "ann", "one")
            await waits(bridge, lane(Platform.MATRIX, "staff"), 1)
            await declare(bridge, PUBLIC)
            if not restart:
                core.inbox.declare((PUBLIC, STAFF))
                assert core.pairs.pair_for(lane(Platform.MATRIX, "staff")) == STAFF
        async with bridge.relay(gate.prepare):
            async with bridge.store.read() as uow:
                known = await uow.channels.known()
            assert known[ChannelAddress(Platform.MATRIX, "#staff")] == lane(Platform.MATRIX, "staff").destination


async def test_a_lane_that_nobody_uses_any_more_ends_and_begins_again(bridge: World) -> None:
    pairs = bridge.pairs
    here, there = bridge.channels()
    async with bridge.relay() as core:
        bridge.discord.say(here, "ann", "one")
        await bridge.shows(there, "one")
        await bridge.quiet()
        assert [task for task in asyncio.all_tasks() if task.get_name() == "lane help help"]
        await core.dispatcher.check_outbox()
        assert [task for task in asyncio.all_tasks() if task.get_name() == "lane help help"]
        await declare(bridge)
        await core.dispatcher.check_outbox()
        await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "lane help help"])
        await declare(bridge, *pairs)
        bridge.discord.say(here, "ann", "two")
        await bridge.shows(there, "one", "two")


async def test_what_lanes_had_done_is_forgotten_once_they_are_not_declared_and_it_is_old(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        bridge.discord.say(here, "ann", "one")
        await bridge.shows(there, "one")
        await until(lambda: core.status.lane(lane(Platform.MATRIX)).messages == 1)  # counted once it is recorded
        later, earlier = (datetime.now(UTC) + sign * timedelta(days=1) for sign in (1, -1))
        core.status.forget_undeclared(later)
        await declare(bridge)
        core.status.forget_undeclared(earlier)
        assert core.status.lane(lane(Platform.MATRIX)).messages == 1
        core.status.forget_undeclared(later)
        assert core.status.lane(lane(Platform.MATRIX)).messages == 0
