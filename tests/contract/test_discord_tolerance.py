"""What the Discord adapter takes in its stride: refusals that are no reason to stop, and servers that say little."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from relay.adapters.discord.api.client import RestClient
from relay.adapters.discord.api.rate_limits import RateLimits
from relay.adapters.discord.media import Media
from relay.adapters.discord.members import Members
from relay.core.clock import SystemClock
from relay.domain.events import MessageCreated
from relay.domain.ids import MediaRef, MessageRef, Platform
from relay.domain.text.nodes import plain_text
from relay.errors import CopyNotEditable, Permanent, RateLimited, TargetGone, Transient
from relay.sandbox.faults import Fault, Kind
from relay.sandbox.messages.drafts import Draft
from tests.support.bare import bare
from tests.support.discord import World, until
from tests.support.patience import PATIENCE


@pytest.fixture
async def rest(world: World) -> AsyncIterator[RestClient]:
    clock = SystemClock()
    client = RestClient(token=world.app.token, api_url=world.server.api_url, clock=clock, limits=RateLimits(clock))
    yield client
    await client.close()


async def test_a_deletion_that_is_not_allowed_does_not_hold_up_the_lane(world: World) -> None:
    message = world.say("by somebody else")
    world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "MANAGE_WEBHOOKS", "SEND_MESSAGES")
    async with world.running() as adapter:
        with pytest.raises(Permanent, match="Manage Messages"):
            await adapter.delete(world.message_ref(message), "k1")


async def test_without_manage_webhooks_nothing_waits_for_it(world: World) -> None:
    feed = world.server.webhooks.create(world.channel, "Feed", world.owner)
    async with world.running() as adapter:
        copy, other = await adapter.send(world.delivery("one")), await adapter.send(world.delivery("two", key="k2"))
    world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "SEND_MESSAGES")
    async with world.running() as adapter:
        push = world.server.messages.post_as_webhook(world.channel, feed, Draft(content="push"), "GitHub", None)
        await until(lambda: world.inbox.said() == ["push"])
        quoted, ours = await adapter.quote(world.message_ref(push)), await adapter.quote(copy)
        assert quoted is not None
        assert ours is not None
        assert [(quoted.author, quoted.is_self), (ours.author, ours.is_self)] == [("GitHub", False), ("Alice", True)]
        with pytest.raises(CopyNotEditable):
            await adapter.edit(copy, world.delivery("changed", key="k3"))
        with pytest.raises(Permanent, match="Manage Messages"):
            await adapter.delete(other, "k4")


async def test_a_busy_cdn_does_not_look_like_a_limit_of_the_other_side(world: World, rest: RestClient) -> None:
    world.state.avatars["pic"] = world.server.files.put(b"a picture")
    world.server.faults.add(Fault("rate_limit", "GET", "/avatars/", seconds=2))
    media = Media(rest, None, world.server.origin)
    url = f"{world.server.origin}/avatars/1/pic.png"
    with pytest.raises(Transient) as caught:
        async with media.open_media(MediaRef(Platform.DISCORD, url)):
            pass
    assert not isinstance(caught.value, RateLimited)
    assert caught.value.retry_after == 3


@pytest.mark.parametrize("picture", [b"GIF89a, moving", b"RIFF\x08\x00\x00\x00WEBP, moving"])
async def test_a_moving_emoji_crosses_in_whatever_format_it_was_uploaded(
    world: World, rest: RestClient, picture: bytes
) -> None:
    emoji = world.state.add_emoji(world.guild, "dance", world.server.files.put(picture), animated=True)
    media = Media(rest, None, world.server.origin)
    async with media.open_media(MediaRef(Platform.DISCORD, f"{world.server.origin}/emojis/{emoji.id}.gif")) as stream:
        assert b"".join([chunk async for chunk in stream.chunks]) == picture


@pytest.mark.parametrize("path", ["/gateway/bot", "/users/@me"])
async def test_a_token_that_is_refused_once_while_connecting_is_tried_again(world: World, path: str) -> None:
    world.server.faults.add(Fault("status", "GET", path, status=401))
    async with world.running():
        assert world.inbox.channels == {world.address.value: "open"}


async def test_made_up_names_do_not_wait(world: World, rest: RestClient) -> None:
    world.server.faults.add(Fault("rate_limit", "GET", "/members/search", seconds=600))
    people = Members(rest, SystemClock())
    async with asyncio.timeout(PATIENCE):
        assert await people.find(str(world.guild.id), [f"a{number}" for number in range(10)]) == {}
    assert world.server.faults.rest[0].seen == 1


async def test_bridges_with_a_server_that_says_no_more_than_it_must(world: World) -> None:
    async with bare(world.server) as server:
        world.api_url = server.api_url
        async with world.running() as adapter:
            world.say("live")
            await until(lambda: world.inbox.said() == ["live"])
            first = await adapter.send(world.delivery("from here"))
        world.say("missed")
        async with world.running() as adapter:
            await until(lambda: world.inbox.said() == ["live", "missed"])
            await adapter.edit(first, world.delivery("changed", key="k2"))
            second = await adapter.send(world.delivery("again from here", key="k3"))
            assert not await adapter.mark(second, done=False)
            await adapter.delete(second, "k4")
            with pytest.raises(TargetGone):
                await adapter.delete(second, "k5")
            with pytest.raises(TargetGone):
                await adapter.edit(MessageRef(world.ref, "1"), world.delivery("gone", key="k6"))
            world.say("at last")
            await until(lambda: world.inbox.said()[-1] == "at last")
        assert len(world.server.webhooks.of_channel(world.channel)) == 1
    assert world.words() == ["live", "changed", "missed", "at last"]


async def test_threads_that_no_list_names_are_read_and_one_that_is_refused_deletes_nothing(world: World) -> None:
    first = world.say("first")
    async with world.running():
        thread = world.server.threads.open(world.channel, world.bob, "aside")
        world.say("in the thread", channel=thread)
        await until(lambda: world.inbox.said() == ["in the thread"])
    last = world.say("missed", channel=thread)
    world.server.threads.archive(thread, archived=True)
    world.server.faults.add(Fault("status", "GET", "/threads/archived", status=404, count=None))
    world.inbox.caught_up.clear()
    async with world.running() as adapter:
        await until(lambda: world.inbox.said() == ["in the thread", "missed"])
        within = world.message_ref(first), world.message_ref(last)
        pages = [page async for page in adapter.reread(*within)]
        assert [plain_text(seen.content.text) for page in pages for seen in page or ()] == [
            "first",
            "in the thread",
            "missed",
        ]
        assert None not in pages
        world.server.faults.add(Fault("status", "GET", f"/channels/{thread.id}/", status=403, code=50001, count=None))
        assert [page async for page in adapter.reread(*within)][-1] is None


@pytest.mark.parametrize("fault", ["status", "hang", "rate_limit"])
async def test_names_and_lists_that_are_not_to_be_had_hold_up_nothing(world: World, fault: Kind) -> None:
    async with world.running():
        world.say("live")
        await until(lambda: world.inbox.said() == ["live"])
    world.say("missed")
    for path in ("/members/", "/threads/"):
        world.server.faults.add(Fault(fault, "GET", path, count=None, seconds=20, status=500))
    async with asyncio.timeout(PATIENCE), world.running():
        await until(lambda: world.inbox.said() == ["live", "missed"])
    missed = world.inbox.of(MessageCreated)[-1]
    assert isinstance(missed, MessageCreated)
    assert missed.author.name == "Bob"
