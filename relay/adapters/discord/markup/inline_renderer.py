"""The neutral text tree -> Discord's markdown: what is inside a block.

Three passes: what Discord cannot show becomes text (`replace_unsupported`), literal code that would close the markup
around it moves out of that markup (`hoist_literals`), and the rest is written down (`_InlineWriter`).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from relay.adapters.discord.markup.references import (
    ReferenceCodes,
    reference_code,
    reference_name,
    shows_address,
    url_at,
)
from relay.domain.names import visible
from relay.domain.text import nodes as n
from relay.domain.text.normalise import normalise_inline
from relay.domain.text.rewrite import is_bare, link_bare_urls

ZERO_WIDTH = "\u200b"

_SPECIAL = re.compile(r"([\\*_~|`<\[@:])(?>\1*)")
_ANGLE = re.compile(
    r"<(?:[#:]|/[^\s:<>][^:<>\n]{0,100}:\d|a:|t:|id:|[^\s:>]{1,64}:/|mailto:|tel:|sms:|\+\d|[^\s<>@]{1,64}+@)",
    re.ASCII | re.IGNORECASE,
)
# A link behind the text may make one thing of it all, up to the next `>`.
_OPEN_ANGLE = re.compile(r"<[^\s:>]{0,64}\Z")
_MENTION = re.compile(r"@(?=everyone|here|[!&]?\d)")
_SHORTCODE = re.compile(r":(?!\d++:)[\w+-]+:|:1(?:00|234):", re.ASCII)
# Clients also see a heading, a quote or a list item at the start of what is bold, say, if that begins a line
# (https://github.com/LyricLy/parse-discord).
_LINE_MARK = re.compile(r"^( *(?:[*_~|]*(?=#{1,3}(?:\s|\Z)|-#?\s|>(?:\s|$|>>\s))|(?=\*\s)))", re.MULTILINE)
_LINE_NUMBER = re.compile(r"^( *[*_~|]*\d++)(?=\.\s)", re.MULTILINE | re.ASCII)

_RUN = re.compile(r"`++")
# How far to look for the end of a bare URL.
_AHEAD = 64
_CLOSING = frozenset("*_~")
_MAX_ROUNDS = 5
_DELIMITERS: dict[type, str] = {n.Strong: "**", n.Underline: "__", n.Strike: "~~"}

_WEB = re.compile(r"https?://[^\s/]", re.IGNORECASE)
_BALANCED_LABEL = re.compile(r"(?>(?:[^\[\]]|\[[^\[\]]*+\])*)")
_BALANCED_URL = re.compile(r"(?>(?:[^()]|\([^()]*+\))*)")
_RAISED = str.maketrans("0123456789+-=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ")
_LOWERED = str.maketrans("0123456789+-=()", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎")
# Discord's server finds mentions in addresses as well. A backtick there would pair up with one in code further below,
# and show as text what that code holds.
_UNSAFE_IN_URL = re.compile(r"[\s<>\\`]|@(?=everyone|here)")


@dataclass(frozen=True, slots=True)
class EscapeContext:
    """Where a text is, which decides what has to be escaped in it."""

    # Something other than the edge of a line is before it, and after it.
    joined_before: bool = False
    joined_after: bool = False
    # It is inside italics with `*`, and with `_`.
    stars: bool = False
    lines: bool = False
    # An opening bracket could begin a masked link.
    brackets: bool = False
    # Clients honour backslashes there.
    escapes: bool = True


# For the words of a masked link.
_LABEL = EscapeContext(escapes=False)


def render_inline(nodes: Sequence[n.Inline], codes: ReferenceCodes, context: EscapeContext) -> str:
    """Inline markdown for `nodes`."""
    if len(nodes) == 1 and isinstance(only := nodes[0], n.Text) and not may_be_markup(only.text):
        return only.text
    return _InlineWriter(codes, context).write(
        hoist_literals(normalise_inline(replace_unsupported(nodes, codes)), codes)
    )


# --- Pass 1: what Discord has no markup for -------------------------------------------------------------------


def replace_unsupported(nodes: Sequence[n.Inline], codes: ReferenceCodes) -> Iterator[n.Inline]:
    """`nodes` with what Discord has no markup for in the markup and words that it has."""
    for node in nodes:
        if reference_code(node, codes) is not None:
            yield node
            continue
        match node:
            case n.Text(text):
                for part in link_bare_urls(text) if "://" in text else (node,):
                    yield from _link(part, codes) if isinstance(part, n.Link) else (part,)
            case n.Strong() | n.Emphasis() | n.Underline() | n.Strike():
                yield type(node)(tuple(replace_unsupported(node.children, codes)))
            case n.Spoiler(children, reason):
                if reason:
                    yield n.Text(f"({' '.join(reason.split())}) ")
                yield n.Spoiler(tuple(replace_unsupported(children, codes)))
            case n.Colored(children):
                yield from replace_unsupported(children, codes)
            case n.Superscript(children, lowered):
                yield from _superscript(tuple(replace_unsupported(children, codes)), lowered=lowered)
            case n.Math(tex):
                yield n.Code(tex)
            case n.Link():
                yield from _link(node, codes)
            case n.MessageLink(_, url, children):
                target = codes.message(node) or url
                yield from _link(n.Link(target, children or (n.Text(target),)), codes)
            case _:
                yield reference_name(node)


def _superscript(children: tuple[n.Inline, ...], *, lowered: bool) -> Iterator[n.Inline]:
    table = _LOWERED if lowered else _RAISED
    if len(children) == 1 and isinstance(only := children[0], n.Text) and all(ord(char) in table for char in only.text):
        yield n.Text(only.text.translate(table))
    else:
        yield n.Text("_(" if lowered else "^(")
        yield from children
        yield n.Text(")")


def _link(link: n.Link, codes: ReferenceCodes) -> Iterator[n.Inline]:
    """A link in a form that Discord has: bare, masked, or its words with the address behind them."""
    if not _WEB.match(link.url):
        address = link.url.removeprefix("mailto:")
        words = tuple(replace_unsupported(link.children, codes))
        yield from words
        if words not in ((n.Text(address),), (n.Text(link.url),)):
            yield n.Text(f" ({address})")
        return
    url = _UNSAFE_IN_URL.sub(lambda found: "".join(f"%{byte:02X}" for byte in found.group().encode()), link.url)
    if is_bare(link):
        yield n.Link(url, (n.Text(url),), link.preview)
        return
    children = normalise_inline(
        node
        for child in link.children
        for node in ((child,) if isinstance(child, n.Text) else replace_unsupported((child,), codes))
    )
    words = hoist_literals(children, codes)
    label = _InlineWriter(codes, _LABEL).write(words)
    plain = label == _with_escapes(words, codes) and "\\]" not in label and _BALANCED_LABEL.fullmatch(label)
    # Clients take zero-width spaces out of a label before they read it.
    if plain and visible(label) and ZERO_WIDTH not in label and not shows_address(label):
        if not _BALANCED_URL.fullmatch(url):
            url = url.replace("(", "%28").replace(")", "%29")
        yield n.Link(url, words, link.preview)
        return
    yield from normalise_inline(replace_unsupported(children, codes))
    yield n.Text(" (")
    yield n.Link(url, (n.Text(url),), link.preview)
    yield n.Text(")")


def _with_escapes(words: tuple[n.Inline, ...], codes: ReferenceCodes) -> str:
    """`words` as they are written where clients honour escapes, which they do not in a masked link."""
    written = _InlineWriter(codes, EscapeContext(lines=True)).write(words)
    # If all underscores are within words, none of them pairs with another.
    return written if "_" in written.replace("\\_", "") else _InlineWriter(codes, EscapeContext()).write(words)


# --- Pass 2: literals that would close the markup around them -------------------------------------------------


def literals(node: n.Inline, codes: ReferenceCodes) -> str:
    """The characters in `node` that cannot be escaped."""
    match node:
        case n.Code(text):
            return text
        case (
            n.Strong(children) | n.Emphasis(children) | n.Underline(children) | n.Strike(children) | n.Spoiler(children)
        ):
            return "\n".join(literals(child, codes) for child in children)
        case n.Link(_, children) if not is_bare(node):
            return "\n".join((n.inline_text(children), *(literals(child, codes) for child in children)))
        case n.CustomEmoji():
            return reference_code(node, codes) or ""
        case _:
            return ""


def hoist_literals(nodes: tuple[n.Inline, ...], codes: ReferenceCodes) -> tuple[n.Inline, ...]:
    """`nodes` with markup split around literals that would close it.

    This takes several rounds: a piece that was split off may have to be joined with its neighbour, and split again.
    """
    if all(_CLOSING.isdisjoint(literals(node, codes)) for node in nodes):
        return nodes
    for _ in range(_MAX_ROUNDS):
        before, nodes = nodes, normalise_inline(_hoist(nodes, codes))
        if nodes == before:
            break
    return nodes


def _hoist(nodes: Sequence[n.Inline], codes: ReferenceCodes) -> Iterator[n.Inline]:
    """One round. A spoiler is never split: its literals are broken up instead."""
    for node in nodes:
        if isinstance(node, n.Link):
            yield node if is_bare(node) else replace(node, children=normalise_inline(_hoist(node.children, codes)))
            continue
        if not isinstance(node, n.Strong | n.Emphasis | n.Underline | n.Strike | n.Spoiler):
            yield node
            continue
        inside: list[n.Inline] = []
        held = ""
        for child in _hoist(node.children, codes):
            verbatim = literals(child, codes)
            if not _clashes(node, held + verbatim):
                inside.append(child)
                held = _remembered(node, held + verbatim)
                continue
            yield replace(node, children=tuple(inside))
            inside, held = [], ""
            if isinstance(child, n.Strong | n.Emphasis | n.Underline | n.Strike | n.Spoiler):
                # The markup moves into the child, to everything but the literals.
                yield replace(child, children=tuple(_hoist((replace(node, children=child.children),), codes)))
            else:
                yield child
        yield replace(node, children=tuple(inside))


def _remembered(node: n.Inline, verbatim: str) -> str:
    """The end of `verbatim`, as far as it may clash together with what follows."""
    return "".join(_CLOSING.intersection(verbatim)) if isinstance(node, n.Emphasis) else verbatim[-1:]


def _clashes(node: n.Inline, verbatim: str) -> bool:
    if isinstance(node, n.Emphasis):
        # Italics can use either of two delimiters.
        return "*" in verbatim and "_" in verbatim
    delimiter = _DELIMITERS.get(type(node))
    return delimiter is not None and delimiter in verbatim


# --- Pass 3: writing down --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _InlineWriter:
    """Writes nodes that Discord has markup for."""

    codes: ReferenceCodes
    context: EscapeContext
    # The characters that must not be in a URL because of the markup around it.
    url_escapes: str = ""
    # Inside a spoiler.
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
        """Write one node. `following` is the beginning of what is written after it."""
        match node:
            case n.Text(text):
                if not may_be_markup(text):
                    return text
                context = replace(
                    self.context,
                    joined_before=before is not None and not isinstance(before, n.LineBreak),
                    joined_after=after is not None and not isinstance(after, n.LineBreak),
                )
                return escape(text, context)
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
                # To clients, `~~` does not close anything if a `_` follows it.
                end = ZERO_WIDTH if following.startswith("_") else ""
                return f"~~{inner}{ZERO_WIDTH if inner.endswith('~') else ''}~~{end}"
            case n.Spoiler(children):
                inner = replace(self._inside("|"), hidden=True).write(children)
                return f"||{inner}{ZERO_WIDTH if inner.endswith('|') else ''}||"
            case n.Link():
                return self._link(node, following)
            case _:
                return reference_code(node, self.codes) or ""

    def _inside(self, character: str) -> "_InlineWriter":
        return _InlineWriter(self.codes, self.context, self.url_escapes + character, self.hidden)

    def _italic(self, node: n.Emphasis, before: n.Inline | None, after: n.Inline | None, following: str) -> str:
        """`*…*`, or `_…_` next to other stars. If neither works, a zero-width space keeps the delimiters apart."""
        verbatim = literals(node, self.codes)
        beside = (before, after)
        stars_run = any(isinstance(other, n.Strong) for other in beside)
        lines_run = any(isinstance(other, n.Underline) for other in beside)
        use_lines = "*" in verbatim or (stars_run and not lines_run and "_" not in verbatim)
        mark = "_" if use_lines else "*"
        context = replace(self.context, stars=not use_lines, lines=use_lines or self.context.lines)
        inner = replace(self, context=context, url_escapes=self.url_escapes + mark).write(node.children)
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
            if character != "_" or "__" in url or self.context.lines:
                url = url.replace(character, f"%{ord(character):02X}")
        if is_bare(link):
            upcoming = following.split(maxsplit=1)[0] if following[:1].strip() else ""
            bare = link.preview and len(upcoming) < _AHEAD and url_at(url + upcoming, 0) == url
            return url if bare else f"<{url}>"
        label = replace(self, context=_LABEL).write(link.children)
        return f"[{' '.join(label.split(chr(10)))}]({url if link.preview else f'<{url}>'})"


# --- Escaping -----------------------------------------------------------------------------------------------
#
# A backslash is enough for what only clients read. It is not enough for mentions: Discord's server ignores backslashes
# when it looks for them (so discord.py's `escape_mentions` uses none either), and they get a zero-width space instead.
# Clients also ignore escapes inside `||` and `~~`, and in the words of a masked link.


def may_be_markup(text: str) -> bool:
    """Whether `escape` might change anything in `text`."""
    return _SPECIAL.search(text) is not None


def escape(text: str, context: EscapeContext) -> str:
    """`text` so that a client shows exactly these characters, and the server finds no mention in them."""
    done: list[str] = []
    start = 0
    for match in _SPECIAL.finditer(text):
        index = match.start()
        done.append(text[start:index])
        start = match.end()
        if start - index > 1:
            # In a run of one character, whether it is escaped depends on the next one, for all but the last.
            done.append((start - index - 1) * _escaped(text, index, context))
        done.append(_escaped(text, start - 1, context))
    done.append(text[start:])
    return "".join(done)


def escape_lines(text: str) -> str:
    """`text`, escaped already, so that no line of it is a heading, a quote or a list item."""
    return _LINE_NUMBER.sub(r"\1\\", _LINE_MARK.sub(r"\1\\", text))


def _escaped(text: str, index: int, context: EscapeContext) -> str:
    char = text[index]
    if char == "@":
        return "@" + ZERO_WIDTH if _MENTION.match(text, index) else "@"
    return "\\" + char if context.escapes and _is_markup(text, index, context) else char


def _is_markup(text: str, index: int, context: EscapeContext) -> bool:
    char = text[index]
    before = text[index - 1] if index else ""
    after = text[index + 1] if index + 1 < len(text) else ""
    match char:
        case "\\":
            return not after or not ((after.isascii() and after.isalnum()) or after.isspace())
        case "*":
            return context.stars or not (before.isspace() and after.isspace())
        case "_":
            return context.lines or not (_is_word(before) and _is_word(after))
        case "~" | "|":
            joined = (not before and context.joined_before) or (not after and context.joined_after)
            return joined or char in (before, after)
        case "<":
            return bool(_ANGLE.match(text, index) or (context.joined_after and _OPEN_ANGLE.match(text, index)))
        case "[":
            return context.brackets
        case ":":
            return bool(_SHORTCODE.match(text, index)) or (
                text.startswith("://", index) and text[max(0, index - 5) : index].lower().endswith(("http", "https"))
            )
        case _:
            return True


def _is_word(char: str) -> bool:
    return char.isascii() and char.isalnum()
