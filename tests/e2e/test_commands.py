"""What people ask the relay for on Discord, from end to end: `/relay …`, answered to them alone."""

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from relay.demo.matrix_client import Person
from tests.support.stack import FullStack, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def _ask(made: FullStack, command: str, *, who: str = "Ada", channel: str = "", **options: Any) -> str:
    """What somebody reads who uses a command; that nobody else does is asserted."""
    place = channel or next(iter(made.channels.values()))
    await _offered(made)
    used = made.control.use_command(place, made.people[who], command, options)["id"]
    return await _read(made, used)


async def _read(made: FullStack, interaction: str) -> str:
    async def look() -> dict[str, Any]:
        return dict(made.control.interaction(interaction))

    seen = await eventually(look, lambda seen: seen["state"] in {"answered", "failed"}, what=made.daemon.log)
    assert seen["state"] == "answered"
    assert all(message["private"] for message in seen["messages"])
    return "\n".join(message["content"] for message in seen["messages"])


async def _offered(made: FullStack) -> None:
    """Wait until Discord offers the command."""

    async def look() -> list[Any]:
        return made.control.commands(made.bot)

    await eventually(look, bool, what=made.daemon.log)


async def test_answers_are_for_one_person_alone_and_given_where_no_pair_is_too(help_stack: FullStack) -> None:
    said = await _ask(help_stack, "relay help")
    assert "status" in said
    assert "whoami" in said
    assert "it works" in await _ask(help_stack, "relay status")
    assert help_stack.people["Ben"] in await _ask(help_stack, "relay whoami", who="Ben")
    help_stack.say("help", "and now for everybody")
    assert await help_stack.until_matrix("help", bool) == ["and now for everybody"]
    assert len(help_stack.on_discord("help")) == 1
    elsewhere = help_stack.control.create_channel(help_stack.guild, "elsewhere")["id"]
    assert "can connect it" in await _ask(help_stack, "relay status", channel=elsewhere)
    assert "status" in await _ask(help_stack, "relay help", channel=elsewhere)


async def test_commands_around_a_restart(help_stack: FullStack) -> None:
    await _ask(help_stack, "relay help")
    control, channel, ada = help_stack.control, help_stack.channels["help"], help_stack.people["Ada"]
    before = control.commands(help_stack.bot)
    await help_stack.daemon.kill()
    missed = control.use_command(channel, ada, "relay optout")["id"]

    async def connected() -> bool:
        return control.connected(help_stack.bot)

    # Discord notices a moment later that the one who was killed is gone.
    await eventually(connected, lambda there: not there)
    await help_stack.daemon.start(ready=False)
    await eventually(connected, bool, what=help_stack.daemon.log)
    assert "status" in await _ask(help_stack, "relay help")
    # Discord has told Ada that it failed, so nothing is done.

    async def state() -> str:
        return str(control.interaction(missed)["state"])

    assert await eventually(state, lambda seen: seen != "waiting") == "failed"
    assert "opted out" not in await _ask(help_stack, "relay whoami")
    # What her client still shows of another relay is answered, too, and nothing is registered anew.
    data = {"id": "1", "name": "bridge", "options": []}
    old = control.use_unknown_command(channel, ada, help_stack.bot, data)["id"]
    assert "/relay help" in await _read(help_stack, old)
    assert control.commands(help_stack.bot) == before


# --- Both sides -------------------------------------------------------------------------------------------


async def _ask_on_matrix(made: FullStack, command: str) -> str:
    """What the relay answers in the room to what Mia asks there. A command and its answer do not cross."""
    asked = await made.tell("help", f"!relay {command}")

    async def look() -> list[str]:
        room = await made.on_matrix("help")
        return [message.body for message in room if message.reply_to == asked]

    answers = await eventually(look, bool, what=made.daemon.log)
    assert len(answers) == 1
    return answers[0]


