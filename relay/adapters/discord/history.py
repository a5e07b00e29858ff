"""Reads the history of channels and their threads: what was missed, and what became of older messages."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from weakref import WeakValueDictionary

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.errors import ApiError, ErrorCode, Limited, Refused
from relay.adapters.discord.gateway.buffers import MAX_ACTIVE_THREADS, ChannelBuffer
from relay.adapters.discord.gateway.guild_cache import GuildCache
from relay.adapters.discord.gateway.translator import Translator
from relay.adapters.discord.identifiers import created_at, is_snowflake, messages_stream
from relay.adapters.discord.inbound.embeds import moment_of
from relay.core.ports import Clock, Cursor, EventBatch
from relay.domain.events import HistorySkipped, MessageCreated
from relay.domain.ids import Platform
from relay.domain.jsontext import Json, as_dict
from relay.logs import get_logger

_log = get_logger(__name__)

PAGE = 100
# Of the past, so many are handed over at a time.
_PAST_PAGE = 25
# Requests at the same time: each channel gets a page in turn, so that a busy one delays no other.
_MAX_REQUESTS = 8
# The type of the message in a channel that tells of a thread which begins at none.
_THREAD_CREATED = 18
# Nicknames that are asked for at most, per page of messages.
_MAX_UNKNOWN_MEMBERS = 8
# Seconds for asking for one nickname, and until the next is asked for after that failed.
_NICKNAME_TIMEOUT, _NICKNAME_PAUSE = 3.0, 30.0
# Tries to list archived threads, the seconds between them, and the seconds for one.
_LIST_TRIES, _LIST_PAUSE, _LIST_TIMEOUT = 3, 0.5, 5.0
# Threads that were archived longer ago are not read.
_OLDEST_ARCHIVED = timedelta(days=30)
# Seconds for which a list of archived threads is kept: a catch-up reads twice.
_LIST_KEPT = 30.0
# Messages beyond the limit are only counted, and no more than this many.
_MAX_COUNTED = 10_000

_BEGINNING_OF_TIME = datetime.min.replace(tzinfo=UTC)

CursorLookup = Callable[[str], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class _ArchivedThreads:
    """Archived threads of a channel."""

    threads: list[Json]
    # The list holds all threads that were archived after this moment, if it is `complete`.
    reaches: datetime
    # On the monotonic clock.
    kept_until: float
    # Whether Discord has given the list at all.
    complete: bool = True


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class History:
    """Reads channels and their threads. Waits for an API that does not answer. All methods raise `Refused`."""

    rest: RestClient
    guilds: GuildCache
    translator: Translator
    clock: Clock
    _requests: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(_MAX_REQUESTS))
    # One nickname is asked for only once at a time.
    _nickname_locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = field(
        init=False, default_factory=WeakValueDictionary
    )
    # On the monotonic clock.
    _no_nicknames_until: float = field(init=False, default=0.0)
    _archived: dict[str, _ArchivedThreads] = field(init=False, default_factory=dict)
    # By channel: the page with which its next `reread` begins; None if that is still to be asked for.
    _first_pages: dict[str, list[Json] | None] = field(init=False, default_factory=dict)

    async def newest(self, channel: str) -> str:
        """The ID of the last message in a channel, "0" for none."""
        found = await self._page(channel, limit="1")
        return str(found[0]["id"]) if found else "0"

    async def event_of(self, buffer: ChannelBuffer, message: Json) -> MessageCreated | None:
        """The event for a single message that was asked for."""
        await self._fetch_nicknames(buffer.access.guild, [message])
        events = (await self.translator.page(buffer, str(message["channel_id"]), [message])).events
        return next((event for event in events if isinstance(event, MessageCreated)), None)

    async def read(
        self,
        buffer: ChannelBuffer,
        after: str,
        *,
        newest: int,
        archived_threads: bool,
        reread_from: str | None,
        cursor: CursorLookup,
    ) -> AsyncIterator[EventBatch]:
        """Everything after `after`: first in the channel, then in its threads, but at most the `newest` last of each.

        Of threads the gateway tells, of archived ones only a list that costs a request: `archived_threads` asks for it.
        `cursor` looks up how far a thread was read. A thread of which nothing was ever read is read from `after` as
        well, which is possible because IDs contain the time.

        `reread_from`: where `reread` begins, which is called next. One page from there on mostly has all for both.
        """
        channel = buffer.channel.id
        page: list[Json] | None = None
        if reread_from is not None and int(reread_from) <= int(after):
            page = await self._page_from(channel, reread_from)
        # Discord may return fewer than it is asked for, but not half of them. An empty page may only be hidden.
        has_all = page is not None and 0 < len(page) <= PAGE // 2
        async for batch in self._read_channel(buffer, channel, after, newest, page if has_all else None):
            yield batch
        for thread, last in (await self._threads(buffer, since=after, archived=archived_threads)).items():
            position = await _position(cursor, thread) or after
            if last is None or int(last) > int(position):
                try:
                    async for batch in self._read_channel(buffer, thread, position, newest):
                        yield batch
                except Refused as error:
                    _log.info("discord thread not read", thread=thread, status=error.status, code=error.code)
        if reread_from is not None:
            self._first_pages[channel] = page

    async def reread(
        self, buffer: ChannelBuffer, first: str, last: str, *, cursor: CursorLookup
    ) -> AsyncGenerator[Sequence[MessageCreated] | None]:
        """What is between two messages, both included, in the channel and then in its threads.

        Yields None for what could not be read. `cursor` as in `read`.
        """
        first_page = self._first_pages.pop(buffer.channel.id, None)
        seen = False
        async for page in self._read_range(buffer, buffer.channel.id, first, last, first_page):
            seen = seen or any(message.ref.id == last for message in page)
            yield page
        if not seen and not await self._is_gone(buffer.channel.id, last):
            yield None
        threads = dict.fromkeys(await self._threads(buffer, since=first, archived=True))
        threads_of_channel = [thread for thread in buffer.active_threads if not self.guilds.is_declared(thread)]
        active = [thread for thread in threads_of_channel if int(await _position(cursor, thread) or "0") >= int(first)]
        for thread in threads | dict.fromkeys(active):
            try:
                async for page in self._read_range(buffer, thread, first, last):
                    yield page
            except Refused as error:
                if error.code != ErrorCode.UNKNOWN_CHANNEL:
                    _log.info("discord thread not read", thread=thread, status=error.status, code=error.code)
                    yield None
        if len(active) == MAX_ACTIVE_THREADS:
            # There may have been more threads than are remembered.
            yield None

    async def past(self, buffer: ChannelBuffer, after: str, last: str) -> AsyncGenerator[tuple[EventBatch, str, int]]:
        """What was written in the channel, not in its threads, behind `after` and up to `last`, oldest first.

        Some messages at a time, with the ID of the last one, and how many threads without a pair begin at them.
        """
        channel = buffer.channel.id
        if int(last) <= int(after):
            return
        await self._check_readable(channel, last)
        async for messages in self._pages(channel, after, may_be_hidden=False, limit=_PAST_PAGE):
            within = [message for message in messages if _id(message) <= int(last)]
            if within:
                await self._fetch_nicknames(buffer.access.guild, within)
                begun = [
                    thread for it in within if (thread := _thread_begun(it)) and not self.guilds.is_declared(thread)
                ]
                yield await self.translator.page(buffer, channel, within), str(within[-1]["id"]), len(begun)
            if len(within) < len(messages):
                return

    async def _is_gone(self, channel: str, message: str) -> bool:
        """Whether Discord says of a message that it is not there, which its history did not show.

        Without *Read Message History* the history is empty, and no error. That the bot lost the permission may not have
        been told yet: everything would seem to have been deleted.
        """
        try:
            await self.rest.call(_message_route(channel, message))
        except Refused as error:
            return error.code == ErrorCode.UNKNOWN_MESSAGE
        return False

    async def _check_readable(self, channel: str, message: str) -> None:
        """Raise `Refused` if the history is empty only because the bot may not read it. `message`: an ID in it."""
        try:
            await self.rest.read(_message_route(channel, message))
        except Refused as error:
            if error.code != ErrorCode.UNKNOWN_MESSAGE:
                raise

    async def _read_range(
        self, buffer: ChannelBuffer, channel: str, first: str, last: str, page: list[Json] | None = None
    ) -> AsyncIterator[Sequence[MessageCreated]]:
        async for messages in self._pages(channel, str(int(first) - 1), page, may_be_hidden=True):
            within = [message for message in messages if int(message["id"]) <= int(last)]
            await self._fetch_nicknames(buffer.access.guild, within)
            events = (await self.translator.page(buffer, channel, within)).events
            yield [event for event in events if isinstance(event, MessageCreated)]
            if len(within) < len(messages):
                break

    async def _read_channel(
        self, buffer: ChannelBuffer, channel: str, after: str, newest: int | None, page: list[Json] | None = None
    ) -> AsyncIterator[EventBatch]:
        async for messages in self._pages(channel, after, page, may_be_hidden=False):
            # The first page is nearly always the only one. Only if it is not, the messages have to be counted.
            if newest is not None and (len(messages) >= PAGE - 1 or len(messages) > newest):
                start, skipped = await self._skip_to_newest(channel, after, newest)
                if skipped:
                    position = Cursor(Platform.DISCORD, messages_stream(channel), start)
                    yield EventBatch((HistorySkipped(buffer.channel, skipped),), (position,))
                    async for batch in self._read_channel(buffer, channel, start, None):
                        yield batch
                    return
            newest = None
            await self._fetch_nicknames(buffer.access.guild, messages)
            yield await self.translator.page(buffer, channel, messages)

    async def _pages(
        self, channel: str, after: str, page: list[Json] | None = None, *, may_be_hidden: bool, limit: int = PAGE
    ) -> AsyncIterator[list[Json]]:
        """What follows a message. `may_be_hidden`: a history that cannot be read counts as empty, else as an error.

        `page`: the first, where it is known already.
        """
        while True:
            if page is None:
                # With the message that is known: as long as that is there, the page shows that the history can be read.
                page = await self._page_from(channel, after, limit)
                if not page and int(after) and not may_be_hidden:
                    await self._check_readable(channel, after)
            messages = [message for message in page if _id(message) > int(after)]
            # A server may return fewer than it is asked for, so only an empty page is the last.
            if not messages:
                return
            after, page = str(messages[-1]["id"]), None
            yield messages

    async def _page_from(self, channel: str, message: str, limit: int = PAGE) -> list[Json]:
        """A message, if it is still there, and what follows it, oldest first."""
        # Discord returns the newest first, whatever is asked for.
        return sorted(await self._page(channel, limit=str(limit), after=str(max(0, int(message) - 1))), key=_id)

    async def _skip_to_newest(self, channel: str, after: str, newest: int) -> tuple[str, int]:
        """Returns the message after which only the `newest` last ones follow, and how many are skipped before them."""
        start = after
        count = 0
        before: dict[str, str] = {}
        while count < newest + _MAX_COUNTED:
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

    async def _page(self, channel: str, **query: str) -> list[Json]:
        route = Route("GET", "/channels/{channel}/messages", {"channel": channel})
        async with self._requests:
            found: list[Json] = await self.rest.read(route, query=query)
        return found

    async def _threads(self, buffer: ChannelBuffer, *, since: str, archived: bool) -> dict[str, str | None]:
        """The threads in which somebody may have written since a message, each with its last message.

        Without the `archived` ones, nothing is asked for.
        """
        threads = self.guilds.threads_of(buffer.channel.id)
        if threads is None or not archived:
            return threads or {}
        earliest = max(created_at(since), self.rest.time.now() - _OLDEST_ARCHIVED)
        listed = await self._archived_threads(buffer.channel.id, earliest)
        if not listed.complete:
            for known in buffer.active_threads:
                if not self.guilds.is_declared(known):
                    threads.setdefault(known, None)
        for thread in listed.threads:
            if self.guilds.is_declared(str(thread["id"])):
                continue
            archived_at = _archived_at(thread)
            if archived_at is None or archived_at >= earliest:
                threads.setdefault(str(thread["id"]), thread.get("last_message_id"))
        return threads

    async def _archived_threads(self, channel: str, earliest: datetime) -> _ArchivedThreads:
        """The archived public threads of a channel: at least those that were archived at `earliest` or later."""
        known = self._archived.get(channel)
        if known is not None and known.reaches <= earliest and self.clock.monotonic() < known.kept_until:
            return known
        query = {"limit": "100"}
        route = Route("GET", "/channels/{channel}/threads/archived/public", {"channel": channel})
        found: list[Json] = []
        more = False
        archived_at = None
        while True:
            answer = await self._list(route, query)
            if answer is None:
                more = False
                break
            page = answer.get("threads") or []
            found.extend(page)
            # Those that were archived last come first, and nothing is written in a thread after that.
            archived_at = _archived_at(page[-1]) if page else None
            more = bool(answer.get("has_more")) and archived_at is not None
            if archived_at is None or not more or archived_at < earliest:
                break
            query["before"] = page[-1]["thread_metadata"]["archive_timestamp"]
        reaches = archived_at if more and archived_at is not None else _BEGINNING_OF_TIME
        archived = _ArchivedThreads(found, reaches, self.clock.monotonic() + _LIST_KEPT, complete=answer is not None)
        self._archived[channel] = archived
        asyncio.get_running_loop().call_later(_LIST_KEPT, self._forget, channel, archived)
        return archived

    def _forget(self, channel: str, archived: _ArchivedThreads) -> None:
        if self._archived.get(channel) is archived:
            del self._archived[channel]

    async def _list(self, route: Route, query: Mapping[str, str]) -> Json | None:
        """A page of a list of threads; None if Discord does not give it soon: the channel must not wait."""
        for number in range(_LIST_TRIES):
            try:
                async with self._requests, asyncio.timeout(_LIST_TIMEOUT):
                    answer = await self.rest.call(route, query=query)
            except Refused as error:
                _log.info("discord threads not listed", status=error.status, code=error.code)
                return None
            except (ApiError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
                _log.warning("discord threads not listed", reason=reason, tries=number + 1)
                pause = error.retry_after if isinstance(error, Limited) else _LIST_PAUSE * (number + 1)
                if pause > _LIST_TIMEOUT or isinstance(error, TimeoutError):
                    return None
                await self.clock.sleep(pause)
            else:
                return answer if isinstance(answer, dict) else None
        return None

    async def _fetch_nicknames(self, guild: str, messages: Iterable[Json]) -> None:
        """Ask for nicknames and pictures, which the history lacks. Only for a few, so that a crowd delays nothing."""
        people = {
            str(message["author"]["id"])
            for message in messages
            if isinstance(message.get("author"), dict) and "webhook_id" not in message
        }
        unknown = sorted(person for person in people if not self.guilds.knows_nickname(guild, person))
        for person in unknown[:_MAX_UNKNOWN_MEMBERS]:
            # The same people write in several channels, which are read at the same time.
            async with self._nickname_locks.setdefault((guild, person), asyncio.Lock()):
                if not self.guilds.knows_nickname(guild, person):
                    await self._fetch_nickname(guild, person)

    async def _fetch_nickname(self, guild: str, user: str) -> None:
        """Ask once. If that fails, the message shows the person's global name: it must not wait."""
        if self.clock.monotonic() < self._no_nicknames_until:
            return
        route = Route("GET", "/guilds/{guild}/members/{user}", {"guild": guild, "user": user}, max_wait=1.0)
        try:
            async with asyncio.timeout(_NICKNAME_TIMEOUT):
                member = await self.rest.call(route)
        except Refused as error:
            # They have left the server.
            _log.debug("discord member unknown", status=error.status)
            member = {}
        except (ApiError, TimeoutError) as error:
            _log.info("discord members not named", guild=guild, reason=str(error) or type(error).__name__)
            self._no_nicknames_until = self.clock.monotonic() + _NICKNAME_PAUSE
            return
        found = as_dict(member)
        nickname, picture = (None if found.get(key) is None else str(found[key]) for key in ("nick", "avatar"))
        self.guilds.remember_nickname(guild, user, nickname, picture)


async def _position(cursor: CursorLookup, thread: str) -> str | None:
    """How far a thread was read; None if it never was, or if the cursor is invalid."""
    position = await cursor(messages_stream(thread))
    if position and not is_snowflake(position):
        _log.error("cursor cannot be read", thread=thread, position=position[:100])
        return None
    return position


def _message_route(channel: str, message: str) -> Route:
    return Route("GET", "/channels/{channel}/messages/{message}", {"channel": channel, "message": message})


def _id(message: Json) -> int:
    return int(message["id"])


def _thread_begun(message: Json) -> str:
    """The thread that begins at a message, or of which a message tells that it began; "" for none."""
    if message.get("type") == _THREAD_CREATED:
        return str(as_dict(message.get("message_reference")).get("channel_id", ""))
    return str(as_dict(message.get("thread")).get("id", ""))


def _archived_at(thread: Json) -> datetime | None:
    metadata = thread.get("thread_metadata")
    return moment_of(metadata.get("archive_timestamp")) if isinstance(metadata, dict) else None
