"""What a message consists of, whoever wrote it and wherever."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from relay.domain.ids import MediaRef, UserRef
from relay.domain.names import shortened
from relay.domain.text.nodes import RichText, Subtext, Text

MOST_FILES = 10
"""Of one message: an event of Matrix has room for the addresses of a thousand."""

_MOST_NAMED = 5

MediaKind = Literal["image", "video", "audio", "voice", "file", "sticker"]


@dataclass(frozen=True, slots=True)
class Author:
    """Who wrote a message.

    `name` is the display name as the platform shows it, unchecked; `handle` is what tells this author from others of
    that name, shorter than the ID ("" where there is no such thing); `avatar` is None for none. `is_self` marks the
    relay's own accounts and webhooks, by ID, never by name. `may_broadcast`: the platform lets this author ping
    everyone in the channel.
    """

    user: UserRef
    name: str
    avatar: MediaRef | None = None
    is_self: bool = False
    is_bot: bool = False
    may_broadcast: bool = False
    handle: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of a message, not its bytes.

    `size` in bytes, None where unknown; `width`, `height` in pixels; `duration` in seconds. `url` is where a reader can
    open it on its own platform, "" for nowhere; where that address expires, `page` is one that does not, of its
    message. `text`: its whole content, for a file that the relay makes itself.
    """

    id: str
    name: str
    kind: MediaKind
    source: MediaRef
    content_type: str = "application/octet-stream"
    size: int | None = None
    width: int | None = None
    height: int | None = None
    duration: float | None = None
    alt: str = ""
    spoiler: bool = False
    animated: bool = False
    waveform: tuple[int, ...] = ()
    thumbnail: MediaRef | None = None
    url: str = ""
    page: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """What a message says. `style` "emote" is Matrix's `/me`; "notice" is what bots say, which nobody answers.

    `calls_answered`: whoever is answered by it is to be notified.
    """

    text: RichText = field(default_factory=RichText)
    attachments: tuple[Attachment, ...] = ()
    style: Literal["text", "emote", "notice"] = "text"
    calls_answered: bool = False

    def __bool__(self) -> bool:
        return bool(self.text) or bool(self.attachments)


@dataclass(frozen=True, slots=True)
class Quotation:
    """What is shown of a message that is replied to, where replies are not native. `is_self`: the relay posted it.

    `user`: its author, where the platform can notify them.
    """

    author: str
    text: RichText
    url: str
    is_self: bool = False
    user: UserRef | None = None


def with_most_files(content: Content, more: Sequence[str] = ()) -> Content:
    """`content` with as many files as may cross; what is over is named and counted in one line, and so is `more`.

    Of `more` there are only the names, "" for one that is to be named nowhere.
    """
    over = ["" if file.spoiler else file.name for file in content.attachments[MOST_FILES:]] + [*more]
    if not over:
        return content
    named = [shortened(" ".join(name.split())) for name in over if name.strip()][:_MOST_NAMED]
    words = f"and {len(over):,} more {'file' if len(over) == 1 else 'files'}, not carried over"
    if named:
        words += f": {', '.join(named)}{', …' if len(named) < len(over) else ''}"
    text = RichText((*content.text.blocks, Subtext((Text(words),))))
    return replace(content, text=text, attachments=content.attachments[:MOST_FILES])
