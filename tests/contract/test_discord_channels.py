"""Declared channels open and close as permissions and the configuration change."""

from dataclasses import replace

import pytest

from relay.adapters.discord.identifiers import DECLARED_STREAM
from relay.adapters.discord.survey import DiscordSurvey
from relay.domain.ids import ChannelAddress, ChannelRef, Platform
from relay.errors import (
    Transient,
)
from relay.sandbox.world.models import Channel, Overwrite
from relay.sandbox.world.permissions import Permission
from tests.support.discord import World, discord_settings, until
from tests.support.mistakes import altered
from tests.support.world import pair


async def test_a_channel_that_cannot_be_used_is_closed_with_a_remedy_and_stops_nobody_else(world: World) -> None:
    hidden = world.state.add_channel(world.guild, "hidden")
    world.state.set_overwrite(hidden, Overwrite(world.guild.id, 0, deny=Permission.VIEW_CHANNEL))
    forum = world.state.add_channel(world.guild, "forum", kind=15)
    missing = Channel(12345, world.guild.id, "missing")
    async with world.running(world.channel, hidden, forum, missing):
        closed = world.inbox.channels
        assert closed[str(world.channel.id)] == "open"
        assert "View Channel" in closed[str(hidden.id)]
        assert "text channel" in closed[str(forum.id)]
        assert "no channel 12345" in closed["12345"]
        world.say("unheard", author=world.owner, channel=hidden)
        world.state.clear_overwrite(hidden, world.guild.id)
        await until(lambda: closed[str(hidden.id)] == "open")
        world.say("heard", channel=hidden)
        await until(lambda: world.inbox.said() == ["heard"])


async def test_nothing_is_believed_of_a_channel_that_the_bot_may_not_see(world: World) -> None:
    """Since November 2026 Discord tells of it under another name, without its age mark and its permissions."""
    secret = world.state.add_channel(world.guild, "secret")
    secret.nsfw = True
    role, ref = world.guild.roles[world.member.roles[0]], ChannelRef(Platform.DISCORD, str(secret.id))
    world.state.set_overwrite(secret, Overwrite(world.guild.id, 0, deny=Permission.VIEW_CHANNEL))
    world.state.set_overwrite(secret, Overwrite(world.app.user.id, 1, deny=Permission.VIEW_CHANNEL))
    async with world.running(world.channel, secret) as adapter:
        told = world.inbox.channels
        assert told[ref.id].startswith(f"the bot may not see {ref.id}: give its role View Channel there, or the bot")
        assert adapter.describe(ref) is None
        assert adapter.age_restricted(ref) is None
        survey = DiscordSurvey(settings=discord_settings(world.app.token, world.server.api_url))
        await survey.account()
        sides = (ChannelAddress(Platform.DISCORD, ref.id), ChannelAddress(Platform.MATRIX, "#help"))
        [found] = [one async for one in survey.pairs([replace(pair(), sides=sides)])]
        await survey.close()
        assert found.remedy.startswith("give its role View Channel there, or the bot itself")
        # Seen by the power of the role alone: that is told by an event of the channel.
        role.permissions |= Permission.ADMINISTRATOR
        world.state.role_changed(world.guild, role)
        await until(lambda: told[ref.id] == "open")
        described = adapter.describe(ref)
        assert described is not None
        assert (described.name, adapter.age_restricted(ref)) == ("#secret", True)
        world.say("heard", author=world.owner, channel=secret)
        await until(lambda: world.inbox.said() == ["heard"])
        role.permissions &= ~Permission.ADMINISTRATOR
        world.state.channel_changed(secret)
        world.state.role_changed(world.guild, role)
        await until(lambda: told[ref.id] != "open")


@pytest.mark.parametrize("kind", [2, 13])
async def test_the_chat_of_a_voice_channel_is_read_by_who_may_join_it(world: World, kind: int) -> None:
    """The remedy was said to be View Channel, or there was none: the history just could not be read."""
    voice = world.state.add_channel(world.guild, "lounge", kind=kind)
    world.state.set_overwrite(voice, Overwrite(world.guild.id, 0, deny=Permission.CONNECT))
    survey = DiscordSurvey(settings=discord_settings(world.app.token, world.server.api_url))
    sides = (ChannelAddress(Platform.DISCORD, str(voice.id)), ChannelAddress(Platform.MATRIX, "#help"))
    async with world.running(world.channel, voice):
        closed = world.inbox.channels
        assert "give its role Connect there" in closed[str(voice.id)]
        await survey.account()
        [found] = [one async for one in survey.pairs([replace(pair(), sides=sides)])]
        assert (found.state, found.remedy) == ("wrong", "give its role Connect there")
        world.say("unheard", author=world.owner, channel=voice)
        world.state.clear_overwrite(voice, world.guild.id)
        await until(lambda: closed[str(voice.id)] == "open")
        world.say("heard", channel=voice)
        await until(lambda: world.inbox.said() == ["heard"])
    await survey.close()


