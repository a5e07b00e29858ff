"""The core between two platforms in memory: what crosses, once, in order, also over restarts."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relay.core.ports import Delivery, EventBatch
from relay.domain.commands import RequoteMessage
from relay.domain.content import Attachment, Content
from relay.domain.events import HistorySkipped, MessageCreated, MessageEdited
from relay.domain.ids import MediaRef, MessageRef, Platform, ThreadRef
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.errors import ActionNeeded, CopyNotEditable, Permanent, RateLimited, Transient, Unsupported
from tests.support.platform import MemoryAdapter
from tests.support.world import World, WrongClock, lane, pair, until, world


async def test_messages_cross_both_ways_in_order(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay():
        for number in range(30):
            bridge.discord.say(here, "ann", f"d{number}")
            bridge.matrix.say(there, "ben", f"m{number}")
        await bridge.quiet()
        await until(lambda: len(bridge.words(there)) == 60)
        await until(lambda: len(bridge.words(here)) == 60)
    assert [text for text in bridge.words(there) if text[0] == "d"] == [f"d{number}" for number in range(30)]
    assert [text for text in bridge.words(here) if text[0] == "m"] == [f"m{number}" for number in range(30)]
    assert {message.shown_as for message in bridge.shown(there) if message.author.is_self} == {"ann"}


async def test_edits_and_deletions_follow(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay():
        first = bridge.discord.say(here, "ann", "frist")
        second = bridge.discord.say(here, "ann", "second")
        bridge.discord.edit(first, "first")
        bridge.discord.delete(second)
        await bridge.shows(there, "first")
        await bridge.quiet()


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


async def test_who_looks_like_another_does_not_after_an_edit_is_taken_back_or_a_quotation_follows(
    bridge: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = bridge.channels()
    names: list[str] = []
    edit = MemoryAdapter.edit

    async def told(adapter: MemoryAdapter, target: MessageRef, delivery: Delivery) -> None:
        assert delivery.author is not None
        names.append(delivery.author.name)
        await edit(adapter, target, delivery)

    monkeypatch.setattr(MemoryAdapter, "edit", told)
    async with bridge.relay():
        bridge.matrix.say(there, "Sam", "mine")
        said = bridge.matrix.say(there, "Ѕаm", "one")
        question = bridge.matrix.say(there, "ben", "tea?")
        bridge.matrix.say(there, "Ѕаm", "yes", reply_to=question)
        await bridge.shows(here, "mine", "one", "tea?", "↪ ben: tea?\nyes")
        shown = bridge.shown(here)[1].shown_as
        bridge.matrix.edit(said, "two")
        await bridge.shows(here, "mine", "two", "tea?", "↪ ben: tea?\nyes")
        bridge.matrix.take_back(said, 1)
        bridge.matrix.delete(question)
        await bridge.shows(here, "mine", "one", "↪ a message that is not here\nyes")
        await bridge.quiet()
    assert "⟨" in shown
    assert names == [shown] * 3


async def test_a_quotation_that_cannot_follow_now_holds_up_nobody_and_follows(bridge: World) -> None:
    here, there = bridge.channels()
    away = True

    async def before(call: str) -> None:
        if call == "latest" and away:
            raise Transient("the server failed", ambiguous=True)

    async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)) as core:
        question = bridge.matrix.say(there, "ben", "tea?")
        bridge.matrix.say(there, "cleo", "yes", reply_to=question)
        await bridge.shows(here, "tea?", "↪ ben: tea?\nyes")
        bridge.matrix.delete(question)
        bridge.matrix.say(there, "ben", "next")
        await bridge.shows(here, "↪ ben: tea?\nyes", "next")
        away = False
        core.dispatcher.retry_now()
        await bridge.shows(here, "↪ a message that is not here\nyes", "next")
        await bridge.quiet()


async def test_a_copy_that_nobody_can_edit_is_posted_anew_and_the_old_one_goes_whatever_happens(bridge: World) -> None:
    here, there = bridge.channels()
    troubles: dict[str, list[Exception]] = {
        "edit": [CopyNotEditable("its webhook is gone")],
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
        bridge.discord.delete(ref)
        await bridge.shows(there)
    assert not any(troubles.values())


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


async def test_an_answer_to_a_copy_that_is_not_on_record_yet_still_leads_to_its_original(bridge: World) -> None:
    here, there = bridge.channels()
    answered = asyncio.Event()
    looked_at: list[str] = []

    async def before(call: str) -> None:
        if call == "quote":
            looked_at.append(call)

    async def after(call: str) -> None:
        if call == "send":
            await answered.wait()

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        discord.before, discord.after = before, after

    async with bridge.relay(prepare) as core:
        original = bridge.matrix.say(there, "mia", "question")
        await bridge.shows(here, "question")
        bridge.discord.say(here, "ann", "answer", reply_to=bridge.shown(here)[0].ref)
        await until(lambda: bool(looked_at) or len(bridge.words(there)) == 2)
        answered.set()
        await bridge.shows(there, "question", "answer")
        assert core.status.lane(lane(Platform.MATRIX)).retries == 0
    assert bridge.shown(there)[1].reply_to == original


async def test_an_answer_to_what_somebody_else_wrote_waits_for_nobody(bridge: World) -> None:
    here, there = bridge.channels()
    old = bridge.discord.say(here, "ben", "older than the relay")
    never = asyncio.Event()

    async def after(call: str) -> None:
        if call == "send":
            await never.wait()

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        discord.after = after

    async with bridge.relay(prepare):
        bridge.matrix.say(there, "mia", "on its way")
        await until(lambda: len(bridge.words(here)) == 2)
        bridge.discord.say(here, "ann", "answer", reply_to=old)
        await bridge.shows(there, "on its way", "↪ ben: older than the relay\nanswer")


async def test_an_answer_to_what_has_no_copy_quotes_it_and_links_to_it(bridge: World) -> None:
    here, there = bridge.channels()
    old, older = bridge.discord.say(here, "zoe", "older"), bridge.matrix.say(there, "zoe", "older")
    gone = bridge.matrix.say(there, "zoe", "removed")
    bridge.matrix.delete(gone)
    async with bridge.relay():
        bridge.discord.say(here, "ann", "to that", reply_to=old)
        bridge.matrix.say(there, "ben", "to this", reply_to=older)
        bridge.matrix.say(there, "ben", "to nothing", reply_to=gone)
        await bridge.shows(there, "older", "to this", "to nothing", "↪ zoe: older\nto that")
        await bridge.shows(
            here, "older", "to that", "↪ zoe: older\nto this", "↪ a message that is not here\nto nothing"
        )


async def test_what_is_quoted_follows_its_source(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay():
        mine = bridge.matrix.say(there, "carol", "mine")
        await bridge.shows(here, "mine")
        yours = bridge.discord.say(here, "erin", "yours")
        await bridge.shows(there, "mine", "yours")
        bridge.matrix.say(there, "dave", "to mine", reply_to=mine)
        answer = bridge.matrix.say(there, "dave", "to yours", reply_to=bridge.shown(there)[1].ref)
        await bridge.shows(here, "mine", "yours", "↪ carol: mine\nto mine", "↪ erin: yours\nto yours")
        bridge.matrix.edit(mine, "ours")
        bridge.discord.edit(yours, "theirs")
        await bridge.shows(here, "ours", "theirs", "↪ carol: ours\nto mine", "↪ erin: theirs\nto yours")
        bridge.matrix.edit(answer, "to theirs")
        bridge.matrix.delete(mine)
        bridge.discord.delete(yours)
        gone = "↪ a message that is not here"
        await bridge.shows(here, f"{gone}\nto mine", f"{gone}\nto theirs")
        await bridge.quiet()
    # On the other side answers are native: nothing of theirs was touched.
    assert [message.edited_at is None for message in bridge.shown(there)] == [True, False]


async def test_what_is_quoted_without_a_copy_follows_too(bridge: World) -> None:
    here, there = bridge.channels()
    old = bridge.matrix.say(there, "carol", "older")
    async with bridge.relay():
        bridge.matrix.say(there, "dave", "answer", reply_to=old)
        await bridge.shows(here, "↪ carol: older\nanswer")
        bridge.matrix.edit(old, "newer")
        await bridge.shows(here, "↪ carol: newer\nanswer")
        bridge.matrix.delete(old)
        await bridge.shows(here, "↪ a message that is not here\nanswer")


async def test_what_is_quoted_follows_behind_the_words_that_wait(bridge: World) -> None:
    here, there = bridge.channels()
    calls: list[str] = []
    limited, refused = False, False

    async def before(call: str) -> None:
        nonlocal refused
        if limited and call in {"send", "edit"}:
            refused = not refused
            if refused:
                raise RateLimited("slow down", retry_after=0.02)
            calls.append(call)

    async with bridge.relay(lambda discord, _: setattr(discord, "before", before)):
        question = bridge.matrix.say(there, "carol", "tea?")
        for number in range(3):
            bridge.matrix.say(there, "dave", f"answer {number}", reply_to=question)
        await until(lambda: len(bridge.words(here)) == 4)
        limited = True
        bridge.matrix.edit(question, "coffee?")
        for number in range(3):
            bridge.matrix.say(there, "erin", f"word {number}")
        assert not calls
        await until(lambda: [words.split("\n")[0] for words in bridge.words(here)[1:4]] == ["↪ carol: coffee?"] * 3)
        await bridge.quiet()
    assert calls == ["edit"] + ["send"] * 3 + ["edit"] * 3


async def test_what_waits_for_its_turn_among_notes_stays_there_when_its_pair_is_another_one(tmp_path: Path) -> None:
    async with world(tmp_path, pair(), pair("other")) as bridge:
        here, there = bridge.channels()
        elsewhere = bridge.matrix.channel("other")
        async with bridge.relay():
            question = bridge.matrix.say(elsewhere, "carol", "tea?")
            answer = bridge.matrix.say(elsewhere, "dave", "yes", reply_to=question)
            await until(lambda: len(bridge.words(bridge.discord.channel("other"))) == 2)
        async with bridge.store.write() as uow:
            await uow.outbox.append(LaneKey.within(here), RequoteMessage(answer, question), bridge.discord.now())
        async with bridge.relay():
            await bridge.quiet()
            bridge.matrix.say(there, "erin", "hello")
            await bridge.shows(here, "hello")


async def test_an_edit_of_what_many_answer_becomes_few_edits(bridge: World) -> None:
    here, there = bridge.channels()
    edits = 0

    async def before(call: str) -> None:
        nonlocal edits
        edits += call == "edit"

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        discord.before = before

    async with bridge.relay(prepare):
        popular = bridge.matrix.say(there, "carol", "popular")
        for number in range(6):
            bridge.matrix.say(there, "dave", f"answer {number}", reply_to=popular)
        await until(lambda: len(bridge.words(here)) == 7)
        for number in range(4):
            bridge.matrix.edit(popular, f"popular {number}")
        await until(lambda: bridge.words(here)[-1] == "↪ carol: popular 3\nanswer 5")
        await bridge.quiet()
    assert edits <= 4 + 2 * 6


async def test_an_answer_does_not_wait_for_the_side_that_knows_what_it_answers(bridge: World) -> None:
    here, there = bridge.channels()
    old = bridge.discord.say(here, "zoe", "older")

    async def before(call: str) -> None:
        if call == "quote":
            raise Transient("away")

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        discord.before = before

    async with bridge.relay(prepare):
        bridge.discord.say(here, "ann", "answer", reply_to=old)
        await bridge.shows(there, "↪ a message\nanswer")


async def test_what_changes_for_the_better_during_a_try_is_not_waited_for(bridge: World) -> None:
    here, there = bridge.channels()
    tries = 0

    async def before(call: str) -> None:
        nonlocal tries
        if call == "send":
            tries += 1
            if tries == 1:
                assert bridge.core is not None
                bridge.core.dispatcher.retry_now()
                raise ActionNeeded("the permission is only just back", retry_after=3600)

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before = before

    async with bridge.relay(prepare):
        bridge.discord.say(here, "ann", "hello")
        await bridge.shows(there, "hello")
        await bridge.quiet()


async def test_an_edit_by_somebody_else_is_dropped_and_counted(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        ref = bridge.matrix.say(there, "ben", "mine")
        await bridge.shows(here, "mine")
        bridge.matrix.edit(ref, "stolen", by="eve")
        await until(lambda: core.status.lane(lane(Platform.DISCORD)).dropped["foreign"] == 1)
    assert bridge.words(here) == ["mine"]


async def test_a_reply_becomes_a_native_one_or_a_quoted_line(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay():
        question = bridge.discord.say(here, "ann", "what is up?\nsecond line")
        await bridge.shows(there, "what is up?\nsecond line")
        copy = bridge.shown(there)[0].ref
        bridge.matrix.say(there, "ben", "the sky", reply_to=copy)
        await until(lambda: len(bridge.words(here)) == 2)
        bridge.discord.say(here, "ann", "indeed", reply_to=bridge.shown(here)[1].ref)
        await until(lambda: len(bridge.words(there)) == 3)
    assert bridge.words(here)[1] == "↪ ann: what is up? second line\nthe sky"
    assert bridge.shown(there)[2].reply_to == bridge.shown(there)[1].ref
    assert question.channel == here


async def test_a_long_message_is_split_and_its_edits_follow(bridge: World) -> None:
    here, there = bridge.channels()
    words = [f"word{number:03}" for number in range(100)]
    async with bridge.relay():
        ref = bridge.discord.say(here, "ann", " ".join(words))
        await until(lambda: len(bridge.words(there)) == 4)
        assert " ".join(bridge.words(there)) == " ".join(words)
        assert all(len(text) <= 200 for text in bridge.words(there))
        bridge.discord.edit(ref, " ".join(words[:30]))
        await until(lambda: len(bridge.words(there)) == 2)
        assert " ".join(bridge.words(there)) == " ".join(words[:30])
        bridge.discord.edit(ref, " ".join(reversed(words)))
        await until(lambda: " ".join(bridge.words(there)) == " ".join(reversed(words)))
        bridge.discord.delete(ref)
        await bridge.shows(there)


async def test_our_own_echo_does_not_cross_back(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay():
        bridge.discord.say(here, "ann", "one")
        await bridge.shows(there, "one")
        bridge.matrix.say(there, "ben", "two")
        await bridge.shows(here, "one", "two")
        await bridge.quiet()
    assert bridge.words(there) == ["one", "two"]


async def test_reactions_and_threads_are_dropped_counted_and_told_once(bridge: World) -> None:
    here, there = bridge.channels()
    thread = ThreadRef(here, "777")
    async with bridge.relay() as core:
        bridge.discord.react(here)
        bridge.discord.say(here, "ann", "in a thread", thread=thread)
        bridge.discord.say(here, "ann", "again", thread=thread)
        bridge.discord.say(here, "ann", "outside")
        await until(lambda: "outside" in bridge.words(there))
        await bridge.quiet()
        dropped = core.status.lane(lane(Platform.MATRIX)).dropped
        assert dropped == {"reaction": 1, "thread": 2}
    assert len([text for text in bridge.words(there) if "thread" in text]) == 1
    assert len([text for text in bridge.words(here) if "Threads do not cross" in text]) == 1
    assert len(bridge.words(there)) == 2


async def test_a_flattened_thread_crosses_as_a_reply_to_its_root(tmp_path: Path) -> None:
    async with world(tmp_path, pair(thread_messages="flatten")) as bridge:
        here, there = bridge.channels()
        async with bridge.relay():
            root = bridge.discord.say(here, "ann", "root")
            bridge.discord.say(here, "ben", "leaf", thread=ThreadRef(here, root.id))
            await bridge.shows(there, "root", "leaf")
        assert bridge.shown(there)[1].reply_to == bridge.shown(there)[0].ref


async def test_what_was_said_while_the_relay_was_away_crosses_once(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay():
        bridge.discord.say(here, "ann", "d1")
        bridge.matrix.say(there, "ben", "m1")
        await until(lambda: len(bridge.words(here)) == 2 and len(bridge.words(there)) == 2)
        await bridge.quiet()
    for number in range(2, 50):
        bridge.discord.say(here, "ann", f"d{number}")
        bridge.matrix.say(there, "ben", f"m{number}")
    async with bridge.relay():
        await until(lambda: len(bridge.words(here)) == 98 and len(bridge.words(there)) == 98)
        await bridge.quiet()
    assert [text for text in bridge.words(there) if text[0] == "d"] == [f"d{number}" for number in range(1, 50)]
    assert [text for text in bridge.words(here) if text[0] == "m"] == [f"m{number}" for number in range(1, 50)]


async def test_edits_and_deletions_made_while_the_relay_was_away_are_found(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay():
        kept, edited, deleted = (bridge.discord.say(here, "ann", word) for word in ("kept", "edited", "deleted"))
        await bridge.shows(there, "kept", "edited", "deleted")
        mine, gone = (bridge.matrix.say(there, "ben", word) for word in ("mine", "gone"))
        await until(lambda: len(bridge.words(here)) == 5)
        await bridge.quiet()
    bridge.discord.edit(edited, "better")
    bridge.discord.delete(deleted)
    bridge.matrix.edit(mine, "ours")
    bridge.matrix.delete(gone)
    async with bridge.relay():
        await until(lambda: bridge.words(there) == ["kept", "better", "ours"])
        await until(lambda: bridge.words(here) == ["kept", "better", "ours"])
    assert kept.channel == here


async def test_of_too_long_an_absence_the_newest_messages_cross_and_the_rest_is_told(tmp_path: Path) -> None:
    async with world(tmp_path, pair(catchup_limit=3)) as bridge:
        here, there = bridge.channels()
        async with bridge.relay():
            await bridge.quiet()
        for number in range(10):
            bridge.discord.say(here, "ann", str(number))
        async with bridge.relay():
            notice = "7 messages that were written while the relay was away are not shown here."
            await bridge.shows(there, notice, "7", "8", "9")


@pytest.mark.parametrize("damage", ["UPDATE cursor SET position = 'nonsense'", "UPDATE cursor SET position = x'ff'"])
async def test_a_cursor_that_cannot_be_read_loses_and_doubles_nothing(bridge: World, damage: str) -> None:
    here, there = bridge.channels()
    async with bridge.relay():
        bridge.discord.say(here, "ann", "one")
        await bridge.shows(there, "one")
        bridge.matrix.say(there, "ben", "two")
        await bridge.shows(here, "one", "two")
        await bridge.quiet()
    for number in range(3):
        bridge.discord.say(here, "ann", f"missed {number}")
    with closing(sqlite3.connect(bridge.store.path)) as connection, connection:
        connection.execute(f"{damage} WHERE platform = 'discord'")
    async with bridge.relay():
        await bridge.shows(there, "one", "two", "missed 0", "missed 1", "missed 2")


async def test_nothing_older_than_the_first_start_crosses(bridge: World) -> None:
    here, there = bridge.channels()
    bridge.discord.say(here, "ann", "old")
    bridge.matrix.say(there, "ben", "old too")
    async with bridge.relay():
        bridge.discord.say(here, "ann", "new")
        await bridge.shows(there, "old too", "new")


@pytest.mark.parametrize("source", list(Platform))
async def test_a_send_that_broke_after_it_was_carried_out_is_not_doubled(bridge: World, source: Platform) -> None:
    here, there = bridge.channels()
    failures = 3

    async def broken(call: str) -> None:
        nonlocal failures
        if call == "send" and failures:
            failures -= 1
            raise Transient("connection reset", ambiguous=True)

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        (matrix if source is Platform.DISCORD else discord).after = broken

    platform, channel, other = (
        (bridge.discord, here, there) if source is Platform.DISCORD else (bridge.matrix, there, here)
    )
    async with bridge.relay(prepare) as core:
        platform.say(channel, "ann", "same")
        platform.say(channel, "ann", "same")
        platform.say(channel, "ann", "other")

        def hurried_through() -> bool:
            core.dispatcher.retry_now()
            return len(bridge.words(other)) >= 3

        await until(hurried_through)
        await bridge.quiet()
    assert bridge.words(other) == ["same", "same", "other"]
    assert failures == 0


async def test_a_kill_between_send_and_receipt_does_not_double(bridge: World) -> None:
    here, there = bridge.channels()
    sent = asyncio.Event()

    async def hang(call: str) -> None:
        if call == "send":
            sent.set()
            await asyncio.Event().wait()

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        discord.after = hang

    async with bridge.relay(prepare):
        bridge.matrix.say(there, "ben", "once")
        await sent.wait()
    async with bridge.relay():
        bridge.matrix.say(there, "ben", "twice")
        await bridge.shows(here, "once", "twice")
        await bridge.quiet()


async def test_a_message_that_never_can_cross_is_kept_and_its_author_told(bridge: World) -> None:
    here, there = bridge.channels()

    async def refuse(call: str) -> None:
        if call == "send":
            raise Permanent("too large")

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before = refuse

    async with bridge.relay(prepare):
        ref = bridge.discord.say(here, "ann", "huge")
        await until(lambda: bridge.discord.reactions == [(ref, "⚠️")])
        await bridge.quiet()
        async with bridge.store.read() as uow:
            letters = await uow.outbox.dead()
    assert [letter.reason for letter in letters] == ["too large"]
    assert bridge.words(there) == []


async def test_where_it_may_not_react_the_author_is_told_in_words(bridge: World) -> None:
    here, _ = bridge.channels()

    async def refuse(call: str) -> None:
        if call == "send":
            raise Unsupported("sculpture")

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before = refuse
        discord.can_react = False

    async with bridge.relay(prepare) as core:
        bridge.discord.say(here, "ann", "a statue")
        await until(lambda: len(bridge.words(here)) == 2)
        assert core.status.lane(lane(Platform.MATRIX)).dropped == {"sculpture": 1}
    assert bridge.words(here)[1] == "This message did not cross: sculpture cannot cross."


async def test_a_blocked_lane_says_so_and_goes_on_by_itself(bridge: World) -> None:
    here, there = bridge.channels()
    blocked = True

    async def forbid(call: str) -> None:
        if blocked and call == "send":
            raise ActionNeeded("give the bot the right to send")

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before = forbid

    async with bridge.relay(prepare) as core:
        bridge.discord.say(here, "ann", "one")
        await until(lambda: core.status.lane(lane(Platform.MATRIX)).problem is not None)
        snapshot = await core.status.snapshot()
        assert snapshot.pairs[0].problem == "to_matrix waits: give the bot the right to send."
        assert snapshot.pairs[0].directions["to_matrix"].backlog == 1
        assert snapshot.ready
        bridge.matrix.say(there, "ben", "the other way")
        await bridge.shows(here, "one", "the other way")
        blocked = False
        core.dispatcher.retry_now()
        await bridge.shows(there, "the other way", "one")
        await until(lambda: core.status.cached_snapshot().pairs[0].problem is None)


async def test_a_slow_pair_does_not_slow_another(tmp_path: Path) -> None:
    async with world(tmp_path, pair("slow"), pair("quick")) as bridge:
        slow, _ = bridge.channels("slow")
        quick, quick_there = bridge.channels("quick")

        release = asyncio.Event()
        calls = 0

        async def hold_first(call: str) -> None:
            nonlocal calls
            if call == "send":
                calls += 1
                if calls == 1:
                    await release.wait()

        def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
            matrix.before = hold_first

        async with bridge.relay(prepare):
            bridge.discord.say(slow, "ann", "held")
            await until(lambda: calls == 1)
            bridge.discord.say(quick, "ann", "through")
            await bridge.shows(quick_there, "through")
            release.set()
            await bridge.quiet()


async def test_attachments_that_cannot_cross_yet_are_named(bridge: World) -> None:
    here, there = bridge.channels()
    picture = Attachment(
        "1", "cat.png", "image", MediaRef(Platform.DISCORD, "https://cdn.example/cat.png"), size=1_500_000
    )
    async with bridge.relay():
        bridge.discord.say(here, "ann", Content(RichText.plain("look"), (picture,)))
        await bridge.shows(there, "look\nimage: cat.png (1.5 MB)")


async def test_a_message_with_nothing_in_it_is_counted_and_marked(bridge: World) -> None:
    here, _ = bridge.channels()
    async with bridge.relay() as core:
        ref = bridge.discord.say(here, "ann", Content())
        await until(lambda: bridge.discord.reactions == [(ref, "⚠️")])
        assert core.status.lane(lane(Platform.MATRIX)).dropped == {"empty": 1}


async def test_skipped_history_is_told_on_the_other_side(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        await core.inbox.receive(EventBatch((HistorySkipped(here, 7000), HistorySkipped(here, None))))
        await bridge.shows(
            there,
            "7000 messages that were written while the relay was away are not shown here.",
            "Messages that were written while the relay was away may be missing here.",
        )


async def test_the_last_original_is_told_to_whom_has_lost_its_position(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        assert await core.inbox.last_original(here) is None
        bridge.discord.say(here, "ann", "first")
        last = bridge.discord.say(here, "ann", "last")
        await bridge.shows(there, "first", "last")
        bridge.matrix.say(there, "ben", "elsewhere")
        await bridge.shows(here, "first", "last", "elsewhere")
        assert await core.inbox.last_original(here) == last


async def test_a_replayed_batch_changes_nothing(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        ref = bridge.discord.say(here, "ann", "once")
        await bridge.shows(there, "once")
        message = bridge.discord.messages[ref]
        again = MessageCreated(ref, message.author, message.content, message.created_at)
        await core.inbox.receive(EventBatch((again, again)))
        await bridge.quiet()
    assert bridge.words(there) == ["once"]


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


async def test_a_channel_in_no_pair_is_nobody_s_business(bridge: World) -> None:
    elsewhere = bridge.discord.channel("elsewhere")
    _, there = bridge.channels()
    async with bridge.relay():
        bridge.discord.say(elsewhere, "ann", "psst")
        bridge.discord.say(bridge.discord.channel("help"), "ann", "hello")
        await bridge.shows(there, "hello")
    assert bridge.discord.messages[MessageRef(elsewhere, "000001")].text == "psst"


async def test_what_could_not_be_looked_at_has_not_been_deleted(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay():
        bridge.discord.say(here, "ann", "one")
        ref = bridge.discord.say(here, "ann", "two")
        await bridge.shows(there, "one", "two")
        await bridge.quiet()
    bridge.discord.delete(ref)

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        discord.sees_all = False

    async with bridge.relay(prepare):
        bridge.discord.say(here, "ann", "three")
        await bridge.shows(there, "one", "two", "three")
    async with bridge.relay():
        await bridge.shows(there, "one", "three")


async def test_what_was_left_out_is_told_once_and_crosses_once_there_is_something_in_it(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        said = bridge.discord.say(here, "ann", Content())
        await bridge.quiet()
        message = bridge.discord.messages[said]
        again = MessageCreated(said, message.author, Content(), message.created_at)
        await core.inbox.receive(EventBatch((again,)))
        await bridge.quiet()
        assert core.status.cached_snapshot().pairs[0].directions["to_matrix"].dropped == {"empty": 1}
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


async def test_the_last_message_is_none_of_the_future(bridge: World) -> None:
    async with bridge.relay() as core:
        now = datetime.now(UTC)
        for written_at in (now, datetime(9000, 1, 1, tzinfo=UTC)):
            core.status.crossed(lane(Platform.MATRIX), written_at=written_at, received_at=now)
        last = core.status.cached_snapshot().pairs[0].directions["to_matrix"].last_message_at
        assert last is not None
        assert now <= last <= datetime.now(UTC)


async def test_an_edit_queued_before_its_message_was_left_out_crosses_as_the_message(bridge: World) -> None:
    here, there = bridge.channels()
    queued = asyncio.Event()

    async def before(call: str) -> None:
        if call == "send" and not queued.is_set():
            await queued.wait()
            raise Unsupported("sculpture")

    async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)):
        said = bridge.discord.say(here, "ann", "a sculpture")
        bridge.discord.edit(said, "a picture of it")
        bridge.discord.say(here, "ann", "next")
        waiting = 0
        async with asyncio.timeout(5):
            while waiting < 3:
                async with bridge.store.read() as uow:
                    waiting = len(await uow.outbox.waiting(lane(Platform.MATRIX), 3))
        queued.set()
        await bridge.shows(there, "a picture of it", "next")
        bridge.discord.edit(said, "a better picture of it")
        await bridge.shows(there, "a better picture of it", "next")
        await bridge.quiet()


@pytest.mark.parametrize("off", [timedelta(days=-3), timedelta(minutes=5), timedelta(days=3)], ids=str)
async def test_what_was_edited_while_away_follows_whatever_our_clock_says(bridge: World, off: timedelta) -> None:
    here, there = bridge.channels()
    bridge.clock = WrongClock(off)
    async with bridge.relay():
        first, second = (bridge.discord.say(here, "ann", words) for words in ("one", "two"))
        await bridge.shows(there, "one", "two")
        await bridge.quiet()
    bridge.discord.edit(first, "uno")
    bridge.discord.delete(second)
    async with bridge.relay():
        await bridge.shows(there, "uno")


@pytest.mark.parametrize("side", list(Platform))
async def test_a_quote_of_what_has_no_copy_follows_its_source(bridge: World, side: Platform) -> None:
    channels = dict(zip((Platform.DISCORD, Platform.MATRIX), bridge.channels(), strict=True))
    here, there = channels.pop(side), channels.popitem()[1]
    people = bridge.discord if side is Platform.DISCORD else bridge.matrix
    old = people.say(here, "ann", "old words")  # before the first start
    async with bridge.relay():
        people.say(here, "ben", "yes", reply_to=old)
        await bridge.shows(there, "↪ ann: old words\nyes")
        people.edit(old, "new words")
        await bridge.shows(there, "↪ ann: new words\nyes")
        people.delete(old)
        await bridge.shows(there, "↪ a message that is not here\nyes")
        await bridge.quiet()
