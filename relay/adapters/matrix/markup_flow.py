"""Running text and blocks, in the order in which HTML has them, on their way to becoming blocks only."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from relay.domain.richtext import (
    Block,
    BulletList,
    Code,
    CodeBlock,
    Details,
    Heading,
    Inline,
    LineBreak,
    Link,
    Paragraph,
    Quote,
    Rule,
    Spoiler,
    Subtext,
    Superscript,
    Table,
    Text,
)

Wrap = Callable[[tuple[Inline, ...]], Inline]


@dataclass(slots=True)
class Flow:
    """Blocks on their way: a run of inline nodes that has not become a paragraph yet, and what stands above it.

    `loose`: the last block is such a run; another one goes on in it on a new line, as a browser shows it.
    """

    blocks: list[Block] = field(default_factory=list)
    run: list[Inline] = field(default_factory=list)
    loose: bool = False

    def end_run(self, wraps: tuple[Wrap, ...], *, separate: bool = False) -> None:
        """Make a paragraph of the run."""
        nodes, self.run = tuple(self.run), []
        if not any(not (isinstance(node, Text) and not node.text.strip()) for node in nodes):
            return
        for wrap in reversed(wraps):
            nodes = (wrap(nodes),)
        last = self.blocks[-1] if self.blocks else None
        if self.loose and not separate and isinstance(last, Paragraph):
            self.blocks[-1] = Paragraph((*last.children, LineBreak(), *nodes))
        else:
            self.blocks.append(paragraph(nodes))
        self.loose = not separate

    def add(self, block: Block) -> None:
        """A block that is no running text."""
        self.blocks.append(block)
        self.loose = False


def paragraph(nodes: tuple[Inline, ...]) -> Block:
    """A paragraph; one that is all lowered is how small print crosses."""
    kept = [node for node in nodes if not (isinstance(node, Text) and not node.text.strip())]
    if len(kept) == 1 and isinstance(only := kept[0], Superscript) and only.lowered:
        return Subtext(only.children)
    return Paragraph(nodes)


@dataclass(frozen=True, slots=True)
class Spoil:
    """Hides what is inside."""

    reason: str

    def __call__(self, children: tuple[Inline, ...]) -> Inline:
        return Spoiler(children, self.reason)


@dataclass(frozen=True, slots=True)
class Linked:
    """Makes a link of what is inside."""

    url: str

    def __call__(self, children: tuple[Inline, ...]) -> Inline:
        return Link(self.url, children)


def wrapped(nodes: tuple[Inline, ...], wraps: tuple[Wrap, ...]) -> tuple[Inline, ...]:
    """`nodes` with all of `wraps` around them, the first outermost."""
    for wrap in reversed(wraps):
        nodes = (wrap(nodes),)
    return nodes


def flat(blocks: Iterable[Block]) -> tuple[Inline, ...]:
    """The inline nodes of `blocks`, a line each, where no block can stand."""
    nodes: list[Inline] = []
    for block in blocks:
        if nodes:
            nodes.append(LineBreak())
        match block:
            case Paragraph(children) | Heading(_, children) | Subtext(children):
                nodes.extend(children)
            case CodeBlock(text):
                nodes.append(Code(" ".join(text.split("\n"))))
            case Quote(inner):
                nodes.extend(flat(inner))
            case BulletList(items):
                nodes.extend(flat(inner for item in items for inner in item.blocks))
            case Details(summary, inner):
                nodes.extend(summary)
                nodes.extend(flat(inner))
            case Table(rows):
                nodes.extend(node for row in rows for cell in row for node in (*cell.children, Text(" ")))
            case Rule():
                pass
    return tuple(nodes)
