"""The sandbox's application commands and interactions, in plain requests and with the real discord.py."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import discord
import pytest
from discord import app_commands

from relay.sandbox.client import SandboxClient
from relay.sandbox.errors import ApiError
from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer
from tests.support.discord_bot import Bot, raw, running
from tests.support.patience import PATIENCE
from tests.support.sandbox import Place, form_error

LINK = {
    "type": 1, "name": "link", "description": "Link an account.",
    "options": [{"type": 3, "name": "account", "description": "Which?", "required": True, "max_length": 255}],
}  # fmt: skip
RELAY: dict[str, Any] = {
    "name": "relay",
    "description": "Talk to the relay.",
    "options": [LINK, {"type": 1, "name": "help", "description": "What there is."}],
}
UNKNOWN_INTERACTION = (404, {"message": "Unknown interaction", "code": 10062})


class Clocked:
    """The seconds since 1970, which a test moves on."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clocked:
    return Clocked()


@pytest.fixture
async def place(clock: Clocked) -> AsyncIterator[Place]:
    async with SandboxServer(limits=Limits(factor=0), clock=clock) as sandbox:
        made = sandbox.control.bootstrap()
        async with raw(sandbox, made["token"]) as call:
            found = Place(sandbox, call, made)
            path = f"/applications/{found.bot}/guilds/{found.guild}/commands"
            assert (await call("PUT", path, json=[RELAY]))[0] == 200
            yield found


def _used(place: Place, command: str = "relay help", **options: Any) -> tuple[str, str]:
    """The ID of an interaction, and the path of its callback."""
    seen = place.control.use_command(place.channel, place.ada, command, options)
    assert seen["state"] == "waiting"
    token = place.sandbox.interactions.get(int(seen["id"])).token
    return seen["id"], f"/interactions/{seen['id']}/{token}/callback"


def _webhook(place: Place, callback: str) -> str:
    return f"/webhooks/{place.bot}/{callback.split('/')[3]}"


async def _answered(place: Place, **data: Any) -> tuple[str, str]:
    """The ID of an interaction that was answered privately, and the path of its webhook."""
    number, callback = _used(place)
    body = {"type": 4, "data": {"content": "here", "flags": 64} | data}
    assert await place.call("POST", callback, json=body) == (204, None)
    return number, _webhook(place, callback)


# --- Registering ------------------------------------------------------------------------------------------


async def test_commands_are_listed_created_changed_and_deleted(place: Place) -> None:
    path = f"/applications/{place.bot}/commands"
    assert await place.call("GET", path) == (200, [])
    ping = {"name": "ping", "description": "Pong.", "name_localizations": {"de": "klopf"}}
    status, made = await place.call("POST", path, json=ping)
    assert (status, made["type"], made["application_id"], "guild_id" in made) == (201, 1, place.bot, False)
    status, same = await place.call("POST", path, json=ping | {"description": "Still here."})
    assert (status, same["id"], same["version"] > made["version"]) == (200, made["id"], True)
    _, (listed,) = await place.call("GET", path)
    assert "name_localizations" not in listed
    _, (listed,) = await place.call("GET", path + "?with_localizations=true")
    assert listed == same
    status, changed = await place.call("PATCH", f"{path}/{made['id']}", json={"name": "pong"})
    assert (status, changed["name"], changed["description"]) == (200, "pong", "Still here.")
    assert await place.call("DELETE", f"{path}/{made['id']}") == (204, None)
    unknown = (404, {"message": "Unknown application command", "code": 10063})
    assert await place.call("GET", f"{path}/{made['id']}") == unknown
    assert [one["name"] for one in place.control.commands(place.bot, place.guild)] == ["relay"]


async def test_a_whole_list_is_refused_for_one_mistake(place: Place) -> None:
    path = f"/applications/{place.bot}/commands"
    status, body = await place.call("PUT", path, json=[RELAY, RELAY, {"name": "Nope", "description": "d"}])
    assert (status, body["code"], sorted(body["errors"])) == (400, 50035, ["1", "2"])
    assert body["errors"]["1"]["_errors"][0]["code"] == "APPLICATION_COMMANDS_DUPLICATE_NAME"
    assert (await place.call("PUT", path, json={"name": "x"}))[0] == 400
    assert await place.call("GET", path) == (200, [])


