"""Time: the machine's clock, a server's clock, how long to wait before the next try, or for something to happen, and
how often somebody may do something.
"""

import asyncio
import math
import random
import time
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from relay.core.ports import Clock
from relay.core.recent import keep
from relay.logs import get_logger

# A clock that goes on while the machine sleeps, where there is one: a lease of some seconds has expired after a sleep.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_TICK = timedelta(microseconds=1)
_MAX_WAIT = 3600.0
"""Seconds that we wait at most, whatever a platform asks for: if that was too early, it only asks again."""

_MOST_COUNTED = 10_000
"""Of whom it is counted how often they did something."""

_log = get_logger(__name__)


class SystemClock:
    """`core.ports.Clock` as the machine has it."""

    def now(self) -> datetime:
        """The time of day."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.clock_gettime(_STEADY)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class Bell:
    """Wakes those who look now and then how something is: there may be something new to see.

    Nobody hears it who does not wait at that moment. So look first, and then wait, with no `await` in between.
    """

    def __init__(self) -> None:
        self._sleeping: list[asyncio.Future[None]] = []
        # They ring with this one.
        self.others: list[Bell] = []

    def ring(self) -> None:
        """Let all who wait go on."""
        for sleeping in self._sleeping:
            sleeping.cancel()
        for other in self.others:
            other.ring()

    async def wait(self, clock: Clock, at_most: float) -> None:
        """Until it rings, or until so many seconds have passed."""
        sleeping = asyncio.ensure_future(clock.sleep(at_most))
        self._sleeping.append(sleeping)
        try:
            await asyncio.wait((sleeping,))
            if not sleeping.cancelled():
                sleeping.result()
        finally:
            self._sleeping.remove(sleeping)
            sleeping.cancel()


class Flag:
    """An `asyncio.Event` for one who waits, and no more: that one keeps 760 bytes for a queue. A pair has a dozen."""

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Let who waits go on, and whoever comes, until it is cleared."""
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        """Whoever comes waits."""
        self._is_set = False

    async def wait(self) -> None:
        """Until it is set."""
        if self._is_set:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


async def wait_at_most(event: asyncio.Event | Flag, seconds: float) -> None:
    """Until it is set, or until so many seconds have passed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class ServerTime:
    """A server's time of day: the last that it told us, and the seconds that have passed since. Our clock may be wrong.

    Until the server has told us, it is our own.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: tuple[datetime, float] | None = None
        self._last = datetime.min.replace(tzinfo=UTC)

    def told(self, moment: datetime, *, within: timedelta | None = None) -> None:
        """The server's clock shows `moment` or later; not more than `within` later, if that is given."""
        if self._told is not None:
            known = self._running()
            if moment <= known and (within is None or known <= moment + within):
                return
        self._told = (moment, self._clock.monotonic())
        self._last = min(self._last, moment)

    def now(self) -> datetime:
        """The server's time of day, perhaps slightly behind. Never returns the same time twice."""
        self._last = max(self._running(), self._last + _TICK)
        return self._last

    def skew(self) -> float | None:
        """By how many seconds our clock is ahead of the server's; None until the server has told us its time."""
        return None if self._told is None else (self._clock.now() - self._running()).total_seconds()

    def of(self, moment: datetime) -> datetime:
        """What the server's clock showed when ours showed `moment`; never more than its present time."""
        present = self._running()
        return min(present, present - (self._clock.now() - moment))

    def _running(self) -> datetime:
        if self._told is None:
            return self._clock.now()
        moment, at = self._told
        return moment + timedelta(seconds=self._clock.monotonic() - at)


def http_date(header: str | None) -> datetime | None:
    """The moment that a `Date` header says (https://www.rfc-editor.org/rfc/rfc9110#name-date-origination), if any."""
    try:
        found = None if header is None else parsedate_to_datetime(header)
    except ValueError:
        return None
    return found if found is None or found.tzinfo is not None else found.replace(tzinfo=UTC)


def retry_after_seconds(value: object, *, unit: float = 1.0) -> float | None:
    """The seconds that a platform asks us to wait, at most an hour; None if `value` is no number.

    `unit`: how many seconds the platform's unit has.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value) * unit
    except ValueError:
        return None
    except OverflowError:
        seconds = math.inf
    if math.isnan(seconds):
        return None
    if seconds > _MAX_WAIT:
        _log.warning("a platform asks for too long a wait", seconds=seconds, waiting=_MAX_WAIT)
    return min(max(0.0, seconds), _MAX_WAIT)


class Backoff:
    """Exponential backoff with jitter, so that many lanes that failed together do not try again together.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    def __init__(self, rng: random.Random, *, first: float = 1.0, longest: float = 60.0) -> None:
        self._rng = rng
        self._first = first
        self._longest = longest
        self.tries = 0

    def next(self, at_least: float | None = None) -> float:
        """The seconds to wait now. `at_least`: what the platform asked for."""
        ceiling = min(self._longest, self._first * 2.0 ** min(self.tries, 16))
        self.tries += 1
        return max(self._rng.uniform(ceiling / 2, ceiling), at_least or 0.0)

    def reset(self) -> None:
        """It worked: the next failure counts as the first."""
        self.tries = 0


@dataclass(slots=True)
class Limit:
    """So many times in so many seconds, for each of many."""

    clock: Clock
    most: int
    seconds: float
    # How many, and since when.
    _counts: OrderedDict[Hashable, tuple[int, float]] = field(init=False, default_factory=OrderedDict)

    def count(self, who: Hashable) -> int:
        """Count one more; how many there have been in the current period."""
        number, since = self._current(who)
        keep(self._counts, who, (number + 1, since), _MOST_COUNTED)
        return number + 1

    def takes(self, who: Hashable) -> bool:
        """Count one more; whether that is not too many."""
        return self.count(who) <= self.most

    def is_reached(self, who: Hashable) -> bool:
        """Whether one more would be too many."""
        return self._current(who)[0] >= self.most

    def forget(self, who: Hashable) -> None:
        """Begin anew."""
        self._counts.pop(who, None)

    def _current(self, who: Hashable) -> tuple[int, float]:
        now = self.clock.monotonic()
        number, since = self._counts.get(who, (0, now))
        return (number, since) if now - since < self.seconds else (0, now)
