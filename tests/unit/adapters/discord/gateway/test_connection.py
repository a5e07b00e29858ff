"""Odd payloads of the gateway are read."""

import random
from typing import cast

import discord.utils

from relay.adapters.discord.api.client import RestClient
from relay.adapters.discord.gateway.connection import Gateway
from relay.core.clock import SystemClock


def test_a_payload_that_no_json_reader_reads_does_not_end_the_connection() -> None:
    url = "https://discord.com/api/v10"
    gateway = Gateway(token="", api_url=url, rest=cast(RestClient, None), clock=SystemClock(), rng=random.Random(0))
    gateway._point_library_at("wss://gateway.discord.gg/")
    deep = "[" * 100_000 + "]" * 100_000
    read = discord.utils._from_json
    assert read(f'{{"op":0,"s":7,"d":{{"content":"tea","embeds":{deep}}}}}')["d"]["content"] == "tea"
