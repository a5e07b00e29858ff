"""One relay at a time for each pair: several that run with the same accounts agree on who mirrors what.

After a move, or after a volume was lost, an operator may run two relays with stores of their own. Each would mirror
everything, so everything would be doubled. Therefore each relay writes into a register that all of them can read (the
account itself keeps it) who it is and which channels it mirrors. A channel that another one has claimed is left alone.

- *Reading gives the right*, for `RIGHT_SECONDS` after the last reading was asked for, by a clock that never jumps. So a
  relay that is cut off or stopped for longer sends nothing before it has read again. One that does not answer for
  `SILENCE_SECONDS`, which is longer, has lost its claims. No two machines' clocks are compared, and nothing is written
  while nothing changes.
- *A claim ends* when its relay gives it up (at its end, or because another one was started to take over), or by
  silence: a relay that starts asks those that hold its pairs whether they live, and takes what nobody answers for.
  Nobody takes a claim from a relay that crashes while others wait: it may be back in a moment, and then it reads what
  was missed. On the same store it is the same relay, and waits for nothing.
- *Handing over* loses and doubles nothing: the old relay stops reading at one place, delivers what it has read, and
  tells that place in the register; the new one reads on from there. Whoever finds that another store held a pair since
  does not read on from its own, older place.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from relay.core.claims.question import Question
from relay.core.claims.register import Claim, NoRegister, Positions, Register, as_register, claims_in
from relay.core.clock import Backoff
from relay.core.ports import Clock
from relay.domain.jsontext import Json
from relay.errors import RelayError, StoreUnavailable, Transient
from relay.logs import get_logger

RIGHT_SECONDS = 40.0
SILENCE_SECONDS = 45.0
_READ_EVERY = 20.0
_CONFIRM_AFTER = 0.3
"""Two relays that start at the same moment may both find a channel free. Each looks again after this time."""
_SLOW, _SLOW_CONFIRM_AFTER = 5.0, 5.0
"""Where it took longer than that to read the register and to replace it, somebody may have begun meanwhile whose claim
was overwritten. They are given the time to see that: more of it, if it took longer than `_SLOW`."""
_POLL_SECONDS = 1.0
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

    async def start(self, positions: Mapping[str, Positions]) -> None:
        """These pairs are ours now. They are read from these positions on; where there is none, from now on."""
        ...


@dataclass(slots=True, kw_only=True)
class Claims:
    """The claims of this relay."""

    register: Register
    switch: PairSwitch
    clock: Clock
    backoff: Backoff
    # This process, without channels.
    me: Claim
    # Whether a claim's process is known to have ended.
    has_ended: Callable[[Claim], bool]
    # Whether the operator wants this relay to take over what others hold when it starts.
    take_over: bool = False
    # Whether our store is a backup: it reads again what was read since, and finds out by itself what has crossed.
    restored: bool = False
    silence: float = SILENCE_SECONDS

    # The channels that the operator wants us to mirror, and those that are ours.
    wanted: frozenset[str] = frozenset()
    held: frozenset[str] = field(init=False, default=frozenset())
    # Who holds the others, as far as is known.
    _holders: dict[str, Claim] = field(init=False, default_factory=dict)
    # Channels that somebody else has held since we have: they are read on from where the other one stopped.
    _awaited: set[str] = field(init=False, default_factory=set)
    # What was handed over, until that stands in the register.
    _left: dict[str, Positions] = field(init=False, default_factory=dict)
    # Ours to those who hold what we want.
    _question: Question = field(init=False)
    # False: there is no register, so every channel is ours.
    _agreed: bool = field(init=False, default=True)
    # Set once it is known what others hold.
    begun: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _look_now: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _busy: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._question = Question(me=self.me, clock=self.clock, has_ended=self.has_ended, silence=self.silence)

    def valid(self) -> bool:
        """Whether what is `held` is certainly still ours. No I/O."""
        if not self.begun.is_set():
            return False
        return not self._agreed or self.clock.monotonic() - self.register.confirmed < RIGHT_SECONDS

    # --- The start ----------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Claim what is free, and leave alone what is not. Returns at once where nobody else is in the register.

        Call it before anything is read or sent, however long the platform takes to answer. Those that hold our pairs,
        and may have ended without a word, are asked whether they live, and waited for.
        """
        if self.begun.is_set():
            return
        async with self._busy:
            while True:
                try:
                    await self._begin()
                except NoRegister as error:
                    self._give_up(error)
                except (Transient, StoreUnavailable) as error:
                    _log.warning("it cannot be looked up whether another relay runs; trying again", reason=str(error))
                    await self._pause(error)
                    continue
                self.backoff.reset()
                self.begun.set()
                return

    async def _begin(self) -> None:
        asked, claims = await self._read()
        silent, given_up = frozenset[str](), frozenset[str]()
        if doubtful := frozenset(key for key, holder in self._rivals(claims).items() if self._is_doubtful(holder)):
            asked, claims, silent = await self._ask(doubtful)
            given_up = doubtful - silent - self._rivals(claims).keys()
        rivals = self._rivals(claims)
        silent |= frozenset(key for key, holder in rivals.items() if self.has_ended(holder))
        later = given_up | await self._moved_on(claims, {key: rivals[key] for key in silent & rivals.keys()})
        rivals = {key: holder for key, holder in rivals.items() if key not in silent}
        later -= rivals.keys()
        free = self.wanted - rivals.keys() - later
        mine = self._mine(claims)
        if rivals and self.take_over:
            self._question.start(frozenset(rivals), take=True)
        took = await self._write(free, take=silent)
        if mine is None or len(claims) > 1:
            # Not needed where we were the last to write, and alone.
            asked, claims = await self._read_again(took)
            rivals |= self._rivals(claims)
            free = self._confirmed(free, claims)
        self.held = free
        self._awaited |= rivals.keys() | later
        rivals = {key: holder for key, holder in rivals.items() if key not in free}
        await self._leave_alone(rivals)
        if self._awaited:
            await self.switch.stand_down(self._awaited)
            self._look_now.set()
        self.register.settle(asked)

    def _is_doubtful(self, holder: Claim) -> bool:
        """Whether a holder has to be asked before anything is read: it may have ended, and nothing shows it."""
        # What others hold can also be asked for while we run, but with our own store we read on where it ends.
        return not self.has_ended(holder) and (not self.take_over or holder.store == self.me.store)

    async def _ask(self, keys: frozenset[str]) -> tuple[float, list[Claim], frozenset[str]]:
        """Ask who holds these whether they live. Returns when: the claims, and what nobody answered for."""
        _log.warning("another relay is in the register; waiting for its answer", seconds=self.silence)
        ask = self._question.start(keys, take=self.take_over)
        try:
            await self._write(self.held, take=frozenset())
            while True:
                await self.clock.sleep(_POLL_SECONDS)
                asked, claims = await self._read()
                rivals = self._rivals(claims)
                unanswered = frozenset(key for key in keys & rivals.keys() if ask.nonce not in rivals[key].answers)
                if not unanswered:
                    return asked, claims, unanswered
                if not self._question.stands_in(claims):
                    # Somebody wrote at the same moment.
                    await self._write(self.held, take=frozenset())
                elif self._question.is_over():
                    return asked, claims, unanswered
        finally:
            self._question.ask = None

    async def _moved_on(self, claims: Sequence[Claim], taken: Mapping[str, Claim]) -> frozenset[str]:
        """What another store has read since ours has: free channels, and those that are `taken` from the silent.

        Where ours has read nothing yet, it does not matter what a silent one has read: it has told nobody.
        """
        known = await self.switch.positions(self.wanted)
        left = {key: told for claim in claims if self._has_read_more(claim) for key, told in claim.left.items()}
        told = {key for key in self.wanted & left.keys() if left[key] != known.get(key)}
        untold = {key for key, holder in taken.items() if self._is_elsewhere(holder) and known.get(key)}
        return frozenset(told | untold)

    def _has_read_more(self, claim: Claim) -> bool:
        """Whether what a relay has left counts: not if it is our own place, or if we look for what crossed since."""
        return claim.store != self.me.store or not (self.me.is_same_place(claim) or self.restored)

    def _is_elsewhere(self, claim: Claim) -> bool:
        """Whether a relay certainly had another store, or another copy of ours. After a power cut, our boot is new."""
        return claim.store != self.me.store or (claim.file != self.me.file and not self.restored)

    async def _pause(self, error: Exception) -> None:
        await self.clock.sleep(self.backoff.next(error.retry_after if isinstance(error, Transient) else None))

    def _give_up(self, error: NoRegister) -> None:
        _log.warning("a second relay on the same accounts would not be noticed", reason=str(error))
        self._agreed, self.held = False, self.wanted

    # --- While it runs ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the register until cancelled."""
        await self.begun.wait()
        while self._agreed:
            try:
                news = await self._news()
                async with self._busy:
                    asked, claims = await self._read() if news is None else (news[1], claims_in(news[0]))
                    await self._react(claims, asked)
                self.backoff.reset()
            except NoRegister as error:
                _log.warning("the register of relays cannot be used any more", reason=str(error))
                await self.clock.sleep(_READ_EVERY)
            except (Transient, StoreUnavailable) as error:
                _log.info("it cannot be agreed now who mirrors what; trying again", reason=str(error))
                await self._pause(error)
                self._look_now.set()
            except RelayError:
                raise
            except Exception:  # noqa: BLE001 - the top of a worker: a relay does not end for a claim
                _log.exception("it cannot be agreed now who mirrors what; trying again", tries=self.backoff.tries + 1)
                await self._pause(RuntimeError())
                self._look_now.set()

    async def _news(self, task: asyncio.Task[Any] | None = None) -> tuple[Json, float] | None:
        """The register, once somebody has changed it; None when it is time to read it, or `task` is done."""
        now = self.clock.monotonic()
        seconds = self.register.confirmed + _READ_EVERY - now
        if self._question.ask is not None:
            seconds = min(seconds, max(self._question.until - now, _POLL_SECONDS))
        if self._awaited and not self.switch.is_ready():
            seconds = min(seconds, _POLL_SECONDS)
        news = asyncio.create_task(self.register.news(), name="register news")
        look = asyncio.create_task(self._look_now.wait(), name="register look")
        try:
            waiting = {news, look} if task is None else {news, look, task}
            await asyncio.wait(waiting, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        finally:
            look.cancel()
            if not news.done():
                news.cancel()
        self._look_now.clear()
        return news.result() if news.done() and not news.cancelled() else None

    async def want(self, keys: frozenset[str]) -> None:
        """The operator has added pairs: claim them before they are declared. Waits for an answer for some seconds."""
        new = keys - self.wanted
        self.wanted |= keys
        if not self._agreed or not self.begun.is_set():
            self.held = self.wanted if not self._agreed else self.held
            return
        if not new:
            return
        try:
            async with asyncio.timeout(_READ_EVERY / 2), self._busy:
                asked, claims = await self._read()
                await self._react(claims, asked)
        except (Transient, NoRegister, StoreUnavailable, TimeoutError) as error:
            _log.warning("it is not known yet whether another relay holds the new pairs", reason=str(error))
            self._look_now.set()
        await self._tell()

    async def drop_unwanted(self, keys: frozenset[str]) -> None:
        """The operator has removed pairs, and they are not mirrored any more: others may have all but `keys`."""
        if self._agreed and keys != self.wanted:
            self._look_now.set()
        self.wanted = keys
        self.held &= keys
        await self._tell()

    async def _react(self, claims: Sequence[Claim], asked: float) -> None:
        """Act on what the register said to a request of the time `asked`. To do it again changes nothing."""
        mine, rivals = self._mine(claims), self._rivals(claims)
        still_mine = frozenset() if mine is None else mine.channels
        lost = {
            key: rivals[key]
            for key in self.held & rivals.keys()
            if key not in still_mine or rivals[key].goes_before(self.me)
        }
        if lost:
            _log.error("another relay has taken over", holder=str(next(iter(lost.values()))), pairs=len(lost))
            self.held -= lost.keys()
            await self._leave_alone(rivals)
            await self.switch.stand_down(lost.keys())
        if asked - self.register.confirmed > RIGHT_SECONDS:
            # We were cut off or stopped, and others may have taken us for dead.
            self._question.repeat()
        # Nobody begins with what is handed over before we have said so.
        self.register.settle(asked)
        if await self._hand_over_to_askers(claims):
            # That may have taken minutes.
            asked, claims = await self._read()
            await self._react(claims, asked)
            return
        promised, ready = self._question.promised(claims, self.wanted - self.held), self.switch.is_ready()
        self._question.doubt(promised)
        others = {**promised, **rivals}
        silent = self._question.unanswered(claims, others) if ready else frozenset[str]()
        free = self.wanted - self.held - others.keys()
        free -= frozenset[str]() if ready else self._awaited
        await self._leave_alone({key: holder for key, holder in others.items() if key not in silent})
        answers = self._question.answers(claims, self.held)
        known = frozenset() if mine is None else mine.answers
        old = any(claim.left.keys() & self.held for claim in claims)
        said = (still_mine, known, None if mine is None else mine.ask)
        if free or silent or self._left or old or said != (self.held, answers, self._question.ask):
            took = await self._write(self.held | free | silent, take=silent, answers=answers)
            await self._begin_new(claims, free | silent, took)

    async def _begin_new(self, claims: Sequence[Claim], new: frozenset[str], took: float) -> None:
        """Begin with those channels that we have claimed and that turn out to be ours."""
        if not new:
            return
        _, confirmed = await self._read_again(took)
        rivals, won = self._rivals(confirmed), self._confirmed(new, confirmed)
        positions: dict[str, Positions] = {}
        for key in won:
            told = [claim.left[key] for claim in claims if key in claim.left]
            # Of a channel that was free all the time, what somebody left there long ago says nothing.
            positions[key] = told[0] if told and key in self._awaited else {}
        await self._leave_alone({key: rivals[key] for key in self.wanted & rivals.keys() if key not in won})
        await self.switch.start(positions)
        untold = sum(not positions[key] for key in won & self._awaited)
        if untold:
            _log.warning("what was said since the other relay ended does not cross: it left no word", pairs=untold)
        self.held |= won
        self._awaited -= won
        self._look_now.set()
        _log.info("pairs are ours now", pairs=len(won))

    async def _hand_over_to_askers(self, claims: Sequence[Claim]) -> bool:
        asks = [(claim, claim.ask) for claim in claims if claim.ask is not None and not self.me.is_same_place(claim)]
        any_left = False
        for claim, ask in asks:
            keys = ask.channels & self.held
            if ask.take and keys and not self.has_ended(claim):
                _log.warning("handing over to another relay", to=str(claim), pairs=len(keys))
                await self._write(self.held, take=frozenset(), answers=frozenset({ask.nonce}))
                self.held -= keys
                self._awaited |= keys
                self._left |= await self._while_answering(self.switch.hand_over(keys), keys, ask.nonce)
                any_left = True
        return any_left

    async def _while_answering(
        self, handing_over: Coroutine[Any, Any, Mapping[str, Positions]], keys: frozenset[str], nonce: str
    ) -> Mapping[str, Positions]:
        """Keep the right to deliver what was read while `keys` are handed over, and show that we live."""
        task = asyncio.ensure_future(handing_over)
        try:
            while not task.done():
                try:
                    news = await self._news(task)
                    if task.done():
                        break
                    asked, claims = await self._read() if news is None else (news[1], claims_in(news[0]))
                    mine, taken = self._mine(claims), self._rivals(claims).keys()
                    if taken & keys:
                        # Somebody took us for dead: we have nothing to hand over any more.
                        await self.switch.stand_down(keys)
                        return {}
                    if taken & self.held:
                        # `_react` has to see that. Until then the right lapses.
                        await asyncio.wait({task})
                        break
                    self.register.settle(asked)
                    answers = frozenset({nonce}) | self._question.answers(claims, self.held | keys)
                    if mine is None or mine.answers != answers or not keys <= mine.channels:
                        await self._write(self.held | keys, take=frozenset(), answers=answers)
                except (Transient, NoRegister) as error:
                    _log.info("the register cannot be read or written now", reason=str(error))
                    await asyncio.wait({task}, timeout=_POLL_SECONDS)
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def give_up(self, positions: Mapping[str, Positions]) -> None:
        """At the end of the process: others may have these channels, which were read up to there.

        Raises `Transient`, `NoRegister`.
        """
        if self._agreed and self.begun.is_set() and positions:
            async with self._busy:
                self.held -= positions.keys()
                self._left |= positions
                await self._write(self.held, take=frozenset())

    # --- The register -------------------------------------------------------------------------------------

    async def _read(self) -> tuple[float, list[Claim]]:
        asked = self.clock.monotonic()
        return asked, claims_in(await self.register.read())

    def _confirmed(self, new: frozenset[str], claims: Sequence[Claim]) -> frozenset[str]:
        """Which of the channels that we have just claimed are ours."""
        mine, rivals = self._mine(claims), self._rivals(claims)
        there = frozenset[str]() if mine is None else mine.channels
        return frozenset(key for key in new & there if key not in rivals or self.me.goes_before(rivals[key]))

    async def _read_again(self, took: float) -> tuple[float, list[Claim]]:
        """The claims, when everybody has seen ours, which it took so many seconds to write."""
        slow = RIGHT_SECONDS if took > _SLOW else _SLOW_CONFIRM_AFTER
        await self.clock.sleep(_CONFIRM_AFTER if took < _CONFIRM_AFTER else slow)
        return await self._read()

    async def _write(
        self, channels: frozenset[str], *, take: frozenset[str], answers: frozenset[str] = frozenset()
    ) -> float:
        """Put our claim into the register, and take the channels `take` out of the claims of others, who are silent.

        Returns how many seconds passed from the reading to the answer.
        """
        began, claims = await self._read()
        others = [
            replace(
                claim,
                channels=claim.channels - take,
                # Who is silent asks again if it lives.
                ask=None if claim.ask is not None and claim.ask.channels & take else claim.ask,
                # We have read on from there.
                left={key: told for key, told in claim.left.items() if key not in self.held},
            )
            for claim in claims
            if self._is_other(claim) and not (self.has_ended(claim) and claim.channels <= take and not claim.left)
        ]
        claimed = channels.union(*(claim.channels for claim in others))
        mine, left, ask = self._mine(claims), dict(self._left), self._question.ask
        known = {} if mine is None else {key: told for key, told in mine.left.items() if key not in claimed}
        own = replace(self.me, channels=channels, ask=ask, answers=answers, left={**known, **left})
        await self.register.write(as_register([own, *others]))
        for key in left.keys() - channels:
            self._left.pop(key, None)
        if ask is not None and not (mine is not None and mine.ask == ask):
            self._question.was_put(ask)
        return self.clock.monotonic() - began

    def _mine(self, claims: Iterable[Claim]) -> Claim | None:
        return next((claim for claim in claims if self.me.is_same_place(claim)), None)

    def _rivals(self, claims: Iterable[Claim]) -> dict[str, Claim]:
        """Who else holds what we want."""
        return {key: claim for claim in claims if self._is_other(claim) for key in claim.channels & self.wanted}

    def _is_other(self, claim: Claim) -> bool:
        """Whether a claim counts beside ours: not if our store is what a process that has ended has left."""
        return not self.me.is_same_place(claim) and (self._is_elsewhere(claim) or not self.has_ended(claim))

    async def _leave_alone(self, holders: Mapping[str, Claim]) -> None:
        """Remember who holds what, and tell it where that is new."""
        new = {key: holder for key, holder in holders.items() if str(self._holders.get(key)) != str(holder)}
        for key, holder in {str(holder): (key, holder) for key, holder in new.items()}.values():
            pairs = sum(str(other) == str(holder) for other in new.values())
            if self._question.is_to_take(key):
                _log.info("another relay holds pairs; it is asked to hand them over", holder=str(holder), pairs=pairs)
                continue
            remedy = "stop that one, or start this one with `relay run --take-over`"
            _log.warning("another relay holds pairs; waiting for it", holder=str(holder), pairs=pairs, remedy=remedy)
        self._awaited |= holders.keys()
        self._holders = dict(holders)
        await self._tell()

    async def _tell(self) -> None:
        await self.switch.hold_back({key: self._reason(key) for key in self.wanted - self.held})

    def _reason(self, key: str) -> str:
        holder = self._holders.get(key)
        if holder is None and key in self._awaited:
            return "Another relay held this pair; this one goes on from there once both sides have answered."
        if holder is None:
            return "It is being looked up whether another relay holds this pair."
        if self._question.is_to_take(key):
            return f"Another relay ({holder}) holds this pair; it is asked to hand it over."
        if self.has_ended(holder):
            return (
                f"Another relay on the same accounts held this pair ({holder}), and has crashed: start that one again, "
                "and nothing is lost; or this one, which goes on without what was said since."
            )
        return (
            f"Another relay on the same accounts holds this pair ({holder}): "
            "stop that one, or start this one with `relay run --take-over`."
        )
