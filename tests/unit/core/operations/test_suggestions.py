"""Channels that are called alike are offered as pairs."""

import pytest

from relay.core.operations.findings import VisibleChannel
from relay.core.operations.suggestions import pair_names, suggest


def channel(name: str, address: str = "", problem: str | None = None) -> VisibleChannel:
    return VisibleChannel(address or name, name, problem=problem)


def offered(here: list[str], there: list[str]) -> dict[str, str]:
    return {one.here.name: one.there.name for one in suggest([*map(channel, here)], [*map(channel, there)])}


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("#help", "Help"),
        ("#general-chat", "General Chat"),
        ("#🎨-art", "Art"),
        ("#help", "Stash Help"),
        ("#café", "cafe"),
        ("#announcements", "Announcement"),
        ("#off-topic", "Offtopic"),
    ],
)
def test_names_that_mean_the_same(here: str, there: str) -> None:
    assert offered([here], [there]) == {here: there}


@pytest.mark.parametrize(("here", "there"), [("#help", "General"), ("#art", "Party"), ("#a", "b"), ("#🎨", "🎨")])
def test_names_that_do_not(here: str, there: str) -> None:
    assert offered([here], [there]) == {}


def test_each_is_offered_once_and_the_best_comes_first() -> None:
    here, there = ["#help-german", "#help", "#news"], ["Stash Help German", "Stash Help", "News", "Help wanted"]
    assert offered(here, there) == {
        "#news": "News",
        "#help-german": "Stash Help German",
        "#help": "Stash Help",
    }
    assert next(iter(offered(here, there))) == "#news"


def test_an_alias_counts_as_a_name() -> None:
    (found,) = suggest([channel("#help")], [channel("Questions and answers", "#stash-help:example.org")])
    assert found.there.address == "#stash-help:example.org"


def test_of_two_that_are_equally_alike_the_usable_one_is_offered() -> None:
    (found,) = suggest([channel("#help")], [channel("Help", "!a", "it is encrypted"), channel("help", "!b")])
    assert found.there.address == "!b"
    assert found.usable


def test_sixty_rooms_are_matched_at_once() -> None:
    names = [f"topic-{number} {word}" for number in range(20) for word in ("news", "help", "art")]
    assert len(offered([f"#{name}" for name in names], [f"Stash {name}" for name in names])) == 60


def test_no_two_pairs_have_one_name() -> None:
    channels = [channel("#help"), channel("#Help"), channel("#help"), channel("#\u202e", "7")]
    assert list(pair_names(channels)) == ["help", "Help-2", "help-3", "7"]
