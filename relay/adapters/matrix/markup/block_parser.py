"""The content of a Matrix event -> the neutral text tree: the plain body, and the blocks of the HTML."""

import html
import re
from collections.abc import Iterable, Iterator

from relay.adapters.matrix.markup.html import BLOCKS, Element, parse_html
from relay.adapters.matrix.markup.inline_parser import (
    InlineParser,
    NameLookup,
    SpoilerWrapper,
    Wrapper,
    text_content,
    wrap_all,
)
from relay.domain.text import nodes as n
from relay.domain.text.normalise import normalise

_LANGUAGE = re.compile(r"(?:^|\s)language-([\w+#.-]+)")
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*+>")
# No client writes more for a text that people read. A tree of more would cost the other rooms time and memory.
_MOST_TAGS = 2_000
_MOST_REFERENCES = 1_000
_MOST_LINES = 2_000
_MOST_WRAPPERS = 8


def parse(
    body: str, formatted_body: str | None, *, names: NameLookup, strip_profile_fallback: bool = False
) -> n.RichText:
    """What a client shows of a message: `formatted_body` (HTML), or `body` if there is none or it shows nothing.

    `strip_profile_fallback`: leave out the name that is in the text for clients without per-message profiles.
    Never raises; linear in the length of the text. A text with thousands of tags or links is read as plain text.
    """
    if formatted_body is None or not formatted_body.strip():
        return _parse_plain(body, names)
    if formatted_body.count("<") > _MOST_TAGS or _references(formatted_body) > _MOST_REFERENCES:
        return _without_markup(body, formatted_body, names)
    parser = _BlockParser(InlineParser(names, strip_fallback=strip_profile_fallback))
    text = normalise(n.RichText(tuple(parser.blocks(parse_html(formatted_body).children))))
    return text or _parse_plain(body, names)


def _parse_plain(body: str, names: NameLookup) -> n.RichText:
    source = body.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    parser = InlineParser(names)
    linked = _references(source) <= _MOST_REFERENCES
    *lines, rest = source.split("\n", _MOST_LINES)
    if "\n" not in rest:
        lines.append(rest)
        rest = ""
    nodes: list[n.Inline] = []
    for number, line in enumerate(lines):
        if number:
            nodes.append(n.LineBreak())
        nodes.extend(parser.linked(line) if linked else (n.Text(line),))
    return normalise(n.RichText((n.Paragraph(tuple(nodes)), *((n.CodeBlock(rest),) if rest else ()))))


def _references(text: str) -> int:
    return text.count("://") + text.count("@room")


def _without_markup(body: str, formatted_body: str, names: NameLookup) -> n.RichText:
    words = body if body.strip() else html.unescape(_TAG.sub("", formatted_body))
    text = _parse_plain(words, names)
    if "data-mx-spoiler" not in formatted_body.lower():
        return text
    # Nobody can tell any more which words are hidden, so all of them are.
    return normalise(n.RichText((n.Paragraph((n.Spoiler((n.Text(" ".join(n.plain_text(text).split())),)),)),)))


class _BlockBuilder:
    """Collects inline nodes and blocks, in the order of the HTML, and makes paragraphs of the inline nodes.

    Runs of inline nodes become lines of one paragraph, as in a browser, unless something separates them.
    """

    def __init__(self) -> None:
        # Inline nodes since the last block or break.
        self.run: list[n.Inline] = []
        self._blocks: list[n.Block] = []
        # The paragraph that may get more lines.
        self._open: list[n.Inline] = []

    def end_run(self, wrappers: tuple[Wrapper, ...], *, separate: bool = False) -> None:
        """Make the run a line of the open paragraph, or a paragraph of its own."""
        nodes, self.run = tuple(self.run), []
        if not any(not (isinstance(node, n.Text) and not node.text.strip()) for node in nodes):
            return
        nodes = wrap_all(nodes, wrappers)
        if self._open and not separate:
            self._open += (n.LineBreak(), *nodes)
        elif isinstance(block := _paragraph(nodes), n.Paragraph) and not separate:
            self._open = list(nodes)
        else:
            self.add(block)

    def add(self, block: n.Block) -> None:
        """Add a block that is complete."""
        self.close_paragraph()
        self._blocks.append(block)

    def close_paragraph(self) -> None:
        """End the open paragraph: what follows is a new one."""
        if self._open:
            self._blocks.append(n.Paragraph(tuple(self._open)))
            self._open = []

    def blocks(self) -> list[n.Block]:
        """All blocks."""
        self.close_paragraph()
        return self._blocks


