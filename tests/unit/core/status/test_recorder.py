"""How far the relay is with catching up stands in the log, and nothing stands there while it keeps up."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from relay.core.clock import SystemClock
from relay.core.ports import ChannelInfo, SideHealth
from relay.core.status.reading import read_report
from relay.core.status.recorder import Progress, Readiness, StatusRecorder
from relay.core.status.report import CHANNELS_KEY, STATUS_KEY, STOPPED, DirectionStatus, PairStatus, Report
from relay.domain.ids import Platform
from relay.domain.pair import LaneKey
from tests.support.clocks import FakeClock
from tests.support.logs import captured_logs
from tests.support.world import World, until

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def report(second: float, *, crossed: int, waiting: int = 0, oldest: float | None = None, **sides: str) -> Report:
    way = DirectionStatus(crossed, None, waiting, oldest, 0, {}, 0)
    health = {name: SideHealth("catching_up", detail) for name, detail in sides.items()}
    return Report((PairStatus("help", (), {"to_matrix": way}),), health, NOON + timedelta(seconds=second))


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    with captured_logs() as logged:
        yield logged


def of_interest(lines: list[dict[str, Any]]) -> list[dict[str, object]]:
    kept = [line for line in lines if line["event"] in ("catching up", "caught up")]
    return [{name: value for name, value in line.items() if name != "level"} for line in kept]


def test_a_catch_up_is_told_of_now_and_then_and_at_its_end(lines: list[dict[str, Any]]) -> None:
    progress = Progress()
    for second in range(25):
        progress.look(report(second, crossed=100 + second * 10, waiting=300, discord="3 channels to go"))
    progress.look(report(25, crossed=350, waiting=80, oldest=40.0))
    progress.look(report(26, crossed=430))
    progress.look(report(60, crossed=431))
    assert of_interest(lines) == [
        {"event": "catching up", "messages": 100, "waiting": 300, "seconds": 10, "discord": "3 channels to go"},
        {"event": "catching up", "messages": 200, "waiting": 300, "seconds": 20, "discord": "3 channels to go"},
        {"event": "caught up", "messages": 330, "seconds": 26},
    ]


def test_what_waits_in_a_pair_in_trouble_is_no_catching_up() -> None:
    waits = report(0, crossed=0, waiting=6, oldest=1800.0)
    assert waits.catching_up
    troubled = tuple(replace(pair, problems=("It may not write there.",)) for pair in waits.pairs)
    assert not replace(waits, pairs=troubled).catching_up


def test_what_keeps_up_is_not_worth_a_line(lines: list[dict[str, Any]]) -> None:
    progress = Progress()
    for second in range(60):
        progress.look(report(second, crossed=second, waiting=second % 7, oldest=0.3))
    progress.look(report(61, crossed=70, matrix="reading"))
    progress.look(report(63, crossed=90))
    assert of_interest(lines) == []


def test_a_long_catch_up_is_told_of_less_often_later(lines: list[dict[str, Any]]) -> None:
    progress = Progress()
    for second in range(1800):
        progress.look(report(second, crossed=second, waiting=300, discord="3 channels to go"))
    assert [line["seconds"] for line in of_interest(lines)] == [10, 20, 30, 40, 50, 60, 660, 1260]


def test_how_many_pairs_work_is_said_once_and_once_more_when_all_do(lines: list[dict[str, Any]]) -> None:
    readiness = Readiness()
    ready = {"discord": SideHealth("ready"), "matrix": SideHealth("ready")}
    pairs = tuple(PairStatus(f"p{number}", ("No.",) if number < 7 else (), {}) for number in range(60))
    old = PairStatus("old", (), {}, carried=frozenset())
    readiness.look(Report(pairs, {**ready, "matrix": SideHealth("catching_up")}, NOON))
    readiness.look(Report((*pairs, old), ready, NOON))
    # What another relay has left begins a moment later.
    assert (readiness.is_waiting, lines) == (True, [])
    for _ in range(2):
        readiness.look(Report(pairs, ready, NOON + timedelta(seconds=15)))
    assert [line["event"] for line in lines] == ["ready: 53 of 60 pairs, 7 in trouble (p0, p1, p2, p3, p4, 2 more)"]
    assert (readiness.is_waiting, len(lines)) == (False, 1)
    for _ in range(2):
        readiness.look(Report(pairs[7:], ready, NOON))
        readiness.look(Report(pairs, ready, NOON))  # what breaks later is told elsewhere
    assert [line["event"] for line in lines[1:]] == ["ready: 53 of 53 pairs"]
    Readiness().look(Report(pairs[7:8], ready, NOON))
    assert lines[-1] == {"event": "ready: 1 of 1 pair", "level": "info"}


async def test_a_glance_says_what_the_report_says_but_for_the_pairs(bridge: World) -> None:
    async with bridge.relay() as core:
        for problem in ("the disk is full", None):
            core.status.store_problem = problem
            glance, whole = core.status.glance(), core.status.last_report()
            assert (glance.ready, glance.sides, glance.store_problem) == (whole.ready, whole.sides, problem)
            assert glance.pairs == ()


async def test_the_status_outlives_the_process(bridge: World) -> None:
    discord, room = bridge.channels()
    async with bridge.relay() as core:
        recorder = StatusRecorder(store=bridge.store, status=core.status, clock=SystemClock())
        bridge.discord.say(discord, "mira", "one")
        await bridge.shows(room, "one")
        await until(lambda: core.status.last_report().pairs[0].directions["to_matrix"].messages == 1)
        await recorder.finish(STOPPED)
    async with bridge.relay() as core:
        later = StatusRecorder(store=bridge.store, status=core.status, clock=SystemClock())
        await later.restore()
        assert core.status.last_report().pairs[0].directions["to_matrix"].messages == 1


async def test_nothing_is_written_while_nothing_happens(bridge: World) -> None:
    discord, room = bridge.channels()
    async with bridge.relay() as core:
        recorder = StatusRecorder(store=bridge.store, status=core.status, clock=SystemClock())
        bridge.discord.say(discord, "mira", "one")
        await bridge.shows(room, "one")
        await until(lambda: core.status.last_report().pairs[0].directions["to_matrix"].messages == 1)
        await recorder.look()
        before = await written(bridge)
        await recorder.look()
        assert await written(bridge) == before
        bridge.discord.say(discord, "mira", "two")
        await bridge.shows(room, "one", "two")
        await until(lambda: core.status.last_report().pairs[0].directions["to_matrix"].messages == 2)
        await recorder.look()
        assert await written(bridge) != before


async def test_what_is_wrong_with_both_channels_are_two_sentences(bridge: World) -> None:
    async with bridge.relay() as core:
        [pair] = bridge.pairs
        for side, problem in zip(
            pair.sides, ("The bot is gone: invite it.", "It is banned: lift the ban."), strict=True
        ):
            await core.inbox.closed(side, problem)
        await StatusRecorder(store=bridge.store, status=core.status, clock=SystemClock()).look()
        report = await read_report(bridge.store, bridge.pairs, running=True, now=NOON)
        for shown in (core.status.last_report().pairs[0], report.pairs[0]):
            assert shown.problems == ("The bot is gone: invite it.", "It is banned: lift the ban.")
            assert shown.as_json()["problem"] == "The bot is gone: invite it. It is banned: lift the ban."


async def test_a_problem_is_a_sentence_with_the_name_of_the_channel(bridge: World) -> None:
    discord, _ = bridge.channels()
    async with bridge.relay() as core:
        core.status.describe = {Platform.DISCORD: {discord: ChannelInfo("#ask", "A server")}.get}
        core.status.channels()
        await core.inbox.closed(bridge.pairs[0].sides[0], "the bot may not write in channel help: give it the right")
        assert core.status.problems(bridge.pairs[0]) == ("The bot may not write in #ask (help): give it the right.",)
        assert core.status.label_of("help") == "#ask on A server"


async def test_what_channels_are_known_by_outlives_the_process(bridge: World) -> None:
    discord, _ = bridge.channels()
    help_channel = ChannelInfo("#help", "A server", "Ask here", "https://example.org", public=True)
    async with bridge.relay() as core:
        core.status.describe = {Platform.DISCORD: {discord: help_channel}.get}
        await StatusRecorder(store=bridge.store, status=core.status, clock=SystemClock()).look()
    async with bridge.relay() as core:
        later = StatusRecorder(store=bridge.store, status=core.status, clock=SystemClock())
        await later.restore()
        await later.look()
        assert core.status.channels() == {discord: help_channel}
        report = await read_report(bridge.store, bridge.pairs, running=True, now=NOON)
        for shown in (core.status.last_report().pairs[0], report.pairs[0]):
            assert {name: channel.label for name, channel in shown.channels.items()} == {
                "discord": "#help on A server",
                "matrix": "#help",
            }


async def test_damaged_names_are_left_out(bridge: World) -> None:
    async with bridge.store.write() as uow:
        await uow.key_values.put(
            CHANNELS_KEY, '[1, {"platform": "discord", "id": "help", "name": 7}, {"name": "#help"}]'
        )
    report = await read_report(bridge.store, bridge.pairs, running=True, now=NOON)
    assert report.pairs[0].channels["discord"].label == "help"


async def written(bridge: World) -> str | None:
    """The status in the store."""
    async with bridge.store.read() as uow:
        return await uow.key_values.get(STATUS_KEY)


async def test_nobody_looks_through_the_pairs_while_nothing_happens(bridge: World) -> None:
    discord, room = bridge.channels()
    lane = LaneKey(discord, room)
    looks: list[float] = []
    async with bridge.relay() as core:
        clock = FakeClock()
        core.status.describe = {Platform.DISCORD: lambda _: looks.append(clock.seconds)}
        recorder = StatusRecorder(store=bridge.store, status=core.status, clock=clock)

        async def seconds_until_looked(at: float) -> float:
            await until(lambda: bool(looks) and looks[-1] >= at)
            return next(look for look in looks if look >= at) - at

        def changes(change: Callable[[], object]) -> float:
            change()
            return clock.seconds

        running = asyncio.create_task(recorder.run())
        try:
            assert await seconds_until_looked(clock.seconds) < 0.5
            assert await seconds_until_looked(looks[-1] + 0.1) >= 9.5
            at = changes(lambda: core.status.waits_for(lane, "the bot is gone"))
            assert await seconds_until_looked(at) < 0.5
            at = changes(lambda: core.pairs.close(bridge.pairs[0].sides[0], "the bot may not write"))
            assert await seconds_until_looked(at) < 0.5
            at = changes(lambda: core.status.retried(lane))
            assert await seconds_until_looked(at) < 1.5
            at = changes(lambda: core.status.dropped(lane, "reaction"))
            assert await seconds_until_looked(at) < 1.5
            at = changes(lambda: core.status.crossed(lane, written_at=NOON, received_at=NOON))
            assert await seconds_until_looked(at) < 1.5
        finally:
            running.cancel()


async def test_to_look_at_the_status_changes_nothing(bridge: World) -> None:
    async with bridge.relay() as core:
        await until(lambda: all(core.pairs.is_address_open(side) for side in bridge.pairs[0].sides))
        before = core.status.version()
        await core.status.report()
        core.status.waits_for(core.pairs.lanes(bridge.pairs[0])[0], None)
        assert core.status.version() == before
