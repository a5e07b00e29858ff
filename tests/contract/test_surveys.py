"""What the accounts can see, as `relay init` offers it."""

import pytest

from relay.adapters.discord.permissions import INVITED, invite_link
from relay.adapters.discord.survey import DiscordSurvey
from relay.adapters.matrix.survey import MatrixSurvey
from relay.config.settings import MatrixSettings
from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from tests.support.discord import discord_settings
from tests.support.matrix import SavedState, numbers, person
from tests.support.sandbox import Place

pytestmark = pytest.mark.slow


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
    assert found["#hidden"].problem == "the bot may not see #hidden: give its role View Channel there"
    assert "forum, which cannot be mirrored" in (found["#posts"].problem or "")
    assert posts["id"] == found["#posts"].address


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
        settings = MatrixSettings.model_validate(
            {"homeserver_url": homeserver.url, "user_id": me, "access_token": token}
        )
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
