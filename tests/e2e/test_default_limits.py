"""A plain bot on a homeserver that gives it 0.2 messages a second: the normal case of a community that runs none."""

import json
from pathlib import Path

import pytest

from relay.adapters.matrix.allowance import RATE_LIMIT
from relay.demo.matrix_client import Shown
from tests.support.homeserver import ForkedHomeserver
from tests.support.rush import rush
from tests.support.stack import FullStack, eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAIRS = ["one", "two", "three", "four", "five", "six"]


async def test_a_rush_crosses_in_order_and_stays_editable(tmp_path: Path) -> None:
    """`python -m tests.benchmarks.default_limits` plays the long one: 240 messages in a minute."""
    async with (
        ForkedHomeserver(default_limits=True) as homeserver,
        stack(tmp_path, homeserver, PAIRS, lift_limits=False) as place,
    ):
        await place.daemon.start()
        result = await rush(place, PAIRS, count=60, seconds=10, patience=90)
        assert result.in_order
        assert result.events < 40
        await _batched_messages_are_edited_deleted_and_replied_to(place)
        await _the_limit_is_told_and_lifted(place)


async def _the_limit_is_told_and_lifted(place: FullStack) -> None:
    # As the daemon has learnt it, and as it is measured without one.
    told = {}
    for running in (True, False):
        if not running:
            assert await place.daemon.stop() == 0
        _, text = await place.daemon.relay("check", "--json")
        told = {one["subject"]: one for one in json.loads(text)["findings"]}[RATE_LIMIT]
        assert told["state"] == "note", (running, told)
        assert 3 < float(told["words"].partition("one message in ")[2].partition(" s")[0] or 0) < 7, (running, told)
    request, _, body = told["remedy"].partition("POST ")[2].partition(" with ")
    await place.homeserver.administer("POST", request, json.loads(body))
    status, text = await place.daemon.relay("check")
    assert status == 0
    assert f"✓ {RATE_LIMIT}: 25 messages in a row were taken" in text


async def _batched_messages_are_edited_deleted_and_replied_to(place: FullStack) -> None:
    pair, event = await _batch(place)
    channel = place.channels[pair]
    first, second, *_ = (
        message for message in place.on_discord(pair) if f"{message['content']}\n" in f"{event.body}\n"
    )
    place.control.edit(channel, first["id"], "edited words")
    place.control.delete(channel, second["id"])
    changed = await eventually(
        lambda: _event(place, pair, event.event_id),
        lambda seen: "edited words" in seen and second["content"] not in seen,
        what=place.daemon.log,
    )
    assert first["content"] not in changed
    place.say(pair, "an answer", reply_to=first["id"])
    shown = await eventually(
        lambda: place.on_matrix(pair), lambda seen: seen[-1].body.endswith("an answer"), what=place.daemon.log
    )
    assert shown[-1].reply_to == event.event_id


async def _event(place: FullStack, pair: str, event_id: str) -> str:
    return next(message.body for message in await place.on_matrix(pair) if message.event_id == event_id)


async def _batch(place: FullStack) -> tuple[str, Shown]:
    """An event in which several messages stand, and its pair."""
    for pair in PAIRS:
        for message in await place.on_matrix(pair):
            if message.body.count("number") > 2:
                return pair, message
    raise AssertionError("no messages crossed together")
