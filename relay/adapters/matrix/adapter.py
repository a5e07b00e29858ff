"""The Matrix side: a plain account on any homeserver. Implements `core.ports.Adapter`."""

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial

from relay.adapters.matrix.api.client import Api, Json
from relay.adapters.matrix.api.session import LoadSession, MatrixSession, SaveSession
from relay.adapters.matrix.inbound.events import convert, latest_edit
from relay.adapters.matrix.markup import NameLookup
from relay.adapters.matrix.media import MediaRepository
from relay.adapters.matrix.members import MemberDirectory
from relay.adapters.matrix.outbound import compose
from relay.adapters.matrix.outbound.sender import MessageSender
from relay.adapters.matrix.rooms.declared import DeclaredRooms
from relay.adapters.matrix.rooms.joins import RoomJoiner
from relay.adapters.matrix.rooms.state import RoomState
from relay.adapters.matrix.sync.backfill import Backfiller
from relay.adapters.matrix.sync.loop import ConnectionStatus, SyncLoop
from relay.adapters.matrix.sync.response import ResponseHandler
from relay.adapters.matrix.sync.retrying_inbox import RetryingInbox
from relay.config.settings import MatrixSettings
from relay.core.clock import Backoff
from relay.core.offload import Conversions
from relay.core.ports import Clock, Delivery, Files, Inbox, MediaStream, SideHealth
from relay.domain.capabilities import Capabilities
from relay.domain.content import Author, Quotation
from relay.domain.events import Event, MessageCreated, MessageEdited
from relay.domain.ids import ChannelAddress, ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.text.nodes import RichText
from relay.domain.text.rewrite import weight
from relay.errors import FatalError, Permanent, StoreError, TargetGone, ungrouped


