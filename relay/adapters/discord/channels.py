"""Which declared channels can be mirrored now: opens, closes and tries them again, and has what was missed read."""

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress

import structlog

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.errors import MISSING, ApiError, Refused, translate_read_errors
from relay.adapters.discord.gateway.buffers import ChannelBuffer, ChannelBuffers
from relay.adapters.discord.gateway.guild_cache import ChannelAccess, GuildCache
from relay.adapters.discord.history import History
from relay.adapters.discord.identifiers import (
    DECLARED_STREAM,
    channel_ref,
    messages_stream,
    parse_ids,
    threads_stream,
    webhooks_stream,
)
from relay.adapters.discord.outbound.webhooks import Webhooks
from relay.core.clock import Backoff
from relay.core.ports import Clock, Cursor, EventBatch, Inbox
from relay.domain.ids import ChannelAddress, Platform
from relay.errors import DeliveryError, StoreError, StoreUnavailable

_log = structlog.get_logger(__name__)

# Changes are announced; this is for the case that an announcement was missed.
_LOOK_EVERY = 30.0
_LOOK_SOON = 0.5
_SURVEY_TIMEOUT = 5.0
# Seconds for a look-up of a channel that the gateway does not tell of, and until the next.
_LOOK_UP_TIMEOUT, _LOOK_UP_SOON, _LOOK_UP_AGAIN = 5.0, 5.0, 60.0


