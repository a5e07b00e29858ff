"""The Matrix side: a plain account on any homeserver. Implements `core.ports.Adapter`."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from functools import partial

from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.adapters.matrix.api.session import LoadSession, MatrixSession, SaveSession
from relay.adapters.matrix.cursors import (
    GHOST_PREFIXES,
    LOGIN,
    OUTSIDE,
    SYNC,
    SyncPosition,
    cursor,
    moment,
    room_stream,
)
from relay.adapters.matrix.identifiers import OwnAccounts, is_room_id, is_user_id, parse_link, permalink, server_of
from relay.adapters.matrix.inbound.events import COMMAND, convert_latest, latest_edit
from relay.adapters.matrix.media import MediaRepository
from relay.adapters.matrix.members import MemberDirectory
from relay.adapters.matrix.outbound import compose
from relay.adapters.matrix.outbound.ghost_accounts import GhostAccounts
from relay.adapters.matrix.outbound.ghosts import Ghosts
from relay.adapters.matrix.outbound.sender import MessageSender
from relay.adapters.matrix.outbound.stranded import post_again, take_back
from relay.adapters.matrix.policy_lists import PolicyListFollower
from relay.adapters.matrix.register import AccountRegister
from relay.adapters.matrix.retrying_inbox import RetryingInbox
from relay.adapters.matrix.rooms.declared import DeclaredRooms
from relay.adapters.matrix.rooms.joins import RoomJoiner
from relay.adapters.matrix.rooms.lookup import look_up
from relay.adapters.matrix.sync.backfill import Backfiller
from relay.adapters.matrix.sync.loop import ConnectionStatus, SyncLoop
from relay.adapters.matrix.sync.past import RoomPast
from relay.adapters.matrix.sync.response import ResponseHandler
from relay.config.settings import MatrixSettings
from relay.core.clock import Backoff, wait_at_most
from relay.core.files import Files, MediaStream
from relay.core.moderation.ports import Decision
from relay.core.offload import Conversions
from relay.core.ports import Began, ChannelInfo, Clock, Cursor, Delivery, EventBatch, Inbox, PastPage, SideHealth
from relay.core.storage import Store, UnitOfWork
from relay.domain.content import Author, Capabilities, Quotation
from relay.domain.events import MessageCreated
from relay.domain.ids import ChannelAddress, ChannelRef, MediaRef, MessageRef, PlaceRef, Platform, UserRef
from relay.domain.jsontext import Json, as_dict, as_list, as_string
from relay.domain.text.nodes import RichText
from relay.domain.text.rewrite import weight
from relay.errors import ActionNeeded, FatalError, Permanent, StoreError, TargetGone, Transient, ungrouped

_BY_HAND_FOR = timedelta(days=1)
"""For how long it is told that somebody has written with the relay's own account."""

_LISTS_READ_WITHIN = 5.0
"""Seconds that the start waits for policy lists. What was read of them before holds in any case."""


async def _nothing() -> None:
    """Wait for nothing."""


