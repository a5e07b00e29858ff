"""How a message is cut: into the parts that its channel can carry, the same ones at each try."""

from collections.abc import Callable
from dataclasses import replace

import structlog

from relay.core.convert.degrade import Dropped, all_in_words, degrade, in_words
from relay.core.convert.split import Measure, split
from relay.core.delivery.digests import Batching
from relay.core.delivery.late_files import forget_late
from relay.core.delivery.resolve import Context, Task
from relay.core.ports import Clock
from relay.core.status.counters import Status
from relay.domain.commands import Digest, EditMessage, LateFile, SendMessage
from relay.domain.content import Content
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.domain.text.rewrite import weight
from relay.errors import FileRejected

_log = structlog.get_logger(__name__)


class Parts:
    """Cuts messages, and writes down how where they take several parts: a second try must not cut differently."""

    def __init__(
        self, context: Context, batches: Batching, status: Status, clock: Clock, wake: Callable[[LaneKey], None]
    ) -> None:
        self._context = context
        self._store = context.store
        self._batches = batches
        self._status = status
        self._clock = clock
        self._wake = wake
        self._conversions = context.conversions

    async def of(
        self, task: Task, command: SendMessage | EditMessage, batch: Digest | None = None
    ) -> tuple[Content, ...] | Dropped:
        """The parts of a message, written down if there are several. `batch`: what it stands in with others."""
        if command.parts:
            return await self._planned(task, command)
        content = await self._context.resolved(task, command.content)
        if batch is not None and isinstance(command, EditMessage):
            edit = replace(command, content=content)
            parts = await self._conversions.run(weight(content), self._batches.parts_in, task, batch, edit)
        else:
            parts = await self._cut(task, command, content)
        if not isinstance(parts, Dropped) and len(parts) > 1:
            await self._write_down(task, command, parts)
        return parts

    async def without_file(
        self,
        task: Task,
        command: SendMessage | EditMessage,
        parts: tuple[Content, ...],
        number: int,
        error: FileRejected,
    ) -> tuple[Content, ...]:
        """The parts, with words for the file that part `number` cannot bring."""
        said = self._said_instead(task, parts[number], error)
        limit = task.adapter.capabilities(task.channel).max_text_length
        again = await self._context.conversions.run(weight(said), _cut_again, said, limit, _measure(task, command))
        late = self._late_file(task, command, parts[number], error) if error.late else None
        return await self._write_down(task, command, (*parts[:number], *again, *parts[number + 1 :]), late)

    def _late_file(
        self, task: Task, command: SendMessage | EditMessage, part: Content, error: FileRejected
    ) -> LateFile | None:
        """What brings a file of a part later."""
        attachment = next((one for one in part.attachments if one.id == error.attachment), None)
        if attachment is None or task.original is None:
            return None
        # Where nobody edited the message, the copy is only written anew.
        edited_at = task.original.edited_at and (
            command.edited_at if isinstance(command, EditMessage) else task.original.edited_at
        )
        return LateFile(task.original.ref, command.author, attachment, self._clock.now(), edited_at)

    def _said_instead(self, task: Task, content: Content, error: FileRejected) -> Content:
        """What is said of a file that cannot cross."""
        _log.info("file does not cross", pair=task.pair.name, direction=task.entry.lane.direction, reason=error.reason)
        if not error.late:
            self._status.dropped(task.entry.lane, "file")
        return in_words(content, error.attachment, error.reason, gone=error.gone)

    async def _planned(self, task: Task, command: SendMessage | EditMessage) -> tuple[Content, ...]:
        """The parts as they were planned; those that are still to be sent cut again if the channel takes less now."""
        capabilities = task.adapter.capabilities(task.channel)
        limit, measure = capabilities.max_text_length, _measure(task, command)
        sent, left = command.parts[: len(task.copies)], command.parts[len(task.copies) :]
        if not capabilities.max_attachments:
            left = tuple(all_in_words(part) for part in left)
        cut = await self._context.conversions.run(weight(left), _all_cut_again, left, limit, measure)
        if cut == command.parts[len(task.copies) :]:
            return command.parts
        return await self._write_down(task, command, (*sent, *cut))

    async def _write_down(
        self,
        task: Task,
        command: SendMessage | EditMessage,
        parts: tuple[Content, ...],
        late: LateFile | None = None,
    ) -> tuple[Content, ...]:
        async with self._store.write() as uow:
            await uow.outbox.amend(task.entry.id, replace(command, parts=parts))
            if late is not None:
                await forget_late(uow, task, {late.attachment.id})
                await uow.outbox.append(LaneKey.within(task.entry.lane.destination), late, self._clock.now())
        if late is not None:
            self._wake(LaneKey.within(task.entry.lane.destination))
        # Whoever tries this again has to read it again.
        self._wake(task.entry.lane)
        return parts

    async def _cut(
        self, task: Task, command: SendMessage | EditMessage, content: Content
    ) -> tuple[Content, ...] | Dropped:
        capabilities = task.adapter.capabilities(task.channel)
        quotation = None
        if command.reply_to is not None and (task.reply_to is None or not capabilities.native_replies):
            quotation = await self._batches.quotation(task, command.reply_to, task.reply_to)
        return await self._conversions.run(
            weight(content),
            degrade,
            content,
            author=command.author,
            capabilities=capabilities,
            policy=task.pair.policy,
            measure=_measure(task, command),
            quotation=quotation,
            as_file=True,
        )


def _measure(task: Task, command: SendMessage | EditMessage) -> Measure:
    def measure(text: RichText) -> int:
        return task.adapter.measure(text, command.author)

    return measure


def _all_cut_again(parts: tuple[Content, ...], limit: int, measure: Measure) -> tuple[Content, ...]:
    return tuple(new for part in parts for new in _cut_again(part, limit, measure))


def _cut_again(part: Content, limit: int, measure: Measure) -> tuple[Content, ...]:
    """A part whose text has become too long, as several: its files stay with the first."""
    first, *rest = split(part.text, limit=limit, measure=measure)
    return (replace(part, text=first), *(replace(part, text=text, attachments=()) for text in rest))
