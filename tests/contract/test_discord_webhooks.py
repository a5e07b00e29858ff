"""One webhook in each channel: made, found again, moved, deleted, and never used in another channel."""

import asyncio
import time
from dataclasses import replace

import pytest

from relay.adapters.discord.adapter import DiscordAdapter
from relay.core.clock import SystemClock
from relay.domain.content import Author, Content
from relay.domain.events import (
    MessageCreated,
)
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform
from relay.domain.text.nodes import RichText, plain_text
from relay.errors import (
    CopyNotEditable,
    Transient,
)
from relay.sandbox.faults import Fault, GatewayFault
from relay.sandbox.messages.drafts import Draft
from relay.sandbox.world.models import Snowflakes
from tests.support.discord import ALICE, World, until


async def test_posts_through_one_webhook_under_the_authors_name(world: World) -> None:
    avatar = MediaRef(Platform.MATRIX, "https://example.org/alice.png")
    async with world.running() as adapter:
        named = Author(ALICE.user, "Discord Alice", avatar)
        sent = await asyncio.gather(
            *(adapter.send(world.delivery(f"**{n}** @everyone", key=f"k{n}", author=named)) for n in range(4))
        )
    assert {ref.id for ref in sent} == {str(message.id) for message in world.shown()}
    assert len(world.server.webhooks.of_channel(world.channel)) == 1
    message = world.shown()[0]
    assert message.webhook_author is not None
    assert message.webhook_author["username"] == "Dіscord Alice"
    assert message.webhook_avatar_url == "https://example.org/alice.png"
    assert not message.pinged.everyone
    assert r"\*\*" in message.content


async def test_finds_its_webhook_again(world: World) -> None:
    for _ in range(2):
        async with world.running() as adapter:
            await adapter.send(world.delivery())
    assert len(world.server.webhooks.of_channel(world.channel)) == 1


async def test_remakes_a_webhook_that_somebody_deleted_and_leaves_its_copies_orphaned(world: World) -> None:
    async with world.running() as adapter:
        first = await adapter.send(world.delivery("one"))
        world.server.webhooks.delete(world.server.webhooks.of_channel(world.channel)[0])
        second = await adapter.send(world.delivery("two", key="k2"))
        await adapter.edit(second, world.delivery("two, mended", key="k3"))
        with pytest.raises(CopyNotEditable):
            await adapter.edit(first, world.delivery("one, mended", key="k4"))
        await adapter.delete(first, "k5")
    assert world.words() == ["two, mended"]
    assert len(world.server.webhooks.of_channel(world.channel)) == 1


async def settled(world: World, adapter: DiscordAdapter) -> tuple[MessageRef, MessageRef]:
    """Post until the webhook is known, and what the gateway says of its making has come in."""
    first = await adapter.send(world.delivery("one", key="k0"))
    await until(lambda: world.inbox.of(MessageCreated))
    return first, await adapter.send(world.delivery("one more", key="k1"))


@pytest.mark.parametrize("announced", [True, False])
async def test_a_webhook_that_was_moved_posts_nothing_elsewhere(world: World, announced: bool) -> None:
    """Somebody moves it to another channel. It keeps its token, and Discord takes whatever is posted through it."""
    staff = world.state.add_channel(world.guild, "staff")
    async with world.running() as adapter:
        first, _ = await settled(world, adapter)
        if not announced:
            world.server.faults.add_gateway(GatewayFault("drop", "WEBHOOKS_UPDATE", count=3))
        hook = world.server.webhooks.of_channel(world.channel)[0]
        world.server.webhooks.move(hook, staff)
        world.server.webhooks.changed(staff)
        second = await adapter.send(world.delivery("two", key="k2"))
        assert (world.words(), staff.order) == (["one", "one more", "two"], [])
        # What it has posted is out of its reach now.
        await adapter.edit(second, world.delivery("two, mended", key="k3"))
        with pytest.raises(CopyNotEditable):
            await adapter.edit(first, world.delivery("one, mended", key="k4"))
        await adapter.delete(first, "k5")
    assert world.words() == ["one more", "two, mended"]
    # The stray one, if there was one, is nobody's message.
    assert world.inbox.said() == []
    assert len(world.server.webhooks.of_channel(world.channel)) == 1


async def test_edits_through_a_moved_webhook_do_not_count_as_gone(world: World) -> None:
    staff = world.state.add_channel(world.guild, "staff")
    async with world.running() as adapter:
        sent, _ = await settled(world, adapter)
        world.server.faults.add_gateway(GatewayFault("drop", "WEBHOOKS_UPDATE", count=3))
        world.server.webhooks.move(world.server.webhooks.of_channel(world.channel)[0], staff)
        with pytest.raises(CopyNotEditable):
            await adapter.edit(sent, world.delivery("one, mended", key="k2"))


