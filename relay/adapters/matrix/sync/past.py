"""What was said in a room before the relay first read there, the oldest first (`core.ports.PastReader`).

Each room is gone through twice. Backwards first, since only then the homeserver fetches from others what it does not
have yet; and Synapse counts what it has fetched below zero, so that what is read forwards from no token at all is
without that (ran, Synapse 1.163). Then forwards, from where the way back ended to where the relay began to read.

For the same reason the token at which it began does not keep out what Synapse fetched of a later time, after it had
been down itself. What was known at some time stands less deep than what somebody of ours says then, so behind the first
event of our own homeserver after that token is nothing of the past.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from relay.adapters.matrix.api.client import Api, Refused, TooLong, Unreachable
from relay.adapters.matrix.api.session import is_token_refusal
from relay.adapters.matrix.cursors import OUTSIDE, room_stream
from relay.adapters.matrix.identifiers import is_room_id
from relay.adapters.matrix.inbound.events import convert_latest, echo, is_edit, latest_edit, timestamp
from relay.adapters.matrix.markup import NameLookup
from relay.adapters.matrix.rooms.declared import DeclaredRoom, DeclaredRooms
from relay.adapters.matrix.rooms.state import RoomState
from relay.core.offload import LONG, Conversions
from relay.core.ports import Began, PastPage
from relay.domain.events import Event, FeatureUsed, MessageCreated
from relay.domain.ids import ChannelRef, Platform
from relay.domain.jsontext import Json, as_dict, as_list, as_string
from relay.domain.text.rewrite import weight
from relay.errors import ActionNeeded, DeliveryError, Permanent, RateLimited, Transient
from relay.logs import get_logger

_log = get_logger(__name__)

# Events in one page, and on the way back, where nothing is kept: the homeserver fetches up to a hundred at once.
_EVENTS, _EVENTS_BACK = 25, 100
# Of an answer. One event has up to 64 KiB, and its latest edit comes with it.
_MOST_BYTES = 4 * 1024 * 1024
# Names of those who wrote, as they were at the beginning of the page; the page itself holds what changed in it.
_FILTER = '{"lazy_load_members":true}'
# What others have may take that long. The same page is asked for until nothing is added to it any more.
_FETCH_SECONDS, _FETCHES = 120.0, 100
_READ_SECONDS = 30.0
_VISIBILITY = "m.room.history_visibility"
_PAGES_SEARCHED = 10
# How deep the event stands behind which a token of Synapse is.
_DEPTH = re.compile(r"t(\d{1,18})-", re.ASCII)
_POSITION = re.compile(r"(?P<way>[bf]) (?P<room>\S+) (?P<depth>\d{1,18}) (?P<token>.*)", re.ASCII)
_UNREADABLE = frozenset({"encryption", "unreadable"})


class _NotShown(ActionNeeded):
    """The homeserver does not let us read in a room."""


@dataclass(frozen=True, slots=True)
class _Place:
    """How far the past has been read."""

    room_id: str
    # From where it is read on; "": from the first event.
    token: str
    # What stands deeper is not of the past; 0: not known.
    depth: int = 0
    # Whether the room's beginning is still looked for.
    is_back: bool = False

    @classmethod
    def parse(cls, position: str) -> Self | None:
        """What `str` made; None of anything else."""
        found = _POSITION.fullmatch(position)
        if found is None or not is_room_id(found["room"]):
            return None
        return cls(found["room"], found["token"], int(found["depth"]), is_back=found["way"] == "b")

    def __str__(self) -> str:
        """The position of a page."""
        return f"{'b' if self.is_back else 'f'} {self.room_id} {self.depth} {self.token}"


@dataclass(frozen=True, slots=True)
class _Answer:
    """A part of a room's history."""

    events: list[Json]
    # The members who wrote in it.
    members: list[Json]
    # Where it is read on; "": it ends here.
    end: str


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class RoomPast:
    """Reads it. What is asked for, and where, is only in the position: nothing is kept in between."""

    api: Api
    rooms: DeclaredRooms
    conversions: Conversions

    async def pages(
        self, channel: ChannelRef, position: str, began: Began, since: datetime | None, *, is_bounded: bool = False
    ) -> AsyncGenerator[PastPage]:
        """See `PastReader.past`: the rooms that this one has replaced come first, if the relay was in them.

        Their messages keep their own room as their channel. A page may hold no message at all. `is_bounded`: whoever
        asks leaves out what is too young, so that all is read where it is not on record when the relay came.
        """
        room = self._open_room(channel)
        ends = await self._ends(room, channel.id, began, is_bounded=is_bounded)
        place = _Place.parse(position)
        if place is None or place.room_id not in ends:
            place = _first_of(ends)
        while place is not None:
            page, place = await self._step(place, ends, since, is_replaced=place.room_id != channel.id)
            if page is not None:
                yield page

    def _open_room(self, channel: ChannelRef) -> DeclaredRoom:
        room = self.rooms.find(channel.id)
        if room is None or not (room.opened and room.joined):
            problem = self.rooms.send_blocker(channel.id) or f"{channel.id} is not open yet"
            raise ActionNeeded(problem.rstrip("."))
        return room

    async def _ends(self, room: DeclaredRoom, room_id: str, began: Began, *, is_bounded: bool) -> Mapping[str, str]:
        """By room, the oldest first: the token from which on the relay read there, "" where that is not on record.

        A room that it entered by following an upgrade has no past.
        """
        ends: dict[str, str] = {}
        for one in (*room.predecessors, room_id):
            token = await began(room_stream(one)) or ""
            if not token and not is_bounded:
                raise Permanent(
                    f"it is not on record since when {one} is read: say with --before which messages are older"
                )
            if not token.startswith(OUTSIDE):
                ends[one] = token
        return ends

    async def _step(
        self, place: _Place, ends: Mapping[str, str], since: datetime | None, *, is_replaced: bool
    ) -> tuple[PastPage | None, _Place | None]:
        """A page, and where it is read on; None for nothing more."""
        try:
            return await (self._back if place.is_back else self._forth)(place, ends, since)
        except _NotShown as error:
            if not is_replaced:
                raise
            _log.warning("what was said in a replaced room is left out", room=place.room_id, reason=str(error))
            following = _first_of(ends, behind=place.room_id)
            return None if following is None else PastPage((), str(following)), following

    # --- Back, to where the room begins -------------------------------------------------------------------

    async def _back(
        self, place: _Place, ends: Mapping[str, str], since: datetime | None
    ) -> tuple[PastPage | None, _Place | None]:
        """Let the homeserver fetch a part of it, of which only is kept where it is read on."""
        answer = await self._settled(place)
        if any(event.get("type") == "m.room.create" for event in answer.events):
            following = _Place(place.room_id, answer.end)
        elif since is not None and answer.events and all(_written(event) < since for event in answer.events):
            following = _Place(place.room_id, place.token)
        elif answer.end:
            following = _Place(place.room_id, answer.end, is_back=True)
        else:
            following = _Place(place.room_id, "" if answer.events else place.token)
            if not (await self._is_made_here(place.room_id) or await self._is_hidden_before(following)):
                raise Transient(
                    f"the first messages of {place.room_id} are on other homeservers, and ours cannot fetch them now; "
                    "with --since, those before that time are left out"
                )
        if not following.is_back and (end := ends[place.room_id]):
            following = replace(following, depth=await self._depth(_Place(place.room_id, end)))
        return PastPage((), str(following)), following

    async def _settled(self, place: _Place) -> _Answer:
        """A part, asked for again until nothing is added to it: each time the homeserver fetches some messages."""
        before: _Answer | None = None
        for _ in range(_FETCHES):
            answer = await self._read(place, "b", limit=_EVENTS_BACK, seconds=_FETCH_SECONDS)
            if before is not None and _ids(answer) == _ids(before):
                return answer
            before = answer
        raise Transient(f"what other homeservers have of {place.room_id} is still coming in")

    async def _is_made_here(self, room_id: str) -> bool:
        """Whether our homeserver has had the room from the first: there is nothing to fetch from others then."""
        event = await self._state(room_id, "m.room.create", query={"format": "event"})
        # A homeserver that does not know `format` answers with the content alone.
        creator = as_string(event.get("sender")) or as_string(event.get("creator"))
        return self._is_ours(creator)

    async def _is_hidden_before(self, place: _Place) -> bool:
        """Whether we may not see what was written before: Synapse fetches nothing of that.

        Of what was hidden once, the first that we may see is the event that ends it.
        """
        if _hides(await self._state(place.room_id, _VISIBILITY)):
            return True
        answer: _Answer | None = None
        while answer is None or (answer.end and not answer.events):
            answer = await self._read(place, "f", limit=_EVENTS_BACK, seconds=_READ_SECONDS)
            place = _Place(place.room_id, answer.end)
        oldest = answer.events[0] if answer.events else {}
        return oldest.get("type") == _VISIBILITY and _hides(as_dict(oldest.get("unsigned")).get("prev_content"))

    async def _state(self, room_id: str, kind: str, query: dict[str, str | list[str]] | None = None) -> Json:
        """A state event; empty where there is none of that kind."""
        try:
            return await self.api.call("GET", "rooms", room_id, "state", kind, "", query=query)
        except (Refused, Unreachable) as error:
            if isinstance(error, Refused) and error.code == "M_NOT_FOUND":
                return {}
            raise self._error(room_id, error) from error

    async def _depth(self, place: _Place) -> int:
        """How deep the first event behind a place stands that our own homeserver made; 0 where that is not told."""
        for _ in range(_PAGES_SEARCHED):
            answer = await self._read(place, "f", limit=_EVENTS_BACK, seconds=_READ_SECONDS)
            senders = [as_string(event.get("sender")) for event in answer.events]
            if ours := [sender for sender in senders if self._is_ours(sender)]:
                own = json.dumps({"senders": ours[:1]})
                return _depth_of((await self._read(place, "f", limit=1, seconds=_READ_SECONDS, only=own)).end)
            if not answer.end:
                break
            place = _Place(place.room_id, answer.end)
        return 0

    def _is_ours(self, user_id: str) -> bool:
        return user_id.partition(":")[2] == self.api.user_id.partition(":")[2]

    # --- Forth --------------------------------------------------------------------------------------------

    async def _forth(
        self, place: _Place, ends: Mapping[str, str], since: datetime | None
    ) -> tuple[PastPage | None, _Place | None]:
        """The next page, and where it is read on: behind the last of a room, in the next one."""
        end = ends[place.room_id]
        answer = await self._part(place, end)
        following = replace(place, token=answer.end) if answer.end else _first_of(ends, behind=place.room_id)
        if following is None and not answer.events:
            return None, None
        messages, unreadable = await self._messages(place.room_id, answer, since)
        return PastPage(messages, str(following or replace(place, token=end)), unreadable), following

    async def _part(self, place: _Place, end: str) -> _Answer:
        """The next events of the past: fewer than else where there are not as many."""
        limit = _EVENTS
        while True:
            answer = await self._read(place, "f", to=end, limit=limit, seconds=_READ_SECONDS)
            if not place.depth or _depth_of(answer.end) <= place.depth:
                return answer
            if limit == 1:
                return _Answer([], [], "")
            limit //= 4

    async def _messages(
        self, room_id: str, answer: _Answer, since: datetime | None
    ) -> tuple[tuple[MessageCreated, ...], int]:
        """What is said in a part, with the names of that time; and how many messages of it cannot be carried."""
        # Not what is known of the room now, and nothing of the pages before: read again, the page says the same.
        state, names = RoomState(room_id), self.rooms.names()
        for event in answer.members:
            state.apply(event)
        found: list[MessageCreated] = []
        unreadable = since_pause = 0
        for event in answer.events:
            state.apply(event)
            if since is not None and _written(event) < since:
                continue
            size = weight(event.get("content")) + weight(as_dict(latest_edit(event)).get("content"))
            if (since_pause := since_pause + size) > LONG:
                since_pause = 0
                await asyncio.sleep(0)  # Let other tasks run.
            converted = await self._converted(event, state, names, size)
            if isinstance(converted, MessageCreated):
                found.append(converted)
            elif isinstance(converted, FeatureUsed):
                unreadable += converted.feature in _UNREADABLE and not converted.user_is_self
        return tuple(found), unreadable

    async def _converted(self, event: Json, state: RoomState, names: NameLookup, size: int) -> Event | None:
        channel, me = ChannelRef(Platform.MATRIX, state.room_id), self.api.user_id
        # An edit is part of its message, also where it is encrypted.
        if is_edit(as_dict(event.get("content"))) or echo(event, channel, me, names) is not None:
            return None
        try:
            return await self.conversions.run(size, convert_latest, event, state, me, names)
        except Exception:  # noqa: BLE001 - one event that we cannot read must not stop all others for ever
            _log.exception("bug while reading an event", room=state.room_id, event_id=ascii(event.get("event_id")))
            return FeatureUsed(channel, "unreadable")

    # --- The homeserver -----------------------------------------------------------------------------------

    async def _read(
        self, place: _Place, way: str, *, limit: int, seconds: float, to: str = "", only: str = _FILTER
    ) -> _Answer:
        """A part of a room's history: fewer events than `limit` where they would be too long."""
        query: dict[str, str | list[str]] = {"dir": way, "filter": only}
        query |= {key: token for key, token in (("from", place.token), ("to", to)) if token}
        path = ("rooms", place.room_id, "messages")
        while True:
            query["limit"] = str(limit)
            try:
                answer = await self.api.call("GET", *path, query=query, timeout=seconds, most=_MOST_BYTES)
            except (Refused, Unreachable) as error:
                if not isinstance(error, TooLong) or limit == 1:
                    raise self._error(place.room_id, error) from error
                limit //= 4
                continue
            end = as_string(answer.get("end"))
            return _Answer(_events(answer, "chunk"), _events(answer, "state"), "" if end == place.token else end)

    def _error(self, room_id: str, error: Refused | Unreachable) -> DeliveryError:
        """The homeserver's error as one of the core's."""
        what = f"what was said before in {room_id} cannot be read ({error})"
        if isinstance(error, Unreachable):
            return Transient(what, failed=error.answered)
        if error.status == 429:
            return RateLimited("the homeserver limits our requests", retry_after=error.retry_after)
        if is_token_refusal(error):
            return Transient("the homeserver refuses the access token")
        if error.status in {403, 404} and error.code in {"M_FORBIDDEN", "M_NOT_FOUND"}:
            return _NotShown(f"{what}: let {self.api.user_id} into the room")
        if error.status >= 500 or error.status == 408 or error.code == "M_UNRECOGNIZED":
            return Transient(what, retry_after=error.retry_after, failed=True)
        return Permanent(what)


def _first_of(ends: Mapping[str, str], *, behind: str = "") -> _Place | None:
    """Where the next room is begun with, back from its end; None behind the last."""
    rooms = list(ends)
    number = rooms.index(behind) + 1 if behind else 0
    return _Place(rooms[number], ends[rooms[number]], is_back=True) if number < len(rooms) else None


def _events(answer: Json, key: str) -> list[Json]:
    return [event for event in as_list(answer.get(key)) if isinstance(event, dict)]


def _ids(answer: _Answer) -> list[object]:
    return [event.get("event_id") for event in answer.events]


def _written(event: Json) -> datetime:
    return timestamp(event.get("origin_server_ts"))


def _hides(content: object) -> bool:
    """Whether those who join under this rule do not see what was written before."""
    return as_dict(content).get("history_visibility") in ("joined", "invited")


def _depth_of(token: str) -> int:
    """How deep the event stands that a token is behind; 0 where it does not tell."""
    found = _DEPTH.match(token)
    return 0 if found is None else int(found[1])
