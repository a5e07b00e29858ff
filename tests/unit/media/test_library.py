"""Files on their way: measured, checked, and given up in the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay.core.files import MediaStream, Sender
from relay.domain.content import Attachment
from relay.domain.ids import ChannelRef, MediaRef, Platform, UserRef
from relay.errors import FileRejected, FileUnavailable, Permanent, TargetGone, Transient
from relay.media.library import Library
from relay.store.unit_of_work import open_store
from tests.support.clocks import FakeClock
from tests.support.store import new_store

SOURCE = MediaRef(Platform.DISCORD, "https://cdn.example/1.bin")
COPY = MediaRef(Platform.MATRIX, "mxc://example.org/1")
FILE = Attachment("1", "a.bin", "file", SOURCE)
ROOM = ChannelRef(Platform.MATRIX, "!room:example.org")
ANN = Sender(ROOM, UserRef(Platform.DISCORD, "1"))


class Source:
    """A platform with one file, whose announced size may be wrong."""

    def __init__(self, data: bytes = b"", size: int | None = None, error: Exception | None = None) -> None:
        self.data, self.size, self.error = data, size, error
        self.opened = self.closed = 0
        self.pause: asyncio.Event | None = None  # until which it sends nothing more

    @asynccontextmanager
    async def open_media(self, media: MediaRef) -> AsyncIterator[MediaStream]:
        if self.error is not None:
            raise self.error
        self.opened += 1
        try:
            yield MediaStream(self.size, "", self._chunks())
        finally:
            self.closed += 1

    async def _chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), 10):
            yield self.data[start : start + 10]
            if self.pause is not None:
                await self.pause.wait()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(0.0)


@pytest.fixture
async def library(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Library]:
    store = await open_store(new_store(tmp_path))
    library = Library(store=store, clock=clock)
    yield library
    await library.close()
    await store.close()


async def read(library: Library, max_bytes: int = 1000, file: Attachment = FILE) -> tuple[int, bytes]:
    async with library.open([file], max_bytes=max_bytes, sender=ANN) as [opened]:
        return opened.size, b"".join([chunk async for chunk in opened.chunks])


async def fetch(library: Library, file: Attachment = FILE, patience: float = 1.0) -> bool | None:
    return await library.fetch(file, channel=ROOM, max_bytes=1000, wait=patience)


@pytest.mark.parametrize("size", [95, None])
async def test_a_file_arrives_whole_and_measured(library: Library, size: int | None) -> None:
    source = Source(b"x" * 95, size)
    library.serve(Platform.DISCORD, source)
    assert await read(library) == (95, b"x" * 95)
    assert source.opened == source.closed == 1


async def test_an_empty_file_is_a_file(library: Library) -> None:
    library.serve(Platform.DISCORD, Source(b"", 0))
    assert await read(library) == (0, b"")


@pytest.mark.parametrize("size", [95, None])
async def test_what_is_too_large_is_not_carried(library: Library, size: int | None) -> None:
    source = Source(b"x" * 95, size)
    library.serve(Platform.DISCORD, source)
    with pytest.raises(FileRejected, match="too large to cross") as caught:
        await read(library, max_bytes=94)
    assert not caught.value.gone
    assert source.opened == source.closed == 1


@pytest.mark.parametrize("size", [94, 96])
async def test_a_size_that_lies_is_found_out(library: Library, size: int) -> None:
    library.serve(Platform.DISCORD, Source(b"x" * 95, size))
    async with library.open([FILE], max_bytes=1000, sender=ANN) as [file]:
        with pytest.raises(FileUnavailable):
            [chunk async for chunk in file.chunks]
        assert isinstance(file.failure, FileUnavailable)


async def test_what_is_gone_is_not_carried(library: Library) -> None:
    library.serve(Platform.DISCORD, Source(error=TargetGone("404")))
    with pytest.raises(FileRejected) as caught:
        await read(library)
    assert caught.value.gone


async def test_a_file_that_keeps_failing_is_given_up(library: Library, clock: FakeClock) -> None:
    library.serve(Platform.DISCORD, Source(error=FileUnavailable("502")))
    for moment in (0.0, 10.0, 29.0):
        clock.seconds = moment
        with pytest.raises(FileUnavailable):
            await read(library)
    clock.seconds = 30.0
    with pytest.raises(FileRejected, match="out of reach so far") as caught:
        await read(library)
    assert caught.value.late
    with pytest.raises(FileRejected):
        await read(library)


async def test_a_file_that_does_not_come_is_late(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.media.deadlines._BUDGET", 0.05)
    monkeypatch.setattr("relay.media.deadlines._SHORT_BUDGET", 0.05)
    source = Source(b"x" * 20, 20)
    source.pause = asyncio.Event()
    library.serve(Platform.DISCORD, source)
    async with library.open([FILE], max_bytes=1000, sender=ANN) as [file]:
        with pytest.raises(FileRejected) as caught:
            [chunk async for chunk in file.chunks]
    assert caught.value.late
    assert file.failure is caught.value


async def test_what_the_other_side_takes_is_not_the_files_fault(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.media.deadlines._BUDGET", 0.05)
    library.serve(Platform.DISCORD, Source(b"x" * 100, 100))
    async with library.open([FILE], max_bytes=1000, sender=ANN) as [file]:
        async for _ in file.chunks:
            await asyncio.sleep(0.01)


async def test_a_platform_that_is_away_is_waited_for(library: Library, clock: FakeClock) -> None:
    library.serve(Platform.DISCORD, Source(error=Transient("no connection")))
    for moment in (0.0, 10_000.0):
        clock.seconds = moment
        with pytest.raises(Transient):
            await read(library)


async def test_a_file_that_recovers_is_forgiven(library: Library, clock: FakeClock) -> None:
    library.serve(Platform.DISCORD, Source(error=FileUnavailable("502")))
    with pytest.raises(FileUnavailable):
        await read(library)
    library.serve(Platform.DISCORD, Source(b"x", 1))
    assert await read(library) == (1, b"x")
    clock.seconds = 10_000.0
    library.serve(Platform.DISCORD, Source(error=FileUnavailable("502")))
    with pytest.raises(FileUnavailable):
        await read(library)


async def test_pictures_are_remembered(library: Library) -> None:
    assert await library.copy_of(SOURCE, Platform.MATRIX) is None
    for copy in (COPY, MediaRef(Platform.MATRIX, "mxc://example.org/2")):
        await library.remember(SOURCE, copy)
        assert await library.copy_of(SOURCE, Platform.MATRIX) == copy
    assert await library.copy_of(SOURCE, Platform.DISCORD) is None


async def test_a_file_of_our_own_needs_no_platform(library: Library) -> None:
    words = Attachment("text", "message.txt", "file", MediaRef(Platform.DISCORD, ""), "text/plain", text="größer")
    async with library.open([words], max_bytes=100) as [file]:
        assert (file.name, file.content_type, file.size) == ("message.txt", "text/plain", 8)
        assert b"".join([chunk async for chunk in file.chunks]) == "größer".encode()


async def test_a_late_file_is_fetched_meanwhile_and_read_from_disk(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(b"x" * 20, 20)
    source.pause = asyncio.Event()
    library.serve(Platform.DISCORD, source)
    assert await fetch(library, patience=0.01) is None
    source.pause.set()
    assert await fetch(library)
    opened = source.opened
    assert await read(library) == (20, b"x" * 20)
    assert source.opened == opened, "it is read from disk"
    assert await read(library) == (20, b"x" * 20)
    assert source.opened == opened + 1, "once"


async def test_a_late_file_that_is_gone_is_given_up(library: Library) -> None:
    library.serve(Platform.DISCORD, Source(error=TargetGone("404")))
    assert await fetch(library) is False


async def test_a_late_file_is_tried_again(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.media.background._PAUSES", (0.0, 0.0, 0.0))
    library.serve(Platform.DISCORD, Source(error=FileUnavailable("502")))
    assert await fetch(library) is False
    library.serve(Platform.DISCORD, Source(b"x" * 20, 20))
    assert await fetch(library)


async def test_a_late_file_that_is_too_large_for_one_channel_is_not_for_another(library: Library) -> None:
    source = Source(b"x" * 20, 20)
    source.pause = asyncio.Event()
    library.serve(Platform.DISCORD, source)
    small, large = [
        asyncio.create_task(library.fetch(FILE, channel=ROOM, max_bytes=max_bytes, wait=1.0))
        for max_bytes in (10, 1000)
    ]
    assert await small is False
    source.pause.set()
    assert await large is True
    assert await library.fetch(FILE, channel=ROOM, max_bytes=10, wait=1.0) is True, "it is at hand, whoever wanted it"
    with pytest.raises(FileRejected, match="too large"):
        await read(library, max_bytes=10)
    assert await read(library) == (20, b"x" * 20)


# --- Small pictures -----------------------------------------------------------------------------------------


async def picture(tmp_path: Path, source: Source, **limits: float) -> bytes:
    store = await open_store(new_store(tmp_path))
    library = Library(store=store, clock=FakeClock())
    library.serve(Platform.DISCORD, source)
    try:
        wanted = {"side": 256, "max_bytes": 100, "wait": 5.0} | limits
        return await library.picture(SOURCE, **wanted)  # type: ignore[arg-type]
    finally:
        await library.close()
        await store.close()


async def test_a_picture_is_read_whole(tmp_path: Path) -> None:
    assert await picture(tmp_path, Source(b"p" * 100)) == b"p" * 100


@pytest.mark.parametrize("size", [None, 10, 50 * 1024 * 1024])
async def test_a_picture_of_many_bytes_is_of_no_use(tmp_path: Path, size: int | None) -> None:
    source = Source(b"p" * 101, size)
    with pytest.raises(Permanent, match="too large"):
        await picture(tmp_path, source)
    assert source.closed == 1


async def test_a_picture_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    source = Source(b"p" * 30)
    source.pause = asyncio.Event()
    with pytest.raises(FileUnavailable, match="too long to arrive"):
        await picture(tmp_path, source, wait=0.1)
    assert source.closed == 1


async def test_a_picture_of_nowhere(tmp_path: Path) -> None:
    store = await open_store(new_store(tmp_path))
    with pytest.raises(TargetGone):
        await Library(store=store, clock=FakeClock()).picture(SOURCE, side=1, max_bytes=1, wait=1.0)
    await store.close()
