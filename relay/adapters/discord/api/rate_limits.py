"""Discord's rate limits, kept on our side: per bucket, for the whole bot, and for answers that lead to a ban.

https://docs.discord.com/developers/topics/rate-limits. Nothing here sends anything: a caller asks for
leave before each request (`enter`) and hands in the answer's headers afterwards (`learn`). Waiting happens
before a request only, so whoever is cancelled while waiting has sent nothing.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from relay.core.clock import retry_after_seconds
from relay.core.ports import Clock

# Discord bans an address after 10,000 answers of 401, 403 or 429 within ten minutes. We stop at half of it:
# other programs behind the same address count too.
INVALID_ANSWERS = 5_000
INVALID_WINDOW = 600.0
# Documented as 50 requests in a second. A little below, because a network may press two seconds' into one.
REQUESTS_PER_SECOND = 48
# A longer wait is better spent in the lane, where `relay status` shows it.
MAX_WAIT = 15.0
# What is posted waits in the lane whenever it has to: the core learns from it how much a channel takes, and lets
# what waits cross together.
POSTING_MAX_WAIT = 0.25


@dataclass(frozen=True, slots=True)
class Bucket:
    """What a request counts against until Discord names the bucket: a route, and the ID it is limited by."""

    route: str
    major: str


class WaitTooLong(Exception):
    """No request may be made for `retry_after` seconds; none was."""

    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


@dataclass(slots=True)
class _State:
    limit: int = 1
    remaining: int = 1
    resets_at: float = 0.0
    window: float = 0.0
    in_flight: int = 0


class RateLimits:
    """All limits of one process towards one API.

    `requests_per_second` bounds requests of all kinds together.
    """

    def __init__(self, clock: Clock, *, requests_per_second: int = REQUESTS_PER_SECOND) -> None:
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=requests_per_second)
        self._invalid: deque[float] = deque(maxlen=INVALID_ANSWERS)
        self._paused_until = 0.0
        # Several routes may share a bucket, which only an answer tells (X-RateLimit-Bucket).
        self._names: dict[str, str] = {}
        self._states: dict[tuple[str, str], _State] = {}

    async def enter(self, bucket: Bucket, patience: float = MAX_WAIT) -> None:
        """Wait until a request of `bucket` may be sent, and count it. Raises `WaitTooLong` for a long wait.

        `patience`: seconds that the bucket itself is waited for. `leave` has to follow, whatever becomes of the
        request.
        """
        while (wait := self.check(bucket, patience)) > 0:
            await self._clock.sleep(wait)
        now = self._clock.monotonic()
        self._recent.append(now)
        state = self._state(bucket)
        if now >= state.resets_at:
            # Until an answer says better; or all who waited for this moment would go at once.
            state.remaining = state.limit
            state.resets_at = now + state.window
        state.remaining -= 1
        state.in_flight += 1

    def check(self, bucket: Bucket, patience: float = MAX_WAIT) -> float:
        """How long `enter` would wait. Raises `WaitTooLong` where it would."""
        wait = self._wait(bucket)
        if wait > MAX_WAIT or self._refills_in(bucket) > patience:
            raise WaitTooLong("Discord's rate limit", wait)
        return wait

    def leave(self, bucket: Bucket) -> None:
        """The request has ended."""
        state = self._state(bucket)
        state.in_flight = max(0, state.in_flight - 1)

    def learn(self, bucket: Bucket, status: int, headers: Mapping[str, str]) -> None:
        """Take in what an answer says about the limits."""
        now = self._clock.monotonic()
        # A shared limit is not the bot's doing, and not counted by Discord either.
        if status in {401, 403} or (status == 429 and headers.get("X-RateLimit-Scope") != "shared"):
            self._invalid.append(now)
        name = headers.get("X-RateLimit-Bucket")
        if name is not None and self._names.get(bucket.route) != name:
            in_flight = self._state(bucket).in_flight
            self._names[bucket.route] = name
            state = self._state(bucket)
            state.in_flight = max(state.in_flight, in_flight)
        remaining = _number(headers.get("X-RateLimit-Remaining"))
        reset_after = retry_after_seconds(headers.get("X-RateLimit-Reset-After"))
        if remaining is None or reset_after is None:
            return
        state = self._state(bucket)
        state.limit = max(1, int(_number(headers.get("X-RateLimit-Limit")) or 1))
        state.remaining = int(remaining) - max(0, state.in_flight - 1)
        state.resets_at = now + reset_after
        state.window = max(state.window, reset_after)

    def exhausted(self, bucket: Bucket, retry_after: float, *, everywhere: bool) -> None:
        """Discord answered 429: nothing in the bucket (`everywhere`: nothing at all) for `retry_after` seconds."""
        until = self._clock.monotonic() + retry_after
        if everywhere:
            self._paused_until = max(self._paused_until, until)
        else:
            state = self._state(bucket)
            state.remaining = 0
            state.resets_at = max(state.resets_at, until)

    def _wait(self, bucket: Bucket) -> float:
        now = self._clock.monotonic()
        waits = [self._paused_until - now]
        if len(self._recent) == self._recent.maxlen:
            waits.append(self._recent[0] + 1.0 - now)
        if len(self._invalid) == self._invalid.maxlen:
            waits.append(self._invalid[0] + INVALID_WINDOW - now)
        return max(*waits, self._refills_in(bucket))

    def _refills_in(self, bucket: Bucket) -> float:
        state = self._state(bucket)
        return state.resets_at - self._clock.monotonic() if state.remaining <= 0 else 0.0

    def _state(self, bucket: Bucket) -> _State:
        key = (self._names.get(bucket.route, bucket.route), bucket.major)
        return self._states.setdefault(key, _State())


def _number(text: str | None) -> float | None:
    try:
        number = math.nan if text is None else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
