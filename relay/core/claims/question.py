"""What a relay asks the others through the register: whether they live, or to hand over; and what it answers them."""

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from relay.core.claims.register import Ask, Claim
from relay.core.ports import Clock
from relay.logs import get_logger

_HANDED_OVER_WITHIN = 300.0
"""Seconds in which a relay that has answered has to have handed over, also if it is handing over to somebody else.

From the last answer on, as one that was stopped answers long after another one. Twice as long as `handover.py` waits
for deliveries, and more.
"""
_log = get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Question:
    """Our question to those who hold what we want: one at a time, which stands in our claim."""

    # This process.
    me: Claim
    clock: Clock
    # Whether a claim's process is known to have ended.
    has_ended: Callable[[Claim], bool]
    # Seconds after which who has not answered has lost its claims.
    silence: float
    ask: Ask | None = field(init=False, default=None)
    # Until when it may be answered, and those who have answered may hand over (monotonic).
    until: float = field(init=False, default=float("inf"))
    # Who has answered for which channel.
    _answered: frozenset[tuple[str, str]] = field(init=False, default=frozenset())
    # Of the question that was asked last.
    nonce: str = field(init=False, default="")
    # Since when who is about to take which channel, with which claim (monotonic).
    _promised: dict[tuple[str, str, int], float] = field(init=False, default_factory=dict)

    def start(self, channels: frozenset[str], *, take: bool) -> Ask:
        """It is put with the next writing of our claim."""
        self.ask = Ask(secrets.token_hex(8), channels, take)
        self.until, self._answered, self.nonce = float("inf"), frozenset(), self.ask.nonce
        return self.ask

    def repeat(self) -> None:
        """Ask it once more, and wait for answers as long again."""
        if self.ask is not None:
            self.start(self.ask.channels, take=self.ask.take)

    def was_put(self, ask: Ask) -> None:
        """It stands in the register: from now on answers are waited for."""
        if ask is self.ask and self.until == float("inf"):
            self.until = self.clock.monotonic() + self.silence

    def stands_in(self, claims: Iterable[Claim], keys: Collection[str]) -> bool:
        """Whether it stands in the register, about all of `keys`: nobody has claimed them since."""
        mine = next((claim for claim in claims if self.me.is_same_place(claim)), None)
        asked = None if mine is None else mine.ask
        return (
            asked is not None and self.ask is not None and asked.nonce == self.ask.nonce and asked.channels >= set(keys)
        )

    def is_older(self, possible: Sequence[Claim], keys: Collection[str]) -> bool:
        """Whether somebody has claimed one of these since we asked: we have waited for somebody else.

        It may not be sure of its claim yet. So what we asked still counts, but nothing can be taken with it.
        """
        mine = next((claim for claim in possible if self.me.is_same_place(claim)), None)
        number = 0 if mine is None or mine.ask is None else mine.ask.number
        others = [claim for claim in possible if claim is not mine]
        return any(claim.numbers.get(key, 0) >= number for claim in others for key in claim.channels & set(keys))

    def is_overtaken(self, said: Claim | None, claims: Iterable[Claim], keys: Collection[str]) -> bool:
        """Whether we have said it, but it does not count any more about all of `keys` that it names."""
        if self.ask is None or said is None or said.ask is None or said.ask.nonce != self.ask.nonce:
            return False
        return not self.stands_in(claims, self.ask.channels & set(keys))

    def is_over(self) -> bool:
        """Whether it has been waited for long enough."""
        return self.clock.monotonic() >= self.until

    def to_take(self) -> frozenset[str]:
        """The channels that it asks to hand over."""
        return self.ask.channels if self.ask is not None and self.ask.take else frozenset()

    def unanswered(self, possible: Sequence[Claim], holders: Mapping[str, Claim]) -> frozenset[str]:
        """Ends it when that is due; the channels whose `holders` have been silent for too long."""
        if self.ask is None:
            return frozenset()
        waiting = self.ask.channels & holders.keys()
        answered = frozenset(key for key in waiting if self.ask.nonce in holders[key].answers)
        if not self.ask.take:
            waiting -= answered
        elif new := {(key, holders[key].started) for key in answered} - self._answered:
            self._answered |= new
            self.until = self.clock.monotonic() + _HANDED_OVER_WITHIN
        ended = all(self.has_ended(holders[key]) for key in waiting)
        if waiting and not ended and not (self.is_over() and self.stands_in(possible, waiting)):
            return frozenset()
        if not ended and self.is_older(possible, waiting):
            self.repeat()
            return frozenset()
        self.ask = None
        if waiting:
            _log.warning("the other relay does not answer; taking over", holder=str(holders[min(waiting)]))
        return waiting

    # --- What others ask ----------------------------------------------------------------------------------

    def answers(self, claims: Sequence[Claim], held: frozenset[str]) -> frozenset[str]:
        """The questions of others that want to know whether we are alive, about what we have `held` or take over."""
        asks = [claim.ask for claim in claims if claim.ask is not None and not self.me.is_same_place(claim)]
        # Also to those that are to be handed what we hold: of two, each would have to be answered again and again.
        return frozenset(ask.nonce for ask in asks if ask.channels & (held if ask.take else held | self.to_take()))

    def open(self, claims: Iterable[Claim], keys: frozenset[str]) -> frozenset[str]:
        """The questions of others about any of these channels."""
        asks = [claim.ask for claim in claims if claim.ask is not None and not self.me.is_same_place(claim)]
        return frozenset(ask.nonce for ask in asks if ask.channels & keys)

    def promised(self, claims: Sequence[Claim], free: frozenset[str]) -> dict[str, Claim]:
        """Who is about to take over which of these, which we want and do not hold."""
        found: dict[str, Claim] = {}
        for claim in claims:
            if (ask := claim.ask) and ask.take and not self.me.is_same_place(claim) and not self.has_ended(claim):
                # Of two that ask to take over, one goes before; who only asks whether the other lives has to wait.
                first = self.ask is not None and self.ask.take and self.me.goes_before(claim)
                ours = self.ask.channels if self.ask is not None and first else frozenset()
                found |= dict.fromkeys((ask.channels & free) - ours, claim)
        return found

    def doubt(self, promised: Mapping[str, Claim]) -> None:
        """Ask whether those live who asked for what they do not take: they may have ended in between.

        Each new claim has its time: who is asked just when it claims something cannot begin with it.
        """
        now = self.clock.monotonic()
        since = {(key, claim.started, claim.numbers.get(key, 0)): now for key, claim in promised.items()}
        self._promised = {name: self._promised.get(name, begun) for name, begun in since.items()}
        due = {name: now for name, begun in self._promised.items() if now - begun > self.silence}
        if due and self.ask is None:
            self.start(frozenset(key for key, *_ in due), take=False)
            self._promised |= due
