"""An adapter to a platform in memory that obeys `core.ports.Adapter` to the letter."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from relay.core.convert.references import folded
from relay.core.moderation.ports import Decision
from relay.core.ports import Began, Cursor, Delivery, EventBatch, Inbox, PastPage, SideHealth
from relay.domain.content import Author, Capabilities, Quotation
from relay.domain.events import (
    HistorySkipped,
    MessageCreated,
    PolicyListRead,
)
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, PlaceRef, Platform, UserRef
from relay.domain.text.nodes import RichText, plain_text
from relay.errors import ActionNeeded, Permanent, RateLimited, StoreUnavailable, Transient
from tests.support.platform import GHOST, PAGE, RELAY, MemoryPlatform, created, own_words

_PAST_PAGE = 7


async def nothing(call: str) -> None:
    """No trouble at all."""


def slow_at_first(refusals: int = 1) -> Callable[[str], Awaitable[None]]:
    """A platform that refuses the first sends."""
    left = refusals

    async def slow(call: str) -> None:
        nonlocal left
        if call == "send" and left:
            left -= 1
            raise RateLimited("slow down", retry_after=0.2)

    return slow


def never(batches: Sequence[EventBatch]) -> EventBatch | None:
    """Nothing is delivered twice."""
    return None


@dataclass(slots=True)
class MemoryAdapter:
    """The relay's way to a `MemoryPlatform`.

    `before` and `after` are awaited around each call to the platform with the call's name: that is where trouble is
    made. What `after` raises is raised although the call was carried out. `doubled` picks one of the last batches to
    be delivered again.
    """

    server: MemoryPlatform
    replays: bool
    max_text_length: int = 200
    max_attachments: int = 0
    before: Callable[[str], Awaitable[None]] = nothing
    after: Callable[[str], Awaitable[None]] = nothing
    doubled: Callable[[Sequence[EventBatch]], EventBatch | None] = never
    recent: deque[EventBatch] = field(default_factory=lambda: deque(maxlen=5))
    addresses: frozenset[ChannelAddress] = frozenset()
    opened: set[ChannelAddress] = field(default_factory=set)
    state: SideHealth = field(default_factory=lambda: SideHealth("connecting"))
    can_react: bool = True
    roles: dict[str, set[str]] = field(default_factory=dict)  # who has which
    shares_limit: bool | None = None  # None: as with the two kinds of platform
    sees_all: bool = True
    # Whether somebody's ghost can speak now; else the relay's own account speaks for them. None: there are no ghosts.
    ghosts: Callable[[], bool] | None = None
    inbox: Inbox | None = None
    # How often bans may have been missed.
    missed_bans: int = 0
    # The policy lists that are followed, and those of them whose rules are to be read from the beginning.
    lists: frozenset[ChannelAddress] = frozenset()
    new_lists: set[ChannelAddress] = field(default_factory=set)
    wake: Callable[[], None] = lambda: None
    # Whose pictures are to be made ready.
    expected: list[Author] = field(default_factory=list)
    unread: Callable[[], bool] = lambda: True
    """Whether something has happened that was not handed over yet."""

    @property
    def platform(self) -> Platform:
        """Which."""
        return self.server.platform

    @property
    def shared_limit(self) -> bool:
        """As with the two kinds of platform."""
        return self.replays if self.shares_limit is None else self.shares_limit

    async def run(self, inbox: Inbox) -> None:
        """Stream events to the inbox until cancelled; start again after each loss of the connection."""
        self.inbox = inbox
        while True:
            queue: asyncio.Queue[int] = asyncio.Queue()
            self.server.listeners.append(queue)
            # Not before: what happens until then is told to nobody.
            self.missed_bans += not self.replays
            try:
                await self._open()
                await (self._replay(inbox, queue) if self.replays else self._live(inbox, queue))
            except (Transient, StoreUnavailable):
                self.state = SideHealth("connecting")
            finally:
                if queue in self.server.listeners:
                    self.server.listeners.remove(queue)
            await asyncio.sleep(1)

    async def watch(
        self, addresses: frozenset[ChannelAddress], *, secondary: frozenset[ChannelAddress] = frozenset()
    ) -> None:
        """Open what is new, or has come back."""
        self.addresses = addresses
        self.opened &= addresses
        if self.inbox is not None:
            await self._open()

    async def close(self) -> None:
        """Nothing to release."""
        self.inbox = None

    def health(self) -> SideHealth:
        """How it is."""
        return self.state

    def capabilities(self, channel: ChannelRef) -> Capabilities:
        """Plain text of limited length."""
        size = 1_000_000 if self.max_attachments else 0
        return Capabilities(self.max_text_length, self.replays, self.max_attachments, size, size)

    def expect(self, author: Author) -> None:
        """See `PictureKeeper`."""
        self.expected.append(author)

    def measure(self, text: RichText, author: Author | None) -> int:
        """One for each character."""
        return len(plain_text(text))

    async def send(self, delivery: Delivery) -> MessageRef:
        """Post once."""
        await self.before("send")
        account = self._account(delivery)
        ref = await self._earlier(delivery, account)
        if ref is None and delivery.suspect and delivery.last_try:
            raise Permanent("it fails every time")
        if ref is None:
            ref = self.server.post(delivery) if account == RELAY else self.server.post_as(delivery, account)
        await self.after("send")
        return ref

    async def edit(self, target: MessageRef, delivery: Delivery) -> None:
        """Edit."""
        await self.before("edit")
        self.server.change(target, delivery.content)
        await self.after("edit")

    async def delete(self, target: MessageRef, key: str) -> None:
        """Delete."""
        await self.before("delete")
        if not self.replays or key not in self.server.deletion_keys:
            self.server.remove(target)
            self.server.deletion_keys.add(key)
        await self.after("delete")

    async def latest(self, ref: MessageRef) -> MessageCreated | None:
        """What it says now."""
        await self.before("latest")
        message = self.server.messages.get(ref)
        return None if message is None or message.deleted else created(message)

    async def channels_of(self, user: UserRef) -> frozenset[ChannelRef]:
        """See `MemberMirror`."""
        return frozenset(channel for channel, who in self.server.members if who == user)

    async def members_of(self, channel: ChannelRef) -> frozenset[UserRef]:
        """See `MemberMirror`."""
        return frozenset(who for where, who in self.server.members if where == channel)

    async def departed(self, channel: ChannelRef, people: frozenset[UserRef]) -> frozenset[UserRef]:
        """See `DepartureFinder`."""
        await self.before("departed")
        return frozenset(one for one in people if one.id in self.server.departed)

    async def remove_member(self, channel: ChannelRef, user: UserRef) -> None:
        """See `MemberMirror`."""
        await self.before("remove_member")
        self.server.members.discard((channel, user))
        await self.after("remove_member")

    def wants_everybody(self, channel: ChannelRef) -> bool:
        """See `MemberMirror`."""
        return channel in self.server.wants_everybody

    async def add_member(self, channel: ChannelRef, author: Author) -> bool:
        """See `MemberMirror`."""
        await self.before("add_member")
        known = (channel, author.user) in self.server.members
        self.server.members.add((channel, author.user))
        return not known

    async def members(self, channel: ChannelRef) -> AsyncIterator[Sequence[Author]]:
        """See `MemberLister`."""
        await self.before("members")
        for name in self.server.readers.get(channel, ()):
            yield [self.server.person(name)]

    async def quote(self, target: MessageRef) -> Quotation | None:
        """What a reply shows."""
        await self.before("quote")
        message = self.server.messages.get(target)
        if message is None or message.deleted:
            return None
        name = message.shown_as or message.author.name
        url = f"https://platform.example/{target.id}"
        return Quotation(name, message.content.text, url, is_self=message.author.is_self, by=message.author.user)

    def permalink(self, target: MessageRef) -> str:
        """A link to a message."""
        return f"https://platform.example/{target.id}"

    def own_names(self, channel: ChannelRef) -> frozenset[str]:
        """The same everywhere."""
        return frozenset({"The Relay"})

    async def people(self, channel: ChannelRef, names: frozenset[str]) -> Mapping[str, UserRef]:
        """Who has one of the names, and is the only one."""
        await self.before("people")
        authors = {said.author.user: said.author for said in self.server.shown(channel) if not said.author.is_self}
        found: dict[str, list[UserRef]] = {}
        for author in authors.values():
            found.setdefault(folded(author.name), []).append(author.user)
        return {name: users[0] for name, users in found.items() if len(users) == 1}

    @property
    def command_prefix(self) -> str:
        """As on the platform that it stands for."""
        return "!relay " if self.platform is Platform.MATRIX else "/relay "

    def person(self, written: str) -> UserRef | None:
        """IDs are names; in a command, with the platform in front: `matrix:ben`."""
        platform, _, name = written.partition(":")
        return UserRef(self.platform, name) if platform == self.platform and name else None

    async def having_role(self, channel: ChannelRef, role: str, people: Collection[UserRef]) -> frozenset[UserRef]:
        """Which of these people have a role."""
        await self.before("roles")
        return frozenset(user for user in people if user.id in self.roles.get(role, ()))

    def place_of(self, channel: ChannelRef) -> PlaceRef | None:
        """See `BanReader.place_of`: the channel itself."""
        return PlaceRef(self.platform, channel.id)

    def bans_version(self, place: PlaceRef) -> int:
        """See `BanReader.bans_version`."""
        return self.missed_bans

    async def bans(self, place: PlaceRef) -> AsyncIterator[Sequence[UserRef]]:
        """See `BanReader.bans`."""
        await self.before("bans")
        banned = self.server.bans.get(ChannelRef(self.platform, place.id), set())
        yield [UserRef(self.platform, name) for name in sorted(banned)]

    async def decision(self, place: PlaceRef, user: UserRef, *, lifted: bool) -> Decision | None:
        """See `BanReader.decision`."""
        await self.before("decision")
        return self.server.decisions.get((place.id, user.id, lifted))

    async def watch_lists(self, lists: frozenset[ChannelAddress]) -> None:
        """See `PolicyListReader.watch_lists`: who follows a list again is told all of it again."""
        self.new_lists = (self.new_lists & lists) | (lists - self.lists)
        self.lists = lists
        self.wake()

    def list_problem(self, address: ChannelAddress) -> str | None:
        """See `PolicyListReader.list_problem`."""
        return None

    def home_of(self, user: UserRef) -> str:
        """See `PolicyListReader.home_of`: what stands behind a colon."""
        return user.id.partition(":")[2]

    def stand_in(self, user: UserRef) -> UserRef | None:
        """See `PolicyListReader.stand_in`."""
        return UserRef(self.platform, f"{GHOST}{user.id}:relay")

    @property
    def own_account(self) -> UserRef:
        """See `PolicyListReader.own_account`."""
        return UserRef(self.platform, f"{RELAY}:relay")

    async def mark(self, source: MessageRef, *, done: bool) -> bool:
        """React, where reactions are allowed."""
        await self.before("mark")
        if not self.can_react:
            return False
        reaction = (source, "✅" if done else "⚠️")
        if reaction not in self.server.reactions:
            self.server.reactions.append(reaction)
        return True

    def knows(self, position: str) -> bool:
        """Numbers, and nothing for the beginning."""
        return position.isdecimal() or not position

    def position_at(self, moment: datetime) -> str:
        """Numbers tell no time."""
        return "0"

    def now(self) -> datetime:
        """The platform's time."""
        return self.server.now()

    async def history(
        self, channel: ChannelRef, after: str, *, newest: int, threads_cross: bool, reread_from: MessageRef | None
    ) -> AsyncIterator[EventBatch]:
        """Pages of what still exists, oldest first. No thread has to be asked for."""
        await self.before("history")
        missed = [message for message in self.server.shown(channel) if message.ref.id > after]
        skipped = len(missed) - newest
        if skipped > 0:
            after = missed[skipped - 1].ref.id
            cursor = Cursor(self.platform, f"channel:{channel.id}", after)
            yield EventBatch((HistorySkipped(channel, skipped),), (cursor,))
        while page := [message for message in self.server.shown(channel) if message.ref.id > after][:PAGE]:
            after = page[-1].ref.id
            cursor = Cursor(self.platform, f"channel:{channel.id}", after)
            yield EventBatch(tuple(map(created, page)), (cursor,))
            await self.before("history")

    async def reread(self, first: MessageRef, last: MessageRef) -> AsyncGenerator[Sequence[MessageCreated] | None]:
        """Pages of what still exists between two messages; unless it `sees_all`, None as well."""
        if not self.sees_all:
            yield None
        after = ""
        while True:
            await self.before("history")
            standing = [m for m in self.server.shown(first.channel) if first.id <= m.ref.id <= last.id]
            page = [message for message in standing if message.ref.id > after][:PAGE]
            if not page:
                return
            after = page[-1].ref.id
            yield tuple(map(created, page))

    async def past(
        self,
        channel: ChannelRef,
        position: str,
        began: Began,
        *,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> AsyncGenerator[PastPage]:
        """Pages of what still exists of what was said before it was first read, oldest first."""
        first = await began("sync" if self.replays else f"channel:{channel.id}")
        if first is None:
            raise Permanent("it is not on record when this began")
        early = {event.ref for event in self.server.log[: int(first)] if isinstance(event, MessageCreated)}
        while True:
            await self.before("past")
            standing = [it for it in self.server.shown(channel) if it.ref.id > position]
            page = [it for it in standing if (it.ref in early if self.replays else it.ref.id <= first)][:_PAST_PAGE]
            if not page:
                return
            position = page[-1].ref.id
            edits = (self.server.edits.get(it.ref, ())[1:][-1:] for it in page)
            yield PastPage(
                tuple(
                    replace(created(it), edit=edit[0][0] if edit else None)
                    for it, edit in zip(page, edits, strict=True)
                ),
                position,
            )

    def _account(self, delivery: Delivery) -> str:
        can = self.ghosts is not None and delivery.author is not None and self.ghosts()
        return f"{GHOST}{delivery.author.user.id}" if can and delivery.author is not None else RELAY

    async def _earlier(self, delivery: Delivery, account: str) -> MessageRef | None:
        known = self.server.by_key(delivery.channel, delivery.key, account)
        if not self.replays and delivery.author is not None:
            known = None  # sent without a key
        if not delivery.suspect or delivery.author is None or (self.replays and self.ghosts is None):
            return known
        since = delivery.after.id if delivery.after else ""
        # The lane is serial: at most one message of it is not accounted for. What it says may differ from what is
        # to be sent now, because what a reply quotes may be gone since. The same words come before the key: that tells
        # of one account only, and another one may have sent them since the first one's were removed.
        ours = [
            message
            for message in self.server.shown(delivery.channel)
            if message.author.is_self and message.shown_as == delivery.author.name and message.ref.id > since
        ]
        exact = [message for message in ours if message.content == delivery.content]
        own = [message for message in ours if own_words(message.content) == own_words(delivery.content)]
        for message in exact + own + (ours if delivery.alone and known is None else []):
            if not await delivery.on_record(message.ref):
                return message.ref
        return known

    async def _open(self) -> None:
        assert self.inbox is not None
        for address in sorted(self.addresses - self.opened):
            channel = ChannelRef(self.platform, address.value.lstrip("#!"))
            try:
                await self.before("open")
            except ActionNeeded as error:
                await self.inbox.closed(address, str(error))
                continue
            await self.inbox.opened(address, channel)
            self.opened.add(address)

    async def _replay(self, inbox: Inbox, queue: "asyncio.Queue[int]") -> None:
        position = await inbox.cursor(self.platform, "sync")
        at = len(self.server.log) if position is None else int(position) if position.isdecimal() else 0
        at = min(at, len(self.server.log))
        if position is None:
            # It goes on from now. What a policy list says is state, and read all the same.
            await self._hand_over(EventBatch((), (Cursor(self.platform, "sync", str(at)),)))
        self.state = SideHealth("ready")
        self.unread = lambda: at < len(self.server.log) or reading or bool(self.new_lists)
        self.wake = lambda: queue.put_nowait(at)
        reading = False
        while True:
            await self.before("sync")
            if self.new_lists:
                said = {one.address: one for one in self.server.log[:at] if isinstance(one, PolicyListRead)}
                lists, self.new_lists, reading = tuple(sorted(self.new_lists)), set(), True
                await self._hand_over(EventBatch(tuple(said[one] for one in lists if one in said)))
                reading = False
            elif events := tuple(self.server.log[at : at + PAGE]):
                at += len(events)
                reading = True
                await self._hand_over(EventBatch(events, (Cursor(self.platform, "sync", str(at)),)))
                reading = False
            else:
                await queue.get()

    async def _live(self, inbox: Inbox, queue: "asyncio.Queue[int]") -> None:
        for address in sorted(self.opened):
            channel = ChannelRef(self.platform, address.value.lstrip("#!"))
            stream = f"channel:{channel.id}"
            position = await inbox.cursor(self.platform, stream)
            if position is None:
                position = max((message.ref.id for message in self.server.shown(channel)), default="0")
                await self._hand_over(EventBatch((), (Cursor(self.platform, stream, position),)))
            await inbox.catch_up(channel, position)
        self.state = SideHealth("ready")
        reading = False
        self.unread = lambda: reading or not queue.empty()
        while True:
            event = self.server.log[await queue.get()]
            reading = True
            await self.before("event")
            cursors: tuple[Cursor, ...] = ()
            if isinstance(event, MessageCreated):
                stream = f"channel:{event.ref.channel.id}"
                cursors = (Cursor(self.platform, stream, event.ref.id),)
            await self._hand_over(EventBatch((event,), cursors))
            reading = False

    async def _hand_over(self, batch: EventBatch) -> None:
        assert self.inbox is not None
        while True:
            try:
                await self.inbox.receive(batch)
            except StoreUnavailable:
                await asyncio.sleep(1)
            else:
                break
        self.recent.append(batch)
        if (again := self.doubled(self.recent)) is not None:
            await self.inbox.receive(EventBatch(again.events))


@dataclass(slots=True)
class MarkingAdapter(MemoryAdapter):
    """One to a platform that marks channels for adults; it also implements `AgeMarkReader`."""

    def age_restricted(self, channel: ChannelRef) -> bool | None:
        """See `AgeMarkReader.age_restricted`."""
        return channel in self.server.restricted

    async def tell_of_marks(self) -> None:
        """Beside `run`: tell whenever one may have changed."""
        changed = asyncio.Event()
        self.server.mark_listeners.append(changed)
        while True:
            await changed.wait()
            changed.clear()
            inbox = self.inbox
            for address in sorted(self.opened) if inbox is not None else ():
                try:
                    assert inbox is not None
                    await inbox.opened(address, ChannelRef(self.platform, address.value.lstrip("#!")))
                except StoreUnavailable:
                    await asyncio.sleep(1)
                    changed.set()
