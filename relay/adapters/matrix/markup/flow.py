"""Running text and blocks, in the order in which HTML has them, on their way to becoming blocks only."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from relay.domain.text import nodes as n

Wrap = Callable[[tuple[n.Inline, ...]], n.Inline]


class Flow:
    """Blocks on their way: a run of inline nodes that has not become a paragraph yet, and what stands above it.

    Of runs that nothing separates, each goes on in the same paragraph on a new line, as a browser shows it.
    """

    def __init__(self) -> None:
        self.run: list[n.Inline] = []
        self._blocks: list[n.Block] = []
        self._loose: list[n.Inline] = []

    def end_run(self, wraps: tuple[Wrap, ...], *, separate: bool = False) -> None:
        """Make a paragraph of the run, or a line of the one that is still open."""
        nodes, self.run = tuple(self.run), []
        if not any(not (isinstance(node, n.Text) and not node.text.strip()) for node in nodes):
            return
        nodes = wrapped(nodes, wraps)
        if self._loose and not separate:
            self._loose += (n.LineBreak(), *nodes)
        elif isinstance(block := paragraph(nodes), n.Paragraph) and not separate:
            self._loose = list(nodes)
        else:
            self.add(block)

    def add(self, block: n.Block) -> None:
        """A block that is no running text."""
        self.part()
        self._blocks.append(block)

    def part(self) -> None:
        """What follows does not go on in the paragraph above it."""
        if self._loose:
            self._blocks.append(n.Paragraph(tuple(self._loose)))
            self._loose = []

    def blocks(self) -> list[n.Block]:
        """All of them."""
        self.part()
        return self._blocks


def paragraph(nodes: tuple[n.Inline, ...]) -> n.Block:
    """A paragraph; one that is all lowered is how small print crosses."""
    kept = [node for node in nodes if not (isinstance(node, n.Text) and not node.text.strip())]
    if len(kept) == 1 and isinstance(only := kept[0], n.Superscript) and only.lowered:
        return n.Subtext(only.children)
    return n.Paragraph(nodes)


@dataclass(frozen=True, slots=True)
class Spoil:
    """Hides what is inside."""

    reason: str

    def __call__(self, children: tuple[n.Inline, ...]) -> n.Inline:
        return n.Spoiler(children, self.reason)


@dataclass(frozen=True, slots=True)
class Linked:
    """Makes a link of what is inside."""

    url: str

    def __call__(self, children: tuple[n.Inline, ...]) -> n.Inline:
        return n.Link(self.url, children)


def wrapped(nodes: tuple[n.Inline, ...], wraps: tuple[Wrap, ...]) -> tuple[n.Inline, ...]:
    """`nodes` with all of `wraps` around them, the first outermost."""
    for wrap in reversed(wraps):
        nodes = (wrap(nodes),)
    return nodes


def flat(blocks: Iterable[n.Block]) -> tuple[n.Inline, ...]:
    """The inline nodes of `blocks`, a line each, where no block can stand."""
    nodes: list[n.Inline] = []
    for block in blocks:
        if nodes:
            nodes.append(n.LineBreak())
        match block:
            case n.Paragraph(children) | n.Heading(_, children) | n.Subtext(children):
                nodes.extend(children)
            case n.CodeBlock(text):
                nodes.append(n.Code(" ".join(text.split("\n"))))
            case n.Quote(inner):
                nodes.extend(flat(inner))
            case n.BulletList(items):
                nodes.extend(flat(inner for item in items for inner in item.blocks))
            case n.Details(summary, inner):
                nodes.extend(summary)
                nodes.extend(flat(inner))
            case n.Table(rows):
                nodes.extend(node for row in rows for cell in row for node in (*cell.children, n.Text(" ")))
            case n.Rule():
                pass
    return tuple(nodes)
