"""Requests without an answer, refused for now, or sent again: what was posted is never posted twice."""

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from relay.adapters.discord.adapter import DiscordAdapter
from relay.core.clock import SystemClock
from relay.core.convert.degrade import quoted_line
from relay.core.ports import Delivery
from relay.domain.content import Content, Quotation
from relay.domain.events import MessageCreated, MessageDeleted
from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.domain.text.nodes import RichText
from relay.errors import (
    RateLimited,
    Transient,
)
from relay.sandbox.faults import Fault
from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer
from relay.sandbox.world.models import Channel, Snowflakes
from tests.support.discord import ALICE, World, until
from tests.support.world import WrongClock


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["status", "reset", "hang"])
@pytest.mark.parametrize("webhooks", [True, False])
async def test_an_ambiguous_send_is_resolved(world: World, when: str, kind: str, webhooks: bool) -> None:
    if not webhooks:
        world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "SEND_MESSAGES")
    async with world.running() as adapter:
        last = await adapter.send(world.delivery("hello"))
        path = "/webhooks/" if webhooks else "/messages$"
        fault = Fault(kind, "POST", path, when=when, status=502, seconds=60)  # type: ignore[arg-type]
        world.server.faults.add(fault)
        now = SystemClock().now()
        with pytest.raises(Transient) as caught:
            await adapter.send(world.delivery("hello", key="k2", queued_at=now))
        assert caught.value.ambiguous
        suspect = world.delivery("hello", key="k2", suspect=True, after=last, queued_at=now - timedelta(seconds=1))
        found = await adapter.send(suspect)
    assert len(world.words()) == 2
    assert found.id == str(world.channel.order[-1])


@pytest.mark.parametrize("deletion_fails", [False, True])
async def test_what_discord_posts_late_after_we_have_posted_it_again_is_taken_back(
    world: World, deletion_fails: bool
) -> None:
    async with world.running() as adapter:
        last = await adapter.send(world.delivery("tea"))
        late = world.server.faults.add(Fault("status", "POST", "/webhooks/", when="late", status=504, seconds=1))
        if deletion_fails:
            world.server.faults.add(Fault("status", "DELETE", "/messages/", status=503))
        with pytest.raises(Transient):
            await adapter.send(world.delivery("hello", key="k2"))
        second = await adapter.send(world.delivery("hello", key="k2", suspect=True, after=last))
        await until(lambda: late.carried_out and world.inbox.of(MessageDeleted))
        assert [str(message) for message in world.channel.order] == [last.id, second.id]
        # Who says the same again has said it twice.
        third = await adapter.send(world.delivery("hello", key="k3"))
        assert [event.by_self for event in world.inbox.events if isinstance(event, MessageDeleted)] == [True]
        world.say("seen")
        await until(lambda: "seen" in world.inbox.said())
    assert [str(message) for message in world.channel.order][:3] == [last.id, second.id, third.id]


async def test_a_deletion_that_waits_for_discord_keeps_no_other_channel_waiting(world: World) -> None:
    """One after the other was taken back, in whatever channel."""
    other = world.state.add_channel(world.guild, "other")
    channels = [world.channel, other]

    def delivery(words: str, to: Channel, **more: Any) -> Delivery:
        return replace(world.delivery(words, **more), channel=ChannelRef(Platform.DISCORD, str(to.id)))

    async with world.running(*channels) as adapter:
        last = [await adapter.send(delivery("tea", to, key=f"tea {to.id}")) for to in channels]
        (webhook,) = [hook for hook in world.state.webhooks.values() if hook.channel_id == world.channel.id]
        world.server.faults.add(Fault("rate_limit", "DELETE", f"/webhooks/{webhook.id}/", count=None, seconds=600))
        for to, after in zip(channels, last, strict=True):
            late = world.server.faults.add(Fault("status", "POST", "/webhooks/", when="late", status=504, seconds=0.2))
            with pytest.raises(Transient):
                await adapter.send(delivery("hello", to, key=f"{to.id}"))
            await adapter.send(delivery("hello", to, key=f"{to.id}", suspect=True, after=after))
            await until(lambda late=late: late.carried_out)  # type: ignore[misc]
        await until(lambda: len(other.order) == 2)
        assert len(world.channel.order) == 3