class Channels:
    """The declared channels, from being found to being up to date."""

    def __init__(
        self,
        *,
        clock: Clock,
        rng: random.Random,
        rest: RestClient,
        guilds: GuildCache,
        buffers: ChannelBuffers,
        webhooks: Webhooks,
        history: History,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._rest = rest
        self._guilds = guilds
        self._buffers = buffers
        self._webhooks = webhooks
        self._history = history
        self._declared: frozenset[ChannelAddress] = frozenset()
        self._recorded: frozenset[ChannelAddress] | None = None
        self._problems: dict[ChannelAddress, str] = {}
        self._surveyed: set[str] = set()
        self._looked_up: dict[str, float] = {}
        self._absent: dict[str, str] = {}
        self._changed = asyncio.Event()

    def watch(self, addresses: frozenset[ChannelAddress]) -> None:
        """These are the declared channels from now on."""
        self._declared = addresses
        self._guilds.declare(frozenset(address.value for address in addresses))
        self._problems = {address: problem for address, problem in self._problems.items() if address in addresses}
        self._changed.set()

    def session_started(self) -> None:
        """A new session has begun: something may have been missed everywhere."""
        self._surveyed.clear()
        self._looked_up.clear()
        self.something_missed()

    def something_missed(self) -> None:
        """Have every channel's history read."""
        self._buffers.hold_all()
        self._changed.set()

    def look_again(self) -> None:
        """Something changed that may open or close a channel, or leave it behind."""
        self._changed.set()

    def unsettled(self) -> int:
        """How many declared channels are neither closed nor up to date."""
        return sum(1 for address in self._declared if not self._is_settled(address))

    def _is_settled(self, address: ChannelAddress) -> bool:
        if address in self._problems:
            return True
        buffer = self._buffers.get(address.value)
        return buffer is not None and (not buffer.behind or buffer.stuck)

    async def run(self, inbox: Inbox, group: asyncio.TaskGroup) -> None:
        """Work until cancelled; what is read runs in tasks of `group`."""
        backoff = Backoff(self._rng, first=0.5, most=10.0)
        while True:
            self._changed.clear()
            try:
                certain = await self._look(inbox, group)
            except StoreUnavailable:
                await self._clock.sleep(backoff.next())
                self._changed.set()
                continue
            backoff.reset()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY if certain else _LOOK_SOON):
                    await self._changed.wait()

    async def _look(self, inbox: Inbox, group: asyncio.TaskGroup) -> bool:
        """Look at every channel once; whether something certain could be said of each."""
        for buffer in [buffer for buffer in self._buffers if buffer.address not in self._declared]:
            self._buffers.remove(buffer)
        await self._record(inbox)
        certain = True
        for address in sorted(self._declared):
            found = self._guilds.access(address.value)
            if isinstance(found, str) and address.value.isdecimal() and self._guilds.guild_of(address.value) is None:
                found = await self._look_up(address.value, found)
            match found:
                case None:
                    certain = False
                case ChannelAccess() as access:
                    await self._open(inbox, group, address, access)
                case problem:
                    await self._close(inbox, address, problem)
        return certain

    async def _look_up(self, channel: str, absent: str) -> ChannelAccess | str | None:
        """A channel that the gateway does not tell of: an archived thread, or none. `absent` says the latter."""
        if self._clock.monotonic() < self._looked_up.get(channel, 0.0):
            return self._absent.get(channel, absent)
        self._absent[channel], again = absent, _LOOK_UP_AGAIN
        try:
            async with asyncio.timeout(_LOOK_UP_TIMEOUT):
                found = await self._rest.call(Route("GET", "/channels/{channel}", {"channel": channel}))
        except Refused as error:
            if error.code in MISSING:
                self._absent[channel] = f"the bot may not see {channel}: add it to the thread, if it is a private one"
        except (ApiError, TimeoutError) as error:
            _log.info("discord channel not looked up", channel=channel, reason=str(error) or type(error).__name__)
            again = _LOOK_UP_SOON
        else:
            if isinstance(found, Mapping) and self._guilds.remember_thread(found):
                return self._guilds.access(channel)
        self._looked_up[channel] = self._clock.monotonic() + again
        return self._absent[channel]

    async def _record(self, inbox: Inbox) -> None:
        """Remember what is declared. A channel that was not declared last time starts from now.

        Nobody wanted what was said in it meanwhile: a pair that was archived, or taken out of the file.
        """
        if self._declared == self._recorded:
            return
        declared = self._declared
        names = {address.value for address in declared}
        position = await inbox.cursor(Platform.DISCORD, DECLARED_STREAM)
        before = parse_ids(position, stream=DECLARED_STREAM)
        if len(before) < len((position or "").split()):
            position = None  # Who was declared last is not known: nobody starts anew for that.
        cursors = [Cursor(Platform.DISCORD, DECLARED_STREAM, " ".join(sorted(names)))]
        for channel in sorted(names.difference(names if position is None else before)):
            threads = await self._threads(inbox, channel)
            streams = (messages_stream(channel), threads_stream(channel), *map(messages_stream, threads))
            cursors += (Cursor(Platform.DISCORD, name, "") for name in streams)
        await inbox.receive(EventBatch(cursors=tuple(cursors)))
        for channel in names:
            await self._remember_webhooks(inbox, channel)
        self._recorded = declared

    async def _remember_webhooks(self, inbox: Inbox, channel: str) -> None:
        if not self._webhooks.remembers(channel):
            name = webhooks_stream(channel)
            used = parse_ids(await inbox.cursor(Platform.DISCORD, name), stream=name)
            self._webhooks.remember(channel, tuple(used))

    async def _threads(self, inbox: Inbox, channel: str) -> list[str]:
        name = threads_stream(channel)
        return parse_ids(await inbox.cursor(Platform.DISCORD, name), stream=name)

    async def _open(
        self, inbox: Inbox, group: asyncio.TaskGroup, address: ChannelAddress, access: ChannelAccess
    ) -> None:
        await self._survey(access.guild)
        buffer = self._buffers.get(address.value)
        if buffer is None:
            if access.parent is not None:
                await self._remember_webhooks(inbox, access.parent)
            if access.private:
                await self._join(address.value)
            active_threads = await self._threads(inbox, address.value)
            buffer = ChannelBuffer(address, channel_ref(address.value), access, active_threads=active_threads)
            # From here on its events are kept, so nothing falls between this and the reading.
            self._buffers.add(buffer)
            try:
                await inbox.opened(address, buffer.channel)
            except StoreUnavailable:
                self._buffers.remove(buffer)
                raise
            self._problems.pop(address, None)
        elif buffer.access != access:
            buffer.access = access
            # A lane may be waiting for just this permission.
            await inbox.opened(address, buffer.channel)
        if buffer.behind and (buffer.task is None or buffer.task.done()):
            buffer.task = group.create_task(self._catch_up(inbox, buffer), name=f"discord catch-up {buffer.channel.id}")

    async def _join(self, thread: str) -> None:
        """Come into a private thread: who is not in it is not told what is said there."""
        route = Route("PUT", "/channels/{channel}/thread-members/@me", {"channel": thread})
        try:
            async with asyncio.timeout(_LOOK_UP_TIMEOUT):
                await self._rest.call(route)
        except (ApiError, TimeoutError) as error:
            # Nobody comes into an archived one; who opens it again is heard, and this is tried again then.
            _log.info("discord thread not joined", thread=thread, reason=str(error) or type(error).__name__)

    async def _close(self, inbox: Inbox, address: ChannelAddress, problem: str) -> None:
        buffer = self._buffers.get(address.value)
        if buffer is not None:
            self._buffers.remove(buffer)
        if self._problems.get(address) != problem:
            await inbox.closed(address, problem)
            self._problems[address] = problem

    async def _survey(self, guild: str) -> None:
        """Learn which webhooks are ours before the first event, in one request where that is allowed."""
        if guild in self._surveyed or not self._guilds.may_list_webhooks(guild):
            return
        self._surveyed.add(guild)
        try:
            async with asyncio.timeout(_SURVEY_TIMEOUT):
                await self._webhooks.survey(guild)
        except (ApiError, TimeoutError) as error:
            # Each channel's own is looked up when it is needed, and messages name the application too.
            _log.info("webhooks not listed", guild=guild, reason=str(error) or type(error).__name__)

    async def _catch_up(self, inbox: Inbox, buffer: ChannelBuffer) -> None:
        """Read what was missed in a channel, then let its live events go. Tries until it has worked."""
        backoff = Backoff(self._rng, first=0.5, most=30.0)
        while True:
            try:
                buffer.read_again = False
                await self._read(inbox, buffer)
            except (StoreUnavailable, DeliveryError) as error:
                _log.warning("discord catch up waits", channel=buffer.channel.id, reason=str(error))
            except StoreError:
                raise
            except Exception:  # noqa: BLE001 - the top of this worker: tried again, and logged
                _log.exception("discord catch up failed", channel=buffer.channel.id)
            else:
                if self._buffers.release(buffer):
                    return
                continue
            # What was held back stays held back; whatever was let go meanwhile is in the next reading.
            buffer.stuck = True
            await self._clock.sleep(backoff.next())

    async def _read(self, inbox: Inbox, buffer: ChannelBuffer) -> None:
        name = messages_stream(buffer.channel.id)
        if position := await inbox.cursor(Platform.DISCORD, name):
            await inbox.catch_up(buffer.channel, position)
            return
        # Nothing older than the first start crosses. What has been said since then is held back.
        with translate_read_errors(buffer.channel.id):
            newest = await self._history.newest(buffer.channel.id)
        await inbox.receive(EventBatch(cursors=(Cursor(Platform.DISCORD, name, newest),)))
