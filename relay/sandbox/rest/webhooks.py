"""Webhooks: https://discord.com/developers/docs/resources/webhook."""

import re
import secrets
import unicodedata
from typing import Any

from aiohttp import web

from relay.sandbox import errors
from relay.sandbox.messages.drafts import check_url
from relay.sandbox.messages.forms import Form, parse_snowflake, path_snowflake
from relay.sandbox.messages.messages import Messages
from relay.sandbox.messages.render import message as render_message
from relay.sandbox.messages.threads import FORUMS
from relay.sandbox.rest.api import Api, TooFast
from relay.sandbox.rest.interactions import InteractionRoutes
from relay.sandbox.rest.requests import Call
from relay.sandbox.world import render
from relay.sandbox.world.dispatch import Intent
from relay.sandbox.world.models import Channel, Message, User, Webhook
from relay.sandbox.world.permissions import Permission
from relay.sandbox.world.state import State

MAX_WEBHOOKS = 15
MAX_NAME = 80
WEBHOOK_CHANNELS = frozenset({0, 2, 5, 13, 15, 16})
_FORBIDDEN = ("clyde", "discord", "```")
_RESERVED = frozenset({"everyone", "here", "system message"})
# These count as letters or symbols, and show nothing.
_BLANKS = "\u115f\u1160\u2800\u3164\uffa0"
_SPACES = re.compile(r"\s+")
# https://discord.com/developers/docs/resources/audit-log#audit-log-entry-object-audit-log-events
_WEBHOOK_CREATED, _WEBHOOK_DELETED = 50, 52
_TOKEN = "/webhooks/{webhook_id}/{webhook_token}"
_MESSAGE = _TOKEN + "/messages/{message_id}"


class Webhooks:
    """Makes and removes webhooks."""

    def __init__(self, state: State) -> None:
        self.state = state

    def create(self, channel: Channel, name: str, creator: User, avatar: str | None = None) -> Webhook:
        """A webhook; of an application if its creator is a bot."""
        self._check_channel(channel)
        hook = Webhook(
            id=self.state.snowflakes.next(),
            channel_id=channel.id,
            guild_id=channel.guild_id,
            name=name,
            token=new_webhook_token(),
            creator_id=creator.id,
            application_id=creator.id if creator.bot else None,
            avatar=avatar,
        )
        self.state.webhooks[hook.id] = hook
        self.changed(channel)
        return hook

    def delete(self, hook: Webhook) -> None:
        """Delete a webhook; its messages stay."""
        del self.state.webhooks[hook.id]
        self.changed(self.state.channel(hook.channel_id))

    def move(self, hook: Webhook, channel: Channel) -> None:
        """Move a webhook to another channel of its guild. Its messages stay, and it can no longer edit them."""
        if channel.guild_id != hook.guild_id:
            raise errors.unknown("Channel")
        self._check_channel(channel)
        before = self.state.channel(hook.channel_id)
        hook.channel_id = channel.id
        self.changed(before)

    def _check_channel(self, channel: Channel) -> None:
        if channel.type not in WEBHOOK_CHANNELS:
            raise errors.wrong_channel_type()
        if len(self.of_channel(channel)) >= MAX_WEBHOOKS:
            raise errors.too_many_webhooks()

    def of_channel(self, channel: Channel) -> list[Webhook]:
        """The webhooks of a channel."""
        return [hook for hook in self.state.webhooks.values() if hook.channel_id == channel.id]

    def changed(self, channel: Channel) -> None:
        """Announce that a channel's webhooks have changed, not which."""
        body = {"guild_id": str(channel.guild_id), "channel_id": str(channel.id)}
        self.state.emit_fixed("WEBHOOKS_UPDATE", Intent.GUILD_WEBHOOKS, channel.guild_id, body, channel)


