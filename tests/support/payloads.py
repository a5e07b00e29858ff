"""Plays the files of `tests/payloads`: one event of a platform in, everything that the other platform is told out.

A file holds `title`, `source` (where the platform documents this), `context` (what the relay knows around the event),
`input` (the event as the platform sends it) and `expected`: the contents of the Matrix events, or the bodies posted
through the Discord webhook, one after the other; or one object that says what is done instead.

`context`, all of it optional, for both sides: `people` (whom a name on the other side means, if exactly one person),
`pairs` (more paired channels, Discord's first), `messages` (where copies stand, by the ID of the original), `policy`
(of the pair). For Discord: `roles`, `channels`, `nicknames` (names by ID; a channel's object where more than its name
matters: @everyone may view it but for its `permission_overwrites`; with a `parent_id` it is a thread), `threads` (of
this channel), `uploads` and `pictures` (where files, emoji, avatars and pictures of videos stand on the homeserver),
`looked_up` (names by ID that a request brings).
For Matrix: `state` (events of the room), `rooms` (names and aliases of others), `reply` (what the message replied to
looks like: `author`, `text`, `url`, `user`), `emoji` (of the Discord server, as objects of its API).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import discord

from relay.adapters.discord.api.client import RestClient
from relay.adapters.discord.api.rate_limits import RateLimits
from relay.adapters.discord.gateway.buffers import ChannelBuffer, ChannelBuffers
from relay.adapters.discord.gateway.channel_access import ChannelAccess
from relay.adapters.discord.gateway.connection import intents
from relay.adapters.discord.gateway.guild_cache import GuildCache
from relay.adapters.discord.gateway.translator import BotIdentity, Translator
from relay.adapters.discord.identifiers import Shard, jump_url
from relay.adapters.discord.markup import NameLookup, parse
from relay.adapters.discord.media import attachment_fields
from relay.adapters.discord.message_cache import MessageCache
from relay.adapters.discord.outbound.body import TEXT_LENGTH, measure, webhook_body, with_own_emoji
from relay.adapters.discord.webhooks import Webhooks
from relay.adapters.matrix.identifiers import permalink
from relay.adapters.matrix.inbound.events import convert
from relay.adapters.matrix.markup import NameLookup as MatrixNames
from relay.adapters.matrix.outbound import compose
from relay.adapters.matrix.rooms.state import RoomState
from relay.core.clock import SystemClock
from relay.core.convert.degrade import Dropped, degrade
from relay.core.convert.references import Found, folded, named, resolved, unnamed
from relay.core.ports import Delivery
from relay.domain.content import Author, Capabilities, Content, Quotation
from relay.domain.events import Event, FeatureUsed, MessageCreated, MessageDeleted, MessageEdited
from relay.domain.ids import ChannelAddress, ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.jsontext import Json
from relay.domain.names import file_name
from relay.domain.pair import PairPolicy
from relay.domain.text.nodes import CustomEmoji, RichText

GUILD, CHANNEL, ROOM = "1032000000000000001", "1032000000000000100", "!help:example.org"
ME_ON_DISCORD, ME_ON_MATRIX, OUR_WEBHOOK = "1032000000000000900", "@relay:example.org", "1032000000000000901"

TO_MATRIX = Capabilities(compose.MAX_TEXT_LENGTH, True, 1, 50 << 20, 50 << 20)
TO_DISCORD = Capabilities(TEXT_LENGTH, False, 10, 10 << 20, 25 << 20)

FOLDER = Path(__file__).parent.parent / "payloads"


@dataclass(frozen=True, slots=True)
class Case:
    """One file."""

    name: str
    title: str
    source: str
    context: Json
    input: Json
    expected: Any


def cases(platform: Platform) -> list[Case]:
    """The files about events of a platform."""
    return [
        Case(path.stem, **json.loads(path.read_text(encoding="utf-8")))
        for path in sorted((FOLDER / platform.value).glob("*.json"))
    ]


async def play(case: Case, source: Platform) -> Any:
    """What becomes of a case's event on the other side, in the form of `expected`."""
    events = await _from_discord(case) if source is Platform.DISCORD else _from_matrix(case)
    outcomes = [outcome for event in events for outcome in _outcome(event, case.context, source)]
    return outcomes[0] if len(outcomes) == 1 and isinstance(outcomes[0], dict) and "then" in outcomes[0] else outcomes


async def _from_discord(case: Case) -> list[Event]:
    translator, buffers = discord_reading(case.context)
    buffers.put(case.input["t"], case.input["d"])
    return list((await translator.batch(await buffers.take(100))).events)


