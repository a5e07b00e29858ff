"""Forgets what is old: messages with their copies, edits and shared copies; dead letters; notices; uploaded pictures;
and what is kept about channels that no pair has any more.

Steps are small, with pauses between them: what is delivered meanwhile waits for the write lock a few milliseconds at
most. What to delete is looked for in read transactions, which nobody waits for. A message counts from when anything
came of it last (an edit, an answer), and nothing goes that is younger than the oldest command that waits: that may be
about it. Of what lies dead only the messages stay that it is about.
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

_AT_ONCE = 50
_LOOKED_AT = 500
"""Rows that are looked at in one read."""

_MOST_KEPT = 20_000
"""Messages in use that are looked past before the rest counts as young, too: their IDs rise with time."""

_PAUSE, _LONGEST_PAUSE = 0.05, 5.0  # seconds
_OTHERS_SHARE = 20
"""Times as long as a step took the others have before the next one."""

_MOST_SECONDS_BETWEEN, _LEAST_SECONDS_BETWEEN = 3600.0, 1.0
_LONGEST_AGE = 50 * 365 * 86400.0  # seconds; the calendar ends somewhere
_STEP = 60.0
"""Seconds by which the wall clock may differ from the monotonic one: beyond that it was set."""

# A column keeps whatever was written into it: what is no number in a damaged row says nothing about its age.
_OLDEST_COMMAND = (
    "SELECT queued_at FROM outbox WHERE state = 'waiting' AND typeof(queued_at) = 'integer' ORDER BY id LIMIT 1"
)
_NAME = (
    "SELECT c.platform, c.native_id, m.native_id FROM message m JOIN channel c ON c.id = m.channel_id WHERE m.id = ?"
)
_LIES_DEAD = (
    "SELECT 1 FROM outbox WHERE state = 'dead' AND source_platform = ? AND source_channel = ? AND source_id = ? LIMIT 1"
)
# A batch has the source of its first message only. None dies any more: it is taken apart before.
_DEAD_BATCHES = (
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


_Name = tuple[str, str, str]
"""A message: its platform, its channel and its ID there."""


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
_NAMES = "SELECT name FROM notebook WHERE name LIKE 'names %'"
_DELETE_NAME = "DELETE FROM notebook WHERE name = ?"


@dataclass(frozen=True, slots=True)
class _Kind:
    """Rows that are found by their age alone. `delete` has the key's parameters and then the limit."""

    name: str
    find: str
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


