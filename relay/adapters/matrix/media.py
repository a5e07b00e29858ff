"""Files on the homeserver: read for the other side, uploaded from there, and how large they may be.

https://spec.matrix.org/latest/client-server-api/#content-repository. Reading takes a token since version 1.11 of the
specification; servers older than that know only the addresses without.
"""

import asyncio
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import structlog

from relay.adapters.matrix.api.client import Api, Download, Refused, Unreachable
from relay.adapters.matrix.api.session import is_token_refusal
from relay.adapters.matrix.encrypted_files import decrypted, read_source
from relay.adapters.matrix.identifiers import parse_mxc
from relay.adapters.matrix.outbound.compose import Thumbnail, UploadedFile
from relay.core.offload import TemporaryFile
from relay.core.ports import Clock, File, Files, MediaStream, Sender
from relay.domain.content import Attachment, Author
from relay.domain.ids import MediaRef, Platform
from relay.domain.names import file_name
from relay.errors import DeliveryError, FileRejected, FileUnavailable, Permanent, RateLimited, TargetGone, Transient

Json = dict[str, Any]

_log = structlog.get_logger(__name__)

_AUTHENTICATED = "/_matrix/client/v1/media/"
_OLD = "/_matrix/media/v3/"
_ASK_AGAIN = 3600.0
_TRY_AGAIN = 30.0
# A picture in the text or beside a name; more would be somebody's mischief.
_SMALL = 2 * 1024 * 1024
_PICTURE_PATIENCE = 5.0  # Seconds that a message waits for its pictures.
_PICTURES_AT_ONCE = 8
# Milliseconds that the homeserver waits for a file that is to be uploaded there; seconds after which to ask again.
_UPLOAD_PATIENCE = "10000"
_NOT_SOON = 60.0
_REMEMBERED = 100
_AT_HAND = 2_000


