"""What a platform lets one account (or one webhook) send: learnt from its answers, shared fairly between lanes.

While nothing is refused, nobody waits here. After a refusal the lanes take turns, the one whose message has waited
longest first, one at a time, each at once after the last was accepted: the platform itself says when to pause, and so
a backlog drains at the highest rate that it allows.

What the relay itself says (notices, marks of failure) and what only follows after (a quoted line) is not in front of
words, and where lanes share one limit it leaves most of it to them: anybody could make the relay talk. But it comes at
last: where words never cease to wait, one note goes after so many of them.
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
_NOTES_AT_ONCE = 5
_NOTE_SECONDS = 10.0  # from one note to the next, once there were that many
_NOTE_INTERVALS = 6  # the same where messages are refused: that many times what one takes
_WORDS_BEFORE_A_NOTE = 20
_PATIENCE_WITHOUT_A_WORD = 1.0  # seconds, where the platform does not say how long


@dataclass(order=True, slots=True)
class _Waiter:
    is_note: bool
    oldest: datetime
    number: int
    released: "asyncio.Future[None]" = field(compare=False)
    turn: int = field(default=0, compare=False)  # its number once it has been given one


class Budget:
    """The turns of the lanes that share one limit. `shared`: there may be several."""

    def __init__(self, *, shared: bool = False) -> None:
        self._shared = shared
        self._notes_until = 0.0  # up to then the notes of late have used up what is theirs
        self._words = 0  # turns that words have had since a note waits
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
        """How many lanes with words wait for their turn."""
        return sum(not waiter.is_note for waiter in self._waiters)

    def seconds_each(self) -> float:
        """What a message has taken of late, in seconds; 0 while nothing is refused."""
        return self._interval if self._limited else 0.0

    def notes_pile_up(self) -> bool:
        """Whether notes had better be put together: there is no room for one more."""
        now = asyncio.get_running_loop().time()
        return self._limited or (self._shared and self._notes_until > now + _NOTE_SECONDS * (_NOTES_AT_ONCE - 1))

    @asynccontextmanager
    async def turn(self, oldest: datetime, *, is_note: bool = False, sends: bool = True) -> AsyncIterator[bool]:
        """Wait for this lane's turn, spend it in the block, and learn from how that ends.

        `oldest`: since when the message at the lane's head has been waiting. `sends`: whether the platform is asked for
        anything. False if the relay is stopping.
        """
        held = await self._wait(oldest, is_note) if self._limited or (is_note and self._shared) else 0
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

    async def _wait(self, oldest: datetime, is_note: bool) -> int:
        """Wait for the next turn; its number."""
        waiter = _Waiter(is_note, oldest, next(self._numbers), asyncio.get_running_loop().create_future())
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
        due = max(self._blocked_until, self._next_note() if waiter.is_note else 0.0)
        if due > now:
            self._timer = asyncio.get_running_loop().call_later(due - now, self._due)
            return
        self._remove(waiter)
        if waiter.released.done():
            # Cancelled, and not yet out of the queue: the turn is the next one's.
            self._release()
            return
        if waiter.is_note:
            self._notes_until = max(self._notes_until, now) + self._note_seconds()
            self._words = 0
        else:
            self._words = self._words + 1 if any(other.is_note for other in self._waiters) else 0
        self._turn += 1
        waiter.turn = self._turn
        self._in_turn = True
        asyncio.get_running_loop().call_later(_LONGEST_TURN, self._lend, self._turn)
        waiter.released.set_result(None)

    def _first(self, now: float) -> _Waiter:
        """Whose turn is next: words go first, but not for ever."""
        if self._words >= _WORDS_BEFORE_A_NOTE and self._next_note() <= now:
            return min((waiter for waiter in self._waiters if waiter.is_note), default=self._waiters[0])
        return self._waiters[0]

    def _remove(self, waiter: _Waiter) -> None:
        self._waiters.remove(waiter)
        heapq.heapify(self._waiters)

    def _note_seconds(self) -> float:
        return max(_NOTE_SECONDS, _NOTE_INTERVALS * self.seconds_each())

    def _next_note(self) -> float:
        """When the next note may go: several at once, as long as nothing is refused."""
        if not self._shared:
            return 0.0
        return self._notes_until - (0 if self._limited else _NOTE_SECONDS * (_NOTES_AT_ONCE - 1))

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
        return self._budgets.setdefault(key, Budget(shared=isinstance(key, Platform)))

    def close(self) -> None:
        """Let every waiting lane go: the relay is stopping."""
        for budget in self._budgets.values():
            budget.close()
