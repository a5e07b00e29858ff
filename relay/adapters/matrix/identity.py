"""How an author of the other side appears: each message of the bot has a per-message profile, and a fallback for it.

https://github.com/matrix-org/matrix-spec-proposals/pull/4144, under the name that its first implementation gave it.
Clients that know it show the profile and hide the fallback; the others show the name in front of the text. Pure.
"""

import html

import regex

from relay.domain.content import Author
from relay.domain.ids import Platform
from relay.domain.jsontext import Json
from relay.domain.names import visible

PROFILE = "com.beeper.per_message_profile"
_LONGEST_NAME = 255  # In bytes, as the proposal says.
_GRAPHEME = regex.compile(r"\X")


def display_name(author: Author) -> str:
    """The author's name in one line, without hidden characters. Never empty or blank."""
    return _cut(visible(author.name) or visible(author.handle) or author.user.id).strip()


def _cut(name: str) -> str:
    """As much of `name` as a profile may hold, cut between two characters as the reader sees them."""
    left = _LONGEST_NAME
    for character in _GRAPHEME.finditer(name):
        left -= len(character.group().encode("utf-8", "replace"))
        if left < 0:
            # If the first one alone is too long, nobody sees it as one character: cut inside.
            return name[: character.start()] or name.encode("utf-8", "replace")[:_LONGEST_NAME].decode(
                "utf-8", "ignore"
            )
    return name


def profile(author: Author) -> Json:
    """The profile of one message. The avatar has to be on the homeserver already: clients load no other.

    Without one, `avatar_url` is empty: if it were missing, clients would show the bot's avatar beside this name.
    """
    avatar = author.avatar
    return {
        "id": f"{author.user.platform}_{author.user.id}",
        "displayname": display_name(author),
        "avatar_url": avatar.locator if avatar is not None and avatar.platform is Platform.MATRIX else "",
        "has_fallback": True,
    }


def plain_fallback(author: Author) -> str:
    """The author's name, for the start of the plain text."""
    return f"{display_name(author)}: "


def html_fallback(author: Author) -> str:
    """The author's name, for the start of the formatted text."""
    return f"<strong data-mx-profile-fallback>{html.escape(display_name(author))}: </strong>"
