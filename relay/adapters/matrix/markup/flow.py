"""Running text and blocks, in the order in which HTML has them, on their way to becoming blocks only."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from relay.domain.text.nodes import (
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


class Flow:
    """Blocks on their way: a run of inline nodes that has not become a paragraph yet, and what stands above it.

    Of runs that nothing separates, each goes on in the same paragraph on a new line, as a browser shows it.
    """

    def __init__(self) -> None:
        self.run: list[Inline] = []
        self._blocks: list[Block] = []
        self._loose: list[Inline] = []

    def end_run(self, wraps: tuple[Wrap, ...], *, separate: bool = False) -> None:
        """Make a paragraph of the run, or a line of the one that is still open."""
        nodes, self.run = tuple(self.run), []
        if not any(not (isinstance(node, Text) and not node.text.strip()) for node in nodes):
            return
        nodes = wrapped(nodes, wraps)
        if self._loose and not separate:
            self._loose += (LineBreak(), *nodes)
        elif isinstance(block := paragraph(nodes), Paragraph) and not separate:
            self._loose = list(nodes)
        else:
            self.add(block)

    def add(self, block: Block) -> None:
        """A block that is no running text."""
        self.part()
        self._blocks.append(block)

    def part(self) -> None:
        """What follows does not go on in the paragraph above it."""
        if self._loose:
            self._blocks.append(Paragraph(tuple(self._loose)))
            self._loose = []

    def blocks(self) -> list[Block]:
        """All of them."""
        self.part()
        return self._blocks


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
