"""What the accounts can see, as `relay init` offers it."""

import asyncio
import os
import ssl
import sys
from asyncio.subprocess import PIPE
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from relay.adapters.discord.permissions import INVITED, invite_link
from relay.adapters.discord.survey import DiscordSurvey
from relay.adapters.matrix.api.address import correction, discovery_finding
from relay.adapters.matrix.api.session import log_in
from relay.adapters.matrix.survey import MatrixSurvey
from relay.config.mistakes import validated
from relay.config.settings import MatrixSettings
from relay.core.operations.findings import Finding
from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.doctor import clock_finding
from relay.domain.ids import ChannelAddress, Platform
from relay.domain.pair import Pair
from tests.support.discord import discord_settings
from tests.support.matrix import SavedState, numbers, person
from tests.support.mistakes import altered, redirecting, website
from tests.support.sandbox import Place
from tests.support.world import WrongClock

pytestmark = pytest.mark.slow

CHANNEL = ChannelAddress(Platform.DISCORD, "1234567890123456789")


def test_the_invite_link_is_the_one_of_the_readme() -> None:
    assert invite_link("1").endswith("permissions=275414887488&client_id=1")
    assert len({needed.bit for needed in INVITED}) == 8


async def test_a_bot_sees_its_channels_and_what_is_wrong_with_them(place: Place) -> None:
    control, guild, bot = place.control, place.guild, place.bot
    hidden, posts = control.create_channel(guild, "hidden"), control.create_channel(guild, "posts", type=15)
    control.create_channel(guild, "Section", type=4)
    control.set_channel_permissions(hidden["id"], bot, deny=["VIEW_CHANNEL"])
    survey = DiscordSurvey(settings=discord_settings(place.token, place.sandbox.api_url))
    try:
        found = {channel.name: channel for channel in await survey.channels()}
    finally:
        await survey.close()
    assert "#Section" not in found
    general = found["#general"]
    assert (general.address, general.place, general.kind, general.problem) == (
        place.channel,
        "Sandbox",
        "text channel",
        None,
    )
    assert "#hidden" not in found, "Discord does not list it"
    assert "forum, which cannot be mirrored" in (found["#posts"].problem or "")
    assert posts["id"] == found["#posts"].address


async def test_json_that_is_not_discords_is_told(place: Place) -> None:
    async with altered(place.sandbox.origin, {"/api/v10/users/@me": {"hello": "world"}}) as origin:
        survey = DiscordSurvey(settings=discord_settings(place.token, f"{origin}/api/v10"))
        try:
            (found,) = await survey.account()
        finally:
            await survey.close()
    assert (found.state, found.words) == ("wrong", f"what answers at {origin}/api/v10 is not Discord's API")


