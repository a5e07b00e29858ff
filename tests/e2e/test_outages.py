"""A side that does not answer: the daemon says so, waits, and goes on by itself without losing or doubling anything."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from relay.demo.homeserver import Homeserver
from tests.support.gate import Gate
from tests.support.stack import FullStack, eventually, stack

AGAIN = "the homeserver answers again"

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def place(homeserver: Homeserver, tmp_path: Path) -> AsyncIterator[FullStack]:
    async with stack(tmp_path, homeserver) as made:
        yield made


async def until_not_ready(place: FullStack, side: str, *words: str) -> None:
    """Wait until `/readyz` answers 503 because of one side, with these words (at first it only says what it tries)."""

    def told(body: Any) -> bool:
        return body[side]["state"] == "connecting" and all(word in str(body[side]["problem"]) for word in words)

    async def look() -> tuple[int, Any]:
        try:
            status, text = await place.daemon.get("/readyz")
        except KeyError:  # the server is not up yet
            return 0, {}
        return status, json.loads(text)

    _, body = await eventually(look, lambda seen: seen[0] == 503 and told(seen[1]), what=place.daemon.log)
    assert body["ready"] is False


async def converges(place: FullStack, on_matrix: Sequence[str], on_discord: Sequence[str]) -> None:
    """Exactly these words cross, in this order; a last message each way shows that nothing comes behind them."""
    place.say("help", "last from Discord")
    await place.tell("help", "last from Matrix")
    await place.until_matrix("help", lambda words: "last from Discord" in words)
    await place.until_discord("help", lambda words: "last from Matrix" in words)
    mine = {message.event_id for message in await place.on_matrix("help") if message.sender == place.mia.user_id}
    copies = [message for message in await place.on_matrix("help") if message.event_id not in mine]
    assert [message.body.removeprefix("Ada: ") for message in copies] == [*on_matrix, "last from Discord"]
    hooked = [message["content"] for message in place.on_discord("help") if message.get("webhook_id")]
    assert hooked == [*on_discord, "last from Matrix"]


@pytest.mark.parametrize("way", ["shut", "stuck"])
async def test_a_homeserver_that_does_not_answer(place: FullStack, way: str) -> None:
    async def last_told() -> str:
        return [event for event in _events(place) if event in {"no connection to the homeserver", AGAIN}][-1]

    async with Gate(place.homeserver.url) as gate:
        place.daemon.rewrite(place.homeserver.url, gate.url)
        await (gate.shut() if way == "shut" else gate.stick())
        await place.daemon.start(ready=False)
        await until_not_ready(place, "matrix", *([gate.url, "trying again"] if way == "shut" else []))
        await gate.open()
        if way == "shut":
            await place.daemon.until_ready()
        else:
            # What hangs is given up after half a minute: too long for a test.
            assert await place.daemon.stop() == 0
            await place.daemon.start()
        place.say("help", "one")
        await place.until_matrix("help", lambda words: words == ["one"])

        await (gate.shut() if way == "shut" else gate.stick())
        place.say("help", "two")
        await place.tell("help", "zwei")
        place.say("help", "three")
        if way == "shut":
            await until_not_ready(place, "matrix", gate.url)
            assert place.daemon.running
        await gate.open()
        await converges(place, ["one", "two", "three"], ["zwei"])
        await place.daemon.until_ready()
        if way == "shut":
            # The log, too, says that it is over. Where it hung, aiohttp may have asked once more, and nobody noticed.
            await eventually(last_told, lambda event: event == AGAIN, what=place.daemon.log)


@pytest.mark.parametrize("way", ["shut", "stuck"])
async def test_discord_that_does_not_answer(place: FullStack, way: str) -> None:
    async with Gate(place.sandbox.origin) as gate:
        place.daemon.rewrite(place.sandbox.origin, gate.url)
        await (gate.shut() if way == "shut" else gate.stick())
        await place.daemon.start(ready=False)
        await until_not_ready(place, "discord", *(["Discord cannot be reached"] if way == "shut" else []))
        await gate.open()
        if way == "shut":
            await place.daemon.until_ready()
        else:
            assert await place.daemon.stop() == 0
            await place.daemon.start()
        await place.tell("help", "one")
        await place.until_discord("help", lambda words: words == ["one"])

        await (gate.shut() if way == "shut" else gate.stick())
        await place.tell("help", "two")
        place.say("help", "zwei")
        await place.tell("help", "three")
        await gate.open()
        await converges(place, ["zwei"], ["one", "two", "three"])
        await place.daemon.until_ready()


async def test_sends_that_go_wrong_are_made_once(place: FullStack) -> None:
    await place.daemon.start()
    said = ["at first"]
    await place.tell("help", said[0])
    await place.until_discord("help", lambda words: words == said)
    for kind in ("status", "hang", "reset", "malformed", "rate_limit"):
        for when in ("before", "after"):
            fault: dict[str, Any] = {"kind": kind, "when": when, "seconds": 0.2, "status": 502}
            place.control.add_fault(method="POST", path="^/webhooks/", **fault)
            for word in (f"{kind} {when}", f"behind {kind} {when}"):
                said.append(word)
                await place.tell("help", word)
            await place.until_discord("help", lambda words: words[-1] == said[-1])
    await converges(place, [], said)


# https://docs.discord.com/developers/topics/opcodes-and-status-codes#gateway-gateway-close-event-codes; after 4007 and
# 4009 a session cannot be resumed, 1006 stands for a connection that breaks.
@pytest.mark.parametrize("codes", [(1000, 1001, 1006, 4000, 4001, 4002, 4003, 4005, 4008), (4007,), (4009,)])
async def test_a_gateway_that_closes_is_come_back_to(place: FullStack, codes: tuple[int, ...]) -> None:
    await place.daemon.start()
    said = ["before"]
    place.say("help", "before")
    for code in codes:
        if code == 1006:
            place.control.abort_gateway()
        else:
            place.control.close_gateway(code)
        edited = place.say("help", "whlie it is closed")
        place.control.edit(place.channels["help"], edited, f"closed with {code}")
        gone = place.say("help", "never mind")
        place.control.delete(place.channels["help"], gone)
        said.append(f"closed with {code}")
        await place.until_matrix("help", lambda words: words == said)
    await converges(place, said, [])
    await place.daemon.until_ready()


@pytest.mark.parametrize("mischief", ["invalid", "resumable", "reconnect", "garbage", "garbage READY", "refused"])
async def test_a_gateway_that_misbehaves_loses_nothing(place: FullStack, mischief: str) -> None:
    control = place.control
    await place.daemon.start()
    place.say("help", "before")
    match mischief:
        case "invalid":
            control.invalidate_sessions()
        case "resumable":
            control.invalidate_sessions(resumable=True)
        case "reconnect":
            control.ask_reconnect()
        case "garbage":
            for event in ("MESSAGE_CREATE", "GUILD_CREATE", "CHANNEL_UPDATE", "NEVER_HEARD_OF"):
                control.send_unparseable(event)
        case "garbage READY":
            control.send_unparseable("READY")
        case "refused":
            control.refuse_gateway(3)
            control.close_gateway(4000)
    place.say("help", "meanwhile")
    await converges(place, ["before", "meanwhile"], [])
    await place.daemon.until_ready()


def _events(place: FullStack) -> list[str]:
    return [json.loads(line)["event"] for line in place.daemon.log(1_000_000).splitlines()]
