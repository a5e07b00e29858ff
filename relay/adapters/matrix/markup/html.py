"""Any HTML -> a tree of the elements that the specification permits.

It has its own tokeniser because others are slow with 60 KiB of unfinished tags: under Python 3.11 the standard
library's takes half a minute (CVE-2025-6069) and html5lib half a second; html5lib also takes three times as long for
ordinary text. This one never goes back: the end of a tag or comment is searched for only once.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


def _names(*lines: str) -> frozenset[str]:
    return frozenset(name for line in lines for name in line.split())


# https://spec.matrix.org/latest/client-server-api/#mroommessage-msgtypes, and two tags that older clients still send.
FORMATTING = _names("b strong i em u s del strike span font code a sup sub")
BLOCKS = _names(
    "h1 h2 h3 h4 h5 h6 blockquote p ul ol li div pre details summary",
    "table thead tbody tfoot tr th td caption",
)
_VOID = _names("br hr img")
# Blocks that are not permitted, but that separate their content from the rest.
_LIKE_DIV = _names(
    "address article aside body center dd dl dt figure figcaption footer form header main nav section",
)
_DROPPED = _names("mx-reply")
_RAW = _names("script style title")
_RUBY = _names("rt rp ruby")
_ATTRIBUTES = _names(
    "href src alt title start class color data-mx-color data-mx-bg-color",
    "data-mx-spoiler data-mx-maths data-mx-emoticon data-mx-profile-fallback",
)
_CLOSES_PARAGRAPH = _names("h1 h2 h3 h4 h5 h6 blockquote p ul ol li div table pre details summary hr")
_CELLS = _names("td th caption")
_ROWS = _CELLS | _names("tr")
_SECTIONS = _ROWS | _names("thead tbody tfoot")
_TABLE = _names("table")
# Key: a start tag. Value: the elements that it ends, and those beyond which it ends none.
_IMPLIED_END: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "li": (_names("li"), _names("ul ol")),
    "td": (_CELLS, _TABLE),
    "th": (_CELLS, _TABLE),
    "tr": (_ROWS, _TABLE),
    "thead": (_SECTIONS, _TABLE),
    "tbody": (_SECTIONS, _TABLE),
    "tfoot": (_SECTIONS, _TABLE),
}
_DEEPEST = 100
_MOST_REOPENED = 4

_TEXT = re.compile(r"[^<]++")
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*+)(>?)")
_ATTRIBUTE = re.compile(
    r"[\s/]*+(?:(?P<end>>)|(?P<name>[^\s/>][^\s/>=]*+)"
    r"(?:\s*+=\s*+(?:\"(?P<double>[^\"]*+)\"|'(?P<single>[^']*+)'|(?P<bare>[^\s>\"'][^\s>]*+)?))?)"
)
# Longer than any number in Unicode; int() raises for thousands of digits.
_HUGE_REFERENCE = re.compile(r"&#(?:[0-9]{8,}+|[xX][0-9a-fA-F]{8,}+);?")


@dataclass(slots=True)
class Element:
    """An element of the tree."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: "list[Element | str]" = field(default_factory=list)
    # Whether there is a block somewhere inside.
    holds_blocks: bool = False


class _Start(NamedTuple):
    tag: str
    attributes: dict[str, str]


class _End(NamedTuple):
    tag: str


def parse_html(source: str) -> Element:
    """The tree of `source`, at most a hundred elements deep; the root has no tag. Never raises."""
    builder = _TreeBuilder()
    for token in _tokens(source):
        if isinstance(token, str):
            builder.text(token)
        elif isinstance(token, _Start):
            builder.start(token)
        else:
            builder.end(token.tag)
    return builder.root


def _tokens(source: str) -> Iterator[_Start | _End | str]:
    place, end = 0, len(source)
    last_bracket = source.rfind(">")
    while place < end:
        if match := _TEXT.match(source, place):
            yield _unescape(match.group())
            place = match.end()
        elif place > last_bracket:
            yield _unescape(source[place:])
            return
        elif match := _TAG.match(source, place):
            tag = match[2].lower()
            attributes, after = ({}, match.end()) if match[3] else _attributes(source, match.end())
            if after is None:
                # The tag never ends. Shown as text, so that what follows is not lost.
                yield _unescape(source[place:])
                return
            place = after
            yield _End(tag) if match[1] else _Start(tag, attributes)
            if tag in _RAW and not match[1]:
                closing = re.compile(rf"</{tag}(?=[\s/>])", re.IGNORECASE).search(source, place)
                place = closing.start() if closing else end
        elif source.startswith("<!--", place):
            closed = source.find("-->", place + 4)
            place = end if closed < 0 else closed + 3
        elif source.startswith(("<!", "<?", "</"), place):
            place = source.find(">", place) + 1
        else:
            yield "<"
            place += 1


