"""The Discord adapter against the sandbox: what it reports, what it posts, and what it survives."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from relay.adapters.discord.adapter import DiscordAdapter
from relay.adapters.discord.gateway.translator import DECLARED
from relay.core.clock import SystemClock
from relay.core.ports import Batch, Delivery
from relay.domain.content import Author, Content
from relay.domain.events import (
    Event,
    FeatureUsed,
    HistorySkipped,
    MessageCreated,
    MessageDeleted,
    MessageEdited,
)
from relay.domain.ids import ChannelAddress, ChannelRef, MediaRef, MessageRef, Platform, ThreadRef, UserRef
from relay.domain.text.nodes import RichText, plain_text
from relay.errors import (
    ActionNeeded,
    CopyNotEditable,
    FatalError,
    Permanent,
    RateLimited,
    StoreUnavailable,
    TargetGone,
    Transient,
)
from relay.sandbox.messages.drafts import Draft
from relay.sandbox.rest.faults import Fault, GatewayFault
from relay.sandbox.rest.ratelimits import Limits
from relay.sandbox.server import SandboxServer
from relay.sandbox.world.models import Channel, Message, Overwrite, User
from relay.sandbox.world.permissions import EVERYONE, Permission
from relay.sandbox.world.snowflakes import Snowflakes
from tests.support.world import WrongClock

ALICE = Author(UserRef(Platform.MATRIX, "@alice:example.org"), "Alice")


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in a server, which has no event to offer
            await asyncio.sleep(0.01)


@dataclass
class RecordingInbox:
    """The core as an adapter sees it: keeps events once each and cursors, can be told that the disk is full."""

    events: list[Event] = field(default_factory=list)
    cursors: dict[str, str] = field(default_factory=dict)
    channels: dict[str, str] = field(default_factory=dict)
    batches: int = 0
    broken: bool = False
    newest: int = 5000
    adapter: DiscordAdapter | None = None
    caught_up: list[str] = field(default_factory=list)
    seen: set[object] = field(default_factory=set)

    async def receive(self, batch: Batch) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise StoreUnavailable("relay.db", "the disk is full", "make room")
        self.batches += 1
        for event in batch.events:
            key = ("created", event.ref) if isinstance(event, MessageCreated) else object()
            if key not in self.seen:
                self.seen.add(key)
                self.events.append(event)
        self.cursors.update((cursor.stream, cursor.position) for cursor in batch.cursors)

    async def cursor(self, platform: Platform, stream: str) -> str | None:
        return self.cursors.get(stream)

    async def opened(
        self, address: ChannelAddress, channel: ChannelRef, *, predecessors: frozenset[ChannelRef] = frozenset()
    ) -> None:
        self.channels[address.value] = "open"

    async def closed(self, address: ChannelAddress, problem: str) -> None:
        self.channels[address.value] = problem

    async def last_original(self, channel: ChannelRef) -> MessageRef | None:
        raise AssertionError("history is read by the core")

    async def catch_up(self, channel: ChannelRef) -> None:
        assert self.adapter is not None
        after = self.cursors[f"channel:{channel.id}"]
        async for batch in self.adapter.history(channel, after, newest=self.newest):
            await self.receive(batch)
        self.caught_up.append(channel.id)

    def said(self) -> list[str]:
        """The words of all messages by others, in the order in which they came in."""
        return [
            plain_text(event.content.text)
            for event in self.events
            if isinstance(event, MessageCreated) and not event.author.is_self
        ]

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


class World:
    """A server with one channel, two people and our bot."""

    def __init__(self, server: SandboxServer) -> None:
        self.server = server
        self.state = server.state
        self.owner = self.state.add_user("olga", display_name="Olga")
        self.bob = self.state.add_user("bob", display_name="Bob")
        self.guild = self.state.add_guild("Stash", self.owner)
        self.state.add_member(self.guild, self.bob, nick="Bobby")
        people = self.state.add_role(self.guild, "people", EVERYONE)
        self.guild.members[self.bob.id].roles.append(people.id)
        self.app = self.state.add_application("relay")
        self.member = self.state.add_bot(self.guild, self.app)
        self.channel = self.state.add_channel(self.guild, "help")
        self.inbox = RecordingInbox()
        self.api_url = ""
        self.clock = SystemClock()

    @property
    def ref(self) -> ChannelRef:
        return ChannelRef(Platform.DISCORD, str(self.channel.id))

    @property
    def address(self) -> ChannelAddress:
        return ChannelAddress(Platform.DISCORD, str(self.channel.id))

    def say(
        self, text: str, *, author: User | None = None, channel: Channel | None = None, **fields: object
    ) -> Message:
        draft = Draft(content=text, **fields)  # type: ignore[arg-type]
        return self.server.messages.post(channel or self.channel, author or self.bob, draft)

    def edit(self, message: Message, text: str) -> None:
        draft = Draft(content=text, given=frozenset({"content"}))
        self.server.messages.edit(self.channel, message, message.author_id, draft)

    def message_ref(self, message: Message) -> MessageRef:
        return MessageRef(self.ref, str(message.id))

    def shown(self) -> list[Message]:
        return [self.channel.messages[message] for message in self.channel.order]

    def words(self) -> list[str]:
        return [message.content for message in self.shown()]

    def delivery(
        self, text: str = "hello", *, key: str = "k1", author: Author | None = ALICE, **more: object
    ) -> Delivery:
        return Delivery(self.ref, key, author, Content(RichText.plain(text)), **more)  # type: ignore[arg-type]

    def allow(self, *names: str) -> None:
        """The bot's role is granted exactly these."""
        role = self.guild.roles[self.member.roles[0]]
        everyone = self.guild.roles[self.guild.id]
        role.permissions = sum(Permission[name] for name in names)
        everyone.permissions = 0
        self.state.role_changed(self.guild, role)
        self.state.role_changed(self.guild, everyone)

    @asynccontextmanager
    async def running(self, *channels: Channel, ready: bool = True) -> AsyncIterator[DiscordAdapter]:
        api_url = self.api_url or self.server.api_url
        adapter = DiscordAdapter(token=self.app.token, api_url=api_url, clock=self.clock, timeout=3.0)
        self.inbox.adapter = adapter
        addresses = (ChannelAddress(Platform.DISCORD, str(channel.id)) for channel in channels or (self.channel,))
        await adapter.watch(frozenset(addresses))
        task = asyncio.create_task(adapter.run(self.inbox))
        try:
            if ready:
                await until(lambda: task.done() or adapter.health().state == "ready", 30)
            yield adapter
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])
            await adapter.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with SandboxServer(limits=Limits(factor=0)) as server:
        yield World(server)


