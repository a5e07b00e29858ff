"""Copies that nobody can edit are posted anew: each part once, in order, whatever interrupts it."""

from pathlib import Path

import pytest

from relay.domain.commands import DeleteMessage
from relay.domain.ids import ChannelRef, Platform
from relay.errors import Permanent, Transient
from tests.support.memory_adapter import MemoryAdapter, slow_at_first
from tests.support.platform import MemoryPlatform
from tests.support.world import World, pair, until, world

LONG = " ".join(f"word{number}" for number in range(60))  # three parts
EDITED = LONG.replace("word", "edit")


def sides(bridge: World, source: Platform) -> tuple[MemoryPlatform, ChannelRef, ChannelRef, MemoryPlatform]:
    """Where somebody writes, and where that is read."""
    discord, matrix = bridge.channels()
    if source is Platform.DISCORD:
        return bridge.discord, discord, matrix, bridge.matrix
    return bridge.matrix, matrix, discord, bridge.discord


async def reads(bridge: World, channel: ChannelRef, words: str) -> None:
    """Wait until a channel reads so, and nothing waits any more."""
    await until(lambda: " ".join(bridge.words(channel)) == words)
    await bridge.quiet()
    assert " ".join(bridge.words(channel)) == words


@pytest.mark.parametrize("source", Platform)
@pytest.mark.parametrize("number", range(3))
async def test_what_is_behind_a_part_that_is_posted_anew_follows_it(
    bridge: World, source: Platform, number: int
) -> None:
    here, channel, there, other = sides(bridge, source)
    async with bridge.relay():
        ref = here.say(channel, "ann", LONG)
        await reads(bridge, there, LONG)
        other.orphaned.add(bridge.shown(there)[number].ref)
        here.edit(ref, EDITED)
        await reads(bridge, there, EDITED)
        here.edit(ref, "short")
        await reads(bridge, there, "short")
        here.delete(ref)
        await bridge.shows(there)


@pytest.mark.parametrize("source", Platform)
async def test_what_is_behind_follows_also_after_an_interruption_and_by_another_edit(
    bridge: World, source: Platform
) -> None:
    here, channel, there, other = sides(bridge, source)
    failing = False

    async def before(call: str) -> None:
        nonlocal failing
        if call == "delete" and failing:  # the first part was posted anew, and nothing else
            failing = False
            here.edit(ref, LONG)
            raise Transient("the server failed")

    def prepare(*adapters: MemoryAdapter) -> None:
        for adapter in adapters:
            if adapter.platform is other.platform:
                adapter.before = before

    async with bridge.relay(prepare):
        ref = here.say(channel, "ann", LONG)
        await reads(bridge, there, LONG)
        other.orphaned.add(bridge.shown(there)[0].ref)
        failing = True
        here.edit(ref, EDITED)
        await until(lambda: not failing)
        await bridge.quiet()
        await reads(bridge, there, LONG)


@pytest.mark.parametrize("source", Platform)
async def test_a_part_that_a_moderator_removed_stays_gone(bridge: World, source: Platform) -> None:
    here, channel, there, other = sides(bridge, source)
    async with bridge.relay():
        ref = here.say(channel, "ann", LONG)
        await reads(bridge, there, LONG)
        first, second, third = bridge.shown(there)
        other.orphaned |= {first.ref, third.ref}
        other.delete(second.ref)
        here.edit(ref, EDITED)
        await until(lambda: [it.ref for it in bridge.shown(there) if it.ref in (first.ref, third.ref)] == [])
        await bridge.quiet()
        removed = second.text.replace("word", "edit")
        await reads(bridge, there, EDITED.replace(f" {removed}", ""))


@pytest.mark.parametrize("source", Platform)
async def test_a_part_that_was_posted_anew_in_doubt_follows_one_that_is_posted_anew_later(
    bridge: World, source: Platform
) -> None:
    here, channel, there, other = sides(bridge, source)
    lost: list[Exception] = []

    async def after(call: str) -> None:
        if call == "send" and lost:
            other.orphaned.add(bridge.shown(there)[0].ref)
            raise lost.pop()

    def prepare(*adapters: MemoryAdapter) -> None:
        for adapter in adapters:
            adapter.after = after

    async with bridge.relay(prepare) as core:
        ref = here.say(channel, "ann", LONG)
        await reads(bridge, there, LONG)
        other.orphaned.add(bridge.shown(there)[2].ref)
        lost.append(Transient("no answer", ambiguous=True))
        here.edit(ref, EDITED)
        await until(lambda: not lost)
        core.dispatcher.retry_now()
        await reads(bridge, there, EDITED)


