"""`relay check`: each kind of mistake is made, its line names it, and what the line says mends it."""

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from relay.adapters.discord.permissions import INVITED, Permission
from relay.config.loading import load
from relay.core.findings import Finding, State
from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.doctor import Doctor
from relay.sandbox.rate_limits import Limits
from tests.support.stack import FullStack, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

Act = Callable[[FullStack, str], Any]
MEGOLM = {"algorithm": "m.megolm.v1.aes-sha2"}
ABSENT = "1234567890123456789"


async def look(place: FullStack) -> list[Finding]:
    """What the doctor finds, but for how many messages the account may send."""
    config = place.daemon.config
    config.chmod(0o600)
    doctor = Doctor(settings=load(config, {}), config=config, measures=False)
    return [finding async for finding in doctor.run()]


def wanting(found: list[Finding]) -> list[str]:
    return [f"{one.state}: {one}" for one in found if one.state != "ok"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A mistake in a pair: how it is made, what is said about it, and how that is followed."""

    make: Act
    words: tuple[str, ...]
    mend: Act
    state: State = "wrong"


async def do(act: Act, place: FullStack, pair: str) -> None:
    done = act(place, pair)
    if inspect.isawaitable(done):
        await done


# --- Channels ---------------------------------------------------------------------------------------------


def declare_channel(place: FullStack, pair: str, channel: str) -> None:
    place.channels[pair] = channel


def new_channel(place: FullStack, pair: str, kind: int = 0) -> str:
    return str(place.control.create_channel(place.guild, pair, type=kind)["id"])


def without(*permissions: Permission) -> Act:
    """The channel denies the bot these permissions; a role of Discord's is named as the documentation names it."""
    names = [one.name.upper().replace(" ", "_") for one in permissions]
    return lambda place, pair: place.control.set_channel_permissions(place.channels[pair], place.bot, deny=names)


def all_permissions(place: FullStack, pair: str) -> None:
    place.control.set_channel_permissions(place.channels[pair], place.bot)


def fill_webhooks(place: FullStack, pair: str) -> None:
    for number in range(15):
        place.control.create_webhook(place.channels[pair], f"feed {number}", place.people["Ada"])


def free_webhook(place: FullStack, pair: str) -> None:
    place.control.delete_webhook(place.control.webhooks(place.channels[pair])[0]["id"])


def right_channel(place: FullStack, pair: str) -> None:
    declare_channel(place, pair, new_channel(place, pair))


def role_id(place: FullStack) -> str:
    return str(place.control.create_role(place.guild, "Helpers")["id"])


def lacks(permission: Permission) -> Kind:
    """Only what is missing is named."""
    blocks = permission.name in {"View Channel", "Read Message History"}
    state: State = "wrong" if blocks else "note"
    words = f"give its role {permission.name}" if blocks else f"without {permission.name}, {permission.without}"
    return Kind(without(permission), (words,), all_permissions, state)


CHANNELS = {
    **{f"without {needed.name}": lacks(needed) for needed in INVITED},
    "nothing may be posted": Kind(
        lambda place, pair: place.control.set_channel_permissions(
            place.channels[pair], place.bot, deny=["SEND_MESSAGES", "MANAGE_WEBHOOKS"]
        ),
        ("may not write in", "give its role Manage Webhooks and Send Messages there"),
        all_permissions,
    ),
    "15 webhooks": Kind(fill_webhooks, ("all 15 webhooks", "delete one", "Integrations"), free_webhook, "note"),
    "another bridge's webhook": Kind(
        lambda place, pair: place.control.create_webhook(place.channels[pair], "Matrix bridge", place.people["Ada"]),
        ("another bridge may be at work", "turn it off"),
        free_webhook,
        "note",
    ),
    "no such channel": Kind(
        lambda place, pair: declare_channel(place, pair, ABSENT),
        ("there is no such channel", "correct discord_channel", "permissions=275414887488&client_id="),
        right_channel,
    ),
    "the server's ID": Kind(
        lambda place, pair: declare_channel(place, pair, place.guild),
        ("it is the ID of the server Sandbox", "Copy Channel ID"),
        right_channel,
    ),
    "a role's ID": Kind(
        lambda place, pair: declare_channel(place, pair, role_id(place)),
        ("it is the ID of the role Helpers", "Copy Channel ID"),
        right_channel,
    ),
    "the bot's ID": Kind(
        lambda place, pair: declare_channel(place, pair, place.bot),
        ("it is the ID of the bot itself", "Copy Channel ID"),
        right_channel,
    ),
    "a category": Kind(
        lambda place, pair: declare_channel(place, pair, new_channel(place, pair, 4)),
        ("is a category, which cannot be mirrored", "name a text channel"),
        right_channel,
    ),
    "a forum": Kind(
        lambda place, pair: declare_channel(place, pair, new_channel(place, pair, 15)),
        ("is a forum, which cannot be mirrored", "one of its posts"),
        right_channel,
    ),
}


# --- Rooms ------------------------------------------------------------------------------------------------


async def new_room(place: FullStack, pair: str, **options: Any) -> None:
    place.rooms[pair] = await place.mia.create_room(pair, **options)


async def joined(place: FullStack, pair: str, **options: Any) -> str:
    """A private room, with the relay in it."""
    await new_room(place, pair, public=False, invite=[place.relay_user], **options)
    async with Person(place.homeserver.url, place.relay_user, place.relay_token) as relay:
        await relay.join(place.rooms[pair])
    return place.rooms[pair]


def state(kind: str, content: dict[str, Any], key: str = "") -> Act:
    """The relay is in the room, and then a piece of the room's state changes."""

    async def act(place: FullStack, pair: str) -> None:
        await place.mia.set_state(await joined(place, pair), kind, content, key)

    return act


def change_state(kind: str, content: dict[str, Any], key: str = "") -> Act:
    return lambda place, pair: place.mia.set_state(place.rooms[pair], kind, content, key)


def power(**changes: Any) -> Act:
    async def act(place: FullStack, pair: str) -> None:
        await place.mia.set_power(await joined(place, pair), **changes)

    return act


def change_power(**changes: Any) -> Act:
    return lambda place, pair: place.mia.set_power(place.rooms[pair], **changes)


def name_room(place: FullStack, pair: str, room: str) -> None:
    place.rooms[pair] = room


async def invite(place: FullStack, pair: str) -> None:
    await place.mia.invite(place.rooms[pair], place.relay_user)


async def ban(place: FullStack, pair: str) -> None:
    await place.mia.ban(await joined(place, pair), place.relay_user)


async def lift_ban(place: FullStack, pair: str) -> None:
    await place.mia.unban(place.rooms[pair], place.relay_user)
    await invite(place, pair)


async def kick(place: FullStack, pair: str) -> None:
    await place.mia.kick(await joined(place, pair), place.relay_user)


async def upgrade(place: FullStack, pair: str) -> None:
    old = await joined(place, pair)
    body = {"body": "moved", "replacement_room": await place.mia.create_room("new")}
    await place.mia.set_state(old, "m.room.tombstone", body)


async def moderate(place: FullStack, pair: str) -> None:
    await joined(place, pair)
    place.pair_settings[pair] = "moderation.deletions = true"


async def broadcast(place: FullStack, pair: str) -> None:
    await joined(place, pair)
    place.pair_settings[pair] = "allow_broadcast = true"


BRIDGE = {"protocol": {"id": "discord", "displayname": "Discord"}, "channel": {"id": "1", "displayname": "#general"}}
ROOMS = {
    "an alias without a room": Kind(
        lambda place, pair: name_room(place, pair, f"#typo-{place.bot}:localhost"),
        ("No room has the alias", "correct matrix_room"),
        new_room,
    ),
    "no such room": Kind(
        lambda place, pair: name_room(place, pair, "!nowhere:localhost"),
        ("cannot be found", "correct matrix_room"),
        new_room,
    ),
    "not invited": Kind(lambda place, pair: new_room(place, pair, public=False), ("invite",), invite),
    "banned": Kind(ban, ("has been banned from", "lift the ban and invite it"), lift_ban),
    "kicked": Kind(kick, ("has been removed from", "invite it again"), invite),
    "encrypted": Kind(
        state("m.room.encryption", MEGOLM),
        ("is encrypted", "cannot be switched off again", "make another room"),
        joined,
    ),
    "not enough power": Kind(
        power(events_default=10), ("may not write in", "give it the power level 10"), change_power(users_default=10)
    ),
    "no power to redact": Kind(
        moderate, ("may not remove what people wrote", "power level 50"), change_power(redact=0), "note"
    ),
    "no power for @room": Kind(
        broadcast, ("may not notify the whole room", "power level 50"), change_power(notifications={"room": 0}), "note"
    ),
    "no power to react": Kind(
        power(events={"m.reaction": 20}),
        ("may not mark messages", "power level 20"),
        change_power(events={"m.reaction": 0}),
        "note",
    ),
    "upgraded": Kind(upgrade, ("has been replaced by", "declare the new room"), new_room, "note"),
    "history for members only": Kind(
        state("m.room.history_visibility", {"history_visibility": "joined"}),
        ("only members of then may read it", "Members only"),
        change_state("m.room.history_visibility", {"history_visibility": "shared"}),
        "note",
    ),
    "another bridge": Kind(
        state("m.bridge", BRIDGE, "discord://1"),
        ("another bridge connects it to Discord (#general)", "turn it off"),
        change_state("m.bridge", {}, "discord://1"),
        "note",
    ),
}
PAIRS = CHANNELS | ROOMS


@dataclass(frozen=True, slots=True)
class Examined:
    before: list[Finding]
    after: list[Finding]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(homeserver: Homeserver, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FullStack]:
    """A stack in which the daemon does not run."""
    async with stack(tmp_path_factory.mktemp("check"), homeserver, limits=Limits(factor=0)) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def examined(place: FullStack) -> Examined:
    """All mistakes in pairs are made, looked at, mended and looked at again: each has a pair of its own."""
    for pair in PAIRS:
        right_channel(place, pair)
        name_room(place, pair, f"!none-{pair.replace(' ', '-')}:localhost")
        await do(PAIRS[pair].make, place, pair)
    place.write_config()
    before = await look(place)
    for pair, kind in PAIRS.items():
        await do(kind.mend, place, pair)
    place.write_config()
    after = await look(place)
    for pair in PAIRS:
        place.channels.pop(pair)
    return Examined(before, after)


@pytest.mark.parametrize("kind", PAIRS)
async def test_a_mistake_in_a_pair(examined: Examined, kind: str) -> None:
    expected = PAIRS[kind]
    before, after = (
        [one for one in found if one.pair == kind and (kind in ROOMS or not one.subject.startswith("!"))]
        for found in (examined.before, examined.after)
    )
    (told,) = [one for one in before if one.state != "ok"]
    assert told.state == expected.state, told
    assert all(word in str(told) for word in expected.words), told
    assert told.remedy
    others = {needed.name for needed in INVITED} - {kind.removeprefix("without ")}
    if kind.startswith("without "):
        assert not any(name in str(told) for name in others if name not in kind), told
    assert after
    assert wanting(after) == []


# --- The accounts -----------------------------------------------------------------------------------------


def rewrite(place: FullStack, old: str, new: str) -> None:
    """Change the configuration as with an editor."""
    text = place.daemon.config.read_text()
    assert old in text
    place.daemon.config.write_text(text.replace(old, new))


async def told(place: FullStack, *words: str, state: State = "wrong") -> None:
    found = await look(place)
    (one,) = [finding for finding in found if finding.state != "ok"]
    assert one.state == state, str(one)
    assert all(word in str(one) for word in words), str(one)
    assert one.remedy


async def all_is_well(place: FullStack) -> None:
    place.write_config()
    assert wanting(await look(place)) == []


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (
            "MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.no-longer-valid",
            ("Discord refused", "Reset Token", "[discord] token"),
        ),
        ("x" * 32, ("it looks like the application's client secret", "Reset Token")),
        ("0" * 64, ("it looks like the application's public key", "Reset Token")),
        ("123456789012345678", ("it looks like the application's ID", "Reset Token")),
    ],
)
async def test_a_token_that_discord_refuses(place: FullStack, token: str, words: tuple[str, ...]) -> None:
    place.write_config()
    rewrite(place, place.bot_token, token)
    await told(place, *words)
    await all_is_well(place)


