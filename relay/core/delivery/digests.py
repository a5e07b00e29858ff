"""When a lane falls behind: its waiting messages cross together, and stay editable one by one."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import takewhile

import structlog

from relay.core.convert.degrade import Dropped, degrade
from relay.core.convert.split import first_part, split
from relay.core.delivery.digest import content_of, edited, item_of, quotation_within, requoted, run_of, speaker
from relay.core.delivery.reply_gate import Copying
from relay.core.delivery.resolve import Context, Task
from relay.core.offload import LONG
from relay.core.status.counters import Status
from relay.core.storage import Copy, Entry
from relay.domain.commands import Digest, DigestItem, EditMessage, RequoteMessage, SendMessage
from relay.domain.content import Author, Content, Quotation
from relay.domain.ids import MessageRef
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.domain.text.rewrite import weight
from relay.errors import CopyNotEditable, Permanent, TargetGone, Transient

_log = structlog.get_logger(__name__)

_MOST = 50
"""Messages in one batch, at most."""

_LOOKED_AT = 256 * 1024
"""Bytes of what waits that are read for a batch, which holds far less."""

_NOT_HERE = Quotation("a message that is not here", RichText(), "")
"""What stands above an answer to what was deleted, or cannot be read."""

_FILLED = 0.5
"""How much of a copy a new batch may fill: edits need room to grow."""


class Batching:
    """Plans batches, sends them, and re-renders them when one of their messages changes.

    A batch is planned before it is sent: one transaction makes it the command of the entry at the lane's head and
    settles the others, so that every try, also after a crash, sends the same under the same key.
    """

    def __init__(self, context: Context, status: Status, copying: Copying, wake: Callable[[LaneKey], None]) -> None:
        self._context = context
        self._copying = copying
        self._status = status
        self._wake = wake

    async def plan(self, entry: Entry, *, seconds_each: float, lanes: int) -> Entry | None:
        """See `Deliverer.plan`."""
        if not isinstance(entry.command, SendMessage):
            return None
        task = await self._context.task(entry, suspect=False)
        patience = task.pair.policy.batch_when_behind
        async with self._context.store.read() as uow:
            waiting, whole = await uow.outbox.ahead(entry.lane, _MOST, _LOOKED_AT)
        count = len(waiting) if whole else _MOST
        if not patience or count * seconds_each * lanes <= patience:
            return None
        while True:
            run = run_of(waiting)
            items = await self._fitting(task, run.messages)
            if len(items) == len(run.messages):
                break
            waiting = _before(waiting, run.messages[len(items)].source)
        if len(items) < 2:
            return None
        batch = Digest(items)
        async with self._context.store.write() as uow:
            await uow.outbox.amend(entry.id, batch)
            for entry_id in run.settled:
                if entry_id != entry.id:
                    await uow.outbox.done(entry_id)
        return Entry(entry.id, entry.lane, batch, entry.queued_at)

    async def send(self, entry: Entry, batch: Digest, *, suspect: bool) -> None:
        """Post a batch and write the receipt of all its messages."""
        task = await self._context.task(entry, suspect=suspect)
        delivery = self._context.delivery(task, speaker(batch), content_of(batch), "b", suspect=suspect)
        ref = await task.adapter.send(delivery)
        async with self._context.store.write() as uow:
            for item in batch.items:
                original = await uow.messages.find(item.source)
                if original is not None:
                    await uow.messages.record_copy(Copy(original.id, 0, ref))
            await uow.digests.put(ref, batch)
            await uow.outbox.done(entry.id)
        for item in batch.items:
            self._status.crossed(entry.lane, written_at=item.created_at, received_at=_received(entry, item))

    async def of(self, task: Task) -> Digest | None:
        """The batch that a task's message stands in, together with others; None if it stands alone."""
        if not task.copies or task.original is None:
            return None
        async with self._context.store.read() as uow:
            try:
                batch = await uow.digests.get(task.copies[0].ref)
            except ValueError as error:
                # Taken for a copy of this message alone, it would lose the words of the others.
                raise Permanent(f"what stands in the copy it shares with others cannot be read ({error})") from error
        if batch is None or not any(item.source == task.original.ref for item in batch.items):
            return None
        return batch

    async def say(self, task: Task, batch: Digest, *, leaving: bool = False) -> None:
        """Make the shared copy of a task's message say `batch`, and remember it.

        `leaving`: the task's message is in it no more.
        """
        shared = task.copies[0]
        delivery = self._context.delivery(task, speaker(batch), content_of(batch), "e")
        stands, old = shared.ref, None
        try:
            await task.adapter.edit(shared.ref, delivery)
        except TargetGone:
            _log.info("edited copy is gone", pair=task.pair.name, direction=task.entry.lane.direction)
        except CopyNotEditable:
            stands, old = await self._post_anew(task, batch)
        async with self._context.store.write() as uow:
            # In one transaction: a batch without a message whose copy is still on record would be taken for a message
            # that stands alone, and its deletion would take the others along.
            await uow.digests.put(stands, batch)
            if leaving:
                await uow.messages.forget_copy(replace(shared, ref=stands))
        if old is not None:
            await self._remove_old(task, old)

    async def quotation(self, task: Task, target: MessageRef, stands: MessageRef | None) -> Quotation:
        """What a reply to `target` quotes, which is at `stands` over there, maybe together with others.

        `stands` None: it has no copy (it is older than the relay, or was left out), so that it is quoted from its own
        side.
        """
        if stands is None:
            return await self._without_copy(task, target)
        try:
            async with self._context.store.read() as uow:
                batch = await uow.digests.get(stands)
        except ValueError:
            batch = None
        item = next((item for item in batch.items if item.source == target), None) if batch is not None else None
        if item is None:
            return await task.adapter.quote(stands) or _NOT_HERE
        return Quotation(item.author.name, item.content.text, task.adapter.permalink(stands))

    async def requoted(self, task: Task, batch: Digest, command: RequoteMessage) -> Digest:
        """The batch with what a message answers quoted as that stands by now, wherever it is answered in it."""
        quotation = await self.quotation(task, command.reply_to, task.reply_to)
        async with self._context.store.read() as uow:
            originals = [await uow.messages.find(item.source) for item in batch.items]
        for original in originals:
            if original is not None and original.reply_to == command.reply_to:
                batch = requoted(batch, original.ref, quotation)
        return batch

    async def _without_copy(self, task: Task, target: MessageRef) -> Quotation:
        source = self._context.adapter(target.platform)
        try:
            seen = await source.quote(target)
        except Transient:
            # The other side need not answer for a message to cross: who wants to know what it answers follows the link.
            return Quotation("a message", RichText(), source.permalink(target))
        if seen is None:
            return _NOT_HERE
        said = await self._context.resolved(task, Content(seen.text))
        # Whom it names on its own side nobody can call over here.
        return replace(seen, text=said.text, user=None)

    async def unbatch(self, entry: Entry, batch: Digest) -> int:
        """Its messages cross one by one instead: the platform refused them together. How many they are."""
        async with self._context.store.write() as uow:
            commands = []
            for item in batch.items:
                original = await uow.messages.find(item.source)
                reply_to = None if original is None else original.reply_to
                commands.append(SendMessage(item.source, item.author, item.content, item.created_at, reply_to))
            await uow.outbox.replace(entry, commands)
        return len(batch.items)

    async def _post_anew(self, task: Task, batch: Digest) -> tuple[MessageRef, Copy]:
        """What posted the shared copy is gone: post it again, for all that stand in it."""
        shared = task.copies[0]
        anew = self._context.delivery(task, speaker(batch), content_of(batch), "a", suspect=task.suspect)
        ref = await task.post(anew)
        async with self._context.store.write() as uow:
            sharing = await uow.messages.sharing(shared.ref)
            old = await uow.messages.supersede(shared)
            for original in sharing:
                await uow.messages.record_copy(Copy(original.id, 0, ref))
            await uow.digests.put(ref, batch)
            await uow.digests.forget(shared.ref)
        return ref, old

    async def _remove_old(self, task: Task, old: Copy) -> None:
        try:
            await task.adapter.delete(old.ref, self._context.key(task.entry, old.part, "d", superseded=old.superseded))
        except TargetGone:
            pass
        except Permanent:
            await self._context.remove_later(task)
            self._wake(task.entry.lane)
            return
        async with self._context.store.write() as uow:
            await uow.messages.forget_copy(old)

    def parts_in(self, task: Task, batch: Digest, command: EditMessage) -> tuple[Content, ...] | Dropped:
        """The new words of one message of a batch: as much as has room there, and the rest by itself."""
        capabilities = task.adapter.capabilities(task.channel)
        whole = degrade(
            command.content,
            author=command.author,
            capabilities=replace(capabilities, max_text_length=sys.maxsize, max_attachments=0),
            policy=task.pair.policy,
            measure=lambda text: task.adapter.measure(text, command.author),
        )
        if isinstance(whole, Dropped):
            return whole

        def among_others(text: RichText) -> int:
            content = replace(whole[0], text=text)
            changed = edited(batch, command.source, content)
            return task.adapter.measure(content_of(changed).text, speaker(changed))

        head, rest = first_part(whole[0].text, limit=capabilities.max_text_length, measure=among_others)
        tail = split(
            rest,
            limit=capabilities.max_text_length,
            measure=lambda text: task.adapter.measure(text, command.author),
        )
        return (replace(whole[0], text=head), *(Content(part, style=command.content.style) for part in tail if part))

    # --- What fits ----------------------------------------------------------------------------------------

    async def _fitting(self, task: Task, messages: tuple[SendMessage, ...]) -> tuple[DigestItem, ...]:
        """As many of the messages as one copy can hold, from the first on."""
        items: tuple[DigestItem, ...] = ()
        for message in messages:
            resolved = await self._context.resolved(task, message.content)
            await asyncio.sleep(0)  # Whatever else is due comes between.
            content = self._carried(task, message.author, resolved)
            if content is None or await self._may_have_to_wait(task, messages, message.reply_to):
                break
            item = item_of(message, content, await self._quotation(task, messages, message.reply_to))
            batch = Digest((*items, item))
            if not await self._context.conversions.run(weight(batch), self._fits, task, batch):
                break
            items = (*items, item)
        return items

    async def _may_have_to_wait(self, task: Task, messages: tuple[SendMessage, ...], target: MessageRef | None) -> bool:
        """Whether a message answers what may be a copy that is just being made: it crosses by itself."""
        if target is None or quotation_within(messages, target) is not None:
            return False
        async with self._context.store.read() as uow:
            if await uow.messages.counterpart(target, task.channel) is not None:
                return False
        return await self._copying.under_way(task, target) is not None

    async def _quotation(
        self, task: Task, messages: tuple[SendMessage, ...], target: MessageRef | None
    ) -> Quotation | None:
        if target is None:
            return None
        within = quotation_within(messages, target)
        if within is not None:
            return within
        async with self._context.store.read() as uow:
            stands = await uow.messages.counterpart(target, task.channel)
        return await self.quotation(task, target, stands)

    def _carried(self, task: Task, author: Author, content: Content) -> Content | None:
        """What the channel can carry of one message; None if that is not one short text."""
        if weight(content) > LONG:
            return None
        parts = degrade(
            content,
            author=author,
            capabilities=task.adapter.capabilities(task.channel),
            policy=task.pair.policy,
            measure=lambda text: task.adapter.measure(text, author),
        )
        return None if isinstance(parts, Dropped) or len(parts) > 1 or parts[0].attachments else parts[0]

    def _fits(self, task: Task, batch: Digest) -> bool:
        author = speaker(batch)
        room = task.adapter.capabilities(task.channel).max_text_length * _FILLED
        return task.adapter.measure(content_of(batch).text, author) <= room


def _before(waiting: Sequence[Entry], source: MessageRef) -> Sequence[Entry]:
    """What waits before the message `source`, which does not fit any more."""
    return list(takewhile(lambda entry: _sends(entry) != source, waiting))


def _sends(entry: Entry) -> MessageRef | None:
    return entry.command.source if isinstance(entry.command, SendMessage) else None


def _received(entry: Entry, item: DigestItem) -> datetime:
    return max(entry.queued_at, item.created_at)
