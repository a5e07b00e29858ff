"""The life of one message, from what is on record of it: received, sent, copied where, why not, edited, deleted.

Of what somebody wrote who has opted out nothing is on record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from relay.core.pairs import PairDirectory
from relay.core.storage import CopyTrace, EntryTrace, LeftOut, MessageTrace, Store, UnitOfWork, Unreadable
from relay.domain.commands import (
    Command,
    DeleteMessage,
    Digest,
    EditMessage,
    LateFile,
    MarkAnswered,
    MarkFailed,
    RefreshMessage,
    RemoveOriginal,
    RequoteMessage,
    SendMessage,
)
from relay.domain.ids import ChannelRef, MessageRef, UserRef
from relay.domain.jsontext import Json
from relay.domain.text.nodes import plain_text

_LAST = datetime.max.replace(tzinfo=UTC)

# Why a message was left out on arrival, by `Feature`.
_REASONS = {
    "thread": 'it is in a thread, and the pair has thread_messages = "drop"',
    "system": "the pair's system_messages leaves out such messages",
    "paused": "the pair was paused",
}


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to a message, or is to happen."""

    # None: now, or nobody knows when.
    at: datetime | None
    # Follows "It": "was sent".
    what: str
    # The copy that this made, or that it is about.
    copy: MessageRef | None = None
    # The first steps come first and the last ones last, whatever their time: the writing has that of another clock, and
    # what waits is as it is now.
    rank: int = 0

    def as_json(self) -> Json:
        """For `relay explain --json`."""
        return {
            "at": None if self.at is None else self.at.isoformat(timespec="milliseconds"),
            "what": self.what,
            "copy": None if self.copy is None else _ref_as_json(self.copy),
        }


@dataclass(frozen=True, slots=True)
class Life:
    """All that is on record of one message."""

    message: MessageRef
    # One sentence: what has become of it.
    summary: str
    # Nothing is wrong with it.
    well: bool
    author: UserRef | None = None
    # What the operator calls the pair of its channel; None while none is declared.
    pair: str | None = None
    # In the order in which they happened.
    steps: tuple[Step, ...] = ()
    # What it says, as far as that is stored: only until it is delivered.
    text: str | None = field(default=None, repr=False)

    def as_json(self, *, with_text: bool) -> Json:
        """For `relay explain --json`."""
        text = {"text": self.text} if with_text else {}
        return {
            "message": _ref_as_json(self.message),
            "author": None if self.author is None else self.author.id,
            "pair": self.pair,
            "well": self.well,
            "summary": self.summary,
            "steps": [step.as_json() for step in self.steps],
            **text,
        }


def _ref_as_json(ref: MessageRef) -> Json:
    return {"platform": str(ref.platform), "channel": ref.channel.id, "id": ref.id}


async def lives_of(store: Store, pairs: PairDirectory, native_id: str, problems: Mapping[str, str]) -> Sequence[Life]:
    """The messages of which this is the ID, or that of a copy or of an edit. Raises `StoreUnavailable`.

    `problems`: why a pair does not work now, by its name.
    """
    async with store.read() as uow:
        pairs.remember(await uow.channels.known())
        messages = await uow.traces.messages(native_id)
        found = [(trace, await _entries(uow, pairs, trace.original.ref)) for trace in messages]
        others = [] if messages else await uow.traces.entries(native_id)
        left_out = await uow.traces.left_out(native_id)
    lives = [_life(trace, entries, pairs, problems) for trace, entries in found]
    return [*lives, *_without_row(others, pairs, problems), *(_left_out(one, pairs) for one in left_out)]


async def _entries(uow: UnitOfWork, pairs: PairDirectory, ref: MessageRef) -> Sequence[EntryTrace]:
    """What is left to do about a message. Of a room that was replaced, it waits in the lanes of the new one."""
    is_declared = pairs.pair_of(ref.channel) is not None
    return await uow.traces.entries(ref.id, ref.channel if is_declared else None)


def _life(
    trace: MessageTrace, entries: Sequence[EntryTrace], pairs: PairDirectory, problems: Mapping[str, str]
) -> Life:
    original = trace.original
    entries = [entry for entry in entries if _is_about(entry, original.ref)]
    pair = pairs.pair_of(original.ref.channel)
    name = None if pair is None else pair.name
    problem = problems.get(name or "", "")
    steps = [*_of_message(trace), *_of_copies(trace), *(_of_entry(entry, problem) for entry in entries)]
    summary, well = _summary(trace, entries, problem)
    return Life(
        message=original.ref,
        summary=summary,
        well=well,
        author=original.author if original.author.id else None,
        pair=name,
        steps=_in_order(steps),
        text=_text(entries),
    )


def _without_row(entries: Sequence[EntryTrace], pairs: PairDirectory, problems: Mapping[str, str]) -> Sequence[Life]:
    """What is in the outbox about messages that are not in the map: it forgot them, or never knew them."""
    lives = []
    for source in dict.fromkeys(source for entry in entries for source in _sources(entry)):
        about = [entry for entry in entries if _is_about(entry, source)]
        pair = pairs.pair_of(source.channel)
        steps = [_of_entry(entry, problems.get(pair.name, "") if pair else "") for entry in about]
        lives.append(
            Life(
                message=source,
                summary="The message itself is not on record any more, but something is left to do about it.",
                well=False,
                pair=None if pair is None else pair.name,
                steps=_in_order(steps),
                text=_text(about),
            )
        )
    return lives


