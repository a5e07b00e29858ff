"""What goes wrong on a platform, by seed."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from relay.core.ports import EventBatch
from relay.domain.events import MemberBanned, MemberUnbanned, PolicyListRead
from relay.errors import ActionNeeded, DeliveryError, Permanent, RateLimited, Transient

_WRITES = frozenset({"send", "edit", "delete", "mark"})

UNDELETABLE = "the relay may not delete that now"
"""Why a deletion is a dead letter, until the operator queues it again."""

_IN_ORDER = (MemberBanned, MemberUnbanned, PolicyListRead)


@dataclass(frozen=True, slots=True)
class Spell:
    """A time, in seconds of the history, in which `what` (`outage`, `forbidden`, `limited`, `undeletable`) holds."""

    what: str
    start: float
    end: float


@dataclass(slots=True)
class Trouble:
    """The hooks of one adapter. After `over` everything works.

    `likelihood` of each call to go wrong, on either side of its being carried out.
    """

    rng: random.Random
    now: Callable[[], float]
    trace: Callable[[str], None]
    name: str
    likelihood: float
    spells: Sequence[Spell]
    over: float
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, rng: random.Random, now: Callable[[], float], trace: Callable[[str], None], name: str, over: float
    ) -> "Trouble":
        """Troubles that a seed has in store; some histories have next to none."""
        spells = []
        for what in ("outage", "forbidden", "limited"):
            for _ in range(rng.choice((0, 0, 0, 1, 2))):
                start = rng.uniform(0, over)
                spells.append(Spell(what, start, start + rng.expovariate(1 / 8)))
        return cls(rng, now, trace, name, rng.choice((0.0, 0.02, 0.1, 0.3)), spells, over)

    def keep_copies(self, seed: int) -> None:
        """In every fourth history the relay may not delete anything from some time on: its bot lost a permission."""
        rng = random.Random(f"undeletable {seed} {self.name}")
        if rng.random() < 0.25:
            self.spells = [*self.spells, Spell("undeletable", rng.uniform(0, self.over), self.over)]

    async def before(self, call: str) -> None:
        """The way there."""
        await self._delay()
        if self._holds("outage"):
            self._raise(call, "outage", Transient("no connection"))
        if call not in _WRITES:
            if call != "open" and self._unlucky(0.3):
                self._raise(call, "lost", Transient("connection lost"))
            return
        if self._holds("forbidden"):
            self._raise(call, "forbidden", ActionNeeded("not allowed"))
        if call == "delete" and self._holds("undeletable"):
            self._raise(call, "undeletable", Permanent(UNDELETABLE))
        if self._holds("limited"):
            self._raise(call, "limited", RateLimited("slow down", retry_after=self.rng.uniform(0.1, 3)))
        if self._unlucky():
            self._raise(call, "failed before", Transient("500", ambiguous=True, failed=True))

    async def after(self, call: str) -> None:
        """The way back."""
        await self._delay()
        if call in _WRITES and self._unlucky():
            if self.rng.random() < 0.3:
                await asyncio.sleep(self.rng.uniform(1, 15))
            self._raise(call, "failed after", Transient("time-out", ambiguous=True))

    def doubled(self, batches: Sequence[EventBatch]) -> EventBatch | None:
        """Some events come twice, the second time after newer ones."""
        if not self._unlucky():
            return None
        found = self.rng.choice(batches)
        # No platform tells of bans in another order than they were made in.
        return None if any(isinstance(event, _IN_ORDER) for event in found.events) else found

    async def _delay(self) -> None:
        await asyncio.sleep(self.rng.choice((0.0, 0.001, 0.01, self.rng.expovariate(2.0))))

    def _holds(self, what: str) -> bool:
        return any(spell.what == what and spell.start <= self.now() < spell.end for spell in self.spells)

    def _unlucky(self, factor: float = 1.0) -> bool:
        return self.now() < self.over and self.rng.random() < self.likelihood * factor

    def _raise(self, call: str, what: str, error: DeliveryError) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        self.trace(f"{self.name} {call}: {what}")
        raise error
