"""Files that did not come in time: named in words where they belong, fetched meanwhile, and sent when they come."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import structlog

from relay.core.context import Context, Task
from relay.core.ports import Clock
from relay.core.status import Status
from relay.core.storage import Copy, Entry
from relay.domain.commands import LateFile
from relay.domain.content import Content
from relay.domain.pair import LaneKey
from relay.domain.richtext import RichText
from relay.errors import FileTrouble, TargetGone, Uncarried

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 2.0
_GIVEN_UP_AFTER = timedelta(hours=2)


class LateFiles:
    """Follows up what was named in words. An entry stands for each file until it has come, so none is lost or doubled.

    While it is being fetched, the entry is in the lane of its channel to itself, where nobody's words wait; once the
    file is at hand, it goes to the end of the lane that crosses, among edits and deletions of the same message.
    """

    def __init__(self, context: Context, status: Status, clock: Clock, wake: Callable[[LaneKey], None]) -> None:
        self._context = context
        self._status = status
        self._clock = clock
        self._wake = wake

    async def fetch(self, entry: Entry, late: LateFile) -> None:
        """See whether the file has come; if not, look again later."""
        lane = LaneKey(late.source.channel, entry.lane.destination)
        task = await self._context.task_about(entry, late.source, None, suspect=False)
        files = self._context.files
        if files is None or _is_settled(task, late):
            await self._context.done(entry)
            return
        most = task.adapter.capabilities(task.channel).max_file_size
        here = await files.fetch(late.attachment, most=most, patience=_LOOK_SECONDS)
        if here is None and self._clock.now() - late.since > _GIVEN_UP_AFTER:
            here = False
        if here is False:
            _log.warning("late file given up", pair=task.pair.name, direction=lane.direction)
            self._status.dropped(lane, "file")
            await self._context.done(entry)
            return
        await self._move(entry, late, lane if here else entry.lane)

    async def send(self, entry: Entry, late: LateFile, *, suspect: bool) -> None:
        """Post the file behind the words of its message, if that still stands as it was."""
        task = await self._context.task_about(entry, late.source, None, suspect=suspect)
        if _is_settled(task, late) or task.original is None or not task.copies:
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
            await uow.outbox.append(lane, late, self._clock.now())
            await uow.outbox.done(entry.id)
        self._wake(lane)


def _is_settled(task: Task, late: LateFile) -> bool:
    """Whether the file is not wanted any more: its message is gone, or was edited, which brings the files by itself."""
    original = task.original
    return original is None or original.deleted or original.edited_at != late.edited_at
