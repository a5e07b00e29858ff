"""Several waiting messages, or notices, as one: which may share a copy, and what that copy says. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from relay.core.convert.degrade import Dropped, degrade, quoted_line
from relay.core.convert.headings import under_heading
from relay.core.delivery.plan import Merge, Target
from relay.core.offload import LONG
from relay.core.storage import Entry, Unreadable
from relay.domain.commands import (
    DeleteMessage,
    Digest,
    DigestItem,
    EditMessage,
    MarkFailed,
    PostNotice,
    SendMessage,
)
from relay.domain.content import Author, Content, Quotation
from relay.domain.ids import MessageRef
from relay.domain.names import bracketed, shortened, unlinked
from relay.domain.text import nodes as n
from relay.domain.text.rewrite import weight

_FILLED = 0.5
"""How much of a copy a new digest may fill: edits need room to grow."""

_NAMED = 3
"""How many authors a shared copy names above it; the others stand in it."""

_LONGEST_OF_SEVERAL = 22
"""Characters of each, so that the last one still has room."""

MOST_NOTICES = 500
"""Entries that are looked through for some that say the same."""

_FEW_MARKS = 4
"""Fewer marks are made one by one: whoever wrote the message sees it at the message."""

_MOST_REASONS = 3


@dataclass(frozen=True, slots=True)
class Run:
    """What of a lane's head can cross together: its messages by source, and every entry that this settles."""

    messages: tuple[SendMessage, ...]
    settled: tuple[int, ...]


def run_of(entries: Sequence[Entry]) -> Run:
    """The longest run of waiting messages from the head on.

    Edits and deletions of a message in the run are carried out in it. Files break the run: they cross by themselves.
    So does a message that was cut into parts: some of them may stand already. What is silent stays with its like.
    """
    found: dict[MessageRef, SendMessage] = {}
    settled: list[int] = []
    silent: bool | None = None
    for entry in entries:
        match entry.command:
            case SendMessage(source, _, content) as command if (
                not content.attachments and not command.parts and silent in {None, content.silent}
            ):
                found[source], silent = command, content.silent
            case EditMessage(source, _, content) if source in found and not content.attachments:
                found[source] = replace(found[source], content=content)
            case DeleteMessage(source) if source in found:
                del found[source]
            case _:
                break
        settled.append(entry.id)
    return Run(tuple(found.values()), tuple(settled))


def quotation_within(messages: Sequence[SendMessage], target: MessageRef) -> Quotation | None:
    """What a reply quotes when its target crosses in the same digest, and has no link yet."""
    quoted = next((message for message in messages if message.source == target), None)
    return None if quoted is None else Quotation(quoted.author.name, quoted.content.text, "")


def item_of(message: SendMessage, content: Content, quotation: Quotation | None) -> DigestItem:
    """One message of a digest; `content` is what the channel can carry of it."""
    call = content.calls_answered
    above = n.RichText() if quotation is None else n.RichText((quoted_line(quotation, call=call),))
    return DigestItem(message.source, message.author, content, message.created_at, above)


def speaker(digest: Digest) -> Author:
    """Under whose name a shared copy stands: its only author's, or all their names."""
    if digest.under is not None:
        return digest.under
    authors = {item.author.user: item.author for item in digest.items}
    first, *others = authors.values()
    if not others:
        return first
    names = [shortened(author.name, max_length=_LONGEST_OF_SEVERAL) for author in authors.values()]
    more = len(names) - _NAMED
    joined = ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    is_bot = all(author.is_bot for author in authors.values())
    return Author(first.user, bracketed(joined), is_bot=is_bot, is_group=True)


def content_of(digest: Digest) -> Content:
    """What a shared copy says: the messages one after the other, each with its author where there are several."""
    signed = digest.under is not None or _several(digest)
    blocks: list[n.Block] = []
    for item in digest.items:
        blocks += item.above.blocks
        blocks += _signed(item) if signed or item.content.style == "emote" else item.content.text.blocks
    return Content(n.RichText(tuple(blocks)), silent=all(item.content.silent for item in digest.items))


