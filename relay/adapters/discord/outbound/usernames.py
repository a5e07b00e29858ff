"""The name that an author from elsewhere gets on Discord: a webhook's, or in front of the bot's own text. Pure."""

import hashlib
import re
import unicodedata

from relay.core.convert.headings import under_heading
from relay.domain.content import Author
from relay.domain.names import folded_letters, shortened, skeleton, visible
from relay.domain.text import nodes as n

NAME_LENGTH = 80
# What `with_author_name` adds at most: each character of the name escaped, `****: `.
FALLBACK_LENGTH = 2 * NAME_LENGTH + 8

# https://docs.discord.com/developers/resources/user#usernames-and-nicknames and …/resources/webhook#create-webhook.
# One letter of each word becomes the Cyrillic one that looks the same, so that Discord accepts the name. Here: the
# position of the letter, and its look-alike in lower and in upper case.
_LOOKALIKES = {
    "discord": (1, "і", "І"),
    "clyde": (2, "у", "У"),
    "everyone": (2, "е", "Е"),
    "here": (1, "е", "Е"),
    "system message": (4, "е", "Е"),
}
_FORBIDDEN = re.compile("|".join(_LOOKALIKES))
_SIGN_LOOKALIKES = {"@": "＠", "#": "＃", ":": "꞉"}
_TICKS = str.maketrans({"`": "ˋ", "｀": "ˋ"})
_BREAK = "·"
_STAND_IN_DIGITS = 16


def username(author: Author) -> str:
    """The name of `author` on Discord: 1 to 80 characters that Discord accepts and that fool nobody.

    If nothing of the author's name can be seen, it is the local part of the user ID.
    """
    local_part = author.user.id.lstrip("@").partition(":")[0]
    name = _presentable(author.name) or _presentable(local_part) or "user"
    return visible(shortened(name, most=NAME_LENGTH, most_bytes=4 * NAME_LENGTH))


def usernames(author: Author) -> tuple[str, ...]:
    """Names for `author`, to be tried in this order while Discord refuses them.

    Some of its rules are not documented, and it makes new ones. No message must be lost because of them.
    """
    first = username(author)
    broken = _presentable(_with_words_broken(first))
    digest = hashlib.sha256(author.user.id.encode("utf-8", "replace")).hexdigest()[:_STAND_IN_DIGITS]
    # The broken name is left out if it is too long: it would be cut at its end, where authors of one name differ.
    names = (first, broken, f"member-{digest}") if len(broken) <= NAME_LENGTH else (first, f"member-{digest}")
    return tuple(dict.fromkeys(names))


def _presentable(name: str) -> str:
    """`name` without what Discord refuses. The core has cut it to Discord's limit already."""
    shown = _without_forbidden_words(visible(name))
    for sign, lookalike in _SIGN_LOOKALIKES.items():
        shown = shown.replace(sign, lookalike)
    if "```" in shown.translate({ord("｀"): "`"}):
        shown = shown.translate(_TICKS)
    return shown


def _without_forbidden_words(name: str) -> str:
    """`name` with a look-alike in each word that Discord refuses, compared as Discord does: with folded letters."""
    while True:
        letters = folded_letters(name)
        match = _FORBIDDEN.search("".join(letter for _, letter in letters))
        if match is None:
            return name
        if (plain := visible(unicodedata.normalize("NFKC", name))) != name:
            name = plain  # in full-width or other special letters, between which the look-alike would be visible
            continue
        position, lower, upper = _LOOKALIKES[match.group()]
        index = letters[match.start() + position][0]
        name = name[:index] + (upper if name[index].isupper() else lower) + name[index + 1 :]


def _with_words_broken(name: str) -> str:
    """`name` with those words broken up, for when Discord refuses the look-alikes too."""
    plain = map(skeleton, _LOOKALIKES)
    looks = [(index, codes) for index, char in enumerate(name) for codes in skeleton(char)]
    text = "".join(codes for _, codes in looks)
    breaks = {looks[match.start() + 1][0] for word in plain for match in re.finditer(word, text)}
    return "".join(f"{_BREAK}{char}" if index in breaks else char for index, char in enumerate(name))


def with_author_name(text: n.RichText, author: Author) -> n.RichText:
    """`text` with its author's name in front, for when the bot itself has to post it."""
    return n.RichText(under_heading((n.Strong((n.Text(username(author)),)), n.Text(":")), text.blocks))
