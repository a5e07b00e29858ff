"""Edits and deletions of what has a copy: which edit counts, and what becomes of a copy that cannot be edited."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from relay.core.ports import EventBatch
from relay.domain.content import Content
from relay.domain.events import MessageCreated, MessageEdited
from relay.domain.ids import MessageRef, Platform
from relay.domain.text.nodes import RichText
from relay.errors import CopyNotEditable, Permanent, Postponed, Transient, Unsupported
from tests.support.memory_adapter import MemoryAdapter
from tests.support.patience import PATIENCE
from tests.support.world import World, lane, until


async def test_an_edit_that_is_taken_back_brings_the_earlier_words_back(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay():
        said = bridge.matrix.say(there, "ben", "one")
        for words in ("two", "three"):
            bridge.matrix.edit(said, words)
            await bridge.shows(here, words)
        bridge.matrix.take_back(said, 1)
        await bridge.quiet()
        await bridge.shows(here, "three")
        bridge.matrix.take_back(said, 1)
        await bridge.shows(here, "one")
        bridge.matrix.edit(said, "four")
        bridge.matrix.take_back(said, 1)
        bridge.matrix.edit(said, "five")
        await bridge.quiet()
        await bridge.shows(here, "five")
        bridge.matrix.take_back(said, 1)
        bridge.matrix.delete(said)
        await bridge.shows(here)
        await bridge.quiet()


async def test_what_was_postponed_is_done_once_its_channel_is_opened_again(bridge: World) -> None:
    here, there = bridge.channels()
    away = True

    async def before(call: str) -> None:
        if call in {"edit", "delete"} and away:
            raise Postponed("only its ghost may do that")

    async def letters() -> list[str]:
        async with bridge.store.read() as uow:
            return [letter.reason for letter in await uow.outbox.dead()]

    async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)) as core:
        edited, deleted, later = (bridge.discord.say(here, "ann", words) for words in ("one", "two", "three"))
        await bridge.shows(there, "one", "two", "three")
        bridge.discord.edit(edited, "one, edited")
        bridge.discord.edit(later, "three, edited")
        bridge.discord.delete(deleted)
        bridge.discord.say(here, "ann", "four")
        await bridge.shows(there, "one", "two", "three", "four")
        assert len(await letters()) == 3
        away = False
        bridge.discord.edit(later, "three, edited twice")
        await bridge.shows(there, "one", "two", "three, edited twice", "four")
        await core.inbox.opened(bridge.pairs[0].side(Platform.MATRIX), there)
        await bridge.shows(there, "one, edited", "three, edited twice", "four")
        await bridge.quiet()
        assert await letters() == []
        assert bridge.words(there) == ["one, edited", "three, edited twice", "four"]


async def test_an_edit_taken_back_while_its_side_is_away_holds_up_nobody_and_follows(bridge: World) -> None:
    here, there = bridge.channels()
    away = False

    async def before(call: str) -> None:
        if call == "latest" and away:
            raise Transient("the server failed", ambiguous=True)

    async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)):
        said = bridge.matrix.say(there, "ben", "one")
        bridge.matrix.edit(said, "two")
        await bridge.shows(here, "two")
        away = True
        bridge.matrix.take_back(said, 1)
        bridge.matrix.say(there, "ben", "next")
        await bridge.shows(here, "two", "next")
    async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)) as core:
        away = False
        core.dispatcher.retry_now()
        await bridge.shows(here, "one", "next")
        await bridge.quiet()


async def test_an_edit_taken_back_follows_although_its_pair_was_taken_out_while_that_was_read(bridge: World) -> None:
    here, there = bridge.channels()
    reads = 0

    async def before(call: str) -> None:
        nonlocal reads
        if call != "latest":
            return
        reads += 1
        if reads == 1:
            raise Transient("the server failed", ambiguous=True)
        if reads == 2:
            core.inbox.declare(())

    async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)) as core:
        said = bridge.matrix.say(there, "ben", "one")
        bridge.matrix.edit(said, "two")
        await bridge.shows(here, "two")
        bridge.matrix.take_back(said, 1)
        await until(lambda: reads >= 1)
        core.dispatcher.retry_now()
        await until(lambda: reads >= 2)
        core.inbox.declare(bridge.pairs)
        for side, channel in zip(bridge.pairs[0].sides, (here, there), strict=True):
            await core.inbox.opened(side, channel)
        await bridge.quiet()
        assert bridge.words(here) == ["one"]


async def test_a_copy_that_nobody_can_edit_is_posted_anew_and_the_old_one_goes_whatever_happens(bridge: World) -> None:
    here, there = bridge.channels()
    troubles: dict[str, list[Exception]] = {
        "edit": [CopyNotEditable("its webhook is gone")] * 2,  # as is that of the new one
        "delete": [Transient("the server failed")],
    }

    async def before(call: str) -> None:
        if troubles.get(call):
            raise troubles[call].pop()

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before = before

    async with bridge.relay(prepare):
        ref = bridge.discord.say(here, "ann", "frist")
        await bridge.shows(there, "frist")
        bridge.discord.edit(ref, "first")
        await bridge.shows(there, "first")
        await bridge.quiet()
        assert bridge.words(there) == ["first"]
        bridge.discord.delete(ref)
        await bridge.shows(there)
    assert not any(troubles.values())


@pytest.mark.parametrize("changed", ["question", "answer"])
async def test_what_was_posted_anew_is_found_again_although_its_message_is_gone_since(
    bridge: World, changed: str
) -> None:
    here, there = bridge.channels()
    troubles: dict[str, list[Exception]] = {}
    away = False

    async def before(call: str) -> None:
        if call == "edit" and troubles.get(call):
            raise troubles[call].pop()
        if call == "send" and away:
            raise Transient("no connection")

    async def after(call: str) -> None:
        nonlocal away
        if call == "send" and troubles.get(call):
            away = True
            raise troubles[call].pop()

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        discord.before, discord.after = before, after

    async with bridge.relay(prepare) as core:
        question = bridge.matrix.say(there, "ben", "tea?")
        answer = bridge.matrix.say(there, "ann", "yes", reply_to=question)
        bridge.matrix.edit(answer, "no")
        await bridge.shows(here, "tea?", "↪ ben: tea?\nno")
        await bridge.quiet()
        troubles = {"edit": [CopyNotEditable("its webhook is gone")] * 2, "send": [Transient("lost", ambiguous=True)]}
        if changed == "question":
            bridge.matrix.delete(question)  # the answer quotes it
        else:
            bridge.matrix.take_back(answer, 1)
        await until(lambda: away)
        bridge.matrix.delete(answer)
        await until_routed(bridge, answer)
        away = False
        core.dispatcher.retry_now()
        await bridge.quiet()
        assert bridge.words(here) == ([] if changed == "question" else ["tea?"])


async def test_what_was_posted_anew_goes_too_where_a_moderator_has_removed_the_old_copy_meanwhile(
    bridge: World,
) -> None:
    here, there = bridge.channels()
    orphaned: list[Exception] = [CopyNotEditable("its webhook is gone")]
    lost: list[Exception] = []
    away = False

    async def before(call: str) -> None:
        if call == "edit" and orphaned:
            lost.append(Transient("lost", ambiguous=True))
            raise orphaned.pop()
        if call == "edit" and away:
            raise Transient("no connection")

    async def after(call: str) -> None:
        nonlocal away
        if call == "send" and lost:
            away = True
            raise lost.pop()

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before, matrix.after = before, after

    async with bridge.relay(prepare) as core:
        ref = bridge.discord.say(here, "ann", "frist")
        await bridge.shows(there, "frist")
        bridge.discord.edit(ref, "first")
        await until(lambda: away)
        [old, anew] = bridge.shown(there)
        assert anew.text == "first"
        bridge.matrix.delete(old.ref)
        away = False
        core.dispatcher.retry_now()
        await bridge.shows(there)
        await bridge.quiet()


async def test_a_part_that_was_added_in_doubt_is_found_although_the_others_are_posted_anew_behind_it(
    bridge: World,
) -> None:
    here, there = bridge.channels()
    orphaned: list[Exception] = []
    lost: list[Exception] = [Transient("lost", ambiguous=True)]
    failing: list[Exception] = [Transient("the server failed")]

    async def before(call: str) -> None:
        if call == "edit" and orphaned:
            raise orphaned.pop()
        if call == "delete" and not orphaned and failing:
            raise failing.pop()

    async def after(call: str) -> None:
        if call == "send" and len(bridge.shown(here)) == 3 and lost:
            orphaned.extend([CopyNotEditable("its webhook is gone")] * 2)
            raise lost.pop()

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        discord.before, discord.after = before, after

    long = " ".join(f"word{number}" for number in range(60))  # three parts
    async with bridge.relay(prepare):
        ref = bridge.matrix.say(there, "ann", "short")
        await bridge.shows(here, "short")
        bridge.matrix.edit(ref, long)
        await until(lambda: not lost and not orphaned and not failing)
        await bridge.quiet()
        assert sorted(" ".join(bridge.words(here)).split()) == sorted(long.split())


async def until_routed(bridge: World, deleted: MessageRef) -> None:
    """Wait until a deletion is on record."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with bridge.store.read() as uow:
                original = await uow.messages.find(deleted)
            if original is not None and original.deleted:
                return
            await asyncio.sleep(0.002)


