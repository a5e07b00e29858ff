"""For tests of adapters: a Discord-compatible server for each of them."""

from collections.abc import AsyncIterator

import pytest

from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer
from tests.support.discord import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with SandboxServer(limits=Limits(factor=0)) as server:
        yield World(server)
