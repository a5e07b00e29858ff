"""Turns Discord's message objects into the events and contents of the core. Pure.

https://docs.discord.com/developers/resources/message#message-object. The objects of the gateway and of the history are
the same, but those of the history lack `member` and `guild_id`.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from functools import partial
from typing import Any

from relay.adapters.discord.identifiers import created_at, is_snowflake, is_token, jump_url, snowflake
from relay.adapters.discord.inbound import embeds
from relay.adapters.discord.inbound.files import attachments, component_files, media_ref, objects, stickers
from relay.adapters.discord.markup import NameLookup
from relay.domain.content import Author, Content
from relay.domain.events import Event, FeatureUsed, MessageCreated, MessageEdited
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, ThreadRef, UserRef
from relay.domain.jsontext import Json, as_dict
from relay.domain.names import REPLY_ARROW
from relay.domain.pair import SystemMessage
from relay.domain.text import nodes as n

# A message reference of this type is a forward.
_FORWARD = 1
# A flag: a bot's answer that is not there yet.
_LOADING = 1 << 7
# https://docs.discord.com/developers/interactions/receiving-and-responding: within 15 minutes. A preview comes sooner.
_ANSWERED_WITHIN = timedelta(minutes=20)


class _Type(IntEnum):
    """https://docs.discord.com/developers/resources/message#message-object-message-types"""

    DEFAULT = 0
    RECIPIENT_ADD = 1
    RECIPIENT_REMOVE = 2
    CALL = 3
    CHANNEL_NAME_CHANGE = 4
    CHANNEL_ICON_CHANGE = 5
    CHANNEL_PINNED_MESSAGE = 6
    USER_JOIN = 7
    GUILD_BOOST = 8
    GUILD_BOOST_TIER_1 = 9
    GUILD_BOOST_TIER_2 = 10
    GUILD_BOOST_TIER_3 = 11
    CHANNEL_FOLLOW_ADD = 12
    GUILD_DISCOVERY_DISQUALIFIED = 14
    GUILD_DISCOVERY_REQUALIFIED = 15
    GUILD_DISCOVERY_GRACE_PERIOD_INITIAL_WARNING = 16
    GUILD_DISCOVERY_GRACE_PERIOD_FINAL_WARNING = 17
    THREAD_CREATED = 18
    REPLY = 19
    CHAT_INPUT_COMMAND = 20
    # A thread's first message: it only shows the message again from which the thread was started.
    THREAD_STARTER_MESSAGE = 21
    GUILD_INVITE_REMINDER = 22
    CONTEXT_MENU_COMMAND = 23
    AUTO_MODERATION_ACTION = 24
    ROLE_SUBSCRIPTION_PURCHASE = 25
    INTERACTION_PREMIUM_UPSELL = 26
    STAGE_START = 27
    STAGE_END = 28
    STAGE_SPEAKER = 29
    STAGE_TOPIC = 31
    GUILD_APPLICATION_PREMIUM_SUBSCRIPTION = 32
    GUILD_INCIDENT_ALERT_MODE_ENABLED = 36
    GUILD_INCIDENT_ALERT_MODE_DISABLED = 37
    GUILD_INCIDENT_REPORT_RAID = 38
    GUILD_INCIDENT_REPORT_FALSE_ALARM = 39
    PURCHASE_NOTIFICATION = 44
    POLL_RESULT = 46


# What people and bots write.
_WRITTEN = frozenset({_Type.DEFAULT, _Type.REPLY, _Type.CHAT_INPUT_COMMAND, _Type.CONTEXT_MENU_COMMAND})
# What may refer to another message: which one was answered or pinned, or is the poll.
_REFERRING = _WRITTEN | {_Type.CHANNEL_PINNED_MESSAGE, _Type.POLL_RESULT}
# What follows the name of its author in a system message.
_SYSTEM_TEXTS: Mapping[int, str] = {
    _Type.CALL: "started a call.",
    _Type.CHANNEL_PINNED_MESSAGE: "pinned a message to this channel.",
    _Type.USER_JOIN: "joined the server.",
    _Type.STAGE_SPEAKER: "is now a speaker on the stage.",
    _Type.GUILD_INCIDENT_ALERT_MODE_ENABLED: "turned on the server's security alert mode.",
    _Type.GUILD_INCIDENT_ALERT_MODE_DISABLED: "turned off the server's security alert mode.",
    _Type.GUILD_INCIDENT_REPORT_RAID: "reported a raid.",
    _Type.GUILD_INCIDENT_REPORT_FALSE_ALARM: "said that there was no raid.",
}
# For moderators or nobody.
_NOT_WORTH_SEEING = frozenset(
    {
        _Type.RECIPIENT_ADD,
        _Type.RECIPIENT_REMOVE,
        _Type.CHANNEL_ICON_CHANGE,
        _Type.GUILD_DISCOVERY_DISQUALIFIED,
        _Type.GUILD_DISCOVERY_REQUALIFIED,
        _Type.GUILD_DISCOVERY_GRACE_PERIOD_INITIAL_WARNING,
        _Type.GUILD_DISCOVERY_GRACE_PERIOD_FINAL_WARNING,
        _Type.GUILD_INVITE_REMINDER,
        _Type.AUTO_MODERATION_ACTION,
        _Type.INTERACTION_PREMIUM_UPSELL,
        _Type.GUILD_APPLICATION_PREMIUM_SUBSCRIPTION,
    }
)
_SYSTEM_KINDS: Mapping[int, SystemMessage] = {
    _Type.CHANNEL_PINNED_MESSAGE: "pin",
    _Type.USER_JOIN: "join",
    _Type.GUILD_BOOST: "boost",
    _Type.GUILD_BOOST_TIER_1: "boost",
    _Type.GUILD_BOOST_TIER_2: "boost",
    _Type.GUILD_BOOST_TIER_3: "boost",
}


