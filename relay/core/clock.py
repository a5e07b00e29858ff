"""Real time, ours and that of the servers."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

from relay.core.ports import Clock

# Where the system has a clock that goes on while the machine sleeps: what was granted for seconds has run out by then.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_TICK = timedelta(microseconds=1)


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
