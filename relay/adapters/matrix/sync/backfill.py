"""What sync left out of a busy room: read backwards to where we were, and handed over forwards.

https://spec.matrix.org/latest/client-server-api/#syncing: a `limited` timeline begins at its `prev_batch`; what is
missing is what `/messages` returns from there back to the `since` of the request.

What other homeservers told ours too late, because one of them was away, is missing as well, and ours fetches it when
somebody reads there. Synapse counts it as older than all that it has told: from a page that ends at `since` it is left
out. So pages are read without an end, as far as there is something in them that we were not told.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile

from relay.adapters.matrix.api.client import Api, Refused
from relay.adapters.matrix.inbound.events import is_message
from relay.core.offload import LONG
from relay.domain.jsontext import Json, as_list, as_string
from relay.domain.text.rewrite import weight
from relay.logs import get_logger

_log = get_logger(__name__)

# Bytes of what waits to be handed over, of all rooms together. What is more is read again, page by page.
_IN_MEMORY = 16 * 1024 * 1024
_PAGES_COUNTED = 200
# Fewer messages than that in a page are mostly edits, or people who come and go: nothing else ends a flood of these.
_FEW_IN_A_PAGE = 10
_FILTER = '{"lazy_load_members":true}'
# Times that the same page is asked for. For each, the homeserver fetches up to a hundred messages from others. These
# may be slow, and anybody can run one: all rooms wait meanwhile, so it is not done again in that room for a while.
_FETCHES = 100
_FETCH_SECONDS, _NOT_AGAIN_SECONDS = 60.0, 600.0
_PAGES_TOLD = 2  # Among so many pages of what we were told, others are looked for.


@dataclass(slots=True)
class Memory:
    """What the gaps of one response hold."""

    # In bytes.
    held: int = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be kept."""
        return self.held > _IN_MEMORY


@dataclass(slots=True)
class Page:
    """A part of a timeline."""

    # Where it begins, seen from its end: `/messages` returns it again from there.
    token: str
    # The oldest first; None: not kept in memory.
    events: list[Json] | None
    # The members who wrote in it.
    state: list[Json]
    # Where it ended when it was read first, and the next one began; "" for the last.
    end: str = ""
    # Read without an end: by now there may be more in it.
    may_grow: bool = False
    # Its messages are left out, because there are too many. Edits and redactions may be of messages that crossed.
    only_corrections: bool = False
    # What `Memory` counts for it.
    size: int = 0


@dataclass(slots=True, kw_only=True)
class Gap:
    """What is missing of one room."""

    room_id: str
    memory: Memory = field(default_factory=Memory)
    # The token of what we were told last; "": everything back to the beginning of the room is missing.
    oldest: str = ""
    # Tells the event after which the gap begins, where that is not a token.
    starts: Callable[[Json], bool] = field(default=lambda event: False)
    # The token from which on we were told of the room; "": only what stands behind `oldest` is looked for.
    joined: str = ""
    # Tells of an event that it is of late.
    is_recent: Callable[[Json], bool] = field(default=lambda event: False)
    # How long one answer may take.
    read_seconds: float = 30.0
    # IDs of what we were told last, and of the first of them. What stands further back may be anything.
    told: frozenset[str] = frozenset()
    first_told: str = ""
    # Nothing else is looked for further back: a page had the first of them, or the time is over.
    passed: bool = False
    # When the time is over (monotonic), and whether it was before all was there.
    fetched_by: float = 0.0
    incomplete: bool = False
    # What will be handed over, the oldest first.
    pages: deque[Page] = field(default_factory=deque)
    # Whether the event was found after which the gap begins.
    found_start: bool = False
    # How many messages are left out, because there are too many.
    skipped: int = 0


