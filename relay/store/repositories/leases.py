"""Who holds the lease: which process on which machine, and the table that says so."""

import os
import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from sqlalchemy import Row, bindparam, delete, select
from sqlalchemy.dialects.sqlite import insert

from relay.store.sqlite.transactions import Session
from relay.store.tables import lease

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


class SqlLeases:
    """The table `lease`, of one row at most."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def get(self) -> Holder | None:
        """Who holds it, alive or not."""
        row = await self._session.first(_GET, {})
        return None if row is None else Holder.of_row(row)

    async def put(self, holder: Holder) -> None:
        """It is `holder`'s from now on."""
        await self._session.later(
            _PUT,
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
        await self._session.later(_REMOVE, {"token": token})


_GET = select(lease)
_PUT = (
    insert(lease)
    .prefix_with("OR REPLACE")
    .values({column.name: bindparam(column.name) for column in lease.columns})
    .inline()
)
_REMOVE = delete(lease).where(lease.c.holder == bindparam("token"))


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
