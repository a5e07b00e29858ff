"""The neutral text tree -> Discord's markdown: what stands inside a block.

Three passes: what Discord cannot show becomes text (`markup_lower`); literal code that would close the markup around it
moves outside (`_hoist`); then the rest is written down (`markup_writer`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from relay.adapters.discord.markup_escape import Place, may_be_markup
from relay.adapters.discord.markup_look import Look
from relay.adapters.discord.markup_lower import lower
from relay.adapters.discord.markup_writer import Spans, literals
from relay.domain.links import is_bare
from relay.domain.normalise_inline import normalise_inline
from relay.domain.richtext import Emphasis, Inline, Link, Spoiler, Strike, Strong, Text, Underline

_CLOSING = frozenset("*_~")
_MOST_PASSES = 5
_DELIMITERS: dict[type, str] = {Strong: "**", Underline: "__", Strike: "~~"}


def render_inline(nodes: Sequence[Inline], look: Look, place: Place) -> str:
    """Inline markdown for `nodes`."""
    if len(nodes) == 1 and isinstance(only := nodes[0], Text) and not may_be_markup(only.text):
        return only.text
    ready = normalise_inline(lower(nodes, look))
    if not all(_CLOSING.isdisjoint(literals(node, look)) for node in ready):
        ready = _hoisted(ready, look)
    return Spans(look, place).write(ready)


def _hoisted(nodes: tuple[Inline, ...], look: Look) -> tuple[Inline, ...]:
    """`nodes` after as many passes as it takes: what was cut apart may run together with what stands beside it."""
    for _ in range(_MOST_PASSES):
        before, nodes = nodes, normalise_inline(_hoist(nodes, look))
        if nodes == before:
            break
    return nodes


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
            verbatim = literals(child, look)
            if not _clashes(node, held + verbatim):
                inside.append(child)
                held = _remembered(node, held + verbatim)
                continue
            yield replace(node, children=tuple(inside))
            inside, held = [], ""
            if isinstance(child, Strong | Emphasis | Underline | Strike | Spoiler):
                # The markup moves into the child, to everything but the literals.
                yield replace(child, children=tuple(_hoist((replace(node, children=child.children),), look)))
            else:
                yield child
        yield replace(node, children=tuple(inside))


def _remembered(node: Inline, verbatim: str) -> str:
    """As much of `verbatim` as may clash together with what follows it."""
    return "".join(_CLOSING.intersection(verbatim)) if isinstance(node, Emphasis) else verbatim[-1:]


def _clashes(node: Inline, verbatim: str) -> bool:
    if isinstance(node, Emphasis):
        # Italics have two delimiters to choose from.
        return "*" in verbatim and "_" in verbatim
    delimiter = _DELIMITERS.get(type(node))
    return delimiter is not None and delimiter in verbatim
