"""Deletes what is old: messages with their copies, edits and digests; dead letters; once-only keys; where pictures are;
codes that nobody said in time; and what is stored about channels that are in no pair any more.

It works in small steps with pauses, so that deliveries wait for the write lock a few milliseconds at most. It looks for
old rows in read transactions, for which nobody waits. The age of a message counts from its last edit or answer. A
message that is younger than the oldest waiting command stays, because the command may be about it. A message also
stays while a dead letter is about it, because that may be retried.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog

from relay.core.ports import Clock
from relay.domain.commands import Digest
from relay.domain.ids import ChannelRef
from relay.errors import StoreUnavailable
from relay.store import codec
from relay.store.sqlite.driver import Step
from relay.store.tables import EPOCH, MICROSECOND, unpacked
from relay.store.unit_of_work import SqlStore

_log = structlog.get_logger(__name__)

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

# A column may hold any type in a damaged row. A value that is not a number says nothing about the row's age.
_OLDEST_COMMAND = (
    "SELECT queued_at FROM outbox WHERE state = 'waiting' AND typeof(queued_at) = 'integer' ORDER BY id LIMIT 1"
)
_NAME = (
    "SELECT c.platform, c.native_id, m.native_id FROM message m JOIN channel c ON c.id = m.channel_id WHERE m.id = ?"
)
_HAS_DEAD_LETTER = (
    "SELECT 1 FROM outbox WHERE state = 'dead' AND source_platform = ? AND source_channel = ? AND source_id = ? LIMIT 1"
)
# The row of a digest names only its first message. Its `kind` is the first key (see `codec`). Today a digest is split
# before it can become a dead letter.
DEAD_DIGESTS = (
    "SELECT command FROM outbox WHERE state = 'dead' AND typeof(command) = 'text'"
    """ AND substr(command, 1, 20) = '{"kind":"send_batch"'"""
)
_MESSAGES = "SELECT id, CASE typeof(used) WHEN 'integer' THEN used END FROM message WHERE id > ? ORDER BY id LIMIT ?"
_SHARED = (
    "SELECT DISTINCT c.channel_id, c.native_id FROM message_copy c JOIN batch b"
    " ON b.channel_id = c.channel_id AND b.native_id = c.native_id WHERE c.message_id = ?"
)
_DELETE_SHARED = (
    "DELETE FROM batch WHERE channel_id = ?1 AND native_id = ?2"
    " AND NOT EXISTS (SELECT 1 FROM message_copy WHERE channel_id = ?1 AND native_id = ?2)"
)


# A message's platform, channel and ID.
_Name = tuple[str, str, str]


_EMPTY_LANES = (
    "SELECT id, source_platform, source_channel, destination_platform, destination_channel FROM lane"
    " WHERE waiting = 0 AND dead = 0"
)
_DELETE_LANE = "DELETE FROM lane WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM outbox WHERE lane_id = ?1)"
_CHANNELS = "SELECT id, platform, native_id FROM channel"
_DELETE_CHANNEL = (
    "DELETE FROM channel WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM message WHERE channel_id = ?1)"
    " AND NOT EXISTS (SELECT 1 FROM message_copy WHERE channel_id = ?1)"
    " AND NOT EXISTS (SELECT 1 FROM message_edit WHERE channel_id = ?1)"
    " AND NOT EXISTS (SELECT 1 FROM batch WHERE channel_id = ?1)"
)
# The number of a deleted channel may be given to another one.
_DELETE_GHOSTS = "DELETE FROM ghost_member WHERE channel_id = ?1 AND NOT EXISTS (SELECT 1 FROM channel WHERE id = ?1)"
_NAMES = "SELECT name FROM notebook WHERE name LIKE 'names %'"
_DELETE_NAME = "DELETE FROM notebook WHERE name = ?"


@dataclass(frozen=True, slots=True)
class _Kind:
    """Rows that are found by their age alone."""

    name: str
    find: str
    # Its parameters are those of the key, and then the age.
    delete: str


_DEAD = _Kind(
    "dead letters",
    "SELECT id FROM outbox WHERE state = 'dead' AND died_at < ? LIMIT ?",
    "DELETE FROM outbox WHERE id = ? AND state = 'dead' AND died_at < ?",
)
_NOTICES = _Kind(
    "notices",
    "SELECT platform, key, channel FROM notice WHERE used < ? LIMIT ?",
    "DELETE FROM notice WHERE platform = ? AND key = ? AND channel = ? AND used < ?",
)
_PICTURES = _Kind(
    "pictures",
    "SELECT platform, locator, copy_platform FROM media_cache WHERE used < ? LIMIT ?",
    "DELETE FROM media_cache WHERE platform = ? AND locator = ? AND copy_platform = ? AND used < ?",
)
# A row of nobody stays until its copy is deleted.
_AVATARS = _Kind(
    "avatars",
    "SELECT copy_platform, user_platform, user_id, source FROM avatar"
    " WHERE user_platform <> '' AND typeof(used) = 'integer' AND used < ? LIMIT ?",
    "DELETE FROM avatar WHERE copy_platform = ? AND user_platform = ? AND user_id = ? AND source = ? AND used < ?",
)
# Whatever is kept for how long: nobody can say them any more, and they tell who asked for whom.
_CODES = _Kind(
    "codes",
    "SELECT platform, account FROM link_code WHERE expires_at < ? LIMIT ?",
    "DELETE FROM link_code WHERE platform = ? AND account = ? AND expires_at < ?",
)


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
        await self._by_age(_CODES, (now - EPOCH) // MICROSECOND)
        if self.dead_letters is not None:
            at = (now - EPOCH) // MICROSECOND - int(self.dead_letters * 1e6)
            await self._by_age(_DEAD, at)
            if self.discard_undeclared is not None:
                while await self.discard_undeclared(now - timedelta(seconds=self.dead_letters)):
                    await self.clock.sleep(_PAUSE)
        if self.messages is not None:
            before = int(now.timestamp() - self.messages)
            for kind in (_NOTICES, _PICTURES, _AVATARS):
                await self._by_age(kind, before)
            await self._old_messages(now, before)
            if self.declared is not None:
                await self._channels_without_use(self.declared)
            self.forget_counters(now - timedelta(seconds=self.messages))

    async def _by_age(self, kind: _Kind, before: int) -> None:
        count = 0
        while keys := await self._read(kind.find, (before, _DELETED_AT_ONCE)):
            rows = [(*key, before) for key in keys]
            await self._write(partial(_delete, kind.delete, rows))
            count += len(rows)
        if count:
            _log.info(f"old {kind.name} forgotten", count=count)

    async def _old_messages(self, now: datetime, before: int) -> None:
        oldest = await self._read(_OLDEST_COMMAND, ())
        if oldest:
            before = min(before, oldest[0][0] // 1_000_000)
        digests = [row[0] for row in await self._read(DEAD_DIGESTS, ())]
        dead = await asyncio.to_thread(_sources, digests) if digests else frozenset[_Name]()
        count, last, kept = 0, 0, 0
        while kept < _MOST_YOUNG:
            rows = await self._read(_MESSAGES, (last, _READ_AT_ONCE))
            old = [key for key, used in rows if used is not None and used < before]
            kept = 0 if old else kept + len(rows)
            for start in range(0, len(old), _DELETED_AT_ONCE):
                some = old[start : start + _DELETED_AT_ONCE]
                await self._write(partial(_delete_messages, some, before, dead))
                count += len(some)
            if len(rows) < _READ_AT_ONCE:
                break
            last = rows[-1][0]
        if count:
            _log.info("old messages forgotten", count=count, seconds=round((self.clock.now() - now).total_seconds()))

    async def _channels_without_use(self, declared: Callable[[], frozenset[ChannelRef]]) -> None:
        """Delete channels that are in no pair any more, when no message of theirs is left."""
        kept = {(str(channel.platform), channel.id) for channel in declared()}
        lanes = [key for key, *of in await self._read(_EMPTY_LANES, ()) if not {(of[0], of[1]), (of[2], of[3])} <= kept]
        channels = [(key,) for key, *of in await self._read(_CHANNELS, ()) if tuple(of) not in kept]
        for some in _pieces([(key,) for key in lanes]):
            async with self.store.write() as unit:
                self.store.forget_lanes()
                await unit.transaction.run(partial(_delete, _DELETE_LANE, some))
            await self.clock.sleep(_PAUSE)
        for some in _pieces(channels):
            await self._write(partial(_delete_channels, some))
        known = kept | {tuple(of) for _, *of in await self._read(_CHANNELS, ())}
        names = [(name,) for (name,) in await self._read(_NAMES, ()) if tuple(str(name).split(" ", 2)[1:]) not in known]
        for some in _pieces(names):
            await self._write(partial(_delete, _DELETE_NAME, some))

    async def _read(self, sql: str, values: Sequence[int]) -> list[Any]:
        async with self.store.read() as unit:
            return await unit.transaction.run(lambda connection: connection.execute(sql, values).fetchall())

    async def _write(self, step: Step) -> None:
        began = self.clock.monotonic()
        async with self.store.write() as unit:
            await unit.transaction.run(step)
        # Leave most of the time to others, also if the disk is slow or busy.
        taken = self.clock.monotonic() - began
        await self.clock.sleep(min(_LONGEST_PAUSE, max(_PAUSE, _OTHERS_SHARE * taken)))


def _pieces(rows: Sequence[Sequence[object]]) -> Iterator[Sequence[Sequence[object]]]:
    return (rows[start : start + _DELETED_AT_ONCE] for start in range(0, len(rows), _DELETED_AT_ONCE))


def _delete_channels(rows: Sequence[Sequence[object]], connection: sqlite3.Connection) -> None:
    _delete(_DELETE_CHANNEL, rows, connection)
    _delete(_DELETE_GHOSTS, rows, connection)


def _delete(statement: str, rows: Sequence[Sequence[object]], connection: sqlite3.Connection) -> None:
    connection.executemany(statement, rows)


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


def _delete_messages(
    ids: Sequence[int], before: int, in_digests: frozenset[_Name], connection: sqlite3.Connection
) -> None:
    ids = [one for one in ids if not _has_dead_letter(one, in_digests, connection)]
    shared = {row for one in ids for row in connection.execute(_SHARED, (one,))}
    # Copies and edits are deleted with them: ON DELETE CASCADE.
    connection.executemany("DELETE FROM message WHERE id = ? AND used < ?", [(one, before) for one in ids])
    connection.executemany(_DELETE_SHARED, sorted(shared, key=repr))


def _has_dead_letter(message: int, in_digests: frozenset[_Name], connection: sqlite3.Connection) -> bool:
    """Whether a dead letter is about the message. It may be retried."""
    found = connection.execute(_NAME, (message,)).fetchone()
    if found is None:
        return False
    platform, channel, native = found
    name = (platform, channel, unpacked(native))
    return name in in_digests or connection.execute(_HAS_DEAD_LETTER, name).fetchone() is not None
