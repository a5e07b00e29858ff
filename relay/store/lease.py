"""One daemon per store: only the holder of the lease writes to the store and sends messages.

The holder locks a file beside the store (`lock_file.py`), and the store has a row that describes it. A holder that is
alive keeps the lease, even if it is stopped, and whatever any clock says. On the same machine this is seen by the lock
and by the process ID *with* the time at which the process started (process IDs are used again). On another machine
neither can be seen. Such a holder is watched: if it shows no sign of life for `LENGTH`, measured by a monotonic clock,
it has lost the lease.

A holder that was only stopped may continue without knowing that it lost the lease. So every write transaction first
checks the row (`SqlStore.fence`). That takes a few microseconds, under a lock that is needed anyway.
"""

import asyncio
import os
import secrets
import socket
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from sqlalchemy import Connection, Row, bindparam, delete, inspect, select

from relay.core.claims.register import Claim
from relay.core.ports import Clock
from relay.errors import StoreHeld, StoreUnavailable
from relay.logs import get_logger
from relay.store.lock_file import LockFile
from relay.store.portable import insert
from relay.store.sqlite.engine import translated
from relay.store.tables import lease as lease_table
from relay.store.transaction import Transaction
from relay.store.unit_of_work import SqlStore

LENGTH = timedelta(seconds=30)
RENEW_EVERY = 5.0  # seconds
WATCH_EVERY = 1.0  # seconds
_MOST_LOOKS = 30  # at a lock whose holder is not known

ProcessState = Literal["alive", "ended", "unknown"]

_log = get_logger(__name__)
_MOST_PROCESSES = 1 << 31
_ENDED_STATES = frozenset("ZXx")  # zombie, dead: proc_pid_stat(5)


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds the lease."""

    # Unique: another one each time that a process takes the lease.
    token: str
    host: str
    # 0 if the row is damaged.
    pid: int
    # Tells the process from all others with its ID: the machine's boot, the PID namespace and the tick at which the
    # process started. Empty if the system does not know these.
    started: str
    since: datetime
    # On PostgreSQL the last renewal. On SQLite the same as `since`: there the lock file shows that the holder lives.
    renewed_at: datetime

    @classmethod
    def this_process(cls, token: str, now: datetime) -> Self:
        """This process as a holder."""
        pid = os.getpid()
        return cls(token, socket.gethostname(), pid, _started(pid), since=now, renewed_at=now)

    @classmethod
    def of_row(cls, row: Row[Any]) -> Self:
        """The holder in a row of the table."""
        pid = row.pid if 0 < row.pid < _MOST_PROCESSES else 0
        return cls(row.holder, row.host, pid, row.started, row.since, row.renewed_at)

    def on_this_kernel(self) -> bool:
        """Whether the process runs or ran on this machine since its last boot, in any container."""
        here = _surroundings()
        if here is None or not self.started:
            return self.host == socket.gethostname()
        return self.started.split(" ")[0] == here[0]

    def process_state(self) -> ProcessState:
        """Whether the process is alive, as far as this process can see."""
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
    """The table `lease`, which has at most one row."""

    transaction: Transaction

    async def get(self) -> Holder | None:
        """The holder, alive or not."""
        row = await self.transaction.first(_GET_LEASE, {})
        return None if row is None else Holder.of_row(row)

    async def put(self, holder: Holder) -> None:
        """Make `holder` the holder."""
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
        """Remove the row, if the holder has this token."""
        await self.transaction.defer(_REMOVE_LEASE, {"token": token})


_GET_LEASE = select(lease_table)
_PUT_LEASE = (
    insert(lease_table)
    .values({column.name: bindparam(column.name) for column in lease_table.columns})
    .or_replace()
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


@cache
def _surroundings() -> tuple[str, str] | None:
    """The machine's boot ID and our PID namespace. None if the system has no such things (not Linux).

    Neither changes as long as this process lives.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # "pid:[4026531836]": namespaces(7)
        return boot, os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - not a path that Path would keep
    except OSError:
        return None


def _started(pid: int) -> str:
    """`Holder.started` of a running process. Empty if it does not run, or if the system does not know."""
    here = _surroundings()
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # the name in front may contain anything; then comes field 3
    if here is None or fields[0] in _ENDED_STATES:
        return ""
    return f"{here[0]} {here[1]} {fields[19]}"  # field 22: start time in ticks since boot


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Lease:
    """The right to write and to send."""

    store: SqlStore
    clock: Clock
    lock: LockFile
    # This process.
    holder: Holder
    # See `HeldLease.before`.
    before: datetime | None
    _renewed: float = field(init=False)

    def __post_init__(self) -> None:
        self._renewed = self.clock.monotonic()

    def valid(self) -> bool:
        """Whether the lease is certainly still ours, by the monotonic clock. No I/O."""
        return self.clock.monotonic() - self._renewed < LENGTH.total_seconds()

    async def keep(self) -> None:
        """Renew the lease until cancelled; `hold` runs this. Raises `StoreHeld` when the lease is lost.

        Writes nothing to the store. Continues while the store is unavailable: nobody else can take the lease then.
        """
        tries = 0
        while True:
            await self.clock.sleep(RENEW_EVERY)
            try:
                asked = self.clock.monotonic()
                async with self.store.write() as unit:
                    await SqlLeases(unit.transaction).get()  # every write transaction begins with the fence
                with translated(self.lock.path):
                    self.lock.beat(self.holder.token)
                self._renewed, tries = asked, 0
            except StoreUnavailable as error:
                tries += 1
                _log.warning("the lease on the store was not renewed", reason=str(error), tries=tries)

    def fence(self, connection: sqlite3.Connection) -> None:
        """Raise `StoreHeld` unless the lease is ours. One of the first steps of each write transaction."""
        row = connection.execute("SELECT holder, host, pid FROM lease").fetchone()
        if row is None or row[0] != self.holder.token:
            now = "nobody has it" if row is None else f"process {row[2]} on {row[1]} has it"
            raise StoreHeld(self.store.path, f"this daemon has lost its lease; {now}", "run one daemon only")


