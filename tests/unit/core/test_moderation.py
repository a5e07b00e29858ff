"""A moderator removes a copy: whether what was written on the other side goes too."""

import asyncio
from pathlib import Path

import pytest

from relay.core.ports import Delivery
from relay.domain.ids import MessageRef, Platform
from relay.domain.pair import LaneKey
from tests.support.memory_adapter import MemoryAdapter
from tests.support.platform import MemoryPlatform
from tests.support.world import World, lane, pair, until, world


def copies(bridge: World) -> list[MessageRef]:
    """The copies in the pair's room."""
    return [message.ref for message in bridge.shown(bridge.channels()[1]) if message.author.is_self]


@pytest.mark.parametrize("chosen", [True, False])
async def test_the_original_goes_where_the_pair_says_so(tmp_path: Path, chosen: bool) -> None:
    async with world(tmp_path, pair(moderate_deletions=chosen)) as bridge:
        discord, room = bridge.channels()
        bridge.discord.moderates = True
        async with bridge.relay():
            bridge.discord.say(discord, "ann", "rude")
            bridge.discord.say(discord, "ann", "polite")
            await bridge.shows(room, "rude", "polite")
            bridge.matrix.delete(copies(bridge)[0])
            expected = ("polite", "after") if chosen else ("rude", "polite", "after")
            bridge.matrix.say(room, "ben", "after")
            await bridge.shows(discord, *expected)
            await bridge.shows(room, "polite", "after")
            await bridge.quiet()


async def test_what_we_remove_ourselves_takes_no_original_along(tmp_path: Path) -> None:
    """Of a long message that gets shorter parts are removed; so is the copy of what its author deletes."""
    async with world(tmp_path, pair(moderate_deletions=True)) as bridge:
        discord, room = bridge.channels()
        bridge.discord.moderates = bridge.matrix.moderates = True
        async with bridge.relay():
            long = bridge.discord.say(discord, "ann", "a " * 250)
            await until(lambda: len(copies(bridge)) > 1)
            await bridge.quiet()
            bridge.discord.edit(long, "short")
            await bridge.shows(room, "short")
            await bridge.quiet()
            assert bridge.words(discord) == ["short"]
            gone = bridge.discord.say(discord, "ann", "gone")
            await bridge.shows(room, "short", "gone")
            bridge.discord.delete(gone)
            await bridge.shows(room, "short")
            await bridge.quiet()
        assert bridge.words(discord) == ["short"]


async def test_all_parts_go_with_the_original(tmp_path: Path) -> None:
    async with world(tmp_path, pair(moderate_deletions=True)) as bridge:
        discord, room = bridge.channels()
        bridge.discord.moderates = True
        async with bridge.relay():
            bridge.discord.say(discord, "ann", "a " * 250)
            await until(lambda: len(copies(bridge)) > 1)
            await bridge.quiet()
            bridge.matrix.delete(copies(bridge)[1])
            await bridge.shows(discord)
            await bridge.shows(room)
            await bridge.quiet()


async def test_where_the_relay_may_not_remove_it_it_stays_and_is_counted(tmp_path: Path) -> None:
    async with world(tmp_path, pair(moderate_deletions=True)) as bridge:
        discord, room = bridge.channels()
        bridge.discord.moderates = False
        async with bridge.relay() as core:
            bridge.discord.say(discord, "ann", "rude")
            await bridge.shows(room, "rude")
            bridge.matrix.delete(copies(bridge)[0])
            bridge.matrix.say(room, "ben", "after")
            await bridge.shows(discord, "rude", "after")
            key: LaneKey = lane(Platform.DISCORD)
            assert core.status.lane(key).dropped == {"moderation": 1}
            await bridge.quiet()


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_copy_that_was_removed_before_it_is_on_record_takes_its_original_along(
    tmp_path: Path, restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moderator's bot is quicker than the answer to the request that made the copy."""
    async with world(tmp_path, pair(moderate_deletions=True)) as bridge:
        discord, room = bridge.channels()
        bridge.discord.moderates = True
        hangs, post = asyncio.Event(), MemoryPlatform.post

        def posted(platform: MemoryPlatform, delivery: Delivery) -> MessageRef:
            made = post(platform, delivery)
            if platform is bridge.matrix and not hangs.is_set():
                hangs.set()
                platform.delete(made)
                platform.say(room, "ben", "seen")
            return made

        async def slow(call: str) -> None:
            """The answer to the first request comes once the removal was received, or never."""
            if call == "send" and hangs.is_set() and not answers.is_set():
                await answers.wait()

        monkeypatch.setattr(MemoryPlatform, "post", posted)
        answers = asyncio.Event()

        def prepare(_: MemoryAdapter, matrix: MemoryAdapter) -> None:
            matrix.after = slow

        async with bridge.relay(prepare):
            bridge.discord.say(discord, "ann", "rude")
            await bridge.shows(discord, "rude", "seen")
            if not restarted:
                answers.set()
                await bridge.shows(discord, "seen")
        answers.set()
        async with bridge.relay():
            await bridge.shows(discord, "seen")
            await bridge.shows(room, "seen")
            await bridge.quiet()
