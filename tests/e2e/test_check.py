"""`relay check`: each kind of mistake is made, its line names it, and what the line says mends it."""

import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from relay.adapters.discord.permissions import INVITED, MANAGE_WEBHOOKS
from relay.config.loading import load
from relay.core.operations.findings import Finding, State
from relay.demo.homeserver import Homeserver, free_port
from relay.demo.matrix_client import Person
from relay.doctor import Doctor, public_finding
from relay.sandbox.rate_limits import Limits
from tests.support.front import NAME, front
from tests.support.mistakes import CHANNELS, MEGOLM, ROOMS, altered, do, name_room, new_room, right_channel, website
from tests.support.stack import FullStack, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def look(place: FullStack) -> list[Finding]:
    """What the doctor finds, but for how many messages the account may send."""
    config = place.daemon.config
    config.chmod(0o600)
    doctor = Doctor(settings=load(config, {}), config=config, measures=False)
    return [finding async for finding in doctor.run()]


def wanting(found: list[Finding]) -> list[str]:
    return [f"{one.state}: {one}" for one in found if one.state != "ok"]


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


async def test_a_room_that_the_account_is_not_in_is_called_by_its_name(place: FullStack) -> None:
    """It was called by its ID alone, which nobody knows, until the relay had joined it."""
    waiting = await place.mia.create_room("Waiting", public=False, invite=[place.relay_user])
    left = await place.mia.create_room("Left", public=False, invite=[place.relay_user])
    async with Person(place.homeserver.url, place.relay_user, place.relay_token) as relay:
        await relay.join(left)
        await relay.leave(left)
    rooms = {"waiting": waiting, "left": left, "open": await place.mia.create_room("Open")}
    for pair, room in rooms.items():
        right_channel(place, pair)
        name_room(place, pair, room)
    place.write_config()
    try:
        subjects = {one.pair: one.subject for one in await look(place) if not one.subject.startswith("#")}
    finally:
        for pair in rooms:
            place.channels.pop(pair)
        place.write_config()
    assert subjects.items() >= {pair: f"{pair.title()} ({room})" for pair, room in rooms.items()}.items()


async def test_what_is_about_a_server_or_a_list_is_told_once(place: FullStack) -> None:
    """Of sixty pairs each told of the same server and of the same list."""
    for pair in ("one", "two"):
        right_channel(place, pair)
        await new_room(place, pair)
    place.write_config(extra='[defaults]\nmoderation = { bans = true, policy_lists = "#none:localhost" }')
    bans, policy_list = [one for one in await look(place) if one.state != "ok"]
    assert str(bans).startswith("bans of Sandbox: without Ban Members, bans that are made while the relay is away")
    assert str(policy_list) == "policy list #none:localhost: there is no such room; correct moderation.policy_lists"
    role = place.control.create_role(place.guild, "moderators", ["BAN_MEMBERS"])["id"]
    place.control.set_role(place.guild, place.bot, role)
    place.write_config(extra="[defaults]\nmoderation = { bans = true }")
    assert wanting(await look(place)) == []
    for pair in ("one", "two"):
        place.channels.pop(pair)


# --- The accounts -----------------------------------------------------------------------------------------


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
        ("syt_cmVsYXk_x_1", ("it looks like an access token of Matrix", "Reset Token")),
    ],
)
async def test_a_token_that_discord_refuses(place: FullStack, token: str, words: tuple[str, ...]) -> None:
    place.write_config()
    place.daemon.rewrite(place.bot_token, token)
    await told(place, *words)
    await all_is_well(place)


async def test_an_intent_that_is_off(place: FullStack) -> None:
    place.write_config()
    place.control.set_intents(place.bot, message_content=False)
    await told(place, "Message Content Intent", "turn it on", f"applications/{place.bot}/bot")
    place.control.set_intents(place.bot, message_content=True, members=False)
    place.daemon.rewrite("[discord]", "[discord]\nmembers_intent = true")
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
    # Once, and not for each channel.
    await told(place, "the bot is in no server", "invite it: https://discord.com/oauth2/")
    place.control.invite(place.bot, place.guild)
    await all_is_well(place)