def without(digest: Digest, source: MessageRef) -> Digest:
    """The digest after one of its messages was deleted, or left it."""
    items = tuple(item for item in digest.items if item.source != source)
    # All the names stand above it for good, also when only one author is left.
    return Digest(items, speaker(digest) if _several(digest) else digest.under)


def edited(digest: Digest, source: MessageRef, content: Content) -> Digest:
    """The digest after one of its messages was edited."""
    items = (replace(item, content=content) if item.source == source else item for item in digest.items)
    return replace(digest, items=tuple(items))


def requoted(digest: Digest, source: MessageRef, quotation: Quotation) -> Digest:
    """The digest with another quoted line above one of its messages."""

    def above(item: DigestItem) -> n.RichText:
        return n.RichText((quoted_line(quotation, call=item.content.calls_answered),))

    items = (replace(item, above=above(item)) if item.source == source else item for item in digest.items)
    return replace(digest, items=tuple(items))


def short_text(target: Target, author: Author, content: Content) -> Content | None:
    """What the channel can carry of one message; None if that is not one short text."""
    if weight(content) > LONG:
        return None
    parts = degrade(
        content,
        author=author,
        capabilities=target.capabilities,
        policy=target.pair.policy,
        measure=lambda text: target.adapter.measure(text, author),
    )
    return None if isinstance(parts, Dropped) or len(parts) > 1 or parts[0].attachments else parts[0]


def fits(target: Target, digest: Digest) -> bool:
    """Whether a new digest leaves enough room in its copy."""
    room = target.capabilities.max_text_length * _FILLED
    return target.adapter.measure(content_of(digest).text, speaker(digest)) <= room


def _several(digest: Digest) -> bool:
    return len({item.author.user for item in digest.items}) > 1


def _signed(item: DigestItem) -> tuple[n.Block, ...]:
    emote = item.content.style == "emote"
    author = unlinked(item.author.name)
    name = n.Strong((n.Text(f"* {author}" if emote else f"{author}:"),))
    return under_heading((name,), item.content.text.blocks)


# --- Notices ----------------------------------------------------------------------------------------------


def notices_together(entry: Entry, waiting: Sequence[Entry]) -> Merge | None:
    """The entry as one notice for all in `waiting` that say the same; None if it stays as it is.

    One transaction makes it so, like a digest: every try says the same.
    """
    if isinstance(entry.command, Unreadable):
        return None
    alike = [other for other in waiting if _alike(entry, other)]
    few = _FEW_MARKS if isinstance(entry.command, MarkFailed) else 2
    if len(alike) < few or all(other.id != entry.id for other in alike):
        return None
    reasons = Counter(other.command.reason for other in alike if isinstance(other.command, MarkFailed))
    command = PostNotice(_many_failed(reasons)) if reasons else entry.command
    return Merge(entry, command, tuple(other.id for other in alike if other.id != entry.id))


def did_not_cross(failed: MarkFailed) -> n.RichText:
    """What an author is told where their message cannot be marked."""
    return n.RichText.plain(f"This message did not cross: {failed.reason}.")


def _alike(entry: Entry, other: Entry) -> bool:
    """Whether two entries can be one notice: both marks, or notices of the same words outside of threads."""
    if isinstance(entry.command, MarkFailed):
        return isinstance(other.command, MarkFailed)
    return isinstance(entry.command, PostNotice) and entry.command.thread is None and other.command == entry.command


def _many_failed(reasons: Counter[str]) -> n.RichText:
    named = [f"{reason} ({count})" for reason, count in reasons.most_common(_MOST_REASONS)]
    more = "" if len(reasons) <= _MOST_REASONS else "; and for other reasons"
    return n.RichText.plain(f"{reasons.total()} messages here did not cross: {'; '.join(named)}{more}.")
