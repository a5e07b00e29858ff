"""The body of a request to post or change a message: text in Discord's markdown, name and allowed mentions. Pure."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from relay.adapters.discord import markup
from relay.adapters.discord.outbound.usernames import username, with_author_name
from relay.core.convert.headings import under_heading
from relay.core.ports import Delivery
from relay.domain.content import Author, Content
from relay.domain.ids import Platform
from relay.domain.text import nodes as n
from relay.domain.text.rewrite import map_inline, walk
from relay.errors import Unsupported

# Code points, as Discord counts: https://github.com/discord/discord-api-docs/issues/1315
TEXT_LENGTH = 2_000
# https://docs.discord.com/developers/resources/message#allowed-mentions-object
_MOST_MENTIONS = 100


def _emoji_code(node: n.CustomEmoji) -> str | None:
    if node.source.platform is not Platform.DISCORD or not node.id:
        return None
    return f"<{'a' if node.animated else ''}:{node.name}:{node.id}>"


# A broadcast mention that is still here is allowed to its author and in its pair: see `core/convert/degrade.py`. Only
# `core/delivery/references.py` makes mentions of Discord's people and channels: nobody elsewhere can write one.
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


def webhook_body(content: Content, author: Author) -> dict[str, Any]:
    """The body of a request through a webhook, for `author`. Raises `Unsupported` if empty."""
    body: dict[str, Any] = {
        "content": webhook_text(content),
        "username": username(author),
        "allowed_mentions": allowed_mentions(content),
    }
    if author.avatar is not None and author.avatar.locator.startswith(("https://", "http://")):
        body["avatar_url"] = author.avatar.locator
    return body


def allowed_mentions(content: Content) -> dict[str, Any]:
    """Whom a message may notify: the people that it mentions by ID and nobody else, whatever its text looks like.

    Every message needs this. Without it, Discord would notify everybody whom the text seems to mention.
    """
    users: dict[str, None] = {}
    everyone = False
    for node in walk(content.text.blocks):
        if isinstance(node, n.UserMention) and node.user.platform is Platform.DISCORD:
            users[node.user.id] = None
        everyone = everyone or isinstance(node, n.BroadcastMention)
    allowed: dict[str, Any] = {"parse": ["everyone"] if everyone else [], "replied_user": False}
    return allowed | ({"users": list(users)[:_MOST_MENTIONS]} if users else {})


def bot_text(delivery: Delivery) -> str:
    """The text of a message of the bot itself, for an author or in its own name. Raises `Unsupported` if empty."""
    if delivery.author is None:
        return webhook_text(delivery.content)
    text = _rendered(with_author_name(_with_style(delivery.content), delivery.author))
    short = text if len(text) <= TEXT_LENGTH else _rendered(with_author_name(delivery.content.text, delivery.author))
    return _not_empty(short, delivery.content)


def _with_style(content: Content) -> n.RichText:
    """The text of `/me` in italics, as Discord's own clients send it."""
    if content.style != "emote" or not content.text.blocks:
        return content.text
    first, *rest = content.text.blocks
    if not isinstance(first, n.Paragraph):
        return content.text
    return n.RichText((n.Paragraph((n.Emphasis(first.children),)), *rest))


def _rendered(text: n.RichText) -> str:
    # A request cannot contain half a character (a lone surrogate) or the null character.
    return markup.render(text, codes=_CODES).replace("\0", "").encode("utf-8", "replace").decode()


def _not_empty(text: str, content: Content) -> str:
    if not text.strip() and not content.attachments:
        raise Unsupported("empty")
    return text
