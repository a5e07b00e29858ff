"""An author's name above what they wrote, so that nothing in their words looks like another author's name. Pure."""

from collections.abc import Sequence

from relay.domain.names import visible
from relay.domain.text import nodes as n
from relay.domain.text.normalise import split_lines

_BOLD_LETTERS = range(0x1D400, 0x1D800)


def under_heading(heading: tuple[n.Inline, ...], blocks: Sequence[n.Block]) -> tuple[n.Block, ...]:
    """`blocks` with their author's name: on the first line if they begin with a paragraph, else above them.

    A line that begins in bold (also a heading, or the caption of a table) would look like the next author's name, so it
    is shown as a quotation.
    """
    match tuple(blocks):
        case (n.Paragraph(children), *rest):
            first, *lines = split_lines(children)
            begun = (*heading, n.Text(" "), *first)
            if not any(map(_begins_in_bold, lines)):
                return (n.Paragraph((*heading, n.Text(" "), *children)), *_set_apart(rest))
            return (*_paragraphs(lines, [begun]), *_set_apart(rest))
        case others:
            return (n.Paragraph(heading), *_set_apart(others))


def _set_apart(blocks: Sequence[n.Block]) -> tuple[n.Block, ...]:
    found: list[n.Block] = []
    for block in blocks:
        match block:
            case n.Paragraph(children) if any(map(_begins_in_bold, lines := split_lines(children))):
                found += _paragraphs(lines, [])
            case n.Details() | n.Heading() | n.Table(caption=(_, *_)):
                found.append(n.Quote((block,)))
            case n.Subtext(children) if any(map(_begins_in_bold, split_lines(children))):
                found.append(n.Quote((block,)))
            case _:
                found.append(block)
    return tuple(found)


def _paragraphs(lines: Sequence[tuple[n.Inline, ...]], begun: list[tuple[n.Inline, ...]]) -> list[n.Block]:
    """Lines as paragraphs, and as quotations where they look like a name. The first paragraph starts with `begun`."""
    found: list[n.Block] = []
    for line in lines:
        if _begins_in_bold(line):
            if begun:
                found.append(n.Paragraph(_joined(begun)))
            begun = []
            found.append(n.Quote((n.Paragraph(line),)))
        else:
            begun.append(line)
    return [*found, n.Paragraph(_joined(begun))] if begun else found


def _joined(lines: Sequence[tuple[n.Inline, ...]]) -> tuple[n.Inline, ...]:
    first, *rest = lines
    return (*first, *(node for line in rest for node in (n.LineBreak(), *line)))


def _begins_in_bold(line: tuple[n.Inline, ...]) -> bool:
    for node in line:
        match node:
            case n.Text(text) if not visible(text):
                continue
            case n.Text(text):
                return ord(visible(text)[0]) in _BOLD_LETTERS
            case n.Strong():
                return True
            case n.CustomEmoji() | n.InlineImage():
                continue  # it may be transparent
            case _:
                return isinstance(node, n.Container) and _begins_in_bold(node.children)
    return False
