"""Messages of a channel, their reactions and pins: https://discord.com/developers/docs/resources/message."""

from typing import Any
from urllib.parse import unquote

from aiohttp import web

from relay.sandbox import errors
from relay.sandbox.errors import form_error
from relay.sandbox.messages.events import Anchor
from relay.sandbox.messages.forms import Form, parse_snowflake
from relay.sandbox.messages.messages import Messages
from relay.sandbox.messages.reactions import Reactions
from relay.sandbox.messages.render import message as render_message
from relay.sandbox.rest.api import Api
from relay.sandbox.rest.requests import Call
from relay.sandbox.world import render
from relay.sandbox.world.dispatch import Viewer
from relay.sandbox.world.models import Channel, Json, Message
from relay.sandbox.world.permissions import Permission

_ANCHORS: tuple[Anchor, ...] = ("before", "after", "around")
_MESSAGE = "/channels/{channel_id}/messages/{message_id}"


class MessageRoutes:
    """`/channels/{id}/messages…`, `/channels/{id}/typing` and `/channels/{id}/pins…`."""

    def __init__(self, api: Api, messages: Messages, reactions: Reactions) -> None:
        self.api = api
        self.state = api.state
        self.messages = messages
        self.reactions = reactions

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes; the fixed ones first."""
        add = self.api.add
        add(router, "GET", "/channels/{channel_id}/messages", self.page)
        add(router, "POST", "/channels/{channel_id}/messages", self.create)
        add(router, "POST", "/channels/{channel_id}/messages/bulk-delete", self.bulk_delete)
        add(router, "GET", "/channels/{channel_id}/messages/pins", self.pins)
        add(router, "GET", "/channels/{channel_id}/pins", self.old_pins)
        for path in ("/channels/{channel_id}/messages/pins/{message_id}", "/channels/{channel_id}/pins/{message_id}"):
            add(router, "PUT", path, self.pin)
            add(router, "DELETE", path, self.unpin)
        add(router, "GET", _MESSAGE, self.get)
        add(router, "PATCH", _MESSAGE, self.edit)
        add(router, "DELETE", _MESSAGE, self.delete)
        add(router, "PUT", _MESSAGE + "/reactions/{emoji}/@me", self.react)
        add(router, "DELETE", _MESSAGE + "/reactions/{emoji}/@me", self.unreact)
        add(router, "DELETE", _MESSAGE + "/reactions/{emoji}/{user_id}", self.unreact)
        add(router, "GET", _MESSAGE + "/reactions/{emoji}", self.reactors)
        add(router, "DELETE", _MESSAGE + "/reactions", self.clear_reactions)
        add(router, "POST", "/channels/{channel_id}/polls/{message_id}/expire", self.end_poll)
        add(router, "POST", "/channels/{channel_id}/typing", self.typing)

    async def page(self, call: Call) -> Any:
        """A page of history, newest first; nothing at all without READ_MESSAGE_HISTORY."""
        channel = call.channel(Permission.CONNECT)
        query = Form(dict(call.request.query))
        limit = query.integer("limit", least=1, most=100, default=50)
        given = [(side, query.snowflake(side)) for side in _ANCHORS if side in query]
        query.check()
        if len(given) > 1:
            names = ", ".join(side for side, _ in given)
            raise form_error("", "MUTUALLY_EXCLUSIVE", f"Only one of these may be passed at a time: {names}")
        if not self.state.permissions(call.user.id, channel) & Permission.READ_MESSAGE_HISTORY:
            return []
        anchor = (given[0][0], given[0][1] or 0) if given else None
        return [self._render(call, message) for message in self.messages.page(channel, limit, anchor)]

    async def get(self, call: Call) -> Any:
        """One message."""
        return self._render(call, self._message(call)[1])

    async def create(self, call: Call) -> Any:
        """A message of the bot."""
        channel = call.channel()
        draft, _ = await call.draft(self.state.guilds[channel.guild_id])
        message = self.messages.post(channel, call.user, draft)
        body = self._render(call, message)
        return body if message.nonce is None else body | {"nonce": message.nonce}

    async def edit(self, call: Call) -> Any:
        """Change the bot's own message, or the embeds' visibility of another."""
        channel = call.channel()
        message = self.state.message(channel, call.id("message_id"))
        draft, _ = await call.draft(self.state.guilds[channel.guild_id])
        self.messages.edit(channel, message, call.user.id, draft)
        return self._render(call, message)

    async def delete(self, call: Call) -> Any:
        """Take a message away."""
        channel = call.channel()
        self.messages.delete(channel, self.state.message(channel, call.id("message_id")), call.user.id)

    async def bulk_delete(self, call: Call) -> Any:
        """Take 2 to 100 messages away."""
        channel = call.channel()
        form = Form(await call.json())
        ids = form.snowflakes("messages", most=100)
        if len(ids) < 2 and not form.report:
            form.mistake("messages", "BASE_TYPE_BAD_LENGTH", "Must be between 2 and 100 in length.")
        form.check()
        self.messages.bulk_delete(channel, ids, call.user.id)

    async def typing(self, call: Call) -> Any:
        """The bot starts typing."""
        channel = call.channel(Permission.SEND_MESSAGES)
        self.messages.typing(channel, call.user)

    # --- Pins ---------------------------------------------------------------------------------------------

    async def pin(self, call: Call) -> Any:
        """Pin a message; Discord says so in the channel."""
        channel, message = self._message(call)
        self._need_pin(call, channel)
        self.messages.pin(channel, message, call.user)

    async def unpin(self, call: Call) -> Any:
        """Unpin a message."""
        channel, message = self._message(call)
        self._need_pin(call, channel)
        self.messages.unpin(channel, message)

    async def pins(self, call: Call) -> Any:
        """The pinned messages, with the time of each."""
        pinned = self._pinned(call)
        items = [{"pinned_at": render.iso(at), "message": self._render(call, message)} for at, message in pinned]
        return {"items": items, "has_more": False}

    async def old_pins(self, call: Call) -> Any:
        """The pinned messages; deprecated, still served."""
        return [self._render(call, message) for _, message in self._pinned(call)]

    def _pinned(self, call: Call) -> list[tuple[float, Message]]:
        channel = call.channel(Permission.READ_MESSAGE_HISTORY)
        pinned = [(m.pinned_at, m) for m in channel.messages.values() if m.pinned_at is not None]
        return sorted(pinned, key=lambda item: item[0], reverse=True)

    def _need_pin(self, call: Call, channel: Channel) -> None:
        granted = self.state.permissions(call.user.id, channel)
        if not granted & (Permission.MANAGE_MESSAGES | Permission.PIN_MESSAGES):
            raise errors.missing_permissions()

    # --- Reactions ----------------------------------------------------------------------------------------

    async def react(self, call: Call) -> Any:
        """The bot puts an emoji under a message."""
        channel, message = self._message(call)
        self.reactions.add(channel, message, call.user, _emoji(call))

    async def unreact(self, call: Call) -> Any:
        """Remove a reaction: the bot's own, or with MANAGE_MESSAGES anybody's."""
        channel, message = self._message(call)
        user_id = call.id("user_id") if "user_id" in call.request.match_info else call.user.id
        if user_id != call.user.id:
            call.need(channel, Permission.MANAGE_MESSAGES)
        self.reactions.remove(channel, message, user_id, _emoji(call))

    async def reactors(self, call: Call) -> Any:
        """Who put an emoji under a message."""
        _, message = self._message(call)
        found = self.reactions.find(message, _emoji(call))
        after = parse_snowflake(call.request.query.get("after")) or 0
        users = sorted(user_id for user_id in (found.users if found else []) if user_id > after)
        limit = Form(dict(call.request.query)).integer("limit", least=1, most=100, default=25)
        return [render.user(self.state.user(user_id)) for user_id in users[:limit]]

    async def clear_reactions(self, call: Call) -> Any:
        """Take all reactions away."""
        channel, message = self._message(call)
        call.need(channel, Permission.MANAGE_MESSAGES)
        self.reactions.clear(channel, message)

    async def end_poll(self, call: Call) -> Any:
        """End the bot's own poll at once."""
        channel, message = self._message(call)
        if message.poll is None or message.author_id != call.user.id:
            raise errors.missing_permissions()
        self.reactions.end_poll(channel, message)
        return self._render(call, message)

    def _message(self, call: Call) -> tuple[Channel, Message]:
        channel = call.channel(Permission.CONNECT | Permission.READ_MESSAGE_HISTORY)
        return channel, self.state.message(channel, call.id("message_id"))

    def _render(self, call: Call, message: Message) -> Json:
        # The switch of the developer portal blanks the REST API too, not only the gateway.
        sees = call.app is not None and call.app.message_content
        return render_message(self.state, message, Viewer(call.user.id, sees))


def _emoji(call: Call) -> str:
    return unquote(call.request.match_info["emoji"])
