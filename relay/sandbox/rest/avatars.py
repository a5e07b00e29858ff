"""Discord fetches the picture that a webhook names, without credentials, and keeps what it got for long.

Only loopback addresses are asked: a sandbox sends nothing to the network. What is at any other one counts as dead.
"""

import asyncio
import ipaddress
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

import aiohttp
from yarl import URL

from relay.sandbox.world.files import FileStore
from relay.sandbox.world.models import FetchedAvatar, Json
from relay.sandbox.world.pictures import read_picture
from relay.sandbox.world.state import State

MAX_BYTES = 8 * 1024 * 1024
_TIMEOUT = 10.0
_MAX_REDIRECTS = 3

Listener = Callable[[Json], None]


class AvatarFetcher:
    """Fetches each URL once; one that gave no picture is tried again when it is next used. `listener`: told of each."""

    def __init__(self, state: State, files: FileStore, listener: Listener) -> None:
        self.state = state
        self.files = files
        self.listener = listener
        self._session: aiohttp.ClientSession | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """From now on, every picture that a webhook names is fetched."""
        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent",),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT),
        )
        self.state.fetch_avatar = self.request

    async def stop(self) -> None:
        """Give up what is on its way."""
        self.state.fetch_avatar = None
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def request(self, url: str) -> None:
        """Begin to fetch a picture, unless it is here or on its way."""
        found = self.state.fetched_avatars.setdefault(url, FetchedAvatar(url))
        if url in self._tasks or (found.fetches and found.error is None):
            return
        self._tasks[url] = asyncio.create_task(self._fetch(found), name="sandbox avatar")
        self._tasks[url].add_done_callback(lambda _: self._tasks.pop(url, None))

    async def settled(self, url: str) -> FetchedAvatar | None:
        """What was got, once it is known."""
        task = self._tasks.get(url)
        if task is not None:
            await asyncio.wait([task])
        return self.state.fetched_avatars.get(url)

    async def _fetch(self, found: FetchedAvatar) -> None:
        found.fetches += 1
        found.pending, found.status, found.content_type, found.size = True, None, None, None
        try:
            found.error = await self._get(found)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            found.error = f"no answer: {type(error).__name__}"
        found.pending = False
        self.listener(avatar_view(found))

    async def _get(self, found: FetchedAvatar) -> str | None:
        """Fetch it; why there is no picture, or None."""
        if self._session is None:
            return "the sandbox is not running"
        target = URL(found.url)
        for _ in range(_MAX_REDIRECTS + 1):
            if not _is_loopback(target.host):
                return "not asked: the sandbox fetches from loopback addresses only"
            async with self._session.get(target, allow_redirects=False) as response:
                found.status, found.content_type = response.status, response.content_type
                if response.status in {301, 302, 303, 307, 308} and "Location" in response.headers:
                    target = target.join(URL(response.headers["Location"]))
                    continue
                if response.status != HTTPStatus.OK:
                    return f"status {response.status}"
                return await self._read(found, response)
        return "too many redirects"

    async def _read(self, found: FetchedAvatar, response: aiohttp.ClientResponse) -> str | None:
        data = bytearray()
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > MAX_BYTES:
                return f"larger than {MAX_BYTES} bytes"
        found.size = len(data)
        picture = await asyncio.to_thread(read_picture, bytes(data))
        if picture is None or not response.content_type.startswith("image/"):
            return f"no picture, but {response.content_type}"
        found.content_type = picture.content_type
        found.width, found.height, found.animated = picture.width, picture.height, picture.animated
        found.file = self.files.put(bytes(data))
        return None


def avatar_view(found: FetchedAvatar) -> Json:
    """As the control interface shows it."""
    body: dict[str, Any] = asdict(found)
    del body["file"]
    return body


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
