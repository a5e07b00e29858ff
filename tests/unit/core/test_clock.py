"""The machine's clocks."""

import time

import pytest

from relay.core.clock import SystemClock


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that goes on while it sleeps")
def test_what_is_granted_for_seconds_runs_out_while_the_machine_sleeps() -> None:
    assert SystemClock().monotonic() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=5)
