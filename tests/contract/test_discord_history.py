"""What was missed is read from the history, once, from where the cursors stand."""

from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from relay.adapters.discord.adapter import DiscordAdapter
from relay.core.ports import PastPage
from relay.domain.events import (
    HistorySkipped,
    MessageCreated,
)
from relay.domain.text.nodes import plain_text
from relay.errors import ActionNeeded, Permanent
from relay.sandbox.world.models import Overwrite
from relay.sandbox.world.permissions import Permission
from tests.support.discord import World, until
from tests.support.world import WrongClock


async def test_catches_up_after_an_absence(world: World) -> None:
    async with world.running():
        world.say("live")
        await until(lambda: world.inbox.said() == ["live"])
    missed = [world.say(f"missed {number}") for number in range(250)]
    world.edit(missed[0], "mended")
    thread = world.server.threads.open_on(world.channel, missed[1], world.bob, "aside")
    world.say("in the thread", channel=thread)
    world.server.threads.archive(thread, archived=True)
    async with world.running() as adapter:
        world.say("live again")
        await until(lambda: "live again" in world.inbox.said())
        assert [buffer.task for buffer in adapter._buffers] == [None]  # it would stay for as long as the channel
    expected = ["live", "mended", *(f"missed {number}" for number in range(1, 250)), "live again"]
    assert [text for text in world.inbox.said() if text != "in the thread"] == expected
    assert "in the thread" in world.inbox.said()
    names = {event.author.name for event in world.inbox.events if isinstance(event, MessageCreated)}
    assert names == {"Bobby"}


@pytest.mark.parametrize("cross", [True, False])
async def test_archived_threads_are_listed_only_where_they_cross(world: World, cross: bool) -> None:
    world.inbox.threads_cross = cross
    async with world.running():
        world.say("live")
        await until(lambda: world.inbox.said() == ["live"])
    world.say("missed")
    for name in ("over", "active"):
        thread = world.server.threads.open(world.channel, world.bob, name)
        world.say(f"missed in one that is {name}", channel=thread)
        world.server.threads.archive(thread, archived=name == "over")
    async with world.running():
        pass
    found = ["live", "missed", "missed in one that is active", *["missed in one that is over"] * cross]
    assert world.inbox.said() == found
    asked = world.server.api.statistics.requests
    assert asked.get("GET /channels/{channel_id}/threads/archived/public", 0) == cross


async def test_more_archived_threads_than_one_list_holds_are_all_caught_up(world: World) -> None:
    async with world.running():
        world.say("live")
        await until(lambda: world.inbox.said() == ["live"])
    for number in range(120):
        thread = world.server.threads.open(world.channel, world.bob, f"thread {number}", 11)
        world.say(f"in {number}", channel=thread)
        world.server.threads.archive(thread, archived=True)
    async with world.running():
        await until(lambda: len(world.inbox.said()) == 121)
    assert set(world.inbox.said()) == {"live", *(f"in {number}" for number in range(120))}


async def test_cursors_that_cannot_be_read_lose_nothing(world: World) -> None:
    async with world.running():
        root = world.say("live")
        thread = world.server.threads.open_on(world.channel, root, world.bob, "aside")
        world.say("in the thread", channel=thread)
        await until(lambda: world.inbox.said() == ["live", "in the thread"])
    world.say("missed")
    last = world.say("missed there", channel=thread)
    for stream, position in world.inbox.cursors.items():
        if stream != f"channel:{world.channel.id}":
            world.inbox.cursors[stream] = f"\ufffd {position} nonsense"
    async with world.running() as adapter:
        await until(lambda: sorted(world.inbox.said()[-2:]) == ["missed", "missed there"])
        page = [
            event
            async for page in adapter.reread(world.message_ref(root), world.message_ref(last))
            for event in page or ()
        ]
    assert "missed there" in [plain_text(event.content.text) for event in page]


async def test_skips_what_is_too_much_and_says_how_much(world: World) -> None:
    async with world.running():
        pass
    world.inbox.newest = 120
    for number in range(300):
        world.say(str(number))
    async with world.running():
        await until(lambda: len(world.inbox.said()) == 120)
    assert world.inbox.said() == [str(number) for number in range(180, 300)]
    assert world.inbox.of(HistorySkipped) == [HistorySkipped(world.ref, 180)]