async def test_an_intent_that_is_off(place: FullStack) -> None:
    place.write_config()
    place.control.set_intents(place.bot, message_content=False)
    await told(place, "Message Content Intent", "turn it on", f"applications/{place.bot}/bot")
    place.control.set_intents(place.bot, message_content=True, members=False)
    rewrite(place, "[discord]", "[discord]\nmembers_intent = true")
    await told(place, "Server Members Intent", "turn it on")
    place.control.set_intents(place.bot, members=True)
    assert wanting(await look(place)) == []


async def test_a_bot_that_may_not_write_or_was_never_invited(place: FullStack) -> None:
    place.write_config()
    place.control.time_out(place.guild, place.bot)
    assert any("timed out there" in line and "remove its time-out" in line for line in wanting(await look(place)))
    place.control.time_out(place.guild, place.bot, 0)
    assert wanting(await look(place)) == []
    place.control.kick(place.guild, place.bot)
    lines = wanting(await look(place))
    assert any("the bot is in no server; invite it: https://discord.com/oauth2/" in line for line in lines), lines
    place.control.invite(place.bot, place.guild)
    await all_is_well(place)


@asynccontextmanager
async def website(well_known: str | None) -> AsyncIterator[str]:
    """A website that is no homeserver, and may say where the homeserver is."""

    async def answer(request: web.Request) -> web.Response:
        if well_known is not None and request.path == "/.well-known/matrix/client":
            return web.json_response({"m.homeserver": {"base_url": well_known}})
        return web.Response(text="<h1>Welcome</h1>", content_type="text/html", status=404)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_website_for_the_homeserver(place: FullStack) -> None:
    url = place.homeserver.url
    async with website(f"{url}/") as named, website(None) as other:
        place.write_config(homeserver_url=named)
        await told(place, f"{named} is a website", f'write homeserver_url = "{url}"')
        place.write_config(homeserver_url=other)
        await told(place, f"{other} is a website", "correct [matrix] homeserver_url")
    await all_is_well(place)


