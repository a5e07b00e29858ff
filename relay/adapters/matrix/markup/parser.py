"""The content of a Matrix event -> the neutral text tree."""

import html
import re
from collections.abc import Iterable, Iterator

from relay.adapters.matrix.markup.html import BLOCKS, Element, parse_html
from relay.adapters.matrix.markup.inline import InlineParser, NameLookup, SpoilerWrapper, Wrapper, text_content, wrapped
from relay.domain.text import nodes as n
from relay.domain.text.normalise import normalise

_LANGUAGE = re.compile(r"(?:^|\s)language-([\w+#.-]+)")
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*+>")
# No client writes as many for a text that people read; a tree of them would cost everybody else time and memory.
_MOST_TAGS = 2_000
_MOST_REFERENCES = 1_000
_MOST_LINES = 2_000


def parse(
    body: str, formatted_body: str | None, *, names: NameLookup, strip_profile_fallback: bool = False
) -> n.RichText:
    """What a client shows of a message: `formatted_body` (HTML), or `body` where there is none.

    `strip_profile_fallback`: leave out the name that stands in the text for clients without per-message profiles.
    Never raises; linear in the length of the text. Of a text with thousands of tags or links only the words are kept.
    """
    if formatted_body is None or not formatted_body.strip():
        return _parse_plain(body, names)
    if formatted_body.count("<") > _MOST_TAGS or _references(formatted_body) > _MOST_REFERENCES:
        return _without_markup(body, formatted_body, names)
    reader = _BlockParser(InlineParser(names, strip_fallback=strip_profile_fallback))
    return normalise(n.RichText(tuple(reader.blocks(parse_html(formatted_body).children))))


def _parse_plain(body: str, names: NameLookup) -> n.RichText:
    source = body.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    reader = InlineParser(names)
    linked = _references(source) <= _MOST_REFERENCES
    *lines, rest = source.split("\n", _MOST_LINES)
    if "\n" not in rest:
        lines.append(rest)
        rest = ""
    nodes: list[n.Inline] = []
    for number, line in enumerate(lines):
        if number:
            nodes.append(n.LineBreak())
        nodes.extend(reader.words(line) if linked else (n.Text(line),))
    return normalise(n.RichText((n.Paragraph(tuple(nodes)), *((n.CodeBlock(rest),) if rest else ()))))


def _references(text: str) -> int:
    return text.count("://") + text.count("@room")


def _without_markup(body: str, formatted_body: str, names: NameLookup) -> n.RichText:
    words = body if body.strip() else html.unescape(_TAG.sub("", formatted_body))
    text = _parse_plain(words, names)
    if "data-mx-spoiler" not in formatted_body.lower():
        return text
    # Which of the words are hidden cannot be told any more.
    return normalise(n.RichText((n.Paragraph((n.Spoiler((n.Text(" ".join(n.plain_text(text).split())),)),)),)))


class BlockBuilder:
    """Blocks on their way: a run of inline nodes that has not become a paragraph yet, and what stands above it.

    Of runs that nothing separates, each goes on in the same paragraph on a new line, as a browser shows it.
    """

    def __init__(self) -> None:
        self.run: list[n.Inline] = []
        self._blocks: list[n.Block] = []
        self._loose: list[n.Inline] = []

    def end_run(self, wraps: tuple[Wrapper, ...], *, separate: bool = False) -> None:
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


