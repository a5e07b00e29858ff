"""Carrying out one command: look up where its targets stand by now, degrade, call the adapter, write the receipt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog

from relay.core.degrade import Dropped, degrade
from relay.core.pairs import PairDirectory
from relay.core.ports import Adapter, Clock, Copy, Delivery, Entry, Original, Store, UnitOfWork
from relay.core.status import Status
from relay.domain.commands import DeleteMessage, EditMessage, MarkFailed, PostNotice, SendMessage
from relay.domain.content import Content
from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.domain.pair import LaneKey, Pair
from relay.domain.richtext import RichText
from relay.errors import Blocked, Orphaned, TargetGone

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Task:
    """A command together with all that had to be looked up for it."""

    entry: Entry
    pair: Pair
    channel: ChannelRef
    original: Original | None
    copies: tuple[Copy, ...]
    reply_to: MessageRef | None
    last_copy: MessageRef | None
    suspect: bool


class Deliverer:
    """Carries out commands, each to its end. What a try did is on record, so the next goes on where it broke off."""

    def __init__(
        self,
        *,
        store: Store,
        pairs: PairDirectory,
        adapters: Mapping[Platform, Adapter],
        status: Status,
        clock: Clock,
        wake: Callable[[LaneKey], None],
    ) -> None:
        self._store = store
        self._pairs = pairs
        self._adapters = adapters
        self._status = status
        self._clock = clock
        self._wake = wake

    async def carry_out(self, entry: Entry, *, suspect: bool) -> None:
        """Do what the entry says and take it out of the outbox.

        `suspect`: an earlier try may have reached the platform. Raises a `DeliveryError` or `StoreUnavailable`;
        the entry is then still there.
        """
        match entry.command:
            case SendMessage() as command:
                await self._send(entry, command, suspect=suspect)
            case EditMessage() as command:
                await self._edit(entry, command, suspect=suspect)
            case DeleteMessage() as command:
                await self._delete(entry, command)
            case PostNotice() as notice:
                await self._notice(entry, notice, suspect=suspect)
            case MarkFailed() as failed:
                await self._mark_failed(entry, failed, suspect=suspect)

    async def bury(self, entry: Entry, reason: str) -> None:
        """The command failed for good: keep it as a dead letter, and let its author know."""
        async with self._store.write() as uow:
            if isinstance(entry.command, PostNotice | MarkFailed):
                await uow.outbox.done(entry.id)
            else:
                await uow.outbox.bury(entry.id, reason, self._clock.now())
                await self._tell_author(uow, entry, reason)
        self._wake_source(entry)

    async def drop(self, entry: Entry, dropped: Dropped) -> None:
        """The command cannot cross at all: count it by name, and let its author know."""
        async with self._store.write() as uow:
            await uow.outbox.done(entry.id)
            await self._tell_author(uow, entry, dropped.reason)
        self._status.dropped(entry.lane, dropped.feature)
        self._wake_source(entry)

    # --- One command each ---------------------------------------------------------------------------------

    async def _send(self, entry: Entry, command: SendMessage, *, suspect: bool) -> None:
        task = await self._task(entry, command.source, command.reply_to, suspect=suspect)
        if task.original is not None and task.original.deleted and not suspect and not task.copies:
            await self._done(entry)
            return
        parts = await self._parts(task, command)
        if isinstance(parts, Dropped):
            await self.drop(entry, parts)
            return
        for number in range(len(task.copies), len(parts)):
            await self._send_part(task, command, parts, number)
        if len(task.copies) >= len(parts):
            await self._done(entry)
        self._status.crossed(entry.lane, written_at=command.created_at, received_at=entry.queued_at)

    async def _edit(self, entry: Entry, command: EditMessage, *, suspect: bool) -> None:
        task = await self._task(entry, command.source, command.reply_to, suspect=suspect)
        if not task.copies or task.original is None or task.original.deleted:
            await self._done(entry)
            return
        parts = await self._parts(task, command)
        if isinstance(parts, Dropped):
            await self.drop(entry, parts)
            return
        for copy, part in zip(task.copies, parts, strict=False):
            await self._edit_part(task, command, copy, part)
        for number in range(len(task.copies), len(parts)):
            await self._send_part(task, command, parts, number)
        await self._remove(entry, task.copies[len(parts) :])
        if len(task.copies) >= len(parts):
            await self._done(entry)

    async def _delete(self, entry: Entry, command: DeleteMessage) -> None:
        task = await self._task(entry, command.source, None, suspect=False)
        await self._remove(entry, task.copies)
        await self._done(entry)

    async def _notice(self, entry: Entry, notice: PostNotice, *, suspect: bool) -> None:
        _, channel = self._destination(entry.lane)
        delivery = Delivery(
            channel=channel,
            key=self._key(entry, 0, "n"),
            author=None,
            content=Content(notice.text, style="notice"),
            thread=notice.thread,
            suspect=suspect,
            queued_at=entry.queued_at,
        )
        try:
            await self._adapters[channel.platform].send(delivery)
        except TargetGone:
            _log.info("notice has no place any more", pair=entry.lane.pair, direction=entry.lane.direction)
        await self._done(entry)

    async def _mark_failed(self, entry: Entry, failed: MarkFailed, *, suspect: bool) -> None:
        _, channel = self._destination(entry.lane)
        adapter = self._adapters[channel.platform]
        try:
            if not await adapter.mark_failed(failed.source, failed.reason):
                words = RichText.plain(f"This message did not cross: {failed.reason}.")
                delivery = Delivery(
                    channel=channel,
                    key=self._key(entry, 0, "f"),
                    author=None,
                    content=Content(words, style="notice"),
                    reply_to=failed.source,
                    suspect=suspect,
                    queued_at=entry.queued_at,
                )
                await adapter.send(delivery)
        except TargetGone:
            _log.info("a message that did not cross is gone", pair=entry.lane.pair, direction=entry.lane.direction)
        await self._done(entry)

    # --- Parts --------------------------------------------------------------------------------------------

    async def _parts(self, task: _Task, command: SendMessage | EditMessage) -> tuple[Content, ...] | Dropped:
        adapter = self._adapters[task.channel.platform]
        capabilities = adapter.capabilities(task.channel)
        quotation = None
        if task.reply_to is not None and not capabilities.native_replies:
            quotation = await adapter.quote(task.reply_to)
        return degrade(
            command.content,
            author=command.author,
            capabilities=capabilities,
            policy=task.pair.policy,
            measure=lambda text: adapter.measure(text, command.author),
            quotation=quotation,
        )

    async def _send_part(
        self, task: _Task, command: SendMessage | EditMessage, parts: tuple[Content, ...], number: int
    ) -> None:
        """Post one part, and write the receipt: with the last part's, the entry is done."""
        # Only the part that the earlier try broke off at may have been posted: those before it are on record.
        suspect = task.suspect and number == len(task.copies)
        delivery = self._delivery(task, command, parts[number], number, "s", suspect=suspect)
        ref = await self._adapters[task.channel.platform].send(delivery)
        async with self._store.write() as uow:
            if task.original is not None:
                await uow.messages.record_copy(Copy(task.original.id, task.pair.name, number, ref))
            if number == len(parts) - 1:
                await uow.outbox.done(task.entry.id)

    async def _edit_part(self, task: _Task, command: EditMessage, copy: Copy, content: Content) -> None:
        adapter = self._adapters[task.channel.platform]
        delivery = self._delivery(task, command, content, copy.part, "e", suspect=False)
        try:
            await adapter.edit(copy.ref, delivery)
        except TargetGone:
            # Somebody removed the copy on its own side, and meant it.
            _log.info("edited copy is gone", pair=task.pair.name, direction=task.entry.lane.direction)
        except Orphaned:
            anew = self._delivery(task, command, content, copy.part, "a", suspect=task.suspect)
            ref = await adapter.send(anew)
            async with self._store.write() as uow:
                await uow.messages.record_copy(replace(copy, ref=ref))
            await self._delete_copy(task.entry, copy)

    async def _remove(self, entry: Entry, copies: tuple[Copy, ...]) -> None:
        for copy in reversed(copies):
            await self._delete_copy(entry, copy)
            async with self._store.write() as uow:
                await uow.messages.forget_copy(copy)

    async def _delete_copy(self, entry: Entry, copy: Copy) -> None:
        try:
            await self._adapters[copy.ref.platform].delete(copy.ref, self._key(entry, copy.part, "d"))
        except TargetGone:
            _log.debug("copy was gone already", pair=entry.lane.pair, direction=entry.lane.direction)

    # --- Look-ups -----------------------------------------------------------------------------------------

    async def _task(self, entry: Entry, source: MessageRef, reply_to: MessageRef | None, *, suspect: bool) -> _Task:
        pair, channel = self._destination(entry.lane)
        async with self._store.read() as uow:
            original = await uow.messages.find(source)
            return _Task(
                entry=entry,
                pair=pair,
                channel=channel,
                original=original,
                copies=() if original is None else await uow.messages.copies(original.id, channel),
                reply_to=None if reply_to is None else await uow.messages.counterpart(reply_to, channel),
                last_copy=await uow.messages.last_copy(channel) if suspect else None,
                suspect=suspect,
            )

    def _destination(self, lane: LaneKey) -> tuple[Pair, ChannelRef]:
        found = self._pairs.destination(lane)
        if found is None:
            raise Blocked("its channel is not open")
        return found

    def _delivery(
        self,
        task: _Task,
        command: SendMessage | EditMessage,
        content: Content,
        part: int,
        verb: str,
        *,
        suspect: bool,
    ) -> Delivery:
        return Delivery(
            channel=task.channel,
            key=self._key(task.entry, part, verb),
            author=command.author,
            content=content,
            reply_to=task.reply_to if part == 0 else None,
            part=part,
            suspect=suspect,
            after=task.last_copy if suspect else None,
            queued_at=task.entry.queued_at,
        )

    def _key(self, entry: Entry, part: int, verb: str) -> str:
        # The verb is part of the key because a homeserver's transaction IDs ignore what is being done: a redaction
        # under the ID of a message does nothing. The store's ID tells our rows from those of a store made anew.
        return f"{self._store.id}{entry.id:x}.{part}{verb}"

    async def _done(self, entry: Entry) -> None:
        async with self._store.write() as uow:
            await uow.outbox.done(entry.id)

    # --- The author ---------------------------------------------------------------------------------------

    async def _tell_author(self, uow: UnitOfWork, entry: Entry, reason: str) -> None:
        if isinstance(entry.command, SendMessage | EditMessage):
            source = entry.command.source
            lane = LaneKey(entry.lane.pair, source.platform)
            await uow.outbox.append(lane, MarkFailed(source, reason), self._clock.now())

    def _wake_source(self, entry: Entry) -> None:
        if isinstance(entry.command, SendMessage | EditMessage):
            self._wake(LaneKey(entry.lane.pair, entry.command.source.platform))
