"""A bot in so many servers that Discord divides them among several connections."""

import pytest

from relay.adapters.discord.gateway import connection
from relay.core.ports import Delivery
from relay.domain.content import Content
from relay.domain.ids import ChannelRef, PlaceRef, Platform
from relay.domain.text.nodes import RichText
from relay.errors import FatalError
from relay.sandbox.world.dispatch import Shard
from relay.sandbox.world.models import Channel
from tests.support.discord import ALICE, World, until

_TOTAL = 3


def in_each_shard(world: World, total: int = _TOTAL) -> list[Channel]:
    """A channel in a server of each shard; the world's own is one of them."""
    found = {(world.guild.id >> 22) % total: world.channel}
    while len(found) < total:
        number = (world.state.snowflakes.next() >> 22) % total
        if number not in found:
            guild = world.state.add_guild(f"Guild {number}", world.owner)
            if not Shard(number, total).covers(guild.id):
                continue  # a millisecond has passed
            world.state.add_bot(guild, world.app)
            world.state.add_member(guild, world.bob)
            found[number] = world.state.add_channel(guild, f"help-{number}")
    return [found[number] for number in range(total)]


def places(channels: list[Channel]) -> list[PlaceRef]:
    return [PlaceRef(Platform.DISCORD, str(channel.guild_id)) for channel in channels]


def identified(world: World) -> list[list[int]]:
    return [entry["shard"] for entry in world.server.gateway.history if entry["what"] == "identified"]


async def test_what_one_shard_missed_is_read_and_nothing_else(world: World) -> None:
    channels = in_each_shard(world)
    world.server.limits.shards = world.server.limits.max_concurrency = _TOTAL
    async with world.running(*channels) as adapter:
        assert sorted(identified(world)) == [[number, _TOTAL] for number in range(_TOTAL)]
        for number, channel in enumerate(channels):
            world.say(f"one in {number}", channel=channel)
            ref = ChannelRef(Platform.DISCORD, str(channel.id))
            await adapter.send(Delivery(ref, f"k{number}", ALICE, Content(RichText.plain("from us"))))
        await until(lambda: len(world.inbox.said()) == _TOTAL)
        versions = [adapter.bans_version(place) for place in places(channels)]

        world.server.gateway.refuse = 1
        assert world.server.gateway.invalidate(1, resumable=False) == 1
        for number, channel in enumerate(channels):
            world.say(f"two in {number}", channel=channel)
        await until(lambda: adapter.health().detail.startswith("shard 1 of 3: "))
        assert adapter.health().state == "connecting"
        await until(lambda: len(world.inbox.said()) == 2 * _TOTAL)
        await until(lambda: adapter.health().state == "ready")
        assert sorted(world.inbox.said()) == sorted(f"{word} in {n}" for word in ("one", "two") for n in range(_TOTAL))
        assert world.inbox.caught_up == [str(channels[1].id)]
        changed = [adapter.bans_version(place) for place in places(channels)]
        assert [new != old for new, old in zip(changed, versions, strict=True)] == [False, True, False]

        assert world.server.gateway.abort(2) == 1
        for channel in channels:
            world.say("three", channel=channel)
        await until(lambda: world.inbox.said().count("three") == _TOTAL)
        await until(lambda: adapter.health().state == "ready")
        assert world.inbox.caught_up == [str(channels[1].id)], "a session that goes on has missed nothing"
    assert identified(world).count([1, _TOTAL]) == 2
    assert len(identified(world)) == _TOTAL + 1


async def test_a_bot_that_is_in_more_servers_than_before_gets_more_shards(world: World) -> None:
    world.server.limits.guilds_per_shard = 1
    async with world.running() as adapter:
        channels = in_each_shard(world)
        world.server.limits.shards = world.server.limits.max_concurrency = _TOTAL
        world.server.gateway.invalidate(resumable=False)
        world.say("meanwhile")
        await until(lambda: len(identified(world)) == 1 + _TOTAL)
        await until(lambda: adapter.health().state == "ready")
        await adapter.watch(frozenset({world.address}))
        await until(lambda: world.inbox.said() == ["meanwhile"])
        assert all(adapter.describe(ChannelRef(Platform.DISCORD, str(channel.id))) for channel in channels)


async def test_too_many_servers_for_what_discord_recommends_is_fatal(world: World) -> None:
    world.server.limits.guilds_per_shard = 0
    with pytest.raises(FatalError, match="4011"):
        async with world.running():
            pass


async def test_shards_identify_in_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at a time here: the third would be refused if it did not wait for the first."""
    monkeypatch.setattr(connection, "_IDENTIFY_EVERY", 1.0)
    limits = world.server.limits
    limits.factor, limits.identify_every, limits.max_concurrency, limits.shards = 1.0, 0.5, 2, _TOTAL
    async with world.running(*in_each_shard(world)):
        assert sorted(identified(world)) == [[number, _TOTAL] for number in range(_TOTAL)]
    assert not [entry for entry in world.server.gateway.history if entry["what"] == "identify refused"]