@dataclass(frozen=True, slots=True)
class MessageContext:
    """Where a message is, and what is known around it."""

    # The paired channel.
    channel: ChannelRef
    own_user: str
    own_application: str
    own_webhooks: AbstractSet[str]
    # Makes the look-ups for the mentions of one message.
    names: Callable[[Json], NameLookup]
    # Somebody's nickname in the guild, if it is known.
    nickname: Callable[[str], str | None]
    # Without a slash at its end.
    cdn_url: str
    guild: str
    # The thread in the channel.
    thread: ThreadRef | None = None
    # The hash of the picture that somebody has in the guild only, if it is known.
    picture: Callable[[str], str | None] = lambda _: None


def created(message: Json, context: MessageContext) -> tuple[Event, ...]:
    """The events for a new message, or one in the history. None for a thread's first one, which repeats another."""
    kind = message.get("type", 0)
    if kind == _Type.THREAD_STARTER_MESSAGE:
        return ()
    if kind == _Type.THREAD_CREATED:
        return (FeatureUsed(context.channel, "thread", author_of(message, context).is_self),)
    author = author_of(message, context)
    content = Content() if is_echo(author, message) else content_of(message, context)
    if content is None:
        return (FeatureUsed(context.channel, "system", author.is_self),)
    event = MessageCreated(
        ref=MessageRef(context.channel, snowflake(message["id"])),
        author=author,
        content=content,
        created_at=created_at(message["id"]),
        reply_to=_reply_to(message, context),
        thread=context.thread,
        edited_at=embeds.moment_of(message.get("edited_timestamp")),
        system=system_kind(kind),
    )
    return (event,)


def edited(message: Json, context: MessageContext, now: datetime) -> MessageEdited | None:
    """The event for a MESSAGE_UPDATE; None if nothing was edited.

    Discord also sends one for the preview of a link, for a pin, and for a thread that is started from the message.
    These do not change `edited_timestamp`. A bot's deferred answer and the end of a poll do not change it either, but
    they are edits: `now` is used as their date.
    """
    author = message.get("author")
    if not isinstance(author, dict) or "content" not in message:
        return None
    moment = embeds.moment_of(message.get("edited_timestamp"))
    if moment is None:
        by_bot = author.get("bot") or message.get("webhook_id")
        may_be_answer = by_bot and now - created_at(snowflake(message["id"])) < _ANSWERED_WITHIN
        if not (may_be_answer or embeds.has_ended(message.get("poll"))):
            return None
        moment = now
    content = content_of(message, context)
    if content is None:
        return None
    return MessageEdited(
        MessageRef(context.channel, snowflake(message["id"])), author_of(message, context), content, moment
    )


def unreadable(message: Json, context: MessageContext) -> MessageCreated:
    """The event for a message of an unknown form, so that it is not missing."""
    fields = as_dict(message.get("author"))
    user = UserRef(Platform.DISCORD, str(fields.get("id", "0")))
    return MessageCreated(
        ref=MessageRef(context.channel, snowflake(message["id"])),
        author=Author(user, str(fields.get("username") or "unknown"), is_self=_is_self(message, fields, context)),
        content=Content(_italic("A message that the relay could not read.")),
        created_at=created_at(str(message["id"])),
        thread=context.thread,
    )


