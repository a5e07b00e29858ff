"""The Discord adapter against the sandbox: a server with one channel, and a core that records what it is told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from relay.adapters.discord.adapter import DiscordAdapter
from relay.config.mistakes import validated
from relay.config.settings import DiscordSettings
from relay.core.clock import SystemClock
from relay.core.files import Files
from relay.core.ports import CommandCall, Delivery, EventBatch, OnRecord
from relay.core.storage import Store
from relay.domain.content import Author, Content
from relay.domain.events import (
    Event,
    MessageCreated,
)
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, Platform, UserRef
from relay.domain.text.nodes import RichText, plain_text
from relay.errors import (
    StoreUnavailable,
)
from relay.sandbox.messages.drafts import Draft
from relay.sandbox.server import SandboxServer
from relay.sandbox.world.models import Channel, Message, User
from relay.sandbox.world.permissions import EVERYONE, Permission
from tests.support.patience import PATIENCE

ALICE = Author(UserRef(Platform.MATRIX, "@alice:example.org"), "Alice")


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in a server, which has no event to offer
            await asyncio.sleep(0.01)


def discord_settings(token: str, api_url: str, **more: object) -> DiscordSettings:
    """What a relay on the sandbox is told."""
    return validated(DiscordSettings, {"token": token, "api_url": api_url, **more})


@dataclass
class RecordingInbox:
    """The core as an adapter sees it: keeps events once each and cursors, can be told that the disk is full."""

    events: list[Event] = field(default_factory=list)
    cursors: dict[str, str] = field(default_factory=dict)
    channels: dict[str, str] = field(default_factory=dict)
    batches: int = 0
    broken: bool = False
    # How often it could keep nothing.
    refused: int = 0
    newest: int = 5000
    threads_cross: bool = True
    adapter: DiscordAdapter | None = None
    caught_up: list[str] = field(default_factory=list)
    # Whether a channel was for adults, each time it was opened.
    marks: list[tuple[str, bool | None]] = field(default_factory=list)
    seen: set[object] = field(default_factory=set)

    async def receive(self, batch: EventBatch) -> None:
        await asyncio.sleep(0)
        if self.broken:
            self.refused += 1
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
        if self.adapter is not None:
            self.marks.append((channel.id, self.adapter.age_restricted(channel)))

    async def closed(self, address: ChannelAddress, problem: str) -> None:
        self.channels[address.value] = problem

    async def post_again(
        self, channel: ChannelRef, post: Callable[[], Awaitable[Mapping[MessageRef, MessageRef]]]
    ) -> Collection[MessageRef]:
        raise AssertionError("no channel of this platform is replaced")

    def health_changed(self) -> None:
        pass

    async def last_originals(self, channel: ChannelRef, limit: int) -> Sequence[OnRecord]:
        raise AssertionError("history is read by the core")

    async def catch_up(self, channel: ChannelRef, after: str) -> None:
        assert self.adapter is not None
        missed = self.adapter.history(
            channel, after, newest=self.newest, threads_cross=self.threads_cross, reread_from=None
        )
        async for batch in missed:
            await self.receive(batch)
        self.caught_up.append(channel.id)

    async def command(self, call: CommandCall) -> RichText:
        return RichText.plain(" ".join(call.words))

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
    async def running(
        self,
        *channels: Channel,
        ready: bool = True,
        files: Files | None = None,
        store: Store | None = None,
        members_intent: bool = False,
    ) -> AsyncIterator[DiscordAdapter]:
        url = self.api_url or self.server.api_url
        settings = discord_settings(self.app.token, url, members_intent=members_intent)
        adapter = DiscordAdapter(settings=settings, clock=self.clock, timeout=3.0, files=files, store=store)
        self.inbox.adapter = adapter
        addresses = (ChannelAddress(Platform.DISCORD, str(channel.id)) for channel in channels or (self.channel,))
        await adapter.watch(frozenset(addresses))
        task = asyncio.create_task(adapter.run(self.inbox))
        try:
            if ready:
                await until(lambda: task.done() or adapter.health().state == "ready")
            yield adapter
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])
            await adapter.close()
