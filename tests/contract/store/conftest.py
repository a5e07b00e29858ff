"""A store of each implementation in `OPENERS`, for the tests that all of them have to pass."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from relay.core.storage import Store
from tests.support.store_contract import OPENERS, Closable


@pytest.fixture(params=OPENERS, ids=lambda opener: opener.__name__)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Awaitable[Closable]]:
    """Opens the store of this test, also again."""
    return lambda: request.param(tmp_path)


@pytest.fixture
async def store(opener: Callable[[], Awaitable[Closable]]) -> AsyncIterator[Store]:
    opened = await opener()
    yield opened
    await opened.close()
