"""How far sync has been read, as it is written down; and whether a homeserver's count went back."""

from datetime import UTC, datetime

import pytest

from relay.adapters.matrix.cursors import LastTold, SyncPosition, went_back

NOON = datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=UTC)


@pytest.mark.parametrize("token", ["s12_34_0_1", "12", "with spaces in it", "!room:a $event 12", "é"])
@pytest.mark.parametrize("event_id", ["$143273582443PhrSn:example.org", "$acR1l0raoZnm60CBwAVgqbZqoO_mYU81xysh1u7XcJk"])
@pytest.mark.parametrize("room_id", ["!Ab1:example.org", "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM"])
def test_a_position_comes_back_as_it_was(token: str, room_id: str, event_id: str) -> None:
    for position in (SyncPosition(token), SyncPosition(token, LastTold(room_id, event_id, NOON))):
        assert SyncPosition.parse(str(position)) == position


@pytest.mark.parametrize(
    "damaged",
    [
        "nonsense",
        "s12 !room:a",
        "s12 !room:a $event",
        "s12 !room:a $event x",
        "s12 room $event 1",
        "s12 !room:a event 1",
    ],
)
def test_a_damaged_row_is_a_token_that_the_homeserver_will_refuse(damaged: str) -> None:
    assert SyncPosition.parse(damaged) == SyncPosition(damaged)


def test_an_absurd_date_comes_back_as_some_date() -> None:
    text = "s12 !room:a $event "
    for milliseconds in ("0", "253402300799999"):
        position = SyncPosition.parse(text + milliseconds)
        assert position is not None
        assert str(position) == text + milliseconds
    assert SyncPosition.parse(text + "9" * 15) == SyncPosition(text + "9" * 15)
    assert SyncPosition.parse("") is SyncPosition.parse(None) is None


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("s72594_4483_1934", "s72593_4483_1934"),
        ("s100_0", "s99_7"),
        ("m56~2.58_1", "m55~2.58_1"),  # Synapse with several writers
        ("12", "11"),
    ],
)
def test_a_lower_number_went_back(before: str, now: str) -> None:
    assert went_back(before, now)
    assert not went_back(now, before)
    assert not went_back(before, before)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("s12_9", "s12_8"),  # only the first number counts events
        ("s12_9", "t11"),
        ("s12_9", "abc"),
        ("zzz", "aaa"),
        ("s9x", "s8x"),
        ("12.5", "11.5"),
        ("", "1"),
        ("s" + "9" * 19, "s1"),
        ("s٩", "s١"),
        ("-1", "-2"),
    ],
)
def test_a_token_that_says_nothing_went_nowhere(before: str, now: str) -> None:
    assert not went_back(before, now)
