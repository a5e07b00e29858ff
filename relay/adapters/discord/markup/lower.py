"""The neutral text tree -> Discord's markdown: what Discord has no markup for, in the markup and words that it has."""

import re
from collections.abc import Iterator, Sequence

from relay.adapters.discord.markup.escape import Place
from relay.adapters.discord.markup.look import Look, live, named
from relay.adapters.discord.markup.writer import LABEL, Spans, hoisted
from relay.domain.text import nodes as n
from relay.domain.text.links import is_bare, link_bare_urls
from relay.domain.text.normalise import normalise_inline

_WEB = re.compile(r"https?://[^\s/]", re.IGNORECASE)
_LABEL_URL = re.compile(r"https?://[^\s<]{2}", re.IGNORECASE)
_BALANCED_LABEL = re.compile(r"(?>(?:[^\[\]]|\[[^\[\]]*+\])*)")
_BALANCED_URL = re.compile(r"(?>(?:[^()]|\([^()]*+\))*)")
_RAISED = str.maketrans("0123456789+-=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ")
_LOWERED = str.maketrans("0123456789+-=()", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎")
# The server looks for mentions in addresses, too.
_UNSAFE_IN_URL = re.compile(r"[\s<>\\]|@(?=everyone|here)")


def lower(nodes: Sequence[n.Inline], look: Look) -> Iterator[n.Inline]:
    """`nodes` without what Discord has no markup for."""
    for node in nodes:
        if live(node, look) is not None:
            yield node
            continue
        match node:
            case n.Text(text):
                yield from link_bare_urls(text) if "://" in text else (node,)
            case n.Strong() | n.Emphasis() | n.Underline() | n.Strike():
                yield type(node)(tuple(lower(node.children, look)))
            case n.Spoiler(children, reason):
                if reason:
                    yield n.Text(f"({' '.join(reason.split())}) ")
                yield n.Spoiler(tuple(lower(children, look)))
            case n.Colored(children):
                yield from lower(children, look)
            case n.Superscript(children, lowered):
                yield from _superscript(tuple(lower(children, look)), lowered=lowered)
            case n.Math(tex):
                yield n.Code(tex)
            case n.Link():
                yield from _link(node, look)
            case n.MessageLink(_, url, children):
                target = look.message(node) or url
                yield from _link(n.Link(target, children or (n.Text(target),)), look)
            case _:
                yield named(node)


def _superscript(children: tuple[n.Inline, ...], *, lowered: bool) -> Iterator[n.Inline]:
    table = _LOWERED if lowered else _RAISED
    if len(children) == 1 and isinstance(only := children[0], n.Text) and all(ord(char) in table for char in only.text):
        yield n.Text(only.text.translate(table))
    else:
        yield n.Text("_(" if lowered else "^(")
        yield from children
        yield n.Text(")")


def _link(link: n.Link, look: Look) -> Iterator[n.Inline]:
    """A link as Discord takes it: bare, masked, or its words with the address behind them."""
    if not _WEB.match(link.url):
        address = link.url.removeprefix("mailto:")
        words = tuple(lower(link.children, look))
        yield from words
        if words not in ((n.Text(address),), (n.Text(link.url),)):
            yield n.Text(f" ({address})")
        return
    url = _UNSAFE_IN_URL.sub(lambda found: "".join(f"%{byte:02X}" for byte in found.group().encode()), link.url)
    if is_bare(link):
        yield n.Link(url, (n.Text(url),), link.preview)
        return
    children = normalise_inline(
        node for child in link.children for node in ((child,) if isinstance(child, n.Text) else lower((child,), look))
    )
    words = hoisted(children, look)
    label = Spans(look, LABEL).write(words)
    plain = label == _with_escapes(words, look) and "\\]" not in label and _BALANCED_LABEL.fullmatch(label)
    if plain and label.strip() and not _LABEL_URL.search(label):
        if not _BALANCED_URL.fullmatch(url):
            url = url.replace("(", "%28").replace(")", "%29")
        yield n.Link(url, words, link.preview)
        return
    yield from normalise_inline(lower(children, look))
    yield n.Text(" (")
    yield n.Link(url, (n.Text(url),), link.preview)
    yield n.Text(")")


def _with_escapes(words: tuple[n.Inline, ...], look: Look) -> str:
    """`words` as they would have to be written where clients honour escapes: not in a masked link."""
    written = Spans(look, Place(lines=True)).write(words)
    # Where all underscores are in words, none can pair with them.
    return written if "_" in written.replace("\\_", "") else Spans(look, Place()).write(words)
