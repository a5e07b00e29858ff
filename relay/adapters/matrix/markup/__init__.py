"""Matrix's HTML and plain bodies <-> the neutral text tree. Pure: what only the room knows is passed in as look-ups.

`parse` reads what a client shows of an event; `render` writes content that makes a client show a tree. Other modules
import them from here. https://spec.matrix.org/latest/client-server-api/#mroommessage-msgtypes
"""

from relay.adapters.matrix.markup.block_parser import parse
from relay.adapters.matrix.markup.inline_parser import NameLookup
from relay.adapters.matrix.markup.renderer import Rendered, Resolver, render

__all__ = ["NameLookup", "Rendered", "Resolver", "parse", "render"]
