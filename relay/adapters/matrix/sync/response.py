"""One answer to a sync, taken apart room by room and handed to the core, with its token in the last batch.

A room has a cursor of its own, `room:<id>`: none before it is open, `out <token>` while we are out of it again, with
the token from which we shall have to read. Nothing crosses that was said before we first came in, or before the room
was declared; after that everything does, also what was said, edited or deleted while we were out.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import structlog

from relay.adapters.matrix.api.client import Api, Refused
from relay.adapters.matrix.api.session import is_token_refusal
from relay.adapters.matrix.cursors import TOMBSTONE, room_stream, tombstone_stream
from relay.adapters.matrix.inbound.content import as_string
from relay.adapters.matrix.inbound.events import convert, features, is_message
from relay.adapters.matrix.rooms.creators import Creators
from relay.adapters.matrix.rooms.declared import DeclaredRooms, removal_reason
from relay.adapters.matrix.rooms.state import RoomState
from relay.adapters.matrix.sync.backfill import Backfiller, Gap, Page, after_last, as_list
from relay.adapters.matrix.sync.retrying_inbox import RetryingInbox, at, hand_over
from relay.core.offload import LONG, Conversions
from relay.core.ports import Cursor
from relay.domain.events import Event, FeatureUsed, HistorySkipped, MessageDeleted, MessageEdited
from relay.domain.ids import ChannelRef, Platform
from relay.domain.text.rewrite import weight

Json = dict[str, Any]

_log = structlog.get_logger(__name__)

OUT = "out "
_CLOSING = frozenset({TOMBSTONE, "m.room.encryption"})
# Bytes of a room's events above which they are handed over piece by piece, in turn with those of other rooms.
_MUCH = 128 * 1024


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What a sync asked for: what came after `since` in `rooms`; `full`: all of them, with their whole state.

    `declarations`: how often the operator had changed the rooms when it was asked.
    """

    since: str | None
    rooms: frozenset[str]
    full: bool
    declarations: int


class Superseded(Exception):
    """The operator declared other rooms meanwhile: the same has to be asked again."""


@dataclass(slots=True)
class RoomUpdate:
    """What an answer says of one room. `since` set: there is a gap between there and `prev_batch`.

    `entered`: the room was never open; only what follows our own entrance counts. `after`: the position was lost; the
    gap, without a `since`, begins behind this event.
    """

    room_id: str
    state: RoomState
    timeline: list[Json]
    members: list[Json]
    prev_batch: str = ""
    since: str | None = None
    entered: bool = False
    after: str = ""
    extras: list[Event] = field(default_factory=list)
    cursors: tuple[Cursor, ...] = ()


