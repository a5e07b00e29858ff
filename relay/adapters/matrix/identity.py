"""How an author of the other side appears: the bot's message with a per-message profile and a visible fallback.

https://github.com/matrix-org/matrix-spec-proposals/pull/4144, under the name that its first implementation gave it.
Clients that know it show the profile and take the fallback away; the others show the name in front of the words.
"""

import html
from typing import Any

import regex

from relay.domain.content import Author
from relay.domain.ids import Platform
from relay.domain.names import visible

Json = dict[str, Any]

PROFILE = "com.beeper.per_message_profile"
# Bytes, as the proposal has it.
_LONGEST_NAME = 255
_GRAPHEME = regex.compile(r"\X")


def display_name(author: Author) -> str:
    """The author's name in one line without hidden characters; never empty, nor blank."""
    return _cut(visible(author.name) or visible(author.handle) or author.user.id).strip()


def _cut(name: str) -> str:
    """As much of `name` as a profile takes, without tearing what the reader sees as one character."""
    left = _LONGEST_NAME
    for character in _GRAPHEME.finditer(name):
        left -= len(character.group().encode("utf-8", "replace"))
        if left < 0:
            # A single one that is longer than a name may be is none that anybody sees as one.
            return name[: character.start()] or name.encode("utf-8", "replace")[:_LONGEST_NAME].decode(
                "utf-8", "ignore"
            )
    return name


def profile(author: Author) -> Json:
    """The profile of one message. An avatar only where the homeserver has it: clients fetch nothing else.

    Without one it is empty: clients would show the bot's own beside somebody else's name.
    """
    avatar = author.avatar
    return {
        "id": f"{author.user.platform}_{author.user.id}",
        "displayname": display_name(author),
        "avatar_url": avatar.locator if avatar is not None and avatar.platform is Platform.MATRIX else "",
        "has_fallback": True,
    }


def plain_fallback(author: Author) -> str:
    """What stands in front of the plain words."""
    return f"{display_name(author)}: "


def html_fallback(author: Author) -> str:
    """What stands in front of the formatted words."""
    return f"<strong data-mx-profile-fallback>{html.escape(display_name(author))}: </strong>"