async def test_what_discord_posts_late_while_the_gateway_is_away_is_taken_back_too(world: World) -> None:
    async with world.running() as adapter:
        last = await adapter.send(world.delivery("tea"))
        late = world.server.faults.add(Fault("status", "POST", "/webhooks/", when="late", status=504, seconds=1))
        with pytest.raises(Transient):
            await adapter.send(world.delivery("hello", key="k2"))
        second = await adapter.send(world.delivery("hello", key="k2", suspect=True, after=last))
        world.server.gateway.offline = True
        world.server.gateway.invalidate(None, resumable=False)
        await until(lambda: late.carried_out)
        assert world.words() == ["tea", "hello", "hello"]
        world.server.gateway.offline = False
        await until(lambda: world.words() == ["tea", "hello"])
    assert str(world.channel.order[-1]) == second.id


async def test_what_comes_while_a_later_try_is_looked_for_is_left_to_that(world: World) -> None:
    """The same words, and each time they are posted no answer comes: each is found, and none taken for another's."""
    async with world.running() as adapter:
        last = await adapter.send(world.delivery("tea"))
        for key in ("k2", "k3", "k4"):
            world.server.faults.add(Fault("status", "POST", "/webhooks/", when="after", status=504))
            with pytest.raises(Transient):
                await adapter.send(world.delivery("hello", key=key, after=last))
            await until(lambda: len(world.inbox.of(MessageCreated)) == len(world.words()))
            last = await adapter.send(world.delivery("hello", key=key, suspect=True, after=last))
            assert last.id == str(world.channel.order[-1])
    assert world.words() == ["tea", "hello", "hello", "hello"]
    assert not world.inbox.of(MessageDeleted)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/webhooks$"),
        ("POST", "/webhooks/"),
        ("POST", "/channels/[0-9]+/messages$"),
        ("PATCH", "/webhooks/.*/messages/"),
        ("DELETE", "/messages/"),
        ("GET", "/channels/[0-9]+/messages/[0-9]+$"),
        ("GET", "/channels/[0-9]+/messages$"),
    ],
)
async def test_a_5xx_says_what_it_was_that_failed(world: World, method: str, path: str) -> None:
    async with world.running() as adapter:
        sent = await adapter.send(world.delivery())
        stream = f"channel:{world.channel.id}"
        await until(lambda: world.inbox.cursors.get(stream) == sent.id)  # so that the next one has not heard of it
    catch_up = (method, path) == ("GET", "/channels/[0-9]+/messages$")
    world.server.faults.add(Fault("status", method, path, count=None, skip=catch_up, status=503))
    async with world.running() as adapter:
        errors: list[Transient] = []
        for call in (
            adapter.send(world.delivery("two", key="k2")),
            adapter.send(world.delivery("notice", key="k3", author=None)),
            adapter.send(world.delivery("four", key="k4", suspect=True, after=sent)),
            adapter.quote(sent),
            adapter.edit(sent, world.delivery("five", key="k5")),
            adapter.delete(sent, "k6"),
        ):
            try:
                await call
            except Transient as error:
                errors.append(error)
    assert errors
    assert all(error.failed for error in errors)


async def test_a_webhook_that_cannot_be_made_for_a_5xx_is_what_failed(world: World) -> None:
    async with world.running() as adapter:
        world.server.faults.add(Fault("status", "POST", "/webhooks$", status=500))
        with pytest.raises(Transient) as caught:
            await adapter.send(world.delivery())
        assert caught.value.failed


@pytest.mark.parametrize("kind", ["reset", "hang", "rate_limit", "ban"])
async def test_what_only_has_to_wait_has_not_failed(world: World, kind: str) -> None:
    async with world.running() as adapter:
        await adapter.send(world.delivery())
        fault = Fault(kind, "POST", "/webhooks/", seconds=60)  # type: ignore[arg-type]
        if kind == "ban":
            fault = Fault("status", "POST", "/webhooks/", status=403, code=40333)
        world.server.faults.add(fault)
        with pytest.raises(Transient) as caught:
            await adapter.send(world.delivery("two", key="k2"))
        assert not caught.value.failed


