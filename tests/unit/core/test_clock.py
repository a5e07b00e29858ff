"""A server's time of day, whatever ours is."""

from datetime import UTC, datetime, timedelta

import pytest

from relay.core.clock import ServerTime, SystemClock

TRUE = datetime(2026, 11, 28, 9, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Wrong(SystemClock):
    """Off by so much; its seconds pass when they are told to."""

    def __init__(self, off: timedelta) -> None:
        self.off = off
        self.seconds = 1_000.0

    def now(self) -> datetime:
        return TRUE + self.off + timedelta(seconds=self.seconds - 1_000)

    def monotonic(self) -> float:
        return self.seconds


@pytest.mark.parametrize("off", [timedelta(), timedelta(days=-1), timedelta(days=1), timedelta(minutes=5)], ids=str)
def test_a_servers_time_is_its_own(off: timedelta) -> None:
    clock = Wrong(off)
    time = ServerTime(clock)
    queued_at = clock.now()
    clock.seconds += 60
    time.told(TRUE + 60 * SECOND, within=SECOND)
    assert timedelta() <= time.now() - (TRUE + 60 * SECOND) < timedelta(milliseconds=1)
    assert time.of(queued_at) == TRUE
    clock.seconds += 3600
    assert timedelta() <= time.now() - (TRUE + 3660 * SECOND) < timedelta(milliseconds=1)


def test_what_is_dated_by_it_lies_behind_all_that_was_told() -> None:
    time = ServerTime(Wrong(timedelta(days=-1)))
    time.told(TRUE, within=SECOND)
    time.told(TRUE + timedelta(milliseconds=700))
    first, second = time.now(), time.now()
    assert TRUE + timedelta(milliseconds=700) < second
    assert first < second
    time.told(TRUE - 3600 * SECOND)  # an old message
    assert time.now() > second


def test_a_clock_that_runs_fast_is_set_right_again() -> None:
    clock = Wrong(timedelta())
    time = ServerTime(clock)
    time.told(TRUE, within=SECOND)
    clock.seconds += 3610
    time.told(TRUE + 3600 * SECOND, within=SECOND)
    assert time.now() <= TRUE + 3601 * SECOND
