"""One form for each text: what the parsers hand out and what the renderers start from.

Two trees that read the same become the same tree: neighbouring texts merge, empty nodes go, bold inside bold is bold,
and white space at the edge of a marked-up stretch moves outside it (no dialect can mark up a lone space).
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from relay.domain.text.nodes import (
    Block,
    BulletList,
    CodeBlock,
    Details,
    Heading,
    Inline,
    LineBreak,
    ListItem,
    Paragraph,
    Quote,
    RichText,
    Rule,
    Subtext,
    Superscript,
    Table,
)
from relay.domain.text.normalise_inline import is_lone_word, normalise_inline, trim_lines, without_lead, words_of


def normalise(text: RichText) -> RichText:
    """`text` in its one form. Idempotent; reads the same as before."""
    return RichText(normalise_blocks(text.blocks))


def normalise_blocks(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """The same for a sequence of blocks.

    Empty ones go, a blank line separates paragraphs (each further one is a `LineBreak` in front of the second), small
    print in a row is one block.
    """
    blocks = tuple(blocks)
    if len(blocks) == 1 and isinstance(only := blocks[0], Paragraph) and is_lone_word(only.children):
        return blocks
    done: list[Block] = []
    small: list[Inline] = []
    for block in chain.from_iterable(map(_block, blocks)):
        if isinstance(block, Subtext):
            small += (LineBreak(), *block.children) if small else block.children
            continue
        if small:
            done.append(Subtext(tuple(small)))
            small = []
        if isinstance(block, Paragraph) and not done:
            done.append(Paragraph(without_lead(block.children)))
        else:
            done.append(block)
    return (*done, Subtext(tuple(small))) if small else tuple(done)


def _block(block: Block) -> Iterator[Block]:
    match block:
        case Paragraph():
            yield from _parted(block)
        case Heading(level, children):
            if words := words_of(children):
                yield Heading(min(max(level, 1), 6), words)
        case Subtext(children):
            if words := words_of(children):
                yield Subtext(words)
        case CodeBlock(text, language):
            if text.strip("\n"):
                yield CodeBlock(text.strip("\n"), language)
        case Quote(blocks):
            if inner := normalise_blocks(blocks):
                yield Quote(inner)
        case BulletList(items, start):
            if kept := tuple(ListItem(inner) for item in items if (inner := normalise_blocks(item.blocks))):
                yield BulletList(kept, start)
        case Table():
            yield from _table(block)
        case Details():
            yield from _details(block)
        case Rule():
            yield block


def _details(details: Details) -> Iterator[Details]:
    summary, blocks = words_of(details.summary), normalise_blocks(details.blocks)
    if summary or blocks:
        yield Details(summary, blocks)


def _table(table: Table) -> Iterator[Table]:
    rows = tuple(tuple(replace(cell, children=words_of(cell.children)) for cell in row) for row in table.rows if row)
    if any(cell.children for row in rows for cell in row):
        yield Table(rows, words_of(table.caption))


def _parted(block: Paragraph) -> Iterable[Block]:
    """A paragraph for each stretch without a blank line in it."""
    if is_lone_word(block.children):
        return (block,)
    return map(_paragraph, _paragraphs(trim_lines(normalise_inline(block.children))))


def _paragraph(nodes: tuple[Inline, ...]) -> Block:
    """A line that is all lowered is how small print is written where there is none."""
    match nodes:
        case (Superscript(children, True),):
            return Subtext(children)
        case _:
            return Paragraph(nodes)


def _paragraphs(nodes: tuple[Inline, ...]) -> Iterator[tuple[Inline, ...]]:
    """`nodes` cut at their blank lines."""
    if nodes and LineBreak not in map(type, nodes):
        yield nodes
        return
    current: list[Inline] = []
    breaks = 0
    for node in nodes:
        if isinstance(node, LineBreak):
            breaks += 1
            continue
        if breaks > 1 and current:
            yield tuple(current)
            current, breaks = [], breaks - 2
        current.extend(LineBreak() for _ in range(breaks))
        breaks = 0
        current.append(node)
    if current:
        yield tuple(current)
