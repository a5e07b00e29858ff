"""What people ask the relay for on Matrix, and who is called on the other side, from end to end."""

import os
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from tests.support.stack import FullStack, eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def answers(made: FullStack, asked: str, *, room: str = "", who: Person | None = None) -> list[str]:
    """What the relay has answered to one event."""
    shown = await (who or made.mia).messages(room or made.rooms["help"])
    return [message.body for message in shown if message.reply_to == asked]


async def ask(made: FullStack, command: str, *, who: Person | None = None) -> str:
    """What everybody in the room reads after a command."""
    asked = await (who or made.mia).text(made.rooms["help"], f"!relay {command}")
    [answer] = await eventually(lambda: answers(made, asked), bool, what=made.daemon.log)
    return answer


async def ask_on_discord(made: FullStack, command: str, *, who: str = "Ada", **options: Any) -> str:
    """What somebody reads, alone, after a slash command."""

    async def look() -> list[Any]:
        return made.control.commands(made.bot)

    await eventually(look, bool, what=made.daemon.log)
    used = made.control.use_command(made.channels["help"], made.people[who], command, options)["id"]

    async def seen() -> dict[str, Any]:
        return dict(made.control.interaction(used))

    found = await eventually(seen, lambda it: it["state"] in {"answered", "failed"}, what=made.daemon.log)
    assert found["state"] == "answered"
    return "\n".join(message["content"] for message in found["messages"])


async def code_for(made: FullStack, user: str, *, who: str = "Ada") -> str:
    told = await ask_on_discord(made, "relay link", who=who, account=user)
    found = re.search(r"!relay link (\S+?)`", told)
    assert found is not None, told
    return found[1]


@asynccontextmanager
async def another(made: FullStack, homeserver: Homeserver, name: str) -> AsyncIterator[Person]:
    """Somebody else in the room."""
    account = f"{name}-{os.urandom(4).hex()}"
    token = await homeserver.register(account, displayname=name.title())
    async with Person(homeserver.url, f"@{account}:{homeserver.server_name}", token) as person:
        await person.join(made.rooms["help"])
        yield person


def _ends_with(words: str, shown: list[str]) -> bool:
    return shown[-1:] == [words]


async def settled(made: FullStack) -> None:
    """Wait until nothing waits on its way."""

    async def waiting() -> int:
        with closing(sqlite3.connect(made.folder / "relay.db")) as connection:
            return int(connection.execute("SELECT count(*) FROM outbox WHERE state = 'waiting'").fetchone()[0])

    await eventually(waiting, lambda number: number == 0, what=made.daemon.log)


async def test_each_command_is_answered_in_the_room_and_does_not_cross(help_stack: FullStack) -> None:
    told = await ask(help_stack, "help")
    for word in ("status", "link", "unlink", "whoami", "optout", "optin", "forget"):
        assert f"!relay {word}" in told
    assert "it works" in await ask(help_stack, "status")
    assert help_stack.mia.user_id in await ask(help_stack, "whoami")
    assert f"/relay link {help_stack.mia.user_id}" in await ask(help_stack, "link")
    assert "I do not know" in await ask(help_stack, "<b>x</b> @room")
    # Whatever would have crossed has crossed before this.
    await help_stack.tell("help", "the end")
    await help_stack.until_discord("help", lambda words: words == ["the end"])
    room = await help_stack.on_matrix("help")
    assert all(not message.content["m.mentions"].get("room") for message in room if message.reply_to)
    assert all(message.content["msgtype"] == "m.notice" for message in room if message.reply_to)
    await help_stack.until_metric("relay_dropped_total", 5, feature="command")


async def test_a_code_is_of_use_to_the_right_account_in_a_bridged_room_only(
    help_stack: FullStack, homeserver: Homeserver
) -> None:
    mia, code = help_stack.mia, await code_for(help_stack, help_stack.mia.user_id)
    async with another(help_stack, homeserver, "eve") as eve:
        assert "no such code" in await ask(help_stack, f"link {code}", who=eve)
        assert "not linked" in await ask(help_stack, "whoami", who=eve)
    private = await mia.create_room("", public=False, invite=[help_stack.relay_user])
    alone = await mia.text(private, f"!relay link {code}")
    assert "You are linked with `Ada`" in await ask(help_stack, f"link {code}")  # neither of them has used it up
    assert await answers(help_stack, alone, room=private) == []
    assert "linked" in await ask(help_stack, f"link {code}")
    # Whatever stands in the room, no code does that anybody else has not written there.
    said = [message for message in await help_stack.on_matrix("help") if message.sender == help_stack.relay_user]
    assert said
    assert not any(code in message.body for message in said)