class _BlockParser:
    """Turns elements into blocks."""

    def __init__(self, inline: InlineParser) -> None:
        self._inline = inline

    def blocks(self, children: Iterable[Element | str], wraps: tuple[Wrapper, ...] = ()) -> list[n.Block]:
        """The blocks that `children` make; `wraps` is the markup that surrounds all of them."""
        flow = BlockBuilder()
        self._inline.spaced = True
        self._flow(flow, children, wraps)
        flow.end_run(wraps)
        return flow.blocks()

    def _flow(self, flow: BlockBuilder, children: Iterable[Element | str], wraps: tuple[Wrapper, ...]) -> None:
        for child in children:
            if isinstance(child, str):
                flow.run.extend(self._inline.text(child))
            elif child.tag == "hr":
                self._break(flow, wraps)
                flow.add(n.Rule())
            elif child.tag in BLOCKS:
                self._break(flow, wraps)
                self._block(flow, child, wraps)
                self._inline.spaced = True
            elif child.holds_blocks:
                self._break(flow, wraps)
                wrap = self._inline.wrapper(child)
                inner = wraps if wrap is None or wrap in wraps or len(wraps) > 8 else (*wraps, wrap)
                self._flow(flow, child.children, inner)
                self._break(flow, inner)
            else:
                flow.run.extend(self._inline.element(child))

    def _break(self, flow: BlockBuilder, wraps: tuple[Wrapper, ...], *, separate: bool = False) -> None:
        flow.end_run(wraps, separate=separate)
        self._inline.spaced = True

    def _block(self, flow: BlockBuilder, element: Element, wraps: tuple[Wrapper, ...]) -> None:
        children = element.children
        match element.tag:
            case "p":
                flow.part()
                self._flow(flow, children, wraps)
                self._break(flow, wraps, separate=True)
            case "h1" | "h2" | "h3" | "h4" | "h5" | "h6":
                flow.add(n.Heading(int(element.tag[1]), flat(self.blocks(children, wraps))))
            case "pre":
                self._preformatted(flow, element, wraps)
            case "blockquote":
                flow.add(n.Quote(tuple(self.blocks(children, wraps))))
            case "ul" | "ol":
                start = element.attributes.get("start", "1") if element.tag == "ol" else None
                number = None if start is None else int(start) if _NUMBER.fullmatch(start) else 1
                flow.add(n.BulletList(tuple(self._items(children, wraps)), number))
            case "table":
                flow.add(self._table(element, wraps))
            case "details":
                flow.add(self._details(element, wraps))
            case "div" if "data-mx-maths" in element.attributes:
                flow.add(n.Paragraph(wrapped((n.Math(element.attributes["data-mx-maths"], display=True),), wraps)))
            case _:
                self._flow(flow, children, wraps)
                self._break(flow, wraps)

    def _preformatted(self, flow: BlockBuilder, element: Element, wraps: tuple[Wrapper, ...]) -> None:
        text = "".join(text_content(element))
        code = next((child for child in element.children if isinstance(child, Element) and child.tag == "code"), None)
        language = _LANGUAGE.search(code.attributes.get("class", "")) if code else None
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        if any(isinstance(wrap, SpoilerWrapper) for wrap in wraps):
            # A block of code cannot be hidden; lines of code can.
            nodes: list[n.Inline] = []
            for line in text.strip("\n").split("\n"):
                nodes += (n.Code(line), n.LineBreak())
            flow.add(n.Paragraph(wrapped(tuple(nodes), wraps)))
        else:
            flow.add(n.CodeBlock(text, language[1] if language else ""))

    def _items(self, children: Iterable[Element | str], wraps: tuple[Wrapper, ...]) -> Iterator[n.ListItem]:
        """Items; what stands in a list without being in an item goes on with the one before."""
        current: list[n.Block] = []
        for child in children:
            if isinstance(child, Element) and child.tag == "li":
                if current:
                    yield n.ListItem(tuple(current))
                current = self.blocks(child.children, wraps)
            else:
                current += self.blocks((child,), wraps)
        if current:
            yield n.ListItem(tuple(current))

    def _table(self, table: Element, wraps: tuple[Wrapper, ...]) -> n.Table:
        rows: list[tuple[n.TableCell, ...]] = []
        caption: tuple[n.Inline, ...] = ()
        waiting = list(reversed(table.children))
        while waiting:
            child = waiting.pop()
            if isinstance(child, str):
                if child.strip():
                    rows.append((self._cell((child,), wraps),))
            elif child.tag == "tr":
                cells = (cell for cell in child.children if isinstance(cell, Element) or cell.strip())
                rows.append(tuple(self._cell((cell,), wraps) for cell in cells))
            elif child.tag in ("thead", "tbody", "tfoot"):
                waiting.extend(reversed(child.children))
            elif child.tag == "caption":
                caption = flat(self.blocks(child.children, wraps))
            else:
                rows.append((self._cell((child,), wraps),))
        return n.Table(tuple(rows), caption)

    def _cell(self, content: tuple[Element | str], wraps: tuple[Wrapper, ...]) -> n.TableCell:
        header = isinstance(content[0], Element) and content[0].tag == "th"
        return n.TableCell(flat(self.blocks(content, wraps)), header=header)

    def _details(self, details: Element, wraps: tuple[Wrapper, ...]) -> n.Details:
        summary: tuple[n.Inline, ...] = ()
        rest: list[Element | str] = []
        for child in details.children:
            if isinstance(child, Element) and child.tag == "summary" and not summary:
                summary = flat(self.blocks(child.children, wraps))
            else:
                rest.append(child)
        return n.Details(summary, tuple(self.blocks(rest, wraps)))


def paragraph(nodes: tuple[n.Inline, ...]) -> n.Block:
    """A paragraph; one that is all lowered is how small print crosses."""
    kept = [node for node in nodes if not (isinstance(node, n.Text) and not node.text.strip())]
    if len(kept) == 1 and isinstance(only := kept[0], n.Superscript) and only.lowered:
        return n.Subtext(only.children)
    return n.Paragraph(nodes)


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
