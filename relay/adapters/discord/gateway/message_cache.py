"""What is remembered of the messages seen last, so that quoting, editing and marking them needs no request.

Bounded by what it takes in memory, not only by number: a message in dense markup takes a hundred times a plain one.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace

from relay.domain.content import Content
from relay.domain.text.rewrite import weight


@dataclass(frozen=True, slots=True)
class CachedMessage:
    """One message. `channel` is where it really is (a thread's own ID inside a thread); `author` its shown name.

    `webhook` is the ID of the webhook that posted it, None for a user or bot, whose ID is `user` then.
    """

    channel: str
    author: str
    user: str
    webhook: str | None
    content: Content


class MessageCache:
    """The last `limit` messages by ID, or fewer where those take `memory` bytes."""

    def __init__(self, limit: int = 2_000, memory: int = 8 * 1024 * 1024) -> None:
        self._limit = limit
        self._memory = memory
        self._seen: OrderedDict[str, tuple[CachedMessage, int]] = OrderedDict()
        self._removed: dict[str, None] = {}
        self.held = 0

    def put(self, message: str, seen: CachedMessage) -> None:
        """Remember a message, or what it says now; not the texts that were written out as files, which are long."""
        if any(attachment.text for attachment in seen.content.attachments):
            short = tuple(replace(attachment, text="") for attachment in seen.content.attachments)
            seen = replace(seen, content=replace(seen.content, attachments=short))
        self.forget(message)
        size = weight(seen)
        self._seen[message] = seen, size
        self.held += size
        while len(self._seen) > self._limit or self.held > self._memory:
            self.forget(next(iter(self._seen)))

    def get(self, message: str) -> CachedMessage | None:
        """A message, if it is remembered."""
        known = self._seen.get(message)
        return None if known is None else known[0]

    def removing(self, message: str) -> None:
        """We are about to remove a message: Discord tells that it is gone, but not by whom."""
        self._removed[message] = None
        if len(self._removed) > self._limit:
            self._removed.pop(next(iter(self._removed)))

    def not_removed(self, message: str) -> None:
        """We could not remove it."""
        self._removed.pop(message, None)

    def removed(self, message: str) -> bool:
        """Whether it was us who removed a message."""
        return message in self._removed

    def forget(self, message: str) -> None:
        """The message is gone."""
        known = self._seen.pop(message, None)
        if known is not None:
            self.held -= known[1]
