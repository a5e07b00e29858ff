"""A homeserver of which sync tells nothing for a while, although all else works."""

import asyncio
from dataclasses import dataclass, field

from aiohttp import web

from tests.support.matrix import HomeserverProxy


@dataclass
class Unsynced:
    """What a proxy in front of the homeserver keeps back."""

    proxy: HomeserverProxy
    # Cleared: sync tells nothing.
    tells: asyncio.Event = field(default_factory=asyncio.Event)
    # In which room a message is sent whose answer is lost, while all that is sent after it never arrives; "" for none.
    lost_in: str = ""
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.tells.set()
        self.proxy.answer = self.answer

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        """The proxy's `answer`."""
        if request.path.endswith("/sync"):
            told = await self.proxy.carry_out(request)
            await self.tells.wait()
            return told
        if self.lost_in and f"/rooms/{self.lost_in}/send/m.room.message/" in request.path:
            if not self.lost.is_set():
                await self.proxy.carry_out(request)
                self.lost.set()
            await asyncio.Event().wait()
        return None
