"""Files that cannot cross, for anyone who has a link: read through their own platform, and kept on disk for a while.

The same file is downloaded once, however many read it. It lies on disk as far as it has come, because a homeserver
cannot be asked for a part of a file and players ask for parts. A download runs at most some megabytes ahead of those
who read it, and ends soon after the last of them has left: a small request can never cost a large download.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from relay.core.convert.degrade import human_size
from relay.core.files import LinkedElsewhere, LinkedFile, MediaSource, MediaStream, PublicSource, ThumbnailSource
from relay.core.offload import TemporaryFile
from relay.core.recent import keep
from relay.core.storage import Store
from relay.domain.content import Attachment
from relay.domain.ids import MediaRef, MessageRef, Platform
from relay.errors import (
    DeliveryError,
    FileUnavailable,
    NoRoom,
    Permanent,
    StoreUnavailable,
    TargetGone,
    Transient,
)
from relay.logs import get_logger
from relay.media.deadlines import server
from relay.media.library import content_type
from relay.media.links import Linked, SignedLinks

_log = get_logger(__name__)

# A file, and whether it is made small.
_File = tuple[MediaRef, bool]

_MB = 1_000_000
_HEAD = 4096  # bytes that tell which kind of file it is
_REMEMBERED = 1_000
_SIDE = 256  # pixels of a picture that is made small

# Of these types a browser shows a file without running anything of it. All others are downloads.
_INLINE = frozenset(
    [
        "image/png",
        "image/apng",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
        "audio/mp4",
        "audio/webm",
        "audio/ogg",
        "audio/mpeg",
        "audio/wav",
        "audio/flac",
    ]
)
_CONTAINERS = frozenset({"mp4", "webm", "ogg"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much the proxy takes of the machine and of the homeserver."""

    max_file: int = 256 * _MB  # bytes; a larger file gets no link
    max_disk: int = 1000 * _MB  # bytes of all files
    ahead: int = 8 * _MB  # bytes that a download may be ahead of its readers
    downloads: int = 16  # at once
    downloads_of_server: int = 4
    linger: float = 20.0  # seconds for which a download goes on without a reader
    kept: float = 600.0  # seconds for which a file that nobody reads stays on disk
    patience: float = 45.0  # seconds for which a reader waits for bytes; proxies often wait for 60
    failed: float = 5.0  # seconds for which a file that could not be read is not tried again
    # Bytes from one server: so many at once, then so many in a second. What a homeserver fetches from others is limited
    # (Synapse's defaults: 500 MB and 87 KB a second, for all of it), and files that cross need it, too.
    server_burst: int = 200 * _MB
    server_rate: float = 30_000.0


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class _Budget:
    """What was fetched from each server of late. A file counts once: a homeserver keeps what it has fetched.

    It fetches the whole file, however much of it is read here.
    """

    burst: float
    rate: float
    home: str  # the homeserver's own name
    # Of each server: the bytes, and when that was so.
    _levels: OrderedDict[str, tuple[float, float]] = field(init=False, default_factory=OrderedDict)
    # Files that have been counted as a whole.
    _counted: OrderedDict[MediaRef, None] = field(init=False, default_factory=OrderedDict)

    def wait(self, media: MediaRef) -> float:
        """Seconds until a file may be fetched, if it has not been counted before."""
        return 0.0 if media in self._counted else max(0.0, (self._level(server(media)) - self.burst) / self.rate)

    def count(self, media: MediaRef, size: int, *, whole: bool) -> None:
        """So many bytes of a file have been fetched; `whole`: no more will be."""
        name = server(media)
        if media in self._counted or name.partition(" ")[2] == self.home:
            return
        keep(self._levels, name, (self._level(name) + size, asyncio.get_running_loop().time()), _REMEMBERED)
        if whole:
            keep(self._counted, media, None, _REMEMBERED)

    def _level(self, name: str) -> float:
        level, at = self._levels.get(name, (0.0, 0.0))
        return max(0.0, level - (asyncio.get_running_loop().time() - at) * self.rate)