class HeldLease(Protocol):
    """A lease that this process holds."""

    @property
    def holder(self) -> Holder:
        """This process."""
        ...

    @property
    def before(self) -> datetime | None:
        """When the holder before was last seen; see `last_seen`."""
        ...

    def valid(self) -> bool:
        """Whether it is certainly still ours. No I/O."""
        ...


def hold(store: SqlStore, clock: Clock) -> AbstractAsyncContextManager[HeldLease]:
    """Take the lease, renew it while the block runs, and give it back at the end. Raises `StoreHeld`.

    If the lease is lost meanwhile, the block is cancelled and `StoreHeld` is raised.
    """
    if store.on_postgresql:
        from relay.store.postgresql.lease import hold

        return hold(store, clock)
    return _hold_file(store, clock)


async def is_held(store: SqlStore) -> bool:
    """Whether a daemon runs on the store, as far as one look can tell. Raises `StoreError`."""
    if store.on_postgresql:
        from relay.store.postgresql.lease import is_held

        return await is_held(store)
    return await holder_of(store) is not None


async def holder_of(store: SqlStore) -> Holder | None:
    """The daemon that runs on the store, as far as one look can tell. Raises `StoreError`."""
    if store.on_postgresql:
        from relay.store.postgresql.lease import holder_of

        return await holder_of(store)
    async with store.read() as unit:
        holder = await SqlLeases(unit.transaction).get()
    return holder if is_running(holder, store.path) else None


async def last_seen(store: SqlStore) -> datetime | None:
    """When a holder of the store last showed that it was alive. None: that is not known. Raises `StoreError`."""
    if store.on_postgresql:
        from relay.store.postgresql.lease import last_seen

        return await last_seen(store)
    beat = LockFile(store.path).last_beat()
    return datetime.fromtimestamp(beat / 1e9, UTC) if beat else None


# --- Standing by ------------------------------------------------------------------------------------------


@asynccontextmanager
async def standing_by(store: SqlStore) -> AsyncIterator[Callable[[], Awaitable[Holder | None]]]:
    """Let it be seen that this process waits for the lease. Gives what looks who has it; it may raise `StoreError`.

    On SQLite one that waits is seen, whatever the number.
    """
    who = f"process {os.getpid()} on {socket.gethostname()}"
    if store.on_postgresql:
        from relay.store.postgresql.lease import standing_by

        async with standing_by(store, who) as look:
            yield look
        return
    with _standby_lock(store) as lock:

        async def look() -> Holder | None:
            with translated(store.path):
                if lock.take():
                    lock.sign(who)
            return await holder_of(store)

        yield look


async def standbys(store: SqlStore) -> Sequence[str]:
    """The processes that wait for the lease, in words. Raises `StoreError`."""
    if store.on_postgresql:
        from relay.store.postgresql.lease import standbys

        return await standbys(store)
    lock = _standby_lock(store)
    return [lock.signature()] if lock.is_taken() else []


def _standby_lock(store: SqlStore) -> LockFile:
    return LockFile(store.path.with_name(f"{store.path.name}-standby"))


@asynccontextmanager
async def _hold_file(store: SqlStore, clock: Clock) -> AsyncIterator[Lease]:
    with LockFile(store.path) as lock:
        store.fence(None)
        before = await last_seen(store)
        holder = await _acquire(store, clock, lock)
        lease = Lease(store=store, clock=clock, lock=lock, holder=holder, before=before)
        store.fence(lease.fence)
        renewal = asyncio.create_task(lease.keep(), name="lease")
        try:
            async with cancelled_by(renewal):
                yield lease
        finally:
            renewal.cancel()
            await asyncio.wait((renewal,))
            await _release(store, lease.holder)


