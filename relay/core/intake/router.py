"""Events to commands: finds the pair of an event, drops our own echoes and replays, and queues what has to be done.

Nothing is delivered here. Events become outbox rows, in one transaction with their cursors; delivery does the rest.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from relay.core.author_names import AuthorNames
from relay.core.moderation import early_removals
from relay.core.moderation.bans import BanAct
from relay.core.moderation.decisions import Moderation
from relay.core.pairs import SAID_WHILE_PAUSED, PairDirectory
from relay.core.people.commands import Commands
from relay.core.people.directory import PeopleDirectory
from relay.core.people.forgetting import is_kept_back
from relay.core.people.ports import MemberMirror, PictureKeeper
from relay.core.ports import Clock, CommandCall, EventBatch
from relay.core.recent import Recent
from relay.core.status.counters import Status
from relay.core.storage import Entry, Original, Store, UnitOfWork, standing
from relay.domain.commands import (
    Command,
    DeleteMessage,
    EditMessage,
    MarkAnswered,
    MarkFailed,
    PostNotice,
    RefreshMessage,
    RemoveMember,
    RemoveOriginal,
    RequoteMessage,
    SendMessage,
)
from relay.domain.content import Author
from relay.domain.events import (
    Event,
    Feature,
    FeatureUsed,
    HistorySkipped,
    MemberBanned,
    MemberLeft,
    MemberUnbanned,
    MessageCreated,
    MessageDeleted,
    MessageEdited,
    PictureChanged,
    PolicyListRead,
)
from relay.domain.ids import ChannelRef, MessageRef, Platform, ThreadRef, UserRef
from relay.domain.pair import LaneKey, Pair
from relay.domain.text.nodes import RichText

_MAX_REQUOTED = 20
"""How many replies follow when the message that they quote has changed."""

_EMPTY = "there was nothing in it that can cross"

_MAX_STREAMS = 10_000
"""How many streams are remembered of which a cursor is on disk."""

_OPTED_OUT_SECONDS = 300.0
"""How often a channel is told at most that somebody who has opted out said something."""

_CHANNELS_TOLD = 1024 * 1024
"""Bytes of the channels that are remembered as told of it. One that is dropped is told once more."""

_KEPT_BACK = 4 * 1024 * 1024
"""Bytes of the messages that are remembered as kept back."""

_CHANGES_KEPT = 1_000
"""Of so many changes it is remembered which messages they are of; with more, of any."""


@dataclass(slots=True, eq=False)
class PastWatch:
    """What changes in some channels while their past is read: it may have been read, and not be on record yet."""

    channels: frozenset[ChannelRef]
    # Any message may have changed.
    is_unsure: bool = field(init=False, default=False)
    # How often whoever reads has found that a message has changed.
    times: Counter[MessageRef] = field(init=False, default_factory=Counter)
    # What was edited, and by whom; what was deleted, by None.
    _changes: set[tuple[MessageRef, UserRef | None]] = field(init=False, default_factory=set)

    def begin(self) -> None:
        """What is read from now on is as it is now."""
        self._changes.clear()
        self.is_unsure = False

    def note(self, what: MessageRef | None, by: UserRef | None) -> None:
        """See `Router.note_change`."""
        if what is None or len(self._changes) >= _CHANGES_KEPT:
            self.is_unsure = True
        else:
            self._changes.add((what, by))

    def has_changed(self, event: MessageCreated) -> bool:
        """Whether a message is another one by now, or its last edit is gone. An edit by somebody else is none."""
        edit = () if event.edit is None else ((event.edit, None),)
        return not self._changes.isdisjoint(((event.ref, None), (event.ref, event.author.user), *edit))


@dataclass(slots=True)
class _Routed:
    """The results of one batch. Counted only once it is on disk, because otherwise the batch comes again."""

    # What tells, once the batch is on disk, what there is to deliver.
    queued: list[Callable[[], Entry | None]] = field(default_factory=list)
    dropped: list[tuple[LaneKey, Feature]] = field(default_factory=list)
    # Who has another picture, and where it is to be ready.
    pictures: list[tuple[Platform, Author]] = field(default_factory=list)
    # Of whom something was changed by a command.
    changed: set[UserRef] = field(default_factory=set)
    # Who was kept from crossing, and why.
    refused: list[tuple[Pair, UserRef, str]] = field(default_factory=list)
    policy_lists: list[PolicyListRead] = field(default_factory=list)
    bans: list[BanAct] = field(default_factory=list)


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Router:
    """Turns batches of events into commands in the outbox."""

    store: Store
    pairs: PairDirectory
    status: Status
    clock: Clock
    names: AuthorNames
    people: PeopleDirectory
    commands: Commands
    moderation: Moderation
    picture_keepers: Mapping[Platform, PictureKeeper]
    mirrors: Sequence[MemberMirror] = ()
    # When a channel was last told that somebody who has opted out said something.
    _told: Recent[ChannelRef, float] = field(init=False, default_factory=lambda: Recent(_CHANNELS_TOLD))
    # Streams of which this process has written a cursor.
    _begun: set[tuple[Platform, str]] = field(init=False, default_factory=set)
    # The newest messages of those who had opted out. Nothing of them is in the store, so that only this tells when one
    # comes again: its author may be in again by then, and did not mean it to cross.
    _kept_back: Recent[MessageRef, None] = field(init=False, default_factory=lambda: Recent(_KEPT_BACK))
    # One for each reading of a channel's past that is under way.
    past_watches: list[PastWatch] = field(init=False, default_factory=list)

    async def receive(self, batch: EventBatch) -> Sequence[Entry]:
        """Save a batch, and return what there is to deliver now. Raises `StoreUnavailable`."""
        routed = _Routed()
        if self._may_wait(batch):
            for event in batch.events:
                if isinstance(event, FeatureUsed):
                    self._feature_used(event, routed)
            self.store.put_later(batch.cursors)
        else:
            await self._save(batch, routed)
        for lane, feature in routed.dropped:
            self.status.dropped(lane, feature)
        for platform, author in routed.pictures:
            if (keeper := self.picture_keepers.get(platform)) is not None:
                keeper.expect(author)
        for pair, user, why in routed.refused:
            self.moderation.tell(pair, user, why)
        for act in routed.bans:
            self.moderation.bans.tell(act)
        for read in routed.policy_lists:
            await self.moderation.use(read)
        return [entry for told in routed.queued if (entry := told()) is not None]

    def _may_wait(self, batch: EventBatch) -> bool:
        """Whether nothing of the batch is to be written but its cursors, and these need no transaction of their own.

        They are written with the next one: mostly the receipt of the very copy whose echo this is. After a crash the
        same events come again, and are left out again. The first cursor of a stream says where it begins: it does not
        wait.
        """
        return (
            bool(batch.events)
            and all(
                isinstance(event, FeatureUsed) or (isinstance(event, MessageCreated) and event.author.is_self)
                for event in batch.events
            )
            and all((cursor.platform, cursor.stream) in self._begun for cursor in batch.cursors)
        )

    async def _save(self, batch: EventBatch, routed: _Routed) -> None:
        try:
            async with self.store.write() as uow:
                for event in batch.events:
                    await self._route(uow, event, routed)
                for cursor in batch.cursors:
                    await uow.cursors.put(cursor)
        except BaseException:
            self.names.forget()  # the names that were given may not have been saved
            raise
        finally:
            self.people.settle(routed.changed)
        if len(self._begun) > _MAX_STREAMS:
            self._begun.clear()
        self._begun.update((cursor.platform, cursor.stream) for cursor in batch.cursors)

    def _feature_used(self, event: FeatureUsed, routed: _Routed) -> None:
        """Something that cannot cross is only counted."""
        pair = self.pairs.pair_of(event.channel)
        if pair is not None and not event.user_is_self:
            lane = self.pairs.lane_from(event.channel, pair)
            if lane.destination.platform in pair.destinations:
                routed.dropped.append((lane, event.feature))

    async def _route(self, uow: UnitOfWork, event: Event, routed: _Routed) -> None:
        if isinstance(event, MemberLeft | PolicyListRead | MemberBanned | MemberUnbanned):
            await self._in_no_channel(uow, event, routed)
            return
        if isinstance(event, FeatureUsed):
            self._feature_used(event, routed)
            return
        in_channel = HistorySkipped | PictureChanged
        channel = event.channel if isinstance(event, in_channel) else event.ref.channel
        pair = self.pairs.pair_of(channel)
        if pair is None or self.pairs.is_left(pair):
            return
        lane = self.pairs.lane_from(channel, pair)
        if isinstance(event, MessageCreated) and event.command is not None and not event.author.is_self:
            await self._command(uow, event, event.command, lane, routed)
            return
        if lane.destination.platform not in pair.destinations:
            return
        match event:
            case MessageCreated():
                await self._created(uow, event, pair, lane, routed)
            case MessageEdited():
                await self._edited(uow, event, pair, lane, routed)
            case MessageDeleted():
                await self._deleted(uow, event, pair, lane, routed)
            case HistorySkipped(count=count) if not pair.paused:
                words = f"{count} messages that were written while the relay was away are not shown here."
                if count is None:
                    words = "Messages that were written while the relay was away may be missing here."
                elif count == 1:
                    words = "1 message that was written while the relay was away is not shown here."
                await self._queue(uow, lane, PostNotice(RichText.plain(words)), routed)
            case PictureChanged(author=author) if not author.is_self:
                if not await self._is_unwanted(uow, pair, lane, author.user):
                    routed.pictures.append((lane.destination.platform, author))

    async def _in_no_channel(
        self, uow: UnitOfWork, event: MemberLeft | PolicyListRead | MemberBanned | MemberUnbanned, routed: _Routed
    ) -> None:
        match event:
            case MemberLeft():
                await self._member_left(uow, event, routed)
            case PolicyListRead():
                await self.moderation.save(uow, event)
                routed.policy_lists.append(event)
            case MemberBanned() | MemberUnbanned():
                if (act := await self.moderation.bans.receive(uow, event, routed.changed)) is not None:
                    routed.bans.append(act)

    async def _member_left(self, uow: UnitOfWork, event: MemberLeft, routed: _Routed) -> None:
        """Behind what they said last, the account that stands for them on the other side leaves, if there is one."""
        present = [await mirror.channels_of(event.user) for mirror in self.mirrors]
        for channel in event.channels:
            pair = self.pairs.pair_of(channel)
            if pair is not None and (lane := self.pairs.lane_from(channel, pair)).destination in set().union(*present):
                await self._queue(uow, lane, RemoveMember(event.user), routed)

    async def _created(
        self, uow: UnitOfWork, event: MessageCreated, pair: Pair, lane: LaneKey, routed: _Routed
    ) -> None:
        if event.author.is_self:
            return
        if event.ref in self._kept_back or (await self.people.of(event.author.user, uow)).has_opted_out:
            self._kept_back[event.ref] = None
            await self._opted_out(uow, pair, lane, routed)
            return
        if (why := await self.moderation.refusal(pair, lane, event.author.user, uow)) is not None:
            await self._refused(uow, event, why, pair, lane, routed)
            return
        feature = _left_out(event, pair)
        if feature is not None:
            if not await uow.messages.is_copy(event.ref):
                await self._leave_out(uow, event, feature, lane, routed)
            return
        reply_to = event.reply_to or (await _root(uow, event.thread) if event.thread else None)
        author = await self.names.distinguished(uow, event.ref.channel, event.author)
        command = SendMessage(event.ref, author, event.content, event.created_at, reply_to)
        now = self.clock.now()
        routed.queued.append(await uow.outbox.append_new(lane, command, now, edited_at=event.edited_at))

    async def past(self, uow: UnitOfWork, event: MessageCreated, pair: Pair, lane: LaneKey) -> SendMessage | None:
        """How a message from before the relay was there crosses; None: it does not cross.

        Nobody is told that it does not, since they did not just say it.
        """
        if event.author.is_self or event.command is not None:
            return None
        user = event.author.user
        if _left_out(event, pair) is not None or await self._is_unwanted(uow, pair, lane, user):
            return None
        if await is_kept_back(uow, user):
            return None
        author = await self.names.distinguished_in_past(uow, event.ref.channel, event.author)
        reply_to = event.reply_to or (await _root(uow, event.thread) if event.thread else None)
        content = replace(event.content, silent=True)
        return SendMessage(event.ref, author, content, event.created_at, reply_to)

    def note_change(self, channel: ChannelRef, what: MessageRef | None = None, by: UserRef | None = None) -> None:
        """A message that is not on record was edited by somebody, or deleted; without `what`, any may have been."""
        for watch in self.past_watches:
            if channel in watch.channels:
                watch.note(what, by)

    async def _edited(self, uow: UnitOfWork, event: MessageEdited, pair: Pair, lane: LaneKey, routed: _Routed) -> None:
        original = await uow.messages.find(event.ref)
        if original is None:
            self.note_change(event.ref.channel, event.ref, event.author.user)
        if original is None and not event.author.is_self:
            await self._requote(uow, event.ref, None, pair, routed)
        if original is None or original.deleted:
            return
        if original.author != event.author.user:
            # Homeservers pass on edits by somebody else; clients ignore them, and so do we:
            # https://spec.matrix.org/latest/client-server-api/#validity-of-replacement-events
            routed.dropped.append((lane, "foreign"))
            return
        if (why := await self.moderation.refusal(pair, lane, original.author, uow)) is not None:
            # What had crossed before stays as it is.
            routed.dropped.append((lane, "moderation"))
            routed.refused.append((pair, original.author, why))
            return
        if original.edited_at is not None and not await _is_later(uow, event, original.edited_at):
            return
        await uow.messages.mark_edited(original.id, event.edited_at)
        if event.edit is not None:
            await uow.messages.record_edit(event.edit, original.id)
        if original.left_out and (event.is_command or not event.content):
            return
        if original.left_out and pair.paused:
            # It would cross for the first time, and so has been said just now.
            routed.dropped.append((lane, "paused"))
            return
        if original.left_out and (await self.people.of(original.author, uow)).has_opted_out:
            routed.dropped.append((lane, "optout"))
            return
        author = await self.names.distinguished(uow, event.ref.channel, event.author)
        content = replace(event.content, silent=True) if original.from_past else event.content
        if original.left_out:
            # It was empty and is not any more: it crosses now, as a new message.
            await uow.messages.leave_out(original.id, None)
            sent = SendMessage(event.ref, author, content, original.created_at, original.reply_to)
            await self._queue(uow, lane, sent, routed)
        else:
            command = EditMessage(event.ref, author, content, event.edited_at, original.reply_to)
            await self._queue(uow, lane, command, routed)
        await self._requote(uow, event.ref, original, pair, routed)

    async def _deleted(
        self, uow: UnitOfWork, event: MessageDeleted, pair: Pair, lane: LaneKey, routed: _Routed
    ) -> None:
        original = await uow.messages.find(event.ref)
        if original is None:
            self.note_change(event.ref.channel, event.ref)
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
        """Somebody removed a copy of ours. Only a moderator can do that, so the original goes too."""
        originals = await uow.messages.originals_of(copy)
        if not originals:
            await early_removals.note(uow, copy)
        if len(originals) > 1:
            # It held messages of several people, and it is not known whose were meant.
            routed.dropped.append((lane, "moderation"))
            return
        for original in originals:
            copies = await uow.messages.copies(original.id, copy.channel)
            stood = any(one.ref == copy for one in standing(copies))
            if stood and not original.deleted and original.ref.channel == lane.destination:
                await self._queue(uow, lane, RemoveOriginal(original.ref), routed)

    async def _requote(
        self, uow: UnitOfWork, changed: MessageRef, original: Original | None, pair: Pair, routed: _Routed
    ) -> None:
        """Queue that replies to a message that was changed or removed quote it as it is now, on both sides.

        Only the newest replies: one edit must not become hundreds.
        """
        answered = [changed]
        across = self.pairs.lane_from(changed.channel, pair)
        if original is not None:
            # Also replies to a copy in a channel that the pair had before: they quote it in today's channel.
            for place in await uow.messages.channels_of_copies(original.id, across.destination.platform):
                answered += [copy.ref for copy in await uow.messages.copies(original.id, place)]
        for target in answered:
            lane = across if target == changed else across.back
            for answer in await uow.messages.answers(target, _MAX_REQUOTED):
                if lane.destination.platform in pair.destinations:
                    await self._queue(uow, lane, RequoteMessage(answer.ref, target), routed)

    async def _taken_back(self, uow: UnitOfWork, edit: MessageRef, pair: Pair, lane: LaneKey, routed: _Routed) -> None:
        """What was deleted is no original: perhaps it is an edit, which is taken back, or it never had a copy."""
        original = await uow.messages.edited_by(edit)
        if original is not None and not (original.deleted or original.left_out) and original.edited_at is not None:
            command = RefreshMessage(original.ref, original.edited_at, original.reply_to)
            await self._queue(uow, lane, command, routed)
            await self._requote(uow, original.ref, original, pair, routed)
        elif original is None and not await uow.messages.is_copy(edit):
            await self._requote(uow, edit, None, pair, routed)

    async def _leave_out(
        self, uow: UnitOfWork, event: MessageCreated, feature: Feature, lane: LaneKey, routed: _Routed
    ) -> None:
        if feature in ("empty", "paused"):
            message_id = await uow.messages.add(event.ref, event.author.user, event.created_at, event.reply_to)
            if message_id is None:
                return  # a replay: its author has been told
            await uow.messages.leave_out(message_id, _EMPTY if feature == "empty" else SAID_WHILE_PAUSED)
            if feature == "paused":
                # On record like one that is gone: neither an edit nor a replay brings it across once it is resumed.
                await uow.messages.mark_deleted(message_id)
        else:
            await uow.traces.leave_out(event.ref, feature)
        routed.dropped.append((lane, feature))
        if event.thread is not None and feature == "thread":
            await self._thread_dropped(uow, event.thread, lane, routed)
        elif feature == "empty":
            failed = MarkFailed(event.ref, _EMPTY)
            await self._queue(uow, LaneKey.within(event.ref.channel), failed, routed)

    async def _command(
        self, uow: UnitOfWork, event: MessageCreated, words: tuple[str, ...], lane: LaneKey, routed: _Routed
    ) -> None:
        """Carry out a command, once: the answer is queued in the same transaction. The command does not cross."""
        message_id = await uow.messages.add(event.ref, event.author.user, event.created_at, event.reply_to)
        if message_id is None:
            return  # a replay
        await uow.messages.leave_out(message_id, "it is a command to the relay")
        routed.dropped.append((lane, "command"))
        channel, author = event.ref.channel, event.author
        call = CommandCall(author.user, channel, words, private=False, name=author.name)
        answer = await self.commands.answer(uow, call, routed.changed)
        if answer.words:
            notice = PostNotice(answer.words, thread=event.thread, reply_to=event.ref)
            await self._queue(uow, LaneKey.within(channel), notice, routed)
        elif answer.done is not None:
            await self._queue(uow, LaneKey.within(channel), MarkAnswered(event.ref, answer.done), routed)

    async def _is_unwanted(self, uow: UnitOfWork, pair: Pair, lane: LaneKey, user: UserRef) -> bool:
        """Whether nothing that somebody writes is to cross."""
        if (await self.people.of(user, uow)).has_opted_out:
            return True
        return await self.moderation.refusal(pair, lane, user, uow) is not None

    async def _refused(
        self, uow: UnitOfWork, event: MessageCreated, why: str, pair: Pair, lane: LaneKey, routed: _Routed
    ) -> None:
        """Record it like one that is gone: no edit or replay brings it across once its author is heard again."""
        message_id = await uow.messages.add(event.ref, event.author.user, event.created_at, event.reply_to)
        if message_id is None:
            return  # a replay, or a copy of ours
        await uow.messages.leave_out(message_id, why)
        await uow.messages.mark_deleted(message_id)
        routed.dropped.append((lane, "moderation"))
        routed.refused.append((pair, event.author.user, why))

    async def _opted_out(self, uow: UnitOfWork, pair: Pair, lane: LaneKey, routed: _Routed) -> None:
        """Nothing is kept of what somebody wrote who has opted out, not even its ID."""
        routed.dropped.append((lane, "optout"))
        now = self.clock.monotonic()
        told = self._told.get(lane.destination)
        if pair.policy.show_opted_out and (told is None or now - told >= _OPTED_OUT_SECONDS):
            self._told[lane.destination] = now
            words = (
                f"Somebody on {lane.source.platform.title()} writes here whose messages do not cross, by their wish."
            )
            await self._queue(uow, LaneKey.within(lane.destination), PostNotice(RichText.plain(words)), routed)

    async def _thread_dropped(self, uow: UnitOfWork, thread: ThreadRef, lane: LaneKey, routed: _Routed) -> None:
        if not await uow.once_keys.claim(lane.destination, f"thread {thread.id}"):
            return
        platform, other = lane.source.platform.title(), lane.destination.platform.title()
        there = RichText.plain(f"A thread goes on over on {platform}. Threads do not cross.")
        here = RichText.plain(f"Threads do not cross: people on {other} do not see this thread.")
        await self._queue(uow, LaneKey.within(lane.destination), PostNotice(there), routed)
        await self._queue(uow, LaneKey.within(thread.channel), PostNotice(here, thread=thread), routed)

    async def _queue(self, uow: UnitOfWork, lane: LaneKey, command: Command, routed: _Routed) -> None:
        entry = await uow.outbox.append(lane, command, self.clock.now())
        routed.queued.append(lambda: entry)


async def _is_later(uow: UnitOfWork, event: MessageEdited, known: datetime) -> bool:
    """Whether an edit is newer than those that are known. Of two with the same time, the one that arrives later is."""
    if event.edited_at != known:
        return event.edited_at > known
    return event.edit is not None and await uow.messages.edited_by(event.edit) is None


def _left_out(event: MessageCreated, pair: Pair) -> Feature | None:
    """Because of which feature a message does not cross; None if it crosses."""
    if pair.paused:
        return "paused"
    if event.thread is not None and pair.policy.thread_messages == "drop":
        return "thread"
    if event.system is not None and event.system not in pair.policy.system_messages:
        return "system"
    return None if event.content else "empty"


async def _root(uow: UnitOfWork, thread: ThreadRef) -> MessageRef | None:
    """The message that a thread started from, if it has crossed: the messages of a flattened thread reply to it."""
    # On both platforms a thread has the ID of that message. A Discord thread without one has an ID of its own.
    root = MessageRef(thread.channel, thread.id)
    return root if await uow.messages.find(root) is not None or await uow.messages.is_copy(root) else None
