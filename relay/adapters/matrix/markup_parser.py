"""The content of a Matrix event -> the neutral text tree."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from relay.adapters.matrix.markup_flow import Flow, Linked, Spoil, Wrap, flat, wrapped
from relay.adapters.matrix.markup_html import BLOCKS, Element, parse_html
from relay.adapters.matrix.markup_links import read_link, storable
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.links import link_bare_urls
from relay.domain.normalise import normalise
from relay.domain.richtext import (
    Block,
    BroadcastMention,
    BulletList,
    ChannelMention,
    Code,
    CodeBlock,
    Colored,
    CustomEmoji,
    Details,
    Emphasis,
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
    Rule,
    Spoiler,
    Strike,
    Strong,
    Superscript,
    Table,
    TableCell,
    Text,
    Underline,
    UserMention,
    inline_text,
)

_SPACE = re.compile(r"[ \t\n\r\f]+")
_ROOM = re.compile(r"(?<!\w)@room\b")
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
_LANGUAGE = re.compile(r"(?:^|\s)language-([\w+#.-]+)")
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_MXC = re.compile(r"mxc://[^/\s]+/[^/\s]+")
_SCHEMES = ("https:", "http:", "ftp:", "mailto:", "magnet:")

_SIMPLE: dict[str, Wrap] = {
    "b": Strong,
    "strong": Strong,
    "i": Emphasis,
    "em": Emphasis,
    "u": Underline,
    "s": Strike,
    "del": Strike,
    "strike": Strike,
    "sup": Superscript,
    "sub": lambda children: Superscript(children, lowered=True),
}


@dataclass(frozen=True, slots=True)
class Names:
    """What the parser must ask; None where it is unknown.

    `user`: the display name of a user ID. `room_id`: the ID of the room that an alias names. `room_name`: the name of
    a room by its ID, without a #.
    """

    user: Callable[[str], str | None] = lambda _: None
    room_id: Callable[[str], str | None] = lambda _: None
    room_name: Callable[[str], str | None] = lambda _: None


def parse(body: str, formatted_body: str | None, *, names: Names, strip_profile_fallback: bool = False) -> RichText:
    """What a client shows of a message: `formatted_body` (HTML), or `body` where there is none.

    `strip_profile_fallback`: leave out the name that stands in the text for clients without per-message profiles.
    Never raises; linear in the length of the text.
    """
    if formatted_body is None or not formatted_body.strip():
        return _parse_plain(body, names)
    reader = _Reader(names, strip_profile_fallback)
    return normalise(RichText(tuple(reader.blocks(parse_html(formatted_body).children))))


def _parse_plain(body: str, names: Names) -> RichText:
    source = body.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    reader = _Reader(names, False)
    nodes: list[Inline] = []
    for number, line in enumerate(source.split("\n")):
        if number:
            nodes.append(LineBreak())
        nodes.extend(reader.words(line))
    return normalise(RichText((Paragraph(tuple(nodes)),)))


class _Reader:
    """Turns elements into nodes."""

    def __init__(self, names: Names, strip_profile_fallback: bool) -> None:
        self._names = names
        self._strip_fallback = strip_profile_fallback
        # Whether the text so far ends in white space, so that more of it does not show.
        self._spaced = True

    def blocks(self, children: Iterable[Element | str], wraps: tuple[Wrap, ...] = ()) -> list[Block]:
        """The blocks that `children` make; `wraps` is the markup that surrounds all of them."""
        flow = Flow()
        self._spaced = True
        self._flow(flow, children, wraps)
        flow.end_run(wraps)
        return flow.blocks

    def _flow(self, flow: Flow, children: Iterable[Element | str], wraps: tuple[Wrap, ...]) -> None:
        for child in children:
            if isinstance(child, str):
                flow.run.extend(self._text(child))
            elif child.tag == "hr":
                self._break(flow, wraps)
                flow.add(Rule())
            elif child.tag in BLOCKS:
                self._break(flow, wraps)
                self._block(flow, child, wraps)
                self._spaced = True
            elif child.holds_blocks:
                self._break(flow, wraps)
                wrap = self._wrapper(child)
                inner = wraps if wrap is None or wrap in wraps or len(wraps) > 8 else (*wraps, wrap)
                self._flow(flow, child.children, inner)
                self._break(flow, inner)
            else:
                flow.run.extend(self._inline(child))

    def _break(self, flow: Flow, wraps: tuple[Wrap, ...], *, separate: bool = False) -> None:
        flow.end_run(wraps, separate=separate)
        self._spaced = True

    def _block(self, flow: Flow, element: Element, wraps: tuple[Wrap, ...]) -> None:
        children = element.children
        match element.tag:
            case "p":
                flow.loose = False
                self._flow(flow, children, wraps)
                self._break(flow, wraps, separate=True)
            case "h1" | "h2" | "h3" | "h4" | "h5" | "h6":
                flow.add(Heading(int(element.tag[1]), flat(self.blocks(children, wraps))))
            case "pre":
                self._preformatted(flow, element, wraps)
            case "blockquote":
                flow.add(Quote(tuple(self.blocks(children, wraps))))
            case "ul" | "ol":
                start = element.attributes.get("start", "1") if element.tag == "ol" else None
                number = None if start is None else int(start) if _NUMBER.fullmatch(start) else 1
                flow.add(BulletList(tuple(self._items(children, wraps)), number))
            case "table":
                flow.add(self._table(element, wraps))
            case "details":
                flow.add(self._details(element, wraps))
            case "div" if "data-mx-maths" in element.attributes:
                flow.add(Paragraph(wrapped((Math(element.attributes["data-mx-maths"], display=True),), wraps)))
            case _:
                self._flow(flow, children, wraps)
                self._break(flow, wraps)

    def _preformatted(self, flow: Flow, element: Element, wraps: tuple[Wrap, ...]) -> None:
        text = "".join(_characters(element))
        code = next((child for child in element.children if isinstance(child, Element) and child.tag == "code"), None)
        language = _LANGUAGE.search(code.attributes.get("class", "")) if code else None
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        if any(isinstance(wrap, Spoil) for wrap in wraps):
            # A block of code cannot be hidden; lines of code can.
            nodes: list[Inline] = []
            for line in text.strip("\n").split("\n"):
                nodes += (Code(line), LineBreak())
            flow.add(Paragraph(wrapped(tuple(nodes), wraps)))
        else:
            flow.add(CodeBlock(text, language[1] if language else ""))

    def _items(self, children: Iterable[Element | str], wraps: tuple[Wrap, ...]) -> Iterator[ListItem]:
        """Items; what stands in a list without being in an item goes on with the one before."""
        current: list[Block] = []
        for child in children:
            if isinstance(child, Element) and child.tag == "li":
                if current:
                    yield ListItem(tuple(current))
                current = self.blocks(child.children, wraps)
            else:
                current += self.blocks((child,), wraps)
        if current:
            yield ListItem(tuple(current))

    def _table(self, table: Element, wraps: tuple[Wrap, ...]) -> Table:
        rows: list[tuple[TableCell, ...]] = []
        caption: tuple[Inline, ...] = ()
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
        return Table(tuple(rows), caption)

    def _cell(self, content: tuple[Element | str], wraps: tuple[Wrap, ...]) -> TableCell:
        header = isinstance(content[0], Element) and content[0].tag == "th"
        return TableCell(flat(self.blocks(content, wraps)), header=header)

    def _details(self, details: Element, wraps: tuple[Wrap, ...]) -> Details:
        summary: tuple[Inline, ...] = ()
        rest: list[Element | str] = []
        for child in details.children:
            if isinstance(child, Element) and child.tag == "summary" and not summary:
                summary = flat(self.blocks(child.children, wraps))
            else:
                rest.append(child)
        return Details(summary, tuple(self.blocks(rest, wraps)))

    def _wrapper(self, element: Element) -> Wrap | None:
        """The markup that an element which holds blocks puts on what is inside."""
        attributes = element.attributes
        if element.tag in _SIMPLE:
            return _SIMPLE[element.tag]
        if "data-mx-spoiler" in attributes:
            return Spoil(attributes["data-mx-spoiler"])
        if (href := attributes.get("href", "")).lower().startswith(_SCHEMES) and read_link(href) is None:
            return Linked(href)
        return None

    def _inline(self, element: Element) -> Iterator[Inline]:
        attributes = element.attributes
        match element.tag:
            case _ if self._strip_fallback and "data-mx-profile-fallback" in attributes:
                return
            case "br":
                self._spaced = True
                yield LineBreak()
            case "img":
                yield from self._image(element)
            case "code":
                text = _SPACE.sub(" ", "".join(_characters(element)))
                self._spaced = False
                yield Code(text)
            case "a":
                yield from self._anchor(element)
            case "span" if "data-mx-maths" in attributes:
                self._spaced = False
                yield Math(attributes["data-mx-maths"])
            case "span" | "font":
                inner = self._children(element)
                foreground = _color(attributes.get("data-mx-color") or attributes.get("color"))
                background = _color(attributes.get("data-mx-bg-color"))
                if foreground or background:
                    inner = (Colored(inner, foreground, background),)
                if "data-mx-spoiler" in attributes:
                    inner = (Spoiler(inner, attributes["data-mx-spoiler"]),)
                yield from inner
            case tag:
                yield _SIMPLE[tag](self._children(element))

    def _children(self, element: Element) -> tuple[Inline, ...]:
        nodes: list[Inline] = []
        for child in element.children:
            nodes.extend(self._text(child) if isinstance(child, str) else self._inline(child))
        return tuple(nodes)

    def _text(self, text: str) -> Iterator[Inline]:
        text = _SPACE.sub(" ", text)
        if self._spaced:
            text = text.removeprefix(" ")
        if text:
            self._spaced = text.endswith(" ")
            yield from self.words(text)

    def words(self, text: str) -> Iterator[Inline]:
        """`text` with the URLs in it as links, and with its mentions of the whole room."""
        for node in link_bare_urls(text):
            match node:
                case Link(url, children):
                    yield self._reference(url, children) or node
                case Text(words):
                    start = 0
                    for found in _ROOM.finditer(words):
                        yield Text(words[start : found.start()])
                        yield BroadcastMention("everyone", found.group())
                        start = found.end()
                    yield Text(words[start:])

    def _anchor(self, element: Element) -> Iterator[Inline]:
        href = element.attributes.get("href", "").strip()
        children = self._children(element)
        if (reference := self._reference(href, children)) is not None:
            self._spaced = False
            yield reference
        elif href.lower().startswith(_SCHEMES):
            words = inline_text(children)
            if words.rstrip("/") == href.rstrip("/") and all(isinstance(child, Text | Link) for child in children):
                children = (Text(href),)
            yield Link(href, children)
        else:
            yield from children

    def _reference(self, url: str, children: tuple[Inline, ...]) -> Inline | None:
        """The person, room or message that `url` leads to. What it is called comes from the room, where it is known."""
        target = read_link(url)
        if target is None:
            return None
        words = " ".join(inline_text(children).split())
        label = "" if words in (url, target.id) else words
        if target.id.startswith("@"):
            name = self._names.user(target.id) or label.removeprefix("@") or target.id[1:].partition(":")[0]
            return UserMention(UserRef(Platform.MATRIX, target.id), name)
        room = target.id if target.id.startswith("!") else self._names.room_id(target.id) or target.id
        channel = ChannelRef(Platform.MATRIX, room)
        if target.event:
            return MessageLink(MessageRef(channel, target.event), url, children if words != url else ())
        alias = target.id[1:] if target.id.startswith("#") else ""
        return ChannelMention(channel, self._names.room_name(room) or alias or label.removeprefix("#") or target.id[1:])

    def _image(self, element: Element) -> Iterator[Inline]:
        attributes = element.attributes
        source = attributes.get("src", "")
        words = " ".join((attributes.get("alt") or attributes.get("title") or "").split())
        self._spaced = False
        if not _MXC.fullmatch(source) or not storable(source):
            yield Text(words)
        elif "data-mx-emoticon" in attributes:
            yield CustomEmoji(words.strip(":") or "emoji", "", MediaRef(Platform.MATRIX, source))
        else:
            yield InlineImage(words, MediaRef(Platform.MATRIX, source))


def _color(value: str | None) -> str | None:
    return value.lower() if value and _COLOR.fullmatch(value) else None


def _characters(element: Element) -> Iterator[str]:
    for child in element.children:
        if isinstance(child, str):
            yield child
        elif child.tag == "br":
            yield "\n"
        elif child.tag == "img":
            yield child.attributes.get("alt", "")
        else:
            yield from _characters(child)
