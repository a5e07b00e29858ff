"""Fixtures: a database of PostgreSQL for each test."""

from collections.abc import AsyncIterator, Iterator

import pytest

from relay.store.unit_of_work import SqlStore, open_store
from tests.support.postgresql import Server, server


@pytest.fixture
def running() -> Server:
    """The server of all tests."""
    return server()


@pytest.fixture
def empty(running: Server) -> Iterator[str]:
    """The URL of a database without tables."""
    with running.database(migrated=False) as url:
        yield url


@pytest.fixture
def url(running: Server) -> Iterator[str]:
    """The URL of a migrated database."""
    with running.database() as url:
        yield url


@pytest.fixture(params=["alone", "among tenants"])
def either(request: pytest.FixtureRequest, url: str) -> str:
    """The same for a store that has connections of its own, and for one that shares them."""
    return url if request.param == "alone" else f"{url}&search_path=public"


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    """A store on a migrated database."""
    opened = await open_store(url)
    yield opened
    await opened.close()
