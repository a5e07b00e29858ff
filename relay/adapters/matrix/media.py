"""Files on the homeserver: downloaded for the other side, uploaded from there, and how large they may be.

https://spec.matrix.org/latest/client-server-api/#content-repository. Since version 1.11 of the specification, downloads
need the access token and have other paths; older servers know only the paths without it.
"""

import asyncio
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace

from relay.adapters.matrix.api.client import Api, Download, Refused, Unreachable
from relay.adapters.matrix.api.firewall import Firewall
from relay.adapters.matrix.api.session import is_token_refusal
from relay.adapters.matrix.cursors import UPLOAD_LIMIT, cursor
from relay.adapters.matrix.encrypted_files import decrypted, read_source
from relay.adapters.matrix.identifiers import parse_mxc
from relay.adapters.matrix.outbound.compose import Thumbnail, UploadedFile
from relay.adapters.matrix.retrying_inbox import RetryingInbox
from relay.core.files import File, Files, MediaStream, Sender
from relay.core.offload import TemporaryFile
from relay.core.ports import Clock, EventBatch
from relay.core.recent import keep
from relay.domain.content import Attachment, Author
from relay.domain.ids import MediaRef, Platform
from relay.domain.jsontext import Json
from relay.domain.names import file_name
from relay.errors import DeliveryError, FileRejected, FileUnavailable, Permanent, RateLimited, TargetGone, Transient
from relay.logs import get_logger

_log = get_logger(__name__)

_AUTHENTICATED = "/_matrix/client/v1/media/"
_UNAUTHENTICATED = "/_matrix/media/v3/"
_ASK_SOON, _ASK_AGAIN = 30.0, 3600.0
_LONGEST_NUMBER = 18
_TRY_AGAIN = 30.0
# Of an emoji or an avatar; larger ones are not worth it.
_MOST_IMAGE_BYTES = 2 * 1024 * 1024
_IMAGE_WAIT = 5.0  # Seconds that a message waits for its emoji and avatar.
_IMAGES_AT_ONCE = 8
# Milliseconds that the homeserver waits for a file whose upload has not ended; seconds after which to ask again.
_WAIT_FOR_UPLOAD = "10000"
_UPLOAD_RETRY = 60.0
_UPLOADS_REMEMBERED = 100
_COPIES_REMEMBERED = 2_000


