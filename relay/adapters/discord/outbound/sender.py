"""Deliveries -> calls of Discord's API, and what Discord answers -> the relay's errors: here and nowhere else."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import structlog

from relay.adapters.discord.api.client import Json, RestClient, Route
from relay.adapters.discord.api.errors import FROM_CLOUDFLARE, ErrorCode, Refused, translate_errors
from relay.adapters.discord.gateway.buffers import ChannelBuffers
from relay.adapters.discord.gateway.message_cache import CachedMessage, MessageCache
from relay.adapters.discord.gateway.translator import BotIdentity, Translator
from relay.adapters.discord.identifiers import jump_url
from relay.adapters.discord.media import Media, have_same_files
from relay.adapters.discord.outbound.body import TEXT_LENGTH, allowed_mentions, bot_text, webhook_text
from relay.adapters.discord.outbound.posting import MessagePoster
from relay.adapters.discord.outbound.webhooks import Webhooks, is_gone
from relay.core.last_sent import LastSent
from relay.core.ports import Clock, Delivery
from relay.domain.content import Quotation
from relay.domain.ids import MessageRef, Platform, UserRef
from relay.domain.text.nodes import RichText
from relay.errors import (
    ActionNeeded,
    CopyNotEditable,
    FileRejected,
    Permanent,
    TargetGone,
)

_log = structlog.get_logger(__name__)

FAILED_SIGN = "⚠️"

# A webhook's token may have been changed since.
_TOKENS_TRIED = 2


class MessageSender:
    """Posts, edits and deletes."""

    def __init__(
        self,
        *,
        rest: RestClient,
        media: Media,
        identity: BotIdentity,
        buffers: ChannelBuffers,
        webhooks: Webhooks,
        translator: Translator,
        cache: MessageCache,
        clock: Clock,
    ) -> None:
        self._rest = rest
        self._media = media
        self._identity = identity
        self._buffers = buffers
        self._webhooks = webhooks
        self._translator = translator
        self._cache = cache
        self._last_sent = LastSent()
        self._poster = MessagePoster(
            rest=rest,
            media=media,
            identity=identity,
            buffers=buffers,
            webhooks=webhooks,
            cache=cache,
            last_sent=self._last_sent,
            clock=clock,
        )

    def posts_itself(self, channel: str) -> bool:
        """Whether the bot has to speak for everybody in a channel."""
        return self._poster.posts_itself(channel)

    async def send(self, delivery: Delivery) -> MessageRef:
        """See `Adapter.send`."""
        try:
            with translate_errors(delivery.channel.id):
                message = await self._poster.post(delivery)
        except (ActionNeeded, Permanent) as error:
            if delivery.thread is None:
                raise
            # Locked or deleted meanwhile: there is nobody to tell any more.
            raise TargetGone(str(error)) from None
        return MessageRef(delivery.channel, message)

    # --- Changing -----------------------------------------------------------------------------------------

    async def edit(self, target: MessageRef, delivery: Delivery) -> None:
        """See `Adapter.edit`."""
        channel = target.channel.id
        async with self._changing(target):
            seen = await self._look(target)
            await self._awake(target, partial(self._edit, seen, target, delivery))
        self._cache.put(target.id, CachedMessage(channel, seen.author, seen.user, seen.webhook, delivery.content))

    async def _edit(self, seen: CachedMessage, target: MessageRef, delivery: Delivery) -> None:
        if seen.webhook is not None:
            await self._edit_through(seen.webhook, seen, target, delivery)
            return
        content = bot_text(delivery)
        if seen.user != self._identity.user or len(content) > TEXT_LENGTH:
            raise CopyNotEditable("it was posted in a way that cannot carry it any more")
        route = Route("PATCH", "/channels/{channel}/messages/{message}", _where(target))
        body = {"content": content, "allowed_mentions": allowed_mentions(delivery.content)}
        await self._change(target, route, body, seen, delivery)

    async def _awake(self, target: MessageRef, call: Callable[[], Awaitable[None]]) -> None:
        """Do what may not be done in an archived thread: it is opened again first, as posting would do."""
        try:
            await call()
        except Refused as error:
            if error.code != ErrorCode.THREAD_ARCHIVED:
                raise
            route = Route("PATCH", "/channels/{channel}", {"channel": target.channel.id})
            await self._rest.call(route, body={"archived": False})
            await call()

    async def _edit_through(self, webhook: str, seen: CachedMessage, target: MessageRef, delivery: Delivery) -> None:
        body = {"content": webhook_text(delivery.content), "allowed_mentions": allowed_mentions(delivery.content)}
        home, thread = self._buffers.webhook_home(target.channel.id), self._buffers.thread(target.channel.id)
        for _ in range(_TOKENS_TRIED):
            hook = await self._webhooks.find(home, webhook)
            if hook is None:
                break
            try:
                await self._change(target, hook.message_route("PATCH", target.id, thread), body, seen, delivery)
            except Refused as error:
                if error.code in {ErrorCode.UNKNOWN_MESSAGE, ErrorCode.UNKNOWN_CHANNEL}:
                    # Unless the message is gone, it is the webhook: one that was moved finds none of its messages.
                    await self._ask_for(target)
                    self._webhooks.changed(home)
                    break
                if not is_gone(error):
                    raise
                if error.unexplained:
                    await self._ask_for(target)  # or it is the message that is gone
                self._webhooks.gone(home, hook)
            else:
                return
        raise CopyNotEditable("the webhook that posted it was deleted or moved")

    async def _change(
        self, target: MessageRef, route: Route, body: dict[str, Json], seen: CachedMessage, delivery: Delivery
    ) -> None:
        """Change a message, its files too, where it is to have others. They stand in place of all that it has."""
        wanted, content = delivery.content.attachments, body["content"]
        same_files = have_same_files(seen.content.attachments, wanted)
        if same_files and self._last_sent.says(target.id, content):
            return
        self._last_sent.forget(target.id)
        if same_files:
            await self._rest.call(route, body=body)
        else:
            await self._change_files(target, route, body, delivery)
        self._last_sent.put(target.id, content)

    async def _change_files(self, target: MessageRef, route: Route, body: dict[str, Json], delivery: Delivery) -> None:
        wanted = delivery.content.attachments
        # Should no answer come, nobody knows which files it stands with.
        self._cache.forget(target.id)
        if not wanted:
            await self._rest.call(route, body=body | {"attachments": []})
            return
        buffer = self._buffers.get(delivery.channel.id)
        try:
            most = 0 if buffer is None else buffer.access.max_file_size
            await self._media.call(route, body=body, attachments=wanted, most=most, sender=delivery.sender)
        except FileRejected:
            # Posted anew, with words in the file's place.
            raise CopyNotEditable("it is to have a file that cannot cross") from None

    async def delete(self, target: MessageRef) -> None:
        """See `Adapter.delete`."""
        self._cache.mark_deleted_by_us(target.id)
        try:
            async with self._changing(target):
                await self._awake(target, partial(self._delete, target))
        except (Permanent, ActionNeeded):
            self._cache.unmark_deleted_by_us(target.id)
            raise
        self._cache.forget(target.id)

    async def _delete(self, target: MessageRef) -> None:
        if not await self._delete_through_webhook(target):
            await self._delete_as_bot(target)

    @asynccontextmanager
    async def _changing(self, target: MessageRef) -> AsyncIterator[None]:
        """Errors of changing a message: where a bare 404 comes from something that reads channels, it is gone."""
        channel = target.channel.id
        with translate_errors(channel):
            try:
                yield
            except Refused as error:
                if not error.unexplained:
                    raise
                route = Route("GET", "/channels/{channel}/messages", {"channel": channel})
                await self._rest.call(route, query={"limit": "1"})
                raise TargetGone("the message is not there any more") from None

    async def _delete_as_bot(self, target: MessageRef) -> None:
        try:
            await self._rest.call(Route("DELETE", "/channels/{channel}/messages/{message}", _where(target)))
        except Refused as error:
            if error.status != 403 or error.code in {*FROM_CLOUDFLARE, ErrorCode.MISSING_ACCESS}:
                raise
            # What waits behind one deletion must not wait for a permission that some servers never give.
            remedy = f"the bot may not delete that in channel {target.channel.id}: give its role Manage Messages there"
            raise Permanent(f"{remedy} (Discord said: {error.message})") from None

    async def _delete_through_webhook(self, target: MessageRef) -> bool:
        """Whether its own webhook has deleted it. Only asked where the bot may not delete what others posted."""
        buffer = self._buffers.get(target.channel.id)
        if buffer is None or buffer.access.may_delete:
            return False
        seen = await self._look(target)
        home, thread = self._buffers.webhook_home(target.channel.id), self._buffers.thread(target.channel.id)
        hook = await self._webhooks.find(home, seen.webhook) if seen.webhook is not None else None
        if hook is None:
            return False
        try:
            await self._rest.call(hook.message_route("DELETE", target.id, thread))
        except Refused as error:
            if error.code in {ErrorCode.UNKNOWN_MESSAGE, ErrorCode.UNKNOWN_CHANNEL}:
                await self._ask_for(target)
                self._webhooks.changed(home)
                return False
            if not is_gone(error):
                raise
            self._webhooks.gone(home, hook)
            return False
        return True

    # --- Telling ------------------------------------------------------------------------------------------

    async def quote(self, target: MessageRef) -> Quotation | None:
        """See `Adapter.quote`."""
        buffer = self._buffers.get(target.channel.id)
        try:
            async with self._changing(target):
                seen = await self._look(target)
                is_self = await self._is_own(target, seen)
        except (TargetGone, Permanent):
            return None
        guild = buffer.access.guild if buffer is not None else "@me"
        url = jump_url(guild, seen.channel, target.id)
        text = seen.content.text
        if not text and seen.content.attachments:
            first = seen.content.attachments[0]
            text = RichText.plain(f"[{first.kind}] {first.name}")
        # What a webhook's messages have for an author is the webhook.
        user = UserRef(Platform.DISCORD, seen.user) if seen.webhook is None and not is_self else None
        return Quotation(seen.author, text, url, is_self=is_self, user=user)

    async def message(self, target: MessageRef) -> Json | None:
        """A message as it stands now; None when it is gone."""
        seen = self._cache.get(target.id)
        where = target if seen is None else replace(target, channel=replace(target.channel, id=seen.channel))
        try:
            async with self._changing(where):
                return await self._ask_for(where)
        except (TargetGone, Permanent):
            return None
        except ActionNeeded:
            if where == target:
                raise
            return None  # the thread that it was in is gone, or closed to us

    async def _is_own(self, target: MessageRef, seen: CachedMessage) -> bool:
        if seen.webhook is None:
            return seen.user == self._identity.user
        known = seen.webhook in self._webhooks.ids
        home = self._buffers.webhook_home(target.channel.id)
        return known or await self._webhooks.find(home, seen.webhook) is not None

    async def mark_failed(self, source: MessageRef) -> bool:
        """See `Adapter.mark_failed`."""
        seen = self._cache.get(source.id)
        where = {"channel": seen.channel if seen is not None else source.channel.id, "message": source.id}
        route = Route(
            "PUT", "/channels/{channel}/messages/{message}/reactions/{emoji}/@me", where | {"emoji": FAILED_SIGN}
        )
        with translate_errors(source.channel.id):
            try:
                await self._rest.call(route)
            except Refused as error:
                # Not allowed here, blocked by the author, or too many reactions already.
                if error.unexplained or (error.code != ErrorCode.UNKNOWN_MESSAGE and error.status in {400, 403}):
                    return False
                raise
        return True

    # --- Pieces -------------------------------------------------------------------------------------------

    async def _look(self, target: MessageRef) -> CachedMessage:
        """What is known of a message, asked for if need be. Raises an `ApiError`."""
        seen = self._cache.get(target.id)
        if seen is not None:
            return seen
        buffer = self._buffers.get(target.channel.id)
        if buffer is None:
            raise ActionNeeded(f"channel {target.channel.id} is not open")
        return self._translator.cached(buffer, await self._ask_for(target))

    async def _ask_for(self, target: MessageRef) -> Json:
        return await self._rest.call(Route("GET", "/channels/{channel}/messages/{message}", _where(target)))


def _where(target: MessageRef) -> Mapping[str, str]:
    return {"channel": target.channel.id, "message": target.id}
