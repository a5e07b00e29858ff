"""From a plan to what is sent: the parts that a channel can carry, the same ones at each try. Pure."""

import hashlib
import sys
from dataclasses import replace

from relay.core.author_names import distinct_from_relay, in_template
from relay.core.convert.degrade import Dropped, all_in_words, degrade, in_words
from relay.core.convert.split import Measure, first_part, split
from relay.core.delivery.digests import content_of, edited, speaker
from relay.core.delivery.plan import Edit, Send, Target
from relay.core.ports import Delivery
from relay.domain.commands import Digest, EditMessage, SendMessage
from relay.domain.content import Author, Content
from relay.domain.ids import MessageRef
from relay.domain.text import nodes as n
from relay.errors import FileRejected

Parts = tuple[Content, ...]


def parts(plan: Send | Edit) -> Parts | Dropped:
    """What a message says in its channel, as the messages in a row that it takes there."""
    target, command = plan.target, plan.command
    if command.parts:
        return _planned(target, command)
    if isinstance(plan, Edit) and (digest := target.require_digest()) is not None:
        return _parts_in(digest, plan)
    return degrade(
        plan.content,
        author=command.author,
        capabilities=target.capabilities,
        policy=target.pair.policy,
        measure=_measure(target, command.author),
        quotation=plan.quotation,
        as_file=True,
    )


def without_file(plan: Send | Edit, parts: Parts, number: int, error: FileRejected) -> Parts:
    """The parts, with words for the file that part `number` cannot bring."""
    said = in_words(parts[number], error.attachment, error.reason, gone=error.gone)
    limit, measure = plan.target.capabilities.max_text_length, _measure(plan.target, plan.command.author)
    return (*parts[:number], *_cut_again(said, limit, measure), *parts[number + 1 :])


def delivery(
    target: Target,
    author: Author | None,
    content: Content,
    verb: str,
    *,
    part: int = 0,
    suspect: bool = False,
    instead_of: MessageRef | None = None,
) -> Delivery:
    """One message to a target. `verb`: one letter for what is done with it. `instead_of`: the copy that it replaces."""
    return Delivery(
        channel=target.channel,
        key=key(target, part, verb, instead_of),
        author=None if author is None else _named(target, author),
        bare_name="" if author is None else author.name,
        content=content,
        reply_to=target.reply_to if part == 0 else None,
        replied_author=target.replied_author if part == 0 else None,
        part=part,
        suspect=suspect,
        after=target.last_copy if suspect else None,
        on_record=target.is_on_record,
        alone=target.alone,
        queued_at=target.entry.queued_at,
        last_try=target.entry.last_try,
        restored_since=target.restored_since if suspect else None,
    )


def _named(target: Target, author: Author) -> Author:
    """The author as readers see them."""
    template = target.pair.policy.name_template(target.channel.platform)
    return distinct_from_relay(in_template(author, template), target.own_names)


def key(target: Target, part: int, verb: str, copy: MessageRef | None = None) -> str:
    """The idempotency key of one call: about `copy`, where that is deleted or replaced."""
    # The verb is part of the key because a homeserver's transaction IDs ignore what is being done: a redaction
    # under the ID of a message does nothing. The store's ID tells our rows from those of a new store, the
    # second (of twelve days) those of a store that was restored from a backup from those that it has forgotten.
    entry = target.entry
    second = int(entry.queued_at.timestamp()) & 0xFFFFF
    found = f"{entry.id:x}{second:05x}.{part}"
    if copy is not None:
        # What one entry has posted anew it may have to post anew once more. Hashed: a key has to be short.
        found = hashlib.blake2b(f"{found} {copy.id}".encode(), digest_size=8).hexdigest()
    return f"{target.store_id}{found}{verb}"


def _planned(target: Target, command: SendMessage | EditMessage) -> Parts:
    """The parts as they were planned; those that are still to be sent cut again if the channel takes less now."""
    limit, measure = target.capabilities.max_text_length, _measure(target, command.author)
    sent, left = command.parts[: len(target.copies)], command.parts[len(target.copies) :]
    if not target.capabilities.max_attachments:
        left = tuple(all_in_words(part) for part in left)
    return (*sent, *(new for part in left for new in _cut_again(part, limit, measure)))


def _parts_in(digest: Digest, plan: Edit) -> Parts | Dropped:
    """The new words of one message of a digest: as much as has room there, and the rest by itself."""
    target, command = plan.target, plan.command
    measure, limit = _measure(target, command.author), target.capabilities.max_text_length
    whole = degrade(
        plan.content,
        author=command.author,
        capabilities=replace(target.capabilities, max_text_length=sys.maxsize, max_attachments=0),
        policy=target.pair.policy,
        measure=measure,
    )
    if isinstance(whole, Dropped):
        return whole

    def among_others(text: n.RichText) -> int:
        changed = edited(digest, command.source, replace(whole[0], text=text))
        return target.adapter.measure(content_of(changed).text, speaker(changed))

    head, rest = first_part(whole[0].text, limit=limit, measure=among_others)
    tail = split(rest, limit=limit, measure=measure)
    return (
        replace(whole[0], text=head),
        *(Content(part, style=plan.content.style, silent=plan.content.silent) for part in tail if part),
    )


def _cut_again(part: Content, limit: int, measure: Measure) -> Parts:
    """A part whose text has become too long, as several: its files stay with the first."""
    first, *rest = split(part.text, limit=limit, measure=measure)
    return (replace(part, text=first), *(replace(part, text=text, attachments=()) for text in rest))


def _measure(target: Target, author: Author) -> Measure:
    return lambda text: target.adapter.measure(text, author)