async def test_an_account_sees_its_rooms_and_what_is_wrong_with_them(homeserver: Homeserver) -> None:
    number = next(numbers)
    me = f"@seer{number}:{homeserver.server_name}"
    token = await homeserver.register(f"seer{number}")
    async with person(homeserver, f"host{number}") as host, Person(homeserver.url, me, token) as seer:
        aliased = await host.create_room("Help", alias=f"help{number}")
        secret = await host.create_room("Secret", invite=[me])
        invited = await host.create_room("Waiting", invite=[me])
        for room in (aliased, secret):
            await seer.join(room)
        await host.set_state(secret, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
        saved = SavedState()
        settings = validated(MatrixSettings, {"homeserver_url": homeserver.url, "user_id": me, "access_token": token})
        survey = MatrixSurvey(settings=settings, load=saved.load, save=saved.save)
        try:
            found = {room.name: room for room in await survey.channels()}
        finally:
            await survey.close()
    assert list(found) == ["Help", "Secret", "Waiting"]
    assert found["Help"].address == f"#help{number}:{homeserver.server_name}"
    assert aliased in found["Help"].also
    assert found["Help"].problem is None
    assert "Encryption cannot be switched off again" in (found["Secret"].problem or "")
    assert (found["Waiting"].address, found["Waiting"].kind) == (invited, "room, invited")


async def test_a_room_that_was_replaced_is_looked_at_where_the_relay_goes_on(homeserver: Homeserver) -> None:
    """It said that the daemon would follow if it was let in, while it had; and nothing of the new room."""
    number = next(numbers)
    me = f"@seer{number}:{homeserver.server_name}"
    token = await homeserver.register(f"seer{number}")
    settings = validated(MatrixSettings, {"homeserver_url": homeserver.url, "user_id": me, "access_token": token})
    async with person(homeserver, f"host{number}") as host, Person(homeserver.url, me, token) as seer:
        old = await host.create_room("Help")
        await seer.join(old)
        made = await host.call("POST", f"client/v3/rooms/{old}/upgrade", {"new_version": "12"})
        new, other = str(made["replacement_room"]), await host.create_room("Other")
        await seer.join(other)
        help_pair = Pair("help", (CHANNEL, ChannelAddress(Platform.MATRIX, old)), frozenset(Platform))

        async def told() -> list[tuple[str, str]]:
            survey = MatrixSurvey(settings=settings, load=SavedState().load, save=None)
            try:
                return [(one.state, str(one)) async for one in survey.pairs([help_pair])]
            finally:
                await survey.close()

        ((state, words),) = await told()
        assert (state, f"replaced by {new}, which the relay follows if {me} is let in" in words) == ("note", True)
        await seer.join(new)
        (state, words), (now, there) = await told()
        assert (state, f"replaced by {new}, and the relay goes on there" in words) == ("note", True)
        assert (now, there.startswith(f"Help ({new}): joined")) == ("ok", True)
        # Nothing crosses into one in which the account is not wanted: nothing was wrong with that.
        await host.set_state(new, "m.room.join_rules", {"join_rule": "invite"})
        await seer.leave(new)
        _, (state, words) = await told()
        assert (state, f"({new})" in words, "invite it again" in words) == ("wrong", True, True), words
        await host.invite(new, me)
        await seer.join(new)
        await host.set_state(new, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
        assert [state for state, _ in await told()] == ["note", "wrong"]
        # A room that says nothing of the old one is not followed, and not looked at.
        await host.set_state(old, "m.room.tombstone", {"replacement_room": other})
        assert [state for state, _ in await told()] == ["note"]


async def test_an_account_that_a_person_uses_too(homeserver: Homeserver) -> None:
    """Nobody was told that what they write with the relay's own account never crosses."""
    number = next(numbers)
    me, password = f"@both{number}:{homeserver.server_name}", "a long password"
    await homeserver.register(f"both{number}", password=password)
    ours = await log_in(homeserver.url, me, password)
    settings = validated(
        MatrixSettings, {"homeserver_url": homeserver.url, "user_id": me, "access_token": ours.access_token}
    )

    async def told() -> list[str]:
        survey = MatrixSurvey(settings=settings, load=SavedState().load, save=None)
        try:
            found = await survey.account()
            return [str(one) for one in found if one.state != "ok" and "/.well-known/" not in str(one)]
        finally:
            await survey.close()

    found: list[str] = []
    another = await log_in(homeserver.url, me, password)
    for device, name in ((another.device_id, "relay"), (another.device_id, "Element Desktop")):
        async with Person(homeserver.url, me, another.access_token) as person:
            await person.call("PUT", f"client/v3/devices/{device}", {"display_name": name})
            found = await told()
            assert bool(found) is (name != "relay"), found
    assert f"{me} is logged in elsewhere, too (Element Desktop): what somebody writes there never crosses" in found[0]
    assert "make an account for the relay alone, or log this one out there" in found[0]


# --- What `relay check` says of addresses and clocks ------------------------------------------------------


async def test_where_a_server_says_that_its_homeserver_is(homeserver: Homeserver) -> None:
    url = homeserver.url

    async def told(site: str, homeserver_url: str) -> Finding:
        return await discovery_finding(homeserver_url, site.removeprefix("http://"), scheme="http")

    # Each mistake, what is said of it, and the same site once that has been followed.
    async with website(None) as site:
        found = await told(site, "https://matrix.example.org")
        assert (found.state, found.words.partition(":")[0]) == ("note", "there is none")
        answer = found.remedy.partition(f"let {site}/.well-known/matrix/client answer ")[2]
    async with website(None, instead=answer) as site:
        found = await told(site, "https://matrix.example.org")
        assert (found.state, found.words) == ("ok", "it names https://matrix.example.org")
    for text in ("<h1>Welcome</h1>", "{}", '{"m.homeserver": {"base_url": "matrix.example.org"}}', "[" * 10_000):
        async with website(None, instead=text) as site:
            found = await told(site, url)
            assert found.state == "note"
            assert "it cannot be read" in found.words
            assert '{"m.homeserver": {"base_url": "https://…"}}' in found.remedy
    async with website(f"{url}/") as site:
        assert (await told(site, url)).state == "ok"
        found = await told(site, "https://other.example.org")
        assert found.words == f"it names {url}, and [matrix] homeserver_url is https://other.example.org"
        assert f'write homeserver_url = "{url}"' in found.remedy
        # From the same machine or network the homeserver has another address.
        assert (await told(site, "http://synapse:8008")).state == "ok"
    async with website("http://127.0.0.1:9") as site:
        found = await told(site, url)
        assert "where no homeserver answers" in found.words
        assert f"correct base_url in {site}/.well-known/matrix/client" in found.remedy
    # A homeserver at the server's own name needs no such file.
    assert (await told(url, url)).state == "ok"


async def test_a_homeserver_is_found_from_the_server_of_an_account(homeserver: Homeserver, tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from relay.setup import find_homeserver as find; print(asyncio.run(find(sys.argv[1])))"
    )
    async with website(f"{homeserver.url}/", tls=self_signed(tmp_path)) as site:
        found = []
        # What aiohttp trusts it knows when it is imported.
        for trusted in ({"SSL_CERT_FILE": str(tmp_path / "certificate.pem")}, {}):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", program, f"@relay:{site.removeprefix('https://')}"),
                stdout=PIPE,
                env=os.environ | trusted,
            )
            found.append((await process.communicate())[0].decode().strip())
    assert found == [homeserver.url, "None"]


async def test_addresses_that_lead_elsewhere(homeserver: Homeserver, tmp_path: Path) -> None:
    async with redirecting(homeserver.url) as site:
        told = await correction(site, "@relay:example.org") or ""
        assert told == f'{site} redirects to {homeserver.url}; write homeserver_url = "{homeserver.url}"'
    assert await correction(homeserver.url, "@relay:example.org") is None
    async with website(None, tls=self_signed(tmp_path)) as site:
        told = await correction(site, "@relay:example.org") or ""
        assert told.startswith(f"the certificate of {site} is not valid (self-signed certificate); correct it"), told


async def test_a_clock_that_is_wrong_shows_on_either_side(place: Place, homeserver: Homeserver) -> None:
    for off, state in ((timedelta(hours=-2), "wrong"), (timedelta(), "ok")):
        clock = WrongClock(off)
        discord = DiscordSurvey(settings=discord_settings(place.token, place.sandbox.api_url), clock=clock)
        sought = {"homeserver_url": homeserver.url, "user_id": "@none:localhost", "access_token": "x"}
        matrix = MatrixSurvey(settings=validated(MatrixSettings, sought), load=_nothing, save=None, clock=clock)
        try:
            await discord.account()
            await matrix.account()
        finally:
            await discord.close()
            await matrix.close()
        for skew in (discord.clock_skew, matrix.clock_skew):
            assert skew is not None
            assert clock_finding("theirs", skew).state == state


async def _nothing() -> None:
    return None


def self_signed(folder: Path) -> ssl.SSLContext:
    """A certificate that nobody has signed."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    made = builder.add_extension(address, critical=False).sign(key, SHA256())
    file = folder / "certificate.pem"
    file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context
