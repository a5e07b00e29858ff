"""Discord's markdown -> the neutral text tree: what stands inside a block.

Each rule is the client's, in a form that needs no backtracking (possessive quantifiers and atomic groups), or a search
whose failure is remembered, so that the whole is linear. Two deviations keep it so: a run of eight or more delimiters
is text, and so is markup nested more than sixteen deep.
"""

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from relay.adapters.discord.markup.references import WEB, NameLookup, link, read_angle, read_broadcast, url_at
from relay.domain.text import nodes as n

# What surely is no markup: the beginnings that no rule can go on with are left to it, too.
_PLAIN = re.compile(
    r"(?>(?:[^\\*_~|`<\[@\n¯hH]++|h(?!ttps?://)|\\(?=[0-9a-z\s]|\Z)|~(?!~)|\|(?!\|)|<(?![@#:/atihm])|@(?!everyone|here))+)",
    re.IGNORECASE,
)
_ESCAPES = re.compile(r"(?>(?:\\[^0-9A-Za-z\s])+)")
_SHRUG = "¯\\_(ツ)_/¯"
_LONG_RUN = re.compile(r"\*{8,}+|_{8,}+|~{8,}+|\|{8,}+")
_STRONG = re.compile(r"\*\*((?:\\[\s\S]|[^\\])(?>(?:[^\\*]++|\\[\s\S]|\*(?!\*(?!\*)))*))\*\*")
_UNDERLINE = re.compile(r"__((?:\\[\s\S]|[^\\])(?>(?:[^\\_]++|\\[\s\S]|_(?!_(?!_)))*))__")
_EM_STAR = re.compile(r"\*(?=\S)((?>(?:[^\s*\\]++|\\[\s\S]|\*\*|\s++(?=\*\*|[^*]))*))(\*(?!\*))?")
_EM_LINE = re.compile(r"_((?>(?:__|\\[\s\S]|[^\\_]++)*))(_(?!\w))?", re.ASCII)
_STRIKE_END = re.compile(r"~~(?!_)")
_LANGUAGE = re.compile(r"([a-z0-9_+\-.#]++)\n", re.IGNORECASE)
_TARGET = re.compile(
    r"\]\(\s*+(<?)((?>(?:[^\s\\()<>]++|\([^\s()\\<>]*+\)|\\.)+))(>?)"
    r"(?:\s++(?:\"[^\"\n]*+\"|'[^'\n]*+'))?\s*+\)"
)
_LABEL_URL = re.compile(r"https?://[^\s<]{2}", re.IGNORECASE)
_BRACKET = re.compile(r"\\\]|[\[\]]")
_RUN = re.compile(r"`++")
_DEEPEST = 16


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced code block that was found in the text; `end` is the place after it."""

    language: str
    text: str
    end: int


def is_plain(source: str) -> bool:
    """Whether `source` is one line and holds nothing that could be markup inside a block."""
    return _PLAIN.fullmatch(source) is not None


class InlineParser:
    """Reads inline nodes out of `source`."""

    def __init__(self, source: str, names: NameLookup, *, depth: int = 0, escapes: bool = True) -> None:
        self._source = source
        self._names = names
        self._depth = depth
        self._escapes = escapes
        self._dead: dict[str, int] = {}
        self._ticks: dict[int, list[int]] | None = None
        self._brackets: dict[int, int] | None = None

    def all(self) -> tuple[n.Inline, ...]:
        """Everything; fenced code as lines of code, since what holds it is no block."""
        source = self._source
        if self._depth > _DEEPEST or is_plain(source):
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
        """What stands at `position`, up to fenced code or up to a line break after which `stops` is true of the place.

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
        """The next `mark` from `start` on; what is not there once is not looked for again."""
        if start >= self._dead.get(mark, len(self._source)):
            return None
        found = self._source.find(mark, start)
        if found < 0:
            self._dead[mark] = start
            return None
        return found

    def _markup(self, position: int) -> "tuple[n.Inline | str, int] | None":
        """What the markup at `position` means (a string: text) and where it ends; None if there is none."""
        source = self._source
        char = source[position]
        match char:
            case "\\":
                escapes = _ESCAPES.match(source, position) if self._escapes else None
                return (escapes.group()[1::2], escapes.end()) if escapes else None
            case "*" | "_" | "~" | "|":
                if match := _LONG_RUN.match(source, position):
                    return match.group(), match.end()
                if char == "~":
                    return self._strike(position)
                return self._spoiler(position) if char == "|" else self._emphasis(position)
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

    def _inner(self, source: str) -> tuple[n.Inline, ...]:
        if is_plain(source):
            return (n.Text(source),)
        return InlineParser(source, self._names, depth=self._depth + 1, escapes=self._escapes).all()

    def _emphasis(self, position: int) -> tuple[n.Inline, int] | None:
        """Italic, bold or underlined, whichever is longest; italic wins a tie, and so `***x***` is both."""
        source = self._source
        star = source[position] == "*"
        best: tuple[int, str, type[n.Strong | n.Emphasis | n.Underline]] | None = None
        double = source[position] * 2
        if source.startswith(double, position) and double not in self._dead:
            if match := (_STRONG if star else _UNDERLINE).match(source, position):
                best = match.end(), match[1], n.Strong if star else n.Underline
            else:
                self._dead[double] = position
        single = "*" if star else "_"
        if position >= self._dead.get(single, 0) or source.startswith(double, position):
            match = (_EM_STAR if star else _EM_LINE).match(source, position)
            if match and match[1]:
                if not match[2]:
                    # Nothing between here and where the search gave up closes italics that open there.
                    self._dead[single] = max(self._dead.get(single, 0), match.end())
                elif best is None or match.end() >= best[0]:
                    best = match.end(), match[1], n.Emphasis
        if best is None:
            return None
        end, content, node = best
        return node(self._inner(content)), end

    def _strike(self, position: int) -> tuple[n.Inline, int] | None:
        source = self._source
        if not source.startswith("~~", position) or "~~" in self._dead:
            return None
        match = _STRIKE_END.search(source, position + 3)
        if match is None:
            self._dead["~~"] = position
            return None
        return n.Strike(self._inner(source[position + 2 : match.start()])), match.end()

    def _spoiler(self, position: int) -> tuple[n.Inline, int] | None:
        if not self._source.startswith("||", position) or (end := self._find("||", position + 3)) is None:
            return None
        return n.Spoiler(self._inner(self._source[position + 2 : end])), end + 2

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
        """`[words](url)`. Words with a URL in them mask nothing, and escapes do not work in them.

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
        if bool(target[1]) != bool(target[3]) or not WEB.match(url) or not label.strip():
            return None
        if _LABEL_URL.search(label):
            return source[position : target.end()], target.end()
        children = InlineParser(label, self._names, depth=self._depth + 1, escapes=False).all()
        return link(url, children, self._names, preview=not target[1]), target.end()


def _pairs(source: str) -> dict[int, int]:
    """Where each opening bracket that is closed is closed; only those that a target follows."""
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
