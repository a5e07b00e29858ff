"""What was said before the relay came, in every fourth history, and when the operator lets it cross."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from relay.core.bootstrap import Core
from relay.core.clock import SystemClock
from relay.core.operations.backfill_wishes import Wanted, Wish, ask, read_progress
from relay.core.storage import Store
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef
from relay.domain.pair import Pair
from relay.errors import StoreUnavailable
from tests.simulation.operator import Operator
from tests.support.platform import MemoryPlatform

_MOST = 25


@dataclass(slots=True)
class Past:
    """The messages, and the wishes by the sides of their pairs."""

    rng: random.Random
    operator: Operator
    asked_at: float
    trace: Callable[[str], None]
    said: list[MessageRef] = field(default_factory=list)
    wishes: dict[tuple[ChannelAddress, ChannelAddress], Wish] = field(default_factory=dict)
    # Where it crosses, by where it was said; also what was said since, before the relay was first ready.
    leads: dict[ChannelRef, ChannelRef] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        seed: int,
        platforms: tuple[MemoryPlatform, MemoryPlatform],
        operator: Operator,
        over: float,
        trace: Callable[[str], None],
    ) -> "Past | None":
        """That of a seed; None where there is none. By numbers of its own: the other histories stay as they are."""
        rng = random.Random(f"past {seed}")
        if rng.random() >= 0.25:
            return None
        past = cls(rng, operator, rng.uniform(0, over), trace)
        for platform in platforms:
            for name in operator.open_channels(platform.platform):
                channel = platform.channel(name)
                for number in range(rng.randrange(_MOST)):
                    shown = platform.shown(channel)
                    reply_to = rng.choice(shown).ref if shown and rng.random() < 0.2 else None
                    who = rng.choice(("ann", "ben"))
                    ref = platform.say(channel, who, f"p{number} {rng.random():.3f}", reply_to=reply_to)
                    past.said.append(ref)
        trace(f"{len(past.said)} messages were said before")
        return past

    async def ask(self, store: Store, elapsed: Callable[[], float]) -> None:
        """The operator asks for all of it once, at a moment of any life of the process."""
        await asyncio.sleep(max(0.0, self.asked_at - elapsed()))
        for pair in self.operator.pairs():
            asked = {side for sides in self.wishes for side in sides}
            while asked.isdisjoint(pair.sides):
                try:
                    async with store.write() as uow:
                        wish = await ask(uow, Wanted(pair, SystemClock().now()))
                except StoreUnavailable:
                    await asyncio.sleep(1)
                else:
                    self.wishes[pair.sides] = wish
                    asked |= set(pair.sides)
                    self._note(pair)

    def _note(self, pair: Pair) -> None:
        """Where what was said before crosses from now on."""
        self.trace(f"the past of {pair.name} is to cross")
        discord, matrix = (ChannelRef(side.platform, side.value.lstrip("#")) for side in pair.sides)
        self.leads |= {discord: matrix, matrix: discord}
        for ref in self.said:
            if ref.channel in (discord, matrix):
                self.operator.said[ref] = matrix if ref.channel == discord else discord

    async def is_under_way(self, store: Store, core: Core) -> bool:
        """Whether more of it crosses by itself."""
        async with store.read() as uow:
            for pair in core.pairs.pairs:
                wish = self.wishes.get(pair.sides)
                if wish is None or pair.paused:
                    continue
                progress = await read_progress(uow, wish)
                if any(one is None or one.state == "running" for one in progress.values()):
                    return True
        return False

    def crosses(self, ref: MessageRef) -> bool:
        """Whether a message is from the past and has to cross, as long as its pair stays as it was."""
        return ref in self.operator.said and ref in self.said
