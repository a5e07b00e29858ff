"""What this relay has claimed: how it says so in the register, and looks what has become of that."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.core.claims.board import Board, Reading
from relay.core.claims.holders import Holders
from relay.core.claims.question import Question
from relay.core.claims.register import Claim, Positions
from relay.core.ports import Clock

READ_EVERY = 20.0
POLL_SECONDS = 1.0
_CONFIRM_AFTER = 0.3
"""Two relays that start at the same moment may both find a channel free. Each looks again after this time."""
_MOST_LOOKS = 5
"""How often who goes before looks, a second apart, whether others have withdrawn that claimed at the same moment."""


@dataclass(slots=True, kw_only=True)
class Claimed:
    """The channels that are wanted, and those that are ours."""

    # This process, without channels.
    me: Claim
    clock: Clock
    # What all relays say.
    board: Board
    # Ours to those who hold what we want.
    question: Question
    # Who holds the others.
    holders: Holders
    # What the operator wants us to mirror, and what will be declared in a moment.
    wanted: frozenset[str]
    coming: frozenset[str] = field(init=False, default=frozenset())
    # What we mirror; and what we are handing over at this moment: still ours for everybody else.
    held: frozenset[str] = field(init=False, default=frozenset())
    handing: frozenset[str] = field(init=False, default=frozenset())
    # What was left to others, until that stands in the register.
    left: dict[str, Positions] = field(init=False, default_factory=dict)
    # Set where the register is to be read soon.
    look_now: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    # Set each time that it was read and acted on, or when that will take longer.
    looked: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def ours(self) -> frozenset[str]:
        """What nobody else may begin with."""
        return self.held | self.handing

    def rivals(self, claims: Iterable[Claim]) -> dict[str, Claim]:
        """Who else holds what we want."""
        return self.holders.of(self.wanted, claims)

    async def leave_alone(self, holders: Mapping[str, Claim]) -> None:
        """Remember who holds what, and leave alone what is not ours."""
        await self.holders.leave_alone(holders, self._not_ours())

    async def tell(self) -> None:
        """Leave alone what is not ours, and say why."""
        await self.holders.tell(self._not_ours())

    def _not_ours(self) -> frozenset[str]:
        return (self.wanted | self.coming) - self.ours()

    # --- What we say --------------------------------------------------------------------------------------

    async def say(
        self,
        reading: Reading,
        keep: frozenset[str],
        *,
        new: frozenset[str] = frozenset(),
        take: frozenset[str] = frozenset(),
        answers: frozenset[str] = frozenset(),
    ) -> None:
        """Say what we claim: what we `keep`, and what is `new`, of which we `take` some from those who are silent."""
        ask = self.question.ask
        await self.board.say(reading, keep, new=new, take=take, ask=ask, answers=answers, left=self.left)
        self.left = {key: told for key, told in self.left.items() if key in keep}
        if ask is not None:
            self.question.was_put(ask)

    def unanswered(self, reading: Reading, keys: frozenset[str]) -> frozenset[str]:
        """The questions of others about these channels that our answers there do not name."""
        mine = self.board.mine(reading.claims)
        return self.question.open(reading.claims, keys) - (frozenset() if mine is None else mine.answers)

    # --- What stands there --------------------------------------------------------------------------------

    async def read(self) -> Reading:
        """What stands in the register, with what we have said last."""
        reading = await self.board.read(self.ours())
        if not self.board.stands_in(reading):
            # It is not known what has become of it, or the platform has lost it.
            said = self.board.said
            await self.say(reading, self.ours(), answers=frozenset() if said is None else said.answers)
            reading = await self.board.read_own(self.ours())
        return reading

    async def confirm(self, keep: frozenset[str], new: frozenset[str], nonce: str) -> tuple[Reading, frozenset[str]]:
        """Which of the channels that we have just claimed are ours, and of those that we `keep`.

        `nonce`: of our question that those have not answered whose channels we take. They may have by now.
        Nothing new is while somebody asks for it; what we keep gives no right until we have answered, but is not left.
        Who goes before waits until another one has withdrawn that claimed at the same moment.
        """
        await self.clock.sleep(_CONFIRM_AFTER)
        looks = 0
        while True:
            reading = await self.board.read_own(keep)
            rivals = self.rivals(self.board.not_taken(reading, nonce))
            looks += 1
            if looks == _MOST_LOOKS or not any(self.me.goes_before(rivals[key]) for key in new & rivals.keys()):
                break
            await self.clock.sleep(POLL_SECONDS)
        asked = {key for key in new if self.unanswered(reading, frozenset({key}))}
        return reading, self.board.claimed_for_all(reading) & (keep | new) - rivals.keys() - asked

    async def wait_for_news(self, task: asyncio.Task[Any] | None = None) -> None:
        """Wait until the register is to be read, or `task` is done."""
        now, register = self.clock.monotonic(), self.board.register
        seconds = register.confirmed + READ_EVERY - now
        if self.question.ask is not None:
            seconds = min(seconds, max(self.question.until - now, POLL_SECONDS))
        if not self.board.is_tidy():
            seconds = min(seconds, READ_EVERY)
        if self.holders.awaited and not self.holders.switch.is_ready():
            seconds = min(seconds, POLL_SECONDS)
        news = asyncio.create_task(register.changed(), name="register news")
        look = asyncio.create_task(self.look_now.wait(), name="register look")
        try:
            waiting = {news, look} if task is None else {news, look, task}
            await asyncio.wait(waiting, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        finally:
            look.cancel()
            news.cancel()
        self.look_now.clear()
