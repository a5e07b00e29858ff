"""Late files, fetched in the background: a few at a time, in turns that are fair between channels and servers."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from relay.core.convert.degrade import human_size
from relay.core.files import MediaSource
from relay.core.offload import TemporaryFile
from relay.core.ports import Clock
from relay.core.recent import keep
from relay.domain.content import Attachment
from relay.domain.ids import ChannelRef, MediaRef, Platform
from relay.errors import DeliveryError, FileRejected, FileUnavailable, Permanent, TargetGone
from relay.logs import get_logger
from relay.media.deadlines import server

_log = get_logger(__name__)

# On disk, for a file without another limit.
_MOST_BYTES = 1024 * 1024 * 1024
_MOST_TURNS = 8
# Files that are fetched and not yet used. They are on disk.
_MOST_READY = 8
_TRY_SECONDS = 900.0
# How long one try may last while others wait for a turn.
_TURN_SECONDS = 60.0
# Before the first try, the second, …
_PAUSES = (0.0, 5.0, 15.0, 30.0, 60.0, 120.0, 240.0, 480.0)


@dataclass(slots=True, eq=False)
class _Turn:
    """One try to fetch a file."""

    channel: ChannelRef
    server: str
    begin: asyncio.Event = field(default_factory=asyncio.Event)
    begun: float = 0.0
    # Ends the try. None before it has begun.
    end: asyncio.Timeout | None = None


class _Scheduler:
    """Who may fetch next: the channel and server with the fewest turns now, then the one that waited longest."""

    def __init__(self) -> None:
        self._running: list[_Turn] = []
        self._waiting: list[_Turn] = []
        self._number = count(1)
        # The number of each channel's last turn.
        self._last: OrderedDict[ChannelRef, int] = OrderedDict()

    @asynccontextmanager
    async def turn(self, channel: ChannelRef, server: str) -> AsyncIterator[None]:
        """Wait for a turn, which the block then uses. Raises `TimeoutError` at its end, sooner if others wait."""
        turn = _Turn(channel, server)
        self._waiting.append(turn)
        try:
            self._start_waiting()
            await turn.begin.wait()
            async with asyncio.timeout(_TRY_SECONDS) as turn.end:
                self._shorten_running()
                yield
        finally:
            (self._running if turn in self._running else self._waiting).remove(turn)
            self._start_waiting()

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < _MOST_TURNS:
            channels = Counter(turn.channel for turn in self._running)
            servers = Counter(turn.server for turn in self._running)
            turn = min(
                self._waiting,
                key=lambda turn: (channels[turn.channel], servers[turn.server], self._last.get(turn.channel, 0)),
            )
            self._waiting.remove(turn)
            self._running.append(turn)
            keep(self._last, turn.channel, next(self._number), 4 * _MOST_TURNS)
            turn.begun = asyncio.get_running_loop().time()
            turn.begin.set()
        self._shorten_running()

    def _shorten_running(self) -> None:
        """If others wait, end the turns that have lasted long enough."""
        if not self._waiting:
            return
        now = asyncio.get_running_loop().time()
        for turn in self._running:
            soon = max(now, turn.begun + _TURN_SECONDS)
            if turn.end is not None and not turn.end.expired() and (turn.end.when() or soon) > soon:
                turn.end.reschedule(soon)


class BackgroundFetches:
    """The late files that are being fetched, and those that have arrived."""

    def __init__(self, clock: Clock, sources: Mapping[Platform, MediaSource]) -> None:
        self._clock = clock
        self._sources = sources
        self._scheduler = _Scheduler()
        # By file and size limit: a file that is too large for one channel may not be for another.
        self._tasks: OrderedDict[MediaRef, dict[int, asyncio.Task[TemporaryFile | None]]] = OrderedDict()

    async def fetch(self, attachment: Attachment, *, channel: ChannelRef, max_bytes: int, wait: float) -> bool | None:
        """See `Files.fetch`."""
        source = attachment.source
        if self.arrived(source) is not None:
            return True
        task = self._tasks.get(source, {}).get(max_bytes)
        if task is None:
            self._make_room()
            task = asyncio.create_task(self._fetch_with_retries(attachment, channel, max_bytes), name="late file")
            self._tasks.setdefault(source, {})[max_bytes] = task
        await asyncio.wait([task], timeout=wait)
        if not task.done() or task.cancelled():
            return None
        if task.result() is None:
            tasks = self._tasks.get(source, {})
            if tasks.get(max_bytes) is task:
                del tasks[max_bytes]
                if not tasks:
                    del self._tasks[source]
            return False
        return True

    def arrived(self, source: MediaRef) -> TemporaryFile | None:
        """A file that has arrived; None if it has not."""
        return next(iter(self._files_on_disk(source)), None)

    def drop(self, source: MediaRef) -> None:
        """Forget a file, and stop fetching it."""
        for on_disk in self._files_on_disk(source):
            on_disk.close()
        for task in self._tasks.pop(source, {}).values():
            task.cancel()

    async def close(self) -> None:
        """Stop fetching, and delete what has arrived. The next process fetches it again."""
        running = [task for tasks in self._tasks.values() for task in tasks.values() if not task.done()]
        for source in list(self._tasks):
            self.drop(source)
        if running:
            await asyncio.wait(running)

    def _files_on_disk(self, source: MediaRef) -> list[TemporaryFile]:
        done = [task for task in self._tasks.get(source, {}).values() if task.done() and not task.cancelled()]
        return [on_disk for task in done if (on_disk := task.result()) is not None]

    def _make_room(self) -> None:
        """Drop the oldest files that have arrived and that nobody has used."""
        ready = [source for source in self._tasks if self.arrived(source) is not None]
        for source in ready[: max(0, len(ready) - _MOST_READY + 1)]:
            self.drop(source)

    async def _fetch_with_retries(
        self, attachment: Attachment, channel: ChannelRef, max_bytes: int
    ) -> TemporaryFile | None:
        """The file on disk, however slowly it arrives; None if it does not arrive."""
        for pause in _PAUSES:
            await self._clock.sleep(pause)
            try:
                async with self._scheduler.turn(channel, server(attachment.source)):
                    return await self._download(attachment, max_bytes)
            except (TargetGone, Permanent, FileRejected) as error:
                _log.info("late file cannot be fetched", reason=str(error))
                return None
            except (DeliveryError, TimeoutError) as error:
                _log.info("late file has not arrived yet", reason=str(error) or "it takes too long")
        return None

    async def _download(self, attachment: Attachment, max_bytes: int) -> TemporaryFile:
        platform = attachment.source.platform
        if platform not in self._sources:
            raise TargetGone("no platform serves such files")
        async with AsyncExitStack() as stack:
            stream = await stack.enter_async_context(self._sources[platform].open_media(attachment.source))
            return await save_to_disk(stream.chunks, attachment, max_bytes=max_bytes, size=stream.size)


async def save_to_disk(
    chunks: AsyncIterator[bytes], attachment: Attachment, *, max_bytes: int, size: int | None = None
) -> TemporaryFile:
    """The whole file, on disk. Raises `FileRejected` over `max_bytes` bytes, `FileUnavailable` if not `size`."""
    max_bytes = min(max_bytes, _MOST_BYTES)
    if size is not None and size > max_bytes:
        raise too_large(attachment, size)
    on_disk = TemporaryFile()
    try:
        async for chunk in chunks:
            if on_disk.size + len(chunk) > max_bytes:
                raise FileRejected(attachment.id, f"larger than {human_size(max_bytes)}, too large to cross")
            await on_disk.write(chunk)
        if size not in (None, on_disk.size):
            raise FileUnavailable("the file is not as long as its platform said")
    except BaseException:
        on_disk.close()
        raise
    return on_disk


def too_large(attachment: Attachment, size: int) -> FileRejected:
    """Why a file of `size` bytes does not cross."""
    # If its size was known before, the text that replaces the file states it anyway.
    stated = "" if attachment.size == size else f"{human_size(size)}, "
    return FileRejected(attachment.id, f"{stated}too large to cross")