async def test_a_code_that_has_expired_while_the_relay_was_away(help_stack: FullStack) -> None:
    code = await code_for(help_stack, help_stack.mia.user_id)
    await help_stack.daemon.stop()
    with closing(sqlite3.connect(help_stack.folder / "relay.db")) as connection, connection:
        assert code not in "\n".join(connection.iterdump())  # only its digest is stored
        assert connection.execute("UPDATE link_code SET expires_at = expires_at - 15 * 60 * 1000000").rowcount == 1
    await help_stack.daemon.start()
    assert "no such code" in await ask(help_stack, f"link {code}")
    assert "not linked" in await ask(help_stack, "whoami")


async def test_a_kill_between_a_code_and_its_use_and_after_each_answer(help_stack: FullStack) -> None:
    code = await code_for(help_stack, help_stack.mia.user_id)
    await help_stack.daemon.kill()
    asked = {}
    asked["link"] = await help_stack.tell("help", f"!relay link {code}")
    for command in ("whoami", "optout"):
        await help_stack.daemon.start()
        last = list(asked.values())[-1]
        await eventually(lambda last=last: answers(help_stack, last), bool, what=help_stack.daemon.log)  # type: ignore[misc]
        await help_stack.daemon.kill()
        asked[command] = await help_stack.tell("help", f"!relay {command}")
    await help_stack.daemon.start()
    await eventually(lambda: answers(help_stack, asked["optout"]), bool, what=help_stack.daemon.log)
    await settled(help_stack)
    found = {command: await answers(help_stack, event) for command, event in asked.items()}
    assert {command: len(said) for command, said in found.items()} == dict.fromkeys(asked, 1)
    assert "You are linked with `Ada`" in found["link"][0]
    assert "linked with an account" in found["whoami"][0]


async def test_who_opts_out_on_matrix_is_not_heard_and_may_be_forgotten(help_stack: FullStack) -> None:
    first = await help_stack.tell("help", "one")
    await help_stack.tell("help", "two")
    await help_stack.until_discord("help", lambda words: words == ["one", "two"])
    assert "nothing that you write" in await ask(help_stack, "optout")
    secret = await help_stack.tell("help", "unheard")
    help_stack.say("help", "from Ada")
    await help_stack.until_matrix("help", lambda words: "from Ada" in words)
    await help_stack.mia.edit(help_stack.rooms["help"], first, "one, edited")
    await help_stack.until_discord("help", lambda words: words == ["one, edited", "two", "from Ada"])
    with closing(sqlite3.connect(help_stack.folder / "relay.db")) as connection:
        assert "unheard" not in "\n".join(connection.iterdump())
    assert "are being deleted" in await ask(help_stack, "forget copies")
    await help_stack.until_discord("help", lambda words: words == ["from Ada"])

    async def traces() -> int:
        with closing(sqlite3.connect(help_stack.folder / "relay.db")) as connection:
            dump = "\n".join(connection.iterdump())
        return dump.count(help_stack.mia.user_id)

    # What is left is that she has opted out.
    await eventually(traces, lambda number: number == 1, what=help_stack.daemon.log)
    assert "crosses again" in await ask(help_stack, "optin")
    await help_stack.tell("help", "heard")
    await help_stack.until_discord("help", lambda words: words == ["from Ada", "heard"])
    assert await answers(help_stack, secret) == []


async def test_in_a_room_that_is_full_of_answers_a_reaction_is_one(
    help_stack: FullStack, homeserver: Homeserver
) -> None:
    room = help_stack.rooms["help"]
    async with AsyncExitStack() as exits:
        for name in ("ann", "ben", "carl"):
            person = await exits.enter_async_context(another(help_stack, homeserver, name))
            for _ in range(4):
                await person.text(room, "!relay whoami")
        asked = await help_stack.mia.text(room, "!relay optout")

        async def signs() -> list[str]:
            relations = [
                event["content"].get("m.relates_to", {})
                for event in await help_stack.mia.events(room)
                if event["type"] == "m.reaction" and event["sender"] == help_stack.relay_user
            ]
            return [relation["key"] for relation in relations if relation["event_id"] == asked]

        await eventually(signs, lambda found: found == ["✅"], what=help_stack.daemon.log)
        await settled(help_stack)
        assert await answers(help_stack, asked) == []
        said = await help_stack.mia.messages(room)
        assert sum(message.reply_to is not None for message in said) == 10


