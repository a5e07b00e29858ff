"""discord.py gets the fields that it requires."""

import copy
from types import SimpleNamespace
from typing import Any, cast

import discord

from relay.adapters.discord.gateway.connection import intents
from relay.adapters.discord.gateway.defaults import fill_in_defaults


def test_a_guild_of_few_words_gets_roles_and_ourselves() -> None:
    guild: dict[str, Any] = {"id": "1", "channels": [{"id": "2", "type": 0}, None], "threads": None}
    fill_in_defaults("GUILD_CREATE", guild, "9")
    assert [(channel["id"], channel["position"]) for channel in guild["channels"]] == [("2", 0)]
    assert [role["id"] for role in guild["roles"]] == ["1"]
    assert [member["user"]["id"] for member in guild["members"]] == ["9"]
    assert guild["threads"] == []


def test_emoji_that_are_none_are_left_out() -> None:
    emoji = {"id": "7", "name": "party"}
    for event in ("GUILD_CREATE", "GUILD_EMOJIS_UPDATE"):
        data: dict[str, Any] = {"id": "1", "emojis": [None, {"id": None, "name": "🎉"}, {"id": "8"}, emoji]}
        fill_in_defaults(event, data, "9")
        assert data["emojis"] == [emoji]
    nothing: dict[str, Any] = {"id": "1", "emojis": None, "stickers": [{"id": "3"}]}
    fill_in_defaults("GUILD_CREATE", nothing, "9")
    assert (nothing["emojis"], "stickers" in nothing) == ([], False)


def test_what_is_said_stays_as_it_is() -> None:
    said: dict[str, Any] = {
        "id": "1",
        "roles": [{"id": "1", "name": "@everyone", "permissions": "0"}],
        "channels": [{"id": "2", "type": 2, "name": "talk", "position": 5, "bitrate": 8000, "user_limit": 3}],
        "threads": [],
        "emojis": [{"id": "7", "name": "party", "roles": ["1"], "animated": True}],
        "members": [
            {
                "roles": ["1"],
                "flags": 1,
                "user": {"id": "9", "username": "relay", "discriminator": "0001", "avatar": "a"},
            }
        ],
    }
    data = copy.deepcopy(said)
    fill_in_defaults("GUILD_CREATE", data, "9")
    assert data == said


def test_what_nobody_needs_costs_no_guild() -> None:
    odd: dict[str, Any] = {
        "voice_states": [{"channel_id": None, "user_id": "5"}],
        "presences": [None],
        "stage_instances": [{"id": "5"}],
        "guild_scheduled_events": [{"id": "5", "status": None}],
        "soundboard_sounds": [{}],
        "stickers": [None],
    }
    channel = {"id": "2", "type": 0, "permission_overwrites": None}
    data: dict[str, Any] = {"id": "1", "channels": [channel]} | odd
    fill_in_defaults("GUILD_CREATE", data, "9")
    client = discord.Client(intents=intents())
    client._connection.user = cast(discord.ClientUser, SimpleNamespace(id=9))
    guild = client._connection._add_guild_from_data(cast(Any, data))
    assert [channel.id for channel in guild.channels] == [2]


def test_a_guild_that_has_an_outage_is_left_alone() -> None:
    data = {"id": "1", "unavailable": True}
    fill_in_defaults("GUILD_CREATE", data, "9")
    assert data == {"id": "1", "unavailable": True}
