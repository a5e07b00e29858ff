"""What stands in the register, and what we say there.

There is no compare-and-swap, and a request that we gave up on may still arrive. Therefore:

- *Each relay writes values of its own*, which nobody else writes. After a request whose end is not known, and in each
  new process, it begins a new *turn*: it writes to another value, and empties those before. The one of the latest turn
  counts, so what arrives late changes nothing.
- *A turn is named after the half second before which nothing is written in it.* So a process that comes after another
  one in its place has later turns, also where it has seen nothing of that one.
- *What is said of a channel has a number*, which is above all that its relay has read. The latest counts: who takes a
  channel from a relay that is silent replaces its claim without touching its value.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from relay.core.claims.register import Ask, Claim, Positions, Register, Values
from relay.core.ports import Clock
from relay.domain.jsontext import Json
from relay.errors import Transient

_TURN_SECONDS = 0.5
_LATE_TURNS = 256
"""After so many no request arrives any more."""
_VALUES = 2 * _LATE_TURNS
"""How many values one relay has in a boot. None is used again while requests to it may arrive.

The platform can delete none, so an empty one (some 60 bytes) stays for each in which a turn was begun. Those of earlier
boots are not used again: a copy of this machine would use the same ones, and two relays would replace each other's
words. One is emptied in that half of the time in which its next use is far away.
"""
_LONGEST_WAIT = 1.0
"""Seconds to wait for a turn at most: the clock may have been put back, and then turns are only counted."""
_FORGOTTEN_AFTER = 3600.0
"""Seconds after which a value of our store in which nothing counts is emptied: each boot of the machine has its own."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What stood in the register at one moment."""

    # When it was asked for (monotonic).
    asked: float
    values: Values
    # What each relay has said last, word for word; and what of it counts.
    said: Sequence[Claim]
    claims: Sequence[Claim]
    # Also what somebody has claimed since who is not sure of it: until then both may mirror it.
    possible: Sequence[Claim]