class WebhookRoutes:
    """`/webhooks…` and `/channels/{id}/webhooks`. An interaction's token stands where a webhook's would."""

    def __init__(self, api: Api, messages: Messages, webhooks: Webhooks, interactions: InteractionRoutes) -> None:
        self.api = api
        self.state = api.state
        self.messages = messages
        self.webhooks = webhooks
        self.interactions = interactions

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        add = self.api.add
        add(router, "POST", "/channels/{channel_id}/webhooks", self.create)
        add(router, "GET", "/channels/{channel_id}/webhooks", self.of_channel)
        add(router, "GET", "/guilds/{guild_id}/webhooks", self.of_guild)
        add(router, "GET", "/webhooks/{webhook_id}", self.get)
        add(router, "PATCH", "/webhooks/{webhook_id}", self.modify)
        add(router, "DELETE", "/webhooks/{webhook_id}", self.delete)
        add(router, "GET", _TOKEN, self.get_with_token, bot=False)
        add(router, "PATCH", _TOKEN, self.modify_with_token, bot=False)
        add(router, "DELETE", _TOKEN, self.delete_with_token, bot=False)
        add(router, "POST", _TOKEN, self.execute, bot=False)
        add(router, "GET", _MESSAGE, self.get_message, bot=False)
        add(router, "PATCH", _MESSAGE, self.edit_message, bot=False)
        add(router, "DELETE", _MESSAGE, self.delete_message, bot=False)

    # --- With the bot's token -----------------------------------------------------------------------------

    async def create(self, call: Call) -> Any:
        """A new webhook of the channel."""
        channel = call.channel(Permission.MANAGE_WEBHOOKS)
        form = Form(await call.json())
        name = read_name(form, "name", required=True)
        avatar = read_image(form, "avatar")
        form.check()
        hook = self.webhooks.create(channel, name or "", call.user, avatar)
        self.state.audit(self.state.guilds[hook.guild_id], _WEBHOOK_CREATED, call.user.id, hook.id, call.audit_reason)
        return render.webhook(hook, call.user)

    async def of_channel(self, call: Call) -> Any:
        """All webhooks of a channel; the tokens of others' applications are not shown."""
        channel = call.channel(Permission.MANAGE_WEBHOOKS)
        return [self._shown(call, hook) for hook in self.webhooks.of_channel(channel)]

    async def of_guild(self, call: Call) -> Any:
        """All webhooks of a guild."""
        guild = call.guild()
        if not self.state.guild_permissions(guild, call.user.id) & Permission.MANAGE_WEBHOOKS:
            raise errors.missing_permissions()
        return [self._shown(call, hook) for hook in self.state.webhooks.values() if hook.guild_id == guild.id]

    async def get(self, call: Call) -> Any:
        """One webhook."""
        return self._shown(call, self._managed(call))

    async def modify(self, call: Call) -> Any:
        """Another name, picture or channel."""
        hook = self._managed(call)
        await self._apply(call, hook, may_move=True)
        return self._shown(call, hook)

    async def delete(self, call: Call) -> Any:
        """Remove it."""
        hook = self._managed(call)
        self.webhooks.delete(hook)
        self.state.audit(self.state.guilds[hook.guild_id], _WEBHOOK_DELETED, call.user.id, hook.id, call.audit_reason)

    def _managed(self, call: Call) -> Webhook:
        hook = self.state.webhook(call.id("webhook_id"))
        call.need(self.state.channel(hook.channel_id), Permission.MANAGE_WEBHOOKS)
        return hook

    def _shown(self, call: Call, hook: Webhook) -> Any:
        own = hook.application_id is None or hook.application_id == call.user.id
        return render.webhook(hook, self.state.users.get(hook.creator_id), token=own)

    # --- With the webhook's token -------------------------------------------------------------------------

    async def get_with_token(self, call: Call) -> Any:
        """The webhook, without who made it."""
        return render.webhook(self._own(call), None)

    async def modify_with_token(self, call: Call) -> Any:
        """Another name or picture."""
        hook = self._own(call)
        await self._apply(call, hook, may_move=False)
        return render.webhook(hook, None)

    async def delete_with_token(self, call: Call) -> Any:
        """Remove it."""
        self.webhooks.delete(self._own(call))

    async def execute(self, call: Call) -> Any:
        """Post through it. Answers with the message only if `wait` is true."""
        interaction = self.interactions.of(call)
        if interaction is not None:
            return await self.interactions.follow_up(call, interaction)
        hook = self._own(call)
        refusal = self.api.limiter.take_webhook(str(hook.channel_id), self.state.clock())
        if refusal is not None:
            raise TooFast(refusal)
        draft, body = await call.draft(self.state.guilds[hook.guild_id])
        form = Form(body)
        username = read_name(form, "username")
        avatar_url = form.text("avatar_url", most=2048) or None
        if avatar_url:
            check_url(form, "avatar_url", avatar_url)
        form.check()
        # Neither exists for webhooks: Discord ignores them without an error.
        draft.nonce, draft.reference = None, None
        self._own(call)  # it may have been deleted while the body arrived
        channel = self._target(call, hook)
        if channel.thread is not None and channel.thread.locked:
            raise errors.thread_locked()
        if channel.type in FORUMS:
            raise errors.forum_without_thread()
        message = self.messages.post_as_webhook(channel, hook, draft, username, avatar_url)
        return render_message(self.state, message) if call.switch("wait") else None

    async def get_message(self, call: Call) -> Any:
        """A message of this webhook."""
        interaction = self.interactions.of(call)
        if interaction is not None:
            return self.interactions.get(call, interaction)
        return render_message(self.state, self._message(call)[1])

    async def edit_message(self, call: Call) -> Any:
        """Change a message of this webhook."""
        interaction = self.interactions.of(call)
        if interaction is not None:
            return await self.interactions.edit(call, interaction)
        self._message(call)
        draft, _ = await call.draft(self.state.guilds[self._own(call).guild_id])
        channel, message = self._awake(call)
        self.messages.apply_edit(channel, message, draft)
        return render_message(self.state, message)

    async def delete_message(self, call: Call) -> None:
        """Take a message of this webhook away."""
        interaction = self.interactions.of(call)
        if interaction is not None:
            self.interactions.delete(call, interaction)
            return
        channel, message = self._awake(call)
        self.messages.remove(channel, [message.id])

    def _own(self, call: Call) -> Webhook:
        hook = self.state.webhook(path_snowflake(call.request.match_info, "webhook_id"))
        if not secrets.compare_digest(hook.token.encode(), call.request.match_info["webhook_token"].encode()):
            raise errors.invalid_webhook_token()
        return hook

    def _target(self, call: Call, hook: Webhook) -> Channel:
        channel = self.state.channel(hook.channel_id)
        asked = call.request.query.get("thread_id")
        if asked is None:
            return channel
        thread = self.state.channels.get(parse_snowflake(asked) or 0)
        if thread is None or thread.parent_id != channel.id:
            raise errors.unknown("Channel")
        return thread

    def _message(self, call: Call) -> tuple[Channel, Message]:
        hook = self._own(call)
        channel = self._target(call, hook)
        message = self.state.message(channel, call.id("message_id"))
        if message.webhook_id != hook.id:
            raise errors.unknown("Message")
        return channel, message

    def _awake(self, call: Call) -> tuple[Channel, Message]:
        channel, message = self._message(call)
        if channel.thread is not None and channel.thread.archived:
            raise errors.thread_archived()
        return channel, message

    async def _apply(self, call: Call, hook: Webhook, *, may_move: bool) -> None:
        form = Form(await call.json())
        name = read_name(form, "name")
        avatar = read_image(form, "avatar")
        target = form.snowflake("channel_id") if may_move else None
        form.check()
        if target is not None and target != hook.channel_id:
            channel = self.state.channel(target)
            call.need(channel, Permission.MANAGE_WEBHOOKS)
            self.webhooks.move(hook, channel)
        hook.name = name or hook.name
        hook.avatar = avatar if "avatar" in form else hook.avatar
        self.webhooks.changed(self.state.channel(hook.channel_id))


