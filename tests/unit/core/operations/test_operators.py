"""The operators are told of trouble once, and once when it is over: never twice, and in front of nobody's words."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relay.core.operations import operators
from relay.core.operations.operators import RoomRecord, Told, Watch, news, notice_text
from relay.core.ports import SideHealth
from relay.core.status.report import DirectionStatus, PairStatus, Report
from relay.domain.commands import PostNotice
from relay.domain.ids import ChannelAddress, Platform
from relay.domain.text.nodes import RichText
from relay.errors import ActionNeeded, Permanent, RateLimited, StoreUnavailable, Transient
from tests.support.memory_adapter import MemoryAdapter
from tests.support.patience import PATIENCE
from tests.support.world import World, lane, until, world

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
READY = {"discord": SideHealth("ready"), "matrix": SideHealth("ready")}


def report(*problems: str, name: str = "help", waits: float | None = None, dead: int = 0, gone: str = "") -> Report:
    direction = DirectionStatus(0, None, 0, waits, 0, {}, dead)
    sides = {**READY, **({gone: SideHealth("connecting", "no answer")} if gone else {})}
    return Report((PairStatus(name, problems, {"to_matrix": direction}),), sides, NOON)


class Room:
    """What a room is told, at seconds of our choice."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.told: dict[str, Told] = {}

    def hears(self, second: float, now: Report) -> list[str]:
        self.watch.look(now, second)
        lines, known = news(self.watch, self.told, NOON + timedelta(seconds=second))
        self.told = dict(known)
        return list(lines)


BROKEN = "help does not work: The bot may not write there."


def test_trouble_is_told_once_and_its_end_once() -> None:
    room, broken = Room(), report("The bot may not write there")
    assert [room.hears(second, broken) for second in (0, 59, 60, 61, 5000)] == [[], [], [BROKEN], [], []]
    assert [room.hears(second, report()) for second in (5001, 5060, 5061, 5062)] == [[], [], ["help works again."], []]


def test_nothing_is_over_before_the_relay_is_ready() -> None:
    """After a start, the problem of a room that is still to be entered is not known yet."""
    room, broken = Room(), report("The bot may not write there")
    assert [room.hears(second, broken) for second in (0, 60)] == [[], [BROKEN]]
    room.watch = Watch()
    entering = replace(report(), sides={**READY, "matrix": SideHealth("catching_up", "Entering rooms.")})
    assert not any(room.hears(second, entering) for second in range(100, 400, 10))
    assert not any(room.hears(second, broken) for second in range(400, 1000, 10))


def test_what_ends_before_it_is_told_is_not_told() -> None:
    room = Room()
    seen = [room.hears(second, report("No") if second < 30 else report()) for second in range(0, 300, 10)]
    assert not any(seen)


