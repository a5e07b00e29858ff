"""Carries out the core's deliveries on Discord: sends, edits, deletes, quotes and marks messages."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.errors import FROM_CLOUDFLARE, ErrorCode, Refused, translate_errors
from relay.adapters.discord.gateway.buffers import ChannelBuffers
from relay.adapters.discord.gateway.translator import BotIdentity, Translator
from relay.adapters.discord.media import Media, have_same_files
from relay.adapters.discord.message_cache import CachedMessage, MessageCache
from relay.adapters.discord.outbound.body import (
    TEXT_LENGTH,
    allowed_mentions,
    bot_text,
    split_author_name,
    webhook_text,
    with_author_name,
)
from relay.adapters.discord.outbound.posting import MessagePoster
from relay.adapters.discord.webhooks import Webhook, Webhooks, is_gone
from relay.core.ports import Delivery
from relay.core.recent import LastSent
from relay.domain.content import Quotation
from relay.domain.ids import MessageRef, Platform, UserRef
from relay.domain.jsontext import Json
from relay.domain.text.nodes import RichText
from relay.errors import (
    ActionNeeded,
    CopyNotEditable,
    FileRejected,
    Permanent,
    TargetGone,
)
from relay.logs import get_logger

_log = get_logger(__name__)

_FAILED = "⚠️"
_DONE = "✅"

# Somebody may have changed a webhook's token.
_TOKENS_TRIED = 2


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class MessageSender:
    """Sends, edits and deletes messages."""

    poster: MessagePoster
    translator: Translator
    rest: RestClient
    media: Media
    identity: BotIdentity
    buffers: ChannelBuffers
    webhooks: Webhooks
    cache: MessageCache
    last_sent: LastSent

    async def send(self, delivery: Delivery) -> MessageRef:
        """See `Adapter.send`."""
        try:
            with translate_errors(delivery.channel.id):
                message = await self.poster.post(delivery)
        except (ActionNeeded, Permanent) as error:
            if delivery.thread is None:
                raise
            # A notice for a thread that was locked or deleted meanwhile: nobody can be told any more.
            raise TargetGone(str(error)) from None
        return MessageRef(delivery.channel, message)

    # --- Changing -----------------------------------------------------------------------------------------

    async def edit(self, target: MessageRef, delivery: Delivery) -> None:
        """See `Adapter.edit`."""
        channel = target.channel.id
        async with self._translated_errors(target):
            cached = await self._cached(target)
            await self._reopen_and_retry(target, partial(self._edit, cached, target, delivery))
        said = delivery.content
        if cached.webhook is None and delivery.author is not None:
            said = replace(said, text=with_author_name(said.text, delivery.author))  # as it stands there
        self.cache.put(target.id, CachedMessage(channel, cached.author, cached.user, cached.webhook, said))

    async def _edit(self, cached: CachedMessage, target: MessageRef, delivery: Delivery) -> None:
        if cached.webhook is not None:
            await self._edit_through(cached.webhook, cached, target, delivery)
            return
        content = bot_text(delivery)
        if cached.user != self.identity.user or len(content) > TEXT_LENGTH:
            raise CopyNotEditable("it was posted by another user, or the new text is too long for it")
        route = Route("PATCH", "/channels/{channel}/messages/{message}", _ids(target))
        body = {"content": content, "allowed_mentions": allowed_mentions(delivery.content)}
        await self._change(target, route, body, cached, delivery)

    async def _reopen_and_retry(self, target: MessageRef, call: Callable[[], Awaitable[None]]) -> None:
        """Make `call`. In an archived thread it is refused: reopen the thread, as posting would, and try again."""
        try:
            await call()
        except Refused as error:
            if error.code != ErrorCode.THREAD_ARCHIVED:
                raise
            route = Route("PATCH", "/channels/{channel}", {"channel": target.channel.id})
            await self.rest.call(route, body={"archived": False})
            await call()

    async def _edit_through(
        self, webhook_id: str, cached: CachedMessage, target: MessageRef, delivery: Delivery
    ) -> None:
        body = {"content": webhook_text(delivery.content), "allowed_mentions": allowed_mentions(delivery.content)}
        home, thread = self.buffers.webhook_home(target.channel.id), self.buffers.thread(target.channel.id)
        for _ in range(_TOKENS_TRIED):
            webhook = await self._webhook(target, webhook_id)
            if webhook is None:
                break
            try:
                await self._change(target, webhook.message_route("PATCH", target.id, thread), body, cached, delivery)
            except Refused as error:
                if error.code in {ErrorCode.UNKNOWN_MESSAGE, ErrorCode.UNKNOWN_CHANNEL}:
                    # If the message is still there, the webhook was moved: then it finds none of its messages.
                    await self._fetch(target)
                    self.webhooks.changed(home)
                    break
                if not is_gone(error):
                    raise
                if error.unexplained:
                    await self._fetch(target)  # raises if it is the message that is gone
                self.webhooks.gone(home, webhook)
            else:
                return
        raise CopyNotEditable("the webhook that posted it was deleted or moved, or may not be used any more")

    async def _change(
        self, target: MessageRef, route: Route, body: Json, cached: CachedMessage, delivery: Delivery
    ) -> None:
        """Change a message, and its files if it is to have others: the new ones replace all of them."""
        wanted, content = delivery.content.attachments, body["content"]
        same_files = have_same_files(cached.content.attachments, wanted)
        if same_files and self.last_sent.says(target.id, content):
            return
        self.last_sent.forget(target.id)
        if same_files:
            await self.rest.call(route, body=body)
        else:
            await self._change_files(target, route, body, delivery)
        self.last_sent.put(target.id, content)

    async def _change_files(self, target: MessageRef, route: Route, body: Json, delivery: Delivery) -> None:
        wanted = delivery.content.attachments
        # If no answer comes, it is not known which files it has.
        self.cache.forget(target.id)
        if not wanted:
            await self.rest.call(route, body=body | {"attachments": []})
            return
        buffer = self.buffers.get(delivery.channel.id)
        try:
            max_size = 0 if buffer is None else buffer.access.max_file_size
            await self.media.call(route, body=body, attachments=wanted, max_size=max_size, sender=delivery.sender)
        except FileRejected:
            # It is posted again, with a text in place of the file.
            raise CopyNotEditable("it is to have a file that cannot cross") from None

    async def delete(self, target: MessageRef) -> None:
        """See `Adapter.delete`."""
        self.cache.mark_deleted_by_us(target.id)
        try:
            async with self._translated_errors(target):
                await self._reopen_and_retry(target, partial(self._delete, target))
        except (Permanent, ActionNeeded):
            self.cache.unmark_deleted_by_us(target.id)
            raise
        self.cache.forget(target.id)

    async def _delete(self, target: MessageRef) -> None:
        if not await self._delete_through_webhook(target):
            await self._delete_as_bot(target)

    @asynccontextmanager
    async def _translated_errors(self, target: MessageRef) -> AsyncIterator[None]:
        """Turn errors of a request for a message into the relay's own.

        A 404 without a reason means that the message is gone, if the channel itself can still be read.
        """
        channel = target.channel.id
        with translate_errors(channel):
            try:
                yield
            except Refused as error:
                if not error.unexplained:
                    raise
                route = Route("GET", "/channels/{channel}/messages", {"channel": channel})
                await self.rest.call(route, query={"limit": "1"})
                raise TargetGone("the message is not there any more") from None

    async def _delete_as_bot(self, target: MessageRef) -> None:
        try:
            route = Route("DELETE", "/channels/{channel}/messages/{message}", _ids(target))
            await self.rest.call(route, reason="Its copy or its original in the paired Matrix room was removed")
        except Refused as error:
            if error.status != 403 or error.code in {*FROM_CLOUDFLARE, ErrorCode.MISSING_ACCESS}:
                raise
            # Not `ActionNeeded`: the lane must not wait for a permission that some servers never give.
            remedy = f"the bot may not delete that in channel {target.channel.id}: give its role Manage Messages there"
            raise Permanent(f"{remedy} (Discord said: {error.message})") from None

    async def _delete_through_webhook(self, target: MessageRef) -> bool:
        """Let its webhook delete it, where the bot may not delete messages of others. Returns whether it did."""
        buffer = self.buffers.get(target.channel.id)
        if buffer is None or buffer.access.may_delete:
            return False
        cached = await self._cached(target)
        home, thread = self.buffers.webhook_home(target.channel.id), self.buffers.thread(target.channel.id)
        webhook = await self._webhook(target, cached.webhook) if cached.webhook is not None else None
        if webhook is None:
            return False
        try:
            await self.rest.call(webhook.message_route("DELETE", target.id, thread))
        except Refused as error:
            if error.code in {ErrorCode.UNKNOWN_MESSAGE, ErrorCode.UNKNOWN_CHANNEL}:
                await self._fetch(target)
                self.webhooks.changed(home)
                return False
            if not is_gone(error):
                raise
            self.webhooks.gone(home, webhook)
            return False
        return True

    # --- Reading ------------------------------------------------------------------------------------------

    async def quote(self, target: MessageRef) -> Quotation | None:
        """See `Adapter.quote`."""
        try:
            async with self._translated_errors(target):
                cached = await self._cached(target)
                is_self = await self._is_own(target, cached)
        except (TargetGone, Permanent):
            return None
        url = self.translator.guilds.link(target.channel.id, cached.channel, target.id)
        author, text = cached.author, cached.content.text
        if is_self and cached.webhook is None and (signed := split_author_name(text)) is not None:
            author, text = signed  # the bot had to post it itself
        if not text and cached.content.attachments:
            first = cached.content.attachments[0]
            text = RichText.plain(f"[{first.kind}] {first.name}")
        # The author of a webhook's message is the webhook, and no user.
        user = UserRef(Platform.DISCORD, cached.user) if cached.webhook is None and not is_self else None
        return Quotation(author, text, url, is_self=is_self, user=user)

    async def message(self, target: MessageRef) -> Any | None:
        """A message as it is now; None if it is gone."""
        cached = self.cache.get(target.id)
        where = target if cached is None else replace(target, channel=replace(target.channel, id=cached.channel))
        try:
            async with self._translated_errors(where):
                return await self._fetch(where)
        except (TargetGone, Permanent):
            return None
        except ActionNeeded:
            if where == target:
                raise
            return None  # its thread is gone, or the bot may not see it

    async def _is_own(self, target: MessageRef, cached: CachedMessage) -> bool:
        if cached.webhook is None:
            return cached.user == self.identity.user
        return cached.webhook in self.webhooks.ids or await self._webhook(target, cached.webhook) is not None

    async def mark(self, source: MessageRef, *, done: bool) -> bool:
        """See `Adapter.mark`."""
        cached = self.cache.get(source.id)
        where = {"channel": cached.channel if cached is not None else source.channel.id, "message": source.id}
        where["emoji"] = _DONE if done else _FAILED
        route = Route("PUT", "/channels/{channel}/messages/{message}/reactions/{emoji}/@me", where)
        with translate_errors(source.channel.id):
            try:
                await self.rest.call(route)
            except Refused as error:
                # Reactions are not allowed here, the author has blocked the bot, or there are too many already.
                if error.unexplained or (error.code != ErrorCode.UNKNOWN_MESSAGE and error.status in {400, 403}):
                    return False
                raise
        return True

    # --- Pieces -------------------------------------------------------------------------------------------

    async def _webhook(self, target: MessageRef, webhook_id: str) -> Webhook | None:
        """A webhook of ours that posted a message; None if it is not, or is not there any more. Raises `ApiError`."""
        buffer = self.buffers.get(target.channel.id)
        # In a locked thread webhooks are of no use, whatever the bot may do.
        may_list = buffer is None or buffer.access.may_use_webhooks or buffer.access.parent is not None
        return await self.webhooks.find(self.buffers.webhook_home(target.channel.id), webhook_id, may_list=may_list)

    async def _cached(self, target: MessageRef) -> CachedMessage:
        """A message from the cache, or from Discord if it is not there. Raises `ApiError`."""
        cached = self.cache.get(target.id)
        if cached is not None:
            return cached
        buffer = self.buffers.get(target.channel.id)
        if buffer is None:
            raise ActionNeeded(f"channel {target.channel.id} is not open")
        return self.translator.cached(buffer, await self._fetch(target))

    async def _fetch(self, target: MessageRef) -> Any:
        return await self.rest.call(Route("GET", "/channels/{channel}/messages/{message}", _ids(target)))


def _ids(target: MessageRef) -> Mapping[str, str]:
    return {"channel": target.channel.id, "message": target.id}
