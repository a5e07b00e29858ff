"""The look-ups of delivery: where a lane leads, what is on record there, what words mean there, what a reply quotes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from relay.core.author_names import AuthorNames
from relay.core.convert.references import Found, Wanted, named, resolved, unnamed, wanted
from relay.core.delivery.plan import Target, UnreadableDigest
from relay.core.moderation.decisions import Moderation
from relay.core.pairs import PairDirectory
from relay.core.people.directory import PeopleDirectory
from relay.core.people.forgetting import is_kept_back
from relay.core.people.ports import NameReader, RoleReader
from relay.core.ports import Adapter, LatestReader
from relay.core.storage import Copy, Entry, Original, Store, UnitOfWork, standing
from relay.domain.commands import Digest
from relay.domain.content import Content, Quotation
from relay.domain.events import MessageCreated
from relay.domain.ids import ChannelRef, MessageRef, Platform, UserRef
from relay.domain.pair import LaneKey, Pair
from relay.domain.text import nodes as n
from relay.errors import ActionNeeded, NotDeclared, Transient

_NOT_HERE = Quotation("a message that is not here", n.RichText(), "")
"""What stands above an answer to what was deleted, or cannot be read."""

_NO_PAIR = "no declared pair carries it"

_MOST_LINKED = 200
"""Linked people of whom it is asked whether they have a role."""


_CLOCKS_DIFFER = timedelta(hours=1)
"""How far the platforms' clocks, which date messages, may be from ours."""