async def test_rereads_what_stands_between_two_messages(world: World) -> None:
    messages = [world.say(str(number)) for number in range(230)]
    world.server.messages.remove(world.channel, [messages[5].id])
    world.edit(messages[7], "seven")
    async with world.running() as adapter:
        first, last = world.message_ref(messages[2]), world.message_ref(messages[220])
        found = [event async for page in adapter.reread(first, last) for event in page or ()]
    expected = [str(number) for number in range(2, 221) if number != 5]
    expected[expected.index("7")] = "seven"
    assert [plain_text(event.content.text) for event in found] == expected
    assert [event.edited_at is not None for event in found].count(True) == 1


@pytest.mark.parametrize(("on_record", "missed", "pages"), [(3, 0, 1), (3, 2, 2), (60, 0, 2), (130, 0, 3), (130, 2, 4)])
async def test_a_page_that_has_all_is_asked_for_once(world: World, on_record: int, missed: int, pages: int) -> None:
    """What is new and what was edited: both are looked for after an absence. A page that is full may not have all."""
    known = [world.say(f"known {number}") for number in range(on_record)]
    first, last = world.message_ref(known[0]), world.message_ref(known[-1])
    async with world.running() as adapter:
        for number in range(missed):
            world.say(f"new {number}")
        world.edit(known[1], "mended")
        asked = world.server.api.statistics.requests
        asked.clear()
        reading = adapter.history(world.ref, last.id, newest=5000, threads_cross=False, reread_from=first)
        events = [event async for batch in reading for event in batch.events]
        news = [plain_text(event.content.text) for event in events if isinstance(event, MessageCreated)]
        seen: list[str] = []
        async with aclosing(adapter.reread(first, last)) as reread:
            async for page in reread:
                seen += [plain_text(event.content.text) for event in page or ()]
                if len(seen) == on_record:
                    break
    assert news == [f"new {number}" for number in range(missed)]
    assert seen == ["known 0", "mended", *(f"known {number}" for number in range(2, on_record))]
    assert asked["GET /channels/{channel_id}/messages"] == pages


async def test_a_page_is_not_kept_for_another_absence(world: World) -> None:
    known = world.say("known")
    ref = world.message_ref(known)
    async with world.running() as adapter:
        for words in ("mended", "mended again"):
            world.edit(known, words)
            reading = adapter.history(world.ref, ref.id, newest=5000, threads_cross=False, reread_from=ref)
            assert [batch async for batch in reading] == []
            assert [
                plain_text(seen.content.text) async for page in adapter.reread(ref, ref) for seen in page or ()
            ] == [words]
        world.edit(known, "mended at last")
        assert [plain_text(seen.content.text) async for page in adapter.reread(ref, ref) for seen in page or ()] == [
            "mended at last"
        ]


async def test_what_the_bot_may_not_read_any_more_was_not_deleted(world: World) -> None:
    messages = [world.say(str(number)) for number in range(3)]
    first, last = world.message_ref(messages[0]), world.message_ref(messages[-1])
    async with world.running() as adapter:
        world.server.messages.remove(world.channel, [messages[-1].id])
        assert None not in [page async for page in adapter.reread(first, last)]
        # The change of permissions is never told: a dispatch may be lost, or not understood.
        denied = Overwrite(world.app.user.id, 1, 0, Permission.READ_MESSAGE_HISTORY)
        world.channel.overwrites[denied.id] = denied
        assert None in [page async for page in adapter.reread(first, last)]


