"""The body of a request to post or change a message: text in Discord's markdown, name and allowed mentions. Pure."""

import hashlib
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from relay.adapters.discord import markup
from relay.core.convert.headings import under_heading
from relay.core.ports import Delivery
from relay.domain.content import Author, Content
from relay.domain.ids import Platform
from relay.domain.jsontext import Json
from relay.domain.names import folded_letters, shortened, skeleton, visible
from relay.domain.text import nodes as n
from relay.domain.text.normalise import normalise
from relay.domain.text.rewrite import map_inline, walk
from relay.errors import Unsupported

# Code points, as Discord counts: https://github.com/discord/discord-api-docs/issues/1315
TEXT_LENGTH = 2_000
# https://docs.discord.com/developers/resources/message#allowed-mentions-object
_MAX_MENTIONS = 100
# https://docs.discord.com/developers/resources/message#message-object-message-flags
_SUPPRESS_NOTIFICATIONS = 1 << 12
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
# The same people write again and again.
_NAMES_KEPT = 1_000


def _emoji_code(node: n.CustomEmoji) -> str | None:
    if node.source.platform is not Platform.DISCORD or not node.id:
        return None
    return f"<{'a' if node.animated else ''}:{node.name}:{node.id}>"


# A broadcast mention that is still here is allowed to its author and in its pair: see `core/convert/degrade.py`. Only
# `core/convert/references.py` makes mentions of Discord's people and channels: nobody elsewhere can write one.
_CODES = markup.ReferenceCodes(
    user=lambda node: node.user.id if node.user.platform is Platform.DISCORD else None,
    channel=lambda node: node.channel.id if node.channel.platform is Platform.DISCORD else None,
    emoji=_emoji_code,
    broadcast=True,
)
# Until a message is sent, any custom emoji may turn out to be one of the server's, which have the longest code.
_LONGEST_CODES = replace(_CODES, emoji=lambda node: _emoji_code(node) or f"<a:{node.name}:{'0' * 20}>")
_SOME_NAME = (n.Text("x"),)


def measure(text: n.RichText) -> int:
    """The greatest length, as Discord counts, that `text` may have, also where the bot posts it under a name.

    The name itself is not counted, but the line break after it is.
    """
    length = len(markup.render(text, codes=_LONGEST_CODES))
    match text.blocks:
        case (n.Paragraph(children), *rest):
            plain: tuple[n.Block, ...] = (n.Paragraph((*_SOME_NAME, n.Text(" "), *children)), *rest)
        case blocks:
            plain = (n.Paragraph(_SOME_NAME), *blocks)
    headed = under_heading(_SOME_NAME, text.blocks)
    return length if headed == plain else max(length, len(markup.render(n.RichText(headed), codes=_LONGEST_CODES)))


def with_own_emoji(content: Content, own: Callable[[str], n.CustomEmoji | None]) -> Content:
    """`content` with the server's own emoji, which `own` finds by name, in place of other platforms' emoji."""

    def replaced(node: n.Inline) -> n.Inline:
        if not isinstance(node, n.CustomEmoji) or node.source.platform is Platform.DISCORD:
            return node
        return own(node.name) or node

    return replace(content, text=map_inline(content.text, replaced))


def webhook_text(content: Content) -> str:
    """The text of a message through a webhook, without the author's name. Raises `Unsupported` if empty."""
    text = _rendered(_with_style(content))
    return _not_empty(text if len(text) <= TEXT_LENGTH else _rendered(content.text), content)


def webhook_body(content: Content, author: Author, avatar_url: str | None = None) -> Json:
    """The body of a request through a webhook, for `author`. Raises `Unsupported` if empty.

    Without `avatar_url`, the webhook's own picture is shown.
    """
    body: Json = {
        "content": webhook_text(content),
        "username": username(author),
        "allowed_mentions": allowed_mentions(content),
    }
    if avatar_url is not None:
        body["avatar_url"] = avatar_url
    return body | flags(content)


def flags(content: Content) -> Json:
    """What a new message says of how it is shown, if anything: a silent one sends nobody a notification."""
    return {"flags": _SUPPRESS_NOTIFICATIONS} if content.silent else {}


