"""The text of a delivery in Discord's markdown, as a webhook or the bot itself says it. Pure."""

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


# A broadcast that is still one here is one that its author may make and that the pair allows: `core.degrade` sees to
# it. People and channels of Discord come from `core.references` alone: nobody elsewhere can write one.
_CODES = markup.ReferenceCodes(
    user=lambda node: node.user.id if node.user.platform is Platform.DISCORD else None,
    channel=lambda node: node.channel.id if node.channel.platform is Platform.DISCORD else None,
    emoji=_emoji_code,
    broadcast=True,
)
# Which emoji a server has is known when a message is sent; until then any may turn out to be one of them.
_LONGEST_CODES = replace(_CODES, emoji=lambda node: _emoji_code(node) or f"<a:{node.name}:{'0' * 20}>")
_SOMEBODY = (n.Text("x"),)


def measure(text: n.RichText) -> int:
    """The length of `text` as Discord counts it, at most: also where the bot says it, below its author's name.

    The name itself is not counted, but what is set apart because of it.
    """
    length = len(markup.render(text, codes=_LONGEST_CODES))
    match text.blocks:
        case (n.Paragraph(children), *rest):
            plain: tuple[n.Block, ...] = (n.Paragraph((*_SOMEBODY, n.Text(" "), *children)), *rest)
        case blocks:
            plain = (n.Paragraph(_SOMEBODY), *blocks)
    headed = under_heading(_SOMEBODY, text.blocks)
    return length if headed == plain else max(length, len(markup.render(n.RichText(headed), codes=_LONGEST_CODES)))


def with_own_emoji(content: Content, own: Callable[[str], n.CustomEmoji | None]) -> Content:
    """`content` with the server's own emoji, which `own` finds by name, in place of others of that name."""

    def settle(node: n.Inline) -> n.Inline:
        if not isinstance(node, n.CustomEmoji) or node.source.platform is Platform.DISCORD:
            return node
        return own(node.name) or node

    return replace(content, text=map_inline(content.text, settle))


def webhook_text(content: Content) -> str:
    """The text of a message that shows its author's name above it. Raises `Unsupported` for nothing at all."""
    text = _written(_styled(content))
    return _present(text if len(text) <= TEXT_LENGTH else _written(content.text), content)


def webhook_body(content: Content, author: Author) -> dict[str, Any]:
    """What to post through a webhook for `author`. Raises `Unsupported` for nothing at all."""
    body: dict[str, Any] = {
        "content": webhook_text(content),
        "username": username(author),
        "allowed_mentions": allowed_mentions(content),
    }
    if author.avatar is not None and author.avatar.locator.startswith(("https://", "http://")):
        body["avatar_url"] = author.avatar.locator
    return body


def allowed_mentions(content: Content) -> dict[str, Any]:
    """Whom a message may notify: the people it mentions by ID and nobody else, whatever its text looks like.

    It goes into every message: without it, Discord would notify whomever the text names.
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
    """What the bot says for somebody, or in its own name. Raises `Unsupported` for nothing at all."""
    if delivery.author is None:
        return webhook_text(delivery.content)
    text = _written(with_author_name(_styled(delivery.content), delivery.author))
    short = text if len(text) <= TEXT_LENGTH else _written(with_author_name(delivery.content.text, delivery.author))
    return _present(short, delivery.content)


def _styled(content: Content) -> n.RichText:
    """`/me` in italics, as Discord's own clients send it."""
    if content.style != "emote" or not content.text.blocks:
        return content.text
    first, *rest = content.text.blocks
    if not isinstance(first, n.Paragraph):
        return content.text
    return n.RichText((n.Paragraph((n.Emphasis(first.children),)), *rest))


def _written(text: n.RichText) -> str:
    # Half a character (a lone surrogate) and the null character are no text that a request can carry.
    return markup.render(text, codes=_CODES).replace("\0", "").encode("utf-8", "replace").decode()


def _present(text: str, content: Content) -> str:
    if not text.strip() and not content.attachments:
        raise Unsupported("empty")
    return text