@pytest.mark.parametrize("changed", ["edit", "delete", "quote"])
@pytest.mark.parametrize("interrupted", [False, True])
async def test_what_is_behind_a_shared_copy_follows_it(tmp_path: Path, changed: str, interrupted: bool) -> None:
    slow = slow_at_first(2)
    failing: list[Exception] = []

    async def before(call: str) -> None:
        await slow(call)
        if call == "delete" and failing:  # the shared copy was posted anew, and nothing else
            raise failing.pop()

    async with world(tmp_path, pair(batch_when_behind=0.01)) as bridge:
        there, here = bridge.channels()
        async with bridge.relay(lambda discord, _: setattr(discord, "before", before)) as core:
            old = bridge.matrix.say(here, "dave", "tea?")
            ann, ben = (bridge.matrix.say(here, who, "short") for who in ("ann", "ben"))
            carol = bridge.matrix.say(here, "carol", "yes", reply_to=old)
            await until(lambda: "carol: yes" in "".join(bridge.words(there)))
            await bridge.quiet()
            [shared] = bridge.shown(there)
            said = {ann: words("a"), ben: words("b")}
            for ref, text in said.items():
                bridge.matrix.edit(ref, " ".join(text))
                await until(lambda last=text[-1]: last in "".join(bridge.words(there)))  # type: ignore[misc]
            await bridge.quiet()
            assert len(bridge.shown(there)) > 3
            bridge.discord.orphaned.add(shared.ref)
            failing += [Transient("the server failed")] * interrupted
            match changed:
                case "edit":
                    said[ann] = words("e")
                    bridge.matrix.edit(ann, " ".join(said[ann]))
                case "delete":
                    bridge.matrix.delete(carol)
                case _:
                    bridge.matrix.edit(old, "coffee?")
            await until(lambda: bridge.discord.messages[shared.ref].deleted)
            core.dispatcher.retry_now()
            await bridge.quiet()
            shown = " ".join(bridge.words(there)).split()
            for expected in said.values():
                assert [word for word in shown if word[0] == expected[0][0] and word[1:].isdecimal()] == expected


def words(letter: str) -> list[str]:
    """More than one part."""
    return [f"{letter}{number}" for number in range(80)]


@pytest.mark.parametrize("source", Platform)
async def test_a_part_too_many_that_may_not_be_removed_holds_nothing_up_and_goes_once_that_is_allowed(
    bridge: World, source: Platform
) -> None:
    here, channel, there, other = sides(bridge, source)
    forbidden = True

    async def before(call: str) -> None:
        if call == "delete" and forbidden:
            raise Permanent("the bot may not delete that")

    def prepare(*adapters: MemoryAdapter) -> None:
        for adapter in adapters:
            if adapter.platform is other.platform:
                adapter.before = before

    async with bridge.relay(prepare):
        ref = here.say(channel, "ann", LONG)
        await reads(bridge, there, LONG)
        _, second, third = bridge.words(there)
        here.edit(ref, "short")
        await reads(bridge, there, f"short {second} {third}")
        # It crossed: what waits is the removal alone, and its author is told of no failure.
        async with bridge.store.read() as uow:
            assert [letter.entry.command for letter in await uow.outbox.dead()] == [DeleteMessage(ref, leftovers=True)]
        assert not here.reactions
        # Its next parts are new ones: what was left over is not taken for them.
        here.edit(ref, EDITED)
        parts = [second.replace("word", "edit"), third.replace("word", "edit")]
        first = EDITED.removesuffix(" ".join(["", *parts]))
        await reads(bridge, there, " ".join([first, second, third, *parts]))
        here.edit(ref, "brief")
        await reads(bridge, there, " ".join(["brief", second, third, *parts]))
    forbidden = False
    async with bridge.relay(prepare):
        await reads(bridge, there, "brief")
        async with bridge.store.read() as uow:
            assert not await uow.outbox.dead()
        here.edit(ref, LONG)
        await reads(bridge, there, LONG)
        here.delete(ref)
        await bridge.shows(there)


@pytest.mark.parametrize("source", Platform)
@pytest.mark.parametrize("number", range(3))
async def test_a_part_that_can_be_edited_again_does_not_stand_beside_the_one_that_was_posted_anew(
    bridge: World, source: Platform, number: int
) -> None:
    here, channel, there, other = sides(bridge, source)
    lost: list[Exception] = []

    async def after(call: str) -> None:
        if call == "send" and lost:
            other.orphaned.clear()  # whoever posted it is back
            raise lost.pop()

    def prepare(*adapters: MemoryAdapter) -> None:
        for adapter in adapters:
            adapter.after = after

    async with bridge.relay(prepare) as core:
        ref = here.say(channel, "ann", LONG)
        await reads(bridge, there, LONG)
        other.orphaned.add(bridge.shown(there)[number].ref)
        lost.append(Transient("no answer", ambiguous=True))
        here.edit(ref, EDITED)
        await until(lambda: not lost)
        core.dispatcher.retry_now()
        await reads(bridge, there, EDITED)


@pytest.mark.parametrize("source", Platform)
async def test_what_was_posted_beside_a_part_and_may_not_be_removed_goes_once_that_is_allowed(
    bridge: World, source: Platform
) -> None:
    here, channel, there, other = sides(bridge, source)
    lost: list[Exception] = [Transient("no answer", ambiguous=True)]
    forbidden = True

    async def before(call: str) -> None:
        if call == "delete" and forbidden:
            raise Permanent("the bot may not delete that")

    async def after(call: str) -> None:
        if call == "send" and other.orphaned and lost:
            other.orphaned.clear()  # whoever posted it is back
            raise lost.pop()

    def prepare(*adapters: MemoryAdapter) -> None:
        for adapter in adapters:
            adapter.after = after
            if adapter.platform is other.platform:
                adapter.before = before

    async with bridge.relay(prepare) as core:
        ref = here.say(channel, "ann", "one")
        await reads(bridge, there, "one")
        other.orphaned.add(bridge.shown(there)[0].ref)
        here.edit(ref, "two")
        await until(lambda: not lost)
        core.dispatcher.retry_now()
        await reads(bridge, there, "two two")
        async with bridge.store.read() as uow:
            assert [letter.entry.command for letter in await uow.outbox.dead()] == [DeleteMessage(ref, leftovers=True)]
        assert not here.reactions, "it has crossed"
    forbidden = False
    async with bridge.relay(prepare):
        await reads(bridge, there, "two")
        await bridge.quiet()
        here.delete(ref)
        await bridge.shows(there)