# --- Reporting ----------------------------------------------------------------------------------------------


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


# --- Posting ------------------------------------------------------------------------------------------------


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


async def test_a_thread_is_caught_up_though_our_clock_is_weeks_ahead(world: World) -> None:
    world.clock = WrongClock(timedelta(days=40))
    async with world.running():
        world.say("live")
        await until(lambda: world.inbox.said() == ["live"])
    thread = world.server.threads.open_on(world.channel, world.say("root"), world.bob, "aside")
    world.say("in the thread", channel=thread)
    world.server.threads.archive(thread, archived=True)
    async with world.running():
        await until(lambda: "in the thread" in world.inbox.said())


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
        assert set(server.api.statistics.statuses) == {200}


async def test_refusals_by_kind(world: World) -> None:
    async with world.running() as adapter:
        await adapter.send(world.delivery())
        world.server.faults.add(Fault("status", "POST", "/webhooks/", status=400, code=50035))
        with pytest.raises(Permanent):
            await adapter.send(world.delivery("two", key="k2"))
        with pytest.raises(Permanent):
            await adapter.send(world.delivery("x" * 2001, key="k3"))
        world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "MANAGE_WEBHOOKS")
        with pytest.raises(ActionNeeded):
            await adapter.send(world.delivery("a notice", key="k4", author=None))


async def test_quotes_and_marks(world: World) -> None:
    message = world.say("what **he** said")
    async with world.running() as adapter:
        quotation = await adapter.quote(world.message_ref(message))
        assert quotation is not None
        assert (quotation.author, plain_text(quotation.text)) == ("Bob", "what he said")
        path = f"{world.guild.id}/{world.channel.id}/{message.id}"
        assert quotation.url == f"https://discord.com/channels/{path}"
        assert await adapter.mark_failed(world.message_ref(message), "too large")
        assert [reaction.name for reaction in message.reactions] == ["⚠️"]
        world.allow("VIEW_CHANNEL", "SEND_MESSAGES", "READ_MESSAGE_HISTORY")
        other = world.say("another")
        assert not await adapter.mark_failed(world.message_ref(other), "too large")


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


# --- Catching up ----------------------------------------------------------------------------------------------


async def test_catches_up_after_an_absence(world: World) -> None:
    async with world.running():
        world.say("live")
        await until(lambda: world.inbox.said() == ["live"])
    missed = [world.say(f"missed {number}") for number in range(250)]
    world.edit(missed[0], "mended")
    thread = world.server.threads.open_on(world.channel, missed[1], world.bob, "aside")
    world.say("in the thread", channel=thread)
    world.server.threads.archive(thread, archived=True)
    async with world.running():
        world.say("live again")
        await until(lambda: "live again" in world.inbox.said())
    expected = ["live", "mended", *(f"missed {number}" for number in range(1, 250)), "live again"]
    assert [text for text in world.inbox.said() if text != "in the thread"] == expected
    assert "in the thread" in world.inbox.said()
    names = {event.author.name for event in world.inbox.events if isinstance(event, MessageCreated)}
    assert names == {"Bobby"}


