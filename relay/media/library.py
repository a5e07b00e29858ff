"""Files of all platforms for all platforms: looked at, measured and checked on their way, never held in memory."""

import asyncio
import os
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import IO, TypeVar
from urllib.parse import urlsplit

import structlog

from relay.core.degrade import human_size
from relay.core.ports import Clock, File, MediaSource
from relay.core.storage import Store
from relay.domain.content import Attachment
from relay.domain.file_names import file_name
from relay.domain.ids import MediaRef, Platform
from relay.errors import DeliveryError, FileTrouble, Permanent, TargetGone, Uncarried
from relay.media.kinds import content_type

_log = structlog.get_logger(__name__)

CHUNK = 256 * 1024
# For a file whose size nobody tells: it has to lie on disk before it can be announced.
_SPOOL_MOST = 1024 * 1024 * 1024
# Seconds that its lane waits for a file to come; from a server that let others wait that long just now, far less.
_PATIENCE = 30.0
_PATIENCE_AGAIN = 1.0
_AGAIN_SECONDS = 60.0
_REMEMBERED = 200
# Late files are fetched side by side, each for so long, and again after a pause.
_MOST_FETCHES = 8
_FETCH_SECONDS = 900.0
_FETCH_PAUSES = (0.0, 5.0, 15.0, 30.0, 60.0, 120.0, 240.0, 480.0)


_T = TypeVar("_T")


class _Patience:
    """How long a file is still waited for. What its own platform takes counts, not what the other one does with it."""

    def __init__(self, left: float) -> None:
        self.left = left

    async def wait(self, coming: Awaitable[_T]) -> _T:
        """What is `coming`. Raises `FileTrouble` when there is no patience left."""
        now = asyncio.get_running_loop().time
        begun = now()
        try:
            async with asyncio.timeout(max(0.0, self.left)):
                return await coming
        except TimeoutError:
            raise FileTrouble("it takes too long to come") from None
        finally:
            self.left -= now() - begun


