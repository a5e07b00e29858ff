"""A file that does not come in time is named in words, holds up nobody, and follows when it comes: once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relay.core.clock import SystemClock
from relay.domain.commands import LateFile, PostNotice
from relay.domain.content import Attachment, Author, Content
from relay.domain.ids import ChannelAddress, MediaRef, MessageRef, Platform, UserRef
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.errors import CopyNotEditable
from tests.support.memory_adapter import MemoryAdapter
from tests.support.platform import MemoryPlatform
from tests.support.slow_files import SlowFiles
from tests.support.world import World, until, world

PICTURE = Attachment("1", "a.png", "image", MediaRef(Platform.DISCORD, "https://cdn.example/a.png"))
ANN = Author(UserRef(Platform.DISCORD, "ann"), "ann")
WORDS = "look\nimage: a.png (out of reach so far)"


def takes_files(_: MemoryAdapter, matrix: MemoryAdapter) -> None:
    matrix.max_attachments = 1


@asynccontextmanager
async def a_late_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[World, SlowFiles]]:
    files = SlowFiles(monkeypatch)
    async with world(tmp_path) as bridge:
        bridge.files = files
        yield bridge, files


async def test_it_follows_when_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_late_picture(tmp_path, monkeypatch) as (bridge, files):
        here, there = bridge.channels()
        async with bridge.relay(takes_files):
            said = bridge.discord.say(here, "ann", Content(RichText.plain("look"), (PICTURE,)))
            bridge.discord.say(here, "ben", "next")
            await bridge.shows(there, WORDS, "next")
            await until(lambda: files.looks > 2)
        files.state = True
        async with bridge.relay(takes_files):  # it does after a restart as well
            await bridge.shows(there, WORDS, "next", "")
            await bridge.quiet()
            assert bridge.shown(there)[2].content.attachments == (PICTURE,)
            bridge.discord.delete(said)
            await bridge.shows(there, "next")


async def test_it_follows_from_a_room_that_was_replaced_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_late_picture(tmp_path, monkeypatch) as (bridge, files):
        here, there = bridge.channels()
        async with bridge.relay(lambda discord, _: setattr(discord, "max_attachments", 1)) as core:
            bridge.matrix.say(there, "ann", Content(RichText.plain("look"), (PICTURE,)))
            await bridge.shows(here, WORDS)
            new = bridge.matrix.channel("another")
            await core.inbox.opened(ChannelAddress(Platform.MATRIX, "#help"), new, predecessors=frozenset({there}))
            files.state = True
            await bridge.shows(here, WORDS, "")
            await bridge.quiet()


async def test_it_follows_from_a_room_that_is_replaced_while_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_late_picture(tmp_path, monkeypatch) as (bridge, files):
        here, there = bridge.channels()
        async with bridge.relay(lambda discord, _: setattr(discord, "max_attachments", 1)) as core:
            files.come = asyncio.Event()
            bridge.matrix.say(there, "ann", Content(RichText.plain("look"), (PICTURE,)))
            await bridge.shows(here, WORDS)
            await until(lambda: files.looks > 0)  # it is looked for, and that takes as long as this test wants
            new = bridge.matrix.channel("another")
            await core.inbox.opened(ChannelAddress(Platform.MATRIX, "#help"), new, predecessors=frozenset({there}))
            files.state = True
            files.come.set()
            await bridge.shows(here, WORDS, "")
            await bridge.quiet()


async def test_it_does_not_follow_a_message_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_late_picture(tmp_path, monkeypatch) as (bridge, files):
        here, there = bridge.channels()
        async with bridge.relay(takes_files):
            said = bridge.discord.say(here, "ann", Content(RichText.plain("look"), (PICTURE,)))
            await bridge.shows(there, WORDS)
            bridge.discord.delete(said)
            await bridge.shows(there)
            await until(lambda: files.forgotten == [PICTURE.id])
            files.state = True
            await bridge.quiet()
            assert bridge.words(there) == []


async def test_it_stays_in_words_when_it_never_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_late_picture(tmp_path, monkeypatch) as (bridge, files):
        here, there = bridge.channels()
        async with bridge.relay(takes_files):
            bridge.discord.say(here, "ann", Content(RichText.plain("look"), (PICTURE,)))
            await bridge.shows(there, WORDS)
            files.state = False
            await bridge.quiet()
            assert bridge.words(there) == [WORDS]


async def test_it_follows_an_edit_of_its_words_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change = MemoryPlatform.change

    def only_words(platform: MemoryPlatform, target: MessageRef, content: Content) -> None:
        if content.attachments:
            raise CopyNotEditable("a file cannot be put into what stands")
        change(platform, target, content)

    monkeypatch.setattr(MemoryPlatform, "change", only_words)
    async with a_late_picture(tmp_path, monkeypatch) as (bridge, files):
        here, there = bridge.channels()
        async with bridge.relay(takes_files):
            said = bridge.discord.say(here, "ann", Content(RichText.plain("look"), (PICTURE,)))
            await bridge.shows(there, WORDS)
            bridge.discord.edit(said, Content(RichText.plain("look!"), (PICTURE,)))
            await bridge.shows(there, WORDS.replace("look", "look!"))
            files.state = True
            await bridge.shows(there, WORDS.replace("look", "look!"), "")
            await bridge.quiet()
            assert [one.content.attachments for one in bridge.shown(there)] == [(), (PICTURE,)]


async def test_a_copy_that_was_written_anew_with_it_gets_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_late_picture(tmp_path, monkeypatch) as (bridge, files):
        here, there = bridge.channels()

        def both_take_files(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
            discord.max_attachments = matrix.max_attachments = 1

        async with bridge.relay(both_take_files):
            question = bridge.matrix.say(there, "ben", "which?")
            bridge.matrix.say(there, "ann", Content(RichText.plain("look"), (PICTURE,)), reply_to=question)
            await bridge.shows(here, "which?", f"↪ ben: which?\n{WORDS}")
            bridge.matrix.edit(question, "which one?")
            await until(lambda: bridge.shown(here)[1].content.attachments == (PICTURE,))
            files.state = True
            await bridge.quiet()
            assert bridge.words(here) == ["which one?", "↪ ben: which one?\nlook"]


async def test_looking_for_it_writes_nothing_and_holds_up_no_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_late_picture(tmp_path, monkeypatch) as (bridge, files):
        here, there = bridge.channels()

        async def entries() -> list[int]:
            async with bridge.store.read() as uow:
                return [entry.id for entry in await uow.outbox.waiting(LaneKey.within(there), 10)]

        async with bridge.relay(takes_files):
            for words in ("look", "and"):
                picture = replace(PICTURE, id=words)
                bridge.discord.say(here, "ann", Content(RichText.plain(words), (picture,)))
            await bridge.shows(there, WORDS, WORDS.replace("look", "and"))
            before, looks = await entries(), files.looks
            await until(lambda: files.looks > looks + 6)
            assert await entries() == before
            async with bridge.store.write() as uow:
                notice = PostNotice(RichText.plain("a note"))
                await uow.outbox.append(LaneKey.within(there), notice, bridge.discord.now())
            assert bridge.core is not None
            bridge.core.dispatcher.wake(LaneKey.within(there))
            await bridge.shows(there, WORDS, WORDS.replace("look", "and"), "a note")
            files.state = True
            await bridge.shows(there, WORDS, WORDS.replace("look", "and"), "a note", "", "")
            await bridge.quiet()


async def test_a_note_behind_many_of_them_is_not_held_up_and_each_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.core.delivery.late_files._MOST_ENTRIES", 6)
    monkeypatch.setattr("relay.core.delivery.late_files._MOST_FILES", 2)
    async with a_late_picture(tmp_path, monkeypatch) as (bridge, files):
        here, there = bridge.channels()
        async with bridge.relay(takes_files):
            for number in range(10):
                picture = replace(PICTURE, id=str(number))
                bridge.discord.say(here, "ann", Content(RichText.plain("look"), (picture,)))
            await bridge.shows(there, *[WORDS] * 10)
            async with bridge.store.write() as uow:
                notice = PostNotice(RichText.plain("a note"))
                await uow.outbox.append(LaneKey.within(there), notice, bridge.discord.now())
            assert bridge.core is not None
            bridge.core.dispatcher.wake(LaneKey.within(there))
            await until(lambda: bridge.words(there)[-1] == "a note")
            files.state = True
            await bridge.quiet()
            sent = [one.content.attachments[0].id for one in bridge.shown(there) if one.content.attachments]
            assert sorted(sent, key=int) == [str(number) for number in range(10)]


async def test_a_restart_does_not_prolong_the_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.core.delivery.late_files._LEAST_SECONDS", 0.05)
    async with a_late_picture(tmp_path, monkeypatch) as (bridge, files):
        here, there = bridge.channels()
        async with bridge.relay(takes_files):
            bridge.discord.say(here, "ann", Content(RichText.plain("look"), (PICTURE,)))
            await bridge.shows(there, WORDS)
        monkeypatch.setattr(SystemClock, "now", lambda _: datetime.now(UTC) + timedelta(hours=3))
        looks = files.looks
        async with bridge.relay(takes_files):
            await bridge.quiet()
        assert files.looks > looks, "it has a chance in each life"
        assert bridge.words(there) == [WORDS]


async def test_of_more_files_than_are_remembered_none_waits_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.core.delivery.late_files._MOST_REMEMBERED", 1)
    async with a_late_picture(tmp_path, monkeypatch) as (bridge, _), bridge.relay(takes_files) as core:
        late_files, clock = core.dispatcher.resolver.late_files, core.dispatcher.resolver.late_files.clock
        first, second, third = (
            LateFile(MessageRef(bridge.channels()[0], name), ANN, PICTURE, clock.now() - timedelta(hours=3))
            for name in "abc"
        )
        now = clock.monotonic()
        assert late_files._deadline(first) > now, "it has a chance in each life"
        assert late_files._deadline(second) < now
        monkeypatch.setattr(SystemClock, "monotonic", lambda _: now + 10_000)
        assert late_files._deadline(third) > now + 10_000, "the first is long over"


async def test_a_clock_that_jumps_does_not_end_the_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_late_picture(tmp_path, monkeypatch) as (bridge, files):
        here, there = bridge.channels()
        async with bridge.relay(takes_files):
            bridge.discord.say(here, "ann", Content(RichText.plain("look"), (PICTURE,)))
            await bridge.shows(there, WORDS)
            monkeypatch.setattr(SystemClock, "now", lambda _: datetime.now(UTC) + timedelta(days=1))
            looks = files.looks
            await until(lambda: files.looks > looks + 2)
            files.state = True
            await bridge.shows(there, WORDS, "")
            await bridge.quiet()
