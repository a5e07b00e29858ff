"""Discord's markdown -> the neutral text tree: what is inside a block.

The rules are the client's, in a form that takes linear time: expressions without backtracking (possessive quantifiers
and atomic groups), and searches that are not repeated once they have failed. This makes two differences: a run of eight
or more delimiters is text, and so is markup that is nested more than sixteen deep.
"""

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from relay.adapters.discord.markup.references import (
    CONTACT,
    WEB,
    NameLookup,
    link,
    read_angle,
    read_broadcast,
    shows_address,
    url_at,
)
from relay.domain.names import visible
from relay.domain.text import nodes as n

# What is certainly not markup. This includes the first characters of a rule where the next ones do not fit it.
_PLAIN = re.compile(
    r"(?>(?:[^\\*_~|`<\[@\n¯hH]++|h(?!ttps?://)|\\(?=[0-9a-z\s]|\Z)|~(?!~)|\|(?!\|)|<(?![@#:/+\w])|@(?!everyone|here))+)",
    re.IGNORECASE,
)
_ESCAPES = re.compile(r"(?>(?:\\[^0-9A-Za-z\s])+)")
_SHRUG = "¯\\_(ツ)_/¯"
_LONG_RUN = re.compile(r"\*{8,}+|_{8,}+|~{8,}+|\|{8,}+")
_STRONG = re.compile(r"\*\*((?:\\[\s\S]|[^\\])(?>(?:[^\\*]++|\\[\s\S]|\*(?!\*(?!\*)))*))\*\*")
_UNDERLINE = re.compile(r"__((?:\\[\s\S]|[^\\])(?>(?:[^\\_]++|\\[\s\S]|_(?!_(?!_)))*))__")
# One or two blanks may stand before the closing star, unless there is something bold to be seen instead.
_EM_STAR = re.compile(r"\*(?=\S)((?>(?:[^\s*\\]++|\\[\s\S]|\*\*|\s++(?=\*\*|[^*]))*))( {0,2}\*(?!\*))?")
_EM_LINE = re.compile(r"_((?>(?:__|\\[\s\S]|[^\\_]++)*))(_(?!\w))?", re.ASCII)
_STRIKE_END = re.compile(r"~~(?!_)")
_LANGUAGE = re.compile(r"([a-z0-9_+\-.#]++)\n", re.IGNORECASE)
_TARGET = re.compile(
    r"\]\(\s*+(<?)((?>(?:[^\s\\()<>]++|\([^\s()\\<>]*+\)|\\.)+))(>?)"
    r"(?:\s++(?:\"[^\"\n]*+\"|'[^'\n]*+'))?\s*+\)"
)
_BRACKET = re.compile(r"\\\]|[\[\]]")
_RUN = re.compile(r"`++")
MAX_DEPTH = 16