def discord_reading(context: Json) -> tuple[Translator, ChannelBuffers]:
    """What reads the payloads of one channel, and its feed."""
    clock = SystemClock()
    guilds = GuildCache(clock)
    guilds.session_started(_picture(context), Shard())
    for user, nickname in context.get("nicknames", {}).items():
        guilds.remember_nickname(GUILD, user, nickname)

    async def keep(channel: str, webhooks: tuple[str, ...]) -> None:
        """Nothing is posted here."""

    rest = RestClient(token="", api_url="http://127.0.0.1:9/api/v10", clock=clock, limits=RateLimits(clock))
    webhooks = Webhooks(rest, keep)
    webhooks.ids.add(OUR_WEBHOOK)
    translator = Translator(
        identity=BotIdentity(ME_ON_DISCORD, ME_ON_DISCORD),
        guilds=guilds,
        webhooks=webhooks,
        cache=MessageCache(),
        time=rest.time,
        cdn_url="https://cdn.discordapp.com",
    )
    buffers = ChannelBuffers(
        parent_of=guilds.parent_of, private_parent_of=guilds.private_parent_of, on_gap=lambda: None
    )
    access = ChannelAccess(GUILD, may_use_webhooks=True, may_send=True, may_delete=True, max_file_size=10 << 20)
    here = ChannelRef(Platform.DISCORD, CHANNEL)
    buffers.add(ChannelBuffer(ChannelAddress(Platform.DISCORD, CHANNEL), here, access, behind=False))
    for thread in context.get("threads", ()):
        guilds.update("THREAD_CREATE", {"id": thread, "parent_id": CHANNEL, "type": 11})
    return translator, buffers


def _picture(context: Json) -> discord.Client:
    """What discord.py would know of the guild."""
    client = discord.Client(intents=intents())
    client._connection.user = cast(discord.ClientUser, SimpleNamespace(id=int(ME_ON_DISCORD)))
    known = {CHANNEL: "here"} | context.get("channels", {})
    channels = [
        {"type": 0, "position": 0, "permission_overwrites": [], "id": number}
        | ({"name": told} if isinstance(told, str) else told)
        for number, told in known.items()
    ]
    roles = {GUILD: "@everyone"} | context.get("roles", {})
    client._connection._add_guild_from_data(
        cast(
            Any,
            {
                "id": GUILD,
                "name": "The Guild",
                "owner_id": "1032000000000000002",
                "roles": [_role(number, name) for number, name in roles.items()],
                "channels": [channel for channel in channels if "parent_id" not in channel],
                "threads": [_thread(channel) for channel in channels if "parent_id" in channel],
                "emojis": context.get("emoji", []),
            },
        )
    )
    return client


def _role(number: str, name: str) -> Json:
    permissions = str(discord.Permissions(view_channel=True, send_messages=True).value) if number == GUILD else "0"
    plain = {"hoist": False, "managed": False, "mentionable": False, "position": 1, "colors": {"primary_color": 0}}
    return {"id": number, "name": name, "permissions": permissions} | plain


def _thread(channel: Json) -> Json:
    slept = {"archived": False, "auto_archive_duration": 60, "archive_timestamp": "2024-10-27T09:41:20+00:00"}
    return {
        "owner_id": "1",
        "guild_id": GUILD,
        "message_count": 0,
        "member_count": 1,
        "thread_metadata": slept,
    } | channel


def _from_matrix(case: Case) -> list[Event]:
    state = RoomState(ROOM)
    for event in case.context.get("state", ()):
        state.apply(event)
    rooms = case.context.get("rooms", {})
    names = MatrixNames(room_id=rooms.get("aliases", {}).get, room_name=rooms.get("names", {}).get)
    found = convert(case.input, state, ME_ON_MATRIX, names)
    return [] if found is None else [found]


# --- Across -------------------------------------------------------------------------------------------------


def _outcome(event: Event, context: Json, source: Platform) -> list[Any]:
    policy = PairPolicy(**context.get("policy", {}))
    if isinstance(event, MessageCreated) and event.system is not None and event.system not in policy.system_messages:
        return [{"then": "dropped and counted", "feature": "system"}]
    match event:
        case FeatureUsed(feature=feature):
            return [{"then": "dropped and counted", "feature": feature}]
        case MessageDeleted(ref):
            return [{"then": "the copy is deleted", "of": ref.id}]
        case MessageCreated(author=author) if author.is_self:
            return [{"then": "nothing: it is the relay's own"}]
        case MessageCreated(thread=thread) if thread is not None and policy.thread_messages == "drop":
            return [{"then": "dropped and counted", "feature": "thread"}]
        case MessageCreated() | MessageEdited():
            return _copies(event, context, source, policy)
        case _:
            return []


