"""The neutral text tree -> Discord's markdown: blocks. `inline_renderer` writes what is inside them.

What Discord has no markup for is written so that it can be read: tables as aligned code, details under their bold
summary, formulas as code, a quote in a quote with a `>` of its own.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from unicodedata import category, east_asian_width

from relay.adapters.discord.markup.inline_renderer import ZERO_WIDTH, EscapeContext, escape_lines, render_inline
from relay.adapters.discord.markup.references import ReferenceCodes
from relay.domain.text import nodes as n
from relay.domain.text.normalise import normalise, normalise_inline, split_lines

_LANGUAGE = re.compile(r"[A-Za-z0-9_+\-.#]+")
_BLANK_LINES = re.compile(r"\n(?:\s*\n)+")
# The line after a break that clients leave out in a list: they cut their text before anything that could be markup
# (also before a word with a colon, a number with a full stop), and take line breaks off the end of each piece.
_GLUED = re.compile(r"(?<=\n)(?= *+(?:[^\s0-9A-Za-z\u00c0-\U0010ffff]|\w+:\S|\d+\.))", re.ASCII)
# Clients indent no further than about that.
_MAX_DEPTH = 10
# A column is not padded further, in characters: a wider cell sticks out. Otherwise one long cell would widen every row,
# and a table of 60 KiB would be written as 71 MB.
_MAX_COLUMN_WIDTH = 60
_RULE = n.Paragraph((n.Text("⎯" * 12),))


def render(text: n.RichText, *, codes: ReferenceCodes) -> str:
    """Message content that makes a client show `text`. It mentions nobody but those whom `codes` gives."""
    blocks = normalise(text).blocks
    content = _BlockWriter(codes, EscapeContext(lines=True)).blocks(blocks)
    # Clients pair marks across lines and blocks. If all underscores are within words, none of them pairs with another,
    # and they need no backslash. Brackets need none if nothing could be the target of a link.
    context = EscapeContext(lines="_" in content.replace("\\_", ""), brackets="](" in content)
    if context.brackets or ("_" in content and not context.lines):
        content = _BlockWriter(codes, context).blocks(blocks)
    return content


@dataclass(frozen=True, slots=True)
class _BlockWriter:
    """Writes blocks. `context` is what holds of the whole text: clients pair marks across lines and blocks."""

    codes: ReferenceCodes
    context: EscapeContext
    depth: int = 0
    listed: bool = False

    def blocks(self, blocks: tuple[n.Block, ...]) -> str:
        """Blocks one below the other."""
        done: list[str] = []
        previous: n.Block | None = None
        for block in _without_unsupported(blocks):
            written = self._block(block)
            if not written:
                continue
            if previous is not None:
                done.append(self._gap(previous, block, written))
            done.append(written)
            previous = block
        return "".join(done)

    def _gap(self, above: n.Block, below: n.Block, written: str) -> str:
        """The line breaks between two blocks: a blank line where clients would otherwise join them."""
        if self.listed:
            # A blank line would end the list that contains both.
            lists = isinstance(above, n.BulletList) and isinstance(below, n.BulletList)
            words = isinstance(above, n.Paragraph | n.Heading) and isinstance(below, n.Paragraph | n.Heading)
            return f"\n{ZERO_WIDTH}\n" if lists else f"\n{ZERO_WIDTH * (words and _glued(written))}"
        apart = type(above) is type(below) and isinstance(above, n.Paragraph | n.Quote | n.BulletList)
        # An indented line below a list would belong to its last item, and line breaks of a paragraph need a blank line.
        return "\n\n" if apart or (isinstance(below, n.Paragraph) and written[0] in " \n") else "\n"

    def _block(self, block: n.Block) -> str:
        match block:
            case n.Paragraph(children):
                text = escape_lines(render_inline(children, self.codes, self.context))
                # A blank line would end the list that contains the text.
                return _GLUED.sub(ZERO_WIDTH, _BLANK_LINES.sub("\n", text.strip("\n"))) if self.listed else text
            case n.Heading(_, children) if self.listed:
                # Clients show no headings in a list.
                return self._block(n.Paragraph(normalise_inline((n.Strong(children),))))
            case n.Heading(level, children):
                return f"{'#' * min(level, 3)} {self._heading(children)}"
            case n.Subtext(children):
                lines = filter(None, (self._line(normalise_inline(line)) for line in split_lines(children)))
                return "\n".join(f"-# {line}" for line in lines)
            case n.CodeBlock(text, language):
                fenced = text.replace("``", f"`{ZERO_WIDTH}`") if "```" in text else text
                return f"```{language if _LANGUAGE.fullmatch(language) else ''}\n{fenced.strip(chr(10))}\n```"
            case n.Quote(blocks):
                inner = _BlockWriter(self.codes, self.context, self.depth + 1, listed=self.listed).blocks(blocks)
                if not inner or self.depth >= _MAX_DEPTH:
                    return inner
                return "\n".join(f"> {line}" for line in inner.split("\n"))
            case n.BulletList(items, start):
                return self._list(items, start)
            case _:
                return ""

    def _heading(self, children: tuple[n.Inline, ...]) -> str:
        """The words of a heading. Clients leave out `#` at its end, and show no heading if its words begin so."""
        ends = n.inline_text(children).endswith("#")
        line = self._line((*children, n.Text(ZERO_WIDTH)) if ends else children)
        return f"\\{line}" if line.startswith("#") else line

    def _line(self, children: tuple[n.Inline, ...]) -> str:
        """The words of a heading or of small print, in which clients see quotes and lists, too."""
        line = tuple(n.Text(" ") if isinstance(node, n.LineBreak) else node for node in children)
        return escape_lines(render_inline(line, self.codes, self.context).replace("\n", " "))

    def _list(self, items: tuple[n.ListItem, ...], start: int | None) -> str:
        writer = _BlockWriter(self.codes, self.context, self.depth + 1, listed=True)
        done: list[str] = []
        for number, item in enumerate(items, start=max(start or 0, 1)):
            mark = "- " if start is None else f"{number}. "
            body = writer.blocks(item.blocks).lstrip(" ")
            if item.blocks and isinstance(item.blocks[0], n.BulletList):
                body = f"{ZERO_WIDTH}\n{body}"
            indent = " " * len(mark) if self.depth < _MAX_DEPTH else ""
            done.append(mark + body.replace("\n", f"\n{indent}"))
        return "\n".join(done)


def _glued(line: str) -> bool:
    """Whether clients would leave out a line break in front of `line` in a list."""
    return _GLUED.match(f"\n{line}", 1) is not None


def _without_unsupported(blocks: tuple[n.Block, ...]) -> Iterator[n.Block]:
    """`blocks` with those that Discord does not have turned into those that it has."""
    for block in blocks:
        match block:
            case n.Details(summary, inner):
                if summary:
                    yield n.Paragraph(normalise_inline((n.Strong(summary),)))
                yield from _without_unsupported(inner)
            case n.Table():
                if block.caption:
                    yield n.Paragraph(normalise_inline((n.Strong(block.caption),)))
                yield n.CodeBlock(_aligned(block))
            case n.Rule():
                yield _RULE
            case n.Paragraph((n.Math(tex, True),)):
                yield n.CodeBlock(tex.strip("\n"), "tex")
            case _:
                yield block


def _aligned(table: n.Table) -> str:
    rows = [[_cell_text(cell.children) for cell in row] for row in table.rows]
    widths = [0] * max(map(len, rows))
    for cells in rows:
        for column, cell in enumerate(cells):
            width = _width(cell)
            if widths[column] < width <= _MAX_COLUMN_WIDTH:
                widths[column] = width
    lines: list[str] = []
    for row, cells in zip(table.rows, rows, strict=True):
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=False))
        lines.append(" | ".join(padded).rstrip())
        if len(lines) == 1 and all(cell.header for cell in row):
            lines.append("-+-".join("-" * width for width in widths))
    return "\n".join(lines)


def _cell_text(children: tuple[n.Inline, ...]) -> str:
    words = n.inline_text(children)
    urls = [node.url for node in children if isinstance(node, n.Link) and node.children != (n.Text(node.url),)]
    return " ".join((*words.split(), *(f"({url})" for url in urls)))


def _width(text: str) -> int:
    """Columns that `text` takes in a fixed-width font: wide characters take two, joiners and marks none."""
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if east_asian_width(char) in "WF" else 1
