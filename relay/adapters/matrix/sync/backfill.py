"""What a sync left out of a busy room: read backwards until where we were, handed over forwards.

https://spec.matrix.org/latest/client-server-api/#syncing: a `limited` timeline starts at `prev_batch`; `/messages`
from there back to the `since` of the request returns what is missing.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from relay.adapters.matrix.api.client import Api
from relay.adapters.matrix.inbound.events import is_message

Json = dict[str, Any]

_PAGES_IN_MEMORY = 4
_PAGES_COUNTED = 200
_FILTER = '{"lazy_load_members":true}'


@dataclass(slots=True)
class Page:
    """A stretch of a timeline, oldest event first; `state` holds the members who speak in it."""

    token: str
    events: list[Json] | None
    state: list[Json]


@dataclass(slots=True)
class Gap:
    """What is missing in one room.

    `pages`, oldest first, are what will be handed over. `found_start`: the walk met the event that ends it.
    `skipped` messages are too many; `corrections` are the edits and redactions among them, which still count.
    """

    room_id: str
    pages: deque[Page] = field(default_factory=deque)
    found_start: bool = False
    skipped: int = 0
    corrections: list[Json] = field(default_factory=list)


class Backfiller:
    """Walks gaps. Keeps a few pages in memory and fetches the others again when their turn comes.

    `limit`: how many messages of a room, given by its ID, are handed over at most.
    """

    def __init__(self, api: Api, limit: Callable[[str], int], *, page: int = 250) -> None:
        self._api = api
        self._limit = limit
        self._size = page

    async def plan(self, room_id: str, newest: str, oldest: str, starts: Callable[[Json], bool]) -> Gap:
        """Walk back from the token `newest` to the token `oldest`, or to the event for which `starts` is true.

        Without a token `oldest` ("") the room's beginning ends the walk.

        Raises `Refused` or `Unreachable`.
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

    async def events(self, gap: Gap, oldest: str, starts: Callable[[Json], bool]) -> AsyncIterator[Page]:
        """The pages of a gap, oldest first."""
        while gap.pages:
            page = gap.pages.popleft()
            if page.events is None:
                page, _ = await self._page(gap.room_id, page.token, oldest)
                page.events, _ = after_last(page.events or [], starts)
            yield page

    def _trim(self, gap: Gap, excess: int) -> None:
        # Only the page that was read last, the oldest, can be over the limit, and that one is in memory.
        kept = deque(gap.pages[0].events or [])
        while excess:
            event = kept.popleft()
            excess -= self._skip(gap, event)
        gap.pages[0].events = list(kept)

    def _skip(self, gap: Gap, event: Json) -> bool:
        """Leave an event out; whether it is a message."""
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
        query = {"dir": "b", "from": token, "limit": str(self._size), "filter": _FILTER}
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


def as_list(value: Any) -> list[Any]:
    """`value` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []
