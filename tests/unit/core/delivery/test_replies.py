"""Replies and quotations: what a reply becomes on the other side, and a quoted line that follows what it quotes."""

import asyncio
from pathlib import Path

import pytest

from relay.core.ports import Delivery
from relay.domain.commands import RequoteMessage
from relay.domain.ids import MessageRef, Platform
from relay.domain.pair import LaneKey
from relay.errors import RateLimited, Transient
from tests.support.memory_adapter import MemoryAdapter
from tests.support.world import World, lane, pair, until, world


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


async def test_an_answer_does_not_wait_for_the_side_that_knows_what_it_answers(
    bridge: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = bridge.channels()
    old = bridge.discord.say(here, "zoe", "older")

    async def before(call: str) -> None:
        if call == "quote":
            raise Transient("away")

    def unknown(adapter: MemoryAdapter, target: MessageRef) -> str:
        raise Transient("its server has not been told of yet")

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        discord.before = before

    monkeypatch.setattr(MemoryAdapter, "permalink", unknown)
    async with bridge.relay(prepare):
        bridge.discord.say(here, "ann", "answer", reply_to=old)
        await bridge.shows(there, "↪ a message\nanswer")


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
