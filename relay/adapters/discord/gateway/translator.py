"""From what Discord says, live or in a channel's history, to events for the core, in batches."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from relay.adapters.discord.api.client import Json
from relay.adapters.discord.gateway.buffers import ChannelBuffer, ChannelBuffers, GatewayEvent
from relay.adapters.discord.gateway.guild_cache import GuildCache
from relay.adapters.discord.gateway.message_cache import CachedMessage, MessageCache
from relay.adapters.discord.identifiers import created_at, is_snowflake, messages_stream, snowflake, threads_stream
from relay.adapters.discord.inbound import messages as inbound
from relay.adapters.discord.outbound.webhooks import Webhooks
from relay.core.clock import ServerTime
from relay.core.offload import LONG
from relay.core.ports import Cursor, EventBatch
from relay.domain.content import Content
from relay.domain.events import Event, FeatureUsed, MessageCreated, MessageDeleted, MessageEdited
from relay.domain.ids import MessageRef, Platform, ThreadRef
from relay.domain.text.rewrite import weight
from relay.errors import FatalError, StoreError

_log = structlog.get_logger(__name__)

# What a payload of a form that we do not know raises when it is looked into.
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


@dataclass(slots=True)
class BotIdentity:
    """Who we are; empty until the first READY."""

    user: str = ""
    application: str = ""


class Translator:
    """Turns payloads into events, with the look-ups that belong to their channel."""

    def __init__(
        self,
        *,
        identity: BotIdentity,
        guilds: GuildCache,
        webhooks: Webhooks,
        cache: MessageCache,
        time: ServerTime,
        cdn_url: str,
    ) -> None:
        self._identity = identity
        self._guilds = guilds
        self._webhooks = webhooks
        self._cache = cache
        self._time = time
        self._cdn_url = cdn_url

    async def batch(self, items: Iterable[tuple[ChannelBuffer, GatewayEvent]]) -> EventBatch:
        """Live events, in their order, and how far they bring each channel and thread."""
        events: list[Event] = []
        positions: dict[str, str] = {}
        held = 0
        for buffer, item in items:
            if (held := held + weight(item.data)) > LONG:
                held = 0
                await asyncio.sleep(0)  # Whatever else is due comes between.
            events.extend(self._events(buffer, item))
            message = str(item.data.get("id", ""))
            if item.kind == "create" and is_snowflake(message):
                self._time.told(created_at(message))
                known = positions.get(messages_stream(item.channel), "0")
                positions[messages_stream(item.channel)] = max(known, message, key=int)
                if item.channel != buffer.channel.id:
                    buffer.spoken_in(item.channel)
                    positions[threads_stream(buffer.channel.id)] = " ".join(buffer.threads)
        cursors = (Cursor(Platform.DISCORD, name, position) for name, position in positions.items())
        return EventBatch(tuple(events), tuple(cursors))

    async def page(self, buffer: ChannelBuffer, channel: str, messages: Iterable[Mapping[str, Json]]) -> EventBatch:
        """A page of the history, oldest first."""
        return await self.batch((buffer, GatewayEvent("create", channel, message)) for message in messages)

    def seen(self, buffer: ChannelBuffer, message: Mapping[str, Json]) -> CachedMessage:
        """A message that was looked up by itself."""
        view = self._view(buffer, str(message["channel_id"]))
        content = inbound.content_of(message, view) or Content()
        author = inbound.author_of(message, view)
        seen = CachedMessage(
            str(message["channel_id"]), author.name, author.user.id, message.get("webhook_id"), content
        )
        self._cache.put(str(message["id"]), seen)
        return seen

    def _events(self, buffer: ChannelBuffer, item: GatewayEvent) -> Iterable[Event]:
        view = self._view(buffer, item.channel)
        try:
            match item.kind:
                case "create":
                    return [self._remembered(event, item) for event in inbound.created(item.data, view)]
                case "update":
                    event = inbound.edited(item.data, view, self._time.now())
                    if event is not None:
                        self._time.told(event.edited_at)
                    return [] if event is None or self._is_no_news(event, item) else [self._remembered(event, item)]
                case "delete":
                    message = snowflake(item.data["id"])
                    self._cache.forget(message)
                    is_self = self._cache.removed(message)
                    return [MessageDeleted(MessageRef(buffer.channel, message), by_self=is_self)]
                case "feature":
                    is_self = item.data.get("user_id") == self._identity.user
                    return [FeatureUsed(buffer.channel, item.word, user_is_self=is_self)]
        except _MALFORMED as error:
            _log.error("discord payload not understood", kind=item.kind, error=type(error).__name__)
        if item.kind == "create" and is_snowflake(item.data.get("id")):
            return [inbound.unreadable(item.data, view)]
        return []

    def _view(self, buffer: ChannelBuffer, channel: str) -> inbound.MessageContext:
        guild = buffer.access.guild
        return inbound.MessageContext(
            channel=buffer.channel,
            own_user=self._identity.user,
            own_application=self._identity.application,
            own_webhooks=self._webhooks.ids,
            names=self._guilds.names(guild, buffer.channel.id),
            nickname=lambda user: self._guilds.nickname(guild, user),
            cdn_url=self._cdn_url,
            guild=guild,
            thread=ThreadRef(buffer.channel, channel) if channel != buffer.channel.id else None,
        )

    def _remembered(self, event: Event, item: GatewayEvent) -> Event:
        if isinstance(event, MessageCreated | MessageEdited):
            seen = CachedMessage(
                channel=item.channel,
                author=event.author.name,
                user=event.author.user.id,
                webhook=item.data.get("webhook_id"),
                content=event.content,
            )
            self._cache.put(event.ref.id, self._with_own_files(seen, event) if event.author.is_self else seen)
        return event

    def _with_own_files(self, seen: CachedMessage, event: MessageCreated | MessageEdited) -> CachedMessage:
        """What Discord tells of a message that we posted, with the files as we know them: by where they came from."""
        known = self._cache.get(event.ref.id)
        files = () if known is None else known.content.attachments
        if not files or len(files) != len(seen.content.attachments):
            return seen
        return replace(seen, content=replace(seen.content, attachments=files))

    def _is_no_news(self, event: MessageEdited, item: GatewayEvent) -> bool:
        """Whether a bot's message was touched without being edited: a preview, a pin."""
        if item.data.get("edited_timestamp") is not None:
            return False
        seen = self._cache.get(event.ref.id)
        return seen is not None and seen.content == event.content


