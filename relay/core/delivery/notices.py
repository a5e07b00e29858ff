"""What the relay says in its own name: notices, and word to an author whose message did not cross."""

from collections import Counter
from dataclasses import replace

import structlog

from relay.core.delivery.resolve import Context, Task
from relay.core.storage import Entry, Unreadable
from relay.domain.commands import MarkFailed, PostNotice
from relay.domain.content import Content
from relay.domain.ids import ThreadRef
from relay.domain.text.nodes import RichText
from relay.errors import TargetGone

_log = structlog.get_logger(__name__)


_MOST_TOGETHER = 500
_FEW_MARKS = 4
"""Fewer marks are made one by one: whoever wrote the message sees it at the message."""

_MOST_REASONS = 3


class Notes:
    """Posts notices and marks."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def post(self, entry: Entry, notice: PostNotice, *, suspect: bool) -> None:
        """Post a notice. One whose thread is gone is done."""
        task = await self._context.task(entry, suspect=suspect)
        try:
            await self._say(task, notice.text, "n", notice.thread)
        except TargetGone:
            _log.info("notice has no place any more", pair=task.pair.name, direction=entry.lane.direction)
        await self._context.done(entry)

    async def mark_failed(self, entry: Entry, failed: MarkFailed, *, suspect: bool) -> None:
        """Let an author see that a message did not cross: by a reaction, or in words where that is not possible."""
        task = await self._context.task(entry, suspect=suspect)
        try:
            if not await task.adapter.mark_failed(failed.source, failed.reason):
                words = RichText.plain(f"This message did not cross: {failed.reason}.")
                await self._say(replace(task, reply_to=failed.source), words, "f")
        except TargetGone:
            _log.info("a message that did not cross is gone", pair=task.pair.name, direction=entry.lane.direction)
        await self._context.done(entry)

    async def gathered(self, entry: Entry) -> Entry | None:
        """The entry as one note for all that wait behind it and say the same; None if it stays as it is.

        One transaction makes it so, like a batch: every try says the same.
        """
        if isinstance(entry.command, Unreadable):
            return None
        async with self._context.store.read() as uow:
            waiting = await uow.outbox.waiting(entry.lane, _MOST_TOGETHER)
        alike = [other for other in waiting if _alike(entry, other)]
        few = _FEW_MARKS if isinstance(entry.command, MarkFailed) else 2
        if len(alike) < few or all(other.id != entry.id for other in alike):
            return None
        reasons = Counter(other.command.reason for other in alike if isinstance(other.command, MarkFailed))
        command = PostNotice(_many_failed(reasons)) if reasons else entry.command
        async with self._context.store.write() as uow:
            await uow.outbox.amend(entry.id, command)
            for other in alike:
                if other.id != entry.id:
                    await uow.outbox.done(other.id)
        _log.info("notes put together", direction=entry.lane.direction, notes=len(alike))
        return replace(entry, command=command)

    async def _say(self, task: Task, words: RichText, verb: str, thread: ThreadRef | None = None) -> None:
        content = Content(words, style="notice")
        delivery = self._context.delivery(task, None, content, verb, suspect=task.suspect)
        await task.adapter.send(replace(delivery, thread=thread))


def _alike(entry: Entry, other: Entry) -> bool:
    """Whether two entries can be one note: both marks, or notices of the same words outside of threads."""
    if isinstance(entry.command, MarkFailed):
        return isinstance(other.command, MarkFailed)
    return isinstance(entry.command, PostNotice) and entry.command.thread is None and other.command == entry.command


def _many_failed(reasons: Counter[str]) -> RichText:
    named = [f"{reason} ({count})" for reason, count in reasons.most_common(_MOST_REASONS)]
    more = "" if len(reasons) <= _MOST_REASONS else "; and for other reasons"
    return RichText.plain(f"{reasons.total()} messages here did not cross: {'; '.join(named)}{more}.")
