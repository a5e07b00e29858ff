"""What discord.py's picture of a server says about names."""

from types import SimpleNamespace
from typing import Any, cast

import discord
import pytest

from relay.adapters.discord.gateway.connection import intents
from relay.adapters.discord.gateway.guild_cache import GuildCache
from relay.adapters.discord.identifiers import Shard, shard_of
from relay.core.clock import SystemClock
from relay.errors import Transient

GUILD, ME, HERE, STAFF = "1032000000000000001", "1032000000000000900", "100", "200"
PLAIN = {"hoist": False, "managed": False, "mentionable": False, "position": 1, "colors": {"primary_color": 0}}


def guilds() -> GuildCache:
    client = discord.Client(intents=intents())
    client._connection.user = cast(discord.ClientUser, SimpleNamespace(id=int(ME)))
    hidden = [{"id": GUILD, "type": 0, "allow": "0", "deny": "1024"}]
    bot = {"id": ME, "username": "bridge", "discriminator": "0", "global_name": "The Bridge", "avatar": None}
    data = {
        "id": GUILD,
        "name": "The Guild",
        "owner_id": "1",
        "roles": [{"id": GUILD, "name": "@everyone", "permissions": "1024"} | PLAIN],
        "channels": [
            {"id": HERE, "name": "here", "type": 0, "position": 0, "permission_overwrites": []},
            {"id": STAFF, "name": "staff", "type": 0, "position": 1, "permission_overwrites": hidden},
        ],
        "members": [{"user": bot, "nick": "Hermes", "roles": [], "flags": 0}],
    }
    client._connection._add_guild_from_data(cast(Any, data))
    made = GuildCache(SystemClock())
    made.session_started(client, Shard())
    return made


def thread(number: str, parent: str, kind: int = 11) -> dict[str, Any]:
    return {"id": number, "parent_id": parent, "type": kind, "guild_id": GUILD, "name": number}


def test_the_bot_speaks_under_each_of_its_names() -> None:
    assert guilds().own_names(HERE) == {"Hermes", "The Bridge", "bridge"}
    assert guilds().own_names("999") == frozenset()


def test_a_link_is_the_same_in_each_session_and_none_is_made_up() -> None:
    """A copy that was posted is found again by its words, and what it quotes is linked to in them."""
    known = GuildCache(SystemClock())
    with pytest.raises(Transient):
        known.link(HERE, HERE, "7")
    known = guilds()
    wanted = f"https://discord.com/channels/{GUILD}/{HERE}/7"
    assert known.link(HERE, HERE, "7") == wanted
    assert known.link("999", "999", "7") == "", "all servers have been told of"
    known.session_started(discord.Client(intents=intents()), Shard())
    known.update("READY", {"guilds": [{"id": GUILD}]})
    assert known.guild_of(HERE) is None
    assert known.link(HERE, HERE, "7") == wanted
    with pytest.raises(Transient):
        known.link("999", "999", "7")


def test_a_server_is_missing_only_when_all_shards_have_told_of_theirs() -> None:
    known, number = guilds(), shard_of(GUILD, 2)
    client = known._sessions[0].client
    known.divided(2)
    known.session_started(discord.Client(intents=intents()), Shard(1 - number, 2))
    assert known.guild_of(HERE) is None
    with pytest.raises(Transient):
        known.told_of(HERE)
    known.session_started(client, Shard(number, 2))
    known.update("READY", {"guilds": [{"id": GUILD}]})
    assert known.guild_of(HERE) == GUILD
    assert not known.have_arrived()
    known.update("GUILD_CREATE", {"id": GUILD})
    assert known.have_arrived()
    assert known.told_of("999") is None
    known.session_started(discord.Client(intents=intents()), Shard(1 - number, 2))
    assert known.guild_of(HERE) == GUILD, "the other shard's session goes on"
    assert [known.may_be_in(Shard(one, 2), HERE) for one in (number, 1 - number)] == [True, False]


def test_what_may_be_named_where() -> None:
    known = guilds()
    known.declare(frozenset({"13", "14", "15"}))
    for one in (thread("11", HERE), thread("12", STAFF), thread("13", HERE, 12), thread("14", STAFF)):
        known.update("THREAD_CREATE", one)
    told = {channel: known.may_name(HERE, channel) for channel in (HERE, STAFF, "11", "12", "13", "14", "15", "16")}
    assert told == {
        HERE: True,
        STAFF: False,
        "11": True,
        "12": False,
        "13": False,
        "14": False,
        "15": False,
        "16": None,
    }
    assert [known.may_name(STAFF, channel) for channel in (HERE, STAFF, "12", "13")] == [True, True, True, False]
    # Whoever is in a private thread may view its channel, and is told the thread's own name.
    assert [known.may_name("13", channel) for channel in (HERE, STAFF, "11", "13")] == [True, False, True, True]
    assert [known.may_name("14", channel) for channel in (HERE, STAFF, "12")] == [True, True, True]


def test_what_people_know_a_channel_by() -> None:
    known = guilds()
    here = known.describe(HERE)
    assert here is not None
    assert here.label == "#here on The Guild"
    assert here.link == f"https://discord.com/channels/{GUILD}/{HERE}"
    assert here.public
    staff = known.describe(STAFF)
    assert staff is not None
    assert not staff.public
    assert known.describe("300") is None
