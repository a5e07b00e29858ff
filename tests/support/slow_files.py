"""Files that come when a test says so, in place of what fetches them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from relay.core.files import File, Sender
from relay.core.ports import Delivery
from relay.domain.content import Attachment
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform
from relay.errors import FileRejected
from tests.support.platform import MemoryPlatform


class SlowFiles:
    """Files that come when they are told to. `state`: what `fetch` answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state: bool | None = None
        # How long a look takes; None: as long as was asked for.
        self.come: asyncio.Event | None = None
        self.looks = 0
        self.forgotten: list[str] = []
        post = MemoryPlatform.post

        def slow(platform: MemoryPlatform, delivery: Delivery) -> MessageRef:
            if delivery.content.attachments and not self.state:
                raise FileRejected(delivery.content.attachments[0].id, "out of reach so far", late=True)
            return post(platform, delivery)

        monkeypatch.setattr(MemoryPlatform, "post", slow)
        monkeypatch.setattr("relay.core.delivery.late_files._LOOK_SECONDS", 0.01)

    async def fetch(self, attachment: Attachment, *, channel: ChannelRef, max_bytes: int, wait: float) -> bool | None:
        self.looks += 1
        await (asyncio.sleep(wait) if self.come is None else self.come.wait())
        return self.state

    def forget(self, attachment: Attachment) -> None:
        self.forgotten.append(attachment.id)

    @asynccontextmanager
    async def open(
        self, attachments: Sequence[Attachment], *, max_bytes: int, sender: Sender | None = None
    ) -> AsyncIterator[Sequence[File]]:
        yield [File(one.name, one.content_type, 0, nothing()) for one in attachments]

    async def picture(self, media: MediaRef, *, side: int, max_bytes: int, wait: float) -> bytes:
        return b""

    async def copy_of(self, media: MediaRef, destination: Platform) -> MediaRef | None:
        return None

    async def remember(self, media: MediaRef, copy: MediaRef) -> None:
        return None


async def nothing() -> AsyncIterator[bytes]:
    """No bytes."""
    for chunk in list[bytes]():
        yield chunk
