"""A store of each implementation in `STORES`, for the tests that all of them have to pass."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from relay.core.storage import Store
from tests.support.store_contract import STORES, Opener


@pytest.fixture(params=STORES, ids=lambda made: made.__name__)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the store of this test, also again."""
    with request.param(tmp_path) as opens:
        yield opens


@pytest.fixture
async def store(opener: Opener) -> AsyncIterator[Store]:
    opened = await opener()
    yield opened
    await opened.close()
