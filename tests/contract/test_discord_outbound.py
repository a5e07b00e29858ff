"""What the adapter posts, edits, deletes, quotes and marks on Discord."""

import pytest

from relay.domain.content import Author
from relay.domain.ids import ChannelAddress, MediaRef, Platform, ThreadRef
from relay.domain.text.nodes import plain_text
from relay.errors import (
    ActionNeeded,
    Permanent,
    TargetGone,
    Transient,
)
from relay.sandbox.faults import Fault
from relay.sandbox.messages.drafts import Draft
from tests.support.discord import ALICE, World, until


async def test_posts_as_the_bot_where_webhooks_are_not_allowed(world: World) -> None:
    world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "SEND_MESSAGES")
    async with world.running() as adapter:
        limit = adapter.capabilities(world.ref).max_text_length
        sent = await adapter.send(world.delivery("x" * limit))
        again = await adapter.send(world.delivery("x" * limit))
        await adapter.edit(sent, world.delivery("y", key="k2"))
        assert again == sent
        assert world.words() == ["**Alice**: y"]
        await adapter.delete(sent, "k3")
    assert world.words() == []


@pytest.mark.parametrize("webhooks", [True, False])
async def test_an_edit_that_changes_nothing_is_not_sent(world: World, webhooks: bool) -> None:
    if not webhooks:
        world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "SEND_MESSAGES")
    fault = Fault("status", "PATCH", "/messages/", when="after", status=502, count=0)
    world.server.faults.add(fault)
    async with world.running() as adapter:
        sent = await adapter.send(world.delivery("one"))

        async def edits(*texts: str) -> int:
            before = _patches(world)
            for text in texts:
                await adapter.edit(sent, world.delivery(text, key=f"k{text}"))
            return _patches(world) - before

        assert await edits("one") == 0
        assert await edits("two", "two", "one") == 2
        fault.count = 1
        with pytest.raises(Transient):
            await adapter.edit(sent, world.delivery("three", key="k3"))
        assert await edits("one", "one") == 1, "nobody knew what it said"
        assert [words.rpartition(" ")[2] for words in world.words()] == ["one"]
    async with world.running() as adapter:
        assert await edits("one") == 1


async def test_words_that_an_earlier_try_said_are_changed_for_others(world: World) -> None:
    world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "SEND_MESSAGES")
    world.server.faults.add(Fault("status", "POST", "/messages", when="after", status=502, count=1))
    async with world.running() as adapter:
        with pytest.raises(Transient):
            await adapter.send(world.delivery("secret"))
        sent = await adapter.send(world.delivery("removed", suspect=True))
        await adapter.edit(sent, world.delivery("removed", key="k2"))
    assert [words.rpartition(" ")[2] for words in world.words()] == ["removed"]


def _patches(world: World) -> int:
    requests = world.server.api.statistics.requests
    return sum(count for route, count in requests.items() if route.startswith("PATCH"))


async def test_edits_and_deletes_of_what_is_gone(world: World) -> None:
    async with world.running() as adapter:
        sent = await adapter.send(world.delivery())
        await adapter.delete(sent, "k2")
        with pytest.raises(TargetGone):
            await adapter.delete(sent, "k3")
        with pytest.raises(TargetGone):
            await adapter.edit(sent, world.delivery("late", key="k4"))
        assert await adapter.quote(sent) is None


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_copy_in_a_channel_that_is_not_declared_any_more_can_be_removed(world: World, restarted: bool) -> None:
    other = world.state.add_channel(world.guild, "other")
    async with world.running() as adapter:
        kept, gone = await adapter.send(world.delivery()), await adapter.send(world.delivery("two", key="k2"))
        if not restarted:
            await adapter.watch(frozenset({ChannelAddress(Platform.DISCORD, str(other.id))}))
            await until(lambda: world.inbox.channels.get(str(other.id)) == "open")
            await adapter.delete(gone, "d1")
    if restarted:
        async with world.running(other) as adapter:
            await adapter.delete(gone, "d1")
            with pytest.raises(ActionNeeded):
                await adapter.edit(kept, world.delivery("changed"))
    assert world.words() == ["hello"]


async def test_refusals_by_kind(world: World) -> None:
    async with world.running() as adapter:
        await adapter.send(world.delivery())
        # Not one that might be about a picture: if that stands by now, it is left out, and the message posted.
        world.server.faults.add(Fault("status", "POST", "/webhooks/", status=400, code=200000))
        with pytest.raises(Permanent):
            await adapter.send(world.delivery("two", key="k2"))
        with pytest.raises(Permanent):
            await adapter.send(world.delivery("x" * 2001, key="k3"))
        world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "MANAGE_WEBHOOKS")
        with pytest.raises(ActionNeeded):
            await adapter.send(world.delivery("a notice", key="k4", author=None))


