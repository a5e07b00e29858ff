"""One daemon per store: whoever holds the lease writes, and nobody else sends.

The holder locks a file beside the store (`lock_file.py`), and stands in a row of the store. A process that lives keeps
the lease, stopped or not, whatever any clock says: the lock shows it on this machine, and its process ID *with*
the moment at which it started, for IDs are used again. A holder of which neither tells (another machine) is
watched: one that gives no sign of life for `LENGTH`, by a clock that does not jump, has lost the lease.

Such a holder may come back without knowing. So each write transaction first looks whether the lease is still its own
(`SqlStore.fence`): a few microseconds under a lock that is held anyway.
"""

import asyncio
import os
import secrets
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

import structlog
from sqlalchemy import Connection, Row, bindparam, delete, inspect, select
from sqlalchemy.dialects.sqlite import insert

from relay.core.ports import Clock
from relay.errors import StoreHeld, StoreUnavailable
from relay.store.lock_file import LockFile
from relay.store.sqlite.engine import translated
from relay.store.tables import lease as lease_table
from relay.store.transaction import Transaction
from relay.store.unit_of_work import SqlStore

LENGTH = timedelta(seconds=30)
RENEW_EVERY = 5.0  # seconds
WATCH_EVERY = 1.0  # seconds
_PATIENCE = 30  # looks at a lock that nobody is known to have

_log = structlog.get_logger(__name__)
_MOST_PROCESSES = 1 << 31
_ENDED_STATES = frozenset("ZXx")  # zombie, dead: proc_pid_stat(5)


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds the lease.

    `token` is unique to one holding. `pid` 0: a damaged row does not tell. `started` names the process among all
    that ever had its ID: the machine's boot, the PID namespace and the tick at which it began; empty where the system
    does not tell. `renewed_at`: an earlier relay wrote each renewal there, this one only when it took the lease.
    """

    token: str
    host: str
    pid: int
    started: str
    since: datetime
    renewed_at: datetime

    @classmethod
    def this_process(cls, token: str, now: datetime) -> Self:
        """The process that asks."""
        pid = os.getpid()
        return cls(token, socket.gethostname(), pid, _started(pid), since=now, renewed_at=now)

    @classmethod
    def of_row(cls, row: Row[Any]) -> Self:
        """The holder that a row of the table describes."""
        pid = row.pid if 0 < row.pid < _MOST_PROCESSES else 0
        return cls(row.holder, row.host, pid, row.started, row.since, row.renewed_at)

    def on_this_kernel(self) -> bool:
        """Whether the process runs, or ran, under the same boot of the same machine, in whatever container."""
        here = _surroundings()
        if here is None or not self.started:
            return self.host == socket.gethostname()
        return self.started.split(" ")[0] == here[0]

    def process_state(self) -> Literal["alive", "ended", "unknown"]:
        """Whether the process runs, as far as that can be seen from this one."""
        if self.host != socket.gethostname():
            return "unknown"
        if not self.started:
            return "unknown" if self.pid == 0 or _exists(self.pid) else "ended"
        here = _surroundings()
        boot, namespace, *_ = (*self.started.split(" "), "")
        if not here or here[1] != namespace:
            return "unknown"
        if here[0] != boot:
            return "ended"
        return "alive" if _started(self.pid) == self.started else "ended"


@dataclass(slots=True)
class SqlLeases:
    """The table `lease`, of one row at most."""

    transaction: Transaction

    async def get(self) -> Holder | None:
        """Who holds it, alive or not."""
        row = await self.transaction.first(_GET_LEASE, {})
        return None if row is None else Holder.of_row(row)

    async def put(self, holder: Holder) -> None:
        """It is `holder`'s from now on."""
        await self.transaction.defer(
            _PUT_LEASE,
            {
                "slot": 1,
                "holder": holder.token,
                "host": holder.host,
                "pid": holder.pid,
                "started": holder.started,
                "since": holder.since,
                "renewed_at": holder.renewed_at,
            },
        )

    async def remove(self, token: str) -> None:
        """The holder of `token` gives it back."""
        await self.transaction.defer(_REMOVE_LEASE, {"token": token})


