"""The gateway's events about the mirrored channels, kept in order until they are on disk. Only `take` waits.

While the history of a channel is read, its live events are held back. Memory is bounded: where there is no room left,
new messages are dropped, because the history has them, and the channel is marked to be read from the history.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from relay.adapters.discord.gateway.channel_access import ChannelAccess
from relay.domain.events import Feature
from relay.domain.ids import ChannelAddress, ChannelRef
from relay.domain.jsontext import Json
from relay.domain.text.rewrite import weight
from relay.logs import get_logger

_log = get_logger(__name__)

MAX_ACTIVE_THREADS = 100

Kind = Literal["create", "update", "delete", "feature", "leave", "ban", "unban"]

_KINDS: Mapping[str, Kind] = {
    "MESSAGE_CREATE": "create",
    "MESSAGE_UPDATE": "update",
    "MESSAGE_DELETE": "delete",
    "MESSAGE_DELETE_BULK": "delete",
    "MESSAGE_REACTION_ADD": "feature",
    "TYPING_START": "feature",
}
_BANS: Mapping[str, Kind] = {"GUILD_BAN_ADD": "ban", "GUILD_BAN_REMOVE": "unban"}
_FEATURES: Mapping[str, Feature] = {"MESSAGE_REACTION_ADD": "reaction", "TYPING_START": "typing"}


@dataclass(frozen=True, slots=True)
class GatewayEvent:
    """One event about a message or a feature."""

    kind: Kind
    # Where it happened: a channel, or a thread in it.
    channel: str
    data: Json
    # Set for the kind "feature" only.
    feature: Feature | None = None
    # Bytes in memory.
    size: int = field(default=0, compare=False)


@dataclass(slots=True, eq=False)
class ChannelBuffer:
    """One mirrored channel, and the live events that it holds back."""

    address: ChannelAddress
    channel: ChannelRef
    access: ChannelAccess
    # The history is being read; live events wait in `held`.
    behind: bool = True
    # Something was missed since the reading began, so the history has to be read once more.
    read_again: bool = False
    # The history cannot be read for now. This alone does not make the adapter count as not ready.
    stuck: bool = False
    # A list, since an empty deque keeps 760 bytes.
    held: list[GatewayEvent] = field(default_factory=list)
    held_size: int = 0
    # Reads the history.
    task: asyncio.Task[None] | None = None
    # The threads in which somebody wrote, the latest last.
    active_threads: list[str] = field(default_factory=list)

    def thread_is_active(self, thread: str) -> None:
        """Remember that somebody wrote in a thread."""
        if thread in self.active_threads:
            self.active_threads.remove(thread)
        self.active_threads = [*self.active_threads, thread][-MAX_ACTIVE_THREADS:]


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class ChannelBuffers:
    """All mirrored channels, and the one queue of their live events."""

    # The channel of a public thread.
    parent_of: Callable[[str], str | None]
    # The channel of a private thread, in which not everybody may read.
    private_parent_of: Callable[[str], str | None]
    # Called when a channel that was up to date no longer is.
    on_gap: Callable[[], None]
    # Called when a ban or its end was dropped.
    on_lost_ban: Callable[[], None] = lambda: None
    # How many events the queue, and each channel, may hold, and how many bytes they may take.
    queue_limit: int = 10_000
    held_limit: int = 1_000
    queue_size: int = 32 << 20
    held_size: int = 4 << 20
    # Counts what may leave a channel behind, or bring it up to date.
    changes: int = field(init=False, default=0)
    _queued_size: int = field(init=False, default=0)
    _buffers: dict[str, ChannelBuffer] = field(init=False, default_factory=dict)
    _queue: deque[tuple[ChannelBuffer, GatewayEvent]] = field(init=False, default_factory=deque)
    _filled: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __iter__(self) -> Iterator[ChannelBuffer]:
        return iter(self._buffers.values())

    def get(self, channel: str) -> ChannelBuffer | None:
        """The buffer of a mirrored channel."""
        return self._buffers.get(channel)

    def webhook_home(self, channel: str) -> str:
        """The channel whose webhooks post into `channel`: for a thread, its parent."""
        buffer = self._buffers.get(channel)
        return channel if buffer is None or buffer.access.parent is None else buffer.access.parent

    def thread(self, channel: str) -> str | None:
        """`channel` if it is a thread, which requests through a webhook have to name; otherwise None."""
        buffer = self._buffers.get(channel)
        return None if buffer is None or buffer.access.parent is None else channel

    def add(self, buffer: ChannelBuffer) -> None:
        """Keep the events of this channel from now on."""
        self._buffers[buffer.channel.id] = buffer
        self.changes += 1

    def remove(self, buffer: ChannelBuffer) -> None:
        """Keep no events of this channel any longer, and drop those that wait."""
        self._buffers.pop(buffer.channel.id, None)
        self.changes += 1
        if buffer.task is not None:
            buffer.task.cancel()

    def hold(self, is_concerned: Callable[[str], bool]) -> None:
        """Hold back the live events of servers in which something may have been missed: that is read first."""
        for buffer in self._buffers.values():
            if is_concerned(buffer.access.guild):
                buffer.behind = True
                buffer.read_again = True
        self.changes += 1

    def mark_stuck(self, buffer: ChannelBuffer) -> None:
        """The history of a channel cannot be read for now."""
        buffer.stuck = True
        self.changes += 1

    def release(self, buffer: ChannelBuffer) -> bool:
        """Let the live events go, after the history has been read. False if it has to be read again first."""
        if buffer.read_again:
            return False
        buffer.behind = buffer.stuck = False
        self.changes += 1
        self._queue.extend((buffer, event) for event in buffer.held)
        self._queued_size += buffer.held_size
        buffer.held.clear()
        buffer.held_size = 0
        if self._queue:
            self._filled.set()
        return True

    def put(self, name: str, data: Json) -> None:
        """Keep an event of the gateway if it is about a mirrored channel."""
        if name == "GUILD_MEMBER_REMOVE":
            self._put_leave(str(data["guild_id"]), str(data["user"]["id"]))
            return
        if name in _BANS:
            self._put_ban(_BANS[name], str(data["guild_id"]), str(data["user"]["id"]))
            return
        kind = _KINDS.get(name)
        if kind is None:
            return
        channel = str(data["channel_id"])
        buffer = self._buffers.get(channel) or self._buffers.get(self.parent_of(channel) or "")
        if buffer is None:
            buffer = self._buffers.get(self.private_parent_of(channel) or "")
            if buffer is not None and kind == "create":
                self._put(buffer, GatewayEvent("feature", channel, {}, "thread"))
            return
        for event in _events_of(kind, name, channel, data):
            self._put(buffer, event)

    def _put_leave(self, guild: str, user: str) -> None:
        """One event, however many channels of the server are mirrored: a thousand may leave at once."""
        there = [buffer for buffer in self._buffers.values() if buffer.access.guild == guild]
        if there:
            channels = [buffer.channel.id for buffer in there]
            self._put(there[0], GatewayEvent("leave", channels[0], {"user": user, "channels": channels}))

    def _put_ban(self, kind: Kind, guild: str, user: str) -> None:
        """Behind what was said before, in the queue of one channel: bans are the server's."""
        there = next((buffer for buffer in self._buffers.values() if buffer.access.guild == guild), None)
        if there is not None:
            self._put(there, GatewayEvent(kind, there.channel.id, {"guild": guild, "user": user}))

    async def take(self, limit: int) -> list[tuple[ChannelBuffer, GatewayEvent]]:
        """Remove and return the oldest events. Waits for the first one."""
        while not self._queue:
            self._filled.clear()
            await self._filled.wait()
        taken = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        self._queued_size -= sum(event.size for _, event in taken)
        return [(buffer, event) for buffer, event in taken if self._buffers.get(buffer.channel.id) is buffer]

    def _put(self, buffer: ChannelBuffer, event: GatewayEvent) -> None:
        if buffer.behind:
            self._hold(buffer, event)
        else:
            self._enqueue(buffer, event)

    def _enqueue(self, buffer: ChannelBuffer, event: GatewayEvent) -> None:
        if len(self._queue) < self.queue_limit and self._queued_size + event.size <= self.queue_size:
            self._queue.append((buffer, event))
            self._queued_size += event.size
            self._filled.set()
        elif event.kind in {"ban", "unban"}:
            self.on_lost_ban()
        elif event.kind not in {"feature", "leave"}:
            _log.warning("discord queue full", channel=buffer.channel.id)
            buffer.behind = True
            self.changes += 1
            self._hold(buffer, event)
            buffer.read_again = True
            self.on_gap()

    def _hold(self, buffer: ChannelBuffer, event: GatewayEvent) -> None:
        # The history will be read again and has the new messages, so they need not be kept.
        if event.kind == "feature" or (buffer.read_again and event.kind == "create"):
            return
        if self._is_full(buffer, event):
            buffer.read_again = True
            buffer.held = [kept for kept in buffer.held if kept.kind != "create"]
            buffer.held_size = sum(kept.size for kept in buffer.held)
            if event.kind == "create":
                return
        if self._is_full(buffer, event):
            _log.warning("discord too many changes held", channel=buffer.channel.id)
            return
        buffer.held.append(event)
        buffer.held_size += event.size

    def _is_full(self, buffer: ChannelBuffer, event: GatewayEvent) -> bool:
        return len(buffer.held) >= self.held_limit or buffer.held_size + event.size > self.held_size


def _events_of(kind: Kind, name: str, channel: str, data: Json) -> Iterable[GatewayEvent]:
    if name == "MESSAGE_DELETE_BULK":
        return [GatewayEvent("delete", channel, {"id": message, "channel_id": channel}) for message in data["ids"]]
    size = weight(data) if kind in {"create", "update"} else 0
    return [GatewayEvent(kind, channel, data, _FEATURES.get(name), size)]
