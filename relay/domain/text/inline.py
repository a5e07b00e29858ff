"""What stands inside a block of the neutral text tree (`richtext.py`): words, marked up, and references."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from relay.domain.ids import ChannelRef, MediaRef, MessageRef, UserRef


@dataclass(frozen=True, slots=True)
class Text:
    """Characters as they are to be read; never markup. Holds no line break."""

    text: str
    kind: Literal["text"] = field(default="text", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class LineBreak:
    """A new line inside a block."""

    kind: Literal["line_break"] = field(default="line_break", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Strong:
    """Bold."""

    children: "tuple[Inline, ...]"
    kind: Literal["strong"] = field(default="strong", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Emphasis:
    """Italic."""

    children: "tuple[Inline, ...]"
    kind: Literal["emphasis"] = field(default="emphasis", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Underline:
    """Underlined."""

    children: "tuple[Inline, ...]"
    kind: Literal["underline"] = field(default="underline", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Strike:
    """Struck through."""

    children: "tuple[Inline, ...]"
    kind: Literal["strike"] = field(default="strike", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Spoiler:
    """Hidden until the reader asks for it; `reason` is shown meanwhile ("" = none)."""

    children: "tuple[Inline, ...]"
    reason: str = ""
    kind: Literal["spoiler"] = field(default="spoiler", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Code:
    """Inline code: literal characters."""

    text: str
    kind: Literal["code"] = field(default="code", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Math:
    """A formula in TeX; `display` stands on its own line."""

    tex: str
    display: bool = False
    kind: Literal["math"] = field(default="math", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Link:
    """A hyperlink. A bare URL is a link whose only child is that URL as text.

    `preview` is false where the author asked for no preview (Discord's `<url>`).
    """

    url: str
    children: "tuple[Inline, ...]"
    preview: bool = True
    kind: Literal["link"] = field(default="link", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Colored:
    """Coloured text; colours as `#rrggbb`."""

    children: "tuple[Inline, ...]"
    foreground: str | None = None
    background: str | None = None
    kind: Literal["colored"] = field(default="colored", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Superscript:
    """Raised (`lowered` = subscript)."""

    children: "tuple[Inline, ...]"
    lowered: bool = False
    kind: Literal["superscript"] = field(default="superscript", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class UserMention:
    """A person. `name` is the display name, without an @, for where the mention cannot be a real one.

    `known` false: the message did not tell the name, and another word stands in for it until it is looked up.
    """

    user: UserRef
    name: str
    known: bool = True
    kind: Literal["user_mention"] = field(default="user_mention", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class RoleMention:
    """A role of a Discord guild, by name, without an @."""

    name: str
    kind: Literal["role_mention"] = field(default="role_mention", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class ChannelMention:
    """A channel or room. `name` without a # (a Matrix alias without its sigil).

    `url` is the original's link, used where the channel is not paired, with `children` as its words; "" for none.
    `known` as of a person.
    """

    channel: ChannelRef
    name: str
    url: str = ""
    children: "tuple[Inline, ...]" = ()
    known: bool = True
    kind: Literal["channel_mention"] = field(default="channel_mention", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class BroadcastMention:
    """Everyone in the room (`here`: everyone present). Pings nobody unless the author may and the pair allows it.

    `written`: how it stands in the original, "" for an @ and the scope.
    """

    scope: Literal["everyone", "here"]
    written: str = field(default="", compare=False)
    kind: Literal["broadcast_mention"] = field(default="broadcast_mention", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class MessageLink:
    """A link to a message; `url` is the original's, used where no copy of the message exists.

    `children` is the link's own words, empty for a bare link.
    """

    message: MessageRef
    url: str
    children: "tuple[Inline, ...]" = ()
    kind: Literal["message_link"] = field(default="message_link", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class CustomEmoji:
    """An emoji that is an image; `name` without colons.

    `id` is the platform's ID of it ("" where it has none).
    """

    name: str
    id: str
    source: MediaRef
    animated: bool = False
    kind: Literal["custom_emoji"] = field(default="custom_emoji", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class InlineImage:
    """An image in the text that is not an emoji; `alt` is its text."""

    alt: str
    source: MediaRef
    kind: Literal["inline_image"] = field(default="inline_image", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Timestamp:
    """A moment that each reader sees in their own zone. `style` is one of Discord's `t T d D f F s S R`."""

    at: datetime
    style: str = "f"
    kind: Literal["timestamp"] = field(default="timestamp", kw_only=True, repr=False)


Inline = (
    Text
    | LineBreak
    | Strong
    | Emphasis
    | Underline
    | Strike
    | Spoiler
    | Code
    | Math
    | Link
    | Colored
    | Superscript
    | UserMention
    | RoleMention
    | ChannelMention
    | BroadcastMention
    | MessageLink
    | CustomEmoji
    | InlineImage
    | Timestamp
)
