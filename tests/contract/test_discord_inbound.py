"""What people do on Discord, as the adapter reports it to the core."""

from datetime import timedelta

import pytest

from relay.core.clock import SystemClock
from relay.domain.events import (
    FeatureUsed,
    MessageCreated,
    MessageDeleted,
    MessageEdited,
)
from relay.domain.ids import ThreadRef
from relay.domain.text.nodes import plain_text
from relay.errors import (
    ActionNeeded,
    Permanent,
)
from relay.sandbox.faults import Fault
from relay.sandbox.messages.drafts import Draft, NewFile, Upload
from tests.support.discord import World, until
from tests.support.world import WrongClock


async def test_reports_what_is_said_in_order_and_nothing_from_before_the_first_start(world: World) -> None:
    world.say("before")
    async with world.running():
        for number in range(150):
            world.say(f"message {number}")
        await until(lambda: len(world.inbox.said()) == 150)
    assert world.inbox.said() == [f"message {number}" for number in range(150)]
    event = world.inbox.of(MessageCreated)[0]
    assert isinstance(event, MessageCreated)
    assert (event.author.name, event.author.user.id) == ("Bobby", str(world.bob.id))
    assert world.inbox.cursors[f"channel:{world.channel.id}"] == str(world.channel.order[-1])


async def test_reports_replies_edits_deletions_and_bulk_deletions(world: World) -> None:
    async with world.running():
        first = world.say("first")
        reference = {"type": 0, "message_id": first.id, "channel_id": None, "fail_if_not_exists": True}
        world.say("second", author=world.owner, reference=reference)
        more = [world.say(f"more {number}") for number in range(3)]
        world.edit(first, "first, mended")
        world.server.messages.remove(world.channel, [first.id])
        world.server.messages.remove(world.channel, [message.id for message in more], bulk=True)
        await until(lambda: len(world.inbox.of(MessageDeleted)) == 4)
    reply = world.inbox.of(MessageCreated)[1]
    assert isinstance(reply, MessageCreated)
    assert reply.reply_to == world.message_ref(first)
    [edit] = world.inbox.of(MessageEdited)
    assert isinstance(edit, MessageEdited)
    assert (edit.ref, plain_text(edit.content.text)) == (world.message_ref(first), "first, mended")
    deleted = [event.ref for event in world.inbox.of(MessageDeleted) if isinstance(event, MessageDeleted)]
    assert deleted == [world.message_ref(message) for message in (first, *more)]


async def test_counts_reactions_and_reports_threads_with_their_channel(world: World) -> None:
    async with world.running():
        message = world.say("look")
        world.server.reactions.add(world.channel, message, world.owner, "🎉")
        thread = world.server.threads.open_on(world.channel, message, world.bob, "aside")
        world.say("in the thread", channel=thread)
        await until(lambda: "in the thread" in world.inbox.said())
    inside = world.inbox.of(MessageCreated)[-1]
    assert isinstance(inside, MessageCreated)
    assert inside.thread == ThreadRef(world.ref, str(thread.id))
    assert inside.ref.channel == world.ref
    assert [event.feature for event in world.inbox.events if isinstance(event, FeatureUsed)] == ["reaction"]


async def test_private_threads_are_nobodys_business(world: World) -> None:
    world.allow("ADMINISTRATOR")
    async with world.running():
        thread = world.server.threads.open(world.channel, world.owner, "secret", 12)
        world.say("psst", author=world.owner, channel=thread)
        world.say("done")
        await until(lambda: "done" in world.inbox.said())
    assert world.inbox.said() == ["done"]
    assert "thread" in [event.feature for event in world.inbox.events if isinstance(event, FeatureUsed)]


async def test_knows_its_own_messages_and_relays_other_webhooks_and_bots(world: World) -> None:
    github = world.server.webhooks.create(world.channel, "GitHub", world.owner)
    async with world.running() as adapter:
        await adapter.send(world.delivery("ours"))
        await adapter.send(world.delivery("a notice", key="k2", author=None))
        world.server.messages.post_as_webhook(world.channel, github, Draft(content="push"), "GitHub", None)
        await until(lambda: len(world.inbox.of(MessageCreated)) == 3)
    authors = [event.author for event in world.inbox.events if isinstance(event, MessageCreated)]
    assert [author.is_self for author in authors] == [True, True, False]
    assert authors[2].is_bot
    assert world.inbox.said() == ["push"]


async def test_a_bots_file_is_the_same_under_a_new_signature(world: World) -> None:
    feed = world.server.webhooks.create(world.channel, "Feed", world.owner)
    picture = NewFile(Upload("cat.png", "image/png", world.server.files.put(b"a cat")), "cat.png")
    async with world.running():
        message = world.server.messages.post_as_webhook(world.channel, feed, Draft(files=[picture]), "Feed", None)
        await until(lambda: world.inbox.of(MessageCreated))
        world.state.signer.expire_all()
        world.server.messages.pin(world.channel, message, world.owner)
        world.say("later")
        await until(lambda: "later" in world.inbox.said())
    assert world.inbox.of(MessageEdited) == []


async def test_tells_what_it_removed_itself_from_what_a_moderator_removed(world: World) -> None:
    async with world.running() as adapter:
        ours, theirs, kept = [await adapter.send(world.delivery(text, key=f"k{text}")) for text in "abc"]
        await adapter.delete(ours, "k1")
        world.server.messages.remove(world.channel, [int(theirs.id)])
        await until(lambda: len(world.inbox.of(MessageDeleted)) == 2)
        # What could not be removed may still be removed by a moderator.
        world.server.faults.add(Fault("status", "DELETE", "/messages/", status=403, code=50013))
        with pytest.raises((Permanent, ActionNeeded)):
            await adapter.delete(kept, "k2")
        world.server.messages.remove(world.channel, [int(kept.id)])
        await until(lambda: len(world.inbox.of(MessageDeleted)) == 3)
    deleted = [MessageDeleted(ours, by_self=True), MessageDeleted(theirs), MessageDeleted(kept)]
    assert world.inbox.of(MessageDeleted) == deleted


@pytest.mark.parametrize("off", [timedelta(minutes=-5), timedelta(days=-1), timedelta(days=1)], ids=str)
async def test_edits_are_dated_by_discord_whatever_our_clock_says(world: World, off: timedelta) -> None:
    world.clock = WrongClock(off)
    bot = world.state.add_application("feed")
    world.state.add_bot(world.guild, bot)
    async with world.running() as adapter:
        assert abs(adapter.now() - SystemClock().now()) < timedelta(seconds=3)
        message = world.say("one", author=bot.user)
        world.edit(message, "two")
        payload = {"id": str(message.id), "channel_id": str(world.channel.id), "content": "three", "attachments": []}
        author = {"id": str(bot.user.id), "username": "feed", "bot": True}
        await until(lambda: len(world.inbox.of(MessageEdited)) == 1)
        adapter.dispatched("MESSAGE_UPDATE", payload | {"author": author, "guild_id": str(world.guild.id)})
        await until(lambda: len(world.inbox.of(MessageEdited)) == 2)
        world.edit(message, "four")
        await until(lambda: len(world.inbox.of(MessageEdited)) == 3)
    moments = [event.edited_at for event in world.inbox.of(MessageEdited) if isinstance(event, MessageEdited)]
    assert moments == sorted(set(moments))
