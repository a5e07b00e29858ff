"""Commands that wait for delivery, and those that failed for good.

A row's ID is never used again (AUTOINCREMENT), and delivery keys are made from it. Its place in the lane is `position`.
A dead letter that is retried gets a new position, at the end of its lane: what was behind it has been sent meanwhile.
It keeps its ID: if an earlier try did succeed, the platform recognises the key. An edit or a deletion of the message
finds the dead letter through `dead_about`, so that a retry does not post the old text.

Entries in other lanes cost nothing here, and entries in the same lane almost nothing: positions are counted within a
lane, with room between them, and triggers count the rows (`tables.py`).
"""

import asyncio
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    Row,
    ScalarSelect,
    Select,
    and_,
    bindparam,
    delete,
    func,
    literal_column,
    or_,
    select,
    text,
    update,
)

from relay.core.storage import DeadLetter, Entry, LaneDepth, Original, Unreadable
from relay.domain.commands import Command, Digest, PostNotice, RemoveMember, SendMessage
from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.domain.pair import LaneKey
from relay.store import codec
from relay.store.portable import insert, next_entry_id
from relay.store.repositories.message_map import addition_of, use_of
from relay.store.repositories.small_tables import SqlKeyValues
from relay.store.tables import EPOCH, LATE_FILE_WAITS, EntryState, channel, key_value, outbox
from relay.store.tables import lane as lane_table
from relay.store.transaction import Transaction

# Between two positions. The messages of a digest that is split fit in there.
_GAP = 1 << 20

_RETRIED = "dead letters put back"

_o = outbox.c
_l = lane_table.c

_READ_AT_ONCE = 64 * 1024  # characters of commands that are decoded in one step of the event loop
# As literals, not parameters: SQLite uses a partial index only if it sees that its condition holds.
_waits = _o.state == literal_column(f"'{EntryState.WAITING}'")
_dead = _o.state == literal_column(f"'{EntryState.DEAD}'")
_is_entry = _o.id == bindparam("entry_id")
_is_lane = and_(
    _l.source_platform == bindparam("from_platform"),
    _l.source_channel == bindparam("from_channel"),
    _l.destination_platform == bindparam("to_platform"),
    _l.destination_channel == bindparam("to_channel"),
)
_lane_id = select(_l.id).where(_is_lane).scalar_subquery()
_channels = (_l.source_platform, _l.source_channel, _l.destination_platform, _l.destination_channel)
_there = outbox.alias()
_row = (
    _o.id,
    _o.queued_at,
    _o.command,
    _o.source_platform.label("about_platform"),
    _o.source_channel.label("about_channel"),
    _o.source_id.label("about_id"),
)


def _end_of(lane_id: Any) -> ScalarSelect[int]:
    """A position behind everything that waits in a lane. SQLite reads the maximum from the end of the index."""
    highest = func.coalesce(func.max(_there.c.position), 0) + _GAP
    waits = _there.c.state == literal_column(f"'{EntryState.WAITING}'")
    return select(highest).where(_there.c.lane_id == lane_id, waits).scalar_subquery()


