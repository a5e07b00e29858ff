"""Links to files: some that are good, and many that were altered, have expired, or belong to another file."""

import asyncio
import base64
import random
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from relay.config.settings import WebSettings
from relay.core.files import MediaStream
from relay.core.status.counters import Histogram, LimitStatus
from relay.core.status.report import Report
from relay.domain.content import Attachment
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform
from relay.errors import TargetGone
from relay.media.links import ROOT, SignedLinks
from relay.media.proxy import Limits, MediaProxy
from relay.web.server import WebServer
from tests.support.clocks import FakeClock

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
PUBLIC = "https://relay.example.org"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Files:
    """A platform that keeps a few files, counts how often each is opened, and can be told to wait."""

    def __init__(self, **files: bytes) -> None:
        self.files = files
        self.types: dict[str, str] = {}
        self.errors: dict[str, Exception] = {}
        self.tells_size = True
        self.opened: list[str] = []
        self.open = 0
        self.read: dict[str, int] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    def ref(self, name: str) -> MediaRef:
        return MediaRef(Platform.MATRIX, f"mxc://example.org/{name}")

    @asynccontextmanager
    async def open_media(self, media: MediaRef) -> AsyncIterator[MediaStream]:
        name = media.locator.rpartition("/")[2]
        self.opened.append(name)
        if name not in self.files:
            raise self.errors.get(name, TargetGone("not there"))
        data = self.files[name]
        self.open += 1
        try:
            await self.gate.wait()
            yield MediaStream(len(data) if self.tells_size else None, self.types.get(name, ""), self._chunks(name))
        finally:
            self.open -= 1

    async def _chunks(self, name: str) -> AsyncIterator[bytes]:
        data = self.files[name]
        for start in range(0, len(data), 64 * 1024):
            await self.gate.wait()
            self.read[name] = start
            yield data[start : start + 64 * 1024]


MESSAGE = MessageRef(ChannelRef(Platform.MATRIX, "!room:example.org"), "$event")


async def standing(message: MessageRef) -> bool:
    """Every message is still there."""
    return True


def attachment(media: MediaRef, name: str = "cat.png", size: int | None = None) -> Attachment:
    """A file of a message."""
    return Attachment(media.locator, name, "file", media, size=size)


def signed(key: int = 1, lifetime: float | None = 86400.0, clock: FakeClock | None = None) -> SignedLinks:
    """What makes links, with a key of its own for each number."""
    return SignedLinks(
        public_url=PUBLIC, key=bytes([key]) * 64, lifetime=lifetime, clock=clock or FakeClock(NOW.timestamp())
    )


def path_of(url: str | None) -> str:
    """The path of a link."""
    assert url is not None
    return url.removeprefix(PUBLIC)


def bad_paths(rng: random.Random, good: SignedLinks, media: list[MediaRef]) -> Iterator[str]:
    """Paths that lead nowhere, for ever; all are made from links that lead to `media`."""
    links = [
        path_of(each.link(one, "cat.png", MESSAGE, since=NOW))
        for one in media
        for each in (good, signed(lifetime=None))
    ]
    # They ended: `good` made them, or a daemon with another key made them.
    others = [path_of(good.link(each, "old.png", MESSAGE, since=NOW - timedelta(days=9))) for each in media]
    others += [path_of(signed(9).link(each, "cat.png", MESSAGE, since=NOW)) for each in media]
    ways: list[Callable[[str], str]] = [
        lambda _: rng.choice(others),
        lambda link: _with_another_part(rng, link, rng.choice(links)),
        lambda link: _with_another_character(rng, link),
        lambda link: _with_another_bit(rng, link),
        lambda link: _spelt_otherwise(rng, link),
        lambda _: rng.choice(_ELSEWHERE),
        lambda _: ROOT + "/".join("".join(rng.choices(_ALPHABET, k=rng.randrange(1, 60))) for _ in range(4)),
    ]
    while True:
        way, link = rng.choice(ways), rng.choice(links)
        found = way(link)
        if found not in links:
            yield quote(found, safe="/%?=~+.:_-")