async def test_what_may_not_be_removed_holds_up_nothing_and_goes_once_the_channel_opens_again(bridge: World) -> None:
    here, there = bridge.channels()
    orphaned = [CopyNotEditable("its webhook is gone")]
    forbidden = True

    async def before(call: str) -> None:
        if call == "edit" and orphaned:
            raise orphaned.pop()
        if call == "delete" and forbidden:
            raise Permanent("the bot may not delete that")

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before = before

    async with bridge.relay(prepare):
        first, second = (bridge.discord.say(here, "ann", text) for text in ("frist", "second"))
        await bridge.shows(there, "frist", "second")
        bridge.discord.edit(first, "first")
        bridge.discord.delete(second)
        bridge.discord.say(here, "ann", "third")
        await bridge.shows(there, "frist", "second", "first", "third")
        await bridge.quiet()
    forbidden = False
    async with bridge.relay(prepare):
        await bridge.shows(there, "first", "third")
        await bridge.quiet()
        async with bridge.store.read() as uow:
            assert not await uow.outbox.dead()


async def test_an_edit_by_somebody_else_is_dropped_and_counted(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        ref = bridge.matrix.say(there, "ben", "mine")
        await bridge.shows(here, "mine")
        bridge.matrix.edit(ref, "stolen", by="eve")
        await until(lambda: core.status.lane(lane(Platform.DISCORD)).dropped["foreign"] == 1)
    assert bridge.words(here) == ["mine"]


async def test_an_edit_older_than_the_last_one_is_ignored(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        ref = bridge.discord.say(here, "ann", "one")
        bridge.discord.edit(ref, "three")
        await bridge.shows(there, "three")
        latest = bridge.discord.log[-1]
        assert isinstance(latest, MessageEdited)
        earlier = latest.edited_at - timedelta(seconds=1)
        stale = replace(latest, content=Content(RichText.plain("two")), edited_at=earlier)
        await core.inbox.receive(EventBatch((stale,)))
        await bridge.quiet()
    assert bridge.words(there) == ["three"]


async def test_what_was_left_out_is_told_once_and_crosses_once_there_is_something_in_it(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        said = bridge.discord.say(here, "ann", Content())
        await bridge.quiet()
        message = bridge.discord.messages[said]
        again = MessageCreated(said, message.author, Content(), message.created_at)
        await core.inbox.receive(EventBatch((again,)))
        await bridge.quiet()
        assert core.status.last_report().pairs[0].directions["to_matrix"].dropped == {"empty": 1}
        bridge.discord.edit(said, "words")
        await bridge.shows(there, "words")
        bridge.discord.edit(said, "better words")
        await bridge.shows(there, "better words")


async def test_of_two_edits_with_one_time_stamp_the_later_one_counts(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        said = bridge.matrix.say(there, "ben", "one")
        await bridge.shows(here, "one")
        message = bridge.matrix.messages[said]
        at = message.created_at + timedelta(seconds=1)
        edits = [
            MessageEdited(said, message.author, Content(RichText.plain(words)), at, MessageRef(there, words))
            for words in ("two", "three")
        ]
        for edit in (*edits, edits[0]):  # the first one again: a replay
            await core.inbox.receive(EventBatch((edit,)))
        await bridge.shows(here, "three")


async def test_an_edit_queued_before_its_message_was_left_out_crosses_as_the_message(bridge: World) -> None:
    here, there = bridge.channels()
    queued = asyncio.Event()

    async def before(call: str) -> None:
        if call == "send" and not queued.is_set():
            await queued.wait()
            raise Unsupported("location")

    async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)):
        said = bridge.discord.say(here, "ann", "a sculpture")
        bridge.discord.edit(said, "a picture of it")
        bridge.discord.say(here, "ann", "next")
        waiting = 0
        async with asyncio.timeout(PATIENCE):
            while waiting < 3:
                async with bridge.store.read() as uow:
                    waiting = len(await uow.outbox.waiting(lane(Platform.MATRIX), 3))
        queued.set()
        await bridge.shows(there, "a picture of it", "next")
        bridge.discord.edit(said, "a better picture of it")
        await bridge.shows(there, "a better picture of it", "next")
        await bridge.quiet()


async def test_a_part_in_doubt_is_found_also_where_those_before_it_are_not_on_record_any_more(bridge: World) -> None:
    """Another lane's deletion had begun with them, while this one had no pair; and a ghost can speak no more."""
    here, there = bridge.channels()
    sends = 0

    async def before(call: str) -> None:
        nonlocal sends
        sends += call == "send"

    async def after(call: str) -> None:
        if call == "send" and sends == 3:
            async with bridge.store.write() as uow:
                original = await uow.messages.find(said)
                assert original is not None
                for copy in await uow.messages.copies(original.id, there):
                    await uow.messages.forget_copy(copy)
            raise Transient("no answer", ambiguous=True)

    def prepare(_: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before, matrix.after, matrix.ghosts = before, after, lambda: sends != 6

    async with bridge.relay(prepare):
        said = bridge.discord.say(here, "ann", " ".join(f"word-{number:03}" for number in range(60)))
        await until(lambda: sends == 6)
        await bridge.quiet()
    shown = bridge.words(there)
    assert len(shown) == len(set(shown)) == 3