def _attributes(source: str, place: int) -> tuple[dict[str, str], int | None]:
    """The attributes that matter, and the place after the tag; None if the tag never ends."""
    found: dict[str, str] = {}
    while match := _ATTRIBUTE.match(source, place):
        place = match.end()
        if match["end"]:
            return found, place
        name = match["name"].lower()
        if name in _ATTRIBUTES and name not in found:
            found[name] = _unescape(match["double"] or match["single"] or match["bare"] or "")
    return found, None


def _unescape(text: str) -> str:
    """`text` with character references (`&amp;`) replaced by what they stand for."""
    if "&" not in text:
        return text
    return html.unescape(_HUGE_REFERENCE.sub("\ufffd", text))


class _TreeBuilder:
    """Builds the tree. Wrongly nested tags are corrected as browsers do, where that matters."""

    def __init__(self) -> None:
        self.root = Element("")
        self._stack = [self.root]
        self._open: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()
        self._dropping = 0
        # Whether a reading above words is open that has no brackets of its own.
        self._reading = False

    def text(self, text: str) -> None:
        """Text."""
        if not self._dropping:
            self._stack[-1].children.append(text)

    def start(self, token: _Start) -> None:
        """A start tag, or an empty element."""
        tag = "div" if token.tag in _LIKE_DIV else token.tag
        if tag == "rt":
            self._begin_reading()
        if tag in _DROPPED:
            self._dropping += 1
        if self._dropping or (tag not in FORMATTING and tag not in BLOCKS and tag not in _VOID):
            return
        if tag in _CLOSES_PARAGRAPH and self._open["p"]:
            self._close("p")
        if tag in _IMPLIED_END:
            self._imply(*_IMPLIED_END[tag])
        if tag == "a" and self._open["a"]:
            self._close("a")
        if tag in BLOCKS or tag == "hr":
            self._mark_blocks()
        if tag in _VOID:
            self._stack[-1].children.append(Element(tag, token.attributes))
        elif len(self._stack) > _DEEPEST:
            self._ignored[tag] += 1
        else:
            self._push(Element(tag, token.attributes))

    def end(self, tag: str) -> None:
        """An end tag; ignored if it ends nothing."""
        tag = "div" if tag in _LIKE_DIV else tag
        if tag in _RUBY:
            self._end_reading()
        if tag in _DROPPED:
            self._dropping = max(0, self._dropping - 1)
        elif self._dropping:
            return
        elif tag == "br":
            self._stack[-1].children.append(Element("br"))
        elif self._ignored[tag]:
            self._ignored[tag] -= 1
        elif self._open[tag]:
            self._close(tag)

    def _begin_reading(self) -> None:
        """Nothing can stand above words (`<ruby>漢<rt>kan</rt></ruby>`), so that it stands behind them, in brackets."""
        self._end_reading()
        before = self._stack[-1].children[-1:]
        if not (before and isinstance(before[0], str) and before[0].endswith(("(", "（"))):
            self._reading = True
            self.text("(")

    def _end_reading(self) -> None:
        if self._reading:
            self._reading = False
            self.text(")")

    def _push(self, element: Element) -> None:
        self._stack[-1].children.append(element)
        self._stack.append(element)
        self._open[element.tag] += 1

    def _pop(self) -> Element:
        element = self._stack.pop()
        self._open[element.tag] -= 1
        return element

    def _close(self, tag: str) -> None:
        """End the innermost `tag`. Formatting ends only inside its block, and formatting inside it goes on after it."""
        reopened: list[Element] = []
        if tag in FORMATTING:
            for element in reversed(self._stack):
                if element.tag == tag:
                    break
                if element.tag in BLOCKS:
                    return
        while (element := self._pop()).tag != tag:
            if tag in FORMATTING and len(reopened) < _MOST_REOPENED:
                reopened.append(element)
        for element in reversed(reopened):
            self._push(Element(element.tag, element.attributes))

    def _imply(self, ended: frozenset[str], boundary: frozenset[str]) -> None:
        if not any(self._open[tag] for tag in ended):
            return
        outermost = None
        for index in range(len(self._stack) - 1, 0, -1):
            tag = self._stack[index].tag
            if tag in boundary:
                break
            if tag in ended:
                outermost = index
        if outermost is not None:
            while len(self._stack) > outermost:
                self._pop()

    def _mark_blocks(self) -> None:
        for element in reversed(self._stack):
            if element.holds_blocks:
                return
            element.holds_blocks = True