_LAST_IN_CHANNEL = select(channel.c.last_copy).where(
    channel.c.platform == bindparam("to_platform"), channel.c.native_id == bindparam("to_channel")
)
_MAKE_LANE = (
    insert(lane_table)
    .values(
        source_platform=bindparam("from_platform"),
        source_channel=bindparam("from_channel"),
        destination_platform=bindparam("to_platform"),
        destination_channel=bindparam("to_channel"),
        last_copy=_LAST_IN_CHANNEL.scalar_subquery(),
    )
    .or_ignore()
)
_LAST_OF_LANE = select(_l.last_copy).where(_is_lane)
_OTHER = (
    select(_l.id)
    .where(
        _l.destination_platform == bindparam("to_platform"),
        _l.destination_channel == bindparam("to_channel"),
        _l.waiting > 0,
        or_(_l.source_platform != bindparam("from_platform"), _l.source_channel != bindparam("from_channel")),
        or_(_l.source_platform != _l.destination_platform, _l.source_channel != _l.destination_channel),
    )
    .limit(1)
)
_NAME = update(lane_table).where(_is_lane, _l.pair.is_distinct_from(bindparam("name"))).values(pair=bindparam("name"))
_NAMES = select(*_channels, _l.pair).where(_l.pair.is_not(None))
_APPEND = (
    insert(outbox)
    .values(
        id=next_entry_id(),
        lane_id=_lane_id,
        position=_end_of(_lane_id),
        state=EntryState.WAITING.value,
        **{
            name: bindparam(name) for name in ("queued_at", "source_platform", "source_channel", "source_id", "command")
        },
    )
    .returning(_o.id)
)
_WAITING = select(*_row).where(_o.lane_id == _lane_id, _waits).order_by(_o.position, _o.id).limit(bindparam("at_most"))
_head = (
    select(_o.id.label("id"), _o.position.label("position"), func.coalesce(func.length(_o.command), 0).label("size"))
    .where(_o.lane_id == _lane_id, _waits)
    .order_by(_o.position, _o.id)
    .limit(bindparam("at_most"))
    .subquery()
)
_before = func.sum(_head.c.size).over(order_by=(_head.c.position, _head.c.id)) - _head.c.size
_measured = select(_head.c.id, _before.label("before"), func.count().over().label("of")).subquery()
_AHEAD = (
    select(*_row, _measured.c["of"])
    .join(_measured, _measured.c.id == _o.id)
    .where(_measured.c.before < bindparam("size"))
    .order_by(_o.position, _o.id)
)
_WAITS = select(_o.id).where(_is_entry, _waits)
_LATE_FILES = (
    select(*_channels, *_row)
    .join_from(outbox, lane_table, _l.id == _o.lane_id)
    .where(
        text(LATE_FILE_WAITS),
        _o.source_platform == bindparam("platform"),
        _o.source_channel == bindparam("channel"),
        _o.source_id == bindparam("native_id"),
    )
    .order_by(_o.id)
)
# How many of the next entries `is_repeated` compares.
_COMPARED = 100

_next = (
    select(_o.id.label("id"), _o.command.label("command"))
    .where(_o.lane_id == _lane_id, _waits)
    .order_by(_o.position, _o.id)
    .limit(_COMPARED)
    .subquery()
)
_AGAIN = select(_next.c.id).where(_next.c.id != bindparam("entry_id"), _next.c.command == bindparam("payload")).limit(1)
_DONE = delete(outbox).where(_is_entry)
_CLEAR = delete(outbox).where(
    _o.id.in_(
        select(_there.c.id)
        .where(_there.c.lane_id == _lane_id, _there.c.state == literal_column(f"'{EntryState.WAITING}'"))
        .order_by(_there.c.position, _there.c.id)
        .limit(bindparam("at_most"))
    )
)
_BURY = (
    update(outbox)
    .where(_is_entry)
    .values(state=EntryState.DEAD.value, reason=bindparam("why"), died_at=bindparam("at"), postponed=bindparam("again"))
)
_mark = select(key_value.c.value).where(key_value.c.name == _RETRIED).scalar_subquery()
_LANES = select(*_channels, _mark.label("mark")).where(_l.waiting > 0)
_DEPTHS = select(
    *_channels,
    _l.pair,
    _l.waiting,
    _l.dead,
    select(_o.queued_at)
    .where(_o.lane_id == _l.id, _waits)
    .order_by(_o.position, _o.id)
    .limit(1)
    .scalar_subquery()
    .label("oldest"),
).where(or_(_l.waiting > 0, _l.dead > 0))
_letters = select(*_channels, _l.pair, *_row, _o.reason, _o.died_at, _o.postponed).join_from(
    outbox, lane_table, _l.id == _o.lane_id
)
_DEAD = _letters.where(_dead).order_by(_o.died_at, _o.id)
_DEAD_LATELY = _letters.where(_dead).order_by(_o.died_at.desc(), _o.id.desc()).limit(bindparam("limit"))
_DEAD_IN = _letters.where(_o.lane_id == _lane_id, _dead).order_by(_o.died_at, _o.id)
_DEAD_ABOUT = _letters.where(
    _dead,
    _o.source_platform == bindparam("platform"),
    _o.source_channel == bindparam("channel"),
    _o.source_id == bindparam("native_id"),
).order_by(_o.id)
_RETRY = (
    update(outbox)
    .where(_is_entry, _dead)
    .values(state=EntryState.WAITING.value, position=_end_of(_o.lane_id), reason=None, died_at=None, postponed=False)
)
_DISCARD = delete(outbox).where(_is_entry, _dead)
_AMEND = update(outbox).where(_is_entry).values(command=bindparam("payload"))
_PLACE = select(_o.position).where(_is_entry)
_PUT = update(outbox).where(_is_entry).values(position=bindparam("place"))

