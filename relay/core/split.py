"""A text that is too long for the other side becomes several, cut where a reader would pause. Pure.

Positions are counted in *units*: a character of text is one, everything that cannot be cut is one, the end of a block
is one. A cut closes what is open (bold, a quote, a code block) and opens it again in the next part.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

import regex

from relay.domain.richtext import (
    Block,
    BulletList,
    ChannelMention,
    Code,
    CodeBlock,
    Details,
    Heading,
    Inline,
    InlineImage,
    LineBreak,
    Link,
    ListItem,
    Math,
    MessageLink,
    Paragraph,
    Quote,
    RichText,
    RoleMention,
    Rule,
    Subtext,
    Table,
    Text,
    UserMention,
    inline_text,
)
from relay.domain.transform import Container, map_blocks, map_inline

Measure = Callable[[RichText], int]
"""The length of a text as its platform renders and counts it."""

_LEAST_FILL = 1 / 3
"""A better kind of boundary is passed over when taking it would leave a part emptier than this."""

_GRAPHEME = regex.compile(r"\X")
_SPACE = regex.compile(r"\s+")
_SENTENCE_END = regex.compile(r"[.!?…。！？][\"'”’)\]]*$")
_WINDOW = 64


class _Rank(IntEnum):
    """How good a place is for a cut, worst first."""

    WORD = 1
    SENTENCE = 2
    LINE = 3
    BLOCK = 4


@dataclass(frozen=True, slots=True)
class _Boundary:
    """A place for a cut; `skip` units after it (the white space) belong to neither part."""

    position: int
    skip: int
    rank: _Rank


def split(text: RichText, *, limit: int, measure: Measure, most: int | None = None) -> tuple[RichText, ...]:
    """`text` in parts of which each measures at most `limit`; at least one part. Of more than `most`, the first ones.

    Where even one unit measures more than `limit`, it stands alone in its part: `limit` has to leave room for it.
    """
    if not _is_too_long(text, limit, measure):
        return (text,)
    parts: list[RichText] = []
    rest = _open_long_atoms(text, limit, measure)
    while rest and _is_too_long(rest, limit, measure):
        head, rest = _first_part(rest, limit, measure)
        parts.append(head)
        if len(parts) == most:
            return tuple(parts)
    return (*parts, rest) if rest else tuple(parts)


def _is_too_long(text: RichText, limit: int, measure: Measure) -> bool:
    # Where the beginning alone is, the rest, which may be very long, is not to be rendered for each part anew.
    beginning = _cut(text, 2 * limit)[0]
    return measure(beginning) > limit or (beginning != text and measure(text) > limit)


def first_part(text: RichText, *, limit: int, measure: Measure) -> tuple[RichText, RichText]:
    """As much of `text` as measures at most `limit`, and the rest; at least one unit."""
    if measure(text) <= limit:
        return text, RichText()
    return _first_part(_open_long_atoms(text, limit, measure), limit, measure)


def _open_long_atoms(text: RichText, limit: int, measure: Measure) -> RichText:
    """What is never cut but would fill most of a part (a URL of 3,000 characters, a wide table) as text that can be."""

    def words(node: Inline) -> Inline:
        whole = isinstance(node, Link | MessageLink | Math | UserMention | RoleMention | ChannelMention | InlineImage)
        if whole and _is_atom(node) and measure(RichText((Paragraph((node,)),))) > limit / 2:
            return Text(inline_text((node,)))
        return node

    def lines(block: Block) -> tuple[Block, ...]:
        if not isinstance(block, Table):
            return (block,)
        if all(measure(RichText((replace(block, rows=(row,)),))) <= limit / 2 for row in block.rows):
            return (block,)
        return tuple(
            Paragraph(tuple(node for cell in row for node in (*cell.children, Text(" ")))) for row in block.rows
        )

    return map_blocks(map_inline(text, words), lines)


def _first_part(text: RichText, limit: int, measure: Measure) -> tuple[RichText, RichText]:
    most = _longest_fit(text, limit, measure)
    if most == 0:
        return _cut(text, 1)
    while (boundary := _best_boundary(text, most)) is not None:
        head = _cut(text, boundary.position)[0]
        if measure(head) <= limit:
            return head, _cut(text, boundary.position + boundary.skip)[1]
        most = boundary.position - 1
    return _cut(text, _grapheme_floor(text, most))


def _longest_fit(text: RichText, limit: int, measure: Measure) -> int:
    # A unit is rarely rendered as less than one: the search can start at `limit` instead of at the text's end.
    low, high = 0, min(_size(text.blocks), limit)
    tried, step = high, 0
    while low < high:
        measured = measure(_cut(text, tried)[0])
        if measured <= limit:
            low = tried
        else:
            high = tried - 1
        # Most texts are rendered about as long everywhere; where one is not, halving gets there, too.
        step += 1
        guess = tried * limit // max(measured, 1) if step % 3 else (low + high + 1) // 2
        tried = min(max(guess, low + 1), high)
    return low


def _best_boundary(text: RichText, most: int) -> _Boundary | None:
    found: dict[_Rank, _Boundary] = {}
    for boundary in _boundaries(text.blocks, 0, _Rank.BLOCK):
        if boundary.position > most:
            break
        if boundary.position > 0:
            found[boundary.rank] = boundary
    well_filled = [found[rank] for rank in sorted(found, reverse=True) if found[rank].position >= most * _LEAST_FILL]
    return well_filled[0] if well_filled else max(found.values(), key=lambda known: known.position, default=None)


# --- Sizes ------------------------------------------------------------------------------------------------


def _size(blocks: tuple[Block, ...]) -> int:
    return sum(map(_block_size, blocks))


def _block_size(block: Block) -> int:
    match block:
        case Paragraph(children) | Heading(_, children) | Subtext(children):
            return _inline_size(children) + 1
        case CodeBlock(text):
            return len(text) + 1
        case Quote(blocks):
            return _size(blocks) + 1
        case BulletList(items):
            return sum(_size(item.blocks) for item in items) + 1
        case Details(summary, blocks):
            return _inline_size(summary) + 1 + _size(blocks) + 1
        case Table(rows):
            return len(rows) + 1
        case Rule():
            return 1


def _inline_size(nodes: tuple[Inline, ...]) -> int:
    return sum(map(_node_size, nodes))


def _node_size(node: Inline) -> int:
    if isinstance(node, Text | Code):
        return len(node.text)
    if isinstance(node, Container) and not _is_atom(node):
        return _inline_size(node.children)
    return 1


def _is_atom(node: Inline) -> bool:
    """Whether an inline node is never cut. A bare link is none to cut: it would become two dead ones."""
    if isinstance(node, Container):
        return not node.children or (isinstance(node, Link) and inline_text(node.children) == node.url)
    return not isinstance(node, Text | Code)


# --- Places for a cut -------------------------------------------------------------------------------------


def _boundaries(blocks: tuple[Block, ...], start: int, rank: _Rank) -> Iterator[_Boundary]:
    """In rising order of position. `rank` is what the end of one of these blocks is worth."""
    for block in blocks:
        match block:
            case Paragraph(children) | Heading(_, children) | Subtext(children):
                yield from _inline_boundaries(children, start)
            case CodeBlock(text):
                lines = (match.start() for match in regex.finditer("\n", text))
                yield from (_Boundary(start + at, 1, _Rank.LINE) for at in lines)
            case Quote(inner):
                yield from _boundaries(inner, start, _Rank.LINE)
            case BulletList(items):
                at = start
                for item in items:
                    yield from _boundaries(item.blocks, at, _Rank.LINE)
                    at += _size(item.blocks)
            case Details(summary, inner):
                yield from _boundaries(inner, start + _inline_size(summary) + 1, _Rank.LINE)
            case Table(rows):
                yield from (_Boundary(start + at, 0, _Rank.LINE) for at in range(1, len(rows)))
            case Rule():
                pass
        start += _block_size(block)
        yield _Boundary(start, 0, rank)


def _inline_boundaries(nodes: tuple[Inline, ...], start: int) -> Iterator[_Boundary]:
    for node in nodes:
        if isinstance(node, LineBreak):
            yield _Boundary(start, 1, _Rank.LINE)
        elif isinstance(node, Text | Code):
            yield from _word_boundaries(node.text, start)
        elif isinstance(node, Container) and not _is_atom(node):
            yield from _inline_boundaries(node.children, start)
        start += _node_size(node)


def _word_boundaries(text: str, start: int) -> Iterator[_Boundary]:
    for match in _SPACE.finditer(text):
        rank = _Rank.SENTENCE if _SENTENCE_END.search(text, max(0, match.start() - 4), match.start()) else _Rank.WORD
        yield _Boundary(start + match.start(), len(match.group()), rank)


def _grapheme_floor(text: RichText, most: int) -> int:
    """The last position up to `most` that does not tear a character that the reader sees as one."""
    head, tail = _cut(text, most)
    before, after = _edge(head.blocks, -1)[-_WINDOW:], _edge(tail.blocks, 0)[:_WINDOW]
    whole = [end for match in _GRAPHEME.finditer(before + after) if (end := match.end()) <= len(before)]
    torn = len(before) - max(whole, default=0)
    return most - torn if torn < len(before) else most


def _edge(blocks: tuple[Block, ...], side: Literal[0, -1]) -> str:
    """The characters next to a cut: of the first (0) or last (-1) leaf; "" where it is no text."""
    node: object = blocks[side] if blocks else None
    while True:
        match node:
            case Text(text) | Code(text) | CodeBlock(text):
                return text
            case Quote(inner) | Details(_, inner) | ListItem(inner):
                node = inner[side] if inner else None
            case BulletList(items):
                node = items[side]
            case Paragraph(children) | Heading(_, children) | Subtext(children):
                node = children[side] if children else None
            case _ if isinstance(node, Container):
                node = node.children[side] if node.children else None
            case _:
                return ""


# --- Cutting ----------------------------------------------------------------------------------------------


def _cut(text: RichText, at: int) -> tuple[RichText, RichText]:
    head, tail = _cut_blocks(text.blocks, at)
    return RichText(head), RichText(tail)


def _cut_blocks(blocks: tuple[Block, ...], at: int) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    for index, block in enumerate(blocks):
        size = _block_size(block)
        if at < size:
            if at <= 0:
                return blocks[:index], blocks[index:]
            head, tail = _cut_block(block, at)
            after = blocks[index + 1 :]
            return (*blocks[:index], *head), (*tail, *after)
        at -= size
    return blocks, ()


def _cut_block(block: Block, at: int) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    match block:
        case Paragraph(children) | Heading(_, children) | Subtext(children):
            before, after = _cut_nodes(children, at)
            return _some(block, children=before), _some(block, children=after)
        case CodeBlock(text):
            head, tail = text[:at], text[at:]
            return _some(block, text=head), _some(block, text=tail)
        case Quote(blocks):
            before_blocks, after_blocks = _cut_blocks(blocks, at)
            return _some(block, blocks=before_blocks), _some(block, blocks=after_blocks)
        case BulletList():
            return _cut_list(block, at)
        case Details(summary, blocks):
            offset = _inline_size(summary) + 1
            if at < offset:
                before, after = _cut_nodes(summary, at)
                return (Paragraph(before),), (replace(block, summary=after),)
            before_blocks, after_blocks = _cut_blocks(blocks, at - offset)
            opened = (replace(block, blocks=before_blocks),) if summary or before_blocks else ()
            return opened, after_blocks
        case Table(rows):
            return _some(block, rows=rows[:at]), _some(replace(block, caption=()), rows=rows[at:])
        case Rule():
            return (block,), ()


def _some(block: Block, **content: object) -> tuple[Block, ...]:
    """The block with new content, or none if there is no content left."""
    return (replace(block, **content),) if any(content.values()) else ()  # type: ignore[arg-type]


def _cut_list(block: BulletList, at: int) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    for index, item in enumerate(block.items):
        size = _size(item.blocks)
        if at < size:
            before, after = _cut_blocks(item.blocks, at)
            head = (*block.items[:index], *((ListItem(before),) if before else ()))
            tail = (*((ListItem(after),) if after else ()), *block.items[index + 1 :])
            start = None if block.start is None else block.start + index
            return _some(block, items=head), _some(replace(block, start=start), items=tail)
        at -= size
    return (block,), ()


def _cut_nodes(nodes: tuple[Inline, ...], at: int) -> tuple[tuple[Inline, ...], tuple[Inline, ...]]:
    for index, node in enumerate(nodes):
        size = _node_size(node)
        if at < size:
            if at <= 0:
                return nodes[:index], nodes[index:]
            head, tail = _cut_node(node, at)
            return (*nodes[:index], head), (tail, *nodes[index + 1 :])
        at -= size
    return nodes, ()


def _cut_node(node: Inline, at: int) -> tuple[Inline, Inline]:
    match node:
        case Text(text) | Code(text):
            return replace(node, text=text[:at]), replace(node, text=text[at:])
        case _ if isinstance(node, Container):
            before, after = _cut_nodes(node.children, at)
            return replace(node, children=before), replace(node, children=after)
        case _:
            raise AssertionError(f"a {node.kind} is one unit and cannot be cut")