async def test_a_picture_that_discord_does_not_take_costs_no_message(world: World) -> None:
    picture = MediaRef(Platform.MATRIX, "https://example.org/" + "a" * 3000)
    async with world.running() as adapter:
        await adapter.send(world.delivery(author=Author(ALICE.user, "Alice", picture)))
    assert world.words() == ["hello"]


async def test_words_that_discord_forbids_are_not_sent_again_without_the_picture(world: World) -> None:
    refusal = Fault("status", "POST", "/webhooks/", status=400, code=200000, message="Blocked by AutoMod")
    world.server.faults.add(refusal)
    picture = MediaRef(Platform.MATRIX, "https://example.org/alice.png")
    async with world.running() as adapter:
        with pytest.raises(Permanent, match="AutoMod"):
            await adapter.send(world.delivery(author=Author(ALICE.user, "Alice", picture)))
    assert world.words() == []


async def test_a_name_that_discord_does_not_take_costs_no_message(world: World) -> None:
    refusal = Fault("status", "POST", "/webhooks/", count=2, status=400, code=50035, message="username: not this one")
    world.server.faults.add(refusal)
    async with world.running() as adapter:
        await adapter.send(world.delivery("one", author=Author(ALICE.user, "The Dıscord")))
        await adapter.send(world.delivery("two", key="k2", author=Author(ALICE.user, "The Dıscord")))
        await adapter.send(world.delivery("three", key="k3"))
    assert world.words() == ["one", "two", "three"]
    first, second, third = (message.webhook_author["username"] for message in world.shown() if message.webhook_author)
    assert first == second
    assert first.startswith("member-")
    assert third == "Alice"


async def test_quotes_and_marks(world: World) -> None:
    message = world.say("what **he** said")
    async with world.running() as adapter:
        quotation = await adapter.quote(world.message_ref(message))
        assert quotation is not None
        assert (quotation.author, plain_text(quotation.text)) == ("Bob", "what he said")
        path = f"{world.guild.id}/{world.channel.id}/{message.id}"
        assert quotation.url == f"https://discord.com/channels/{path}"
        assert await adapter.mark(world.message_ref(message), done=False)
        assert [reaction.name for reaction in message.reactions] == ["⚠️"]
        world.allow("VIEW_CHANNEL", "SEND_MESSAGES", "READ_MESSAGE_HISTORY")
        other = world.say("another")
        assert not await adapter.mark(world.message_ref(other), done=False)


async def test_says_what_a_message_is_by_now(world: World) -> None:
    message = world.say("one")
    root = world.say("root")
    thread = world.server.threads.open_on(world.channel, root, world.bob, "aside")
    async with world.running() as adapter:
        aside = world.say("in the thread", channel=thread)
        await until(lambda: "in the thread" in world.inbox.said())
        world.edit(message, "two")
        found = await adapter.latest(world.message_ref(message))
        assert found is not None
        assert (plain_text(found.content.text), found.author.name, found.edited_at is None) == ("two", "Bobby", False)
        found = await adapter.latest(world.message_ref(aside))
        assert found is not None
        assert plain_text(found.content.text) == "in the thread"
        world.server.messages.remove(world.channel, [message.id])
        assert await adapter.latest(world.message_ref(message)) is None
        world.server.threads.delete(thread)
        assert await adapter.latest(world.message_ref(aside)) is None


async def test_what_may_not_be_looked_at_now_is_quoted_later(world: World) -> None:
    message = world.server.messages.post(world.channel, world.bob, Draft(given=frozenset({"content"}), content="wise"))
    async with world.running() as adapter:
        world.allow("SEND_MESSAGES", "MANAGE_WEBHOOKS")
        with pytest.raises(Transient):
            await adapter.quote(world.message_ref(message))
        await until(lambda: world.inbox.channels[str(world.channel.id)] != "open")
        world.allow("VIEW_CHANNEL", "SEND_MESSAGES", "MANAGE_WEBHOOKS", "READ_MESSAGE_HISTORY")
        await until(lambda: world.inbox.channels[str(world.channel.id)] == "open")
        quotation = await adapter.quote(world.message_ref(message))
        assert quotation is not None


async def test_notices_reach_a_thread_and_a_deleted_one_is_gone(world: World) -> None:
    async with world.running() as adapter:
        thread = world.server.threads.open(world.channel, world.bob, "aside")
        where = ThreadRef(world.ref, str(thread.id))
        await adapter.send(world.delivery("threads do not cross", author=None, thread=where))
        assert [message.content for message in thread.messages.values()] == ["threads do not cross"]
        world.server.threads.delete(thread)
        with pytest.raises(TargetGone):
            await adapter.send(world.delivery("nor here", key="k2", author=None, thread=where))
