"""One sync response: taken apart room by room and handed to the core, with the response's token in the last batch.

Nothing is copied that was written before we first came into a room, or before the room was declared. After that
everything is, also what was written, edited or deleted while we were out of the room; `cursors.room_stream` says from
where it is read.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.adapters.matrix.api.session import is_token_refusal
from relay.adapters.matrix.cursors import (
    OUTSIDE,
    SYNC,
    SyncPosition,
    creation,
    creation_cursor,
    creation_stream,
    cursor,
    gap_stream,
    is_inside,
    room_stream,
    tombstone_stream,
)
from relay.adapters.matrix.identifiers import is_user_id
from relay.adapters.matrix.inbound.events import (
    ban_event,
    changed_picture,
    convert,
    echo,
    ephemeral_events,
    is_by_hand,
    timestamp,
)
from relay.adapters.matrix.retrying_inbox import RetryingInbox
from relay.adapters.matrix.rooms.declared import DeclaredRooms, removal_reason
from relay.adapters.matrix.rooms.state import TOMBSTONE, RoomState
from relay.adapters.matrix.sync.backfill import Backfiller, Gap, Memory, Page, after_last
from relay.adapters.matrix.sync.lost import resume_after_record, was_restored
from relay.adapters.matrix.sync.update import (
    RoomUpdate,
    SyncRequest,
    Told,
    events_of,
    is_recent,
    sections_of,
)
from relay.core.offload import LONG, Conversions
from relay.core.ports import Cursor
from relay.domain.events import (
    Event,
    FeatureUsed,
    HistorySkipped,
    MemberBanned,
    MemberUnbanned,
)
from relay.domain.ids import ChannelRef, Platform, UserRef
from relay.domain.jsontext import Json, as_dict, as_string
from relay.domain.text.rewrite import weight
from relay.logs import get_logger

_log = get_logger(__name__)

_STOPS_SENDING = frozenset({TOMBSTONE, "m.room.encryption"})
# Bytes of a room's events above which they are handed to the core in pieces, in turn with those of other rooms.
_LARGE = 128 * 1024
_CREATE_REQUESTS_AT_ONCE = 8
_NOBODY: frozenset[str] = frozenset()


# After so many failures over so many seconds, what was missed in a room is put off; so often, for so many seconds each.
_FAILURES, _FAILING_SECONDS = 3, 60.0
_MOST_PUT_OFF, _PUT_OFF_SECONDS = 6, 600.0
_READ_SECONDS = 30.0


@dataclass(slots=True)
class _Trouble:
    """The homeserver cannot read the history of a room."""

    # When that began (monotonic), and how often it has failed since.
    began: float = 0.0
    failures: int = 0
    # How often it was put off, until when, and when all rooms are asked for, for how many times at most.
    times: int = 0
    again_at: float = 0.0
    ask_at: float = 0.0
    asks: int = 0

    def put_off(self, now: float) -> bool:
        """Try again in some minutes; False if that was done often enough."""
        self.times += 1
        self.again_at = self.ask_at = now + _PUT_OFF_SECONDS
        self.asks = _MOST_PUT_OFF
        return self.times <= _MOST_PUT_OFF


class RoomsChanged(Exception):
    """The operator has declared other rooms meanwhile, so the same has to be asked again."""


class ResponseHandler:
    """Hands responses to the core. What it keeps between them only saves reads of the store."""

    def __init__(
        self,
        api: Api,
        rooms: DeclaredRooms,
        backfiller: Backfiller,
        conversions: Conversions,
        # Told of each membership, with the ID of its room.
        saw_member: Callable[[str, Json], None],
        now: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._now = now
        self._saw_member = saw_member
        self._conversions = conversions
        self._me = api.user_id
        self._rooms = rooms
        self._backfiller = backfiller
        self._positions: dict[str, str] = {}
        self._typing: dict[str, frozenset[str]] = {}
        # By room.
        self._troubles: dict[str, _Trouble] = {}
        # Changes when bans of a room may have been missed.
        self.bans_versions: dict[str, int] = {}
        # When somebody last wrote in a room with the relay's own account, which does not cross.
        self.by_hand: dict[str, datetime] = {}

    async def handle(self, response: Json, request: SyncRequest, inbox: RetryingInbox) -> SyncPosition:
        """Hand over one whole response, and return the position behind it. To do it again does no harm.

        Raises `Refused` or `Unreachable` if a gap could not be read, `RoomsChanged`.
        """
        token = str(response["next_batch"])
        told = Told(request.told, self._now())
        sections = as_dict(response.get("rooms"))
        known = request.rooms - self._rooms.awaited
        joined = {room_id: one for room_id, one in as_dict(sections.get("join")).items() if room_id in known}
        left = sections_of(sections.get("leave"), known)
        invited = sections_of(sections.get("invite"), request.rooms)
        updates = []
        for room_id, unread in joined.items():
            section = as_dict(await self._api.read(unread))
            told.see(room_id, section)
            updates.append(update := await self._joined(room_id, section, request, token, inbox))
            if update.since is None:
                update.members = []  # The state of all rooms at once would be too much.
        created = await self._learn_creators(joined, inbox)
        for update in [one for one in updates if one.first_join]:
            if await self._is_read_on(update.room_id, inbox):
                updates.remove(update)
                del joined[update.room_id]
        position = SyncPosition(token, told.last)
        updates += [await self._left(room_id, section, request.since, inbox) for room_id, section in left.items()]
        for update in updates:
            if update.timeline or update.room_id in joined:
                await self._rooms.open(update.room_id, inbox)
        outside = () if request.since is not None else await self._left_unnoticed(known - joined.keys(), inbox)
        await self._hand_over(updates, (*outside, *created, cursor(SYNC, str(position))), request, inbox)
        for room_id, section in left.items():
            self._rooms.mark_outside(room_id, self._removed_reason(room_id, section))
        made = (*outside, *(made for update in updates for made in update.cursors))
        self._positions |= {one.stream: one.position for one in made}
        for room_id, section in invited.items():
            self._rooms.mark_invited(room_id, _inviters(section))
        if request.full:
            for room_id in known - joined.keys() - left.keys() - invited.keys():
                self._rooms.mark_outside(room_id)
        for room_id in (*joined, *left):
            await self._rooms.report(room_id, inbox)
        return position

    async def was_restored(self, request: SyncRequest, inbox: RetryingInbox, *, counts_anew: bool = False) -> bool:
        """Whether the homeserver goes on from a backup, and does not know any more what it has told us."""
        if request.told is None or request.since is None:
            return False
        read = [room_id for room_id in request.rooms if is_inside(await self._position(room_id, inbox))]
        return await was_restored(self._api, request.told, request.since, frozenset(read), counts_anew=counts_anew)

    async def forget_tokens(self, inbox: RetryingInbox) -> None:
        """The homeserver counts its events anew, so where rooms that we are out of are read on from is not known."""
        rooms = [room.room_id for room in self._rooms.declared if room.room_id is not None]
        left = [room_id for room_id in rooms if (await self._position(room_id, inbox)).startswith(OUTSIDE)]
        cursors = tuple(cursor(room_stream(room_id), OUTSIDE) for room_id in left)
        if cursors:
            await inbox.receive_all((), cursors)
        self._positions |= {made.stream: made.position for made in cursors}

    async def _left_unnoticed(self, room_ids: Iterable[str], inbox: RetryingInbox) -> tuple[Cursor, ...]:
        """Of rooms that we are out of, and were in before the position was lost: they are read on from the record."""
        inside = [room_id for room_id in room_ids if is_inside(await self._position(room_id, inbox))]
        return tuple(cursor(room_stream(room_id), OUTSIDE) for room_id in inside)

    def forget_position(self, room_id: str) -> None:
        """The cursor of a room has been set to another position, and is read from the store again."""
        self._positions.pop(room_stream(room_id), None)

    async def _learn_creators(self, room_ids: Iterable[str], inbox: RetryingInbox) -> list[Cursor]:
        """See `learn_creators`. Who was asked for once is remembered by what is returned."""
        unknown = [state for state in map(self._rooms.state, room_ids) if not state.creator_known]
        for state in unknown:
            state.apply_creation(creation(await inbox.position(creation_stream(state.room_id))))
        learnt = await learn_creators(self._api, unknown)
        cursors = (creation_cursor(state.room_id, state.creation()) for state in learnt)
        return [made for made in cursors if made is not None]

    # --- One room -----------------------------------------------------------------------------------------

    async def _joined(
        self, room_id: str, section: Json, request: SyncRequest, token: str, inbox: RetryingInbox
    ) -> RoomUpdate:
        since = request.since
        update, limited = self._update(room_id, section)
        self._rooms.mark_joined(room_id, complete=request.full)
        if limited or request.full:
            # Of a gap sync sends the members who wrote, and no others.
            self.bans_versions[room_id] = self.bans_versions.get(room_id, 0) + 1
        position = await self._position(room_id, inbox)
        if is_inside(position):
            update.since = since if limited else None
            if limited and request.told is not None:
                update.joined = position
                update.is_recent = partial(is_recent, request.told, self._now)
            update.extras = self._ephemeral(room_id, section)
            if since is None:
                await resume_after_record(self._api, self._rooms.accounts, update, inbox, limited=limited)
            update.cursors = await self._tombstone_cursor(update, since or token, inbox)
            if since is not None and any(map(self._is_own_join, update.timeline)):
                self._read_back(update, since, token)  # removed and back in before we were told of either
            return update
        update.cursors = (cursor(room_stream(room_id), token),)
        if position == OUTSIDE:
            await resume_after_record(self._api, self._rooms.accounts, update, inbox, limited=limited)
            return update
        if position:
            left_at = position.removeprefix(OUTSIDE)
            update.cursors += await self._tombstone_cursor(update, left_at, inbox)
            self._read_back(update, left_at, token)
            return update
        update.first_join = True
        update.starts = self._is_own_join
        for event in update.timeline:
            # What is not handed over still changes the room.
            update.state.apply(event)
        after_join, found = after_last(update.timeline, self._is_own_join)
        if found and since is not None:
            update.timeline = after_join
        elif limited and since is not None:
            update.since = since
        else:
            update.timeline = []  # We were in the room long before it was declared.
        return update

    def _read_back(self, update: RoomUpdate, since: str, token: str) -> None:
        """Ask for what was written from `since` on, up to the response's `token`, instead of taking the timeline.

        Where we have come into a room again, Synapse's begins with what was written before we left, and even before we
        ever were in there, and its `prev_batch` is not where that begins (ran, 1.163).
        """
        # What the room has become: where people may not read what was written before they came, only sync tells it.
        update.members = [*update.members, *(event for event in update.timeline if "state_key" in event)]
        update.after_join, _ = after_last(update.timeline, self._is_own_join)
        update.since, update.prev_batch, update.timeline = since, token, []

    async def _is_read_on(self, room_id: str, inbox: RetryingInbox) -> bool:
        """Whether this room is about to replace one that we read, or just has: what is said in it is not new to us.

        An alias names the replacement at once, and may be declared beside the old room. Whoever follows the upgrade
        stores from where the room is read, and asks for it again.
        """
        self.forget_position(room_id)
        return self._rooms.is_replacement(room_id) or await self._position(room_id, inbox) != ""

    async def _tombstone_cursor(self, update: RoomUpdate, since: str, inbox: RetryingInbox) -> tuple[Cursor, ...]:
        """If the room was upgraded in this response: from where the new room is read."""
        events = (*update.members, *update.timeline)
        if not any(event.get("type") == TOMBSTONE and event.get("state_key") == "" for event in events):
            return ()
        stream = tombstone_stream(update.room_id)
        return () if await inbox.position(stream) else (cursor(stream, since),)

    async def _left(self, room_id: str, section: Json, since: str | None, inbox: RetryingInbox) -> RoomUpdate:
        """The last that we were sent of a room."""
        update, limited = self._update(room_id, section)
        position = await self._position(room_id, inbox)
        if not is_inside(position):
            update.timeline = []
            return update
        # The response ends where we left the room, but its token may be after what was written since then.
        update.cursors = (cursor(room_stream(room_id), f"{OUTSIDE}{since or position}"),)
        update.since = since if limited else None
        return update

    def _update(self, room_id: str, section: Json) -> tuple[RoomUpdate, bool]:
        """What a section of the response says, and whether the timeline is `limited`."""
        timeline = as_dict(section.get("timeline"))
        members = events_of(section.get("state"))
        state = self._rooms.state(room_id)
        for event in members:
            state.apply(event)
        for event in events_of(timeline):
            # Applied before the room is opened: nothing may be sent into an encrypted or upgraded room.
            if event.get("type") in _STOPS_SENDING:
                state.apply(event)
        prev_batch = as_string(timeline.get("prev_batch"))
        update = RoomUpdate(room_id, state, events_of(timeline), members, prev_batch)
        return update, timeline.get("limited") is True and prev_batch != ""

    def _ephemeral(self, room_id: str, section: Json) -> list[Event]:
        before = self._typing.get(room_id, _NOBODY)
        channel = ChannelRef(Platform.MATRIX, room_id)
        found, typing = ephemeral_events(as_dict(section.get("ephemeral")), channel, self._me, before)
        if typing:
            self._typing[room_id] = frozenset(typing)
        else:
            self._typing.pop(room_id, None)
        return found

    async def _position(self, room_id: str, inbox: RetryingInbox) -> str:
        stream = room_stream(room_id)
        if stream not in self._positions:
            self._positions[stream] = await inbox.position(stream) or ""
        return self._positions[stream]

    def _is_own_join(self, event: Json) -> bool:
        if event.get("type") != "m.room.member" or event.get("state_key") != self._me:
            return False
        before = as_dict(as_dict(event.get("unsigned")).get("prev_content")).get("membership")
        return as_dict(event.get("content")).get("membership") == "join" and before != "join"

    def _removed_reason(self, room_id: str, section: Json) -> str | None:
        """How we left; None if we never were in the room: a declined invitation also counts as leaving."""
        room = self._rooms.find(room_id)
        if room is None:
            return None
        if not (room.joined or room.opened or is_inside(self._positions.get(room_stream(room_id), ""))):
            return None
        events = (*events_of(section.get("state")), *events_of(section.get("timeline")))
        own = [e for e in events if e.get("type") == "m.room.member" and e.get("state_key") == self._me]
        return removal_reason(own[-1] if own else {}, self._me, room.name)

    # --- To the core --------------------------------------------------------------------------------------

    async def _hand_over(
        self, updates: list[RoomUpdate], behind: tuple[Cursor, ...], request: SyncRequest, inbox: RetryingInbox
    ) -> None:
        """First the rooms with few events, then the others in turn, a page each, and at the very end what is `behind`.

        Rooms with a gap or with long texts come second, so that the others do not wait for them.
        """
        large = [update for update in updates if update.since is not None or weight(update.timeline) > _LARGE]
        small = [update for update in updates if update not in large]
        events = [event for update in small for event in await self._converted(update, update.timeline)]
        extras = [event for update in updates for event in update.extras]
        self._check(updates, request)
        if large:
            await inbox.receive_all(events, ())
            await self._hand_over_pages(large, request, inbox)
            self._check(updates, request)
            events = []
        cursors = (*(made for update in updates for made in update.cursors), *behind)
        await inbox.receive_all([*events, *extras], cursors)

    async def _hand_over_pages(self, updates: list[RoomUpdate], request: SyncRequest, inbox: RetryingInbox) -> None:
        memory = Memory()
        waiting = deque((update, self._pages(update, request, inbox, memory)) for update in updates)
        while waiting:
            update, pages = waiting.popleft()
            page = await anext(pages, None)
            if page is not None:
                for event in page.state:
                    update.state.apply(event)
                events = await self._converted(update, page.events or [])
                self._check([update], request)
                await inbox.receive_all(events, ())
                # Whoever is in the middle of it holds a page or more: where that is too much, one room after the other.
                (waiting.appendleft if memory.is_full else waiting.append)((update, pages))

    def _check(self, updates: list[RoomUpdate], request: SyncRequest) -> None:
        """Raise `RoomsChanged` rather than hand over events of a room that the core does not know and would drop."""
        if self._rooms.declarations != request.declarations:
            for update in updates:
                if (update.timeline or update.since) and not self._rooms.is_open(update.room_id):
                    raise RoomsChanged(update.room_id)

    async def _pages(
        self, update: RoomUpdate, request: SyncRequest, inbox: RetryingInbox, memory: Memory
    ) -> AsyncIterator[Page]:
        """The gap, oldest page first, then the timeline; all in pieces."""
        if update.since is None:
            for piece in _pieces(update.timeline):
                yield Page("", piece, [])
            return
        since = update.since
        gap = await self._plan_backfill(update, since, memory)
        self._check([update], request)  # of a room that is not declared any more, all would count as skipped
        if gap is not None and (not update.first_join or gap.found_start):
            if gap.skipped or gap.incomplete:
                await self._report_skipped(update, gap, since, inbox)
            async for page in self._backfiller.pages(gap):
                for part in _split(page):
                    yield part
            for part in _split(Page("", update.timeline, update.members)):
                yield part

    def _ban_of(self, event: Json, state: RoomState) -> MemberBanned | MemberUnbanned | None:
        """What a membership says of a ban; None if nothing, or if it is about the relay itself."""
        user = as_string(event.get("state_key"))
        if user == self._me or not is_user_id(user):
            return None
        person = self._rooms.accounts.person(user) or UserRef(Platform.MATRIX, user)
        return ban_event(event, state, person)

    def _saw_hand(self, room_id: str, at: datetime) -> None:
        if room_id not in self.by_hand:
            remedy = "write with another account, and keep this one for the relay"
            _log.warning("written with the relay's own account: it does not cross", room=room_id, remedy=remedy)
        self.by_hand[room_id] = max(at, self.by_hand.get(room_id, at))

    async def _plan_backfill(self, update: RoomUpdate, since: str, memory: Memory) -> Gap | None:
        """The gap; None if we have been removed from the room meanwhile: then it is read once we are back in."""
        room_id, trouble = update.room_id, self._troubles.get(update.room_id, _Trouble())
        if _monotonic() < trouble.again_at:
            self._later(update, since, "the homeserver could not read them")
            return None
        gap = Gap(
            room_id=room_id,
            memory=memory,
            oldest=since,
            starts=update.starts,
            joined=update.joined if since else "",
            is_recent=update.is_recent,
            read_seconds=_READ_SECONDS * (4 if trouble.times else 2 if trouble.failures else 1),
        )
        try:
            await self._backfiller.fill(gap, update.prev_batch)
        except (Refused, Unreachable) as error:
            refused = error if isinstance(error, Refused) and error.status < 500 else None
            if refused is not None and (refused.status == 429 or is_token_refusal(refused)):
                raise
            if refused is not None and refused.code == "M_FORBIDDEN" and since:
                self._later(update, since, str(refused))
                return None
            if refused is None:
                if not await self._is_of_room(room_id, error):
                    raise
                if since and trouble.put_off(_monotonic()):
                    _log.warning("history of a room cannot be read, put off", room=room_id, reason=str(error))
                    self._later(update, since, str(error))
                    return None
            # The homeserver does not give them to us: at least one message is missing.
            _log.warning("missed messages cannot be read", room=room_id, reason=str(error))
            gap = Gap(room_id=room_id, skipped=1)
            update.timeline = update.timeline or update.after_join
        self._troubles.pop(room_id, None)
        return gap

    def _later(self, update: RoomUpdate, since: str, reason: str) -> None:
        """What was missed is read once we are in the room again, or are asked to try again."""
        _log.info("missed messages wait", room=update.room_id, reason=reason)
        update.cursors = () if update.first_join else (cursor(room_stream(update.room_id), OUTSIDE + since),)

    async def _is_of_room(self, room_id: str, error: Refused | Unreachable) -> bool:
        """Whether the homeserver works, and has failed for long with one room's history: others must not wait."""
        if isinstance(error, Unreachable) and not error.sent:
            return False
        trouble = self._troubles.setdefault(room_id, _Trouble(began=_monotonic()))
        trouble.failures += 1
        if trouble.failures < _FAILURES or _monotonic() < trouble.began + _FAILING_SECONDS:
            return False
        try:
            await self._api.call("GET", "account", "whoami")
        except (Refused, Unreachable):
            return False
        return True

    def tries_again(self) -> bool:
        """Whether it is time to ask for all rooms, for what was put off in some of them."""
        now = _monotonic()
        due = [one for one in self._troubles.values() if one.asks and now >= one.ask_at]
        for one in due:
            # Once more later: this request may be given up, or the room may be none of ours by now.
            one.ask_at, one.asks = now + _PUT_OFF_SECONDS, one.asks - 1
        return due != []

    async def _report_skipped(self, update: RoomUpdate, gap: Gap, since: str, inbox: RetryingInbox) -> None:
        """Say once how many messages are left out, or that some may be."""
        stream = gap_stream(update.room_id)
        began = since or update.last_on_record
        reported = await inbox.position(stream) == began
        if not reported:
            skipped = HistorySkipped(ChannelRef(Platform.MATRIX, update.room_id), gap.skipped or None)
            await inbox.receive_all([skipped], (cursor(stream, began),))

    async def _converted(self, update: RoomUpdate, events: Iterable[Json]) -> list[Event]:
        found: list[Event] = []
        state, channel = update.state, ChannelRef(Platform.MATRIX, update.room_id)
        names = self._rooms.names()
        since_pause = 0
        for event in events:
            state.apply(event)
            if event.get("type") == "m.room.member":
                self._saw_member(state.room_id, event)
                if (banned := self._ban_of(event, state)) is not None:
                    found.append(banned)
                if (changed := changed_picture(event, channel, self._me, names)) is not None:
                    found.append(changed)
            if update.first_join and not _was_sent_to_us(event):
                continue
            if is_by_hand(event, self._me):
                self._saw_hand(update.room_id, timestamp(event.get("origin_server_ts")))
            if (own := echo(event, channel, self._me, names)) is not None:
                found.append(own)
                continue
            try:
                size = weight(event.get("content"))
                if (since_pause := since_pause + size) > LONG:
                    since_pause = 0
                    await asyncio.sleep(0)  # Let other tasks run.
                converted = await self._conversions.run(size, convert, event, state, self._me, names)
            except Exception:  # noqa: BLE001 - the top of this worker: see below
                # One event that we cannot read must not stop all rooms for ever.
                _log.exception("bug while reading an event", room=state.room_id, event_id=ascii(event.get("event_id")))
                converted = FeatureUsed(channel, "unreadable")
            if converted is not None:
                found.append(converted)
        return found


