"""IDs rise, and tell when they were made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.sandbox.world.models import Snowflakes, at, timestamp_of


@given(st.lists(st.floats(1_500_000_000, 2_000_000_000), min_size=1, max_size=50))
def test_snowflakes_rise_whatever_the_clock_does(times: list[float]) -> None:
    moments = iter(times)
    mint = Snowflakes(lambda: next(moments))
    minted = [mint.next() for _ in times]
    assert minted == sorted(set(minted))
    assert timestamp_of(minted[0]) == pytest.approx(times[0], abs=0.002)


def test_the_documentations_own_snowflake() -> None:
    # https://discord.com/developers/docs/reference#convert-snowflake-to-datetime
    assert timestamp_of(175928847299117063) == 1462015105.796
    assert at(1462015105.796) <= 175928847299117063 < at(1462015105.797)
