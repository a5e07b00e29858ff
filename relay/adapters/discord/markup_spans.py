"""The neutral text tree -> Discord's markdown: what stands inside a block.

Three passes: what Discord cannot show becomes text (`_lower`); literal code that would close the markup around it
moves outside (`_hoist`); then the rest is written down (`_Spans`).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from relay.adapters.discord.markup_escape import ZERO_WIDTH, Place, escape
from relay.adapters.discord.markup_inline import url_at
from relay.domain.normalise import is_bare, link_bare_urls, normalise_inline
from relay.domain.richtext import (
    BroadcastMention,
    ChannelMention,
    Code,
    Colored,
    CustomEmoji,
    Emphasis,
    Inline,
    InlineImage,
    LineBreak,
    Link,
    Math,
    MessageLink,
    RoleMention,
    Spoiler,
    Strike,
    Strong,
    Superscript,
    Text,
    Timestamp,
    Underline,
    UserMention,
)

_WEB = re.compile(r"https?://[^\s/]", re.IGNORECASE)
_SNOWFLAKE = re.compile(r"\d{1,20}", re.ASCII)
_EMOJI = re.compile(r"<a?:\w{1,64}:\d{1,20}>", re.ASCII)
_LABEL_URL = re.compile(r"https?://[^\s<]{2}", re.IGNORECASE)
_BALANCED_LABEL = re.compile(r"(?:[^\[\]]|\[[^\[\]]*+\])*+")
_BALANCED_URL = re.compile(r"(?:[^()]|\([^()]*+\))*+")
_RUN = re.compile(r"`++")
_RAISED = str.maketrans("0123456789+-=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ")
_LOWERED = str.maketrans("0123456789+-=()", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎")
_UNSAFE_IN_URL = re.compile(r"[\s<>\\]")
# How far to look for the end of a bare URL.
_AHEAD = 64
_DELIMITERS: dict[type, str] = {Strong: "**", Underline: "__", Strike: "~~"}


@dataclass(frozen=True, slots=True)
class Look:
    """How references look on Discord; None where they are to be read as plain words.

    `user`, `role`, `channel`: the ID to mention. `message`: the jump URL of the message's copy. `emoji`: the code of an
    emoji that the guild has (`<:name:id>`). `broadcast`: @everyone and @here are to be real ones.
    """

    user: Callable[[UserMention], str | None] = lambda _: None
    role: Callable[[RoleMention], str | None] = lambda _: None
    channel: Callable[[ChannelMention], str | None] = lambda _: None
    message: Callable[[MessageLink], str | None] = lambda _: None
    emoji: Callable[[CustomEmoji], str | None] = lambda _: None
    broadcast: bool = False


def render_inline(nodes: Sequence[Inline], look: Look) -> str:
    """Inline markdown for `nodes`."""
    lowered = normalise_inline(_lower(nodes, look))
    ready = normalise_inline(_hoist(lowered, look))
    # What no backslash can reach may end what a text seems to begin.
    literals = "\n".join((*(_literals(node, look) for node in ready), *_urls(ready)))
    place = Place(lines="_" in literals, brackets="](" in literals or any("](" in text for text in _texts(ready)))
    return _Spans(look, place).write(ready)


def live(node: Inline, look: Look) -> str | None:
    """The code of a reference that Discord shows as its own kind of thing, None where it cannot."""
    match node:
        case UserMention():
            return _code("<@{}>", look.user(node))
        case RoleMention():
            return _code("<@&{}>", look.role(node))
        case ChannelMention():
            return _code("<#{}>", look.channel(node))
        case CustomEmoji():
            code = look.emoji(node)
            return code if code and _EMOJI.fullmatch(code) else None
        case BroadcastMention(scope):
            return f"@{scope}" if look.broadcast else None
        case Timestamp(at, style):
            return f"<t:{int(at.timestamp())}:{style}>" if style in tuple("tTdDfFsSR") else f"<t:{int(at.timestamp())}>"
        case _:
            return None


def _code(form: str, found: str | None) -> str | None:
    return form.format(found) if found and _SNOWFLAKE.fullmatch(found) else None


def _lower(nodes: Sequence[Inline], look: Look) -> Iterator[Inline]:
    """`nodes` without what Discord has no markup for."""
    for node in nodes:
        if live(node, look) is not None:
            yield node
            continue
        match node:
            case Text(text):
                yield from link_bare_urls(text)
            case Strong() | Emphasis() | Underline() | Strike():
                yield replace(node, children=tuple(_lower(node.children, look)))
            case Spoiler(children, reason):
                if reason:
                    yield Text(f"({' '.join(reason.split())}) ")
                yield Spoiler(tuple(_lower(children, look)))
            case Colored(children):
                yield from _lower(children, look)
            case Superscript(children, lowered):
                yield from _superscript(tuple(_lower(children, look)), lowered=lowered)
            case Math(tex):
                yield Code(tex)
            case Link():
                yield from _link(node, look)
            case MessageLink(_, url, children):
                target = look.message(node) or url
                yield from _link(Link(target, children or (Text(target),)), look)
            case _:
                yield _named(node)


def _named(node: Inline) -> Inline:
    """A reference that Discord cannot show, by its name."""
    match node:
        case UserMention(_, name) | RoleMention(name):
            return Text(f"@{name}")
        case ChannelMention(_, name):
            return Text(f"#{name}")
        case BroadcastMention(scope):
            return Text(f"@{scope}")
        case CustomEmoji(name):
            return Text(f":{name}:")
        case InlineImage(alt):
            return Text(alt or "image")
        case _:
            return node


def _superscript(children: tuple[Inline, ...], *, lowered: bool) -> Iterator[Inline]:
    table = _LOWERED if lowered else _RAISED
    if len(children) == 1 and isinstance(only := children[0], Text) and all(ord(char) in table for char in only.text):
        yield Text(only.text.translate(table))
    else:
        yield Text("_(" if lowered else "^(")
        yield from children
        yield Text(")")


def _link(link: Link, look: Look) -> Iterator[Inline]:
    """A link as Discord takes it: bare, masked, or its words with the address behind them."""
    if not _WEB.match(link.url):
        address = link.url.removeprefix("mailto:")
        words = tuple(_lower(link.children, look))
        yield from words
        if words not in ((Text(address),), (Text(link.url),)):
            yield Text(f" ({address})")
        return
    url = _UNSAFE_IN_URL.sub(lambda found: "".join(f"%{byte:02X}" for byte in found.group().encode()), link.url)
    if is_bare(link):
        yield Link(url, (Text(url),), link.preview)
        return
    children = normalise_inline(
        node for child in link.children for node in ((child,) if isinstance(child, Text) else _lower((child,), look))
    )
    label = _Spans(look, Place()).write(children)
    plain = all(_is_label_text(text) for text in _texts(children))
    if plain and label.strip() and not _LABEL_URL.search(label) and _BALANCED_LABEL.fullmatch(label):
        if not _BALANCED_URL.fullmatch(url):
            url = url.replace("(", "%28").replace(")", "%29")
        yield Link(url, children, link.preview)
        return
    yield from normalise_inline(_lower(children, look))
    yield Text(" (")
    yield Link(url, (Text(url),), link.preview)
    yield Text(")")


def _is_label_text(text: str) -> bool:
    """Whether `text` needs no escape: in the words of a masked link clients honour none, and would show it."""
    place = Place(joined_before=True, joined_after=True)
    return escape(text, place).replace("\\\\", "\\") == text and "\\" not in text


def _texts(nodes: Sequence[Inline]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, Text):
            yield node.text
        elif isinstance(node, Strong | Emphasis | Underline | Strike | Spoiler):
            yield from _texts(node.children)


def _urls(nodes: Sequence[Inline]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, Link):
            yield node.url
        if isinstance(node, Strong | Emphasis | Underline | Strike | Spoiler | Link):
            yield from _urls(node.children)


def _literals(node: Inline, look: Look) -> str:
    """The characters inside `node` that cannot be escaped."""
    match node:
        case Code(text):
            return text
        case Strong(children) | Emphasis(children) | Underline(children) | Strike(children) | Spoiler(children):
            return "\n".join(_literals(child, look) for child in children)
        case Link(_, children) if not is_bare(node):
            return "\n".join(_literals(child, look) for child in children)
        case CustomEmoji():
            return live(node, look) or ""
        case _:
            return ""


def _hoist(nodes: Sequence[Inline], look: Look) -> Iterator[Inline]:
    """Markup cut open around literals that would close it. A spoiler never is: its literals are broken instead."""
    for node in nodes:
        if isinstance(node, Link):
            yield node if is_bare(node) else replace(node, children=normalise_inline(_hoist(node.children, look)))
            continue
        if not isinstance(node, Strong | Emphasis | Underline | Strike | Spoiler):
            yield node
            continue
        inside: list[Inline] = []
        held = ""
        for child in _hoist(node.children, look):
            literals = _literals(child, look)
            if not _clashes(node, held + literals):
                inside.append(child)
                held += literals
                continue
            yield replace(node, children=tuple(inside))
            inside = []
            if isinstance(child, Strong | Emphasis | Underline | Strike | Spoiler):
                # The markup moves into the child, to everything but the literals.
                yield replace(child, children=tuple(_hoist((replace(node, children=child.children),), look)))
            else:
                yield child
        yield replace(node, children=tuple(inside))


def _clashes(node: Inline, literals: str) -> bool:
    if isinstance(node, Emphasis):
        # Italics have two delimiters to choose from.
        return "*" in literals and "_" in literals
    delimiter = _DELIMITERS.get(type(node))
    return delimiter is not None and delimiter in literals


@dataclass(frozen=True, slots=True)
class _Spans:
    """Writes nodes that are all Discord's own.

    `url_escapes`: what may not stand in a URL because of what surrounds it. `hidden`: inside a spoiler.
    """

    look: Look
    place: Place
    url_escapes: str = ""
    hidden: bool = False

    def write(self, nodes: Sequence[Inline]) -> str:
        """The markdown."""
        done: list[str] = []
        following = ""
        for index in range(len(nodes) - 1, -1, -1):
            before = nodes[index - 1] if index else None
            after = nodes[index + 1] if index + 1 < len(nodes) else None
            done.append(self._node(nodes[index], before, after, following))
            following = (done[-1][:_AHEAD] + following)[:_AHEAD]
        return "".join(reversed(done))

    def _node(self, node: Inline, before: Inline | None, after: Inline | None, following: str) -> str:
        """One node; `following` is the beginning of what was written after it."""
        match node:
            case Text(text):
                place = replace(
                    self.place,
                    joined_before=before is not None and not isinstance(before, LineBreak),
                    joined_after=after is not None and not isinstance(after, LineBreak),
                )
                return escape(text, place)
            case LineBreak():
                return "\n"
            case Code(text):
                return self._fenced(text) + (ZERO_WIDTH if isinstance(after, Code) else "")
            case Emphasis():
                return self._italic(node, before, after, following)
            case Strong(children):
                return f"**{self._inside('*').write(children)}**"
            case Underline(children):
                return f"__{self._inside('_').write(children)}__"
            case Strike(children):
                inner = self._inside("~").write(children)
                # Clients take no `~~` for a closing one when a `_` follows it.
                end = ZERO_WIDTH if following.startswith("_") else ""
                return f"~~{inner}{ZERO_WIDTH if inner.endswith('~') else ''}~~{end}"
            case Spoiler(children):
                inner = replace(self._inside("|"), hidden=True).write(children)
                return f"||{inner}{ZERO_WIDTH if inner.endswith('|') else ''}||"
            case Link():
                return self._link(node, following)
            case _:
                return live(node, self.look) or ""

    def _inside(self, character: str) -> "_Spans":
        return replace(self, url_escapes=self.url_escapes + character)

    def _italic(self, node: Emphasis, before: Inline | None, after: Inline | None, following: str) -> str:
        """`*…*`, or `_…_` where stars would run together with others; as a last resort with a space of no width."""
        literals = _literals(node, self.look)
        beside = (before, after)
        stars_run = any(isinstance(other, Strong) for other in beside)
        lines_run = any(isinstance(other, Underline) for other in beside)
        use_lines = "*" in literals or (stars_run and not lines_run and "_" not in literals)
        mark = "_" if use_lines else "*"
        place = replace(self.place, stars=not use_lines, lines=use_lines or self.place.lines)
        inner = replace(self, place=place, url_escapes=self.url_escapes + mark).write(node.children)
        runs = (
            isinstance(before, Underline if use_lines else Strong),
            isinstance(after, Underline if use_lines else Strong),
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

    def _link(self, link: Link, following: str) -> str:
        url = link.url
        for character in self.url_escapes:
            if character != "_" or "__" in url or self.place.lines:
                url = url.replace(character, f"%{ord(character):02X}")
        if is_bare(link):
            upcoming = following.split(maxsplit=1)[0] if following[:1].strip() else ""
            bare = link.preview and len(upcoming) < _AHEAD and url_at(url + upcoming, 0) == url
            return url if bare else f"<{url}>"
        label = replace(self, place=replace(self.place, brackets=False)).write(link.children)
        return f"[{' '.join(label.split(chr(10)))}]({url if link.preview else f'<{url}>'})"
