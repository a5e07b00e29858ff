"""The messages seen last, so that quoting, editing and marking them needs no request.

Limited by the memory that they take, not only by their number: a message in dense markup takes a hundred times as much
as a plain one.
"""

from collections import OrderedDict
from dataclasses import dataclass, field, replace

from relay.domain.content import Content
from relay.domain.text.rewrite import weight


@dataclass(frozen=True, slots=True)
class CachedMessage:
    """What is known of one message."""

    # Where it really is: the thread's own ID for a message in a thread.
    channel: str
    # The name that is shown.
    author: str
    # The ID of the user or bot that posted it; of the webhook, for a webhook's message.
    user: str
    # The ID of the webhook that posted it.
    webhook: str | None
    content: Content


@dataclass(slots=True)
class MessageCache:
    """The last messages by ID."""

    # How many messages, and how many bytes they may take together.
    limit: int = 2_000
    memory: int = 8 * 1024 * 1024
    # Bytes that they take now.
    size: int = field(init=False, default=0)
    _messages: OrderedDict[str, tuple[CachedMessage, int]] = field(init=False, default_factory=OrderedDict)
    _deleted_by_us: dict[str, None] = field(init=False, default_factory=dict)

    def put(self, message_id: str, message: CachedMessage) -> None:
        """Remember a message, or what it says now. Texts that became files are left out, because they are long."""
        if any(attachment.text for attachment in message.content.attachments):
            short = tuple(replace(attachment, text="") for attachment in message.content.attachments)
            message = replace(message, content=replace(message.content, attachments=short))
        self.forget(message_id)
        size = weight(message)
        self._messages[message_id] = message, size
        self.size += size
        while len(self._messages) > self.limit or self.size > self.memory:
            self.forget(next(iter(self._messages)))

    def get(self, message: str) -> CachedMessage | None:
        """A message, if it is remembered."""
        known = self._messages.get(message)
        return None if known is None else known[0]

    def mark_deleted_by_us(self, message: str) -> None:
        """Remember that we are about to delete a message: Discord tells that it is gone, but not who deleted it."""
        self._deleted_by_us[message] = None
        if len(self._deleted_by_us) > self.limit:
            self._deleted_by_us.pop(next(iter(self._deleted_by_us)))

    def unmark_deleted_by_us(self, message: str) -> None:
        """Forget that: we could not delete it."""
        self._deleted_by_us.pop(message, None)

    def is_deleted_by_us(self, message: str) -> bool:
        """Whether we deleted a message ourselves."""
        return message in self._deleted_by_us

    def forget(self, message: str) -> None:
        """Drop a message that is gone."""
        known = self._messages.pop(message, None)
        if known is not None:
            self.size -= known[1]
