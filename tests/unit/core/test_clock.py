"""The machine's clocks, and how long a platform that asks for patience is heeded."""

import asyncio
import json
import time

import pytest

from relay.core.clock import Bell, Flag, SystemClock, retry_after_seconds


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that goes on while it sleeps")
def test_what_is_granted_for_seconds_runs_out_while_the_machine_sleeps() -> None:
    assert SystemClock().monotonic() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=5)


async def test_a_flag_lets_who_waits_go_on_although_it_is_cleared_at_once() -> None:
    flag = Flag()
    waiting = asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    flag.set()
    flag.set()
    assert flag.is_set()
    flag.clear()
    await waiting
    given_up = asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    assert not given_up.done()
    given_up.cancel()
    flag.set()
    assert await asyncio.wait((given_up,)) == ({given_up}, set())
    assert given_up.cancelled()
    await flag.wait()


async def test_a_bell_wakes_all_who_wait_for_it_and_for_others_that_ring_with_it() -> None:
    one, other, clock = Bell(), Bell(), SystemClock()
    one.others.append(other)
    waiting = [asyncio.create_task(bell.wait(clock, 3600.0)) for bell in (one, one, other)]
    await asyncio.sleep(0)
    other.ring()
    await waiting[2]
    assert not any(task.done() for task in waiting[:2])
    waiting[2] = asyncio.create_task(other.wait(clock, 3600.0))
    await asyncio.sleep(0)
    one.ring()
    await asyncio.gather(*waiting)
    await one.wait(clock, 0.0)


async def test_who_is_cancelled_while_waiting_for_a_bell_leaves_nothing_behind() -> None:
    bell = Bell()
    before = asyncio.all_tasks()
    waiting = asyncio.create_task(bell.wait(SystemClock(), 3600.0))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (2.5, 2.5),
        ("7", 7.0),
        (0, 0.0),
        (-3, 0.0),
        ("-1e9", 0.0),
        (86_400 * 365, 3600.0),
        (10**400, 3600.0),
        (json.loads("1e999"), 3600.0),
        ("inf", 3600.0),
        (json.loads("NaN"), None),
        ("nan", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("", None),
        (None, None),
        (True, None),
        ([1], None),
        ({"s": 1}, None),
    ],
)
def test_a_wait_is_a_number_of_seconds_and_an_hour_at_most(told: object, seconds: float | None) -> None:
    assert retry_after_seconds(told) == seconds


def test_milliseconds() -> None:
    assert retry_after_seconds(2500, unit=0.001) == 2.5
    assert retry_after_seconds(10**400, unit=0.001) == 3600.0
