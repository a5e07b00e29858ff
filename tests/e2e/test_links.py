"""Files that cannot cross, opened by somebody without an account, through a reverse proxy as in README."""

import asyncio
import io
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image
from yarl import URL

from relay.demo.homeserver import Homeserver, free_port
from tests.support.encrypted import encrypted
from tests.support.front import NAME, front, plain_client
from tests.support.gate import Gate
from tests.support.links import Asker
from tests.support.pictures import still
from tests.support.stack import FullStack, eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1024 * 1024
OVER = 11 * MIB  # Discord takes ten


class World:
    """The stack, what stands in front of its daemon, and somebody without an account."""

    def __init__(self, stack: FullStack, gate: Gate, port: int, client: aiohttp.ClientSession) -> None:
        self.stack, self.gate, self.port, self.client = stack, gate, port, client

    async def link(self, data: bytes, kind: str, name: str, *, secret: bool = False, claimed: str | None = None) -> str:
        """Mia sends a file over the limit; the link on Discord."""
        content: dict[str, Any] = {"msgtype": "m.file", "body": name, "info": {"mimetype": claimed or kind}}
        content["info"]["size"] = len(data)
        if secret:
            hidden, fields = encrypted(data)
            content["file"] = {**fields, "url": await self.stack.mia.upload(hidden, "application/octet-stream")}
        else:
            content["url"] = await self.stack.mia.upload(data, kind)
        known = len(self.stack.on_discord("help"))
        await self.stack.mia.send(self.stack.rooms["help"], content)
        words = (await self.stack.until_discord("help", lambda seen: len(seen) > known))[-1]
        found = re.search(rf"\(<(http://{NAME}:{self.port}/media/[^>]+)>\)", words)
        assert found is not None, words
        assert "[message](<https://matrix.to/" in words
        return found[1]

    @asynccontextmanager
    async def opened(self, url: str, method: str = "GET", **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self.client.request(method, URL(url, encoded=True), headers=headers) as answer:
            yield answer

    async def read(self, url: str, **headers: str) -> tuple[int, bytes]:
        async with self.opened(url, **headers) as answer:
            return answer.status, await answer.read()

    @property
    def memory(self) -> int:
        """Bytes that the daemon has at present."""
        status = Path(f"/proc/{self.stack.daemon.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@asynccontextmanager
async def world(folder: Path, homeserver: Homeserver, extra: str = "") -> AsyncIterator[World]:
    port = free_port()
    async with AsyncExitStack() as exits:
        made = await exits.enter_async_context(stack(folder, homeserver))
        gate = await exits.enter_async_context(Gate(homeserver.url))
        made.write_config(extra=f'public_url = "http://{NAME}:{port}"\n{extra}', homeserver_url=gate.url)
        await made.daemon.start()
        await exits.enter_async_context(front(folder, port, made.daemon.url))
        client = await exits.enter_async_context(plain_client())
        yield World(made, gate, port, client)


def film(size: int) -> bytes:
    return b"\0\0\0\x18ftypmp42" + bytes(range(256)) * (size // 256)


async def test_whoever_has_no_account_opens_what_is_too_large(homeserver: Homeserver, tmp_path: Path) -> None:
    async with world(tmp_path, homeserver) as place:
        data = film(OVER)
        url = await place.link(data, "video/mp4", "der Film.mp4")
        async with place.opened(url, "HEAD") as answer:
            assert answer.status == 200
            tag = answer.headers["ETag"]
        async with place.opened(url) as answer:
            assert answer.headers["Content-Type"] == "video/mp4"
            assert answer.headers["Content-Disposition"].startswith("inline;")
            assert answer.headers["Content-Length"] == str(len(data))
            assert await answer.read() == data
        # A player asks for parts.
        assert await place.read(url, Range="bytes=0-1") == (206, data[:2])
        assert await place.read(url, Range=f"bytes={OVER - 1000}-") == (206, data[OVER - 1000 :])
        assert await place.read(url, **{"Range": "bytes=5-9", "If-Range": tag}) == (206, data[5:10])
        assert (await place.read(url, **{"Range": "bytes=5-9", "If-Range": '"x"'}))[0] == 200
        assert (await place.read(url, Range="bytes=99999999-"))[0] == 416

        # What came encrypted is decrypted; its key is not to be seen in the link.
        secret = await place.link(data, "video/mp4", "secret.mp4", secret=True)
        async with place.opened(secret) as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, "video/mp4")
            assert await answer.read() == data

        # A page that calls itself a picture is a download, and may do nothing.
        page = b"<html><script>alert(1)</script>" + b" " * OVER
        liar = await place.link(page, "image/png", "cat.png")
        async with place.opened(liar) as answer:
            assert (answer.status, answer.content_type) == (200, "application/octet-stream")
            assert answer.headers["Content-Disposition"].startswith("attachment;")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Security-Policy"].startswith("sandbox;")

        # Nothing else is reachable, and no other link.
        asker = Asker("127.0.0.1", place.port)
        root, *_ = url.rpartition("/")
        for path in (
            "/",
            "/metrics",
            "/healthz",
            "/media/../metrics",
            "/media/..%2fmetrics",
            "/media/",
            "/media/%2e%2e/",
        ):
            assert await asker.status(path, NAME) in {400, 404}, path
        for bad in (f"{root}/other.mp4", f"{url}x", url[:-1], url.replace("/media/", "/media/1"), f"{url}?x"):
            assert (await place.read(bad))[0] == 404, bad
        asker.close()

        # Whoever deletes a message ends its link.
        [*_, last] = await place.stack.on_matrix("help")
        await place.stack.mia.redact(place.stack.rooms["help"], last.event_id)
        await place.stack.until_discord("help", lambda words: len(words) == 2)
        # That the copy is gone is on record a moment after it can be seen.
        await eventually(lambda: place.read(liar), lambda seen: seen[0] == 410, what=place.stack.daemon.log)

        # Links outlive the daemon, whatever ends it.
        await place.stack.daemon.kill()
        assert (await place.read(url, Range="bytes=0-1"))[0] in {502, 500}
        await place.stack.daemon.start()
        port = free_port()
        async with front(tmp_path, port, place.stack.daemon.url):
            assert await place.read(url.replace(f":{place.port}/", f":{port}/"), Range="bytes=0-1") == (206, data[:2])


async def test_a_large_file_costs_little_memory_and_a_hanging_homeserver_nothing_else(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with world(tmp_path, homeserver) as place:
        data = film(50 * MIB - 1024)
        url = await place.link(data, "video/mp4", "long.mp4")
        other = await place.link(film(OVER), "video/mp4", "other.mp4")
        before = place.memory
        # Somebody jumps to the end, while another begins at the start; the rate of all is what one client gets.
        (status, end), (whole_status, whole) = await asyncio.gather(
            place.read(url, Range="bytes=-1000"), place.read(url)
        )
        assert (status, end) == (206, data[-1000:])
        assert whole_status == 200
        assert whole == data
        assert place.memory - before < 25 * MIB

        await place.gate.stick()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await place.read(other)
        assert await place.stack.daemon.get("/healthz") == (200, '{"alive": true}')
        assert await place.read(url, Range="bytes=0-1") == (206, data[:2])
        await place.gate.open()
        await eventually(lambda: place.read(other), lambda seen: seen == (200, film(OVER)))
        await place.stack.tell("help", "goes on")
        await place.stack.until_discord("help", lambda words: words[-1] == "goes on")


async def test_what_is_too_large_for_matrix_is_opened_at_discord_for_longer_than_a_day(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with world(tmp_path, homeserver) as place:
        place.stack.say("help", "the film", attachments=[{"filename": "film.mp4", "zeros": 52_500_000}])
        await place.stack.until_matrix("help", lambda words: len(words) == 1)
        (copy,) = await place.stack.on_matrix("help")
        found = re.search(rf'<a href="(http://{NAME}:{place.port}/media/[^"]+)"', copy.formatted_body)
        assert found is not None, copy.formatted_body
        place.stack.control.expire_attachments()
        for _ in range(2):
            async with place.opened(found[1]) as answer:
                assert answer.status == 200
                assert answer.content_length == 52_500_000
                assert answer.url.host == "127.0.0.1"
                assert len(answer.history) == 1


async def test_faces_from_the_public_address(homeserver: Homeserver, tmp_path: Path) -> None:
    """With the first message, small, for ever, and no emoji is made."""
    async with world(tmp_path, homeserver, "avatars = true") as place:
        mia, room = place.stack.mia, place.stack.rooms["help"]
        uri = await mia.set_avatar(still("PNG", 1200, 900), "image/png")
        await eventually(lambda: mia.state(room, "m.room.member", mia.user_id), lambda it: it.get("avatar_url") == uri)
        await place.stack.tell("help", "hello")
        await place.stack.until_discord("help", lambda seen: seen == ["hello"])
        (message,) = place.stack.on_discord("help")
        url = message["webhook_avatar_url"]
        assert url.startswith(f"http://{NAME}:{place.port}/media/0/")
        status, data = await place.read(url)
        assert status == 200
        with Image.open(io.BytesIO(data)) as picture:
            assert max(picture.size) <= 400
        await place.stack.tell("help", "again")
        await place.stack.until_discord("help", lambda seen: seen == ["hello", "again"])
        assert {one["webhook_avatar_url"] for one in place.stack.on_discord("help")} == {url}
        assert not place.stack.control.application_emojis(place.stack.bot)