async def learn_creators(api: Api, states: Iterable[RoomState]) -> Sequence[RoomState]:
    """Ask who made the rooms of which that is not known. Returns once all are known, or cannot be asked for now.

    Those of which it was answered are returned.

    A filter by room hides the `m.room.create` of a room of version 12 from sync, because that event has no room ID
    (ran, Synapse 1.163); and from that version on creators are above all power levels.
    """
    unknown = deque(state for state in states if not state.creator_known)
    learnt: list[RoomState] = []

    async def ask() -> None:
        while unknown:
            state = unknown.popleft()
            if (event := await _creation_of(api, state.room_id)) is not None:
                state.apply(event | {"type": "m.room.create", "state_key": ""})
                learnt.append(state)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(_CREATE_REQUESTS_AT_ONCE, len(unknown))):
            group.create_task(ask(), name="matrix creators")
    return learnt


async def _creation_of(api: Api, room_id: str) -> Json | None:
    path = ("rooms", room_id, "state", "m.room.create")
    try:
        answer = await api.call("GET", *path, query={"format": "event"})
    except (Refused, Unreachable) as error:
        # Until it is asked again, the creator has no more rights than others.
        _log.warning("the creator of a room is not known", room=room_id, reason=str(error))
        return None
    # A homeserver that does not know `format` answers with the content alone.
    return answer if isinstance(answer.get("content"), dict) else {"content": answer}


def _monotonic() -> float:
    return asyncio.get_running_loop().time()


def _split(page: Page) -> Iterator[Page]:
    """A page in pieces, so that not all of it is in memory as converted text. The first one holds the state."""
    yield Page(page.token, [], page.state)
    for piece in _pieces(page.events or []):
        yield Page(page.token, piece, [])


def _pieces(timeline: list[Json]) -> Iterator[list[Json]]:
    piece: list[Json] = []
    size = 0
    for event in timeline:
        piece.append(event)
        size += weight(event)
        if size > _LARGE:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _was_sent_to_us(event: Json) -> bool:
    """Whether we were in the room at that time, if the homeserver says so (MSC4115, version 1.11)."""
    membership = as_dict(event.get("unsigned")).get("membership")
    return membership in {None, "join"} or event.get("type") == "m.room.redaction"


def _inviters(section: Json) -> list[str]:
    events = events_of(section.get("invite_state"))
    return [str(e.get("sender")) for e in events if as_dict(e.get("content")).get("membership") == "invite"]