def _copies(event: MessageCreated | MessageEdited, context: Json, source: Platform, policy: PairPolicy) -> list[Any]:
    to_matrix = source is Platform.DISCORD
    typed = event.content.style != "notice"
    text = named(event.content.text, _looked_up(event.content.text, context))
    content = replace(event.content, text=resolved(text, _found(context, source), typed=typed))
    author = event.author
    parts = degrade(
        content,
        author=author,
        capabilities=TO_MATRIX if to_matrix else TO_DISCORD,
        policy=policy,
        measure=lambda text: compose.measure(text, author) if to_matrix else measure(text),
        quotation=_quotation(context),
    )
    if isinstance(parts, Dropped):
        return [{"then": "dropped and counted", "feature": parts.feature}]
    if to_matrix:
        return [_matrix_event(event, part, number, context) for number, part in enumerate(parts)]
    own = _own_emoji(context)
    bodies = [_webhook_body(with_own_emoji(part, own), author) for part in parts]
    if isinstance(event, MessageEdited):
        return [{key: body[key] for key in ("content", "allowed_mentions")} for body in bodies]
    return bodies


def _looked_up(text: RichText, context: Json) -> dict[UserRef | ChannelRef, str]:
    names = context.get("looked_up", {})
    return {ref: names[ref.id] for ref in unnamed(text) if ref.id in names}


def _own_emoji(context: Json) -> Callable[[str], CustomEmoji | None]:
    guilds = GuildCache(SystemClock())
    guilds.session_started(_picture(context), Shard())
    return partial(guilds.emoji, CHANNEL)


def _webhook_body(part: Content, author: Author) -> Json:
    body = webhook_body(part, author)
    names = [file_name(attachment.name, attachment.content_type) for attachment in part.attachments]
    return body | ({"attachments": attachment_fields(part.attachments, names)} if names else {})


def _matrix_event(event: MessageCreated | MessageEdited, part: Content, number: int, context: Json) -> Json:
    reply_to = event.reply_to if isinstance(event, MessageCreated) else None
    if isinstance(event, MessageCreated) and event.thread is not None:
        reply_to = reply_to or MessageRef(event.thread.channel, event.thread.id)
    where = context.get("messages", {})
    copy = where.get(reply_to.id) if reply_to is not None and number == 0 else None
    author = context.get("reply", {}).get("author")
    avatar = event.author.avatar
    delivery = Delivery(
        ChannelRef(Platform.MATRIX, ROOM),
        "key",
        replace(event.author, avatar=None if avatar is None else _pictures(context).get(avatar)),
        part,
        reply_to=MessageRef(ChannelRef(Platform.MATRIX, ROOM), copy) if copy else None,
        replied_author=UserRef(Platform.MATRIX, author) if copy and author else None,
    )
    said = compose.compose(delivery, _uploaded(part, context), _pictures(context))
    if isinstance(event, MessageEdited):
        return compose.edit_content(MessageRef(delivery.channel, where[event.ref.id]), said)
    return said


def _uploaded(part: Content, context: Json) -> compose.UploadedFile | None:
    if not part.attachments:
        return None
    [attachment] = part.attachments
    uri = context["uploads"][attachment.id]
    name = file_name(attachment.name, attachment.content_type)
    still = _pictures(context).get(attachment.thumbnail) if attachment.thumbnail is not None else None
    picture = None if still is None else compose.Thumbnail(still.locator, "image/jpeg", 0)
    return compose.UploadedFile(attachment, uri, name, attachment.content_type, attachment.size or 0, picture)


def _pictures(context: Json) -> dict[MediaRef, MediaRef]:
    pictures = context.get("pictures", {}).items()
    return {MediaRef(Platform.DISCORD, url): MediaRef(Platform.MATRIX, uri) for url, uri in pictures}


def _found(context: Json, source: Platform) -> Found:
    other = Platform.MATRIX if source is Platform.DISCORD else Platform.DISCORD
    pairs = {CHANNEL: ROOM} | context.get("pairs", {})
    across = pairs if source is Platform.DISCORD else {room: channel for channel, room in pairs.items()}
    channels = {ChannelRef(source, here): ChannelRef(other, there) for here, there in across.items()}
    messages: dict[MessageRef, tuple[MessageRef, str]] = {}
    for known, copy in context.get("messages", {}).items():
        for here, there in channels.items():
            ref = MessageRef(there, copy)
            url = permalink(ref) if other is Platform.MATRIX else jump_url(GUILD, there.id, copy)
            messages[MessageRef(here, known)] = ref, url
    people = {folded(name): UserRef(other, user) for name, user in context.get("people", {}).items()}
    return Found(people=people, channels=channels, messages=messages)


def _quotation(context: Mapping[str, Any]) -> Quotation | None:
    reply = context.get("reply", {})
    if "text" not in reply:
        return None
    user = UserRef(Platform.DISCORD, reply["user"]) if "user" in reply else None
    return Quotation(reply["author"], parse(reply["text"], names=NameLookup()), reply["url"], user=user)
