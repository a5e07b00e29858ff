"""Files of all platforms for all platforms: looked at, measured and checked on their way, never held in memory."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from relay.core.files import File, MediaSource, Sender, ThumbnailSource
from relay.core.ports import Clock
from relay.core.storage import Store
from relay.domain.content import Attachment
from relay.domain.ids import ChannelRef, MediaRef, Platform
from relay.domain.names import file_name
from relay.errors import DeliveryError, FileRejected, FileUnavailable, NoRoom, Permanent, TargetGone
from relay.logs import get_logger
from relay.media.background import BackgroundFetches, save_to_disk, too_large
from relay.media.deadlines import Deadline, WaitBudgets

_log = get_logger(__name__)

_NOT_AGAIN = FileUnavailable("it was late before, and is not waited for again", about_server=False)


class Library:
    """Implements `core.files.Files` over the adapters' `MediaSource`s."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._sources: dict[Platform, MediaSource] = {}
        self._budgets = WaitBudgets(clock)
        self._fetches = BackgroundFetches(clock, self._sources)

    def serve(self, platform: Platform, source: MediaSource) -> None:
        """Files of `platform` come from `source`."""
        self._sources[platform] = source

    @asynccontextmanager
    async def open(
        self, attachments: Sequence[Attachment], *, max_bytes: int, sender: Sender | None = None
    ) -> AsyncIterator[Sequence[File]]:
        """See `Files.open`."""
        remote = [one for one in attachments if not one.text and self._fetches.arrived(one.source) is None]
        sources = [one.source for one in remote]
        deadline = self._budgets.deadline(sender, sources)
        if late := [one for one in remote if self._budgets.is_late(sender, one.source)]:
            raise self._late(sender, [(late[0], _NOT_AGAIN)], deadline)
        if sender is not None and remote and deadline.left <= 0:
            tried = [one for one in remote if one.source in deadline.last_errors] or remote
            errors = [(one, deadline.last_errors.get(one.source, _NOT_AGAIN)) for one in tried]
            raise self._late(sender, errors, deadline)
        async with AsyncExitStack() as stack:
            opened = await self._open_all(stack, attachments, max_bytes, deadline)
            failures = [(one, it) for one, it in zip(attachments, opened, strict=True) if not isinstance(it, File)]
            if failures:
                raise self._error_for(sender, failures, deadline)
            files = [it for it in opened if isinstance(it, File)]
            for one, file in zip(attachments, files, strict=True):
                if one.source in sources:
                    file.chunks = self._in_time(file, file.chunks, one, sender, deadline)
            try:
                yield files
            finally:
                whole = not any(file.failure for file in files)
                if whole:
                    self._budgets.charge(sender, deadline.used)
            if whole:
                self._budgets.arrived(sender, sources)
                for one in attachments:
                    self._fetches.drop(one.source)

    async def fetch(self, attachment: Attachment, *, channel: ChannelRef, max_bytes: int, wait: float) -> bool | None:
        """See `Files.fetch`."""
        return await self._fetches.fetch(attachment, channel=channel, max_bytes=max_bytes, wait=wait)

    def forget(self, attachment: Attachment) -> None:
        """See `Files.forget`."""
        self._fetches.drop(attachment.source)

    async def picture(self, media: MediaRef, *, side: int, max_bytes: int, wait: float) -> bytes:
        """See `Files.picture`."""
        source = self._sources.get(media.platform)
        if source is None:
            raise TargetGone("no platform serves such files")
        read = bytearray()
        try:
            async with asyncio.timeout(wait):
                opened = source.open_thumbnail(media, side) if isinstance(source, ThumbnailSource) else None
                async with opened or source.open_media(media) as stream:
                    if stream.size is not None and stream.size > max_bytes:
                        raise Permanent("too large for a small picture")
                    async for chunk in stream.chunks:
                        read += chunk
                        if len(read) > max_bytes:
                            raise Permanent("too large for a small picture")
        except TimeoutError:
            raise FileUnavailable("it takes too long to arrive") from None
        return bytes(read)

    async def close(self) -> None:
        """Stop fetching."""
        await self._fetches.close()

    async def copy_of(self, media: MediaRef, destination: Platform) -> MediaRef | None:
        """See `Files.copy_of`."""
        async with self._store.read() as uow:
            return await uow.media.get(media, destination)

    async def remember(self, media: MediaRef, copy: MediaRef) -> None:
        """See `Files.remember`."""
        async with self._store.write() as uow:
            await uow.media.put(media, copy)

    async def _open_all(
        self, stack: AsyncExitStack, attachments: Sequence[Attachment], max_bytes: int, deadline: Deadline
    ) -> list[File | DeliveryError]:
        """Each file, or its error. An error that no retry can change ends the waiting for the others."""
        now = asyncio.get_running_loop().time
        begun, late = now(), FileUnavailable("it takes too long to arrive")
        tasks: list[asyncio.Task[File]] = []
        for one in attachments:
            own = await stack.enter_async_context(AsyncExitStack())
            tasks.append(asyncio.create_task(self._open_one(own, one, max_bytes), name="file"))
        pending = set(tasks)
        try:
            while pending and (left := begun + deadline.left - now()) > 0:
                done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                errors = [task.exception() for task in done]
                if any(error is not None and not isinstance(error, FileUnavailable) for error in errors):
                    break
        finally:
            for task in pending:
                task.cancel()
            # The stack closes whatever they were about to open.
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            deadline.spend(now() - begun)
        found: list[File | DeliveryError] = []
        for outcome in outcomes:
            if isinstance(outcome, asyncio.CancelledError):
                found.append(late)
            elif isinstance(outcome, BaseException) and not isinstance(outcome, DeliveryError):
                raise outcome
            else:
                found.append(outcome)
        return found

    async def _open_one(self, stack: AsyncExitStack, attachment: Attachment, max_bytes: int) -> File:
        if attachment.text:
            words = attachment.text.encode()
            return File(attachment.name, attachment.content_type, len(words), _one_chunk(words))
        if (on_disk := self._fetches.arrived(attachment.source)) is not None:
            stack.enter_context(on_disk.held())
            if on_disk.size > max_bytes:
                raise too_large(attachment, on_disk.size)
            kind = content_type(await on_disk.beginning(), attachment.content_type, "")
            return File(file_name(attachment.name, kind), kind, on_disk.size, on_disk.chunks())
        source = self._sources.get(attachment.source.platform)
        if source is None:
            raise TargetGone("no platform serves such files")
        stream = await stack.enter_async_context(source.open_media(attachment.source))
        if stream.size is not None and stream.size > max_bytes:
            raise too_large(attachment, stream.size)
        head = await anext(stream.chunks, b"")
        kind = content_type(head, attachment.content_type, stream.content_type)
        chunks, size = _rejoined(head, stream.chunks), stream.size
        if size is None:
            on_disk = stack.enter_context(await save_to_disk(chunks, attachment, max_bytes=max_bytes))
            chunks, size = on_disk.chunks(), on_disk.size
        return File(file_name(attachment.name, kind), kind, size, chunks)

    async def _in_time(
        self,
        file: File,
        chunks: AsyncIterator[bytes],
        attachment: Attachment,
        sender: Sender | None,
        deadline: Deadline,
    ) -> AsyncIterator[bytes]:
        """The chunks of a file. An error is also noted in `file`: too slow, or not as long as its platform said."""
        left = file.size
        try:
            while (chunk := await deadline.wait(anext(chunks, None))) is not None:
                left -= len(chunk)
                if left < 0:
                    raise FileUnavailable("the file is longer than its platform said")
                yield chunk
            if left:
                raise FileUnavailable("the file ended too early")
        except DeliveryError as error:
            file.failure = self._error_for(sender, [(attachment, error)], deadline)
            raise file.failure from None

    def _error_for(
        self,
        sender: Sender | None,
        failures: Sequence[tuple[Attachment, DeliveryError]],
        deadline: Deadline,
    ) -> DeliveryError:
        """The error for files that could not be opened or read: that of the worst of them."""
        errors: list[tuple[Attachment, FileUnavailable]] = []
        for attachment, error in failures:
            if isinstance(error, FileUnavailable):
                errors.append((attachment, error))
                continue
            if isinstance(error, TargetGone | Permanent | FileRejected):
                # The answer that says so may have taken long, too.
                self._budgets.charge(sender, deadline.used)
            match error:
                case TargetGone():
                    return FileRejected(attachment.id, "not there any more", gone=True)
                case Permanent():
                    return FileRejected(attachment.id, str(error))
                case _:
                    return error
        (_, first) = errors[0]
        if sender is None:
            return first
        if full := [one for one in errors if isinstance(one[1], NoRoom)]:
            return self._late(sender, full, deadline, "held back until the relay has room for it")
        if deadline.left > (first.retry_after or 0.0):
            self._budgets.failed(sender, {one.source: error for one, error in errors}, deadline)
            return first
        return self._late(sender, errors, deadline)

    def _late(
        self,
        sender: Sender | None,
        errors: Sequence[tuple[Attachment, FileUnavailable]],
        deadline: Deadline,
        reason: str = "out of reach so far",
    ) -> FileRejected:
        (attachment, error), *_ = errors
        _log.warning("file is late", reason=str(error), seconds=round(deadline.used))
        if sender is not None:
            self._budgets.late(sender, {one.source: error for one, error in errors}, deadline)
        return FileRejected(attachment.id, reason, late=True)


