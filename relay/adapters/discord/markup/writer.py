"""The neutral text tree -> Discord's markdown: writing down inline nodes that are all Discord's own."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from relay.adapters.discord.markup.escape import ZERO_WIDTH, Place, escape, may_be_markup
from relay.adapters.discord.markup.look import Look, live
from relay.adapters.discord.markup.references import url_at
from relay.domain.text import nodes as n
from relay.domain.text.links import is_bare
from relay.domain.text.normalise import normalise_inline

_RUN = re.compile(r"`++")
# How far to look for the end of a bare URL.
_AHEAD = 64
_CLOSING = frozenset("*_~")
_MOST_PASSES = 5
_DELIMITERS: dict[type, str] = {n.Strong: "**", n.Underline: "__", n.Strike: "~~"}

# In the words of a masked link.
LABEL = Place(escapes=False)


def literals(node: n.Inline, look: Look) -> str:
    """The characters inside `node` that cannot be escaped."""
    match node:
        case n.Code(text):
            return text
        case (
            n.Strong(children) | n.Emphasis(children) | n.Underline(children) | n.Strike(children) | n.Spoiler(children)
        ):
            return "\n".join(literals(child, look) for child in children)
        case n.Link(_, children) if not is_bare(node):
            return "\n".join((n.inline_text(children), *(literals(child, look) for child in children)))
        case n.CustomEmoji():
            return live(node, look) or ""
        case _:
            return ""


def hoisted(nodes: tuple[n.Inline, ...], look: Look) -> tuple[n.Inline, ...]:
    """`nodes` with markup cut open around literals that would close it.

    It takes several passes: what was cut apart may run together with what stands beside it.
    """
    if all(_CLOSING.isdisjoint(literals(node, look)) for node in nodes):
        return nodes
    for _ in range(_MOST_PASSES):
        before, nodes = nodes, normalise_inline(_hoist(nodes, look))
        if nodes == before:
            break
    return nodes


def _hoist(nodes: Sequence[n.Inline], look: Look) -> Iterator[n.Inline]:
    """Markup cut open around literals that would close it. A spoiler never is: its literals are broken instead."""
    for node in nodes:
        if isinstance(node, n.Link):
            yield node if is_bare(node) else replace(node, children=normalise_inline(_hoist(node.children, look)))
            continue
        if not isinstance(node, n.Strong | n.Emphasis | n.Underline | n.Strike | n.Spoiler):
            yield node
            continue
        inside: list[n.Inline] = []
        held = ""
        for child in _hoist(node.children, look):
            verbatim = literals(child, look)
            if not _clashes(node, held + verbatim):
                inside.append(child)
                held = _remembered(node, held + verbatim)
                continue
            yield replace(node, children=tuple(inside))
            inside, held = [], ""
            if isinstance(child, n.Strong | n.Emphasis | n.Underline | n.Strike | n.Spoiler):
                # The markup moves into the child, to everything but the literals.
                yield replace(child, children=tuple(_hoist((replace(node, children=child.children),), look)))
            else:
                yield child
        yield replace(node, children=tuple(inside))


def _remembered(node: n.Inline, verbatim: str) -> str:
    """As much of `verbatim` as may clash together with what follows it."""
    return "".join(_CLOSING.intersection(verbatim)) if isinstance(node, n.Emphasis) else verbatim[-1:]


def _clashes(node: n.Inline, verbatim: str) -> bool:
    if isinstance(node, n.Emphasis):
        # Italics have two delimiters to choose from.
        return "*" in verbatim and "_" in verbatim
    delimiter = _DELIMITERS.get(type(node))
    return delimiter is not None and delimiter in verbatim


@dataclass(frozen=True, slots=True)
class Spans:
    """Writes nodes that are all Discord's own.

    `url_escapes`: what may not stand in a URL because of what surrounds it. `hidden`: inside a spoiler.
    """

    look: Look
    place: Place
    url_escapes: str = ""
    hidden: bool = False

    def write(self, nodes: Sequence[n.Inline]) -> str:
        """The markdown."""
        done: list[str] = []
        following = ""
        for index in range(len(nodes) - 1, -1, -1):
            before = nodes[index - 1] if index else None
            after = nodes[index + 1] if index + 1 < len(nodes) else None
            done.append(self._node(nodes[index], before, after, following))
            following = (done[-1][:_AHEAD] + following)[:_AHEAD]
        return "".join(reversed(done))

    def _node(self, node: n.Inline, before: n.Inline | None, after: n.Inline | None, following: str) -> str:
        """One node; `following` is the beginning of what was written after it."""
        match node:
            case n.Text(text):
                if not may_be_markup(text):
                    return text
                place = replace(
                    self.place,
                    joined_before=before is not None and not isinstance(before, n.LineBreak),
                    joined_after=after is not None and not isinstance(after, n.LineBreak),
                )
                return escape(text, place)
            case n.LineBreak():
                return "\n"
            case n.Code(text):
                return self._fenced(text) + (ZERO_WIDTH if isinstance(after, n.Code) else "")
            case n.Emphasis():
                return self._italic(node, before, after, following)
            case n.Strong(children):
                return f"**{self._inside('*').write(children)}**"
            case n.Underline(children):
                return f"__{self._inside('_').write(children)}__"
            case n.Strike(children):
                inner = self._inside("~").write(children)
                # Clients take no `~~` for a closing one when a `_` follows it.
                end = ZERO_WIDTH if following.startswith("_") else ""
                return f"~~{inner}{ZERO_WIDTH if inner.endswith('~') else ''}~~{end}"
            case n.Spoiler(children):
                inner = replace(self._inside("|"), hidden=True).write(children)
                return f"||{inner}{ZERO_WIDTH if inner.endswith('|') else ''}||"
            case n.Link():
                return self._link(node, following)
            case _:
                return live(node, self.look) or ""

    def _inside(self, character: str) -> "Spans":
        return Spans(self.look, self.place, self.url_escapes + character, self.hidden)

    def _italic(self, node: n.Emphasis, before: n.Inline | None, after: n.Inline | None, following: str) -> str:
        """`*…*`, or `_…_` where stars would run together with others; as a last resort with a space of no width."""
        verbatim = literals(node, self.look)
        beside = (before, after)
        stars_run = any(isinstance(other, n.Strong) for other in beside)
        lines_run = any(isinstance(other, n.Underline) for other in beside)
        use_lines = "*" in verbatim or (stars_run and not lines_run and "_" not in verbatim)
        mark = "_" if use_lines else "*"
        place = replace(self.place, stars=not use_lines, lines=use_lines or self.place.lines)
        inner = replace(self, place=place, url_escapes=self.url_escapes + mark).write(node.children)
        runs = (
            isinstance(before, n.Underline if use_lines else n.Strong),
            isinstance(after, n.Underline if use_lines else n.Strong),
        )
        word = use_lines and following[:1].isascii() and (following[:1].isalnum() or following.startswith("_"))
        return f"{ZERO_WIDTH * runs[0]}{mark}{inner}{mark}{ZERO_WIDTH * (runs[1] or word)}"

    def _fenced(self, text: str) -> str:
        if self.hidden:
            text = re.sub(r"\|(?=\|)", f"|{ZERO_WIDTH}", text)
        runs = {len(run) for run in _RUN.findall(text)}
        length = next((length for length in (1, 2) if length not in runs), 2)
        if length in runs:
            # Three backticks would begin a block.
            text = _RUN.sub(lambda run: ZERO_WIDTH.join(run.group()), text)
        before = " " if text.startswith("`") else ""
        after = " " if text.endswith("`") else ""
        return f"{'`' * length}{before}{text}{after}{'`' * length}"

    def _link(self, link: n.Link, following: str) -> str:
        url = link.url
        for character in self.url_escapes:
            if character != "_" or "__" in url or self.place.lines:
                url = url.replace(character, f"%{ord(character):02X}")
        if is_bare(link):
            upcoming = following.split(maxsplit=1)[0] if following[:1].strip() else ""
            bare = link.preview and len(upcoming) < _AHEAD and url_at(url + upcoming, 0) == url
            return url if bare else f"<{url}>"
        label = replace(self, place=LABEL).write(link.children)
        return f"[{' '.join(label.split(chr(10)))}]({url if link.preview else f'<{url}>'})"
