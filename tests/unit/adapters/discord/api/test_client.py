"""Requests to Discord that are not made."""

import pytest

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.errors import Unanswered
from relay.adapters.discord.api.rate_limits import RateLimits
from relay.core.clock import SystemClock
from relay.core.ports import NOT_OURS


async def test_one_that_may_have_lost_the_store_changes_nothing_and_still_reads() -> None:
    clock = SystemClock()
    client = RestClient(
        token="a", api_url="http://127.0.0.1:1", clock=clock, limits=RateLimits(clock), may_write=lambda: False
    )
    try:
        with pytest.raises(Unanswered, match=NOT_OURS) as refused:
            await client.call(Route("POST", "/channels/{channel}/messages", {"channel": "1"}), body={})
        assert not refused.value.sent
        with pytest.raises(Unanswered, match="cannot be reached"):
            await client.call(Route("GET", "/channels/{channel}/messages", {"channel": "1"}))
    finally:
        await client.close()