class ResponseHandler:
    """Hands answers over. What it remembers between them is only what saves questions to the store."""

    def __init__(self, api: Api, rooms: DeclaredRooms, gaps: Backfiller, conversions: Conversions) -> None:
        self._conversions = conversions
        self._me = api.user_id
        self._rooms = rooms
        self._gaps = gaps
        self._creators = Creators(api, rooms)
        self._positions: dict[str, str] = {}
        self._typing: dict[str, frozenset[str]] = {}

    async def take(self, answer: Json, question: SyncRequest, inbox: RetryingInbox) -> None:
        """Take in one whole answer; doing it again does no harm.

        Raises `Refused` or `Unreachable` where a gap could not be read, `Superseded`.
        """
        since, wanted = question.since, question.rooms
        token = str(answer["next_batch"])
        sections = _dict(answer.get("rooms"))
        heard = wanted - self._rooms.awaited
        joined, left = (_rooms(sections.get(kind), heard) for kind in ("join", "leave"))
        invited = _rooms(sections.get("invite"), wanted)
        await self._creators.learn(joined)
        portions = [await self._joined(room_id, section, question, token, inbox) for room_id, section in joined.items()]
        portions += [await self._left(room_id, section, since, inbox) for room_id, section in left.items()]
        for portion in portions:
            if portion.timeline or portion.room_id in joined:
                await self._rooms.bind(portion.room_id, inbox)
        await self._deliver(portions, token, question, inbox)
        for room_id, section in left.items():
            self._rooms.seen_outside(room_id, self._departure(room_id, section))
        self._positions |= {cursor.stream: cursor.position for portion in portions for cursor in portion.cursors}
        for room_id, section in invited.items():
            self._rooms.seen_invited(room_id, _inviters(section))
        if question.full:
            for room_id in heard - joined.keys() - left.keys() - invited.keys():
                self._rooms.seen_outside(room_id)
        for room_id in (*joined, *left):
            await self._rooms.settle(room_id, inbox)

    # --- One room -----------------------------------------------------------------------------------------

    async def _joined(
        self, room_id: str, section: Json, question: SyncRequest, token: str, inbox: RetryingInbox
    ) -> RoomUpdate:
        since = question.since
        portion, limited = self._portion(room_id, section)
        self._rooms.seen_inside(room_id, whole=question.full)
        position = await self._position(room_id, inbox)
        if _is_inside(position):
            portion.since = since if limited else None
            portion.extras = self._features(room_id, section)
            if since is None:
                await self._find_place(portion, limited, inbox)
            portion.cursors = await self._end(portion, since or token, inbox)
            return portion
        portion.cursors = (at(room_stream(room_id), token),)
        if position:
            portion.since = position.removeprefix(OUT)
            return portion
        portion.entered = True
        for event in portion.timeline:
            # What is not handed over still changes the room.
            portion.state.apply(event)
        since_entrance, found = after_last(portion.timeline, self._is_entrance)
        if found and since is not None:
            portion.timeline = since_entrance
        elif limited and since is not None:
            portion.since = since
        else:
            portion.timeline = []  # We have been inside since long before it was declared.
        return portion

    async def _find_place(self, portion: RoomUpdate, limited: bool, inbox: RetryingInbox) -> None:
        """Where to read on in an open room, without the position that was lost: behind the last message on record."""
        channel = ChannelRef(Platform.MATRIX, portion.room_id)
        last = await inbox.last_original(channel)
        timeline, found = portion.timeline, False
        if last is None:
            # What was received has been forgotten, so that it cannot be told from what was missed.
            portion.timeline = []
            if any(is_message(event) and event.get("sender") != self._me for event in timeline):
                portion.extras.append(HistorySkipped(channel, None))
        else:
            portion.after = last.id
            portion.timeline, found = after_last(timeline, self._starts(portion))
        for event in timeline[: len(timeline) - len(portion.timeline)]:
            portion.state.apply(event)
        if limited and last is not None and not found:
            portion.since = ""

    async def _end(self, portion: RoomUpdate, since: str, inbox: RetryingInbox) -> tuple[Cursor, ...]:
        """Where its replacement has to be read from, for a room that has been replaced in this answer."""
        events = (*portion.members, *portion.timeline)
        if not any(event.get("type") == TOMBSTONE and event.get("state_key") == "" for event in events):
            return ()
        stream = tombstone_stream(portion.room_id)
        return () if await inbox.position(stream) else (at(stream, since),)

    async def _left(self, room_id: str, section: Json, since: str | None, inbox: RetryingInbox) -> RoomUpdate:
        """The last words that we heard in a room."""
        portion, limited = self._portion(room_id, section)
        position = await self._position(room_id, inbox)
        if not _is_inside(position):
            portion.timeline = []
            return portion
        # What this answer tells ends when we left, and its token may lie behind what was said after that.
        portion.cursors = (at(room_stream(room_id), f"{OUT}{since or position}"),)
        portion.since = since if limited else None
        return portion

    def _portion(self, room_id: str, section: Json) -> tuple[RoomUpdate, bool]:
        timeline = _dict(section.get("timeline"))
        members = _events(section.get("state"))
        state = self._rooms.state(room_id)
        for event in members:
            state.apply(event)
        for event in _events(timeline):
            # Nothing more may be sent into such a room, from the moment at which it opens.
            if event.get("type") in _CLOSING:
                state.apply(event)
        prev_batch = as_string(timeline.get("prev_batch"))
        portion = RoomUpdate(room_id, state, _events(timeline), members, prev_batch)
        return portion, timeline.get("limited") is True and prev_batch != ""

    def _features(self, room_id: str, section: Json) -> list[Event]:
        before = self._typing.get(room_id, frozenset())
        channel = ChannelRef(Platform.MATRIX, room_id)
        found, typing = features(_dict(section.get("ephemeral")), channel, self._me, before)
        self._typing[room_id] = frozenset(typing)
        return found

    async def _position(self, room_id: str, inbox: RetryingInbox) -> str:
        stream = room_stream(room_id)
        if stream not in self._positions:
            self._positions[stream] = await inbox.position(stream) or ""
        return self._positions[stream]

    def _is_entrance(self, event: Json) -> bool:
        """Whether an event is our own coming into the room."""
        if event.get("type") != "m.room.member" or event.get("state_key") != self._me:
            return False
        before = _dict(_dict(event.get("unsigned")).get("prev_content")).get("membership")
        return _dict(event.get("content")).get("membership") == "join" and before != "join"

    def _departure(self, room_id: str, section: Json) -> str | None:
        """How we left, if we were inside at all: a room that we only were invited to is left as well."""
        door = self._rooms.door(room_id)
        if door is None or not (door.joined or door.bound or _is_inside(self._positions.get(room_stream(room_id), ""))):
            return None
        events = (*_events(section.get("state")), *_events(section.get("timeline")))
        own = [e for e in events if e.get("type") == "m.room.member" and e.get("state_key") == self._me]
        return removal_reason(own[-1] if own else {}, self._me, door.name)

    # --- Handing over -------------------------------------------------------------------------------------

    async def _deliver(
        self, portions: list[RoomUpdate], token: str, question: SyncRequest, inbox: RetryingInbox
    ) -> None:
        """The rooms with little to tell first, then page by page in turn the others, and the token at the very end.

        Much to tell have those with a gap, and those with long texts: they shall not keep the others waiting.
        """
        much = [portion for portion in portions if portion.since is not None or weight(portion.timeline) > _MUCH]
        little = [portion for portion in portions if portion not in much]
        events = [event for portion in little for event in await self._converted(portion, portion.timeline)]
        extras = [event for portion in portions for event in portion.extras]
        self._check(portions, question)
        if much:
            await hand_over(events, (), inbox)
            await self._deliver_pages(much, question, inbox)
            self._check(portions, question)
            events = []
        cursors = (*(cursor for portion in portions for cursor in portion.cursors), at("sync", token))
        await hand_over([*events, *extras], cursors, inbox)

    async def _deliver_pages(self, portions: list[RoomUpdate], question: SyncRequest, inbox: RetryingInbox) -> None:
        waiting = deque((portion, self._pages(portion, inbox)) for portion in portions)
        while waiting:
            portion, pages = waiting.popleft()
            page = await anext(pages, None)
            if page is not None:
                for event in page.state:
                    portion.state.apply(event)
                events = await self._converted(portion, page.events or [])
                self._check([portion], question)
                await hand_over(events, (), inbox)
                waiting.append((portion, pages))

    def _check(self, portions: list[RoomUpdate], question: SyncRequest) -> None:
        """Nothing of a room may go to a core that does not know it: it would be passed over, and never come again."""
        if self._rooms.declarations != question.declarations:
            for portion in portions:
                if (portion.timeline or portion.since) and not self._rooms.is_bound(portion.room_id):
                    raise Superseded(portion.room_id)

    async def _pages(self, portion: RoomUpdate, inbox: RetryingInbox) -> AsyncIterator[Page]:
        """The gap, oldest page first, and the timeline as the last page; without a gap, the timeline piece by piece."""
        if portion.since is None:
            for piece in _pieces(portion.timeline):
                yield Page("", piece, [])
            return
        since = portion.since
        gap = await self._plan_backfill(portion, since)
        if gap is not None and (not portion.entered or gap.found_start):
            if gap.skipped:
                await self._skip(portion, gap, since, inbox)
            async for page in self._gaps.events(gap, since, self._starts(portion)):
                for part in _split(page):
                    yield part
            for part in _split(Page("", portion.timeline, portion.members)):
                yield part

    async def _plan_backfill(self, portion: RoomUpdate, since: str) -> Gap | None:
        """The gap; None where we have been put out of the room meanwhile: it is read once we are let in again."""
        try:
            return await self._gaps.plan(portion.room_id, portion.prev_batch, since, self._starts(portion))
        except Refused as refused:
            if refused.status == 429 or refused.status >= 500 or is_token_refusal(refused):
                raise
            if refused.code == "M_FORBIDDEN" and since:
                _log.info("missed messages wait", room=portion.room_id, reason=str(refused))
                portion.cursors = () if portion.entered else (at(room_stream(portion.room_id), OUT + since),)
                return None
            # Not to be had, and at least one message is missing.
            _log.warning("missed messages cannot be read", room=portion.room_id, reason=str(refused))
            return Gap(portion.room_id, skipped=1)

    def _starts(self, portion: RoomUpdate) -> Callable[[Json], bool]:
        if portion.after:
            return lambda event: event.get("event_id") == portion.after
        return self._is_entrance if portion.entered else _never

    async def _skip(self, portion: RoomUpdate, gap: Gap, since: str, inbox: RetryingInbox) -> None:
        """Say once how many messages are left out; their edits and deletions count all the same."""
        stream = f"gap:{portion.room_id}"
        told = await inbox.position(stream) == since
        channel = ChannelRef(Platform.MATRIX, portion.room_id)
        events: list[Event] = [] if told else [HistorySkipped(channel, gap.skipped)]
        corrections = await self._converted(portion, reversed(gap.corrections))
        events += [event for event in corrections if isinstance(event, MessageEdited | MessageDeleted)]
        await hand_over(events, (at(stream, since),), inbox)

    async def _converted(self, portion: RoomUpdate, events: Iterable[Json]) -> list[Event]:
        found: list[Event] = []
        state = portion.state
        held = 0
        for event in events:
            state.apply(event)
            if portion.entered and not _was_said_to_us(event):
                continue
            try:
                size = weight(event.get("content"))
                if (held := held + size) > LONG:
                    held = 0
                    await asyncio.sleep(0)  # Whatever else is due comes between.
                converted = await self._conversions.run(size, convert, event, state, self._me, self._rooms.names())
            except Exception:  # noqa: BLE001 - the top of this worker: see below
                # One event that we cannot read must not stop every room for ever.
                _log.exception("bug while reading an event", room=state.room_id, event_id=ascii(event.get("event_id")))
                converted = FeatureUsed(ChannelRef(Platform.MATRIX, state.room_id), "unreadable")
            if converted is not None:
                found.append(converted)
        return found


