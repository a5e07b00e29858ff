"""How far the relay is with catching up stands in the log, and nothing stands there while it keeps up."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from relay.core.clock import SystemClock
from relay.core.ports import SideHealth
from relay.core.status.counters import NOTEBOOK_ENTRY, DirectionStatus, PairStatus, Snapshot
from relay.core.status.recorder import Progress, StatusKeeper
from relay.errors import Transient
from tests.support.world import World, until

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def snapshot(second: float, *, crossed: int, waiting: int = 0, oldest: float | None = None, **sides: str) -> Snapshot:
    way = DirectionStatus(crossed, None, waiting, oldest, 0, {}, 0)
    health = {name: SideHealth("catching_up", detail) for name, detail in sides.items()}
    return Snapshot((PairStatus("help", None, {"to_matrix": way}),), health, NOON + timedelta(seconds=second))


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
        progress.look(snapshot(second, crossed=100 + second * 10, waiting=300, discord="3 channels to go"))
    progress.look(snapshot(25, crossed=350, waiting=80, oldest=40.0))
    progress.look(snapshot(26, crossed=430))
    progress.look(snapshot(60, crossed=431))
    assert of_interest(lines) == [
        {"event": "catching up", "messages": 100, "waiting": 300, "seconds": 10, "discord": "3 channels to go"},
        {"event": "catching up", "messages": 200, "waiting": 300, "seconds": 20, "discord": "3 channels to go"},
        {"event": "caught up", "messages": 330, "seconds": 26},
    ]


def test_what_keeps_up_is_not_worth_a_line(lines: list[dict[str, object]]) -> None:
    progress = Progress()
    for second in range(60):
        progress.look(snapshot(second, crossed=second, waiting=second % 7, oldest=0.3))
    progress.look(snapshot(61, crossed=70, matrix="reading"))
    progress.look(snapshot(63, crossed=90))
    assert of_interest(lines) == []


async def test_the_status_outlives_the_process(bridge: World) -> None:
    discord, room = bridge.channels()
    async with bridge.relay() as core:
        kept = StatusKeeper(store=bridge.store, status=core.status, dispatcher=core.dispatcher, clock=SystemClock())
        bridge.discord.say(discord, "mira", "one")
        await bridge.shows(room, "one")
        await until(lambda: core.status.cached_snapshot().pairs[0].directions["to_matrix"].messages == 1)
        await kept.save(running=False)
    async with bridge.relay() as core:
        later = StatusKeeper(store=bridge.store, status=core.status, dispatcher=core.dispatcher, clock=SystemClock())
        await later.restore()
        assert core.status.cached_snapshot().pairs[0].directions["to_matrix"].messages == 1


async def test_nothing_waits_for_its_next_try_once_its_platform_is_back(bridge: World) -> None:
    discord, room = bridge.channels()
    tries: list[str] = []

    async def before(call: str) -> None:
        if call == "send" and len(tries) < 9:
            tries.append(call)
            raise Transient("nobody answers")

    async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)) as core:
        kept = StatusKeeper(store=bridge.store, status=core.status, dispatcher=core.dispatcher, clock=SystemClock())
        keeping = asyncio.create_task(kept.run())
        bridge.discord.say(discord, "mira", "one")
        while len(tries) < 9:  # by then it waits for half a minute at least
            core.dispatcher.retry_now()
            await asyncio.sleep(0)
        assert bridge.matrix_adapter is not None
        bridge.matrix_adapter.state = SideHealth("connecting")
        await until_saved(bridge, connected=False)
        bridge.matrix_adapter.state = SideHealth("ready")
        await bridge.shows(room, "one")
        keeping.cancel()


async def test_nothing_is_written_while_nothing_happens(bridge: World) -> None:
    discord, room = bridge.channels()
    async with bridge.relay() as core:
        kept = StatusKeeper(store=bridge.store, status=core.status, dispatcher=core.dispatcher, clock=SystemClock())
        bridge.discord.say(discord, "mira", "one")
        await bridge.shows(room, "one")
        await until(lambda: core.status.cached_snapshot().pairs[0].directions["to_matrix"].messages == 1)
        await kept.look()
        before = await written(bridge)
        await kept.look()
        assert await written(bridge) == before
        bridge.discord.say(discord, "mira", "two")
        await bridge.shows(room, "one", "two")
        await until(lambda: core.status.cached_snapshot().pairs[0].directions["to_matrix"].messages == 2)
        await kept.look()
        assert await written(bridge) != before


async def written(bridge: World) -> str | None:
    """The status in the store."""
    async with bridge.store.read() as uow:
        return await uow.key_values.get(NOTEBOOK_ENTRY)


async def until_saved(bridge: World, *, connected: bool) -> None:
    """Wait until the store knows how Matrix is."""
    while True:
        async with bridge.store.read() as uow:
            saved = json.loads(await uow.key_values.get(NOTEBOOK_ENTRY) or "{}")
        if saved.get("matrix", {}).get("connected") is connected:
            return
        await asyncio.sleep(0.01)