@asynccontextmanager
async def cancelled_by(task: asyncio.Task[None]) -> AsyncIterator[None]:
    """Cancel the block when `task` fails, and raise its error, as `asyncio.timeout` raises `TimeoutError`."""
    owner = asyncio.current_task()
    if owner is None:
        raise RuntimeError("only a task can hold a lease")
    before = owner.cancelling()
    inside = True

    def ended(_: asyncio.Task[None]) -> None:
        # The loop may have scheduled this call before the block ended.
        if inside and not task.cancelled() and task.exception() is not None:
            owner.cancel()

    task.add_done_callback(ended)
    try:
        yield
    except asyncio.CancelledError:
        if task.done() and not task.cancelled() and owner.uncancel() <= before:
            task.result()
        raise
    finally:
        inside = False
        task.remove_done_callback(ended)


class Watch:
    """Finds out, in several looks, whether the holder of a lease is alive."""

    def __init__(self, lock: LockFile, monotonic: Callable[[], float]) -> None:
        self._lock = lock
        self._monotonic = monotonic
        self._since = monotonic()
        self._first: tuple[object, ...] | None = None
        self._refused = 0

    def look(self, holder: Holder | None) -> Literal["free", "held", "wait"]:
        """Whether the lease can be taken. `wait`: look again in a second. Takes the lock. Raises `OSError`."""
        locked = self._lock.take()
        state = "ended" if holder is None else holder.process_state()
        if state == "alive":
            return "held"
        if not locked:
            # A process without a row holds the lock: it is starting, migrating, or asking for the status.
            self._refused += 1
            return "wait" if self._refused < (2 if state == "unknown" else _MOST_LOOKS) else "held"
        if holder is None or state == "ended":
            return "free"
        if holder.on_this_kernel() and self._lock.signed_by(holder.token):
            return "free"  # it locked the file while it lived
        sign = (holder.token, holder.renewed_at, self._lock.last_beat())
        if self._first is None:
            self._first = sign
            _log.info(
                "another process may hold the store: watching it",
                host=holder.host,
                pid=holder.pid,
                since=holder.since.isoformat(),
            )
        if sign != self._first:
            return "held"
        return "free" if self._monotonic() - self._since >= LENGTH.total_seconds() else "wait"


def watch_holder(connection: Connection, path: Path, watch: Watch) -> bool:
    """Whether no daemon uses the store. False: look again in a second. Raises `StoreHeld`. For migrations."""
    row = None
    if inspect(connection).has_table(lease_table.name):
        row = connection.execute(select(lease_table)).first()
    holder = None if row is None else Holder.of_row(row)
    verdict = watch.look(holder)
    if verdict == "held":
        raise held(path, holder)
    return verdict == "free"


def claim_of(holder: Holder, store: SqlStore) -> Claim:
    """How this process, the holder of `store`, is told from relays with other stores."""
    boot = holder.started.partition(" ")[0]
    return Claim(store.id, place_of(store), holder.host, boot, holder.pid, holder.started, holder.since.isoformat())


def place_of(store: SqlStore) -> str:
    """Where the store lies: its file's number and its file system's, or which database it is. "": that is not known.

    The number alone may be that of a copy, too: a new file system counts from the start, a snapshot keeps all numbers.
    """
    if store.database:
        return store.database
    with suppress(OSError):
        return f"{store.path.stat().st_ino} on {os.statvfs(store.path).f_fsid}"
    return ""


def has_ended(claim: Claim) -> bool:
    """Whether the process of a claim ran on this machine and does not run any more, as far as this process can see.

    Only since the machine's last boot: before, it may as well be another machine of the same name.
    """
    here = _surroundings()
    if here is None or not claim.started or claim.boot != here[0]:
        return False
    now = datetime.now(UTC)
    holder = Holder("", claim.host, claim.pid, claim.started, since=now, renewed_at=now)
    return holder.process_state() == "ended"


def held(path: Path | str, holder: Holder | None) -> StoreHeld:
    """The error that names `holder`."""
    who = "another process, which is starting," if holder is None else f"process {holder.pid} on {holder.host}"
    since = "" if holder is None else f" since {holder.since:%Y-%m-%d %H:%M:%S} UTC"
    return StoreHeld(path, f"{who} holds it{since}", "stop that daemon first, or give this one a store of its own")


def is_running(holder: Holder | None, path: Path) -> bool:
    """Whether a daemon runs on the store at `path`, as far as one look can tell."""
    lock = LockFile(path)
    if holder is None:
        return False
    signed = lock.signed_by(holder.token)
    if signed and lock.is_taken():
        # Asked first: a service with a /proc of its own may have been told another boot ID than we are.
        return True
    state = holder.process_state()
    if state == "unknown" and holder.on_this_kernel() and signed:
        return False
    return state != "ended"


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
                    _log.warning(
                        "store taken over from a process that has ended",
                        host=other.host,
                        pid=other.pid,
                        since=other.since.isoformat(),
                    )
                return mine
        if verdict == "held":
            raise held(store.path, other)
        await clock.sleep(WATCH_EVERY)


async def _release(store: SqlStore, holder: Holder) -> None:
    try:
        async with store.write() as unit:
            await SqlLeases(unit.transaction).remove(holder.token)
    except (StoreUnavailable, StoreHeld) as error:
        _log.warning("the lease on the store was not given back", reason=str(error))
