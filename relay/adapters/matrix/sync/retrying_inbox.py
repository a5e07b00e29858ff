"""The inbox as the adapter uses it: a store that cannot be written now is waited for, and nothing goes on meanwhile."""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from relay.core.backoff import Backoff
from relay.core.ports import Batch, Clock, Cursor, Inbox
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, Platform
from relay.errors import StoreUnavailable

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


class PatientInbox:
    """Calls an `Inbox` until the store takes it. `trouble` says why it does not, "" while it does."""

    def __init__(self, inbox: Inbox, clock: Clock, rng: random.Random) -> None:
        self._inbox = inbox
        self._clock = clock
        self._rng = rng
        self.trouble = ""

    async def receive(self, batch: Batch) -> None:
        """See `Inbox.receive`."""
        await self.patiently(lambda: self._inbox.receive(batch))

    async def opened(
        self, address: ChannelAddress, channel: ChannelRef, *, predecessors: frozenset[ChannelRef] = frozenset()
    ) -> None:
        """See `Inbox.opened`."""
        await self.patiently(lambda: self._inbox.opened(address, channel, predecessors=predecessors))

    async def closed(self, address: ChannelAddress, problem: str) -> None:
        """See `Inbox.closed`."""
        await self.patiently(lambda: self._inbox.closed(address, problem))

    async def position(self, stream: str) -> str | None:
        """The position of one of Matrix's streams; None before the first."""
        return await self.patiently(lambda: self._inbox.cursor(Platform.MATRIX, stream))

    async def last_original(self, channel: ChannelRef) -> MessageRef | None:
        """See `Inbox.last_original`."""
        return await self.patiently(lambda: self._inbox.last_original(channel))

    async def patiently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """The result of `call`, which is made again for as long as it raises `StoreUnavailable`."""
        backoff = Backoff(self._rng, first=0.5, most=15.0)
        while True:
            try:
                result = await call()
            except StoreUnavailable as error:
                self.trouble = str(error)
                _log.warning("the store takes nothing now, waiting", reason=error.reason, tries=backoff.tries)
                await self._clock.sleep(backoff.next())
            else:
                self.trouble = ""
                return result


def at(stream: str, position: str) -> Cursor:
    """A cursor of ours."""
    return Cursor(Platform.MATRIX, stream, position)
