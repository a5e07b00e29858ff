"""What sync left out of a busy room: read backwards to where we were, and handed over forwards.

https://spec.matrix.org/latest/client-server-api/#syncing: a `limited` timeline begins at its `prev_batch`; what is
missing is what `/messages` returns from there back to the `since` of the request.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from relay.adapters.matrix.api.client import Api
from relay.adapters.matrix.inbound.events import is_message
from relay.domain.jsontext import Json, as_list

_PAGES_IN_MEMORY = 4
_PAGES_COUNTED = 200
_FILTER = '{"lazy_load_members":true}'


@dataclass(slots=True)
class Page:
    """A part of a timeline."""

    # Where it begins, seen from its end: `/messages` returns it again from there.
    token: str
    # The oldest first; None: not kept in memory.
    events: list[Json] | None
    # The members who wrote in it.
    state: list[Json]


@dataclass(slots=True)
class Gap:
    """What is missing of one room."""

    room_id: str
    # What will be handed over, the oldest first.
    pages: deque[Page] = field(default_factory=deque)
    # Whether the event was found after which the gap begins.
    found_start: bool = False
    # How many messages are left out, because there are too many.
    skipped: int = 0
    # The edits and redactions among what is left out: they may be of messages that crossed.
    corrections: list[Json] = field(default_factory=list)


class Backfiller:
    """Reads gaps. It keeps a few pages in memory; the others are read again when they are handed over."""

    def __init__(self, api: Api, limit: Callable[[str], int], *, page: int = 250) -> None:
        """`limit`: how many messages of a room (its ID) are handed over at most. `page`: events in one request."""
        self._api = api
        self._limit = limit
        self._page_size = page

    async def plan(self, room_id: str, newest: str, oldest: str, starts: Callable[[Json], bool]) -> Gap:
        """Read back from the token `newest` to the token `oldest`, or to the event for which `starts` is true.

        With "" as `oldest`, to the beginning of the room. Raises `Refused` or `Unreachable`.
        """
        gap = Gap(room_id)
        messages, limit = 0, self._limit(room_id)
        token: str | None = newest
        while token is not None and messages < limit:
            page, token = await self._page(room_id, token, oldest)
            page.events, found = after_last(page.events or [], starts)
            if found:
                gap.found_start = True
                token = None
            messages += sum(map(is_message, page.events))
            gap.pages.appendleft(page)
            if len(gap.pages) > _PAGES_IN_MEMORY:
                gap.pages[_PAGES_IN_MEMORY].events = None
        if messages > limit:
            self._trim(gap, messages - limit)
        if token is not None:
            await self._count(gap, token, oldest, starts)
        return gap

    async def pages(self, gap: Gap, oldest: str, starts: Callable[[Json], bool]) -> AsyncIterator[Page]:
        """The pages of a planned gap, the oldest first."""
        while gap.pages:
            page = gap.pages.popleft()
            if page.events is None:
                page, _ = await self._page(gap.room_id, page.token, oldest)
                page.events, _ = after_last(page.events or [], starts)
            yield page

    def _trim(self, gap: Gap, excess: int) -> None:
        # Only the oldest page, the one read last, goes beyond the limit, and that one is in memory.
        kept = deque(gap.pages[0].events or [])
        while excess:
            event = kept.popleft()
            excess -= self._skip(gap, event)
        gap.pages[0].events = list(kept)

    def _skip(self, gap: Gap, event: Json) -> bool:
        """Leave an event out. Returns whether it is a message."""
        if is_message(event):
            gap.skipped += 1
            return True
        if event.get("type") in {"m.room.redaction", "m.room.message"} and event.get("content"):
            gap.corrections.append(event)
        return False

    async def _count(self, gap: Gap, token: str, oldest: str, starts: Callable[[Json], bool]) -> None:
        following: str | None = token
        for _ in range(_PAGES_COUNTED):
            if following is None:
                return
            page, following = await self._page(gap.room_id, following, oldest)
            for event in reversed(page.events or []):
                if starts(event):
                    gap.found_start = True
                    return
                self._skip(gap, event)

    async def _page(self, room_id: str, token: str, oldest: str) -> tuple[Page, str | None]:
        query = {"dir": "b", "from": token, "limit": str(self._page_size), "filter": _FILTER}
        query |= {"to": oldest} if oldest else {}
        answer = await self._api.call("GET", "rooms", room_id, "messages", query=query)
        chunk = [event for event in as_list(answer.get("chunk")) if isinstance(event, dict)]
        state = [event for event in as_list(answer.get("state")) if isinstance(event, dict)]
        end = answer.get("end")
        following = end if isinstance(end, str) and end not in {token, oldest} else None
        return Page(token, chunk[::-1], state), following


def after_last(events: list[Json], starts: Callable[[Json], bool]) -> tuple[list[Json], bool]:
    """What follows the last event for which `starts` is true; all, and False, if there is none."""
    for number in range(len(events) - 1, -1, -1):
        if starts(events[number]):
            return events[number + 1 :], True
    return events, False
