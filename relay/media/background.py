"""Late files, fetched in the background: a few at a time, and no channel or server keeps the others from their turn."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import structlog

from relay.core.convert.degrade import human_size
from relay.core.offload import TemporaryFile
from relay.core.ports import Clock, MediaSource
from relay.domain.content import Attachment
from relay.domain.ids import ChannelRef, MediaRef, Platform
from relay.errors import DeliveryError, FileRejected, FileUnavailable, Permanent, TargetGone
from relay.media.deadlines import server

_log = structlog.get_logger(__name__)

# On disk, for a file that may be as large as it likes.
_MOST_BYTES = 1024 * 1024 * 1024
_MOST_TURNS = 8
# Fetched, and not yet taken: they lie on disk.
_MOST_READY = 8
_TRY_SECONDS = 900.0
# Of a try, while others wait for a turn.
_TURN_SECONDS = 60.0
_PAUSES = (0.0, 5.0, 15.0, 30.0, 60.0, 120.0, 240.0, 480.0)


@dataclass(slots=True, eq=False)
class _Turn:
    """One try, for a channel, from a server. `end`: when it is over at the latest, once it has begun."""

    channel: ChannelRef
    server: str
    begin: asyncio.Event = field(default_factory=asyncio.Event)
    begun: float = 0.0
    end: asyncio.Timeout | None = None


class _Turns:
    """Who may fetch now: whose channel and server have the fewest turns, and whose channel has waited longest."""

    def __init__(self) -> None:
        self._running: list[_Turn] = []
        self._waiting: list[_Turn] = []
        self._number = count(1)
        self._last: OrderedDict[ChannelRef, int] = OrderedDict()

    @asynccontextmanager
    async def turn(self, channel: ChannelRef, server: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it. Raises `TimeoutError` when it is over, sooner where others wait."""
        turn = _Turn(channel, server)
        self._waiting.append(turn)
        try:
            self._give()
            await turn.begin.wait()
            async with asyncio.timeout(_TRY_SECONDS) as turn.end:
                self._hurry()
                yield
        finally:
            (self._running if turn in self._running else self._waiting).remove(turn)
            self._give()

    def _give(self) -> None:
        while self._waiting and len(self._running) < _MOST_TURNS:
            channels = Counter(turn.channel for turn in self._running)
            servers = Counter(turn.server for turn in self._running)
            turn = min(
                self._waiting,
                key=lambda turn: (channels[turn.channel], servers[turn.server], self._last.get(turn.channel, 0)),
            )
            self._waiting.remove(turn)
            self._running.append(turn)
            self._last[turn.channel] = next(self._number)
            self._last.move_to_end(turn.channel)
            if len(self._last) > 4 * _MOST_TURNS:
                self._last.popitem(last=False)
            turn.begun = asyncio.get_running_loop().time()
            turn.begin.set()
        self._hurry()

    def _hurry(self) -> None:
        """Let those that have had theirs for long make room."""
        if not self._waiting:
            return
        now = asyncio.get_running_loop().time()
        for turn in self._running:
            soon = max(now, turn.begun + _TURN_SECONDS)
            if turn.end is not None and not turn.end.expired() and (turn.end.when() or soon) > soon:
                turn.end.reschedule(soon)


class Fetches:
    """What is being fetched, and what has been."""

    def __init__(self, clock: Clock, sources: Mapping[Platform, MediaSource]) -> None:
        self._clock = clock
        self._sources = sources
        self._turns = _Turns()
        # By how large it may be: what is too large for one channel is not for another.
        self._tasks: OrderedDict[MediaRef, dict[int, asyncio.Task[TemporaryFile | None]]] = OrderedDict()

    async def fetch(self, attachment: Attachment, *, channel: ChannelRef, most: int, patience: float) -> bool | None:
        """See `Files.fetch`."""
        source = attachment.source
        if self.at_hand(source) is not None:
            return True
        task = self._tasks.get(source, {}).get(most)
        if task is None:
            self._let_go()
            task = asyncio.create_task(self._fetched(attachment, channel, most), name="late file")
            self._tasks.setdefault(source, {})[most] = task
        await asyncio.wait([task], timeout=patience)
        if not task.done() or task.cancelled():
            return None
        if task.result() is None:
            tasks = self._tasks.get(source, {})
            if tasks.get(most) is task:
                del tasks[most]
                if not tasks:
                    del self._tasks[source]
            return False
        return True

    def at_hand(self, source: MediaRef) -> TemporaryFile | None:
        """A file that has come."""
        return next(iter(self._spools(source)), None)

    def drop(self, source: MediaRef) -> None:
        """Forget a file, and stop fetching it."""
        for spool in self._spools(source):
            spool.close()
        for task in self._tasks.pop(source, {}).values():
            task.cancel()

    async def close(self) -> None:
        """Stop fetching, and let go of what has been fetched: it is fetched again in the next life."""
        running = [task for tasks in self._tasks.values() for task in tasks.values() if not task.done()]
        for source in list(self._tasks):
            self.drop(source)
        if running:
            await asyncio.wait(running)

    def _spools(self, source: MediaRef) -> list[TemporaryFile]:
        done = [task for task in self._tasks.get(source, {}).values() if task.done() and not task.cancelled()]
        return [spool for task in done if (spool := task.result()) is not None]

    def _let_go(self) -> None:
        """Make room among what has been fetched and nobody came for."""
        ready = [source for source in self._tasks if self.at_hand(source) is not None]
        for source in ready[: max(0, len(ready) - _MOST_READY + 1)]:
            self.drop(source)

    async def _fetched(self, attachment: Attachment, channel: ChannelRef, most: int) -> TemporaryFile | None:
        """A file on disk, however slowly it comes; None if it does not."""
        for pause in _PAUSES:
            await self._clock.sleep(pause)
            try:
                async with self._turns.turn(channel, server(attachment.source)):
                    return await self._whole(attachment, most)
            except (TargetGone, Permanent, FileRejected) as error:
                _log.info("late file is not to be had", reason=str(error))
                return None
            except (DeliveryError, TimeoutError) as error:
                _log.info("late file does not come yet", reason=str(error) or "it takes too long")
        return None

    async def _whole(self, attachment: Attachment, most: int) -> TemporaryFile:
        platform = attachment.source.platform
        if platform not in self._sources:
            raise TargetGone("nobody has such files")
        async with AsyncExitStack() as stack:
            stream = await stack.enter_async_context(self._sources[platform].open_media(attachment.source))
            return await spooled(stream.chunks, attachment, most=most, size=stream.size)


async def spooled(
    chunks: AsyncIterator[bytes], attachment: Attachment, *, most: int, size: int | None = None
) -> TemporaryFile:
    """All of a file, on disk. Raises `FileRejected` over `most` bytes, `FileUnavailable` if not `size`."""
    most = min(most, _MOST_BYTES)
    if size is not None and size > most:
        raise too_large(attachment, size)
    spool = TemporaryFile()
    try:
        async for chunk in chunks:
            if spool.size + len(chunk) > most:
                raise FileRejected(attachment.id, f"larger than {human_size(most)}, too large to cross")
            await spool.write(chunk)
        if size not in (None, spool.size):
            raise FileUnavailable("the file is not as long as it was said to be")
    except BaseException:
        spool.close()
        raise
    return spool


def too_large(attachment: Attachment, size: int) -> FileRejected:
    """Why a file of `size` bytes does not cross."""
    # Where its size was known beforehand, the words say it anyway.
    said = "" if attachment.size == size else f"{human_size(size)}, "
    return FileRejected(attachment.id, f"{said}too large to cross")