@dataclass(slots=True, kw_only=True)
class Board:
    """The register, as one relay reads and writes it."""

    register: Register
    clock: Clock
    # This process, without channels.
    me: Claim
    # Whether the store is certainly still ours: else a process after this one may write in our place.
    may_write: Callable[[], bool]
    # What we, or an earlier process in our place, have said last.
    said: Claim | None = field(init=False, default=None)
    # What was read last, and first.
    last: Reading | None = field(init=False, default=None)
    _first: Reading | None = field(init=False, default=None)
    # The highest number that we have read or used.
    _number: int = field(init=False, default=0)
    # What we are taking from relays that are silent: the claim, and what it had answered before.
    _taking: dict[tuple[str, str, int], frozenset[str]] = field(init=False, default_factory=dict)
    # Places of earlier boots whose values we have emptied.
    _emptied: set[str] = field(init=False, default_factory=set)
    # The turn of the moment in which this process began: those before it ended earlier.
    _born: int = field(init=False)
    # 0: this process has not written yet. `_written`: what we have said last has certainly arrived.
    _turn: int = field(init=False, default=0)
    _written: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._born = self._now()

    async def read(self, ours: frozenset[str] | None) -> Reading:
        """Read it. `ours`: the channels of which we are sure, as our other claims do not count for us yet.

        None: what an earlier process in our place was sure of. Raises `Transient`, `NoRegister`.
        """
        asked = self.clock.monotonic()
        values = await self.register.read()
        said = said_in(values)
        mine = self.mine(said)
        if not self._turn:
            self.said = mine
        self._number = max(self._number, *(number for claim in said for number in _numbers(claim)), 0)
        if mine is not None:
            sure = mine.channels - mine.pending if ours is None else mine.channels & ours
            said_surely = [
                replace(mine, channels=sure, pending=frozenset()) if claim is mine else claim for claim in said
            ]
        else:
            said_surely = list(said)
        self.last = Reading(asked, values, said, counting(said_surely), _possible(said_surely))
        self._first = self._first or self.last
        return self.last

    async def read_own(self, ours: frozenset[str]) -> Reading:
        """Read what we have just said, and so all that anybody had said before."""
        reading = await self.read(ours)
        if not self.stands_in(reading):
            raise Transient("the register does not show yet what was written last")
        return reading

    def stands_in(self, reading: Reading) -> bool:
        """Whether what we have said last stands there."""
        return self._written and self.mine(reading.said) == self.said

    def claimed_for_all(self, reading: Reading) -> frozenset[str]:
        """Our claims that count for others, those that are pending, too.

        Not where somebody has left a channel with the same number meanwhile: then that would count beside our claim.
        """
        mine = self.mine(counting(reading.said))
        if mine is None:
            return frozenset()
        others = [claim for claim in reading.said if not self.me.is_same_place(claim)]
        left = last_numbers((replace(claim, channels=frozenset()) for claim in others), pending=True)
        return mine.channels - {key for key in mine.pending if mine.numbers.get(key, 0) <= left.get(key, 0)}

    def sure(self) -> frozenset[str]:
        """What we have said last to be sure of."""
        return frozenset() if self.said is None else self.said.channels - self.said.pending

    def is_certain(self, reading: Reading, keys: frozenset[str]) -> bool:
        """Whether nobody else is certain to have one of these, which we claim. It may be about to withdraw."""
        mine, surely = self.mine(reading.said), last_numbers(reading.said, pending=False)
        if mine is None or not keys <= mine.channels:
            return False
        return all(mine.numbers.get(key, 0) >= surely.get(key, 0) for key in keys)

    def mine(self, claims: Iterable[Claim]) -> Claim | None:
        """What stands in our place."""
        return next((claim for claim in claims if self.me.is_same_place(claim)), None)

    def is_done(self, reading: Reading, channels: frozenset[str], ask: Ask | None, answers: frozenset[str]) -> bool:
        """Whether we have said just that last, and are sure of those channels; and nothing is left to be tidied up."""
        said = self.said or self.me
        asked = {"" if one is None else one.nonce for one in (said.ask, ask)}
        done = (said.channels, said.pending, said.answers) == (channels, frozenset(), answers) and len(asked) == 1
        return done and not any(map(self._may_empty, self._former(reading))) and not self._forgotten(reading)

    def is_tidy(self) -> bool:
        """Whether nothing is left that can be emptied later."""
        return self.last is None or not self._former(self.last)

    def not_taken(self, reading: Reading, nonce: str) -> list[Claim]:
        """What is possible without what we are replacing, unless its relay has answered our question after all."""
        found = []
        for claim in reading.possible:
            taken = {key for key in claim.channels if self._is_taking(claim, key, nonce)}
            found.append(replace(claim, channels=claim.channels - taken))
        return found

    def _is_taking(self, claim: Claim, key: str, nonce: str) -> bool:
        answers = self._taking.get((claim.started, key, claim.numbers.get(key, 0)))
        return answers is not None and (nonce in answers or nonce not in claim.answers)

    async def say(
        self,
        reading: Reading,
        keep: Collection[str],
        *,
        new: frozenset[str] = frozenset(),
        take: frozenset[str] = frozenset(),
        ask: Ask | None,
        answers: frozenset[str],
        left: Mapping[str, Positions],
    ) -> None:
        """Claim the channels that we `keep` and those that are `new`, of which we `take` some from who is silent.

        `reading`: the last one. Raises `Transient`, `NoRegister`: what was said is then not known.
        """
        self._taking = {
            (claim.started, key, claim.numbers.get(key, 0)): claim.answers
            for claim in reading.possible
            for key in claim.channels & take
        }
        self._number += 1
        before, number = self.said or self.me, self._number
        others = [claim for claim in reading.said if not self.me.is_same_place(claim)]
        numbers = {key: before.numbers.get(key, number) for key in keep} | dict.fromkeys(new, number)
        # What was left stands until it is certain who has the channel now.
        left_numbers = {
            **before.left_numbers,
            **{key: before.numbers[key] for key in left.keys() & before.numbers.keys()},
        }
        left = {**before.left, **left}
        # And if we said nothing any more, what we have replaced would count again, or be read on from where others
        # were, and a copy of our store would not know that it is older.
        for key in before.channels - before.pending - set(keep) - left.keys():
            left[key], left_numbers[key] = {}, before.numbers.get(key, 0)
        since = last_numbers(others, pending=False)
        left = {
            key: told for key, told in left.items() if key not in keep and since.get(key, 0) <= left_numbers.get(key, 0)
        }
        if ask is not None:
            same = before.ask is not None and before.ask.nonce == ask.nonce
            ask = replace(ask, number=before.ask.number if same and before.ask is not None else number)
        own = replace(
            self.me,
            channels=frozenset(numbers),
            pending=new,
            ask=ask,
            answers=answers,
            left=left,
            numbers=numbers,
            left_numbers={key: left_numbers.get(key, 0) for key in left},
        )
        await self._write(reading, own)
        for name in [name for name in self._former(reading) if self._may_empty(name)]:
            await self._put(name, {})
        for name in self._forgotten(reading):
            await self._put(name, {})
            self._emptied.add(name.partition(".")[0])

    async def _write(self, reading: Reading, own: Claim) -> None:
        latest = max((self._turn, *(claim.turn for claim in _turns(reading.values, self.me.place()))))
        if not self._written or latest > self._turn:
            self._written, self._turn = False, max(latest + 1, self._born + 1, self._now())
            wait = self._turn * _TURN_SECONDS - self.clock.now().timestamp()
            await self.clock.sleep(max(0.0, min(wait, _LONGEST_WAIT)))
        self._written = False
        own = replace(own, turn=self._turn)
        await self._put(value_name(own), own.as_json())
        self._written, self.said = True, own

    async def _put(self, name: str, value: Json) -> None:
        if not self.may_write():
            raise Transient("it is not certain that the store is still ours")
        await self.register.write(name, value)

    def _former(self, reading: Reading) -> list[str]:
        """Our values that do not count any more, and are not empty yet."""
        current = "" if self.said is None else value_name(self.said)
        ours = f"{self.me.place()}."
        return [name for name, value in reading.values.items() if value and name.startswith(ours) and name != current]

    def _may_empty(self, name: str) -> bool:
        """Whether a value of ours is not used before a request that empties it now has certainly ended."""
        number = name.partition(".")[2]
        next_use = (int(number) - max(self._turn, self._now())) % _VALUES if number.isdecimal() else _VALUES
        return next_use > _LATE_TURNS

    def _now(self) -> int:
        """The turn of this moment."""
        return int(self.clock.now().timestamp() / _TURN_SECONDS)

    def _forgotten(self, reading: Reading) -> list[str]:
        """Values of our store from earlier boots that have stood there for long although nothing in them counts.

        Not of a copy of it, which may live, and wait: it would say it again, and claim something while we empty that.
        Nor twice: a copied machine cannot be told from an earlier boot.
        """
        if self._first is None or reading.asked - self._first.asked < _FORGOTTEN_AFTER:
            return []
        surely = last_numbers(reading.said, pending=False)
        me = (self.me.store, self.me.file, self.me.host)
        others = [claim for claim in reading.said if (claim.store, claim.file, claim.host) == me]
        others = [claim for claim in others if not self.me.is_same_place(claim) and claim.place() not in self._emptied]
        empty = [
            claim for claim in others if claim in self._first.said and not _counting(claim, surely, surely).tells()
        ]
        turns = [turn for claim in empty for turn in _turns(reading.values, claim.place())]
        # The earliest first: the latest of those that stand there is the one that counts.
        return [value_name(turn) for turn in sorted(turns, key=lambda turn: turn.turn)]


