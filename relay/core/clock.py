"""Time: the machine's clock, a server's clock, and how long to wait before the next try."""

import asyncio
import math
import random
import time
from datetime import UTC, datetime, timedelta

import structlog

from relay.core.ports import Clock

# Where the system has a clock that goes on while the machine sleeps: what was granted for seconds has run out by then.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_TICK = timedelta(microseconds=1)
_LONGEST_WAIT = 3600.0
"""Seconds that a platform is heeded when it asks for patience: asked too early, it only says so again."""

_log = structlog.get_logger(__name__)


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


class ServerTime:
    """A server's own time of day, as it has told it, with the seconds that passed since. Ours may be wrong.

    Until the server has told it, ours has to do.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: tuple[datetime, float] | None = None
        self._last = datetime.min.replace(tzinfo=UTC)

    def told(self, moment: datetime, *, within: timedelta | None = None) -> None:
        """The server's clock shows `moment` or later; at most `within` later, where that is given."""
        if self._told is not None:
            known = self._running()
            if moment <= known and (within is None or known <= moment + within):
                return
        self._told = (moment, self._clock.monotonic())
        self._last = min(self._last, moment)

    def now(self) -> datetime:
        """The time of day there, perhaps a moment late; never the same one twice."""
        self._last = max(self._running(), self._last + _TICK)
        return self._last

    def of(self, moment: datetime) -> datetime:
        """What the server's clock showed when ours showed `moment`; at most its present time."""
        present = self._running()
        return min(present, present - (self._clock.now() - moment))

    def _running(self) -> datetime:
        if self._told is None:
            return self._clock.now()
        moment, at = self._told
        return moment + timedelta(seconds=self._clock.monotonic() - at)


def retry_after_seconds(value: object, *, unit: float = 1.0) -> float | None:
    """The seconds that a platform asks to wait, an hour at most; None where it tells no number of them.

    `unit`: seconds in one of what it counts in.
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
    if seconds > _LONGEST_WAIT:
        _log.warning("a platform asks for too long a wait", seconds=seconds, waiting=_LONGEST_WAIT)
    return min(max(0.0, seconds), _LONGEST_WAIT)


class Backoff:
    """Exponential, with full jitter, so that many lanes that failed together do not come back together.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    def __init__(self, rng: random.Random, *, first: float = 1.0, most: float = 60.0) -> None:
        self._rng = rng
        self._first = first
        self._most = most
        self.tries = 0

    def next(self, at_least: float | None = None) -> float:
        """Seconds to wait now; never less than the platform asked for (`at_least`)."""
        ceiling = min(self._most, self._first * 2.0 ** min(self.tries, 16))
        self.tries += 1
        return max(self._rng.uniform(ceiling / 2, ceiling), at_least or 0.0)

    def reset(self) -> None:
        """It worked: the next failure is a first one again."""
        self.tries = 0
