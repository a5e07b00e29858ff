"""What cannot be read in the store keeps nobody from anything else: damage, and what a newer relay wrote."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from relay.core.clock import SystemClock
from relay.core.status.reading import read_report
from relay.core.status.recorder import StatusRecorder
from relay.core.status.report import STATUS_KEY
from relay.core.storage import Unreadable
from relay.domain.ids import Platform
from relay.errors import RateLimited, Transient
from tests.support.memory_adapter import MemoryAdapter
from tests.support.patience import PATIENCE
from tests.support.world import World, lane, pair, until, world

DAMAGE = {
    "no JSON": "{",
    "nothing": "",
    "another thing": "[1]",
    "a kind of the future": '{"kind":"send_hologram"}',
    "a block of the future": ('{"kind":"notice","text":{"blocks":[{"kind":"hologram"}]}}'),
    "a number for an ID": '{"kind":"delete","source":{"channel":{"platform":"discord","id":"help"},"id":7}}',
    "a platform of the future": '{"kind":"delete","source":{"channel":{"platform":"irc","id":"help"},"id":"7"}}',
    "words for a list": '{"kind":"notice","text":{"blocks":"abc"}}',
    "a day without a zone": (
        '{"kind":"refresh","source":{"channel":{"platform":"discord","id":"help"},"id":"7"},'
        '"edited_at":"2026-01-01T00:00:00"}'
    ),
    "half a letter": b"\xff\xfe{",
    "too deep": '{"kind":"notice","text":' + "[" * 100_000,
}


def damage(bridge: World, sql: str, *values: object) -> None:
    """Change the file behind the relay's back."""
    with closing(sqlite3.connect(bridge.store.path)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(sql, values)


def unreachable(until_open: asyncio.Event) -> Callable[[MemoryAdapter, MemoryAdapter], None]:
    """Sends to Matrix fail until the event is set."""

    async def before(call: str) -> None:
        if call == "send" and not until_open.is_set():
            raise Transient("the homeserver is down")

    return lambda _, matrix: setattr(matrix, "before", before)


async def three_wait(bridge: World) -> None:
    """Three messages in the outbox, the relay down."""
    here, _ = bridge.channels()
    async with bridge.relay(unreachable(asyncio.Event())):
        for word in ("one", "two", "three"):
            bridge.discord.say(here, "ann", word)
        async with asyncio.timeout(PATIENCE):
            while True:
                async with bridge.store.read() as uow:
                    depths = await uow.outbox.depths()
                if lane(Platform.MATRIX) in depths and depths[lane(Platform.MATRIX)].waiting == 3:
                    return
                await asyncio.sleep(0.002)


@pytest.mark.parametrize("payload", DAMAGE.values(), ids=DAMAGE.keys())
async def test_a_row_that_cannot_be_read_is_a_dead_letter_and_the_others_cross(
    bridge: World, payload: str | bytes
) -> None:
    await three_wait(bridge)
    damage(bridge, "UPDATE outbox SET command = ? WHERE source_id LIKE '%2'", payload)
    _, there = bridge.channels()
    async with bridge.relay():
        await bridge.shows(there, "one", "three")
        await bridge.quiet()
        await until(lambda: len(bridge.discord.reactions) == 1)
        async with bridge.store.read() as uow:
            (letter,) = await uow.outbox.dead()
        assert isinstance(letter.entry.command, Unreadable)
        raw = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else payload
        assert letter.entry.command.payload == raw
        assert letter.reason.startswith("it cannot be read (")
        async with bridge.store.write() as uow:
            assert await uow.outbox.retry(letter.entry.id)
    async with bridge.relay():
        await bridge.quiet()
        async with bridge.store.write() as uow:
            assert [letter.entry.id for letter in await uow.outbox.dead()] == [letter.entry.id]
            assert await uow.outbox.discard(letter.entry.id)


async def test_an_answer_of_the_future_is_a_dead_letter_and_the_other_answers_come(bridge: World) -> None:
    _, there = bridge.channels()
    async with bridge.relay(unreachable(asyncio.Event())):
        asked = [bridge.matrix.say(there, name, "!relay whoami") for name in ("ann", "ben", "carl")]
        async with asyncio.timeout(PATIENCE):
            while True:
                async with bridge.store.read() as uow:
                    depths = await uow.outbox.depths()
                if sum(depth.waiting for depth in depths.values()) == len(asked):
                    break
                await asyncio.sleep(0.002)
    future = '{"kind":"sing","source":{"channel":{"platform":"matrix","id":"help"},"id":"7"},"tune":"none"}'
    damage(bridge, "UPDATE outbox SET command = ? WHERE id = (SELECT min(id) + 1 FROM outbox)", future)
    async with bridge.relay():
        await until(lambda: len([one for one in bridge.shown(there) if one.author.is_self]) == 2)
        await bridge.quiet()
        async with bridge.store.read() as uow:
            (letter,) = await uow.outbox.dead()
    assert [one.reply_to for one in bridge.shown(there) if one.author.is_self] == [asked[0], asked[2]]
    assert isinstance(letter.entry.command, Unreadable)
    assert letter.entry.command.payload == future


@pytest.mark.parametrize("moment", ["yesterday", 10**18, b"\xff"])
async def test_a_row_whose_time_is_damaged_crosses_all_the_same(bridge: World, moment: object) -> None:
    await three_wait(bridge)
    damage(bridge, "UPDATE outbox SET queued_at = ?", moment)
    _, there = bridge.channels()
    async with bridge.relay() as core:
        await core.status.report()
        await bridge.shows(there, "one", "two", "three")


async def test_a_lane_to_a_platform_of_the_future_is_nobody_s_trouble(bridge: World) -> None:
    await three_wait(bridge)
    damage(
        bridge,
        "INSERT INTO lane (source_platform, source_channel, destination_platform, destination_channel, waiting, dead)"
        " VALUES ('irc', '#a', 'matrix', 'help', 1, 1)",
    )
    damage(bridge, "INSERT INTO address VALUES ('irc', '#a', '#a')")
    _, there = bridge.channels()
    async with bridge.relay() as core:
        await bridge.shows(there, "one", "two", "three")
        assert (await core.status.report()).undeclared == ()


@pytest.mark.parametrize(
    "saved",
    [
        "{",
        "[]",
        '{"lanes":[7,{"source":["discord","help"]},{"source":[1,2],"destination":["matrix","help"],"dropped":[]}]}',
        '{"pairs":{"name":"help"},"daemon":[],"discord":[],"matrix":{"connected":true}}',
        '{"pairs":["help",{"name":"help","to_matrix":{"messages":"many","dropped":7}}],"daemon":{"updated_at":"…"}}',
        b"\xff\xfe",
    ],
)
async def test_a_status_that_cannot_be_read_is_begun_anew(bridge: World, saved: str | bytes) -> None:
    async with bridge.store.write() as uow:
        await uow.key_values.put(STATUS_KEY, "{}")
    damage(bridge, "UPDATE notebook SET value = ?", saved)
    async with bridge.relay() as core:
        kept = StatusRecorder(store=bridge.store, status=core.status, clock=SystemClock())
        await kept.restore()
        report = await read_report(bridge.store, bridge.pairs, running=True, now=SystemClock().now())
        assert [pair.name for pair in report.pairs] == ["help"]
        assert report.daemon.updated_at is None
        await kept.look()


async def test_a_shared_copy_that_cannot_be_read_keeps_its_words(tmp_path: Path) -> None:
    limited = [RateLimited("slow down", retry_after=0.2)]

    async def before(call: str) -> None:
        if call == "send" and limited:
            raise limited.pop()

    async with (
        world(tmp_path, pair(batch_when_behind=0.01)) as bridge,
        bridge.relay(lambda _, matrix: setattr(matrix, "before", before)),
    ):
        here, there = bridge.channels()
        said = [bridge.discord.say(here, "ann", word) for word in ("one", "two", "three")]
        await bridge.shows(there, "one\ntwo\nthree")
        await bridge.quiet()
        damage(bridge, "UPDATE batch SET command = '{'")
        bridge.discord.edit(said[1], "zwei")
        bridge.discord.delete(said[2])
        await bridge.quiet()
        bridge.discord.say(here, "ann", "answer", reply_to=said[0])
        await bridge.shows(there, "one\ntwo\nthree", "answer")
        async with bridge.store.read() as uow:
            assert ["cannot be read" in letter.reason for letter in await uow.outbox.dead()] == [True, True]
