"""Files that did not come in time: named in words where they belong, fetched meanwhile, and sent when they come."""

from collections.abc import Callable
from dataclasses import replace

import structlog

from relay.core.context import Context, Task
from relay.core.ports import Clock
from relay.core.status import Status
from relay.core.storage import Copy, Entry, UnitOfWork
from relay.domain.commands import LateFile
from relay.domain.content import Content
from relay.domain.ids import MessageRef
from relay.domain.pair import LaneKey
from relay.domain.richtext import RichText
from relay.errors import FileTrouble, NotYet, TargetGone, Uncarried

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 2.0
_GIVEN_UP_AFTER = 7200.0
"""Seconds of this process's life: the time of day may jump."""

_MOST = 50
"""Entries of a lane among which a late file is looked for."""


class LateFiles:
    """Follows up what was named in words. An entry stands for each file until it has come, so none is lost or doubled.

    While it is being fetched, the entry is in the lane of its channel to itself, where nobody's words wait; once the
    file is at hand, it goes to the end of the lane that crosses, among edits and deletions of the same message. A look
    at what has not come writes nothing: there may be one every few seconds, for hours.
    """

    def __init__(self, context: Context, status: Status, clock: Clock, wake: Callable[[LaneKey], None]) -> None:
        self._context = context
        self._status = status
        self._clock = clock
        self._wake = wake
        self._first_looks: dict[tuple[MessageRef, str], float] = {}

    async def fetch(self, entry: Entry, late: LateFile) -> None:
        """See whether the file has come, or another one that waits behind it.

        Raises `NotYet` where nothing has changed, and nobody else waits behind them.
        """
        async with self._context.store.read() as uow:
            waiting = await uow.outbox.waiting(entry.lane, _MOST)
        if await self._look(entry, late, patience=_LOOK_SECONDS):
            return
        behind = [other for other in waiting if other.id != entry.id]
        for other in behind:
            if isinstance(other.command, LateFile):
                # It is out of the lane then; whoever has read the lane has to read it again.
                await self._look(other, other.command, patience=0)
        self._wake(entry.lane)
        if all(isinstance(other.command, LateFile) for other in behind):
            raise NotYet("a file has not come")
        await self._move(entry, late, entry.lane)

    async def _look(self, entry: Entry, late: LateFile, *, patience: float) -> bool:
        """Whether a file need not be looked for any more; then its entry has been taken out of the lane."""
        lane = LaneKey(late.source.channel, entry.lane.destination)
        task = await self._context.task_about(entry, late.source, None, suspect=False)
        files = self._context.files
        if files is None or _is_settled(task, late):
            await self._end(entry, late)
            return True
        most = task.adapter.capabilities(task.channel).max_file_size
        here = await files.fetch(late.attachment, most=most, patience=patience)
        now = self._clock.monotonic()
        if here is None and now - self._first_looks.setdefault(_key(late), now) <= _GIVEN_UP_AFTER:
            return False
        if here:
            self._first_looks.pop(_key(late), None)
            await self._move(entry, late, lane)
        else:
            _log.warning("late file given up", pair=task.pair.name, direction=lane.direction, since=str(late.since))
            self._status.dropped(lane, "file")
            await self._end(entry, late)
        return True

    async def _end(self, entry: Entry, late: LateFile) -> None:
        self._first_looks.pop(_key(late), None)
        await self._context.done(entry)

    async def send(self, entry: Entry, late: LateFile, *, suspect: bool) -> None:
        """Post the file behind the words of its message, if that still stands as it was."""
        task = await self._context.task_about(entry, late.source, None, suspect=suspect)
        async with self._context.store.read() as uow:
            stands = await _stands(uow, entry)
        if not stands or _is_settled(task, late) or task.original is None or not task.copies:
            await self._context.done(entry)
            return
        part = task.copies[-1].part + 1
        content = Content(RichText(), (late.attachment,))
        delivery = self._context.delivery(task, late.author, content, "s", part=part, suspect=suspect)
        if task.adapter.capabilities(task.channel).native_replies:
            delivery = replace(delivery, reply_to=task.copies[0].ref)
        try:
            ref = await task.adapter.send(delivery)
        except (Uncarried, FileTrouble, TargetGone) as error:
            if isinstance(error, FileTrouble) or (isinstance(error, Uncarried) and error.late):
                await self._move(entry, late, LaneKey.within(task.channel))
                return
            _log.info("late file does not cross", pair=task.pair.name, reason=str(error))
            self._status.dropped(entry.lane, "file")
            await self._context.done(entry)
            return
        async with self._context.store.write() as uow:
            await uow.messages.record_copy(Copy(task.original.id, part, ref))
            await uow.outbox.done(entry.id)

    async def _move(self, entry: Entry, late: LateFile, lane: LaneKey) -> None:
        async with self._context.store.write() as uow:
            if not await _stands(uow, entry):
                return
            await uow.outbox.append(lane, late, self._clock.now())
            await uow.outbox.done(entry.id)
        self._wake(lane)


async def forget_late(uow: UnitOfWork, task: Task, attachments: set[str]) -> None:
    """These files of a task's message need not follow any more, or are about to be queued anew."""
    for lane in (LaneKey.within(task.channel), task.entry.lane):
        for entry in await uow.outbox.waiting(lane, _MOST):
            late = entry.command
            if not isinstance(late, LateFile) or task.original is None or late.source != task.original.ref:
                continue
            if late.attachment.id in attachments:
                await uow.outbox.done(entry.id)


async def _stands(uow: UnitOfWork, entry: Entry) -> bool:
    """Whether an entry still waits: a copy that was written anew may have brought its file meanwhile."""
    return any(other.id == entry.id for other in await uow.outbox.waiting(entry.lane, _MOST))


def _key(late: LateFile) -> tuple[MessageRef, str]:
    return late.source, late.attachment.id


def _is_settled(task: Task, late: LateFile) -> bool:
    """Whether the file is not wanted any more: its message is gone, or was edited, which brings the files by itself."""
    original = task.original
    return original is None or original.deleted or original.edited_at != late.edited_at
