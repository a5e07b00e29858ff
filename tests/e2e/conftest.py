"""Fixtures: a real homeserver for each worker, and the daemon between it and a sandbox."""

import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from relay.demo.homeserver import Homeserver
from relay.sandbox.rate_limits import Limits
from tests.support.chat import Chat, chats
from tests.support.demo import chromium
from tests.support.preloaded import Forks, preloaded
from tests.support.stack import FullStack, stack


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Daemons start without loading their modules again."""
    with preloaded() as made:
        yield made


@pytest.fixture(autouse=True)
def no_daemon_is_left(forks: Forks) -> Iterator[None]:
    """Whatever a test that fails has started ends with it."""
    before = set(forks.running())
    yield
    for process in set(forks.running()) - before:
        process.send_signal(signal.SIGKILL)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One for all tests of a worker."""
    async with chromium() as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest_asyncio.fixture(loop_scope="session")
async def help_stack(homeserver: Homeserver, tmp_path: Path) -> AsyncIterator[FullStack]:
    """The full stack with one pair, `help`, and the daemon running."""
    async with stack(tmp_path, homeserver) as made:
        await made.daemon.start()
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared_stack(
    homeserver: Homeserver, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[Iterator[Chat]]:
    """The full stack with a pair for each test of a module that asks for one, and the daemon running."""
    items = (item for item in request.session.items if isinstance(item, pytest.Function))
    count = sum(item.module is request.module and "chat" in item.fixturenames for item in items)
    folder, pairs = tmp_path_factory.mktemp("shared_stack"), [f"chat-{number}" for number in range(count)]
    # What a channel takes in two seconds is shown elsewhere.
    async with stack(folder, homeserver, pairs, limits=Limits(factor=0)) as made:
        await made.daemon.start()
        yield chats(made)


@pytest.fixture
def chat(shared_stack: Iterator[Chat]) -> Chat:
    """A pair of a running daemon that no other test has used."""
    return next(shared_stack)


@pytest.fixture
def own_pair(chat: Chat) -> FullStack:
    """The same as a stack whose only pair is `help`: for tests that do nothing to the daemon, the server or the bot."""
    return replace(chat.stack, channels={"help": chat.channel}, rooms={"help": chat.room})
