"""What every delivery has to look up first: where its lane leads, and where its message stands by now."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from relay.core.author_names import AuthorNames, not_the_relay
from relay.core.delivery.references import References
from relay.core.offload import Conversions
from relay.core.pairs import PairDirectory
from relay.core.ports import Adapter, Delivery, Files, LatestReader, NameReader
from relay.core.storage import Copy, Entry, Original, Store
from relay.domain.commands import DeleteMessage
from relay.domain.content import Author, Content
from relay.domain.events import MessageCreated
from relay.domain.ids import ChannelRef, MessageRef, Platform, UserRef
from relay.domain.pair import LaneKey, Pair
from relay.errors import ActionNeeded, NotDeclared, Permanent


@dataclass(frozen=True, slots=True)
class Task:
    """An entry together with all that was looked up for it. `suspect`: it may have been sent before.

    `superseded`: copies that have been posted anew and still have to go.
    """

    entry: Entry
    pair: Pair
    channel: ChannelRef
    adapter: Adapter
    suspect: bool
    original: Original | None = None
    copies: tuple[Copy, ...] = ()
    superseded: tuple[Copy, ...] = ()
    reply_to: MessageRef | None = None
    replied_author: UserRef | None = None
    last_copy: MessageRef | None = None
    alone: bool = True

    async def post(self, delivery: Delivery) -> MessageRef:
        """Post something new about its message. Raises `Permanent` where the lane does not lead to.

        What stands there may be changed and removed, but the channel may be another pair's by now, or nobody's.
        """
        if self.channel != self.entry.lane.destination:
            raise Permanent("nothing new is posted where this channel is not mirrored to")
        return await self.adapter.send(delivery)


class Context:
    """Looks up, in the pairs and in the message map."""

    def __init__(
        self,
        *,
        store: Store,
        pairs: PairDirectory,
        names: AuthorNames,
        adapters: Mapping[Platform, Adapter],
        latest: Mapping[Platform, LatestReader],
        name_readers: Mapping[Platform, NameReader] | None = None,
        files: Files | None = None,
        conversions: Conversions,
    ) -> None:
        self.store = store
        self.files = files
        self.conversions = conversions
        self._names = names
        self._latest = latest
        self._references = References(store=store, pairs=pairs, name_readers=name_readers)
        self._pairs = pairs
        self._adapters = adapters

    def destination(self, lane: LaneKey) -> tuple[Pair, ChannelRef, Adapter]:
        """Where a lane leads. Raises `NotDeclared` without a pair, `ActionNeeded` while the channel is closed."""
        pair = self._pairs.pair_for(lane)
        if pair is None or not self._pairs.carries(lane):
            raise NotDeclared("no declared pair carries it")
        if not self._pairs.is_open(lane):
            raise ActionNeeded("its channel is not open")
        return pair, lane.destination, self._adapters[lane.destination.platform]

    async def task(self, entry: Entry, *, suspect: bool) -> Task:
        """An entry that is about no message in particular."""
        pair, channel, adapter = self.destination(entry.lane)
        if not suspect:
            return Task(entry, pair, channel, adapter, suspect)
        async with self.store.read() as uow:
            last_copy, alone = await uow.outbox.last_copy(entry.lane), await uow.outbox.is_alone(entry.lane)
        return Task(entry, pair, channel, adapter, suspect, last_copy=last_copy, alone=alone)

    async def task_about(
        self,
        entry: Entry,
        source: MessageRef,
        reply_to: MessageRef | None,
        *,
        suspect: bool,
        where: ChannelRef | None = None,
    ) -> Task:
        """An entry about one original, which may reply to `reply_to`.

        `where`: the channel in which its copies are to be changed, where that is not the one to which the lane leads.
        """
        pair, channel, adapter = self.destination(entry.lane)
        channel = where or channel
        if entry.original is not None and reply_to is None and not suspect:
            return Task(entry, pair, channel, adapter, suspect, original=entry.original)
        async with self.store.read() as uow:
            original = await uow.messages.find(source)
            copies = () if original is None else await uow.messages.copies(original.id, channel)
            answered = None if reply_to is None else await uow.messages.counterpart(reply_to, channel)
            # Known only where the message is an original: a copy's author is on the other side.
            theirs = None if answered is None else await uow.messages.find(answered)
            return Task(
                entry,
                pair,
                channel,
                adapter,
                suspect,
                original=original,
                copies=tuple(copy for copy in copies if not copy.superseded),
                superseded=tuple(copy for copy in copies if copy.superseded),
                reply_to=answered,
                replied_author=None if theirs is None else theirs.author,
                last_copy=await uow.outbox.last_copy(entry.lane) if suspect else None,
                alone=not suspect or await uow.outbox.is_alone(entry.lane),
            )

    async def elsewhere(self, task: Task) -> frozenset[ChannelRef]:
        """Where else on its platform a task's message has copies: the lanes from its channel led there before."""
        if task.original is None:
            return frozenset()
        async with self.store.read() as uow:
            places = await uow.messages.places(task.original.id, task.channel.platform)
        return places - {task.channel}

    def is_replaced(self, channel: ChannelRef, lane: LaneKey) -> bool:
        """Whether the channel that `lane` leads to has replaced `channel`, and is the same place."""
        return channel in self._pairs.predecessors(lane.destination)

    def delivery(
        self, task: Task, author: Author | None, content: Content, verb: str, *, part: int = 0, suspect: bool = False
    ) -> Delivery:
        """One message of a task. `verb`: one letter for what is done with it."""
        return Delivery(
            channel=task.channel,
            key=self.key(task.entry, part, verb),
            author=None if author is None else not_the_relay(author, task.adapter.own_names(task.channel)),
            content=content,
            reply_to=task.reply_to if part == 0 else None,
            replied_author=task.replied_author if part == 0 else None,
            part=part,
            suspect=suspect,
            after=task.last_copy if suspect else None,
            on_record=self._on_record,
            alone=task.alone,
            queued_at=task.entry.queued_at,
            last_try=task.entry.last_try,
        )

    async def _on_record(self, message: MessageRef) -> bool:
        async with self.store.read() as uow:
            return await uow.messages.is_copy(message)

    def key(self, entry: Entry, part: int, verb: str, *, superseded: int = 0) -> str:
        """The idempotency key of one call."""
        # The verb is part of the key because a homeserver's transaction IDs ignore what is being done: a redaction
        # under the ID of a message does nothing. The store's ID tells our rows from those of a store made anew, the
        # second (of twelve days) those of a store that was restored from a backup from those that it has forgotten.
        second = int(entry.queued_at.timestamp()) & 0xFFFFF
        number = f"{part}.{superseded}" if superseded else part
        return f"{self.store.id}{entry.id:x}{second:05x}.{number}{verb}"

    async def resolved(self, task: Task, content: Content) -> Content:
        """`content` with what it refers to found on the other side. Raises `StoreUnavailable`."""
        return await self._references.resolve(content, task.adapter, task.entry.lane.destination)

    def across(self, channel: ChannelRef) -> ChannelRef | None:
        """The channel that `channel` is paired with now."""
        return self._pairs.across(channel)

    def adapter(self, platform: Platform) -> Adapter:
        """The adapter to a platform."""
        return self._adapters[platform]

    async def remove_later(self, task: Task) -> None:
        """Queue the removal of what stands anew elsewhere: it may not be removed now, and what follows must not wait.

        It dies like any other command that is forbidden, and is tried again when its channel opens.
        """
        if task.original is None:
            return
        command = DeleteMessage(task.original.ref, leftovers=True)
        async with self.store.write() as uow:
            letters = await uow.outbox.dead_about(task.original.ref)
            if not any(letter.entry.lane == task.entry.lane and letter.entry.command == command for letter in letters):
                await uow.outbox.append(task.entry.lane, command, task.entry.queued_at)

    async def latest(self, source: MessageRef) -> MessageCreated | None:
        """What an original says now; None when it is gone, or its platform is not asked. Raises `Transient`.

        Its author is told apart from others, as in what the router queues.
        """
        reader = self._latest.get(source.channel.platform)
        said = None if reader is None else await reader.latest(source)
        if said is None:
            return None
        try:
            async with self.store.write() as uow:
                author = await self._names.told_apart(uow, source.channel, said.author)
        except BaseException:
            self._names.forget()  # as in the router
            raise
        return replace(said, author=author)

    async def done(self, entry: Entry) -> None:
        """The entry has been carried out."""
        async with self.store.write() as uow:
            await uow.outbox.done(entry.id)
