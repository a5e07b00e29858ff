"""From one channel to another: its commands one after the other, retried at the head until they are done."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice

from relay.core.clock import Backoff, Bell, Flag, wait_at_most
from relay.core.convert.degrade import Dropped
from relay.core.delivery.entries import Entries
from relay.core.delivery.execute import Executor
from relay.core.delivery.rate_limit import Budget
from relay.core.delivery.resolve import Resolver, only_looks
from relay.core.pairs import PairDirectory
from relay.core.status.counters import Status
from relay.core.storage import Entry, Store
from relay.domain.commands import DeleteMessage, RequoteMessage
from relay.domain.ids import MessageRef
from relay.domain.pair import LaneKey
from relay.errors import (
    ActionNeeded,
    NotDeclared,
    NotYet,
    Permanent,
    Postponed,
    RateLimited,
    StoreError,
    StoreUnavailable,
    TargetGone,
    Transient,
    Unsupported,
)
from relay.logs import Logger, get_logger

_LOG = get_logger(__name__)

_READ_AHEAD = 50
_TRIES_BEFORE_COMPLAINT = 3
_TRIES_OF_A_BUG = 3
_HOPELESS_SECONDS = 180.0  # of answers that say that it failed
_SILENT_SECONDS = 1800.0  # of requests that nobody answers: that may be the way there
_HOPELESS_TRIES = 4
_MOST_DOUBLINGS = 5
_LEASE_SECONDS = 0.5
_NOT_YET_SECONDS = 0.3


@dataclass(slots=True)
class _Failing:
    """An entry at the head that fails again and again. `others`: what other lanes had delivered at its last failure.

    `passed_by`: failures between which others got through. `last_try`: the next one is.
    """

    entry: int
    since: float
    others: int
    passed_by: int = 0
    last_try: bool = False


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Lane:
    """Delivers until it is stopped: resolves the entry at its head, and executes the plan."""

    key: LaneKey
    store: Store
    pairs: PairDirectory
    status: Status
    resolver: Resolver
    executor: Executor
    entries: Entries
    budget: Budget
    backoff: Backoff
    may_send: Callable[[], bool]  # whether this process still holds the store
    suspect: bool  # what is at the head now may have been sent, as long as it is `_suspected`
    most_ahead: Callable[[], int]  # bytes of what may be read ahead of the store now
    drained: Bell  # rung each time that nothing waits any more
    sending: asyncio.Lock  # held during each try; whoever moves what waits here holds it meanwhile
    # Set when there is no point in waiting for the next try any longer.
    retry_event: Flag = field(default_factory=Flag, init=False)
    _work: Flag = field(default_factory=Flag, init=False)
    _stopped: Flag = field(default_factory=Flag, init=False)
    _unused: bool = field(default=False, init=False)
    _waiting: list[Entry] = field(default_factory=list, init=False)  # read ahead of the store
    _complete: bool = field(default=False, init=False)  # nothing waits in the store that is not in `_waiting`
    _newest: int = field(default=0, init=False)  # the highest ID that was ever in `_waiting`
    # The entry that may have been sent. None: the one that the store names first. It may have come to the head since
    # a start, if all that was left over then has gone in these milliseconds; nothing tells that one apart.
    _suspected: int | None = field(default=None, init=False)
    _moved: bool = field(default=False, init=False)  # what was read may be in another lane by now
    _trying: bool = field(default=False, init=False)
    _again: bool = field(default=False, init=False)  # the head was taken apart: what is in its place is tried next
    _one_by_one: int = field(default=0, init=False)  # messages of a digest that was refused, which cross by themselves
    _failing: _Failing | None = field(default=None, init=False)
    _given_up: int = field(default=0, init=False)  # heads in a row, without one that got through
    _bugs: int = field(default=0, init=False)  # tries of the head that ended with a bug of ours
    _retries: int = field(default=0, init=False)  # tries of the head that failed, for whatever reason

    @property
    def _log(self) -> Logger:
        """With the name that the operator gives the pair now."""
        return _LOG.bind(pair=self.pairs.name_of(self.key), direction=self.key.label)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, as far as the lane knows."""
        return not self._waiting

    @property
    def is_kept(self) -> bool:
        """Whether it goes on while nothing waits, to be quick. What a channel's lane to itself has is never urgent."""
        return self.key.crosses and self.pairs.pair_for(self.key) is not None

    def enqueue(self, entry: Entry) -> None:
        """`entry` was queued just now at the end of the lane: taken without asking the store, where that is safe."""
        if self._complete and entry.id <= self._newest:
            # Out of order, or already read from the store: drop the read-ahead and read again.
            while len(self._waiting) > self._trying:
                self._waiting.pop()
            self._complete = False
        elif self._complete and self._has_room_for(entry):
            self._waiting.append(entry)
            self._newest = entry.id
        else:
            self._complete = False
        self._work.set()

    def _has_room_for(self, entry: Entry) -> bool:
        """Whether it may be kept in memory: what is read ahead is bounded in bytes, too."""
        held = sum(other.size for other in self._waiting)
        return len(self._waiting) < _READ_AHEAD and (not held or held + entry.size <= self.most_ahead())

    def wake(self, *, suspect: bool = False) -> None:
        """Something was queued in the lane, or changed in it: ask the store. `suspect`: it may have been sent."""
        if suspect:
            self.suspect, self._suspected = True, None
        self._complete = False
        self._work.set()

    def moved(self) -> None:
        """What waited here may be elsewhere, or something from elsewhere be here. Only while `sending` is held."""
        self._moved = True
        self.wake()

    def stop(self) -> None:
        """Finish what is in flight, and end `run`."""
        self._stopped.set()
        self._work.set()
        self.retry_event.set()

    def unused(self) -> None:
        """Nothing waits, and the lane is not kept: end `run`, if that is so."""
        self._unused = True
        self._complete = False
        self._work.set()
        self.retry_event.set()

    async def run(self) -> None:
        """Deliver until `stop`, or until the lane is `unused`."""
        while not self._stopped.is_set():
            if self._waiting:
                self._trying = True
                done = await self._try(self._waiting[0])
                self._trying = False
                if done:
                    del self._waiting[0]
                    self._recovered()
                elif self._complete:
                    # Some parts of a message may be on record by now: look it up again.
                    self._waiting[0] = replace(self._waiting[0], original=None)
                else:
                    # The try may have written to the entry: read it again.
                    self._waiting.clear()
            elif self._complete:
                if self._unused and not self.is_kept:
                    return
                self._work.clear()
                self.drained.ring()
                await self._work.wait()
            else:
                await self._read()

    async def _read(self) -> None:
        """Ask the store what waits. What is enqueued meanwhile may be among it, or not."""
        self._work.clear()
        self._moved = False
        try:
            async with self.store.look() as uow:
                entries, whole = await uow.outbox.read_ahead(self.key, _READ_AHEAD, self.most_ahead())
        except StoreUnavailable as error:
            await self._store_failed(error)
            return
        self._waiting.extend(entries)
        self._newest = max(self._newest, *(entry.id for entry in entries), 0)
        self._complete = whole and not self._work.is_set()
        head = entries[0].id if entries else None
        if head is None or self._suspected not in (None, head):
            # It has gone (discarded, say, or to another lane), and what is in its place has not been tried.
            self.suspect = False
        self._suspected = head if self.suspect else None

    async def _try(self, entry: Entry) -> bool:
        """One try at the head of the lane; whether it is done with. Waits before the next try otherwise."""
        # Clear before the attempt, so that a wake-up during it is not lost.
        self.retry_event.clear()
        if not self.pairs.carries(self.key):
            await self._until_declared()
            return False
        if not self.may_send():
            await self._wait(_LEASE_SECONDS)
            return False
        # Decided once: what gives way takes no turn, so it must not send in this try.
        gives_way = self._gives_way(entry)
        looks = gives_way or only_looks(entry)
        try:
            async with nullcontext(True) if looks else self._turn(entry) as granted:
                if not granted:
                    return False
                async with self.sending:
                    return await self._attempt(entry, gives_way=gives_way)
        except NotDeclared:
            await self._until_declared()
        except ActionNeeded as error:
            # That can last, and what waits may be moved to another lane meanwhile: read again.
            self._complete = False
            # Why a channel is closed is told by itself.
            is_open = self.pairs.is_open(self.key)
            await self._pause(error, problem=f"{self.key.subject} wait: {error}." if is_open else None)
        except NotYet as error:
            self._log.debug("waits for its turn", reason=str(error))
            await self._wait(_NOT_YET_SECONDS)
        except RateLimited as error:
            if looks:
                await self._pause(error, problem=None)
            else:
                self._count_retry()  # the budget knows when to come back
        except Transient as error:
            if error.ambiguous:
                self._suspect(entry)
            if self._is_hopeless(entry, error):
                return await self._abandon(entry, f"it fails every time, while other messages get through ({error})")
            complaint = self.backoff.tries >= _TRIES_BEFORE_COMPLAINT
            problem = f"{self.key.subject} do not get through: {error}." if complaint else None
            await self._pause(error, problem=problem)
        except StoreUnavailable as error:
            # Perhaps the receipt could not be written, or was written although the answer got lost.
            self._suspect(entry)
            self._complete = False
            await self._store_failed(error)
        return False

    def _turn(self, entry: Entry) -> AbstractAsyncContextManager[bool]:
        # A quoted line in a lane that does not cross only waits for its turn: nothing is sent.
        sends = self.key.crosses or not isinstance(entry.command, RequoteMessage)
        return self.budget.turn(entry.queued_at, is_notice=not self.key.crosses, sends=sends)

    def _gives_way(self, entry: Entry) -> bool:
        """Whether an entry lets messages go first: the platform limits them, and a quoted line can wait."""
        return self.budget.seconds_each() > 0 and not self.suspect and self.entries.gives_way(entry)

    def _stands(self, source: MessageRef) -> bool:
        """Whether nothing behind the head deletes a message that was queued just now."""
        behind = (entry.command for entry in islice(self._waiting, 1, None))
        return self._complete and not any(isinstance(it, DeleteMessage) and it.source == source for it in behind)

    async def _together(self, entry: Entry) -> Entry:
        """The entry to deliver now: with what waits behind it, if the lane cannot keep up one by one."""
        seconds = self.budget.seconds_each()
        if not (seconds if self.key.crosses else self.budget.notices_pile_up()) or self.suspect or self._one_by_one:
            return entry
        try:
            lanes = self.budget.waiting + 1
            merge = await self.resolver.together(entry, seconds_each=seconds, lanes=lanes)
        except (Permanent, TargetGone, Unsupported) as error:
            self._log.info("messages cross one by one", reason=str(error))
            return entry
        if merge is None:
            return entry
        merged = await self.entries.merge(merge)
        self._waiting.clear()
        self._waiting.append(merged)
        self._complete = False
        return merged

    async def _attempt(self, entry: Entry, *, gives_way: bool) -> bool:
        """Carry out the entry, unless it is in another lane by now; whether it is done with."""
        self._again = False
        if self._moved:
            self._complete = False
            return False
        if entry.original is not None and not self._stands(entry.original.ref):
            entry = replace(entry, original=None)
        if self._failing is not None and self._failing.entry == entry.id and self._failing.last_try:
            entry = replace(entry, last_try=True)
        if self._retries:
            entry = replace(entry, retries=self._retries)
        try:
            if gives_way:
                await self.executor.execute(await self.resolver.postpone(entry))
                return True
            entry = await self._together(entry)
            if not self.suspect and await self.resolver.is_partly_unwanted(entry):
                await self._take_apart(entry, "somebody's words are not to cross any more")
                return False
            plan = await self.resolver.resolve(entry, suspect=self.suspect)
            await self.executor.execute(plan)
            self._given_up = 0
        except Unsupported as error:
            await self.entries.drop(entry, Dropped(error.feature, str(error)))
        except (Permanent, TargetGone) as error:
            if not self.pairs.carries(self.key):
                # Its channel was replaced meanwhile: what the old one refuses, the new one may take.
                self._complete = False
                return False
            await self._give_up(entry, str(error), postponed=isinstance(error, Postponed))
        except (Transient, StoreError):
            raise
        except Exception as error:
            # A bug of ours must not hold up the lane for ever, nor lose the message: after a few tries it is kept.
            self._log.exception("bug while delivering", entry=entry.id)
            self._bugs += 1
            if self._bugs < _TRIES_OF_A_BUG:
                raise Transient(f"internal error ({type(error).__name__})", ambiguous=True) from error
            await self._give_up(entry, f"internal error ({type(error).__name__})")
        return not self._again

    def _is_hopeless(self, entry: Entry, error: Transient) -> bool:
        """Whether to give up the head: its platform fails at it for minutes, and takes what other lanes bring.

        What only has to wait (a closed channel, a limit, no connection) does not count. Before the head is given up,
        one last try finds out whether an earlier one was carried out; it sends nothing. As long as nothing else gets
        through, the platform itself is in trouble, and the head stays. If the next head fails as well, the channel may
        be the reason: each then has twice the time of the one before.
        """
        if not (error.failed or error.ambiguous):
            return False
        seconds = (_HOPELESS_SECONDS if error.failed else _SILENT_SECONDS) * 2**self._given_up
        now = asyncio.get_running_loop().time()
        others = self.status.accepted(self.key.destination.platform) - self.status.lane(self.key).messages
        failing = self._failing
        if failing is None or failing.entry != entry.id:
            self._failing = _Failing(entry.id, now, others)
            return False
        failing.passed_by += others > failing.others
        failing.others = others
        if failing.passed_by < _HOPELESS_TRIES or now - failing.since < seconds:
            return False
        if not failing.last_try:
            failing.last_try = True
            self._suspect(entry)
            return False
        return True

    async def _abandon(self, entry: Entry, reason: str) -> bool:
        """Give up the head outside of a try; whether it is done with."""
        self._again = False
        try:
            async with self.sending:
                if self._moved:
                    self._complete = False
                    return False
                await self._give_up(entry, reason)
        except StoreUnavailable as error:
            self._complete = False
            await self._store_failed(error)
            return False
        return not self._again

    async def _give_up(self, entry: Entry, reason: str, *, postponed: bool = False) -> None:
        """No try will bring it across: a dead letter. Of a digest, only the message whose fault it is becomes one."""
        if await self._take_apart(entry, reason):
            return
        self._given_up = min(self._given_up + 1, _MOST_DOUBLINGS) if self._failing is not None else 0
        self._log.warning("dead letter", entry=entry.id, reason=reason)
        await self.entries.dead_letter(entry, reason, postponed=postponed)

    async def _take_apart(self, entry: Entry, reason: str) -> bool:
        """The messages of a digest take its place; False if it is none."""
        messages = await self.resolver.one_by_one(entry)
        if not messages:
            return False
        await self.entries.replace(entry, messages)
        self._one_by_one = len(messages)
        self._bugs = 0
        self._failing = None  # the digest failed; its first message, which has its ID, has not been tried
        self._log.info("messages cross one by one", reason=reason)
        self._again = True
        self._complete = False
        return True

    def _suspect(self, entry: Entry) -> None:
        self.suspect, self._suspected = True, entry.id

    def _recovered(self) -> None:
        self.suspect = False
        self._failing = None
        self._one_by_one = max(0, self._one_by_one - 1)
        self._bugs = self._retries = 0
        self.backoff.reset()
        self.status.waits_for(self.key, None)
        self.status.store_problem = None

    def _count_retry(self) -> None:
        self.status.retried(self.key)
        self._retries += 1

    async def _pause(self, error: Transient, *, problem: str | None) -> None:
        self._count_retry()
        self.status.waits_for(self.key, problem)
        seconds = self.backoff.next(at_least=error.retry_after)
        # A channel that is not open: why is told once, by itself, and at a start it opens within a second.
        is_told = problem is None and isinstance(error, ActionNeeded)
        log = self._log.debug if is_told else self._log.info
        log("will try again", reason=str(error), seconds=round(seconds, 1), tries=self.backoff.tries)
        # Also when it is woken earlier: the platform's own waiting time is kept.
        await self._wait(seconds, at_least=0.0 if isinstance(error, ActionNeeded) else error.retry_after or 0.0)

    async def _until_declared(self) -> None:
        """Wait until the pair is declared again: until then nothing is tried, and nothing is reported as a problem."""
        self._complete = False
        self.status.waits_for(self.key, None)
        await self.retry_event.wait()

    async def _store_failed(self, error: StoreUnavailable) -> None:
        self.status.store_problem = str(error)
        wait = self.backoff.next()
        self._log.error("store unavailable", reason=error.reason, tries=self.backoff.tries)
        await self._wait(wait)

    async def _wait(self, seconds: float, *, at_least: float = 0.0) -> None:
        """Wait `seconds`, or until `retry_event` is set, but always `at_least` that long. `stop` ends it at once."""
        if at_least:
            await wait_at_most(self._stopped, at_least)
        if self._stopped.is_set():
            return
        await wait_at_most(self.retry_event, seconds - at_least)
        self.retry_event.clear()
