"""Odd payloads of the gateway are read, and its answers to heartbeats are timed."""

import asyncio
import random
import time
from typing import cast

import aiohttp
import discord.utils
from discord.gateway import KeepAliveHandler

from relay.adapters.discord.api.client import RestClient
from relay.adapters.discord.gateway.connection import Gateway, _WebSocket
from relay.core.clock import SystemClock


def test_a_payload_that_no_json_reader_reads_does_not_end_the_connection() -> None:
    url = "https://discord.com/api/v10"
    gateway = Gateway(token="", api_url=url, rest=cast(RestClient, None), clock=SystemClock(), rng=random.Random(0))
    gateway._point_library_at("wss://gateway.discord.gg/")
    deep = "[" * 100_000 + "]" * 100_000
    read = discord.utils._from_json
    assert read(f'{{"op":0,"s":7,"d":{{"content":"tea","embeds":{deep}}}}}')["d"]["content"] == "tea"


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