class Pruner:
    """Forgets for as long as it runs. `messages`, `dead_letters`: seconds that they are kept, None for ever.

    `discard_undeclared`: forgets some of what has waited since before a moment for pairs that are not declared, and
    returns how much that was. It is kept for as long as dead letters. `declared`: the channels of all pairs; None: what
    is kept about channels (their row, their lanes, who has which name there) stays. `forget_counters`: forgets what
    lanes that are not declared had done before a moment.
    """

    def __init__(
        self,
        *,
        store: SqlStore,
        clock: Clock,
        messages: float | None,
        dead_letters: float | None,
        discard_undeclared: Callable[[datetime], Awaitable[int]] | None = None,
        declared: Callable[[], frozenset[ChannelRef]] | None = None,
        forget_counters: Callable[[datetime], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._messages = None if messages is None else min(messages, _LONGEST_AGE)
        self._dead_letters = None if dead_letters is None else min(dead_letters, _LONGEST_AGE)
        self._discard_undeclared = discard_undeclared
        self._declared = declared
        self._forget_counters = forget_counters

    async def run(self) -> None:
        """Work until cancelled."""
        ages = [age for age in (self._messages, self._dead_letters) if age is not None]
        if not ages:
            return
        pause = min(_MOST_SECONDS_BETWEEN, max(_LEAST_SECONDS_BETWEEN, min(ages) / 10))
        while True:
            now, running = self._clock.now(), self._clock.monotonic()
            await self._clock.sleep(pause)
            passed = (self._clock.now() - now).total_seconds()
            if abs(passed - (self._clock.monotonic() - running)) > _STEP:
                # Whatever it says now may be taken back in a moment, and what is deleted is gone.
                _log.warning("nothing forgotten: the clock was set", seconds=round(passed))
                continue
            try:
                await self.sweep()
            except StoreUnavailable as error:
                _log.warning("nothing forgotten for now", reason=str(error))
            except Exception:  # noqa: BLE001 - the top of a worker: it is logged, and the daemon goes on
                _log.exception("nothing forgotten for now")

    async def sweep(self) -> None:
        """Forget everything that is old enough now. Raises `StoreUnavailable`."""
        now = self._clock.now()
        if self._dead_letters is not None:
            at = (now - EPOCH) // MICROSECOND - int(self._dead_letters * 1e6)
            await self._by_age(_DEAD, at)
            if self._discard_undeclared is not None:
                while await self._discard_undeclared(now - timedelta(seconds=self._dead_letters)):
                    await self._clock.sleep(_PAUSE)
        if self._messages is not None:
            before = int(now.timestamp() - self._messages)
            for kind in (_NOTICES, _PICTURES):
                await self._by_age(kind, before)
            await self._old_messages(now, before)
            if self._declared is not None:
                await self._channels_without_use(self._declared)
            self._forget_counters(now - timedelta(seconds=self._messages))

    async def _by_age(self, kind: _Kind, before: int) -> None:
        count = 0
        while keys := await self._read(kind.find, (before, _AT_ONCE)):
            rows = [(*key, before) for key in keys]
            await self._write(partial(_delete, kind.delete, rows))
            count += len(rows)
        if count:
            _log.info(f"old {kind.name} forgotten", count=count)

    async def _old_messages(self, now: datetime, before: int) -> None:
        oldest = await self._read(_OLDEST_COMMAND, ())
        if oldest:
            before = min(before, oldest[0][0] // 1_000_000)
        batches = [row[0] for row in await self._read(_DEAD_BATCHES, ())]
        dead = await asyncio.to_thread(_sources, batches) if batches else frozenset[_Name]()
        count, last, kept = 0, 0, 0
        while kept < _MOST_KEPT:
            rows = await self._read(_MESSAGES, (last, _LOOKED_AT))
            old = [key for key, used in rows if used is not None and used < before]
            kept = 0 if old else kept + len(rows)
            for start in range(0, len(old), _AT_ONCE):
                some = old[start : start + _AT_ONCE]
                await self._write(partial(_delete_messages, some, before, dead))
                count += len(some)
            if len(rows) < _LOOKED_AT:
                break
            last = rows[-1][0]
        if count:
            _log.info("old messages forgotten", count=count, seconds=round((self._clock.now() - now).total_seconds()))

    async def _channels_without_use(self, declared: Callable[[], frozenset[ChannelRef]]) -> None:
        """Forget channels that no pair has any more, once nothing is left of what was said there."""
        kept = {(str(channel.platform), channel.id) for channel in declared()}
        lanes = [key for key, *of in await self._read(_EMPTY_LANES, ()) if not {(of[0], of[1]), (of[2], of[3])} <= kept]
        channels = [(key,) for key, *of in await self._read(_CHANNELS, ()) if tuple(of) not in kept]
        for some in _pieces([(key,) for key in lanes]):
            async with self._store.write() as unit:
                self._store.forget_lanes()
                await unit.transaction.run(partial(_delete, _DELETE_LANE, some))
            await self._clock.sleep(_PAUSE)
        for some in _pieces(channels):
            await self._write(partial(_delete, _DELETE_CHANNEL, some))
        known = kept | {tuple(of) for _, *of in await self._read(_CHANNELS, ())}
        names = [(name,) for (name,) in await self._read(_NAMES, ()) if tuple(str(name).split(" ", 2)[1:]) not in known]
        for some in _pieces(names):
            await self._write(partial(_delete, _DELETE_NAME, some))

    async def _read(self, sql: str, values: Sequence[int]) -> list[Any]:
        async with self._store.read() as unit:
            return await unit.transaction.run(lambda connection: connection.execute(sql, values).fetchall())

    async def _write(self, step: Step) -> None:
        began = self._clock.monotonic()
        async with self._store.write() as unit:
            await unit.transaction.run(step)
        # The others have most of the time, also where the disk is slow or much waits for it.
        taken = self._clock.monotonic() - began
        await self._clock.sleep(min(_LONGEST_PAUSE, max(_PAUSE, _OTHERS_SHARE * taken)))


def _pieces(rows: Sequence[Sequence[object]]) -> Iterator[Sequence[Sequence[object]]]:
    return (rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE))


def _delete(statement: str, rows: Sequence[Sequence[object]], connection: sqlite3.Connection) -> None:
    connection.executemany(statement, rows)


def _sources(batches: Sequence[str]) -> frozenset[_Name]:
    """The messages that batches are made of; one that cannot be read sends nothing when it is retried."""
    found: set[_Name] = set()
    for payload in batches:
        with suppress(ValueError):
            command = codec.decode(payload)
            if isinstance(command, Digest):
                sources = (item.source for item in command.items)
                found |= {(str(one.channel.platform), one.channel.id, one.id) for one in sources}
    return frozenset(found)


def _delete_messages(
    ids: Sequence[int], before: int, in_batches: frozenset[_Name], connection: sqlite3.Connection
) -> None:
    ids = [one for one in ids if not _lies_dead(one, in_batches, connection)]
    shared = {row for one in ids for row in connection.execute(_SHARED, (one,))}
    # Copies and edits go along: ON DELETE CASCADE.
    connection.executemany("DELETE FROM message WHERE id = ? AND used < ?", [(one, before) for one in ids])
    connection.executemany(_DELETE_SHARED, sorted(shared, key=repr))


def _lies_dead(message: int, in_batches: frozenset[_Name], connection: sqlite3.Connection) -> bool:
    """Whether a dead letter is about the message: it may be retried."""
    found = connection.execute(_NAME, (message,)).fetchone()
    if found is None:
        return False
    platform, channel, native = found
    name = (platform, channel, unpacked(native))
    return name in in_batches or connection.execute(_LIES_DEAD, name).fetchone() is not None
