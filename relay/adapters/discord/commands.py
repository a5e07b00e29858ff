"""Slash commands: `/relay help`, `/relay link`, …, registered with Discord and answered to that person alone.

They come over the gateway and need no intent, but are answered by REST, within three seconds. If the core takes longer,
a first answer says that the relay is thinking, and the real one follows within fifteen minutes.
https://docs.discord.com/developers/interactions/receiving-and-responding
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Any

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.errors import ApiError, ErrorCode, Limited, Refused, Unanswered
from relay.adapters.discord.gateway.buffers import ChannelBuffers
from relay.adapters.discord.identifiers import channel_ref, created_at, is_snowflake, is_token
from relay.adapters.discord.outbound.body import TEXT_LENGTH, measure, webhook_text
from relay.core.clock import Backoff
from relay.core.convert.split import split
from relay.core.people.commands import COMMANDS, CommandSpec
from relay.core.ports import Clock, CommandCall, Inbox
from relay.core.recent import keep
from relay.domain.content import Content
from relay.domain.ids import ChannelRef, Platform, UserRef
from relay.domain.jsontext import Json, as_dict, as_list
from relay.domain.text import nodes as n
from relay.errors import StoreUnavailable
from relay.logs import get_logger

_log = get_logger(__name__)

NAME = "relay"
_SUMMARY = "Asks the relay that connects this server with rooms elsewhere."
# https://docs.discord.com/developers/interactions/application-commands
_CHAT_INPUT = 1
_SUB_COMMAND = 1
_STRING = 3
_IN_SERVERS = 0
# No ID that somebody may give is longer.
_MAX_WORD = 255
_MAX_WORDS = 8
_COMPARED = (
    "type", "name", "description", "options", "required", "choices", "value", "max_length", "contexts",
    "integration_types",
)  # fmt: skip

# https://docs.discord.com/developers/interactions/receiving-and-responding
_APPLICATION_COMMAND = 2
_ANSWER, _THINKING = 4, 5
_PRIVATE = 1 << 6
# A tuple: a list, which JSON may hold in its place, cannot be looked up in a set.
_THREADS = (10, 11, 12)
# Seconds. Discord gives three, in which the answer has to arrive there.
_THINKING_AFTER = 1.0
_FIRST_ANSWER_WITHIN = 3.0
_EDIT_WITHIN = 120.0
_RETRY_PAUSE = 0.3
_MAX_PARTS = 4

# Commands that are carried out at a time. Who gives more gets no answer, as if the relay were not there.
_MAX_RUNNING = 64
_MAX_RUNNING_OF_ONE = 3
_REMEMBERED = 512

_STORE_AWAY = "The relay cannot do that just now. Please try again in a minute."
_FAILED = "The relay could not do that. The operator finds the reason in its log."
_NOTHING = "There is nothing to say."


@dataclass(frozen=True, slots=True)
class Interaction:
    """Somebody used a command of ours."""

    id: str
    # With it, anybody may answer in our name.
    token: str = field(repr=False)
    user: str
    # What people see them as there.
    name: str
    channel: str
    # The channel that a thread belongs to; "" for what is no thread.
    parent: str
    command: str
    # The sub-command and what was filled in.
    words: tuple[str, ...]


def read_interaction(data: Json) -> Interaction | None:
    """An `INTERACTION_CREATE`; None for one that is no command, or cannot be read."""
    command, channel = as_dict(data.get("data")), as_dict(data.get("channel"))
    member = as_dict(data.get("member"))
    person = as_dict(member.get("user")) or as_dict(data.get("user"))
    found = (str(data.get("id")), str(person.get("id")), str(data.get("channel_id")))
    token = data.get("token")
    if data.get("type") != _APPLICATION_COMMAND or not all(map(is_snowflake, found)) or not is_token(token):
        return None
    is_thread = channel.get("type") in _THREADS and is_snowflake(channel.get("parent_id"))
    return Interaction(
        id=found[0],
        token=str(token),
        user=found[1],
        name=str(member.get("nick") or person.get("global_name") or person.get("username") or ""),
        channel=found[2],
        parent=str(channel["parent_id"]) if is_thread else "",
        command=str(command.get("name")),
        words=tuple(islice(_words(command), _MAX_WORDS)),
    )


def _words(command: Json) -> Iterator[str]:
    """The names of sub-commands, and the values that were filled in."""
    for option in as_list(command.get("options")):
        if isinstance(option, dict):
            yield str(option.get("value", option.get("name")))[:_MAX_WORD]
            yield from _words(option)


# --- Registration -------------------------------------------------------------------------------------------


def definition() -> Json:
    """The command as it is registered: one for all servers, with a sub-command for each that the core knows."""
    return {
        "type": _CHAT_INPUT,
        "name": NAME,
        "description": _SUMMARY,
        "contexts": [_IN_SERVERS],
        "integration_types": [0],
        "options": [_sub_command(spec) for spec in COMMANDS],
    }


def _sub_command(spec: CommandSpec) -> Json:
    body: Json = {"type": _SUB_COMMAND, "name": spec.name, "description": spec.summary}
    if spec.argument is None:
        return body
    option: Json = {"type": _STRING, "name": spec.argument.name, "description": spec.argument.summary}
    if spec.argument.choices:
        option["choices"] = [{"name": choice, "value": choice} for choice in spec.argument.choices]
    else:
        option["max_length"] = _MAX_WORD
    return body | {"options": [option]}


def same_definition(ours: Json, theirs: Json) -> bool:
    """Whether a registered command is what we would register. Discord adds fields, and leaves out what is false."""
    return bool(_compared(ours) == _compared(theirs))


def _compared(value: Any) -> Any:
    if isinstance(value, list):
        return [_compared(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _compared(value[name]) for name in _COMPARED if value.get(name) not in (None, False, [])}


# --- Answers ------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class SlashCommands:
    """Registers the command, hands the use of it to the core, and answers."""

    rest: RestClient
    buffers: ChannelBuffers
    clock: Clock
    backoff: Backoff
    # Why Discord refused the command last, "" if it did not.
    refused: str = field(init=False, default="")
    _application: str = field(init=False, default="")
    _session: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _inbox: Inbox | None = field(init=False, default=None)
    _group: asyncio.TaskGroup | None = field(init=False, default=None)
    # How many commands of each person are being carried out.
    _running: Counter[str] = field(init=False, default_factory=Counter)
    # Their IDs and those of the last ones: the gateway may tell of one twice.
    _seen: OrderedDict[str, None] = field(init=False, default_factory=OrderedDict)

    async def run(self, inbox: Inbox) -> None:
        """Register the command at the first session where that works, and answer. Runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._inbox, self._group = inbox, group
            registered = False
            while True:
                await self._session.wait()
                self._session.clear()
                registered = registered or await self._register()

    def session_started(self, application: str) -> None:
        """A new session has begun; `application` is the bot's."""
        self._application = application
        self._session.set()

    def received(self, data: Json) -> None:
        """An `INTERACTION_CREATE` came. Returns at once."""
        interaction = read_interaction(data)
        if interaction is None or interaction.id in self._seen or self._group is None or self._inbox is None:
            return
        keep(self._seen, interaction.id, None, _REMEMBERED)
        if self._running.total() >= _MAX_RUNNING or self._running[interaction.user] >= _MAX_RUNNING_OF_ONE:
            _log.debug("discord command ignored, too many at a time", user=interaction.user)
            return
        self._running[interaction.user] += 1
        self._group.create_task(self._serve(interaction, self._inbox), name="discord command")

    async def _register(self) -> bool:
        """Register the command, unless it is there as it should be. Other commands of the bot are not touched.

        Discord allows 200 new commands a day, and nothing is written where nothing has changed.
        """
        route = {"application": self._application}
        path = "/applications/{application}/commands"
        wanted = definition()
        try:
            registered = await self.rest.read(Route("GET", path, route))
            if not any(same_definition(wanted, as_dict(one)) for one in as_list(registered)):
                await self._write(Route("POST", path, route), wanted)
                _log.info("discord command registered", command=NAME)
        except Refused as error:
            _log.warning("discord command not registered", reason=str(error))
            self.refused = str(error)
            return False
        self.refused = ""
        return True

    def notes(self) -> Sequence[str]:
        """That nobody can use the command: a sentence with the remedy."""
        if not self.refused:
            return ()
        remedy = "correct that in the Developer Portal and start the daemon again"
        return (f"Discord did not register /{NAME} ({self.refused}), so nobody can use it: {remedy}.",)

    async def _write(self, route: Route, body: Json) -> None:
        """Create or overwrite the command: to do it twice does no harm. Raises `Refused`."""
        while True:
            try:
                await self.rest.call(route, body=body)
            except Limited as error:
                await self.clock.sleep(error.retry_after)
            except Unanswered as error:
                wait = self.backoff.next()
                _log.warning("discord command not registered yet", reason=str(error), tries=self.backoff.tries)
                await self.clock.sleep(wait)
            else:
                self.backoff.reset()
                return

    async def _serve(self, interaction: Interaction, inbox: Inbox) -> None:
        try:
            await self._answer(interaction, inbox)
        except ApiError as error:
            _log.warning("discord command not answered", reason=str(error))
        except Exception as error:  # noqa: BLE001 - the top of a worker
            # Without the traceback, which may quote what somebody wrote.
            _log.error("discord command failed", error=type(error).__name__)
        finally:
            self._running[interaction.user] -= 1
            self._running += Counter()  # forgets who has none

    async def _answer(self, interaction: Interaction, inbox: Inbox) -> None:
        """Carry out a command and answer it. Raises `ApiError` when nobody has seen an answer.

        One that comes late (after the connection was lost, say) is acknowledged first, and carried out only if that was
        in time: Discord has told its author that it failed, and they give it again.
        """
        arrived = self.clock.monotonic()
        age = self.rest.time.now() - created_at(interaction.id)
        thinking = age > timedelta(seconds=_THINKING_AFTER)
        if thinking:
            await self._respond(interaction, _THINKING, {}, arrived)
        carried_out = asyncio.ensure_future(self._carry_out(interaction, inbox))
        try:
            if not thinking:
                await asyncio.wait([carried_out], timeout=_THINKING_AFTER)
                thinking = not carried_out.done()
                if thinking:
                    await self._respond(interaction, _THINKING, {}, arrived)
            first, *more = _parts(await carried_out)
        finally:
            carried_out.cancel()
        if thinking:
            await self._replace(interaction, first)
        else:
            await self._respond(interaction, _ANSWER, first, arrived)
        for part in more:
            await self._follow(interaction, part)

    async def _carry_out(self, interaction: Interaction, inbox: Inbox) -> n.RichText:
        if interaction.command != NAME:
            return _unknown(interaction.command)
        call = CommandCall(
            user=UserRef(Platform.DISCORD, interaction.user),
            channel=self._place(interaction),
            words=interaction.words,
            private=True,
            name=interaction.name,
        )
        try:
            return await inbox.command(call)
        except StoreUnavailable as error:
            _log.warning("discord command cannot be carried out", reason=error.reason)
            return n.RichText.plain(_STORE_AWAY)
        except Exception as error:  # noqa: BLE001 - a bug in the core: its author must hear of it all the same
            _log.error("discord command failed", error=type(error).__name__)
            return n.RichText.plain(_FAILED)

    def _place(self, interaction: Interaction) -> ChannelRef:
        """Where it was given: for a thread that is not declared itself, the channel that it belongs to."""
        declared = not interaction.parent or self.buffers.get(interaction.channel) is not None
        return channel_ref(interaction.channel if declared else interaction.parent)

    # --- Requests -------------------------------------------------------------------------------------------

    async def _respond(self, interaction: Interaction, kind: int, message: Json, arrived: float) -> None:
        """The first answer, tried again for as long as Discord takes it. Raises `ApiError`."""
        ids = {"interaction": interaction.id, "token": interaction.token}
        route = Route("POST", "/interactions/{interaction}/{token}/callback", ids, token=False, limited=False)
        body = {"type": kind, "data": {"flags": _PRIVATE} | message}
        retried = False
        while True:
            try:
                await self.rest.call(route, body=body)
            except Refused as error:
                if retried and error.code == ErrorCode.ALREADY_ANSWERED:
                    return
                raise
            except (Limited, Unanswered):
                if self.clock.monotonic() - arrived + _RETRY_PAUSE > _FIRST_ANSWER_WITHIN:
                    raise
                retried = True
                await self.clock.sleep(_RETRY_PAUSE)
            else:
                return

    async def _replace(self, interaction: Interaction, message: Json) -> None:
        """The real answer, in place of the sign that the relay is thinking. Raises `ApiError`."""
        ids = {"application": self._application, "token": interaction.token}
        path = "/webhooks/{application}/{token}/messages/@original"
        route = Route("PATCH", path, ids, token=False, limited=False)
        until = self.clock.monotonic() + _EDIT_WITHIN
        pause = _RETRY_PAUSE
        while True:
            try:
                await self.rest.call(route, body=message)
            except (Limited, Unanswered) as error:
                pause = max(pause * 2, error.retry_after if isinstance(error, Limited) else 0.0)
                if self.clock.monotonic() + pause > until:
                    raise
                await self.clock.sleep(pause)
            else:
                return

    async def _follow(self, interaction: Interaction, message: Json) -> None:
        """Another part of the answer; once, because it cannot be known whether one without an answer arrived."""
        ids = {"application": self._application, "token": interaction.token}
        route = Route("POST", "/webhooks/{application}/{token}", ids, token=False, limited=False)
        await self.rest.call(route, body=message | {"flags": _PRIVATE})


def _parts(answer: n.RichText) -> list[Json]:
    """The messages that an answer takes."""
    text = answer if n.plain_text(answer).strip() else n.RichText.plain(_NOTHING)
    parts = split(text, limit=TEXT_LENGTH, measure=measure, max_parts=_MAX_PARTS)
    return [{"content": webhook_text(Content(part)), "allowed_mentions": {"parse": []}} for part in parts]


def _unknown(command: str) -> n.RichText:
    """For a command that somebody's client still shows."""
    name, instead = n.Code(f"/{command[:32]}"), n.Code(f"/{NAME} help")
    words = (n.Text("There is no "), name, n.Text(" any more. "), instead, n.Text(" shows what there is."))
    return n.RichText((n.Paragraph(words),))
