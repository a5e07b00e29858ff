"""Commands that wait for delivery, and those that failed for good.

A row's ID is its identity: delivery keys come from it, it rises and is never used again (AUTOINCREMENT). Its place in
the lane is `position`. A dead letter that is retried takes a new position, at the end, and keeps its ID: if one of
its tries was carried out after all, the same key lets the platform recognise the next one. What was queued behind it
has gone out meanwhile, so its old place would not restore the order. An edit or a deletion of a message that lies
dead finds it through `dead_about`: a retry must not bring back the old words.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, bindparam, case, delete, func, insert, literal_column, select, update

from relay.core.storage import DeadLetter, Entry, LaneDepth
from relay.domain.commands import Command, PostNotice, SendBatch
from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.domain.pair import LaneKey
from relay.store import codec
from relay.store.session import Session
from relay.store.tables import EntryState, outbox

_o = outbox.c

# Written out: SQLite uses a partial index only when it can see that the condition holds.
_waits = _o.state == literal_column(f"'{EntryState.WAITING}'")
_dead = _o.state == literal_column(f"'{EntryState.DEAD}'")
_in_lane = and_(_o.pair == bindparam("lane_pair"), _o.destination == bindparam("lane_destination"))
_is_entry = _o.id == bindparam("entry_id")
# Above every row that is there: SQLite finds the maximum at the end of its index.
_end = select(func.coalesce(func.max(_o.position), 0) + 1).scalar_subquery()

_APPEND = (
    insert(outbox)
    .values(
        position=_end,
        state=EntryState.WAITING.value,
        **{
            name: bindparam(name)
            for name in (
                "id", "pair", "destination", "queued_at", "source_platform", "source_channel", "source_id", "command",
            )
        },
    )
    .inline()
)  # fmt: skip
_WAITING = (
    select(_o.id, _o.pair, _o.destination, _o.queued_at, _o.command)
    .where(_in_lane, _waits)
    .order_by(_o.position)
    .limit(bindparam("at_most"))
)
_DONE = delete(outbox).where(_is_entry)
_BURY = (
    update(outbox)
    .where(_is_entry)
    .values(state=EntryState.DEAD.value, reason=bindparam("why"), died_at=bindparam("at"))
)
_LANES = select(_o.pair, _o.destination).where(_waits).distinct()
_DEPTHS = select(
    _o.pair,
    _o.destination,
    func.sum(case((_waits, 1), else_=0)).label("waiting"),
    func.min(case((_waits, _o.queued_at))).label("oldest"),
    func.sum(case((_dead, 1), else_=0)).label("dead"),
).group_by(_o.pair, _o.destination)
_RENAME = (
    update(outbox)
    .where(
        _o.source_platform == bindparam("platform"),
        _o.source_channel == bindparam("channel"),
        _o.pair != bindparam("name"),
    )
    .values(pair=bindparam("name"))
)
_DEAD = select(outbox).where(_dead).order_by(_o.died_at, _o.id)
_DEAD_IN = select(outbox).where(_in_lane, _dead).order_by(_o.died_at, _o.id)
_DEAD_ABOUT = (
    select(outbox)
    .where(
        _dead,
        _o.source_platform == bindparam("platform"),
        _o.source_channel == bindparam("channel"),
        _o.source_id == bindparam("native_id"),
    )
    .order_by(_o.id)
)
_RETRY = (
    update(outbox)
    .where(_is_entry, _dead)
    .values(state=EntryState.WAITING.value, position=_end, reason=None, died_at=None)
)
_DISCARD = delete(outbox).where(_is_entry, _dead)
_AMEND = update(outbox).where(_is_entry).values(command=bindparam("payload"))


_PLACE = select(_o.position).where(_is_entry)
_MAKE_ROOM = update(outbox).where(_o.position > bindparam("after")).values(position=_o.position + bindparam("more"))
_MOVE = update(outbox).where(_is_entry).values(position=bindparam("place"))


class SqlOutbox:
    """`core.storage.Outbox`, and what edits of dead letters need besides."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def append(self, lane: LaneKey, command: Command, queued_at: datetime) -> Entry:
        """Queue a command at the end of its lane."""
        source = _source(command)
        entry_id = await self._session.entry_id()
        await self._session.later(
            _APPEND,
            {
                "id": entry_id,
                "pair": lane.pair,
                "destination": lane.destination,
                "queued_at": queued_at,
                "source_platform": source.platform if source else None,
                "source_channel": source.channel.id if source else None,
                "source_id": source.id if source else None,
                "command": codec.encode(command),
            },
        )
        return Entry(entry_id, lane, command, queued_at)

    async def waiting(self, lane: LaneKey, limit: int) -> Sequence[Entry]:
        """The head of a lane, oldest first."""
        rows = await self._session.all(
            _WAITING, {"lane_pair": lane.pair, "lane_destination": lane.destination, "at_most": limit}
        )
        return [_entry(row) for row in rows]

    async def done(self, entry_id: int) -> None:
        """The command has been carried out (or dropped): forget it."""
        await self._session.later(_DONE, {"entry_id": entry_id})

    async def expand(self, entry: Entry, commands: Sequence[Command]) -> None:
        """Several commands take the place of one, in its place in the lane; the first keeps its ID."""
        first, *others = commands
        row = await self._session.first(_PLACE, {"entry_id": entry.id})
        if row is None:
            return
        await self.amend(entry.id, first)
        await self._session.count(_MAKE_ROOM, {"after": row.position, "more": len(others)})
        for number, command in enumerate(others, start=1):
            added = await self.append(entry.lane, command, entry.queued_at)
            await self._session.later(_MOVE, {"entry_id": added.id, "place": row.position + number})

    async def bury(self, entry_id: int, reason: str, died_at: datetime) -> None:
        """The command failed for good: make it a dead letter."""
        await self._session.later(_BURY, {"entry_id": entry_id, "why": reason, "at": died_at})

    async def lanes(self) -> frozenset[LaneKey]:
        """Every lane in which something waits, whether its pair is still declared or not."""
        return frozenset(map(_lane, await self._session.all(_LANES, {})))

    async def depths(self) -> Mapping[LaneKey, LaneDepth]:
        """What waits and what is dead, per lane."""
        rows = await self._session.all(_DEPTHS, {})
        return {_lane(row): LaneDepth(row.waiting, row.oldest, row.dead) for row in rows}

    async def rename(self, source: ChannelRef, pair: str) -> int:
        """Commands about messages of `source` belong to the pair now called `pair`. Notices are about none."""
        return await self._session.count(_RENAME, {"platform": source.platform, "channel": source.id, "name": pair})

    async def dead(self) -> Sequence[DeadLetter]:
        """All dead letters, oldest first."""
        return [_letter(row) for row in await self._session.all(_DEAD, {})]

    async def dead_in(self, lane: LaneKey) -> Sequence[DeadLetter]:
        """The dead letters of one lane, oldest first."""
        rows = await self._session.all(_DEAD_IN, {"lane_pair": lane.pair, "lane_destination": lane.destination})
        return [_letter(row) for row in rows]

    async def dead_about(self, source: MessageRef) -> Sequence[DeadLetter]:
        """The dead letters about one message, in any lane: what an edit or a deletion of it has to reach, too."""
        rows = await self._session.all(
            _DEAD_ABOUT, {"platform": source.platform, "channel": source.channel.id, "native_id": source.id}
        )
        return [_letter(row) for row in rows]

    async def amend(self, entry_id: int, command: Command) -> None:
        """An entry, waiting or dead, says `command` from now on. Its source stays what it was."""
        await self._session.later(_AMEND, {"entry_id": entry_id, "payload": codec.encode(command)})

    async def retry(self, entry_id: int) -> bool:
        """Put a dead letter back at the end of its lane; False if there is none of that ID."""
        return await self._session.count(_RETRY, {"entry_id": entry_id}) > 0

    async def discard(self, entry_id: int) -> bool:
        """Forget a dead letter; False if there is none of that ID."""
        return await self._session.count(_DISCARD, {"entry_id": entry_id}) > 0


def _source(command: Command) -> MessageRef | None:
    match command:
        case PostNotice():
            return None
        case SendBatch(items):
            return items[0].source
        case _:
            return command.source


def _lane(row: Row[Any]) -> LaneKey:
    return LaneKey(row.pair, Platform(row.destination))


def _entry(row: Row[Any]) -> Entry:
    return Entry(row.id, _lane(row), codec.decode(row.command), row.queued_at)


def _letter(row: Row[Any]) -> DeadLetter:
    return DeadLetter(_entry(row), row.reason, row.died_at)