def author_of(message: Json, context: MessageContext) -> Author:
    """The author of a message. In a webhook's message, it is the webhook."""
    author = message["author"]
    member = message.get("member") or {}
    user_id = snowflake(author["id"])
    is_webhook = "webhook_id" in message
    nickname = member.get("nick") or (None if is_webhook else context.nickname(user_id))
    return Author(
        user=UserRef(Platform.DISCORD, user_id),
        name=nickname or author.get("global_name") or author["username"],
        avatar=_avatar(author, context, None if is_webhook else member.get("avatar") or context.picture(user_id)),
        is_self=_is_self(message, author, context),
        is_bot=bool(author.get("bot")) or is_webhook,
        # Discord sets this only if the author was allowed to mention everyone.
        may_broadcast=bool(message.get("mention_everyone")),
        handle="" if is_webhook else str(author["username"]),
    )


def _avatar(author: Json, context: MessageContext, own: object) -> MediaRef | None:
    """The picture that a member has in this guild (its hash is `own`), else the one that they have everywhere."""
    user_id, avatar = author["id"], author.get("avatar")
    if is_token(own):
        place = f"guilds/{context.guild}/users/{user_id}/avatars/{own}"
    elif is_token(avatar):
        place = f"avatars/{user_id}/{avatar}"
    else:
        return None
    return media_ref(f"{context.cdn_url}/{place}.png?size=256")


def is_echo(author: Author, message: Json) -> bool:
    """Whether a message is a copy that the relay posted through a webhook.

    Nothing of it crosses, and whoever posted it knows what it says: so that is not read.
    """
    return author.is_self and "webhook_id" in message


def _is_self(message: Json, author: Json, context: MessageContext) -> bool:
    if author.get("id") == context.own_user:
        return True
    webhook = message.get("webhook_id")
    # The messages of our application's webhooks name the application, also after the webhook was deleted.
    ours = webhook in context.own_webhooks or message.get("application_id") == context.own_application
    return webhook is not None and ours


def content_of(message: Json, context: MessageContext) -> Content | None:
    """The content of a message; None for a system message that nobody needs to see."""
    kind = message.get("type", 0)
    if kind not in _WRITTEN:
        words = system_text(message, kind)
        if words is None:
            return None
        extra = tuple(embeds.embeds(objects(message, "embeds"), _reader(message, context)))
        return Content(n.RichText((*_italic(words).blocks, *extra) if words else extra), style="notice")
    content = _written(message, context, message)
    if content:
        bot = (message.get("author") or {}).get("bot") or "webhook_id" in message
        calls = _calls_answered(message, context)
        return replace(
            content,
            style="notice" if bot else "text",
            calls_answered=calls,
            calls=_answered_author(message) if calls else (),
        )
    words = "…" if (message.get("flags") or 0) & _LOADING else "A message with nothing in it that can be shown here."
    return Content(_italic(words))


def _written(message: Json, context: MessageContext, whole: Json) -> Content:
    reader = _reader(message, context)
    page = jump_url(context.guild, str(whole.get("channel_id")), str(whole.get("id")))
    blocks: list[n.Block] = list(reader.blocks(message.get("content")))
    attached = list(attachments(message, page))
    parts = objects(message, "components")
    listed = {file.id for file in attached}
    attached += [file for file in component_files(parts, page) if file.id not in listed]
    if hidden := set(embeds.hidden_files(parts)):
        attached = [replace(file, spoiler=True, thumbnail=None) if file.id in hidden else file for file in attached]
    files = [*attached, *stickers(message, context.cdn_url)]
    author = whole.get("author") or {}
    written = objects(message, "embeds")
    if message is not whole:
        # A forward does not tell its author. An embed whose URL is in the text is a preview; others were written.
        written = [item for item in written if not item.get("url") or item["url"] not in str(message.get("content"))]
    if message is not whole or author.get("bot") or "webhook_id" in whole:
        blocks.extend(embeds.embeds(written, reader))
    blocks.extend(embeds.components(parts, reader, frozenset(file.id for file in attached)))
    blocks.extend(embeds.invitations(message, reader))
    if isinstance(poll := message.get("poll"), dict):
        blocks.extend(embeds.poll(poll, reader))
    if (message.get("message_reference") or {}).get("type", 0) == _FORWARD:
        for snapshot in objects(message, "message_snapshots"):
            forwarded = _written(snapshot.get("message") or {}, context, whole)
            blocks.append(n.Paragraph((n.Emphasis((n.Text(f"{REPLY_ARROW} Forwarded:"),)),)))
            if forwarded.text:
                blocks.append(n.Quote(forwarded.text.blocks))
            files.extend(forwarded.attachments)
    return Content(n.RichText(tuple(blocks)), tuple(files))


