"""Events to commands: which pair an event belongs to, whether it is our own echo or a replay, and what is to be done.

Nothing is delivered here. Events become outbox rows, in one transaction with their cursors; delivery does the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from relay.core.author_names import AuthorNames
from relay.core.pairs import PairDirectory
from relay.core.ports import Clock, EventBatch
from relay.core.status.counters import Status
from relay.core.storage import Entry, Original, Store, UnitOfWork
from relay.domain.commands import (
    Command,
    DeleteMessage,
    EditMessage,
    MarkFailed,
    PostNotice,
    RefreshMessage,
    RemoveOriginal,
    RequoteMessage,
    SendMessage,
)
from relay.domain.events import Event, FeatureUsed, HistorySkipped, MessageCreated, MessageDeleted, MessageEdited
from relay.domain.ids import MessageRef, ThreadRef
from relay.domain.pair import LaneKey, Pair
from relay.domain.text.nodes import RichText

_MOST_REQUOTED = 20
"""Answers that follow when what they quote is changed."""


@dataclass(slots=True)
class _Routed:
    """What a batch came to; counted only once it is on disk, because a batch that is not comes again."""

    entries: list[Entry] = field(default_factory=list)
    dropped: list[tuple[LaneKey, str]] = field(default_factory=list)


class Router:
    """Turns batches of events into commands in the outbox."""

    def __init__(self, *, store: Store, pairs: PairDirectory, status: Status, clock: Clock, names: AuthorNames) -> None:
        self._store = store
        self._pairs = pairs
        self._status = status
        self._clock = clock
        self._names = names

    async def receive(self, batch: EventBatch) -> Sequence[Entry]:
        """Write a batch down; what there is to deliver now. Raises `StoreUnavailable`."""
        routed = _Routed()
        try:
            async with self._store.write() as uow:
                for event in batch.events:
                    await self._route(uow, event, routed)
                for cursor in batch.cursors:
                    await uow.cursors.put(cursor)
        except BaseException:
            self._names.forget()  # who has which name was perhaps not written down
            raise
        for lane, feature in routed.dropped:
            self._status.dropped(lane, feature)
        return routed.entries

    async def _route(self, uow: UnitOfWork, event: Event, routed: _Routed) -> None:
        channel = event.channel if isinstance(event, FeatureUsed | HistorySkipped) else event.ref.channel
        pair = self._pairs.pair_of(channel)
        if pair is None:
            return
        lane = self._pairs.lane_from(channel, pair)
        if lane.destination.platform not in pair.destinations:
            return
        match event:
            case MessageCreated():
                await self._created(uow, event, pair, lane, routed)
            case MessageEdited():
                await self._edited(uow, event, pair, lane, routed)
            case MessageDeleted():
                await self._deleted(uow, event, pair, lane, routed)
            case HistorySkipped(count=count):
                words = f"{count} messages that were written while the relay was away are not shown here."
                if count is None:
                    words = "Messages that were written while the relay was away may be missing here."
                await self._queue(uow, lane, PostNotice(RichText.plain(words)), routed)
            case FeatureUsed(feature=feature, user_is_self=False):
                routed.dropped.append((lane, feature))

    async def _created(
        self, uow: UnitOfWork, event: MessageCreated, pair: Pair, lane: LaneKey, routed: _Routed
    ) -> None:
        if event.author.is_self:
            return
        feature = _left_out(event, pair)
        if feature is not None:
            if not await uow.messages.is_copy(event.ref):
                await self._leave_out(uow, event, feature, lane, routed)
            return
        reply_to = event.reply_to or (await _root(uow, event.thread) if event.thread else None)
        message_id = await uow.messages.add(event.ref, event.author.user, event.created_at, reply_to)
        if message_id is None:
            return
        if event.edited_at is not None:
            await uow.messages.mark_edited(message_id, event.edited_at)
        original = Original(
            message_id, event.ref, event.author.user, event.created_at, edited_at=event.edited_at, reply_to=reply_to
        )
        author = await self._names.told_apart(uow, event.ref.channel, event.author)
        command = SendMessage(event.ref, author, event.content, event.created_at, reply_to)
        await self._queue(uow, lane, command, routed, original)

    async def _edited(self, uow: UnitOfWork, event: MessageEdited, pair: Pair, lane: LaneKey, routed: _Routed) -> None:
        original = await uow.messages.find(event.ref)
        if original is None and not event.author.is_self:
            await self._requote(uow, event.ref, None, pair, routed)
        if original is None or original.deleted:
            return
        if original.author != event.author.user:
            # Homeservers pass such events on; clients ignore them, and so do we:
            # https://spec.matrix.org/latest/client-server-api/#validity-of-replacement-events
            routed.dropped.append((lane, "foreign"))
            return
        if original.edited_at is not None and not await _is_later(uow, event, original.edited_at):
            return
        await uow.messages.mark_edited(original.id, event.edited_at)
        if event.edit is not None:
            await uow.messages.record_edit(event.edit, original.id)
        if original.left_out and not event.content:
            return
        author = await self._names.told_apart(uow, event.ref.channel, event.author)
        if original.left_out:
            # There was nothing in it, and now there is: it crosses as what it has become.
            await uow.messages.leave_out(original.id, False)
            sent = SendMessage(event.ref, author, event.content, original.created_at, original.reply_to)
            await self._queue(uow, lane, sent, routed)
        else:
            command = EditMessage(event.ref, author, event.content, event.edited_at, original.reply_to)
            await self._queue(uow, lane, command, routed)
        await self._requote(uow, event.ref, original, pair, routed)

    async def _deleted(
        self, uow: UnitOfWork, event: MessageDeleted, pair: Pair, lane: LaneKey, routed: _Routed
    ) -> None:
        original = await uow.messages.find(event.ref)
        if original is None:
            await self._taken_back(uow, event.ref, pair, lane, routed)
            if pair.policy.moderate_deletions and not event.by_self:
                await self._copy_removed(uow, event.ref, lane, routed)
            return
        if original.deleted:
            return
        await uow.messages.mark_deleted(original.id)
        if not original.left_out:
            await self._queue(uow, lane, DeleteMessage(event.ref), routed)
        await self._requote(uow, event.ref, original, pair, routed)

    async def _copy_removed(self, uow: UnitOfWork, copy: MessageRef, lane: LaneKey, routed: _Routed) -> None:
        """A copy of ours was removed by somebody, who meant what its author wrote: only a moderator can do that."""
        originals = await uow.messages.sharing(copy)
        if len(originals) > 1:
            # Several people's words stood in it, and nobody can tell whose were meant.
            routed.dropped.append((lane, "moderation"))
            return
        for original in originals:
            copies = await uow.messages.copies(original.id, copy.channel)
            stood = any(one.ref == copy and not one.superseded for one in copies)
            if stood and not original.deleted and original.ref.channel == lane.destination:
                await self._queue(uow, lane, RemoveOriginal(original.ref), routed)

    async def _requote(
        self, uow: UnitOfWork, changed: MessageRef, original: Original | None, pair: Pair, routed: _Routed
    ) -> None:
        """What answers a message that was changed or removed quotes it as it is then, on whichever side it is.

        Only the newest answers: nobody's edit may become hundreds.
        """
        answered = [changed]
        across = self._pairs.lane_from(changed.channel, pair)
        if original is not None:
            # Also in a channel that was the pair's before: what was answered there is quoted here.
            for place in await uow.messages.places(original.id, across.destination.platform):
                answered += [copy.ref for copy in await uow.messages.copies(original.id, place)]
        for target in answered:
            lane = across if target == changed else across.back
            for answer in await uow.messages.answers(target, _MOST_REQUOTED):
                if lane.destination.platform in pair.destinations:
                    await self._queue(uow, lane, RequoteMessage(answer.ref, target), routed)

    async def _taken_back(self, uow: UnitOfWork, edit: MessageRef, pair: Pair, lane: LaneKey, routed: _Routed) -> None:
        """An edit may be what was deleted, or what has no copy."""
        original = await uow.messages.edited_by(edit)
        if original is not None and not (original.deleted or original.left_out) and original.edited_at is not None:
            command = RefreshMessage(original.ref, original.edited_at, original.reply_to)
            await self._queue(uow, lane, command, routed)
            await self._requote(uow, original.ref, original, pair, routed)
        elif original is None and not await uow.messages.is_copy(edit):
            await self._requote(uow, edit, None, pair, routed)

    async def _leave_out(
        self, uow: UnitOfWork, event: MessageCreated, feature: str, lane: LaneKey, routed: _Routed
    ) -> None:
        if feature == "empty":
            message_id = await uow.messages.add(event.ref, event.author.user, event.created_at, event.reply_to)
            if message_id is None:
                return  # its author has been told
            await uow.messages.leave_out(message_id, True)
        routed.dropped.append((lane, feature))
        if event.thread is not None and feature == "thread":
            await self._thread_dropped(uow, event.thread, lane, routed)
        elif feature == "empty":
            failed = MarkFailed(event.ref, "there was nothing in it that can cross")
            await self._queue(uow, LaneKey.within(event.ref.channel), failed, routed)

    async def _thread_dropped(self, uow: UnitOfWork, thread: ThreadRef, lane: LaneKey, routed: _Routed) -> None:
        if not await uow.once_keys.claim(lane.destination, f"thread {thread.id}"):
            return
        platform, other = lane.source.platform.title(), lane.destination.platform.title()
        there = RichText.plain(f"A thread goes on over on {platform}. Threads do not cross.")
        here = RichText.plain(f"Threads do not cross: people on {other} do not see this thread.")
        await self._queue(uow, LaneKey.within(lane.destination), PostNotice(there), routed)
        await self._queue(uow, LaneKey.within(thread.channel), PostNotice(here, thread=thread), routed)

    async def _queue(
        self, uow: UnitOfWork, lane: LaneKey, command: Command, routed: _Routed, original: Original | None = None
    ) -> None:
        entry = await uow.outbox.append(lane, command, self._clock.now())
        routed.entries.append(replace(entry, original=original))


async def _is_later(uow: UnitOfWork, event: MessageEdited, known: datetime) -> bool:
    """Whether an edit counts after those that are known. Of two with one time stamp the one that came later does."""
    if event.edited_at != known:
        return event.edited_at > known
    return event.edit is not None and await uow.messages.edited_by(event.edit) is None


def _left_out(event: MessageCreated, pair: Pair) -> str | None:
    """The feature for which a message does not cross; None if it does."""
    if event.thread is not None and pair.policy.thread_messages == "drop":
        return "thread"
    if event.system is not None and event.system not in pair.policy.system_messages:
        return "system"
    return None if event.content else "empty"


async def _root(uow: UnitOfWork, thread: ThreadRef) -> MessageRef | None:
    """The message that a thread started from, where it crossed: nothing else is quoted by everything in the thread."""
    # Both platforms name a thread after that message. A Discord thread that started from none has an ID of its own.
    root = MessageRef(thread.channel, thread.id)
    return root if await uow.messages.find(root) is not None or await uow.messages.is_copy(root) else None
