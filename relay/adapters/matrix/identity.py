"""How an author of the other side appears: the bot's message with a per-message profile and a visible fallback.

https://github.com/matrix-org/matrix-spec-proposals/pull/4144, under the name that its first implementation gave it.
Clients that know it show the profile and take the fallback away; the others show the name in front of the words.
"""

import html
import unicodedata
from typing import Any

from relay.domain.content import Author
from relay.domain.ids import Platform

Json = dict[str, Any]

PROFILE = "com.beeper.per_message_profile"
_LONGEST_NAME = 100
# Control characters, formatting characters (invisible and bidirectional ones among them), surrogates, line and
# paragraph separators: in a name they only serve to deceive. The joiner and the selector hold emoji together.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_EMOJI_GLUE = "\u200d"


def display_name(author: Author) -> str:
    """The author's name in one line without hidden characters; never empty."""
    shown = "".join(char for char in author.name if char == _EMOJI_GLUE or unicodedata.category(char) not in _HIDDEN)
    return " ".join(shown.split())[:_LONGEST_NAME].strip() or author.user.id


def profile(author: Author) -> Json:
    """The profile of one message. An avatar only where the homeserver has it: clients fetch nothing else."""
    found: Json = {"id": f"{author.user.platform}_{author.user.id}", "displayname": display_name(author)}
    if author.avatar is not None and author.avatar.platform is Platform.MATRIX:
        found["avatar_url"] = author.avatar.locator
    return found | {"has_fallback": True}


def plain_fallback(author: Author) -> str:
    """What stands in front of the plain words."""
    return f"{display_name(author)}: "


def html_fallback(author: Author) -> str:
    """What stands in front of the formatted words."""
    return f"<strong data-mx-profile-fallback>{html.escape(display_name(author))}: </strong>"