def _split(page: Page) -> Iterator[Page]:
    """A page piece by piece: its trees are not to be in memory all at once. The first brings the state."""
    yield Page(page.token, [], page.state)
    for piece in _pieces(page.events or []):
        yield Page(page.token, piece, [])


def _pieces(timeline: list[Json]) -> Iterator[list[Json]]:
    piece: list[Json] = []
    held = 0
    for event in timeline:
        piece.append(event)
        held += weight(event)
        if held > _MUCH:
            yield piece
            piece, held = [], 0
    if piece:
        yield piece


def _is_inside(position: str) -> bool:
    return position != "" and not position.startswith(OUT)


def _was_said_to_us(event: Json) -> bool:
    """Whether we were in the room when it was said, where the homeserver tells (MSC4115, version 1.11)."""
    membership = _dict(event.get("unsigned")).get("membership")
    return membership in {None, "join"} or event.get("type") == "m.room.redaction"


def _never(event: Json) -> bool:
    return False


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _rooms(value: Any, wanted: frozenset[str]) -> dict[str, Json]:
    return {room_id: _dict(section) for room_id, section in _dict(value).items() if room_id in wanted}


def _events(section: Any) -> list[Json]:
    return [event for event in as_list(_dict(section).get("events")) if isinstance(event, dict)]


def _inviters(section: Json) -> list[str]:
    events = _events(section.get("invite_state"))
    return [str(e.get("sender")) for e in events if _dict(e.get("content")).get("membership") == "invite"]
