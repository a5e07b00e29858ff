"""What was written in channels while nobody listened, and what became of what was written before."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from weakref import WeakValueDictionary

import structlog

from relay.adapters.discord.api.client import Json, RestClient, Route
from relay.adapters.discord.api.errors import ApiError, ErrorCode, Limited, Refused
from relay.adapters.discord.gateway.buffers import MAX_ACTIVE_THREADS, ChannelBuffer
from relay.adapters.discord.gateway.guild_cache import GuildCache
from relay.adapters.discord.gateway.translator import Translator
from relay.adapters.discord.identifiers import created_at, is_snowflake, messages_stream
from relay.adapters.discord.inbound.embeds import moment_of
from relay.core.ports import Clock, Cursor, EventBatch
from relay.domain.events import HistorySkipped, MessageCreated
from relay.domain.ids import Platform

_log = structlog.get_logger(__name__)

PAGE = 100
# Channels that are read side by side: a page of each in turn, so that a busy one delays no other.
_READERS = 8
_STRANGERS = 8
# Seconds for one name, and until the next is asked for after that failed.
_NAME_TIMEOUT, _NAMES_AGAIN = 3.0, 30.0
# Tries to list the sleeping threads, the seconds between them, and those for one.
_LIST_TRIES, _LIST_PAUSE, _LIST_TIMEOUT = 3, 0.5, 5.0
# Threads that went to sleep longer ago are not looked through.
_LONGEST_SLEEP = timedelta(days=30)
# How long a list of sleeping threads is good: the two readings of a catch-up share it.
_LIST_GOOD_FOR = 30.0
# Beyond the limit, messages are only counted, and no further than this.
_COUNTED = 10_000

_EVER = datetime.min.replace(tzinfo=UTC)

CursorLookup = Callable[[str], Awaitable[str | None]]
Message = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class _Sleepers:
    """Archived threads of a channel: all that went to sleep after `reaches`, if `whole`."""

    threads: list[Message]
    reaches: datetime
    good_until: float
    whole: bool = True


class History:
    """Reads channels and their threads. Waits for an API that does not answer; all methods raise `Refused`."""

    def __init__(self, *, rest: RestClient, guilds: GuildCache, translator: Translator, clock: Clock) -> None:
        self._rest = rest
        self._guilds = guilds
        self._translator = translator
        self._clock = clock
        self._places = asyncio.Semaphore(_READERS)
        self._naming: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._no_names_until = 0.0
        self._sleepers: dict[str, _Sleepers] = {}

    async def newest(self, channel: str) -> str:
        """The ID of the last message in a channel, "0" for none."""
        found = await self._page(channel, limit="1")
        return str(found[0]["id"]) if found else "0"

    async def one(self, buffer: ChannelBuffer, message: Message) -> MessageCreated | None:
        """A message that was asked for by itself."""
        await self._learn_names(buffer.access.guild, [message])
        events = (await self._translator.page(buffer, str(message["channel_id"]), [message])).events
        return next((event for event in events if isinstance(event, MessageCreated)), None)

    async def read(
        self, buffer: ChannelBuffer, after: str, *, newest: int, cursor: CursorLookup
    ) -> AsyncIterator[EventBatch]:
        """Everything after `after` in the channel, then in its threads, but at most the `newest` last of each.

        `cursor` looks up how far a stream was read. IDs are moments, so what was read of the channel goes for a thread
        of which nothing was ever read.
        """
        async for batch in self._read_one(buffer, buffer.channel.id, after, newest):
            yield batch
        for thread, last in (await self._threads(buffer, since=after)).items():
            position = await _position(cursor, thread) or after
            if last is None or int(last) > int(position):
                try:
                    async for batch in self._read_one(buffer, thread, position, newest):
                        yield batch
                except Refused as error:
                    _log.info("discord thread not read", thread=thread, status=error.status, code=error.code)

    async def reread(
        self, buffer: ChannelBuffer, first: str, last: str, *, cursor: CursorLookup
    ) -> AsyncIterator[Sequence[MessageCreated] | None]:
        """What stands between two messages, both included, in the channel and then in its threads.

        None for what could not be looked at. `cursor` as with `read`.
        """
        async for page in self._between(buffer, buffer.channel.id, first, last):
            yield page
        threads = dict.fromkeys(await self._threads(buffer, since=first))
        own = [thread for thread in buffer.active_threads if not self._guilds.is_declared(thread)]
        spoken_in = [thread for thread in own if int(await _position(cursor, thread) or "0") >= int(first)]
        for thread in threads | dict.fromkeys(spoken_in):
            try:
                async for page in self._between(buffer, thread, first, last):
                    yield page
            except Refused as error:
                if error.code != ErrorCode.UNKNOWN_CHANNEL:
                    _log.info("discord thread not read", thread=thread, status=error.status, code=error.code)
                    yield None
        if len(spoken_in) == MAX_ACTIVE_THREADS:
            # There may have been more.
            yield None

    async def _between(
        self, buffer: ChannelBuffer, channel: str, first: str, last: str
    ) -> AsyncIterator[Sequence[MessageCreated]]:
        async for messages in self._pages(channel, str(int(first) - 1)):
            within = [message for message in messages if int(message["id"]) <= int(last)]
            await self._learn_names(buffer.access.guild, within)
            events = (await self._translator.page(buffer, channel, within)).events
            yield [event for event in events if isinstance(event, MessageCreated)]
            if len(within) < len(messages):
                break

    async def _read_one(
        self, buffer: ChannelBuffer, channel: str, after: str, newest: int | None
    ) -> AsyncIterator[EventBatch]:
        async for messages in self._pages(channel, after):
            # The first page is nearly always the only one; only where it is not do we have to count.
            if newest is not None and (len(messages) == PAGE or len(messages) > newest):
                start, skipped = await self._beginning(channel, after, newest)
                if skipped:
                    position = Cursor(Platform.DISCORD, messages_stream(channel), start)
                    yield EventBatch((HistorySkipped(buffer.channel, skipped),), (position,))
                    async for batch in self._read_one(buffer, channel, start, None):
                        yield batch
                    return
            newest = None
            await self._learn_names(buffer.access.guild, messages)
            yield await self._translator.page(buffer, channel, messages)

    async def _pages(self, channel: str, after: str) -> AsyncIterator[list[Message]]:
        while True:
            # The newest come first, whatever is asked for.
            page = sorted(await self._page(channel, limit=str(PAGE), after=after), key=_id)
            messages = [message for message in page if _id(message) > int(after)]
            # A server may give fewer than it is asked for: only an empty page is the last.
            if not messages:
                return
            after = str(messages[-1]["id"])
            yield messages

    async def _beginning(self, channel: str, after: str, newest: int) -> tuple[str, int]:
        """The message after which only the `newest` last ones stand, and how many there are from `after` to it."""
        start = after
        count = 0
        before: dict[str, str] = {}
        while count < newest + _COUNTED:
            page = sorted(await self._page(channel, limit=str(PAGE), **before), key=_id, reverse=True)
            for message in page:
                if _id(message) <= int(after):
                    return start, max(0, count - newest)
                count += 1
                if count == newest + 1:
                    start = str(message["id"])
            if len(page) < PAGE:
                break
            before = {"before": str(page[-1]["id"])}
        return start, max(0, count - newest)

    async def _page(self, channel: str, **query: str) -> list[Message]:
        route = Route("GET", "/channels/{channel}/messages", {"channel": channel})
        async with self._places:
            found: list[Message] = await self._rest.read(route, query=query)
        return found

    async def _threads(self, buffer: ChannelBuffer, *, since: str) -> dict[str, str | None]:
        """The channel's threads in which something may have been said since a message, and their last messages."""
        threads = self._guilds.threads_of(buffer.channel.id)
        if threads is None:
            return {}
        earliest = max(created_at(since), self._rest.time.now() - _LONGEST_SLEEP)
        sleepers = await self._sleeping(buffer.channel.id, earliest)
        if not sleepers.whole:
            for known in buffer.active_threads:
                if not self._guilds.is_declared(known):
                    threads.setdefault(known, None)
        for thread in sleepers.threads:
            if self._guilds.is_declared(str(thread["id"])):
                continue
            slept_at = _slept_at(thread)
            if slept_at is None or slept_at >= earliest:
                threads.setdefault(str(thread["id"]), thread.get("last_message_id"))
        return threads

    async def _sleeping(self, channel: str, earliest: datetime) -> _Sleepers:
        """The archived public threads of a channel: at least those that went to sleep at `earliest` or later."""
        known = self._sleepers.get(channel)
        if known is not None and known.reaches <= earliest and self._clock.monotonic() < known.good_until:
            return known
        query = {"limit": "100"}
        route = Route("GET", "/channels/{channel}/threads/archived/public", {"channel": channel})
        found: list[Message] = []
        more = False
        slept_at = None
        while True:
            answer = await self._list(route, query)
            if answer is None:
                more = False
                break
            page = answer.get("threads") or []
            found.extend(page)
            # A thread goes to sleep after its last message, and those that went last come first.
            slept_at = _slept_at(page[-1]) if page else None
            more = bool(answer.get("has_more")) and slept_at is not None
            if slept_at is None or not more or slept_at < earliest:
                break
            query["before"] = page[-1]["thread_metadata"]["archive_timestamp"]
        reaches = slept_at if more and slept_at is not None else _EVER
        sleepers = _Sleepers(found, reaches, self._clock.monotonic() + _LIST_GOOD_FOR, whole=answer is not None)
        self._sleepers[channel] = sleepers
        asyncio.get_running_loop().call_later(_LIST_GOOD_FOR, self._forget, channel, sleepers)
        return sleepers

    def _forget(self, channel: str, sleepers: _Sleepers) -> None:
        if self._sleepers.get(channel) is sleepers:
            del self._sleepers[channel]

    async def _list(self, route: Route, query: Mapping[str, str]) -> Mapping[str, Json] | None:
        """A page of a list of threads; None where there is none to be had: the channel itself must not wait for it."""
        for number in range(_LIST_TRIES):
            try:
                async with self._places, asyncio.timeout(_LIST_TIMEOUT):
                    answer = await self._rest.call(route, query=query)
            except Refused as error:
                _log.info("discord threads not listed", status=error.status, code=error.code)
                return None
            except (ApiError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
                _log.warning("discord threads not listed", reason=reason, tries=number + 1)
                pause = error.retry_after if isinstance(error, Limited) else _LIST_PAUSE * (number + 1)
                if pause > _LIST_TIMEOUT or isinstance(error, TimeoutError):
                    return None
                await self._clock.sleep(pause)
            else:
                return answer if isinstance(answer, Mapping) else None
        return None

    async def _learn_names(self, guild: str, messages: Iterable[Message]) -> None:
        """People's names in the server, which the history does not hold; of a few, so that a crowd delays nothing."""
        people = {
            str(message["author"]["id"])
            for message in messages
            if isinstance(message.get("author"), Mapping) and "webhook_id" not in message
        }
        strangers = sorted(person for person in people if not self._guilds.knows_nickname(guild, person))
        for person in strangers[:_STRANGERS]:
            # The same people write in many channels.
            async with self._naming.setdefault((guild, person), asyncio.Lock()):
                if not self._guilds.knows_nickname(guild, person):
                    await self._learn_name(guild, person)

    async def _learn_name(self, guild: str, user: str) -> None:
        """Ask once. Their own name will do where that fails: no message waits for it."""
        if self._clock.monotonic() < self._no_names_until:
            return
        route = Route("GET", "/guilds/{guild}/members/{user}", {"guild": guild, "user": user}, max_wait=1.0)
        try:
            async with asyncio.timeout(_NAME_TIMEOUT):
                member = await self._rest.call(route)
        except Refused as error:
            # They have left since.
            _log.debug("discord member unknown", status=error.status)
            member = {}
        except (ApiError, TimeoutError) as error:
            _log.info("discord members not named", guild=guild, reason=str(error) or type(error).__name__)
            self._no_names_until = self._clock.monotonic() + _NAMES_AGAIN
            return
        nickname = member.get("nick") if isinstance(member, Mapping) else None
        self._guilds.remember_nickname(guild, user, None if nickname is None else str(nickname))


async def _position(cursor: CursorLookup, thread: str) -> str | None:
    """How far a thread was read; None where nothing ever was, or that cannot be read."""
    position = await cursor(messages_stream(thread))
    if position and not is_snowflake(position):
        _log.error("cursor cannot be read", thread=thread, position=position[:100])
        return None
    return position


def _id(message: Message) -> int:
    return int(message["id"])


def _slept_at(thread: Mapping[str, Json]) -> datetime | None:
    metadata = thread.get("thread_metadata")
    return moment_of(metadata.get("archive_timestamp")) if isinstance(metadata, Mapping) else None
