"""Splits a text that is too long for a channel, where a reader would pause. Pure.

Positions are counted in *units*: each character of text is one, each node that cannot be cut is one, and so is the end
of a block. A cut closes what is open (bold, a quote, a code block) and opens it again in the next part.

All in one file, because sizes, boundaries and cuts have to count units in the same way for every kind of node.
"""

import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

from relay.domain.text import nodes as n
from relay.domain.text.rewrite import expand_inline, map_blocks

Measure = Callable[[n.RichText], int]
"""The length of a text as its platform renders and counts it."""

_LEAST_FILL = 1 / 3
"""A better kind of boundary is not used if the part would be less full than this."""

_SPACE = re.compile(r"\s+")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*$")
_WINDOW = 64
_CUT = -1
_MAX_NAME_LENGTH = 64
"""For the name of an emoji or of a code's language: no platform has longer ones."""

_MAX_RENDERED = 12
"""As how many characters one may be rendered: four bytes, each as `%F0`."""

_ELLIPSIS = "…"
_LITTLE = (n.Text("x"),)
_SAMPLE = 8
"""1/8 of the limit is rendered first, to see how long the text is when rendered."""


class _Rank(IntEnum):
    """How good a place for a cut is, the worst first."""

    WORD = 1
    SENTENCE = 2
    LINE = 3
    BLOCK = 4


@dataclass(frozen=True, slots=True)
class _Boundary:
    """A place for a cut."""

    position: int
    # Units after it that belong to neither part (white space).
    skip: int
    rank: _Rank


def split(text: n.RichText, *, limit: int, measure: Measure, max_parts: int | None = None) -> tuple[n.RichText, ...]:
    """`text` in one or more parts, each of which measures at most `limit`. Of more than `max_parts`, the first.

    If the markup around a single unit alone measures more than `limit`, only its words are kept.
    """
    if not _is_too_long(text, limit, measure):
        return (text,)
    parts: list[n.RichText] = []
    rest = _opened(text, limit, measure)
    while rest and _is_too_long(rest, limit, measure):
        head, rest = _first_part(rest, limit, measure)
        if measure(head) > limit and (bare := n.RichText.plain(n.plain_text(head))) != head:
            head, more = _first_part(bare, limit, measure)
            rest = n.RichText((*more.blocks, *rest.blocks))
        parts.append(head)
        if len(parts) == max_parts:
            return tuple(parts)
    return (*parts, rest) if rest else tuple(parts)


def is_surely_short(text: n.RichText, limit: int) -> bool:
    """Whether a few words without markup, as most messages are, fit however they are rendered: so they need not be.

    Half of the limit is left for what stands around them, such as their author's name.
    """
    units = len(text.blocks)
    for block in text.blocks:
        if not isinstance(block, n.Paragraph):
            return False
        for node in block.children:
            if not isinstance(node, n.Text | n.LineBreak):
                return False
            units += len(node.text) if isinstance(node, n.Text) else 1
    return _MAX_RENDERED * units <= limit // 2


