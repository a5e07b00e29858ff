"""Histories on a real server that misbehaves (`python -m tests.simulation --postgresql` plays many)."""

import gc
from collections.abc import Iterator

import pytest

from relay.store.postgresql.transactions import Writer
from tests.simulation.runner import play_on
from tests.simulation.server import OwnServer, own_server
from tests.support.logs import quiet_logs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    with quiet_logs(), own_server() as server:
        yield server


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    """What killed processes leave behind is collected here: no later test is to be told of their open connections."""
    yield
    gc.collect()


def test_the_promise_is_kept(own: OwnServer) -> None:
    struck: set[str] = set()
    for seed in range(1, 6):
        report = play_on(own, seed)
        assert report.violations == []
        struck |= {name for name in report.troubles if name.startswith("database ")}
    assert struck >= {"database lost before", "database lost after"}


def test_a_seed_gives_the_same_history_again(own: OwnServer) -> None:
    first, second = play_on(own, 3), play_on(own, 3)
    assert first.trace == second.trace
    assert "database starting" in first.troubles


def test_it_finds_a_commit_that_is_believed_to_be_done(own: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def surely(self: Writer, number: str, process: int) -> bool:
        return True

    monkeypatch.setattr(Writer, "_was_committed", surely)
    seeds = (*range(43, 62), *range(31, 43))  # from where it was found last
    assert any("lost" in violation for seed in seeds for violation in play_on(own, seed).violations)
