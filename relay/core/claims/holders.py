"""Who holds the pairs that are not ours, what becomes of pairs with that, and what the operator is told."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from relay.core.claims.board import Reading, last_numbers
from relay.core.claims.question import Question
from relay.core.claims.register import FROM_NOW, Claim, Positions
from relay.logs import get_logger

_log = get_logger(__name__)


class PairSwitch(Protocol):
    """What becomes of pairs when claims change. Pairs are named by the key of their claim."""

    def is_ready(self) -> bool:
        """Whether pairs can be started: both platforms have read what was said before. No I/O."""
        ...

    async def positions(self, keys: Collection[str]) -> Mapping[str, Positions]:
        """How far those of these pairs were read in which nothing waits; empty where that was never."""
        ...

    async def hold_back(self, reasons: Mapping[str, str]) -> None:
        """From now on these pairs, and no others, are left alone; each reason is a sentence for the operator."""
        ...

    async def hand_over(self, keys: Collection[str]) -> Mapping[str, Positions]:
        """Read no further in these pairs, deliver what was read, and return up to where that was."""
        ...

    async def stand_down(self, keys: Collection[str]) -> None:
        """Another relay has mirrored these pairs for some time: what waits here must not be sent."""
        ...

    async def read_from(self, positions: Mapping[str, Positions]) -> None:
        """Once nothing holds these pairs back any more, read on from there; where that is not known, from now on."""
        ...


@dataclass(slots=True, kw_only=True)
class Holders:
    """Those that hold what we want."""

    # This process.
    me: Claim
    switch: PairSwitch
    # Ours to them.
    question: Question
    # Whether a claim's process is known to have ended.
    has_ended: Callable[[Claim], bool]
    # See `Claims`.
    take_over: bool
    restored: bool
    # Channels that somebody else has held since we have: they are read on from where the other one stopped.
    awaited: set[str] = field(init=False, default_factory=set)
    # Who holds which, as far as is known.
    _known: Mapping[str, Claim] = field(init=False, default_factory=dict)

    def of(self, wanted: frozenset[str], claims: Iterable[Claim]) -> dict[str, Claim]:
        """Who holds which of these. Not who has ended on what is our store now.

        Of several that may, it is the one that most certainly lives: where it has ended or is silent, all have or are.
        """
        others = [claim for claim in claims if not self.me.is_same_place(claim)]
        others = [claim for claim in others if self._is_elsewhere(claim) or not self.has_ended(claim)]
        others.sort(key=lambda claim: (not self.has_ended(claim), self.question.nonce in claim.answers))
        return {key: claim for claim in others for key in claim.channels & wanted}

    def is_doubtful(self, holder: Claim) -> bool:
        """Whether a holder has to be asked before anything is read: it may have ended, and nothing shows it."""
        # What others hold can also be asked for while we run, but with our own store we read on where it ends.
        return not self.has_ended(holder) and (not self.take_over or holder.store == self.me.store)

    async def moved_on(self, wanted: frozenset[str], claims: Sequence[Claim], taken: Collection[str]) -> frozenset[str]:
        """What another store has read since ours has: free channels, and those that are `taken` from the silent.

        Where ours has read nothing yet, it does not matter what a silent one has read: it has told nobody.
        """
        lefts = [(claim, key, told) for claim in claims for key, told in claim.left.items()]
        left = {key: told for claim, key, told in lefts if self._has_read_more(claim, told)}
        others = [claim for claim in claims if not self.me.is_same_place(claim) and self._is_elsewhere(claim)]
        sure = {key for claim in others for key in claim.channels - claim.pending} & set(taken)
        # Mostly nobody has left anything, and to read a thousand positions takes a second.
        known = await self.switch.positions(in_doubt) if (in_doubt := wanted & (left.keys() | sure)) else {}
        told = {key for key in wanted & left.keys() if left[key] != known.get(key)}
        return frozenset(told | {key for key in sure if known.get(key)})

    def read_as_far(self, ours: frozenset[str], reading: Reading) -> frozenset[str]:
        """Those of `ours` that another store has had since, and left where we are: it may have sent what waits here."""
        left = ours.intersection(key for claim in reading.said for key in claim.left)
        return frozenset() if self.restored else left & self.had_since(reading)

    def had_since(self, reading: Reading) -> frozenset[str]:
        """The channels that another store has had since ours has: what waits in ours must not be sent."""
        others = last_numbers(filter(self._is_another_store, reading.said), pending=False)
        ours = last_numbers((claim for claim in reading.said if not self._is_another_store(claim)), pending=False)
        return frozenset(key for key, number in others.items() if number >= ours.get(key, 0))

    def _has_read_more(self, claim: Claim, told: Positions) -> bool:
        """Whether what a relay has left counts: not if we look for what crossed since, or if it is our own place.

        Except where somebody else had had it, and we left it before we had read on from there.
        """
        if self.me.is_same_place(claim):
            return told == FROM_NOW
        return claim.store != self.me.store or not self.restored

    def _is_elsewhere(self, claim: Claim) -> bool:
        """Whether a relay certainly had another store, or another copy of ours. After a power cut, our boot is new."""
        return self._is_another_store(claim) and (claim.store != self.me.store or not self.restored)

    def _is_another_store(self, claim: Claim) -> bool:
        # An earlier relay said of its file system nothing: after an update, what it has left is ours.
        return claim.store != self.me.store or claim.file not in (self.me.file, self.me.file.partition(" on ")[0])

    async def leave_alone(self, holders: Mapping[str, Claim], not_ours: Collection[str]) -> None:
        """Remember who holds what, and tell it where that is new."""
        new = {key: holder for key, holder in holders.items() if str(self._known.get(key)) != str(holder)}
        for key, holder in {str(holder): (key, holder) for key, holder in new.items()}.values():
            pairs = sum(str(other) == str(holder) for other in new.values())
            if key in self.question.to_take():
                _log.info("another relay holds pairs; it is asked to hand them over", holder=str(holder), pairs=pairs)
                continue
            remedy = "stop that one, or start this one with `relay run --take-over`"
            _log.warning("another relay holds pairs; waiting for it", holder=str(holder), pairs=pairs, remedy=remedy)
        self.awaited |= holders.keys()
        self._known = dict(holders)
        await self.tell(not_ours)

    def known(self) -> frozenset[str]:
        """The channels that somebody else is known to hold."""
        return frozenset(self._known)

    async def tell(self, not_ours: Collection[str]) -> None:
        """Leave alone what is not ours, and say why."""
        await self.switch.hold_back({key: self._reason(key) for key in not_ours})

    def _reason(self, key: str) -> str:
        holder = self._known.get(key)
        if holder is None and key in self.awaited:
            return "Another relay held this pair; this one goes on from there once both sides have answered."
        if holder is None:
            return "It is being looked up whether another relay holds this pair."
        if key in self.question.to_take():
            return f"Another relay ({holder}) holds this pair; it is asked to hand it over."
        if self.has_ended(holder):
            return (
                f"Another relay on the same accounts held this pair ({holder}), and has ended: start that one again, "
                "and nothing is lost; or this one, which goes on without what was said since."
            )
        return (
            f"Another relay on the same accounts holds this pair ({holder}): "
            "stop that one, or start this one with `relay run --take-over`."
        )