async def test_only_ones_own_commands_and_guilds(place: Place) -> None:
    other = place.control.create_bot("other")["id"]
    foreign = {"message": "You are not authorized to perform this action on this application", "code": 20012}
    assert await place.call("GET", f"/applications/{other}/commands") == (403, foreign)
    elsewhere = place.control.create_guild("elsewhere")["id"]
    status, body = await place.call("GET", f"/applications/{place.bot}/guilds/{elsewhere}/commands")
    assert (status, body["code"]) == (403, 50001)


# --- Using ------------------------------------------------------------------------------------------------


async def test_what_a_client_does_not_let_people_send(place: Place) -> None:
    def refused(command: str, **options: Any) -> int:
        with pytest.raises(ApiError) as error:
            place.control.use_command(place.channel, place.ada, command, options)
        return error.value.status

    assert refused("nothing") == 404
    assert refused("relay") == refused("relay nothing") == refused("relay link") == 400
    assert refused("relay link", account=5) == refused("relay link", account="x" * 256) == 400
    assert refused("relay help", account="x") == 400
    stranger = place.control.create_person("eve")["id"]
    with pytest.raises(ApiError):
        place.control.use_command(place.channel, stranger, "relay help")
    place.control.set_channel_permissions(place.channel, place.guild, deny=["USE_APPLICATION_COMMANDS"])
    assert refused("relay help") == 403


async def test_commands_for_some_members_only(place: Place) -> None:
    path = f"/applications/{place.bot}/commands"
    await place.call("POST", path, json={"name": "admin", "description": "d", "default_member_permissions": "0"})
    await place.call("POST", path, json={"name": "mods", "description": "d", "default_member_permissions": "8192"})
    for name in ("admin", "mods"):
        with pytest.raises(ApiError):
            place.control.use_command(place.channel, place.ada, name)
    role = place.control.create_role(place.guild, "mods", ["MANAGE_MESSAGES"])["id"]
    place.control.set_role(place.guild, place.ada, role)
    assert place.control.use_command(place.channel, place.ada, "mods")["state"] == "waiting"


async def test_a_private_answer_is_seen_by_one_person_and_in_no_channel(place: Place) -> None:
    number, hook = await _answered(place, content=f"for <@{place.ada}>")
    seen = place.control.interaction(number)
    assert (seen["state"], seen["command"], seen["user_id"]) == ("answered", "relay help", place.ada)
    (message,) = seen["messages"]
    assert (message["private"], message["type"], message["flags"], message["webhook_id"]) == (True, 20, 64, place.bot)
    assert (message["author"]["id"], message["interaction_metadata"]["user"]["id"]) == (place.bot, place.ada)
    assert message["pinged"]["users"] == []
    await place.call("PATCH", f"{hook}/messages/@original", json={"content": f"edited <@{place.ada}>"})
    await place.call("POST", hook, json={"content": "more", "flags": 64})
    seen = place.control.interaction(number)
    assert [(one["content"], one["private"]) for one in seen["messages"]] == [
        (f"edited <@{place.ada}>", True), ("more", True),
    ]  # fmt: skip
    assert seen["messages"][0]["pinged"]["users"] == []
    assert (await place.call("DELETE", f"{hook}/messages/@original"))[0] == 204
    gone = (404, {"message": "Unknown Message", "code": 10008})
    assert await place.call("GET", f"{hook}/messages/@original") == gone
    assert place.control.messages(place.channel) == []
    assert not place.sandbox.journal.after(0, event="MESSAGE_CREATE")


