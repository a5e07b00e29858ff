"""Opens and closes the declared channels, and has their history read when something was missed.

A channel is open while the bot may read and write in it. All of them are checked again whenever something may have
changed.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.errors import MISSING, ApiError, Refused, translate_read_errors
from relay.adapters.discord.gateway.buffers import ChannelBuffer, ChannelBuffers
from relay.adapters.discord.gateway.channel_access import BotAccess, ChannelAccess
from relay.adapters.discord.gateway.guild_cache import GuildCache
from relay.adapters.discord.history import History
from relay.adapters.discord.identifiers import (
    DECLARED_STREAM,
    channel_ref,
    messages_stream,
    parse_ids,
    threads_stream,
    webhooks_stream,
)
from relay.adapters.discord.permissions import COPY_CHANNEL_ID, DIRECT_KINDS, DIRECT_MESSAGE
from relay.adapters.discord.webhooks import Webhooks
from relay.core.clock import Backoff, wait_at_most
from relay.core.ports import Clock, Cursor, EventBatch, Inbox
from relay.domain.ids import ChannelAddress, Platform
from relay.errors import DeliveryError, StoreError, StoreUnavailable
from relay.logs import get_logger

_log = get_logger(__name__)

# Seconds between two checks. Discord announces changes; this is for an announcement that was missed.
_CHECK_EVERY = 30.0
# The same while nothing certain can be said of some channel.
_CHECK_SOON = 0.5
_WEBHOOKS_TIMEOUT = 5.0
# Seconds for asking for a channel that the gateway does not tell of, until the next try after that failed, and until it
# is asked for again.
_FETCH_TIMEOUT, _FETCH_SOON, _FETCH_AGAIN = 5.0, 5.0, 60.0
# More of them would wait for Discord's limit for all requests together, with eight KiB each.
_READ_AT_ONCE = 24


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Channels:
    """The declared channels, from being found to being up to date."""

    clock: Clock
    rng: random.Random
    rest: RestClient
    guilds: GuildCache
    access: BotAccess
    buffers: ChannelBuffers
    webhooks: Webhooks
    history: History
    _declared: frozenset[ChannelAddress] = field(init=False, default=frozenset())
    # The declared channels as they were last written to disk.
    _recorded: frozenset[ChannelAddress] | None = field(init=False, default=None)
    # Why a channel is closed.
    _problems: dict[ChannelAddress, str] = field(init=False, default_factory=dict)
    # The guilds whose webhooks were listed.
    _webhooks_listed: set[str] = field(init=False, default_factory=set)
    # For channels that the gateway does not tell of: when each is asked for again (monotonic), and why it is closed.
    _fetch_again_at: dict[str, float] = field(init=False, default_factory=dict)
    _absent: dict[str, str] = field(init=False, default_factory=dict)
    # How often in a row nobody could say what it is.
    _fetch_tries: dict[str, int] = field(init=False, default_factory=dict)
    _changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    # Counts the changes of what is declared, and of what is closed.
    _changes: int = field(init=False, default=0)
    # How many channels were not up to date after which changes: it is asked for ten times a second.
    _counted: tuple[tuple[int, int], int] = field(init=False, default=((-1, -1), 0))
    # Histories that are read at the same time.
    _reading: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(_READ_AT_ONCE))

    def watch(self, addresses: frozenset[ChannelAddress]) -> None:
        """Set the declared channels."""
        self._declared = addresses
        self.guilds.declare(frozenset(address.value for address in addresses))
        self._problems = {address: problem for address, problem in self._problems.items() if address in addresses}
        self._changes += 1
        self._changed.set()

    @property
    def recorded(self) -> bool:
        """Whether it stands on disk which channels were declared when this process began to read."""
        return self._recorded is not None

    async def read_from(self, inbox: Inbox, channel: str, position: str) -> None:
        """Read a channel from `position` on once it is declared, although it was not ours until now; "": from then on.

        Its threads are read from then on: where another relay stopped in them is not known.
        """
        declared = set((await inbox.cursor(Platform.DISCORD, DECLARED_STREAM) or "").split()) - {channel}
        threads = await self._read_active_threads(inbox, channel)
        cursors = [
            Cursor(Platform.DISCORD, name, "") for name in (threads_stream(channel), *map(messages_stream, threads))
        ]
        if position:
            declared.add(channel)
        cursors += (
            Cursor(Platform.DISCORD, DECLARED_STREAM, " ".join(sorted(declared))),
            Cursor(Platform.DISCORD, messages_stream(channel), position, resumes=bool(position)),
        )
        await inbox.receive(EventBatch(cursors=tuple(cursors)))

    def session_started(self, is_concerned: Callable[[str], bool]) -> None:
        """A new session has begun: something may have been missed in every channel of these servers."""
        self._webhooks_listed = {guild for guild in self._webhooks_listed if not is_concerned(guild)}
        self._fetch_again_at.clear()
        self.read_again(is_concerned)

    def read_again(self, is_concerned: Callable[[str], bool]) -> None:
        """Read the history of every channel of these servers, because something may have been missed."""
        self.buffers.hold(is_concerned)
        self.guilds.forget_last_messages(is_concerned)
        self._changed.set()

    def check_again(self) -> None:
        """Check all channels soon: something changed that may open or close one, or leave it behind."""
        self._changed.set()

    def catching_up(self) -> int:
        """How many declared channels are neither closed nor up to date."""
        changes = (self._changes, self.buffers.changes)
        if self._counted[0] != changes:
            late = sum(1 for address in self._declared if not self._is_closed_or_up_to_date(address))
            self._counted = (changes, late)
        return self._counted[1]

    def _is_closed_or_up_to_date(self, address: ChannelAddress) -> bool:
        if address in self._problems:
            return True
        buffer = self.buffers.get(address.value)
        return buffer is not None and (not buffer.behind or buffer.stuck)

    async def run(self, inbox: Inbox, group: asyncio.TaskGroup) -> None:
        """Work until cancelled. Histories are read in tasks of `group`."""
        backoff = Backoff(self.rng, first=0.5, longest=10.0)
        while True:
            self._changed.clear()
            try:
                certain = await self._check_all(inbox, group)
            except StoreUnavailable:
                await self.clock.sleep(backoff.next())
                self._changed.set()
                continue
            backoff.reset()
            await wait_at_most(self._changed, _CHECK_EVERY if certain else _CHECK_SOON)

    async def _check_all(self, inbox: Inbox, group: asyncio.TaskGroup) -> bool:
        """Check every channel once. Returns whether the state of all is certain."""
        for buffer in [buffer for buffer in self.buffers if buffer.address not in self._declared]:
            self.buffers.remove(buffer)
        await self._record_declared(inbox)
        certain = True
        for address in sorted(self._declared):
            found = self.access.of(address.value)
            if isinstance(found, str) and address.value.isdecimal() and self.guilds.guild_of(address.value) is None:
                found = await self._fetch_access(address.value, found)
            match found:
                case None:
                    certain = False
                case ChannelAccess() as access:
                    await self._open(inbox, group, address, access)
                case problem:
                    await self._close(inbox, address, problem)
        return certain

    async def _fetch_access(self, channel: str, absent: str) -> ChannelAccess | str | None:
        """Ask for a channel that the gateway does not tell of: an archived thread, or none (`absent`)."""
        if self.clock.monotonic() < self._fetch_again_at.get(channel, 0.0):
            return self._absent.get(channel, absent)
        self._absent[channel], again = absent, _FETCH_AGAIN
        try:
            async with asyncio.timeout(_FETCH_TIMEOUT):
                found = await self.rest.call(Route("GET", "/channels/{channel}", {"channel": channel}))
        except Refused as error:
            if error.code in MISSING:
                self._absent[channel] = self.access.unseen(channel)
        except (ApiError, TimeoutError) as error:
            self._fetch_tries[channel] = tries = self._fetch_tries.get(channel, 0) + 1
            reason = str(error) or type(error).__name__
            _log.info("discord channel not looked up", channel=channel, reason=reason, tries=tries)
            again = _FETCH_SOON
        else:
            self._fetch_tries.pop(channel, None)
            if isinstance(found, dict) and self.guilds.remember_thread(found):
                return self.access.of(channel)
            if isinstance(found, dict) and found.get("type") in DIRECT_KINDS:
                self._absent[channel] = f"{channel} is {DIRECT_MESSAGE}: {COPY_CHANNEL_ID}"
        self._fetch_again_at[channel] = self.clock.monotonic() + again
        return self._absent[channel]

    async def _record_declared(self, inbox: Inbox) -> None:
        """Write down which channels are declared. One that was not declared last time starts from now.

        Its pair was new, archived, or not in the file, so what was said in it meanwhile is not to cross.
        """
        if self._declared == self._recorded:
            return
        declared = self._declared
        names = {address.value for address in declared}
        position = await inbox.cursor(Platform.DISCORD, DECLARED_STREAM)
        before = parse_ids(position, stream=DECLARED_STREAM)
        if len(before) < len((position or "").split()):
            position = None  # It is not known what was declared last, so no channel starts from now.
        cursors = [Cursor(Platform.DISCORD, DECLARED_STREAM, " ".join(sorted(names)))]
        for channel in sorted(names.difference(names if position is None else before)):
            threads = await self._read_active_threads(inbox, channel)
            streams = (messages_stream(channel), threads_stream(channel), *map(messages_stream, threads))
            cursors += (Cursor(Platform.DISCORD, name, "") for name in streams)
        if len(cursors) > 1 or cursors[0].position != position:
            await inbox.receive(EventBatch(cursors=tuple(cursors)))
        for channel in names:
            await self._restore_webhooks(inbox, channel)
        self._recorded = declared

    async def _restore_webhooks(self, inbox: Inbox, channel: str) -> None:
        if not self.webhooks.is_restored(channel):
            name = webhooks_stream(channel)
            used = parse_ids(await inbox.cursor(Platform.DISCORD, name), stream=name)
            self.webhooks.restore(channel, tuple(used))

    async def _read_active_threads(self, inbox: Inbox, channel: str) -> list[str]:
        name = threads_stream(channel)
        return parse_ids(await inbox.cursor(Platform.DISCORD, name), stream=name)

    async def _open(
        self, inbox: Inbox, group: asyncio.TaskGroup, address: ChannelAddress, access: ChannelAccess
    ) -> None:
        await self._list_webhooks(access.guild)
        buffer = self.buffers.get(address.value)
        if buffer is None:
            if access.parent is not None:
                await self._restore_webhooks(inbox, access.parent)
            if access.private:
                await self._join(address.value)
            active_threads = await self._read_active_threads(inbox, address.value)
            buffer = ChannelBuffer(address, channel_ref(address.value), access, active_threads=active_threads)
            # Its events are kept from here on, so nothing is missed between this and the reading of the history.
            self.buffers.add(buffer)
            try:
                await inbox.opened(address, buffer.channel)
            except StoreUnavailable:
                self.buffers.remove(buffer)
                raise
            self._problems.pop(address, None)
            self._changes += 1
        elif buffer.access != access:
            before, buffer.access = buffer.access, access
            # A lane may be waiting for a permission that has been given, or for the mark that it is for adults.
            try:
                await inbox.opened(address, buffer.channel)
            except StoreUnavailable:
                buffer.access = before  # so that it is told again
                raise
        if buffer.behind and (buffer.task is None or buffer.task.done()):
            buffer.task = group.create_task(self._catch_up(inbox, buffer), name=f"discord catch-up {buffer.channel.id}")

    async def _join(self, thread: str) -> None:
        """Join a private thread: only its members get its messages."""
        route = Route("PUT", "/channels/{channel}/thread-members/@me", {"channel": thread})
        try:
            async with asyncio.timeout(_FETCH_TIMEOUT):
                await self.rest.call(route)
        except (ApiError, TimeoutError) as error:
            # An archived thread cannot be joined. When somebody opens it again, Discord tells, and this is tried again.
            _log.info("discord thread not joined", thread=thread, reason=str(error) or type(error).__name__)

    async def _close(self, inbox: Inbox, address: ChannelAddress, problem: str) -> None:
        buffer = self.buffers.get(address.value)
        if buffer is not None:
            self.buffers.remove(buffer)
            # Of what is said while the bot may not see it, nothing is dispatched.
            self.guilds.forget_last_messages(buffer.access.guild.__eq__)
        if self._problems.get(address) != problem:
            await inbox.closed(address, problem)
            self._problems[address] = problem
            self._changes += 1

    async def _list_webhooks(self, guild: str) -> None:
        """Learn which webhooks are ours before the first event: in one request, if that is allowed."""
        if guild in self._webhooks_listed or not self.access.may_list_webhooks(guild):
            return
        self._webhooks_listed.add(guild)
        try:
            async with asyncio.timeout(_WEBHOOKS_TIMEOUT):
                await self.webhooks.list_guild(guild)
        except (ApiError, TimeoutError) as error:
            # Not needed: the webhooks of a channel are listed before its first use, and messages name our application.
            _log.info("webhooks not listed", guild=guild, reason=str(error) or type(error).__name__)

    async def _catch_up(self, inbox: Inbox, buffer: ChannelBuffer) -> None:
        """Read what was missed in a channel, then let its live events go. Tries until it succeeds."""
        backoff = Backoff(self.rng, first=0.5, longest=30.0)
        while True:
            try:
                async with self._reading:
                    buffer.read_again = False
                    await self._read(inbox, buffer)
            except (StoreUnavailable, DeliveryError) as error:
                tries = backoff.tries + 1
                _log.warning("discord catch up waits", channel=buffer.channel.id, reason=str(error), tries=tries)
            except StoreError:
                raise
            except Exception:  # noqa: BLE001 - the top of this worker: tried again, and logged
                _log.exception("discord catch up failed", channel=buffer.channel.id, tries=backoff.tries + 1)
            else:
                if self.buffers.release(buffer):
                    buffer.task = None
                    return
                continue
            # What is held back stays held back. What was dropped meanwhile comes with the next reading.
            self.buffers.mark_stuck(buffer)
            await self.clock.sleep(backoff.next())

    async def _read(self, inbox: Inbox, buffer: ChannelBuffer) -> None:
        name = messages_stream(buffer.channel.id)
        if position := await inbox.cursor(Platform.DISCORD, name):
            await inbox.catch_up(buffer.channel, position)
            return
        # The first start: nothing older crosses. What is said from now on is held back until the cursor is on disk.
        with translate_read_errors(buffer.channel.id):
            newest = await self.history.newest(buffer.channel.id)
        await inbox.receive(EventBatch(cursors=(Cursor(Platform.DISCORD, name, newest),)))