async def test_cursors_that_cannot_be_read_lose_nothing(world: World) -> None:
    async with world.running():
        root = world.say("live")
        thread = world.server.threads.open_on(world.channel, root, world.bob, "aside")
        world.say("in the thread", channel=thread)
        await until(lambda: world.inbox.said() == ["live", "in the thread"])
    world.say("missed")
    last = world.say("missed there", channel=thread)
    for stream, position in world.inbox.cursors.items():
        if stream != f"channel:{world.channel.id}":
            world.inbox.cursors[stream] = f"\ufffd {position} nonsense"
    async with world.running() as adapter:
        await until(lambda: sorted(world.inbox.said()[-2:]) == ["missed", "missed there"])
        page = [
            event
            async for page in adapter.reread(world.message_ref(root), world.message_ref(last))
            for event in page or ()
        ]
    assert "missed there" in [plain_text(event.content.text) for event in page]


async def test_skips_what_is_too_much_and_says_how_much(world: World) -> None:
    async with world.running():
        pass
    world.inbox.newest = 120
    for number in range(300):
        world.say(str(number))
    async with world.running():
        await until(lambda: len(world.inbox.said()) == 120)
    assert world.inbox.said() == [str(number) for number in range(180, 300)]
    assert world.inbox.of(HistorySkipped) == [HistorySkipped(world.ref, 180)]


async def test_rereads_what_stands_between_two_messages(world: World) -> None:
    messages = [world.say(str(number)) for number in range(230)]
    world.server.messages.remove(world.channel, [messages[5].id])
    world.edit(messages[7], "seven")
    async with world.running() as adapter:
        first, last = world.message_ref(messages[2]), world.message_ref(messages[220])
        found = [event async for page in adapter.reread(first, last) for event in page or ()]
    expected = [str(number) for number in range(2, 221) if number != 5]
    expected[expected.index("7")] = "seven"
    assert [plain_text(event.content.text) for event in found] == expected
    assert [event.edited_at is not None for event in found].count(True) == 1


async def test_a_store_that_fails_loses_nothing(world: World) -> None:
    async with world.running():
        world.inbox.broken = True
        for number in range(20):
            world.say(str(number))
        await asyncio.sleep(0.3)
        world.inbox.broken = False
        await until(lambda: len(world.inbox.said()) == 20)
    assert world.inbox.said() == [str(number) for number in range(20)]


# --- The gateway ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1006, 4000, 4003, 4007, 4008, 4009])
async def test_survives_every_close_code_that_is_not_final(world: World, code: int) -> None:
    async with world.running() as adapter:
        world.say("one")
        if code == 1006:
            world.server.gateway.abort()
        else:
            world.server.gateway.drop(code)
        world.say("two")
        await until(lambda: world.inbox.said() == ["one", "two"], 20)
        await until(lambda: adapter.health().state == "ready", 20)


async def test_survives_an_invalid_session_and_reads_what_it_missed(world: World) -> None:
    async with world.running() as adapter:
        message = world.say("one")
        await until(lambda: world.inbox.said() == ["one"])
        world.server.gateway.invalidate(resumable=False)
        world.say("two")
        world.server.messages.remove(world.channel, [message.id])
        await until(lambda: world.inbox.said() == ["one", "two"], 20)
        await until(lambda: adapter.health().state == "ready", 20)
        assert world.inbox.caught_up == [str(world.channel.id)]


async def test_survives_a_dispatch_that_nobody_can_parse(world: World) -> None:
    async with world.running():
        for event in ("MESSAGE_CREATE", "GUILD_UPDATE", "CHANNEL_UPDATE", "TYPING_START"):
            world.server.gateway.send_garbage(event)
        world.say("still here")
        await until(lambda: world.inbox.said() == ["still here"])


async def test_notices_a_dispatch_that_was_lost(world: World) -> None:
    async with world.running():
        world.server.faults.add_gateway(GatewayFault("drop", "MESSAGE_CREATE"))
        world.say("lost")
        world.say("next")
        await until(lambda: world.inbox.said() == ["lost", "next"])


async def test_a_doubled_or_reordered_dispatch_loses_nothing(world: World) -> None:
    async with world.running():
        world.server.faults.add_gateway(GatewayFault("duplicate", "MESSAGE_CREATE"))
        world.server.faults.add_gateway(GatewayFault("reorder", "MESSAGE_CREATE", skip=1))
        for number in range(5):
            world.say(str(number))
        await until(lambda: len(world.inbox.said()) == 5)
    assert sorted(world.inbox.said()) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("refusals", [1, 3])
