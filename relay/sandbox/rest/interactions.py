"""Answers to interactions: https://docs.discord.com/developers/interactions/receiving-and-responding."""

from typing import Any

from aiohttp import web

from relay.sandbox.interactions.interactions import DEFERRED, MESSAGE_WITH_SOURCE, Interactions
from relay.sandbox.messages.drafts import Draft
from relay.sandbox.messages.events import EPHEMERAL
from relay.sandbox.messages.forms import Form
from relay.sandbox.messages.render import message as render_message
from relay.sandbox.rest.api import Api, Reply
from relay.sandbox.rest.requests import Call
from relay.sandbox.world.models import Interaction, Json, Message

_KINDS = frozenset({MESSAGE_WITH_SOURCE, DEFERRED})


class InteractionRoutes:
    """The callback, and what an interaction's token can do where a webhook's would stand. No bot's token is needed."""

    def __init__(self, api: Api, interactions: Interactions) -> None:
        self.api = api
        self.state = api.state
        self.interactions = interactions

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the route of the callback; those with a token are `WebhookRoutes`'."""
        path = "/interactions/{interaction_id}/{interaction_token}/callback"
        self.api.add(router, "POST", path, self.callback, bot=False)

    async def callback(self, call: Call) -> Any:
        """The first answer, within three seconds. 204, unless `with_response` is true."""
        number, token = call.id("interaction_id"), call.request.match_info["interaction_token"]
        interaction = self.interactions.waiting(number, token)
        form = Form(await call.json())
        kind = form.integer("type", most=100)
        if kind not in _KINDS:
            form.mistake("type", "BASE_TYPE_CHOICES", f"Value must be one of {tuple(sorted(_KINDS))}.")
        data = form.form("data")
        form.check()
        given = data.body if data is not None else {}
        deferred = kind == DEFERRED
        draft = Draft() if deferred else call.draft_from(given, "data")
        interaction = self.interactions.waiting(number, token)  # time passed while the body arrived
        message = self.interactions.answer(interaction, kind, draft, private=_private(given))
        if not call.switch("with_response"):
            return Reply(None, 204)
        body = {
            "id": str(interaction.id),
            "type": 2,
            "response_message_id": str(message.id),
            "response_message_loading": deferred,
            "response_message_ephemeral": bool(message.flags & EPHEMERAL),
        }
        resource = {"type": kind} | ({} if deferred else {"message": self._shown(message)})
        return {"interaction": body, "resource": resource}

    # --- With the token of an interaction, as a webhook's -------------------------------------------------

    def of(self, call: Call) -> Interaction | None:
        """The interaction that the path names; None if it names no application. Raises what its token may not do."""
        number = call.id("webhook_id")
        if number not in self.state.applications:
            return None
        return self.interactions.answered(number, call.request.match_info["webhook_token"])

    async def follow_up(self, call: Call, interaction: Interaction) -> Any:
        """Another message."""
        draft, body = await call.draft(self.state.guilds[self.state.channel(interaction.channel_id).guild_id])
        draft.nonce, draft.reference = None, None
        return self._shown(self.interactions.follow_up(interaction, draft, private=_private(body)))

    def get(self, call: Call, interaction: Interaction) -> Any:
        """One of its messages."""
        return self._shown(self._message(call, interaction))

    async def edit(self, call: Call, interaction: Interaction) -> Any:
        """Change one of its messages."""
        message = self._message(call, interaction)
        draft, _ = await call.draft(self.state.guilds[self.state.channel(interaction.channel_id).guild_id])
        self.interactions.edit(interaction, message, draft)
        return self._shown(message)

    def delete(self, call: Call, interaction: Interaction) -> None:
        """Take one of its messages away."""
        self.interactions.delete(interaction, self._message(call, interaction))

    def _message(self, call: Call, interaction: Interaction) -> Message:
        original = call.request.match_info["message_id"] == "@original"
        return self.interactions.message(interaction, None if original else call.id("message_id"))

    def _shown(self, message: Message) -> Json:
        return render_message(self.state, message)


def _private(body: Json) -> bool:
    flags = body.get("flags")
    return isinstance(flags, int) and bool(flags & EPHEMERAL)