@dataclass(frozen=True, slots=True)
class RestoredGap:
    """The time between a backup and the first start on it: what crossed then is not on record."""

    since: datetime
    until: datetime

    def covers(self, written_at: datetime) -> bool:
        """Whether a message that was written then may have crossed in the gap."""
        return written_at < self.until + _CLOCKS_DIFFER


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Lookups:
    """Asks the pairs, the store and the adapters. Changes nothing, but for the names that authors get."""

    store: Store
    pairs: PairDirectory
    adapters: Mapping[Platform, Adapter]
    author_names: AuthorNames
    people: PeopleDirectory
    moderation: Moderation
    latest_readers: Mapping[Platform, LatestReader]
    name_readers: Mapping[Platform, NameReader]
    role_readers: Mapping[Platform, RoleReader]
    gap: RestoredGap | None = None  # if the store is a backup that was restored

    # --- Where ----------------------------------------------------------------------------------------

    def destination(self, lane: LaneKey) -> tuple[Pair, ChannelRef, Adapter]:
        """Where a lane leads. Raises `NotDeclared` without a pair, `ActionNeeded` while the channel is closed."""
        pair = self.pair(lane)
        if not self.pairs.carries(lane):
            raise NotDeclared(_NO_PAIR)
        if not self.pairs.is_open(lane):
            raise ActionNeeded("its channel is not open")
        return pair, lane.destination, self.adapters[lane.destination.platform]

    def pair(self, lane: LaneKey) -> Pair:
        """The pair of a lane. Raises `NotDeclared` without one.

        It may be taken out of the file at any moment, and what it forbids must not be allowed then.
        """
        pair = self.pairs.pair_for(lane)
        if pair is None:
            raise NotDeclared(_NO_PAIR)
        return pair

    async def require_agreeing_marks(self, lane: LaneKey) -> None:
        """Raises `ActionNeeded` where a lane's pair leads from a channel for adults to one for everybody."""
        if (why := await self.moderation.age_marks.refusal(self.pair(lane))) is not None:
            raise ActionNeeded(why)

    async def carries_files(self, lane: LaneKey, written_at: datetime) -> bool:
        """Whether files and pictures of what was written then may cross a lane. Raises `NotDeclared` without a pair."""
        return await self.moderation.age_marks.carries_files(self.pair(lane), lane, written_at)

    def is_replaced(self, channel: ChannelRef, lane: LaneKey) -> bool:
        """Whether the channel that `lane` leads to has replaced `channel`, and is the same place."""
        return channel in self.pairs.predecessors(lane.destination)

    async def target(self, entry: Entry, *, suspect: bool) -> Target:
        """Where an entry goes that is about no message in particular."""
        target = self._target(entry, suspect=suspect)
        if not suspect:
            return target
        async with self.store.read() as uow:
            return await self._with_earlier_try(uow, target)

    async def target_about(
        self,
        entry: Entry,
        source: MessageRef,
        reply_to: MessageRef | None,
        *,
        suspect: bool,
        where: ChannelRef | None = None,
    ) -> Target:
        """Where an entry goes that is about one original, which may reply to `reply_to`.

        `where`: the channel in which its copies are to be changed, where that is not the one to which the lane leads.
        """
        target = self._target(entry, suspect=suspect, where=where)
        if entry.original is not None and reply_to is None and not suspect:
            return replace(target, original=entry.original)
        async with self.store.read() as uow:
            original = await uow.messages.find(source)
            copies = () if original is None else await uow.messages.copies(original.id, target.channel)
            stand = standing(copies)
            answered = None if reply_to is None else await uow.messages.counterpart(reply_to, target.channel)
            # Known only where the message is an original: a copy's author is on the other side.
            theirs = None if answered is None else await uow.messages.find(answered)
            replied_author = None if theirs is None else theirs.author
            if theirs is None and reply_to is not None:
                replied_author = await self._linked_author(uow, reply_to, target.channel.platform)
            target = replace(
                target,
                original=original,
                copies=stand,
                superseded=tuple(copy for copy in copies if copy not in stand),
                shared=await _shared(uow, original, stand),
                reply_to=answered,
                replied_author=replied_author,
            )
            return await self._with_earlier_try(uow, target) if suspect else target

    async def former_channels(self, target: Target) -> frozenset[ChannelRef]:
        """Where else on its platform a message has copies: the lanes from its channel led there before."""
        if target.original is None:
            return frozenset()
        async with self.store.read() as uow:
            places = await uow.messages.channels_of_copies(target.original.id, target.channel.platform)
        return places - {target.channel}

    def _target(self, entry: Entry, *, suspect: bool, where: ChannelRef | None = None) -> Target:
        pair, channel, adapter = self.destination(entry.lane)
        channel = where or channel
        return Target(
            entry=entry,
            pair=pair,
            channel=channel,
            adapter=adapter,
            capabilities=adapter.capabilities(channel),
            own_names=adapter.own_names(channel),
            store_id=self.store.id,
            is_on_record=self._is_on_record,
            suspect=suspect,
        )

    def in_gap(self, target: Target, written_at: datetime) -> Target:
        """The target of what was written at that time: if it may have crossed in the gap, that is found out first."""
        if self.gap is None or not self.gap.covers(written_at):
            return target
        return replace(target, suspect=True, alone=False, restored_since=self.gap.since)

    async def _with_earlier_try(self, uow: UnitOfWork, target: Target) -> Target:
        """With what an earlier try is looked for by."""
        lane = target.entry.lane
        return replace(target, last_copy=await uow.outbox.last_copy(lane), alone=await uow.outbox.is_alone(lane))

    async def _is_on_record(self, message: MessageRef) -> bool:
        async with self.store.read() as uow:
            return await uow.messages.is_copy(message)

    # --- What -----------------------------------------------------------------------------------------

    async def latest(self, source: MessageRef) -> MessageCreated | None:
        """What an original says now; None when it is gone, or its platform is not asked. Raises `Transient`.

        Its author is told apart from others, as in what the router queues.
        """
        reader = self.latest_readers.get(source.channel.platform)
        said = None if reader is None else await reader.latest(source)
        if said is None:
            return None
        try:
            async with self.store.write() as uow:
                author = await self.author_names.distinguished(uow, source.channel, said.author)
        except BaseException:
            self.author_names.forget()  # as in the router
            raise
        return replace(said, author=author)

    async def content(self, target: Target, content: Content) -> Content:
        """`content` with what it refers to found on the other side. Raises `StoreUnavailable`."""
        # A feed that quotes an @ means somebody elsewhere.
        typed = content.style != "notice"
        channel, adapter = target.entry.lane.destination, target.adapter
        content = await self._with_names(content, channel)
        looked_for = wanted(content.text, typed=typed)
        if looked_for == Wanted():
            return content
        found = Found(
            people=await adapter.people(channel, looked_for.names) if looked_for.names else {},
            linked=await self._linked(looked_for.users, channel.platform),
            roles={role: await self._having_role(channel, role) for role in looked_for.roles},
            channels={known: across for known in looked_for.channels if (across := self.pairs.across(known))},
            messages=await self._messages(looked_for.messages, adapter),
        )
        return replace(content, text=resolved(content.text, found, typed=typed))

    async def answer(self, target: Target, content: Content, answered: MessageRef | None) -> Content:
        """As `content`, for a message that answers `answered`: whether it calls whom it answers is known then.

        Whom it answers on its own side it calls by their linked account, if it calls them there.
        """
        content = await self.content(target, content)
        if answered is None or not (content.calls or content.calls_answered):
            return content
        async with self.store.read() as uow:
            original = await uow.messages.find(answered)
        if original is None:
            return content  # a copy, or older than the relay
        return replace(content, calls_answered=original.author in content.calls)

    async def _linked(self, users: Iterable[UserRef], platform: Platform) -> Mapping[UserRef, UserRef]:
        """The linked accounts on a platform of people who are mentioned elsewhere."""
        found: dict[UserRef, UserRef] = {}
        for user in users:
            if user.platform is not platform and (other := await self.people.linked(user, platform)) is not None:
                found[user] = other
        return found

    async def _having_role(self, channel: ChannelRef, role: str) -> tuple[UserRef, ...]:
        """The accounts in `channel` of linked people who have a role where that is mirrored from."""
        source = self.pairs.across(channel)
        reader = None if source is None else self.role_readers.get(source.platform)
        if source is None or reader is None:
            return ()
        linked = await self.people.links_of(source.platform, channel.platform, _MOST_LINKED)
        having = await reader.having_role(source, role, linked.keys()) if linked else ()
        return tuple(sorted(linked[user] for user in having))

    async def _linked_author(self, uow: UnitOfWork, answered: MessageRef, platform: Platform) -> UserRef | None:
        """The account on a platform of whoever wrote an original elsewhere, if they have linked one."""
        original = await uow.messages.find(answered)
        return None if original is None else await self.people.linked(original.author, platform, uow)

    async def quotation(self, target: Target, answered: MessageRef, stands: MessageRef | None) -> Quotation:
        """What a reply to `answered` quotes, which is at `stands` over there, maybe together with others.

        `stands` None: it has no copy (it is older than the relay, or was left out), so that it is quoted from its own
        side. Its author can be called where they have a linked account.
        """
        quotation = await self._quotation(target, answered, stands)
        if quotation.user is not None:
            return quotation
        async with self.store.read() as uow:
            linked = await self._linked_author(uow, answered, target.channel.platform)
        return replace(quotation, user=linked)

    async def _quotation(self, target: Target, answered: MessageRef, stands: MessageRef | None) -> Quotation:
        if stands is None:
            return await self._quotation_from_its_side(target, answered)
        try:
            async with self.store.read() as uow:
                digest = await uow.digests.get(stands)
        except ValueError:
            digest = None
        item = next((item for item in digest.items if item.source == answered), None) if digest is not None else None
        if item is None:
            return await target.adapter.quote(stands) or _NOT_HERE
        return Quotation(item.author.name, item.content.text, target.adapter.permalink(stands))

    async def is_unwanted(self, lane: LaneKey, user: UserRef) -> bool:
        """Whether what somebody writes must not cross: they do not want it, or others do not.

        Raises `NotDeclared` without a pair, `StoreUnavailable`.
        """
        return (await self.people.of(user)).has_opted_out or await self.refusal(lane, user) is not None

    async def refusal(self, lane: LaneKey, user: UserRef) -> str | None:
        """Why others do not want what somebody writes to cross; None if they do not mind.

        Raises `NotDeclared` without a pair, `StoreUnavailable`.
        """
        return await self.moderation.refusal(self.pair(lane), lane, user)

    async def _quotation_from_its_side(self, target: Target, answered: MessageRef) -> Quotation:
        source = self.adapters[answered.platform]
        async with self.store.read() as uow:
            original = await uow.messages.find(answered)
        if original is not None and original.deleted:
            return _NOT_HERE  # also where only its copies have been deleted, because its author wanted that
        try:
            seen = await source.quote(answered)
        except Transient:
            # The other side need not answer for a message to cross: who wants to know what it answers follows the link.
            return Quotation("a message", n.RichText(), self.link(answered))
        if seen is None:
            return _NOT_HERE
        author = seen.by or seen.user
        if author is not None and (
            await self.is_unwanted(target.entry.lane, author)
            or (original is None and await self._is_kept_back(author))  # on record is what was said since
        ):
            return Quotation("a message", n.RichText(), self.link(answered))
        said = await self.content(target, Content(seen.text))
        # Whom it names on its own side nobody can call over here.
        return replace(seen, text=said.text, user=None)

    async def _is_kept_back(self, user: UserRef) -> bool:
        async with self.store.read() as uow:
            return await is_kept_back(uow, user)

    def link(self, original: MessageRef) -> str:
        """What leads to an original on its own side, as far as that is known now: nothing waits for that side."""
        try:
            return self.adapters[original.platform].permalink(original)
        except Transient:
            return ""

    async def _with_names(self, content: Content, channel: ChannelRef) -> Content:
        unknown = unnamed(content.text)
        source = self.pairs.across(channel) if unknown else None
        reader = None if source is None else self.name_readers.get(source.platform)
        if source is None or reader is None:
            return content
        return replace(content, text=named(content.text, await reader.names(source, unknown)))

    async def _messages(
        self, messages: frozenset[MessageRef], adapter: Adapter
    ) -> Mapping[MessageRef, tuple[MessageRef, str]]:
        found: dict[MessageRef, tuple[MessageRef, str]] = {}
        if not messages:
            return found
        async with self.store.read() as uow:
            for message in messages:
                across = self.pairs.across(message.channel)
                copy = None if across is None else await uow.messages.counterpart(message, across)
                known = copy is not None and copy.platform is adapter.platform
                if copy is not None and known and (url := adapter.permalink(copy)):
                    found[message] = copy, url
        return found


async def _shared(
    uow: UnitOfWork, original: Original | None, copies: tuple[Copy, ...]
) -> Digest | UnreadableDigest | None:
    """See `Target.shared`."""
    if original is None or not copies:
        return None
    try:
        digest = await uow.digests.get(copies[0].ref)
    except ValueError as error:
        return UnreadableDigest(str(error))
    if digest is None or not any(item.source == original.ref for item in digest.items):
        return None
    return digest
