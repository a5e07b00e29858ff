"""A person uses a slash command, and the application answers: https://docs.discord.com/developers/interactions.

No modals, autocompletion, buttons, or commands of context menus.
"""

import asyncio
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relay.sandbox import errors
from relay.sandbox.errors import ApiError
from relay.sandbox.interactions.commands import BOOLEAN, CHAT_INPUT, INTEGER, NUMBER, STRING, SUB_COMMAND_GROUP
from relay.sandbox.messages.drafts import Draft
from relay.sandbox.messages.events import EPHEMERAL
from relay.sandbox.messages.messages import Messages
from relay.sandbox.world import render
from relay.sandbox.world.dispatch import Dispatch, Intent
from relay.sandbox.world.models import Application, Channel, Command, Interaction, Json, Message, Pinged, User
from relay.sandbox.world.permissions import Permission
from relay.sandbox.world.state import State

ANSWER_WITHIN = 3.0
VALID_FOR = 900.0
MESSAGE_WITH_SOURCE, DEFERRED = 4, 5
LOADING = 1 << 7
_KEPT = 1000
_CHAT_INPUT_MESSAGE = 20
_USER, _CHANNEL, _ROLE = 6, 7, 8
_FILE_LIMIT = 10 * 1024 * 1024

Listener = Callable[[Interaction], None]