def allowed_mentions(content: Content) -> Json:
    """Whom a message may notify: the people that it mentions by ID and nobody else, whatever its text looks like.

    Every message needs this. Without it, Discord would notify everybody whom the text seems to mention.
    """
    users: dict[str, None] = {}
    everyone = False
    for node in () if content.silent else walk(content.text.blocks):
        if isinstance(node, n.UserMention) and node.user.platform is Platform.DISCORD:
            users[node.user.id] = None
        everyone = everyone or isinstance(node, n.BroadcastMention)
    allowed: Json = {"parse": ["everyone"] if everyone else [], "replied_user": False}
    return allowed | ({"users": list(users)[:_MAX_MENTIONS]} if users else {})


def bot_text(delivery: Delivery) -> str:
    """The text of a message of the bot itself, for an author or in its own name. Raises `Unsupported` if empty."""
    if delivery.author is None:
        return webhook_text(delivery.content)
    text = _rendered(with_author_name(_with_style(delivery.content), delivery.author))
    short = text if len(text) <= TEXT_LENGTH else _rendered(with_author_name(delivery.content.text, delivery.author))
    return _not_empty(short, delivery.content)


def _with_style(content: Content) -> n.RichText:
    """The text of `/me` in italics, as Discord's own clients send it."""
    if content.style != "emote":
        return content.text
    return n.RichText(
        tuple(
            n.Paragraph((n.Emphasis(block.children),)) if isinstance(block, n.Paragraph) else block
            for block in content.text.blocks
        )
    )


def _rendered(text: n.RichText) -> str:
    # A request cannot contain half a character (a lone surrogate) or the null character.
    return markup.render(text, codes=_CODES).replace("\0", "").encode("utf-8", "replace").decode()


def _not_empty(text: str, content: Content) -> str:
    if not text.strip() and not content.attachments:
        raise Unsupported("empty")
    return text


# --- Names --------------------------------------------------------------------------------------------------


def username(author: Author) -> str:
    """The name of `author` on Discord: 1 to 80 characters that Discord accepts and that fool nobody.

    If nothing of the author's name can be seen, it is the local part of the user ID.
    """
    return usernames(author)[0]


def usernames(author: Author) -> tuple[str, ...]:
    """Names for `author`, to be tried in this order while Discord refuses them.

    Some of its rules are not documented, and it makes new ones. No message must be lost because of them.
    """
    return _usernames(author.name, author.user.id)


@lru_cache(_NAMES_KEPT)
def _usernames(name: str, user_id: str) -> tuple[str, ...]:
    local_part = user_id.lstrip("@").partition(":")[0]
    shown = _presentable(name) or _presentable(local_part) or "user"
    first = visible(shortened(shown, max_length=NAME_LENGTH, max_bytes=4 * NAME_LENGTH))
    broken = _presentable(_with_words_broken(first))
    digest = hashlib.sha256(user_id.encode("utf-8", "replace")).hexdigest()[:_STAND_IN_DIGITS]
    # The broken name is left out if it is too long: it would be cut at its end, where authors of one name differ.
    names = (first, broken, f"member-{digest}") if len(broken) <= NAME_LENGTH else (first, f"member-{digest}")
    return tuple(dict.fromkeys(names))


def _presentable(name: str) -> str:
    """`name` without what Discord refuses, of a long one only its beginning: the rest is cut off in any case."""
    shown = _without_forbidden_words(visible(name)[: 4 * NAME_LENGTH])
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


def split_author_name(text: n.RichText) -> tuple[str, n.RichText] | None:
    """The name that `with_author_name` put in front, and the text without it; None where no name is in front."""
    place = next((place for place, block in enumerate(text.blocks) if not isinstance(block, n.Quote)), None)
    if place is None:
        return None
    match text.blocks[place]:
        case n.Paragraph((n.Strong((n.Text(name),)), n.Text(after), *rest)) if after.startswith(":"):
            words = after.removeprefix(":").lstrip()
            inside = (*((n.Text(words),) if words else ()), *rest)
            block = (n.Paragraph(inside),) if inside else ()
            return name, normalise(n.RichText((*text.blocks[:place], *block, *text.blocks[place + 1 :])))
    return None
