"""The life of a message as `relay explain` tells it, from what the core writes down anyway."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from relay.core.operations.explain import Life, lives_of
from relay.core.pairs import PairDirectory
from relay.domain.ids import MessageRef, Platform, ThreadRef
from relay.errors import Permanent, Transient
from tests.support.memory_adapter import MemoryAdapter
from tests.support.pairs import declare
from tests.support.patience import PATIENCE
from tests.support.world import World, until


async def lives(bridge: World, native_id: str, problem: str = "") -> Sequence[Life]:
    return await lives_of(bridge.store, PairDirectory(bridge.pairs), native_id, {"help": problem})


async def life(bridge: World, ref: MessageRef, problem: str = "") -> Life:
    """The life of the message, or of the one that it is a copy of. On platforms in memory, IDs are not unique."""
    found = await lives(bridge, ref.id, problem)
    return next(one for one in found if ref in (one.message, *(step.copy for step in one.steps)))


async def comes_to(bridge: World, ref: MessageRef, summary: str) -> Life:
    """Wait until the life of a message is summed up like that."""
    async with asyncio.timeout(PATIENCE):
        while True:
            for one in await lives(bridge, ref.id):
                if one.message == ref and one.summary == summary:
                    return one
            await asyncio.sleep(0.002)


def what(found: Life) -> list[str]:
    return [step.what for step in found.steps]


async def test_a_message_that_crossed_was_edited_and_was_deleted(bridge: World) -> None:
    discord, room = bridge.channels()
    async with bridge.relay():
        ref = bridge.discord.say(discord, "ann", "hello")
        await bridge.shows(room, "hello")
        await bridge.quiet()
        copy = bridge.shown(room)[0].ref
        found = await life(bridge, ref)
        assert found == await life(bridge, copy)
        assert (found.message, found.pair, found.summary, found.well) == (ref, "help", "It has crossed.", True)
        assert what(found) == ["was written on Discord", "was received and queued", "was sent to Matrix"]
        assert found.steps[2].copy == copy
        assert all(step.at is not None for step in found.steps)
        bridge.discord.edit(ref, "hello again")
        await bridge.shows(room, "hello again")
        await bridge.quiet()
        assert what(await life(bridge, ref))[-1] == "was edited (the last time)"
        bridge.discord.delete(ref)
        await bridge.shows(room)
        await bridge.quiet()
        found = await life(bridge, ref)
        assert (found.summary, found.well) == ("It was deleted, and no copy is left.", True)
        assert what(found)[-1] == "was deleted"


async def test_tries_that_failed_are_told_and_so_are_parts(bridge: World) -> None:
    discord, room = bridge.channels()
    left = [2]

    async def fail(call: str) -> None:
        if call == "send" and left[0]:
            left[0] -= 1
            raise Transient("not now", retry_after=0.001)

    def prepare(_: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before = fail

    async with bridge.relay(prepare):
        long = bridge.discord.say(discord, "ann", "word " * 60)
        await until(lambda: len(bridge.shown(room)) == 2)
        await bridge.quiet()
        assert what(await life(bridge, long))[2:] == [
            "was sent to Matrix (part 1 of 2) after 3 tries",
            "was sent to Matrix (part 2 of 2) after 3 tries",
        ]
        later = bridge.discord.say(discord, "ann", "later")
        await until(lambda: len(bridge.shown(room)) == 3)
        await bridge.quiet()
        assert what(await life(bridge, later))[-1] == "was sent to Matrix"


async def test_what_waits_says_behind_how_many_and_why(bridge: World) -> None:
    discord, _ = bridge.channels()

    async def away(call: str) -> None:
        if call == "send":
            raise Transient("nobody answers", retry_after=60)

    def prepare(_: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before = away

    async with bridge.relay(prepare):
        first = bridge.discord.say(discord, "ann", "secret plans")
        second = bridge.discord.say(discord, "ann", "more")
        for ref, place in ((first, "as the next one"), (second, "behind one other")):
            await comes_to(bridge, ref, "It has not crossed yet: it waits.")
            found = await life(bridge, ref, "Messages to Matrix do not get through.")
            assert (
                what(found)[-1] == f"has waited since then to be sent, {place}. Messages to Matrix do not get through."
            )
            assert not found.well
        found = await life(bridge, first)
        assert found.well
        assert "secret" not in repr(found)
        assert "text" not in found.as_json(with_text=False)
        assert found.as_json(with_text=True)["text"] == "secret plans"


async def test_a_dead_letter(bridge: World) -> None:
    discord, _ = bridge.channels()

    async def refuse(call: str) -> None:
        if call == "send":
            raise Permanent("the room does not take it.")

    def prepare(_: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before = refuse

    async with bridge.relay(prepare):
        ref = bridge.discord.say(discord, "ann", "hello")
        found = await comes_to(bridge, ref, "Something about it failed for good, and is kept as a dead letter.")
        assert not found.well
        (failed,) = [step for step in what(found) if "could not" in step]
        assert failed.startswith("could not be sent: the room does not take it (`relay dead retry ")


async def test_what_was_left_out(bridge: World) -> None:
    discord, room = bridge.channels()
    async with bridge.relay():
        command = bridge.matrix.say(room, "ben", "!relay help")
        found = await comes_to(bridge, command, "It did not cross: it is a command to the relay.")
        assert found.well
        assert what(found)[1] == "was received and left out: it is a command to the relay"
        bridge.discord.react(discord)
        assert await lives(bridge, "404") == []
        await declare(bridge, replace(bridge.pairs[0], paused=True))
        unsaid = bridge.discord.say(discord, "ann", "not now")
        found = await comes_to(bridge, unsaid, "It did not cross: its pair was paused when it was said.")
        assert what(found)[1:] == ["was received and left out: its pair was paused when it was said"]


async def test_nobody_deleted_what_somebody_wrote_who_is_blocked(bridge: World) -> None:
    discord, _ = bridge.channels()
    async with bridge.relay():
        policy = replace(bridge.pairs[0].policy, blocked=((Platform.DISCORD, "ann"),))
        await declare(bridge, replace(bridge.pairs[0], policy=policy))
        ref = bridge.discord.say(discord, "ann", "spam")
        found = await comes_to(bridge, ref, "It did not cross: the operator has blocked ann.")
        assert what(found)[1:] == ["was received and left out: the operator has blocked ann"]


async def test_a_message_in_a_thread_of_which_there_is_no_row(bridge: World) -> None:
    discord, _ = bridge.channels()
    async with bridge.relay():
        root = bridge.discord.say(discord, "ann", "root")
        dropped = bridge.discord.say(discord, "ben", "leaf", thread=ThreadRef(discord, root.id))
        found = await comes_to(
            bridge, dropped, 'It did not cross: it is in a thread, and the pair has thread_messages = "drop".'
        )
        assert (found.pair, found.well, found.author) == ("help", True, None)
        assert what(found) == ["was received and left out (thread)"]


async def test_of_who_has_opted_out_nothing_is_on_record(bridge: World) -> None:
    discord, room = bridge.channels()
    async with bridge.relay():
        bridge.matrix.say(room, "ben", "!relay optout")
        await until(lambda: len(bridge.shown(room)) == 2)  # the answer
        hidden = bridge.matrix.say(room, "ben", "private", thread=ThreadRef(room, "1"))
        after = bridge.matrix.say(room, "ann", "after")
        await bridge.shows(discord, "after")
        assert [one for one in await lives(bridge, hidden.id) if one.message == hidden] == []
        assert (await life(bridge, after)).well