class MediaRepository:
    """The content repository of our homeserver."""

    def __init__(self, api: Api, files: Files | None, clock: Clock) -> None:
        self._api = api
        self._files = files
        self._clock = clock
        self._firewall = Firewall()
        # By the key of the delivery.
        self._uploaded: OrderedDict[str, UploadedFile] = OrderedDict()
        # Where images of the other side are on this homeserver.
        self._copies: OrderedDict[MediaRef, MediaRef] = OrderedDict()
        # When an image that could not be copied is tried again.
        self._retry_at: OrderedDict[MediaRef, float] = OrderedDict()
        # In bytes, as the homeserver says. Until it has said so, any size: it refuses files that are too large.
        self.max_file_size = sys.maxsize

    @property
    def has_source(self) -> bool:
        """Whether files of the other side can be read at all."""
        return self._files is not None

    async def keep_max_file_size(self, inbox: RetryingInbox) -> None:
        """Ask for the largest size of a file every hour, until cancelled. At the start what was said last will do."""
        known, tries = await inbox.position(UPLOAD_LIMIT), 0
        if known is not None and known.isdecimal() and int(known[:_LONGEST_NUMBER]):
            self.max_file_size = int(known[:_LONGEST_NUMBER])
            await self._clock.sleep(_ASK_SOON)
        while True:
            try:
                answer = await self._config()
            except (Refused, Unreachable) as error:
                tries += 1
                _log.info("the homeserver does not say how large files may be", reason=str(error), tries=tries)
                await self._clock.sleep(_TRY_AGAIN)
                continue
            size = answer.get("m.upload.size")
            self.max_file_size, tries = size if isinstance(size, int) and size > 0 else sys.maxsize, 0
            if (now := str(self.max_file_size)) != known:
                await inbox.receive(EventBatch(cursors=(cursor(UPLOAD_LIMIT, now),)))
                known = now
            await self._clock.sleep(_ASK_AGAIN)

    # --- To the homeserver --------------------------------------------------------------------------------

    async def upload(self, attachment: Attachment, key: str, sender: Sender | None) -> UploadedFile:
        """Upload a file of the other side, written by `sender`; once for each `key` while this process runs.

        Raises `FileRejected`, `Transient`.
        """
        if (known := self._uploaded.get(key)) is not None:
            return known
        if self._files is None:
            raise FileRejected(attachment.id, "without a way across")
        made = await self._known_sticker(attachment, self._files) if attachment.kind == "sticker" else None
        if made is None:
            async with self._files.open([attachment], max_bytes=self.max_file_size, sender=sender) as [file]:
                uri = await self._upload(attachment, file)
                made = UploadedFile(attachment, uri, file.name, file.content_type, file.size)
            made = replace(made, thumbnail=await self._thumbnail(attachment, self._files))
            if attachment.kind == "sticker":
                await self._files.remember(attachment.source, MediaRef(Platform.MATRIX, uri))
        keep(self._uploaded, key, made, _UPLOADS_REMEMBERED)
        return made

    async def _known_sticker(self, attachment: Attachment, files: Files) -> UploadedFile | None:
        """The sticker, if it has been uploaded before: the same ones are sent again and again."""
        copy = await _copy_on_record(attachment.source, files)
        if copy is None:
            return None
        name = file_name(attachment.name, attachment.content_type)
        return UploadedFile(attachment, copy.locator, name, attachment.content_type, None)

    async def _thumbnail(self, attachment: Attachment, files: Files) -> Thumbnail | None:
        """A video's thumbnail. A video never waits long for it, and never fails because of it."""
        if attachment.thumbnail is None:
            return None
        image = Attachment(f"{attachment.id} still", "still.jpg", "image", attachment.thumbnail)
        try:
            async with (
                asyncio.timeout(_IMAGE_WAIT),
                files.open([image], max_bytes=min(_MOST_IMAGE_BYTES, self.max_file_size)) as [file],
            ):
                if not file.content_type.startswith("image/"):
                    return None
                return Thumbnail(await self._upload(image, file), file.content_type, file.size)
        except (DeliveryError, TimeoutError) as error:
            _log.info("a video crosses without its thumbnail", reason=str(error) or "it takes too long")
            return None

    async def _upload(self, attachment: Attachment, file: File) -> str:
        try:
            answer = await self._api.upload(
                "upload",
                query={"filename": file.name},
                root=_UNAUTHENTICATED,
                chunks=file.chunks,
                size=file.size,
                content_type=file.content_type,
            )
        except Unreachable as error:
            if file.failure is None and await self._firewall.refuses(attachment.id, error, self._make_filter):
                raise FileRejected(attachment.id, "refused by something in front of the homeserver") from error
            # To upload again does no harm.
            raise file.failure or Transient(str(error), failed=error.answered) from error
        except Refused as refused:
            raise file.failure or upload_error(refused, attachment) from refused
        uri = answer.get("content_uri")
        if not isinstance(uri, str) or parse_mxc(uri) is None:
            raise Transient("the homeserver did not say where it keeps the file", failed=True)
        return uri

    async def _make_filter(self) -> None:
        """A request without content: the homeserver knows this filter from the second time on."""
        await self._api.call("POST", "user", self._api.user_id, "filter", body={})

    async def with_avatar(self, author: Author) -> Author:
        """`author` with an avatar that is on this homeserver, or without one if it cannot be had."""
        if author.avatar is None or author.avatar.platform is Platform.MATRIX:
            return author
        found = await self.copies([author.avatar])
        return replace(author, avatar=found.get(author.avatar))

    async def copies(self, images: Iterable[MediaRef]) -> dict[MediaRef, MediaRef]:
        """Where small images are on this homeserver, after an upload if need be; without those that cannot be had.

        A message never waits long for them, however many they are, and never fails because of them: it has text in
        their place.
        """
        found: dict[MediaRef, MediaRef] = {}
        missing: list[MediaRef] = []
        for image in dict.fromkeys(images):
            if image.platform is Platform.MATRIX:
                found[image] = image
            elif (known := self._copies.get(image)) is not None:
                found[image] = self._remember(image, known)
            else:
                missing.append(image)
        if self._files is None or not missing:
            return found
        turns = asyncio.Semaphore(_IMAGES_AT_ONCE)
        tasks = {image: asyncio.create_task(self._copy(self._files, image, turns)) for image in missing}
        try:
            await asyncio.wait(tasks.values(), timeout=_IMAGE_WAIT)
        finally:
            for task in tasks.values():
                task.cancel()
            copies = await asyncio.gather(*tasks.values(), return_exceptions=True)
        for image, copy in zip(tasks, copies, strict=True):
            if isinstance(copy, MediaRef):
                found[image] = copy
            elif isinstance(copy, asyncio.CancelledError):
                self._give_up(image, _TRY_AGAIN, "it takes too long")
            elif copy is not None:
                raise copy
        return found

    async def _copy(self, files: Files, image: MediaRef, turns: asyncio.Semaphore) -> MediaRef | None:
        if (known := await _copy_on_record(image, files)) is not None:
            return self._remember(image, known)
        if self._clock.monotonic() < self._retry_at.get(image, 0.0):
            return None
        name = image.locator.rpartition("/")[2].partition("?")[0]
        attachment = Attachment(image.locator, name, "image", image)
        try:
            async with turns, files.open([attachment], max_bytes=min(_MOST_IMAGE_BYTES, self.max_file_size)) as [file]:
                copy = MediaRef(Platform.MATRIX, await self._upload(attachment, file))
        except DeliveryError as error:
            self._give_up(image, _ASK_AGAIN if isinstance(error, FileRejected) else _TRY_AGAIN, str(error))
            return None
        await files.remember(image, copy)
        return self._remember(image, copy)

    def _give_up(self, image: MediaRef, seconds: float, reason: str) -> None:
        _log.info("picture does not cross", reason=reason)
        keep(self._retry_at, image, self._clock.monotonic() + seconds, _UPLOADS_REMEMBERED)

    def _remember(self, image: MediaRef, copy: MediaRef) -> MediaRef:
        """Keep a copy in memory: every message of an author needs the same avatar."""
        keep(self._copies, image, copy, _COPIES_REMEMBERED)
        return copy

    # --- From the homeserver ------------------------------------------------------------------------------

    @asynccontextmanager
    async def open_media(self, media: MediaRef) -> AsyncIterator[MediaStream]:
        """See `MediaSource.open_media`."""
        uri, key = read_source(media.locator)
        async with AsyncExitStack() as stack:
            download = await self._download(stack, uri, "download", {})
            chunks = _chunks(download)
            if key is not None:
                chunks = decrypted(chunks, key, stack.enter_context(TemporaryFile()))
            yield MediaStream(download.size, download.content_type, chunks)

    @asynccontextmanager
    async def open_thumbnail(self, media: MediaRef, side: int) -> AsyncIterator[MediaStream]:
        """See `ThumbnailSource.open_thumbnail`. An encrypted picture has none: the server cannot read it."""
        # Cropped ones are 96 pixels wide at most, by default.
        wanted = {"width": str(side), "height": str(side), "method": "scale", "animated": "true"}
        async with AsyncExitStack() as stack:
            download = await self._download(stack, media.locator, "thumbnail", wanted)
            yield MediaStream(download.size, download.content_type, _chunks(download))

    async def _download(self, stack: AsyncExitStack, uri: str, what: str, query: Mapping[str, str]) -> Download:
        """Ask for a file as today's servers want it, or else as older ones do."""
        address = parse_mxc(uri)
        if address is None:
            raise TargetGone("that is no address of a file")
        query = {"timeout_ms": _WAIT_FOR_UPLOAD, **query}
        with _translated_errors():
            try:
                return await stack.enter_async_context(
                    self._api.download(what, *address, query=query, root=_AUTHENTICATED)
                )
            except Refused as refused:
                if refused.code != "M_UNRECOGNIZED":
                    raise
                return await stack.enter_async_context(
                    self._api.download(what, *address, query=query, root=_UNAUTHENTICATED)
                )

    async def _config(self) -> Json:
        try:
            return await self._api.call("GET", "config", root=_AUTHENTICATED)
        except Refused as refused:
            if refused.code != "M_UNRECOGNIZED":
                raise
            return await self._api.call("GET", "config", root=_UNAUTHENTICATED)


