"""What a message consists of, on any platform, and how much of it a channel can carry."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from relay.domain.ids import MediaRef, UserRef
from relay.domain.names import shortened
from relay.domain.text.nodes import RichText, Subtext, Text

# The most files of one message that cross: one event of Matrix can name a thousand.
MAX_FILES = 10

_MAX_NAMED = 5

MediaKind = Literal["image", "video", "audio", "voice", "file", "sticker"]


@dataclass(frozen=True, slots=True)
class Author:
    """Who wrote a message."""

    user: UserRef
    # The display name as the platform shows it, unchecked.
    name: str
    avatar: MediaRef | None = None
    # One of the relay's own accounts and webhooks: known by ID, never by name.
    is_self: bool = False
    is_bot: bool = False
    # This message is meant to notify everyone in the channel, and the platform lets its author do that. It belongs to
    # the message rather than the author; the field stays here because stored commands have it here.
    may_broadcast: bool = False
    # Several people who share a message: no account is theirs.
    is_group: bool = False
    # Tells this author from others of the same name, and is shorter than the ID; "" where there is no such thing.
    handle: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of a message, without its bytes. Either a platform keeps it, or the relay makes it of `text`."""

    # Tells it from the message's other files. What an edit puts in its place has another one.
    id: str
    # The file's name, unchecked.
    name: str
    # How readers are to see it.
    kind: MediaKind
    # Where the platform keeps it. Its locator is "" if the relay makes the file itself: nothing reads it then.
    source: MediaRef
    # As its platform names it. The bytes may be something else.
    content_type: str = "application/octet-stream"
    # Bytes, None if unknown.
    size: int | None = None
    # Pixels.
    width: int | None = None
    height: int | None = None
    # Seconds.
    duration: float | None = None
    # What is to be seen in it, as its author describes it for those who cannot see it.
    alt: str = ""
    # Readers see it only when they ask for it.
    spoiler: bool = False
    # The image is known to move.
    animated: bool = False
    # The loudness of a voice message over its duration, each from 0 to 255.
    waveform: tuple[int, ...] = ()
    # A still of a video.
    thumbnail: MediaRef | None = None
    # Where a reader can open it, on its own platform or by a link of ours; "" for nowhere.
    url: str = ""
    # If `url` expires: a link to its message, which does not.
    page: str = ""
    # The whole content of a file that the relay makes itself: a message's text that is too long. Else "".
    text: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """What a message says."""

    text: RichText = field(default_factory=RichText)
    attachments: tuple[Attachment, ...] = ()
    # "emote" is Matrix's `/me`; "notice" is what bots say, so that no other bot answers.
    style: Literal["text", "emote", "notice"] = "text"
    # A reply: the person it replies to is to be notified.
    calls_answered: bool = False
    # A reply: whom it notifies on its own side. Delivery looks there for the person it replies to.
    calls: tuple[UserRef, ...] = ()
    # How many files of it are in no attachment: there were too many, and the text counts and names them.
    left_out: int = 0
    # It notifies nobody over there, whomever it mentions: it was written long before it crosses.
    silent: bool = False

    def __bool__(self) -> bool:
        return bool(self.text) or bool(self.attachments)


@dataclass(frozen=True, slots=True)
class Quotation:
    """What is shown of a message that is replied to, where replies are not native."""

    author: str
    text: RichText
    url: str
    # The relay posted it.
    is_self: bool = False
    # Its author, if the platform can notify them.
    user: UserRef | None = None
    # Who wrote it, where that is known and is not `user`.
    by: UserRef | None = None


def with_most_files(content: Content, more: Sequence[str] = ()) -> Content:
    """`content` with as many files as may cross, and one line that counts and names the others and `more`.

    `more`: names of files that are not in `content`; "" for one whose name must not be shown.
    """
    over = ["" if file.spoiler else file.name for file in content.attachments[MAX_FILES:]] + [*more]
    if not over:
        return content
    named = [shortened(" ".join(name.split())) for name in over if name.strip()][:_MAX_NAMED]
    words = f"and {len(over):,} more {'file' if len(over) == 1 else 'files'}, not carried over"
    if named:
        words += f": {', '.join(named)}{', …' if len(named) < len(over) else ''}"
    text = RichText((*content.text.blocks, Subtext((Text(words),))))
    return replace(
        content, text=text, attachments=content.attachments[:MAX_FILES], left_out=content.left_out + len(over)
    )


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The limits of one channel. `core.convert.degrade` reads them; nothing asks which platform it is."""

    # In the unit of the adapter's `measure`, which counts the text as rendered.
    max_text_length: int
    # If false, a reply becomes a quoted line above the text.
    native_replies: bool
    # Files of one message.
    max_attachments: int = 0
    # Bytes of each file, and of all files of a message together.
    max_file_size: int = 0
    max_request_size: int = 0
