"""Saves the status, and logs how far the relay is while it has something to catch up on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from relay.core.ports import ChannelInfo, Clock
from relay.core.status.counters import Status
from relay.core.status.reading import read_channels
from relay.core.status.report import CHANNELS_KEY, STATUS_KEY, DaemonEnd, DirectionStatus, Report, StatusRecord
from relay.core.storage import Store
from relay.domain.ids import ChannelRef
from relay.errors import StoreUnavailable, how_many
from relay.logs import get_logger

_log = get_logger(__name__)

_SAVE_SECONDS = 1.0
# Between two glances at whether something is urgent, while something happens. Else the bell tells.
_GLANCE_SECONDS = 0.2
# While nothing is known to have changed: what adapters are asked for (notes, names) may have.
_IDLE_SECONDS = 10.0
# For how long at the start nobody looks until both sides are ready: all that happens then is that they come up.
_START_SECONDS = 3.0
# How many times as long as a look has taken nobody looks again, at least: it takes longer with more pairs.
_URGENT_SHARE, _SAVE_SHARE, _IDLE_SHARE = 20.0, 50.0, 800.0
# But no longer than that: on a busy machine a look takes long, too, and operators wait for what it tells.
_URGENT_LIMIT, _SAVE_LIMIT, _IDLE_LIMIT = 2.0, 10.0, 180.0
# Between two lines about a catch-up: in its first minute, and then.
_PROGRESS_SECONDS, _LATER_SECONDS, _FIRST_SECONDS = 10.0, 600.0, 60.0
# Pairs in trouble that are named.
_NAMED = 5
# For how long pairs may be in trouble at the start before that is said: those that another relay has left to us, say,
# begin once it is agreed that they are ours.
_SETTLED_WITHIN = timedelta(seconds=15)


class Readiness:
    """Logs how many pairs work: once both sides are ready, or a moment later; and if some did not, once all do."""

    def __init__(self) -> None:
        self._logged = False
        # When both sides were ready, and some pairs in trouble.
        self._troubled_at: datetime | None = None
        # Nothing is logged any more.
        self.is_over = False

    @property
    def is_waiting(self) -> bool:
        """Whether there will be something to log soon, also where nothing changes."""
        return self._troubled_at is not None and not self._logged

    def look(self, report: Report) -> None:
        """Log it, if it is time."""
        if self.is_over or not report.ready:
            return
        mirrored = [pair for pair in report.pairs if pair.carried]
        troubled = [pair.name for pair in mirrored if pair.problems]
        if self._logged and troubled:
            return
        self._troubled_at = self._troubled_at or report.taken_at
        if troubled and report.taken_at - self._troubled_at < _SETTLED_WITHIN:
            return
        self._logged, self.is_over = True, not troubled
        words = f"ready: {len(mirrored) - len(troubled)} of {how_many(len(mirrored), 'pair')}"
        if troubled:
            more = [f"{len(troubled) - _NAMED} more"] if len(troubled) > _NAMED else []
            named = ", ".join([*troubled[:_NAMED], *more])
            _log.warning(f"{words}, {len(troubled)} in trouble ({named})", remedy="`relay status` says why")
        else:
            _log.info(words)


class Progress:
    """Logs a line now and then while there is something to catch up on, and one at the end."""

    def __init__(self) -> None:
        # When the relay fell behind, and how many messages had crossed by then.
        self._began: tuple[datetime, int] | None = None
        self._logged_at: datetime | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether there was something to catch up on at the last look."""
        return self._began is not None

    def look(self, report: Report) -> None:
        """Log how far the relay is, if that is worth a line."""
        crossed = sum(direction.messages for direction in _directions(report))
        now = report.taken_at
        if not report.catching_up:
            if self._began is not None and self._logged_at is not None:
                _log.info("caught up", messages=crossed - self._began[1], **_seconds(self._began[0], now))
            self._began = self._logged_at = None
            return
        if self._began is None:
            self._began = (now, crossed)
        began, before = self._began
        is_long = (now - began).total_seconds() > _FIRST_SECONDS
        pause = _LATER_SECONDS if is_long else _PROGRESS_SECONDS
        if (now - (self._logged_at or began)).total_seconds() >= pause:
            self._logged_at = now
            _log.info(
                "catching up",
                messages=crossed - before,
                waiting=sum(direction.backlog for direction in _directions(report)),
                **_seconds(began, now),
                **{name: side.detail for name, side in report.sides.items() if side.state == "catching_up"},
            )