@pytest.mark.parametrize("ahead", [timedelta(), timedelta(minutes=10), timedelta(days=40)], ids=str)
async def test_a_suspect_send_is_found_after_a_restart_whatever_our_clock_says(world: World, ahead: timedelta) -> None:
    now = SystemClock().now() + ahead
    async with world.running() as adapter:
        last = await adapter.send(world.delivery("first"))
        sent = await adapter.send(world.delivery("second", key="k2"))
    world.say("second")
    async with world.running() as adapter:
        suspect = world.delivery("second", key="k2", suspect=True, after=last, queued_at=now)
        assert await adapter.send(suspect) == sent


@pytest.mark.parametrize("webhooks", [True, False])
async def test_a_suspect_send_is_found_under_another_name(world: World, webhooks: bool) -> None:
    """The operator has set another template of names meanwhile, and Discord has forgotten the nonce."""
    if not webhooks:
        world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "SEND_MESSAGES")
    async with world.running() as adapter:
        last = await adapter.send(world.delivery("first"))
        sent = await adapter.send(world.delivery("second", key="k2"))
    renamed = replace(ALICE, name="Alice (Matrix)")
    async with world.running() as adapter:
        suspect = world.delivery("second", key="k3", author=renamed, suspect=True, after=last)
        assert await adapter.send(suspect) == sent
        other = world.delivery("third", key="k4", author=renamed, suspect=True, after=sent)
        assert await adapter.send(other) != sent


@pytest.mark.parametrize("webhooks", [True, False])
async def test_a_suspect_reply_is_found_after_an_edit_of_what_it_quotes(world: World, webhooks: bool) -> None:
    """Also where another lane may have left a message there: its own words are the same."""

    def saying(quoted: str, words: str) -> Content:
        quotation = quoted_line(Quotation("Bob", RichText.plain(quoted), "https://discord.com/channels/1/2/3"))
        return Content(RichText((quotation, *RichText.plain(words).blocks)))

    if not webhooks:
        world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "SEND_MESSAGES")
    async with world.running() as adapter:
        last = await adapter.send(world.delivery("first"))
        sent = await adapter.send(replace(world.delivery(key="k2"), content=saying("a question", "an answer")))
    async with world.running() as adapter:
        suspect = world.delivery(key="k3", suspect=True, after=last, alone=False)
        assert await adapter.send(replace(suspect, content=saying("a question", "another answer"))) != sent
        suspect = replace(suspect, key="k4")
        assert await adapter.send(replace(suspect, content=saying("another question", "an answer"))) == sent


@pytest.mark.parametrize("off", [timedelta(), timedelta(days=-1), timedelta(days=1)], ids=str)
async def test_what_stood_there_long_before_is_no_earlier_try(world: World, off: timedelta) -> None:
    world.clock = WrongClock(off)
    now = world.state.snowflakes
    world.state.snowflakes = Snowflakes(lambda: time.time() - 7200)
    async with world.running() as adapter:
        await adapter.send(world.delivery("second"))
    world.state.snowflakes = now
    async with world.running() as adapter:  # a new store: no copy is on record
        queued_at = world.clock.now()
        sent = await adapter.send(world.delivery("second", key="k2", suspect=True, queued_at=queued_at))
        assert world.words() == ["second", "second"]
    async with world.running() as adapter:
        assert await adapter.send(world.delivery("second", key="k2", suspect=True, queued_at=queued_at)) == sent


