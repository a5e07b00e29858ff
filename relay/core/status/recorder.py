"""Writes the status down, and says in the log how far the relay is while it has something to catch up on."""

import json
import os
import socket
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog

from relay.core.delivery.dispatcher import Dispatcher
from relay.core.ports import Clock, SideHealth
from relay.core.status.counters import NOTEBOOK_ENTRY, Snapshot, Status, read_saved, side_as_json
from relay.core.storage import Store
from relay.domain.ids import Platform
from relay.errors import StoreUnavailable

_log = structlog.get_logger(__name__)

_SAVE_SECONDS = 1.0
_LOOK_SECONDS = 0.2
_PROGRESS_SECONDS = 10.0
_BEHIND_SECONDS = 10.0
"""A message that has waited this long is caught up on, not passed through."""


class StatusKeeper:
    """Keeps what `relay status` reads in the store: what changed, at once when something goes wrong or well.

    It looks each second, and writes nothing while nothing happens: ages and backlogs are the reader's to tell.

    Where a platform is back, it lets nothing wait for its next try any longer.
    """

    def __init__(self, *, store: Store, status: Status, dispatcher: Dispatcher, clock: Clock) -> None:
        self._store = store
        self._status = status
        self._courier = dispatcher
        self._clock = clock
        self._since = clock.now()
        self._progress = Progress()
        self._written: Mapping[str, Any] | None = None

    async def restore(self) -> None:
        """Go on counting where the last process stopped. Raises `StoreUnavailable`."""
        async with self._store.read() as uow:
            saved = await uow.key_values.get(NOTEBOOK_ENTRY)
        self._status.restore(read_saved(saved))

    async def run(self) -> None:
        """Work until cancelled."""
        saved, at = None, 0.0
        while True:
            conditions = self._status.conditions()
            if saved is not None:
                self._hurry(before=saved[0], now=conditions[0])
            if conditions != saved or self._clock.monotonic() - at >= _SAVE_SECONDS:
                saved, at = conditions, self._clock.monotonic()
                await self.look()
            await self._clock.sleep(_LOOK_SECONDS)

    def _hurry(self, *, before: Mapping[str, SideHealth], now: Mapping[str, SideHealth]) -> None:
        for name, side in now.items():
            if side.connected and not before[name].connected:
                self._courier.platform_is_back(Platform(name))

    async def save(self, *, running: bool) -> Snapshot:
        """Write the status down once. Raises `StoreUnavailable`."""
        snapshot = await self._status.snapshot()
        await self._write(snapshot, self._lasting(snapshot), running=running)
        return snapshot

    def _lasting(self, snapshot: Snapshot) -> Mapping[str, Any]:
        """What of the status does not change by itself."""
        return {**{name: side_as_json(side) for name, side in snapshot.sides.items()}, **self._status.as_json()}

    async def _write(self, snapshot: Snapshot, lasting: Mapping[str, Any], *, running: bool) -> None:
        process = {
            "running": running,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": self._since.isoformat(),
            "updated_at": snapshot.taken_at.isoformat(),
        }
        saved = json.dumps({"daemon": process, **lasting})
        async with self._store.write() as uow:
            await uow.key_values.put(NOTEBOOK_ENTRY, saved)
        self._written = lasting

    async def look(self) -> None:
        """Write down what changed, and wake the lanes in which something waits."""
        try:
            snapshot = await self._status.snapshot()
            lasting = self._lasting(snapshot)
            # Only a write that went through shows that the store is well again.
            if lasting != self._written or self._status.store_problem is not None:
                await self._write(snapshot, lasting, running=True)
            # `relay dead retry` is another process: nobody but the outbox says that it queued something.
            async with self._store.read() as uow:
                waiting = await uow.outbox.lanes()
            for lane in waiting:
                self._courier.wake(lane)
            self._courier.rest(waiting)
            self._status.store_problem = None
        except StoreUnavailable as error:
            self._status.store_problem = str(error)
        else:
            self._progress.look(snapshot)


class Progress:
    """A line now and then while there is something to catch up on, and one at the end."""

    def __init__(self) -> None:
        self._began: tuple[datetime, int] | None = None
        self._said_at: datetime | None = None

    def look(self, snapshot: Snapshot) -> None:
        """Say how far it is, if that is worth a line."""
        crossed = sum(way.messages for pair in snapshot.pairs for way in pair.directions.values())
        now = snapshot.taken_at
        if not _is_behind(snapshot):
            if self._began is not None and self._said_at is not None:
                _log.info("caught up", messages=crossed - self._began[1], **_seconds(self._began[0], now))
            self._began = self._said_at = None
            return
        if self._began is None:
            self._began = (now, crossed)
        began, before = self._began
        if (now - (self._said_at or began)).total_seconds() >= _PROGRESS_SECONDS:
            self._said_at = now
            _log.info(
                "catching up",
                messages=crossed - before,
                waiting=sum(way.backlog for pair in snapshot.pairs for way in pair.directions.values()),
                **_seconds(began, now),
                **{name: side.detail for name, side in snapshot.sides.items() if side.state == "catching_up"},
            )


def _is_behind(snapshot: Snapshot) -> bool:
    ages = (way.oldest_undelivered_seconds for pair in snapshot.pairs for way in pair.directions.values())
    reading = any(side.state == "catching_up" for side in snapshot.sides.values())
    return reading or any(age is not None and age >= _BEHIND_SECONDS for age in ages)


def _seconds(began: datetime, now: datetime) -> Mapping[str, Any]:
    return {"seconds": round((now - began).total_seconds())}
