"""Discord's rate limits on a clock of our own."""

import pytest

from relay.adapters.discord.api.rate_limits import _MOST_BUCKETS, INVALID_ANSWERS, Bucket, RateLimits, WaitTooLong
from tests.support.clocks import FakeClock

POST = Bucket("POST /channels/{channel}/messages", "1")


def headers(remaining: int, reset_after: float, bucket: str = "b", limit: int = 5) -> dict[str, str]:
    return {
        "X-RateLimit-Bucket": bucket,
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset-After": str(reset_after),
    }


async def waits(limits: RateLimits, clock: FakeClock, bucket: Bucket = POST) -> float:
    before = clock.seconds
    await limits.acquire(bucket)
    limits.release(bucket)
    return clock.seconds - before


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_an_unknown_bucket_is_free(clock: FakeClock) -> None:
    limits = RateLimits(clock)
    assert [await waits(limits, clock) for _ in range(10)] == [0.0] * 10


async def test_an_empty_bucket_is_waited_for_and_full_again_then(clock: FakeClock) -> None:
    limits = RateLimits(clock)
    await limits.acquire(POST)
    limits.update(POST, 200, headers(0, 2.0))
    limits.release(POST)
    assert await waits(limits, clock) == pytest.approx(2.0)
    assert [await waits(limits, clock) for _ in range(4)] == [0.0] * 4
    assert await waits(limits, clock) == pytest.approx(2.0), "no answer has come since, so this is as much as is sure"


async def test_requests_in_flight_count(clock: FakeClock) -> None:
    limits = RateLimits(clock)
    await limits.acquire(POST)
    await limits.acquire(POST)
    limits.update(POST, 200, headers(1, 2.0))
    limits.release(POST)
    assert await waits(limits, clock) == pytest.approx(2.0), "the one that is left belongs to the one in flight"


async def test_routes_share_a_bucket_and_channels_do_not(clock: FakeClock) -> None:
    limits = RateLimits(clock)
    patch = Bucket("PATCH …", "1")
    for bucket in (POST, patch):
        await limits.acquire(bucket)
        limits.update(bucket, 200, headers(0, 3.0))
        limits.release(bucket)
        clock.seconds += 3
    await limits.acquire(POST)
    limits.update(POST, 200, headers(0, 3.0))
    limits.release(POST)
    assert await waits(limits, clock, Bucket(POST.route, "2")) == 0.0
    assert await waits(limits, clock, patch) == pytest.approx(3.0)


async def test_all_requests_together_are_paced(clock: FakeClock) -> None:
    limits = RateLimits(clock, requests_per_second=10)
    total = sum([await waits(limits, clock, Bucket("r", str(number))) for number in range(40)])
    assert total == pytest.approx(3.0)


async def test_a_long_wait_is_not_sat_out(clock: FakeClock) -> None:
    limits = RateLimits(clock)
    limits.limit_reached(POST, 600.0, everywhere=False)
    with pytest.raises(WaitTooLong) as caught:
        await limits.acquire(POST)
    assert caught.value.retry_after == pytest.approx(600.0)
    assert await waits(limits, clock, Bucket("other", "1")) == 0.0
    limits.limit_reached(POST, 5.0, everywhere=True)
    assert await waits(limits, clock, Bucket("other", "1")) == pytest.approx(5.0)


async def test_stops_long_before_a_ban(clock: FakeClock) -> None:
    limits = RateLimits(clock, requests_per_second=10**6)
    for _ in range(INVALID_ANSWERS * 2):
        limits.update(POST, 429, {"X-RateLimit-Scope": "shared"})
    await limits.acquire(POST)
    for _ in range(INVALID_ANSWERS):
        limits.update(POST, 403, {})
    with pytest.raises(WaitTooLong):
        await limits.acquire(POST)
    clock.seconds += 601
    await limits.acquire(POST)


async def test_whoever_has_no_patience_is_told_at_once(clock: FakeClock) -> None:
    limits = RateLimits(clock)
    await limits.acquire(POST)
    limits.update(POST, 200, headers(0, 2.0))
    limits.release(POST)
    with pytest.raises(WaitTooLong) as refused:
        await limits.acquire(POST, 0.25)
    assert refused.value.retry_after == pytest.approx(2.0)
    clock.seconds += 1.9
    await limits.acquire(POST, 0.25)


async def test_asking_how_long_it_takes_uses_nothing_up(clock: FakeClock) -> None:
    limits = RateLimits(clock)
    await limits.acquire(POST)
    limits.update(POST, 200, headers(1, 2.0))
    limits.release(POST)
    assert [limits.check(POST, 0.25) for _ in range(3)] == [0.0] * 3
    await limits.acquire(POST, 0.25)
    with pytest.raises(WaitTooLong):
        limits.check(POST, 0.25)


@pytest.mark.parametrize("number", ["inf", "nan", "1e400", "-1", "soon"])
async def test_headers_that_are_no_numbers_teach_nothing_lasting(clock: FakeClock, number: str) -> None:
    limits = RateLimits(clock)
    for name in ("X-RateLimit-Remaining", "X-RateLimit-Limit", "X-RateLimit-Reset-After"):
        limits.update(POST, 200, headers(0, 2.0) | {name: number})
    clock.seconds += 3601
    assert await waits(limits, clock, POST) == 0.0


async def test_what_works_in_the_background_leaves_half_of_a_second_to_others(clock: FakeClock) -> None:
    limits = RateLimits(clock, requests_per_second=10)
    emoji = Bucket("POST /applications/{application}/emojis", "1")
    for _ in range(4):
        await waits(limits, clock)
    await limits.acquire(emoji, background=True)
    assert clock.seconds == 1000.0
    await limits.acquire(emoji, background=True)
    assert clock.seconds == pytest.approx(1001.0), "five have been sent within the second"
    for _ in range(9):
        assert await waits(limits, clock) == 0.0, "others need not wait"


async def test_what_is_left_of_each_limit() -> None:
    clock = FakeClock()
    limits = RateLimits(clock, requests_per_second=10)
    assert limits.left() == {"requests": 1.0, "refusals": 1.0, "route": 1.0}
    await limits.acquire(POST)
    limits.update(POST, 403, headers(1, 5))
    assert limits.left() == {"requests": 0.9, "refusals": 1 - 1 / INVALID_ANSWERS, "route": 0.2}
    clock.seconds += 6
    assert limits.left()["requests"] == limits.left()["route"] == 1.0
    limits.limit_reached(POST, 30, everywhere=True)
    assert limits.left()["requests"] == 0.0


async def test_however_many_are_mentioned_few_buckets_are_remembered_and_those_that_count(clock: FakeClock) -> None:
    limits = RateLimits(clock)
    await limits.acquire(POST)
    limits.update(POST, 200, headers(0, 3600.0))
    limits.release(POST)
    under_way = Bucket("GET /channels/{channel}/messages", "2")
    await limits.acquire(under_way)
    for number in range(3 * _MOST_BUCKETS):
        await waits(limits, clock, Bucket("GET /users/{user}", str(number)))
    assert len(limits._bucket_states) <= _MOST_BUCKETS
    assert limits._bucket_state(under_way).in_flight == 1
    with pytest.raises(WaitTooLong):
        limits.check(POST)
