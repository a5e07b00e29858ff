"""The live state of the demo, for the page: both sides, what crossed, what was dropped, and how the daemon is."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from relay.demo.copy_tracker import CopyTracker, Entry
from relay.demo.daemon import Counters, DaemonProcess
from relay.demo.sides.base import DIRECTION, ChangeSignal, DisplayedMessage, Side, SideName
from relay.domain.jsontext import Json

if TYPE_CHECKING:
    from collections.abc import Iterator

REASONS = {
    "reaction": "Nobody can react in another person’s name, so reactions stay on their side.",
    "thread": 'This pair has thread_messages = "drop"; both sides are told once for each thread.',
    "empty": "There was nothing in it that can cross.",
    "command": "It was for the relay, which answers where it was asked.",
    "vote": "Votes are counted where they were cast; the result crosses.",
    "typing": "Nobody is shown as typing on the other side.",
    "receipt": "Who has read what stays on its side.",
}
_JOURNAL = 200
_STATUS_SECONDS = 1.0
_SETTLED_SECONDS = 0.15
_PATIENCE_SECONDS = 10.0
_SIDES: tuple[SideName, ...] = ("discord", "matrix")


@dataclass(frozen=True, slots=True)
class _Act:
    """Something that somebody did and that will not cross."""

    side: SideName
    message: str
    what: str  # shown under the message
    words: str  # shown in the journal
    at: float  # by the monotonic clock


class Feed:
    """Reads both sides whenever one of them changed, and sends the differences to the listeners.

    `before`: what the daemon had counted when this began.
    """

    def __init__(
        self, sides: Mapping[SideName, Side], daemon: DaemonProcess, changes: ChangeSignal, before: Counters
    ) -> None:
        self._sides = sides
        self._daemon = daemon
        self._changes = changes
        self._tracker = CopyTracker()
        self._shown: dict[SideName, dict[str, Json]] = {side: {} for side in _SIDES}
        self._journal: deque[Json] = deque(maxlen=_JOURNAL)
        self._listeners: set[asyncio.Queue[tuple[str, Any]]] = set()
        self._counters = self._before = before
        self._acts: dict[tuple[str, str], deque[_Act]] = {}
        self._stays: dict[tuple[SideName, str], tuple[int, int]] = {}
        self._status: Json = {name: {"state": "connecting", "problem": None} for name in _SIDES}
        self._status |= {"median": None, "crossed": 0, "dropped": {}}

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(), name="demo feed")
            group.create_task(self._watch_daemon(), name="demo status")

    @contextmanager
    def listen(self) -> "Iterator[asyncio.Queue[tuple[str, Any]]]":
        """A queue of (event, data), from now on."""
        queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)

    def tell(self, event: str, data: Any) -> None:
        """Tell every listener."""
        for queue in self._listeners:
            queue.put_nowait((event, data))

    def now(self) -> Json:
        """Everything, for a page that has just been opened."""
        messages = {side: sorted(self._shown[side].values(), key=lambda item: int(item["order"])) for side in _SIDES}
        return {"messages": messages, "journal": list(self._journal), "status": self._status}

    # --- The two sides ------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            happened = self._changes.next()
            self._look()
            await happened.wait()

    def _look(self) -> None:
        seen = {side: self._sides[side].seen() for side in _SIDES}
        for side in _SIDES:
            for message in seen[side]:
                self._note_acts(side, message)
        entries = self._tracker.look(seen, time.time() * 1000)
        for side in _SIDES:
            self._show(side, seen[side])
        for entry in entries:
            self._write(entry)
        self._say_status(median=self._tracker.median)

    def _show(self, side: SideName, messages: list[DisplayedMessage]) -> None:
        before = self._shown[side]
        after = {item.id: item.as_json() | {"cross": self._tracker.of(side, item)} for item in messages}
        self._shown[side] = after
        for gone in before.keys() - after.keys():
            self.tell("gone", {"side": side, "id": gone})
        for name, message in after.items():
            if before.get(name) != message:
                self.tell("message", {"side": side, "message": message})

    def _write(self, entry: Entry) -> None:
        self._journal.append(entry.as_json())
        self.tell("journal", entry.as_json())

    def _note_acts(self, side: SideName, message: DisplayedMessage) -> None:
        """Remember what people did that will be dropped, so that the next increase of a counter has its message."""
        reactions = sum(tally.count for tally in message.reactions)
        replies = sum(1 for reply in message.thread or () if reply.kind == "person")
        known_reactions, known_replies = self._stays.get((side, message.id), (0, 0))
        if reactions > known_reactions:
            key = message.reactions[-1].key
            words = f"{key} for {message.author.name}"
            self._act(side, "reaction", message, key, words, reactions - known_reactions)
        if replies > known_replies:
            words = f"{message.thread[-1].author.name}, under {message.author.name}" if message.thread else ""
            self._act(side, "thread", message, "thread", words, replies - known_replies)
        self._stays[side, message.id] = (max(reactions, known_reactions), max(replies, known_replies))

    def _act(self, side: SideName, feature: str, message: DisplayedMessage, what: str, words: str, count: int) -> None:
        act = _Act(side, message.id, what, words, time.monotonic())
        self._acts.setdefault((DIRECTION[side], feature), deque()).extend([act] * count)

    # --- The daemon ---------------------------------------------------------------------------------------

    async def _watch_daemon(self) -> None:
        while True:
            await self._ask_daemon()
            for acts in self._acts.values():
                while acts and time.monotonic() - acts[0].at > _PATIENCE_SECONDS:
                    acts.popleft()
            # What just happened is counted soon; otherwise there is no hurry.
            await asyncio.sleep(_SETTLED_SECONDS if any(self._acts.values()) else _STATUS_SECONDS)

    async def _ask_daemon(self) -> None:
        health = await self._daemon.health()
        try:
            counters = await self._daemon.counters()
        except (aiohttp.ClientError, TimeoutError):
            counters = self._counters
        for (way, feature), count in counters.dropped.items():
            for _ in range(count - self._counters.drops(way, feature)):
                self._drop(way, feature)
        self._counters = counters
        dropped: dict[str, int] = {}
        for (_, feature), count in counters.dropped.items():
            dropped[feature] = dropped.get(feature, 0) + count
        crossed = sum(counters.messages.values()) - sum(self._before.messages.values())
        gone = {"state": "failed", "problem": "the daemon does not answer"}
        sides = {name: health.get(name) or gone for name in _SIDES}
        self._say_status(**sides, crossed=crossed, dropped=dropped)

    def _drop(self, way: str, feature: str) -> None:
        acts = self._acts.get((way, feature))
        why = REASONS.get(feature, "The other side has no such thing.")
        if not acts:
            self._write(Entry(way, feature, "", "dropped", why=why))
            return
        act = acts.popleft()
        self._tracker.dropped(act.side, act.message, act.what)
        self._write(Entry(way, feature, act.words, "dropped", why=why, source=act.message))
        self._changes.notify()

    def _say_status(self, **values: Any) -> None:
        after = self._status | values
        if after != self._status:
            self._status = after
            self.tell("status", after)


async def events(feed: Feed, hello: Json) -> AsyncGenerator[tuple[str, Any]]:
    """The whole state, then each change. After 15 seconds without one an empty event, to detect a lost connection."""
    with feed.listen() as queue:
        yield "hello", feed.now() | hello
        while True:
            try:
                async with asyncio.timeout(15):
                    event = await queue.get()
            except TimeoutError:
                event = ("", None)
            yield event
