"""Catching up: messages, edits and deletions from the time that the relay was away, where no stream replays them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from relay.core.pairs import PairDirectory
from relay.core.ports import EventBatch, HistoryReader, OnRecord
from relay.core.storage import Original, Store, UnitOfWork
from relay.domain.events import MessageCreated, MessageDeleted, MessageEdited
from relay.domain.ids import ChannelRef, Platform
from relay.logs import get_logger

_log = get_logger(__name__)

_EVER = datetime.min.replace(tzinfo=UTC)
_RECONCILED_MESSAGES = 500
"""How many of a channel's last messages are read again, to find edits and deletions."""

_WAITING_PAST = 25
"""Of so many messages of a backfill, the last ones, those are read again that have not crossed yet, however old."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class CatchUp:
    """Reads the history of a channel from a position on, and hands it over like live events."""

    store: Store
    pairs: PairDirectory
    readers: Mapping[Platform, HistoryReader]
    receive: Callable[[EventBatch], Awaitable[None]]
    # How old a message may be whose edits and deletions are still looked for.
    window: timedelta

    async def channel(self, channel: ChannelRef, position: str) -> None:
        """Receive everything after `position`, then what happened to the messages before it."""
        reader = self.readers[channel.platform]
        # By the platform's clock, which also dates the messages: ours may be a day off.
        since = reader.now() - self.window
        async with self.store.read() as uow:
            known = await uow.messages.recent(channel, since, _RECONCILED_MESSAGES, with_past=True)
            waiting = await uow.messages.waiting_past(channel, _WAITING_PAST)
        if not reader.knows(position):
            position = await self._instead(channel, position)
        known = tuple(original for original in known if reader.knows(original.ref.id))
        old = tuple(one for one in waiting if one.created_at < since and reader.knows(one.ref.id))
        messages = await self._missed(channel, position, known)
        changes = 0
        for some in (old, known):
            changes += await self._changed(channel.platform, some) if some else 0
        if messages or changes:
            _log.info(
                "caught up", platform=channel.platform.value, channel=channel.id, events=messages, changes=changes
            )

    async def _instead(self, channel: ChannelRef, position: str) -> str:
        """Where to read on if a position is damaged: behind the last message on record."""
        reader = self.readers[channel.platform]
        async with self.store.look() as uow:
            known = await last_originals(uow, channel, 1)
        if known and reader.knows(known[0].ref.id):
            after = known[0].ref.id
        else:
            after = reader.position_at(reader.now() - self.window)
        _log.error("cursor cannot be read", channel=channel.id, position=position[:100], read_after=after)
        return after

    async def _missed(self, channel: ChannelRef, position: str, known: tuple[Original, ...]) -> int:
        pair = self.pairs.pair_of(channel)
        newest = pair.policy.catchup_limit if pair is not None else 0  # of no pair, nothing crosses
        threads_cross = pair is not None and pair.policy.thread_messages != "drop"
        missed = self.readers[channel.platform].history(
            channel,
            position,
            newest=newest,
            threads_cross=threads_cross,
            reread_from=known[0].ref if known else None,
        )
        events = 0
        async for batch in missed:
            await self.receive(batch)
            events += len(batch.events)
        return events

    async def _changed(self, platform: Platform, known: tuple[Original, ...]) -> int:
        expected = {original.ref: original for original in known}
        changes = 0
        complete = True
        async with aclosing(self.readers[platform].reread(known[0].ref, known[-1].ref)) as pages:
            async for page in pages:
                if page is None:
                    complete = False
                    continue
                edits = [edit for seen in page if (edit := _edit(expected.pop(seen.ref, None), seen)) is not None]
                changes += await self._tell(edits)
                if not expected:
                    # All are there. To read on would cost a request or two a channel, at each start.
                    return changes
        if not complete:
            _log.info("deletions not looked for", platform=platform.value, channel=known[0].ref.channel.id)
            return changes
        return changes + await self._tell([MessageDeleted(ref) for ref in expected])

    async def _tell(self, events: list[MessageEdited] | list[MessageDeleted]) -> int:
        if events:
            await self.receive(EventBatch(tuple(events)))
        return len(events)


def _edit(original: Original | None, seen: MessageCreated) -> MessageEdited | None:
    if original is None or seen.edited_at is None:
        return None
    if original.edited_at is not None and seen.edited_at <= original.edited_at:
        return None
    return MessageEdited(seen.ref, seen.author, seen.content, seen.edited_at)


async def last_originals(uow: UnitOfWork, channel: ChannelRef, limit: int) -> Sequence[OnRecord]:
    """See `Inbox.last_originals`. In the order in which they were received: anybody may write a date of their own."""
    known = await uow.messages.recent(channel, _EVER, limit)
    newest_first = sorted(known, key=lambda original: original.id, reverse=True)
    return [OnRecord(original.ref, original.created_at) for original in newest_first]
