"""Makes a plan of an entry. What it needs to know is looked up here, when it is delivered."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import takewhile

from relay.core.convert.degrade import media_in, without_media
from relay.core.delivery import digests
from relay.core.delivery.late_files import LateFiles
from relay.core.delivery.lookups import Lookups
from relay.core.delivery.plan import (
    Delete,
    DeleteOriginal,
    DeleteSuperseded,
    Done,
    Edit,
    EditDigest,
    EditFormer,
    Merge,
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
from relay.core.files import MediaLinks
from relay.core.offload import Conversions
from relay.core.ports import Clock
from relay.core.recent import Recent
from relay.core.storage import Entry, Unreadable
from relay.domain.commands import (
    DeleteMessage,
    Digest,
    DigestItem,
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
from relay.domain.content import Author, Content, Quotation
from relay.domain.events import MessageCreated
from relay.domain.ids import ChannelRef, MessageRef
from relay.domain.pair import LaneKey
from relay.domain.text.rewrite import weight
from relay.errors import ActionNeeded, NotYet, Permanent, Transient
from relay.logs import get_logger

_log = get_logger(__name__)

_MOST_IN_A_DIGEST = 50
_MOST_BYTES_FOR_A_DIGEST = 256 * 1024  # of what waits that are read for a digest, which holds far less

_LONGEST_WAIT = 35.0
"""Seconds that replies wait for one copy to be on record."""

_HEADS = 1024 * 1024
"""Bytes of the lanes whose heads are remembered, and of what is answered in them. Of one that is dropped, the wait
begins anew."""


def only_looks(entry: Entry) -> bool:
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


@dataclass(frozen=True, slots=True)
class _Awaited:
    """What a lane's head answers, and what was at the head of the lane that makes copies there."""

    answered: MessageRef
    head: int


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class ReplyGate:
    """Delays a reply whose target is a copy that we posted but have not recorded yet.

    People are quick, and a process may die between a send and its receipt. Only replies to a copy of ours that the
    other lane is about are worth a short wait.
    """

    lookups: Lookups
    clock: Clock
    _awaited: Recent[LaneKey, _Awaited] = field(default_factory=lambda: Recent(_HEADS), init=False)
    # What was at the head of a lane when it was last asked for, and since when.
    _heads: Recent[LaneKey, tuple[int, float]] = field(default_factory=lambda: Recent(_HEADS), init=False)

    async def wait_for(self, lane: LaneKey, answered: MessageRef) -> None:
        """Raises `NotYet` where what is answered is a copy that is just being made.

        A lane makes one copy at a time: once its head has changed, what people could see is on record.
        """
        awaited = self._awaited.pop(lane, None)
        head = await self.under_way(lane, answered)
        if head is None:
            return
        if awaited is None or awaited.answered != answered:
            if not await self._is_ours(answered):
                return
        elif awaited.head != head:
            return
        self._awaited[lane] = _Awaited(answered, head)
        raise NotYet("what it answers is a copy that is just being made")

    async def under_way(self, lane: LaneKey, answered: MessageRef) -> int | None:
        """The entry whose copy `answered`, of which nothing is on record, may be; None if it can be none."""
        other = lane.back
        async with self.lookups.store.read() as uow:
            if await uow.messages.find(answered) is not None:
                return None
            waiting = await uow.outbox.waiting(other, 1)
        if not waiting:
            return None
        head, now = waiting[0].id, self.clock.monotonic()
        known, since = self._heads.get(other, (None, now))
        self._heads[other] = (head, since if known == head else now)
        return head if known != head or now - since < _LONGEST_WAIT else None

    async def _is_ours(self, answered: MessageRef) -> bool:
        with suppress(Transient):
            seen = await self.lookups.adapters[answered.platform].quote(answered)
            return seen is not None and seen.is_self
        return False


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Resolver:
    """Makes plans of entries."""

    lookups: Lookups
    reply_gate: ReplyGate
    late_files: LateFiles
    conversions: Conversions
    links: MediaLinks | None = None  # to files that cannot cross

    async def resolve(self, entry: Entry, *, suspect: bool) -> Plan:
        """What is to be done about an entry now.

        `suspect`: an earlier try may have reached the platform. Raises a `DeliveryError` or `StoreUnavailable`.
        """
        if entry.lane.crosses and not isinstance(entry.command, DeleteMessage | RemoveMember | PostNotice):
            await self.lookups.require_agreeing_marks(entry.lane)
        match entry.command:
            case SendMessage() as command:
                return await self._send(entry, command, suspect=suspect)
            case EditMessage() as command:
                return await self._edit(entry, command, suspect=suspect)
            case RefreshMessage() | RequoteMessage() as command:
                return await self._read_again(entry, command, suspect=suspect)
            case DeleteMessage() as command:
                return await self._delete(entry, command, suspect=suspect)
            case RemoveOriginal(source):
                return DeleteOriginal(await self.lookups.target(entry, suspect=False), source)
            case RemoveMember(user):
                return RemoveFrom(await self.lookups.target(entry, suspect=False), user)
            case PostNotice() as notice:
                return SendNotice(await self.lookups.target(entry, suspect=suspect), notice)
            case MarkFailed() | MarkAnswered() as outcome:
                return ShowOutcome(await self.lookups.target(entry, suspect=suspect), outcome)
            case Digest() as digest:
                target = await self.lookups.target(entry, suspect=suspect)
                return SendDigest(target, *await self._shown(entry, digest))
            case LateFile() as late if (
                entry.lane.crosses and not suspect and (left_out := await self._left_out(entry, late.author))
            ):
                self.late_files.end(late)
                return left_out
            case LateFile() as late if entry.lane.crosses:
                return await self._late_file(entry, late, suspect=suspect)
            case LateFile() as late:
                return await self.late_files.look(entry, late)
            case Unreadable(why=why):
                raise Permanent(f"it cannot be read ({why})")

    # --- Messages and edits ---------------------------------------------------------------------------

    async def _send(
        self, entry: Entry, command: SendMessage, *, suspect: bool, first_words: EditMessage | None = None
    ) -> Send | Done:
        target = await self.lookups.target_about(entry, command.source, command.reply_to, suspect=suspect)
        if target.original is not None and target.original.deleted and not suspect and not target.copies:
            return Done(entry)
        if not target.copies and not suspect and (left_out := await self._left_out(entry, command.author)):
            return left_out
        if command.reply_to is not None and target.reply_to is None and not target.copies:
            await self.reply_gate.wait_for(entry.lane, command.reply_to)
        shown, unseen = command, 0
        if (page := await self._only_at(entry.lane, command.source, command.created_at)) is not None:
            command = replace(command, parts=tuple(without_media(part, page) for part in command.parts))
            # The command keeps its files, so that each try knows how many it leaves out.
            shown, unseen = replace(command, content=without_media(command.content, page)), media_in(command.content)
        content, quotation = await self._words(target, shown)
        target = self.lookups.in_gap(target, command.created_at)
        return Send(
            target=target,
            command=command,
            content=content,
            unseen=unseen,
            quotation=quotation,
            first_words=first_words,
        )

    async def _left_out(self, entry: Entry, author: Author) -> Done | None:
        """What becomes of an entry whose author has opted out since then, or is blocked; None if it crosses."""
        if (refused := await self._refused(entry, author)) is not None:
            return refused
        return Done(entry) if (await self.lookups.people.of(author.user)).has_opted_out else None

    async def _refused(self, entry: Entry, author: Author) -> Done | None:
        """What becomes of an entry whose author is blocked; None if nobody is."""
        why = await self.lookups.refusal(entry.lane, author.user)
        return None if why is None else Done(entry, refused=author.user, why=why)

    async def is_partly_unwanted(self, entry: Entry) -> bool:
        """Whether an entry is a digest in which somebody's words are not to cross any more."""
        if not isinstance(entry.command, Digest):
            return False
        authors = {item.author.user for item in entry.command.items}
        return any([await self.lookups.is_unwanted(entry.lane, user) for user in authors])

    async def _edit(self, entry: Entry, command: EditMessage, *, suspect: bool, is_new: bool = True) -> Plan:
        """`is_new`: it says something that its author has not said before."""
        target = await self.lookups.target_about(entry, command.source, command.reply_to, suspect=suspect)
        if is_new and not suspect and (refused := await self._refused(entry, command.author)) is not None:
            return refused
        if not target.copies and (former := await self.lookups.former_channels(target)):
            return await self._edit_former(entry, command, former)
        original = target.original
        if not target.copies or original is None or (original.deleted and not suspect):
            if original is None or original.deleted or not original.left_out or not command.content:
                return UpdateDeadLetters(entry, command)
            # It was queued before it was known that there was nothing in the message that can cross. An edit that came
            # later has been made a message by the router.
            sent = SendMessage(command.source, command.author, command.content, original.created_at, original.reply_to)
            return await self._send(replace(entry, command=sent), sent, suspect=suspect, first_words=command)
        if not suspect and original.edited_at is not None and command.edited_at < original.edited_at:
            # A later edit waits behind this one, or has crossed before it: its words are the ones that count.
            return Done(entry)
        return await self._edit_at(target, command, is_new=is_new)

    async def _edit_at(self, target: Target, command: EditMessage, *, is_new: bool = True) -> Edit:
        written_at = command.edited_at if target.original is None else target.original.created_at
        unseen = 0
        if (page := await self._only_at(target.entry.lane, command.source, written_at)) is not None:
            unseen = media_in(command.content)
            # With the parts goes what an earlier try may have posted anew: they are what it is found by.
            parts = tuple(without_media(part, page) for part in command.parts)
            command = replace(command, content=without_media(command.content, page), parts=parts)
        content, quotation = await self._words(target, command)
        if target.original is not None and target.original.from_past:
            content = replace(content, silent=True)
        target = self.lookups.in_gap(target, command.edited_at)
        return Edit(target=target, command=command, content=content, is_new=is_new, unseen=unseen, quotation=quotation)

    async def _edit_former(self, entry: Entry, command: EditMessage, former: frozenset[ChannelRef]) -> EditFormer:
        """The copies stand in a channel that the lane does not lead to any more.

        One that the lane's has replaced is the same place. What the operator has put in the place of another is not.
        """
        reason = "its copy stands where this channel is not mirrored to any more"
        edits = []
        for place in former:
            if not self.lookups.is_replaced(place, entry.lane):
                continue
            reason = "its copy stands in a room that has been replaced, and cannot be changed there"
            target = await self.lookups.target_about(
                entry, command.source, command.reply_to, suspect=False, where=place
            )
            try:
                edits.append(await self._edit_at(target, command))
            except (ActionNeeded, Permanent) as error:
                _log.info("a copy in a replaced channel stays as it is", pair=target.pair.name, reason=str(error))
        return EditFormer(entry, tuple(edits), reason)

    async def _words(self, target: Target, command: SendMessage | EditMessage) -> tuple[Content, Quotation | None]:
        """What a message says in its channel, and what stands above it of what it answers."""
        if command.parts:
            return command.content, None  # it has been cut already, with all that was found then
        content = await self.lookups.answer(target, command.content, command.reply_to)
        content = self._with_links(target.entry, command, content)
        if isinstance(command, EditMessage) and target.shared is not None:
            return content, None  # a digest keeps its quoted lines
        if command.reply_to is None or target.replies_natively:
            return content, None
        return content, await self.lookups.quotation(target, command.reply_to, target.reply_to)

    async def _only_at(self, lane: LaneKey, source: MessageRef, written_at: datetime) -> str | None:
        """Where files and pictures of a message have to be looked at, because they may not cross; None if they may."""
        if await self.lookups.carries_files(lane, written_at):
            return None
        return self.lookups.link(source)

    async def _shown(self, entry: Entry, digest: Digest) -> tuple[Digest, int]:
        """The digest without the pictures in its words that may not cross, and how many these are."""
        items, unseen = list(digest.items), 0
        for number, item in enumerate(items):
            if not await self.lookups.carries_files(entry.lane, item.created_at):
                unseen += media_in(item.content)
                items[number] = replace(item, content=without_media(item.content, ""))
        return replace(digest, items=tuple(items)), unseen

    def _with_links(self, entry: Entry, command: SendMessage | EditMessage, content: Content) -> Content:
        """`content` with a link of ours for each file, for words that stand for one; every try has the same.

        What leads to the file's own platform stays beside it: it does not end.
        """
        if self.links is None or not content.attachments:
            return content
        files = []
        for file in content.attachments:
            url = self.links.link(file, command.source, since=entry.queued_at)
            files.append(file if url is None else replace(file, url=url, page=file.page or file.url))
        return replace(content, attachments=tuple(files))

    async def _delete(self, entry: Entry, command: DeleteMessage, *, suspect: bool) -> Delete | DeleteSuperseded:
        # Where others stand in the same copy, it may have been posted anew for them.
        target = await self.lookups.target_about(entry, command.source, None, suspect=suspect)
        if command.leftovers:
            if target.original is not None and target.original.deleted:
                # Where it has left a shared copy that was posted anew for the others, the old one is its last.
                left = tuple(copy for copy in target.copies if copy.superseded)
                target = replace(target, superseded=(*left, *target.superseded))
            return DeleteSuperseded(target)
        # Whatever the channel is paired with by now: what somebody deletes is to be read nowhere.
        former = [
            await self.lookups.target_about(entry, command.source, None, suspect=False, where=place)
            for place in await self.lookups.former_channels(target)
        ]
        return Delete(target, command.source, tuple(former))

    async def _late_file(self, entry: Entry, late: LateFile, *, suspect: bool) -> SendLateFile | Done:
        found = await self.late_files.sending(entry, late, suspect=suspect)
        if isinstance(found, Done) or suspect:
            return found
        written_at = late.since if found.target.original is None else found.target.original.created_at
        if await self.lookups.carries_files(entry.lane, written_at):
            return found
        self.late_files.end(late)  # the words that stand for it stay
        return Done(entry, unseen=1)

    # --- What is read again ---------------------------------------------------------------------------

    async def _read_again(self, entry: Entry, command: RefreshMessage | RequoteMessage, *, suspect: bool) -> Plan:
        if only_looks(entry):
            return await self._look_again(entry, command)
        if isinstance(command, RefreshMessage):
            return await self._refresh(entry, command, suspect=suspect)
        if entry.lane.crosses:
            return await self._requote(entry, command, suspect=suspect)
        return self._come_back(entry, command)

    async def _refresh(self, entry: Entry, command: RefreshMessage, *, suspect: bool) -> Plan:
        try:
            said = await self.lookups.latest(command.source)
        except Transient as error:
            if suspect:
                raise  # only this entry can find again what an earlier try may have posted
            return self._wait_for_source(entry, command, error)
        if said is None:
            return Done(entry)  # it was deleted, and that waits behind this
        return await self._edit(entry, _as_edit(command, said), suspect=suspect)

    async def _requote(self, entry: Entry, command: RequoteMessage, *, suspect: bool) -> Plan:
        found = await self._requoted(entry, command, suspect=suspect)
        if found is None:
            return Done(entry)
        target, digest = found
        if digest is not None:
            return EditDigest(target, digest)
        try:
            said = await self.lookups.latest(command.source)
        except Transient as error:
            if suspect:
                raise
            return self._wait_for_source(entry, command, error)
        if said is None or target.original is None:
            return Done(entry)
        edited_at = target.original.edited_at or said.created_at
        unseen = not suspect and said.edited_at is not None and said.edited_at > edited_at
        # What it was changed to has not been taken in: its author may be blocked.
        if unseen and (refused := await self._refused(entry, said.author)) is not None:
            return refused
        edit = EditMessage(command.source, said.author, said.content, edited_at, command.reply_to)
        return await self._edit(entry, edit, suspect=suspect, is_new=False)

    async def _requoted(
        self, entry: Entry, command: RequoteMessage, *, suspect: bool
    ) -> tuple[Target, Digest | None] | None:
        """Where a quoted line is to be changed, with the digest that says it then; None where nothing changes."""
        target = await self.lookups.target_about(entry, command.source, command.reply_to, suspect=suspect)
        # A suspect one is carried out to its end, whatever has changed since: an earlier try may have posted the copy
        # anew, and only this entry can find that.
        if not target.copies or target.original is None or (target.original.deleted and not suspect):
            return None
        async with self.lookups.store.read() as uow:
            if not suspect and await uow.outbox.is_repeated(entry):
                return None  # once is enough, however often somebody edits what many answer
        digest = target.require_digest()
        if digest is None:
            return None if target.replies_natively else (target, None)
        quotation = await self.lookups.quotation(target, command.reply_to, target.reply_to)
        async with self.lookups.store.read() as uow:
            originals = [await uow.messages.find(item.source) for item in digest.items]
        changed = digest
        for original in originals:
            if original is not None and original.reply_to == command.reply_to:
                changed = digests.requoted(changed, original.ref, quotation)
        # What an earlier try has posted anew says it already, but its old copy may still stand.
        return None if changed == digest and not suspect and not target.superseded else (target, changed)

    def _wait_for_source(self, entry: Entry, command: RefreshMessage | RequoteMessage, error: Transient) -> Move:
        """What a message says cannot be asked now: wait with all that waits for its platform, and hold up nobody."""
        _log.info("waits for its own side", direction=entry.lane.label, reason=str(error))
        return Move(entry, LaneKey.within(entry.lane.source), command)

    async def _look_again(self, entry: Entry, command: RefreshMessage | RequoteMessage) -> Move | Done:
        """What could not be read when it was its turn crosses once it can. Raises `Transient`."""
        said = await self.lookups.latest(command.source)
        async with self.lookups.store.read() as uow:
            original = await uow.messages.find(command.source)
        # The pair may be another one by now: what is in no copy yet is not to be sent to its channel.
        if said is None or original is None or original.left_out:
            return Done(entry)
        again = _as_edit(command, said) if isinstance(command, RefreshMessage) else command
        return Move(entry, self._lane_from(entry.lane), again)

    # --- Quoted lines give way ------------------------------------------------------------------------

    async def postpone(self, entry: Entry) -> Move | Done:
        """Let a quoted line wait for its turn among notices; it comes back to the end of its lane then.

        What would change nothing is done. Raises a `DeliveryError` or `StoreUnavailable`.
        """
        if isinstance(entry.command, RequoteMessage) and await self._requoted(entry, entry.command, suspect=False):
            return Move(entry, LaneKey.within(entry.lane.destination), entry.command)
        return Done(entry)

    def _come_back(self, entry: Entry, command: RequoteMessage) -> Move:
        """A quoted line that waited among the notices has its turn: it goes to the end of its own lane."""
        return Move(entry, self._lane_from(entry.lane).back, command, had_turn=True)

    def _lane_from(self, within: LaneKey) -> LaneKey:
        """The lane from the channel of a lane that does not cross. Raises `NotDeclared` without a pair."""
        return self.lookups.pairs.lane_from(within.source, self.lookups.pair(within))

    # --- Several as one -------------------------------------------------------------------------------

    async def together(self, entry: Entry, *, seconds_each: float, lanes: int) -> Merge | None:
        """How what waits behind `entry` crosses together with it, if one by one would take too long; None if not.

        `seconds_each`: what a message takes of late; `lanes`: how many share that. Raises as `resolve` does.
        """
        match entry.command:
            case PostNotice() | MarkFailed():
                async with self.lookups.store.read() as uow:
                    waiting = await uow.outbox.waiting(entry.lane, digests.MOST_NOTICES)
                return digests.notices_together(entry, waiting)
            case SendMessage(created_at=written_at):
                # What may have crossed already is looked for message by message.
                if self.lookups.gap is None or not self.lookups.gap.covers(written_at):
                    return await self._digest(entry, seconds_each=seconds_each, lanes=lanes)
        return None

    async def _digest(self, entry: Entry, *, seconds_each: float, lanes: int) -> Merge | None:
        target = await self.lookups.target(entry, suspect=False)
        limit = target.pair.policy.batch_when_behind
        async with self.lookups.store.read() as uow:
            waiting, whole = await uow.outbox.read_ahead(entry.lane, _MOST_IN_A_DIGEST, _MOST_BYTES_FOR_A_DIGEST)
        count = len(waiting) if whole else _MOST_IN_A_DIGEST
        if not limit or count * seconds_each * lanes <= limit:
            return None
        while True:
            run = digests.run_of(waiting)
            items = await self._fitting(target, run.messages)
            if len(items) == len(run.messages):
                break
            waiting = _before(waiting, run.messages[len(items)].source)
        if len(items) < 2:
            return None
        return Merge(entry, Digest(items), tuple(other for other in run.settled if other != entry.id))

    async def _fitting(self, target: Target, messages: tuple[SendMessage, ...]) -> tuple[DigestItem, ...]:
        """As many of the messages as one copy can hold, from the first on."""
        items: tuple[DigestItem, ...] = ()
        for message in messages:
            page = await self._only_at(target.entry.lane, message.source, message.created_at)
            said = message.content if page is None else without_media(message.content, page)
            found = await self.lookups.answer(target, said, message.reply_to)
            await asyncio.sleep(0)  # Whatever else is due comes between.
            content = digests.short_text(target, message.author, found)
            if content is None or await self._may_have_to_wait(target, messages, message.reply_to):
                break
            if await self.lookups.is_unwanted(target.entry.lane, message.author.user):
                break
            item = digests.item_of(message, content, await self._quoted(target, messages, message.reply_to))
            digest = Digest((*items, item))
            if not await self.conversions.run(weight(digest), digests.fits, target, digest):
                break
            items = (*items, item)
        return items

    async def _may_have_to_wait(
        self, target: Target, messages: tuple[SendMessage, ...], answered: MessageRef | None
    ) -> bool:
        """Whether a message answers what may be a copy that is just being made: it crosses by itself."""
        if answered is None or digests.quotation_within(messages, answered) is not None:
            return False
        async with self.lookups.store.read() as uow:
            if await uow.messages.counterpart(answered, target.channel) is not None:
                return False
        return await self.reply_gate.under_way(target.entry.lane, answered) is not None

    async def _quoted(
        self, target: Target, messages: tuple[SendMessage, ...], answered: MessageRef | None
    ) -> Quotation | None:
        if answered is None:
            return None
        if (within := digests.quotation_within(messages, answered)) is not None:
            return within
        async with self.lookups.store.read() as uow:
            stands = await uow.messages.counterpart(answered, target.channel)
        return await self.lookups.quotation(target, answered, stands)

    async def one_by_one(self, entry: Entry) -> tuple[SendMessage, ...]:
        """The messages of a digest that was refused, to be sent one by one; empty if it is none."""
        if not isinstance(entry.command, Digest):
            return ()
        async with self.lookups.store.read() as uow:
            originals = [await uow.messages.find(item.source) for item in entry.command.items]
        return tuple(
            SendMessage(
                item.source, item.author, item.content, item.created_at, None if original is None else original.reply_to
            )
            for item, original in zip(entry.command.items, originals, strict=True)
        )


def _as_edit(command: RefreshMessage, said: MessageCreated) -> EditMessage:
    return EditMessage(command.source, said.author, said.content, command.edited_at, command.reply_to)


def _before(waiting: Sequence[Entry], source: MessageRef) -> Sequence[Entry]:
    """What waits before the message `source`, which does not fit any more."""
    return list(takewhile(lambda entry: _sent_by(entry) != source, waiting))


def _sent_by(entry: Entry) -> MessageRef | None:
    return entry.command.source if isinstance(entry.command, SendMessage) else None