def _directions(report: Report) -> list[DirectionStatus]:
    return [direction for pair in report.pairs for direction in pair.directions.values()]


def _seconds(began: datetime, now: datetime) -> Mapping[str, Any]:
    return {"seconds": round((now - began).total_seconds())}


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class StatusRecorder:
    """Keeps what `relay status` reads in the store up to date.

    It looks each second while something happens, and at once when a side or a pair fails or recovers. It writes nothing
    while nothing happens: the reader works out ages and backlogs.
    """

    store: Store
    status: Status
    clock: Clock
    _progress: Progress = field(init=False, default_factory=Progress)
    _readiness: Readiness = field(init=False, default_factory=Readiness)
    # The digest of what was saved last, except for times: what is saved is 3 KiB a pair.
    _saved: bytes | None = field(init=False, default=None)
    # The conditions and the version of the status at the last look.
    _seen: tuple[object, object] = field(init=False, default=(None, None))
    # What was saved last of the channels: they change seldom, and the status each second.
    _channels: Mapping[ChannelRef, ChannelInfo] | None = field(init=False, default=None)

    async def restore(self, seen: datetime | None = None) -> None:
        """Go on counting where the last process stopped, which was `seen` alive then. Raises `StoreUnavailable`."""
        async with self.store.look() as uow:
            saved, channels = await uow.key_values.several(STATUS_KEY, CHANNELS_KEY)
        self.status.restore(saved, channels, seen=seen)
        self._channels = read_channels(channels)

    async def run(self) -> None:
        """Work until cancelled."""
        ended, took = self.clock.monotonic(), 0.0
        starts_until = ended + _START_SECONDS
        while True:
            began = self.clock.monotonic()
            if all(side.state == "ready" for side in self.status.sides().values()):
                starts_until = began
            now, idle = self.status.conditions(), False
            if began < starts_until:
                pause, idle = starts_until - ended, True
            elif now != self._seen[0]:
                pause = min(_URGENT_LIMIT, _URGENT_SHARE * took)
            elif (
                self.status.version() != self._seen[1]
                or self.status.has_backlog
                or self.status.store_problem
                or self._readiness.is_waiting
            ):
                pause = min(_SAVE_LIMIT, max(_SAVE_SECONDS, _SAVE_SHARE * took))
            else:
                pause, idle = min(_IDLE_LIMIT, max(_IDLE_SECONDS, _IDLE_SHARE * took)), True
            left = pause - (began - ended)
            if left > 0.0 and idle:
                await self.status.news.wait(self.clock, left)
                # More may come at once.
                await self.clock.sleep(_GLANCE_SECONDS)
            elif left > 0.0:
                await self.clock.sleep(min(left, _GLANCE_SECONDS))
            else:
                await self.look()
                ended = self.clock.monotonic()
                took = ended - began

    async def finish(self, end: DaemonEnd) -> None:
        """Save the status for the last time, with how the daemon ends. Raises `StoreError`."""
        record = self.status.record()
        ended = replace(end, at=self.clock.now())
        record = replace(record, daemon=replace(record.daemon, running=False, ended=ended))
        await self._save(record, record.lasting())

    async def look(self) -> None:
        """Save what has changed."""
        self._seen = self.status.conditions(), self.status.version()
        try:
            record = self.status.record()
            await self.status.read_outbox()
            lasting = record.lasting()
            # Only a write that succeeds shows that the store works again.
            digest = hashlib.blake2b(lasting.encode()).digest()
            changed = digest != self._saved or record.channels != self._channels
            if changed or self.status.store_problem is not None:
                await self._save(record, lasting)
                self._saved, self._channels = digest, record.channels
            self.status.store_problem = None
        except StoreUnavailable as error:
            self.status.store_problem = str(error)
        else:
            if not self._readiness.is_over or self._progress.is_under_way or self.status.may_be_behind(record):
                report = self.status.last_report(record)
                self._progress.look(report)
                self._readiness.look(report)

    async def _save(self, record: StatusRecord, lasting: str) -> None:
        async with self.store.write() as uow:
            await uow.key_values.put(STATUS_KEY, record.as_text(lasting))
            if record.channels != self._channels:
                await uow.key_values.put(CHANNELS_KEY, json.dumps(record.channels_as_json()))