class MatrixAdapter:
    """One account of the relay.

    The access token comes before the password. With a password alone the account logs in once; what it then gets is
    kept through `save_session` and given back by `load_session` (one string, a secret). `catchup_limit`: messages
    per room that are still read after an absence; `catchup_limits`, where it is given, says it for each declared
    address, asked anew each time. `retry_interval`: seconds before a room that could not be
    entered is tried again; it doubles up to twenty times as much. `files`: those of the other side; without them they
    cross as words. `conversions`: the thread that everybody shares; without it one of its own.
    """

    def __init__(
        self,
        *,
        settings: MatrixSettings,
        load_session: LoadSession,
        save_session: SaveSession,
        clock: Clock,
        rng: random.Random,
        catchup_limit: int = 5000,
        catchup_limits: Callable[[ChannelAddress], int] | None = None,
        retry_interval: float = 30.0,
        files: Files | None = None,
        conversions: Conversions | None = None,
    ) -> None:
        self._conversions = conversions = conversions or Conversions()
        self._clock = clock
        self._rng = rng
        self._inbox: RetryingInbox | None = None
        self._status = ConnectionStatus(detail="Not started.")
        self._api = Api(settings.homeserver_url, settings.user_id, conversions)
        session = MatrixSession(self._api, settings, load=load_session, save=save_session)
        self._rooms = DeclaredRooms(
            settings.user_id,
            backoff=partial(Backoff, rng, first=retry_interval, most=20 * retry_interval),
            now=clock.monotonic,
        )

        def limit(room_id: str) -> int:
            room = self._rooms.find(room_id)
            return catchup_limit if room is None or catchup_limits is None else catchup_limits(room.address)

        self._joins = RoomJoiner(api=self._api, rooms=self._rooms, clock=clock, connected=self._status.caught_up)
        self._loop = SyncLoop(
            api=self._api,
            session=session,
            rooms=self._rooms,
            responses=ResponseHandler(self._api, self._rooms, Backfiller(self._api, limit), conversions),
            status=self._status,
            clock=clock,
            rng=rng,
        )
        self._members = MemberDirectory(self._api, clock, conversions)
        self._media = MediaRepository(self._api, files, clock)
        self._sender = MessageSender(self._api, self._rooms, self._media, clock, self._loop.interrupt, conversions)

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
        self._status.set("connecting", "Logging in.")
        try:
            await self._loop.connect()
            await self._work(retrying)
        except (FatalError, StoreError) as error:
            self._status.set("failed", str(error))
            raise

    async def watch(self, addresses: frozenset[ChannelAddress]) -> None:
        """See `Adapter.watch`."""
        self._rooms.declare(addresses)

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
        limit = self._media.limit
        return Capabilities(
            max_text_length=compose.MAX_TEXT_LENGTH,
            native_replies=True,
            max_attachments=1 if self._media.carries else 0,
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
        await self._sender.delete(target, key)

    async def quote(self, target: MessageRef) -> Quotation | None:
        """See `Adapter.quote`. Replies are native here: for whoever wants to show a message elsewhere.

        What the relay is not shown (it may be older than its membership) others may well see: there is the link.
        """
        try:
            said = await self._said(target)
        except (TargetGone, Permanent):
            return Quotation("a message", RichText(), compose.permalink(target))
        if said is None:
            return None
        text = said.content.text
        if not text and said.content.attachments:
            first = said.content.attachments[0]
            text = RichText.plain(f"[{first.kind}] {first.name}")
        return Quotation(said.author.name, text, compose.permalink(target), is_self=said.author.is_self)

    async def latest(self, ref: MessageRef) -> MessageCreated | None:
        """See `LatestReader`."""
        try:
            return await self._said(ref)
        except (TargetGone, Permanent):
            return None

    async def _said(self, ref: MessageRef) -> MessageCreated | None:
        """What a message says now. A homeserver adds the last edit that stands to the event itself.

        https://spec.matrix.org/latest/client-server-api/#server-side-aggregation-of-mreplace-relationships
        """
        event = await self._sender.event(ref)
        if event is None:
            return None
        await self._sender.load_member(ref.channel.id, str(event.get("sender")))
        state, names = self._rooms.state(ref.channel.id), self._rooms.names()
        said = await self._converted(event, state, names)
        edit = latest_edit(event)
        edited = None if edit is None else await self._converted(edit, state, names)
        if isinstance(said, MessageCreated) and isinstance(edited, MessageEdited):
            said = replace(said, content=edited.content, edited_at=edited.edited_at)
        return said if isinstance(said, MessageCreated) else None

    async def _converted(self, event: Json, state: RoomState, names: NameLookup) -> Event | None:
        size = weight(event.get("content"))
        return await self._conversions.run(size, convert, event, state, self._api.user_id, names)

    def permalink(self, target: MessageRef) -> str:
        """See `Adapter.permalink`."""
        return compose.permalink(target)

    def own_names(self, channel: ChannelRef) -> frozenset[str]:
        """See `Adapter.own_names`. Without a display name, clients show the user ID or the local part of it."""
        name = self._rooms.state(channel.id).name_of(self._api.user_id)
        user = self._api.user_id
        return frozenset({name} if name else {user, user[1:].partition(":")[0]})

    async def people(self, channel: ChannelRef, names: frozenset[str]) -> Mapping[str, UserRef]:
        """See `Adapter.people`."""
        return await self._members.named(channel.id, names)

    async def mark_failed(self, source: MessageRef, reason: str) -> bool:
        """See `Adapter.mark_failed`. The reason is not shown: a reaction has no room for it."""
        return await self._sender.mark_failed(source)

    def open_media(self, media: MediaRef) -> AbstractAsyncContextManager[MediaStream]:
        """See `MediaSource.open_media`."""
        return self._media.open_media(media)

    async def _work(self, inbox: RetryingInbox) -> None:
        with ungrouped(FatalError, StoreError):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._joins.run(inbox), name="matrix rooms")
                group.create_task(self._loop.run(inbox), name="matrix sync loop")
                group.create_task(self._media.keep_limit(), name="matrix upload limit")
