"""One ordered lane per pair and direction: drains the outbox, one command in flight, retries at the head only."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import structlog

from relay.core.backoff import Backoff
from relay.core.degrade import Dropped
from relay.core.delivery import Deliverer
from relay.core.ports import Entry, Store
from relay.core.status import Status
from relay.domain.pair import LaneKey
from relay.errors import (
    Blocked,
    DeliveryError,
    Permanent,
    RateLimited,
    StoreError,
    StoreUnavailable,
    TargetGone,
    Transient,
    Unsupported,
)

_log = structlog.get_logger(__name__)

_READ_AHEAD = 50
_TRIES_BEFORE_COMPLAINT = 3
_TRIES_OF_A_BUG = 3


class Courier:
    """Delivers what is in the outbox. A lane comes into being when something is first queued in it."""

    def __init__(
        self,
        *,
        store: Store,
        status: Status,
        rng: random.Random,
        deliverer: Callable[[Callable[[LaneKey], None]], Deliverer],
    ) -> None:
        self._store = store
        self._status = status
        self._rng = rng
        self._deliverer = deliverer(self.wake)
        self._lanes: dict[LaneKey, _Lane] = {}
        self._wanted: asyncio.Queue[LaneKey | None] = asyncio.Queue()

    async def run(self) -> None:
        """Work until `stop`; ends once every lane has finished what it had in flight.

        What was queued in an earlier life counts as possibly sent.
        """
        left_over = await self._left_over()
        async with asyncio.TaskGroup() as group:
            for key in left_over:
                self._open(key, group, suspect=True)
            while (wanted := await self._wanted.get()) is not None:
                if wanted in self._lanes:
                    self._lanes[wanted].work.set()
                else:
                    self._open(wanted, group, suspect=False)
            for lane in self._lanes.values():
                lane.stop()

    def wake(self, key: LaneKey) -> None:
        """Something was queued in the lane."""
        lane = self._lanes.get(key)
        if lane is None:
            self._wanted.put_nowait(key)
        else:
            lane.work.set()

    def try_again(self, pair: str) -> None:
        """Something about the pair changed for the better: do not wait for the next try."""
        for key, lane in self._lanes.items():
            if key.pair == pair:
                lane.hurry.set()

    def stop(self) -> None:
        """Let every lane finish what is in flight, and `run` end."""
        self._wanted.put_nowait(None)

    def _open(self, key: LaneKey, group: asyncio.TaskGroup, *, suspect: bool) -> None:
        lane = _Lane(key, self._store, self._status, self._deliverer, Backoff(self._rng), suspect=suspect)
        self._lanes[key] = lane
        group.create_task(lane.run(), name=f"lane {key.pair} {key.direction}")

    async def _left_over(self) -> list[LaneKey]:
        backoff = Backoff(self._rng)
        while True:
            try:
                async with self._store.read() as uow:
                    return sorted(await uow.outbox.lanes())
            except StoreUnavailable as error:
                self._status.store_problem = str(error)
                await asyncio.sleep(backoff.next())


class _Lane:
    """The commands of one pair in one direction, one after the other."""

    def __init__(
        self, key: LaneKey, store: Store, status: Status, deliverer: Deliverer, backoff: Backoff, *, suspect: bool
    ) -> None:
        self.work = asyncio.Event()
        self.hurry = asyncio.Event()
        self._key = key
        self._store = store
        self._status = status
        self._deliverer = deliverer
        self._backoff = backoff
        self._suspect = suspect
        self._bugs = 0
        self._stopping = False
        self._log = _log.bind(pair=key.pair, direction=key.direction)

    def stop(self) -> None:
        self._stopping = True
        self.work.set()
        self.hurry.set()

    async def run(self) -> None:
        waiting: deque[Entry] = deque()
        while not self._stopping:
            if waiting:
                if await self._try(waiting[0]):
                    waiting.popleft()
                    self._recovered()
                continue
            self.work.clear()
            try:
                async with self._store.read() as uow:
                    waiting.extend(await uow.outbox.waiting(self._key, _READ_AHEAD))
            except StoreUnavailable as error:
                await self._store_failed(error)
                continue
            if not waiting:
                # Nothing was left over, so nothing can have been sent.
                self._suspect = False
                await self.work.wait()

    async def _try(self, entry: Entry) -> bool:
        """One try at the head of the lane; whether it is done with. Waits before the next try otherwise."""
        try:
            await self._attempt(entry)
        except Blocked as error:
            await self._pause(error, problem=f"{self._key.direction} waits: {error}.")
        except RateLimited as error:
            await self._pause(error, problem=None)
        except Transient as error:
            self._suspect = self._suspect or error.ambiguous
            complaint = self._backoff.tries >= _TRIES_BEFORE_COMPLAINT
            await self._pause(
                error, problem=f"{self._key.direction} is not getting through: {error}." if complaint else None
            )
        except StoreUnavailable as error:
            # The receipt may be what could not be written.
            self._suspect = True
            await self._store_failed(error)
        else:
            return True
        return False

    async def _attempt(self, entry: Entry) -> None:
        try:
            await self._deliverer.carry_out(entry, suspect=self._suspect)
        except Unsupported as error:
            await self._deliverer.drop(entry, Dropped(error.feature, str(error)))
        except (Permanent, TargetGone) as error:
            self._log.warning("dead letter", entry=entry.id, reason=str(error))
            await self._deliverer.bury(entry, str(error))
        except (DeliveryError, StoreError):
            raise
        except Exception as error:
            # A bug of ours must not hold up the lane for ever, nor lose the message: after a few tries it is kept.
            self._log.exception("bug while delivering", entry=entry.id)
            self._bugs += 1
            if self._bugs < _TRIES_OF_A_BUG:
                raise Transient(f"internal error ({type(error).__name__})", ambiguous=True) from error
            await self._deliverer.bury(entry, f"internal error ({type(error).__name__})")

    def _recovered(self) -> None:
        self._suspect = False
        self._bugs = 0
        self._backoff.reset()
        self._status.lane(self._key).problem = None
        self._status.store_problem = None

    async def _pause(self, error: Transient, *, problem: str | None) -> None:
        counts = self._status.lane(self._key)
        counts.retries += 1
        counts.problem = problem
        told = isinstance(error, RateLimited) and error.retry_after is not None
        # A platform that says when to come back is taken at its word: waiting longer would only waste the budget.
        seconds = error.retry_after or 0.0 if told else self._backoff.next(at_least=error.retry_after)
        self._log.info("will try again", reason=str(error), seconds=round(seconds, 1), tries=self._backoff.tries)
        await self._wait(seconds)

    async def _store_failed(self, error: StoreUnavailable) -> None:
        self._status.store_problem = str(error)
        self._log.error("store unavailable", reason=error.reason)
        await self._wait(self._backoff.next())

    async def _wait(self, seconds: float) -> None:
        self.hurry.clear()
        if self._stopping:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.hurry.wait()
