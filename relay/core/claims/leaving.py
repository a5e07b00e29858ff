"""How channels are handed over to other relays that ask for them. `handover.py` is what becomes of their pairs."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay.core.claims.claimed import POLL_SECONDS, Claimed
from relay.core.claims.holders import PairSwitch
from relay.core.claims.register import Claim, NoRegister, Positions
from relay.errors import Transient
from relay.logs import get_logger

_log = get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Leaving:
    """Hands over, and shows meanwhile that we live."""

    claimed: Claimed
    switch: PairSwitch
    # Whether a claim's process is known to have ended.
    has_ended: Callable[[Claim], bool]
    # Whether what is ours is certainly still ours.
    valid: Callable[[], bool]

    async def to_askers(self, claims: Sequence[Claim]) -> bool:
        """Hand over what others ask for, if they do.

        To all at once: each waits for a time in which this can be done twice, not more often.
        """
        ours = self.claimed
        asks = [(claim, claim.ask) for claim in claims if claim.ask is not None and not ours.me.is_same_place(claim)]
        asks = [(claim, ask) for claim, ask in asks if ask.take and ask.channels & ours.held]
        asks = [(claim, ask) for claim, ask in asks if not self.has_ended(claim)]
        if not asks:
            return False
        for claim, ask in asks:
            _log.warning("handing over to another relay", to=str(claim), pairs=len(ask.channels & ours.held))
        keys = ours.held.intersection(frozenset[str]().union(*(ask.channels for _, ask in asks)))
        nonces = frozenset(ask.nonce for _, ask in asks)
        ours.held -= keys
        ours.handing = keys
        ours.looked.set()
        ours.holders.awaited |= keys
        try:
            ours.left |= await self._while_answering(self.switch.hand_over(keys), keys, nonces)
        finally:
            ours.handing = frozenset()
            # Before anything is written that says so, or read that gives a right; also where it has failed.
            await ours.tell()
        return True

    async def _while_answering(
        self, handing_over: Coroutine[Any, Any, Mapping[str, Positions]], keys: frozenset[str], nonces: frozenset[str]
    ) -> Mapping[str, Positions]:
        """Keep the right to deliver what was read while `keys` are handed over, and show that we live."""
        ours, board = self.claimed, self.claimed.board
        task, tries = asyncio.ensure_future(handing_over), 0
        try:
            while not task.done():
                try:
                    await ours.wait_for_news(task)
                    if task.done():
                        break
                    reading = await ours.read()
                    mine = board.mine(reading.claims)
                    lost = ours.ours() - (frozenset() if mine is None else mine.channels)
                    if lost and self.valid() and board.is_certain(reading, lost):
                        # As in `Claims`: who has claimed them at the same moment may withdraw.
                        await asyncio.wait({task}, timeout=POLL_SECONDS)
                        continue
                    if mine is None or lost & keys:
                        # Somebody took us for dead: we have nothing to hand over any more.
                        await self.switch.stand_down(keys)
                        return {}
                    if lost:
                        # `Claims` has to see that. Until then the right lapses.
                        await asyncio.wait({task})
                        break
                    answers = nonces | ours.question.open(reading.claims, ours.ours())
                    if mine.answers == answers:
                        board.register.settle(reading.asked)
                    else:
                        await ours.say(reading, ours.ours(), answers=answers)
                except (Transient, NoRegister) as error:
                    tries += 1
                    _log.info("the register cannot be read or written now", tries=tries, reason=str(error))
                    await asyncio.wait({task}, timeout=POLL_SECONDS)
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})
