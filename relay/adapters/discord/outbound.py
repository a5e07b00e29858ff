"""Deliveries -> calls of Discord's API, and what Discord answers -> the relay's errors: here and nowhere else."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog

from relay.adapters.discord import adoption
from relay.adapters.discord.feeds import Feeds
from relay.adapters.discord.identity import TOO_MANY_WEBHOOKS, Webhook, Webhooks, is_gone, username
from relay.adapters.discord.reading import Self, Translator
from relay.adapters.discord.recent import Recent, Seen
from relay.adapters.discord.rest import Json, Limited, Refused, Rest, Route, Unanswered
from relay.adapters.discord.wording import TEXT_LENGTH, said_by_bot, said_by_webhook
from relay.core.ports import Delivery, Quotation
from relay.domain.content import Author
from relay.domain.ids import MessageRef
from relay.domain.richtext import RichText
from relay.errors import Blocked, DeliveryError, Orphaned, Permanent, RateLimited, TargetGone, Transient

_log = structlog.get_logger(__name__)

FAILED_SIGN = "⚠️"
_NOBODY: Mapping[str, Json] = {"parse": [], "replied_user": False}

_UNKNOWN_CHANNEL, _UNKNOWN_MESSAGE = 10003, 10008
_MISSING = {50001, 50013}
_TOO_LARGE = 40005
# Auto-moderation and the like: what was written is what is refused.
_FORBIDDEN_WORDS = {200000, 200001, 240000, 20009}
# Its own network's trouble, and what a banned address is told.
_NOT_US = {0, 40333}
_BAN_PAUSE = 60.0


@contextmanager
def translated(channel: str) -> Iterator[None]:
    """Errors of the API, as the core understands them."""
    try:
        yield
    except Limited as error:
        raise RateLimited(str(error), retry_after=error.retry_after) from None
    except Unanswered as error:
        raise Transient(str(error), ambiguous=error.sent) from None
    except Refused as error:
        raise _refusal(error, channel) from None


@contextmanager
def readable(channel: str) -> Iterator[None]:
    """Errors of reading a channel: whatever they are, it is read again later, or the channel closes."""
    try:
        with translated(channel):
            yield
    except Transient:
        raise
    except DeliveryError as error:
        raise Transient(str(error)) from None


def _refusal(error: Refused, channel: str) -> DeliveryError:
    said = f"Discord said: {error.message}"
    match error:
        case Refused(code=code) if code == _UNKNOWN_MESSAGE:
            return TargetGone(said)
        case Refused(code=code) if code == _UNKNOWN_CHANNEL:
            # Waits rather than dies: the operator may point the pair at another channel, and nothing is lost.
            return Blocked(f"channel {channel} is gone from Discord: correct discord_channel of this pair")
        case Refused(code=code) if code in _MISSING:
            needed = "View Channel, Send Messages, Manage Webhooks and Manage Messages"
            return Blocked(f"the bot may not do that in channel {channel}: give its role {needed} there ({said})")
        case Refused(code=code) if code in _FORBIDDEN_WORDS:
            return Permanent(said)
        case Refused(status=status) if status == 413 or error.code == _TOO_LARGE:
            return Permanent(f"it is too large for Discord ({said})")
        case Refused(status=401):
            return Transient(said)
        case Refused(status=403, code=code) if code in _NOT_US:
            return Transient(said, retry_after=_BAN_PAUSE)
        case Refused(status=403):
            return Blocked(f"the bot may not do that in channel {channel} ({said})")
        case _:
            return Permanent(said)


class Outbound:
    """Posts, edits and deletes."""

    def __init__(
        self, *, rest: Rest, me: Self, feeds: Feeds, webhooks: Webhooks, translator: Translator, recent: Recent
    ) -> None:
        self._rest = rest
        self._me = me
        self._feeds = feeds
        self._webhooks = webhooks
        self._translator = translator
        self._recent = recent
        self._posted = adoption.Posted()

    # --- Posting ------------------------------------------------------------------------------------------

    async def send(self, delivery: Delivery) -> MessageRef:
        """See `Adapter.send`."""
        channel = self._destination(delivery)
        try:
            with translated(channel):
                message = await self._earlier(delivery, channel) if delivery.suspect else None
                if message is None:
                    message = await self._post(delivery, channel)
        except (Blocked, Permanent) as error:
            if delivery.thread is None:
                raise
            # Locked or deleted meanwhile: there is nobody to tell any more.
            raise TargetGone(str(error)) from None
        self._posted.put(delivery.key, message)
        return MessageRef(delivery.channel, message)

    async def _post(self, delivery: Delivery, channel: str) -> str:
        author = delivery.author
        hook = await self._webhook(channel) if author is not None else None
        if author is None or hook is None:
            return await self._post_as_bot(delivery, channel)
        try:
            return await self._post_through(hook, delivery, author)
        except Refused as error:
            if not is_gone(error):
                raise
        # Nothing was posted, so the message goes on through a new one.
        self._webhooks.gone(channel, hook)
        hook = await self._webhook(channel)
        if hook is None:
            return await self._post_as_bot(delivery, channel)
        return await self._post_through(hook, delivery, author)

    async def _post_through(self, hook: Webhook, delivery: Delivery, author: Author) -> str:
        body: dict[str, Json] = {
            "content": said_by_webhook(delivery.content),
            "username": username(author),
            "allowed_mentions": _NOBODY,
        }
        if author.avatar is not None and author.avatar.locator.startswith(("https://", "http://")):
            body["avatar_url"] = author.avatar.locator
        answer = await self._rest.call(hook.route(), body=body, query={"wait": "true"})
        message = _id(answer)
        self._recent.put(message, Seen(delivery.channel.id, author.name, hook.id, hook.id, delivery.content))
        return message

    async def _post_as_bot(self, delivery: Delivery, channel: str) -> str:
        feed = self._feeds.get(channel)
        if feed is not None and not feed.place.speaks:
            # Asking would only use up the answers that Discord gives before it bans.
            raise Blocked(f"the bot may not write in channel {channel}: give its role Send Messages there")
        content = said_by_bot(delivery)
        if len(content) > TEXT_LENGTH:
            # The permission was lost after the text had been split for a webhook; the next try splits it for a bot.
            raise Unanswered("the bot has to post this itself, and it does not fit", sent=False)
        body: dict[str, Json] = {
            "content": content,
            "nonce": delivery.key,
            "enforce_nonce": True,
            "allowed_mentions": _NOBODY,
        }
        if delivery.author is None and delivery.reply_to is not None:
            body["message_reference"] = {"message_id": delivery.reply_to.id, "fail_if_not_exists": False}
        route = Route("POST", "/channels/{channel}/messages", {"channel": channel})
        try:
            return _id(await self._rest.call(route, body=body))
        except Refused as error:
            if error.status != 400 or "message_reference" not in body:
                raise
            # Some system messages cannot be replied to.
            del body["message_reference"]
            return _id(await self._rest.call(route, body=body))

    async def _webhook(self, channel: str) -> Webhook | None:
        """The channel's webhook; None where the bot has to speak for everybody."""
        feed = self._feeds.get(channel)
        if feed is not None and not feed.place.webhooks:
            return None
        try:
            return await self._webhooks.of(channel)
        except Refused as error:
            if error.code not in {*_MISSING, TOO_MANY_WEBHOOKS}:
                raise
            _log.warning("webhook not possible", channel=channel, code=error.code)
            return None

    async def _earlier(self, delivery: Delivery, channel: str) -> str | None:
        """The message that an earlier try of `delivery` has made, if it has."""
        if (known := self._posted.get(delivery.key)) is not None:
            return known
        author = delivery.author
        expected = adoption.Expected(
            username=username(author) if author is not None else "",
            content=said_by_webhook(delivery.content) if author is not None else "",
            bot_content=said_by_bot(delivery),
        )
        if author is not None:
            # Finding it tells which webhooks are ours.
            await self._webhook(channel)
        me = self._me
        for message in await adoption.candidates(self._rest, channel, delivery):
            met = expected.is_met_by(message, user=me.user, application=me.application, webhooks=self._webhooks.ids)
            if met and str(message["id"]) not in self._posted:
                _log.info("earlier try adopted", channel=channel, message=message["id"])
                return str(message["id"])
        return None

    # --- Changing -----------------------------------------------------------------------------------------

    async def edit(self, target: MessageRef, delivery: Delivery) -> None:
        """See `Adapter.edit`."""
        channel = target.channel.id
        with translated(channel):
            seen = await self._look(target)
            if seen.webhook is None:
                if seen.user != self._me.user:
                    raise Permanent("the copy was not posted by this bot")
                route = Route("PATCH", "/channels/{channel}/messages/{message}", _where(target))
                body = {"content": said_by_bot(delivery), "allowed_mentions": _NOBODY}
                await self._rest.call(route, body=body)
            else:
                await self._edit_through(seen.webhook, target, delivery)
        self._recent.put(target.id, Seen(channel, seen.author, seen.user, seen.webhook, delivery.content))

    async def _edit_through(self, webhook: str, target: MessageRef, delivery: Delivery) -> None:
        hook = await self._webhooks.owner(target.channel.id, webhook)
        if hook is None:
            raise Orphaned("the webhook that posted it was deleted")
        body = {"content": said_by_webhook(delivery.content), "allowed_mentions": _NOBODY}
        try:
            await self._rest.call(hook.message_route("PATCH", target.id), body=body)
        except Refused as error:
            if not is_gone(error):
                raise
            self._webhooks.gone(target.channel.id, hook)
            raise Orphaned("the webhook that posted it was deleted") from None

    async def delete(self, target: MessageRef) -> None:
        """See `Adapter.delete`."""
        channel = target.channel.id
        with translated(channel):
            if not await self._delete_through_webhook(target):
                await self._rest.call(Route("DELETE", "/channels/{channel}/messages/{message}", _where(target)))
        self._recent.forget(target.id)

    async def _delete_through_webhook(self, target: MessageRef) -> bool:
        """Whether its own webhook has deleted it. Only asked where the bot may not delete what others posted."""
        feed = self._feeds.get(target.channel.id)
        if feed is not None and feed.place.moderates:
            return False
        seen = await self._look(target)
        hook = await self._webhooks.owner(target.channel.id, seen.webhook) if seen.webhook is not None else None
        if hook is None:
            return False
        try:
            await self._rest.call(hook.message_route("DELETE", target.id))
        except Refused as error:
            if not is_gone(error):
                raise
            self._webhooks.gone(target.channel.id, hook)
            return False
        return True

    # --- Telling ------------------------------------------------------------------------------------------

    async def quote(self, target: MessageRef) -> Quotation | None:
        """See `Adapter.quote`."""
        feed = self._feeds.get(target.channel.id)
        try:
            with translated(target.channel.id):
                seen = await self._look(target)
        except (TargetGone, Blocked, Permanent):
            return None
        guild = feed.place.guild if feed is not None else "@me"
        url = f"https://discord.com/channels/{guild}/{seen.channel}/{target.id}"
        text = seen.content.text
        if not text and seen.content.attachments:
            first = seen.content.attachments[0]
            text = RichText.plain(f"[{first.kind}] {first.name}")
        return Quotation(seen.author, text, url)

    async def mark_failed(self, source: MessageRef) -> bool:
        """See `Adapter.mark_failed`."""
        seen = self._recent.get(source.id)
        where = {"channel": seen.channel if seen is not None else source.channel.id, "message": source.id}
        route = Route(
            "PUT", "/channels/{channel}/messages/{message}/reactions/{emoji}/@me", where | {"emoji": FAILED_SIGN}
        )
        with translated(source.channel.id):
            try:
                await self._rest.call(route)
            except Refused as error:
                # Not allowed here, blocked by the author, or too many reactions already.
                if error.code != _UNKNOWN_MESSAGE and error.status in {400, 403}:
                    return False
                raise
        return True

    # --- Pieces -------------------------------------------------------------------------------------------

    async def _look(self, target: MessageRef) -> Seen:
        """What is known of a message, asked for if need be. Raises an `ApiError`."""
        seen = self._recent.get(target.id)
        if seen is not None:
            return seen
        feed = self._feeds.get(target.channel.id)
        if feed is None:
            raise Unanswered("the channel is not open", sent=False)
        message = await self._rest.call(Route("GET", "/channels/{channel}/messages/{message}", _where(target)))
        return self._translator.seen(feed, message)

    def _destination(self, delivery: Delivery) -> str:
        if delivery.thread is not None:
            return delivery.thread.id
        if delivery.author is None and delivery.reply_to is not None:
            seen = self._recent.get(delivery.reply_to.id)
            if seen is not None:
                return seen.channel
        return delivery.channel.id


def _where(target: MessageRef) -> Mapping[str, str]:
    return {"channel": target.channel.id, "message": target.id}


def _id(answer: Json) -> str:
    if not isinstance(answer, Mapping) or "id" not in answer:
        raise Unanswered("an answer from Discord without the message's ID", sent=True)
    return str(answer["id"])
