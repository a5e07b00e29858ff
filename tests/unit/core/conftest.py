"""Fixture: the real core and store between two platforms in memory."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.world import World, world


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made