def _reader(message: Json, context: MessageContext) -> embeds.TextReader:
    return embeds.TextReader(replace(context.names(message), emoji_url=partial(_emoji_url, context.cdn_url)))


def _reply_to(message: Json, context: MessageContext) -> MessageRef | None:
    reference = message.get("message_reference") or {}
    if message.get("type", 0) not in _REFERRING or reference.get("type", 0) == _FORWARD:
        return None
    # A reference to another channel is a crosspost.
    if not reference.get("message_id") or reference.get("channel_id", message["channel_id"]) != message["channel_id"]:
        return None
    return MessageRef(context.channel, reference["message_id"])


def _calls_answered(message: Json, context: MessageContext) -> bool:
    """Whether a reply notifies the author of the answered message. For a webhook's message Discord does not tell."""
    if _reply_to(message, context) is None:
        return False
    answered = message.get("referenced_message")
    author = answered.get("author") if isinstance(answered, dict) else None
    if not isinstance(answered, dict) or not isinstance(author, dict) or "webhook_id" in answered:
        return True
    return any(person.get("id") == author.get("id") for person in objects(message, "mentions"))


def _answered_author(message: Json) -> tuple[UserRef, ...]:
    """The author of the answered message, where that is a person or a bot."""
    answered = message.get("referenced_message")
    author = answered.get("author") if isinstance(answered, dict) and "webhook_id" not in answered else None
    user = author.get("id") if isinstance(author, dict) else None
    return (UserRef(Platform.DISCORD, str(user)),) if is_snowflake(user) else ()


def _emoji_url(cdn_url: str, emoji: str, animated: bool) -> str:
    return f"{cdn_url}/emojis/{emoji}.{'gif' if animated else 'png'}"


def _italic(words: str) -> n.RichText:
    return n.RichText((n.Paragraph((n.Emphasis((n.Text(words),)),)),))


# --- System messages ----------------------------------------------------------------------------------------


def system_kind(kind: int) -> SystemMessage | None:
    """The kind of a system message, by which a pair chooses; None for messages of people and bots."""
    # A poll's result belongs to the poll.
    if kind in _WRITTEN or kind == _Type.POLL_RESULT:
        return None
    return _SYSTEM_KINDS.get(kind, "other")


def system_text(message: Mapping[str, Any], kind: int) -> str | None:
    """A sentence without its subject; "" if the embeds tell it; None for what nobody needs to see."""
    detail = " ".join(str(message.get("content") or "").split())
    match kind:
        case _ if kind in _NOT_WORTH_SEEING:
            return None
        case _ if kind in _SYSTEM_TEXTS:
            return _SYSTEM_TEXTS[kind]
        case _Type.GUILD_BOOST | _Type.GUILD_BOOST_TIER_1 | _Type.GUILD_BOOST_TIER_2 | _Type.GUILD_BOOST_TIER_3:
            often = f" {detail} times" if detail.isdecimal() and detail != "1" else ""
            level = f": it has reached level {kind - _Type.GUILD_BOOST}" if kind != _Type.GUILD_BOOST else ""
            return f"boosted the server{often}{level}."
        case _Type.CHANNEL_NAME_CHANGE:
            return f"changed the channel's name: {detail}"
        case _Type.CHANNEL_FOLLOW_ADD:
            return f"added {detail or 'a channel'} to this channel: its announcements will show up here."
        case _Type.STAGE_START:
            return f"started the stage “{detail}”." if detail else "started a stage."
        case _Type.STAGE_END:
            return f"ended the stage “{detail}”." if detail else "ended the stage."
        case _Type.STAGE_TOPIC:
            return f"changed the stage's topic: {detail}"
        case _Type.PURCHASE_NOTIFICATION:
            return f"bought {_bought(message.get('purchase_notification'))} in the server's shop."
        case _Type.ROLE_SUBSCRIPTION_PURCHASE:
            return _subscribed(message.get("role_subscription_data"))
        case _Type.POLL_RESULT:
            return "" if message.get("embeds") else "ended a poll."
        case _:
            return detail or f"did something that Discord shows as a system message (type {kind})."


def _bought(data: object) -> str:
    product = data.get("guild_product_purchase") if isinstance(data, dict) else None
    name = product.get("product_name") if isinstance(product, dict) else None
    return " ".join(str(name or "").split()) or "something"


def _subscribed(data: object) -> str:
    fields = as_dict(data)
    tier = " ".join(str(fields.get("tier_name") or "").split()) or "a role of the server"
    months = fields.get("total_months_subscribed")
    since = f", for {months} months now" if isinstance(months, int) and months > 1 else ""
    return f"{'renewed the subscription' if fields.get('is_renewal') else 'subscribed'} to {tier}{since}."
