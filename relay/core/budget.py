"""What a platform lets one account (or one webhook) send: learnt from its answers, shared fairly between lanes.

While nothing is refused, nobody waits here. After a refusal the lanes take turns, the one whose message has waited
longest first, one at a time, each at once after the last was accepted: the platform itself says when to pause, and so
a backlog drains at the highest rate that it allows.
"""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from relay.domain.ids import Platform
from relay.domain.pair import LaneKey
from relay.errors import RateLimited

_REMEMBERED = 6
_LONGEST_TURN = 5.0  # seconds
_PATIENCE_WITHOUT_A_WORD = 1.0  # seconds, where the platform does not say how long


@dataclass(order=True, slots=True)
class _Waiter:
    oldest: datetime
    number: int
    released: "asyncio.Future[None]" = field(compare=False)


class Budget:
    """The turns of the lanes that share one limit."""

    def __init__(self) -> None:
        self._waiters: list[_Waiter] = []
        self._numbers = itertools.count()
        self._blocked_until = 0.0
        self._limited = False
        self._in_turn = False
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None
        self._accepted: deque[float] = deque(maxlen=_REMEMBERED)
        self._interval = 0.0
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many lanes wait for their turn."""
        return len(self._waiters)

    def seconds_each(self) -> float:
        """What a message has taken of late, in seconds; 0 while nothing is refused."""
        return self._interval if self._limited else 0.0

    @asynccontextmanager
    async def turn(self, oldest: datetime) -> AsyncIterator[bool]:
        """Wait for this lane's turn, spend it in the block, and learn from how that ends.

        `oldest`: since when the message at the lane's head has been waiting. False if the relay is stopping.
        """
        held = await self._wait(oldest) if self._limited else 0
        now = asyncio.get_running_loop().time
        try:
            yield not self._closed
        except RateLimited as error:
            self._refused(now(), error.retry_after)
            raise
        else:
            self._went_through(now())
        finally:
            self._end(held)

    def close(self) -> None:
        """Let everybody go: the relay is stopping."""
        self._closed = True
        for waiter in self._waiters:
            if not waiter.released.done():
                waiter.released.set_result(None)
        self._waiters.clear()

    async def _wait(self, oldest: datetime) -> int:
        """Wait for the next turn; its number."""
        waiter = _Waiter(oldest, next(self._numbers), asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiters, waiter)
        self._release()
        try:
            await waiter.released
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                heapq.heapify(self._waiters)
            else:
                self._end(self._turn)
            raise
        return self._turn

    def _end(self, turn: int) -> None:
        if self._in_turn and turn == self._turn:
            self._in_turn = False
            self._release()

    def _refused(self, now: float, retry_after: float | None) -> None:
        patience = _PATIENCE_WITHOUT_A_WORD if retry_after is None else retry_after
        self._limited = True
        self._blocked_until = max(self._blocked_until, now + patience)
        # The best rate of late: an allowance comes in bursts, and quiet times before it say nothing about it.
        counts = range(len(self._accepted), 0, -1)
        rates = [(self._blocked_until - at) / count for at, count in zip(self._accepted, counts, strict=True)]
        self._interval = min(rates, default=patience)

    def _went_through(self, now: float) -> None:
        self._accepted.append(now)
        if not self._waiters and now >= self._blocked_until:
            self._limited = False

    def _release(self) -> None:
        """Let the next one go, now or when the platform said."""
        if self._in_turn or self._timer is not None or not self._waiters:
            return
        delay = self._blocked_until - asyncio.get_running_loop().time()
        if delay > 0:
            self._timer = asyncio.get_running_loop().call_later(delay, self._due)
            return
        waiter = heapq.heappop(self._waiters)
        self._turn += 1
        self._in_turn = True
        asyncio.get_running_loop().call_later(_LONGEST_TURN, self._lend, self._turn)
        waiter.released.set_result(None)

    def _lend(self, turn: int) -> None:
        """A turn that takes long (a large file is on its way) does not keep the others from theirs."""
        if self._in_turn and turn == self._turn:
            self._in_turn = False
            self._release()

    def _due(self) -> None:
        self._timer = None
        self._release()


class Budgets:
    """The budget of each lane: one for a whole platform where `shared` says so, else each lane's own."""

    def __init__(self, shared: Callable[[Platform], bool]) -> None:
        self._shared = shared
        self._budgets: dict[LaneKey | Platform, Budget] = {}

    def of(self, lane: LaneKey) -> Budget:
        """The budget that `lane` spends."""
        platform = lane.destination.platform
        key = platform if self._shared(platform) else lane
        return self._budgets.setdefault(key, Budget())

    def close(self) -> None:
        """Let every waiting lane go: the relay is stopping."""
        for budget in self._budgets.values():
            budget.close()