class Interactions:
    """The last thousand uses of commands. `listener` is told when one was made, answered, changed, or not answered."""

    def __init__(self, messages: Messages, listener: Listener) -> None:
        self.state: State = messages.state
        self.messages = messages
        self.listener = listener
        self._by_id: dict[int, Interaction] = {}

    # --- A person -----------------------------------------------------------------------------------------

    def use(
        self,
        channel: Channel,
        user: User,
        command: str,
        options: Mapping[str, Any],
        *,
        bot: int | None = None,
        raw: Json | None = None,
    ) -> Interaction:
        """Use a slash command (`relay link`), as Discord's client lets its users do. `raw` replaces parts of the data.

        Raises what the client or Discord would refuse.
        """
        words = command.removeprefix("/").split()
        self._check_may_use(channel, user)
        found = self._find(channel, words[0], bot)
        app = self.state.applications[found.application_id]
        needed = Permission(int(found.definition["default_member_permissions"] or 0))
        granted = self.state.permissions(user.id, channel)
        if found.definition["default_member_permissions"] == "0" and not granted & Permission.ADMINISTRATOR:
            raise errors.missing_permissions()
        if granted & needed != needed:
            raise errors.missing_permissions()
        data: Json = {"id": str(found.id), "name": words[0], "type": CHAT_INPUT}
        resolved: Json = {}
        filled = self._fill(channel, found.definition.get("options", []), words[1:], options, resolved)
        data |= {"options": filled} if filled else {}
        data |= {"resolved": resolved} if resolved else {}
        data |= {"guild_id": str(found.guild_id)} if found.guild_id is not None else {}
        return self._make(app, channel, user, " ".join(words), data | (raw or {}))

    def send(self, app: Application, channel: Channel, user: User, data: Json) -> Interaction:
        """An interaction with this data, whether there is such a command or not: a client may hold an old list."""
        self._check_may_use(channel, user)
        return self._make(app, channel, user, str(data.get("name", "")), {"type": CHAT_INPUT} | data)

    def _check_may_use(self, channel: Channel, user: User) -> None:
        self.state.require(user.id, channel, Permission.VIEW_CHANNEL | Permission.USE_APPLICATION_COMMANDS)

    def _find(self, channel: Channel, name: str, bot: int | None) -> Command:
        """The command that is meant; a guild's own one comes before a global one."""
        members = self.state.guilds[channel.guild_id].members
        apps = [app for app in self.state.applications.values() if app.user.id in members and bot in {None, app.id}]
        for scope in (channel.guild_id, None):
            for app in apps:
                for command in app.commands.values():
                    kind, own = command.definition["type"], command.definition["name"]
                    if command.guild_id == scope and (kind, own) == (CHAT_INPUT, name):
                        return command
        raise ApiError(404, 10063, "Unknown application command")

    def _fill(
        self,
        channel: Channel,
        defined: Sequence[Json],
        path: Sequence[str],
        options: Mapping[str, Any],
        resolved: Json,
    ) -> list[Json]:
        if path or any(option["type"] <= SUB_COMMAND_GROUP for option in defined):
            named = next((one for one in defined if path and one["name"] == path[0]), None)
            if named is None or named["type"] > SUB_COMMAND_GROUP:
                raise ApiError(400, 0, f"the command has no sub-command {' '.join(path)!r}")
            inner = self._fill(channel, named.get("options", []), path[1:], options, resolved)
            return [{"name": named["name"], "type": named["type"], "options": inner}]
        unknown = set(options) - {option["name"] for option in defined}
        if unknown:
            raise ApiError(400, 0, f"the command has no option {', '.join(sorted(unknown))}")
        filled = []
        for option in defined:
            if option["name"] in options:
                value = self._value(channel, option, options[option["name"]], resolved)
                filled.append({"name": option["name"], "type": option["type"], "value": value})
            elif option.get("required"):
                raise ApiError(400, 0, f"the option {option['name']} is required")
        return filled

    def _value(self, channel: Channel, option: Json, value: Any, resolved: Json) -> Any:
        """A value as the client would send it."""
        kind, guild = option["type"], self.state.guilds[channel.guild_id]
        if kind == _USER:
            member = guild.members.get(int(value))
            resolved.setdefault("users", {})[str(value)] = render.user(self.state.user(int(value)))
            if member is not None:
                shown = render.member(member, with_user=False) | {"permissions": self._granted(member.user.id, channel)}
                resolved.setdefault("members", {})[str(value)] = shown
            return str(value)
        if kind == _CHANNEL:
            resolved.setdefault("channels", {})[str(value)] = render.channel(self.state.channel(int(value)))
            return str(value)
        if kind == _ROLE:
            resolved.setdefault("roles", {})[str(value)] = render.role(guild.roles[int(value)])
            return str(value)
        fits = {
            STRING: isinstance(value, str),
            INTEGER: isinstance(value, int) and not isinstance(value, bool),
            BOOLEAN: isinstance(value, bool),
            NUMBER: isinstance(value, (int, float)) and not isinstance(value, bool),
        }
        if not fits.get(kind, False):
            raise ApiError(400, 0, f"the option {option['name']} does not take {value!r}")
        length = len(value) if kind == STRING else 0
        if kind == STRING and not option.get("min_length", 1) <= length <= option.get("max_length", 6000):
            raise ApiError(400, 0, f"the option {option['name']} does not take a text of {length} characters")
        choices = [choice["value"] for choice in option.get("choices", [])]
        if choices and value not in choices:
            raise ApiError(400, 0, f"the option {option['name']} must be one of {choices}")
        return value

    def _granted(self, user_id: int, channel: Channel) -> str:
        return str(int(self.state.permissions(user_id, channel)))

    def _make(self, app: Application, channel: Channel, user: User, command: str, data: Json) -> Interaction:
        number = self.state.snowflakes.next()
        made = Interaction(number, app.id, channel.id, user.id, _new_token(number), command, data, self.state.clock())
        self._by_id[number] = made
        while len(self._by_id) > _KEPT:
            del self._by_id[next(iter(self._by_id))]
        body = self._payload(app, channel, user, made)
        self.state.emit(Dispatch("INTERACTION_CREATE", Intent(0), channel.guild_id, lambda _: body, None, app.user.id))
        self.listener(made)
        asyncio.get_running_loop().call_later(ANSWER_WITHIN + 0.05, self._overdue, made)
        return made

    def _overdue(self, interaction: Interaction) -> None:
        if self.outcome(interaction) == "failed":
            self.listener(interaction)

    def _payload(self, app: Application, channel: Channel, user: User, made: Interaction) -> Json:
        guild = self.state.guilds[channel.guild_id]
        member = render.member(guild.members[user.id]) | {"permissions": self._granted(user.id, channel)}
        return {
            "id": str(made.id),
            "application_id": str(app.id),
            "type": 2,
            "data": made.data,
            "guild": {"id": str(guild.id), "locale": "en-US", "features": []},
            "guild_id": str(guild.id),
            "guild_locale": "en-US",
            "channel": render.channel(channel) | {"permissions": member["permissions"]},
            "channel_id": str(channel.id),
            "member": member,
            "token": made.token,
            "version": 1,
            "app_permissions": self._granted(app.user.id, channel),
            "locale": "en-US",
            "entitlements": [],
            "entitlement_sku_ids": [],
            "authorizing_integration_owners": {"0": str(guild.id)},
            "context": 0,
            "attachment_size_limit": _FILE_LIMIT,
        }

    # --- What that person sees ----------------------------------------------------------------------------

    def get(self, interaction_id: int) -> Interaction:
        """One of the last thousand. Raises Unknown Interaction."""
        if interaction_id not in self._by_id:
            raise errors.unknown("interaction")
        return self._by_id[interaction_id]

    def outcome(self, interaction: Interaction) -> str:
        """`waiting` (three seconds at most), `thinking` (deferred), `answered`, or `failed`: did not respond."""
        if interaction.answered_at is None:
            return "waiting" if self.state.clock() - interaction.created_at <= ANSWER_WITHIN else "failed"
        if interaction.messages and interaction.messages[0].flags & LOADING:
            thinking = self.state.clock() - interaction.created_at <= VALID_FOR
            return "thinking" if thinking else "failed"
        return "answered"

    # --- The application ----------------------------------------------------------------------------------

    def waiting(self, interaction_id: int, token: str) -> Interaction:
        """The interaction that a callback is for. Raises Unknown Interaction, also after three seconds."""
        found = self._by_id.get(interaction_id)
        if found is None or not secrets.compare_digest(found.token.encode(), token.encode()):
            raise errors.unknown("interaction")
        if found.answered_at is not None:
            raise ApiError(400, 40060, "Interaction has already been acknowledged.")
        if self.outcome(found) == "failed":
            raise errors.unknown("interaction")
        return found

    def answered(self, application_id: int, token: str) -> Interaction:
        """The interaction whose token is used as a webhook's.

        Raises Unknown Webhook before it was answered, Invalid Webhook Token after fifteen minutes.
        """
        found = next((one for one in self._by_id.values() if one.token == token), None)
        if found is None or found.application_id != application_id:
            raise errors.invalid_webhook_token()
        if self.state.clock() - found.created_at > VALID_FOR:
            raise errors.invalid_webhook_token()
        if found.answered_at is None:
            raise errors.unknown("Webhook")
        return found

    def answer(self, interaction: Interaction, kind: int, draft: Draft, *, private: bool) -> Message:
        """The first answer; of kind `DEFERRED`, a sign that the application is thinking."""
        deferred = kind == DEFERRED
        flags = (EPHEMERAL if private else 0) | (LOADING if deferred else 0)
        message = self._post(interaction, draft, flags, kind=_CHAT_INPUT_MESSAGE, may_be_empty=deferred)
        interaction.answered_at = self.state.clock()
        self.listener(interaction)
        return message

    def follow_up(self, interaction: Interaction, draft: Draft, *, private: bool) -> Message:
        """Another message; right after a deferred answer, it takes that one's place."""
        original = interaction.messages[0] if interaction.messages else None
        if original is not None and original.flags & LOADING:
            self.edit(interaction, original, draft)
            return original
        message = self._post(interaction, draft, EPHEMERAL if private else 0, kind=0)
        self.listener(interaction)
        return message

    def message(self, interaction: Interaction, message_id: int | None) -> Message:
        """One of its messages; None: the original answer. Raises Unknown Message."""
        for number, message in enumerate(interaction.messages):
            if message.id == message_id or (message_id is None and number == 0 and not interaction.original_gone):
                return message
        raise errors.unknown("Message")

    def edit(self, interaction: Interaction, message: Message, draft: Draft) -> None:
        """Change a message. One that was thinking has then thought."""
        message.flags &= ~LOADING
        self.messages.apply_edit(self.state.channel(interaction.channel_id), message, draft)
        if message.flags & EPHEMERAL:
            message.pinged = Pinged()
        self.listener(interaction)

    def delete(self, interaction: Interaction, message: Message) -> None:
        """Take a message away."""
        channel = self.state.channel(interaction.channel_id)
        if message.flags & EPHEMERAL:
            for attachment in message.attachments:
                self.messages.release(attachment)
        elif message.id in channel.messages:
            self.messages.remove(channel, [message.id])
        interaction.original_gone = interaction.original_gone or message is interaction.messages[0]
        interaction.messages.remove(message)
        self.listener(interaction)

    def _post(
        self, interaction: Interaction, draft: Draft, flags: int, *, kind: int, may_be_empty: bool = False
    ) -> Message:
        app = self.state.applications[interaction.application_id]
        person = render.user(self.state.user(interaction.user_id))

        def finish(message: Message) -> None:
            message.type = kind
            message.flags |= flags
            message.extra["interaction_metadata"] = {
                "id": str(interaction.id),
                "type": 2,
                "user": person,
                "authorizing_integration_owners": {"0": str(self.state.channel(interaction.channel_id).guild_id)},
            }
            message.extra["interaction"] = {
                "id": str(interaction.id),
                "type": 2,
                "name": interaction.command,
                "user": person,
            }

        channel = self.state.channel(interaction.channel_id)
        message = self.messages.post_as_application(channel, app, draft, finish, may_be_empty=may_be_empty)
        interaction.messages.append(message)
        return message


def _new_token(interaction: int) -> str:
    """An interaction's token in the form of Discord's: the interaction, and 128 characters, in Base64."""
    words = f"interaction:{interaction}:{secrets.token_urlsafe(96)}"
    return urlsafe_b64encode(words.encode()).decode().rstrip("=")