Marked = tuple[type[n.Strong | n.Emphasis | n.Underline | n.Strike | n.Spoiler], str, int]
"""The node that some markup makes, the source inside it, and where it ends."""


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced code block in the text."""

    language: str
    text: str
    # The position after it.
    end: int


def is_plain(source: str) -> bool:
    """Whether `source` is one line without anything that could be inline markup."""
    return _PLAIN.fullmatch(source) is not None


class InlineParser:
    """Reads inline nodes out of `source`."""

    def __init__(self, source: str, names: NameLookup, *, depth: int = 0, escapes: bool = True) -> None:
        self._source = source
        self._names = names
        self._depth = depth
        self._escapes = escapes
        self._failed_at: dict[str, int] = {}
        self._ticks: dict[int, list[int]] | None = None
        self._brackets: dict[int, int] | None = None

    def all(self) -> tuple[n.Inline, ...]:
        """Read all of it. Fenced code becomes lines of inline code, because there can be no block here."""
        source = self._source
        if self._depth > MAX_DEPTH or is_plain(source):
            return (n.Text(source),)
        nodes: list[n.Inline] = []
        position = 0
        while position < len(source):
            position = self._read(nodes, position, None)
            if fence := self.fence(position):
                for number, line in enumerate(fence.text.split("\n")):
                    if number:
                        nodes.append(n.LineBreak())
                    nodes.append(n.Code(line))
                position = fence.end
        return tuple(nodes)

    def read(self, position: int, stops: Callable[[int], object]) -> tuple[tuple[n.Inline, ...], int]:
        """Read from `position` to fenced code, or to a line break after which `stops` is true.

        Returns the nodes and where they end.
        """
        nodes: list[n.Inline] = []
        position = self._read(nodes, position, stops)
        return tuple(nodes), position

    def _read(self, nodes: list[n.Inline], position: int, stops: Callable[[int], object] | None) -> int:
        source, end = self._source, len(self._source)
        words: list[str] = []
        while position < end:
            if match := _PLAIN.match(source, position):
                words.append(match.group())
                position = match.end()
                continue
            if source[position] == "\n":
                position += 1
                if stops is not None and stops(position):
                    break
                words.append("\n")
                continue
            if source.startswith("```", position) and self.fence(position):
                break
            if (found := self._markup(position)) is None:
                words.append(source[position])
                position += 1
                continue
            node, position = found
            if isinstance(node, str):
                words.append(node)
                continue
            if words:
                nodes.append(n.Text("".join(words)))
                words = []
            nodes.append(node)
        if words:
            nodes.append(n.Text("".join(words)))
        return position

    def fence(self, position: int) -> Fence | None:
        """The fenced code that starts at `position`."""
        source = self._source
        if not source.startswith("```", position):
            return None
        if match := _LANGUAGE.match(source, position + 3):
            found = self._fenced(match.end(), match[1])
            if found:
                return found
        return self._fenced(position + 3, "")

    def _fenced(self, start: int, language: str) -> Fence | None:
        source = self._source
        while source.startswith("\n", start):
            start += 1
        end = self._find("```", start + 1)
        return None if end is None else Fence(language, source[start:end].rstrip("\n"), end + 3)

    def _find(self, mark: str, start: int) -> int | None:
        """The next `mark` from `start` on. One that was not found is not searched again."""
        if start >= self._failed_at.get(mark, len(self._source)):
            return None
        found = self._source.find(mark, start)
        if found < 0:
            self._failed_at[mark] = start
            return None
        return found

    def _markup(self, position: int) -> "tuple[n.Inline | str, int] | None":
        """The node of the markup at `position` (a string: plain text) and where it ends; None if there is none."""
        source = self._source
        char = source[position]
        match char:
            case "\\":
                escapes = _ESCAPES.match(source, position) if self._escapes else None
                return (escapes.group()[1::2], escapes.end()) if escapes else None
            case "*" | "_" | "~" | "|":
                if match := _LONG_RUN.match(source, position):
                    return match.group(), match.end()
                if (marked := self.marked(position)) is None:
                    return None
                node, content, end = marked
                return node(self._inner(content)), end
            case "`":
                return self._code(position)
            case "<":
                return read_angle(source, position, self._names)
            case "[":
                return self._masked(position)
            case "@":
                return read_broadcast(source, position)
            case "h" | "H":
                url = url_at(source, position)
                return (link(url, (n.Text(url),), self._names), position + len(url)) if url else None
            case _:
                return (_SHRUG, position + len(_SHRUG)) if source.startswith(_SHRUG, position) else None

    def marked(self, position: int) -> Marked | None:
        """What is bold, italic, underlined, struck through or hidden from `position` on."""
        match self._source[position]:
            case "*" | "_" | "~" | "|" if _LONG_RUN.match(self._source, position):
                return None
            case "*" | "_":
                return self._emphasis(position)
            case "~":
                return self._strike(position)
            case "|":
                return self._spoiler(position)
            case _:
                return None

    def _inner(self, source: str) -> tuple[n.Inline, ...]:
        if is_plain(source):
            return (n.Text(source),)
        return InlineParser(source, self._names, depth=self._depth + 1, escapes=self._escapes).all()

    def _emphasis(self, position: int) -> Marked | None:
        """Italic, bold or underlined, whichever is longest. Italic wins if equal, so that `***x***` is both."""
        source = self._source
        star = source[position] == "*"
        best: Marked | None = None
        double = source[position] * 2
        if source.startswith(double, position) and double not in self._failed_at:
            if match := (_STRONG if star else _UNDERLINE).match(source, position):
                best = n.Strong if star else n.Underline, match[1], match.end()
            else:
                self._failed_at[double] = position
        single = "*" if star else "_"
        if position >= self._failed_at.get(single, 0) or source.startswith(double, position):
            match = (_EM_STAR if star else _EM_LINE).match(source, position)
            if match and match[1]:
                if not match[2]:
                    # No italics that begin between here and the end of the match are closed.
                    self._failed_at[single] = max(self._failed_at.get(single, 0), match.end())
                elif best is None or (match.end() >= best[2] and not match[2].startswith(" ")):
                    best = n.Emphasis, match[1], match.end()
        return best

    def _strike(self, position: int) -> Marked | None:
        source = self._source
        if not source.startswith("~~", position) or "~~" in self._failed_at:
            return None
        match = _STRIKE_END.search(source, position + 3)
        if match is None:
            self._failed_at["~~"] = position
            return None
        return n.Strike, source[position + 2 : match.start()], match.end()

    def _spoiler(self, position: int) -> Marked | None:
        if not self._source.startswith("||", position) or (end := self._find("||", position + 3)) is None:
            return None
        return n.Spoiler, self._source[position + 2 : end], end + 2

    def _code(self, position: int) -> tuple[n.Inline, int] | None:
        source = self._source
        if self._ticks is None:
            self._ticks = {}
            for run in _RUN.finditer(source):
                self._ticks.setdefault(run.end() - run.start(), []).append(run.start())
        run_end = position
        while source.startswith("`", run_end):
            run_end += 1
        for length in range(min(run_end - position, 32), 0, -1):
            starts = self._ticks.get(length, [])
            index = bisect_right(starts, run_end)
            if index < len(starts):
                text = source[position + length : starts[index]]
                if text.startswith(" ") and text.lstrip(" ").startswith("`"):
                    text = text[1:]
                if text.endswith(" ") and text.rstrip(" ").endswith("`"):
                    text = text[:-1]
                return n.Code(text.replace("\n", " ")), starts[index] + length
        return None

    def _masked(self, position: int) -> tuple[n.Inline | str, int] | None:
        """`[words](url)`. With a URL in its words it is no link, and escapes do not work in the words.

        https://github.com/discord/discord-api-docs/issues/7721, https://github.com/discord/discord-api-docs/issues/6185
        """
        source = self._source
        if self._brackets is None:
            self._brackets = _pairs(source)
        close = self._brackets.get(position)
        if close is None:
            end = position + 1
            while source.startswith("[", end) and end not in self._brackets:
                end += 1
            return source[position:end], end
        if (target := _TARGET.match(source, close)) is None:
            return None
        label, url = source[position + 1 : close], target[2]
        if bool(target[1]) != bool(target[3]) or not (WEB.match(url) or CONTACT.match(url)) or not visible(label):
            return None
        if shows_address(label):
            return source[position : target.end()], target.end()
        children = InlineParser(label, self._names, depth=self._depth + 1, escapes=False).all()
        return link(url, children, self._names, preview=not target[1]), target.end()


def _pairs(source: str) -> dict[int, int]:
    """The closing bracket of each opening one, if `(` follows it."""
    pairs: dict[int, int] = {}
    if "](" not in source:
        return pairs
    opened: list[int] = []
    for match in _BRACKET.finditer(source):
        if match.group() == "[":
            opened.append(match.start())
        elif match.group() == "]" and opened:
            start = opened.pop()
            if source.startswith("](", match.start()):
                pairs[start] = match.start()
    return pairs
