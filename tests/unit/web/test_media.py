"""Files for those who have a link, over real sockets on loopback."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from relay.config.settings import WebSettings
from relay.core.files import MediaStream
from relay.domain.ids import MediaRef
from relay.errors import FileUnavailable, Permanent, Transient
from relay.web import media
from relay.web.media import Bucket, Rates, Throttle, asked_range, client_of, disposition
from relay.web.server import HEADERS, WebServer
from tests.support.links import PNG, PUBLIC, Asker, Files, Status, bad_paths, serving, signed
from tests.support.patience import PATIENCE

FILM = b"\0\0\0\x18ftypmp42" + random.Random(1).randbytes(300_000)


async def test_a_picture_is_shown_and_can_do_nothing() -> None:
    files = Files(cat=PNG)
    files.types["cat"] = "image/png"
    async with serving(files) as served, served.asked(served.path("cat", "meine Katze ☹.png")) as answer:
        assert answer.status == 200
        assert await answer.read() == PNG
        headers = answer.headers
        assert headers["Content-Type"] == "image/png"
        expected = "inline; filename=\"meine Katze _.png\"; filename*=UTF-8''meine%20Katze%20%E2%98%B9.png"
        assert headers["Content-Disposition"] == expected
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'; ")
        assert "allow" not in headers["Content-Security-Policy"]
        assert headers["Content-Length"] == str(len(PNG))
        assert headers["Accept-Ranges"] == "bytes"
        assert headers["Server"] == "relay"


@pytest.mark.parametrize("declared", ["image/png", "text/html", "image/svg+xml", "application/pdf", ""])
async def test_what_may_run_is_a_download(declared: str) -> None:
    files = Files(page=b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    files.types["page"] = declared
    async with serving(files) as served, served.asked(served.path("page", 'a"b.html')) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Disposition"] == "attachment; filename=\"a_b.html\"; filename*=UTF-8''a_b.html"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("asked", "status", "begin", "end"),
    [
        ("bytes=0-", 206, 0, len(FILM)),
        ("bytes=0-1", 206, 0, 2),
        ("bytes=100000-199999", 206, 100_000, 200_000),
        ("bytes=-500", 206, len(FILM) - 500, len(FILM)),
        ("bytes=-99999999", 206, 0, len(FILM)),
        ("bytes=299000-99999999", 206, 299_000, len(FILM)),
        ("bytes=0-1,5-6", 200, 0, len(FILM)),
        ("bytes=5-1", 200, 0, len(FILM)),
        ("lines=1-2", 200, 0, len(FILM)),
        ("bytes=", 200, 0, len(FILM)),
        ("bytes=99999999-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
    ],
)
async def test_parts_of_a_film(asked: str, status: int, begin: int, end: int) -> None:
    async with serving(Files(film=FILM)) as served, served.asked(served.path("film"), Range=asked) as answer:
        assert answer.status == status
        if status == 416:
            assert answer.headers["Content-Range"] == f"bytes */{len(FILM)}"
            assert HEADERS.items() <= dict(answer.headers).items()
            return
        assert await answer.read() == FILM[begin:end]
        assert answer.headers["Content-Length"] == str(end - begin)
        assert answer.headers["Content-Type"] == "video/mp4"
        if status == 206:
            assert answer.headers["Content-Range"] == f"bytes {begin}-{end - 1}/{len(FILM)}"


async def test_a_part_only_of_the_file_that_is_meant() -> None:
    async with serving(Files(film=FILM)) as served:
        path = served.path("film")
        async with served.asked(path, "HEAD") as answer:
            assert (answer.status, await answer.read()) == (200, b"")
            assert answer.headers["Content-Length"] == str(len(FILM))
            tag = answer.headers["ETag"]
        assert await served.status(path, **{"Range": "bytes=0-9", "If-Range": tag}) == 206
        assert await served.status(path, **{"Range": "bytes=0-9", "If-Range": '"another"'}) == 200
        assert await served.status(path, **{"Range": "bytes=0-9", "If-Range": "Sat, 28 Nov 2026 00:00:00 GMT"}) == 200
        async with served.asked(path, **{"If-None-Match": tag}) as answer:
            assert (answer.status, await answer.read()) == (304, b"")
            assert answer.headers["ETag"] == tag
        async with served.asked(path, "HEAD", Range="bytes=5-9") as answer:
            assert answer.headers["Content-Length"] == "5"
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            async with served.asked(path, method) as answer:
                assert answer.status == 405


async def test_a_file_of_no_bytes_and_one_of_unknown_length() -> None:
    files = Files(none=b"", some=FILM)
    async with serving(files) as served:
        async with served.asked(served.path("none")) as answer:
            assert (answer.status, await answer.read()) == (200, b"")
        assert await served.status(served.path("none"), Range="bytes=0-") == 416
        files.tells_size = False
        async with served.asked(served.path("some"), Range="bytes=5-") as answer:
            assert (answer.status, await answer.read()) == (200, FILM)
            assert "Accept-Ranges" not in answer.headers
        # By now it lies on disk.
        async with served.asked(served.path("some"), Range="bytes=5-") as answer:
            assert (answer.status, await answer.read()) == (206, FILM[5:])


async def test_bad_links_are_not_served() -> None:
    files = Files(a=PNG, b=PNG)
    rng = random.Random(10)
    async with serving(files) as served:
        paths = bad_paths(rng, signed(), [files.ref("a"), files.ref("b")])
        url = served.url("/")
        asker = Asker(url.host or "", url.port or 0)
        for _ in range(100):
            path = next(paths)
            assert await asker.status(path) in {400, 404, 410}, path
        asker.close()
        assert files.opened == []
        assert await served.status(served.path("a")) == 200


async def test_what_cannot_be_read_is_told_without_what_is_behind_it() -> None:
    files = Files()
    files.errors = {
        "away": Transient("no connection to http://10.0.0.5:8008 (refused)"),
        "limited": FileUnavailable("http://10.0.0.5:8008 limits us", retry_after=61.2),
        "odd": Permanent("not what its sender encrypted"),
    }
    async with serving(files) as served:
        for name, status, after in (("away", 503, "10"), ("limited", 503, "62"), ("odd", 410, None)):
            async with served.asked(served.path(name)) as answer:
                assert answer.status == status
                assert answer.headers.get("Retry-After") == after
                assert "10.0.0.5" not in await answer.text()
                assert HEADERS.items() <= dict(answer.headers).items()


async def test_a_server_that_hangs() -> None:
    files = Files(cat=PNG)
    files.gate.clear()
    async with serving(files, patience=0.3) as served:
        assert await served.status(served.path("cat")) == 503
        assert await served.status("/healthz") == 200
        files.gate.set()
        assert await served.status(served.path("cat")) == 200


async def test_a_file_that_breaks_off_does_not_look_whole() -> None:
    class Short(Files):
        @asynccontextmanager
        async def open_media(self, media: MediaRef) -> AsyncIterator[MediaStream]:
            async with super().open_media(media) as stream:
                yield MediaStream((stream.size or 0) + 5, stream.content_type, stream.chunks)

    async with serving(Short(film=FILM)) as served, served.asked(served.path("film")) as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientError):
            await answer.read()


async def test_the_public_name_has_nothing_but_files() -> None:
    async with serving(Files(cat=PNG)) as served:
        host = {"Host": URL(PUBLIC).host or ""}
        assert await served.status(served.path("cat"), **host) == 200
        assert await served.status(served.path("cat"), Host="relay.example.org:443") == 200
        for path in ("/", "/metrics", "/healthz", "/readyz", "/nothing"):
            assert await served.status(path, **host) == 404
        assert await served.status(served.path("cat"), Host="evil.example") == 421
        assert await served.status("/metrics") == 200


async def test_a_public_url_below_a_path() -> None:
    async with serving(Files(cat=PNG), public_url="https://example.org/relay") as served:
        path = served.path("cat")
        for each in (path, f"/relay{path}"):
            assert await served.status(each, Host="example.org") == 200
        assert await served.status("/relay/metrics", Host="example.org") == 404
        assert await served.status(f"/other{path}", Host="example.org") == 404


async def test_without_a_public_url_there_is_no_such_path() -> None:
    server = WebServer(status=Status(), settings=WebSettings(listen="127.0.0.1:0"))
    async with aiohttp.ClientSession(base_url=await server.start()) as client:
        async with client.get("/media/0/x/y/z") as answer:
            assert answer.status == 404
        async with client.get("/", headers={"Host": ""}) as answer:
            assert answer.status == 421
    await server.close()


async def test_one_client_takes_not_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "Rates", lambda: Rates(requests=0.001, requests_burst=3, open=2))
    files = Files(cat=PNG, film=FILM, song=FILM)
    async with serving(files) as served:
        path, one = served.path("cat"), {"X-Forwarded-For": "203.0.113.7"}
        assert [await served.status(path, **one) for _ in range(4)] == [200, 200, 200, 429]
        # What a client says itself stands before what the proxy says.
        assert await served.status(path, **{"X-Forwarded-For": "198.51.100.1, 203.0.113.7"}) == 429
        assert await served.status(path, **{"X-Forwarded-For": "203.0.113.7, 198.51.100.1"}) == 200
        files.gate.clear()
        other = {"X-Forwarded-For": "2001:db8::1"}
        waiting = [asyncio.create_task(served.status(served.path(name), **other)) for name in ("film", "song")]
        async with asyncio.timeout(PATIENCE):
            while files.open < 2:  # noqa: ASYNC110 - what is waited for happens in the server
                await asyncio.sleep(0.01)
        assert await served.status(path, **{"X-Forwarded-For": "2001:db8::2"}) == 429
        files.gate.set()
        assert [await one for one in waiting] == [200, 200]


async def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "_PIECE_SECONDS", 0.2)
    files = Files(big=bytes(30 * 1024 * 1024))
    async with serving(files, ahead=1024 * 1024, linger=0.1) as served:
        url = served.url(served.path("big"))
        reader, writer = await asyncio.open_connection(url.host, url.port, limit=1024)
        writer.write(f"GET {url.raw_path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE):
            await reader.readline()
            while files.open:  # noqa: ASYNC110 - what is waited for happens in the server
                await asyncio.sleep(0.05)
        assert files.read["big"] < 25 * 1024 * 1024
        writer.transport.abort()


async def test_a_client_that_leaves_is_nothing_to_tell_of(caplog: pytest.LogCaptureFixture) -> None:
    files = Files(big=bytes(30 * 1024 * 1024))
    async with serving(files, ahead=1024 * 1024, linger=0.1) as served:
        async with served.asked(served.path("big")) as answer:
            await answer.content.readexactly(100_000)
            answer.close()
        async with asyncio.timeout(PATIENCE):
            while files.open:  # noqa: ASYNC110 - what is waited for happens in the server
                await asyncio.sleep(0.05)
    assert not [one for one in caplog.records if one.name.startswith("aiohttp")]


async def test_bytes_go_out_at_the_rate() -> None:
    bucket = Bucket(rate=100.0, burst=50.0)
    assert bucket.take(50, 10.0) == 0
    assert bucket.take(100, 10.0) == pytest.approx(1.0)
    assert bucket.take(0, 11.0) == 0
    assert bucket.full(11.0)
    assert not bucket.full(11.5)
    throttle = Throttle(Rates(clients=2, all_open=2))
    with throttle.admitted("a"), throttle.admitted("b"):
        with pytest.raises(web.HTTPServiceUnavailable), throttle.admitted("c"):
            raise AssertionError
        # Those who are here are not forgotten for others.
        with pytest.raises(web.HTTPServiceUnavailable), throttle.admitted("a"):
            raise AssertionError


@pytest.mark.parametrize(
    ("remote", "forwarded", "client"),
    [
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("172.17.0.1", ["1.2.3.4, 203.0.113.7"], "203.0.113.7"),
        ("::1", ["1.2.3.4", "2001:db8:1:2:3::4"], "2001:db8:1:2::/64"),
        ("127.0.0.1", ["nonsense"], "127.0.0.1"),
        ("", [], ""),
        ("8.8.8.8", ["203.0.113.7"], "8.8.8.8"),
        ("::ffff:8.8.8.8", ["203.0.113.7"], "8.8.8.8"),
    ],
)
def test_whose_request_it_is(remote: str, forwarded: list[str], client: str) -> None:
    assert client_of(remote, forwarded) == client


def test_headers_from_any_name() -> None:
    assert disposition('a\r\nb"\\%41\ud800.png', inline=False).count("\n") == 0
    assert asked_range("bytes=0-0", 1) == range(1)
    assert asked_range(None, 1) is None
