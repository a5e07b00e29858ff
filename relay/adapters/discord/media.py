"""Files on Discord: reading them from its CDN, and attaching them to messages.

https://docs.discord.com/developers/reference#uploading-files. A voice message crosses to Discord as an audio file:
webhooks cannot post voice messages (https://docs.discord.com/developers/resources/webhook#execute-webhook).
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

from aiohttp import MultipartWriter
from aiohttp.payload import AsyncIterablePayload, JsonPayload

from relay.adapters.discord.api.client import Download, RestClient, Route
from relay.adapters.discord.api.errors import ErrorCode, Limited, Refused, Unanswered
from relay.adapters.discord.pictures.drawing import Pictures
from relay.core.files import File, Files, MediaStream, Sender
from relay.core.ports import NOT_OURS
from relay.core.recent import keep
from relay.domain.content import Attachment
from relay.domain.ids import MediaRef
from relay.domain.jsontext import Json
from relay.errors import FileRejected, FileUnavailable, TargetGone, Transient
from relay.logs import get_logger

_log = get_logger(__name__)

MAX_FILES = 10
"""In one message."""

MAX_FILE_SIZE = 10 * 1024 * 1024
"""In bytes, in a server without boosts; boosted servers take larger files."""

MAX_REQUEST_SIZE = 25 * 1024 * 1024
"""In bytes, for a request with all its files. More where a single file may be larger."""

_HOSTS = frozenset({("https", "cdn.discordapp.com"), ("https", "media.discordapp.net")})
_URL = re.compile(r"https?://[0-9A-Za-z.:-]++/[^\s\\\x00-\x1f\x7f]*")
_SPOILER = "SPOILER_"
_MAX_ALT_LENGTH = 1024
# Bytes of a multipart body besides the files.
_ENVELOPE = 64 * 1024
_GONE = frozenset({403, 404, 410, 415})

# Only Discord's own clients play Lottie stickers, so they cross as animated pictures of this type.
STICKER_CONTENT_TYPE = "image/webp"
STICKER_SUFFIX = "webp"

_FRESH_SECONDS = 6 * 3600.0
_MAX_FRESH = 1_000

_NOT_KEPT = re.compile(r"[^0-9A-Za-z_.-]+")
_MOVING_EMOJI = re.compile(r"(.*/emojis/\d{1,20})\.gif", re.ASCII)
_LOTTIE_PATH = re.compile(r"/stickers/\d{1,20}\.json", re.ASCII)


class Media:
    """Reads and sends files. `cdn_url` is the server of this platform's files, besides Discord's media proxy.

    Without `files`, the other platform's files, none can be sent.
    """

    def __init__(self, rest: RestClient, files: Files | None, cdn_url: str, pictures: Pictures | None = None) -> None:
        self._rest = rest
        self._files = files
        self._hosts = _HOSTS | {_host(cdn_url)}
        self._pictures = pictures or Pictures()
        # Addresses with new signatures, and until when each is given out.
        self._fresh: OrderedDict[str, tuple[str, float]] = OrderedDict()

    @property
    def carries(self) -> bool:
        """Whether files of the other platform can be sent at all."""
        return self._files is not None

    # --- To Discord ---------------------------------------------------------------------------------------

    async def call(
        self,
        route: Route,
        *,
        body: Json,
        attachments: Sequence[Attachment],
        max_size: int,
        sender: Sender | None,
        query: Mapping[str, str] | None = None,
    ) -> Any:
        """`RestClient.call` with files, each of at most `max_size` bytes. Also raises `FileRejected`, `Transient`."""
        if not attachments:
            return await self._rest.call(route, body=body, query=query)
        if self._files is None:
            raise FileRejected(attachments[0].id, "without a way across")
        self._rest.check(route)
        async with self._files.open(attachments, max_bytes=max_size, sender=sender) as files:
            form = form_of(body, attachments, files, self._rest.may_write)
            size = sum(file.size for file in files)
            try:
                return await self._rest.call(route, form=form, size=size + _ENVELOPE, query=query)
            except Unanswered:
                if failure := next(filter(None, (file.failure for file in files)), None):
                    raise failure from None
                raise
            except Refused as error:
                if error.status != 413 and error.code != ErrorCode.TOO_LARGE:
                    raise
                largest = max(zip(attachments, files, strict=True), key=lambda pair: pair[1].size)[0]
                raise FileRejected(largest.id, "too large to cross") from None

    # --- From Discord -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def open_media(self, media: MediaRef) -> AsyncIterator[MediaStream]:
        """See `MediaSource.open_media`."""
        parts = urlsplit(media.locator)
        if not self._is_ours(media.locator):
            raise TargetGone("that is not the address of a file on Discord")
        async with AsyncExitStack() as stack:
            with _translate_errors():
                answer = await stack.enter_async_context(self._rest.download(media.locator))
                if answer.status in _GONE and (other := await self._other_address(media.locator)) is not None:
                    answer = await stack.enter_async_context(self._rest.download(other))
            _check(answer)
            if not is_lottie(parts.path):
                yield MediaStream(answer.size, answer.content_type, _chunks(answer))
                return
            picture = await self._pictures.sticker(_chunks(answer))
        yield MediaStream(len(picture), STICKER_CONTENT_TYPE, _whole(picture))

    async def public_url(self, media: MediaRef) -> str:
        """See `PublicSource.public_url`. A fresh address is used again for some hours: refreshing is rate-limited."""
        url = media.locator
        if not self._is_ours(url):
            raise TargetGone("that is not the address of a file on Discord")
        if not _is_signed(url):
            return url
        now = asyncio.get_running_loop().time()
        known, until = self._fresh.get(url, ("", 0.0))
        if now < until:
            return known
        with _translate_errors():
            fresh = await self._refreshed(url, background=True)
        if fresh is None:
            raise TargetGone("Discord does not give the file out any more")
        keep(self._fresh, url, (fresh, now + _FRESH_SECONDS), _MAX_FRESH)
        return fresh

    def _is_ours(self, url: str) -> bool:
        # URL parsers disagree about unusual characters, so only plain URLs are fetched.
        return _URL.fullmatch(url) is not None and _host(url) in self._hosts

    async def _other_address(self, url: str) -> str | None:
        """Where else a file may be that is not there: None for nowhere."""
        if (emoji := _MOVING_EMOJI.fullmatch(url)) is not None:
            # Discord makes no GIF of an emoji that was uploaded as WebP or AVIF, and does not tell which was.
            # https://docs.discord.com/developers/resources/emoji#emoji-object-emoji-formats
            return f"{emoji[1]}.webp?animated=true"
        return await self._refreshed(url)

    async def _refreshed(self, url: str, *, background: bool = False) -> str | None:
        """The URL of an attachment with a new signature, after the old one has expired."""
        if not _is_signed(url):
            return None
        route = Route("POST", "/attachments/refresh-urls", {}, background=background)
        try:
            answer = await self._rest.call(route, body={"attachment_urls": [url]})
        except Refused:
            return None
        listed = answer.get("refreshed_urls") if isinstance(answer, dict) else None
        fresh = listed[0].get("refreshed") if isinstance(listed, list) and listed else None
        return fresh if isinstance(fresh, str) and self._is_ours(fresh) else None


class _SizedStream(AsyncIterablePayload):
    """A stream of known length, so that the request can have a Content-Length.

    It ends with an error once this process may not write any more (`RestClient.may_write`): Discord then posts nothing.
    """

    def __init__(self, file: File, may_write: Callable[[], bool]) -> None:
        super().__init__(_while(may_write, file.chunks), content_type=file.content_type)
        self._size = file.size


async def _while(may_write: Callable[[], bool], chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk
        # Once more after the last one was written: only the end of the form is left then.
        if not may_write():
            raise Transient(NOT_OURS)


def _host(url: str) -> tuple[str, str]:
    """The scheme, and the host with its port."""
    scheme, _, rest = url.partition("://")
    return scheme, rest.partition("/")[0]


def _is_signed(url: str) -> bool:
    """Whether it is the address of an attachment, which ends about a day after Discord has signed it."""
    return urlsplit(url).path.startswith(("/attachments/", "/ephemeral-attachments/"))


def form_of(
    body: Json, attachments: Sequence[Attachment], files: Sequence[File], may_write: Callable[[], bool]
) -> MultipartWriter:
    """A message with files, as a form. Broken off if this process may not write any more."""
    form = MultipartWriter("form-data")
    fields = attachment_fields(attachments, [file.name for file in files])
    payload = JsonPayload(dict(body) | {"attachments": fields})
    form.append_payload(payload)
    payload.set_content_disposition("form-data", name="payload_json")
    for number, file in enumerate(files):
        part = _SizedStream(file, may_write)
        form.append_payload(part)
        # The real name, in any script, is in the JSON. Discord does not document which of the two it takes.
        name = _in_ascii(fields[number]["filename"], f"file{number}")
        part.set_content_disposition("form-data", name=f"files[{number}]", filename=name)
    return form


def _in_ascii(name: str, otherwise: str) -> str:
    """What Discord keeps of a name, with its ending, by which clients know a picture; `otherwise` for no name."""
    kept = _NOT_KEPT.sub("", name.replace(" ", "_"))
    stem, dot, ending = kept.rpartition(".")
    shown = (stem if dot else kept).lstrip(".") or otherwise
    return f"{shown}.{ending}" if dot and ending else shown


def attachment_fields(attachments: Sequence[Attachment], names: Sequence[str]) -> list[Json]:
    """The `attachments` of a request whose files are called `names`. Pure."""
    found: list[Json] = []
    for number, (attachment, name) in enumerate(zip(attachments, names, strict=True)):
        bare = name.removeprefix(_SPOILER)
        found.append({"id": number, "filename": f"{_SPOILER}{bare}" if attachment.spoiler else bare})
        if attachment.alt:
            found[-1]["description"] = attachment.alt[:_MAX_ALT_LENGTH]
    return found


def have_same_files(standing: Sequence[Attachment], wanted: Sequence[Attachment]) -> bool:
    """Whether a message with the files `standing` already shows the files `wanted`. Pure.

    A file that we remember posting is recognised by its source. Of other files, Discord tells the size and roughly the
    name. In doubt a file is sent again, because an old picture under a new text would be worse.
    """
    return len(standing) == len(wanted) and all(map(_is_same_file, standing, wanted))


def _is_same_file(standing: Attachment, wanted: Attachment) -> bool:
    if standing.spoiler != wanted.spoiler:
        return False
    if wanted.text:
        # A text that became a file: its ID is made from the text.
        return standing.id == wanted.id
    if standing.source.platform is wanted.source.platform:
        return standing.source == wanted.source
    return wanted.size is not None and standing.size == wanted.size and _bare(standing.name) == _bare(wanted.name)


def _bare(name: str) -> str:
    """What Discord keeps of a name when it rewrites it."""
    return "".join(filter(str.isalnum, name.removeprefix(_SPOILER))).casefold()


def _check(answer: Download) -> None:
    if answer.status in _GONE:
        raise TargetGone(f"Discord's CDN answered HTTP {answer.status}")
    if answer.status == 429:
        # Not `RateLimited`: that would stop the lane to the other platform, which has no limit.
        raise FileUnavailable("Discord's CDN asks to wait", retry_after=answer.retry_after, about_server=False)
    if answer.status != 200:
        raise FileUnavailable(f"Discord's CDN answered HTTP {answer.status}")


async def _whole(picture: bytes) -> AsyncIterator[bytes]:
    yield picture


async def _chunks(answer: Download) -> AsyncIterator[bytes]:
    with _translate_errors():
        async for chunk in answer.chunks:
            yield chunk


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Turn errors of reading a file into the relay's own."""
    try:
        yield
    except Limited as error:
        raise Transient(str(error), retry_after=error.retry_after) from None
    except Unanswered as error:
        # Not connected: Discord itself is away, and no file is given up for that.
        raise (FileUnavailable(str(error)) if error.sent else Transient(str(error))) from None


def is_lottie(path: str) -> bool:
    """Whether a path on Discord's CDN is that of a Lottie sticker."""
    return _LOTTIE_PATH.fullmatch(path) is not None