async def test_a_pair_may_show_that_somebody_has_opted_out(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver) as made:
        made.pair_settings["help"] = "show_opted_out = true"
        made.write_config()
        await made.daemon.start()
        assert "nothing that you write" in await ask(made, "optout")
        for words in ("unheard", "unheard, too"):
            await made.tell("help", words)
        shown = "Somebody on Matrix writes here whose messages do not cross, by their wish."
        await made.until_discord("help", lambda words: words == [shown])
        async with another(made, homeserver, "ben") as ben:
            await ben.text(made.rooms["help"], "heard")
            await made.until_discord("help", lambda words: words == [shown, "heard"])


async def test_a_pair_says_how_people_are_named_and_two_of_one_name_are_told_apart(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with stack(tmp_path, homeserver) as made:
        made.pair_settings["help"] = 'name_template = "{name} (Matrix)"'
        made.write_config()
        await made.daemon.start()
        async with another(made, homeserver, "ben") as ben, another(made, homeserver, "ben") as other:
            for number in range(2):
                for person, who in ((ben, "ben"), (other, "another ben")):
                    words = f"{who} {number}"
                    await person.text(made.rooms["help"], words)
                    await made.until_discord("help", partial(_ends_with, words))
        first, second, *again = [message["author"]["username"] for message in made.on_discord("help")]
        assert first == "Ben (Matrix)"
        assert second != first
        assert second.startswith("Ben ")
        assert second.endswith(" (Matrix)")
        assert again == [first, second]


@pytest.mark.crosses("people", "to_matrix", "to_discord")
async def test_linked_people_are_called_by_mentions_answers_and_roles(homeserver: Homeserver, tmp_path: Path) -> None:
    async with AsyncExitStack() as exits:
        made = await exits.enter_async_context(stack(tmp_path, homeserver))
        ada, mia = made.people["Ada"], made.mia
        await made.daemon.start()
        # The operator declares it while the relay runs; the person's names have nothing in common.
        made.write_config(extra=f'[[people]]\ndiscord = {ada}\nmatrix = "{mia.user_id}"')

        async def log() -> str:
            return made.daemon.log()

        await eventually(log, lambda lines: "declared links changed" in lines)
        assert mia.user_id in await ask_on_discord(made, "relay whoami")
        eve = await exits.enter_async_context(another(made, homeserver, "eve"))
        room, here = made.rooms["help"], made.channels["help"]

        async def on_discord(words: str) -> dict[str, Any]:
            await made.until_discord("help", lambda seen: any(words in line for line in seen))
            return next(message for message in made.on_discord("help") if words in message["content"])

        async def on_matrix(words: str) -> dict[str, Any]:
            await made.until_matrix("help", lambda seen: any(words in line for line in seen))
            shown = await made.on_matrix("help")
            return next(one.content for one in shown if words in one.body and one.sender == made.relay_user)

        pill = f'<a href="https://matrix.to/#/{mia.user_id}">Mia</a>'
        await eve.html(room, "hello Mia", f"hello {pill}")
        assert (await on_discord("hello"))["pinged"]["users"] == [ada]
        made.say("help", f"good morning <@{ada}>", who="Ben")
        assert (await on_matrix("good morning"))["m.mentions"] == {"user_ids": [mia.user_id]}

        # A role: only who has it, and only where its author may call it.
        role = made.control.create_role(made.guild, "helpers", mentionable=True)["id"]
        other = made.control.create_role(made.guild, "others", mentionable=True)["id"]
        made.control.set_role(made.guild, ada, role)
        made.say("help", f"who helps, <@&{role}>?", who="Ben")
        assert (await on_matrix("who helps"))["m.mentions"] == {"user_ids": [mia.user_id]}
        made.say("help", f"and the <@&{other}>?", who="Ben")
        assert (await on_matrix("and the @others"))["m.mentions"] == {}

        # Answers on one's own side call the other account, or neither.
        question = await made.tell("help", "a question")
        await on_discord("a question")
        for mentions, words in (({"user_ids": [mia.user_id]}, "loud answer"), ({}, "silent answer")):
            relation = {"m.in_reply_to": {"event_id": question}}
            await eve.text(room, words, extra={"m.relates_to": relation, "m.mentions": mentions})
            assert (await on_discord(words))["pinged"]["users"] == ([ada] if mentions else [])
        asked = made.say("help", "another question")
        await on_matrix("another question")
        for ping, words in ((True, "clear reply"), (False, "quiet reply")):
            made.control.say(
                here, made.people["Ben"], words, reply_to=asked, allowed_mentions={"parse": [], "replied_user": ping}
            )
            assert (await on_matrix(words))["m.mentions"] == ({"user_ids": [mia.user_id]} if ping else {})
