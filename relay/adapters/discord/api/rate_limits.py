"""Discord's rate limits, counted on our side: per bucket, for the whole bot, and for answers that lead to a ban.

https://docs.discord.com/developers/topics/rate-limits. Nothing here sends a request. The client calls `acquire` before
each request, which is the only place that waits, and `update` with the headers of the answer. So a caller that is
cancelled while it waits has sent nothing.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from relay.core.clock import retry_after_seconds
from relay.core.ports import Clock

# Discord bans an IP address after 10,000 answers of 401, 403 or 429 within ten minutes. We stop at half of that,
# because other programs behind the same address count too.
INVALID_ANSWERS = 5_000
INVALID_WINDOW = 600.0
# Documented as 50 requests per second. A little less, because the network may deliver those of two seconds in one.
REQUESTS_PER_SECOND = 48
# Seconds that are waited here at most. A longer wait belongs to the lane, where `relay status` shows it.
MAX_WAIT = 15.0
# For posting messages. The lane waits instead: the core learns from that how much a channel takes, and sends the
# messages that wait together.
POSTING_MAX_WAIT = 0.25
# Buckets that are remembered. Anybody can make new ones by mentioning people and channels that have to be looked up.
_MOST_BUCKETS = 4096


@dataclass(frozen=True, slots=True)
class Bucket:
    """What a request counts against until Discord tells the name of the bucket."""

    route: str
    # The ID that Discord limits the route by: of a channel, a guild or a webhook.
    major: str


class WaitTooLong(Exception):
    """No request may be sent for `retry_after` seconds, which is longer than the caller waits. None was sent."""

    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


@dataclass(slots=True)
class _BucketState:
    limit: int = 1
    remaining: int = 1
    # On the monotonic clock.
    resets_at: float = 0.0
    # Seconds between two resets.
    window: float = 0.0
    in_flight: int = 0


class RateLimits:
    """All limits of one process towards one API.

    `requests_per_second` limits requests of all kinds together.
    """

    def __init__(self, clock: Clock, *, requests_per_second: int = REQUESTS_PER_SECOND) -> None:
        self._clock = clock
        self._sent_at: deque[float] = deque(maxlen=requests_per_second)
        self._invalid_at: deque[float] = deque(maxlen=INVALID_ANSWERS)
        self._paused_until = 0.0
        # Several routes may share a bucket. Only an answer tells which (X-RateLimit-Bucket).
        self._bucket_names: dict[str, str] = {}
        self._bucket_states: dict[tuple[str, str], _BucketState] = {}

    async def acquire(self, bucket: Bucket, max_wait: float = MAX_WAIT, *, background: bool = False) -> None:
        """Wait until a request of `bucket` may be sent, and count it. Raises `WaitTooLong`.

        `max_wait`: how many seconds to wait for the bucket at most. `background`: leave half of the requests of a
        second to others. The caller must call `release` when the request has ended, whatever its result.
        """
        while (wait := max(self.check(bucket, max_wait), self._wait_for_others() if background else 0.0)) > 0:
            await self._clock.sleep(wait)
        now = self._clock.monotonic()
        self._sent_at.append(now)
        state = self._bucket_state(bucket)
        if now >= state.resets_at:
            # A guess until an answer tells. Without it, all that waited for this moment would be sent at once.
            state.remaining = state.limit
            state.resets_at = now + state.window
        state.remaining -= 1
        state.in_flight += 1

    def check(self, bucket: Bucket, max_wait: float = MAX_WAIT) -> float:
        """How many seconds `acquire` would wait. Raises `WaitTooLong` where `acquire` would."""
        wait = self._wait(bucket)
        if wait > MAX_WAIT or self._bucket_wait(bucket) > max_wait:
            raise WaitTooLong("Discord's rate limit", wait)
        return wait

    def release(self, bucket: Bucket) -> None:
        """Count a request as ended."""
        state = self._bucket_state(bucket)
        state.in_flight = max(0, state.in_flight - 1)

    def update(self, bucket: Bucket, status: int, headers: Mapping[str, str]) -> None:
        """Learn the limits from the headers of an answer."""
        now = self._clock.monotonic()
        # The bot is not to blame for a shared limit, and Discord does not count it either.
        if status in {401, 403} or (status == 429 and headers.get("X-RateLimit-Scope") != "shared"):
            self._invalid_at.append(now)
        name = headers.get("X-RateLimit-Bucket")
        if name is not None and self._bucket_names.get(bucket.route) != name:
            in_flight = self._bucket_state(bucket).in_flight
            self._bucket_names[bucket.route] = name
            state = self._bucket_state(bucket)
            state.in_flight = max(state.in_flight, in_flight)
        remaining = _number(headers.get("X-RateLimit-Remaining"))
        reset_after = retry_after_seconds(headers.get("X-RateLimit-Reset-After"))
        if remaining is None or reset_after is None:
            return
        state = self._bucket_state(bucket)
        state.limit = max(1, int(_number(headers.get("X-RateLimit-Limit")) or 1))
        state.remaining = int(remaining) - max(0, state.in_flight - 1)
        state.resets_at = now + reset_after
        state.window = max(state.window, reset_after)

    def limit_reached(self, bucket: Bucket, retry_after: float, *, everywhere: bool) -> None:
        """Discord answered 429: send nothing in this bucket for `retry_after` seconds (`everywhere`: in any bucket)."""
        until = self._clock.monotonic() + retry_after
        if everywhere:
            self._paused_until = max(self._paused_until, until)
        else:
            state = self._bucket_state(bucket)
            state.remaining = 0
            state.resets_at = max(state.resets_at, until)

    def left(self) -> Mapping[str, float]:
        """What is left of each limit, from 0 to 1: of the bot's requests, of refused ones, of the fullest bucket."""
        now = self._clock.monotonic()
        sent = sum(at > now - 1.0 for at in self._sent_at)
        refused = sum(at > now - INVALID_WINDOW for at in self._invalid_at)
        buckets = (max(0, it.remaining) / it.limit for it in self._bucket_states.values() if now < it.resets_at)
        paused = now < self._paused_until
        return {
            "requests": 0.0 if paused else 1 - sent / (self._sent_at.maxlen or 1),
            "refusals": 1 - refused / INVALID_ANSWERS,
            "route": min(buckets, default=1.0),
        }

    def _wait(self, bucket: Bucket) -> float:
        now = self._clock.monotonic()
        waits = [self._paused_until - now]
        if len(self._sent_at) == self._sent_at.maxlen:
            waits.append(self._sent_at[0] + 1.0 - now)
        if len(self._invalid_at) == self._invalid_at.maxlen:
            waits.append(self._invalid_at[0] + INVALID_WINDOW - now)
        return max(*waits, self._bucket_wait(bucket))

    def _wait_for_others(self) -> float:
        """Seconds until fewer than half of the requests of a second have been sent within the last one."""
        half = (self._sent_at.maxlen or 2) // 2 or 1
        return 0.0 if len(self._sent_at) < half else self._sent_at[-half] + 1.0 - self._clock.monotonic()

    def _bucket_wait(self, bucket: Bucket) -> float:
        state = self._bucket_state(bucket)
        return state.resets_at - self._clock.monotonic() if state.remaining <= 0 else 0.0

    def _bucket_state(self, bucket: Bucket) -> _BucketState:
        key = (self._bucket_names.get(bucket.route, bucket.route), bucket.major)
        state = self._bucket_states.get(key)
        if state is None:
            if len(self._bucket_states) >= _MOST_BUCKETS:
                self._forget_half()
            state = self._bucket_states[key] = _BucketState()
        return state

    def _forget_half(self) -> None:
        """Forget the buckets that count for nothing any more, or will soon; none with a request under way."""
        idle = [(state.resets_at, key) for key, state in self._bucket_states.items() if not state.in_flight]
        for _, key in sorted(idle)[: _MOST_BUCKETS // 2]:
            del self._bucket_states[key]


def _number(text: str | None) -> float | None:
    try:
        number = math.nan if text is None else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
