"""Carrying out one command: look up where its targets stand by now, degrade, call the adapter, write the receipt."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from relay.core.convert.degrade import Dropped
from relay.core.delivery.digest import edited, without
from relay.core.delivery.digests import Batching
from relay.core.delivery.late_files import LateFiles, forget_late
from relay.core.delivery.notices import Notes
from relay.core.delivery.parts import Parts
from relay.core.delivery.reply_gate import Copying
from relay.core.delivery.resolve import Context, Task
from relay.core.ports import Clock
from relay.core.status.counters import Status
from relay.core.storage import Copy, Entry, UnitOfWork, Unreadable
from relay.domain.commands import (
    Command,
    DeleteMessage,
    Digest,
    EditMessage,
    LateFile,
    MarkFailed,
    PostNotice,
    RefreshMessage,
    RemoveOriginal,
    RequoteMessage,
    SendMessage,
)
from relay.domain.content import Content
from relay.domain.events import MessageCreated
from relay.domain.ids import ChannelRef, MessageRef
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.errors import ActionNeeded, CopyNotEditable, FileRejected, Permanent, TargetGone, Transient

_log = structlog.get_logger(__name__)

_STAYS = (
    "A message that was deleted here still stands where this channel was mirrored to before, as may others that are "
    "deleted from now on. The relay may not remove them there: ask a moderator of that place."
)


class Deliverer:
    """Carries out commands, each to its end. What a try did is on record, so the next goes on where it broke off."""

    def __init__(
        self,
        *,
        context: Context,
        status: Status,
        clock: Clock,
        wake: Callable[[LaneKey], None],
    ) -> None:
        self._context = context
        self._store = context.store
        self._notes = Notes(context)
        self._copying = Copying(context, clock)
        self._batches = Batching(context, status, self._copying, wake)
        self._parts = Parts(context, self._batches, status, clock, wake)
        self._late = LateFiles(context, status, clock, wake)
        self._status = status
        self._clock = clock
        self._wake = wake
        self._had_turn: set[int] = set()  # entries of quoted lines that have waited among notes

    async def carry_out(self, entry: Entry, *, suspect: bool) -> None:
        """Do what the entry says and take it out of the outbox.

        `suspect`: an earlier try may have reached the platform. Raises a `DeliveryError` or `StoreUnavailable`;
        the entry is then still there.
        """
        match entry.command:
            case SendMessage() as command:
                await self._send(entry, command, suspect=suspect)
            case EditMessage() as command:
                await self._edit(entry, command, suspect=suspect)
            case RefreshMessage() as command if entry.lane.crosses:
                await self._refresh(entry, command, suspect=suspect)
            case RequoteMessage() as command if entry.lane.crosses:
                await self._requote(entry, command, suspect=suspect)
                self._had_turn.discard(entry.id)
            case RefreshMessage() | RequoteMessage() as command if self.only_looks(entry):
                await self._look_again(entry, command)
            case RequoteMessage() as command:
                await self._come_back(entry, command)
            case DeleteMessage() as command:
                await self._delete(entry, command)
            case RemoveOriginal() as command:
                await self._remove_original(entry, command)
            case PostNotice() as notice:
                await self._notes.post(entry, notice, suspect=suspect)
            case MarkFailed() as failed:
                await self._notes.mark_failed(entry, failed, suspect=suspect)
            case Digest() as batch:
                await self._batches.send(entry, batch, suspect=suspect)
            case LateFile() as late if entry.lane.crosses:
                await self._late.send(entry, late, suspect=suspect)
            case LateFile() as late:
                await self._late.fetch(entry, late)
            case Unreadable(why=why):
                raise Permanent(f"it cannot be read ({why})")

    async def plan(self, entry: Entry, *, seconds_each: float, lanes: int) -> Entry | None:
        """Let what waits behind `entry` cross together with it if one by one would take too long.

        `seconds_each`: what a message takes of late; `lanes`: how many share that. The entry that carries them all
        now, None if everything stays as it is. Raises `ActionNeeded`, `Transient`, `StoreUnavailable`.
        """
        if isinstance(entry.command, PostNotice | MarkFailed):
            return await self._notes.gathered(entry)
        return await self._batches.plan(entry, seconds_each=seconds_each, lanes=lanes)

    def only_looks(self, entry: Entry) -> bool:
        """Whether an entry waits in a channel's lane to itself for what can be read there, and sends nothing."""
        if entry.lane.crosses:
            return False
        match entry.command:
            case RequoteMessage(source):
                # By its platform: the lane of a room that was replaced has become that of another one. What comes from
                # the other side waits for its turn.
                return source.platform is entry.lane.destination.platform
            case command:
                return isinstance(command, RefreshMessage | LateFile)

    def gives_way(self, entry: Entry) -> bool:
        """Whether an entry is worth less than anybody's words, and has not waited among the relay's notes yet."""
        return isinstance(entry.command, RequoteMessage) and entry.lane.crosses and entry.id not in self._had_turn

    async def put_off(self, entry: Entry) -> None:
        """Let an entry that `gives_way` wait for its turn among notes; it comes back to the end of its lane then.

        What would change nothing is done. Raises a `DeliveryError` or `StoreUnavailable`.
        """
        if isinstance(entry.command, RequoteMessage) and await self._requotes(entry, entry.command, suspect=False):
            await self._move(entry, LaneKey.within(entry.lane.destination), entry.command)
        else:
            await self._context.done(entry)

    async def unbatch(self, entry: Entry) -> int:
        """Let the messages of a batch that was refused cross one by one; how many they are, 0 if it is none."""
        command = entry.command
        return await self._batches.unbatch(entry, command) if isinstance(command, Digest) else 0

    async def dead_letter(self, entry: Entry, reason: str) -> None:
        """The command failed for good: keep it as a dead letter, and let its author know."""
        async with self._store.write() as uow:
            if isinstance(entry.command, PostNotice | MarkFailed | RequoteMessage):
                await uow.outbox.done(entry.id)
            else:
                await uow.outbox.dead_letter(entry.id, reason, self._clock.now())
                await self._tell_authors(uow, entry, reason)
        self._wake_sources(entry)

    async def drop(self, entry: Entry, dropped: Dropped) -> None:
        """The command cannot cross at all: count it by name, and let its author know."""
        async with self._store.write() as uow:
            await uow.outbox.done(entry.id)
            if isinstance(entry.command, SendMessage):
                original = await uow.messages.find(entry.command.source)
                if original is not None and not await uow.messages.copies(original.id, entry.lane.destination):
                    await uow.messages.leave_out(original.id, True)  # an edit may put something in that can cross
            await self._tell_authors(uow, entry, dropped.reason)
        self._status.dropped(entry.lane, dropped.feature)
        self._wake_sources(entry)

    # --- One command each ---------------------------------------------------------------------------------

    async def _send(self, entry: Entry, command: SendMessage, *, suspect: bool) -> None:
        task = await self._context.task_about(entry, command.source, command.reply_to, suspect=suspect)
        if task.original is not None and task.original.deleted and not suspect and not task.copies:
            await self._context.done(entry)
            return
        if command.reply_to is not None and task.reply_to is None and not task.copies:
            await self._copying.wait_for(task, command.reply_to)
        parts = await self._parts.of(task, command)
        if isinstance(parts, Dropped):
            await self.drop(entry, parts)
            return
        await self._send_rest(task, command, parts)
        if len(task.copies) >= len(parts):
            await self._context.done(entry)
        self._status.crossed(entry.lane, written_at=command.created_at, received_at=entry.queued_at)

    async def _edit(self, entry: Entry, command: EditMessage, *, suspect: bool) -> None:
        task = await self._context.task_about(entry, command.source, command.reply_to, suspect=suspect)
        if not task.copies and (elsewhere := await self._context.elsewhere(task)):
            await self._edit_elsewhere(entry, command, elsewhere)
            return
        if not task.copies or task.original is None or (task.original.deleted and not suspect):
            sent = await self._as_first_words(entry, command)
            if sent is None:
                await self._amend_dead(entry, command)
            else:
                await self._send(replace(entry, command=sent), sent, suspect=suspect)
            return
        if not suspect and task.original.edited_at is not None and command.edited_at < task.original.edited_at:
            # A later edit waits behind this one, or has crossed before it: its words are the ones that count.
            await self._context.done(entry)
            return
        await self._change(task, command)

    async def _edit_elsewhere(self, entry: Entry, command: EditMessage, places: frozenset[ChannelRef]) -> None:
        """The copies stand in a channel that the lane does not lead to any more.

        One that the lane's has replaced is the same place. What the operator has put in the place of another is not.
        """
        reason = "its copy stands where this channel is not mirrored to any more"
        for place in places:
            if not self._context.is_replaced(place, entry.lane):
                continue
            task = await self._context.task_about(entry, command.source, command.reply_to, suspect=False, where=place)
            try:
                await self._change(task, command)
            except (ActionNeeded, Permanent) as error:
                _log.info("a copy in a replaced channel stays as it is", pair=task.pair.name, reason=str(error))
                reason = "its copy stands in a room that has been replaced, and cannot be changed there"
            else:
                return
        await self.drop(entry, Dropped("former", reason))

    async def _change(self, task: Task, command: EditMessage) -> None:
        """Make the copies of a task's message say `command`."""
        entry = task.entry
        await self._clear_away(task, task.superseded)
        batch = await self._batches.of(task)
        parts = await self._parts.of(task, command, batch)
        if isinstance(parts, Dropped):
            await self.drop(entry, parts)
            return
        number = 0
        while number < min(len(task.copies), len(parts)):
            copy, part = task.copies[number], parts[number]
            try:
                if batch is not None and copy.part == 0:
                    await self._batches.say(task, edited(batch, command.source, part))
                else:
                    await self._edit_part(task, command, copy, part)
            except FileRejected as error:
                parts = await self._parts.without_file(task, command, parts, number, error)
            else:
                number += 1
        parts = await self._send_rest(task, command, parts)
        if brought := {attachment.id for part in parts for attachment in part.attachments}:
            async with self._store.write() as uow:
                await forget_late(uow, task, brought)
        await self._remove(task, task.copies[len(parts) :])
        if len(task.copies) >= len(parts):
            await self._context.done(entry)

    async def _refresh(self, entry: Entry, command: RefreshMessage, *, suspect: bool) -> None:
        try:
            said = await self._context.latest(command.source)
        except Transient as error:
            if suspect:
                raise  # what may have been posted anew is found again by this entry alone
            await self._wait_for_source(entry, command, error)
            return
        if said is None:
            # It was deleted, and that waits behind this.
            await self._context.done(entry)
            return
        await self._edit(entry, _as_edit(command, said), suspect=suspect)

    async def _wait_for_source(self, entry: Entry, command: RefreshMessage | RequoteMessage, error: Transient) -> None:
        """What a message says cannot be asked now: wait with all that waits for its platform, and hold up nobody."""
        _log.info("waits for its own side", direction=entry.lane.direction, reason=str(error))
        await self._move(entry, LaneKey.within(entry.lane.source), command)

    async def _look_again(self, entry: Entry, command: RefreshMessage | RequoteMessage) -> None:
        """What could not be read when it was its turn crosses once it can. Raises `Transient`."""
        said = await self._context.latest(command.source)
        across = self._context.across(entry.lane.source)
        async with self._store.read() as uow:
            original = await uow.messages.find(command.source)
        # The pair may be another one by now: what is in no copy yet is not to be sent to its channel.
        if said is None or across is None or original is None or original.left_out:
            await self._context.done(entry)
            return
        again = _as_edit(command, said) if isinstance(command, RefreshMessage) else command
        await self._move(entry, LaneKey(entry.lane.source, across), again)

    async def _come_back(self, entry: Entry, command: RequoteMessage) -> None:
        """What waited among notes has its turn: it is carried out behind all that waits in its own lane by now."""
        across = self._context.across(entry.lane.destination)
        if across is None:
            await self._context.done(entry)
            return
        back = await self._move(entry, LaneKey(across, entry.lane.destination), command)
        self._had_turn.add(back.id)

    async def _move(self, entry: Entry, lane: LaneKey, command: Command) -> Entry:
        async with self._store.write() as uow:
            moved = await uow.outbox.append(lane, command, self._clock.now())
            await uow.outbox.done(entry.id)
        self._wake(lane)
        return moved

    async def _requote(self, entry: Entry, command: RequoteMessage, *, suspect: bool) -> None:
        found = await self._requotes(entry, command, suspect=suspect)
        if found is None:
            await self._context.done(entry)
            return
        task, batch = found
        if batch is not None:
            await self._batches.say(task, batch)
            await self._context.done(entry)
            return
        try:
            said = await self._context.latest(command.source)
        except Transient as error:
            if suspect:
                raise
            await self._wait_for_source(entry, command, error)
            return
        if said is None or task.original is None:
            await self._context.done(entry)
            return
        edited_at = task.original.edited_at or said.created_at
        edit = EditMessage(command.source, said.author, said.content, edited_at, command.reply_to)
        await self._edit(entry, edit, suspect=suspect)

    async def _requotes(
        self, entry: Entry, command: RequoteMessage, *, suspect: bool
    ) -> tuple[Task, Digest | None] | None:
        """What a quoted line is to be changed in, with the batch that says it then; None where nothing changes."""
        task = await self._context.task_about(entry, command.source, command.reply_to, suspect=suspect)
        if not task.copies or task.original is None or task.original.deleted or await self._comes_again(entry):
            return None
        batch = await self._batches.of(task)
        if batch is not None:
            changed = await self._batches.requoted(task, batch, command)
            return None if changed == batch else (task, changed)
        native = task.reply_to is not None and task.adapter.capabilities(task.channel).native_replies
        return None if native else (task, None)

    async def _comes_again(self, entry: Entry) -> bool:
        """Once is enough, however often somebody edits what many answer."""
        async with self._store.read() as uow:
            return await uow.outbox.comes_again(entry)

    async def _delete(self, entry: Entry, command: DeleteMessage) -> None:
        task = await self._context.task_about(entry, command.source, None, suspect=False)
        if command.leftovers:
            await self._remove(task, task.superseded)
            await self._context.done(entry)
            return
        refused = await self._refusal(task)
        stays: list[ChannelRef] = []
        for place in await self._context.elsewhere(task):
            # Whatever the channel is paired with by now: what somebody deletes is to be read nowhere.
            there = await self._context.task_about(entry, command.source, None, suspect=False, where=place)
            error = await self._refusal(there)
            if error is not None:
                _log.warning("a copy elsewhere cannot be removed", channel=place.id, reason=str(error))
                stays.append(place)
        if refused is not None:
            raise refused
        async with self._store.write() as uow:
            for letter in await uow.outbox.dead_about(command.source):
                await uow.outbox.discard(letter.entry.id)
            await self._tell_what_stays(uow, entry.lane, stays)
            await uow.outbox.done(entry.id)
        if stays:
            self._status.dropped(entry.lane, "former")
            self._wake(LaneKey.within(entry.lane.source))

    async def _refusal(self, task: Task) -> ActionNeeded | Permanent | None:
        """Remove the copies of a task's message; why that is refused, if it is. Raises any other error."""
        try:
            await self._take_out(task)
        except (ActionNeeded, Permanent) as error:
            return error
        return None

    async def _take_out(self, task: Task) -> None:
        """Remove the copies of a task's message; where it shares one with others, their words stay."""
        batch = await self._batches.of(task)
        rest = None if batch is None or task.original is None else without(batch, task.original.ref)
        if rest is not None and rest.items:
            await self._remove(task, task.copies[1:])
            await self._batches.say(task, rest, leaving=True)
        else:
            await self._remove(task, task.copies)
        await self._remove(task, task.superseded)

    async def _tell_what_stays(self, uow: UnitOfWork, lane: LaneKey, places: Sequence[ChannelRef]) -> None:
        """Say once for each of these places that the copies in it cannot be removed."""
        claims = [await uow.once_keys.claim(lane.source, f"former {place.id}") for place in places]
        if any(claims):
            notice = PostNotice(RichText.plain(_STAYS))
            await uow.outbox.append(LaneKey.within(lane.source), notice, self._clock.now())

    async def _remove_original(self, entry: Entry, command: RemoveOriginal) -> None:
        """What was written here goes, where we may remove it; then its platform tells, and what is left of it goes."""
        task = await self._context.task(entry, suspect=False)
        try:
            await task.adapter.delete(command.source, self._context.key(entry, 0, "r"))
        except TargetGone:
            _log.debug("original was gone already", pair=task.pair.name, direction=entry.lane.direction)
        except Permanent as error:
            _log.warning("original cannot be removed", pair=task.pair.name, reason=str(error))
            self._status.dropped(entry.lane, "moderation")
        await self._context.done(entry)

    async def _as_first_words(self, entry: Entry, command: EditMessage) -> SendMessage | None:
        """What an edit sends of a message that had nothing in it that can cross; None where it is no such one.

        It was queued before that was known. An edit that came later has been made a message by the router.
        """
        async with self._store.write() as uow:
            original = await uow.messages.find(command.source)
            if original is None or original.deleted or not original.left_out or not command.content:
                return None
            sent = SendMessage(command.source, command.author, command.content, original.created_at, original.reply_to)
            await uow.messages.leave_out(original.id, False)
            await uow.outbox.amend(entry.id, sent)
        self._wake(entry.lane)  # Whoever tries this again has to read it again.
        return sent

    async def _amend_dead(self, entry: Entry, command: EditMessage) -> None:
        """What lies dead crosses with its latest words, should it be tried again."""
        async with self._store.write() as uow:
            for letter in await uow.outbox.dead_about(command.source):
                if letter.entry.lane == entry.lane and isinstance(letter.entry.command, SendMessage):
                    await uow.outbox.amend(
                        letter.entry.id, replace(letter.entry.command, content=command.content, parts=())
                    )
            await uow.outbox.done(entry.id)

    # --- Parts --------------------------------------------------------------------------------------------

    async def _send_rest(
        self, task: Task, command: SendMessage | EditMessage, parts: tuple[Content, ...]
    ) -> tuple[Content, ...]:
        """Post the parts that do not stand yet; the parts as they are then. A file that cannot cross becomes words."""
        number = len(task.copies)
        while number < len(parts):
            try:
                await self._send_part(task, command, parts, number)
            except FileRejected as error:
                parts = await self._parts.without_file(task, command, parts, number, error)
            else:
                number += 1
        return parts

    async def _send_part(
        self,
        task: Task,
        command: SendMessage | EditMessage,
        parts: tuple[Content, ...],
        number: int,
    ) -> None:
        """Post one part, and write the receipt: with the last part's, the entry is done."""
        # Only the part that the earlier try broke off at may have been posted: those before it are on record.
        suspect = task.suspect and number == len(task.copies)
        delivery = self._context.delivery(task, command.author, parts[number], "s", part=number, suspect=suspect)
        ref = await task.post(delivery)
        async with self._store.write() as uow:
            if task.original is not None:
                await uow.messages.record_copy(Copy(task.original.id, number, ref))
            if number == len(parts) - 1:
                await uow.outbox.done(task.entry.id)

    async def _edit_part(self, task: Task, command: EditMessage, copy: Copy, content: Content) -> None:
        """Make one copy say `content`. Raises `FileRejected` for a file of it that cannot cross, or not in time."""
        delivery = self._context.delivery(task, command.author, content, "e", part=copy.part)
        try:
            await task.adapter.edit(copy.ref, delivery)
        except TargetGone:
            # Somebody removed the copy on its own side, and meant it.
            _log.info("edited copy is gone", pair=task.pair.name, direction=task.entry.lane.direction)
        except CopyNotEditable:
            anew = self._context.delivery(task, command.author, content, "a", part=copy.part, suspect=task.suspect)
            ref = await task.post(anew)
            # Whatever interrupts us from here on, the old one is known to be too many.
            async with self._store.write() as uow:
                old = await uow.messages.supersede(copy)
                await uow.messages.record_copy(replace(copy, ref=ref))
            await self._clear_away(task, (old,))

    async def _clear_away(self, task: Task, old: tuple[Copy, ...]) -> None:
        """Remove copies that stand anew elsewhere, later if that is forbidden now."""
        try:
            await self._remove(task, old)
        except Permanent as error:
            _log.warning("old copy stays for now", pair=task.pair.name, reason=str(error))
            await self._context.remove_later(task)
            self._wake(task.entry.lane)

    async def _remove(self, task: Task, copies: tuple[Copy, ...]) -> None:
        for copy in reversed(copies):
            await self._delete_copy(task, copy)
            async with self._store.write() as uow:
                await uow.messages.forget_copy(copy)
                await uow.digests.forget(copy.ref)

    async def _delete_copy(self, task: Task, copy: Copy) -> None:
        try:
            await task.adapter.delete(
                copy.ref, self._context.key(task.entry, copy.part, "d", superseded=copy.superseded)
            )
        except TargetGone:
            _log.debug("copy was gone already", pair=task.pair.name, direction=task.entry.lane.direction)

    # --- The author ---------------------------------------------------------------------------------------

    async def _tell_authors(self, uow: UnitOfWork, entry: Entry, reason: str) -> None:
        # The channel in which it was said may have been replaced since; the lane has been taken along.
        for source in _sources(entry):
            await uow.outbox.append(LaneKey.within(entry.lane.source), MarkFailed(source, reason), self._clock.now())

    def _wake_sources(self, entry: Entry) -> None:
        if _sources(entry):
            self._wake(LaneKey.within(entry.lane.source))


def _as_edit(command: RefreshMessage, said: MessageCreated) -> EditMessage:
    return EditMessage(command.source, said.author, said.content, command.edited_at, command.reply_to)


def _sources(entry: Entry) -> tuple[MessageRef, ...]:
    """The messages whose authors have to know when an entry fails."""
    match entry.command:
        case SendMessage(source) | EditMessage(source) | RefreshMessage(source):
            return (source,)
        case Digest(items):
            return tuple(item.source for item in items)
        case Unreadable(source=MessageRef() as source) if entry.lane.crosses:
            return (source,)
        case _:
            return ()
