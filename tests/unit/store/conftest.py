"""Fixtures: a new store for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.store.unit_of_work import SqlStore, open_store
from tests.support.store import new_store


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a new store that is migrated."""
    return new_store(tmp_path)


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    """A new store."""
    opened = await open_store(url)
    yield opened
    await opened.close()
