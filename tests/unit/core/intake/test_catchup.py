"""After an absence: what was written, edited and deleted meanwhile crosses once, and no more than it may."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relay.core.ports import EventBatch
from relay.domain.events import HistorySkipped, MessageCreated
from relay.domain.ids import Platform
from tests.support.memory_adapter import MemoryAdapter
from tests.support.world import World, WrongClock, lane, pair, until, world


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


async def test_nothing_is_asked_for_once_all_that_is_on_record_was_seen(bridge: World) -> None:
    here, there = bridge.channels()
    asked: list[str] = []

    async def asking(call: str) -> None:
        asked.extend([call] * (call == "history"))

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        asked.clear()
        discord.before = asking

    async with bridge.relay():
        first, second = (bridge.discord.say(here, "ann", word) for word in ("one", "two"))
        await bridge.shows(there, "one", "two")
        await bridge.quiet()
    bridge.discord.edit(first, "uno")
    bridge.discord.edit(second, "due")
    async with bridge.relay(prepare):
        await bridge.shows(there, "uno", "due")
        assert len(asked) == 2  # what is new, and the page that shows both
    bridge.discord.delete(second)
    async with bridge.relay(prepare):
        await bridge.shows(there, "uno")
        assert len(asked) == 3  # that nothing follows, too


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


async def test_skipped_history_is_told_on_the_other_side(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        await core.inbox.receive(EventBatch(tuple(HistorySkipped(here, count) for count in (7000, 1, None))))
        await bridge.shows(
            there,
            "7000 messages that were written while the relay was away are not shown here.",
            "1 message that was written while the relay was away is not shown here.",
            "Messages that were written while the relay was away may be missing here.",
        )


async def test_the_last_original_is_told_to_whom_has_lost_its_position(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        assert await core.inbox.last_originals(here, 9) == []
        first = bridge.discord.say(here, "ann", "first")
        last = bridge.discord.say(here, "ann", "last")
        await bridge.shows(there, "first", "last")
        bridge.matrix.say(there, "ben", "elsewhere")
        await bridge.shows(here, "first", "last", "elsewhere")
        assert [known.ref for known in await core.inbox.last_originals(here, 9)] == [last, first]
        assert [known.ref for known in await core.inbox.last_originals(here, 1)] == [last]


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


async def test_the_last_message_is_none_of_the_future(bridge: World) -> None:
    async with bridge.relay() as core:
        now = datetime.now(UTC)
        for written_at in (now, datetime(9000, 1, 1, tzinfo=UTC)):
            core.status.crossed(lane(Platform.MATRIX), written_at=written_at, received_at=now)
        last = core.status.last_report().pairs[0].directions["to_matrix"].last_message_at
        assert last is not None
        assert now <= last <= datetime.now(UTC)


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