_CONTENT = (
    select(
        _l.id,
        func.min(_o.id).label("oldest"),
        func.min(_o.position).label("lowest"),
        func.max(_o.position).label("highest"),
        _l.last_copy,
    )
    .outerjoin(outbox, _o.lane_id == _l.id)
    .where(_is_lane)
    .group_by(_l.id)
)


@lru_cache(16)
def _lanes_among(number: int) -> Select[Any]:
    there = [and_(*(column == bindparam(f"{column.name}{place}") for column in _channels)) for place in range(number)]
    return select(*_channels, _l.dead).where(or_(*there))


_DELETE_LANE = delete(lane_table).where(_l.id == bindparam("of_lane"))
_SET_LAST = update(lane_table).where(_l.id == bindparam("of_lane")).values(last_copy=bindparam("copy"))
_MOVE = (
    update(outbox)
    .where(_o.lane_id == bindparam("of_lane"))
    .values(lane_id=bindparam("to_lane"), position=_o.position + bindparam("shift"))
)


@dataclass(slots=True)
class SqlOutbox:
    """`core.storage.Outbox`."""

    transaction: Transaction
    # The lanes that are known to have a row.
    lanes_with_row: set[LaneKey]
    # The lanes that got their row in this transaction.
    made: set[LaneKey] = field(init=False, default_factory=set)

    async def append(self, lane: LaneKey, command: Command, queued_at: datetime) -> Entry:
        """See `Outbox.append`."""
        await self._make(lane)
        values, size = _appended(lane, command, queued_at)
        row = await self.transaction.first(_APPEND, values)
        if row is None:
            raise RuntimeError("the outbox returned no ID")
        return Entry(row.id, lane, command, queued_at, size=size)

    async def append_new(
        self, lane: LaneKey, command: SendMessage, queued_at: datetime, *, edited_at: datetime | None = None
    ) -> Callable[[], Entry | None]:
        """See `Outbox.append_new`."""
        await self.transaction.record_channel(command.source.channel)
        await self._make(lane)
        if command.reply_to is not None:
            await self.transaction.defer(*use_of(command.reply_to))
        user = command.author.user
        original = Original(0, command.source, user, command.created_at, edited_at=edited_at, reply_to=command.reply_to)
        values, size = _appended(lane, command, queued_at)
        rows_of = await self.transaction.defer_chain(addition_of(original), (_APPEND, values))

        def entry() -> Entry | None:
            rows = rows_of()
            if not rows:
                return None
            added, appended = rows
            return Entry(appended.id, lane, command, queued_at, original=replace(original, id=added.id), size=size)

        return entry

    async def waiting(self, lane: LaneKey, limit: int) -> Sequence[Entry]:
        """See `Outbox.waiting`."""
        return await _entries(lane, await self.transaction.all(_WAITING, {**_of_lane(lane), "at_most": limit}))

    async def read_ahead(self, lane: LaneKey, limit: int, size: int) -> tuple[Sequence[Entry], bool]:
        """See `Outbox.read_ahead`."""
        rows = await self.transaction.all(_AHEAD, {**_of_lane(lane), "at_most": limit, "size": size})
        whole = not rows or len(rows) == rows[0].of < limit
        return await _entries(lane, rows), whole

    async def is_waiting(self, entry_id: int) -> bool:
        """See `Outbox.is_waiting`."""
        return await self.transaction.first(_WAITS, {"entry_id": entry_id}) is not None

    async def late_files(self, source: MessageRef) -> Sequence[Entry]:
        """See `Outbox.late_files`."""
        rows = await self.transaction.all(_LATE_FILES, _of_source(source))
        return [entry_of(row, lane) for row in rows if (lane := lane_of(row)) is not None]

    async def is_repeated(self, entry: Entry) -> bool:
        """See `Outbox.is_repeated`."""
        if isinstance(entry.command, Unreadable):
            return False
        values = {**_of_lane(entry.lane), "entry_id": entry.id, "payload": codec.encode(entry.command)}
        return await self.transaction.first(_AGAIN, values) is not None

    async def done(self, entry_id: int) -> None:
        """See `Outbox.done`."""
        await self.transaction.defer(_DONE, {"entry_id": entry_id})

    async def replace(self, entry: Entry, commands: Sequence[Command]) -> None:
        """See `Outbox.replace`.

        There is room between two positions: one command stands for no more than so many others.
        """
        first, *others = commands
        row = await self.transaction.first(_PLACE, {"entry_id": entry.id})
        if row is None:
            return
        await self.amend(entry.id, first)
        for number, command in enumerate(others, start=1):
            added = await self.append(entry.lane, command, entry.queued_at)
            await self.transaction.defer(_PUT, {"entry_id": added.id, "place": row.position + number})

    async def dead_letter(self, entry_id: int, reason: str, died_at: datetime, *, postponed: bool = False) -> None:
        """See `Outbox.dead_letter`."""
        values = {"entry_id": entry_id, "why": reason, "at": died_at, "again": postponed}
        await self.transaction.defer(_BURY, values)

    async def lanes(self) -> frozenset[LaneKey]:
        """See `Outbox.lanes`."""
        lanes, _ = await self.lanes_and_mark()
        return lanes

    async def lanes_and_mark(self) -> tuple[frozenset[LaneKey], str | None]:
        """See `Outbox.lanes_and_mark`."""
        rows = await self.transaction.all(_LANES, {})
        return frozenset(filter(None, map(lane_of, rows))), rows[0].mark if rows else None

    async def depths(self) -> Mapping[LaneKey, LaneDepth]:
        """See `Outbox.depths`."""
        rows = await self.transaction.all(_DEPTHS, {})
        return {
            lane: LaneDepth(row.waiting, row.oldest, row.dead, row.pair)
            for row in rows
            if (lane := lane_of(row)) is not None
        }

    async def clear(self, lane: LaneKey, limit: int) -> int:
        """See `Outbox.clear`."""
        return await self.transaction.execute(_CLEAR, {**_of_lane(lane), "at_most": limit})

    async def last_copy(self, lane: LaneKey) -> MessageRef | None:
        """See `Outbox.last_copy`."""
        row = await self.transaction.first(_LAST_OF_LANE if lane.crosses else _LAST_IN_CHANNEL, _of_lane(lane))
        return None if row is None or row.last_copy is None else MessageRef(lane.destination, row.last_copy)

    async def is_alone(self, lane: LaneKey) -> bool:
        """See `Outbox.is_alone`."""
        return await self.transaction.first(_OTHER, _of_lane(lane)) is None

    async def name(self, lane: LaneKey, pair: str) -> None:
        """See `Outbox.name`."""
        await self._make(lane)
        await self.transaction.defer(_NAME, {**_of_lane(lane), "name": pair})

    async def names(self) -> Mapping[LaneKey, str]:
        """See `Outbox.names`."""
        rows = await self.transaction.all(_NAMES, {})
        return {lane: row.pair for row in rows if (lane := lane_of(row)) is not None}

    async def move(self, lane: LaneKey, to: LaneKey) -> bool:
        """See `Outbox.move`.

        The row of `lane`, with its name, is deleted.
        """
        moved = await self.transaction.first(_CONTENT, _of_lane(lane))
        if moved is None:
            return False
        self.lanes_with_row.discard(lane)
        self.made.discard(lane)
        if moved.oldest is None:
            await self.transaction.execute(_DELETE_LANE, {"of_lane": moved.id})
            return False
        await self._make(to)
        there = await self.transaction.first(_CONTENT, _of_lane(to))
        if there is None:
            raise RuntimeError("the lane was made just now")
        shift = 0
        if there.oldest is not None:
            before = moved.oldest < there.oldest
            shift = there.lowest - moved.highest - _GAP if before else there.highest - moved.lowest + _GAP
        await self.transaction.execute(_MOVE, {"of_lane": moved.id, "to_lane": there.id, "shift": shift})
        if lane.destination == to.destination:
            # A message that was sent but not recorded comes after this copy in the channel.
            await self.transaction.execute(_SET_LAST, {"of_lane": there.id, "copy": moved.last_copy})
        await self.transaction.execute(_DELETE_LANE, {"of_lane": moved.id})
        return True

    async def dead_letters_of(self, lanes: Collection[LaneKey]) -> Mapping[LaneKey, int]:
        """See `Outbox.dead_letters_of`."""
        if not lanes:
            return {}
        values: dict[str, str] = {}
        for place, lane in enumerate(lanes):
            ends = (lane.source.platform, lane.source.id, lane.destination.platform, lane.destination.id)
            values |= {f"{column.name}{place}": end for column, end in zip(_channels, ends, strict=True)}
        rows = await self.transaction.all(_lanes_among(len(lanes)), values)
        return {found: row.dead for row in rows if (found := lane_of(row)) is not None}

    async def dead(self, limit: int | None = None) -> Sequence[DeadLetter]:
        """See `Outbox.dead`."""
        if limit is None:
            return _read_letters(await self.transaction.all(_DEAD, {}))
        return _read_letters(await self.transaction.all(_DEAD_LATELY, {"limit": limit}))[::-1]

    async def dead_in(self, lane: LaneKey) -> Sequence[DeadLetter]:
        """See `Outbox.dead_in`."""
        return _read_letters(await self.transaction.all(_DEAD_IN, _of_lane(lane)))

    async def dead_about(self, source: MessageRef) -> Sequence[DeadLetter]:
        """See `Outbox.dead_about`."""
        return _read_letters(await self.transaction.all(_DEAD_ABOUT, _of_source(source)))

    async def amend(self, entry_id: int, command: Command) -> None:
        """See `Outbox.amend`.

        The source of the row stays what it was.
        """
        await self.transaction.defer(_AMEND, {"entry_id": entry_id, "payload": codec.encode(command)})

    async def retry(self, entry_id: int) -> bool:
        """See `Outbox.retry`."""
        is_dead = await self.transaction.execute(_RETRY, {"entry_id": entry_id}) > 0
        if is_dead:
            await SqlKeyValues(self.transaction).put(_RETRIED, secrets.token_hex(8))
        return is_dead

    async def discard(self, entry_id: int) -> bool:
        """See `Outbox.discard`."""
        return await self.transaction.execute(_DISCARD, {"entry_id": entry_id}) > 0

    async def _make(self, lane: LaneKey) -> None:
        if lane not in self.lanes_with_row and lane not in self.made:
            await self.transaction.defer(_MAKE_LANE, _of_lane(lane))
            self.made.add(lane)