def test_what_comes_and_goes_is_not_told_each_time() -> None:
    room = Room()
    told = []
    for second in range(0, 3000, 10):
        told += room.hears(second, report("The bot may not write there") if second // 100 % 2 else report())
    assert told == [BROKEN, "help works again."]
    for second in range(3000, 3601, 10):
        told += room.hears(second, report("The bot may not write there"))
    assert told == [BROKEN, "help works again.", BROKEN]


def test_a_platform_that_is_gone_is_told_instead_of_its_pairs_and_ends_nothing() -> None:
    room = Room()
    room.hears(0, report("The bot may not write there"))
    assert room.hears(60, report("The bot may not write there")) == [BROKEN]
    gone = report("Messages to Matrix do not get through", gone="matrix")
    told = [room.hears(second, gone) for second in (100, 160, 170, 1000)]
    assert told == [[], ["Matrix is out of reach: No answer."], [], []]
    assert [room.hears(second, report("x")) for second in (1100, 1160)] == [[], ["Matrix answers again."]]


def test_a_room_on_the_platform_that_was_gone_is_told_afterwards_and_the_other_not_again() -> None:
    here, there = Room(), Room()
    for second in range(0, 601, 60):
        here.hears(second, report(gone="matrix"))
        there.watch.look(report(gone="matrix"), second)  # nothing can be said there
    assert here.told.keys() == {"side matrix"}
    words = "Matrix was out of reach for 11 min, and answers again."
    assert [there.hears(second, report()) for second in (660, 661, 5000)] == [[words], [], []]
    assert [here.hears(second, report()) for second in (660, 720, 5000)] == [[], ["Matrix answers again."], []]
    assert here.told == there.told == {}


def test_a_pair_that_cannot_keep_up() -> None:
    room = Room()
    room.hears(0, report(waits=1000))
    (line,) = room.hears(60, report(waits=1060))
    assert line == "help cannot keep up: messages have waited there for 17 minutes."


def test_dead_letters_are_told_at_once_and_more_of_them_after_an_hour() -> None:
    room = Room()
    (line,) = room.hears(0, report(dead=1))
    assert line.startswith("1 message of help did not cross")
    assert [room.hears(second, report(dead=2 + second)) for second in (1, 100, 3599)] == [[], [], []]
    (line,) = room.hears(3600, report(dead=77))
    assert line.startswith("77 messages of help")
    assert room.hears(3601, report(dead=3)) == []
    assert room.hears(3602, report()) == ["help has no messages left that did not cross."]


def test_of_a_pair_that_is_not_declared_any_more_nothing_is_said() -> None:
    room = Room()
    room.hears(0, report("No", dead=1))
    room.hears(60, report("No", dead=1))
    assert [room.hears(second, report(name="other")) for second in (100, 200)] == [[], []]
    assert room.told == {}


def test_much_trouble_is_one_message_of_limited_length() -> None:
    text = notice_text([f"pair-{number} does not work: {'x' * 5000}" for number in range(60)])
    assert len(text) < 1600
    assert text.endswith("more: relay status shows all.")


@pytest.mark.parametrize("text", [None, "", "nonsense", "[]", '{"told": 3}', '{"notice": {"key": 1}}', "[" * 100_000])
def test_a_damaged_record_counts_as_nothing_told(text: str | None) -> None:
    assert RoomRecord.read(text) == RoomRecord()


# --- In the core ------------------------------------------------------------------------------------------

PLACES = (ChannelAddress(Platform.DISCORD, "ops"), ChannelAddress(Platform.MATRIX, "#ops"))
DEAD = "1 message of help did not cross, and the relay does not try again by itself: see relay dead list."
OVER = "help has no messages left that did not cross."


@pytest.fixture
async def bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(operators, "_LOOK_SECONDS", 0.01)
    async with world(tmp_path) as made:
        made.operators = PLACES
        yield made


class Trouble:
    """Each adapter refuses messages from one to another pair's channel for good, until it is over."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.refuses = True

    def prepare(self, _: MemoryAdapter, matrix: MemoryAdapter) -> None:
        async def before(call: str) -> None:
            if call == "send" and self.refuses:
                self.refuses = False
                raise Permanent("it is not wanted")

        matrix.before = before

    async def seen(self, *, dead: int) -> None:
        """The recorder reads the outbox each second; here, until so many are dead."""
        assert self.world.core is not None
        async with asyncio.timeout(PATIENCE):
            while True:
                report = await self.world.core.status.report()
                if sum(one.dead_letters for one in report.pairs[0].directions.values()) == dead:
                    return
                await asyncio.sleep(0.005)

    async def discard(self) -> None:
        async with self.world.store.write() as uow:
            for letter in await uow.outbox.dead():
                await uow.outbox.discard(letter.entry.id)


async def test_both_places_are_told_once_however_often_the_relay_starts(bridge: World) -> None:
    trouble = Trouble(bridge)
    ops = (bridge.discord.channel("ops"), bridge.matrix.channel("ops"))
    async with bridge.relay(trouble.prepare):
        bridge.discord.say(bridge.channels()[0], "ann", "dies")
        await trouble.seen(dead=1)
        for place in ops:
            await bridge.shows(place, DEAD)
        # People there talk among themselves: it belongs to no pair.
        for place, platform in zip(ops, (bridge.discord, bridge.matrix), strict=True):
            platform.say(place, "ann", "I see to it")
    async with bridge.relay():
        # Before the outbox has been read, nothing is known of what is dead.
        bridge.discord.say(bridge.channels()[0], "ann", "lives")
        await bridge.shows(bridge.channels()[1], "lives")
        await asyncio.sleep(0.1)
        for place in ops:
            assert bridge.words(place) == [DEAD, "I see to it"]
        await trouble.seen(dead=1)
        await trouble.discard()
        await trouble.seen(dead=0)
        for place in ops:
            await bridge.shows(place, DEAD, "I see to it", OVER)
        assert bridge.words(bridge.channels()[1]) == ["lives"]
        assert (await bridge.core.status.report()).undeclared == () if bridge.core else False


async def test_a_notice_in_the_room_of_a_pair_does_not_cross(bridge: World) -> None:
    bridge.operators = (ChannelAddress(Platform.MATRIX, "#help"),)
    trouble = Trouble(bridge)
    channel, room = bridge.channels()
    async with bridge.relay(trouble.prepare):
        bridge.discord.say(channel, "ann", "dies")
        await trouble.seen(dead=1)
        await until(lambda: DEAD in bridge.words(room))
        bridge.matrix.say(room, "mia", "afterwards")
        await until(lambda: "afterwards" in bridge.words(channel))
        await bridge.quiet()
    assert DEAD not in bridge.words(channel)


@pytest.mark.parametrize("replays", [True, False], ids=["by its key", "by looking for it"])
async def test_a_notice_whose_answer_is_lost_is_there_once(bridge: World, replays: bool) -> None:
    trouble, place = Trouble(bridge), PLACES[1 if replays else 0]
    bridge.operators = (place,)
    platform = bridge.matrix if replays else bridge.discord
    lost = list[str]()

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        trouble.prepare(discord, matrix)

        async def after(call: str) -> None:
            if call == "send" and not lost:
                lost.append(call)
                raise Transient("the answer got lost", ambiguous=True)

        (matrix if replays else discord).after = after

    where = platform.channel("ops")
    async with bridge.relay(prepare):
        bridge.discord.say(bridge.channels()[0], "ann", "dies")
        await trouble.seen(dead=1)
        await until(lambda: bool(lost))
    async with bridge.relay():
        await trouble.seen(dead=1)
        await trouble.discard()
        await trouble.seen(dead=0)
        await bridge.shows(where, DEAD, OVER)


async def test_a_notice_that_could_not_be_written_down_is_there_once(bridge: World) -> None:
    bridge.operators = (PLACES[1],)
    trouble, failed = Trouble(bridge), list[str]()

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        trouble.prepare(discord, matrix)

        async def after(call: str) -> None:
            if call == "send" and not failed:
                failed.append(call)
                raise StoreUnavailable("relay.db", "the disk is full", "make room")

        matrix.after = after

    async with bridge.relay(prepare):
        bridge.discord.say(bridge.channels()[0], "ann", "dies")
        await trouble.seen(dead=1)
        await until(lambda: bool(failed))
        await trouble.discard()
        await trouble.seen(dead=0)
        await bridge.shows(bridge.matrix.channel("ops"), DEAD, OVER)


async def test_words_go_first(bridge: World) -> None:
    """Under a rate limit the notice waits until nobody's words do."""
    bridge.operators = (PLACES[1],)
    trouble = Trouble(bridge)
    channel, room = bridge.channels()
    refused, closed = list[str](), [True]

    def prepare(_: MemoryAdapter, matrix: MemoryAdapter) -> None:
        async def before(call: str) -> None:
            if call == "send" and closed[0]:
                refused.append(call)
                raise RateLimited("slow down", retry_after=0.05)

        matrix.before = before

    async with bridge.relay(prepare) as core:
        bridge.discord.say(channel, "ann", "one")
        await until(lambda: bool(refused))
        async with bridge.store.write() as uow:
            command = PostNotice(RichText.plain("is dead"))
            entry = await uow.outbox.append(lane(Platform.DISCORD), command, core.status.clock.now())
            await uow.outbox.dead_letter(entry.id, "it is not wanted", core.status.clock.now())
        await trouble.seen(dead=1)
        tries = len(refused)
        for word in ("two", "three"):
            bridge.discord.say(channel, "ann", word)
        await until(lambda: len(refused) > tries + 2)
        assert bridge.words(bridge.matrix.channel("ops")) == []
        closed[0] = False
        await until(lambda: DEAD in bridge.words(bridge.matrix.channel("ops")))
        await bridge.quiet()
    said = [message for message in bridge.matrix.messages.values() if message.author.is_self]
    assert "three" in "\n".join(bridge.words(room))
    assert said[0].ref.channel == room


async def test_a_place_that_cannot_be_used_is_said(bridge: World) -> None:
    bridge.operators = (PLACES[1],)

    def prepare(_: MemoryAdapter, matrix: MemoryAdapter) -> None:
        async def before(call: str) -> None:
            if call == "open" and "ops" not in "".join(address.value for address in matrix.opened) and matrix.opened:
                raise ActionNeeded("#ops is encrypted: make another room")

        matrix.before = before

    async with bridge.relay(prepare) as core:
        await until(lambda: bool(core.status.last_report().findings))
        (finding,) = core.status.last_report().findings
        assert str(finding) == "[operators]: they are not told: #ops is encrypted: make another room"