def _is_too_long(text: n.RichText, limit: int, measure: Measure) -> bool:
    # The rest may be very long, and would be rendered again for each part. So look whether the beginning alone is too
    # long: first at a small piece, which is enough for texts that are much longer when rendered.
    for length in (limit // _SAMPLE, 2 * limit):
        beginning, _, left = _cut_blocks(text.blocks, length)
        if left != _CUT:
            break
        if measure(n.RichText(beginning)) > limit:
            return True
    return measure(text) > limit


def beginning(text: n.RichText, units: int) -> n.RichText:
    """The first `units` of `text`."""
    return _cut(text, units)[0]


def first_part(text: n.RichText, *, limit: int, measure: Measure) -> tuple[n.RichText, n.RichText]:
    """As much of `text` as measures at most `limit`, but at least one unit; and the rest."""
    if not _is_too_long(text, limit, measure):
        return text, n.RichText()
    return _first_part(_opened(text, limit, measure), limit, measure)


def _opened(text: n.RichText, limit: int, measure: Measure) -> n.RichText:
    """`text` with plain text in place of nodes that cannot be cut but fill most of a part: a URL, a wide table.

    A very long name of an emoji is shortened, and a very long language of code is left out.
    """

    def long(node: n.Inline, characters: int) -> bool:
        # Most are short; do not render them for this.
        return _MAX_RENDERED * characters > limit / 2 and measure(n.RichText((n.Paragraph((node,)),))) > limit / 2

    def words(node: n.Inline) -> tuple[n.Inline, ...] | None:
        match node:
            case n.CustomEmoji(name) if len(name) > _MAX_NAME_LENGTH:
                return (replace(node, name=name[:_MAX_NAME_LENGTH] + _ELLIPSIS),)
            case n.Spoiler(children, reason) if reason and long(replace(node, children=_LITTLE), len(reason)):
                return (n.Text(f"({' '.join(reason.split())}) "), *opened((n.Spoiler(children),)))
            case n.Link(url, children) | n.MessageLink(_, url, children) if not _is_atom(node):
                hidden = long(replace(node, children=_LITTLE), len(url))
                return (*opened(children), n.Text(f" ({url})")) if hidden else None
            case n.Text() | n.Code() | n.LineBreak():
                return None
            case _ if _is_atom(node):
                text = n.inline_text((node,))
                return (n.Text(text),) if long(node, len(text)) else None
            case _:
                return None

    def opened(nodes: tuple[n.Inline, ...]) -> tuple[n.Inline, ...]:
        done = expand_inline(n.RichText((n.Paragraph(nodes),)), words).blocks[0]
        return done.children if isinstance(done, n.Paragraph) else ()

    def lines(block: n.Block) -> tuple[n.Block, ...]:
        if isinstance(block, n.CodeBlock) and len(block.language) > _MAX_NAME_LENGTH:
            return (replace(block, language=""),)
        if not isinstance(block, n.Table):
            return (block,)
        # The caption may be long, so it is measured apart from the rows.
        above = measure(n.RichText((n.Paragraph(block.caption),))) if block.caption else 0
        if _are_short(block.rows, limit // 2 - above, measure):
            return (block,)
        return (
            *((n.Paragraph(block.caption),) if block.caption else ()),
            *(n.Paragraph(tuple(node for cell in row for node in (*cell.children, n.Text(" ")))) for row in block.rows),
        )

    return map_blocks(expand_inline(text, words), lines)


def _are_short(rows: tuple[tuple[n.TableCell, ...], ...], limit: int, measure: Measure) -> bool:
    """Whether each row of a table measures at most `limit`. Measured many at a time: rows that are short together are
    short one by one."""
    start, count = 0, 16
    while start < len(rows):
        together = rows[start : start + count]
        if measure(n.RichText((n.Table(together),))) <= limit:
            start += len(together)
            count *= 2
        elif len(together) == 1:
            return False
        else:
            count = max(len(together) // 4, 1)
    return True


def _first_part(text: n.RichText, limit: int, measure: Measure) -> tuple[n.RichText, n.RichText]:
    most = _longest_fit(text, limit, measure)
    if most == 0:
        return _cut(text, 1)
    while (boundary := _best_boundary(text, most)) is not None:
        head = _cut(text, boundary.position)[0]
        if measure(head) <= limit:
            return head, _cut(text, boundary.position + boundary.skip)[1]
        most = boundary.position - 1
    return _cut(text, _grapheme_floor(text, most))


def _longest_fit(text: n.RichText, limit: int, measure: Measure) -> int:
    # Each unit is rendered as at least about one character, so the search can start at `limit`, not at the text's end.
    low, high = 0, limit - max(_cut_blocks(text.blocks, limit)[2], 0)
    fits, exceeds = 0, 0
    tried, step = max(high // _SAMPLE, 1), 0
    while low < high:
        measured = measure(_cut(text, tried)[0])
        if measured <= limit:
            low, fits = tried, measured
        else:
            high, exceeds = tried - 1, measured
        # Guess by proportion, as most texts are rendered at the same rate everywhere; every third step halves instead.
        step += 1
        if step % 3 == 0:
            guess = (low + high + 1) // 2
        elif exceeds:
            guess = low + (limit - fits) * (high + 1 - low) // (exceeds - fits)
        else:
            guess = tried * limit // max(measured, 1)
        tried = min(max(guess, low + 1), high)
    return low


def _best_boundary(text: n.RichText, most: int) -> _Boundary | None:
    found: dict[_Rank, _Boundary] = {}
    for boundary in _boundaries(text.blocks, 0, _Rank.BLOCK):
        if boundary.position > most:
            break
        if boundary.position > 0:
            found[boundary.rank] = boundary
    well_filled = [found[rank] for rank in sorted(found, reverse=True) if found[rank].position >= most * _LEAST_FILL]
    return well_filled[0] if well_filled else max(found.values(), key=lambda known: known.position, default=None)


# --- Boundaries -------------------------------------------------------------------------------------------


def _boundaries(blocks: tuple[n.Block, ...], start: int, rank: _Rank) -> Generator[_Boundary, None, int]:
    """The boundaries in `blocks`, by position; returns where they end. `rank`: that of the end of a block."""
    for block in blocks:
        match block:
            case n.Paragraph(children) | n.Heading(_, children) | n.Subtext(children):
                start = yield from _inline_boundaries(children, start)
            case n.CodeBlock(text):
                lines = (match.start() for match in re.finditer("\n", text))
                yield from (_Boundary(start + at, 1, _Rank.LINE) for at in lines)
                start += len(text)
            case n.Quote(inner):
                start = yield from _boundaries(inner, start, _Rank.LINE)
            case n.BulletList(items):
                for item in items:
                    start = yield from _boundaries(item.blocks, start, _Rank.LINE)
            case n.Details(summary, inner):
                start = _end_of(_inline_boundaries(summary, start)) + 1
                start = yield from _boundaries(inner, start, _Rank.LINE)
            case n.Table(rows):
                yield from (_Boundary(start + at, 0, _Rank.LINE) for at in range(1, len(rows)))
                start += len(rows)
            case n.Rule():
                pass
        start += 1
        yield _Boundary(start, 0, rank)
    return start


def _inline_boundaries(nodes: tuple[n.Inline, ...], start: int) -> Generator[_Boundary, None, int]:
    for node in nodes:
        if isinstance(node, n.Text | n.Code):
            yield from _word_boundaries(node.text, start)
            start += len(node.text)
        elif isinstance(node, n.Container) and not _is_atom(node):
            start = yield from _inline_boundaries(node.children, start)
        else:
            if isinstance(node, n.LineBreak):
                yield _Boundary(start, 1, _Rank.LINE)
            start += 1
    return start


def _end_of(boundaries: Generator[_Boundary, None, int]) -> int:
    while True:
        try:
            next(boundaries)
        except StopIteration as end:
            return int(end.value)


def _word_boundaries(text: str, start: int) -> Iterator[_Boundary]:
    for match in _SPACE.finditer(text):
        rank = _Rank.SENTENCE if _SENTENCE_END.search(text, max(0, match.start() - 4), match.start()) else _Rank.WORD
        yield _Boundary(start + match.start(), len(match.group()), rank)


def _grapheme_floor(text: n.RichText, most: int) -> int:
    """The last position up to `most` that does not cut through what a reader sees as one character."""
    head, tail = _cut(text, most)
    before, after = _edge(head.blocks, -1)[-_WINDOW:], _edge(tail.blocks, 0)[:_WINDOW]
    whole = [end for end in ends_of_characters(before + after) if end <= len(before)]
    torn = len(before) - max(whole, default=0)
    return most - torn if torn < len(before) else most


def _edge(blocks: tuple[n.Block, ...], side: Literal[0, -1]) -> str:
    """The text of the first (0) or last (-1) leaf, next to a cut; "" if it is no text."""
    node: object = blocks[side] if blocks else None
    while True:
        match node:
            case n.Text(text) | n.Code(text) | n.CodeBlock(text):
                return text
            case n.Quote(inner) | n.Details(_, inner) | n.ListItem(inner):
                node = inner[side] if inner else None
            case n.BulletList(items):
                node = items[side] if items else None
            case n.Paragraph(children) | n.Heading(_, children) | n.Subtext(children):
                node = children[side] if children else None
            case _ if isinstance(node, n.Container):
                node = node.children[side] if node.children else None
            case _:
                return ""


# --- Cutting ----------------------------------------------------------------------------------------------

# Each of these goes once through what it cuts, and only up to the cut: what follows may be very long and deep. The
# third value that they return is how many units of `at` are left, or `_CUT`.


def _cut(text: n.RichText, at: int) -> tuple[n.RichText, n.RichText]:
    head, tail, _ = _cut_blocks(text.blocks, at)
    return n.RichText(head), n.RichText(tail)


def _cut_blocks(blocks: tuple[n.Block, ...], at: int) -> tuple[tuple[n.Block, ...], tuple[n.Block, ...], int]:
    for index, block in enumerate(blocks):
        if at == 0:
            return blocks[:index], blocks[index:], _CUT
        head, tail, at = _cut_block(block, at)
        if at < 0:
            return (*blocks[:index], *head), (*tail, *blocks[index + 1 :]), _CUT
    return blocks, (), at


def _cut_block(block: n.Block, at: int) -> tuple[tuple[n.Block, ...], tuple[n.Block, ...], int]:
    head: tuple[n.Block, ...] = ()
    tail: tuple[n.Block, ...] = ()
    left = at
    match block:
        case n.Paragraph(children) | n.Heading(_, children) | n.Subtext(children):
            before, after, left = _cut_nodes(children, at)
            if left <= 0:
                head, tail = _some(block, children=before), _some(block, children=after)
        case n.CodeBlock(text):
            left = at - len(text)
            head, tail = _some(block, text=text[:at]), _some(block, text=text[at:])
        case n.Quote(blocks):
            before_blocks, after_blocks, left = _cut_blocks(blocks, at)
            head, tail = _some(block, blocks=before_blocks), _some(block, blocks=after_blocks)
        case n.BulletList():
            head, tail, left = _cut_list(block, at)
        case n.Details():
            head, tail, left = _cut_details(block, at)
        case n.Table(rows):
            left = at - len(rows)
            head, tail = _some(block, rows=rows[:at]), _some(replace(block, caption=()), rows=rows[at:])
        case n.Rule():
            pass
    # The end of a block is one unit.
    return ((block,), (), left - 1) if left > 0 else (head, tail, _CUT)


def _some(block: n.Block, **content: object) -> tuple[n.Block, ...]:
    """The block with new content, or none if there is no content left."""
    return (replace(block, **content),) if any(content.values()) else ()  # type: ignore[arg-type]


def _cut_details(block: n.Details, at: int) -> tuple[tuple[n.Block, ...], tuple[n.Block, ...], int]:
    before, after, left = _cut_nodes(block.summary, at)
    if left <= 0:
        return (n.Paragraph(before),), (replace(block, summary=after),), _CUT
    before_blocks, after_blocks, left = _cut_blocks(block.blocks, left - 1)
    return (replace(block, blocks=before_blocks),) if block.summary or before_blocks else (), after_blocks, left


def _cut_list(block: n.BulletList, at: int) -> tuple[tuple[n.Block, ...], tuple[n.Block, ...], int]:
    for index, item in enumerate(block.items):
        before, after, at = _cut_blocks(item.blocks, at)
        if at < 0:
            head = (*block.items[:index], *((n.ListItem(before),) if before else ()))
            tail = (*((n.ListItem(after),) if after else ()), *block.items[index + 1 :])
            start = None if block.start is None else block.start + index
            return _some(block, items=head), _some(replace(block, start=start), items=tail), _CUT
    return (block,), (), at


def _cut_nodes(nodes: tuple[n.Inline, ...], at: int) -> tuple[tuple[n.Inline, ...], tuple[n.Inline, ...], int]:
    for index, node in enumerate(nodes):
        if at == 0 and not _is_nothing(node):
            return nodes[:index], nodes[index:], _CUT
        match node:
            case n.Text(text) | n.Code(text):
                left = at - len(text)
                if left < 0:
                    head, tail = replace(node, text=text[:at]), replace(node, text=text[at:])
                    return (*nodes[:index], head), (tail, *nodes[index + 1 :]), _CUT
            case _ if isinstance(node, n.Container) and not _is_atom(node):
                before, after, left = _cut_nodes(node.children, at)
                if left < 0:
                    opened, reopened = replace(node, children=before), replace(node, children=after)
                    return (*nodes[:index], opened), (reopened, *nodes[index + 1 :]), _CUT
            case _:
                left = at - 1
        at = left
    return nodes, (), at


def _is_nothing(node: n.Inline) -> bool:
    """Whether a node takes no units."""
    if isinstance(node, n.Text | n.Code):
        return not node.text
    return isinstance(node, n.Container) and bool(node.children) and all(map(_is_nothing, node.children))


def _is_atom(node: n.Inline) -> bool:
    """Whether an inline node is never cut. A bare link is not, because it would become two dead ones."""
    if isinstance(node, n.ChannelMention):
        return True
    if isinstance(node, n.Container):
        return not node.children or (isinstance(node, n.Link) and n.inline_text(node.children) == node.url)
    return not isinstance(node, n.Text | n.Code)


def ends_of_characters(text: str) -> Iterator[int]:
    """Where each character ends, as readers see characters: an emoji of a family is one."""
    # Only where a text or a name is too long: it takes 1.5 MiB.
    import regex

    return (match.end() for match in regex.finditer(r"\X", text))