def _appended(lane: LaneKey, command: Command, queued_at: datetime) -> tuple[dict[str, Any], int]:
    """The values of a new row, and the size of its command."""
    source = _source(command)
    payload = codec.encode(command)
    values = {
        **_of_lane(lane),
        "queued_at": queued_at,
        "source_platform": source.platform if source else None,
        "source_channel": source.channel.id if source else None,
        "source_id": source.id if source else None,
        "command": payload,
    }
    return values, len(payload)


def _source(command: Command) -> MessageRef | None:
    match command:
        case PostNotice() | RemoveMember():
            return None
        case Digest(items):
            return items[0].source
        case _:
            return command.source


def _of_lane(lane: LaneKey) -> dict[str, Any]:
    return {
        "from_platform": lane.source.platform,
        "from_channel": lane.source.id,
        "to_platform": lane.destination.platform,
        "to_channel": lane.destination.id,
    }


def _of_source(source: MessageRef) -> dict[str, Any]:
    return {"platform": source.platform, "channel": source.channel.id, "native_id": source.id}


def lane_of(row: Row[Any]) -> LaneKey | None:
    """The lane of a row. None if this relay does not know one of its platforms."""
    try:
        return LaneKey(
            ChannelRef(Platform(row.source_platform), row.source_channel),
            ChannelRef(Platform(row.destination_platform), row.destination_channel),
        )
    except ValueError:
        return None


