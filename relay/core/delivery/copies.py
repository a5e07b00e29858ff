"""What becomes of copies that stand: one that nobody can edit is posted anew, and what is too many is deleted.

What is posted anew is the last message of the channel. So the parts behind it, too, have to be posted anew: whatever
interrupts that, they are on record as such (`core.storage.standing`) from the moment at which they are out of order.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from relay.core.delivery import digests, render
from relay.core.delivery.entries import Entries
from relay.core.delivery.plan import Edit, Target
from relay.core.delivery.render import Parts
from relay.core.ports import Clock, Delivery
from relay.core.storage import Copy, Store, UnitOfWork, standing
from relay.domain.commands import Digest, RefreshMessage, RequoteMessage
from relay.domain.ids import MessageRef
from relay.errors import CopyNotEditable, FileRejected, Permanent, TargetGone
from relay.logs import get_logger

_log = get_logger(__name__)


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class StandingCopies:
    """Posts them anew, finds what an earlier try has posted of them, and deletes them."""

    store: Store
    entries: Entries
    clock: Clock

    # --- Posted anew ----------------------------------------------------------------------------------

    async def post_part_again(self, plan: Edit, parts: Parts, number: int, *, suspect: bool) -> Target:
        """Post a part anew, and delete its old copy; the target as it is then.

        `suspect`: an earlier try may have posted this part anew, or one behind it.
        """
        if suspect:
            target = await self.with_posted_again(plan, parts, number)
            if target.copies[number] != plan.target.copies[number]:
                return target
            plan = replace(plan, target=target)
        ref = await plan.target.post(self._again(plan, parts, number, suspect=suspect))
        return await self._replace(plan.target, number, ref)

    async def with_posted_again(self, plan: Edit, parts: Parts, first: int) -> Target:
        """The target with the part, the `first` or one behind it, that an earlier try has posted anew, if it has."""
        target = plan.target
        for number in reversed(range(first, min(len(target.copies), len(parts)))):
            again = self._again(plan, parts, number, suspect=True)
            if (ref := await self._posted(target, again)) is not None:
                return await self._replace(target, number, ref)
        return target

    async def with_added(self, plan: Edit, parts: Parts) -> Target:
        """The target with the part that an earlier try has perhaps added, which is put on record.

        It is looked for behind the last copy on record: not behind one that this try is about to post anew.
        """
        target, number = plan.target, len(plan.target.copies)
        if target.original is None or number >= len(parts):
            return target
        sought = render.delivery(target, plan.command.author, parts[number], "s", part=number, suspect=True)
        if (ref := await self._posted(target, sought)) is None:
            return target
        found = Copy(target.original.id, number, ref)
        async with self.store.write() as uow:
            removed = await self._record(uow, target, found)
        self._follow(target, removed)
        return replace(target, copies=(*target.copies, found))

    async def remove_posted_again(self, plan: Edit, parts: Parts, number: int) -> None:
        """What an earlier try may have posted in the place of a copy goes: that has been removed, or edited, since."""
        await self._remove_posted(plan.target, number, self._again(plan, parts, number, suspect=True))

    async def edit_digest(self, target: Target, digest: Digest, *, leaving: bool = False) -> Target:
        """Make the shared copy of a message say `digest`, and remember it; the target as it is then.

        `leaving`: the message stands in it no longer.
        """
        delivery = render.delivery(target, digests.speaker(digest), digests.content_of(digest), "e")
        old = None
        try:
            await target.adapter.edit(target.copies[0].ref, delivery)
        except TargetGone:
            _log.info("edited copy is gone", pair=target.pair.name, direction=target.entry.lane.label)
        except CopyNotEditable:
            target, old = await self._post_digest_again(target, digest, leaving=leaving)
        if old is None and target.suspect:
            await self._remove_posted(target, 0, _shared_again(target, digest))
        async with self.store.write() as uow:
            # In one transaction: a digest without a message whose copy is still on record would be taken for a message
            # that stands alone, and its deletion would take the others along.
            await uow.digests.put(target.copies[0].ref, digest)
            if leaving:
                await uow.messages.forget_copy(target.copies[0])
        if old is not None:
            await self.delete_superseded(target, (old,))
        return target

    async def _post_digest_again(self, target: Target, digest: Digest, *, leaving: bool) -> tuple[Target, Copy]:
        """What posted the shared copy is gone: post it again, for all that stand in it. Also returns the old copy."""
        shared = target.copies[0]
        ref = await target.post(_shared_again(target, digest))
        if target.suspect:
            # An earlier try may have posted it, with what was quoted then.
            again = render.delivery(target, digests.speaker(digest), digests.content_of(digest), "e")
            with suppress(TargetGone, CopyNotEditable):
                await target.adapter.edit(ref, again)
        own: tuple[Copy, ...] = ()
        async with self.store.write() as uow:
            sharing = await uow.messages.originals_of(shared.ref)
            old = await uow.messages.supersede(shared)
            for original in sharing:
                behind = standing(await uow.messages.copies(original.id, target.channel))
                behind = await _displace(uow, [copy for copy in behind if copy.part])
                is_own = original.id == shared.message_id
                own = behind if is_own else own
                if not (leaving and is_own):  # as in `edit_digest`
                    await uow.messages.record_copy(Copy(original.id, 0, ref))
                # Of the message itself, whoever edits or deletes it takes care; but not who changes what it quotes.
                if behind and (not is_own or isinstance(target.entry.command, RequoteMessage)):
                    edited_at = original.edited_at or original.created_at
                    refresh = RefreshMessage(original.ref, edited_at, original.reply_to)
                    await uow.outbox.append(target.entry.lane, refresh, self.clock.now())
            await uow.digests.put(ref, digest)
            await uow.digests.forget(shared.ref)
        self.entries.wake(target.entry.lane)  # for what was queued
        return replace(target, copies=(replace(shared, ref=ref), *own)), old

    def _again(self, plan: Edit, parts: Parts, number: int, *, suspect: bool) -> Delivery:
        """A part, to be posted in the place of its copy."""
        target, copy, author = plan.target, plan.target.copies[number], plan.command.author
        again = render.delivery(
            target, author, parts[number], "a", part=copy.part, suspect=suspect, instead_of=copy.ref
        )
        return replace(again, alone=False)  # what is in doubt may be another part, with other words

    async def _posted(self, target: Target, delivery: Delivery) -> MessageRef | None:
        """What an earlier try has posted, in these words; None if nothing. Nothing is posted now."""
        try:
            return await target.post(replace(delivery, alone=False, last_try=True))
        except (Permanent, FileRejected):
            return None

    async def _remove_posted(self, target: Target, number: int, delivery: Delivery) -> None:
        """Delete what an earlier try has posted in the place of a copy, if it has; later, if that is forbidden now."""
        if (ref := await self._posted(target, delivery)) is None:
            return
        found = replace(target.copies[number], ref=ref, superseded=0)
        try:
            await self._delete_one(target, found)
        except Permanent as error:
            _log.warning("copy posted twice stays for now", pair=target.pair.name, reason=str(error))
            # On record under a number that no part has, until it is among those that are too many.
            unused = 1 + max(copy.part for copy in (*target.copies, *target.superseded))
            async with self.store.write() as uow:
                await uow.messages.record_copy(replace(found, part=unused))
                await uow.messages.supersede(replace(found, part=unused), part=0)
            await self.entries.delete_later(target)

    async def _replace(self, target: Target, number: int, ref: MessageRef) -> Target:
        """A part has been posted anew: put that on record, and delete its old copy."""
        before, copy, behind = target.copies[:number], target.copies[number], target.copies[number + 1 :]
        anew = replace(copy, ref=ref, superseded=0)
        # Whatever interrupts us from here on, the old one is known to be too many.
        async with self.store.write() as uow:
            (old,) = await _displace(uow, [copy])
            removed = await self._record(uow, target, anew)
            behind = await _displace(uow, behind)
        self._follow(target, removed)
        await self.delete_superseded(target, (old,))
        return replace(target, copies=(*before, anew, *behind))

    async def _record(self, uow: UnitOfWork, target: Target, copy: Copy) -> bool:
        """Put a copy on record; whether its original is to be removed, see `Entries.follow_removal`."""
        await uow.messages.record_copy(copy, retries=target.entry.retries)
        return target.follows_removals and await self.entries.follow_removal(uow, target, copy.ref)

    def _follow(self, target: Target, removed: bool) -> None:
        if removed:
            self.entries.wake(target.entry.lane.back)

    # --- Deleted --------------------------------------------------------------------------------------

    async def delete(self, target: Target, copies: Sequence[Copy]) -> None:
        """Delete copies, the last first."""
        for copy in reversed(copies):
            await self._delete_one(target, copy)
            async with self.store.write() as uow:
                await uow.messages.forget_copy(copy)
                await uow.digests.forget(copy.ref)

    async def delete_superseded(self, target: Target, old: tuple[Copy, ...]) -> tuple[Copy, ...]:
        """Delete copies that were posted again elsewhere, later if that is forbidden now; those that stay for now."""
        try:
            await self.delete(target, old)
        except Permanent as error:
            _log.warning("old copy stays for now", pair=target.pair.name, reason=str(error))
            await self.entries.delete_later(target)
            return old
        return ()

    async def delete_left_over(self, target: Target, copies: Sequence[Copy]) -> None:
        """Delete copies of parts that a message has no longer. What may not be deleted now is on record as too many."""
        refused = []
        for copy in reversed(copies):
            try:
                await self.delete(target, (copy,))
            except Permanent as error:
                _log.warning("left-over copy stays for now", pair=target.pair.name, reason=str(error))
                refused.append(copy)
        if refused:
            async with self.store.write() as uow:
                for copy in refused:
                    # Its own part may be said again, elsewhere; the first always stands.
                    await uow.messages.supersede(copy, part=0)
            await self.entries.delete_later(target)

    async def _delete_one(self, target: Target, copy: Copy) -> None:
        try:
            await target.adapter.delete(copy.ref, render.key(target, copy.part, "d", copy.ref))
        except TargetGone:
            _log.debug("copy was gone already", pair=target.pair.name, direction=target.entry.lane.label)


def _shared_again(target: Target, digest: Digest) -> Delivery:
    """A shared copy, to be posted in the place of the one that stands."""
    author, said, shared = digests.speaker(digest), digests.content_of(digest), target.copies[0].ref
    return render.delivery(target, author, said, "a", suspect=target.suspect, instead_of=shared)


async def _displace(uow: UnitOfWork, copies: Sequence[Copy]) -> tuple[Copy, ...]:
    """Put on record that copies have been, or have to be, posted again; as they are on record then."""
    return tuple([copy if copy.superseded else await uow.messages.supersede(copy) for copy in copies])
