"""The neutral text tree: what a message says and how it is marked up, in no platform's dialect.

A `RichText` is a sequence of blocks; blocks hold inline nodes (`inline.py`). Adapters parse their dialect into it and
render it back (`adapters/*/markup.py`); `core.degrade` rewrites what the other side cannot carry.

Each node has a `kind`: the tag by which the outbox tells nodes apart when it reads them back.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from relay.domain.text.inline import (
    BroadcastMention,
    ChannelMention,
    Code,
    Colored,
    CustomEmoji,
    Emphasis,
    Inline,
    InlineImage,
    LineBreak,
    Link,
    Math,
    MessageLink,
    RoleMention,
    Spoiler,
    Strike,
    Strong,
    Superscript,
    Text,
    Timestamp,
    Underline,
    UserMention,
)

__all__ = [
    "Block",
    "BroadcastMention",
    "BulletList",
    "ChannelMention",
    "Code",
    "CodeBlock",
    "Colored",
    "CustomEmoji",
    "Details",
    "Emphasis",
    "Heading",
    "Inline",
    "InlineImage",
    "LineBreak",
    "Link",
    "ListItem",
    "Math",
    "MessageLink",
    "Paragraph",
    "Quote",
    "RichText",
    "RoleMention",
    "Rule",
    "Spoiler",
    "Strike",
    "Strong",
    "Subtext",
    "Superscript",
    "Table",
    "TableCell",
    "Text",
    "Timestamp",
    "Underline",
    "UserMention",
    "inline_text",
    "plain_text",
]


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
    """Literal lines; `text` has no trailing line break; `language` "" = none."""

    text: str
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
    """A list; `start` is the first number of an ordered one and None for bullets."""

    items: tuple[ListItem, ...]
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
    """Blocks behind a summary that the reader opens."""

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
        """`text` with its line breaks, nothing in it read as markup; blank lines separate paragraphs."""
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
    """The words alone, for logs of tests, notifications and excerpts: no markup, spoilers as `▒▒▒`."""
    return "\n".join("".join(_block_words(block)) for block in text.blocks)


def inline_text(nodes: tuple[Inline, ...]) -> str:
    """The words of inline nodes alone; spoilers as `▒▒▒`."""
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
