"""What a platform lets one account (or one webhook) send: learnt from its answers, shared fairly between lanes.

While nothing is refused, nobody waits here. After a refusal the lanes take turns, one at a time: the one whose message
has waited longest goes first, and each goes as soon as the one before it was accepted. The platform itself says when to
pause, and so a backlog drains at the highest rate that it allows.

What the relay itself says (notices, marks of failure) and quoted lines that follow an edit do not go before people's
messages. Where lanes share one limit, they leave most of it to messages: otherwise anybody could make the relay talk.
But they are sent in the end: where messages never stop waiting, one notice goes after a number of them.
"""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from relay.domain.ids import Platform
from relay.domain.pair import LaneKey
from relay.errors import RateLimited

_REMEMBERED = 6
_LONGEST_TURN = 5.0  # seconds
_NOTICES_AT_ONCE = 5
_NOTICE_SECONDS = 10.0  # from one notice to the next, once there were that many
_NOTICE_INTERVALS = 6  # the same where messages are refused: that many times what one takes
_MESSAGES_BEFORE_A_NOTICE = 20
_PAUSE_BY_DEFAULT = 1.0  # seconds, where the platform does not say how long


@dataclass(order=True, slots=True)
class _Waiter:
    is_notice: bool
    oldest: datetime
    number: int
    released: "asyncio.Future[None]" = field(compare=False)
    turn: int = field(default=0, compare=False)  # its number once it has been given one


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Budget:
    """The turns of the lanes that share one limit."""

    shared: bool = False  # there may be several lanes
    _waiters: list[_Waiter] = field(default_factory=list, init=False)  # a heap
    _numbers: Iterator[int] = field(default_factory=itertools.count, init=False)
    _blocked_until: float = field(default=0.0, init=False)  # as the platform said
    _limited: bool = field(default=False, init=False)  # something was refused, and lanes have waited ever since
    _in_turn: bool = field(default=False, init=False)
    _turn: int = field(default=0, init=False)  # the number of the turn that was given last
    _timer: asyncio.TimerHandle | None = field(default=None, init=False)
    _accepted: tuple[float, ...] = field(default=(), init=False)  # when; a deque of so few takes 760 bytes
    _interval: float = field(default=0.0, init=False)  # seconds from one accepted message to the next
    _notices_until: float = field(default=0.0, init=False)  # until then recent notices have used up their share
    _messages: int = field(default=0, init=False)  # turns that messages have had since a notice waits
    _closed: bool = field(default=False, init=False)

    @property
    def waiting(self) -> int:
        """How many lanes with messages wait for their turn."""
        return sum(not waiter.is_notice for waiter in self._waiters)

    def seconds_each(self) -> float:
        """How many seconds a message takes under the limit; 0 while nothing is refused."""
        return self._interval if self._limited else 0.0

    @property
    def learnt(self) -> float:
        """How many seconds a message took when something was last refused; 0 if nothing ever was."""
        return self._interval

    def seconds_to_wait(self) -> float:
        """How many seconds pass until the platform takes the next message, as it said itself; 0 if it takes it now."""
        return max(0.0, self._blocked_until - asyncio.get_running_loop().time())

    def notices_pile_up(self) -> bool:
        """Whether notices should be put together: there is no room for one more now."""
        now = asyncio.get_running_loop().time()
        return self._limited or (self.shared and self._notices_until > now + _NOTICE_SECONDS * (_NOTICES_AT_ONCE - 1))

    @asynccontextmanager
    async def turn(self, oldest: datetime, *, is_notice: bool = False, sends: bool = True) -> AsyncIterator[bool]:
        """Wait for this lane's turn, spend it in the block, and learn from how that ends.

        `oldest`: since when the message at the lane's head has been waiting. `sends`: whether the platform is asked for
        anything. False if the relay is stopping.
        """
        held = await self._wait(oldest, is_notice) if self._limited or (is_notice and self.shared) else 0
        now = asyncio.get_running_loop().time
        try:
            yield not self._closed
        except RateLimited as error:
            self._refused(now(), error.retry_after)
            raise
        else:
            if sends:
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

    async def _wait(self, oldest: datetime, is_notice: bool) -> int:
        """Wait for the next turn; its number."""
        waiter = _Waiter(is_notice, oldest, next(self._numbers), asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiters, waiter)
        self._release()
        try:
            await waiter.released
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._remove(waiter)
            self._end(waiter.turn)
            raise
        return waiter.turn

    def _end(self, turn: int) -> None:
        """Let the next one go, unless this turn has ended already."""
        if self._in_turn and turn == self._turn:
            self._in_turn = False
            self._release()

    def _refused(self, now: float, retry_after: float | None) -> None:
        pause = _PAUSE_BY_DEFAULT if retry_after is None else retry_after
        self._limited = True
        self._blocked_until = max(self._blocked_until, now + pause)
        # The best rate of late: an allowance comes in bursts, and quiet times before it say nothing about it.
        counts = range(len(self._accepted), 0, -1)
        rates = [(self._blocked_until - at) / count for at, count in zip(self._accepted, counts, strict=True)]
        self._interval = min(rates, default=pause)

    def _went_through(self, now: float) -> None:
        self._accepted = (*self._accepted[1 - _REMEMBERED :], now)
        if not self.waiting and now >= self._blocked_until:
            self._limited = False

    def _release(self) -> None:
        """Let the next one go, now or when the platform said."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._in_turn or not self._waiters:
            return
        now = asyncio.get_running_loop().time()
        waiter = self._first(now)
        due = max(self._blocked_until, self._next_notice() if waiter.is_notice else 0.0)
        if due > now:
            self._timer = asyncio.get_running_loop().call_later(due - now, self._due)
            return
        self._remove(waiter)
        if waiter.released.done():
            # Cancelled, and not yet out of the queue: the turn is the next one's.
            self._release()
            return
        if waiter.is_notice:
            self._notices_until = max(self._notices_until, now) + self._notice_seconds()
            self._messages = 0
        else:
            self._messages = self._messages + 1 if any(other.is_notice for other in self._waiters) else 0
        self._turn += 1
        waiter.turn = self._turn
        self._in_turn = True
        # One that takes long (a large file is on its way) does not keep the others from theirs.
        asyncio.get_running_loop().call_later(_LONGEST_TURN, self._end, self._turn)
        waiter.released.set_result(None)

    def _first(self, now: float) -> _Waiter:
        """Whose turn is next: messages go first, but not for ever."""
        if self._messages >= _MESSAGES_BEFORE_A_NOTICE and self._next_notice() <= now:
            return min((waiter for waiter in self._waiters if waiter.is_notice), default=self._waiters[0])
        return self._waiters[0]

    def _remove(self, waiter: _Waiter) -> None:
        self._waiters.remove(waiter)
        heapq.heapify(self._waiters)

    def _notice_seconds(self) -> float:
        return max(_NOTICE_SECONDS, _NOTICE_INTERVALS * self.seconds_each())

    def _next_notice(self) -> float:
        """When the next notice may go: several at once, as long as nothing is refused."""
        if not self.shared:
            return 0.0
        return self._notices_until - (0 if self._limited else _NOTICE_SECONDS * (_NOTICES_AT_ONCE - 1))

    def _due(self) -> None:
        self._timer = None
        self._release()


@dataclass(slots=True)
class Budgets:
    """The budget of each lane: one for a whole platform where `shared` says so, else each lane's own."""

    shared: Callable[[Platform], bool]
    _budgets: dict[LaneKey | Platform, Budget] = field(default_factory=dict, init=False)

    def of(self, lane: LaneKey) -> Budget:
        """The budget that `lane` spends."""
        platform = lane.destination.platform
        key = platform if self.shared(platform) else lane
        return self._budgets.setdefault(key, Budget(shared=isinstance(key, Platform)))

    def seconds_to_wait(self, platform: Platform) -> float:
        """The longest wait of a budget on a platform: see `Budget.seconds_to_wait`."""
        own = (
            budget
            for key, budget in self._budgets.items()
            if (key if isinstance(key, Platform) else key.destination.platform) is platform
        )
        return max((budget.seconds_to_wait() for budget in own), default=0.0)

    def learnt(self, platform: Platform) -> float:
        """What the account may send, where its lanes share one limit: see `Budget.learnt`."""
        budget = self._budgets.get(platform)
        return 0.0 if budget is None else budget.learnt

    def close(self) -> None:
        """Let every waiting lane go: the relay is stopping."""
        for budget in self._budgets.values():
            budget.close()
