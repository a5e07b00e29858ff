"""The text of a delivery in Discord's markdown, as a webhook or the bot itself says it. Pure."""

from relay.adapters.discord import markup
from relay.adapters.discord.identity import introduced
from relay.core.ports import Delivery
from relay.domain.content import Content
from relay.domain.richtext import Emphasis, Paragraph, RichText
from relay.errors import Unsupported

# Code points, as Discord counts: https://github.com/discord/discord-api-docs/issues/1315
TEXT_LENGTH = 2_000


def measure(text: RichText) -> int:
    """The length of `text` as Discord counts it."""
    return len(_written(text))


def said_by_webhook(content: Content) -> str:
    """The text of a message that shows its author's name above it. Raises `Unsupported` for no text."""
    text = _written(_styled(content))
    return _present(text if len(text) <= TEXT_LENGTH else _written(content.text))


def said_by_bot(delivery: Delivery) -> str:
    """What the bot says for somebody, or in its own name. Raises `Unsupported` for no text."""
    if delivery.author is None:
        return said_by_webhook(delivery.content)
    text = _written(introduced(_styled(delivery.content), delivery.author))
    return _present(text if len(text) <= TEXT_LENGTH else _written(introduced(delivery.content.text, delivery.author)))


def _styled(content: Content) -> RichText:
    """`/me` in italics, as Discord's own clients send it."""
    if content.style != "emote" or not content.text.blocks:
        return content.text
    first, *rest = content.text.blocks
    if not isinstance(first, Paragraph):
        return content.text
    return RichText((Paragraph((Emphasis(first.children),)), *rest))


def _written(text: RichText) -> str:
    return markup.render(text, look=markup.Look())


def _present(text: str) -> str:
    if not text.strip():
        raise Unsupported("empty")
    return text