@pytest.mark.parametrize("off", [timedelta(), timedelta(days=-1), timedelta(days=1)], ids=str)
async def test_what_an_author_said_minutes_before_a_new_store_is_no_earlier_try(world: World, off: timedelta) -> None:
    """Where the first try was answered 503, an old message of its author was taken for it: what they said was lost."""
    world.clock = WrongClock(off)
    now = world.state.snowflakes
    world.state.snowflakes = Snowflakes(lambda: time.time() - 300)
    async with world.running() as adapter:
        await adapter.send(world.delivery("good morning"))
    world.state.snowflakes = now
    async with world.running() as adapter:  # a new store: no copy is on record
        queued_at = world.clock.now()
        sent = await adapter.send(world.delivery("who is there", key="k2", suspect=True, queued_at=queued_at))
        assert world.words() == ["good morning", "who is there"]
    async with world.running() as adapter:  # what it quotes may be another name since
        suspect = world.delivery("who is here", key="k2", suspect=True, queued_at=queued_at)
        assert await adapter.send(suspect) == sent


async def test_rate_limits_are_told_at_once_and_not_sent_twice(world: World) -> None:
    async with world.running() as adapter:
        await adapter.send(world.delivery())
        world.server.faults.add(Fault("rate_limit", "POST", "/webhooks/", seconds=0.7))
        with pytest.raises(RateLimited) as caught:
            await adapter.send(world.delivery("two", key="k2"))
        assert caught.value.retry_after == pytest.approx(0.7, abs=0.1)
        assert not caught.value.ambiguous
        with pytest.raises(RateLimited):
            await adapter.send(world.delivery("two", key="k2"))
        await asyncio.sleep(caught.value.retry_after or 0)
        await adapter.send(world.delivery("two", key="k2"))
    posts = world.server.api.statistics.requests["POST /webhooks/{webhook_id}/{webhook_token}"]
    assert posts == 3, "what would be refused is not even asked"
    assert world.words() == ["hello", "two"]


async def patiently(adapter: DiscordAdapter, delivery: Delivery) -> None:
    """Send as a lane does: again as soon as it may."""
    while True:
        try:
            await adapter.send(delivery)
        except RateLimited as error:
            await asyncio.sleep(error.retry_after or 0)
        else:
            return


async def test_keeps_to_the_limits_by_itself() -> None:
    async with SandboxServer(limits=Limits()) as server:
        world = World(server)
        others = [world.state.add_channel(world.guild, f"other {number}") for number in range(3)]
        async with world.running(world.channel, *others) as adapter:

            async def talk(channel: Channel) -> None:
                for number in range(11):
                    ref = ChannelRef(Platform.DISCORD, str(channel.id))
                    delivery = Delivery(
                        ref, f"{channel.id}.{number}"[-25:], ALICE, Content(RichText.plain(str(number)))
                    )
                    await patiently(adapter, delivery)

            await asyncio.gather(*(talk(channel) for channel in (world.channel, *others)))
        for channel in (world.channel, *others):
            assert [channel.messages[message].content for message in channel.order] == [str(n) for n in range(11)]
        # 201: the slash command was registered, in the background.
        assert server.api.statistics.statuses.keys() <= {200, 201}


@pytest.mark.parametrize("webhooks", [True, False])
async def test_copies_that_a_restored_store_does_not_know_are_found_one_by_one(world: World, webhooks: bool) -> None:
    if not webhooks:
        world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "SEND_MESSAGES")
    since = SystemClock().now() - timedelta(minutes=1)
    async with world.running() as adapter:
        known, first, second, edited = [
            await adapter.send(world.delivery(text, key=f"k{number}"))
            for number, text in enumerate(("hi", "hi", "hi", "words"))
        ]
        await adapter.edit(edited, world.delivery("other words", key="e"))
    world.say("new")

    async def on_record(ref: MessageRef) -> bool:
        return ref == known

    async with world.running() as adapter:

        async def again(key: str, text: str) -> MessageRef:
            return await adapter.send(
                world.delivery(text, key=key, suspect=True, alone=False, restored_since=since, on_record=on_record)
            )

        assert [await again(f"r{number}", "hi") for number in range(2)] == [first, second]
        if webhooks:
            # Matrix tells what it said at first.
            assert await again("r2", "words") == edited
        new = [await again(f"n{number}", text) for number, text in enumerate(("hi", "new"))]
        assert not {known, first, second, edited} & {*new}