async def _chunks(download: Download) -> AsyncIterator[bytes]:
    with _translated_errors():
        async for chunk in download.chunks:
            yield chunk


@contextmanager
def _translated_errors() -> Iterator[None]:
    """What goes wrong with a download, as the core's errors."""
    try:
        yield
    except Unreachable as error:
        # Without a connection it is the homeserver that is away: the file itself must not be given up for that.
        raise (FileUnavailable if error.sent else Transient)(str(error)) from None
    except Refused as refused:
        if refused.status == 429:
            # Not `RateLimited`: that would stop everything that goes to the other side, which has no limit now.
            reason = "the homeserver limits our requests"
            raise FileUnavailable(reason, retry_after=refused.retry_after, about_server=False) from None
        if refused.code == "M_NOT_YET_UPLOADED":
            # The homeserver has already waited for it.
            raise FileUnavailable(str(refused), retry_after=_UPLOAD_RETRY, about_server=False) from None
        if is_token_refusal(refused):
            raise Transient("the homeserver refuses the access token") from None
        if 300 <= refused.status < 400:
            raise Permanent("kept on a server that the relay does not read from") from None
        if refused.status in {400, 403, 404, 410}:
            raise TargetGone(str(refused)) from None
        raise FileUnavailable(str(refused)) from None


def upload_error(refused: Refused, attachment: Attachment) -> DeliveryError:
    """Why the homeserver did not take a file, as one of the core's errors."""
    if refused.status == 429:
        return RateLimited("the homeserver limits our requests", retry_after=refused.retry_after)
    if refused.status == 413 or refused.code == "M_TOO_LARGE":
        return FileRejected(attachment.id, "too large to cross")
    if is_token_refusal(refused):
        return Transient("the homeserver refuses the access token")
    if refused.status < 500 or refused.status == 507:
        # 507: it has no room for files. Words need none, and must not wait until it has.
        return FileRejected(attachment.id, "refused by the homeserver")
    return Transient(str(refused), retry_after=refused.retry_after, failed=True)


async def _copy_on_record(source: MediaRef, files: Files) -> MediaRef | None:
    """Where the store says that an image is on this homeserver; None if it does not, or if that is no address."""
    copy = await files.copy_of(source, Platform.MATRIX)
    return copy if copy is not None and parse_mxc(copy.locator) is not None else None
