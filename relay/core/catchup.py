"""What was missed while the relay was away, on platforms whose stream does not replay it."""

from collections.abc import Awaitable, Callable, Mapping

import structlog

from relay.core.ports import Batch, HistoryReader, Store
from relay.domain.ids import ChannelRef, Platform

_log = structlog.get_logger(__name__)


def channel_stream(channel: ChannelRef) -> str:
    """The name of a channel's own stream, for its cursor."""
    return f"channel:{channel.id}"


class CatchUp:
    """Reads the history of a channel from its cursor on, and hands it over like live events."""

    def __init__(
        self,
        *,
        store: Store,
        readers: Mapping[Platform, HistoryReader],
        receive: Callable[[Batch], Awaitable[None]],
    ) -> None:
        self._store = store
        self._readers = readers
        self._receive = receive

    async def channel(self, channel: ChannelRef) -> None:
        """Read everything after the cursor. A channel without one has nothing to catch up on."""
        async with self._store.read() as uow:
            position = await uow.cursors.get(channel.platform, channel_stream(channel))
        if position is None:
            return
        events = 0
        async for batch in self._readers[channel.platform].history(channel, position):
            await self._receive(batch)
            events += len(batch.events)
        if events:
            _log.info("caught up", platform=str(channel.platform), channel=channel.id, events=events)
