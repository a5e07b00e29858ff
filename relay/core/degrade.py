"""What a channel cannot carry becomes what it can, or is dropped by name. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from relay.core.ports import Quotation
from relay.core.split import Measure, split
from relay.domain.capabilities import Capabilities
from relay.domain.content import Attachment, Author, Content
from relay.domain.pair import PairPolicy
from relay.domain.richtext import (
    Block,
    BroadcastMention,
    Emphasis,
    Inline,
    LineBreak,
    Link,
    Paragraph,
    Quote,
    RichText,
    Text,
    plain_text,
)
from relay.domain.transform import map_inline

_EXCERPT_LENGTH = 120
_SEPARATOR = 8
"""What may stand between two blocks as rendered, generously."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Nothing of a message can cross. `feature` is one word for the counter, `reason` a sentence for its author."""

    feature: str
    reason: str


def degrade(
    content: Content,
    *,
    author: Author,
    capabilities: Capabilities,
    policy: PairPolicy,
    measure: Measure,
    quotation: Quotation | None = None,
) -> tuple[Content, ...] | Dropped:
    """The messages, one or several in a row, that carry `content` to a channel of these capabilities.

    The same arguments give the same parts, so that a delivery that broke off can be taken up at the part it broke
    off at. `quotation` is what a reply answers, for channels without native replies.
    """
    text = content.text
    if not (author.may_broadcast and policy.allow_broadcast):
        text = map_inline(text, _harmless)
    carried, left_behind = _attachments(content.attachments, capabilities)
    blocks = (*text.blocks, *(_describe(attachment) for attachment in left_behind))
    if not blocks and not carried:
        return Dropped("empty", "there was nothing in it that can cross")
    above = () if quotation is None else (quoted_line(quotation),)
    # The quoted line never stands alone: every part leaves room for it, and the first one has it.
    room = capabilities.max_text_length - (measure(RichText(above)) + _SEPARATOR if above else 0)
    first, *rest = split(RichText(blocks), limit=room, measure=measure)
    contents = [Content(part, style=content.style) for part in (RichText((*above, *first.blocks)), *rest)]
    contents[-1] = replace(contents[-1], attachments=carried)
    return tuple(contents)


def _harmless(node: Inline) -> Inline:
    return Text(f"@{node.scope}") if isinstance(node, BroadcastMention) else node


def _attachments(
    attachments: Iterable[Attachment], capabilities: Capabilities
) -> tuple[tuple[Attachment, ...], tuple[Attachment, ...]]:
    carried: list[Attachment] = []
    left_behind: list[Attachment] = []
    for attachment in attachments:
        fits = attachment.size is not None and attachment.size <= capabilities.max_file_size
        (carried if fits and len(carried) < capabilities.max_attachments else left_behind).append(attachment)
    return tuple(carried), tuple(left_behind)


def _describe(attachment: Attachment) -> Paragraph:
    size = "" if attachment.size is None else f" ({human_size(attachment.size)})"
    words: list[Inline] = [Emphasis((Text(f"{attachment.kind}: "),)), Text(f"{attachment.name}{size}")]
    if attachment.alt:
        words += [LineBreak(), Text(attachment.alt)]
    return Paragraph(tuple(words))


def human_size(size: int) -> str:
    """`size` in bytes as people read it: `1.5 MB`."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def quoted_line(quotation: Quotation) -> Quote:
    """What stands above a reply: whom it answers, with a link where there is one, and how that began."""
    words = Text(f"↪ {quotation.author}")
    link: Inline = Link(quotation.url, (words,), preview=False) if quotation.url else words
    excerpt = _excerpt(quotation.text.blocks)
    return Quote((Paragraph((link, Text(f": {excerpt}")) if excerpt else (link,)),))


def _excerpt(blocks: tuple[Block, ...]) -> str:
    """The first line that is the author's own, shortened; spoilers stay hidden, quoted lines are somebody else's."""
    own = (block for block in blocks if not isinstance(block, Quote))
    words = next(filter(None, (" ".join(plain_text(RichText((block,))).split()) for block in own)), "")
    return words if len(words) <= _EXCERPT_LENGTH else words[:_EXCERPT_LENGTH].rstrip() + "…"
