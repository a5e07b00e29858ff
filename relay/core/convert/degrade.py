"""Turns what a channel cannot carry into what it can, or drops it by name. Pure."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from relay.core.convert.split import Measure, beginning, first_part, is_surely_short, split
from relay.domain.content import Attachment, Author, Capabilities, Content, Quotation, with_most_files
from relay.domain.events import Feature
from relay.domain.ids import MediaRef
from relay.domain.names import REPLY_ARROW, shortened, unlinked, without_controls
from relay.domain.pair import PairPolicy
from relay.domain.text import nodes as n
from relay.domain.text.normalise import normalise
from relay.domain.text.rewrite import map_blocks, map_inline, walk, weight

_EXCERPT_LENGTH = 120
_FIRST_LINES = 500
"""How much of a text is shown above it if it crosses as a file, in its platform's unit."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Nothing of a message can cross."""

    # What it is counted as.
    feature: Feature
    # For the author: follows "did not cross: ".
    reason: str


def degrade(
    content: Content,
    *,
    author: Author,
    capabilities: Capabilities,
    policy: PairPolicy,
    measure: Measure,
    quotation: Quotation | None = None,
    as_file: bool = False,
) -> tuple[Content, ...] | Dropped:
    """The messages, one or several in a row, that carry `content` to a channel of these capabilities.

    The same arguments give the same parts, so that a delivery that was interrupted can go on at the next part.
    `quotation` is what a reply quotes, for channels without native replies. `as_file`: a text that takes more than
    `policy.max_parts` messages crosses as a file with its first lines above.
    """
    content = with_most_files(content)
    text = _cleaned(content.text)
    if not (author.may_broadcast and policy.allow_broadcast):
        text = map_inline(text, _harmless)
    carried, left_behind = _attachments(map(_clean_file, content.attachments), capabilities)
    blocks = (*text.blocks, *(_describe(attachment) for attachment in left_behind))
    if not blocks and not carried:
        return Dropped("empty", "there was nothing in it that can cross")
    above = () if quotation is None else (quoted_line(quotation, call=content.calls_answered),)
    # Every part leaves room for the quoted line and the first one has it, so that it is never a message of its own.
    room = capabilities.max_text_length

    def below_quotation(part: n.RichText) -> int:
        """The length of a part below the quoted line: together they may take more than one by one."""
        return measure(n.RichText((*above, *part.blocks)) if above else part)

    as_file = as_file and capabilities.max_attachments > 0
    whole = n.RichText(blocks)
    rest: list[n.RichText] = []
    written_out = False
    if not above and is_surely_short(whole, room):
        first = whole
    elif written_out := as_file and _is_far_too_long(whole, policy.max_parts * room):
        first = beginning(whole, _FIRST_LINES)
    else:
        first, *rest = split(
            whole, limit=room, measure=below_quotation, max_parts=policy.max_parts + 1 if as_file else None
        )
        written_out = as_file and len(rest) >= policy.max_parts
    if written_out:
        begin, _ = first_part(first, limit=min(room, _FIRST_LINES), measure=measure)
        first, rest = n.RichText((*begin.blocks, n.Paragraph((n.Text("…"),)))), []
        carried = (_written_out(blocks, author), *carried)
    # Files come before the rest of a long text: so an edit adds or removes messages only at the end.
    together, *alone = _grouped(carried, capabilities) or [()]
    return (
        Content(
            n.RichText((*above, *first.blocks)), together, content.style, content.calls_answered, silent=content.silent
        ),
        *(Content(n.RichText(), group, style=content.style, silent=content.silent) for group in alone),
        *(Content(part, style=content.style, silent=content.silent) for part in rest),
    )


def _is_far_too_long(text: n.RichText, limit: int) -> bool:
    """Whether the words alone exceed all parts together: that is seen without rendering."""
    return weight(text) > limit and len(n.plain_text(text)) > limit


def _written_out(blocks: tuple[n.Block, ...], author: Author) -> Attachment:
    """A whole text as a file, which we make ourselves."""
    nowhere = MediaRef(author.user.platform, "")
    # Half a surrogate pair is possible in JSON, but not in UTF-8.
    data = n.plain_text(n.RichText(blocks)).encode("utf-8", "replace")
    words = data.decode()
    # After an edit it is another file.
    name = f"text-{hashlib.sha256(data).hexdigest()[:16]}"
    return Attachment(name, "message.txt", "file", nowhere, "text/plain; charset=utf-8", size=len(data), text=words)


def in_words(content: Content, attachment_id: str, reason: str, *, gone: bool) -> Content:
    """`content` with one file described in words instead, because it turned out that the file cannot cross."""
    left = [attachment for attachment in content.attachments if attachment.id == attachment_id]
    words = (_describe(replace(attachment, url="", page="") if gone else attachment, reason) for attachment in left)
    kept = tuple(attachment for attachment in content.attachments if attachment.id != attachment_id)
    return replace(content, text=n.RichText((*content.text.blocks, *words)), attachments=kept)


def all_in_words(content: Content) -> Content:
    """`content` with every file described in words instead, for a channel that takes no files (any more)."""
    words = map(_describe, content.attachments)
    return replace(content, text=n.RichText((*content.text.blocks, *words)), attachments=())


def without_media(content: Content, page: str) -> Content:
    """`content` without anything to be seen or heard: files are named, and open only at `page`, the message itself.

    Pictures within the text become their names, and links ask for no preview. What we made of words ourselves stays.
    """
    kept = tuple(file for file in content.attachments if file.text)
    words = [_describe(replace(file, url="", page=page)) for file in content.attachments if not file.text]
    text = map_inline(content.text, _unseen)
    return replace(content, text=normalise(n.RichText((*text.blocks, *words))), attachments=kept)