_GET_LEASE = select(lease_table)
_PUT_LEASE = (
    insert(lease_table)
    .prefix_with("OR REPLACE")
    .values({column.name: bindparam(column.name) for column in lease_table.columns})
    .inline()
)
_REMOVE_LEASE = delete(lease_table).where(lease_table.c.holder == bindparam("token"))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _surroundings() -> tuple[str, str] | None:
    """This boot of the machine and this PID namespace; None where the system does not tell (not Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # "pid:[4026531836]": namespaces(7)
        return boot, os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - not a path that Path would keep
    except OSError:
        return None


def _started(pid: int) -> str:
    """`Holder.started` of a process that runs; empty if it does not, or the system does not tell."""
    here = _surroundings()
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything; field 3 is the first after it
    if here is None or fields[0] in _ENDED_STATES:
        return ""
    return f"{here[0]} {here[1]} {fields[19]}"  # field 22: start time in ticks since boot


class Lease:
    """The right to write and to send."""

    def __init__(self, store: SqlStore, clock: Clock, lock: LockFile, holder: Holder) -> None:
        self._store = store
        self._clock = clock
        self._lock = lock
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
        """Look after it for ever; `hold` runs it. Raises `StoreHeld` when the lease was lost. Writes nothing.

        Goes on while the store is unavailable: nobody else can take the lease then.
        """
        while True:
            await self._clock.sleep(RENEW_EVERY)
            try:
                asked = self._clock.monotonic()
                async with self._store.write() as unit:
                    await SqlLeases(unit.transaction).get()  # the transaction begins with the fence
                with translated(self._lock.path):
                    self._lock.beat(self._holder.token)
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

    When the lease is lost, the block is cancelled and `StoreHeld` raised.
    """
    with LockFile(store.path) as lock:
        store.fence(None)
        lease = Lease(store, clock, lock, await _acquire(store, clock, lock))
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


class Watch:
    """Judges the holder of a lease, look by look."""

    def __init__(self, lock: LockFile, monotonic: Callable[[], float]) -> None:
        self._lock = lock
        self._monotonic = monotonic
        self._since = monotonic()
        self._first: tuple[object, ...] | None = None
        self._refused = 0

    def look(self, holder: Holder | None) -> Literal["free", "held", "wait"]:
        """Whether the lease can be taken; `wait`: look again in a second. Takes the lock. Raises `OSError`."""
        locked = self._lock.take()
        state = "ended" if holder is None else holder.process_state()
        if state == "alive":
            return "held"
        if not locked:
            # Whoever locks it without being known as the holder is just starting, migrates, or asks for the status.
            self._refused += 1
            return "wait" if self._refused < (2 if state == "unknown" else _PATIENCE) else "held"
        if holder is None or state == "ended":
            return "free"
        if holder.on_this_kernel() and self._lock.signed_by(holder.token):
            return "free"  # it locked the file while it lived
        sign = (holder.token, holder.renewed_at, self._lock.last_beat())
        if self._first is None:
            self._first = sign
            _log.info("lease_watched", host=holder.host, pid=holder.pid, since=holder.since.isoformat())
        if sign != self._first:
            return "held"
        return "free" if self._monotonic() - self._since >= LENGTH.total_seconds() else "wait"


def watch_holder(connection: Connection, path: Path, watch: Watch) -> bool:
    """Whether no daemon runs on this store; False: look again in a second. Raises `StoreHeld`. For migrations."""
    row = None
    if inspect(connection).has_table(lease_table.name):
        row = connection.execute(select(lease_table)).first()
    holder = None if row is None else Holder.of_row(row)
    verdict = watch.look(holder)
    if verdict == "held":
        raise held(path, holder)
    return verdict == "free"


def held(path: Path, holder: Holder | None) -> StoreHeld:
    """The error that names `holder`."""
    who = "another process, which is starting," if holder is None else f"process {holder.pid} on {holder.host}"
    since = "" if holder is None else f" since {holder.since:%Y-%m-%d %H:%M:%S} UTC"
    return StoreHeld(path, f"{who} holds it{since}", "stop that daemon first, or give this one a store of its own")


def is_running(holder: Holder | None, path: Path) -> bool:
    """Whether a daemon runs on the store at `path`, as far as can be known at once."""
    lock = LockFile(path)
    if holder is None:
        return False
    state = holder.process_state()
    if state == "unknown" and holder.on_this_kernel() and lock.signed_by(holder.token):
        return lock.is_taken()
    return state != "ended"


def last_seen(path: Path) -> datetime | None:
    """When the holder of the store at `path` last showed that it is there; None if none ever did."""
    beat = LockFile(path).last_beat()
    return datetime.fromtimestamp(beat / 1e9, UTC) if beat else None


async def _acquire(store: SqlStore, clock: Clock, lock: LockFile) -> Holder:
    watch = Watch(lock, clock.monotonic)
    while True:
        async with store.write() as unit:
            other = await SqlLeases(unit.transaction).get()
            with translated(lock.path):
                verdict = watch.look(other)
            if verdict == "free":
                mine = Holder.this_process(secrets.token_hex(8), clock.now())
                with translated(lock.path):
                    lock.sign(mine.token)
                await SqlLeases(unit.transaction).put(mine)
                if other is not None:
                    _log.warning("lease_taken_over", host=other.host, pid=other.pid, since=other.since.isoformat())
                return mine
        if verdict == "held":
            raise held(store.path, other)
        await clock.sleep(WATCH_EVERY)


async def _release(store: SqlStore, holder: Holder) -> None:
    try:
        async with store.write() as unit:
            await SqlLeases(unit.transaction).remove(holder.token)
    except (StoreUnavailable, StoreHeld) as error:
        _log.warning("lease_not_released", reason=str(error))
