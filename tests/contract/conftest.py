"""Fixtures: a Discord-compatible server for each test, a homeserver for each file."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from relay.demo.homeserver import Homeserver
from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer
from tests.support.discord import World
from tests.support.discord_bot import raw
from tests.support.sandbox import Place


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with SandboxServer(limits=Limits(factor=0)) as server:
        yield World(server)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with SandboxServer(limits=Limits(factor=0)) as sandbox:
        made = sandbox.control.bootstrap()
        async with raw(sandbox, made["token"]) as call:
            yield Place(sandbox, call, made)


@pytest.fixture(scope="module")
def homeserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homeserver]:
    """One for all tests of a file: each makes its own people and rooms, and leaves it running."""
    server = Homeserver(tmp_path_factory.mktemp("homeserver"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.kill())