def media_in(content: Content) -> int:
    """How many files and pictures `without_media` makes words of."""
    pictures = sum(isinstance(node, n.CustomEmoji | n.InlineImage) for node in walk(content.text.blocks))
    return _attached(content) + pictures


def files_in(parts: Iterable[Content]) -> int:
    """How many files people have sent with these messages, also those of which there were too many."""
    return sum(_attached(part) + part.left_out for part in parts)


def _attached(content: Content) -> int:
    return sum(not file.text for file in content.attachments)


def _unseen(node: n.Inline) -> n.Inline:
    match node:
        case n.CustomEmoji(name):
            return n.Text(f":{name}:")
        case n.InlineImage(alt):
            return n.Text(alt)
        case n.Link():
            return replace(node, preview=False)
        case _:
            return node


def _cleaned(text: n.RichText) -> n.RichText:
    """`text` without control characters."""
    found = map_blocks(map_inline(text, _clean), _clean_block)
    return found if found == text else normalise(found)


def _clean(node: n.Inline) -> n.Inline:
    match node:
        case n.Text(words) | n.Code(words):
            return node if (clean := without_controls(words)) == words else replace(node, text=clean)
        case n.UserMention(name=name) | n.RoleMention(name) | n.ChannelMention(name=name) | n.CustomEmoji(name):
            return node if (clean := without_controls(name)) == name else replace(node, name=clean)
        case n.InlineImage(alt):
            return replace(node, alt=without_controls(alt))
        case n.Math(tex):
            return replace(node, tex=without_controls(tex))
        case n.Spoiler(reason=reason) if reason:
            return replace(node, reason=without_controls(reason))
        case _:
            return node


def _clean_block(block: n.Block) -> tuple[n.Block, ...]:
    if isinstance(block, n.CodeBlock):
        return (replace(block, text=without_controls(block.text), language=without_controls(block.language)),)
    return (block,)


def _clean_file(attachment: Attachment) -> Attachment:
    name, alt = without_controls(attachment.name), without_controls(attachment.alt)
    same = (name, alt) == (attachment.name, attachment.alt)
    return attachment if same else replace(attachment, name=name, alt=alt)


def _harmless(node: n.Inline) -> n.Inline:
    return n.Text(node.written or f"@{node.scope}") if isinstance(node, n.BroadcastMention) else node


def _attachments(
    attachments: Iterable[Attachment], capabilities: Capabilities
) -> tuple[tuple[Attachment, ...], tuple[Attachment, ...]]:
    carried: list[Attachment] = []
    left_behind: list[Attachment] = []
    for attachment in attachments:
        # If the size is not known, it shows on the way.
        fits = attachment.size is None or attachment.size <= capabilities.max_file_size
        (carried if fits and capabilities.max_attachments else left_behind).append(attachment)
    return tuple(carried), tuple(left_behind)


def _grouped(attachments: Iterable[Attachment], capabilities: Capabilities) -> list[tuple[Attachment, ...]]:
    """The files in groups, one for each message, in their order."""
    groups: list[tuple[Attachment, ...]] = []
    room = 0
    for attachment in attachments:
        size = capabilities.max_file_size if attachment.size is None else attachment.size
        if groups and len(groups[-1]) < capabilities.max_attachments and size <= room:
            groups[-1] = (*groups[-1], attachment)
            room -= size
        else:
            groups.append((attachment,))
            room = capabilities.max_request_size - size
    return groups


def _describe(attachment: Attachment, reason: str = "") -> n.Paragraph:
    name: n.Inline = n.Text(attachment.name)
    if attachment.url:
        name = n.Link(attachment.url, (name,), preview=False)
    if attachment.spoiler:
        name = n.Spoiler((name,))
    notes = ", ".join(filter(None, ("" if attachment.size is None else human_size(attachment.size), reason)))
    words: list[n.Inline] = [n.Emphasis((n.Text(f"{attachment.kind}: "),)), name]
    if notes:
        words.append(n.Text(f" ({notes})"))
    if attachment.page:
        words += [n.Text(" · "), n.Link(attachment.page, (n.Text("message"),), preview=False)]
    if attachment.alt:
        alt = n.Text(attachment.alt)
        words += [n.LineBreak(), n.Spoiler((alt,)) if attachment.spoiler else alt]
    return n.Paragraph(tuple(words))


def human_size(size: int) -> str:
    """`size` bytes as people write it: `1.5 MB`."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def quoted_line(quotation: Quotation, *, call: bool = False) -> n.Quote:
    """What is shown above a reply: the author that it replies to, with a link if there is one, and how the text begins.

    `call`: that author is to be notified, if possible.
    """
    called = quotation.user if call else None
    author = unlinked(shortened(quotation.author))
    # A mention inside a link notifies nobody.
    words = n.Text(REPLY_ARROW if called else f"{REPLY_ARROW} {author}")
    link: n.Inline = n.Link(quotation.url, (words,), preview=False) if quotation.url else words
    whom: tuple[n.Inline, ...] = (n.Text(" "), n.UserMention(called, author)) if called else ()
    excerpt = without_controls(_excerpt(quotation.text.blocks))
    return n.Quote((n.Paragraph((link, *whom, *((n.Text(f": {excerpt}"),) if excerpt else ()))),))


def _excerpt(blocks: tuple[n.Block, ...]) -> str:
    """The author's first own line, shortened. Spoilers stay hidden; quotes are left out: somebody else wrote them."""
    own = (block for block in blocks if not isinstance(block, n.Quote))
    words = next(filter(None, (" ".join(n.plain_text(n.RichText((block,))).split()) for block in own)), "")
    return words if len(words) <= _EXCERPT_LENGTH else words[:_EXCERPT_LENGTH].rstrip() + "…"