class Library:
    """Implements `core.ports.Files` over the adapters' `MediaSource`s."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._sources: dict[Platform, MediaSource] = {}
        self._failing: OrderedDict[MediaRef, float] = OrderedDict()
        self._fetches: OrderedDict[MediaRef, asyncio.Task[IO[bytes] | None]] = OrderedDict()
        self._slow: OrderedDict[str, float] = OrderedDict()  # servers, and until when little is waited for them

    def serve(self, platform: Platform, source: MediaSource) -> None:
        """Files of `platform` come from `source`."""
        self._sources[platform] = source

    @asynccontextmanager
    async def open(self, attachment: Attachment, *, most: int) -> AsyncIterator[File]:
        """See `Files.open`."""
        since = self._failing.get(attachment.source, self._clock.monotonic())
        patience = _Patience(self._patience_with(attachment.source) - (self._clock.monotonic() - since))
        async with AsyncExitStack() as stack:
            try:
                file = await self._opened(stack, attachment, most, patience, since)
            except TargetGone:
                raise Uncarried(attachment.id, "not there any more", gone=True) from None
            except Permanent as error:
                raise Uncarried(attachment.id, str(error)) from None
            except FileTrouble as error:
                raise self._judged(attachment, error, patience, since) from None
            yield file
            if file.failure is None:
                self._failing.pop(attachment.source, None)
                self._drop(attachment.source)

    async def fetch(self, attachment: Attachment, *, most: int, patience: float) -> bool | None:
        """See `Files.fetch`."""
        source = attachment.source
        task = self._fetches.get(source)
        if task is None:
            self._let_go()
            if len(self._fetches) >= _MOST_FETCHES:
                await self._clock.sleep(patience)
                return None
            task = self._fetches[source] = asyncio.create_task(self._fetched(attachment, most), name="late file")
        await asyncio.wait([task], timeout=patience)
        if not task.done():
            return None
        if task.result() is None:
            del self._fetches[source]
            return False
        return True

    async def close(self) -> None:
        """Stop fetching, and let go of what has been fetched: it is fetched again in the next life."""
        running = [task for task in self._fetches.values() if not task.done()]
        for source in list(self._fetches):
            self._drop(source)
        if running:
            await asyncio.wait(running)

    def _let_go(self) -> None:
        """Make room among what has been fetched and nobody came for."""
        ready = [source for source, task in self._fetches.items() if task.done()]
        for source in ready[: max(0, len(self._fetches) - _MOST_FETCHES + 1)]:
            self._drop(source)

    def _drop(self, source: MediaRef) -> None:
        spool, task = self._at_hand(source), self._fetches.pop(source, None)
        if spool is not None:
            spool.close()
        elif task is not None:
            task.cancel()

    async def _fetched(self, attachment: Attachment, most: int) -> IO[bytes] | None:
        """A file on disk, however slowly it comes; None if it does not."""
        for pause in _FETCH_PAUSES:
            await self._clock.sleep(pause)
            spool = tempfile.TemporaryFile(prefix="relay-")  # noqa: SIM115 - closed when nobody needs it any more
            try:
                async with asyncio.timeout(_FETCH_SECONDS), AsyncExitStack() as stack:
                    source = self._sources.get(attachment.source.platform)
                    if source is not None:
                        stream = await stack.enter_async_context(source.open_media(attachment.source))
                        size = await _spooled(spool, stream.chunks, attachment, min(most, _SPOOL_MOST))
                        if stream.size in (None, size):
                            return spool
            except (TargetGone, Permanent, Uncarried) as error:
                spool.close()
                _log.info("late file is not to be had", reason=str(error))
                return None
            except (DeliveryError, TimeoutError) as error:
                _log.info("late file does not come yet", reason=str(error) or "it takes too long")
            except asyncio.CancelledError:
                spool.close()
                raise
            spool.close()
        return None

    def _at_hand(self, source: MediaRef) -> IO[bytes] | None:
        task = self._fetches.get(source)
        return task.result() if task is not None and task.done() and not task.cancelled() else None

    async def copy_of(self, media: MediaRef, destination: Platform) -> MediaRef | None:
        """See `Files.copy_of`."""
        async with self._store.read() as uow:
            return await uow.media.get(media, destination)

    async def remember(self, media: MediaRef, copy: MediaRef) -> None:
        """See `Files.remember`."""
        async with self._store.write() as uow:
            await uow.media.put(media, copy)

    async def _opened(
        self, stack: AsyncExitStack, attachment: Attachment, most: int, patience: _Patience, since: float
    ) -> File:
        if attachment.text:
            words = attachment.text.encode()
            return File(attachment.name, attachment.content_type, len(words), _of(words))
        if (spool := self._at_hand(attachment.source)) is not None:
            length = await asyncio.to_thread(spool.seek, 0, os.SEEK_END)
            head = await asyncio.to_thread(os.pread, spool.fileno(), CHUNK, 0)
            kind = content_type(head, attachment.content_type, "")
            return File(file_name(attachment.name, kind), kind, length, _from_start(spool))
        source = self._sources.get(attachment.source.platform)
        if source is None:
            raise TargetGone("nobody has such files")
        stream = await patience.wait(stack.enter_async_context(source.open_media(attachment.source)))
        if stream.size is not None and stream.size > most:
            raise _too_large(attachment, stream.size)
        coming = _in_time(stream.chunks, patience)
        head = await anext(coming, b"")
        kind = content_type(head, attachment.content_type, stream.content_type)
        chunks, size = _rejoined(head, coming), stream.size
        if size is None:
            spool = stack.enter_context(tempfile.TemporaryFile(prefix="relay-"))  # noqa: SIM115 - closed by the stack
            size = await _spooled(spool, chunks, attachment, min(most, _SPOOL_MOST))
            chunks = _read(spool)
        file = File(file_name(attachment.name, kind), kind, size, chunks)
        file.chunks = self._exactly(file, attachment, chunks, patience, since)
        return file

    async def _exactly(
        self, file: File, attachment: Attachment, chunks: AsyncIterator[bytes], patience: _Patience, since: float
    ) -> AsyncIterator[bytes]:
        """The chunks of a file, which have to come to its size; what went wrong is noted in it."""
        left = file.size
        try:
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    raise FileTrouble("the file is longer than it was said to be")
                yield chunk
            if left:
                raise FileTrouble("the file ended too early")
        except FileTrouble as error:
            file.failure = self._judged(attachment, error, patience, since)
            raise file.failure from None
        except DeliveryError as error:
            file.failure = error
            raise

    def _judged(self, attachment: Attachment, error: FileTrouble, patience: _Patience, since: float) -> DeliveryError:
        """`error` itself, until it has lasted for too long. `since`: when the file was first tried."""
        now = self._clock.monotonic()
        self._failing[attachment.source] = since
        if len(self._failing) > _REMEMBERED:
            self._failing.popitem(last=False)
        if patience.left > 0 and now - since < self._patience_with(attachment.source):
            return error
        _log.warning("file is late", reason=str(error), seconds=round(now - since))
        self._failing.pop(attachment.source, None)
        self._slow[_server(attachment.source)] = now + _AGAIN_SECONDS
        if len(self._slow) > _REMEMBERED:
            self._slow.popitem(last=False)
        return Uncarried(attachment.id, "out of reach so far", late=True)

    def _patience_with(self, media: MediaRef) -> float:
        slow = self._clock.monotonic() < self._slow.get(_server(media), 0.0)
        return _PATIENCE_AGAIN if slow else _PATIENCE


def _server(media: MediaRef) -> str:
    """What a file comes from. Not the port: a server may have one for each file."""
    return f"{media.platform} {urlsplit(media.locator).netloc.rpartition('@')[2].partition(':')[0]}"


async def _in_time(chunks: AsyncIterator[bytes], patience: _Patience) -> AsyncIterator[bytes]:
    while (chunk := await patience.wait(anext(chunks, None))) is not None:
        yield chunk


def _too_large(attachment: Attachment, size: int) -> Uncarried:
    # Where its size was known beforehand, the words say it anyway.
    said = "" if attachment.size == size else f"{human_size(size)}, "
    return Uncarried(attachment.id, f"{said}too large to cross")


async def _of(words: bytes) -> AsyncIterator[bytes]:
    yield words


async def _rejoined(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if head:
        yield head
    async for chunk in rest:
        yield chunk


async def _spooled(spool: IO[bytes], chunks: AsyncIterator[bytes], attachment: Attachment, most: int) -> int:
    """Write a file of unknown length to disk; its size."""
    size = 0
    try:
        async for chunk in chunks:
            size += len(chunk)
            if size > most:
                raise Uncarried(attachment.id, f"larger than {human_size(most)}, too large to cross")
            await asyncio.to_thread(spool.write, chunk)
        await asyncio.to_thread(spool.seek, 0)
    except OSError as error:
        raise FileTrouble(f"no room for a temporary file ({error.strerror})") from None
    return size


async def _from_start(spool: IO[bytes]) -> AsyncIterator[bytes]:
    """All of a file, whoever else reads it."""
    place = 0
    while chunk := await asyncio.to_thread(os.pread, spool.fileno(), CHUNK, place):
        place += len(chunk)
        yield chunk


async def _read(spool: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(spool.read, CHUNK):
        yield chunk
