"""Downloads of a message's files through both adapters, from servers that answer in unusual ways."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from typing import cast
from urllib.parse import urlsplit

import pytest

from relay.adapters.discord.api.client import RestClient
from relay.adapters.discord.api.rate_limits import RateLimits
from relay.adapters.discord.media import Media as DiscordMedia
from relay.adapters.matrix.api.client import Api
from relay.adapters.matrix.media import MediaRepository
from relay.core.clock import SystemClock
from relay.core.files import Sender
from relay.core.storage import Store
from relay.domain.content import Attachment
from relay.domain.ids import ChannelRef, MediaRef, Platform, UserRef
from relay.errors import FileRejected, FileUnavailable
from relay.media.library import Library
from tests.support.patience import PATIENCE

PLATFORMS = [Platform.MATRIX, Platform.DISCORD]


class FileServer:
    """Answers by the last word of the path. `seen`: the head of each request."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.elsewhere = ""
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError), closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.seen.append(head)
            what = urlsplit(head.split()[1]).path.rpartition("/")[2]
            await self._answer(what, writer)

    async def _answer(self, what: str, writer: asyncio.StreamWriter) -> None:
        async def send(*lines: str, body: bytes = b"", status: str = "200 OK") -> None:
            writer.write("\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *lines, "", ""]).encode() + body)
            await writer.drain()

        match what:
            case "usual":
                await send("Content-Length: 5", body=b"usual")
            case "drip":
                await send("Content-Length: 5000")
                await _repeat(writer, b"x", pause=0.05)
            case "head":
                writer.write(b"HTTP/1.1 200 OK\r\n")
                await _repeat(writer, b"X-Slow: 1\r\n", pause=0.05)
            case "more":
                await send("Content-Length: 5", body=b"x" * 20)
            case "less":
                await send("Content-Length: 20", body=b"x" * 5)
            case "untold":
                await send(body=b"untold")
            case "endless":
                await send("Transfer-Encoding: chunked")
                await _repeat(writer, b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
            case "bomb":
                packed = gzip.compress(bytes(10_000_000))
                await send(f"Content-Length: {len(packed)}", "Content-Encoding: gzip", body=packed)
            case "changing":
                words = b"x" * len(self.seen)
                await send(f"Content-Length: {len(words)}", body=words)
            case "broken":
                await send("Content-Length: -1", body=b"x")
            case "away":
                await send(f"Location: {self.elsewhere}", "Content-Length: 0", status="307 Temporary Redirect")


async def _repeat(writer: asyncio.StreamWriter, data: bytes, *, pause: float = 0) -> None:
    for _ in range(5000):  # with a pause, for longer than a test waits
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(pause)


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    found = FileServer()
    async with found.running():
        yield found


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what never comes: on a busy machine, what comes takes longer than this, too."""
    for name, seconds in {"_BUDGET": 0.6, "_SHORT_BUDGET": 0.1, "_ALL_SHORT_BUDGETS": 0.2}.items():
        monkeypatch.setattr(f"relay.media.deadlines.{name}", seconds)


@pytest.fixture
async def library(server: FileServer) -> AsyncIterator[Library]:
    clock = SystemClock()
    library = Library(store=cast(Store, None), clock=clock)  # no picture is asked for here
    api = Api(server.url, "@relay:example.org")
    api.use_token("the-token")
    rest = RestClient(token="the-token", api_url=server.url, clock=clock, limits=RateLimits(clock))
    library.serve(Platform.MATRIX, MediaRepository(api, None, clock))
    library.serve(Platform.DISCORD, DiscordMedia(rest, None, server.url))
    yield library
    await library.close()
    await api.close()
    await rest.close()


@pytest.fixture(params=PLATFORMS)
def file(request: pytest.FixtureRequest, server: FileServer) -> Callable[[str], Attachment]:
    def at(what: str) -> Attachment:
        locator = f"{server.url}/attachments/1/{what}" if request.param is Platform.DISCORD else f"mxc://a.test/{what}"
        return Attachment("1", "a.bin", "file", MediaRef(request.param, locator))

    return at


async def read(library: Library, file: Attachment, max_bytes: int = 100_000) -> bytes:
    """All of a file, as a lane has it sent: again until it has come, or is given up."""
    sender = Sender(ChannelRef(Platform.DISCORD, "1"), UserRef(Platform.MATRIX, "@ann:a"))
    while True:
        try:
            async with library.open([file], max_bytes=max_bytes, sender=sender) as [opened]:
                found = b"".join([chunk async for chunk in opened.chunks])
                assert len(found) == opened.size
                return found
        except FileUnavailable:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("what", "words"), [("usual", b"usual"), ("untold", b"untold")])
async def test_what_comes(library: Library, file: Callable[[str], Attachment], what: str, words: bytes) -> None:
    assert await read(library, file(what)) == words


@pytest.mark.usefixtures("_hurried")
@pytest.mark.parametrize("what", ["drip", "head", "less", "more", "broken"])
async def test_what_does_not_come_is_late(library: Library, file: Callable[[str], Attachment], what: str) -> None:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(FileRejected, match="out of reach so far") as caught:
            await read(library, file(what))
    assert caught.value.late


@pytest.mark.parametrize("what", ["endless", "bomb"])
async def test_what_does_not_end_is_too_large(library: Library, file: Callable[[str], Attachment], what: str) -> None:
    with pytest.raises(FileRejected, match=r"larger than 100.0 kB, too large to cross"):
        await read(library, file(what))


async def test_a_file_that_changes_between_tries(library: Library, file: Callable[[str], Attachment]) -> None:
    assert [await read(library, file("changing")) for _ in range(3)] == [b"x", b"xx", b"xxx"]


# --- Elsewhere ------------------------------------------------------------------------------------------------


def on_matrix(what: str) -> Attachment:
    return Attachment("1", "a.bin", "file", MediaRef(Platform.MATRIX, f"mxc://a.test/{what}"))


async def test_the_homeserver_may_keep_files_in_another_place_of_its_own(library: Library, server: FileServer) -> None:
    server.elsewhere = f"{server.url}/files/usual"
    assert await read(library, on_matrix("away")) == b"usual"
    assert ["Bearer the-token" in head for head in server.seen] == [True, False]


@pytest.mark.parametrize("elsewhere", ["http://127.0.0.1:1/usual", "https://localhost/usual", "", "//", "file:///x"])
async def test_nothing_is_fetched_from_the_network_that_the_relay_is_in(
    library: Library, server: FileServer, elsewhere: str
) -> None:
    other = FileServer()
    async with other.running():
        server.elsewhere = elsewhere.replace("http://127.0.0.1:1", other.url)
        with pytest.raises(FileRejected, match="kept on a server that the relay does not read from"):
            await read(library, on_matrix("away"))
    assert other.seen == []


async def test_nothing_that_is_said_goes_elsewhere(server: FileServer) -> None:
    other = FileServer()
    async with other.running():
        api = Api(server.url, "@relay:example.org")
        api.use_token("the-token")
        server.elsewhere = f"{other.url}/usual"
        with pytest.raises(Exception, match="status 307"):
            await api.call("PUT", "rooms", "!a:b", "away", body={"body": "hush"})
        await api.close()
    assert other.seen == []
