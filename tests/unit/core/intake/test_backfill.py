"""What was said before the relay came crosses once and silently, whatever becomes of it while it is read."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.bootstrap import Core
from relay.core.clock import SystemClock
from relay.core.operations.backfill_wishes import (
    NotNow,
    Progress,
    State,
    Wanted,
    Wish,
    ask,
    progress_key,
    read_progress,
    read_wishes,
    stop,
)
from relay.core.people.storage import ForgetRequest
from relay.core.storage import Store
from relay.domain.commands import RefreshMessage, SendMessage
from relay.domain.content import Content
from relay.domain.ids import MessageRef, Platform, UserRef
from relay.domain.pair import Pair
from relay.domain.text.nodes import RichText
from relay.errors import Permanent, RateLimited
from tests.support.memory_adapter import MemoryAdapter
from tests.support.patience import PATIENCE
from tests.support.platform import RELAY, created
from tests.support.world import World, lane, pair, redeclare, until

NOW = datetime(2026, 11, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def quick(bridge: World) -> None:
    """Where each test would wait for the next look."""
    bridge.backfills_every = 0.05


async def wish_for(bridge: World, **more: object) -> Wish:
    async with bridge.store.write() as uow:
        return await ask(uow, Wanted(bridge.pairs[0], NOW, **more))  # type: ignore[arg-type]


async def progress_of(store: Store, wish: Wish) -> list[Progress | None]:
    async with store.read() as uow:
        return list((await read_progress(uow, wish)).values())


async def ended(bridge: World, wish: Wish) -> list[Progress]:
    async with asyncio.timeout(PATIENCE):
        while True:
            found = [one for one in await progress_of(bridge.store, wish) if one is not None and one.state != "running"]
            if len(found) == len(wish.towards):
                return found
            await asyncio.sleep(0.002)


async def done(bridge: World, wish: Wish) -> list[Progress]:
    found = await ended(bridge, wish)
    await bridge.quiet()
    return found


def said(bridge: World, name: str = "help") -> list[str]:
    """What crossed to Matrix, without the notices."""
    return [one.text for one in bridge.matrix.shown(bridge.matrix.channel(name)) if one.shown_as not in ("", RELAY)]


def notices(bridge: World) -> list[str]:
    return [one.text for one in bridge.matrix.shown(bridge.matrix.channel("help")) if one.shown_as == RELAY]


async def test_it_crosses_once_in_order_behind_a_line_for_each_day(bridge: World) -> None:
    here, there = bridge.channels()
    day = datetime(2024, 5, 3, 12, tzinfo=UTC)
    for number in range(40):
        ref = bridge.discord.say(here, "ann", f"d{number}")
        bridge.discord.messages[ref] = replace(
            bridge.discord.messages[ref], created_at=day + timedelta(days=number // 20)
        )
    bridge.matrix.say(there, "ben", "m0")
    async with bridge.relay():
        bridge.discord.say(here, "ann", "today")
        await until(lambda: "today" in bridge.words(there))
        wish = await wish_for(bridge)
        found = sorted((one.state, one.crossed, one.left_out) for one in await done(bridge, wish))
    assert found == [("done", 1, 0), ("done", 40, 0)]
    assert said(bridge) == ["today", *(f"d{number}" for number in range(40))]
    assert notices(bridge) == [f"Said before the relay was here, on {day} May 2024:" for day in (3, 4)]
    assert bridge.words(here)[-1] == "m0"
    assert all(one.content.silent for one in bridge.matrix.shown(there) if one.text not in ("today", "m0"))


async def test_what_changes_between_its_reading_and_its_record_is_not_lost(bridge: World) -> None:
    here, _ = bridge.channels()
    refs = [bridge.discord.say(here, "ann", f"d{number}") for number in range(7)]
    read, go_on = asyncio.Event(), asyncio.Event()

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        async def holding(call: str) -> None:
            # In the middle of a page: what is behind the first five was read, and is not on record.
            if call == "send" and not go_on.is_set():
                read.set()
                await go_on.wait()

        matrix.before = holding

    async with bridge.relay(prepare):
        wish = await wish_for(bridge, towards=Platform.MATRIX)
        await read.wait()
        bridge.discord.edit(refs[5], "better")
        bridge.discord.delete(refs[6])
        bridge.discord.edit(refs[2], "worse")
        bridge.discord.say(here, "ann", "today")
        await asyncio.wait_for(_until_received(bridge, "today"), PATIENCE)
        go_on.set()
        await done(bridge, wish)
        await until(lambda: "today" in said(bridge))
    assert sorted(said(bridge)) == sorted(["d0", "d1", "worse", "d3", "d4", "better", "today"])


async def test_what_it_waited_for_is_told_no_longer_once_it_goes_on(bridge: World) -> None:
    here, there = bridge.channels()
    for number in range(7):
        bridge.discord.say(here, "ann", f"d{number}")
    wish = await wish_for(bridge, towards=Platform.MATRIX)
    async with bridge.store.write() as uow:
        waiting = Progress(wish.id, (here.id, there.id), problem="Its pair is paused.")
        await uow.key_values.put(progress_key(wish, Platform.MATRIX), waiting.as_json())
    sending, go_on = asyncio.Event(), asyncio.Event()

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        async def holding(call: str) -> None:
            if call == "send":
                sending.set()
                await go_on.wait()

        matrix.before = holding

    async with bridge.relay(prepare) as core:
        await sending.wait()
        [found] = await progress_of(bridge.store, wish)
        assert found is not None
        assert (found.crossed, found.problem) == (5, "")
        [note] = core.backfills.notes(bridge.pairs[0])
        assert "waits" not in note
        go_on.set()
        await done(bridge, wish)


async def _until_received(bridge: World, words: str) -> None:
    """Until a message is on record, and with it whatever happened before."""
    [ref] = [one.ref for one in bridge.discord.messages.values() if one.text == words]
    while True:
        async with bridge.store.read() as uow:
            if await uow.messages.find(ref) is not None:
                return
        await asyncio.sleep(0.002)


async def _edited_all_the_time(bridge: World, ref: MessageRef) -> None:
    for number in count():
        bridge.discord.edit(ref, f"x{number}")
        await asyncio.sleep(0)


async def test_who_edits_an_old_message_all_the_time_keeps_no_other_from_crossing(bridge: World) -> None:
    here, _ = bridge.channels()
    refs = [bridge.discord.say(here, "ann", f"d{number}") for number in range(12)]
    async with bridge.relay(), asyncio.TaskGroup() as group:
        editing = group.create_task(_edited_all_the_time(bridge, refs[3]))
        [found] = await done(bridge, await wish_for(bridge, towards=Platform.MATRIX))
        editing.cancel()
    assert found.crossed + found.left_out == 12
    assert set(said(bridge)) >= {f"d{number}" for number in range(12) if number != 3}


async def test_what_it_is_changed_to_notifies_nobody_either(bridge: World) -> None:
    here, there = bridge.channels()
    edited, refreshed = (bridge.discord.say(here, "ann", words) for words in ("d0", "d1"))
    async with bridge.relay():
        await done(bridge, await wish_for(bridge, towards=Platform.MATRIX))
        bridge.discord.edit(edited, "better")
        await until(lambda: said(bridge) == ["better", "d1"])
        async with bridge.store.write() as uow:
            bridge.discord.messages[refreshed] = replace(
                bridge.discord.messages[refreshed], content=Content(RichText.plain("fresh"))
            )
            await uow.outbox.append(lane(Platform.MATRIX), RefreshMessage(refreshed, NOW), NOW)
        assert bridge.core is not None
        bridge.core.dispatcher.wake_all()
        await until(lambda: said(bridge) == ["better", "fresh"])
    assert all(one.content.silent for one in bridge.matrix.shown(there))


async def test_commands_and_what_the_relay_said_do_not_cross(bridge: World) -> None:
    here, there = bridge.channels()
    bridge.matrix.say(there, "ben", "!relay optout")
    bridge.matrix.say(there, "ben", "m0")
    async with bridge.relay():
        found = await done(bridge, await wish_for(bridge, towards=Platform.DISCORD))
        assert [(one.crossed, one.left_out) for one in found] == [(1, 1)]
        # And she is not opted out by what she said long ago.
        bridge.matrix.say(there, "ben", "m1")
        await until(lambda: bridge.words(here)[-1:] == ["m1"])


async def test_who_has_opted_out_does_not_cross(bridge: World) -> None:
    here, there = bridge.channels()
    bridge.matrix.say(there, "ben", "m0")
    async with bridge.relay():
        bridge.matrix.say(there, "ben", "!relay optout")
        await until(lambda: len(bridge.words(there)) == 3)
        found = await done(bridge, await wish_for(bridge, towards=Platform.DISCORD))
        assert [(one.state, one.crossed, one.left_out) for one in found] == [("done", 0, 1)]
    assert bridge.words(here) == []


@pytest.mark.parametrize("copies", [True, False])
async def test_whose_copies_are_being_deleted_does_not_cross(bridge: World, copies: bool) -> None:
    here, _ = bridge.channels()
    said_before = created(bridge.discord.messages[bridge.discord.say(here, "ann", "d0")])
    async with bridge.relay() as core, bridge.store.write() as uow:
        await uow.people.put_request(ForgetRequest(said_before.author.user, copies))
        command = await core.backfills.router.past(uow, said_before, bridge.pairs[0], lane(Platform.MATRIX))
    assert (command is None) is copies


@pytest.mark.parametrize("copies", [True, False])
async def test_whose_copies_were_deleted_does_not_cross_later_either(bridge: World, copies: bool) -> None:
    here, _ = bridge.channels()
    ref = bridge.discord.say(here, "ann_ann", "d0")
    bridge.discord.say(here, "ben", "d1", reply_to=ref)
    user = created(bridge.discord.messages[ref]).author.user
    async with bridge.relay() as core:
        async with bridge.store.write() as uow:
            await uow.people.put_request(ForgetRequest(user, copies))
        core.people.settled.set()
        await asyncio.wait_for(_until_forgotten(bridge, user), PATIENCE)
        await done(bridge, await wish_for(bridge, towards=Platform.MATRIX))
    assert said(bridge) == (["↪ a message\nd1"] if copies else ["d0", "d1"])
    with closing(sqlite3.connect(bridge.store.path)) as connection:
        values = connection.execute("SELECT name || value FROM notebook").fetchall()
    assert not copies or not any(user.id in value for [value] in values)


async def _until_forgotten(bridge: World, user: UserRef) -> None:
    while True:
        async with bridge.store.read() as uow:
            if await uow.people.request_of(user) is None:
                return
        await asyncio.sleep(0.002)


async def test_what_is_said_today_does_not_wait_behind_the_past(bridge: World) -> None:
    here, there = bridge.channels()
    for number in range(100):
        bridge.discord.say(here, "ann", f"d{number}")
    sent = asyncio.Semaphore(20)
    async with bridge.relay(_holding(sent, asyncio.Event())):
        await wish_for(bridge, towards=Platform.MATRIX)
        await until(lambda: len(bridge.words(there)) == 20)
        bridge.discord.say(here, "ann", "today")
        await asyncio.wait_for(_until_received(bridge, "today"), PATIENCE)
        for _ in range(7):
            sent.release()
        await until(lambda: "today" in bridge.words(there))


@pytest.mark.parametrize(("seconds", "days", "at_once"), [(2.0, 1, 5), (4.0, 1, 7), (4.0, 15, 5)])
async def test_where_messages_are_limited_more_are_queued_at_once_and_may_cross_together(
    bridge: World, seconds: float, days: int, at_once: int
) -> None:
    here, _ = bridge.channels()
    for number in range(15):
        ref = bridge.discord.say(here, "ann", f"d{number}")
        said_at = NOW - timedelta(days=900 - number * days // 15)
        bridge.discord.messages[ref] = replace(bridge.discord.messages[ref], created_at=said_at)
    sends, most = count(), 0
    policy = replace(bridge.pairs[0].policy, batch_when_behind=0.0)  # they are counted one by one
    bridge.pairs = (replace(bridge.pairs[0], policy=policy),)

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        async def limited(call: str) -> None:
            nonlocal most
            if call == "send" and next(sends) == 0:
                raise RateLimited("not now", retry_after=seconds)
            async with bridge.store.read() as uow:
                waiting = await uow.outbox.waiting(lane(Platform.MATRIX), 99)
            most = max(most, sum(isinstance(one.command, SendMessage) for one in waiting))

        matrix.before = limited

    async with bridge.relay(prepare):
        await done(bridge, await wish_for(bridge, towards=Platform.MATRIX))
    assert most == at_once
    assert said(bridge) == [f"d{number}" for number in range(15)]


async def test_it_goes_on_after_each_end_of_the_process(bridge: World) -> None:
    here, _ = bridge.channels()
    for number in range(60):
        bridge.discord.say(here, "ann", f"d{number}")
    wish = None
    for life in range(1, 7):
        async with bridge.relay():
            wish = wish or await wish_for(bridge, towards=Platform.MATRIX)
            await until(lambda life=life: len(said(bridge)) >= 9 * life)  # type: ignore[misc]
    async with bridge.relay():
        assert wish is not None
        [found] = await done(bridge, wish)
    assert said(bridge) == [f"d{number}" for number in range(60)]
    assert found.crossed == 60
    assert len(notices(bridge)) == 1


async def test_what_has_crossed_of_a_page_does_not_cross_again_once_it_is_not_on_record_any_more(bridge: World) -> None:
    here, _ = bridge.channels()
    for number in range(8):
        bridge.discord.say(here, "ann", f"d{number}")
    async with bridge.relay(_holding(asyncio.Semaphore(5), asyncio.Event())):
        wish = await wish_for(bridge, towards=Platform.MATRIX)
        await until(lambda: len(said(bridge)) == 4)
    with closing(sqlite3.connect(bridge.store.path)) as connection, connection:
        connection.execute("DELETE FROM message WHERE id IN (SELECT message_id FROM message_copy)")
        connection.execute("DELETE FROM message_copy")
    async with bridge.relay():
        await done(bridge, wish)
    assert said(bridge) == [f"d{number}" for number in range(8)]


async def test_what_is_deleted_or_edited_while_it_waits_and_the_relay_is_away(bridge: World) -> None:
    here, _ = bridge.channels()
    refs = [bridge.discord.say(here, "ann", f"d{number}") for number in range(10)]
    for ref in refs:
        long_ago = replace(bridge.discord.messages[ref], created_at=NOW - timedelta(days=900))
        bridge.discord.messages[ref] = long_ago
    async with bridge.relay(_holding(asyncio.Semaphore(2), asyncio.Event())):
        wish = await wish_for(bridge, towards=Platform.MATRIX)
        await until(lambda: said(bridge) == ["d0"])
    bridge.discord.delete(refs[3])
    bridge.discord.edit(refs[4], "better")
    async with bridge.relay():
        await done(bridge, wish)
        await until(lambda: said(bridge) == ["d0", "d1", "d2", "better", *(f"d{number}" for number in range(5, 10))])


async def test_while_its_channels_are_paired_otherwise_it_waits(bridge: World) -> None:
    here, there = bridge.channels()
    for number in range(60):
        bridge.discord.say(here, "ann", f"d{number}")
    old, other = bridge.pairs[0], pair("other")
    sent, go_on = asyncio.Semaphore(6), asyncio.Event()
    async with bridge.relay(_holding(sent, go_on)) as core:
        wish = await wish_for(bridge, towards=Platform.MATRIX)
        await until(lambda: len(bridge.words(there)) == 6)
        await _redeclare(bridge, core, replace(old, sides=(old.sides[0], other.sides[1])))
        go_on.set()
        sent.release()
        await asyncio.wait_for(_waits(bridge, wish, core), PATIENCE)
        assert said(bridge, "other") == []
        await _redeclare(bridge, core, old)
        await done(bridge, wish)
    assert said(bridge) == [f"d{number}" for number in range(60)]


class _Hurried(SystemClock):
    """Each look at it is two minutes later."""

    def __init__(self) -> None:
        self._looks = count(0, 120)

    def monotonic(self) -> float:
        return super().monotonic() + next(self._looks)


async def test_whose_pair_is_not_declared_any_more_ends_and_goes_on_only_if_it_is_asked_for_again(
    bridge: World,
) -> None:
    here, there = bridge.channels()
    for number in range(60):
        bridge.discord.say(here, "ann", f"d{number}")
    old, sent, go_on = bridge.pairs[0], asyncio.Semaphore(6), asyncio.Event()
    async with bridge.relay(_holding(sent, go_on)) as core:
        core.backfills.clock = _Hurried()
        wish = await wish_for(bridge, towards=Platform.MATRIX)
        await until(lambda: len(bridge.words(there)) == 6)
        await _redeclare(bridge, core, replace(old, destinations=frozenset()))  # archived
        go_on.set()
        sent.release()
        [found] = await ended(bridge, wish)
        assert found.state == "failed"
        assert "Its pair is not declared in that direction any more;" in found.problem
        assert core.backfills.notes(old) == []
        await _redeclare(bridge, core, old)
        bridge.discord.say(here, "ann", "today")
        await until(lambda: "today" in said(bridge))
    async with bridge.relay():
        crossed = len(said(bridge))
        assert await done(bridge, wish) == [found]
        [found] = await done(bridge, await wish_for(bridge))
    assert (found.state, found.crossed) == ("done", 60)
    assert crossed < 20
    assert [word for word in said(bridge) if word != "today"] == [f"d{number}" for number in range(60)]


async def test_one_that_is_done_stays_so_when_its_pair_is_not_declared_any_more(bridge: World) -> None:
    here, _ = bridge.channels()
    bridge.discord.say(here, "ann", "d0")
    async with bridge.relay():
        wish = await wish_for(bridge, towards=Platform.MATRIX)
        found = await done(bridge, wish)
    bridge.pairs = ()
    async with bridge.relay() as core:
        core.backfills.clock = _Hurried()
        async with bridge.store.write() as uow:
            other = await ask(uow, Wanted(pair("other"), NOW))
        assert [one.state for one in await ended(bridge, other)] == ["failed", "failed"]
    assert await progress_of(bridge.store, wish) == found


async def _redeclare(bridge: World, core: Core, *pairs: Pair) -> None:
    await redeclare(core, *pairs)
    for adapter in (bridge.discord_adapter, bridge.matrix_adapter):
        assert adapter is not None
        await adapter.watch(core.pairs.watched(adapter.platform))


async def test_who_still_reads_for_the_former_pair_of_a_channel_disturbs_nobody(bridge: World) -> None:
    here, _ = bridge.channels()
    for number in range(60):
        bridge.discord.say(here, "ann", f"d{number}")
    old, other = bridge.pairs[0], pair("other")
    new = replace(old, sides=(old.sides[0], other.sides[1]))
    reads, first, second = count(), asyncio.Event(), asyncio.Event()

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        async def holding(call: str) -> None:
            if call == "past":
                match next(reads):
                    case 0:
                        first.set()
                        await second.wait()
                    case 1:
                        second.set()
                        await asyncio.wait_for(_waits_for(bridge, earlier), PATIENCE)

        discord.before = holding

    async with bridge.relay(prepare) as core:
        earlier = await wish_for(bridge, towards=Platform.MATRIX)
        await first.wait()
        await _redeclare(bridge, core, new)
        async with bridge.store.write() as uow:
            wish = await ask(uow, Wanted(new, NOW, Platform.MATRIX))
        [found] = await done(bridge, wish)
    assert (found.state, found.crossed) == ("done", 60)
    assert said(bridge) == []
    assert said(bridge, "other") == [f"d{number}" for number in range(60)]


def _holding(sent: asyncio.Semaphore, go_on: asyncio.Event) -> Callable[[MemoryAdapter, MemoryAdapter], None]:
    """Matrix takes as many messages as `sent` lets it, and from `go_on` on all."""

    async def holding(call: str) -> None:
        if call == "send" and not go_on.is_set():
            await sent.acquire()

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before = holding

    return prepare


async def _waits_for(bridge: World, wish: Wish) -> None:
    while True:
        if any(one is not None and "not declared" in one.problem for one in await progress_of(bridge.store, wish)):
            return
        await asyncio.sleep(0.002)


async def _waits(bridge: World, wish: Wish, core: Core) -> None:
    await _waits_for(bridge, wish)
    assert "not declared" in " ".join(core.backfills.notes(bridge.pairs[0]))


async def test_whose_address_leads_elsewhere_by_now_may_begin_anew(bridge: World) -> None:
    here, _ = bridge.channels()
    bridge.discord.say(here, "ann", "d0")
    wish = await wish_for(bridge, towards=Platform.MATRIX)
    async with bridge.store.write() as uow:
        before = Progress(wish.id, ("help", "before"), position="9" * 6, crossed=7)
        await uow.key_values.put(progress_key(wish, Platform.MATRIX), before.as_json())
    async with bridge.relay():
        [found] = await done(bridge, wish)
        assert (found.state, found.problem[:41]) == ("failed", "Before was in the pair when it began, and")
        [found] = await done(bridge, await wish_for(bridge))
    assert (found.state, found.crossed) == ("done", 1)
    assert said(bridge) == ["d0"]


async def test_whose_address_leads_elsewhere_after_it_is_done_may_begin_anew(bridge: World) -> None:
    here, _ = bridge.channels()
    since = NOW - timedelta(days=300)
    bridge.discord.say(here, "ann", "d0")
    async with bridge.relay() as core:
        await done(bridge, await wish_for(bridge, towards=Platform.MATRIX, since=since))
        wish = await wish_for(bridge, towards=Platform.MATRIX)
        await done(bridge, wish)
        core.pairs.open(bridge.pairs[0].sides[1], bridge.matrix.channel("other"))
        await asyncio.wait_for(_until_failed(bridge, wish), PATIENCE)
        again = await wish_for(bridge, towards=Platform.MATRIX)
        assert (again.since, again.before, again.crossed) == (None, None, {})
        await done(bridge, again)
    assert (said(bridge), said(bridge, "other")) == (["d0"], [])  # what is on record crosses once


async def _until_failed(bridge: World, wish: Wish) -> None:
    while True:
        if [one.state for one in await ended(bridge, wish)] == ["failed"]:
            return
        await asyncio.sleep(0.002)


async def test_where_it_is_not_known_where_the_past_ends_it_fails_and_can_be_asked_for_again(bridge: World) -> None:
    here, _ = bridge.channels()
    bridge.discord.say(here, "ann", "d0")
    async with bridge.relay():
        bridge.discord.say(here, "ann", "today")
        await until(lambda: said(bridge) == ["today"])
        with closing(sqlite3.connect(bridge.store.path)) as connection, connection:
            began = connection.execute("SELECT stream, began FROM cursor").fetchall()
            connection.execute("UPDATE cursor SET began = NULL")
        wish = await wish_for(bridge, towards=Platform.MATRIX)
        [found] = await done(bridge, wish)
        assert (found.state, found.problem) == ("failed", "It is not on record when this began.")
        with closing(sqlite3.connect(bridge.store.path)) as connection, connection:
            connection.executemany("UPDATE cursor SET began = ?2 WHERE stream = ?1", began)
        again = await wish_for(bridge)
        assert again.id != wish.id
        assert again.towards == wish.towards
        assert [one.state for one in await done(bridge, again)] == ["done"]
    assert said(bridge) == ["today", "d0"]


async def test_what_is_asked_for_twice_begins_nothing_anew(bridge: World) -> None:
    since = NOW - timedelta(days=30)
    first = await wish_for(bridge, since=since)
    assert await wish_for(bridge) == first == await wish_for(bridge, since=since)
    with pytest.raises(NotNow, match="let it go on without options"):
        await wish_for(bridge, since=NOW)
    async with bridge.store.write() as uow:
        assert await stop(uow, bridge.pairs[0])
        assert [one.stopped for one in (await read_wishes(uow)).values()] == [True]
    assert await wish_for(bridge) == first
    # One that rests may give way to another.
    async with bridge.store.write() as uow:
        assert await stop(uow, bridge.pairs[0])
    other = await wish_for(bridge, since=NOW)
    assert (other.since, other.stopped, other.id == first.id) == (NOW, False, False)
    async with bridge.store.write() as uow:
        assert await stop(uow, bridge.pairs[0])
    first = await wish_for(bridge, since=since)
    await _set(bridge, first, "done")
    assert await wish_for(bridge, since=NOW) == first
    older = await wish_for(bridge)
    assert (older.since, older.before, older.id == first.id) == (None, since, False)
    await _set(bridge, older, "done")
    assert await wish_for(bridge) == older


async def test_what_has_crossed_is_not_forgotten_while_another_waits_to_begin(bridge: World) -> None:
    since = NOW - timedelta(days=30)
    await _set(bridge, await wish_for(bridge, since=since), "done")
    older = await wish_for(bridge)
    async with bridge.store.write() as uow:
        for state in ("running", "failed"):
            waiting = Progress(older.id, ("", ""), state, problem="A channel of its pair is not open.")
            await uow.key_values.put(progress_key(older, Platform.MATRIX), waiting.as_json())
            older = await ask(uow, Wanted(bridge.pairs[0], NOW))
            assert (older.before, set(older.crossed)) == (since, set(Platform))


async def test_one_that_is_done_can_be_stopped_and_asked_for_again(bridge: World) -> None:
    first = await wish_for(bridge)
    await _set(bridge, first, "done")
    async with bridge.store.write() as uow:
        assert await stop(uow, bridge.pairs[0])
    assert await wish_for(bridge) == first


async def test_what_is_asked_for_later_joins_on_what_has_crossed_and_nothing_crosses_twice(bridge: World) -> None:
    days = [NOW - timedelta(days=number) for number in (400, 300, 200, 100)]
    first = await wish_for(bridge, since=days[1], before=days[2])
    await _set(bridge, first, "done")
    for more in ({"before": days[0]}, {"since": days[3]}, {}):
        with pytest.raises(NotNow, match="has crossed"):
            await wish_for(bridge, **more)
    newer = await wish_for(bridge, since=days[1])
    assert (newer.since, newer.before, newer.towards) == (days[2], None, first.towards)
    await _set(bridge, newer, "done")
    # What has crossed to one side is not forgotten while it crosses to the other.
    older = await wish_for(bridge, towards=Platform.DISCORD, before=days[3])
    assert (older.since, older.before) == (None, days[1])
    await _set(bridge, older, "done")
    last = await wish_for(bridge)
    assert (last.since, last.before, last.towards) == (None, days[1], (Platform.MATRIX,))
    async with bridge.store.read() as uow:
        assert (await read_wishes(uow))[last.key] == last
    await _set(bridge, last, "done")
    assert await wish_for(bridge) == last == await wish_for(bridge, towards=Platform.DISCORD)


async def test_where_it_has_crossed_unequally_far_the_side_has_to_be_said(bridge: World) -> None:
    for towards, days in ((Platform.DISCORD, 10), (Platform.MATRIX, 20)):
        await _set(bridge, await wish_for(bridge, towards=towards, since=NOW - timedelta(days=days)), "done")
    with pytest.raises(NotNow, match="--to"):
        await wish_for(bridge)


async def test_the_other_direction_may_follow(bridge: World) -> None:
    first = await wish_for(bridge, towards=Platform.MATRIX)
    await _set(bridge, first, "done")
    both = await wish_for(bridge)
    assert both.towards == (Platform.DISCORD,)
    one_way = replace(bridge.pairs[0], destinations=frozenset({Platform.MATRIX}))
    with pytest.raises(NotNow, match="does not mirror that way"):
        async with bridge.store.write() as uow:
            await ask(uow, Wanted(one_way, NOW, Platform.DISCORD))


async def _set(bridge: World, wish: Wish, state: State) -> None:
    async with bridge.store.write() as uow:
        for towards in wish.towards:
            progress = Progress(wish.id, ("help", "help"), state)
            await uow.key_values.put(progress_key(wish, towards), progress.as_json())


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"a": 1}', '{"a": {"id": 1}}', "[" * 10_000, '{"wish": 1}'])
async def test_what_cannot_be_read_of_it_counts_as_not_asked_for(bridge: World, damage: str) -> None:
    wish = await wish_for(bridge)
    async with bridge.store.write() as uow:
        await uow.key_values.put(progress_key(wish, Platform.MATRIX), damage)
        assert (await read_progress(uow, wish))[Platform.MATRIX] is None
        await uow.key_values.put("backfill wishes", damage)
        assert await read_wishes(uow) == {}


async def test_one_wish_that_cannot_be_read_takes_no_other_along(bridge: World) -> None:
    """All were forgotten, and with them what had crossed already."""
    other = pair("other")
    async with bridge.store.write() as uow:
        first = await ask(uow, Wanted(other, NOW))
        saved = json.loads(await uow.key_values.get("backfill wishes") or "")
        await uow.key_values.put("backfill wishes", json.dumps({"of the future": {"id": 1}} | saved))
    second = await wish_for(bridge)
    async with bridge.store.read() as uow:
        assert await read_wishes(uow) == {first.key: first, second.key: second}
        assert "of the future" in json.loads(await uow.key_values.get("backfill wishes") or "")


@given(
    st.builds(
        Progress,
        st.text(),
        st.tuples(st.text(), st.text()),
        st.sampled_from(["running", "done", "failed"]),
        st.text(),
        st.text(),
        st.integers(),
        st.integers(),
        st.integers(),
        st.none() | st.datetimes(timezones=st.just(UTC)),
        st.none() | st.datetimes(timezones=st.just(UTC)),
        st.text(),
        st.text(),
        st.booleans(),
    )
)
def test_how_far_it_is_is_read_as_it_was_written(progress: Progress) -> None:
    assert Progress.read(progress.as_json()) == progress


async def test_what_cannot_cross_is_a_dead_letter_and_its_author_is_not_told_years_later(bridge: World) -> None:
    here, _ = bridge.channels()
    for number in range(3):
        bridge.discord.say(here, "ann", f"d{number}")

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        async def refusing(call: str) -> None:
            if call == "send" and not said(bridge) and notices(bridge):
                raise Permanent("refused")

        matrix.before = refusing

    async with bridge.relay(prepare):
        [found] = await done(bridge, await wish_for(bridge, towards=Platform.MATRIX))
        assert found.state == "done"
        async with bridge.store.read() as uow:
            assert len(await uow.outbox.dead()) == 3
    assert bridge.discord.reactions == []
    assert bridge.words(here) == ["d0", "d1", "d2"]
