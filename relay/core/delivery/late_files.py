"""Files that did not come in time: named in words where they belong, fetched meanwhile, and sent when they come."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile

import structlog

from relay.core.delivery.resolve import Context, Task
from relay.core.ports import Clock
from relay.core.status.counters import Status
from relay.core.storage import Copy, Entry, UnitOfWork
from relay.domain.commands import LateFile
from relay.domain.content import Content
from relay.domain.ids import MessageRef
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.errors import FileRejected, FileUnavailable, NotYet, TargetGone

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 2.0
_GIVEN_UP_AFTER = 7200.0
_LEAST_SECONDS = 60.0
"""In each life of the process: the time of day may have jumped, or the process have been away."""

_MOST = 1_000
"""Entries of a lane that are looked through at once."""

_MOST_FILES = 50
"""Files that are looked for at once."""


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
        self._given_up_at: dict[tuple[MessageRef, str], float] = {}
        self._last_looked_for: dict[LaneKey, int] = {}

    async def fetch(self, entry: Entry, late: LateFile) -> None:
        """See whether the file has come, or another one that waits behind it.

        Raises `NotYet` where nothing has changed, and nobody else waits behind them.
        """
        async with self._context.store.read() as uow:
            waiting = await uow.outbox.waiting(entry.lane, _MOST)
        if await self._look(entry, late, wait=_LOOK_SECONDS):
            return
        behind = [other for other in waiting if other.id != entry.id]
        for other in self._some(entry.lane, behind):
            if isinstance(other.command, LateFile):
                # It is out of the lane then; whoever has read the lane has to read it again.
                await self._look(other, other.command, wait=0)
        self._wake(entry.lane)
        in_front = list(takewhile(lambda other: isinstance(other.command, LateFile), behind))
        if len(waiting) == _MOST:
            in_front = in_front[:_MOST_FILES]  # what is behind all of these has to be seen as well
        elif len(in_front) == len(behind):
            raise NotYet("a file has not come")
        async with self._context.store.write() as uow:
            for other in (entry, *in_front):
                if isinstance(other.command, LateFile) and await uow.outbox.waits(other.id):
                    await uow.outbox.append(entry.lane, other.command, self._clock.now())
                    await uow.outbox.done(other.id)

    def _some(self, lane: LaneKey, behind: Sequence[Entry]) -> Sequence[Entry]:
        """The files to look for now: all of them in turn, some each time."""
        files = [other for other in behind if isinstance(other.command, LateFile)]
        last = self._last_looked_for.get(lane, 0)
        some = [other for other in files if other.id > last][:_MOST_FILES] or files[:_MOST_FILES]
        self._last_looked_for[lane] = some[-1].id if some else 0
        return some

    async def _look(self, entry: Entry, late: LateFile, *, wait: float) -> bool:
        """Whether a file need not be looked for any more; then its entry has been taken out of the lane."""
        lane = self._lane_of(entry, late)
        task = await self._context.task_about(entry, late.source, None, suspect=False)
        files = self._context.files
        if files is None or _is_settled(task, late):
            if files is not None:
                files.forget(late.attachment)
            await self._end(entry, late)
            return True
        most = task.adapter.capabilities(task.channel).max_file_size
        here = await files.fetch(late.attachment, channel=task.channel, most=most, wait=wait)
        if here is None and self._clock.monotonic() <= self._deadline(late):
            return False
        if here:
            await self._move(entry, late, lane)
        else:
            _log.warning("late file given up", pair=task.pair.name, direction=lane.direction, since=str(late.since))
            self._status.dropped(lane, "file")
            files.forget(late.attachment)
            await self._end(entry, late)
        return True

    def _lane_of(self, entry: Entry, late: LateFile) -> LaneKey:
        """The lane in which the words of a file's message are edited by now."""
        source, across = late.source.channel, self._context.across(entry.lane.destination)
        if across is not None and self._context.is_replaced(source, LaneKey.within(across)):
            source = across
        return LaneKey(source, entry.lane.destination)

    def _deadline(self, late: LateFile) -> float:
        """When to give a file up: two hours after it was named in words, also if the process was not there for some."""
        if (known := self._given_up_at.get(_key(late))) is not None:
            return known
        waited = (self._clock.now() - late.since).total_seconds()
        left = min(_GIVEN_UP_AFTER, max(_LEAST_SECONDS, _GIVEN_UP_AFTER - waited))
        return self._given_up_at.setdefault(_key(late), self._clock.monotonic() + left)

    async def _end(self, entry: Entry, late: LateFile) -> None:
        self._given_up_at.pop(_key(late), None)
        await self._context.done(entry)

    async def send(self, entry: Entry, late: LateFile, *, suspect: bool) -> None:
        """Post the file behind the words of its message, if that still stands as it was."""
        task = await self._context.task_about(entry, late.source, None, suspect=suspect)
        async with self._context.store.read() as uow:
            # A copy that was written anew may have brought it meanwhile.
            stands = await uow.outbox.waits(entry.id)
        if not stands or _is_settled(task, late) or task.original is None or not task.copies:
            await self._end(entry, late)
            return
        part = task.copies[-1].part + 1
        content = Content(RichText(), (late.attachment,))
        delivery = self._context.delivery(task, late.author, content, "s", part=part, suspect=suspect)
        if task.adapter.capabilities(task.channel).native_replies:
            delivery = replace(delivery, reply_to=task.copies[0].ref)
        try:
            ref = await task.adapter.send(delivery)
        except (FileRejected, FileUnavailable, TargetGone) as error:
            if isinstance(error, FileUnavailable) or (isinstance(error, FileRejected) and error.late):
                await self._move(entry, late, LaneKey.within(task.entry.lane.destination))
                return
            _log.info("late file does not cross", pair=task.pair.name, reason=str(error))
            self._status.dropped(entry.lane, "file")
            await self._end(entry, late)
            return
        async with self._context.store.write() as uow:
            await uow.messages.record_copy(Copy(task.original.id, part, ref))
            await uow.outbox.done(entry.id)
        self._given_up_at.pop(_key(late), None)

    async def _move(self, entry: Entry, late: LateFile, lane: LaneKey) -> None:
        async with self._context.store.write() as uow:
            if not await uow.outbox.waits(entry.id):
                return
            await uow.outbox.append(lane, late, self._clock.now())
            await uow.outbox.done(entry.id)
        self._wake(lane)


async def forget_late(uow: UnitOfWork, task: Task, attachments: set[str]) -> None:
    """These files of a task's message need not follow any more, or are about to be queued anew."""
    if task.original is None:
        return
    lanes = (LaneKey.within(task.entry.lane.destination), task.entry.lane)
    for entry in await uow.outbox.late_files(task.original.ref):
        if isinstance(entry.command, LateFile) and entry.lane in lanes and entry.command.attachment.id in attachments:
            await uow.outbox.done(entry.id)


def _key(late: LateFile) -> tuple[MessageRef, str]:
    return late.source, late.attachment.id


def _is_settled(task: Task, late: LateFile) -> bool:
    """Whether the file is not wanted any more: its message is gone, or was edited, which brings the files by itself."""
    original = task.original
    return original is None or original.deleted or original.edited_at != late.edited_at
