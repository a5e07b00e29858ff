"""Discord's markdown <-> the neutral text tree. Pure: what only the guild knows arrives as look-ups.

The front of `markup_parser` (what a client would show of a message's content) and `markup_renderer` (content that makes
a client show a tree). https://discord.com/developers/docs/reference#message-formatting
"""

from relay.adapters.discord.markup_look import Look
from relay.adapters.discord.markup_parser import parse
from relay.adapters.discord.markup_references import Names
from relay.adapters.discord.markup_renderer import render

__all__ = ["Look", "Names", "parse", "render"]
