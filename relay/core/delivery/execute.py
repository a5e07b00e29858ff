"""Carries out a plan: the calls to the platform, and what is written down about them.

What a try did is on record before the next thing is done, so that the next try goes on where this one broke off. It
looks up nothing but what a write depends on and may have changed since: the write's own transaction reads that again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from relay.core.convert.degrade import Dropped, files_in
from relay.core.delivery import digests, render
from relay.core.delivery.copies import StandingCopies
from relay.core.delivery.entries import Entries, forget_late_files
from relay.core.delivery.plan import (
    Delete,
    DeleteOriginal,
    DeleteSuperseded,
    Done,
    Edit,
    EditDigest,
    EditFormer,
    FollowLateFiles,
    Move,
    Plan,
    RemoveFrom,
    Send,
    SendDigest,
    SendLateFile,
    SendNotice,
    ShowOutcome,
    Target,
    UpdateDeadLetters,
)
from relay.core.delivery.render import Parts
from relay.core.moderation import early_removals
from relay.core.offload import Conversions
from relay.core.people.ports import MemberMirror
from relay.core.ports import Clock
from relay.core.status.counters import Status
from relay.core.storage import Copy, Entry, Store, UnitOfWork
from relay.domain.commands import (
    DigestItem,
    EditMessage,
    LateFile,
    MarkAnswered,
    MarkFailed,
    PostNotice,
)
from relay.domain.content import Content
from relay.domain.ids import ChannelRef, ThreadRef
from relay.domain.pair import LaneKey
from relay.domain.text import nodes as n
from relay.domain.text.rewrite import weight
from relay.errors import (
    ActionNeeded,
    CopyNotEditable,
    FileRejected,
    FileUnavailable,
    Permanent,
    TargetGone,
)
from relay.logs import get_logger

_log = get_logger(__name__)

_STAYS = (
    "A message that was deleted here still stands where this channel was mirrored to before, as may others that are "
    "deleted from now on. The relay may not remove them there: ask a moderator of that place."
)


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Executor:
    """Carries out plans, each to its end."""

    store: Store
    entries: Entries
    copies: StandingCopies
    conversions: Conversions
    status: Status
    clock: Clock

    async def execute(self, plan: Plan) -> None:
        """Do what the plan says and take its entry out of the outbox.

        Raises a `DeliveryError` or `StoreUnavailable`; the entry is then still there.
        """
        match plan:
            case Done() | Move() | UpdateDeadLetters() | FollowLateFiles():
                await self.entries.apply(plan)
            case Send():
                await self._send(plan)
            case Edit():
                await self._edit(plan)
            case EditFormer():
                await self._edit_former(plan)
            case Delete():
                await self._delete(plan)
            case DeleteSuperseded():
                await self.copies.delete(plan.target, plan.target.superseded)
                await self.entries.done(plan.entry)
            case DeleteOriginal():
                await self._delete_original(plan)
            case RemoveFrom(target, user):
                if isinstance(target.adapter, MemberMirror):
                    await target.adapter.remove_member(target.channel, user)
                await self.entries.done(plan.entry)
            case SendDigest():
                await self._send_digest(plan)
            case EditDigest():
                await self.copies.delete_superseded(plan.target, plan.target.superseded)
                await self.copies.edit_digest(plan.target, plan.digest)
                await self.entries.done(plan.entry)
            case SendNotice():
                await self._send_notice(plan)
            case ShowOutcome():
                await self._show_outcome(plan)
            case SendLateFile():
                await self._send_late_file(plan)
        self.entries.had_turn.discard(plan.entry.id)

    # --- Send -----------------------------------------------------------------------------------------

    async def _send(self, plan: Send) -> None:
        if plan.first_words is not None and not await self.entries.send_first(plan):
            await self.entries.update_dead_letters(plan.entry, plan.first_words)
            return
        parts, named = await self._parts(plan)
        if isinstance(parts, Dropped):
            await self.entries.drop(plan.entry, parts)
            return
        await self._send_rest(plan, parts)
        if len(plan.target.copies) >= len(parts):  # else the receipt of the last part says so
            await self.entries.done(plan.entry)
        self._count_words(plan, named)
        self.status.crossed(plan.entry.lane, written_at=plan.command.created_at, received_at=plan.entry.queued_at)

    async def _parts(self, plan: Send | Edit) -> tuple[Parts | Dropped, int]:
        """The parts of a message, written down if there are several: a second try must not cut differently.

        And how many files have become words in them, because they do not fit, that are still to be counted.
        """
        known = plan.command.parts
        parts = await self.conversions.run(weight(known or plan.content), render.parts, plan)
        if isinstance(parts, Dropped):
            return parts, 0
        named = max(0, files_in(known or (plan.content,)) - files_in(parts))
        if parts != known and (known or len(parts) > 1):
            await self._write_down(plan, parts)
            self.status.dropped(plan.entry.lane, "file", named if _says_something(plan) else 0)
            return parts, 0
        return parts, named

    def _count_words(self, plan: Send | Edit, named: int) -> None:
        """Count what is named in words: what does not fit, and what age marks keep from being seen."""
        if _says_something(plan):
            self.status.dropped(plan.entry.lane, "file", named)
            self.status.dropped(plan.entry.lane, "nsfw", plan.unseen)

    async def _write_down(self, plan: Send | Edit, parts: Parts, late: LateFile | None = None) -> None:
        entry = plan.entry
        async with self.store.write() as uow:
            await uow.outbox.amend(entry.id, replace(plan.command, parts=parts))
            if late is not None:
                await forget_late_files(uow, plan.target, {late.attachment.id})
                await uow.outbox.append(LaneKey.within(entry.lane.destination), late, self.clock.now())
        if late is not None:
            self.entries.wake(LaneKey.within(entry.lane.destination))
        self.entries.wake(entry.lane)  # whoever tries this again has to read it again

    async def _send_rest(self, plan: Send | Edit, parts: Parts) -> Parts:
        """Post the parts that do not stand yet; the parts as they are then. A file that cannot cross becomes words."""
        number = len(plan.target.copies)
        while number < len(parts):
            try:
                await self._send_part(plan, parts, number)
            except FileRejected as error:
                parts = await self._without_file(plan, parts, number, error)
            else:
                number += 1
        return parts

    async def _send_part(self, plan: Send | Edit, parts: Parts, number: int) -> None:
        """Post one part, and write the receipt: with the last part's, the entry is done."""
        target = plan.target
        # The part that the earlier try broke off at may have been posted. Mostly that is the first that is not on
        # record; but those before it may have been deleted since, while their lane led elsewhere.
        delivery = render.delivery(target, plan.command.author, parts[number], "s", part=number, suspect=target.suspect)
        ref = await target.post(delivery)
        async with self.store.write() as uow:
            if target.original is not None:
                await uow.messages.record_copy(Copy(target.original.id, number, ref), retries=plan.entry.retries)
            removed = target.follows_removals and await self.entries.follow_removal(uow, target, ref)
            if number == len(parts) - 1:
                await uow.outbox.done(plan.entry.id)
        if removed:
            self.entries.wake(plan.entry.lane.back)

    async def _without_file(self, plan: Send | Edit, parts: Parts, number: int, error: FileRejected) -> Parts:
        """The parts, with words for the file that part `number` cannot bring; one that is late follows."""
        entry, part = plan.entry, parts[number]
        _log.info("file does not cross", pair=plan.target.pair.name, direction=entry.lane.label, reason=error.reason)
        if not error.late:
            self.status.dropped(entry.lane, "file")
        parts = await self.conversions.run(weight(part), render.without_file, plan, parts, number, error)
        await self._write_down(plan, parts, self._late_file(plan, part, error) if error.late else None)
        return parts

    def _late_file(self, plan: Send | Edit, part: Content, error: FileRejected) -> LateFile | None:
        """What brings a file of a part later."""
        original = plan.target.original
        attachment = next((one for one in part.attachments if one.id == error.attachment), None)
        if attachment is None or original is None:
            return None
        # Where nobody edited the message, the copy is only rewritten.
        edited_at = original.edited_at and (
            plan.command.edited_at if isinstance(plan.command, EditMessage) else original.edited_at
        )
        return LateFile(original.ref, plan.command.author, attachment, self.clock.now(), edited_at)

    # --- Edit -----------------------------------------------------------------------------------------

    async def _edit(self, plan: Edit) -> None:
        target = plan.target
        left = await self.copies.delete_superseded(target, target.superseded)
        digest = target.require_digest()
        parts, named = await self._parts(plan)
        if isinstance(parts, Dropped):
            await self.entries.drop(plan.entry, parts)
            return
        suspect = target.suspect and bool(plan.command.parts)  # else no part was posted anew, or added, yet
        if suspect:
            target = await self.copies.with_added(plan, parts)
            plan = replace(plan, target=target)
        if suspect and digest is not None:
            target = await self.copies.with_posted_again(plan, parts, 1)
            plan, suspect = replace(plan, target=target), False
        number = 0
        while number < min(len(target.copies), len(parts)):
            try:
                if digest is not None and target.copies[number].part == 0:
                    changed = digests.edited(digest, plan.command.source, parts[number])
                    alone = target.alone and len(parts) == 1
                    stands = await self.copies.edit_digest(replace(target, alone=alone), changed)
                    target = replace(stands, alone=target.alone)
                elif not await self._edit_part(plan, parts, number, suspect=suspect):
                    if parts != plan.command.parts and target.takes_new:
                        # What it quotes may change before the next try, and the message itself may be gone: what has
                        # been posted is found again by these words.
                        await self._write_down(plan, parts)
                    target = await self.copies.post_part_again(plan, parts, number, suspect=suspect)
                    suspect = False  # what an earlier try may have posted was looked for, whichever part it is
            except FileRejected as error:
                parts = await self._without_file(plan, parts, number, error)
            else:
                plan, number = replace(plan, target=target), number + 1
        parts = await self._send_rest(plan, parts)
        if brought := {attachment.id for part in parts for attachment in part.attachments}:
            async with self.store.write() as uow:
                await forget_late_files(uow, target, brought)
        too_many = (copy for copy in left if copy.part >= len(parts))  # without its successor it would stand
        await self.copies.delete_left_over(target, (*target.copies[len(parts) :], *too_many))
        if len(target.copies) >= len(parts):  # else the receipt of the last part says so
            await self.entries.done(plan.entry)
        self._count_words(plan, named)

    async def _edit_former(self, plan: EditFormer) -> None:
        for edit in plan.edits:
            try:
                await self._edit(edit)
            except (ActionNeeded, Permanent) as error:
                name = edit.target.pair.name
                _log.info("a copy in a replaced channel stays as it is", pair=name, reason=str(error))
            else:
                return
        await self.entries.drop(plan.entry, Dropped("former", plan.reason))

    async def _edit_part(self, plan: Edit, parts: Parts, number: int, *, suspect: bool) -> bool:
        """Make one copy say its part; False where it has to be posted again.

        Raises `FileRejected` for a file of it that cannot cross, or not in time.
        """
        target, copy = plan.target, plan.target.copies[number]
        delivery = render.delivery(target, plan.command.author, parts[number], "e", part=copy.part)
        try:
            await target.adapter.edit(copy.ref, delivery)
        except TargetGone:
            # Somebody removed the copy on its own side, and meant it.
            _log.info("edited copy is gone", pair=target.pair.name, direction=plan.entry.lane.label)
            if suspect:
                await self.copies.remove_posted_again(plan, parts, number)
            return True
        except CopyNotEditable:
            return False
        if copy.superseded and target.takes_new:
            return False
        if suspect:  # an earlier try may have found that it cannot be edited
            await self.copies.remove_posted_again(plan, parts, number)
        return True

    # --- Delete ---------------------------------------------------------------------------------------

    async def _delete(self, plan: Delete) -> None:
        target, lane = plan.target, plan.entry.lane
        refused = await self._refusal(target)
        stays: list[ChannelRef] = []
        for former in plan.former:
            error = await self._refusal(former)
            if error is not None:
                _log.warning("a copy elsewhere cannot be removed", channel=former.channel.id, reason=str(error))
                stays.append(former.channel)
        if refused is not None:
            raise refused
        async with self.store.write() as uow:
            for letter in await uow.outbox.dead_about(plan.source):
                await uow.outbox.discard(letter.entry.id)
            await self._tell_what_stays(uow, lane, stays)
            await uow.outbox.done(plan.entry.id)
        if stays:
            self.status.dropped(lane, "former")
            self.entries.wake(LaneKey.within(lane.source))

    async def _refusal(self, target: Target) -> ActionNeeded | Permanent | None:
        """Delete the copies of a message; why that is refused, if it is. Raises any other error."""
        try:
            await self._take_out(target)
        except (ActionNeeded, Permanent) as error:
            return error
        return None

    async def _take_out(self, target: Target) -> None:
        """Delete the copies of a message; where it shares one with others, their words stay."""
        digest = target.require_digest()
        rest = None if digest is None or target.original is None else digests.without(digest, target.original.ref)
        if rest is not None and rest.items:
            await self.copies.delete(target, target.copies[1:])
            await self.copies.edit_digest(target, rest, leaving=True)
        else:
            await self.copies.delete(target, target.copies)
        await self.copies.delete(target, target.superseded)

    async def _tell_what_stays(self, uow: UnitOfWork, lane: LaneKey, places: Sequence[ChannelRef]) -> None:
        """Say once for each of these places that the copies in it cannot be removed."""
        claims = [await uow.once_keys.claim(lane.source, f"former {place.id}") for place in places]
        if any(claims):
            notice = PostNotice(n.RichText.plain(_STAYS))
            await uow.outbox.append(LaneKey.within(lane.source), notice, self.clock.now())

    async def _delete_original(self, plan: DeleteOriginal) -> None:
        """What was written here goes, where we may remove it; then its platform tells, and what is left of it goes."""
        target, lane = plan.target, plan.entry.lane
        try:
            await target.adapter.delete(plan.source, render.key(target, 0, "r"))
        except TargetGone:
            _log.debug("original was gone already", pair=target.pair.name, direction=lane.label)
        except Permanent as error:
            _log.warning("original cannot be removed", pair=target.pair.name, reason=str(error))
            self.status.dropped(lane, "moderation")
        await self.entries.done(plan.entry)

    # --- Digests --------------------------------------------------------------------------------------

    async def _send_digest(self, plan: SendDigest) -> None:
        """Post several messages as one and write the receipt of all of them."""
        target, digest, entry = plan.target, plan.digest, plan.entry
        delivery = render.delivery(
            target, digests.speaker(digest), digests.content_of(digest), "b", suspect=target.suspect
        )
        ref = await target.adapter.send(delivery)
        async with self.store.write() as uow:
            for item in digest.items:
                original = await uow.messages.find(item.source)
                if original is not None:
                    await uow.messages.record_copy(Copy(original.id, 0, ref), retries=entry.retries)
            await uow.digests.put(ref, digest)
            # Whose words of several were meant is not known.
            removed = target.pair.policy.moderate_deletions and await early_removals.is_noted(uow, ref)
            await uow.outbox.done(entry.id)
        if removed:
            self.status.dropped(entry.lane.back, "moderation")
        self.status.dropped(entry.lane, "nsfw", plan.unseen)
        for item in digest.items:
            self.status.crossed(entry.lane, written_at=item.created_at, received_at=_received_at(entry, item))

    # --- Notices --------------------------------------------------------------------------------------

    async def _send_notice(self, plan: SendNotice) -> None:
        """Post a notice. One whose thread is gone is done."""
        try:
            answered = plan.notice.reply_to
            # A room may have been replaced since; a reply cannot lead into another one.
            here = answered is not None and answered.channel == plan.target.channel
            target = replace(plan.target, reply_to=answered if here else None)
            await self._say(target, plan.notice.text, "n", plan.notice.thread, silent=plan.notice.silent)
        except TargetGone:
            _log.info("notice has no place any more", pair=plan.target.pair.name, direction=plan.entry.lane.label)
        await self.entries.done(plan.entry)

    async def _show_outcome(self, plan: ShowOutcome) -> None:
        """Show it by a reaction. Where none is possible, a failure is told in words; an answer is not worth them."""
        target, outcome = plan.target, plan.outcome
        done = isinstance(outcome, MarkAnswered) and outcome.done
        try:
            is_shown = await target.adapter.mark(outcome.source, done=done)
            if not is_shown and isinstance(outcome, MarkFailed):
                await self._say(replace(target, reply_to=outcome.source), digests.did_not_cross(outcome), "f")
        except TargetGone:
            _log.info("what is to be marked is gone", pair=target.pair.name, direction=plan.entry.lane.label)
        await self.entries.done(plan.entry)

    async def _say(
        self, target: Target, words: n.RichText, verb: str, thread: ThreadRef | None = None, *, silent: bool = False
    ) -> None:
        content = Content(words, style="notice", silent=silent)
        delivery = render.delivery(target, None, content, verb, suspect=target.suspect)
        await target.adapter.send(replace(delivery, thread=thread))

    # --- Late files -----------------------------------------------------------------------------------

    async def _send_late_file(self, plan: SendLateFile) -> None:
        """Post the file behind the words of its message."""
        target, late, entry = plan.target, plan.late, plan.entry
        part = target.copies[-1].part + 1
        is_from_past = target.original is not None and target.original.from_past
        content = Content(n.RichText(), (late.attachment,), silent=is_from_past)
        delivery = render.delivery(target, late.author, content, "s", part=part, suspect=target.suspect)
        if target.capabilities.native_replies:
            delivery = replace(delivery, reply_to=target.copies[0].ref)
        try:
            ref = await target.adapter.send(delivery)
        except (FileRejected, FileUnavailable, TargetGone) as error:
            if isinstance(error, FileUnavailable) or (isinstance(error, FileRejected) and error.late):
                await self.entries.move_late_file(entry, late, lambda: LaneKey.within(entry.lane.destination))
                return
            _log.info("late file does not cross", pair=target.pair.name, reason=str(error))
            self.status.dropped(entry.lane, "file")
            await self.entries.done(entry)
        else:
            async with self.store.write() as uow:
                if target.original is not None:
                    await uow.messages.record_copy(Copy(target.original.id, part, ref), retries=entry.retries)
                removed = target.follows_removals and await self.entries.follow_removal(uow, target, ref)
                await uow.outbox.done(entry.id)
            if removed:
                self.entries.wake(entry.lane.back)
        self.entries.late_files.forget(late)


def _says_something(plan: Send | Edit) -> bool:
    """Whether it is about what its author says; else a copy changes with what it refers to."""
    return isinstance(plan, Send) or plan.is_new


def _received_at(entry: Entry, item: DigestItem) -> datetime:
    return max(entry.queued_at, item.created_at)