async def test_an_address_that_takes_the_commands_away(place: FullStack) -> None:
    path = "/api/v10/applications/@me"
    headers = {"Authorization": f"Bot {place.bot_token}"}
    async with ClientSession(headers=headers) as session, session.get(place.sandbox.origin + path) as answer:
        application = await answer.json() | {"interactions_endpoint_url": "https://example.org/commands"}
    async with altered(place.sandbox.origin, {path: application}) as discord:
        place.write_config()
        place.daemon.rewrite(place.sandbox.origin, discord)
        remedy = f"empty it at https://discord.com/developers/applications/{place.bot}/information"
        await told(place, "Interactions Endpoint URL: it is set", "sends /relay there", remedy, state="note")
    await all_is_well(place)


async def test_a_role_of_the_bot_that_gives_too_little(place: FullStack) -> None:
    place.write_config()
    names = [one.name.upper().replace(" ", "_") for one in INVITED if one is not MANAGE_WEBHOOKS]
    place.control.set_bot_permissions(place.bot, place.guild, names)
    await told(place, "without Manage Webhooks", "give the bot's role Manage Webhooks in #help", state="note")
    place.control.set_bot_permissions(place.bot, place.guild, [*names, "MANAGE_WEBHOOKS"])
    assert wanting(await look(place)) == []


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
    place.daemon.rewrite(place.relay_token, "syt_wrong")
    await told(place, "refuses [matrix] access_token", "`relay login`")
    place.write_config()
    place.daemon.rewrite(f'"{place.relay_user}"', '"@someone-else:localhost"')
    await told(place, f"belongs to {place.relay_user}", "correct [matrix] user_id")
    place.write_config()
    place.daemon.rewrite(f'access_token = "{place.relay_token}"', 'password = "wrong"')
    await told(place, "refuses the password", "correct [matrix] user_id and password")
    await all_is_well(place)


async def test_a_token_without_a_device_and_what_the_homeserver_lacks(place: FullStack) -> None:
    path = f"/_synapse/admin/v1/users/{quote(place.relay_user)}/login"
    token = (await place.homeserver.administer("POST", path))["access_token"]
    place.write_config()
    place.daemon.rewrite(place.relay_token, token)
    await told(place, "belongs to no device", "`relay login`", state="note")
    await all_is_well(place)
    # Each is mended on the homeserver itself.
    url = place.homeserver.url
    async with altered(url, {"/_matrix/client/v1/media/config": {"m.upload.size": 1024**2}}) as small:
        place.write_config(homeserver_url=small)
        await told(place, "it takes files of up to 1 MiB only", "max_upload_size", state="note")
    async with altered(url, {"/_matrix/client/versions": {"versions": ["r0.5.0", "r0.6.1"]}}) as old:
        place.write_config(homeserver_url=old)
        await told(place, "speaks Matrix up to r0.6.1 only", "update it")
    await all_is_well(place)


# --- Where the operators are told -------------------------------------------------------------------------


