"""Files on their way from one platform to the other, and links to them, as protocols."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from relay.domain.content import Attachment
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.errors import DeliveryError


@dataclass(frozen=True, slots=True)
class MediaStream:
    """The bytes of a file as they arrive from its platform."""

    size: int | None  # in bytes; None if the platform does not say
    content_type: str
    chunks: AsyncIterator[bytes]


class MediaSource(Protocol):
    """An adapter's files, for the other side."""

    def open_media(self, media: MediaRef) -> AbstractAsyncContextManager[MediaStream]:
        """Open a file of this platform. Raises `TargetGone` where there is none, `FileUnavailable`, `Transient`.

        Chunks raise the last two. `Permanent`: it is there, and of no use; its words follow "it is".
        """
        ...


@runtime_checkable
class ThumbnailSource(Protocol):
    """An adapter whose platform can make pictures small."""

    def open_thumbnail(self, media: MediaRef, side: int) -> AbstractAsyncContextManager[MediaStream]:
        """Open a picture that is about `side` pixels wide and high; it moves if the whole one does.

        Raises as `MediaSource.open_media` does. `TargetGone` also where the platform takes it for no picture.
        """
        ...


@dataclass(slots=True)
class File:
    """A file on its way to the other side: exactly `size` bytes, read once."""

    name: str  # safe on any platform
    content_type: str
    size: int
    chunks: AsyncIterator[bytes]
    # Why its platform did not deliver it whole, once reading has raised that: HTTP libraries wrap the error.
    failure: DeliveryError | None = None


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose files are waited for, and by what: the messages to `channel` behind theirs."""

    channel: ChannelRef
    author: UserRef


@runtime_checkable
class PublicSource(Protocol):
    """A `MediaSource` whose platform itself lets anyone read a file, at an address that may end soon."""

    async def public_url(self, media: MediaRef) -> str:
        """An address of the file that works now. Raises `TargetGone`, `FileUnavailable`, `Transient`."""
        ...


class MediaLinks(Protocol):
    """Links that anyone can open, without an account, to files that cannot cross."""

    def link(self, file: Attachment, message: MessageRef, *, since: datetime) -> str | None:
        """A link to a file of a message; None where none can be made. No I/O; the same arguments give the same link.

        Whoever has it may read the file. So it is made only while a command of a pair that names the file is resolved:
        that is the proof that the file belongs to a message that is mirrored. It ends when the message is deleted, and
        some time after `since`, when the command was queued.
        """
        ...


class PictureLinks(Protocol):
    """Links that anyone can open to pictures of people."""

    def picture_link(self, picture: MediaRef) -> str | None:
        """A link to the picture of somebody who wrote in a pair, made small; None where none can be made. No I/O.

        It does not end, because their messages go on showing it.
        """
        ...


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """A file that a link leads to, while it is read."""

    name: str  # safe on any platform
    # If browsers may show it: its first bytes say the same as its platform, and such files cannot run anything.
    inline_type: str | None
    size: int | None  # in bytes; None if that is not known yet
    tag: str  # tells it from every other file, and shows nothing of it
    read: Callable[[int], AsyncIterator[bytes]]  # the bytes from a place on; raises `FileUnavailable`, `Permanent`


@dataclass(frozen=True, slots=True)
class LinkedElsewhere:
    """A file that a link leads to, which its platform itself gives to anyone."""

    url: str


class Files(Protocol):
    """Files of all platforms, for an adapter to send to its own."""

    def open(
        self, attachments: Sequence[Attachment], *, max_bytes: int, sender: Sender | None = None
    ) -> AbstractAsyncContextManager[Sequence[File]]:
        """Open the files of one message side by side, each of at most `max_bytes` bytes.

        Raises `FileRejected` for one that never can cross, or not in the time that `sender` has; else `Transient`.
        `sender` None: the caller sets the time.
        """
        ...

    async def fetch(self, attachment: Attachment, *, channel: ChannelRef, max_bytes: int, wait: float) -> bool | None:
        """Whether a late file is at hand by now, for `open`; False if it never will be, None while it is being fetched.

        Fetching goes on in the background. `channel`: where the file is wanted. `wait`: how long to wait here.
        """
        ...

    def forget(self, attachment: Attachment) -> None:
        """A late file is not wanted any more."""
        ...

    async def picture(self, media: MediaRef, *, side: int, max_bytes: int, wait: float) -> bytes:
        """A picture in about that size, of at most `max_bytes`, within `wait` seconds.

        Its type is unknown. Raises `TargetGone` where there is none, `Permanent` if it is of no use, else `Transient`.
        """
        ...

    async def copy_of(self, media: MediaRef, destination: Platform) -> MediaRef | None:
        """Where a small picture that many messages show (an emoji, a sticker) stands already; None: nowhere yet."""
        ...

    async def remember(self, media: MediaRef, copy: MediaRef) -> None:
        """The picture `media` stands as `copy` from now on."""
        ...
