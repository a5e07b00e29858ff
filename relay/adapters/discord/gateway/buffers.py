"""What the gateway says about the mirrored channels, kept in order until it is on disk. Synchronous but for `take`.

A channel whose history has to be read first holds its live events back meanwhile. Memory is bounded: where there is
no room left, new messages are let go, because the history has them, and the channel is marked to be read from there.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import structlog

from relay.adapters.discord.api.client import Json
from relay.adapters.discord.gateway.guild_cache import ChannelAccess
from relay.domain.ids import ChannelAddress, ChannelRef
from relay.domain.text.rewrite import weight

_log = structlog.get_logger(__name__)

MAX_ACTIVE_THREADS = 100

Kind = Literal["create", "update", "delete", "feature"]

_KINDS: Mapping[str, Kind] = {
    "MESSAGE_CREATE": "create",
    "MESSAGE_UPDATE": "update",
    "MESSAGE_DELETE": "delete",
    "MESSAGE_DELETE_BULK": "delete",
    "MESSAGE_REACTION_ADD": "feature",
    "TYPING_START": "feature",
}
_FEATURES = {"MESSAGE_REACTION_ADD": "reaction", "TYPING_START": "typing"}


@dataclass(frozen=True, slots=True)
class GatewayEvent:
    """One event. `channel` is where it happened, which may be a thread; `word` names a feature; `size` in memory."""

    kind: Kind
    channel: str
    data: Mapping[str, Json]
    word: str = ""
    size: int = field(default=0, compare=False)


@dataclass(slots=True, eq=False)
class ChannelBuffer:
    """One mirrored channel. `behind`: its history is being read, live events wait in `held`.

    `again`: something was missed since the reading began, so that it has to be read once more. `stuck`: reading
    fails for now, which is no reason to call the whole side not ready. `threads`: those in which something was said,
    the latest last, at most `MAX_ACTIVE_THREADS`.
    """

    address: ChannelAddress
    channel: ChannelRef
    access: ChannelAccess
    behind: bool = True
    again: bool = False
    stuck: bool = False
    held: deque[GatewayEvent] = field(default_factory=deque)
    held_size: int = 0
    task: asyncio.Task[None] | None = None
    threads: list[str] = field(default_factory=list)

    def spoken_in(self, thread: str) -> None:
        """Remember a thread in which something was said."""
        if thread in self.threads:
            self.threads.remove(thread)
        self.threads = [*self.threads, thread][-MAX_ACTIVE_THREADS:]


class ChannelBuffers:
    """All mirrored channels, and the one queue of their live events.

    `parent_of`, `private_parent_of`: the channel of a thread that everybody may read, of one that not everybody may.
    `queue_limit`, `held_limit`: events that wait at most, in the queue and per channel; `queue_size`, `held_size`: how
    many bytes of them. `on_gap` is called when a channel that was up to date no longer is.
    """

    def __init__(
        self,
        *,
        parent_of: Callable[[str], str | None],
        private_parent_of: Callable[[str], str | None],
        on_gap: Callable[[], None],
        queue_limit: int = 10_000,
        held_limit: int = 1_000,
        queue_size: int = 32 << 20,
        held_size: int = 4 << 20,
    ) -> None:
        self._parent_of = parent_of
        self._private_parent_of = private_parent_of
        self._on_gap = on_gap
        self._queue_limit = queue_limit
        self._held_limit = held_limit
        self._queue_size = queue_size
        self._held_size = held_size
        self._queued_size = 0
        self._buffers: dict[str, ChannelBuffer] = {}
        self._queue: deque[tuple[ChannelBuffer, GatewayEvent]] = deque()
        self._filled = asyncio.Event()

    def __iter__(self) -> Iterator[ChannelBuffer]:
        return iter(self._buffers.values())

    def get(self, channel: str) -> ChannelBuffer | None:
        """The feed of a channel."""
        return self._buffers.get(channel)

    def webhook_home(self, channel: str) -> str:
        """The channel whose webhooks post into `channel`: another one for a thread."""
        buffer = self._buffers.get(channel)
        return channel if buffer is None or buffer.access.parent is None else buffer.access.parent

    def thread(self, channel: str) -> str | None:
        """`channel` itself where it is a thread, as requests through a webhook have to name it."""
        buffer = self._buffers.get(channel)
        return None if buffer is None or buffer.access.parent is None else channel

    def add(self, buffer: ChannelBuffer) -> None:
        """Keep this channel's events from now on."""
        self._buffers[buffer.channel.id] = buffer

    def remove(self, buffer: ChannelBuffer) -> None:
        """Keep no more; what waits is let go, since nobody takes it any more."""
        self._buffers.pop(buffer.channel.id, None)
        if buffer.task is not None:
            buffer.task.cancel()

    def hold_all(self) -> None:
        """A new session: something may have been missed in every channel."""
        for buffer in self._buffers.values():
            buffer.behind = True
            buffer.again = True

    def release(self, buffer: ChannelBuffer) -> bool:
        """The history has been read. False if it has to be read again; else live events flow from now on."""
        if buffer.again:
            return False
        buffer.behind = buffer.stuck = False
        self._queue.extend((buffer, item) for item in buffer.held)
        self._queued_size += buffer.held_size
        buffer.held.clear()
        buffer.held_size = 0
        if self._queue:
            self._filled.set()
        return True

    def offer(self, event: str, data: Mapping[str, Json]) -> None:
        """Take an event of the gateway, if it is about a mirrored channel."""
        kind = _KINDS.get(event)
        if kind is None:
            return
        channel = str(data["channel_id"])
        buffer = self._buffers.get(channel) or self._buffers.get(self._parent_of(channel) or "")
        if buffer is None:
            buffer = self._buffers.get(self._private_parent_of(channel) or "")
            if buffer is not None and kind == "create":
                self._take_in(buffer, GatewayEvent("feature", channel, {}, "thread"))
            return
        for item in _events_of(kind, event, channel, data):
            self._take_in(buffer, item)

    async def take(self, limit: int) -> list[tuple[ChannelBuffer, GatewayEvent]]:
        """The oldest events, at least one; waits for it."""
        while not self._queue:
            self._filled.clear()
            await self._filled.wait()
        taken = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        self._queued_size -= sum(item.size for _, item in taken)
        return [(buffer, item) for buffer, item in taken if self._buffers.get(buffer.channel.id) is buffer]

    def _take_in(self, buffer: ChannelBuffer, item: GatewayEvent) -> None:
        if buffer.behind:
            self._hold(buffer, item)
        else:
            self._enqueue(buffer, item)

    def _enqueue(self, buffer: ChannelBuffer, item: GatewayEvent) -> None:
        if len(self._queue) < self._queue_limit and self._queued_size + item.size <= self._queue_size:
            self._queue.append((buffer, item))
            self._queued_size += item.size
            self._filled.set()
        elif item.kind != "feature":
            _log.warning("discord queue full", channel=buffer.channel.id)
            buffer.behind = True
            self._hold(buffer, item)
            buffer.again = True
            self._on_gap()

    def _hold(self, buffer: ChannelBuffer, item: GatewayEvent) -> None:
        # What the history is going to say anyway need not be kept once something has been let go.
        if item.kind == "feature" or (buffer.again and item.kind == "create"):
            return
        if self._is_full(buffer, item):
            buffer.again = True
            buffer.held = deque(kept for kept in buffer.held if kept.kind != "create")
            buffer.held_size = sum(kept.size for kept in buffer.held)
            if item.kind == "create":
                return
        if self._is_full(buffer, item):
            _log.warning("discord too many changes held", channel=buffer.channel.id)
            return
        buffer.held.append(item)
        buffer.held_size += item.size

    def _is_full(self, buffer: ChannelBuffer, item: GatewayEvent) -> bool:
        return len(buffer.held) >= self._held_limit or buffer.held_size + item.size > self._held_size


def _events_of(kind: Kind, event: str, channel: str, data: Mapping[str, Json]) -> Iterable[GatewayEvent]:
    if event == "MESSAGE_DELETE_BULK":
        return [GatewayEvent("delete", channel, {"id": message, "channel_id": channel}) for message in data["ids"]]
    size = weight(data) if kind in {"create", "update"} else 0
    return [GatewayEvent(kind, channel, data, _FEATURES.get(event, ""), size)]