async def test_a_direct_message_is_told_as_what_it_is(world: World) -> None:
    """The sandbox has none. The bot was said to be in no server, or the channel not to exist."""
    direct = {"id": "12345", "type": 1, "last_message_id": None, "flags": 0, "recipients": [{"id": str(world.bob.id)}]}
    told = "a direct message with the bot, and no channel of a server"
    async with altered(world.server.origin, {"/api/v10/channels/12345": direct}) as origin:
        world.api_url = world.server.api_url.replace(world.server.origin, origin)
        async with world.running(world.channel, Channel(12345, world.guild.id, "direct")):
            await until(lambda: world.inbox.channels["12345"].startswith(f"12345 is {told}: right-click the channel"))
        survey = DiscordSurvey(settings=discord_settings(world.app.token, world.api_url))
        await survey.account()
        sides = (ChannelAddress(Platform.DISCORD, "12345"), ChannelAddress(Platform.MATRIX, "#help"))
        found = [one async for one in survey.pairs([replace(pair(), sides=sides)])]
        await survey.close()
    assert [(one.state, one.words) for one in found] == [("wrong", f"it is {told}")]


async def test_a_permission_that_comes_back_brings_what_was_missed(world: World) -> None:
    thread = world.server.threads.open(world.channel, world.bob, "aside")
    world.say("before", channel=thread)
    async with world.running():
        world.say("one", channel=thread)
        await until(lambda: world.inbox.said() == ["one"])
        world.state.set_overwrite(world.channel, Overwrite(world.guild.id, 0, deny=Permission.VIEW_CHANNEL))
        await until(lambda: "View Channel" in world.inbox.channels[str(world.channel.id)])
        world.say("two", author=world.owner)
        world.say("three", author=world.owner, channel=thread)
        world.state.clear_overwrite(world.channel, world.guild.id)
        await until(lambda: world.inbox.said() == ["one", "two", "three"])
        assert world.inbox.channels[str(world.channel.id)] == "open"


async def test_a_channel_in_a_server_with_an_outage_is_not_taken_for_a_mistake(world: World) -> None:
    world.server.control.guild_outage(world.guild.id)
    async with world.running(ready=False):
        await until(lambda: "outage" in world.inbox.channels.get(world.address.value, ""))
        world.server.control.guild_outage(world.guild.id, down=False)
        await until(lambda: world.inbox.channels[world.address.value] == "open")


async def test_a_channel_that_is_deleted_blocks_its_lane_only(world: World) -> None:
    other = world.state.add_channel(world.guild, "other")
    async with world.running(world.channel, other) as adapter:
        await adapter.send(world.delivery())
        world.state.delete_channel(world.channel)
        await until(lambda: "no channel" in world.inbox.channels[str(world.channel.id)])
        with pytest.raises(Transient):
            await adapter.send(world.delivery("two", key="k2"))
        # What is planned for a channel that is closing is not cut down for good: a file would cross as words.
        assert adapter.capabilities(world.ref).max_file_size > 1_000_000
        world.say("elsewhere", channel=other)
        await until(lambda: world.inbox.said() == ["elsewhere"])


async def test_a_channel_can_be_declared_later(world: World) -> None:
    other = world.state.add_channel(world.guild, "other")
    world.say("before", channel=other)
    async with world.running() as adapter:
        await adapter.watch(frozenset({ChannelAddress(Platform.DISCORD, str(other.id))}))
        await until(lambda: adapter.health().state == "ready")
        world.say("not any more")
        world.say("hello", channel=other)
        await until(lambda: world.inbox.said() == ["hello"])


async def test_a_start_as_the_one_before_writes_nothing(world: World) -> None:
    async with world.running():
        world.say("hello")
        await until(lambda: world.inbox.said() == ["hello"])
    batches = world.inbox.batches
    async with world.running():
        pass
    assert world.inbox.batches == batches


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_was_said_while_a_channel_was_not_declared_does_not_cross(world: World, restarted: bool) -> None:
    other = world.state.add_channel(world.guild, "other")

    async def say(words: str, *heard: Channel) -> None:
        ids = " ".join(sorted(str(channel.id) for channel in heard))
        await until(lambda: world.inbox.cursors.get(DECLARED_STREAM) == ids)
        await until(lambda: all(world.inbox.cursors[f"channel:{channel.id}"] for channel in heard))
        for channel in (other, world.channel):
            world.say(f"{words} in {channel.name}", channel=channel)
        await until(lambda: f"{words} in help" in world.inbox.said())

    async with world.running(world.channel, other) as adapter:
        await say("declared", world.channel, other)
        await adapter.watch(frozenset({world.address}))
        await say("archived", world.channel)
        if not restarted:
            await adapter.watch(frozenset({world.address, ChannelAddress(Platform.DISCORD, str(other.id))}))
            await say("back", world.channel, other)
    if restarted:
        world.say("nobody there", channel=other)
        async with world.running(world.channel, other):
            await say("back", world.channel, other)
    await until(lambda: len(world.inbox.said()) == 5)
    assert {text for text in world.inbox.said() if "other" in text} == {"declared in other", "back in other"}
    assert "nobody there" not in world.inbox.said()


async def test_a_channel_that_moves_to_a_category_with_other_permissions_closes_and_opens(world: World) -> None:
    async with world.running():
        world.channel.parent_id = world.state.add_channel(world.guild, "staff only", kind=4).id
        hidden = Overwrite(world.app.id, 1, 0, Permission.VIEW_CHANNEL)
        world.state.set_overwrite(world.channel, hidden)
        await until(lambda: "View Channel" in world.inbox.channels[str(world.channel.id)])
        world.channel.parent_id = None
        world.state.clear_overwrite(world.channel, world.app.id)
        await until(lambda: world.inbox.channels[str(world.channel.id)] == "open")
        world.say("back")
        await until(lambda: "back" in world.inbox.said())