@pytest.mark.parametrize("restarted", [True, False])
async def test_a_message_in_the_wrong_channel_is_found_and_removed_after_a_crash(world: World, restarted: bool) -> None:
    staff = world.state.add_channel(world.guild, "staff")
    now = SystemClock().now()
    async with world.running(world.channel, staff) as adapter:
        _, last = await settled(world, adapter)
        there = replace(world.delivery("second", key="k9"), channel=ChannelRef(Platform.DISCORD, str(staff.id)))
        await adapter.send(there)
        hook = world.server.webhooks.of_channel(world.channel)[0]
        world.server.faults.add_gateway(GatewayFault("drop", "WEBHOOKS_UPDATE", count=3))
        world.server.webhooks.move(hook, staff)
        if not restarted:
            # It is posted, and nobody hears of it.
            world.server.faults.add(Fault("reset", "POST", "/webhooks/", when="after"))
            with pytest.raises(Transient):
                await adapter.send(world.delivery("second", key="k2"))
            assert len(staff.order) == 2
            suspect = world.delivery("second", key="k2", suspect=True, after=last, queued_at=now)
            await adapter.send(suspect)
    if restarted:
        world.server.messages.post_as_webhook(staff, hook, Draft(content="second"), "Alice", None)
        world.say("between")
        async with world.running(world.channel, staff) as adapter:
            suspect = world.delivery("second", key="k2", suspect=True, after=last, queued_at=now)
            await adapter.send(suspect)
            assert world.words() == ["one", "one more", "between", "second"]
            # A webhook that is away from home speaks for nobody, not even where it is now.
            await adapter.send(replace(there, key="k10", content=Content(RichText.plain("third"))))
    assert "second" in world.words()
    # The same words by the same person, said there, stay there.
    assert [staff.messages[one].content for one in staff.order] == (["second", "third"] if restarted else ["second"])
    assert all(staff.messages[one].webhook_id != hook.id for one in staff.order)


async def test_what_an_earlier_store_has_posted_where_a_webhook_was_moved_stays(world: World) -> None:
    """Where the first copy of a new store was in doubt, what its author had said there minutes before was deleted."""
    staff = world.state.add_channel(world.guild, "staff")
    now = world.state.snowflakes
    world.state.snowflakes = Snowflakes(lambda: time.time() - 300)
    async with world.running(world.channel, staff) as adapter:
        await settled(world, adapter)
    hook = world.server.webhooks.of_channel(world.channel)[0]
    world.server.webhooks.move(hook, staff)
    world.server.messages.post_as_webhook(staff, hook, Draft(content="good morning"), "Alice", None)
    world.state.snowflakes = now
    queued_at = SystemClock().now()
    # Posted by the try that is in doubt: what it quotes may be another name since.
    world.server.messages.post_as_webhook(staff, hook, Draft(content="who is there"), "Alice", None)
    async with world.running(world.channel, staff) as adapter:
        await adapter.send(world.delivery("who is here", key="k2", suspect=True, queued_at=queued_at))
    assert world.words()[-1] == "who is here"
    assert [staff.messages[one].content for one in staff.order] == ["good morning"]


async def test_copies_outlive_the_application_that_posted_them(world: World) -> None:
    """The operator gives the relay another bot: what the first one's webhook posted is still the relay's own."""
    async with world.running() as adapter:
        sent, gone = await adapter.send(world.delivery()), await adapter.send(world.delivery("two", key="k2"))
    world.app = world.state.add_application("another")
    world.member = world.state.add_bot(world.guild, world.app)
    world.allow("VIEW_CHANNEL", "SEND_MESSAGES", "READ_MESSAGE_HISTORY", "MANAGE_WEBHOOKS", "MANAGE_MESSAGES")
    async with world.running() as adapter:
        quotation = await adapter.quote(sent)
        assert quotation is not None
        assert quotation.is_self
        with pytest.raises(CopyNotEditable):
            await adapter.edit(sent, world.delivery("changed"))
        await adapter.delete(gone, "d1")
        await adapter.send(world.delivery("three", key="k3"))
    assert world.words() == ["hello", "three"]
    assert world.inbox.said() == []


async def test_a_webhook_whose_token_was_changed_is_looked_up_again(world: World) -> None:
    async with world.running() as adapter:
        sent = await adapter.send(world.delivery("one"))
        for number in range(2):
            world.server.faults.add_gateway(GatewayFault("drop", "WEBHOOKS_UPDATE", count=1))
            hook = world.server.webhooks.of_channel(world.channel)[0]
            hook.token = f"another-{number}"
            if number:
                await adapter.edit(sent, world.delivery("one, mended", key="k2"))
            else:
                await adapter.send(world.delivery("two", key="k3"))
    assert world.words() == ["one, mended", "two"]
    assert len(world.server.webhooks.of_channel(world.channel)) == 1


async def test_where_no_more_webhooks_fit_the_bot_speaks_and_says_how_much_it_can(world: World) -> None:
    for _ in range(15):
        world.server.webhooks.create(world.channel, "other", world.owner)
    async with world.running() as adapter:
        with pytest.raises(Transient):
            await adapter.send(world.delivery("x" * 2000))
        limit = adapter.capabilities(world.ref).max_text_length
        await adapter.send(world.delivery("x" * limit, key="k2"))
    assert world.words() == [f"**Alice**: {'x' * limit}"]


async def test_a_reply_to_what_the_bot_had_to_post_itself_names_its_author(world: World) -> None:
    for _ in range(15):
        world.server.webhooks.create(world.channel, "other", world.owner)
    async with world.running() as adapter:
        ref = await adapter.send(world.delivery("helo"))
        world.server.faults.add_gateway(GatewayFault("drop", "MESSAGE_UPDATE", count=1))
        await adapter.edit(ref, world.delivery("hello", key="k2"))
        edited = await adapter.quote(ref)
    async with world.running() as again:  # remembers nothing of what it posted
        quotation = await again.quote(ref)
    for quoted in (edited, quotation):
        assert quoted is not None
        assert (quoted.author, plain_text(quoted.text)) == ("Alice", "hello")
