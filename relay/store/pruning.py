"""Deletes what is old: messages with their copies, edits and digests; dead letters; once-only keys; where pictures are;
codes that nobody said in time; and what is stored about channels that are in no pair any more.

It works in small steps with pauses, so that deliveries wait for the write lock a few milliseconds at most. It looks for
old rows in read transactions, for which nobody waits. The age of a message counts from its last edit or answer. A
message that is younger than the oldest waiting command stays, because the command may be about it. A message also
stays while a dead letter is about it, because that may be retried.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Executable,
    Row,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.types import UserDefinedType

from relay.core.ports import Clock
from relay.domain.commands import Digest
from relay.domain.ids import ChannelRef
from relay.errors import StoreUnavailable
from relay.logs import get_logger
from relay.store import codec
from relay.store.portable import is_whole_number, without_index
from relay.store.tables import (
    DIGEST_BEGINS,
    EntryState,
    avatar,
    channel,
    digest,
    ghost_member,
    key_value,
    lane,
    link_code,
    media_cache,
    message,
    message_copy,
    message_edit,
    once_key,
    outbox,
)
from relay.store.transaction import Transaction
from relay.store.unit_of_work import SqlStore

_Values = Mapping[str, object]

_log = get_logger(__name__)

_DELETED_AT_ONCE = 50
# Rows in one read.
_READ_AT_ONCE = 500

# After so many messages in a row that are not old, the search ends: later IDs are younger.
_MOST_YOUNG = 20_000

_PAUSE, _LONGEST_PAUSE = 0.05, 5.0  # seconds
# The pause after a step is so many times as long as the step took.
_OTHERS_SHARE = 20

_MOST_SECONDS_BETWEEN, _LEAST_SECONDS_BETWEEN = 3600.0, 1.0
_LONGEST_AGE = 50 * 365 * 86400.0  # seconds; the calendar ends somewhere
# If the wall clock differs from the monotonic clock by more seconds, somebody has set it.
_CLOCK_TOLERANCE = 60.0

_m, _c, _o, _l = message.c, message_copy.c, outbox.c, lane.c
_is_dead = _o.state == literal_column(f"'{EntryState.DEAD}'")
# In a damaged row there may be anything. A value that is no number says nothing about the row's age.
_OLDEST_COMMAND = (
    select(_o.queued_at)
    .where(_o.state == literal_column(f"'{EntryState.WAITING}'"), is_whole_number(_o.queued_at))
    .order_by(_o.id)
    .limit(1)
)
_MESSAGES = select(_m.id, _m.used).where(_m.id > bindparam("after")).order_by(_m.id).limit(bindparam("at_most"))
_NAME = (
    select(channel.c.platform, channel.c.native_id.label("channel"), _m.native_id)
    .join(channel, channel.c.id == without_index(_m.channel_id))
    .where(_m.id == bindparam("message_id"))
)
_DEAD_ABOUT = (
    select(_o.id)
    .where(
        _is_dead,
        _o.source_platform == bindparam("platform"),
        _o.source_channel == bindparam("channel"),
        _o.source_id == bindparam("native_id"),
    )
    .limit(1)
)
_ANY_DEAD = select(_o.id).where(_is_dead).limit(1)
# The row of a digest names only its first message. Today a digest is split before it can become a dead letter.
_DEAD_DIGESTS = select(_o.command).where(_is_dead, func.substr(_o.command, 1, len(DIGEST_BEGINS)) == DIGEST_BEGINS)
_SHARED = (
    select(_c.channel_id, _c.native_id)
    .distinct()
    .join(digest, and_(digest.c.channel_id == _c.channel_id, digest.c.native_id == _c.native_id))
    .where(_c.message_id >= bindparam("first"), _c.message_id <= bindparam("last"))
)
# Copies and edits are deleted with them: ON DELETE CASCADE.
_DELETE_MESSAGES = delete(message).where(_m.id == bindparam("message_id"), _m.used < bindparam("before"))
_DELETE_SHARED = delete(digest).where(
    digest.c.channel_id == bindparam("of_channel"),
    digest.c.native_id == bindparam("of_id"),
    ~exists().where(_c.channel_id == bindparam("of_channel"), _c.native_id == bindparam("of_id")),
)

# A message's platform, channel and ID.
_Name = tuple[str, str, str]

_EMPTY_LANES = select(
    _l.id, _l.source_platform, _l.source_channel, _l.destination_platform, _l.destination_channel
).where(_l.waiting == 0, _l.dead == 0)
_of = bindparam("of_id", type_=_l.id.type)
_DELETE_LANE = delete(lane).where(_l.id == _of, ~exists().where(_o.lane_id == _of))
_CHANNELS = select(channel.c.id, channel.c.platform, channel.c.native_id)
_DELETE_CHANNEL = delete(channel).where(
    channel.c.id == _of,
    *(~exists().where(table.c.channel_id == _of) for table in (message, message_copy, message_edit, digest)),
)
# The number of a deleted channel may be given to another one.
_DELETE_GHOSTS = delete(ghost_member).where(ghost_member.c.channel_id == _of, ~exists().where(channel.c.id == _of))
_NAMES = select(key_value.c.name).where(key_value.c.name.startswith("names "))
_DELETE_NAME = delete(key_value).where(key_value.c.name == bindparam("of_name"))


class _AsItIs(UserDefinedType[Any]):
    """A value that is neither read nor written as a type."""

    cache_ok = True


class _Kind:
    """Rows that are found by their age alone."""

    def __init__(self, name: str, table: Table, age: ColumnElement[Any], *conditions: ColumnElement[bool]) -> None:
        self.name = name
        old = and_(age < bindparam("before"), *conditions)
        key = list(table.primary_key)
        # As it is in the table: read as its column's type, the key of a damaged row would not be found again.
        self.find = select(*(type_coerce(column, _AsItIs()).label(column.name) for column in key))
        self.find = self.find.where(old).limit(bindparam("at_most"))
        is_row = (column == bindparam(f"of_{column.name}", type_=_AsItIs()) for column in key)
        self.delete = delete(table).where(old, *is_row)


_DEAD = _Kind("dead letters", outbox, _o.died_at, _is_dead)
_NOTICES = _Kind("notices", once_key, once_key.c.used)
_PICTURES = _Kind("pictures", media_cache, media_cache.c.used)
# A row of nobody stays until its copy is deleted.
_AVATARS = _Kind("avatars", avatar, avatar.c.used, avatar.c.user_platform != "", is_whole_number(avatar.c.used))
# Whatever is kept for how long: nobody can say them any more, and they tell who asked for whom.
_CODES = _Kind("codes", link_code, link_code.c.expires_at)


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Pruner:
    """Deletes what is old for as long as it runs."""

    store: SqlStore
    clock: Clock
    # How many seconds messages are kept. None: for ever.
    messages: float | None
    # How many seconds dead letters are kept. None: for ever.
    dead_letters: float | None
    # Deletes some entries that have waited since before a moment for pairs that are not declared, and returns how many
    # there were. They are kept for as long as dead letters.
    discard_undeclared: Callable[[datetime], Awaitable[int]] | None = None
    # The channels of all pairs. None: what is stored about channels (their rows, lanes and names) stays.
    declared: Callable[[], frozenset[ChannelRef]] | None = None
    # Forgets what was counted before a moment for lanes that are not declared.
    forget_counters: Callable[[datetime], None] = lambda _: None

    def __post_init__(self) -> None:
        self.messages = None if self.messages is None else min(self.messages, _LONGEST_AGE)
        self.dead_letters = None if self.dead_letters is None else min(self.dead_letters, _LONGEST_AGE)

    async def run(self) -> None:
        """Work until cancelled."""
        ages = [age for age in (self.messages, self.dead_letters) if age is not None]
        pause = min(_MOST_SECONDS_BETWEEN, max(_LEAST_SECONDS_BETWEEN, min(ages, default=_LONGEST_AGE) / 10))
        while True:
            now, running = self.clock.now(), self.clock.monotonic()
            await self.clock.sleep(pause)
            passed = (self.clock.now() - now).total_seconds()
            if abs(passed - (self.clock.monotonic() - running)) > _CLOCK_TOLERANCE:
                # It may be set back in a moment, but a deletion cannot be undone.
                _log.warning("nothing forgotten: the clock was set", seconds=round(passed))
                continue
            try:
                await self.sweep()
            except StoreUnavailable as error:
                _log.warning("nothing forgotten for now", reason=str(error))
            except Exception:  # noqa: BLE001 - the top of a worker: it is logged, and the daemon goes on
                _log.exception("nothing forgotten for now")

    async def sweep(self) -> None:
        """Delete everything that is old enough now. Raises `StoreUnavailable`."""
        now = self.clock.now()
        await self._by_age(_CODES, now)
        if self.dead_letters is not None:
            at = now - timedelta(seconds=self.dead_letters)
            await self._by_age(_DEAD, at)
            if self.discard_undeclared is not None:
                while await self.discard_undeclared(at):
                    await self.clock.sleep(_PAUSE)
        if self.messages is not None:
            before = int(now.timestamp() - self.messages)
            for kind in (_NOTICES, _PICTURES, _AVATARS):
                await self._by_age(kind, before)
            await self._old_messages(now, before)
            if self.declared is not None:
                await self._channels_without_use(self.declared)
            self.forget_counters(now - timedelta(seconds=self.messages))

    async def _by_age(self, kind: _Kind, before: int | datetime) -> None:
        count = 0
        while keys := await self._read(kind.find, before=before, at_most=_DELETED_AT_ONCE):
            rows = [{"before": before} | {f"of_{name}": value for name, value in key._mapping.items()} for key in keys]
            await self._write(partial(_delete, kind.delete, rows))
            count += len(rows)
        if count:
            _log.info(f"old {kind.name} forgotten", count=count)

    async def _old_messages(self, now: datetime, before: int) -> None:
        oldest = await self._read(_OLDEST_COMMAND)
        if oldest:
            before = min(before, int(oldest[0].queued_at.timestamp()))
        digests = [row.command for row in await self._read(_DEAD_DIGESTS)]
        dead = await asyncio.to_thread(_sources, digests) if digests else frozenset[_Name]()
        count, last, kept = 0, 0, 0
        while kept < _MOST_YOUNG:
            rows = await self._read(_MESSAGES, after=last, at_most=_READ_AT_ONCE)
            old = [row.id for row in rows if isinstance(row.used, int) and row.used < before]
            some_are_dead = bool(old) and await self._read(_ANY_DEAD)
            kept = 0 if old else kept + len(rows)
            for start in range(0, len(old), _DELETED_AT_ONCE):
                some: Sequence[int] = old[start : start + _DELETED_AT_ONCE]
                if some_are_dead:
                    some = await self._without_dead_letters(some, dead)
                await self._write(partial(_delete_messages, some, before))
                count += len(some)
            if len(rows) < _READ_AT_ONCE:
                break
            last = rows[-1].id
        if count:
            _log.info("old messages forgotten", count=count, seconds=round((self.clock.now() - now).total_seconds()))

    async def _without_dead_letters(self, ids: Sequence[int], in_digests: frozenset[_Name]) -> Sequence[int]:
        """Those of the messages that no dead letter is about: it may be retried.

        No other becomes one meanwhile: nothing waits that is about messages as old as these.
        """
        kept = []
        async with self.store.read() as unit:
            for one in ids:
                found = await unit.transaction.first(_NAME, {"message_id": one})
                if found is not None and (
                    tuple(found) in in_digests or await unit.transaction.first(_DEAD_ABOUT, found._asdict()) is not None
                ):
                    continue
                kept.append(one)
        return kept

    async def _channels_without_use(self, declared: Callable[[], frozenset[ChannelRef]]) -> None:
        """Delete channels that are in no pair any more, when no message of theirs is left."""
        kept = {(str(channel.platform), channel.id) for channel in declared()}
        lanes = [{"of_id": row.id} for row in await self._read(_EMPTY_LANES) if not _ends(row) <= kept]
        channels = [{"of_id": row.id} for row in await self._read(_CHANNELS) if _place(row) not in kept]
        for some in _pieces(lanes):
            async with self.store.write() as unit:
                self.store.forget_lanes()
                await _delete(_DELETE_LANE, some, unit.transaction)
            await self.clock.sleep(_PAUSE)
        for some in _pieces(channels):
            await self._write(partial(_delete_channels, some))
        known = kept | {_place(row) for row in await self._read(_CHANNELS)}
        names = [row.name for row in await self._read(_NAMES) if tuple(row.name.split(" ", 2)[1:]) not in known]
        for some in _pieces([{"of_name": name} for name in names]):
            await self._write(partial(_delete, _DELETE_NAME, some))

    async def _read(self, statement: Executable, **values: Any) -> Sequence[Row[Any]]:
        async with self.store.read() as unit:
            return await unit.transaction.all(statement, values)

    async def _write(self, work: Callable[[Transaction], Awaitable[None]]) -> None:
        began = self.clock.monotonic()
        async with self.store.write() as unit:
            await work(unit.transaction)
        # Leave most of the time to others, also if the disk is slow or busy.
        taken = self.clock.monotonic() - began
        await self.clock.sleep(min(_LONGEST_PAUSE, max(_PAUSE, _OTHERS_SHARE * taken)))


def _ends(lane: Row[Any]) -> set[tuple[str, str]]:
    """The two channels of a lane."""
    return {(lane.source_platform, lane.source_channel), (lane.destination_platform, lane.destination_channel)}


def _place(channel: Row[Any]) -> tuple[str, str]:
    return channel.platform, channel.native_id


def _pieces(rows: Sequence[_Values]) -> Iterator[Sequence[_Values]]:
    return (rows[start : start + _DELETED_AT_ONCE] for start in range(0, len(rows), _DELETED_AT_ONCE))


async def _delete_channels(rows: Sequence[_Values], transaction: Transaction) -> None:
    await _delete(_DELETE_CHANNEL, rows, transaction)
    await _delete(_DELETE_GHOSTS, rows, transaction)


async def _delete(statement: Executable, rows: Sequence[_Values], transaction: Transaction) -> None:
    await transaction.execute_all(statement, rows)


def _sources(digests: Sequence[str]) -> frozenset[_Name]:
    """The messages in digests. A digest that cannot be read is skipped: a retry of it would send nothing."""
    found: set[_Name] = set()
    for payload in digests:
        with suppress(ValueError):
            command = codec.decode(payload)
            if isinstance(command, Digest):
                sources = (item.source for item in command.items)
                found |= {(str(one.channel.platform), one.channel.id, one.id) for one in sources}
    return frozenset(found)


async def _delete_messages(ids: Sequence[int], before: int, transaction: Transaction) -> None:
    if ids:
        shared = await transaction.all(_SHARED, {"first": ids[0], "last": ids[-1]})
        await _delete(_DELETE_MESSAGES, [{"message_id": one, "before": before} for one in ids], transaction)
        copies = [{"of_channel": row.channel_id, "of_id": row.native_id} for row in shared]
        await _delete(_DELETE_SHARED, copies, transaction)