class MediaRepository:
    """The content repository of our homeserver. `limit` in bytes: the largest file that it takes."""

    def __init__(self, api: Api, files: Files | None, clock: Clock) -> None:
        self._api = api
        self._files = files
        self._clock = clock
        self._uploaded: OrderedDict[str, UploadedFile] = OrderedDict()
        self._copies: OrderedDict[MediaRef, MediaRef] = OrderedDict()
        self._without_copy: OrderedDict[MediaRef, float] = OrderedDict()
        # Until the homeserver has told: it says so, too, when something is too large.
        self.limit = sys.maxsize

    @property
    def carries(self) -> bool:
        """Whether there are files to be had from the other side at all."""
        return self._files is not None

    async def keep_limit(self) -> None:
        """Ask for the largest size, now and then. Ends only by being cancelled."""
        while True:
            try:
                answer = await self._config()
            except (Refused, Unreachable) as error:
                _log.info("the homeserver does not say how large files may be", reason=str(error))
                await self._clock.sleep(_TRY_AGAIN)
                continue
            size = answer.get("m.upload.size")
            self.limit = size if isinstance(size, int) and size > 0 else sys.maxsize
            await self._clock.sleep(_ASK_AGAIN)

    # --- To the homeserver --------------------------------------------------------------------------------

    async def upload(self, attachment: Attachment, key: str, sender: Sender | None) -> UploadedFile:
        """Upload a file of the other side, `sender`'s.

        Raises `FileRejected`, `Transient`. Another upload under the same `key` is not started while this one runs.
        """
        if (known := self._uploaded.get(key)) is not None:
            return known
        if self._files is None:
            raise FileRejected(attachment.id, "without a way across")
        made = await self._sticker(attachment, self._files) if attachment.kind == "sticker" else None
        if made is None:
            async with self._files.open([attachment], most=self.limit, sender=sender) as [file]:
                uri = await self._upload(attachment, file)
                made = UploadedFile(attachment, uri, file.name, file.content_type, file.size)
            made = replace(made, still=await self._still(attachment, self._files))
            if attachment.kind == "sticker":
                await self._files.remember(attachment.source, MediaRef(Platform.MATRIX, uri))
        self._uploaded[key] = made
        if len(self._uploaded) > _REMEMBERED:
            self._uploaded.popitem(last=False)
        return made

    async def _sticker(self, attachment: Attachment, files: Files) -> UploadedFile | None:
        """A sticker that has been uploaded before: the same ones are sent again and again."""
        copy = await _copy_of(attachment.source, files)
        if copy is None:
            return None
        name = file_name(attachment.name, attachment.content_type)
        return UploadedFile(attachment, copy.locator, name, attachment.content_type, None)

    async def _still(self, attachment: Attachment, files: Files) -> Thumbnail | None:
        """A video's picture; a video never waits long or fails for it."""
        if attachment.thumbnail is None:
            return None
        picture = Attachment(f"{attachment.id} still", "still.jpg", "image", attachment.thumbnail)
        try:
            async with (
                asyncio.timeout(_PICTURE_PATIENCE),
                files.open([picture], most=min(_SMALL, self.limit)) as [file],
            ):
                if not file.content_type.startswith("image/"):
                    return None
                return Thumbnail(await self._upload(picture, file), file.content_type, file.size)
        except (DeliveryError, TimeoutError) as error:
            _log.info("a video crosses without its picture", reason=str(error) or "it takes too long")
            return None

    async def _upload(self, attachment: Attachment, file: File) -> str:
        try:
            answer = await self._api.upload(
                "upload",
                query={"filename": file.name},
                root=_OLD,
                chunks=file.chunks,
                size=file.size,
                content_type=file.content_type,
            )
        except Unreachable as error:
            # Nothing is doubled by uploading again.
            raise file.failure or Transient(str(error), failed=error.answered) from error
        except Refused as refused:
            raise file.failure or _refusal(refused, attachment) from refused
        uri = answer.get("content_uri")
        if not isinstance(uri, str) or parse_mxc(uri) is None:
            raise Transient("the homeserver did not say where it keeps the file", failed=True)
        return uri

    async def author(self, author: Author) -> Author:
        """`author` with an avatar that this homeserver has, if one is to be had."""
        if author.avatar is None or author.avatar.platform is Platform.MATRIX:
            return author
        found = await self.pictures([author.avatar])
        return replace(author, avatar=found.get(author.avatar))

    async def pictures(self, wanted: Iterable[MediaRef]) -> dict[MediaRef, MediaRef]:
        """Where small pictures stand on this homeserver, uploaded if need be; without those that cannot be had.

        A message never waits long or fails for them, however many they are: there are words in their place.
        """
        found: dict[MediaRef, MediaRef] = {}
        missing: list[MediaRef] = []
        for media in dict.fromkeys(wanted):
            if media.platform is Platform.MATRIX:
                found[media] = media
            elif (known := self._copies.get(media)) is not None:
                found[media] = self._kept(media, known)
            else:
                missing.append(media)
        if self._files is None or not missing:
            return found
        turns = asyncio.Semaphore(_PICTURES_AT_ONCE)
        tasks = {media: asyncio.create_task(self._picture(self._files, media, turns)) for media in missing}
        try:
            await asyncio.wait(tasks.values(), timeout=_PICTURE_PATIENCE)
        finally:
            for task in tasks.values():
                task.cancel()
            copies = await asyncio.gather(*tasks.values(), return_exceptions=True)
        for media, copy in zip(tasks, copies, strict=True):
            if isinstance(copy, MediaRef):
                found[media] = copy
            elif isinstance(copy, asyncio.CancelledError):
                self._do_without(media, _TRY_AGAIN, "it takes too long")
            elif copy is not None:
                raise copy
        return found

    async def _picture(self, files: Files, media: MediaRef, turns: asyncio.Semaphore) -> MediaRef | None:
        if (known := await _copy_of(media, files)) is not None:
            return self._kept(media, known)
        if self._clock.monotonic() < self._without_copy.get(media, 0.0):
            return None
        picture = Attachment(media.locator, media.locator.rpartition("/")[2].partition("?")[0], "image", media)
        try:
            async with turns, files.open([picture], most=min(_SMALL, self.limit)) as [file]:
                copy = MediaRef(Platform.MATRIX, await self._upload(picture, file))
        except DeliveryError as error:
            self._do_without(media, _ASK_AGAIN if isinstance(error, FileRejected) else _TRY_AGAIN, str(error))
            return None
        await files.remember(media, copy)
        return self._kept(media, copy)

    def _do_without(self, media: MediaRef, seconds: float, reason: str) -> None:
        _log.info("picture does not cross", reason=reason)
        self._without_copy[media] = self._clock.monotonic() + seconds
        if len(self._without_copy) > _REMEMBERED:
            self._without_copy.popitem(last=False)

    def _kept(self, media: MediaRef, copy: MediaRef) -> MediaRef:
        """Keep what every message of an author asks for at hand."""
        self._copies[media] = copy
        self._copies.move_to_end(media)
        if len(self._copies) > _AT_HAND:
            self._copies.popitem(last=False)
        return copy

    # --- From the homeserver ------------------------------------------------------------------------------

    @asynccontextmanager
    async def open_media(self, media: MediaRef) -> AsyncIterator[MediaStream]:
        """See `MediaSource.open_media`."""
        uri, key = read_source(media.locator)
        address = parse_mxc(uri)
        if address is None:
            raise TargetGone("that is no address of a file")
        server, media_id = address
        async with AsyncExitStack() as stack:
            with _readable():
                try:
                    download = await stack.enter_async_context(self._download(server, media_id, _AUTHENTICATED))
                except Refused as refused:
                    if refused.code != "M_UNRECOGNIZED":
                        raise
                    download = await stack.enter_async_context(self._download(server, media_id, _OLD))
            chunks = _chunks(download)
            if key is not None:
                chunks = decrypted(chunks, key, stack.enter_context(TemporaryFile()))
            yield MediaStream(download.size, download.content_type, chunks)

    def _download(self, server: str, media_id: str, root: str) -> AbstractAsyncContextManager[Download]:
        return self._api.download("download", server, media_id, query={"timeout_ms": _UPLOAD_PATIENCE}, root=root)

    async def _config(self) -> Json:
        try:
            return await self._api.call("GET", "config", root=_AUTHENTICATED)
        except Refused as refused:
            if refused.code != "M_UNRECOGNIZED":
                raise
            return await self._api.call("GET", "config", root=_OLD)


