"""What a message asks of the store, counted: the figures fall or stay. Times are for tests/benchmarks/hot_path.py."""

import asyncio
from pathlib import Path

import pytest

from relay.domain.ids import Platform
from tests.support.memory_adapter import MemoryAdapter
from tests.support.store_counts import counting
from tests.support.world import pair, until, world

MESSAGES = 10


@pytest.mark.parametrize("source", Platform)
async def test_a_message_is_two_transactions(tmp_path: Path, source: Platform) -> None:
    with counting() as counts:
        async with world(tmp_path, pair()) as place, place.relay() as core:
            here, there = (place.discord, place.matrix) if source is Platform.DISCORD else (place.matrix, place.discord)
            adapters = (place.discord_adapter, place.matrix_adapter)
            for number in range(1, 3 + MESSAGES):
                if number == 3:  # by now all that is looked up once is known
                    counts.reset()
                here.say(here.channel("help"), "ann", f"message {number}")
                # The receipt is on disk, and the echo was received.
                await until(lambda number=number: core.status.accepted(there.platform) == number)  # type: ignore[misc]
                await until(lambda: not any(adapter is not None and adapter.unread() for adapter in adapters))
    assert counts.transactions <= 2 * MESSAGES
    assert counts.trips <= 2 * MESSAGES
    assert counts.reads == 0
    assert counts.statements.total() <= 13 * MESSAGES, counts.statements


async def test_what_waits_in_a_busy_lane_is_not_looked_up_again(tmp_path: Path) -> None:
    gate = asyncio.Event()

    def prepare(_: MemoryAdapter, matrix: MemoryAdapter) -> None:
        async def before(call: str) -> None:
            if call == "send":
                await gate.wait()

        matrix.before = before

    gate.set()
    with counting() as counts:
        async with world(tmp_path, pair()) as place, place.relay(prepare) as core:
            here, there = place.channels()
            place.discord.say(here, "ann", "the first is looked up")
            await place.shows(there, "the first is looked up")
            gate.clear()
            for number in range(MESSAGES):
                place.discord.say(here, "ann", f"message {number}")
            await until(lambda: place.discord_adapter is not None and not place.discord_adapter.unread())
            await core.dispatcher.check_outbox()  # as each second
            counts.reset()
            gate.set()
            await until(lambda: core.status.accepted(Platform.MATRIX) == 1 + MESSAGES)
    assert counts.reads < MESSAGES  # a look at the outbox may fall into it


async def test_a_later_start_names_no_lane_again(tmp_path: Path) -> None:
    with counting() as counts:
        async with world(tmp_path, pair()) as place:
            for _ in range(2):
                counts.reset()
                async with place.relay():
                    await place.quiet()
    # Each of the four lanes had its row made and named again.
    assert counts.statements["UPDATE"] == 0, counts.statements


async def test_a_channel_that_opens_as_an_earlier_process_left_it_is_written_down_once(tmp_path: Path) -> None:
    transactions = []
    with counting() as counts:
        async with world(tmp_path, pair()) as place:
            for _ in range(2):
                counts.reset()
                async with place.relay():
                    await place.quiet()
                transactions.append(counts.transactions)
    # Each of its two channels had a transaction again.
    assert transactions[0] - transactions[1] >= 2, transactions
