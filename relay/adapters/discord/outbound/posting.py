"""Posting a delivery: through the channel's webhook, or as the bot where that is not possible; never twice."""

from collections.abc import Mapping

import structlog

from relay.adapters.discord.api.client import Json, RestClient, Route
from relay.adapters.discord.api.errors import MISSING, ApiError, ErrorCode, Refused, Unanswered
from relay.adapters.discord.api.rate_limits import POSTING_MAX_WAIT
from relay.adapters.discord.gateway.buffers import ChannelBuffers
from relay.adapters.discord.gateway.message_cache import CachedMessage, MessageCache
from relay.adapters.discord.gateway.translator import BotIdentity
from relay.adapters.discord.identifiers import is_snowflake
from relay.adapters.discord.media import Media
from relay.adapters.discord.outbound import find_sent as adoption
from relay.adapters.discord.outbound.body import (
    TEXT_LENGTH,
    allowed_mentions,
    bot_text,
    webhook_body,
    webhook_text,
)
from relay.adapters.discord.outbound.usernames import usernames
from relay.adapters.discord.outbound.webhooks import Webhook, Webhooks, is_gone
from relay.core.last_sent import LastSent
from relay.core.ports import Clock, Delivery
from relay.domain.content import Author
from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.errors import ActionNeeded, Permanent

_log = structlog.get_logger(__name__)

# Each of them may be deleted or moved by somebody just before it is used.
_WEBHOOKS_TRIED = 3
# Seconds until a webhook is asked for again: a permission comes back with an announcement, room for one does not.
_FORBIDDEN, _FULL = 10.0, 300.0
_NAMES_REMEMBERED = 500


