"""The inbox as the adapter uses it: when the store cannot be written, it waits and tries again.

A long list of events goes to the core in batches.
"""

import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from relay.core.clock import Backoff
from relay.core.ports import Clock, Cursor, EventBatch, Inbox, OnRecord
from relay.domain.events import Event
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, Platform
from relay.errors import StoreUnavailable
from relay.logs import get_logger

_log = get_logger(__name__)
_T = TypeVar("_T")

_BATCH_SIZE = 500


@dataclass(slots=True)
class RetryingInbox:
    """Calls an `Inbox` until the store is available. Until then the caller waits, so nothing else is read."""

    inbox: Inbox
    clock: Clock
    rng: random.Random
    # Why the store is not available, as a sentence; "" while it is.
    trouble: str = field(init=False, default="")

    async def receive(self, batch: EventBatch) -> None:
        """See `Inbox.receive`."""
        await self._retry(lambda: self.inbox.receive(batch))

    async def receive_all(self, events: Sequence[Event], cursors: tuple[Cursor, ...]) -> None:
        """Like `receive`, for any number of events. The cursors are written with the last ones.

        Raises `StoreError` if the store cannot be used any more.
        """
        for start in range(0, max(len(events), 1), _BATCH_SIZE):
            part = tuple(events[start : start + _BATCH_SIZE])
            part_cursors = cursors if start + _BATCH_SIZE >= len(events) else ()
            if not part and not part_cursors:
                continue
            await self.receive(EventBatch(part, part_cursors))

    async def opened(
        self, address: ChannelAddress, channel: ChannelRef, *, predecessors: frozenset[ChannelRef] = frozenset()
    ) -> None:
        """See `Inbox.opened`."""
        await self._retry(lambda: self.inbox.opened(address, channel, predecessors=predecessors))

    async def closed(self, address: ChannelAddress, problem: str) -> None:
        """See `Inbox.closed`."""
        await self._retry(lambda: self.inbox.closed(address, problem))

    async def post_again(
        self, channel: ChannelRef, post: Callable[[], Awaitable[Mapping[MessageRef, MessageRef]]]
    ) -> Collection[MessageRef]:
        """See `Inbox.post_again`."""
        return await self._retry(lambda: self.inbox.post_again(channel, post))

    async def position(self, stream: str) -> str | None:
        """The position of one of this platform's cursors (see `cursors.py`); None before the first."""
        return await self._retry(lambda: self.inbox.cursor(Platform.MATRIX, stream))

    async def last_originals(self, channel: ChannelRef, limit: int) -> Sequence[OnRecord]:
        """See `Inbox.last_originals`."""
        return await self._retry(lambda: self.inbox.last_originals(channel, limit))

    async def _retry(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """The result of `call`, which is made again for as long as it raises `StoreUnavailable`."""
        backoff = Backoff(self.rng, first=0.5, longest=15.0)
        while True:
            try:
                result = await call()
            except StoreUnavailable as error:
                self._set_trouble(str(error))
                _log.warning("the store takes nothing now, waiting", reason=error.reason, tries=backoff.tries)
                await self.clock.sleep(backoff.next())
            else:
                self._set_trouble("")
                return result

    def _set_trouble(self, text: str) -> None:
        if text != self.trouble:
            self.trouble = text
            self.inbox.health_changed()
