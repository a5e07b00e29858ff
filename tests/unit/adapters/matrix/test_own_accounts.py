"""Which accounts are the relay's, told by their IDs."""

import pytest

from relay.adapters.matrix.identifiers import OwnAccounts
from relay.domain.ids import Platform, UserRef

ADA = UserRef(Platform.DISCORD, "42")
OURS = OwnAccounts(me="@relay:example.org", prefix="_discord_", earlier={"_old_"})


def test_ghosts_are_told_by_prefix_number_and_server() -> None:
    assert OURS.ghost_of(ADA) == "@_discord_42:example.org"
    assert OURS.person("@_discord_42:example.org") == ADA
    assert OURS.is_own("@relay:example.org")
    assert not OURS.is_ghost("@relay:example.org")


@pytest.mark.parametrize(
    "other",
    [
        "@_discord_42:elsewhere.org",
        "@_discord_42:example.org:8448",
        "@_discord_:example.org",
        "@_discord_4x:example.org",
        "@_discord_2_42:example.org",
        "@_discord_٤٢:example.org",
        "@discord_42:example.org",
        "@_other_42:example.org",
        "",
        "@",
    ],
)
def test_others_are_not(other: str) -> None:
    assert not OURS.is_own(other)


def test_those_of_an_earlier_prefix_are_still_ours_but_cannot_act() -> None:
    assert OURS.person("@_old_42:example.org") == ADA
    assert not OURS.is_current("@_old_42:example.org")
    assert OURS.is_current("@_discord_42:example.org")
    assert sorted(OURS.ghosts_of(ADA)) == ["@_discord_42:example.org", "@_old_42:example.org"]


def test_without_a_registration_nobody_has_one() -> None:
    nobody = OwnAccounts(me="@relay:example.org")
    assert nobody.ghost_of(ADA) is None
    assert not nobody.has_ghosts
    assert nobody.ghosts_of(ADA) == []


def test_only_people_of_the_other_side_have_one() -> None:
    assert OURS.ghost_of(UserRef(Platform.MATRIX, "42")) is None
    assert OURS.ghost_of(UserRef(Platform.DISCORD, "../42")) is None
