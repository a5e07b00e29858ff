"""A room is upgraded or replaced while messages wait: what goes to its successor, what stays, and who is told."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from relay.core.ports import Delivery
from relay.core.status.reading import read_report
from relay.core.status.report import STATUS_KEY
from relay.core.storage import Copy
from relay.domain.commands import Digest, DigestItem
from relay.domain.content import Content
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, Platform
from relay.domain.pair import LaneKey
from relay.errors import ActionNeeded, CopyNotEditable, DeliveryError, Permanent, Transient
from relay.web.page import render
from tests.support.pairs import STAFF, Gate, depth, waits
from tests.support.platform import MemoryPlatform
from tests.support.world import lane, until, world


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


async def test_what_was_posted_again_in_the_new_room_is_edited_there_and_deleted_in_both(tmp_path: Path) -> None:
    async with world(tmp_path, STAFF) as bridge:
        staff, staff_room = bridge.channels("staff")
        other_room = bridge.matrix.channel("another")
        under_way, answered = asyncio.Event(), asyncio.Event()

        async def before(call: str) -> None:
            if call == "send" and bridge.shown(staff_room) and not answered.is_set():
                under_way.set()
                await answered.wait()

        async def post() -> dict[MessageRef, MessageRef]:
            # What was on its way is there.
            return {
                one.ref: bridge.matrix.post(Delivery(other_room, f"again {one.key}", one.author, one.content))
                for one in bridge.shown(staff_room)
            }

        async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)) as core:
            kept = bridge.discord.say(staff, "ann", "kept")
            await bridge.shows(staff_room, "kept")
            secret = bridge.discord.say(staff, "ann", "secret")
            await under_way.wait()
            posting = asyncio.create_task(core.inbox.post_again(staff_room, post))
            await asyncio.wait([posting], timeout=0.1)
            answered.set()
            await posting
            await bridge.shows(other_room, "kept", "secret")
            await core.inbox.opened(
                ChannelAddress(Platform.MATRIX, "#staff"), other_room, predecessors=frozenset({staff_room})
            )
            bridge.discord.edit(kept, "mended")
            bridge.discord.delete(secret)
            await bridge.shows(other_room, "mended")
            await bridge.shows(staff_room, "kept")
            await bridge.quiet()
            await core.inbox.post_again(bridge.matrix.channel("of no pair"), post)
            assert bridge.words(other_room) == ["mended"]


@pytest.mark.parametrize("interrupted", [True, False])
async def test_a_message_of_which_only_the_last_parts_are_posted_again_is_edited_and_deleted_whole(
    tmp_path: Path, interrupted: bool
) -> None:
    """The first was posted before the tombstone. `interrupted`: it is done again, with what was not removed."""
    async with world(tmp_path, STAFF) as bridge:
        staff, staff_room = bridge.channels("staff")
        other_room = bridge.matrix.channel("another")
        parts = [letter * 150 for letter in "abc"]
        posted: dict[MessageRef, MessageRef] = {}

        async def post() -> dict[MessageRef, MessageRef]:
            for one in bridge.shown(staff_room)[1:]:
                delivery = Delivery(other_room, f"again {one.key}", one.author, one.content)
                posted[one.ref] = bridge.matrix.post(delivery)
            return posted

        async def post_once_more() -> dict[MessageRef, MessageRef]:
            return dict([list(posted.items())[-1]])

        async with bridge.relay() as core:
            said = bridge.discord.say(staff, "ann", "\n\n".join(parts))
            await bridge.shows(staff_room, *parts)
            await bridge.quiet()
            await core.inbox.post_again(staff_room, post)
            if interrupted:
                await core.inbox.post_again(staff_room, post_once_more)
            await core.inbox.opened(
                ChannelAddress(Platform.MATRIX, "#staff"), other_room, predecessors=frozenset({staff_room})
            )
            await bridge.shows(other_room, *parts[1:])
            mended = [letter * 150 for letter in "def"]
            bridge.discord.edit(said, "\n\n".join(mended))
            await bridge.shows(other_room, *mended)
            await bridge.quiet()
            bridge.discord.delete(said)
            await bridge.shows(other_room)
            await bridge.shows(staff_room)


@pytest.mark.parametrize("readable", [True, False])
async def test_a_shared_copy_that_is_posted_again_is_shared_there(tmp_path: Path, readable: bool) -> None:
    """One whose sharing cannot be read would be taken for the copy of each alone: it stays where it was."""
    async with world(tmp_path, STAFF) as bridge:
        staff, staff_room = bridge.channels("staff")
        shared, again = (MessageRef(one, "1") for one in (staff_room, bridge.matrix.channel("another")))
        async with bridge.relay() as core:
            said = [bridge.discord.say(staff, "ann", words) for words in ("one", "two")]
            await bridge.shows(staff_room, "one", "two")
            await bridge.quiet()
            ann = bridge.discord.person("ann")
            digest = Digest(tuple(DigestItem(ref, ann, Content(), bridge.clock.now()) for ref in said))
            async with bridge.store.write() as uow:
                for ref in said:
                    original = await uow.messages.find(ref)
                    assert original is not None
                    await uow.messages.record_copy(Copy(original.id, 0, shared))
                await uow.digests.put(shared, digest)
            if not readable:
                with closing(sqlite3.connect(bridge.store.path)) as connection, connection:
                    connection.execute("UPDATE batch SET command = '{'")

            async def post() -> dict[MessageRef, MessageRef]:
                return {shared: again}

            await core.inbox.post_again(staff_room, post)
            async with bridge.store.read() as uow:
                assert await uow.messages.is_copy(again) == readable
                assert await uow.digests.get(again) == (digest if readable else None)
                assert len(await uow.messages.originals_of(shared)) == len(said)


async def test_what_is_said_while_older_messages_move_to_another_room_comes_after_them(tmp_path: Path) -> None:
    async with world(tmp_path, STAFF) as bridge:
        gate = Gate()
        staff, staff_room = bridge.channels("staff")
        other_room = bridge.matrix.channel("another")
        alias, into = ChannelAddress(Platform.MATRIX, "#staff"), LaneKey(staff, other_room)
        async with bridge.relay(gate.prepare) as core:
            bridge.discord.say(staff, "ann", "first")
            await waits(bridge, lane(Platform.MATRIX, "staff"), 1)
            core.dispatcher.wake(into)
            # It has asked the store, and nothing waits in it.
            await until(lambda: into in core.dispatcher._lanes and core.dispatcher._lanes[into]._complete)
            gate.closed = False
            opening = asyncio.create_task(core.inbox.opened(alias, other_room, predecessors=frozenset({staff_room})))
            await asyncio.sleep(0)
            bridge.discord.say(staff, "ann", "second")
            await opening
            await bridge.shows(other_room, "first", "second")


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
            assert core.status.last_report().pairs[0].note is None
            address = ChannelAddress(Platform.MATRIX, "#staff")
            await core.inbox.opened(address, other_room, predecessors=frozenset({staff}))
            [pair] = core.status.last_report().pairs
            assert pair.problem is None
            assert str(pair.note).startswith("#staff has been replaced by another")
            assert "replaced by another" in render(core.status.last_report())
            async with bridge.store.write() as uow:
                await uow.key_values.put(STATUS_KEY, core.status.record().as_text())
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