async def _chunks(download: Download) -> AsyncIterator[bytes]:
    with _readable():
        async for chunk in download.chunks:
            yield chunk


@contextmanager
def _readable() -> Iterator[None]:
    """What goes wrong with reading a file, as the core understands it."""
    try:
        yield
    except Unreachable as error:
        # Not connected: it is the homeserver that is away, and no file is to be given up for that.
        raise (FileUnavailable if error.sent else Transient)(str(error)) from None
    except Refused as refused:
        if refused.status == 429:
            # Not `RateLimited`: that would stop all that goes to the other side, which asks for nothing.
            reason = "the homeserver asks for patience"
            raise FileUnavailable(reason, retry_after=refused.retry_after, about_server=False) from None
        if refused.code == "M_NOT_YET_UPLOADED":
            # It has been waited for there.
            raise FileUnavailable(str(refused), retry_after=_NOT_SOON, about_server=False) from None
        if is_token_refusal(refused):
            raise Transient("the homeserver refuses the access token") from None
        if 300 <= refused.status < 400:
            raise Permanent("kept in a place that the relay does not go to") from None
        if refused.status in {400, 403, 404, 410}:
            raise TargetGone(str(refused)) from None
        raise FileUnavailable(str(refused)) from None


def _refusal(refused: Refused, attachment: Attachment) -> DeliveryError:
    """Why the homeserver does not take a file."""
    if refused.status == 429:
        return RateLimited("the homeserver asks for patience", retry_after=refused.retry_after)
    if refused.status == 413 or refused.code == "M_TOO_LARGE":
        return FileRejected(attachment.id, "too large to cross")
    if is_token_refusal(refused):
        return Transient("the homeserver refuses the access token")
    if refused.status < 500:
        return FileRejected(attachment.id, "refused by the homeserver")
    return Transient(str(refused), retry_after=refused.retry_after, failed=True)


async def _copy_of(source: MediaRef, files: Files) -> MediaRef | None:
    """Where a picture was uploaded to, as the store remembers it; None where that can be no file's address."""
    copy = await files.copy_of(source, Platform.MATRIX)
    return copy if copy is not None and parse_mxc(copy.locator) is not None else None