async def test_another_scheme_and_nobody_there(place: FullStack) -> None:
    url = place.homeserver.url
    place.write_config(homeserver_url=url.replace("http:", "https:"))
    await told(place, "answers without TLS there", f'write homeserver_url = "{url}"')
    place.write_config(homeserver_url="http://127.0.0.1:9")
    await told(place, "nothing answers at http://127.0.0.1:9", "correct [matrix] homeserver_url")
    place.write_config(homeserver_url="http://homeserver.invalid")
    await told(place, "there is no server called homeserver.invalid", "correct [matrix] homeserver_url")
    await all_is_well(place)


async def test_an_account_that_the_homeserver_refuses(place: FullStack) -> None:
    place.write_config()
    rewrite(place, place.relay_token, "syt_wrong")
    await told(place, "refuses [matrix] access_token", "`relay login`")
    place.write_config()
    rewrite(place, f'"{place.relay_user}"', '"@someone-else:localhost"')
    await told(place, f"belongs to {place.relay_user}", "correct [matrix] user_id")
    place.write_config()
    rewrite(place, f'access_token = "{place.relay_token}"', 'password = "wrong"')
    await told(place, "refuses the password", "correct [matrix] user_id and password")
    await all_is_well(place)


# --- This machine -----------------------------------------------------------------------------------------