class Backfiller:
    """Reads gaps. It keeps as much as `Memory` lets it; the rest is read again when it is handed over."""

    def __init__(self, api: Api, limit: Callable[[str], int], *, page: int = 250) -> None:
        """`limit`: how many messages of a room (its ID) are handed over at most. `page`: events in one request."""
        self._api = api
        self._limit = limit
        self._page_size = page
        # Rooms in which other homeservers were slow, and until when (monotonic) nothing is fetched from them.
        self._slow: dict[str, float] = {}

    async def fill(self, gap: Gap, newest: str) -> None:
        """Find the pages of a gap, back from the token `newest`. Raises `Refused` or `Unreachable`."""
        messages, limit = 0, self._limit(gap.room_id)
        most_pages = _PAGES_COUNTED + limit // _FEW_IN_A_PAGE
        await self._learn_told(gap)
        token: str | None = newest
        while token is not None and messages < limit and len(gap.pages) < most_pages:
            page, token = await self._page(gap, token)
            page.events, found = after_last(page.events or [], gap.starts)
            if found:
                gap.found_start = True
                token = None
            messages += sum(map(is_message, page.events))
            gap.pages.appendleft(page)
            await _hold(gap, page)
            if gap.memory.is_full:
                # All but the oldest, of which a part may be left out.
                for newer in takewhile(lambda one: one.events is not None, islice(gap.pages, 1, None)):
                    _read_again(gap, newer)
        if messages > limit:
            await self._trim(gap, messages - limit)
        if token is not None:
            await self._count(gap, token)

    async def pages(self, gap: Gap) -> AsyncIterator[Page]:
        """The pages of a gap, the oldest first."""
        while gap.pages:
            page = gap.pages.popleft()
            if page.events is not None:
                yield page
                gap.memory.held -= page.size
                continue
            for part in await self._again(gap, page):
                part.events, _ = after_last(part.events or [], gap.starts)
                await _hold(gap, part)
                yield _corrections(part) if page.only_corrections else part
                gap.memory.held -= part.size

    async def _again(self, gap: Gap, page: Page) -> list[Page]:
        """A page that was not kept, the oldest part first: by now there may be more in it than one answer holds."""
        if not page.may_grow:
            return [(await self._read(gap, page.token, gap.oldest))[0]]
        parts: list[Page] = []
        token: str | None = page.token
        while token is not None:
            part, token = await self._read(gap, token, page.end)
            parts.insert(0, await self._without_known(gap, part))
        return parts

    async def _trim(self, gap: Gap, excess: int) -> None:
        # Only the oldest page, the one read last, goes beyond the limit, and that one is in memory.
        oldest = gap.pages[0]
        kept, left_out = deque(oldest.events or []), list[Json]()
        while excess:
            left_out.append(kept.popleft())
            excess -= is_message(left_out[-1])
        oldest.events = list(kept)
        await self._leave_out(gap, Page(oldest.token, left_out, []))

    async def _leave_out(self, gap: Gap, page: Page) -> Page:
        """Count the messages of a page. What is to be handed over of it."""
        gap.skipped += sum(map(is_message, page.events or []))
        page = _corrections(page)
        if page.events:
            gap.pages.appendleft(page)
            await _hold(gap, page)
        return page

    async def _count(self, gap: Gap, token: str) -> None:
        following: str | None = token
        for _ in range(_PAGES_COUNTED):
            if following is None:
                return
            page, following = await self._page(gap, following)
            page.events, gap.found_start = after_last(page.events or [], gap.starts)
            page = await self._leave_out(gap, page)
            if gap.memory.is_full:
                _read_again(gap, page)
            if gap.found_start:
                return
        gap.incomplete |= following is not None

    async def _learn_told(self, gap: Gap) -> None:
        if _now() < self._slow.get(gap.room_id, 0.0):
            return
        told: list[str] = []
        token: str | None = gap.oldest if gap.joined else None
        for _ in range(_PAGES_TOLD):
            if token is not None:
                page, token = await self._read(gap, token, gap.joined)
                told += map(id_of, reversed(page.events or []))
        gap.told, gap.first_told = frozenset(told), told[-1] if told else ""
        gap.fetched_by = _now() + _FETCH_SECONDS

    async def _page(self, gap: Gap, token: str) -> tuple[Page, str | None]:
        """What is missing from a token back, and where to read on."""
        if gap.told and not gap.passed:
            page, following = await self._settled(gap, token)
            if page is not None:
                gap.passed |= any(id_of(event) == gap.first_told for event in page.events or [])
                if _unknown(gap, page):
                    page.may_grow = True
                    return await self._without_known(gap, page), following
            gap.passed = True
        return await self._read(gap, token, gap.oldest)

    async def _settled(self, gap: Gap, token: str) -> tuple[Page | None, str | None]:
        """A page, read again until nothing is added to it: each time the homeserver fetches some messages.

        None if it could not be read in time.
        """
        page: Page | None = None
        following: str | None = None
        try:
            async with asyncio.timeout_at(gap.fetched_by):
                for _ in range(_FETCHES):
                    before = None if page is None else _unknown(gap, page)
                    page, following = await self._read(gap, token, "", timeout=2 * _FETCH_SECONDS)
                    unknown = _unknown(gap, page)
                    if unknown == before or len(unknown) == self._page_size:
                        break
        except (TimeoutError, Refused) as error:
            if isinstance(error, Refused) and error.status < 500:
                raise
            reason = str(error) or "they are slow"
            _log.warning("not fetched from other homeservers, messages may be missing", room=gap.room_id, reason=reason)
            self._slow[gap.room_id] = _now() + _NOT_AGAIN_SECONDS
            gap.passed = gap.incomplete = True
        return page, following

    async def _without_known(self, gap: Gap, page: Page) -> Page:
        """A page that was read without an end, without what we were told before. What arrived late has any date."""
        events, unknown = page.events or [], _unknown(gap, page)
        if len(unknown) < len(events):
            late, _ = await self._read(gap, page.token, gap.oldest)
            unknown |= set(map(id_of, late.events or []))
            page.events = [event for event in events if id_of(event) in unknown]
        return page

    async def _read(self, gap: Gap, token: str, oldest: str, timeout: float | None = None) -> tuple[Page, str | None]:
        query = {"dir": "b", "from": token, "limit": str(self._page_size), "filter": _FILTER}
        query |= {"to": oldest} if oldest else {}
        answer = await self._api.call(
            "GET", "rooms", gap.room_id, "messages", query=query, timeout=timeout or gap.read_seconds
        )
        chunk = [event for event in as_list(answer.get("chunk")) if isinstance(event, dict)]
        state = [event for event in as_list(answer.get("state")) if isinstance(event, dict)]
        end = answer.get("end")
        following = end if isinstance(end, str) and end not in {token, oldest} else None
        return Page(token, chunk[::-1], state, following or ""), following


