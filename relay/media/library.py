"""Files of all platforms for all platforms: looked at, measured and checked on their way, never held in memory."""

import asyncio
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import IO

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
# Seconds after which a file that its platform fails to deliver is given up, so that its lane goes on.
_PATIENCE = 300.0
_REMEMBERED = 200


class Library:
    """Implements `core.ports.Files` over the adapters' `MediaSource`s."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._sources: dict[Platform, MediaSource] = {}
        self._failing: OrderedDict[MediaRef, float] = OrderedDict()

    def serve(self, platform: Platform, source: MediaSource) -> None:
        """Files of `platform` come from `source`."""
        self._sources[platform] = source

    @asynccontextmanager
    async def open(self, attachment: Attachment, *, most: int) -> AsyncIterator[File]:
        """See `Files.open`."""
        async with AsyncExitStack() as stack:
            try:
                file = await self._opened(stack, attachment, most)
            except TargetGone:
                raise Uncarried(attachment.id, "not there any more", gone=True) from None
            except Permanent as error:
                raise Uncarried(attachment.id, str(error)) from None
            except FileTrouble as error:
                raise self._judged(attachment, error) from None
            yield file
            if file.failure is None:
                self._failing.pop(attachment.source, None)

    async def copy_of(self, media: MediaRef, destination: Platform) -> MediaRef | None:
        """See `Files.copy_of`."""
        async with self._store.read() as uow:
            return await uow.media.get(media, destination)

    async def remember(self, media: MediaRef, copy: MediaRef) -> None:
        """See `Files.remember`."""
        async with self._store.write() as uow:
            await uow.media.put(media, copy)

    async def _opened(self, stack: AsyncExitStack, attachment: Attachment, most: int) -> File:
        if attachment.text:
            words = attachment.text.encode()
            return File(attachment.name, attachment.content_type, len(words), _of(words))
        source = self._sources.get(attachment.source.platform)
        if source is None:
            raise TargetGone("nobody has such files")
        stream = await stack.enter_async_context(source.open_media(attachment.source))
        if stream.size is not None and stream.size > most:
            raise _too_large(attachment, stream.size)
        head = await anext(stream.chunks, b"")
        kind = content_type(head, attachment.content_type, stream.content_type)
        chunks, size = _rejoined(head, stream.chunks), stream.size
        if size is None:
            spool = stack.enter_context(tempfile.TemporaryFile(prefix="relay-"))  # noqa: SIM115 - closed by the stack
            size = await _spooled(spool, chunks, attachment, min(most, _SPOOL_MOST))
            chunks = _read(spool)
        file = File(file_name(attachment.name, kind), kind, size, chunks)
        file.chunks = self._exactly(file, attachment, chunks)
        return file

    async def _exactly(self, file: File, attachment: Attachment, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
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
            file.failure = self._judged(attachment, error)
            raise file.failure from None
        except DeliveryError as error:
            file.failure = error
            raise

    def _judged(self, attachment: Attachment, error: FileTrouble) -> DeliveryError:
        """`error` itself, until it has lasted for too long."""
        now = self._clock.monotonic()
        since = self._failing.setdefault(attachment.source, now)
        if len(self._failing) > _REMEMBERED:
            self._failing.popitem(last=False)
        if now - since < _PATIENCE:
            return error
        _log.warning("file given up", reason=str(error), seconds=round(now - since))
        self._failing.pop(attachment.source, None)
        return Uncarried(attachment.id, "out of reach")


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


async def _read(spool: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(spool.read, CHUNK):
        yield chunk