async def test_where_the_operators_are_told(place: FullStack) -> None:
    channel = str(place.control.create_channel(place.guild, "operators")["id"])
    forum = str(place.control.create_channel(place.guild, "posts", type=15)["id"])
    room = await place.mia.create_room("Operators", public=False)

    def declare(channel: str, room: str) -> None:
        place.write_config(extra=f'[operators]\ndiscord_channel = {channel}\nmatrix_room = "{room}"')

    declare(channel, room)
    await told(place, "[operators] ", room, "cannot be found", f"invite {place.relay_user} into it")
    await place.mia.invite(room, place.relay_user)
    assert wanting(await look(place)) == []
    async with Person(place.homeserver.url, place.relay_user, place.relay_token) as relay:
        await relay.join(room)
    await place.mia.set_power(room, events_default=10)
    await told(place, "[operators] Operators", "may not write in", "give it the power level 10 there")
    await place.mia.set_power(room, events_default=0)
    place.control.set_channel_permissions(channel, place.bot, deny=["SEND_MESSAGES"])
    await told(
        place, "[operators] #operators on ", "may not write in #operators", "allow the bot itself Send Messages there"
    )
    place.control.set_channel_permissions(channel, place.bot)
    assert wanting(await look(place)) == []
    declare(forum, room)
    await told(place, "[operators] #posts on ", "is a forum", "name a text channel")
    declare(place.guild, room)
    await told(place, "[operators] channel ", "it is the ID of the server Sandbox", "Copy Channel ID")
    declare(channel, f"#none-{place.bot}:localhost")
    await told(place, "[operators] #none", "No room has the alias", "correct matrix_room")
    declare(channel, room)
    found = await look(place)
    assert wanting(found) == []
    assert {"[operators] #operators on Sandbox: the bot may write there"} <= {str(one) for one in found}
    await place.mia.set_state(room, "m.room.encryption", MEGOLM)
    await told(place, "[operators] Operators", "is encrypted", "make another room")
    await all_is_well(place)


# --- This machine -----------------------------------------------------------------------------------------


async def test_what_is_wrong_on_this_machine(place: FullStack, tmp_path: Path) -> None:
    config = place.daemon.config
    place.write_config(pairs=[])
    await told(place, "no pairs are declared", "`relay pairs add`")
    store = str(place.folder / "relay.db")
    place.write_config()
    place.daemon.rewrite(store, str(tmp_path / "none" / "relay.db"))
    await told(place, f"there is no folder {tmp_path / 'none'}", "create it")
    place.write_config()
    place.daemon.rewrite(store, str(tmp_path / "text.db"))
    (tmp_path / "text.db").write_bytes(b"not a database, but somebody's" * 200)
    await told(place, "it is not a store", "[store] url")
    busy = place.sandbox.api_url.split("/")[2]
    place.write_config()
    place.daemon.rewrite("127.0.0.1:0", busy)
    await told(place, f"another program listens on {busy}", "choose another address")
    place.write_config(extra='public_url = "http://192.168.1.2"')
    await told(place, "nobody outside this network", "the world can open", state="note")
    place.write_config(extra='public_url = "https://relay.example.org"')
    await told(place, "shows only while the daemon runs", "start the daemon, and check again", state="note")
    place.write_config()
    newer = tmp_path / "newer.db"
    shutil.copy(store, newer)
    with closing(sqlite3.connect(newer)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    place.daemon.rewrite(store, str(newer))
    await told(place, "it was made by a newer relay", "use that version of the relay again")
    place.write_config()
    found = Doctor(settings=load(config, {}), config=config, measures=False)
    config.chmod(0o644)
    lines = wanting([finding async for finding in found.run()])
    assert lines == [f"note: {config}: it holds secrets, and everybody on this machine may read it; chmod 600 {config}"]
    await all_is_well(place)


async def test_a_public_address_that_leads_elsewhere(place: FullStack) -> None:
    place.write_config(extra=f'public_url = "https://{NAME}"')
    await place.daemon.start()
    try:
        listen, port = place.daemon.url.removeprefix("http://"), free_port()
        for url, words in (
            (place.homeserver.url, "something else than the relay answers below it (HTTP 404)"),
            (f"http://127.0.0.1:{port}", "it cannot be reached from here"),
        ):
            found = await public_finding(url, listen)
            assert words in str(found)
            assert found.remedy == f"have the proxy there pass on /media/ to {listen}, with its Host header"
        async with front(place.folder, port, place.daemon.url):
            assert (await public_finding(f"http://127.0.0.1:{port}", listen)).state == "ok"
        # Beside a daemon, which uses the account, it is not measured how much that may send.
        found_beside = await look(place)
        assert any("nothing was refused since the daemon started" in one.words for one in found_beside)
    finally:
        assert await place.daemon.stop() == 0


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
    assert '"remedy": "give its role View Channel there, or the bot itself' in output
    assert place.bot_token not in output
    place.control.set_channel_permissions(place.channels["help"], place.bot)