def new_webhook_token() -> str:
    """A webhook's token in the form of Discord's."""
    return secrets.token_urlsafe(51)


def read_name(form: Form, field: str, *, required: bool = False) -> str | None:
    """A webhook's name, with the spaces that Discord takes out of it."""
    raw = form.text(field, most=10_000, required=required)
    if raw is None:
        return None
    name = _SPACES.sub(" ", raw).strip()
    # "We limit some zero-width and non-rendering characters": how, and in which form a name is measured, is not said.
    visible = any(unicodedata.category(char)[0] not in "CMZ" and char not in _BLANKS for char in name)
    if not 1 <= len(name) <= MAX_NAME or len(unicodedata.normalize("NFKC", name)) > MAX_NAME or not visible:
        form.mistake(field, "BASE_TYPE_BAD_LENGTH", f"Must be between 1 and {MAX_NAME} in length.")
    folded = _folded(name)
    for word in _FORBIDDEN:
        if word in folded:
            form.mistake(field, "USERNAME_INVALID_CONTAINS", f'Username cannot contain "{word}"')
    if folded in _RESERVED:
        form.mistake(field, "USERNAME_INVALID_EQUALS", f'Username cannot be "{name}"')
    return name


def _folded(name: str) -> str:
    """`name` as it is compared: the documentation does not say how, so every way of writing a word counts.

    Without styles of letters, accents and case; by way of the capitals, because a dotless i and a long s have ours.
    """
    for _ in range(2):
        plain = unicodedata.normalize("NFKD", name)
        name = "".join(char for char in plain if unicodedata.category(char)[0] not in "MC").upper().lower()
    return " ".join(name.split())


def read_image(form: Form, field: str) -> str | None:
    """A picture as a data URI; its hash. https://discord.com/developers/docs/reference#image-data."""
    uri = form.text(field, most=14 * 1024 * 1024)
    if uri is None:
        return None
    if not re.match(r"data:image/(?:png|jpeg|gif|webp);base64,", uri):
        form.mistake(field, "IMAGE_INVALID", "Invalid image data")
    return secrets.token_hex(16)