async def test_survives_a_first_connection_that_fails(world: World, refusals: int) -> None:
    world.server.gateway.refuse = refusals
    async with world.running() as adapter:
        await until(lambda: adapter.health().state == "ready", 20)


async def test_waits_for_an_api_that_does_not_answer(world: World) -> None:
    world.server.api.offline = True
    async with world.running(ready=False) as adapter:
        await until(lambda: adapter.health().detail)
        assert adapter.health().state == "connecting"
        world.server.api.offline = False
        await until(lambda: adapter.health().state == "ready", 20)


async def test_a_token_that_is_refused_once_is_tried_again(world: World) -> None:
    async with world.running() as adapter:
        await adapter.send(world.delivery())
        world.server.faults.add(Fault("status", "GET", "/messages/", status=401))
        with pytest.raises(Transient):
            await adapter.quote(MessageRef(world.ref, "1"))
        await asyncio.sleep(0.3)
        await adapter.send(world.delivery("still here", key="k2"))


async def test_ends_when_the_token_is_taken_away(world: World) -> None:
    adapter = DiscordAdapter(token=world.app.token, api_url=world.server.api_url, clock=SystemClock())
    await adapter.watch(frozenset({world.address}))
    running = asyncio.create_task(adapter.run(world.inbox))
    await until(lambda: adapter.health().state == "ready")
    world.app.token = "another"
    with pytest.raises(Transient):
        await adapter.send(world.delivery(author=None))
    with pytest.raises(FatalError, match="Reset Token"):
        await running
    await adapter.close()


async def test_ends_when_the_token_is_refused(world: World) -> None:
    world.app.token = "another"
    adapter = DiscordAdapter(token="nonsense", api_url=world.server.api_url, clock=SystemClock())
    with pytest.raises(FatalError, match="Reset Token"):
        await adapter.run(world.inbox)
    assert adapter.health().state == "failed"
    await adapter.close()


async def test_ends_when_the_message_content_intent_is_off(world: World) -> None:
    world.app.message_content = False
    adapter = DiscordAdapter(token=world.app.token, api_url=world.server.api_url, clock=SystemClock())
    with pytest.raises(FatalError, match="Message Content Intent"):
        await adapter.run(world.inbox)
    await adapter.close()


@pytest.mark.parametrize("code", [4004, 4010, 4011, 4012, 4013, 4014])
async def test_ends_on_a_final_close_code(world: World, code: int) -> None:
    adapter = DiscordAdapter(token=world.app.token, api_url=world.server.api_url, clock=SystemClock())
    running = asyncio.create_task(adapter.run(world.inbox))
    await until(lambda: adapter.health().state == "ready")
    world.server.gateway.drop(code)
    with pytest.raises(FatalError, match=str(code)):
        await running
    await adapter.close()


# --- Channels -------------------------------------------------------------------------------------------------


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


async def test_a_permission_that_comes_back_brings_what_was_missed(world: World) -> None:
    async with world.running():
        world.say("one")
        await until(lambda: world.inbox.said() == ["one"])
        world.state.set_overwrite(world.channel, Overwrite(world.guild.id, 0, deny=Permission.VIEW_CHANNEL))
        await until(lambda: "View Channel" in world.inbox.channels[str(world.channel.id)])
        world.say("two", author=world.owner)
        world.state.clear_overwrite(world.channel, world.guild.id)
        await until(lambda: world.inbox.said() == ["one", "two"])
        assert world.inbox.channels[str(world.channel.id)] == "open"


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


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_was_said_while_a_channel_was_not_declared_does_not_cross(world: World, restarted: bool) -> None:
    other = world.state.add_channel(world.guild, "other")

    async def say(words: str, *heard: Channel) -> None:
        ids = " ".join(sorted(str(channel.id) for channel in heard))
        await until(lambda: world.inbox.cursors.get(DECLARED) == ids)
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


async def test_where_no_more_webhooks_fit_the_bot_speaks_and_says_how_much_it_can(world: World) -> None:
    for _ in range(15):
        world.server.webhooks.create(world.channel, "other", world.owner)
    async with world.running() as adapter:
        with pytest.raises(Transient):
            await adapter.send(world.delivery("x" * 2000))
        limit = adapter.capabilities(world.ref).max_text_length
        await adapter.send(world.delivery("x" * limit, key="k2"))
    assert world.words() == [f"**Alice**: {'x' * limit}"]


async def test_a_picture_that_discord_does_not_take_costs_no_message(world: World) -> None:
    picture = MediaRef(Platform.MATRIX, "https://example.org/" + "a" * 3000)
    async with world.running() as adapter:
        await adapter.send(world.delivery(author=Author(ALICE.user, "Alice", picture)))
    assert world.words() == ["hello"]


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