def _left_out(trace: LeftOut, pairs: PairDirectory) -> Life:
    pair = pairs.pair_of(trace.ref.channel)
    why = _REASONS.get(trace.feature, f"it is left out as “{trace.feature}”")
    return Life(
        message=trace.ref,
        summary=f"It did not cross: {why}.",
        well=True,
        pair=None if pair is None else pair.name,
        steps=(Step(trace.at, f"was received and left out ({trace.feature})"),),
    )


def _in_order(steps: Sequence[Step]) -> tuple[Step, ...]:
    return tuple(sorted(steps, key=lambda step: (step.rank, step.at or _LAST)))


def _summary(trace: MessageTrace, entries: Sequence[EntryTrace], problem: str) -> tuple[str, bool]:
    """What has become of it, and whether that is well."""
    standing = [copy for copy in trace.copies if not copy.copy.superseded]
    kinds = {type(entry.entry.command) for entry in entries if entry.ahead is not None}
    if any(entry.ahead is None for entry in entries):
        return "Something about it failed for good, and is kept as a dead letter.", False
    if trace.original.left_out and trace.left_out_why and not trace.copies:
        # What a moderator or a pause kept back is marked as deleted, too: nobody has deleted it.
        return f"It did not cross: {trace.left_out_why}.", True
    if trace.original.deleted:
        if trace.copies or DeleteMessage in kinds:
            return "It was deleted, and its copies are to be deleted.", not problem
        return "It was deleted, and no copy is left.", True
    if kinds & {SendMessage, Digest, Unreadable}:
        part = "Only a part of it has crossed yet: the rest waits." if standing else "It has not crossed yet: it waits."
        return part, not problem
    if standing:
        return ("It has crossed; something about it still waits." if kinds else "It has crossed."), True
    if trace.original.left_out:
        return f"It did not cross: {trace.left_out_why or 'there was nothing in it that can cross'}.", True
    return "It has no copy: that was deleted, or what was to be sent was discarded.", False


def _of_message(trace: MessageTrace) -> list[Step]:
    original = trace.original
    reply = f", in reply to {original.reply_to.id}" if original.reply_to is not None else ""
    steps = [Step(original.created_at, f"was written on {original.ref.platform.title()}{reply}", rank=-1)]
    if trace.received_at is not None:
        what = "was received and left out" if original.left_out else "was received and queued"
        why = f": {trace.left_out_why}" if original.left_out and trace.left_out_why else ""
        steps.append(Step(trace.received_at, f"{what}{why}"))
    if original.edited_at is not None:
        steps.append(Step(original.edited_at, "was edited (the last time)"))
    if original.deleted and not (original.left_out and trace.left_out_why):
        steps.append(Step(trace.deleted_at, "was deleted"))
    return steps


def _of_copies(trace: MessageTrace) -> list[Step]:
    standing = [copy for copy in trace.copies if not copy.copy.superseded]
    parts: dict[ChannelRef, int] = {}
    for one in standing:
        parts[one.copy.ref.channel] = parts.get(one.copy.ref.channel, 0) + 1
    return [_of_copy(copy, parts.get(copy.copy.ref.channel, 1)) for copy in trace.copies]


def _of_copy(trace: CopyTrace, parts: int) -> Step:
    copy = trace.copy
    platform = copy.ref.platform.title()
    part = f" (part {copy.part + 1} of {parts})" if parts > 1 else ""
    if copy.superseded:
        return Step(trace.sent_at, f"has an old copy on {platform} that is to be deleted", copy.ref)
    tries = f" after {trace.retries + 1} tries" if trace.retries else ""
    return Step(trace.sent_at, f"was sent to {platform}{part}{tries}", copy.ref)


def _of_entry(trace: EntryTrace, problem: str) -> Step:
    entry = trace.entry
    waits, failed = _action(entry.command)
    if trace.ahead is None:
        reason = trace.reason.rstrip(".")
        return Step(trace.died_at, f"{failed}: {reason} (`relay dead retry {entry.id}` tries again)")
    others = "one other" if trace.ahead == 1 else f"{trace.ahead} others"
    ahead = f"behind {others}" if trace.ahead else "as the next one"
    why = f". {problem}" if problem else ""
    return Step(entry.queued_at, f"has waited since then {waits}, {ahead}{why}", rank=1)


def _action(command: Command | Unreadable) -> tuple[str, str]:
    """What is to be done, behind "has waited", and that it failed for good."""
    match command:
        case SendMessage() | Digest():
            return "to be sent", "could not be sent"
        case EditMessage() | RefreshMessage() | RequoteMessage():
            return "for its copies to be edited", "could not have its copies edited"
        case DeleteMessage():
            return "for its copies to be deleted", "could not have its copies deleted"
        case RemoveOriginal():
            return "to be removed, because a moderator removed its copy", "could not be removed"
        case MarkFailed():
            return "for its author to be told that it did not cross", "could not have its author told"
        case MarkAnswered():
            return "for its author to be shown what came of it", "could not have its author shown what came of it"
        case LateFile():
            return "for its file to follow", "could not have its file follow"
        case _:
            return "for something that cannot be read", "has something to do that cannot be read"


def _sources(trace: EntryTrace) -> Sequence[MessageRef]:
    command = trace.entry.command
    if isinstance(command, Digest):
        return tuple(item.source for item in command.items)
    source = getattr(command, "source", None)
    return (source,) if isinstance(source, MessageRef) else ()


def _is_about(trace: EntryTrace, ref: MessageRef) -> bool:
    return ref in _sources(trace)


def _text(entries: Sequence[EntryTrace]) -> str | None:
    for trace in entries:
        command = trace.entry.command
        if isinstance(command, SendMessage | EditMessage):
            return plain_text(command.content.text)
    return None
