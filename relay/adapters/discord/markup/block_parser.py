"""Discord's markdown -> the neutral text tree: blocks. `inline_parser` reads what is inside them.

The client's grammar is not CommonMark. It is one flat list of anchored expressions, which are tried in order at each
position: see https://github.com/discord/SimpleAST for phones, and Khan's simple-markdown for the desktop.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from relay.adapters.discord.markup.inline_parser import MAX_DEPTH, InlineParser, Marked, is_plain
from relay.adapters.discord.markup.references import NameLookup, read_angle
from relay.domain.text import nodes as n
from relay.domain.text.normalise import normalise, words_of
from relay.domain.text.rewrite import marked

_MARK = re.compile(r" *+[>#*\d-]")
_QUOTE_LINE = re.compile(r" *+> ?")
_QUOTE_START = re.compile(r" *+> ")
_QUOTE_REST = re.compile(r" *+>>> ")
_HEADING = re.compile(r" *+(#{1,3})\s++(?=[^\s#])")
_SUBTEXT = re.compile(r"-#[^\S\n]++(?=\S)(?!-#)")
_BULLET = re.compile(r"( *+)(?:[*-]|(\d++)\.) +(?=\S)", re.ASCII)
# A line that may begin a block, also inside markup.
_BLOCK_LINE = re.compile(r"^ *+[*_~|]*(?:[>*-]|#{1,3}|-#|>>>|\d++\.) ", re.MULTILINE | re.ASCII)
_CONTINUED = re.compile(r" +[^ \n]")
_MAX_LIST_DEPTH = 10
# What a list is numbered from.
_LEAST_NUMBER, _GREATEST_NUMBER = 1, 1_000_000_000


def parse(content: str, *, names: NameLookup, headings: bool = True) -> n.RichText:
    """What a client shows of a message's `content`. Never raises. Takes linear time.

    `headings` is false where clients show none (https://github.com/discord/discord-api-docs/issues/7167).
    """
    source = content.replace("\r\n", "\n").replace("\r", "\n")
    return normalise(n.RichText(tuple(_Blocks(source, names, headings=headings).read())))


def parse_inline(content: str, *, names: NameLookup) -> tuple[n.Inline, ...]:
    """The same where clients show markup but no blocks, as in an embed's title."""
    return words_of(InlineParser(content.replace("\r\n", "\n").replace("\r", "\n"), names).all())


def parse_references(content: str, *, names: NameLookup) -> tuple[n.Inline, ...]:
    """The same where clients show no markup. References in angle brackets are shown by their names all the same."""
    nodes: list[n.Inline] = []
    start = position = 0
    while (position := content.find("<", position)) >= 0:
        found = read_angle(content, position, names)
        if found is None:
            position += 1
            continue
        nodes.append(n.Text(content[start:position]))
        node, start = found
        nodes.append(node)
        position = start
    return words_of((*nodes, n.Text(content[start:])))


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Reads the blocks of `source`. Clients do not nest quotes, and nest lists only by their indent."""

    source: str
    names: NameLookup
    quoted: bool = False
    listed: bool = False
    headings: bool = True
    # How deep it is in markup.
    depth: int = 0

    def read(self) -> Iterator[n.Block]:
        """Yields the blocks."""
        inline = InlineParser(self.source, self.names, depth=self.depth)
        position, end = 0, len(self.source)
        blank = 0
        # Clients show an indented heading only where nothing but a block with a mark is in the line above.
        indented = True
        while position < end:
            if self.source[position] == "\n":
                position += 1
                blank += 1
                indented = False
                continue
            if (found := self._marked(position, indented=indented)) is not None:
                blocks, position = found
                yield from blocks
                blank = 0
                indented = True
                continue
            indented = False
            if (within := self._within(inline, position)) is not None:
                node, content, position = within
                yield from marked(tuple(replace(self, source=content, depth=self.depth + 1).read()), node)
                blank = 0
                position = self._past_spaces(position)
                if self.source.startswith("\n", position):
                    position += 1
                    continue
            nodes, position = inline.read(position, lambda at: self._starts_block(inline, at))
            # One blank line only separates paragraphs. Clients show further blank lines.
            if nodes:
                yield n.Paragraph((*(n.LineBreak() for _ in range(blank - 1)), *nodes))
                blank = 0
            if fence := inline.fence(position):
                yield n.CodeBlock(fence.text, fence.language)
                blank = 0
                # What follows the closing fence begins a new line.
                position = self._past_spaces(fence.end)
                position += self.source.startswith("\n", position)

    def _past_spaces(self, position: int) -> int:
        while self.source.startswith(" ", position):
            position += 1
        return position

    def _within(self, inline: InlineParser, position: int) -> Marked | None:
        """The markup at `position`, the start of a line, if it has blocks in it: clients show those, too."""
        if self.depth > MAX_DEPTH or (found := inline.marked(position)) is None:
            return None
        return found if _BLOCK_LINE.search(found[1]) else None

    def _marked(self, position: int, *, indented: bool) -> tuple[list[n.Block], int] | None:
        """The blocks that begin with a mark at `position`, the start of a line, and where they end; None for text."""
        source = self.source
        if not _MARK.match(source, position):
            return None
        if not self.quoted and (match := _QUOTE_REST.match(source, position)):
            return [self._quote(source[match.end() :])], len(source)
        if not self.quoted and _QUOTE_START.match(source, position):
            return self._quoted_lines(position)
        if (match := self._heading(position, indented=indented)) or (match := _SUBTEXT.match(source, position)):
            end = _line_end(source, match.end())
            words = source[match.end() : end]
            if match.re is _SUBTEXT:
                return [n.Subtext(self._inline(words))], end + 1
            # Clients leave out `#` at the end of a heading.
            return [n.Heading(len(match[1]), self._inline(words.rstrip().rstrip("#")))], end + 1
        if not self.listed and _BULLET.match(source, position):
            return self._list(position)
        return None

    def _starts_block(self, inline: InlineParser, position: int) -> bool:
        """Whether the line at `position` starts a block with a mark, or is blank."""
        source = self.source
        if position >= len(source) or source[position] == "\n":
            return True
        if self._within(inline, position) is not None:
            return True
        # The usual case first: most lines begin without a mark.
        if not _MARK.match(source, position):
            return False
        return bool(
            (not self.quoted and (_QUOTE_REST.match(source, position) or _QUOTE_START.match(source, position)))
            or self._heading(position)
            or _SUBTEXT.match(source, position)
            or (not self.listed and _BULLET.match(source, position))
        )

    def _heading(self, position: int, *, indented: bool = False) -> re.Match[str] | None:
        match = _HEADING.match(self.source, position) if self.headings else None
        return match if match and (indented or match.start(1) == position) else None

    def _inline(self, source: str) -> tuple[n.Inline, ...]:
        return InlineParser(source, self.names).all()

    def _quote(self, source: str) -> n.Quote:
        return n.Quote(tuple(replace(self, source=source, quoted=True).read()))

    def _quoted_lines(self, position: int) -> tuple[list[n.Block], int]:
        lines: list[str] = []
        while position < len(self.source) and (match := _QUOTE_LINE.match(self.source, position)):
            end = _line_end(self.source, position)
            # A line with `>` and no space after it belongs to the quote only if it is otherwise empty.
            if not _QUOTE_START.match(self.source, position) and match.end() != end:
                break
            lines.append(self.source[match.end() : end])
            position = end + 1
        return [self._quote("\n".join(lines))], position

    def _list(self, position: int) -> tuple[list[n.Block], int]:
        """Consecutive lines of a list: items, nested by their indent, and indented lines that continue an item."""
        tree = _ListTree(self)
        last_fence = self.source.rfind("```")
        while position < len(self.source):
            tree.in_fence = tree.in_fence and position <= last_fence
            match = _BULLET.match(self.source, position)
            if tree.in_fence:
                match = None
            elif not match and not _CONTINUED.match(self.source, position):
                break
            end = _line_end(self.source, position)
            if match:
                number = None if match[2] is None else _number(match[2])
                tree.add(len(match[1]), match.end() - match.start(), number, self.source[match.end() : end])
            else:
                tree.continue_item(self.source[position:end])
            position = end + 1
        return tree.finish(), position

    def body(self, source: str) -> tuple[n.Block, ...]:
        """The blocks of a list item's own text, in which clients show no headings."""
        if is_plain(source) and not _MARK.match(source):
            return (n.Paragraph((n.Text(source),)),)
        return tuple(replace(self, source=source, listed=True, headings=False).read())


@dataclass(slots=True)
class _Item:
    width: int
    lines: list[str]
    nested: "list[_List]"


@dataclass(slots=True)
class _List:
    indent: int
    start: int | None
    items: list[_Item]


class _ListTree:
    """Builds nested lists from the lines of a list."""

    def __init__(self, blocks: _Blocks) -> None:
        self._blocks = blocks
        self._root: _List | None = None
        self._open: list[_List] = []
        self.in_fence = False

    def add(self, indent: int, width: int, number: int | None, text: str) -> None:
        """Add a line that starts an item. `width` is the indent of its text."""
        while len(self._open) > 1 and indent < self._open[-1].indent:
            self._open.pop()
        item = _Item(width, [], [])
        current = self._open[-1] if self._open else None
        if current is not None and indent > current.indent and len(self._open) < _MAX_LIST_DEPTH:
            self._open.append(_List(indent, number, [item]))
            current.items[-1].nested.append(self._open[-1])
        elif current is not None:
            # Whether it has numbers is decided by its first item, whatever stands before the others.
            current.items.append(item)
        else:
            self._root = _List(indent, number, [item])
            self._open.append(self._root)
        within = _BULLET.match(text)
        if within and len(self._open) < _MAX_LIST_DEPTH:
            number = None if within[2] is None else _number(within[2])
            self.add(indent + width + len(within[1]), within.end() - len(within[1]), number, text[within.end() :])
        else:
            self._append(item, text)

    def continue_item(self, line: str) -> None:
        """Add a further line to the last item."""
        item = self._open[-1].items[-1]
        margin = min(item.width, len(line) - len(line.lstrip(" ")))
        self._append(item, line[margin:])

    def _append(self, item: _Item, text: str) -> None:
        item.lines.append(text)
        # Nothing in fenced code starts an item. Code that begins within a line is read with the item's text.
        if self.in_fence:
            self.in_fence = "```" not in text
        elif text.lstrip(" ").startswith("```"):
            self.in_fence = text.count("```") == 1

    def finish(self) -> list[n.Block]:
        """The list."""
        return [] if self._root is None else [self._build(self._root)]

    def _build(self, found: _List) -> n.BulletList:
        items = (
            n.ListItem((*self._blocks.body("\n".join(item.lines)), *(self._build(nested) for nested in item.nested)))
            for item in found.items
        )
        return n.BulletList(tuple(items), found.start)


def _number(digits: str) -> int:
    # Not all of them: `int` refuses thousands.
    return min(int(digits.lstrip("0")[:11] or _LEAST_NUMBER), _GREATEST_NUMBER)


def _line_end(source: str, position: int) -> int:
    end = source.find("\n", position)
    return len(source) if end < 0 else end
