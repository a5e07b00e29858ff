"""What the adapters talk to: the inbox in front of router, catch-up and courier."""

from collections.abc import Mapping
from datetime import timedelta

import structlog

from relay.core.catchup import CatchUp
from relay.core.courier import Courier
from relay.core.pairs import PairDirectory
from relay.core.ports import Batch, Clock, HistoryReader
from relay.core.router import Router
from relay.core.storage import Store
from relay.domain.commands import DeleteMessage
from relay.domain.ids import ChannelAddress, ChannelRef, Platform
from relay.domain.pair import LaneKey

_log = structlog.get_logger(__name__)


class Bridge:
    """Implements `core.ports.Inbox`."""

    def __init__(
        self,
        *,
        store: Store,
        pairs: PairDirectory,
        router: Router,
        courier: Courier,
        readers: Mapping[Platform, HistoryReader],
        clock: Clock,
        reconcile_window: timedelta,
    ) -> None:
        self._store = store
        self._pairs = pairs
        self._router = router
        self._courier = courier
        self._catch_up = CatchUp(
            store=store, pairs=pairs, readers=readers, receive=self.receive, clock=clock, window=reconcile_window
        )

    async def receive(self, batch: Batch) -> None:
        """See `Inbox.receive`."""
        try:
            entries = await self._router.receive(batch)
        except BaseException:
            # It may be on disk all the same, and when it comes again it counts as known.
            self._courier.wake_all()
            raise
        for entry in entries:
            self._courier.offer(entry)

    async def cursor(self, platform: Platform, stream: str) -> str | None:
        """See `Inbox.cursor`."""
        async with self._store.read() as uow:
            return await uow.cursors.get(platform, stream)

    async def opened(self, address: ChannelAddress, channel: ChannelRef) -> None:
        """See `Inbox.opened`."""
        pair = self._pairs.open(address, channel)
        if pair is None:
            return
        async with self._store.write() as uow:
            renamed = await uow.outbox.rename(channel, pair.name)
            for letter in await uow.outbox.dead_in(LaneKey(pair.name, channel.platform)):
                # A permission may be back without which nothing could be removed.
                if isinstance(letter.entry.command, DeleteMessage):
                    await uow.outbox.retry(letter.entry.id)
        if renamed:
            self._courier.wake_all()  # the lane of the old name has lost them
        _log.info("channel open", pair=pair.name, platform=str(channel.platform), channel=channel.id)
        for lane in pair.lanes():
            # What comes from an earlier life under another name may have been sent in it.
            self._courier.wake(lane, suspect=renamed > 0)
        self._courier.try_again(pair.name)

    async def closed(self, address: ChannelAddress, problem: str) -> None:
        """See `Inbox.closed`."""
        pair = self._pairs.close(address, problem)
        if pair is not None:
            _log.warning("channel closed", pair=pair.name, platform=str(address.platform), problem=problem)

    async def catch_up(self, channel: ChannelRef) -> None:
        """See `Inbox.catch_up`."""
        await self._catch_up.channel(channel)
