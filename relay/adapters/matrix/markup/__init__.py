"""Matrix's HTML and plain bodies <-> the neutral text tree. Pure: what only the room knows arrives as look-ups.

The front of `markup_parser` (what a client would show of an event's content) and `markup_renderer` (content that makes
a client show a tree). https://spec.matrix.org/latest/client-server-api/#mroommessage-msgtypes
"""

from relay.adapters.matrix.markup.inline import NameLookup
from relay.adapters.matrix.markup.parser import parse
from relay.adapters.matrix.markup.renderer import Rendered, Resolver, render

__all__ = ["NameLookup", "Rendered", "Resolver", "parse", "render"]
