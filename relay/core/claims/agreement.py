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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import InitVar, dataclass, field

from relay.core.claims.board import Board, Reading, last_numbers
from relay.core.claims.claimed import POLL_SECONDS, READ_EVERY, Claimed
from relay.core.claims.holders import Holders, PairSwitch
from relay.core.claims.leaving import Leaving
from relay.core.claims.question import Question
from relay.core.claims.register import FROM_NOW, Claim, NoRegister, Positions, Register
from relay.core.clock import Backoff
from relay.core.ports import Clock
from relay.errors import RelayError, StoreUnavailable, Transient
from relay.logs import get_logger

RIGHT_SECONDS = 40.0
SILENCE_SECONDS = 45.0
_NOT_AGREED = "it cannot be agreed now who mirrors what; trying again"
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

    # What the operator wants us to mirror, at the start.
    wanted: InitVar[frozenset[str]] = frozenset()
    # What is ours.
    _claimed: Claimed = field(init=False)
    # How it becomes somebody else's.
    _leaving: Leaving = field(init=False)
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
    _busy: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    def __post_init__(self, wanted: frozenset[str]) -> None:
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
        self._claimed = Claimed(
            me=self.me,
            clock=self.clock,
            board=self._board,
            question=self._question,
            holders=self._holders,
            wanted=wanted,
        )
        self._leaving = Leaving(claimed=self._claimed, switch=self.switch, has_ended=self.has_ended, valid=self.valid)

    @property
    def held(self) -> frozenset[str]:
        """The channels that are ours."""
        return self._claimed.held

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
                    what = "it cannot be looked up whether another relay runs; trying again"
                    _log.warning(what, tries=self.backoff.tries + 1, reason=str(error))
                    await self._pause(error)
                    continue
                self.backoff.reset()
                self.begun.set()

    async def _begin(self) -> None:
        ours = self._claimed
        ours.left = {}
        reading = await self._board.read(None)
        rivals, silent, given_up = ours.rivals(reading.possible), frozenset[str](), frozenset[str]()
        if doubtful := frozenset(key for key, holder in rivals.items() if self._holders.is_doubtful(holder)):
            reading, silent = await self._ask(reading, doubtful)
            rivals = ours.rivals(reading.possible)
            given_up = doubtful - silent - rivals.keys()
        # The next one is to others, and nobody whom we take for dead answers that.
        nonce = self._question.nonce
        silent |= frozenset(key for key, holder in rivals.items() if self.has_ended(holder))
        # What is declared from now on is looked at once this is done.
        wanted = ours.wanted
        moved_on = await self._holders.moved_on(wanted, reading.possible, silent & rivals.keys())
        rivals = {key: holder for key, holder in rivals.items() if key not in silent}
        later = (given_up | moved_on) - rivals.keys()
        free = wanted - rivals.keys() - later
        if self.take_over and (rivals or later):
            self._question.start(frozenset(rivals) | later, take=True)
        mine = self._board.mine(reading.claims)
        keep = free & mine.channels if mine is not None else frozenset[str]()
        answers = self._question.open(reading.claims, free)
        new = (free - keep) | (later & silent)
        await ours.say(reading, keep, new=new, take=silent, answers=answers)
        reading, won = await ours.confirm(keep, new, nonce)
        # While the first reading was on its way, others may have come and gone: their word stands.
        since = await self._holders.moved_on(free, reading.possible, ())
        free, later = free - since, later | since
        # What else we begin with later is taken from the silent now, by leaving it without a word.
        ours.left = dict.fromkeys(won - free - since, FROM_NOW)
        if won & new:
            await ours.say(reading, won & free, answers=answers)
        ours.held = won & free & ours.wanted
        rivals |= {key: holder for key, holder in ours.rivals(reading.possible).items() if key not in ours.held}
        self._holders.awaited |= rivals.keys() | later
        if rivals and self.take_over and self._question.ask is None:
            self._question.start(frozenset(rivals), take=True)
        await ours.leave_alone(rivals)
        if doubtful := self._holders.read_as_far(ours.held, reading) | self._holders.awaited:
            await self.switch.stand_down(doubtful)
        if new or rivals or later or ours.left or ours.held != ours.wanted:
            # Else all is as it was when we were here last, and sync tells of what changes.
            ours.look_now.set()
        if not ours.unanswered(reading, ours.held):
            self.register.settle(reading.asked)

    async def _ask(self, reading: Reading, keys: frozenset[str]) -> tuple[Reading, frozenset[str]]:
        """Ask who holds these whether they live. Returns what was read then, and what nobody answered for."""
        ours = self._claimed
        _log.warning("another relay is in the register; waiting for its answer", seconds=self.silence)
        ask = self._question.start(keys, take=self.take_over)
        try:
            await ours.say(reading, ours.held)
            while True:
                await self.clock.sleep(POLL_SECONDS)
                reading = await self._board.read(ours.held)
                rivals = ours.rivals(reading.possible)
                unanswered = frozenset(key for key in keys & rivals.keys() if ask.nonce not in rivals[key].answers)
                if not unanswered:
                    return reading, unanswered
                over = self._question.is_over()
                overtaken = over and self._question.is_older(reading.possible, unanswered)
                overtaken = overtaken or not self._question.stands_in(reading.claims, unanswered)
                if overtaken or not self._board.stands_in(reading):
                    # Somebody has claimed it since we asked, or it is not known whether what we asked stands there.
                    ask = self._question.start(keys, take=self.take_over)
                    await ours.say(reading, ours.held)
                elif over:
                    return reading, unanswered
        finally:
            self._question.ask = None

    async def _pause(self, error: Exception) -> None:
        await self.clock.sleep(self.backoff.next(error.retry_after if isinstance(error, Transient) else None))

    def _give_up(self, error: NoRegister) -> None:
        ours = self._claimed
        _log.warning("a second relay on the same accounts would not be noticed", reason=str(error))
        self._agreed, ours.held = False, ours.wanted

    # --- While it runs ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the register until cancelled."""
        ours = self._claimed
        await self.begun.wait()
        while self._agreed:
            try:
                await ours.wait_for_news()
                async with self._busy:
                    await self._react(await ours.read())
                ours.looked.set()
                self.backoff.reset()
            except NoRegister as error:
                _log.warning("the register of relays cannot be used any more", reason=str(error))
                await self.clock.sleep(READ_EVERY)
            except (Transient, StoreUnavailable) as error:
                _log.info(_NOT_AGREED, tries=self.backoff.tries + 1, reason=str(error))
                await self._pause(error)
                ours.look_now.set()
            except RelayError:
                raise
            except Exception:  # noqa: BLE001 - the top of a worker: a relay does not end for a claim
                _log.exception(_NOT_AGREED, tries=self.backoff.tries + 1)
                await self._pause(RuntimeError())
                ours.look_now.set()

    async def before_declaring(self, keys: frozenset[str]) -> None:
        """The operator is about to declare these pairs: claim the new ones, or have them left alone once declared.

        Waits for some seconds: a pair whose channel is another one now is read all the time where nobody else has it.
        """
        ours = self._claimed
        ours.coming = keys - ours.wanted
        if not self.begun.is_set():
            return
        ours.wanted |= keys
        if not self._agreed:
            ours.held = ours.wanted
            return
        ours.look_now.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(READ_EVERY / 2):
                # A handover may take minutes.
                while ours.coming - ours.held - self._holders.known() and not ours.handing:
                    ours.looked.clear()
                    await ours.looked.wait()
        await ours.tell()

    async def declared(self, keys: frozenset[str]) -> None:
        """The operator has declared these pairs: claim those that are new. Others may have all that are not."""
        ours = self._claimed
        if keys != ours.wanted or ours.coming:
            ours.look_now.set()
        ours.wanted, ours.coming = keys, frozenset()
        ours.held = ours.held & keys if self._agreed else keys
        # A pair that comes back later is read from then on, wherever somebody else has ended meanwhile.
        self._holders.awaited &= keys
        if self._agreed and self.begun.is_set():
            await ours.tell()

    async def _react(self, reading: Reading) -> None:
        """Act on what the register says. To do it again changes nothing."""
        ours = self._claimed
        claims, mine, rivals = reading.claims, self._board.mine(reading.claims), ours.rivals(reading.possible)
        lost = ours.held - (frozenset() if mine is None else mine.channels)
        if lost and self.valid() and self._board.is_certain(reading, lost):
            # Who has claimed them at the same moment withdraws when it sees us; nothing gives a right until then. For
            # somebody who took us for dead we would have no right any more.
            await self.clock.sleep(POLL_SECONDS)
            await self._react(await ours.read())
            return
        if lost:
            # Whoever has taken them may have given them up again since.
            holder = next((str(rivals[key]) for key in lost & rivals.keys()), "")
            _log.error("another relay has taken over", holder=holder, pairs=len(lost))
            ours.held -= lost
            self._holders.awaited |= lost
            await ours.leave_alone(rivals)
            await self.switch.stand_down(lost)
        rivals = {key: holder for key, holder in rivals.items() if key not in ours.held}
        overtaken = self._question.is_overtaken(self._board.said, claims, rivals.keys())
        if overtaken or reading.asked - self.register.confirmed > RIGHT_SECONDS:
            # We were cut off or stopped, and others may have taken us for dead; or somebody has claimed what we want.
            self._question.repeat()
        if ours.unanswered(reading, ours.held):
            # Who asks takes our silence for our end: before they have our answer, nothing that we read gives a right.
            await ours.say(reading, ours.held, answers=self._question.answers(claims, ours.held))
            await self._react(await ours.read())
            return
        # Nobody begins with what is handed over before we have said so.
        self.register.settle(reading.asked)
        if await self._leaving.to_askers(claims):
            # That may have taken minutes.
            await self._react(await ours.read())
            return
        promised, ready = self._question.promised(claims, ours.wanted - ours.held), self.switch.is_ready()
        # So may those that were never sure of what they claimed, where nobody else is that came before or with them.
        surely = last_numbers(reading.said, pending=False)
        pending = {key: holder for key, holder in rivals.items() if key in holder.pending}
        unsure = {key: one for key, one in pending.items() if one.numbers.get(key, 0) > surely.get(key, 0)}
        self._question.doubt({key: claim for key, claim in promised.items() if key not in rivals} | unsure)
        others, asked_for = {**promised, **rivals}, self._question.to_take()
        silent = self._question.unanswered(reading.possible, others) if ready else frozenset[str]()
        free = ours.wanted - ours.held - others.keys()
        free -= frozenset[str]() if ready else self._holders.awaited
        await ours.leave_alone({key: holder for key, holder in others.items() if key not in silent})
        answers = self._question.answers(claims, ours.held)
        # Nor do we, before we have: what we read then is not what we have left.
        new = (free | silent) - ours.left.keys() - self._board.sure()
        if new or ours.left or not self._board.is_done(reading, ours.held, self._question.ask, answers):
            answers |= self._question.open(claims, new)
            missed = asked_for & new
            try:
                await ours.say(reading, ours.held, new=new, take=silent, answers=answers)
                await self._begin_new(new, answers)
            finally:
                if (missed := missed - ours.held) and self._question.ask is None:
                    # They have answered after all, or it is not known what has become of our claim.
                    self._question.start(missed, take=True)

    async def _begin_new(self, new: frozenset[str], answers: frozenset[str]) -> None:
        """Begin with those channels that we have claimed and that turn out to be ours, once that stands there.

        Else nobody could know, of a claim that its relay has died with, whether anything was mirrored with it.
        """
        ours = self._claimed
        if not new:
            return
        confirmed, won = await ours.confirm(ours.ours(), new, self._question.nonce)
        rivals = ours.rivals(confirmed.possible)
        await ours.leave_alone({key: rivals[key] for key in ours.wanted & rivals.keys() if key not in won})
        # Some may have been removed meanwhile.
        won &= new & ours.wanted
        if not won:
            ours.look_now.set()
            return
        positions: dict[str, Positions] = {}
        for key in won:
            # By what we read after we had claimed it: since the reading before, others may have had it and left it.
            told = [claim.left[key] for claim in confirmed.claims if key in claim.left]
            # Of a channel that was free all the time, what somebody left there long ago says nothing.
            positions[key] = told[0] if told and key in self._holders.awaited and told[0] != FROM_NOW else {}
        if since := won & self._holders.had_since(confirmed):
            # What waits here may be from a time when we had no right any more, and did not know it.
            await self.switch.stand_down(since)
        # First, as whoever is sure goes on from what its store says.
        await self.switch.read_from(positions)
        try:
            await ours.say(confirmed, ours.held | won, answers=answers)
        except (Transient, NoRegister):
            # It may stand there all the same, and then what others had left is gone.
            ours.left |= positions
            raise
        untold = sum(not positions[key] for key in won & self._holders.awaited)
        if untold:
            _log.warning("what was said since the other relay ended does not cross: it left no word", pairs=untold)
        ours.held |= won & ours.wanted
        self._holders.awaited -= won
        ours.look_now.set()
        await ours.tell()
        _log.info("this relay mirrors these pairs from now on", pairs=len(won))

    async def give_up(self, positions: Mapping[str, Positions]) -> None:
        """At the end of the process: others may have these channels, which were read up to there.

        Raises `Transient`, `NoRegister`.
        """
        ours = self._claimed
        if self._agreed and self.begun.is_set() and positions and self._board.last is not None:
            async with self._busy:
                ours.held -= positions.keys()
                ours.left |= positions
                await ours.say(self._board.last, ours.held)