class MatrixAdapter:
    """One account of the relay, and the rooms that it is in."""

    def __init__(
        self,
        *,
        settings: MatrixSettings,
        # Keep what a login with the password returns (one string, a secret) beyond the end of the process.
        load_session: LoadSession,
        save_session: SaveSession,
        clock: Clock,
        rng: random.Random,
        # How many messages of a declared room are read after an absence; asked anew each time.
        catchup_limit: Callable[[ChannelAddress], int],
        # Seconds until a room that could not be entered is tried again; it doubles up to twenty times as much.
        retry_interval: float = 30.0,
        # The files of the other side; without them files cross as text.
        files: Files | None = None,
        # What is known of ghosts; without it there are none.
        store: Store | None = None,
        # Whether a declared room has ghosts, if the homeserver can have any; asked anew each time.
        has_ghosts: Callable[[ChannelAddress], bool] = lambda _: True,
        conversions: Conversions | None = None,
        # Awaited once the homeserver has let us in, and before anything is read.
        before_reading: Callable[[], Awaitable[None]] = _nothing,
        # Whether this process may still change anything.
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._before_reading = before_reading
        self._conversions = conversions = conversions or Conversions()
        self._clock = clock
        self._rng = rng
        self._inbox: RetryingInbox | None = None
        self._status = ConnectionStatus(detail="Not started.")
        self._api = api = Api(settings.homeserver_url, settings.user_id, conversions, may_write)
        appservice = settings.appservice
        self._accounts = accounts = OwnAccounts(
            me=settings.user_id, prefix=None if appservice is None or store is None else appservice.prefix
        )
        self._store = store
        # A digest of the token, and since when it is in use.
        self._login: tuple[str, datetime] | None = None
        self._rooms = rooms = DeclaredRooms(
            accounts,
            backoff=partial(Backoff, rng, first=retry_interval, longest=20 * retry_interval),
            now=clock.monotonic,
        )

        def limit(room_id: str) -> int:
            room = rooms.find(room_id)
            return 0 if room is None else catchup_limit(room.address)

        self._ghosts_returned = asyncio.Event()
        made = None
        if appservice is not None and store is not None:
            made = GhostAccounts(api=api, settings=appservice, store=store)
        self._ghosts = ghosts = Ghosts(
            api=api,
            accounts=accounts,
            rooms=rooms,
            clock=clock,
            made=made,
            wanted=has_ghosts,
            returned=self._ghosts_returned.set,
        )
        self.register = AccountRegister(api=api, clock=clock)
        self._responses = responses = ResponseHandler(
            api, rooms, Backfiller(api, limit), conversions, ghosts.saw_member, clock.now
        )
        self._loop = SyncLoop(
            api=api,
            session=MatrixSession(api=api, settings=settings, load=load_session, save=save_session),
            rooms=rooms,
            responses=responses,
            register=self.register,
            logged_in=self._remember_login,
            status=self._status,
            clock=clock,
            rng=rng,
        )
        self._past = RoomPast(api=api, rooms=rooms, conversions=conversions)
        self._lists = PolicyListFollower(api=api, clock=clock, rng=rng)
        self._members = MemberDirectory(api, clock, conversions, accounts)
        self._media = MediaRepository(api, files, clock)
        self._sender = MessageSender(
            api=api,
            rooms=rooms,
            media=self._media,
            ghosts=ghosts,
            makes_ghosts=made is not None,
            clock=clock,
            token_refused=self._loop.interrupt,
            conversions=conversions,
            logged_in_since=self._logged_in_since,
        )
        self._joins = RoomJoiner(
            api=api,
            rooms=rooms,
            clock=clock,
            connected=self._status.caught_up,
            post_again=partial(post_again, self._sender),
            take_back=partial(take_back, self._sender),
        )

    @property
    def platform(self) -> Platform:
        """See `Adapter.platform`."""
        return Platform.MATRIX

    @property
    def shared_limit(self) -> bool:
        """See `Adapter.shared_limit`."""
        return True

    async def run(self, inbox: Inbox) -> None:
        """See `Adapter.run`."""
        retrying = self._inbox = RetryingInbox(inbox, self._clock, self._rng)
        self._status.changed = inbox.health_changed
        self._status.set("connecting", "Logging in.")
        try:
            await self._remember_prefix(retrying)
            await self._loop.connect()
            await self._before_reading()
            await self._work(retrying)
        except (FatalError, StoreError) as error:
            self._status.set("failed", str(error))
            raise

    async def watch(
        self, addresses: frozenset[ChannelAddress], *, secondary: frozenset[ChannelAddress] = frozenset()
    ) -> None:
        """See `Adapter.watch`."""
        self._rooms.declare(addresses, secondary)

    def reads(self) -> bool:
        """See `ReadingPositions.reads`."""
        return self._status.caught_up.is_set()

    async def at_rest(self, action: Callable[[], Awaitable[None]]) -> None:
        """See `ReadingPositions.at_rest`."""
        await self._loop.at_rest(action)

    async def position(self, channel: ChannelRef, uow: UnitOfWork) -> str:
        """See `ReadingPositions.position`: the room, which the other relay may only know by an alias, and a token."""
        position = SyncPosition.parse(await uow.cursors.get(Platform.MATRIX, SYNC))
        return f"{channel.id} {position.token}" if position is not None and is_room_id(channel.id) else ""

    async def read_from(self, address: ChannelAddress, position: str) -> None:
        """See `ReadingPositions.read_from`: as if we had been out of the room since.

        With no position there is nothing to do: a room that is declared again is read from the sync after that on.
        """
        room_id, _, token = position.partition(" ")
        if self._inbox is not None and is_room_id(room_id) and token:
            self._responses.forget_position(room_id)
            resumed = Cursor(Platform.MATRIX, room_stream(room_id), OUTSIDE + token, resumes=True)
            await self._inbox.receive(EventBatch(cursors=(resumed,)))

    async def close(self) -> None:
        """See `Adapter.close`."""
        await self._api.close()

    def health(self) -> SideHealth:
        """See `Adapter.health`."""
        if self._inbox is not None and self._inbox.trouble:
            return SideHealth("catching_up", self._inbox.trouble)
        pending = self._rooms.pending
        if self._status.state == "ready" and pending:
            return SideHealth("catching_up", f"Entering rooms: {pending} to go.")
        return SideHealth(self._status.state, self._status.detail)

    def capabilities(self, channel: ChannelRef) -> Capabilities:
        """See `Adapter.capabilities`."""
        limit = self._media.max_file_size
        return Capabilities(
            max_text_length=compose.MAX_TEXT_LENGTH,
            native_replies=True,
            max_attachments=1 if self._media.has_source else 0,
            max_file_size=limit,
            max_request_size=limit,
        )

    def measure(self, text: RichText, author: Author | None) -> int:
        """See `Adapter.measure`: bytes."""
        return compose.measure(text, author)

    async def send(self, delivery: Delivery) -> MessageRef:
        """See `Adapter.send`."""
        return await self._sender.send(delivery)

    async def edit(self, target: MessageRef, delivery: Delivery) -> None:
        """See `Adapter.edit`."""
        await self._sender.edit(target, delivery)

    async def delete(self, target: MessageRef, key: str) -> None:
        """See `Adapter.delete`."""
        if self._rooms.is_moving(target.channel.id):
            # It may stand in the new room already, not on record yet: gone from here, it would not be found any more.
            raise ActionNeeded(f"the replacement of {target.channel.id} is not entered yet")
        await self._sender.delete(target, key)

    async def quote(self, target: MessageRef) -> Quotation | None:
        """See `Adapter.quote`. Replies are native on Matrix; this is for the other side.

        A message that the homeserver does not show to us (it may be older than our membership) is quoted by its link
        alone: others may see it.
        """
        try:
            message = await self._current(target)
        except (TargetGone, Permanent):
            return Quotation("a message", RichText(), permalink(target))
        if message is None:
            return None
        text = message.content.text
        if not text and message.content.attachments:
            first = message.content.attachments[0]
            text = RichText.plain(f"[{first.kind}] {first.name}")
        author = message.author
        return Quotation(author.name, text, permalink(target), is_self=author.is_self, by=author.user)

    async def latest(self, ref: MessageRef) -> MessageCreated | None:
        """See `LatestReader`."""
        try:
            return await self._current(ref)
        except (TargetGone, Permanent):
            return None

    async def _current(self, ref: MessageRef) -> MessageCreated | None:
        """A message as it is now."""
        event = await self._sender.event(ref)
        if event is None:
            return None
        await self._sender.load_member(ref.channel.id, str(event.get("sender")))
        state, names = self._rooms.state(ref.channel.id), self._rooms.names()
        size = weight(event.get("content")) + weight(as_dict(latest_edit(event)).get("content"))
        message = await self._conversions.run(size, convert_latest, event, state, self._api.user_id, names)
        return message if isinstance(message, MessageCreated) else None

    def past(
        self,
        channel: ChannelRef,
        position: str,
        began: Began,
        *,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> AsyncGenerator[PastPage]:
        """See `PastReader.past`."""
        return self._past.pages(channel, position, began, since, is_bounded=before is not None)

    async def channels_of(self, user: UserRef) -> frozenset[ChannelRef]:
        """See `MemberMirror.channels_of`."""
        return await self._ghosts.channels_of(user)

    async def members_of(self, channel: ChannelRef) -> frozenset[UserRef]:
        """See `MemberMirror.members_of`."""
        return await self._ghosts.members_of(channel)

    async def remove_member(self, channel: ChannelRef, user: UserRef) -> None:
        """See `MemberMirror.remove_member`."""
        if (account := self._accounts.ghost_of(user)) is not None:
            await self._ghosts.leave(account, channel.id)

    def wants_everybody(self, channel: ChannelRef) -> bool:
        """See `MemberMirror.wants_everybody`."""
        return self._ghosts.wants_everybody(channel.id)

    async def add_member(self, channel: ChannelRef, author: Author) -> bool:
        """See `MemberMirror.add_member`."""
        if await self._ghosts.is_member(channel.id, author):
            return False
        return await self._ghosts.add(channel.id, await self._media.with_avatar(author))

    async def watch_lists(self, lists: frozenset[ChannelAddress]) -> None:
        """See `PolicyListReader.watch_lists`."""
        self._lists.declare(lists)

    def list_problem(self, address: ChannelAddress) -> str | None:
        """See `PolicyListReader.list_problem`."""
        return self._lists.problem(address)

    def home_of(self, user: UserRef) -> str:
        """See `PolicyListReader.home_of`: without a port, as rules are about hosts."""
        return server_of(user.id)

    def stand_in(self, user: UserRef) -> UserRef | None:
        """See `PolicyListReader.stand_in`: somebody's ghost."""
        ghost = self._accounts.ghost_of(user)
        return None if ghost is None else UserRef(Platform.MATRIX, ghost)

    @property
    def own_account(self) -> UserRef:
        """See `PolicyListReader.own_account`."""
        return UserRef(Platform.MATRIX, self._accounts.me)

    def place_of(self, channel: ChannelRef) -> PlaceRef | None:
        """See `BanReader.place_of`: the room itself."""
        return PlaceRef(Platform.MATRIX, channel.id) if self._rooms.is_open(channel.id) else None

    def bans_version(self, place: PlaceRef) -> int:
        """See `BanReader.bans_version`."""
        return self._responses.bans_versions.get(place.id, 0)

    async def bans(self, place: PlaceRef) -> AsyncIterator[Sequence[UserRef]]:
        """See `BanReader.bans`; for a ghost, whose it is."""
        try:
            answer = await self._api.call("GET", "rooms", place.id, "members", query={"membership": "ban"})
        except (Refused, Unreachable) as error:
            raise Transient(f"the bans of {place.id} cannot be listed ({error})") from None
        events = [event for event in as_list(answer.get("chunk")) if isinstance(event, dict)]
        users = [as_string(event.get("state_key")) for event in events if _is_ban(event)]
        yield [
            self._accounts.person(user) or UserRef(Platform.MATRIX, user)
            for user in users
            if is_user_id(user) and user != self._accounts.me
        ]

    async def decision(self, place: PlaceRef, user: UserRef, *, lifted: bool) -> Decision | None:
        """See `BanReader.decision`: as their membership has it; of somebody of the other side, their ghost's."""
        account = user if user.platform is Platform.MATRIX else self.stand_in(user)
        if account is None:
            return None
        path = ("rooms", place.id, "state", "m.room.member", account.id)
        try:
            event = await self._api.call("GET", *path, query={"format": "event"})
        except Refused as error:
            kind = ActionNeeded if error.status in (403, 404) else Transient
            raise kind(f"who decided about {account.id} cannot be read ({error})") from None
        except Unreachable as error:
            raise Transient(f"who decided about {account.id} cannot be read ({error})") from None
        content = as_dict(event.get("content"))
        # By now it may be about something else. Whoever leaves by themselves has not lifted a ban.
        if content.get("membership") != ("leave" if lifted else "ban") or event.get("sender") == account.id:
            return None
        return Decision(as_string(event.get("sender")), as_string(content.get("reason")))

    async def forget_person(self, user: UserRef) -> None:
        """See `PersonForgetter`."""
        await self._ghosts.forget(user)

    def notes(self, channel: ChannelRef) -> Sequence[str]:
        """See `ChannelNotes`."""
        notes = [*self._loop.notes(), *self._ghosts.notes(channel.id)]
        at = self._responses.by_hand.get(channel.id)
        if at is not None and self._clock.now() - at < _BY_HAND_FOR:
            me = self._api.user_id
            notes.append(
                f"Somebody wrote there as {me}, the relay's own account, and nothing of that crosses: "
                "write with another account."
            )
        return notes

    def describe(self, channel: ChannelRef) -> ChannelInfo | None:
        """See `ChannelDescriber`."""
        return self._rooms.describe(channel.id)

    async def look_up(self, address: ChannelAddress) -> ChannelInfo | None:
        """See `ChannelLookup`."""
        if self.health().state != "ready":
            raise Transient("the homeserver is not connected yet")
        return await look_up(self._api, address)

    def permalink(self, target: MessageRef) -> str:
        """See `Adapter.permalink`."""
        return permalink(target)

    def own_names(self, channel: ChannelRef) -> frozenset[str]:
        """See `Adapter.own_names`. Without a display name, clients show the user ID or the local part of it."""
        name = self._rooms.state(channel.id).name_of(self._api.user_id)
        user = self._api.user_id
        return frozenset({name} if name else {user, user[1:].partition(":")[0]})

    async def people(self, channel: ChannelRef, names: frozenset[str]) -> Mapping[str, UserRef]:
        """See `Adapter.people`."""
        return await self._members.find(channel.id, names)

    @property
    def command_prefix(self) -> str:
        """See `CommandReader.command_prefix`."""
        return f"{COMMAND} "

    def person(self, written: str) -> UserRef | None:
        """See `CommandReader.person`: a user ID, or a link to one."""
        link = parse_link(written)
        user = written if link is None else link.id
        return UserRef(Platform.MATRIX, user) if is_user_id(user) else None

    async def mark(self, source: MessageRef, *, done: bool) -> bool:
        """See `Adapter.mark`."""
        return await self._sender.mark(source, done=done)

    def open_media(self, media: MediaRef) -> AbstractAsyncContextManager[MediaStream]:
        """See `MediaSource.open_media`."""
        return self._media.open_media(media)

    def open_thumbnail(self, media: MediaRef, side: int) -> AbstractAsyncContextManager[MediaStream]:
        """See `ThumbnailSource.open_thumbnail`."""
        return self._media.open_thumbnail(media, side)

    async def _remember_prefix(self, inbox: RetryingInbox) -> None:
        """What ghosts wrote stays ours when the operator chooses another prefix, or wants no ghosts any more."""
        known = (await inbox.position(GHOST_PREFIXES) or "").split()
        self._accounts.earlier |= set(known)
        prefix = self._accounts.prefix
        if prefix is not None and prefix not in known:
            await inbox.receive(EventBatch(cursors=(cursor(GHOST_PREFIXES, " ".join([*known, prefix])),)))

    async def _remember_login(self) -> None:
        """Note since when this login is in use, also over restarts. See `MessageSender.logged_in_since`."""
        assert self._inbox is not None  # noqa: S101 - we are running
        digest = self._api.token_digest
        known, _, since = (await self._inbox.position(LOGIN) or "").partition(" ")
        at = moment(since) if known == digest else None
        if at is None:
            at = self._clock.now()
            await self._inbox.receive(EventBatch(cursors=(cursor(LOGIN, f"{digest} {at.isoformat()}"),)))
        self._login = (digest, at)

    def _logged_in_since(self) -> datetime:
        if self._login is None or self._login[0] != self._api.token_digest:
            return self._clock.now()
        return self._login[1]

    async def _reopen(self, inbox: RetryingInbox) -> None:
        """What could not be done without ghosts is tried again when a room is opened."""
        while True:
            await self._ghosts_returned.wait()
            self._ghosts_returned.clear()
            await self._rooms.reopen(inbox)

    async def _work(self, inbox: RetryingInbox) -> None:
        with ungrouped(FatalError, StoreError):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._joins.run(inbox), name="matrix rooms")
                group.create_task(self._lists.run(inbox), name="matrix policy lists")
                if self._lists.follows:
                    # What waits must not cross before it is known whose it is; but no list may hold up all rooms.
                    await wait_at_most(self._lists.read_once, _LISTS_READ_WITHIN)
                group.create_task(self._loop.run(inbox), name="matrix sync loop")
                group.create_task(self._reopen(inbox), name="matrix ghosts returned")
                group.create_task(self._media.keep_max_file_size(inbox), name="matrix upload limit")


def _is_ban(event: Json) -> bool:
    return as_dict(event.get("content")).get("membership") == "ban"
