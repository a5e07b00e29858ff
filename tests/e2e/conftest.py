from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from relay.sandbox.homeserver import Homeserver
from tests.support.town import Town, town


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def homeserver() -> AsyncIterator[Homeserver]:
    """One real Synapse for all tests of a worker; each test has accounts and rooms of its own."""
    async with Homeserver() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest_asyncio.fixture(loop_scope="session")
async def help_town(homeserver: Homeserver, tmp_path: Path) -> AsyncIterator[Town]:
    """A town with one pair, `help`, and the daemon running."""
    async with town(tmp_path, homeserver) as made:
        await made.daemon.start()
        yield made
