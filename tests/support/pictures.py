"""Small pictures of every kind, made for a test; and an other side that has them."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from PIL import Image

from relay.core.files import File, Sender
from relay.domain.content import Attachment
from relay.domain.ids import ChannelRef, MediaRef, Platform
from relay.errors import FileUnavailable, TargetGone

_COLOURS = ("red", "green", "blue")


def still(kind: str = "PNG", width: int = 64, height: int = 64, colour: str = "red") -> bytes:
    """A picture of one colour; `kind` as Pillow names it."""
    made = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(made, kind)
    return made.getvalue()


def moving(kind: str = "GIF", width: int = 64, height: int = 64) -> bytes:
    """A picture with three frames."""
    frames = [Image.new("RGB", (width, height), colour) for colour in _COLOURS]
    made = io.BytesIO()
    frames[0].save(made, kind, save_all=True, append_images=frames[1:], duration=100, loop=0)
    return made.getvalue()


def data_uri(data: bytes, content_type: str = "image/png") -> str:
    """A picture as Discord's API takes it."""
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


@dataclass
class Photographs:
    """Files of the other side: pictures by their address."""

    pictures: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    # Answers come once it is set.
    open_gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open_gate.set()

    async def picture(self, media: MediaRef, *, side: int, max_bytes: int, wait: float) -> bytes:
        self.asked.append(media.locator)
        await self.open_gate.wait()
        found = self.pictures.get(media.locator)
        if found is None:
            raise FileUnavailable("its server is away") if "away" in media.locator else TargetGone("none")
        return found

    @asynccontextmanager
    async def open(
        self, attachments: Sequence[Attachment], *, max_bytes: int, sender: Sender | None = None
    ) -> AsyncIterator[Sequence[File]]:
        assert not attachments, "no file crosses here"
        yield []

    async def fetch(self, attachment: Attachment, *, channel: ChannelRef, max_bytes: int, wait: float) -> bool | None:
        return None

    def forget(self, attachment: Attachment) -> None: ...

    async def copy_of(self, media: MediaRef, destination: Platform) -> MediaRef | None:
        return None

    async def remember(self, media: MediaRef, copy: MediaRef) -> None: ...
