"""Takes back what Discord has posted twice.

A request through a webhook that was given up (a 504, a time-out) may still wait inside Discord. The next try looks into
the channel, finds nothing there, and posts. If the first one is carried out after that, the message stands there twice.
The gateway or the history tells of both. The late one is known by all of this: it came through a webhook of ours, no
request of ours was answered with it, it is not on record, it is no older than the first try, and it says what was
posted again. It is deleted.

All of this is in memory: after a crash, a double stays.
"""

import asyncio
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.errors import ApiError, ErrorCode, Limited, Refused
from relay.adapters.discord.gateway.buffers import ChannelBuffers
from relay.adapters.discord.identifiers import created_at
from relay.adapters.discord.message_cache import MessageCache
from relay.adapters.discord.webhooks import Webhooks
from relay.core.clock import Backoff
from relay.core.ports import Clock
from relay.domain.jsontext import Json
from relay.errors import StoreUnavailable
from relay.logs import get_logger

_log = get_logger(__name__)

# Seconds for which a request that was given up may still be carried out.
_MAY_COME_FOR = 600.0
_MOST = 200
_TRIES = 6
_MAX_REMEMBERED = 1_000


@dataclass(slots=True)
class PostedMessages:
    """The messages that this process has posted, by the key of their delivery."""

    _by_key: OrderedDict[str, str] = field(init=False, default_factory=OrderedDict)
    _messages: dict[str, str] = field(init=False, default_factory=dict)

    def put(self, key: str, message: str) -> None:
        """Remember the message of a delivery."""
        self._by_key[key] = message
        self._messages[message] = key
        if len(self._by_key) > _MAX_REMEMBERED:
            _, oldest = self._by_key.popitem(last=False)
            self._messages.pop(oldest, None)

    def get(self, key: str) -> str | None:
        """The message of a delivery, if it is remembered."""
        return self._by_key.get(key)

    def __contains__(self, message: object) -> bool:
        return message in self._messages


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Doubt:
    """A message of which a try was given up, and may have been carried out."""

    channel: str
    # Whether a message is the one that was to be posted.
    is_it: Callable[[Json], bool]
    # Whether the message with this ID is on record.
    on_record: Callable[[str], Awaitable[bool]]
    # Not before this moment, by Discord's clock.
    since: datetime
    # How many tries may still be carried out.
    left: int = 1
    # The message is there: by a later try, or because it was found.
    resolved: bool = False
    # On the monotonic clock.
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class _Late:
    """A message that stands there twice, and is to go."""

    doubt: Doubt
    message: str
    webhook: str


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Doubles:
    """Knows what may come twice, and sees what comes."""

    rest: RestClient
    buffers: ChannelBuffers
    webhooks: Webhooks
    cache: MessageCache
    clock: Clock
    # What is known to be the copy of something.
    posted: PostedMessages
    # By the keys of deliveries, the latest last.
    _doubts: dict[str, Doubt] = field(init=False, default_factory=dict)
    # What came and is not judged yet: each with its channel.
    _seen: list[tuple[str, Json]] = field(init=False, default_factory=list)
    # What is to go, by its channel: a deletion may wait for minutes, and no other channel is to wait with it.
    _late: dict[str, deque[_Late]] = field(init=False, default_factory=dict)
    # How many messages are just being posted into each channel.
    _posting: Counter[str] = field(init=False, default_factory=Counter)
    _changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    @contextmanager
    def posting(self, channel: str) -> Iterator[None]:
        """What comes meanwhile may be what is being posted, so it is judged afterwards."""
        self._posting[channel] += 1
        try:
            yield
        finally:
            self._posting[channel] -= 1
            self._changed.set()

    def suspect(self, key: str, doubt: Doubt, *, again: bool) -> None:
        """A try of a delivery was given up. `again`: just now; otherwise it may be one that is known already."""
        known = self._doubts.pop(key, None)
        if known is None:
            known = doubt
        elif again:
            known.left += 1
        known.until = self.clock.monotonic() + _MAY_COME_FOR
        self._doubts[key] = known
        while len(self._doubts) > _MOST:
            self._doubts.pop(next(iter(self._doubts)))

    def resolve(self, key: str, *, found: bool) -> None:
        """A delivery is there. `found`: what was in doubt was there; otherwise it was posted again."""
        doubt = self._doubts.get(key)
        if doubt is None:
            return
        doubt.resolved = True
        doubt.left -= found
        if doubt.left <= 0:
            del self._doubts[key]
        self._changed.set()

    def came(self, message: Json) -> None:
        """A message that came through a webhook of ours, live or in the history."""
        channel = str(message.get("channel_id"))
        if self._doubts and self._doubts_of(channel, message):
            self._seen = [*self._seen, (channel, message)][-_MOST:]
            self._changed.set()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                waiting, self._seen = self._seen, []
                for channel, message in waiting:
                    try:
                        is_judged = await self._is_judged(channel, message, group)
                    except StoreUnavailable:
                        is_judged = False
                    except Exception:  # noqa: BLE001 - the top of a worker
                        _log.exception("a message that may be there twice was not looked at")
                        is_judged = True
                    if not is_judged:
                        self._seen.append((channel, message))

    async def _is_judged(self, channel: str, message: Json, group: asyncio.TaskGroup) -> bool:
        id_ = str(message["id"])
        doubts = self._doubts_of(channel, message)
        if not doubts or id_ in self.posted:
            return True
        if self._posting[channel] or not all(doubt.resolved for doubt in doubts):
            return False  # it may be what is being posted now, or what the next try will find
        doubt = doubts[0]
        if await doubt.on_record(id_):
            return True
        if self._posting[channel]:
            return False
        doubt.left -= 1
        self.posted.put(f"double {id_}", id_)  # no other try is to take it for its own
        self.cache.mark_deleted_by_us(id_)
        late = _Late(doubt, id_, str(message.get("webhook_id")))
        if (others := self._late.get(channel)) is not None:
            others.append(late)
        else:
            self._late[channel] = deque([late])
            group.create_task(self._take_all_back(channel), name=f"take doubles back in {channel}")
        return True

    async def _take_all_back(self, channel: str) -> None:
        late = self._late[channel]
        try:
            while late:
                try:
                    await self._take_back(late.popleft())
                except Exception:  # noqa: BLE001 - the top of a worker
                    _log.exception("a message that is there twice was not taken back", channel=channel)
        finally:
            del self._late[channel]

    def _doubts_of(self, channel: str, message: Json) -> list[Doubt]:
        now = self.clock.monotonic()
        self._doubts = {key: doubt for key, doubt in self._doubts.items() if doubt.left > 0 and now < doubt.until}
        there = [doubt for doubt in self._doubts.values() if doubt.channel == channel]
        return [doubt for doubt in there if created_at(str(message["id"])) >= doubt.since and doubt.is_it(message)]

    async def _take_back(self, late: _Late) -> None:
        channel, message = late.doubt.channel, late.message
        backoff = Backoff(random.Random(), longest=30.0)
        while backoff.tries < _TRIES:
            try:
                if self.buffers.get(channel) is None or await late.doubt.on_record(message):
                    return  # another relay may post there now
                await self._delete(channel, message, late.webhook)
            except Refused as error:
                if error.code != ErrorCode.UNKNOWN_MESSAGE:
                    _log.warning("discord message is there twice", channel=channel, message=message, reason=str(error))
                return
            except (ApiError, StoreUnavailable) as error:
                wait = backoff.next(error.retry_after if isinstance(error, Limited) else None)
                _log.info("discord message is there twice for now", channel=channel, message=message, reason=str(error))
                await self.clock.sleep(wait)
            else:
                _log.info("discord message that was posted late taken back", channel=channel, message=message)
                return
        _log.warning("discord message is there twice", channel=channel, message=message)

    async def _delete(self, channel: str, message: str, webhook_id: str) -> None:
        webhook = await self.webhooks.find(self.buffers.webhook_home(channel), webhook_id)
        if webhook is not None:
            route = webhook.message_route("DELETE", message, self.buffers.thread(channel))
        else:
            route = Route("DELETE", "/channels/{channel}/messages/{message}", {"channel": channel, "message": message})
        await self.rest.call(route)
