"""Posts a delivery: through the channel's webhook, or as the bot where that is not possible, and never twice.

After a request without an answer, the channel's history tells whether the message was posted.
"""

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.errors import FORBIDDEN_WORDS, MISSING, ApiError, ErrorCode, Refused, Unanswered
from relay.adapters.discord.api.rate_limits import POSTING_MAX_WAIT
from relay.adapters.discord.gateway.buffers import ChannelBuffers
from relay.adapters.discord.gateway.translator import BotIdentity
from relay.adapters.discord.identifiers import created_at, is_snowflake
from relay.adapters.discord.media import Media
from relay.adapters.discord.message_cache import CachedMessage, MessageCache
from relay.adapters.discord.outbound.body import (
    TEXT_LENGTH,
    allowed_mentions,
    bot_text,
    flags,
    usernames,
    webhook_body,
    webhook_text,
)
from relay.adapters.discord.outbound.doubles import Doubles, Doubt, PostedMessages
from relay.adapters.discord.pictures.avatars import Avatars
from relay.adapters.discord.webhooks import Webhook, Webhooks, is_gone
from relay.core.ports import Clock, Delivery
from relay.core.recent import LastSent, Recent
from relay.domain.content import Author
from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.domain.jsontext import Json
from relay.domain.names import REPLY_ARROW
from relay.errors import ActionNeeded, Permanent
from relay.logs import get_logger

_log = get_logger(__name__)

# Somebody may delete or move each of them just before it is used.
_WEBHOOKS_TRIED = 3
# Seconds until the next try to make a webhook: without the permission, whose return Discord announces, and where the
# channel has too many webhooks, which it does not announce.
_FORBIDDEN_PAUSE, _FULL_PAUSE = 10.0, 300.0
_MAX_ACCEPTED = 500
_PAGE = 100
# How wrong the time since an entry was queued may be, if our clock was set meanwhile.
_CLOCKS_DIFFER = timedelta(hours=1)
# How wrong it may be otherwise: it takes a while to learn Discord's clock well.
_CLOCKS_AGREE = timedelta(minutes=1)
# A request with files may be under way for so long before it is given up.
_TRY_LASTS = timedelta(minutes=2)
_MIN_PAGES = 10
_MOST_PAGES = 200
# Of a message that is not on record: what tells whether it is the one that is looked for.
_KEPT = ("id", "content", "author", "webhook_id", "application_id", "edited_timestamp", "attachments")
_UNRECORDED = 16 * 1024 * 1024
"""Bytes of such messages, in all channels. What is dropped is read again; what is in use is held, however large."""


# --- Finding what an earlier try has posted -----------------------------------------------------------------
#
# Webhook messages have no idempotency key: https://docs.discord.com/developers/resources/webhook#execute-webhook. But a
# lane sends one message at a time, so after its last recorded copy there is at most one message that is not on record.
# That one need not have the same text: the message that it quotes may have been deleted since, or a name may belong to
# somebody else now. Nor need it have the same name: the operator may have set another template of names since. Both
# must be the same only where another lane may have left a message there as well, because its pair was removed while it
# was sending; but for the quoted line, which follows what it quotes.


