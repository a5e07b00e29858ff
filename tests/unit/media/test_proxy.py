"""What links lead to: downloaded once, no further than it is read, and gone after a while."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from relay.core.files import LinkedElsewhere, LinkedFile, MediaStream
from relay.domain.ids import MediaRef, Platform, UserRef
from relay.errors import FileUnavailable, NoRoom, Permanent, TargetGone
from relay.media.proxy import Limits, MediaProxy, inline_type, stands
from relay.store.unit_of_work import open_store
from tests.support.links import MESSAGE, NOW, PNG, Files, attachment, path_of, signed, standing
from tests.support.patience import PATIENCE
from tests.support.store import new_store

KIB = 1024


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not check():  # noqa: ASYNC110 - what is waited for happens in the proxy
            await asyncio.sleep(0.005)


@asynccontextmanager
async def proxy(files: Files, **limits: Any) -> AsyncIterator[MediaProxy]:
    made = MediaProxy(signed(), stands=standing, limits=Limits(**{"patience": PATIENCE, **limits}))
    made.serve(Platform.MATRIX, files)
    yield made
    await made.close()
    assert files.open == 0


def path(of: MediaProxy, files: Files, name: str) -> str:
    return path_of(of.link(attachment(files.ref(name)), MESSAGE, since=NOW))


async def opened(of: MediaProxy, stack: AsyncExitStack, where: str) -> LinkedFile:
    found = await stack.enter_async_context(of.open(where))
    assert isinstance(found, LinkedFile)
    return found


async def read(file: LinkedFile, start: int = 0) -> bytes:
    return b"".join([chunk async for chunk in file.read(start)])


async def test_many_readers_make_one_download_and_each_may_begin_anywhere() -> None:
    data = bytes(range(256)) * 4 * KIB
    files = Files(film=data)
    async with proxy(files) as relay, AsyncExitStack() as stack:
        where = path(relay, files, "film")
        readers = [await opened(relay, stack, where) for _ in range(5)]
        found = await asyncio.gather(*(read(one, start * 1000) for start, one in enumerate(readers)))
        assert found == [data[start * 1000 :] for start in range(5)]
        assert {one.size for one in readers} == {len(data)}
        assert files.opened == ["film"]


async def test_a_download_stops_where_nobody_reads_and_ends_soon_after() -> None:
    files = Files(film=bytes(4096 * KIB))
    async with proxy(files, ahead=256 * KIB, linger=0.2) as relay:
        async with relay.open(path(relay, files, "film")) as file:
            assert isinstance(file, LinkedFile)
            await until(lambda: files.read["film"] >= 256 * KIB)
            await asyncio.sleep(0.05)
            assert files.read["film"] < 512 * KIB
        await until(lambda: files.open == 0)
        assert files.read["film"] < 512 * KIB
        async with relay.open(path(relay, files, "film")) as file:
            assert isinstance(file, LinkedFile)
            # Somebody jumps to the end.
            assert len(await read(file, 4000 * KIB)) == 96 * KIB
        assert files.opened == ["film", "film"]
        async with relay.open(path(relay, files, "film")) as file:
            assert isinstance(file, LinkedFile)
            assert len(await read(file)) == 4096 * KIB
        assert files.opened == ["film", "film"]


async def test_what_lies_on_disk_is_bounded_and_what_was_read_last_stays() -> None:
    files = Files(**{name: bytes(100 * KIB) for name in "abcd"})
    async with proxy(files, max_disk=250 * KIB) as relay:
        for name in "abac":
            async with relay.open(path(relay, files, name)) as file:
                assert isinstance(file, LinkedFile)
                assert len(await read(file)) == 100 * KIB
        assert files.opened == ["a", "b", "c"]
        async with AsyncExitStack() as stack:
            # What somebody reads stays; there is no room for more.
            for name in "ac":
                await opened(relay, stack, path(relay, files, name))
            assert files.opened == ["a", "b", "c"]
            with pytest.raises(NoRoom):
                await opened(relay, stack, path(relay, files, "d"))


async def test_nothing_is_kept_for_ever() -> None:
    files = Files(a=PNG)
    async with proxy(files, kept=0.05) as relay:
        where = path(relay, files, "a")
        for _ in range(2):
            async with relay.open(where) as file:
                assert isinstance(file, LinkedFile)
                assert await read(file) == PNG
            await asyncio.sleep(0.2)
        assert files.opened == ["a", "a"]


@pytest.mark.parametrize("tells_size", [True, False])
async def test_what_is_too_large_has_no_link_or_stops(tells_size: bool) -> None:
    files = Files(big=bytes(300 * KIB))
    files.tells_size = tells_size
    async with proxy(files, max_file=200 * KIB) as relay, AsyncExitStack() as stack:
        assert relay.link(attachment(files.ref("big"), size=300 * KIB), MESSAGE, since=NOW) is None
        assert relay.link(attachment(files.ref("big"), size=100 * KIB), MESSAGE, since=NOW) is not None
        with pytest.raises(Permanent, match="too large to be passed on"):
            await read(await opened(relay, stack, path(relay, files, "big")))


async def test_a_server_that_hangs_is_given_up_and_keeps_nobody_else_waiting() -> None:
    class Hanging(Files):
        @asynccontextmanager
        async def open_media(self, media: MediaRef) -> AsyncIterator[MediaStream]:
            if "evil" in media.locator:
                await asyncio.Event().wait()
            async with super().open_media(media) as stream:
                yield stream

    files = Hanging(fine=PNG)
    async with proxy(files, patience=0.3, linger=0.1, downloads=6, downloads_of_server=2) as relay:

        async def at(locator: str) -> bytes:
            where = path_of(relay.link(attachment(MediaRef(Platform.MATRIX, locator)), MESSAGE, since=NOW))
            async with relay.open(where) as file:
                assert isinstance(file, LinkedFile)
                return await read(file)

        many = [asyncio.create_task(at(f"mxc://evil.example/{number}")) for number in range(20)]
        await asyncio.sleep(0.05)
        assert await at("mxc://example.org/fine") == PNG
        results = await asyncio.gather(*many, return_exceptions=True)
        assert {type(one) for one in results} == {FileUnavailable}
        assert sum("too many" in str(one) for one in results) == 18
        assert sum("too long" in str(one) for one in results) == 2


@pytest.mark.virtual_time
async def test_one_server_does_not_use_up_what_the_homeserver_may_fetch() -> None:
    files = Files(**{name: bytes(100 * KIB) for name in ("one", "two", "far", "near")})
    made = MediaProxy(
        signed(),
        stands=standing,
        limits=Limits(server_burst=90 * KIB, server_rate=50.0 * KIB, kept=0.0),
        home="near.example",
    )
    made.serve(Platform.MATRIX, files)

    async def at(locator: str) -> None:
        where = path_of(made.link(attachment(MediaRef(Platform.MATRIX, locator)), MESSAGE, since=NOW))
        async with made.open(where) as file:
            assert isinstance(file, LinkedFile)
            assert len(await read(file)) == 100 * KIB

    await at("mxc://example.org/one")
    with pytest.raises(FileUnavailable, match="too much") as caught:
        await at("mxc://example.org:8448/two")
    assert 0 < (caught.value.retry_after or 0) <= 0.2
    await at("mxc://other.example/far")
    for name in ("near", "one"):
        await at(f"mxc://near.example/{name}")
    # What has been fetched is with the homeserver.
    await at("mxc://example.org/one")
    await asyncio.sleep(0.3)
    await at("mxc://example.org/two")
    await made.close()


@pytest.mark.virtual_time
async def test_what_cannot_be_read_is_not_asked_for_again_at_once() -> None:
    files = Files()
    async with proxy(files, failed=0.2) as relay:
        where = path(relay, files, "gone")
        for _ in range(20):
            with pytest.raises(TargetGone):
                async with relay.open(where):
                    raise AssertionError
        assert files.opened == ["gone"]
        files.files["gone"] = PNG
        await asyncio.sleep(0.25)
        async with relay.open(where) as file:
            assert isinstance(file, LinkedFile)
            assert await read(file) == PNG


async def test_a_file_that_is_shorter_or_longer_than_it_says_is_not_passed_on_as_whole() -> None:
    class Lying(Files):
        by = 0

        @asynccontextmanager
        async def open_media(self, media: MediaRef) -> AsyncIterator[MediaStream]:
            async with super().open_media(media) as stream:
                yield MediaStream((stream.size or 0) + self.by, stream.content_type, stream.chunks)

    for by in (10, -10):
        files = Lying(a=bytes(200 * KIB))
        files.by = by
        async with proxy(files) as relay, AsyncExitStack() as stack:
            with pytest.raises(FileUnavailable):
                await read(await opened(relay, stack, path(relay, files, "a")))


async def test_an_error_that_nobody_expected_is_not_told_to_the_reader() -> None:
    files = Files()
    files.errors["a"] = ValueError("a secret")
    async with proxy(files) as relay:
        with pytest.raises(FileUnavailable, match="something went wrong"):
            async with relay.open(path(relay, files, "a")):
                raise AssertionError


async def test_files_that_their_platform_gives_to_anyone_are_read_there() -> None:
    class Public(Files):
        async def public_url(self, media: MediaRef) -> str:
            return media.locator.replace("mxc:", "https:")

    files = Files()
    async with proxy(files) as relay:
        relay.serve(Platform.MATRIX, Public())
        # However large they are.
        url = relay.link(attachment(files.ref("a"), size=10**12), MESSAGE, since=NOW)
        async with relay.open(path_of(url)) as found:
            assert found == LinkedElsewhere("https://example.org/a")
        assert relay.link(attachment(MediaRef(Platform.DISCORD, "https://cdn.example/a")), MESSAGE, since=NOW) is None
        assert relay.link(replace(attachment(files.ref("a")), text="words"), MESSAGE, since=NOW) is None


async def test_a_link_ends_when_its_message_is_deleted_or_forgotten(tmp_path: Path) -> None:
    files, store = Files(cat=PNG), await open_store(new_store(tmp_path))
    relay = MediaProxy(signed(), stands=partial(stands, store))
    relay.serve(Platform.MATRIX, files)
    where = path(relay, files, "cat")

    async def at() -> bytes:
        async with relay.open(where) as file:
            assert isinstance(file, LinkedFile)
            return await read(file)

    with pytest.raises(Permanent, match="deleted"):
        await at()
    author = UserRef(Platform.MATRIX, "@mia:example.org")
    async with store.write() as uow:
        await uow.messages.add(MESSAGE, author, NOW, None)
    assert await at() == PNG
    async with store.write() as uow:
        original = await uow.messages.find(MESSAGE)
        assert original is not None
        await uow.messages.mark_deleted(original.id)
    with pytest.raises(Permanent, match="deleted"):
        await at()
    await relay.close()
    await store.close()


@pytest.mark.parametrize(
    ("head", "declared", "expected"),
    [
        (PNG, "image/png", "image/png"),
        (PNG, "IMAGE/JPEG; charset=x", "image/png"),
        (PNG, "", "image/png"),
        (PNG, "application/octet-stream", "image/png"),
        (PNG, "text/html", None),
        (PNG, "application/pdf", None),
        (b"<html><script>alert(1)</script>", "image/png", None),
        (b"<html><script>alert(1)</script>", "text/html", None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>", "image/svg+xml", None),
        (b"%PDF-1.7", "application/pdf", None),
        (b"PK\x03\x04", "application/zip", None),
        (b"\0\0\0\x18ftypmp42", "video/mp4", "video/mp4"),
        (b"\0\0\0\x18ftypmp42", "audio/mp4", "audio/mp4"),
        (b"OggS", "video/ogg", "video/ogg"),
        (b"OggS", "audio/evil", "audio/ogg"),
        (b"plain words", "text/plain", None),
        (b"", "image/png", None),
    ],
)
def test_a_browser_shows_only_what_its_bytes_and_its_platform_call_the_same(
    head: bytes, declared: str, expected: str | None
) -> None:
    assert inline_type(head, declared) == expected
