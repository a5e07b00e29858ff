"""Fixtures: a Discord-compatible server for each test."""

from collections.abc import AsyncIterator

import pytest

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
