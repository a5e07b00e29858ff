"""What becomes of the entries of the outbox: done, moved, merged, dropped, dead. No call to a platform."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from relay.core.convert.degrade import Dropped
from relay.core.delivery.late_files import LateFiles
from relay.core.delivery.plan import (
    Done,
    FollowLateFiles,
    LateFileSeen,
    Merge,
    Move,
    Send,
    Target,
    UpdateDeadLetters,
)
from relay.core.moderation import early_removals
from relay.core.ports import Clock
from relay.core.status.counters import Status
from relay.core.storage import Entry, Store, UnitOfWork, Unreadable
from relay.domain.commands import (
    DeleteMessage,
    Digest,
    EditMessage,
    LateFile,
    MarkAnswered,
    MarkFailed,
    PostNotice,
    RefreshMessage,
    RemoveMember,
    RemoveOriginal,
    RequoteMessage,
    SendMessage,
)
from relay.domain.ids import MessageRef
from relay.domain.pair import LaneKey
from relay.errors import NotYet
from relay.logs import get_logger

_log = get_logger(__name__)


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Entries:
    """Writes down what becomes of entries, and wakes the lanes that have to know."""

    store: Store
    late_files: LateFiles
    status: Status
    clock: Clock
    wake: Callable[[LaneKey], None]  # something was queued in that lane, or has to be read again
    tell: Callable[[LaneKey, Done], None]  # somebody was kept from crossing
    # Entries of quoted lines that have waited among notices, and do not give way again.
    had_turn: set[int] = field(default_factory=set, init=False)

    async def apply(self, plan: Done | Move | UpdateDeadLetters | FollowLateFiles) -> None:
        """Carry out a plan that asks nothing of a platform."""
        match plan:
            case Done(refused=None):
                await self.done(plan.entry)
                self.status.dropped(plan.entry.lane, "nsfw", plan.unseen)
            case Done():
                await self.refuse(plan)
            case Move():
                await self.move(plan)
            case UpdateDeadLetters():
                await self.update_dead_letters(plan.entry, plan.edit)
            case FollowLateFiles():
                await self.follow_late_files(plan)

    async def done(self, entry: Entry) -> None:
        """There is nothing left to do about the entry."""
        async with self.store.write() as uow:
            await uow.outbox.done(entry.id)

    async def refuse(self, plan: Done) -> None:
        """Its author is blocked: count it, and tell nobody. No edit brings it across once they are heard again."""
        entry = plan.entry
        async with self.store.write() as uow:
            await uow.outbox.done(entry.id)
            if isinstance(entry.command, SendMessage):
                original = await uow.messages.find(entry.command.source)
                if original is not None and not await uow.messages.copies(original.id, entry.lane.destination):
                    await uow.messages.leave_out(original.id, plan.why)
                    await uow.messages.mark_deleted(original.id)
        self.status.dropped(entry.lane, "moderation")
        self.tell(entry.lane, plan)

    async def dead_letter(self, entry: Entry, reason: str, *, postponed: bool) -> None:
        """The command failed for good, or is `postponed`: keep it as a dead letter, and let its author know."""
        async with self.store.write() as uow:
            if isinstance(entry.command, PostNotice | MarkFailed | MarkAnswered | RequoteMessage | RemoveMember):
                await uow.outbox.done(entry.id)
            else:
                await uow.outbox.dead_letter(entry.id, reason, self.clock.now(), postponed=postponed)
                await self._tell_authors(uow, entry, reason)
        self.had_turn.discard(entry.id)
        self._wake_sources(entry)

    async def drop(self, entry: Entry, dropped: Dropped) -> None:
        """The command cannot cross at all: count it by name, and let its author know."""
        async with self.store.write() as uow:
            await uow.outbox.done(entry.id)
            if isinstance(entry.command, SendMessage):
                original = await uow.messages.find(entry.command.source)
                if original is not None and not await uow.messages.copies(original.id, entry.lane.destination):
                    # An edit may put something in that can cross.
                    await uow.messages.leave_out(original.id, dropped.reason)
            await self._tell_authors(uow, entry, dropped.reason)
        self.status.dropped(entry.lane, dropped.feature)
        self._wake_sources(entry)

    async def merge(self, merge: Merge) -> Entry:
        """The entry that carries what several said: from now on every try, also after a crash, says the same."""
        async with self.store.write() as uow:
            await uow.outbox.amend(merge.entry.id, merge.command)
            for absorbed in merge.absorbed:
                await uow.outbox.done(absorbed)
        if not isinstance(merge.command, Digest):
            _log.info("notices put together", direction=merge.entry.lane.label, notices=len(merge.absorbed) + 1)
        return replace(merge.entry, command=merge.command, original=None)

    async def replace(self, entry: Entry, commands: Sequence[SendMessage]) -> None:
        """These commands take the entry's place."""
        async with self.store.write() as uow:
            await uow.outbox.replace(entry, commands)

    def gives_way(self, entry: Entry) -> bool:
        """Whether an entry is worth less than anybody's words, and has not waited among notices yet."""
        return isinstance(entry.command, RequoteMessage) and entry.lane.crosses and entry.id not in self.had_turn

    async def move(self, plan: Move) -> None:
        """Queue it, as the plan's command, at the end of another lane."""
        async with self.store.write() as uow:
            moved = await uow.outbox.append(plan.lane, plan.command, self.clock.now())
            await uow.outbox.done(plan.entry.id)
        if plan.had_turn:
            self.had_turn.add(moved.id)
        self.wake(plan.lane)

    async def update_dead_letters(self, entry: Entry, edit: EditMessage) -> None:
        """Put the latest words into dead letters of the message, for when the operator retries them."""
        async with self.store.write() as uow:
            for letter in await uow.outbox.dead_about(edit.source):
                if letter.entry.lane == entry.lane and isinstance(letter.entry.command, SendMessage):
                    sent = replace(letter.entry.command, content=edit.content, parts=())
                    await uow.outbox.amend(letter.entry.id, sent)
            await uow.outbox.done(entry.id)

    async def _tell_authors(self, uow: UnitOfWork, entry: Entry, reason: str) -> None:
        # The channel in which it was said may have been replaced since; the lane has been taken along.
        for source in _sources(entry):
            await uow.outbox.append(LaneKey.within(entry.lane.source), MarkFailed(source, reason), self.clock.now())

    def _wake_sources(self, entry: Entry) -> None:
        if _sources(entry):
            self.wake(LaneKey.within(entry.lane.source))

    async def send_first(self, plan: Send) -> bool:
        """Write down that an edit sends its message; False if that was deleted, or another edit does so, meanwhile."""
        async with self.store.write() as uow:
            original = await uow.messages.find(plan.command.source)
            if original is None or original.deleted or not original.left_out:
                return False
            await uow.messages.leave_out(original.id, None)
            await uow.outbox.amend(plan.entry.id, plan.command)
        self.wake(plan.entry.lane)  # whoever tries this again has to read it again
        return True

    async def follow_removal(self, uow: UnitOfWork, target: Target, copy: MessageRef) -> bool:
        """Where moderators have removed a copy before it was on record, its original goes, as it would have then.

        Whether that is so: then wake the lane back. Asked where the target `follows_removals`.
        """
        if target.original is None or not await early_removals.is_noted(uow, copy):
            return False
        await uow.outbox.append(target.entry.lane.back, RemoveOriginal(target.original.ref), self.clock.now())
        return True

    async def delete_later(self, target: Target) -> None:
        """Queue the removal of what was posted again: it may not be removed now, and what follows must not wait.

        It dies like any other command that is forbidden, and is tried again when its channel opens.
        """
        lane, original = target.entry.lane, target.original
        if original is not None:
            command = DeleteMessage(original.ref, leftovers=True)
            async with self.store.write() as uow:
                letters = await uow.outbox.dead_about(original.ref)
                if not any(letter.entry.lane == lane and letter.entry.command == command for letter in letters):
                    await uow.outbox.append(lane, command, target.entry.queued_at)
        self.wake(lane)

    # --- Late files -----------------------------------------------------------------------------------

    async def follow_late_files(self, plan: FollowLateFiles) -> None:
        """Raises `NotYet` where nothing has changed, and nobody else waits behind them."""
        for seen in plan.seen:
            await self._late_file_seen(seen)
        if not plan.to_the_end and not plan.is_still_away:
            return
        self.wake(plan.entry.lane)  # some may be out of the lane: whoever has read it has to read it again
        if plan.is_still_away:
            raise NotYet("a file has not come")
        async with self.store.write() as uow:
            for entry in plan.to_the_end:
                if isinstance(entry.command, LateFile) and await uow.outbox.is_waiting(entry.id):
                    await uow.outbox.append(entry.lane, entry.command, self.clock.now())
                    await uow.outbox.done(entry.id)

    async def _late_file_seen(self, seen: LateFileSeen) -> None:
        """Take what need not be looked for any more out of the lane."""
        late = seen.late
        if seen.outcome == "here":
            await self.move_late_file(seen.entry, late, seen.lane)
            return
        if seen.outcome == "given up":
            name, direction = seen.target.pair.name, seen.lane().label
            _log.warning("late file given up", pair=name, direction=direction, since=str(late.since))
            self.status.dropped(seen.lane(), "file")
        self.late_files.end(late)
        await self.done(seen.entry)

    async def move_late_file(self, entry: Entry, late: LateFile, to: Callable[[], LaneKey]) -> None:
        """Queue it in another lane, unless it is settled by now."""
        async with self.store.write() as uow:
            if not await uow.outbox.is_waiting(entry.id):
                return
            # Asked here: what is queued for a room before it is replaced moves with the others.
            lane = to()
            await uow.outbox.append(lane, late, self.clock.now())
            await uow.outbox.done(entry.id)
        self.wake(lane)


async def forget_late_files(uow: UnitOfWork, target: Target, attachments: set[str]) -> None:
    """These files of a message need not follow any more, or are queued again next."""
    if target.original is None:
        return
    lanes = (LaneKey.within(target.entry.lane.destination), target.entry.lane)
    for entry in await uow.outbox.late_files(target.original.ref):
        if isinstance(entry.command, LateFile) and entry.lane in lanes and entry.command.attachment.id in attachments:
            await uow.outbox.done(entry.id)


def _sources(entry: Entry) -> tuple[MessageRef, ...]:
    """The messages whose authors have to know when an entry fails. Not of what they said long before it crosses."""
    match entry.command:
        case SendMessage(content=content) if content.silent:
            return ()
        case SendMessage(source) | EditMessage(source) | RefreshMessage(source):
            return (source,)
        case Digest(items):
            return tuple(item.source for item in items if not item.content.silent)
        case Unreadable(source=MessageRef() as source) if entry.lane.crosses:
            return (source,)
        case _:
            return ()