async def test_a_public_answer_is_a_message_of_the_channel(place: Place) -> None:
    number, callback = _used(place)
    body = {"type": 4, "data": {"content": "hello all"}}
    status, told = await place.call("POST", callback + "?with_response=true", json=body)
    (message,) = place.control.messages(place.channel)
    assert (status, told["resource"]["message"]["id"], told["resource"]["type"]) == (200, message["id"], 4)
    assert told["interaction"] == {
        "id": number, "type": 2, "response_message_id": message["id"], "response_message_loading": False,
        "response_message_ephemeral": False,
    }  # fmt: skip
    assert (message["content"], message["type"], message["author"]["id"]) == ("hello all", 20, place.bot)
    follow_up = f"{_webhook(place, callback)}/messages/{message['id']}"
    assert (await place.call("PATCH", follow_up, json={"content": "changed"}))[1]["content"] == "changed"
    assert (await place.call("DELETE", follow_up))[0] == 204
    assert place.control.messages(place.channel) == []


async def test_three_seconds_to_answer(place: Place, clock: Clocked) -> None:
    number, callback = _used(place)
    clock.now += 3.1
    assert place.control.interaction(number)["state"] == "failed"
    late = {"type": 4, "data": {"content": "late"}}
    assert await place.call("POST", callback, json=late) == UNKNOWN_INTERACTION
    hook = _webhook(place, callback)
    assert await place.call("POST", hook, json={"content": "x"}) == (404, {"message": "Unknown Webhook", "code": 10015})
    assert await place.call("POST", callback[:-12] + "x/callback", json=late) == UNKNOWN_INTERACTION


async def test_a_deferred_answer_and_fifteen_minutes(place: Place, clock: Clocked) -> None:
    number, callback = _used(place, "relay link", account="@ada:example.org")
    assert await place.call("POST", callback, json={"type": 5, "data": {"flags": 64}}) == (204, None)
    again = (400, {"message": "Interaction has already been acknowledged.", "code": 40060})
    assert await place.call("POST", callback, json={"type": 4, "data": {"content": "twice"}}) == again
    seen = place.control.interaction(number)
    assert (seen["state"], seen["messages"][0]["private"], seen["messages"][0]["flags"]) == ("thinking", True, 192)
    clock.now += 600
    edited = f"{_webhook(place, callback)}/messages/@original"
    status, message = await place.call("PATCH", edited, json={"content": "done"})
    assert (status, message["content"], message["flags"]) == (200, "done", 64)
    assert place.control.interaction(number)["state"] == "answered"
    clock.now += 301
    expired = (401, {"message": "Invalid Webhook Token", "code": 50027})
    assert await place.call("PATCH", edited, json={"content": "too late"}) == expired


async def test_a_follow_up_takes_the_place_of_a_deferred_answer(place: Place) -> None:
    number, callback = _used(place)
    await place.call("POST", callback, json={"type": 5, "data": {"flags": 64}})
    await place.call("POST", _webhook(place, callback), json={"content": "first"})
    await place.call("POST", _webhook(place, callback), json={"content": "second", "flags": 64})
    seen = place.control.interaction(number)
    assert [(one["content"], one["private"]) for one in seen["messages"]] == [("first", True), ("second", True)]


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({"type": 4}, {"message": "Cannot send an empty message", "code": 50006}),
        ({"type": 6}, form_error("type", "BASE_TYPE_CHOICES", "Value must be one of (4, 5).")),
        (
            {"type": 4, "data": {"content": "x" * 2001}},
            form_error("data.content", "BASE_TYPE_MAX_LENGTH", "Must be 2000 or fewer in length."),
        ),
    ],
)
async def test_answers_that_are_refused_can_be_given_again(
    place: Place, body: dict[str, Any], refused: dict[str, Any]
) -> None:
    _, callback = _used(place)
    assert await place.call("POST", callback, json=body) == (400, refused)
    assert await place.call("POST", callback, json={"type": 4, "data": {"content": "x"}}) == (204, None)


async def test_a_command_that_the_bot_has_no_longer(place: Place) -> None:
    data = {"id": "1", "name": "old", "options": []}
    seen = place.control.use_unknown_command(place.channel, place.ada, place.bot, data)
    assert (seen["command"], seen["state"]) == ("old", "waiting")


