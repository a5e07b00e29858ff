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
from relay.adapters.discord.gateway.guild_cache import Place
from relay.domain.ids import ChannelAddress, ChannelRef
from relay.domain.text.rewrite import weight

_log = structlog.get_logger(__name__)

MOST_THREADS = 100

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
class Item:
    """One event. `channel` is where it happened, which may be a thread; `word` names a feature; `size` in memory."""

    kind: Kind
    channel: str
    data: Mapping[str, Json]
    word: str = ""
    size: int = field(default=0, compare=False)


@dataclass(slots=True, eq=False)
class Feed:
    """One mirrored channel. `behind`: its history is being read, live events wait in `held`.

    `again`: something was missed since the reading began, so that it has to be read once more. `stuck`: reading
    fails for now, which is no reason to call the whole side not ready. `threads`: those in which something was said,
    the latest last, at most `MOST_THREADS`.
    """

    address: ChannelAddress
    channel: ChannelRef
    place: Place
    behind: bool = True
    again: bool = False
    stuck: bool = False
    held: deque[Item] = field(default_factory=deque)
    held_size: int = 0
    task: asyncio.Task[None] | None = None
    threads: list[str] = field(default_factory=list)

    def spoken_in(self, thread: str) -> None:
        """Remember a thread in which something was said."""
        if thread in self.threads:
            self.threads.remove(thread)
        self.threads = [*self.threads, thread][-MOST_THREADS:]


class Feeds:
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
        self._feeds: dict[str, Feed] = {}
        self._queue: deque[tuple[Feed, Item]] = deque()
        self._filled = asyncio.Event()

    def __iter__(self) -> Iterator[Feed]:
        return iter(self._feeds.values())

    def get(self, channel: str) -> Feed | None:
        """The feed of a channel."""
        return self._feeds.get(channel)

    def webhook_home(self, channel: str) -> str:
        """The channel whose webhooks post into `channel`: another one for a thread."""
        feed = self._feeds.get(channel)
        return channel if feed is None or feed.place.parent is None else feed.place.parent

    def thread(self, channel: str) -> str | None:
        """`channel` itself where it is a thread, as requests through a webhook have to name it."""
        feed = self._feeds.get(channel)
        return None if feed is None or feed.place.parent is None else channel

    def add(self, feed: Feed) -> None:
        """Keep this channel's events from now on."""
        self._feeds[feed.channel.id] = feed

    def remove(self, feed: Feed) -> None:
        """Keep no more; what waits is let go, since nobody takes it any more."""
        self._feeds.pop(feed.channel.id, None)
        if feed.task is not None:
            feed.task.cancel()

    def hold_all(self) -> None:
        """A new session: something may have been missed in every channel."""
        for feed in self._feeds.values():
            feed.behind = True
            feed.again = True

    def release(self, feed: Feed) -> bool:
        """The history has been read. False if it has to be read again; else live events flow from now on."""
        if feed.again:
            return False
        feed.behind = feed.stuck = False
        self._queue.extend((feed, item) for item in feed.held)
        self._queued_size += feed.held_size
        feed.held.clear()
        feed.held_size = 0
        if self._queue:
            self._filled.set()
        return True

    def offer(self, event: str, data: Mapping[str, Json]) -> None:
        """Take an event of the gateway, if it is about a mirrored channel."""
        kind = _KINDS.get(event)
        if kind is None:
            return
        channel = str(data["channel_id"])
        feed = self._feeds.get(channel) or self._feeds.get(self._parent_of(channel) or "")
        if feed is None:
            feed = self._feeds.get(self._private_parent_of(channel) or "")
            if feed is not None and kind == "create":
                self._take_in(feed, Item("feature", channel, {}, "thread"))
            return
        for item in _items(kind, event, channel, data):
            self._take_in(feed, item)

    async def take(self, limit: int) -> list[tuple[Feed, Item]]:
        """The oldest events, at least one; waits for it."""
        while not self._queue:
            self._filled.clear()
            await self._filled.wait()
        taken = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        self._queued_size -= sum(item.size for _, item in taken)
        return [(feed, item) for feed, item in taken if self._feeds.get(feed.channel.id) is feed]

    def _take_in(self, feed: Feed, item: Item) -> None:
        if feed.behind:
            self._hold(feed, item)
        else:
            self._enqueue(feed, item)

    def _enqueue(self, feed: Feed, item: Item) -> None:
        if len(self._queue) < self._queue_limit and self._queued_size + item.size <= self._queue_size:
            self._queue.append((feed, item))
            self._queued_size += item.size
            self._filled.set()
        elif item.kind != "feature":
            _log.warning("discord queue full", channel=feed.channel.id)
            feed.behind = True
            self._hold(feed, item)
            feed.again = True
            self._on_gap()

    def _hold(self, feed: Feed, item: Item) -> None:
        # What the history is going to say anyway need not be kept once something has been let go.
        if item.kind == "feature" or (feed.again and item.kind == "create"):
            return
        if self._is_full(feed, item):
            feed.again = True
            feed.held = deque(kept for kept in feed.held if kept.kind != "create")
            feed.held_size = sum(kept.size for kept in feed.held)
            if item.kind == "create":
                return
        if self._is_full(feed, item):
            _log.warning("discord too many changes held", channel=feed.channel.id)
            return
        feed.held.append(item)
        feed.held_size += item.size

    def _is_full(self, feed: Feed, item: Item) -> bool:
        return len(feed.held) >= self._held_limit or feed.held_size + item.size > self._held_size


def _items(kind: Kind, event: str, channel: str, data: Mapping[str, Json]) -> Iterable[Item]:
    if event == "MESSAGE_DELETE_BULK":
        return [Item("delete", channel, {"id": message, "channel_id": channel}) for message in data["ids"]]
    size = weight(data) if kind in {"create", "update"} else 0
    return [Item(kind, channel, data, _FEATURES.get(event, ""), size)]