async def _one_chunk(words: bytes) -> AsyncIterator[bytes]:
    yield words


async def _rejoined(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if head:
        yield head
    async for chunk in rest:
        yield chunk


# --- What type a file has ---------------------------------------------------------------------------------
# The type that a platform states is what its user's client claimed. The first bytes are a better source.

_UNKNOWN = "application/octet-stream"
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypheic", "image/heic"),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftypqt", "video/quicktime"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"ID3", "audio/mpeg"),
    (8, b"WAVE", "audio/wav"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"PK\x03\x04", "application/zip"),
)
# Containers whose declared type may say more than the signature does: an .odt is a zip, a .mka is no video.
_VAGUE = {
    "application/zip": ("application/",),
    "video/mp4": ("video/", "audio/"),
    "video/webm": ("video/", "audio/"),
    "audio/ogg": ("audio/", "video/"),
}
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,60}")


def content_type(head: bytes, *declared: str) -> str:
    """The media type of a file that begins with `head`; `declared` counts where its bytes say nothing."""
    told = next((kind for kind in map(_tidy, declared) if kind not in {"", _UNKNOWN}), "")
    found = next((kind for at, sign, kind in _SIGNATURES if head.startswith(sign, at)), "")
    if found in {"image/webp", "audio/wav"} and not head.startswith(b"RIFF"):
        found = ""
    if found == "image/png" and b"acTL" in head[:4096]:
        return "image/apng"
    if found in _VAGUE and told.startswith(_VAGUE[found]):
        return told
    return found or told or _UNKNOWN


def _tidy(kind: str) -> str:
    kind = kind.partition(";")[0].strip().lower()
    return kind if _TYPE.fullmatch(kind) else ""
