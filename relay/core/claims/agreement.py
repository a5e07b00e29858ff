"""One relay at a time for each pair: several that run with the same accounts agree on who mirrors what.

After a move, or after a volume was lost, an operator may run two relays with stores of their own. Each would mirror
everything, so everything would be doubled. Therefore each relay writes into a register that all of them can read (the
account itself keeps it) who it is and which channels it mirrors. A channel that another one has claimed is left alone.

- *Reading gives the right*, for `RIGHT_SECONDS` after the last reading was asked for, by a clock that never jumps. A
  relay that does not answer for `SILENCE_SECONDS`, which is longer, has lost its claims. No two machines' clocks are
  compared, and nothing is written while nothing changes.
- *A claim ends* when its relay gives it up (at its end, or because another one was started to take over), or by
  silence: a relay that starts asks those that hold its pairs whether they live, and takes what nobody answers for.
  Nobody takes a claim from a relay that crashes while others wait: it may be back in a moment, and then it reads what
  was missed. On the same store it is the same relay, and waits for nothing.
- *Handing over* loses and doubles nothing: the old relay stops reading at one place, delivers what it has read, and
  tells that place in the register; the new one reads on from there. Whoever finds that another store held a pair since
  does not read on from its own, older place.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from relay.core.claims.board import Board, Reading
from relay.core.claims.holders import Holders, PairSwitch
from relay.core.claims.question import Question
from relay.core.claims.register import FROM_NOW, Claim, NoRegister, Positions, Register
from relay.core.clock import Backoff
from relay.core.ports import Clock
from relay.errors import RelayError, StoreUnavailable, Transient
from relay.logs import get_logger

RIGHT_SECONDS = 40.0
SILENCE_SECONDS = 45.0
_READ_EVERY = 20.0
_CONFIRM_AFTER = 0.3
"""Two relays that start at the same moment may both find a channel free. Each looks again after this time."""
_MOST_LOOKS = 5
"""How often who goes before looks, a second apart, whether others have withdrawn that claimed at the same moment."""
_POLL_SECONDS = 1.0
_log = get_logger(__name__)


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
    # Whether the store is certainly still ours.
    may_write: Callable[[], bool]
    # Whether the operator wants this relay to take over what others hold when it starts.
    take_over: bool = False
    # Whether our store is a backup: it reads again what was read since, and finds out by itself what has crossed.
    restored: bool = False
    silence: float = SILENCE_SECONDS

    # The channels that the operator wants us to mirror, and those that are ours.
    wanted: frozenset[str] = frozenset()
    held: frozenset[str] = field(init=False, default=frozenset())
    # Those that will be declared in a moment.
    _coming: frozenset[str] = field(init=False, default=frozenset())
    # Those that we are handing over at this moment: still ours for everybody else.
    _handing: frozenset[str] = field(init=False, default=frozenset())
    # What was handed over, until that stands in the register.
    _left: dict[str, Positions] = field(init=False, default_factory=dict)
    # Ours to those who hold what we want.
    _question: Question = field(init=False)
    # Who holds the others.
    _holders: Holders = field(init=False)
    # What all relays say.
    _board: Board = field(init=False)
    # False: there is no register, so every channel is ours.
    _agreed: bool = field(init=False, default=True)
    # Set once it is known what others hold.
    begun: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _look_now: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    # Set each time that the register was read and acted on, or when that will take longer.
    _looked: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _busy: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._question = Question(me=self.me, clock=self.clock, has_ended=self.has_ended, silence=self.silence)
        self._holders = Holders(
            me=self.me,
            switch=self.switch,
            question=self._question,
            has_ended=self.has_ended,
            take_over=self.take_over,
            restored=self.restored,
        )
        self._board = Board(register=self.register, clock=self.clock, me=self.me, may_write=self.may_write)

    def valid(self) -> bool:
        """Whether what is `held` is certainly still ours. No I/O."""
        return self.begun.is_set() and (
            not self._agreed or self.clock.monotonic() - self.register.confirmed < RIGHT_SECONDS
        )

    # --- The start ----------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Claim what is free, and leave alone what is not. Returns at once where nobody else is in the register.

        Call it before anything is read or sent, however long the platform takes to answer. Those that hold our pairs,
        and may have ended without a word, are asked whether they live, and waited for.
        """
        async with self._busy:
            while not self.begun.is_set():
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

    async def _begin(self) -> None:
        self._left = {}
        reading = await self._board.read(None)
        rivals, silent, given_up = self._rivals(reading.possible), frozenset[str](), frozenset[str]()
        if doubtful := frozenset(key for key, holder in rivals.items() if self._holders.is_doubtful(holder)):
            reading, silent = await self._ask(reading, doubtful)
            rivals = self._rivals(reading.possible)
            given_up = doubtful - silent - rivals.keys()
        silent |= frozenset(key for key, holder in rivals.items() if self.has_ended(holder))
        moved_on = await self._holders.moved_on(self.wanted, reading.possible, silent & rivals.keys())
        rivals = {key: holder for key, holder in rivals.items() if key not in silent}
        later = (given_up | moved_on) - rivals.keys()
        free = self.wanted - rivals.keys() - later
        if self.take_over and (rivals or later):
            self._question.start(frozenset(rivals) | later, take=True)
        mine = self._board.mine(reading.claims)
        keep = free & mine.channels if mine is not None else frozenset[str]()
        answers = self._question.open(reading.claims, free)
        new = (free - keep) | (later & silent)
        await self._write(reading, keep, new=new, take=silent, answers=answers)
        reading, won = await self._confirm(keep, new)
        # What we begin with later is taken from the silent now, by leaving it without a word.
        self._left = dict.fromkeys(won - free, FROM_NOW)
        if won & new:
            await self._write(reading, won & free, answers=answers)
        self.held = won & free & self.wanted
        rivals |= {key: holder for key, holder in self._rivals(reading.possible).items() if key not in self.held}
        self._holders.awaited |= rivals.keys() | later
        if rivals and self.take_over and self._question.ask is None:
            self._question.start(frozenset(rivals), take=True)
        await self._leave_alone(rivals)
        if doubtful := self._holders.read_as_far(self.held, reading) | self._holders.awaited:
            await self.switch.stand_down(doubtful)
        self._look_now.set()
        if not self._unanswered(reading, self.held):
            self.register.settle(reading.asked)

    async def _ask(self, reading: Reading, keys: frozenset[str]) -> tuple[Reading, frozenset[str]]:
        """Ask who holds these whether they live. Returns what was read then, and what nobody answered for."""
        _log.warning("another relay is in the register; waiting for its answer", seconds=self.silence)
        ask = self._question.start(keys, take=self.take_over)
        try:
            await self._write(reading, self.held)
            while True:
                await self.clock.sleep(_POLL_SECONDS)
                reading = await self._board.read(self.held)
                rivals = self._rivals(reading.possible)
                unanswered = frozenset(key for key in keys & rivals.keys() if ask.nonce not in rivals[key].answers)
                if not unanswered:
                    return reading, unanswered
                over = self._question.is_over()
                overtaken = over and self._question.is_older(reading.possible, unanswered)
                overtaken = overtaken or not self._question.stands_in(reading.claims, unanswered)
                if overtaken or not self._board.stands_in(reading):
                    # Somebody has claimed it since we asked, or it is not known whether what we asked stands there.
                    ask = self._question.start(keys, take=self.take_over)
                    await self._write(reading, self.held)
                elif over:
                    return reading, unanswered
        finally:
            self._question.ask = None

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
                await self._news()
                async with self._busy:
                    await self._react(await self._read())
                self._looked.set()
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

    async def _news(self, task: asyncio.Task[Any] | None = None) -> None:
        """Wait until the register is to be read, or `task` is done."""
        now = self.clock.monotonic()
        seconds = self.register.confirmed + _READ_EVERY - now
        if self._question.ask is not None:
            seconds = min(seconds, max(self._question.until - now, _POLL_SECONDS))
        if not self._board.is_tidy():
            seconds = min(seconds, _READ_EVERY)
        if self._holders.awaited and not self.switch.is_ready():
            seconds = min(seconds, _POLL_SECONDS)
        news = asyncio.create_task(self.register.changed(), name="register news")
        look = asyncio.create_task(self._look_now.wait(), name="register look")
        try:
            waiting = {news, look} if task is None else {news, look, task}
            await asyncio.wait(waiting, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        finally:
            look.cancel()
            news.cancel()
        self._look_now.clear()

    async def before_declaring(self, keys: frozenset[str]) -> None:
        """The operator is about to declare these pairs: claim the new ones, or have them left alone once declared.

        Waits for some seconds: a pair whose channel is another one now is read all the time where nobody else has it.
        """
        self._coming = keys - self.wanted
        if not self.begun.is_set():
            return
        self.wanted |= keys
        if not self._agreed:
            self.held = self.wanted
            return
        self._look_now.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_READ_EVERY / 2):
                # A handover may take minutes.
                while self._coming - self.held - self._holders.known() and not self._handing:
                    self._looked.clear()
                    await self._looked.wait()
        await self._tell()

    async def declared(self, keys: frozenset[str]) -> None:
        """The operator has declared these pairs: claim those that are new. Others may have all that are not."""
        if keys != self.wanted or self._coming:
            self._look_now.set()
        self.wanted, self._coming = keys, frozenset()
        self.held = self.held & keys if self._agreed else keys
        if self._agreed and self.begun.is_set():
            await self._tell()

    async def _react(self, reading: Reading) -> None:
        """Act on what the register says. To do it again changes nothing."""
        claims, mine, rivals = reading.claims, self._board.mine(reading.claims), self._rivals(reading.possible)
        lost = self.held - (frozenset() if mine is None else mine.channels)
        if lost and self.valid() and self._board.is_certain(reading, lost):
            # Who has claimed them at the same moment withdraws when it sees us; nothing gives a right until then. For
            # somebody who took us for dead we would have no right any more.
            await self.clock.sleep(_POLL_SECONDS)
            await self._react(await self._read())
            return
        if lost:
            # Whoever has taken them may have given them up again since.
            holder = next((str(rivals[key]) for key in lost & rivals.keys()), "")
            _log.error("another relay has taken over", holder=holder, pairs=len(lost))
            self.held -= lost
            self._holders.awaited |= lost
            await self._leave_alone(rivals)
            await self.switch.stand_down(lost)
        rivals = {key: holder for key, holder in rivals.items() if key not in self.held}
        overtaken = self._question.is_overtaken(self._board.said, claims, rivals.keys())
        if overtaken or reading.asked - self.register.confirmed > RIGHT_SECONDS:
            # We were cut off or stopped, and others may have taken us for dead; or somebody has claimed what we want.
            self._question.repeat()
        if self._unanswered(reading, self.held):
            # Who asks takes our silence for our end: before they have our answer, nothing that we read gives a right.
            await self._write(reading, self.held, answers=self._question.answers(claims, self.held))
            await self._react(await self._read())
            return
        # Nobody begins with what is handed over before we have said so.
        self.register.settle(reading.asked)
        if await self._hand_over_to_askers(claims):
            # That may have taken minutes.
            await self._react(await self._read())
            return
        promised, ready = self._question.promised(claims, self.wanted - self.held), self.switch.is_ready()
        # So may those that were never sure of what they claimed.
        unsure = {key: holder for key, holder in rivals.items() if key in holder.pending}
        self._question.doubt({key: claim for key, claim in promised.items() if key not in rivals} | unsure)
        others, asked_for = {**promised, **rivals}, self._question.to_take()
        silent = self._question.unanswered(reading.possible, others) if ready else frozenset[str]()
        free = self.wanted - self.held - others.keys()
        free -= frozenset[str]() if ready else self._holders.awaited
        await self._leave_alone({key: holder for key, holder in others.items() if key not in silent})
        answers = self._question.answers(claims, self.held)
        # Nor do we, before we have: what we read then is not what we have left.
        new = (free | silent) - self._left.keys() - self._board.sure()
        if new or self._left or not self._board.is_done(reading, self.held, self._question.ask, answers):
            answers |= self._question.open(claims, new)
            missed = asked_for & new
            try:
                await self._write(reading, self.held, new=new, take=silent, answers=answers)
                await self._begin_new(claims, new, answers)
            finally:
                if (missed := missed - self.held) and self._question.ask is None:
                    # They have answered after all, or it is not known what has become of our claim.
                    self._question.start(missed, take=True)

    async def _begin_new(self, claims: Sequence[Claim], new: frozenset[str], answers: frozenset[str]) -> None:
        """Begin with those channels that we have claimed and that turn out to be ours, once that stands there.

        Else nobody could know, of a claim that its relay has died with, whether anything was mirrored with it.
        """
        if not new:
            return
        confirmed, won = await self._confirm(self._claimed(), new)
        rivals = self._rivals(confirmed.possible)
        await self._leave_alone({key: rivals[key] for key in self.wanted & rivals.keys() if key not in won})
        # Some may have been removed meanwhile.
        won &= new & self.wanted
        if not won:
            self._look_now.set()
            return
        positions: dict[str, Positions] = {}
        for key in won:
            told = [claim.left[key] for claim in claims if key in claim.left]
            # Of a channel that was free all the time, what somebody left there long ago says nothing.
            positions[key] = told[0] if told and key in self._holders.awaited and told[0] != FROM_NOW else {}
        if since := won & self._holders.had_since(confirmed):
            # What waits here may be from a time when we had no right any more, and did not know it.
            await self.switch.stand_down(since)
        # First, as whoever is sure goes on from what its store says.
        await self.switch.read_from(positions)
        try:
            await self._write(confirmed, self.held | won, answers=answers)
        except (Transient, NoRegister):
            # It may stand there all the same, and then what others had left is gone.
            self._left |= positions
            raise
        untold = sum(not positions[key] for key in won & self._holders.awaited)
        if untold:
            _log.warning("what was said since the other relay ended does not cross: it left no word", pairs=untold)
        self.held |= won & self.wanted
        self._holders.awaited -= won
        self._look_now.set()
        await self._tell()
        _log.info("this relay mirrors these pairs from now on", pairs=len(won))

    async def _hand_over_to_askers(self, claims: Sequence[Claim]) -> bool:
        """To all at once: each waits for a time in which this can be done twice, not more often."""
        asks = [(claim, claim.ask) for claim in claims if claim.ask is not None and not self.me.is_same_place(claim)]
        asks = [(claim, ask) for claim, ask in asks if ask.take and ask.channels & self.held]
        asks = [(claim, ask) for claim, ask in asks if not self.has_ended(claim)]
        if not asks:
            return False
        for claim, ask in asks:
            _log.warning("handing over to another relay", to=str(claim), pairs=len(ask.channels & self.held))
        keys = self.held.intersection(frozenset[str]().union(*(ask.channels for _, ask in asks)))
        nonces = frozenset(ask.nonce for _, ask in asks)
        self.held -= keys
        self._handing = keys
        self._looked.set()
        self._holders.awaited |= keys
        try:
            self._left |= await self._while_answering(self.switch.hand_over(keys), keys, nonces)
        finally:
            self._handing = frozenset()
        # Before anything is written that says so.
        await self._tell()
        return True

    async def _while_answering(
        self, handing_over: Coroutine[Any, Any, Mapping[str, Positions]], keys: frozenset[str], nonces: frozenset[str]
    ) -> Mapping[str, Positions]:
        """Keep the right to deliver what was read while `keys` are handed over, and show that we live."""
        task = asyncio.ensure_future(handing_over)
        try:
            while not task.done():
                try:
                    await self._news(task)
                    if task.done():
                        break
                    reading = await self._read()
                    mine = self._board.mine(reading.claims)
                    lost = self._claimed() - (frozenset() if mine is None else mine.channels)
                    if lost and self.valid() and self._board.is_certain(reading, lost):
                        # As in `_react`.
                        await asyncio.wait({task}, timeout=_POLL_SECONDS)
                        continue
                    if mine is None or lost & keys:
                        # Somebody took us for dead: we have nothing to hand over any more.
                        await self.switch.stand_down(keys)
                        return {}
                    if lost:
                        # `_react` has to see that. Until then the right lapses.
                        await asyncio.wait({task})
                        break
                    answers = nonces | self._question.open(reading.claims, self._claimed())
                    if mine.answers == answers:
                        self.register.settle(reading.asked)
                    else:
                        await self._write(reading, self._claimed(), answers=answers)
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
        if self._agreed and self.begun.is_set() and positions and self._board.last is not None:
            async with self._busy:
                self.held -= positions.keys()
                self._left |= positions
                await self._write(self._board.last, self.held)

    # --- The register -------------------------------------------------------------------------------------

    async def _read(self) -> Reading:
        """What stands in the register, with what we have said last."""
        reading = await self._board.read(self._claimed())
        if not self._board.stands_in(reading):
            # It is not known what has become of it, or the homeserver has lost it.
            said = self._board.said
            await self._write(reading, self._claimed(), answers=frozenset() if said is None else said.answers)
            reading = await self._board.read_own(self._claimed())
        return reading

    def _claimed(self) -> frozenset[str]:
        return self.held | self._handing

    async def _write(
        self,
        reading: Reading,
        keep: frozenset[str],
        *,
        new: frozenset[str] = frozenset(),
        take: frozenset[str] = frozenset(),
        answers: frozenset[str] = frozenset(),
    ) -> None:
        """Say what we claim: what we `keep`, and what is `new`, of which we `take` some from those who are silent."""
        ask = self._question.ask
        await self._board.say(reading, keep, new=new, take=take, ask=ask, answers=answers, left=self._left)
        self._left = {key: told for key, told in self._left.items() if key in keep}
        if ask is not None:
            self._question.was_put(ask)

    async def _confirm(self, keep: frozenset[str], new: frozenset[str]) -> tuple[Reading, frozenset[str]]:
        """Which of the channels that we have just claimed are ours, and of those that we `keep`.

        Nothing new is while somebody asks for it; what we keep gives no right until we have answered, but is not left.
        Who goes before waits until another one has withdrawn that claimed at the same moment.
        """
        await self.clock.sleep(_CONFIRM_AFTER)
        looks, nonce = 0, self._question.nonce
        while True:
            reading = await self._board.read_own(keep)
            rivals = self._rivals(self._board.not_taken(reading, nonce))
            looks += 1
            if looks == _MOST_LOOKS or not any(self.me.goes_before(rivals[key]) for key in new & rivals.keys()):
                break
            await self.clock.sleep(_POLL_SECONDS)
        asked = {key for key in new if self._unanswered(reading, frozenset({key}))}
        return reading, self._board.claimed_for_all(reading) & (keep | new) - rivals.keys() - asked

    def _unanswered(self, reading: Reading, keys: frozenset[str]) -> frozenset[str]:
        """The questions of others about these channels that our answers there do not name."""
        mine = self._board.mine(reading.claims)
        return self._question.open(reading.claims, keys) - (frozenset() if mine is None else mine.answers)

    def _rivals(self, claims: Iterable[Claim]) -> dict[str, Claim]:
        """Who else holds what we want."""
        return self._holders.of(self.wanted, claims)

    async def _leave_alone(self, holders: Mapping[str, Claim]) -> None:
        await self._holders.leave_alone(holders, self._not_ours())

    async def _tell(self) -> None:
        await self._holders.tell(self._not_ours())

    def _not_ours(self) -> frozenset[str]:
        return (self.wanted | self._coming) - self._claimed()