async def test_two_accounts_are_linked_called_and_unlinked_from_both_sides(help_stack: FullStack) -> None:
    mia = help_stack.mia.user_id
    told = await _ask(help_stack, "relay link", account=mia)
    code = re.search(r"!relay link (\S+?)`", told)
    assert code is not None, told
    # Nobody else can use it: Ada herself is the wrong account.
    assert "no such code" in await _ask(help_stack, "relay link", account=code[1])
    assert "You are linked" in await _ask_on_matrix(help_stack, f"link {code[1]}")
    assert mia in await _ask(help_stack, "relay whoami")
    assert mia not in await _ask(help_stack, "relay whoami", who="Ben")
    assert "linked with an account" in await _ask_on_matrix(help_stack, "whoami")
    assert "no such code" in await _ask(help_stack, "relay link", who="Ben", account=code[1])
    # Whatever would have crossed has crossed before this.
    await help_stack.tell("help", "and now for everybody")
    await help_stack.until_discord("help", lambda words: words == ["and now for everybody"])
    await help_stack.daemon.kill()
    await help_stack.daemon.start()
    assert mia in await _ask(help_stack, "relay whoami")
    async with _another(help_stack) as nils:
        assert await _calls(help_stack, nils, "once linked") == ([mia], [mia], [help_stack.people["Ada"]])
        assert "any more" in await _ask(help_stack, "relay unlink")
        assert "not linked" in await _ask_on_matrix(help_stack, "whoami")
        assert await _calls(help_stack, nils, "no longer linked") == ([], [], [])


@asynccontextmanager
async def _another(made: FullStack) -> AsyncIterator[Person]:
    """A second person in the Matrix room."""
    localpart = f"nils-{os.urandom(4).hex()}"
    token = await made.homeserver.register(localpart, displayname="Nils")
    async with Person(made.homeserver.url, f"@{localpart}:{made.homeserver.server_name}", token) as nils:
        await made.mia.invite(made.rooms["help"], nils.user_id)
        await nils.join(made.rooms["help"])
        yield nils


async def _calls(made: FullStack, nils: Person, words: str) -> tuple[list[str], list[str], list[str]]:
    """Whom a mention of Ada calls on Matrix, one of a role of hers, and one of Mia's account on Discord."""
    role = made.control.create_role(made.guild, words, mentionable=True)["id"]
    made.control.set_role(made.guild, made.people["Ada"], role)
    made.say("help", f"<@{made.people['Ada']}> {words}", who="Ben")
    made.say("help", f"<@&{role}> {words}", who="Ben")

    async def copies() -> list[Any]:
        return [one for one in await made.on_matrix("help") if one.name == "Ben" and words in one.body]

    seen = await eventually(copies, lambda seen: len(seen) == 2, what=made.daemon.log)
    called = [one.content["m.mentions"].get("user_ids", []) for one in seen]
    pill = f'<a href="https://matrix.to/#/{made.mia.user_id}">Mia</a> back, {words}'
    mentions = {"m.mentions": {"user_ids": [made.mia.user_id]}}
    formatted = {"format": "org.matrix.custom.html", "formatted_body": pill}
    await nils.text(made.rooms["help"], f"Mia back, {words}", extra=mentions | formatted)
    await made.until_discord("help", lambda seen: any(f"back, {words}" in text for text in seen))
    (copy,) = (one for one in made.on_discord("help") if f"back, {words}" in one["content"])
    return called[0], called[1], copy["pinged"]["users"]


async def test_who_opts_out_on_discord_is_not_heard_on_matrix(help_stack: FullStack) -> None:
    help_stack.say("help", "before")
    await help_stack.until_matrix("help", lambda words: words == ["before"])
    assert "nothing that you write" in await _ask(help_stack, "relay optout")
    help_stack.say("help", "unheard")
    help_stack.say("help", "from Ben", who="Ben")
    await help_stack.until_matrix("help", lambda words: words == ["before", "from Ben"])
    assert "crosses again" in await _ask(help_stack, "relay optin")
    help_stack.say("help", "heard again")
    await help_stack.until_matrix("help", lambda words: words == ["before", "from Ben", "heard again"])
    assert "deleted" in await _ask(help_stack, "relay forget", copies="copies")
    await help_stack.until_matrix("help", lambda words: words == ["from Ben"])
