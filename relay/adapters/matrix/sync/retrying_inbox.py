"""The inbox as the adapter uses it: a store that cannot be written now is waited for, and nothing goes on meanwhile.

Events go to the core in bites; one that the core stumbles over is left out by name.
"""

import random
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from relay.core.clock import Backoff
from relay.core.ports import Clock, Cursor, EventBatch, Inbox
from relay.domain.events import Event, FeatureUsed, HistorySkipped
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, Platform
from relay.errors import RelayError, StoreUnavailable

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


class RetryingInbox:
    """Calls an `Inbox` until the store takes it. `trouble` says why it does not, "" while it does."""

    def __init__(self, inbox: Inbox, clock: Clock, rng: random.Random) -> None:
        self._inbox = inbox
        self._clock = clock
        self._rng = rng
        self.trouble = ""

    async def receive(self, batch: EventBatch) -> None:
        """See `Inbox.receive`."""
        await self.patiently(lambda: self._inbox.receive(batch))

    async def opened(
        self, address: ChannelAddress, channel: ChannelRef, *, predecessors: frozenset[ChannelRef] = frozenset()
    ) -> None:
        """See `Inbox.opened`."""
        await self.patiently(lambda: self._inbox.opened(address, channel, predecessors=predecessors))

    async def closed(self, address: ChannelAddress, problem: str) -> None:
        """See `Inbox.closed`."""
        await self.patiently(lambda: self._inbox.closed(address, problem))

    async def position(self, stream: str) -> str | None:
        """The position of one of Matrix's streams; None before the first."""
        return await self.patiently(lambda: self._inbox.cursor(Platform.MATRIX, stream))

    async def last_original(self, channel: ChannelRef) -> MessageRef | None:
        """See `Inbox.last_original`."""
        return await self.patiently(lambda: self._inbox.last_original(channel))

    async def patiently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """The result of `call`, which is made again for as long as it raises `StoreUnavailable`."""
        backoff = Backoff(self._rng, first=0.5, most=15.0)
        while True:
            try:
                result = await call()
            except StoreUnavailable as error:
                self.trouble = str(error)
                _log.warning("the store takes nothing now, waiting", reason=error.reason, tries=backoff.tries)
                await self._clock.sleep(backoff.next())
            else:
                self.trouble = ""
                return result


def at(stream: str, position: str) -> Cursor:
    """A cursor of ours."""
    return Cursor(Platform.MATRIX, stream, position)


_BATCH = 500


async def hand_over(events: Sequence[Event], cursors: tuple[Cursor, ...], inbox: RetryingInbox) -> None:
    """Returns once all is on disk; the cursors are written with the last bite.

    Raises `StoreError` where the store cannot be used any more.
    """
    for start in range(0, max(len(events), 1), _BATCH):
        bite = tuple(events[start : start + _BATCH])
        behind = cursors if start + _BATCH >= len(events) else ()
        if not bite and not behind:
            continue
        try:
            await inbox.receive(EventBatch(bite, behind))
        except RelayError:
            raise
        except Exception as error:  # noqa: BLE001 - the top of a worker: a bug, see below
            # Nothing of a batch that fails is written. Tried again as it is, it would stop every room for ever.
            _complain("bug while receiving a batch; event by event now", error, events=len(bite))
            for event in bite:
                await _hand_over_alone(event, inbox)
            await inbox.receive(EventBatch((), behind))


async def _hand_over_alone(event: Event, inbox: RetryingInbox) -> None:
    try:
        await inbox.receive(EventBatch((event,)))
    except RelayError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        if isinstance(event, FeatureUsed | HistorySkipped):
            channel, event_id = event.channel, ""
        else:
            # As ASCII: an ID that no text can hold may be what is wrong with it.
            channel, event_id = event.ref.channel, ascii(event.ref.id)
        _complain("bug while receiving an event; it is left out", error, kind=type(event).__name__, event_id=event_id)
        await inbox.receive(EventBatch((FeatureUsed(channel, "unreadable"),)))


def _complain(what: str, error: Exception, **facts: object) -> None:
    """Where it happened, but not what the error says: that may quote a message."""
    frames = traceback.extract_tb(error.__traceback__)
    place = [f"{frame.name}:{frame.lineno}" for frame in frames[-4:]]
    _log.error(what, error=type(error).__name__, place=" > ".join(place), **facts)
