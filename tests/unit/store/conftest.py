from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.store.migrate import upgrade
from relay.store.unit_of_work import SqlStore, open_store


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a new store that is migrated."""
    made = f"sqlite:///{tmp_path / 'relay.db'}"
    upgrade(made)
    return made


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    """A new store."""
    opened = await open_store(url)
    yield opened
    await opened.close()