def value_name(claim: Claim) -> str:
    """In which value it stands."""
    return f"{claim.place()}.{claim.turn % _VALUES}"


def said_in(values: Values) -> list[Claim]:
    """What each relay has said last, word for word."""
    turns = [_turns(values, place) for place in {name.partition(".")[0] for name in values}]
    return sorted((max(said, key=lambda claim: claim.turn) for said in turns if said), key=Claim.order)


def claims_in(values: Values) -> list[Claim]:
    """What counts in the register."""
    return counting(said_in(values))


def counting(said: Sequence[Claim]) -> list[Claim]:
    """What of it counts: what was said last of each channel.

    Questions, and how far it was read, count until somebody else has it for certain.
    """
    last = last_numbers(said, pending=True)
    surely = last_numbers(said, pending=False)
    return [_counting(claim, last, surely) for claim in said]


def _possible(said: Sequence[Claim]) -> list[Claim]:
    """What of it counts, or did before somebody claimed it who is not sure of it yet, and may never be."""
    surely = last_numbers(said, pending=False)
    return [_counting(claim, surely, surely) for claim in said]


def last_numbers(said: Iterable[Claim], *, pending: bool) -> dict[str, int]:
    """The number of what was said last of each channel, also of claims that are `pending` or only of sure ones."""
    last: dict[str, int] = {}
    for claim in said:
        for key in claim.channels if pending else claim.channels - claim.pending:
            last[key] = max(last.get(key, 0), claim.numbers.get(key, 0))
        for key in claim.left:
            last[key] = max(last.get(key, 0), claim.left_numbers.get(key, 0))
    return last


def _counting(claim: Claim, last: Mapping[str, int], surely: Mapping[str, int]) -> Claim:
    channels = frozenset(key for key in claim.channels if claim.numbers.get(key, 0) >= last.get(key, 0))
    left = {key: told for key, told in claim.left.items() if claim.left_numbers.get(key, 0) >= surely.get(key, 0)}
    ask = claim.ask
    if ask is not None:
        asked = frozenset(key for key in ask.channels if ask.number > surely.get(key, 0))
        ask = replace(ask, channels=asked) if asked else None
    return replace(claim, channels=channels, left=left, ask=ask)


def _turns(values: Values, place: str) -> list[Claim]:
    """All that stands in the values of this place."""
    found = [(name, Claim.from_json(value)) for name, value in values.items() if name.startswith(f"{place}.")]
    return [claim for name, claim in found if claim is not None and claim.turn and value_name(claim) == name]


def _numbers(claim: Claim) -> Iterable[int]:
    return (*claim.numbers.values(), *claim.left_numbers.values(), 0 if claim.ask is None else claim.ask.number)
