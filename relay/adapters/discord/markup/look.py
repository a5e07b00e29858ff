"""What only the guild and the message map know of a text on its way to Discord: how its references look there."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from relay.domain.text import nodes as n

_SNOWFLAKE = re.compile(r"\d{1,20}", re.ASCII)
_EMOJI = re.compile(r"<a?:\w{1,64}:\d{1,20}>", re.ASCII)


@dataclass(frozen=True, slots=True)
class Look:
    """How references look on Discord; None where they are to be read as plain words.

    `user`, `role`, `channel`: the ID to mention. `message`: the jump URL of the message's copy. `emoji`: the code of an
    emoji that the guild has (`<:name:id>`). `broadcast`: @everyone and @here are to be real ones.
    """

    user: Callable[[n.UserMention], str | None] = lambda _: None
    role: Callable[[n.RoleMention], str | None] = lambda _: None
    channel: Callable[[n.ChannelMention], str | None] = lambda _: None
    message: Callable[[n.MessageLink], str | None] = lambda _: None
    emoji: Callable[[n.CustomEmoji], str | None] = lambda _: None
    broadcast: bool = False


def live(node: n.Inline, look: Look) -> str | None:
    """The code of a reference that Discord shows as its own kind of thing, None where it cannot."""
    match node:
        case n.UserMention():
            return _code("<@{}>", look.user(node))
        case n.RoleMention():
            return _code("<@&{}>", look.role(node))
        case n.ChannelMention():
            return _code("<#{}>", look.channel(node))
        case n.CustomEmoji():
            code = look.emoji(node)
            return code if code and _EMOJI.fullmatch(code) else None
        case n.BroadcastMention(scope):
            return f"@{scope}" if look.broadcast else None
        case n.Timestamp(at, style):
            return f"<t:{int(at.timestamp())}:{style}>" if style in tuple("tTdDfFsSR") else f"<t:{int(at.timestamp())}>"
        case _:
            return None


def _code(form: str, found: str | None) -> str | None:
    return form.format(found) if found and _SNOWFLAKE.fullmatch(found) else None


def named(node: n.Inline) -> n.Inline:
    """A reference that Discord cannot show, by its name."""
    match node:
        case n.UserMention(_, name) | n.RoleMention(name):
            return n.Text(f"@{name}")
        case n.ChannelMention(_, name):
            return n.Text(f"#{name}")
        case n.BroadcastMention(scope):
            return n.Text(f"@{scope}")
        case n.CustomEmoji(name):
            return n.Text(f":{name}:")
        case n.InlineImage(alt):
            return n.Text(alt or "image")
        case _:
            return node