async def test_what_is_wrong_on_this_machine(place: FullStack, tmp_path: Path) -> None:
    config = place.daemon.config
    place.write_config(pairs=[])
    await told(place, "no pairs are declared", "`relay pairs add`")
    store = str(place.folder / "relay.db")
    place.write_config()
    rewrite(place, store, str(tmp_path / "none" / "relay.db"))
    await told(place, f"there is no folder {tmp_path / 'none'}", "create it")
    place.write_config()
    rewrite(place, store, str(tmp_path / "text.db"))
    (tmp_path / "text.db").write_bytes(b"not a database, but somebody's" * 200)
    await told(place, "it is not a store", "[store] url")
    busy = place.sandbox.api_url.split("/")[2]
    place.write_config()
    rewrite(place, "127.0.0.1:0", busy)
    await told(place, f"another program listens on {busy}", "choose another address")
    place.write_config(extra='public_url = "http://192.168.1.2"')
    await told(place, "nobody outside this network", "the world can open", state="note")
    place.write_config()
    found = Doctor(settings=load(config, {}), config=config, measures=False)
    config.chmod(0o644)
    lines = wanting([finding async for finding in found.run()])
    assert lines == [f"note: {config}: it holds secrets, and everybody on this machine may read it; chmod 600 {config}"]
    await all_is_well(place)


async def test_the_command(place: FullStack) -> None:
    place.write_config()
    place.daemon.config.chmod(0o600)
    status, output = await place.daemon.relay("check")
    assert status == 0, output
    assert "✓ #help on Sandbox: text channel" in output
    assert "messages in a row were taken" in output
    assert output.endswith("All is well.\n")
    place.control.set_channel_permissions(place.channels["help"], place.bot, deny=["VIEW_CHANNEL"])
    status, output = await place.daemon.relay("check", "--json", "--pair", "help")
    assert status == 1
    assert '"remedy": "give its role View Channel there"' in output
    assert place.bot_token not in output
    place.control.set_channel_permissions(place.channels["help"], place.bot)
