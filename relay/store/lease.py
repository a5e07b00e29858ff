"""One daemon per store: whoever holds the lease writes, and nobody else sends.

A lease that was not renewed for `LENGTH` is free. On the same machine a holder whose process has ended is found out at
once: by its process ID *and* when that process started, for IDs are used again, and only within one PID
namespace, for every container has a process 1.

A holder may lose the lease without knowing (stopped, suspended, paused with its machine). So each of its write
transactions first looks whether the lease is still its own (`SqlStore.fence`): a few microseconds under a lock that
is held anyway.
"""

import asyncio
import secrets
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import structlog
from sqlalchemy import Connection, inspect, select

from relay.core.ports import Clock
from relay.errors import StoreHeld, StoreUnavailable
from relay.store.holder import Holder
from relay.store.tables import lease as lease_table
from relay.store.unit_of_work import SqlStore

LENGTH = timedelta(seconds=30)
RENEW_EVERY = 5.0  # seconds
_WATCH_EVERY = 1.0  # seconds

_log = structlog.get_logger(__name__)


class Lease:
    """The right to write and to send."""

    def __init__(self, store: SqlStore, clock: Clock, holder: Holder) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._renewed = clock.monotonic()

    @property
    def holder(self) -> Holder:
        """Who: this process."""
        return self._holder

    def valid(self) -> bool:
        """Whether nobody else can have taken the lease yet, as far as the clock tells. No I/O."""
        return self._clock.monotonic() - self._renewed < LENGTH.total_seconds()

    async def keep(self) -> None:
        """Renew for ever; `hold` runs it. Raises `StoreHeld` when the lease was lost.

        Goes on while the store is unavailable: nobody else can take the lease then.
        """
        while True:
            await self._clock.sleep(RENEW_EVERY)
            try:
                asked = self._clock.monotonic()
                async with self._store.write() as unit:
                    await unit.leases.renew(self._holder.token, self._clock.now())
                self._renewed = asked
            except StoreUnavailable as error:
                _log.warning("lease_not_renewed", reason=str(error))

    def fence(self, connection: sqlite3.Connection) -> None:
        """Raise `StoreHeld` unless the lease is ours. A first step of write transactions."""
        row = connection.execute("SELECT holder, host, pid FROM lease").fetchone()
        if row is None or row[0] != self._holder.token:
            now = "nobody has it" if row is None else f"process {row[2]} on {row[1]} has it"
            raise StoreHeld(self._store.path, f"this daemon has lost its lease; {now}", "run one daemon only")


@asynccontextmanager
async def hold(store: SqlStore, clock: Clock) -> AsyncIterator[Lease]:
    """Acquire the lease, renew it while the block runs, and give it back when it ends. Raises `StoreHeld`.

    A holder that is known to be alive, or renews, keeps it; one of which nothing can be known (another machine,
    another container) is watched until it renews or its lease runs out. When the lease is lost, the block is
    cancelled and `StoreHeld` raised.
    """
    store.fence(None)
    lease = Lease(store, clock, await _acquire(store, clock))
    store.fence(lease.fence)
    keeping = asyncio.create_task(lease.keep(), name="lease")
    try:
        async with _cancelled_by(keeping):
            yield lease
    finally:
        keeping.cancel()
        await asyncio.wait((keeping,))
        await _release(store, lease.holder)


@asynccontextmanager
async def _cancelled_by(keeper: asyncio.Task[None]) -> AsyncIterator[None]:
    """Cancel the block when `keeper` fails, and raise its error; as `asyncio.timeout` does with the time."""
    owner = asyncio.current_task()
    if owner is None:
        raise RuntimeError("a lease is held by a task")
    before = owner.cancelling()
    inside = True

    def failed(task: asyncio.Task[None]) -> None:
        # The loop may have taken note of this call before the block ended.
        if inside and not task.cancelled() and task.exception() is not None:
            owner.cancel()

    keeper.add_done_callback(failed)
    try:
        yield
    except asyncio.CancelledError:
        if keeper.done() and not keeper.cancelled() and owner.uncancel() <= before:
            keeper.result()
        raise
    finally:
        inside = False
        keeper.remove_done_callback(failed)


def refuse_if_held(connection: Connection, path: Path) -> None:
    """Raise `StoreHeld` if a daemon may be running on this store. Blocks; for migrations."""
    if not inspect(connection).has_table(lease_table.name):
        return
    row = connection.execute(select(lease_table)).first()
    if row is not None:
        holder = Holder.of_row(row)
        if judge(holder, datetime.now(UTC)) != "ended":
            raise held(path, holder)


def held(path: Path, holder: Holder) -> StoreHeld:
    """The error that names `holder`."""
    return StoreHeld(
        path,
        f"process {holder.pid} on {holder.host} holds it since {holder.since:%Y-%m-%d %H:%M:%S} UTC",
        "stop that daemon first, or give this one a store of its own",
    )


def judge(holder: Holder, now: datetime) -> Literal["alive", "ended", "unknown"]:
    """What can be known of a holder from here. `ended`: its lease is free."""
    if now - holder.renewed_at >= LENGTH:
        return "ended"
    return holder.process_state()


async def _acquire(store: SqlStore, clock: Clock) -> Holder:
    now = clock.now()
    mine = Holder.this_process(secrets.token_hex(8), now)
    seen: Holder | None = None
    patience = clock.monotonic() + LENGTH.total_seconds()
    while True:
        async with store.write() as unit:
            other = await unit.leases.get()
            renewed = seen is not None and other is not None and other.renewed_at != seen.renewed_at
            state = "ended" if other is None else judge(other, clock.now())
            # A clock that was set back makes a lease last too long; watching it does not depend on that clock.
            if state == "ended" or (not renewed and clock.monotonic() >= patience):
                mine = replace(mine, since=clock.now(), renewed_at=clock.now())
                await unit.leases.put(mine)
                if other is not None:
                    _log.warning("lease_taken_over", host=other.host, pid=other.pid, since=other.since.isoformat())
                return mine
        if other is None:
            continue
        if state == "alive" or renewed:
            raise held(store.path, other)
        if seen is None:
            _log.info("lease_watched", host=other.host, pid=other.pid, since=other.since.isoformat())
        seen = other
        await clock.sleep(_WATCH_EVERY)


async def _release(store: SqlStore, holder: Holder) -> None:
    try:
        async with store.write() as unit:
            await unit.leases.remove(holder.token)
    except (StoreUnavailable, StoreHeld) as error:
        _log.warning("lease_not_released", reason=str(error))
