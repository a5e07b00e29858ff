"""The Discord adapter: its lifecycle, and the core's `Adapter`, `HistoryReader`, `LatestReader` and `NameReader`."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import NoReturn
from urllib.parse import urlsplit

from relay.adapters.discord.api.client import RestClient
from relay.adapters.discord.api.errors import translate_read_errors
from relay.adapters.discord.api.rate_limits import RateLimits
from relay.adapters.discord.bans import Bans
from relay.adapters.discord.channels import Channels
from relay.adapters.discord.commands import SlashCommands
from relay.adapters.discord.gateway.buffers import ChannelBuffer, ChannelBuffers
from relay.adapters.discord.gateway.channel_access import BotAccess
from relay.adapters.discord.gateway.connection import Gateway, check_token
from relay.adapters.discord.gateway.guild_cache import PERMISSION_EVENTS, GuildCache
from relay.adapters.discord.gateway.sessions import Sessions
from relay.adapters.discord.gateway.translator import BotIdentity, EventPump, Translator
from relay.adapters.discord.history import History
from relay.adapters.discord.identifiers import (
    is_snowflake,
    mentioned_user,
    messages_stream,
    snowflake_at,
    webhooks_stream,
)
from relay.adapters.discord.inbound.files import OFFICIAL_CDN
from relay.adapters.discord.media import MAX_FILE_SIZE, MAX_FILES, MAX_REQUEST_SIZE, Media
from relay.adapters.discord.members import Members
from relay.adapters.discord.message_cache import MessageCache
from relay.adapters.discord.outbound.body import FALLBACK_LENGTH, TEXT_LENGTH, measure, with_own_emoji
from relay.adapters.discord.outbound.posting import MessagePoster
from relay.adapters.discord.outbound.sender import MessageSender
from relay.adapters.discord.pictures.avatars import Avatars
from relay.adapters.discord.pictures.drawing import Pictures
from relay.adapters.discord.webhooks import Webhooks
from relay.config.settings import DiscordSettings
from relay.core.clock import Backoff
from relay.core.files import Files, MediaStream, PictureLinks
from relay.core.moderation.ports import Decision
from relay.core.offload import Conversions
from relay.core.ports import Began, ChannelInfo, Clock, Cursor, Delivery, EventBatch, Inbox, PastPage, SideHealth
from relay.core.storage import Store, UnitOfWork
from relay.domain.content import Author, Capabilities, Quotation
from relay.domain.events import MessageCreated
from relay.domain.ids import ChannelAddress, ChannelRef, MediaRef, MessageRef, PlaceRef, Platform, UserRef
from relay.domain.jsontext import Json
from relay.domain.text.nodes import RichText
from relay.errors import ActionNeeded, FatalError, Permanent, StoreUnavailable, Transient, how_many, ungrouped
from relay.logs import get_logger

_log = get_logger(__name__)

_OFFICIAL_HOSTS = frozenset({"discord.com", "discordapp.com"})


class DiscordAdapter:
    """Implements `Adapter`, `HistoryReader`, `PastReader`, `LatestReader`, `NameReader` and `PersonForgetter`.

    Without `files`, those of the other platform, none are posted. Without `store`, it is not remembered which pictures
    of people are already there. Pictures that were not used for `pictures_kept` seconds are deleted; None: never. With
    `links`, people's pictures are shown from there. `timeout` is in seconds, for each request, and does not include the
    time that files take. `may_write` tells whether this process may still change anything.
    """

    def __init__(
        self,
        *,
        settings: DiscordSettings,
        clock: Clock,
        rng: random.Random | None = None,
        timeout: float = 30.0,
        files: Files | None = None,
        conversions: Conversions | None = None,
        store: Store | None = None,
        pictures_kept: float | None = None,
        links: PictureLinks | None = None,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        conversions = conversions or Conversions()
        token = settings.token.get_secret_value()
        self._rng = rng if rng is not None else random.Random()
        self._clock = clock
        self._identity = BotIdentity()
        self._health = SideHealth("connecting")
        self._token_refused = asyncio.Event()
        self._inbox: Inbox | None = None
        limits = RateLimits(clock)
        self._rest = RestClient(
            token=token,
            token_source=settings.token.source,
            api_url=settings.api_url,
            clock=clock,
            limits=limits,
            timeout=timeout,
            on_refused_token=self._token_refused.set,
            conversions=conversions,
            may_write=may_write,
        )
        cdn_url = _cdn_of(settings.api_url)
        pictures = Pictures()
        self._media = Media(self._rest, files, cdn_url, pictures)
        self._avatars = Avatars(
            rest=self._rest,
            identity=self._identity,
            files=files,
            pictures=pictures,
            store=store,
            clock=clock,
            cdn_url=cdn_url,
            kept_for=pictures_kept,
            links=links,
        )
        self._limits = limits
        self._members_intent = settings.members_intent
        self._guilds = GuildCache(clock)
        self._bans = Bans(rest=self._rest, guilds=self._guilds)
        self._members = Members(self._rest, clock)
        self._webhooks = Webhooks(self._rest, self._keep_webhooks)
        self._message_cache = message_cache = MessageCache()
        self._translator = translator = Translator(
            identity=self._identity,
            guilds=self._guilds,
            webhooks=self._webhooks,
            cache=message_cache,
            time=self._rest.time,
            cdn_url=cdn_url,
        )
        self._history = History(rest=self._rest, guilds=self._guilds, translator=translator, clock=clock)
        self._buffers = ChannelBuffers(
            parent_of=self._guilds.parent_of,
            private_parent_of=self._guilds.private_parent_of,
            on_gap=self._check_channels_again,
            on_lost_ban=self._bans.may_be_missed,
        )
        self._pump = EventPump(buffers=self._buffers, translator=translator)
        self._channels = Channels(
            clock=clock,
            rng=self._rng,
            rest=self._rest,
            guilds=self._guilds,
            access=BotAccess(self._guilds),
            buffers=self._buffers,
            webhooks=self._webhooks,
            history=self._history,
        )
        self._poster = MessagePoster(
            rest=self._rest,
            media=self._media,
            identity=self._identity,
            buffers=self._buffers,
            webhooks=self._webhooks,
            cache=message_cache,
            avatars=self._avatars,
            clock=clock,
        )
        translator.on_echo = self._poster.doubles.came
        self._sender = MessageSender(
            poster=self._poster,
            translator=translator,
            rest=self._rest,
            media=self._media,
            identity=self._identity,
            buffers=self._buffers,
            webhooks=self._webhooks,
            cache=message_cache,
            last_sent=self._poster.last_sent,
        )
        self._commands = SlashCommands(
            rest=self._rest, buffers=self._buffers, clock=clock, backoff=Backoff(self._rng, first=1.0, longest=60.0)
        )
        self._sessions = Sessions(
            identity=self._identity,
            guilds=self._guilds,
            webhooks=self._webhooks,
            channels=self._channels,
            avatars=self._avatars,
            bans=self._bans,
            check_commands=self._commands.session_started,
            set_health=self._set_health,
            dispatched=self.dispatched,
        )
        self._gateway = Gateway(
            token=token,
            api_url=settings.api_url,
            members_intent=settings.members_intent,
            rest=self._rest,
            clock=clock,
            rng=self._rng,
        )

    @property
    def platform(self) -> Platform:
        """Discord."""
        return Platform.DISCORD

    # --- Lifecycle ----------------------------------------------------------------------------------------

    @property
    def shared_limit(self) -> bool:
        """See `Adapter.shared_limit`."""
        return False

    async def run(self, inbox: Inbox) -> None:
        """See `Adapter.run`."""
        self._inbox = inbox
        try:
            with ungrouped(FatalError):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._check_refused_tokens(), name="discord token")
                    group.create_task(self._pump.run(self._receive), name="discord events")
                    group.create_task(self._channels.run(inbox, group), name="discord channels")
                    group.create_task(self._commands.run(inbox), name="discord commands")
                    group.create_task(self._gateway.run(self._sessions), name="discord gateway")
                    group.create_task(self._avatars.run(), name="discord avatars")
                    group.create_task(self._poster.doubles.run(), name="discord doubles")
        except FatalError as error:
            self._set_health(SideHealth("failed", str(error)))
            raise

    async def close(self) -> None:
        """See `Adapter.close`."""
        await self._rest.close()

    async def watch(
        self, addresses: frozenset[ChannelAddress], *, secondary: frozenset[ChannelAddress] = frozenset()
    ) -> None:
        """See `Adapter.watch`. A channel has one ID only, so that no two of them can be the same."""
        self._channels.watch(frozenset(address for address in addresses if address.platform is Platform.DISCORD))

    def reads(self) -> bool:
        """See `ReadingPositions.reads`."""
        return self._inbox is not None and self._channels.recorded

    async def at_rest(self, action: Callable[[], Awaitable[None]]) -> None:
        """See `ReadingPositions.at_rest`: events and their cursor are always written together."""
        await action()

    async def position(self, channel: ChannelRef, uow: UnitOfWork) -> str:
        """See `ReadingPositions.position`."""
        return await uow.cursors.get(Platform.DISCORD, messages_stream(channel.id)) or ""

    async def read_from(self, address: ChannelAddress, position: str) -> None:
        """See `ReadingPositions.read_from`: as if the channel had been declared before, and read up to there."""
        await self._channels.read_from(self._connected(), address.value, position if is_snowflake(position) else "")

    def health(self) -> SideHealth:
        """See `Adapter.health`."""
        if self._health.state != "ready":
            return self._health
        if waiting := self._channels.catching_up():
            are = "is" if waiting == 1 else "are"
            return SideHealth("catching_up", f"{how_many(waiting, 'channel')} {are} being caught up")
        return self._health

    def _set_health(self, health: SideHealth) -> None:
        self._health = health
        if self._inbox is not None:
            self._inbox.health_changed()

    async def _check_refused_tokens(self) -> NoReturn:
        while True:
            await self._token_refused.wait()
            self._token_refused.clear()
            await check_token(self._rest)
            _log.warning("discord refused token once")

    async def _receive(self, batch: EventBatch) -> None:
        """Hand a batch to the core. Tries until it is on disk; later batches wait."""
        backoff = Backoff(self._rng, first=0.2, longest=10.0)
        while True:
            try:
                await self._connected().receive(batch)
            except StoreUnavailable as error:
                wait = backoff.next()
                _log.warning("discord events wait for the store", reason=error.reason, tries=backoff.tries)
                await self._clock.sleep(wait)
            else:
                return

    async def _keep_webhooks(self, channel: str, webhooks: tuple[str, ...]) -> None:
        await self._connected().receive(
            EventBatch(cursors=(Cursor(Platform.DISCORD, webhooks_stream(channel), " ".join(webhooks)),))
        )

    def _connected(self) -> Inbox:
        if self._inbox is None:
            raise Transient("Discord is not connected yet")
        return self._inbox

    # --- From the gateway ----------------------------------------------------------------------------

    def dispatched(self, event: str, data: Json) -> None:
        """See `Listener` in `gateway/connection.py`."""
        if event == "INTERACTION_CREATE":
            self._commands.received(data)
            return
        if event == "WEBHOOKS_UPDATE":
            self._webhooks.changed(str(data["channel_id"]))
        if event == "GUILD_DELETE":
            # What is said until it comes back is not dispatched, and it may be back before its channels are checked.
            self._channels.read_again(str(data["id"]).__eq__)
        self._guilds.update(event, data)
        self._buffers.put(event, data)
        is_about_us = event in PERMISSION_EVENTS and not self._is_about_another(event, data)
        if is_about_us and self._bans.refused:
            self._bans.may_be_missed()
        if is_about_us or self._guilds.is_about_declared(event, data):
            self._check_channels_again()

    def _is_about_another(self, event: str, data: Json) -> bool:
        """With the intent for members, Discord tells of everybody; only the bot's own roles matter."""
        return event == "GUILD_MEMBER_UPDATE" and str((data.get("user") or {}).get("id")) != self._identity.user

    def _check_channels_again(self) -> None:
        self._channels.check_again()

    # --- From the core -------------------------------------------------------------------------------

    def knows(self, position: str) -> bool:
        """See `HistoryReader.knows`."""
        return is_snowflake(position)

    def position_at(self, moment: datetime) -> str:
        """See `HistoryReader.position_at`."""
        return snowflake_at(moment)

    def now(self) -> datetime:
        """See `HistoryReader.now`."""
        return self._rest.time.now()

    async def history(
        self, channel: ChannelRef, after: str, *, newest: int, threads_cross: bool, reread_from: MessageRef | None
    ) -> AsyncIterator[EventBatch]:
        """See `HistoryReader.history`."""
        inbox, buffer = self._connected(), self._open_buffer(channel)
        with translate_read_errors(channel.id):
            cursor = partial(inbox.cursor, Platform.DISCORD)
            missed = self._history.read(
                buffer,
                after,
                newest=newest,
                archived_threads=threads_cross,
                reread_from=None if reread_from is None else reread_from.id,
                cursor=cursor,
            )
            async for batch in missed:
                yield batch

    async def reread(self, first: MessageRef, last: MessageRef) -> AsyncGenerator[Sequence[MessageCreated] | None]:
        """See `HistoryReader.reread`."""
        inbox, buffer = self._connected(), self._open_buffer(first.channel)
        with translate_read_errors(first.channel.id):
            cursor = partial(inbox.cursor, Platform.DISCORD)
            async with aclosing(self._history.reread(buffer, first.id, last.id, cursor=cursor)) as pages:
                async for page in pages:
                    yield page

    async def past(
        self,
        channel: ChannelRef,
        position: str,
        began: Began,
        *,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> AsyncGenerator[PastPage]:
        """See `PastReader.past`. Of threads nothing is read."""
        self._connected()
        buffer = self._open_buffer(channel)
        ends = [await began(messages_stream(channel.id)), None if before is None else snowflake_at(before)]
        last = min((end for end in ends if end and is_snowflake(end)), key=int, default=None)
        if last is None:
            raise Permanent(
                f"it is not on record when the relay came into channel {channel.id}: say with --before which messages"
                " are older than the first that crossed"
            )
        after = position or ("0" if since is None else snowflake_at(since))
        with translate_read_errors(channel.id):
            async with aclosing(self._history.past(buffer, after, last)) as pages:
                async for batch, reached, threads in pages:
                    messages = tuple(event for event in batch.events if isinstance(event, MessageCreated))
                    yield PastPage(messages, reached, threads=threads)

    def _open_buffer(self, channel: ChannelRef) -> ChannelBuffer:
        buffer = self._buffers.get(channel.id)
        if buffer is None:
            raise ActionNeeded(f"channel {channel.id} is not open")
        return buffer

    def capabilities(self, channel: ChannelRef) -> Capabilities:
        """See `Adapter.capabilities`."""
        buffer = self._buffers.get(channel.id)
        by_bot = self._poster.posts_as_bot(channel.id)
        # If the channel is just being closed, assume the usual limits: what is planned for it now must not be reduced.
        limit = buffer.access.max_file_size if buffer is not None else MAX_FILE_SIZE
        # The bot's permissions do not matter for messages through a webhook.
        may_attach = self._media.carries and (not by_bot or buffer is None or buffer.access.may_attach)
        return Capabilities(
            max_text_length=TEXT_LENGTH - FALLBACK_LENGTH if by_bot else TEXT_LENGTH,
            native_replies=False,
            max_attachments=MAX_FILES if may_attach else 0,
            max_file_size=limit,
            max_request_size=max(limit, MAX_REQUEST_SIZE),
        )

    def open_media(self, media: MediaRef) -> AbstractAsyncContextManager[MediaStream]:
        """See `MediaSource.open_media`."""
        return self._media.open_media(media)

    async def public_url(self, media: MediaRef) -> str:
        """See `PublicSource.public_url`."""
        return await self._media.public_url(media)

    def measure(self, text: RichText, author: Author | None) -> int:
        """See `Adapter.measure`. `capabilities` leaves room for the author's name."""
        return measure(text)

    async def send(self, delivery: Delivery) -> MessageRef:
        """See `Adapter.send`."""
        self._check_identity()
        return await self._sender.send(self._with_own_emoji(delivery))

    async def edit(self, target: MessageRef, delivery: Delivery) -> None:
        """See `Adapter.edit`."""
        self._check_identity()
        await self._sender.edit(target, self._with_own_emoji(delivery))

    async def delete(self, target: MessageRef, key: str) -> None:
        """See `Adapter.delete`. `key` is not needed, because deleting twice is harmless."""
        self._check_identity()
        await self._sender.delete(target)

    async def quote(self, target: MessageRef) -> Quotation | None:
        """See `Adapter.quote`."""
        self._check_identity()
        return await self._sender.quote(target)

    async def latest(self, ref: MessageRef) -> MessageCreated | None:
        """See `LatestReader`."""
        self._check_identity()
        buffer = self._open_buffer(ref.channel)
        message = await self._sender.message(ref)
        with translate_read_errors(ref.channel.id):
            return None if message is None else await self._history.event_of(buffer, message)

    def permalink(self, target: MessageRef) -> str:
        """See `Adapter.permalink`."""
        # The core has the paired channel as the place of a message in a thread.
        cached = self._message_cache.get(target.id)
        where = target.channel.id if cached is None else cached.channel
        return self._guilds.link(target.channel.id, where, target.id)

    def own_names(self, channel: ChannelRef) -> frozenset[str]:
        """See `Adapter.own_names`."""
        return self._guilds.own_names(channel.id)

    def notes(self, channel: ChannelRef) -> Sequence[str]:
        """See `ChannelNotes`."""
        buffer = self._buffers.get(channel.id)
        if buffer is None:
            return ()
        notes = buffer.access.notes(webhooks_full=self._poster.webhooks_full(channel.id))
        return (*notes, *self._commands.notes())

    def clock_skew(self) -> float | None:
        """By how many seconds our clock is ahead of Discord's; None before the first answer."""
        return self._rest.time.skew()

    def describe(self, channel: ChannelRef) -> ChannelInfo | None:
        """See `ChannelDescriber`."""
        return self._guilds.describe(channel.id)

    def age_restricted(self, channel: ChannelRef) -> bool | None:
        """See `AgeMarkReader.age_restricted`. A post in a forum, or another thread, is as its channel."""
        return self._guilds.age_restricted(channel.id)

    def limits_left(self) -> Mapping[str, float]:
        """See `LimitReader`."""
        return self._limits.left()

    @property
    def command_prefix(self) -> str:
        """See `CommandReader.command_prefix`."""
        return "/relay "

    def person(self, written: str) -> UserRef | None:
        """See `CommandReader.person`: a user's ID, or a mention of one."""
        user = mentioned_user(written)
        return None if user is None else UserRef(Platform.DISCORD, user)

    async def people(self, channel: ChannelRef, names: frozenset[str]) -> Mapping[str, UserRef]:
        """See `Adapter.people`."""
        guild = self._guilds.told_of(channel.id)
        return {} if guild is None else await self._members.find(guild, names)

    async def having_role(self, channel: ChannelRef, role: str, people: Collection[UserRef]) -> frozenset[UserRef]:
        """See `RoleReader`."""
        guild = self._guilds.guild_of(channel.id)
        known = [user for user in people if is_snowflake(user.id)]
        return frozenset() if guild is None else await self._members.having_role(guild, role, known)

    async def members(self, channel: ChannelRef) -> AsyncIterator[Sequence[Author]]:
        """See `MemberLister`."""
        buffer = self._open_buffer(channel)
        with translate_read_errors(channel.id):
            async for page in self._members.everybody(buffer.access.guild):
                shown = [one for one in page if self._guilds.may_view(channel.id, one)]
                found = [self._translator.member(buffer, one) for one in shown]
                yield [author for author in found if author is not None]

    def place_of(self, channel: ChannelRef) -> PlaceRef | None:
        """See `BanReader.place_of`: its server."""
        guild = self._guilds.guild_of(channel.id)
        return None if guild is None else PlaceRef(Platform.DISCORD, guild)

    def bans_version(self, place: PlaceRef) -> int:
        """See `BanReader.bans_version`."""
        return self._bans.version(place)

    def bans(self, place: PlaceRef) -> AsyncIterator[Sequence[UserRef]]:
        """See `BanReader.bans`."""
        return self._bans.listed(place)

    async def decision(self, place: PlaceRef, user: UserRef, *, lifted: bool) -> Decision | None:
        """See `BanReader.decision`."""
        return await self._bans.decision(place, user, lifted=lifted)

    async def departed(self, channel: ChannelRef, people: frozenset[UserRef]) -> frozenset[UserRef]:
        """See `DepartureFinder`. Without the intent for members, Discord lists nobody."""
        if not self._members_intent or not people:
            return frozenset()
        buffer = self._open_buffer(channel)
        with translate_read_errors(channel.id):
            return await self._members.departed(buffer.access.guild, people)

    async def names(
        self, channel: ChannelRef, wanted: Sequence[UserRef | ChannelRef]
    ) -> Mapping[UserRef | ChannelRef, str]:
        """See `NameReader`."""
        guild = self._guilds.guild_of(channel.id)
        if guild is None:
            return {}
        return await self._members.names(guild, wanted, partial(self._guilds.may_name, channel.id))

    def expect(self, author: Author) -> None:
        """See `PictureKeeper`."""
        self._avatars.expect(author)

    async def forget_person(self, user: UserRef) -> None:
        """See `PersonForgetter`. Pictures are gone once Discord has deleted them, which is not waited for."""
        try:
            await self._avatars.forget(user)
        except StoreUnavailable as error:
            raise Transient(f"the store is away ({error.reason})") from error

    async def mark(self, source: MessageRef, *, done: bool) -> bool:
        """See `Adapter.mark`."""
        self._check_identity()
        return await self._sender.mark(source, done=done)

    def _with_own_emoji(self, delivery: Delivery) -> Delivery:
        # A new session begins without servers: for a moment there would be no emoji.
        self._guilds.told_of(delivery.channel.id)
        own = partial(self._guilds.emoji, delivery.channel.id)
        return replace(delivery, content=with_own_emoji(delivery.content, own))

    def _check_identity(self) -> None:
        # Until the bot's IDs are known, our own webhooks cannot be told from others'.
        if not self._identity.application:
            raise Transient("Discord is not connected yet")


def _cdn_of(api_url: str) -> str:
    """The server of avatars and stickers: at Discord another one than the API's, elsewhere the same."""
    parts = urlsplit(api_url)
    return OFFICIAL_CDN if parts.hostname in _OFFICIAL_HOSTS else f"{parts.scheme}://{parts.netloc}"
