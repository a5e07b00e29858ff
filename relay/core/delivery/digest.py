"""Several waiting messages as one: which may share a copy, and what that copy says. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from relay.core.convert.degrade import quoted_line
from relay.core.convert.headings import under_heading
from relay.core.storage import Entry
from relay.domain.commands import DeleteMessage, Digest, DigestItem, EditMessage, SendMessage
from relay.domain.content import Author, Content, Quotation
from relay.domain.ids import MessageRef
from relay.domain.names import bracketed, shortened
from relay.domain.text import nodes as n

_NAMED = 3
"""How many authors a shared copy names above it; the others stand in it."""

_LONGEST_OF_SEVERAL = 22
"""Characters of each, so that the last one still has room."""


@dataclass(frozen=True, slots=True)
class Run:
    """What of a lane's head can cross together: its messages by source, and every entry that this settles."""

    messages: tuple[SendMessage, ...]
    settled: tuple[int, ...]


def run_of(entries: Sequence[Entry]) -> Run:
    """The longest run of waiting messages from the head on.

    Edits and deletions of a message in the run are carried out in it. Files break the run: they cross by themselves.
    So does a message that was cut into parts: some of them may stand already.
    """
    found: dict[MessageRef, SendMessage] = {}
    settled: list[int] = []
    for entry in entries:
        match entry.command:
            case SendMessage(source) as command if not command.content.attachments and not command.parts:
                found[source] = command
            case EditMessage(source, _, content) if source in found and not content.attachments:
                found[source] = replace(found[source], content=content)
            case DeleteMessage(source) if source in found:
                del found[source]
            case _:
                break
        settled.append(entry.id)
    return Run(tuple(found.values()), tuple(settled))


def quotation_within(messages: Sequence[SendMessage], target: MessageRef) -> Quotation | None:
    """What a reply quotes when its target crosses in the same batch, and has no link yet."""
    quoted = next((message for message in messages if message.source == target), None)
    return None if quoted is None else Quotation(quoted.author.name, quoted.content.text, "")


def item_of(message: SendMessage, content: Content, quotation: Quotation | None) -> DigestItem:
    """One message of a batch; `content` is what the channel can carry of it."""
    call = message.content.calls_answered
    above = n.RichText() if quotation is None else n.RichText((quoted_line(quotation, call=call),))
    return DigestItem(message.source, message.author, content, message.created_at, above)


def speaker(batch: Digest) -> Author:
    """Under whose name a shared copy stands: its only author's, or all their names."""
    if batch.under is not None:
        return batch.under
    authors = {item.author.user: item.author for item in batch.items}
    first, *others = authors.values()
    if not others:
        return first
    names = [shortened(author.name, most=_LONGEST_OF_SEVERAL) for author in authors.values()]
    more = len(names) - _NAMED
    joined = ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    return Author(first.user, bracketed(joined), is_bot=all(author.is_bot for author in authors.values()))


def content_of(batch: Digest) -> Content:
    """What a shared copy says: the messages one after the other, each with its author where there are several."""
    signed = batch.under is not None or _several(batch)
    blocks: list[n.Block] = []
    for item in batch.items:
        blocks += item.above.blocks
        blocks += _signed(item) if signed or item.content.style == "emote" else item.content.text.blocks
    return Content(n.RichText(tuple(blocks)))


def without(batch: Digest, source: MessageRef) -> Digest:
    """The batch after one of its messages was deleted, or left it."""
    items = tuple(item for item in batch.items if item.source != source)
    # All the names stand above it for good, also when only one author is left.
    return Digest(items, speaker(batch) if _several(batch) else batch.under)


def edited(batch: Digest, source: MessageRef, content: Content) -> Digest:
    """The batch after one of its messages was edited."""
    items = (replace(item, content=content) if item.source == source else item for item in batch.items)
    return replace(batch, items=tuple(items))


def requoted(batch: Digest, source: MessageRef, quotation: Quotation) -> Digest:
    """The batch with another quoted line above one of its messages."""

    def above(item: DigestItem) -> n.RichText:
        return n.RichText((quoted_line(quotation, call=item.content.calls_answered),))

    items = (replace(item, above=above(item)) if item.source == source else item for item in batch.items)
    return replace(batch, items=tuple(items))


def _several(batch: Digest) -> bool:
    return len({item.author.user for item in batch.items}) > 1


def _signed(item: DigestItem) -> tuple[n.Block, ...]:
    emote = item.content.style == "emote"
    name = n.Strong((n.Text(f"* {item.author.name}" if emote else f"{item.author.name}:"),))
    return under_heading((name,), item.content.text.blocks)
