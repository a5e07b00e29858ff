"""Files behind links, through both adapters: renewed at Discord, read from homeservers that answer in unusual ways."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from relay.adapters.discord.api.client import RestClient
from relay.adapters.discord.api.rate_limits import RateLimits
from relay.adapters.discord.media import Media
from relay.adapters.matrix.api.client import Api
from relay.adapters.matrix.media import MediaRepository
from relay.core.clock import SystemClock
from relay.core.files import LinkedFile
from relay.domain.ids import MediaRef, Platform
from relay.errors import FileUnavailable, Permanent, TargetGone, Transient
from relay.media.proxy import Limits, MediaProxy
from relay.sandbox.faults import Fault
from tests.contract.test_file_servers import FileServer
from tests.support.discord import World
from tests.support.links import MESSAGE, NOW, attachment, path_of, signed, standing
from tests.support.patience import PATIENCE


@pytest.fixture
async def media(world: World) -> AsyncIterator[Media]:
    clock = SystemClock()
    rest = RestClient(token=world.app.token, api_url=world.server.api_url, clock=clock, limits=RateLimits(clock))
    yield Media(rest, None, world.server.origin)
    await rest.close()


async def status(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status


def attached(world: World) -> str:
    """Somebody sends a file; its address."""
    channel, author = str(world.channel.id), str(world.bob.id)
    said = world.server.control.say(channel, author, "", attachments=[{"filename": "a.txt", "data": "aGVsbG8="}])
    return str(said["attachments"][0]["url"])


def on_discord(url: str) -> MediaRef:
    return MediaRef(Platform.DISCORD, url)


async def test_the_address_of_an_attachment_is_renewed_once(world: World, media: Media) -> None:
    url = attached(world)
    world.server.control.expire_attachments()
    assert await status(url) == 404
    world.server.faults.add(Fault("delay", "POST", "/attachments/refresh-urls", seconds=0, count=None))
    fresh = [await media.public_url(on_discord(url)) for _ in range(3)]
    assert len(set(fresh)) == 1
    assert await status(fresh[0]) == 200
    assert world.server.faults.rest[0].seen == 1


async def test_what_needs_no_new_address_and_what_is_not_discords(world: World, media: Media) -> None:
    emoji = f"{world.server.origin}/emojis/1.png"
    assert await media.public_url(on_discord(emoji)) == emoji
    for url in ("https://evil.example/attachments/1/2/a.png", "http://127.0.0.1:1/", "file:///etc/passwd", ""):
        with pytest.raises(TargetGone):
            await media.public_url(on_discord(url))
    world.server.faults.add(Fault("status", "POST", "/attachments/refresh-urls", status=400))
    with pytest.raises(TargetGone):
        await media.public_url(on_discord(attached(world)))


async def test_a_limit_of_discord_is_told(world: World, media: Media) -> None:
    world.server.faults.add(Fault("rate_limit", "POST", "/attachments/refresh-urls", seconds=60))
    with pytest.raises(Transient) as caught:
        await media.public_url(on_discord(attached(world)))
    assert caught.value.retry_after is not None


@asynccontextmanager
async def served(patience: float = PATIENCE) -> AsyncIterator[tuple[FileServer, MediaProxy]]:
    server, clock = FileServer(), SystemClock()
    async with server.running():
        api = Api(server.url, "@relay:example.org")
        api.use_token("the-token")
        proxy = MediaProxy(signed(), stands=standing, limits=Limits(max_file=100_000, patience=patience))
        proxy.serve(Platform.MATRIX, MediaRepository(api, None, clock))
        yield server, proxy
        await proxy.close()
        await api.close()


async def read(proxy: MediaProxy, what: str) -> bytes:
    ref = MediaRef(Platform.MATRIX, f"mxc://a.test/{what}")
    async with proxy.open(path_of(proxy.link(attachment(ref), MESSAGE, since=NOW))) as file:
        assert isinstance(file, LinkedFile)
        return b"".join([chunk async for chunk in file.read(0)])


async def test_what_a_homeserver_gives() -> None:
    async with served() as (server, proxy):
        assert await read(proxy, "usual") == b"usual"
        assert await read(proxy, "untold") == b"untold"
        assert ["Bearer the-token" in head for head in server.seen] == [True, True]


@pytest.mark.parametrize("what", ["drip", "head", "less", "more", "broken"])
async def test_what_does_not_come(what: str) -> None:
    async with served(patience=1.0) as (_, proxy):
        with pytest.raises(FileUnavailable):
            await read(proxy, what)


@pytest.mark.parametrize("what", ["endless", "bomb"])
async def test_what_does_not_end(what: str) -> None:
    async with served() as (_, proxy):
        with pytest.raises(Permanent, match="too large to be passed on"):
            await read(proxy, what)


@pytest.mark.parametrize("elsewhere", ["http://127.0.0.1:1/usual", "https://localhost/usual", "", "//", "file:///x"])
async def test_nothing_inside_can_be_reached(elsewhere: str) -> None:
    other = FileServer()
    async with served() as (server, proxy), other.running():
        server.elsewhere = elsewhere.replace("http://127.0.0.1:1", other.url)
        with pytest.raises(Permanent, match="kept on a server that the relay does not read from"):
            await read(proxy, "away")
    assert other.seen == []
