"""Rate limits and the ban after invalid requests, on a clock of their own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.sandbox.rate_limits import InvalidRequests, Limits, RateLimiter, Refusal

ROUTE = "/channels/{channel_id}/messages"


@given(st.lists(st.floats(0, 3), max_size=60))
def test_never_more_than_five_messages_in_one_window(pauses: list[float]) -> None:
    limiter = RateLimiter(Limits())
    now, passed, window_end = 0.0, 0, 0.0
    for pause in pauses:
        now += pause
        if now >= window_end:
            passed, window_end = 0, now + 5
        verdict = limiter.take("bot", "POST", ROUTE, "1", now)
        if verdict.refusal is None:
            passed += 1
            assert verdict.headers["X-RateLimit-Remaining"] == str(5 - passed)
        else:
            assert passed == 5
            assert verdict.refusal.retry_after == pytest.approx(window_end - now)


def test_buckets_are_apart_by_channel_route_and_bot() -> None:
    limiter = RateLimiter(Limits(global_per_second=1000))

    def passes(who: str = "bot", method: str = "POST", channel: str = "1") -> bool:
        return limiter.take(who, method, ROUTE, channel, 0.0).refusal is None

    assert [passes() for _ in range(6)] == [True] * 5 + [False]
    assert (passes(channel="2"), passes(who="other"), passes(method="GET")) == (True, True, True)


def test_the_global_limit_the_factor_and_no_limits() -> None:
    limiter = RateLimiter(Limits())
    answers = [limiter.take("bot", "GET", "/users/@me", "", 0.5).refusal for _ in range(51)]
    assert answers[:50] == [None] * 50
    assert answers[50] == Refusal("global", 1.0)
    assert limiter.take("bot", "GET", "/users/@me", "", 1.5).refusal is None
    twice = RateLimiter(Limits(factor=2))
    assert sum(twice.take("bot", "POST", ROUTE, "1", 0.0).refusal is None for _ in range(20)) == 10
    off = RateLimiter(Limits(factor=0))
    assert all(off.take("bot", "POST", ROUTE, "1", 0.0).headers == {} for _ in range(100))


def test_too_many_invalid_requests_in_ten_minutes() -> None:
    invalid = InvalidRequests(Limits(invalid_per_ten_minutes=3))
    for status, scope in ((200, None), (404, None), (429, "shared"), (401, None), (403, None)):
        invalid.count(status, scope, 0.0)
    assert (invalid.recent(0.0), invalid.banned(0.0)) == (2, False)
    invalid.count(429, "user", 601.0)
    assert (invalid.recent(601.0), invalid.banned(601.0)) == (1, False)
    invalid.count(401, None, 602.0)
    invalid.count(401, None, 603.0)
    assert (invalid.banned(603.0), invalid.bans) == (True, 1)
    assert not invalid.banned(603.0 + 3601)
