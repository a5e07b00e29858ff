"""Odd payloads of the gateway are read, its answers to heartbeats are timed, and its sessions are not used up."""

import asyncio
import random
import time
from typing import cast

import aiohttp
import discord.utils
import pytest
from discord.gateway import KeepAliveHandler

from relay.adapters.discord.api.client import RestClient
from relay.adapters.discord.gateway.connection import Gateway, _WebSocket, identify_pause
from relay.core.clock import SystemClock
from relay.domain.jsontext import Json


def test_a_payload_that_no_json_reader_reads_does_not_end_the_connection() -> None:
    url = "https://discord.com/api/v10"
    gateway = Gateway(token="", api_url=url, rest=cast(RestClient, None), clock=SystemClock(), rng=random.Random(0))
    gateway._point_library_at("wss://gateway.discord.gg/")
    deep = "[" * 100_000 + "]" * 100_000
    read = discord.utils._from_json
    assert read(f'{{"op":0,"s":7,"d":{{"content":"tea","embeds":{deep}}}}}')["d"]["content"] == "tea"


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ({"total": 1000, "remaining": 990, "reset_after": 86_000_000}, 5.2),
        ({"total": 1000, "remaining": 400, "reset_after": 72_000_000}, 180),
        ({"total": 1000, "remaining": 1, "reset_after": 60_000}, 60),
        ({"total": 1000, "remaining": 400, "reset_after": 1000}, 5.2),
        ({"remaining": 3}, 5.2),
        ({"total": None, "remaining": None, "reset_after": None}, 5.2),
    ],
)
def test_the_days_sessions_last_for_the_day(limit: Json, seconds: float) -> None:
    assert identify_pause(limit) == seconds


class AnswersAtOnce:
    """The socket of a gateway that is so near that its answer is there before the sender's thread runs again."""

    answered: KeepAliveHandler

    async def send_str(self, _: str) -> None:
        self.answered.ack()


async def test_an_answer_is_measured_from_its_own_heartbeat() -> None:
    """Each second heartbeat on loopback was "41.3s behind", although all was well."""
    socket = AnswersAtOnce()
    ws = _WebSocket(cast(aiohttp.ClientWebSocketResponse, socket), loop=asyncio.get_running_loop())
    ws._max_heartbeat_timeout = 60.0
    socket.answered = ws._keep_alive = KeepAliveHandler(ws=ws, interval=41.25)
    ws._keep_alive._last_send = time.perf_counter() - 41.25
    await ws.send_heartbeat(ws._keep_alive.get_payload())
    assert ws.latency < 41.25
