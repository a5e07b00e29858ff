"""What the relay says in its own name: notices, and word to an author whose message did not cross."""

from dataclasses import replace

import structlog

from relay.core.context import Context, Task
from relay.core.storage import Entry
from relay.domain.commands import MarkFailed, PostNotice
from relay.domain.content import Content
from relay.domain.ids import ThreadRef
from relay.domain.richtext import RichText
from relay.errors import TargetGone

_log = structlog.get_logger(__name__)


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

    async def _say(self, task: Task, words: RichText, verb: str, thread: ThreadRef | None = None) -> None:
        content = Content(words, style="notice")
        delivery = self._context.delivery(task, None, content, verb, suspect=task.suspect)
        await task.adapter.send(replace(delivery, thread=thread))
