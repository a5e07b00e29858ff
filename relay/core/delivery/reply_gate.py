"""Answers to copies that stand already, but are not on record yet: people are quick, and processes die in between."""

from contextlib import suppress
from dataclasses import dataclass

from relay.core.delivery.resolve import Context, Task
from relay.core.ports import Clock
from relay.domain.ids import MessageRef
from relay.domain.pair import LaneKey
from relay.errors import NotYet, Transient

_PATIENCE = 35.0
"""Seconds that answers wait for one copy to be on record."""


@dataclass(frozen=True, slots=True)
class _Awaited:
    """What a lane's head answers, and what was at the head of the lane that makes copies there."""

    target: MessageRef
    head: int


class Copying:
    """Knows which answers are worth a moment's patience: those to a copy of ours that the other lane is about."""

    def __init__(self, context: Context, clock: Clock) -> None:
        self._context = context
        self._clock = clock
        self._awaited: dict[LaneKey, _Awaited] = {}
        self._heads: dict[LaneKey, tuple[int, float]] = {}

    async def under_way(self, task: Task, target: MessageRef) -> int | None:
        """The entry whose copy `target`, of which nothing is on record, may be; None if it can be none."""
        other = task.entry.lane.back
        async with self._context.store.read() as uow:
            if await uow.messages.find(target) is not None:
                return None
            waiting = await uow.outbox.waiting(other, 1)
        if not waiting:
            return None
        head, now = waiting[0].id, self._clock.monotonic()
        known, since = self._heads.get(other, (None, now))
        self._heads[other] = (head, since if known == head else now)
        return head if known != head or now - since < _PATIENCE else None

    async def wait_for(self, task: Task, target: MessageRef) -> None:
        """Raises `NotYet` where what is answered is a copy that is just being made.

        A lane makes one copy at a time: once its head has changed, what people could see is on record.
        """
        awaited = self._awaited.pop(task.entry.lane, None)
        head = await self.under_way(task, target)
        if head is None:
            return
        if awaited is None or awaited.target != target:
            if not await self._is_ours(target):
                return
        elif awaited.head != head:
            return
        self._awaited[task.entry.lane] = _Awaited(target, head)
        raise NotYet("what it answers is a copy that is just being made")

    async def _is_ours(self, target: MessageRef) -> bool:
        with suppress(Transient):
            seen = await self._context.adapter(target.platform).quote(target)
            return seen is not None and seen.is_self
        return False
