"""The signs that only the relay makes: what a member writes can never look like its headings.

What stands under a quoted line, a forward's heading or the names of several is taken for somebody else's words. (What
the relay says of a message's own author, a file that it names or a poll, anybody may say of themselves.)
"""

from dataclasses import replace

from relay.domain.text import nodes as n
from relay.domain.text.rewrite import map_inline

MARK = "↪"
"""Stands in front of whom a message answers, and above what it forwards."""

_STAND_IN = "→"

_BRACKETS = str.maketrans("⟨⟩〈〉《》❬❭❰❱" + MARK, "()()()()()" + _STAND_IN)


def unmarked(text: n.RichText) -> n.RichText:
    """What a member wrote, with another arrow for the relay's own wherever it is not code.

    Anywhere, not only where a line begins: a long text is cut between any two words.
    """
    return map_inline(text, _unmarked)


def unmarked_name(name: str) -> str:
    """A member's name without the relay's signs."""
    return name.translate(_BRACKETS)


def bracketed(sign: str) -> str:
    """`sign` in brackets that no member's name can hold."""
    return f"⟨{sign}⟩"


def _unmarked(node: n.Inline) -> n.Inline:
    match node:
        case n.Text(words) if MARK in words:
            return replace(node, text=words.replace(MARK, _STAND_IN))
        case n.InlineImage(alt) if MARK in alt:
            return replace(node, alt=alt.replace(MARK, _STAND_IN))
        case _:
            return node