async def _entries(lane: LaneKey, rows: Sequence[Row[Any]]) -> list[Entry]:
    entries: list[Entry] = []
    read = 0
    for row in rows:
        size = len(str(row.command))
        if size > _READ_AT_ONCE:
            # Decoding a deep tree would block the event loop for too long.
            entries.append(await asyncio.to_thread(entry_of, row, lane))
            continue
        if (read := read + size) > _READ_AT_ONCE:
            read = 0
            await asyncio.sleep(0)  # let other tasks run
        entries.append(entry_of(row, lane))
    return entries


def entry_of(row: Row[Any], lane: LaneKey) -> Entry:
    """The entry of a row. One that cannot be read becomes `Unreadable`, so that the others can still be read."""
    command: Command | Unreadable
    try:
        command = codec.decode(row.command)
        if isinstance(command, Digest) and not command.items:
            raise ValueError("no command: a batch of nothing")
    except ValueError as error:
        command = Unreadable(row.command, str(error), _about(row))
    return Entry(row.id, lane, command, row.queued_at or EPOCH, size=len(str(row.command)))


def _about(row: Row[Any]) -> MessageRef | None:
    try:
        channel = ChannelRef(Platform(row.about_platform), row.about_channel)
    except ValueError:
        return None
    return MessageRef(channel, row.about_id) if row.about_channel and row.about_id else None


def _read_letters(rows: Sequence[Row[Any]]) -> list[DeadLetter]:
    return [
        DeadLetter(entry_of(row, lane), row.reason or "", row.died_at or EPOCH, row.pair, bool(row.postponed))
        for row in rows
        if (lane := lane_of(row)) is not None
    ]
