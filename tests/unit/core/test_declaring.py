"""The operator changes the pairs while messages wait: they go where their room was paired, or nowhere."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relay.core.bootstrap import Core
from relay.core.clock import SystemClock
from relay.core.status.counters import NOTEBOOK_ENTRY
from relay.core.status.recorder import StatusKeeper
from relay.core.status.report import read_report
from relay.core.storage import Copy, waiting_under
from relay.domain.commands import SendMessage
from relay.domain.content import Content
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, Platform
from relay.domain.pair import LaneKey, Pair, PairPolicy
from relay.domain.text.nodes import RichText
from relay.errors import ActionNeeded, CopyNotEditable, DeliveryError, Permanent, Transient
from relay.store.sqlite.engine import connect
from relay.web.page import render
from tests.support.platform import MemoryAdapter, MemoryPlatform
from tests.support.world import World, lane, until, world


def joined(name: str, discord: str, matrix: str, *destinations: Platform) -> Pair:
    """A pair called `name` of a channel and a room."""
    sides = (ChannelAddress(Platform.DISCORD, discord), ChannelAddress(Platform.MATRIX, f"#{matrix}"))
    return Pair(name, sides, frozenset(destinations or Platform), PairPolicy())


STAFF, PUBLIC = joined("staff", "staff", "staff"), joined("public", "public", "public")


class Gate:
    """Sends to Matrix fail until it is opened."""

    def __init__(self) -> None:
        self.closed = True
        self.tried = 0

    async def before(self, call: str) -> None:
        if call in ("send", "mark_failed") and self.closed:
            self.tried += 1
            raise Transient("the homeserver is down")

    def prepare(self, _: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before = self.before


async def declare(bridge: World, *pairs: Pair) -> None:
    """As the daemon does after SIGHUP."""
    bridge.pairs = pairs
    assert bridge.core is not None
    bridge.core.inbox.declare(pairs)
    for adapter in (bridge.discord_adapter, bridge.matrix_adapter):
        assert adapter is not None
        await adapter.watch(bridge.core.pairs.watched(adapter.platform))
    await bridge.core.inbox.keep_names()


async def depth(bridge: World, key: LaneKey) -> int:
    """How much waits in a lane."""
    async with bridge.store.read() as uow:
        depths = await uow.outbox.depths()
    return depths[key].waiting if key in depths else 0


async def waits(bridge: World, key: LaneKey, count: int) -> None:
    """Until so much waits in a lane."""
    async with asyncio.timeout(5):
        while True:
            if await depth(bridge, key) == count:
                return
            await asyncio.sleep(0.002)


def crossed(core: Core) -> list[str]:
    """The pairs that have carried something to Matrix, by name."""
    pairs = core.status.cached_snapshot().pairs
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
            await asyncio.wait_for(asked.wait(), 5)
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
            (waiting,) = (await core.status.snapshot()).undeclared
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
            await waits(bridge, lane(Platform.MATRIX, "staff"), 1)
            await declare(bridge, joined("staff", "staff", "staff", Platform.DISCORD))
            gate.closed = False
            bridge.matrix.say(staff_room, "ben", "other way")
            await bridge.shows(staff, "one", "other way")
            assert bridge.words(staff_room) == ["other way"]


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


@pytest.mark.parametrize("refused", [False, True])
async def test_what_is_on_its_way_when_its_room_is_upgraded_arrives_once(tmp_path: Path, refused: bool) -> None:
    async with world(tmp_path, STAFF) as bridge:
        staff, staff_room = bridge.channels("staff")
        other_room = bridge.matrix.channel("another")
        under_way, answered = asyncio.Event(), asyncio.Event()

        async def before(call: str) -> None:
            if call == "send" and not answered.is_set():
                under_way.set()
                await answered.wait()
                if refused:
                    raise Permanent("the room is closed")

        async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)) as core:
            bridge.discord.say(staff, "ann", "on its way")
            await under_way.wait()
            opening = asyncio.create_task(
                core.inbox.opened(
                    ChannelAddress(Platform.MATRIX, "#staff"), other_room, predecessors=frozenset({staff_room})
                )
            )
            await asyncio.wait([opening], timeout=0.1)
            answered.set()
            await opening
            bridge.discord.say(staff, "ann", "said now")
            await bridge.shows(other_room, *(["on its way"] if refused else []), "said now")
            await bridge.quiet()
            assert bridge.words(staff_room) == ([] if refused else ["on its way"])
            async with bridge.store.read() as uow:
                assert not await uow.outbox.dead()


@pytest.mark.parametrize("upgraded", [True, False])
async def test_what_waits_follows_a_room_into_its_successor_and_into_no_other_room(
    tmp_path: Path, upgraded: bool
) -> None:
    async with world(tmp_path, STAFF) as bridge:
        gate = Gate()
        staff, staff_room = bridge.channels("staff")
        other_room = bridge.matrix.channel("another")
        async with bridge.relay(gate.prepare) as core:
            bridge.discord.say(staff, "ann", "said while it was the old room")
            await waits(bridge, lane(Platform.MATRIX, "staff"), 1)
            before = frozenset({staff_room}) if upgraded else frozenset[ChannelRef]()
            alias = ChannelAddress(Platform.MATRIX, "#staff")
            await core.inbox.opened(alias, other_room, predecessors=before)
            gate.closed = False
            if upgraded:
                await bridge.shows(other_room, "said while it was the old room")
            bridge.discord.say(staff, "ann", "said now")
            expected = ("said while it was the old room", "said now") if upgraded else ("said now",)
            await bridge.shows(other_room, *expected)
            assert await depth(bridge, LaneKey(staff, staff_room)) == (0 if upgraded else 1)
        assert bridge.words(staff_room) == []


@pytest.mark.parametrize("upgraded", [True, False])
async def test_what_is_changed_after_its_channel_got_another_room(tmp_path: Path, upgraded: bool) -> None:
    """An upgraded room is the same place; from one that the operator has replaced, only what was deleted is removed."""
    async with world(tmp_path, STAFF) as bridge:
        staff, staff_room = bridge.channels("staff")
        other_room = bridge.matrix.channel("another")
        async with bridge.relay() as core:
            kept, secret = (bridge.discord.say(staff, "ann", words) for words in ("kept", "secret"))
            await bridge.shows(staff_room, "kept", "secret")
            answer = bridge.matrix.say(staff_room, "ben", "what?", reply_to=bridge.shown(staff_room)[1].ref)
            await bridge.shows(staff, "kept", "secret", "↪ ann: secret\nwhat?")
            await bridge.quiet()
            before = frozenset({staff_room}) if upgraded else frozenset[ChannelRef]()
            await core.inbox.opened(ChannelAddress(Platform.MATRIX, "#staff"), other_room, predecessors=before)
            bridge.discord.edit(kept, "mended")
            bridge.discord.delete(secret)
            await bridge.shows(staff_room, "mended" if upgraded else "kept", "what?")
            await bridge.shows(staff, "mended", "↪ a message that is not here\nwhat?")
            await bridge.quiet()
            assert bridge.words(other_room) == []
            assert bridge.discord.reactions == ([] if upgraded else [(kept, "⚠️")])
            dropped = core.status.lane(LaneKey(staff, other_room)).dropped
            assert dropped == ({} if upgraded else {"former": 1})
            assert answer.channel == staff_room


async def test_what_follows_from_a_replaced_room_waits_for_its_side_and_follows(tmp_path: Path) -> None:
    async with world(tmp_path, STAFF) as bridge:
        staff, staff_room = bridge.channels("staff")
        other_room = bridge.matrix.channel("another")
        away = False

        async def before(call: str) -> None:
            if call == "latest" and away:
                raise Transient("the homeserver restarts")

        async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)) as core:
            question = bridge.discord.say(staff, "ann", "tea?")
            await bridge.shows(staff_room, "tea?")
            bridge.matrix.say(staff_room, "ben", "yes", reply_to=bridge.shown(staff_room)[0].ref)
            secret = bridge.matrix.say(staff_room, "ben", "one")
            bridge.matrix.edit(secret, "my password")
            await bridge.shows(staff, "tea?", "↪ ann: tea?\nyes", "my password")
            await bridge.quiet()
            away = True
            bridge.matrix.take_back(secret, 1)
            await waits(bridge, LaneKey.within(staff_room), 1)
            await core.inbox.opened(
                ChannelAddress(Platform.MATRIX, "#staff"), other_room, predecessors=frozenset({staff_room})
            )
            bridge.discord.edit(question, "coffee?")
            await waits(bridge, LaneKey.within(other_room), 2)
            away = False
            core.dispatcher.retry_now()
            await bridge.shows(staff, "coffee?", "↪ ann: coffee?\nyes", "one")
            await bridge.quiet()
            assert bridge.words(other_room) == []


@pytest.mark.parametrize("orphaned", [True, False])
async def test_nothing_new_is_said_in_a_room_that_was_replaced(tmp_path: Path, orphaned: bool) -> None:
    """Whether its copy there can be edited no more, or is not long enough for what it is to say."""
    async with world(tmp_path, STAFF) as bridge:
        staff, staff_room = bridge.channels("staff")
        other_room = bridge.matrix.channel("another")

        async def before(call: str) -> None:
            if call == "edit" and orphaned:
                raise CopyNotEditable("another account posted it")

        async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)) as core:
            said = bridge.discord.say(staff, "ann", "one")
            await bridge.shows(staff_room, "one")
            await bridge.quiet()
            await core.inbox.opened(
                ChannelAddress(Platform.MATRIX, "#staff"), other_room, predecessors=frozenset({staff_room})
            )
            bridge.discord.edit(said, "one, " * 60)
            await until(lambda: bridge.discord.reactions == [(said, "⚠️")])
            await bridge.quiet()
            assert len(bridge.words(staff_room)) == 1
            assert bridge.words(other_room) == []


async def test_a_declared_room_that_was_replaced_is_a_note_in_the_status(tmp_path: Path) -> None:
    async with world(tmp_path, STAFF) as bridge:
        staff, other_room = bridge.matrix.channel("#staff"), bridge.matrix.channel("another")
        async with bridge.relay() as core:
            assert core.status.cached_snapshot().pairs[0].note is None
            address = ChannelAddress(Platform.MATRIX, "#staff")
            await core.inbox.opened(address, other_room, predecessors=frozenset({staff}))
            [pair] = core.status.cached_snapshot().pairs
            assert pair.problem is None
            assert str(pair.note).startswith("#staff has been replaced by another")
            assert "replaced by another" in render(core.status.cached_snapshot())
            async with bridge.store.write() as uow:
                await uow.key_values.put(NOTEBOOK_ENTRY, json.dumps(core.status.as_json()))
            report = await read_report(bridge.store, bridge.pairs, running=True, now=bridge.clock.now())
            assert report.pairs[0].note == pair.note


async def test_what_cannot_be_changed_in_an_upgraded_room_is_told(tmp_path: Path) -> None:
    async with world(tmp_path, STAFF) as bridge:
        staff, staff_room = bridge.channels("staff")
        other_room = bridge.matrix.channel("another")

        async def forbidden(call: str) -> None:
            if call in ("edit", "delete"):
                raise ActionNeeded("the room is closed")

        async with bridge.relay() as core:
            kept, secret = (bridge.discord.say(staff, "ann", words) for words in ("kept", "secret"))
            await bridge.shows(staff_room, "kept", "secret")
            await bridge.quiet()
            opened = core.inbox.opened(
                ChannelAddress(Platform.MATRIX, "#staff"), other_room, predecessors=frozenset({staff_room})
            )
            await opened
            assert bridge.matrix_adapter is not None
            bridge.matrix_adapter.before = forbidden
            bridge.discord.edit(kept, "mended")
            bridge.discord.delete(secret)
            bridge.discord.say(staff, "ann", "goes on")
            await bridge.shows(other_room, "goes on")
            await bridge.quiet()
            assert bridge.words(staff_room) == ["kept", "secret"]
            assert bridge.discord.reactions == [(kept, "⚠️")]
            [notice] = [words for words in bridge.words(staff) if "was deleted" in words]
            assert "ask a moderator" in notice
            assert core.status.lane(LaneKey(staff, other_room)).dropped == {"former": 2}


async def test_what_fails_from_a_room_that_was_replaced_is_told_to_its_author(tmp_path: Path) -> None:
    async with world(tmp_path, STAFF) as bridge:
        _, staff_room = bridge.channels("staff")
        other_room = bridge.matrix.channel("another")
        error: DeliveryError = ActionNeeded("the bot may not post")

        async def before(call: str) -> None:
            if call == "send":
                raise error

        async with bridge.relay(lambda discord, _: setattr(discord, "before", before)) as core:
            said = bridge.matrix.say(staff_room, "ben", "hello")
            await waits(bridge, lane(Platform.DISCORD, "staff"), 1)
            error = Permanent("rejected as spam")
            await core.inbox.opened(
                ChannelAddress(Platform.MATRIX, "#staff"), other_room, predecessors=frozenset({staff_room})
            )
            await until(lambda: bridge.matrix.reactions == [(said, "⚠️")])
            await bridge.quiet()


async def test_what_stays_in_a_former_room_is_told_once_however_often_its_deletion_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, STAFF) as bridge:
        staff, staff_room = bridge.channels("staff")
        second_room, third_room = (bridge.matrix.channel(name) for name in ("second", "third"))
        remove = MemoryPlatform.remove
        failures = 2

        def picky(self: MemoryPlatform, target: MessageRef) -> None:
            nonlocal failures
            if target.channel == staff_room:
                raise ActionNeeded("the room is closed")
            if target.channel == second_room and failures:
                failures -= 1
                raise Transient("the homeserver failed")
            remove(self, target)

        monkeypatch.setattr(MemoryPlatform, "remove", picky)

        async with bridge.relay() as core:
            said = [bridge.discord.say(staff, "ann", words) for words in ("one", "two")]
            await bridge.shows(staff_room, "one", "two")
            await bridge.quiet()
            async with bridge.store.write() as uow:
                original = await uow.messages.find(said[0])
                assert original is not None
                await uow.messages.record_copy(Copy(original.id, 0, MessageRef(second_room, "1")))
            await core.inbox.opened(ChannelAddress(Platform.MATRIX, "#staff"), third_room)
            bridge.discord.delete(said[0])
            await until(lambda: not failures)
            core.dispatcher.retry_now()
            bridge.discord.delete(said[1])
            await until(lambda: core.status.lane(LaneKey(staff, third_room)).dropped == {"former": 2})
            await bridge.quiet()
            [notice] = bridge.words(staff)
            assert "was deleted" in notice


async def test_what_was_deleted_goes_from_former_rooms_although_the_present_one_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, STAFF) as bridge:
        staff, staff_room = bridge.channels("staff")
        other_room = bridge.matrix.channel("another")
        remove = MemoryPlatform.remove

        def picky(self: MemoryPlatform, target: MessageRef) -> None:
            if target.channel == other_room:
                raise Permanent("forbidden")
            remove(self, target)

        monkeypatch.setattr(MemoryPlatform, "remove", picky)
        async with bridge.relay() as core:
            said = bridge.discord.say(staff, "ann", "secret")
            await bridge.shows(staff_room, "secret")
            await bridge.quiet()
            async with bridge.store.write() as uow:
                original = await uow.messages.find(said)
                assert original is not None
                await uow.messages.record_copy(Copy(original.id, 0, MessageRef(other_room, "1")))
            await core.inbox.opened(ChannelAddress(Platform.MATRIX, "#staff"), other_room)
            bridge.discord.delete(said)
            await bridge.shows(staff_room)
            await bridge.quiet()
            async with bridge.store.read() as uow:
                [letter] = await uow.outbox.dead()
            assert letter.reason == "forbidden"


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
        keeper = StatusKeeper(store=bridge.store, status=core.status, dispatcher=core.dispatcher, clock=SystemClock())
        bridge.discord.say(here, "ann", "one")
        await bridge.shows(there, "one")
        await bridge.quiet()
        assert [task for task in asyncio.all_tasks() if task.get_name() == "lane help help"]
        await keeper.look()
        assert [task for task in asyncio.all_tasks() if task.get_name() == "lane help help"]
        await declare(bridge)
        await keeper.look()
        await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "lane help help"])
        await declare(bridge, *pairs)
        bridge.discord.say(here, "ann", "two")
        await bridge.shows(there, "one", "two")


async def test_what_lanes_had_done_is_forgotten_once_they_are_not_declared_and_it_is_old(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        bridge.discord.say(here, "ann", "one")
        await bridge.shows(there, "one")
        await bridge.quiet()
        later, earlier = (datetime.now(UTC) + sign * timedelta(days=1) for sign in (1, -1))
        core.status.forget_undeclared(later)
        await declare(bridge)
        core.status.forget_undeclared(earlier)
        assert core.status.lane(lane(Platform.MATRIX)).messages == 1
        core.status.forget_undeclared(later)
        assert core.status.lane(lane(Platform.MATRIX)).messages == 0