class _BlockParser:
    """Turns elements into blocks."""

    def __init__(self, inline: InlineParser) -> None:
        self._inline = inline

    def blocks(self, children: Iterable[Element | str], wrappers: tuple[Wrapper, ...] = ()) -> list[n.Block]:
        """The blocks that `children` make, with `wrappers` around the content of each."""
        builder = _BlockBuilder()
        self._inline.spaced = True
        self._walk(builder, children, wrappers)
        builder.end_run(wrappers)
        return builder.blocks()

    def _walk(self, builder: _BlockBuilder, children: Iterable[Element | str], wrappers: tuple[Wrapper, ...]) -> None:
        for child in children:
            if isinstance(child, str):
                builder.run.extend(self._inline.text(child))
            elif child.tag == "hr":
                self._break(builder, wrappers)
                builder.add(n.Rule())
            elif child.tag in BLOCKS:
                self._break(builder, wrappers)
                self._block(builder, child, wrappers)
                self._inline.spaced = True
            elif child.holds_blocks:
                self._break(builder, wrappers)
                wrapper = self._inline.wrapper(child)
                inner = wrappers
                if wrapper is not None and wrapper not in wrappers and len(wrappers) <= _MOST_WRAPPERS:
                    inner = (*wrappers, wrapper)
                self._walk(builder, child.children, inner)
                self._break(builder, inner)
            else:
                builder.run.extend(self._inline.element(child))

    def _break(self, builder: _BlockBuilder, wrappers: tuple[Wrapper, ...], *, separate: bool = False) -> None:
        builder.end_run(wrappers, separate=separate)
        self._inline.spaced = True

    def _block(self, builder: _BlockBuilder, element: Element, wrappers: tuple[Wrapper, ...]) -> None:
        children = element.children
        match element.tag:
            case "p":
                builder.close_paragraph()
                self._walk(builder, children, wrappers)
                self._break(builder, wrappers, separate=True)
            case "h1" | "h2" | "h3" | "h4" | "h5" | "h6":
                builder.add(n.Heading(int(element.tag[1]), _flatten(self.blocks(children, wrappers))))
            case "pre":
                self._preformatted(builder, element, wrappers)
            case "blockquote":
                builder.add(n.Quote(tuple(self.blocks(children, wrappers))))
            case "ul" | "ol":
                start = element.attributes.get("start", "1") if element.tag == "ol" else None
                number = None if start is None else int(start) if _NUMBER.fullmatch(start) else 1
                builder.add(n.BulletList(tuple(self._items(children, wrappers)), number))
            case "table":
                builder.add(self._table(element, wrappers))
            case "details":
                builder.add(self._details(element, wrappers))
            case "div" if element.attributes.get("data-mx-maths", "").strip():
                formula = n.Math(element.attributes["data-mx-maths"], display=True)
                builder.add(n.Paragraph(wrap_all((formula,), wrappers)))
            case _:
                self._walk(builder, children, wrappers)
                self._break(builder, wrappers)

    def _preformatted(self, builder: _BlockBuilder, element: Element, wrappers: tuple[Wrapper, ...]) -> None:
        text = "".join(text_content(element))
        code = next((child for child in element.children if isinstance(child, Element) and child.tag == "code"), None)
        language = _LANGUAGE.search(code.attributes.get("class", "")) if code else None
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        if any(isinstance(wrapper, SpoilerWrapper) for wrapper in wrappers):
            # In the tree, lines of code can be a spoiler, but a code block cannot.
            nodes: list[n.Inline] = []
            for line in text.strip("\n").split("\n"):
                nodes += (n.Code(line), n.LineBreak())
            builder.add(n.Paragraph(wrap_all(tuple(nodes), wrappers)))
        else:
            builder.add(n.CodeBlock(text, language[1] if language else ""))

    def _items(self, children: Iterable[Element | str], wrappers: tuple[Wrapper, ...]) -> Iterator[n.ListItem]:
        """The items of a list. Content between items becomes part of the item before it."""
        current: list[n.Block] = []
        for child in children:
            if isinstance(child, Element) and child.tag == "li":
                if current:
                    yield n.ListItem(tuple(current))
                current = self.blocks(child.children, wrappers)
            else:
                current += self.blocks((child,), wrappers)
        if current:
            yield n.ListItem(tuple(current))

    def _table(self, table: Element, wrappers: tuple[Wrapper, ...]) -> n.Table:
        rows: list[tuple[n.TableCell, ...]] = []
        caption: tuple[n.Inline, ...] = ()
        waiting = list(reversed(table.children))
        while waiting:
            child = waiting.pop()
            if isinstance(child, str):
                if child.strip():
                    rows.append((self._cell((child,), wrappers),))
            elif child.tag == "tr":
                cells = (cell for cell in child.children if isinstance(cell, Element) or cell.strip())
                rows.append(tuple(self._cell((cell,), wrappers) for cell in cells))
            elif child.tag in ("thead", "tbody", "tfoot"):
                waiting.extend(reversed(child.children))
            elif child.tag == "caption":
                caption = _flatten(self.blocks(child.children, wrappers))
            else:
                rows.append((self._cell((child,), wrappers),))
        return n.Table(tuple(rows), caption)

    def _cell(self, content: tuple[Element | str], wrappers: tuple[Wrapper, ...]) -> n.TableCell:
        header = isinstance(content[0], Element) and content[0].tag == "th"
        return n.TableCell(_flatten(self.blocks(content, wrappers)), header=header)

    def _details(self, details: Element, wrappers: tuple[Wrapper, ...]) -> n.Details:
        summary: tuple[n.Inline, ...] = ()
        rest: list[Element | str] = []
        for child in details.children:
            if isinstance(child, Element) and child.tag == "summary" and not summary:
                summary = _flatten(self.blocks(child.children, wrappers))
            else:
                rest.append(child)
        return n.Details(summary, tuple(self.blocks(rest, wrappers)))


def _paragraph(nodes: tuple[n.Inline, ...]) -> n.Block:
    """A paragraph; if all of it is subscript, a subtext: that is how `render` writes one."""
    kept = [node for node in nodes if not (isinstance(node, n.Text) and not node.text.strip())]
    if len(kept) == 1 and isinstance(only := kept[0], n.Superscript) and only.lowered:
        return n.Subtext(only.children)
    return n.Paragraph(nodes)


def _flatten(blocks: Iterable[n.Block]) -> tuple[n.Inline, ...]:
    """The inline nodes of `blocks`, a line for each block, for places that cannot hold blocks."""
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
                nodes.extend(_flatten(inner))
            case n.BulletList(items):
                nodes.extend(_flatten(inner for item in items for inner in item.blocks))
            case n.Details(summary, inner):
                nodes.extend(summary)
                nodes.extend(_flatten(inner))
            case n.Table(rows):
                nodes.extend(node for row in rows for cell in row for node in (*cell.children, n.Text(" ")))
            case n.Rule():
                pass
    return tuple(nodes)