class EventPump:
    """Brings live events to the core, many in one transaction when many wait."""

    def __init__(self, *, buffers: ChannelBuffers, translator: Translator, batch_limit: int = 200) -> None:
        self._buffers = buffers
        self._translator = translator
        self._batch_limit = batch_limit

    async def run(self, receive: Callable[[EventBatch], Awaitable[None]]) -> None:
        """Work until cancelled. `receive` returns once a batch is on disk."""
        while True:
            batch = await self._translator.batch(await self._buffers.take(self._batch_limit))
            if not batch.events and not batch.cursors:
                continue
            try:
                await receive(batch)
            except (StoreError, FatalError):
                raise
            except Exception as error:  # noqa: BLE001 - the top of this worker: one event must not end all others
                # Without the traceback, which may quote what people wrote.
                _log.error("discord batch not taken", events=len(batch.events), error=type(error).__name__)
                await _one_by_one(batch, receive)


async def _one_by_one(batch: EventBatch, receive: Callable[[EventBatch], Awaitable[None]]) -> None:
    """Hand over what can be; what cannot is let go, because it would be the same the next time."""
    for event in batch.events:
        try:
            await receive(EventBatch((event,)))
        except (StoreError, FatalError):
            raise
        except Exception as error:  # noqa: BLE001 - see `EventPump.run`
            _log.error("discord event not taken", kind=type(event).__name__, error=type(error).__name__)
    await receive(EventBatch(cursors=batch.cursors))