class MessagePoster:
    """Makes messages. Raises `ApiError`s, and `ActionNeeded` for what it need not even ask."""

    def __init__(
        self,
        *,
        rest: RestClient,
        media: Media,
        identity: BotIdentity,
        buffers: ChannelBuffers,
        webhooks: Webhooks,
        cache: MessageCache,
        last_sent: LastSent,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._rest = rest
        self._media = media
        self._identity = identity
        self._buffers = buffers
        self._webhooks = webhooks
        self._cache = cache
        self._last_sent = last_sent
        self._posted = adoption.PostedMessages()
        self._without_webhook: dict[str, float] = {}
        self._accepted: dict[str, str] = {}  # for names that Discord refused: those that it took instead

    def posts_itself(self, channel: str) -> bool:
        """Whether the bot has to speak for everybody in a channel."""
        buffer = self._buffers.get(channel)
        tried_lately = self._clock.monotonic() < self._without_webhook.get(channel, 0.0)
        return tried_lately or (buffer is not None and not buffer.access.may_use_webhooks)

    async def post(self, delivery: Delivery) -> str:
        """The message that `delivery` has become, by this try or an earlier one."""
        if self._buffers.get(delivery.channel.id) is None:
            # A webhook would take it, but nobody would hear what becomes of the channel meanwhile.
            raise Unanswered("the channel is not open", sent=False)
        channel = self._destination(delivery)
        message = await self._earlier(delivery, channel) if delivery.suspect else None
        if message is None:
            if delivery.suspect and delivery.last_try:
                raise Permanent("Discord fails at it every time, while it takes other messages")
            message = await self._post(delivery, channel)
        self._posted.put(delivery.key, message)
        return message

    async def _post(self, delivery: Delivery, channel: str) -> str:
        author = delivery.author
        home = self._buffers.webhook_home(channel)
        for _ in range(_WEBHOOKS_TRIED):
            hook = await self._webhook(channel) if author is not None else None
            if author is None or hook is None:
                return await self._post_as_bot(delivery, channel)
            try:
                answer = await self._post_through(hook, delivery, author)
            except Refused as error:
                # A webhook that was moved knows no thread of the channel that it was made for.
                if not is_gone(error) and not (home != channel and error.code == ErrorCode.UNKNOWN_CHANNEL):
                    raise
                # Nothing was posted, so the message goes on through another one.
                if is_gone(error):
                    self._webhooks.gone(home, hook)
                elif await self._webhooks.current_channel(hook.id) == home:
                    raise  # it is the thread that is gone
                self._webhooks.changed(home)
                continue
            message, where = _id(answer), answer.get("channel_id")
            if str(where) == channel or not is_snowflake(where):
                self._cache.put(message, CachedMessage(channel, author.name, hook.id, hook.id, delivery.content))
                return message
            self._webhooks.moved(home, hook, str(where))
            await self._take_back(hook.id, str(where), message, hook)
        raise Unanswered("the webhooks of this channel keep disappearing", sent=False)

    async def _take_back(self, webhook: str, where: str, message: str, hook: Webhook | None = None) -> None:
        """Remove what was posted in a channel where it was not meant to be. Raises `Unanswered`, and is tried again."""
        ids = {"channel": where, "message": message}
        routes = [Route("DELETE", "/channels/{channel}/messages/{message}", ids)]
        if hook is not None:
            routes.insert(0, hook.message_route("DELETE", message))
        reason = ""
        for route in routes:
            try:
                await self._rest.call(route)
            except Refused as error:
                if error.code == ErrorCode.UNKNOWN_MESSAGE:
                    break
                reason = error.message
            except ApiError as error:
                # The next try finds it, and posts nothing before it is gone.
                raise Unanswered(f"a message in the wrong channel is still there ({error})", sent=True) from error
            else:
                break
        else:
            _log.error(
                "a message that a moved webhook posted cannot be removed",
                channel=where,
                message=message,
                reason=reason,
                remedy="delete it, and give the bot's role Manage Messages there",
            )
            return
        _log.warning("message taken back from the wrong channel", channel=where, webhook=webhook, message=message)

    async def _post_through(self, hook: Webhook, delivery: Delivery, author: Author) -> Json:
        """Post through a webhook. A name or a picture that Discord does not take is no reason to lose the message."""
        body: dict[str, Json] = webhook_body(delivery.content, author)
        route = hook.route(self._buffers.thread(delivery.channel.id))
        first, *others = usernames(author)
        if (accepted := self._accepted.get(first)) in others:
            body["username"], others = accepted, others[others.index(accepted) + 1 :]
        while True:
            try:
                answer = await self._call(route, body, delivery, query={"wait": "true"})
            except Refused as error:
                if error.status != 400 or is_gone(error):
                    raise
                named = "username" in error.fields or "username" in error.message.lower()
                if not named and body.pop("avatar_url", None) is not None:
                    continue
                if not (named and others):
                    raise
                _log.info("name refused by Discord", channel=delivery.channel.id, reason=str(error))
                body["username"] = others.pop(0)
                continue
            if body["username"] != first:
                self._accepted[first] = body["username"]
                if len(self._accepted) > _NAMES_REMEMBERED:
                    self._accepted.pop(next(iter(self._accepted)))
            self._last_sent.put(_id(answer), body["content"])
            return answer

    async def _post_as_bot(self, delivery: Delivery, channel: str) -> str:
        buffer = self._buffers.get(channel)
        if buffer is not None and not buffer.access.may_send:
            # Asking would only use up the answers that Discord gives before it bans.
            needed = "Send Messages" if self._buffers.thread(channel) is None else "Send Messages in Threads"
            raise ActionNeeded(f"the bot may not write in channel {channel}: give its role {needed} there")
        content = bot_text(delivery)
        if len(content) > TEXT_LENGTH:
            # The permission was lost after the text had been split for a webhook; the next try splits it for a bot.
            raise Unanswered("the bot has to post this itself, and it does not fit", sent=False)
        body: dict[str, Json] = {
            "content": content,
            "nonce": delivery.key,
            "enforce_nonce": True,
            "allowed_mentions": allowed_mentions(delivery.content),
        }
        if delivery.author is None and delivery.reply_to is not None:
            body["message_reference"] = {"message_id": delivery.reply_to.id, "fail_if_not_exists": False}
        route = Route("POST", "/channels/{channel}/messages", {"channel": channel}, max_wait=POSTING_MAX_WAIT)
        try:
            answer = await self._call(route, body, delivery)
        except Refused as error:
            if error.status != 400 or "message_reference" not in body:
                raise
            # Some system messages cannot be replied to.
            del body["message_reference"]
            answer = await self._call(route, body, delivery)
        message = _id(answer)
        if answer.get("content") == content:
            # Else the answer is the message of an earlier try, which had the same nonce.
            self._last_sent.put(message, content)
        return message

    async def _call(
        self, route: Route, body: Mapping[str, Json], delivery: Delivery, query: Mapping[str, str] | None = None
    ) -> Json:
        buffer = self._buffers.get(delivery.channel.id)
        if buffer is None:
            # It was open a moment ago. Files must not count as too large for that.
            raise Unanswered("the channel is not open", sent=False)
        files = delivery.content.attachments
        most, sender = buffer.access.max_file_size, delivery.sender
        return await self._media.call(route, body=body, attachments=files, most=most, sender=sender, query=query)

    async def _webhook(self, channel: str) -> Webhook | None:
        """The channel's webhook; None where the bot has to speak for everybody."""
        if self.posts_itself(channel):
            return None
        try:
            hook = await self._webhooks.get_or_make(self._buffers.webhook_home(channel))
        except Refused as error:
            if error.code not in {*MISSING, ErrorCode.TOO_MANY_WEBHOOKS} and not error.unexplained:
                raise
            _log.warning("webhook not possible", channel=channel, code=error.code)
            pause = _FORBIDDEN if error.code in MISSING else _FULL
            self._without_webhook[channel] = self._clock.monotonic() + pause
            return None
        self._without_webhook.pop(channel, None)
        return hook

    async def _earlier(self, delivery: Delivery, channel: str) -> str | None:
        """The message that an earlier try of `delivery` has made, if it has."""
        if (known := self._posted.get(delivery.key)) is not None:
            return known
        author = delivery.author
        expected = adoption.ExpectedMessage(
            usernames=frozenset() if author is None else frozenset(usernames(author)),
            content=webhook_text(delivery.content) if author is not None else "",
            bot_content=bot_text(delivery),
            files=len(delivery.content.attachments),
        )
        if author is not None:
            # Finding it tells which webhooks are ours.
            await self._webhook(channel)
            await self._take_back_strays(delivery, channel, author)
        found = [
            message
            for message in await adoption.candidates(self._rest, channel, delivery)
            if str(message["id"]) not in self._posted
        ]
        for exactly in (True, False) if delivery.alone else (True,):
            for message in found:
                if not self._is(expected, message, exactly=exactly):
                    continue
                if await delivery.on_record(MessageRef(delivery.channel, str(message["id"]))):
                    continue
                _log.info("earlier try adopted", channel=channel, message=message["id"])
                return str(message["id"])
        return None

    async def _take_back_strays(self, delivery: Delivery, channel: str, author: Author) -> None:
        """Remove what an earlier try has posted through a webhook of this channel that was moved to another one."""
        if self._buffers.thread(channel) is not None:
            return  # what names its thread is posted there, or nowhere
        for webhook in self._webhooks.used_for(channel):
            where = await self._webhooks.current_channel(webhook)
            if where is None or where == channel:
                continue
            try:
                there = await adoption.candidates(self._rest, where, delivery)
            except Refused as error:
                # Where the bot may not read, it cannot know.
                _log.warning("no look where a webhook was moved to", channel=where, webhook=webhook, code=error.code)
                continue
            for message in there:
                # Nobody else posts through it, and each lane has one message on its way.
                shown = (message.get("author") or {}).get("username")
                if str(message.get("webhook_id")) != webhook or shown not in usernames(author):
                    continue
                # Where a pair leads to that channel as well, it may stand there by right.
                if not await delivery.on_record(MessageRef(ChannelRef(Platform.DISCORD, where), str(message["id"]))):
                    await self._take_back(webhook, where, str(message["id"]))

    def _is(self, expected: adoption.ExpectedMessage, message: Mapping[str, Json], *, exactly: bool) -> bool:
        return expected.is_met_by(
            message,
            user=self._identity.user,
            application=self._identity.application,
            webhooks=self._webhooks.ids,
            exactly=exactly,
        )

    def _destination(self, delivery: Delivery) -> str:
        if delivery.thread is not None:
            return delivery.thread.id
        if delivery.author is None and delivery.reply_to is not None:
            seen = self._cache.get(delivery.reply_to.id)
            if seen is not None:
                return seen.channel
        return delivery.channel.id


def _id(answer: Json) -> str:
    if not isinstance(answer, Mapping) or not is_snowflake(answer.get("id")):
        raise Unanswered("an answer from Discord without the message's ID", sent=True, answered=True)
    return str(answer["id"])
