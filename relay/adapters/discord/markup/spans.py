"""The neutral text tree -> Discord's markdown: what stands inside a block.

Three passes: what Discord cannot show becomes text (`markup_lower`); literal code that would close the markup around it
moves outside (`hoisted`); then the rest is written down (`markup_writer`).
"""

from collections.abc import Sequence

from relay.adapters.discord.markup.escape import Place, may_be_markup
from relay.adapters.discord.markup.look import Look
from relay.adapters.discord.markup.lower import lower
from relay.adapters.discord.markup.writer import Spans, hoisted
from relay.domain.text.nodes import Inline, Text
from relay.domain.text.normalise import normalise_inline


def render_inline(nodes: Sequence[Inline], look: Look, place: Place) -> str:
    """Inline markdown for `nodes`."""
    if len(nodes) == 1 and isinstance(only := nodes[0], Text) and not may_be_markup(only.text):
        return only.text
    return Spans(look, place).write(hoisted(normalise_inline(lower(nodes, look)), look))
