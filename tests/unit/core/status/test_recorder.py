"""How far the relay is with catching up stands in the log, and nothing stands there while it keeps up."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from relay.core.clock import SystemClock
from relay.core.ports import SideHealth
from relay.core.status.recorder import Progress, StatusRecorder
from relay.core.status.report import STATUS_KEY, DirectionStatus, PairStatus, Report
from tests.support.world import World, until

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def report(second: float, *, crossed: int, waiting: int = 0, oldest: float | None = None, **sides: str) -> Report:
    way = DirectionStatus(crossed, None, waiting, oldest, 0, {}, 0)
    health = {name: SideHealth("catching_up", detail) for name, detail in sides.items()}
    return Report((PairStatus("help", None, {"to_matrix": way}),), health, NOON + timedelta(seconds=second))


@pytest.fixture
def lines() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as logged:
        yield logged  # type: ignore[misc]  # structlog's own name for the same thing


def of_interest(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    kept = [line for line in lines if line["event"] in ("catching up", "caught up")]
    return [{name: value for name, value in line.items() if name != "log_level"} for line in kept]


def test_a_catch_up_is_told_of_now_and_then_and_at_its_end(lines: list[dict[str, object]]) -> None:
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


def test_what_keeps_up_is_not_worth_a_line(lines: list[dict[str, object]]) -> None:
    progress = Progress()
    for second in range(60):
        progress.look(report(second, crossed=second, waiting=second % 7, oldest=0.3))
    progress.look(report(61, crossed=70, matrix="reading"))
    progress.look(report(63, crossed=90))
    assert of_interest(lines) == []


async def test_the_status_outlives_the_process(bridge: World) -> None:
    discord, room = bridge.channels()
    async with bridge.relay() as core:
        recorder = StatusRecorder(store=bridge.store, status=core.status, clock=SystemClock())
        bridge.discord.say(discord, "mira", "one")
        await bridge.shows(room, "one")
        await until(lambda: core.status.last_report().pairs[0].directions["to_matrix"].messages == 1)
        await recorder.save(running=False)
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


async def written(bridge: World) -> str | None:
    """The status in the store."""
    async with bridge.store.read() as uow:
        return await uow.key_values.get(STATUS_KEY)