async def _hold(gap: Gap, page: Page) -> None:
    since_pause = 0
    for event in (*(page.events or []), *page.state):
        since_pause += (size := weight(event))
        page.size += size
        if since_pause > LONG:
            since_pause = 0
            await asyncio.sleep(0)  # Let other tasks run.
    gap.memory.held += page.size


def _read_again(gap: Gap, page: Page) -> None:
    """Keep nothing of a page, nor its members: it is read again when it is handed over."""
    gap.memory.held -= page.size
    page.events, page.state, page.size = None, [], 0


def _corrections(page: Page) -> Page:
    """The edits and redactions in a page."""
    events = [event for event in page.events or [] if _is_correction(event)]
    return replace(page, events=events, state=[], only_corrections=True)


def _is_correction(event: Json) -> bool:
    if event.get("type") == "m.room.redaction":
        return True  # in older rooms there is nothing in its content
    return event.get("type") == "m.room.message" and bool(event.get("content")) and not is_message(event)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _unknown(gap: Gap, page: Page) -> set[str]:
    """The IDs of the events in a page that we were not told, as far as that can be known."""
    events, _ = after_last(page.events or [], lambda event: id_of(event) == gap.first_told)
    return {id_of(event) for event in events if id_of(event) not in gap.told and gap.is_recent(event)}


def id_of(event: Json) -> str:
    """The ID of an event."""
    return as_string(event.get("event_id"))


def after_last(events: list[Json], starts: Callable[[Json], bool]) -> tuple[list[Json], bool]:
    """What follows the last event for which `starts` is true; all, and False, if there is none."""
    for number in range(len(events) - 1, -1, -1):
        if starts(events[number]):
            return events[number + 1 :], True
    return events, False