async def test_answers_do_not_count_towards_the_global_limit() -> None:
    async with SandboxServer(limits=Limits(global_per_second=2)) as sandbox:
        made = sandbox.control.bootstrap()
        async with raw(sandbox, made["token"]) as call:
            found = Place(sandbox, call, made)
            assert (await call("PUT", f"/applications/{found.bot}/commands", json=[RELAY]))[0] == 200
            statuses = []
            for _ in range(4):
                _, callback = _used(found)
                statuses.append((await call("POST", callback, json={"type": 5}))[0])
                statuses.append((await call("POST", _webhook(found, callback), json={"content": "x"}))[0])
            assert statuses == [204, 200] * 4


# --- With discord.py --------------------------------------------------------------------------------------


@pytest.fixture
async def real() -> AsyncIterator[Place]:
    async with SandboxServer(limits=Limits(identify_every=0.0)) as sandbox:
        made = sandbox.control.bootstrap()
        async with raw(sandbox, made["token"]) as call:
            yield Place(sandbox, call, made)


async def test_discordpy_registers_and_answers(real: Place) -> None:
    token = real.sandbox.state.applications[int(real.bot)].token
    async with running(real.sandbox, token, discord.Intents.none()) as bot, _client(real) as people:
        tree = _tree(bot)
        (synced,) = await tree.sync()
        assert (synced.name, [option.name for option in synced.options]) == ("relay", ["link", "slow"])
        linked = await people.use_command(real.channel, real.ada, "relay link", {"account": "@ada:example.org"})
        slow = await people.use_command(real.channel, real.ada, "relay slow")
    assert [(one["content"], one["private"]) for one in linked["messages"]] == [("Ada: @ada:example.org", True)]
    assert [(one["content"], one["private"]) for one in slow["messages"]] == [("done", True), ("and more", True)]


def _client(place: Place) -> SandboxClient:
    return SandboxClient(place.sandbox.origin)


def _tree(bot: Bot) -> "app_commands.CommandTree[Bot]":
    tree: app_commands.CommandTree[Bot] = app_commands.CommandTree(bot)
    group = app_commands.Group(name="relay", description="Talk to the relay.")

    @group.command(name="link", description="Link an account.")
    async def link(interaction: discord.Interaction, account: str) -> None:
        assert interaction.guild_id is not None
        assert interaction.permissions.send_messages
        await interaction.response.send_message(f"{interaction.user.display_name}: {account}", ephemeral=True)

    @group.command(name="slow", description="Think first.")
    async def slow(interaction: discord.Interaction) -> None:
        await interaction.response.defer(ephemeral=True)
        await interaction.edit_original_response(content="done")
        await interaction.followup.send("and more", ephemeral=True)

    tree.add_command(group)
    return tree


async def test_who_leaves_is_told_of_only_with_the_members_intent(real: Place) -> None:
    token = real.sandbox.state.applications[int(real.bot)].token
    heard = {}
    for members in (False, True):
        intents = discord.Intents.default()
        intents.members = members
        async with running(real.sandbox, token, intents) as bot:
            person = real.control.create_person("eve", "Eve")["id"]
            real.control.join(real.guild, person)
            real.control.rename(person, real.guild, nick="Evie")
            real.control.kick(real.guild, person)
            real.control.say(real.channel, real.ada, "now")
            await bot.next("message")
            heard[members] = bot.count("raw_member_remove"), bot.count("member_update") > 0
    assert heard == {False: (0, False), True: (1, True)}


async def test_a_bot_that_is_not_there_does_not_respond(real: Place) -> None:
    path = f"/applications/{real.bot}/commands"
    assert (await real.call("PUT", path, json=[RELAY]))[0] == 200
    async with _client(real) as people:
        seen = await asyncio.wait_for(people.use_command(real.channel, real.ada, "relay help"), PATIENCE)
    assert (seen["state"], seen["messages"]) == ("failed", [])