@dataclass(slots=True, eq=False)
class _Spool:
    """A file on disk, whole or as far as it has come."""

    media: MediaRef
    limits: Limits
    small: bool = False  # it is made small by its platform, as a picture of a person
    file: TemporaryFile = field(default_factory=TemporaryFile)
    size: int | None = None  # None until it is known
    declared: str = ""  # its type, as its platform says
    complete: bool = False
    error: DeliveryError | None = None
    readers: int = 0
    wanted: int = 0  # the place that a reader waits for
    task: asyncio.Task[None] | None = None
    ends: asyncio.TimerHandle | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> "_File":
        """What it is a file of."""
        return self.media, self.small

    @property
    def running(self) -> bool:
        """Whether it is still being downloaded."""
        return not self.complete and self.error is None

    @property
    def on_disk(self) -> int:
        """Bytes that it takes, or will take."""
        return self.file.size if self.complete else max(self.file.size, self.size or 0)

    def changed(self) -> None:
        """Wake all who wait in `until`."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, check: Callable[[], bool]) -> None:
        """Wait until `check` is true; it may change whenever `changed` is called."""
        while not check():
            await self._changed.wait()

    async def reach(self, place: int) -> None:
        """Wait until the byte at `place` is on disk, or all of the file. Raises why it does not come."""
        if place > self.wanted:
            self.wanted = place
            self.changed()
        if self.file.size > place or self.complete:
            return
        try:
            async with asyncio.timeout(self.limits.patience):
                await self.until(lambda: self.file.size > place or not self.running)
        except TimeoutError:
            raise FileUnavailable("it takes too long to arrive") from None
        if self.file.size <= place and self.error is not None:
            raise self.error

    async def read(self, start: int) -> AsyncIterator[bytes]:
        """The bytes from a place on, as they arrive."""
        place = start
        while True:
            await self.reach(place)
            chunk = await self.file.read(place)
            if not chunk:
                return
            place += len(chunk)
            yield chunk


class MediaProxy:
    """Implements `MediaLinks` and `PictureLinks` of `core.ports`, and opens for the server what links lead to."""

    def __init__(
        self,
        links: SignedLinks,
        *,
        stands: Callable[[MessageRef], Awaitable[bool]],
        limits: Limits | None = None,
        home: str = "",
    ) -> None:
        """`stands`: whether a message is still there. See `stands`. `home`: a server whose files need no budget."""
        self._links = links
        self._stands = stands
        self._limits = limits or Limits()
        self._budget = _Budget(burst=self._limits.server_burst, rate=self._limits.server_rate, home=home)
        self._sources: dict[Platform, MediaSource] = {}
        # The least recently read first.
        self._spools: OrderedDict[_File, _Spool] = OrderedDict()
        # Why a file could not be read, and until when it is not tried again.
        self._failed: OrderedDict[_File, tuple[DeliveryError, float]] = OrderedDict()

    def serve(self, platform: Platform, source: MediaSource) -> None:
        """Files of `platform` come from `source`."""
        self._sources[platform] = source

    def link(self, file: Attachment, message: MessageRef, *, since: datetime) -> str | None:
        """See `MediaLinks.link`."""
        source = self._sources.get(file.source.platform)
        if source is None or file.text:
            return None
        if not isinstance(source, PublicSource) and (file.size or 0) > self._limits.max_file:
            return None
        return self._links.link(file.source, file.name, message, since=since)

    def picture_link(self, picture: MediaRef) -> str | None:
        """See `PictureLinks`."""
        is_made_small = isinstance(self._sources.get(picture.platform), ThumbnailSource)
        return self._links.picture(picture) if is_made_small else None

    @asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[LinkedFile | LinkedElsewhere]:
        """What the link with this path leads to. Raises `TargetGone`, `Permanent`, `FileUnavailable` or `Transient`."""
        linked = self._links.read(path)
        if linked is None:
            raise TargetGone("there is no such link")
        if linked.expired:
            raise Permanent("no longer available: the link has ended")
        if linked.message is not None and not await self._stands(linked.message):
            raise Permanent("no longer available: its message was deleted")
        source = self._sources.get(linked.media.platform)
        if source is None:
            raise TargetGone("no platform serves such files")
        if isinstance(source, PublicSource):
            yield LinkedElsewhere(await source.public_url(linked.media))
            return
        spool = self._spool(linked.media, source, small=linked.message is None)
        with self._reader(spool):
            yield await self._file(linked, spool)

    async def close(self) -> None:
        """Stop downloading, and give the disk space back."""
        tasks = [spool.task for spool in self._spools.values() if spool.task is not None]
        for spool in list(self._spools.values()):
            self._drop(spool)
        if tasks:
            await asyncio.wait(tasks)

    async def _file(self, linked: Linked, spool: _Spool) -> LinkedFile:
        await spool.reach(_HEAD - 1)
        if spool.error is not None:
            raise spool.error
        head = (await spool.file.beginning())[:_HEAD]
        kind = inline_type(head, spool.declared)
        return LinkedFile(linked.name, kind, spool.size, self._links.tag(spool.media, small=spool.small), spool.read)

    def _spool(self, media: MediaRef, source: MediaSource, *, small: bool) -> _Spool:
        """The file, on disk or on its way there."""
        known = self._spools.get((media, small))
        if known is not None:
            self._spools.move_to_end(known.key)
            return known
        error, until = self._failed.get((media, small), (None, 0.0))
        if error is not None and asyncio.get_running_loop().time() < until:
            raise error
        if seconds := self._budget.wait(media):
            raise FileUnavailable("too much was read from its server of late", retry_after=seconds, about_server=False)
        self._check_downloads(media)
        spool = self._spools[media, small] = _Spool(media, self._limits, small)
        spool.task = asyncio.create_task(self._download(spool, source), name="linked file")
        return spool

    def _check_downloads(self, media: MediaRef) -> None:
        """Raises `FileUnavailable` if too many are running; one that nobody reads ends first."""
        while True:
            running = [spool for spool in self._spools.values() if spool.running]
            of_server = Counter(server(spool.media) for spool in running)[server(media)]
            if len(running) < self._limits.downloads and of_server < self._limits.downloads_of_server:
                return
            crowded = of_server >= self._limits.downloads_of_server
            idle = [one for one in running if not one.readers and (not crowded or server(one.media) == server(media))]
            if not idle:
                raise FileUnavailable("too many files are being read now", retry_after=5.0, about_server=False)
            self._drop(idle[0])

    @contextmanager
    def _reader(self, spool: _Spool) -> Iterator[None]:
        """Somebody reads the file: it stays while the block lasts, and for a while after the last one."""
        spool.readers += 1
        if spool.ends is not None:
            spool.ends.cancel()
            spool.ends = None
        try:
            with spool.file.held():
                yield
        finally:
            spool.readers -= 1
            if not spool.readers and spool.error is None:
                seconds = self._limits.kept if spool.complete else self._limits.linger
                spool.ends = asyncio.get_running_loop().call_later(seconds, self._drop, spool)

    async def _download(self, spool: _Spool, source: MediaSource) -> None:
        try:
            await self._fill(spool, source)
        except DeliveryError as error:
            self._fail(spool, error)
        except Exception:  # noqa: BLE001 - the top of a worker
            _log.exception("a linked file could not be read")
            self._fail(spool, FileUnavailable("something went wrong"))
        finally:
            spool.changed()

    async def _fill(self, spool: _Spool, source: MediaSource) -> None:
        async with _opened(spool, source) as stream:
            if stream.size is not None:
                self._make_room(spool, stream.size)
                self._budget.count(spool.media, stream.size, whole=True)
            spool.declared = stream.content_type
            spool.size = stream.size
            spool.changed()
            async for chunk in stream.chunks:
                size = spool.file.size + len(chunk)
                if stream.size is None:
                    self._make_room(spool, size)
                elif size > stream.size:
                    raise FileUnavailable("the file is longer than its platform said")
                await spool.file.write(chunk)
                if stream.size is None:
                    self._budget.count(spool.media, len(chunk), whole=False)
                spool.changed()
                await spool.until(lambda: spool.file.size < spool.wanted + self._limits.ahead)
            if stream.size not in (None, spool.file.size):
                raise FileUnavailable("the file ended too early")
        spool.size = spool.file.size
        spool.complete = True
        self._budget.count(spool.media, 0, whole=True)

    def _fail(self, spool: _Spool, error: DeliveryError) -> None:
        _log.info("a linked file cannot be read", reason=str(error))
        spool.error = error
        until = asyncio.get_running_loop().time() + self._limits.failed
        keep(self._failed, spool.key, (error, until), _REMEMBERED)
        self._drop(spool)

    def _make_room(self, spool: _Spool, size: int) -> None:
        """Have room on disk for `size` bytes of a file. Raises `Permanent` if it is too large, `NoRoom`."""
        if size > self._limits.max_file:
            raise Permanent(f"larger than {human_size(self._limits.max_file)}, too large to be passed on")
        others = [other for other in self._spools.values() if other is not spool]
        taken = sum(other.on_disk for other in others)
        for other in others:
            if taken + size <= self._limits.max_disk:
                return
            if not other.readers:
                taken -= other.on_disk
                self._drop(other)
        if taken + size > self._limits.max_disk:
            raise NoRoom("there is no room for it now")

    def _drop(self, spool: _Spool) -> None:
        """Forget a file. Those who read it keep what has come, and are told why no more comes."""
        if self._spools.get(spool.key) is spool:
            del self._spools[spool.key]
        if spool.ends is not None:
            spool.ends.cancel()
        if spool.running:
            spool.error = FileUnavailable("it is not read any more", about_server=False)
            if spool.task is not None:
                spool.task.cancel()
        spool.file.close()


def _opened(spool: _Spool, source: MediaSource) -> AbstractAsyncContextManager[MediaStream]:
    if not spool.small:
        return source.open_media(spool.media)
    if not isinstance(source, ThumbnailSource):
        raise TargetGone("its platform makes no picture small")
    return source.open_thumbnail(spool.media, _SIDE)


async def stands(store: Store, message: MessageRef) -> bool:
    """Whether the store knows a message, which was not deleted: what somebody deletes is to be read nowhere."""
    try:
        async with store.read() as uow:
            original = await uow.messages.find(message)
    except StoreUnavailable as error:
        raise Transient(error.reason) from None
    return original is not None and not original.deleted


def inline_type(head: bytes, declared: str) -> str | None:
    """The type under which a browser may show a file that begins with `head`; None if it is to be downloaded.

    The first bytes decide, and what the platform says must not contradict them. Pure.
    """
    found, told = content_type(head), declared.partition(";")[0].strip().lower()
    if found not in _INLINE:
        return None
    if told in {"", "application/octet-stream", "binary/octet-stream"}:
        return found
    family, _, form = found.partition("/")
    told_family = told.partition("/")[0]
    if told_family == family:
        return found
    if form in _CONTAINERS and {told_family, family} == {"audio", "video"}:
        return f"{told_family}/{form}"
    return None