async def test_what_the_bot_may_not_read_any_more_is_not_passed_over(world: World) -> None:
    """An empty history is told from one that is hidden; it costs no request while the last message stands."""
    first, second = world.say("first"), world.say("second")

    async def missed(adapter: DiscordAdapter, after: str) -> int:
        pages = adapter.history(world.ref, after, newest=100, threads_cross=True, reread_from=None)
        return sum([len(batch.events) async for batch in pages])

    async with world.running() as adapter:
        asked = world.server.api.statistics.requests
        assert await missed(adapter, str(first.id)) == 1
        assert await missed(adapter, str(second.id)) == 0
        assert "GET /channels/{channel_id}/messages/{message_id}" not in asked
        world.server.messages.remove(world.channel, [first.id, second.id])
        assert await missed(adapter, str(second.id)) == 0
        world.say("third")
        denied = Overwrite(world.app.user.id, 1, 0, Permission.READ_MESSAGE_HISTORY)
        world.channel.overwrites[denied.id] = denied
        with pytest.raises(ActionNeeded):
            await missed(adapter, str(second.id))


async def test_a_store_that_fails_loses_nothing(world: World) -> None:
    async with world.running():
        world.inbox.broken = True
        for number in range(20):
            world.say(str(number))
        await until(lambda: world.inbox.refused)
        world.inbox.broken = False
        await until(lambda: len(world.inbox.said()) == 20)
    assert world.inbox.said() == [str(number) for number in range(20)]


async def test_a_thread_is_caught_up_though_our_clock_is_weeks_ahead(world: World) -> None:
    world.clock = WrongClock(timedelta(days=40))
    async with world.running():
        world.say("live")
        await until(lambda: world.inbox.said() == ["live"])
    thread = world.server.threads.open_on(world.channel, world.say("root"), world.bob, "aside")
    world.say("in the thread", channel=thread)
    world.server.threads.archive(thread, archived=True)
    async with world.running():
        await until(lambda: "in the thread" in world.inbox.said())


async def past_of(
    world: World, adapter: DiscordAdapter, began: str | None, position: str = "", before: datetime | None = None
) -> list[PastPage]:
    async def first(stream: str) -> str | None:
        assert stream == f"channel:{world.channel.id}"
        return began

    async with aclosing(adapter.past(world.ref, position, first, before=before)) as pages:
        return [page async for page in pages]


def texts(pages: Sequence[PastPage]) -> list[str]:
    return [plain_text(message.content.text) for page in pages for message in page.messages]


async def test_the_past_is_read_up_to_where_the_relay_began(world: World) -> None:
    messages = [world.say(str(number)) for number in range(130)]
    world.server.messages.remove(world.channel, [messages[5].id])
    world.edit(messages[7], "seven")
    thread = world.server.threads.open_on(world.channel, messages[9], world.bob, "aside")
    world.say("in the thread", channel=thread)
    began = world.say("last").id
    world.say("today")
    async with world.running() as adapter:
        pages = await past_of(world, adapter, str(began))
        expected = [str(number) for number in range(130) if number != 5] + ["last"]
        expected[6] = "seven"
        assert texts(pages) == expected
        assert max(len(page.messages) for page in pages) <= 25
        assert {message.author.name for page in pages for message in page.messages} == {"Bobby"}
        assert texts(await past_of(world, adapter, str(began), pages[1].position)) == texts(pages[2:])
        assert await past_of(world, adapter, str(began), pages[-1].position) == []
        assert await past_of(world, adapter, "0") == []


async def test_the_past_of_a_channel_whose_beginning_is_not_known_needs_an_end(world: World) -> None:
    world.say("past")
    async with world.running() as adapter:
        with pytest.raises(Permanent, match="say with --before"):
            await past_of(world, adapter, None)
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        assert texts(await past_of(world, adapter, None, before=tomorrow)) == ["past"]
        yesterday = tomorrow - timedelta(days=2)
        assert texts(await past_of(world, adapter, None, before=yesterday)) == []
        # What is younger is not read for nothing, where the beginning is known.
        assert texts(await past_of(world, adapter, str(world.say("more").id), before=yesterday)) == []


async def test_a_past_that_the_bot_may_not_read_is_not_taken_for_none(world: World) -> None:
    began = world.say("past").id
    async with world.running() as adapter:
        denied = Overwrite(world.app.user.id, 1, 0, Permission.READ_MESSAGE_HISTORY)
        world.channel.overwrites[denied.id] = denied
        with pytest.raises(ActionNeeded):
            await past_of(world, adapter, str(began))
