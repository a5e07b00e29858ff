"""The neutral text tree: what a message says and how it is marked up, in no platform's dialect.

A `RichText` is a sequence of blocks, and blocks hold inline nodes. Adapters parse their dialect into it and render it
back (`adapters/*/markup/`); `core/convert/degrade.py` rewrites what the other side cannot carry.

Each node has a `kind`: the tag by which the outbox tells nodes apart when it reads them back. Modules that use several
nodes import this one as `n`: `n.Strong`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from relay.domain.ids import ChannelRef, MediaRef, MessageRef, UserRef


@dataclass(frozen=True, slots=True)
class Text:
    """Characters to be read as they are: no markup, and no line break."""

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
    """Hidden until the reader asks for it."""

    children: "tuple[Inline, ...]"
    # Shown instead of it, "" for none.
    reason: str = ""
    kind: Literal["spoiler"] = field(default="spoiler", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Code:
    """Inline code: literal characters."""

    text: str
    kind: Literal["code"] = field(default="code", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Math:
    """A formula."""

    # In TeX.
    tex: str
    # On a line of its own.
    display: bool = False
    kind: Literal["math"] = field(default="math", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Link:
    """A hyperlink. A bare URL is a link whose only child is that URL as text."""

    url: str
    children: "tuple[Inline, ...]"
    # False if the author asked for no preview (Discord's `<url>`).
    preview: bool = True
    kind: Literal["link"] = field(default="link", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Colored:
    """Coloured text. Colours are `#rrggbb`."""

    children: "tuple[Inline, ...]"
    foreground: str | None = None
    background: str | None = None
    kind: Literal["colored"] = field(default="colored", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Superscript:
    """Superscript, or subscript."""

    children: "tuple[Inline, ...]"
    # Subscript.
    lowered: bool = False
    kind: Literal["superscript"] = field(default="superscript", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class UserMention:
    """A person."""

    user: UserRef
    # The display name without an @, for where the mention cannot be a real one.
    name: str
    # False if the message did not tell the name: until it is looked up, `name` is a stand-in.
    known: bool = True
    kind: Literal["user_mention"] = field(default="user_mention", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class RoleMention:
    """A role of a Discord guild, by name, without an @."""

    name: str
    # Its ID if the author may call those who have it, else "".
    role: str = ""
    # Who is called by it over here.
    users: tuple[UserRef, ...] = ()
    kind: Literal["role_mention"] = field(default="role_mention", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class ChannelMention:
    """A channel or room."""

    channel: ChannelRef
    # Without a # (a Matrix alias without its sigil).
    name: str
    # The original's link and its words, used if the channel is not paired; "" for none.
    url: str = ""
    children: "tuple[Inline, ...]" = ()
    # As in `UserMention`.
    known: bool = True
    kind: Literal["channel_mention"] = field(default="channel_mention", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class BroadcastMention:
    """Everyone in the room, or everyone present (`here`). Pings nobody unless the author may and the pair allows it."""

    scope: Literal["everyone", "here"]
    # How the original writes it, "" for an @ and the scope.
    written: str = field(default="", compare=False)
    kind: Literal["broadcast_mention"] = field(default="broadcast_mention", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class MessageLink:
    """A link to a message."""

    message: MessageRef
    # The original's link, used if there is no copy of the message.
    url: str
    # The link's own words, empty for a bare link.
    children: "tuple[Inline, ...]" = ()
    kind: Literal["message_link"] = field(default="message_link", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class CustomEmoji:
    """An emoji that is an image."""

    # Without colons.
    name: str
    # The platform's ID of it, "" if it has none.
    id: str
    source: MediaRef
    animated: bool = False
    kind: Literal["custom_emoji"] = field(default="custom_emoji", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class InlineImage:
    """An image in the text that is not an emoji. `alt` is its text."""

    alt: str
    source: MediaRef
    kind: Literal["inline_image"] = field(default="inline_image", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Timestamp:
    """A moment that each reader sees in their own time zone."""

    at: datetime
    # One of Discord's `t T d D f F s S R`.
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

# Inline nodes that hold others.
Container = (
    Strong | Emphasis | Underline | Strike | Spoiler | Link | Colored | Superscript | MessageLink | ChannelMention
)


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text. A blank line separates it from the next paragraph."""

    children: tuple[Inline, ...]
    kind: Literal["paragraph"] = field(default="paragraph", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; `level` 1 to 6."""

    level: int
    children: tuple[Inline, ...]
    kind: Literal["heading"] = field(default="heading", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Subtext:
    """Small print (Discord's `-#`)."""

    children: tuple[Inline, ...]
    kind: Literal["subtext"] = field(default="subtext", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """Literal lines."""

    # Without a line break at the end.
    text: str
    # "" for none.
    language: str = ""
    kind: Literal["code_block"] = field(default="code_block", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Quote:
    """A quotation of blocks."""

    blocks: "tuple[Block, ...]"
    kind: Literal["quote"] = field(default="quote", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class ListItem:
    """One item of a list; the first block is usually a paragraph."""

    blocks: "tuple[Block, ...]"


@dataclass(frozen=True, slots=True)
class BulletList:
    """A list."""

    items: tuple[ListItem, ...]
    # The first number of an ordered list, None for bullets.
    start: int | None = None
    kind: Literal["list"] = field(default="list", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class TableCell:
    """One cell."""

    children: tuple[Inline, ...]
    header: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells; rows may differ in length."""

    rows: tuple[tuple[TableCell, ...], ...]
    caption: tuple[Inline, ...] = ()
    kind: Literal["table"] = field(default="table", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks behind a summary, which the reader can open."""

    summary: tuple[Inline, ...]
    blocks: "tuple[Block, ...]"
    kind: Literal["details"] = field(default="details", kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Rule:
    """A horizontal line."""

    kind: Literal["rule"] = field(default="rule", kw_only=True, repr=False)


Block = Paragraph | Heading | Subtext | CodeBlock | Quote | BulletList | Table | Details | Rule


@dataclass(frozen=True, slots=True)
class RichText:
    """A text: a sequence of blocks. Empty = no text at all."""

    blocks: tuple[Block, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.blocks)

    @classmethod
    def plain(cls, text: str) -> "RichText":
        """`text` without reading markup in it. Line breaks stay; blank lines separate paragraphs."""
        return cls(tuple(Paragraph(_lines(part)) for part in text.split("\n\n") if part.strip("\n")))


def _lines(text: str) -> tuple[Inline, ...]:
    nodes: list[Inline] = []
    for number, line in enumerate(text.strip("\n").split("\n")):
        if number:
            nodes.append(LineBreak())
        if line:
            nodes.append(Text(line))
    return tuple(nodes)


def plain_text(text: RichText) -> str:
    """The words alone, for notifications, excerpts and tests: no markup, spoilers as `▒▒▒`."""
    return "\n".join("".join(_block_words(block)) for block in text.blocks)


def inline_text(nodes: tuple[Inline, ...]) -> str:
    """The words of inline nodes alone, spoilers as `▒▒▒`."""
    return "".join(_inline_words(nodes))


def _block_words(block: Block) -> Iterator[str]:
    match block:
        case Paragraph(children) | Heading(_, children) | Subtext(children):
            yield from _inline_words(children)
        case CodeBlock(text):
            yield text
        case Quote(blocks):
            yield "\n".join("".join(_block_words(inner)) for inner in blocks)
        case Details(summary, blocks):
            yield from _inline_words(summary)
            yield from ("\n" + "".join(_block_words(inner)) for inner in blocks)
        case BulletList(items):
            lines = (" ".join("".join(_block_words(inner)) for inner in item.blocks) for item in items)
            yield "\n".join(lines)
        case Table(rows):
            yield "\n".join(" ".join("".join(_inline_words(cell.children)) for cell in row) for row in rows)
        case Rule():
            yield "—"


def _inline_words(nodes: tuple[Inline, ...]) -> Iterator[str]:
    for node in nodes:
        match node:
            case Text(text) | Code(text):
                yield text
            case LineBreak():
                yield "\n"
            case Spoiler():
                yield "▒▒▒"
            case Math(tex):
                yield tex
            case UserMention(_, name):
                yield f"@{name}"
            case RoleMention(name):
                yield f"@{name}"
            case ChannelMention(_, name, _, children):
                yield from _inline_words(children) if children else (f"#{name}",)
            case BroadcastMention(scope):
                yield f"@{scope}"
            case MessageLink(_, url, children):
                yield from _inline_words(children) if children else (url,)
            case CustomEmoji(name):
                yield f":{name}:"
            case InlineImage(alt):
                yield alt
            case Timestamp(at):
                yield f"{at:%Y-%m-%d %H:%M} UTC"
            case _:
                yield from _inline_words(node.children)
