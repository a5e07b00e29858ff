"""The core between two platforms in memory: what crosses, once, in order, also over restarts."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from relay.domain.content import Attachment, Content, with_most_files
from relay.domain.ids import MediaRef, MessageRef, Platform, ThreadRef
from relay.domain.text.nodes import RichText
from relay.errors import ActionNeeded, Permanent, Transient, Unsupported
from tests.support.memory_adapter import MemoryAdapter
from tests.support.world import World, lane, pair, until, world


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
            raise Unsupported("location")

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before = refuse
        discord.can_react = False

    async with bridge.relay(prepare) as core:
        bridge.discord.say(here, "ann", "a statue")
        await until(lambda: len(bridge.words(here)) == 2)
        assert core.status.lane(lane(Platform.MATRIX)).dropped == {"location": 1}
    assert bridge.words(here)[1] == "This message did not cross: location cannot cross."


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
        snapshot = await core.status.report()
        assert snapshot.pairs[0].problem == "Messages to Matrix wait: give the bot the right to send."
        assert snapshot.pairs[0].directions["to_matrix"].backlog == 1
        assert snapshot.ready
        bridge.matrix.say(there, "ben", "the other way")
        await bridge.shows(here, "one", "the other way")
        blocked = False
        core.dispatcher.retry_now()
        await bridge.shows(there, "the other way", "one")
        await until(lambda: core.status.last_report().pairs[0].problem is None)


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
    async with bridge.relay() as core:
        bridge.discord.say(here, "ann", Content(RichText.plain("look"), (picture,)))
        await bridge.shows(there, "look\nimage: cat.png (1.5 MB)")
        await until(lambda: core.status.lane(lane(Platform.MATRIX)).dropped == {"file": 1})


async def test_files_beyond_what_a_message_may_hold_are_counted_also_where_their_own_side_has_left_them_out(
    bridge: World,
) -> None:
    here, _ = bridge.channels()
    ref = MediaRef(Platform.DISCORD, "https://cdn.example/cat.png")
    gallery = tuple(Attachment(str(number), f"{number}.png", "image", ref, size=10) for number in range(12))

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.max_attachments = 10

    async with bridge.relay(prepare) as core:
        bridge.discord.say(here, "ann", Content(attachments=gallery))
        await until(lambda: core.status.lane(lane(Platform.MATRIX)).dropped == {"file": 2})
        bridge.discord.say(here, "ann", with_most_files(Content(attachments=gallery)))
        await until(lambda: core.status.lane(lane(Platform.MATRIX)).dropped == {"file": 4})


async def test_what_does_not_fit_is_counted_once_in_all_the_parts_of_its_message(bridge: World) -> None:
    here, there = bridge.channels()
    small = Attachment("1", "cat.png", "image", MediaRef(Platform.DISCORD, "https://cdn.example/cat.png"), size=10)
    large = replace(small, id="2", name="dog.png", size=1_500_000)
    tries = 0

    async def before(call: str) -> None:
        nonlocal tries
        if call == "send":
            tries += 1
            if tries == 2:  # in the middle of the message
                raise Transient("away", retry_after=0.01)

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before, matrix.max_attachments = before, 1

    async with bridge.relay(prepare) as core:
        said = bridge.discord.say(here, "ann", Content(RichText.plain("word " * 60), (small, large)))
        await until(lambda: len(bridge.words(there)) == 2)
        await bridge.quiet()
        await until(lambda: core.status.lane(lane(Platform.MATRIX)).messages == 1)
        assert core.status.lane(lane(Platform.MATRIX)).dropped == {"file": 1}
        # What is said anew is counted anew; what becomes of that is not.
        bridge.discord.edit(said, Content(RichText.plain("see"), (small, large)))
        await bridge.shows(there, "see\nimage: dog.png (1.5 MB)")
        await bridge.quiet()
        await until(lambda: core.status.lane(lane(Platform.MATRIX)).dropped == {"file": 2})


async def test_a_message_with_nothing_in_it_is_counted_and_marked(bridge: World) -> None:
    here, _ = bridge.channels()
    async with bridge.relay() as core:
        ref = bridge.discord.say(here, "ann", Content())
        await until(lambda: bridge.discord.reactions == [(ref, "⚠️")])
        assert core.status.lane(lane(Platform.MATRIX)).dropped == {"empty": 1}


async def test_a_channel_in_no_pair_is_nobody_s_business(bridge: World) -> None:
    elsewhere = bridge.discord.channel("elsewhere")
    _, there = bridge.channels()
    async with bridge.relay():
        bridge.discord.say(elsewhere, "ann", "psst")
        bridge.discord.say(bridge.discord.channel("help"), "ann", "hello")
        await bridge.shows(there, "hello")
    assert bridge.discord.messages[MessageRef(elsewhere, "000001")].text == "psst"