_Likeness = Literal["name and words", "name and own words", "name", "words"]
_HEADING = re.compile(r"\*\*.+?\*\*:")
_QUOTED_LINE = re.compile(rf"^>.*{REPLY_ARROW}.*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ExpectedMessage:
    """What the earlier try would have posted: through a webhook of ours, or as the bot."""

    # The author's name, and those that replace it where Discord refuses it.
    usernames: AbstractSet[str]
    content: str
    bot_content: str
    # The number of files.
    files: int = 0

    def is_met_by(
        self,
        message: Json,
        *,
        user: str,
        application: str,
        webhooks: AbstractSet[str],
        by: _Likeness = "name and words",
    ) -> bool:
        """Whether `message` is the expected one. `user`, `application` and `webhooks` are our own IDs.

        `by`: what of it has to be the same. What the bot posted has to have the same own words, whatever `by` is.
        """
        # Discord strips the white space around the text.
        said = str(message.get("content", "")).strip()
        author = message.get("author") or {}
        webhook = message.get("webhook_id")
        expected = (self.bot_content if webhook is None else self.content).strip()
        if by == "name and own words":
            said, expected = _without_quotation(said), _without_quotation(expected)
        same_words = said == expected and self._has_files(message)
        if webhook is None:
            same_bodies = by == "words" and _without_heading(said) == _without_heading(expected)
            return author.get("id") == user and (same_words or (same_bodies and self._has_files(message)))
        ours = webhook in webhooks or message.get("application_id") == application
        same_name = by == "words" or author.get("username") in self.usernames
        return ours and same_name and (by == "name" or same_words)

    def _has_files(self, message: Json) -> bool:
        return len(message.get("attachments") or ()) == self.files


def _likenesses(delivery: Delivery) -> tuple[_Likeness, ...]:
    """What has to be the same, one after the other: the likeliest message first."""
    if not delivery.alone:
        return ("name and words", "name and own words")
    # With no copy on record, what somebody else said may come from an earlier store.
    return ("name and words", "name") if delivery.after is None else ("name and words", "name", "words")


def _without_quotation(text: str) -> str:
    """The text of a copy without the line that quotes what it answers. Only the relay writes its arrow."""
    return _QUOTED_LINE.sub("", text)


def _without_heading(text: str) -> str:
    """The text of a message of the bot without its author's name."""
    return _HEADING.sub("", text, count=1)


async def candidates(rest: RestClient, channel: str, delivery: Delivery) -> list[Json]:
    """The messages that may be an earlier try of `delivery`, oldest first. Raises `ApiError`.

    They are read from the newest back to the lane's last copy, because our clock cannot be compared with Discord's IDs.
    The time since the entry was queued is used only where no copy is on record yet, or where very many messages have
    been written since the last copy.
    """
    after = int(delivery.after.id) if delivery.after is not None and is_snowflake(delivery.after.id) else 0
    earliest = None if delivery.queued_at is None else rest.time.of(delivery.queued_at) - _CLOCKS_DIFFER
    found: list[Json] = []
    route = Route("GET", "/channels/{channel}/messages", {"channel": channel})
    before: dict[str, str] = {}
    pages = 0
    while True:
        page = await rest.call(route, query={"limit": str(_PAGE), **before})
        messages = sorted(page, key=lambda message: int(message["id"]), reverse=True)
        found.extend(message for message in messages if int(message["id"]) > after)
        pages += 1
        if len(messages) < _PAGE or int(messages[-1]["id"]) <= after:
            break
        oldest = str(messages[-1]["id"])
        enough = not after or pages >= _MIN_PAGES
        if enough and earliest is not None and created_at(oldest) < earliest:
            break
        before = {"before": oldest}
    if not after and earliest is not None:
        # Without a copy on record, an older message may come from an earlier store.
        found = [message for message in found if created_at(str(message["id"])) >= earliest]
    return found[::-1]


async def messages_since(rest: RestClient, channel: str, moment: datetime) -> list[Json]:
    """The messages of a channel since a moment by Discord's clock, oldest first. Raises `ApiError`."""
    found: list[Json] = []
    route = Route("GET", "/channels/{channel}/messages", {"channel": channel})
    before: dict[str, str] = {}
    for _ in range(_MOST_PAGES):
        page = await rest.call(route, query={"limit": str(_PAGE), **before})
        messages = sorted(page, key=lambda message: int(message["id"]), reverse=True)
        found.extend(message for message in messages if created_at(str(message["id"])) >= moment)
        if len(messages) < _PAGE or created_at(str(messages[-1]["id"])) < moment:
            break
        before = {"before": str(messages[-1]["id"])}
    return found[::-1]


# --- Posting ------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class MessagePoster:
    """Posts messages. Raises `ApiError`, and `ActionNeeded` where it is certain that Discord would refuse."""

    rest: RestClient
    media: Media
    identity: BotIdentity
    buffers: ChannelBuffers
    webhooks: Webhooks
    cache: MessageCache
    avatars: Avatars
    clock: Clock
    last_sent: LastSent = field(init=False, default_factory=LastSent)
    _posted: PostedMessages = field(init=False, default_factory=PostedMessages)
    # By channel: what is there of ours since the backup that the store was restored from, and not on record yet.
    _unrecorded: Recent[str, list[Json]] = field(init=False, default_factory=lambda: Recent(_UNRECORDED))
    # The channels in which a webhook could not be made, and until when that is not tried again (monotonic).
    _without_webhook: dict[str, float] = field(init=False, default_factory=dict)
    # Those of them that have as many webhooks as Discord allows.
    _full: set[str] = field(init=False, default_factory=set)
    # For usernames that Discord refused: those that it accepted instead.
    _accepted: dict[str, str] = field(init=False, default_factory=dict)
    doubles: Doubles = field(init=False)

    def __post_init__(self) -> None:
        self.doubles = Doubles(
            rest=self.rest,
            buffers=self.buffers,
            webhooks=self.webhooks,
            cache=self.cache,
            clock=self.clock,
            posted=self._posted,
        )

    def posts_as_bot(self, channel: str) -> bool:
        """Whether the bot has to post for everybody in a channel, because it cannot use a webhook there."""
        buffer = self.buffers.get(channel)
        tried_lately = self.clock.monotonic() < self._without_webhook.get(channel, 0.0)
        return tried_lately or (buffer is not None and not buffer.access.may_use_webhooks)

    def webhooks_full(self, channel: str) -> bool:
        """Whether a channel had no room for a webhook of ours when one was last wanted."""
        return channel in self._full

    async def post(self, delivery: Delivery) -> str:
        """Returns the ID of the message that `delivery` has become, by this try or an earlier one."""
        if self.buffers.get(delivery.channel.id) is None:
            # A webhook would accept it, but the relay would not learn what happens in the channel meanwhile.
            raise Unanswered("the channel is not open", sent=False)
        channel = self._destination(delivery)
        if delivery.restored_since is None:
            self._unrecorded.pop(channel, None)  # what is in order behind the gap: nothing more is looked for
        with self.doubles.posting(channel):
            if delivery.suspect:
                self._suspect(delivery, channel, again=False)
            found = await self._find_earlier_try(delivery, channel) if delivery.suspect else None
            if found is None and delivery.suspect and delivery.last_try:
                raise Permanent("Discord fails at it every time, while it takes other messages")
            try:
                message = found or await self._post(delivery, channel)
            except Unanswered as error:
                if error.sent:
                    self._suspect(delivery, channel, again=True)
                raise
            self._posted.put(delivery.key, message)
            self.doubles.resolve(delivery.key, found=found is not None)
        return message

    async def _post(self, delivery: Delivery, channel: str) -> str:
        author = delivery.author
        home = self.buffers.webhook_home(channel)
        for _ in range(_WEBHOOKS_TRIED):
            webhook = await self._webhook(channel) if author is not None else None
            if author is None or webhook is None:
                return await self._post_as_bot(delivery, channel)
            try:
                answer = await self._post_through(webhook, delivery, author)
            except Refused as error:
                # For a webhook that was moved, the threads of its old channel are unknown channels.
                if not is_gone(error) and not (home != channel and error.code == ErrorCode.UNKNOWN_CHANNEL):
                    raise
                # Nothing was posted, so the message is posted through another webhook.
                if is_gone(error):
                    self.webhooks.gone(home, webhook)
                elif await self.webhooks.current_channel(webhook.id) == home:
                    raise  # the thread itself is gone
                self.webhooks.changed(home)
                continue
            message, where = _message_id(answer), answer.get("channel_id")
            if str(where) == channel or not is_snowflake(where):
                self.cache.put(message, CachedMessage(channel, author.name, webhook.id, webhook.id, delivery.content))
                return message
            self.webhooks.moved(home, webhook, str(where))
            await self._delete_misplaced(webhook.id, str(where), message, webhook)
        raise Unanswered("the webhooks of this channel keep disappearing", sent=False)

    async def _delete_misplaced(
        self, webhook_id: str, where: str, message: str, webhook: Webhook | None = None
    ) -> None:
        """Delete a message that was posted into the wrong channel. Raises `Unanswered`, so that it is tried again."""
        ids = {"channel": where, "message": message}
        routes = [Route("DELETE", "/channels/{channel}/messages/{message}", ids)]
        if webhook is not None:
            routes.insert(0, webhook.message_route("DELETE", message))
        reason = ""
        for route in routes:
            try:
                await self.rest.call(route)
            except Refused as error:
                if error.code == ErrorCode.UNKNOWN_MESSAGE:
                    break
                reason = error.message
            except ApiError as error:
                # The next try finds the message, and posts nothing before it is deleted.
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
        _log.warning("message taken back from the wrong channel", channel=where, webhook=webhook_id, message=message)

    async def _post_through(self, webhook: Webhook, delivery: Delivery, author: Author) -> Any:
        """Post through a webhook. If Discord refuses the name or the avatar, post under another name or without it."""
        body: Json = webhook_body(delivery.content, author, self._avatar_url(delivery, author))
        route = webhook.route(self.buffers.thread(delivery.channel.id))
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
                words = error.code in FORBIDDEN_WORDS  # then the picture has nothing to do with it
                if not named and not words and body.pop("avatar_url", None) is not None:
                    continue
                if not (named and others):
                    raise
                _log.info("name refused by Discord", channel=delivery.channel.id, reason=str(error))
                body["username"] = others.pop(0)
                continue
            if body["username"] != first:
                self._accepted[first] = body["username"]
                if len(self._accepted) > _MAX_ACCEPTED:
                    self._accepted.pop(next(iter(self._accepted)))
            self.last_sent.put(_message_id(answer), body["content"])
            return answer

    def _avatar_url(self, delivery: Delivery, author: Author) -> str | None:
        return self.avatars.url(replace(author, name=delivery.bare_name or author.name))

    async def _post_as_bot(self, delivery: Delivery, channel: str) -> str:
        buffer = self.buffers.get(channel)
        if buffer is not None and not buffer.access.may_send:
            # A request would be refused, and Discord bans an address after too many refusals.
            needed = "Send Messages" if self.buffers.thread(channel) is None else "Send Messages in Threads"
            raise ActionNeeded(f"the bot may not write in channel {channel}: give its role {needed} there")
        content = bot_text(delivery)
        if len(content) > TEXT_LENGTH:
            # The text was split for a webhook, before the permission was lost. The next try splits it for the bot.
            raise Unanswered("the bot has to post this itself, and it is too long for that", sent=False)
        body: Json = {
            "content": content,
            "nonce": delivery.key,
            "enforce_nonce": True,
            "allowed_mentions": allowed_mentions(delivery.content),
            **flags(delivery.content),
        }
        if delivery.author is None and delivery.reply_to is not None:
            body["message_reference"] = {"message_id": delivery.reply_to.id, "fail_if_not_exists": False}
        route = Route("POST", "/channels/{channel}/messages", {"channel": channel}, max_wait=POSTING_MAX_WAIT)
        try:
            answer = await self._call(route, body, delivery)
        except Refused as error:
            if error.status != 400 or "message_reference" not in body:
                raise
            # Discord allows no replies to some system messages.
            del body["message_reference"]
            answer = await self._call(route, body, delivery)
        message = _message_id(answer)
        if answer.get("content") == content:
            # Otherwise the answer is the message of an earlier try with the same nonce.
            self.last_sent.put(message, content)
        return message

    async def _call(self, route: Route, body: Json, delivery: Delivery, query: Mapping[str, str] | None = None) -> Any:
        buffer = self.buffers.get(delivery.channel.id)
        if buffer is None:
            # It was open a moment ago. Without this, its files would count as too large.
            raise Unanswered("the channel is not open", sent=False)
        files = delivery.content.attachments
        max_size, sender = buffer.access.max_file_size, delivery.sender
        return await self.media.call(route, body=body, attachments=files, max_size=max_size, sender=sender, query=query)

    async def _webhook(self, channel: str) -> Webhook | None:
        """The channel's webhook; None where the bot has to post for everybody."""
        if self.posts_as_bot(channel):
            return None
        try:
            webhook = await self.webhooks.get_or_make(self.buffers.webhook_home(channel))
        except Refused as error:
            if error.code not in {*MISSING, ErrorCode.TOO_MANY_WEBHOOKS} and not error.unexplained:
                raise
            if channel not in self._without_webhook:
                _log.warning("webhook not possible", channel=channel, code=error.code)
            pause = _FORBIDDEN_PAUSE if error.code in MISSING else _FULL_PAUSE
            if error.code == ErrorCode.TOO_MANY_WEBHOOKS:
                self._full.add(channel)
            self._without_webhook[channel] = self.clock.monotonic() + pause
            return None
        self._without_webhook.pop(channel, None)
        self._full.discard(channel)
        return webhook

    async def _find_earlier_try(self, delivery: Delivery, channel: str) -> str | None:
        """The message that an earlier try of `delivery` has posted, if it has."""
        if (known := self._posted.get(delivery.key)) is not None:
            return known
        author, expected = delivery.author, _expected(delivery)
        if author is not None:
            # This learns which webhooks are ours.
            await self._webhook(channel)
            if delivery.restored_since is None:
                await self._delete_misplaced_by_earlier_try(delivery, channel, author, expected)
        if delivery.restored_since is not None:
            return await self._find_unrecorded(delivery, channel, expected, delivery.restored_since)
        found = [
            message
            for message in await candidates(self.rest, channel, delivery)
            if str(message["id"]) not in self._posted
        ]
        for by in _likenesses(delivery):
            for message in found:
                if not self._is_expected(expected, message, by):
                    continue
                if by == "name" and self._is_of_earlier_store(message, delivery):
                    continue
                if await delivery.on_record(MessageRef(delivery.channel, str(message["id"]))):
                    continue
                _log.info("earlier try adopted", channel=channel, message=message["id"])
                return str(message["id"])
        return None

    def _is_of_earlier_store(self, message: Json, delivery: Delivery) -> bool:
        """Whether a message that says something else stood there before `delivery` was queued.

        Where a copy is on record, only what is behind it is looked at. Right only while our clock is not set.
        """
        queued_at = None if delivery.after is not None else delivery.queued_at
        return queued_at is not None and created_at(str(message["id"])) < self.rest.time.of(queued_at) - _CLOCKS_AGREE

    async def _find_unrecorded(
        self, delivery: Delivery, channel: str, expected: ExpectedMessage, since: datetime
    ) -> str | None:
        """The copy of a message that crossed after the backup was made that our store was restored from.

        The first that says the same; else one of the same author that was edited, as its original may have been.
        """
        known = self._unrecorded.get(channel)
        if known is None:
            known = []
            for message in await messages_since(self.rest, channel, self.rest.time.of(since) - _CLOCKS_DIFFER):
                ref = MessageRef(delivery.channel, str(message["id"]))
                may_be_ours = message.get("webhook_id") or (message.get("author") or {}).get("id") == self.identity.user
                if may_be_ours and ref.id not in self._posted and not await delivery.on_record(ref):
                    known.append({key: message.get(key) for key in _KEPT})
            self._unrecorded[channel] = known
        same = [message for message in known if self._is_expected(expected, message, "name and words")]
        edited = [
            message
            for message in known
            if message.get("edited_timestamp") and self._is_expected(expected, message, "name")
        ]
        for message in (*same, *edited)[:1]:
            known.remove(message)
            _log.info("copy found that the backup does not know", channel=channel, message=message["id"])
            return str(message["id"])
        return None

    async def _delete_misplaced_by_earlier_try(
        self, delivery: Delivery, channel: str, author: Author, expected: ExpectedMessage
    ) -> None:
        """Delete what an earlier try posted into another channel, to which this channel's webhook was moved."""
        if self.buffers.thread(channel) is not None:
            return  # a request that names a thread is posted there or nowhere
        for webhook_id in self.webhooks.used_for(channel):
            where = await self.webhooks.current_channel(webhook_id)
            if where is None or where == channel:
                continue
            try:
                there = await candidates(self.rest, where, delivery)
            except Refused as error:
                # The bot may not read there, so it cannot know.
                _log.warning("no look where a webhook was moved to", channel=where, webhook=webhook_id, code=error.code)
                continue
            for message in there:
                # Nobody else posts through this webhook, and each lane sends one message at a time.
                shown = (message.get("author") or {}).get("username")
                if str(message.get("webhook_id")) != webhook_id or shown not in usernames(author):
                    continue
                same_words = self._is_expected(expected, message, "name and words")
                if not same_words and self._is_of_earlier_store(message, delivery):
                    continue
                # If that channel is in a pair as well, the message may belong there.
                if not await delivery.on_record(MessageRef(ChannelRef(Platform.DISCORD, where), str(message["id"]))):
                    await self._delete_misplaced(webhook_id, where, str(message["id"]))

    def _suspect(self, delivery: Delivery, channel: str, *, again: bool) -> None:
        """A request to post it was given up. What the bot itself posts has a nonce, and so never comes twice."""
        if delivery.author is None or delivery.restored_since is not None:
            return

        async def on_record(message: str) -> bool:
            return await delivery.on_record(MessageRef(delivery.channel, message))

        is_it = partial(self._is_expected, _expected(delivery), by="name and words")
        doubt = Doubt(channel=channel, is_it=is_it, on_record=on_record, since=self.rest.time.now() - _TRY_LASTS)
        self.doubles.suspect(delivery.key, doubt, again=again)

    def _is_expected(self, expected: ExpectedMessage, message: Json, by: _Likeness) -> bool:
        return expected.is_met_by(
            message,
            user=self.identity.user,
            application=self.identity.application,
            webhooks=self.webhooks.ids,
            by=by,
        )

    def _destination(self, delivery: Delivery) -> str:
        """The channel or thread to post into."""
        if delivery.thread is not None:
            return delivery.thread.id
        if delivery.author is None and delivery.reply_to is not None:
            cached = self.cache.get(delivery.reply_to.id)
            if cached is not None:
                return cached.channel
        return delivery.channel.id


def _expected(delivery: Delivery) -> ExpectedMessage:
    author = delivery.author
    return ExpectedMessage(
        usernames=frozenset() if author is None else frozenset(usernames(author)),
        content=webhook_text(delivery.content) if author is not None else "",
        bot_content=bot_text(delivery),
        files=len(delivery.content.attachments),
    )


def _message_id(answer: Any) -> str:
    if not isinstance(answer, dict) or not is_snowflake(answer.get("id")):
        raise Unanswered("Discord's answer does not contain the message's ID", sent=True, answered=True)
    return str(answer["id"])
