"""Discord's markdown <-> the neutral text tree. Pure: what only the guild knows is asked through look-ups.

`block_parser` gives what a client would show of a message's content, `block_renderer` the content that makes a client
show a tree. https://discord.com/developers/docs/reference#message-formatting
"""

from relay.adapters.discord.markup.block_parser import parse, parse_inline, parse_references
from relay.adapters.discord.markup.block_renderer import render
from relay.adapters.discord.markup.references import NameLookup, ReferenceCodes, link

__all__ = ["NameLookup", "ReferenceCodes", "link", "parse", "parse_inline", "parse_references", "render"]
