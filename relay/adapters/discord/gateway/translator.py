"""Turns Discord's payloads, live or from a channel's history, into batches of events for the core."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from relay.adapters.discord.gateway.buffers import ChannelBuffer, ChannelBuffers, GatewayEvent
from relay.adapters.discord.gateway.guild_cache import GuildCache
from relay.adapters.discord.identifiers import created_at, is_snowflake, messages_stream, snowflake, threads_stream
from relay.adapters.discord.inbound import messages
from relay.adapters.discord.inbound.files import unsigned
from relay.adapters.discord.message_cache import CachedMessage, MessageCache
from relay.adapters.discord.webhooks import Webhooks
from relay.core.clock import ServerTime
from relay.core.offload import LONG
from relay.core.ports import Cursor, EventBatch
from relay.domain.content import Author, Content
from relay.domain.events import (
    Event,
    FeatureUsed,
    MemberBanned,
    MemberLeft,
    MemberUnbanned,
    MessageCreated,
    MessageDeleted,
    MessageEdited,
)
from relay.domain.ids import ChannelRef, MessageRef, PlaceRef, Platform, ThreadRef, UserRef
from relay.domain.jsontext import Json
from relay.domain.text.rewrite import weight
from relay.logs import get_logger

_log = get_logger(__name__)

# What reading a payload of an unknown form may raise.
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


@dataclass(slots=True)
class BotIdentity:
    """The bot's own IDs; empty until the first READY."""

    user: str = ""
    application: str = ""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Translator:
    """Turns payloads into events, and remembers the messages."""

    identity: BotIdentity
    guilds: GuildCache
    webhooks: Webhooks
    cache: MessageCache
    # Discord's clock.
    time: ServerTime
    # Without a slash at its end.
    cdn_url: str
    # Called with each message that came through a webhook of ours.
    on_echo: Callable[[Json], None] = lambda _: None

    async def batch(self, dispatches: Iterable[tuple[ChannelBuffer, GatewayEvent]]) -> EventBatch:
        """Live events in their order, with the new cursors of their channels and threads."""
        events: list[Event] = []
        positions: dict[str, str] = {}
        held = 0
        for buffer, dispatch in dispatches:
            if (held := held + (dispatch.size or weight(dispatch.data))) > LONG:
                held = 0
                await asyncio.sleep(0)  # Let other tasks run in between.
            events.extend(self._events(buffer, dispatch))
            message = str(dispatch.data.get("id", ""))
            if dispatch.kind == "create" and is_snowflake(message):
                self.time.told(created_at(message))
                known = positions.get(messages_stream(dispatch.channel), "0")
                positions[messages_stream(dispatch.channel)] = max(known, message, key=int)
                if dispatch.channel != buffer.channel.id:
                    buffer.thread_is_active(dispatch.channel)
                    positions[threads_stream(buffer.channel.id)] = " ".join(buffer.active_threads)
        cursors = (Cursor(Platform.DISCORD, name, position) for name, position in positions.items())
        return EventBatch(tuple(events), tuple(cursors))

    async def page(self, buffer: ChannelBuffer, channel: str, page: Iterable[Json]) -> EventBatch:
        """Messages from the history, oldest first."""
        return await self.batch((buffer, GatewayEvent("create", channel, message)) for message in page)

    def member(self, buffer: ChannelBuffer, member: Json) -> Author | None:
        """Somebody as they appear in a channel; None for what cannot be read."""
        try:
            context = self._context(buffer, buffer.channel.id)
            return messages.author_of({"author": member["user"], "member": member}, context)
        except _MALFORMED as error:
            _log.error("discord member not understood", error=type(error).__name__)
            return None

    def cached(self, buffer: ChannelBuffer, message: Json) -> CachedMessage:
        """Remember a single message that was asked for."""
        context = self._context(buffer, str(message["channel_id"]))
        content = messages.content_of(message, context) or Content()
        author = messages.author_of(message, context)
        cached = CachedMessage(
            str(message["channel_id"]), author.name, author.user.id, message.get("webhook_id"), content
        )
        self.cache.put(str(message["id"]), cached)
        return cached

    def _events(self, buffer: ChannelBuffer, dispatch: GatewayEvent) -> Iterable[Event]:
        context = self._context(buffer, dispatch.channel)
        try:
            match dispatch.kind:
                case "create":
                    return [self._cache_event(event, dispatch) for event in messages.created(dispatch.data, context)]
                case "update":
                    event = messages.edited(dispatch.data, context, self.time.now())
                    if event is None:
                        return []
                    self.time.told(event.edited_at)
                    if self._is_unchanged(event, dispatch):
                        return []
                    self._cache_event(event, dispatch)
                    return [] if event.author.is_self else [event]
                case "delete":
                    message = snowflake(dispatch.data["id"])
                    self.cache.forget(message)
                    is_self = self.cache.is_deleted_by_us(message)
                    return [MessageDeleted(MessageRef(buffer.channel, message), by_self=is_self)]
                case "leave":
                    left = tuple(ChannelRef(Platform.DISCORD, channel) for channel in dispatch.data["channels"])
                    return [MemberLeft(left, UserRef(Platform.DISCORD, snowflake(dispatch.data["user"])))]
                case "ban" | "unban" as kind:
                    place = PlaceRef(Platform.DISCORD, snowflake(dispatch.data["guild"]))
                    user = UserRef(Platform.DISCORD, snowflake(dispatch.data["user"]))
                    return [MemberBanned(place, user) if kind == "ban" else MemberUnbanned(place, user)]
                case "feature" if dispatch.feature is not None:
                    is_self = dispatch.data.get("user_id") == self.identity.user
                    return [FeatureUsed(buffer.channel, dispatch.feature, user_is_self=is_self)]
        except _MALFORMED as error:
            _log.error("discord payload not understood", kind=dispatch.kind, error=type(error).__name__)
        if dispatch.kind == "create" and is_snowflake(dispatch.data.get("id")):
            return [messages.unreadable(dispatch.data, context)]
        return []

    def _context(self, buffer: ChannelBuffer, channel: str) -> messages.MessageContext:
        guild = buffer.access.guild
        return messages.MessageContext(
            channel=buffer.channel,
            own_user=self.identity.user,
            own_application=self.identity.application,
            own_webhooks=self.webhooks.ids,
            names=self.guilds.name_lookup(guild, buffer.channel.id),
            nickname=lambda user: self.guilds.nickname(guild, user),
            cdn_url=self.cdn_url,
            guild=guild,
            thread=ThreadRef(buffer.channel, channel) if channel != buffer.channel.id else None,
            picture=lambda user: self.guilds.picture(guild, user),
        )

    def _cache_event(self, event: Event, dispatch: GatewayEvent) -> Event:
        is_echo = isinstance(event, MessageCreated) and messages.is_echo(event.author, dispatch.data)
        if is_echo:
            self.on_echo(dispatch.data)
        if isinstance(event, MessageCreated | MessageEdited) and not is_echo:
            cached = CachedMessage(
                channel=dispatch.channel,
                author=event.author.name,
                user=event.author.user.id,
                webhook=dispatch.data.get("webhook_id"),
                content=event.content,
            )
            self.cache.put(event.ref.id, self._with_own_files(cached, event) if event.author.is_self else cached)
        return event

    def _with_own_files(self, cached: CachedMessage, event: MessageCreated | MessageEdited) -> CachedMessage:
        """A message that we posted, with its files as we know them: by their source on the other platform."""
        known = self.cache.get(event.ref.id)
        files = () if known is None else known.content.attachments
        if not files or len(files) != len(cached.content.attachments):
            return cached
        return replace(cached, content=replace(cached.content, attachments=files))

    def _is_unchanged(self, event: MessageEdited, dispatch: GatewayEvent) -> bool:
        """Whether a bot's message only got a link preview or was pinned, and its content is the same."""
        if dispatch.data.get("edited_timestamp") is not None:
            return False
        cached = self.cache.get(event.ref.id)
        return cached is not None and unsigned(cached.content) == unsigned(event.content)


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class EventPump:
    """Hands live events to the core: many in one transaction when many wait."""

    buffers: ChannelBuffers
    translator: Translator
    batch_limit: int = 200

    async def run(self, receive: Callable[[EventBatch], Awaitable[None]]) -> None:
        """Work until cancelled. `receive` returns once a batch is on disk."""
        while True:
            batch = await self.translator.batch(await self.buffers.take(self.batch_limit))
            if not batch.events and not batch.cursors:
                continue
            await receive(batch)