_ELSEWHERE = (
    f"{ROOT}../metrics",
    f"{ROOT}..%2f..%2fetc/passwd",
    f"{ROOT}0/a/b/../../../metrics",
    f"{ROOT}http://127.0.0.1:8008/",
    f"{ROOT}mxc://example.org/cat",
    f"{ROOT}%2e%2e/%2e%2e/healthz",
    ROOT,
    f"{ROOT}\u0660/x",
)


class Asker:
    """Asks a server for paths exactly as they are, over one connection as long as it lasts."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def status(self, path: str, host: str = "localhost") -> int:
        """The status of the answer to a GET."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = re.search(r"content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        if "connection: close" in head or head.startswith("http/1.0"):
            self.close()
        return int(head.split()[1])

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Status:
    """The status of a relay without pairs."""

    async def report(self) -> Report:
        return self.last_report()

    def last_report(self) -> Report:
        return Report((), {}, NOW)

    def glance(self) -> Report:
        return self.last_report()

    def delivery_seconds(self) -> Mapping[str, Histogram]:
        return {}

    def limits(self) -> Mapping[str, LimitStatus]:
        return {}


class Served:
    """A server with links, and who asks it."""

    def __init__(self, files: Files, proxy: MediaProxy, client: aiohttp.ClientSession) -> None:
        self.files, self.proxy, self.client = files, proxy, client

    def path(self, name: str, shown: str | None = None) -> str:
        return path_of(self.proxy.link(attachment(self.files.ref(name), shown or name), MESSAGE, since=NOW))

    def url(self, path: str) -> URL:
        return self.client._build_url(URL(path, encoded=True))

    @asynccontextmanager
    async def asked(self, path: str, method: str = "GET", **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
        url = URL(path, encoded=True)
        async with self.client.request(method, url, headers=headers, allow_redirects=False) as answer:
            yield answer

    async def status(self, path: str, **headers: str) -> int:
        async with self.asked(path, **headers) as answer:
            await answer.read()
            return answer.status


@asynccontextmanager
async def serving(files: Files, public_url: str = PUBLIC, **limits: Any) -> AsyncIterator[Served]:
    proxy = MediaProxy(signed(), stands=standing, limits=Limits(**{"patience": 2.0, **limits}))
    proxy.serve(Platform.MATRIX, files)
    settings = WebSettings(listen="127.0.0.1:0", public_url=public_url)
    server = WebServer(status=Status(), settings=settings, files=proxy)
    async with aiohttp.ClientSession(base_url=await server.start()) as client:
        try:
            yield Served(files, proxy, client)
        finally:
            await server.close()
            await proxy.close()


def _with_another_part(rng: random.Random, link: str, other: str) -> str:
    """Another day, file, signature or name, that of another link or a new one."""
    one, two = (each.removeprefix(ROOT).split("/") for each in (link, other))
    place = rng.randrange(4)
    day = str(rng.choice([0, int(one[0]) + rng.randrange(1, 9999)]))
    name: str = rng.choice(["cat.html", "cat.png.", "CAT.png", "..", "", "%63at.png"])
    longer = one[place] + rng.choice(["=", "A", "-", "%3D"])
    new = {0: day, 3: name}.get(place, longer)
    one[place] = rng.choice([two[place], new])
    return ROOT + "/".join(one)


def _with_another_character(rng: random.Random, link: str) -> str:
    at = rng.randrange(len(link) + 1)
    more: str = rng.choice([*_ALPHABET, *"/.%=~+", ""])
    return link[:at] + more + link[at + rng.randrange(0 if more else 1, 9) :]


def _with_another_bit(rng: random.Random, link: str) -> str:
    """A bit of what is encrypted, or of the signature, is another one."""
    parts = link.removeprefix(ROOT).split("/")
    place = rng.choice([1, 2])
    data = bytearray(base64.urlsafe_b64decode(parts[place] + "=" * (-len(parts[place]) % 4)))
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    parts[place] = base64.urlsafe_b64encode(data).decode().rstrip("=")
    return ROOT + "/".join(parts)


def _spelt_otherwise(rng: random.Random, link: str) -> str:
    """What some servers take for the same path."""
    at = rng.randrange(len(ROOT), len(link))
    escaped = link[:at] + f"%{ord(link[at]):02x}" + link[at + 1 :]
    found: str = rng.choice([escaped, f"{link}?", f"{link}?x=1", f"{link}/", f"/{link}", link.upper(), f"{link}%00"])
    return found
