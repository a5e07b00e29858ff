"""Several communities in one process, and several processes that share them.

Each tenant is a daemon of its own in this process (`app.Daemon`): with its own store, lease, accounts and pairs. What
is wrong with one stops that one alone; it is tried again when its file changes. On PostgreSQL each process takes its
share of the tenants, by how many processes live, and gives some back when another one comes; who serves one, its lease
decides. Twice a second it looks which have nobody.
"""

import asyncio
import os
import random
import secrets
import signal
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

from relay import app
from relay.config.settings import Settings, Stamp, WebSettings, stamp
from relay.config.store_url import names_postgresql
from relay.core.clock import Backoff, SystemClock, wait_at_most
from relay.core.operations.findings import Finding
from relay.core.ports import Clock
from relay.core.status.counters import Histogram, LimitStatus
from relay.core.status.report import DaemonStatus, Report
from relay.errors import (
    ConfigurationError,
    FatalError,
    Mistake,
    RelayError,
    StoreError,
    StoreHeld,
    StoreTooNew,
    ungrouped,
)
from relay.logs import TENANT, get_logger
from relay.memory import hurry, take_time
from relay.standby import serve_when_free
from relay.store.lease import Holder
from relay.web.server import StatusSource, WebServer, latest

_log = get_logger(__name__)

_LOOK_SECONDS = 0.5
_LOOK_SOON_SECONDS = 0.05
_ORPHAN_SECONDS = 3.0
"""A tenant that nobody takes for so long is taken by whoever sees it, whatever its share."""

_STARTS_AT_ONCE, _START_SECONDS = 16, 5.0
"""So many tenants start at a time, and each counts as starting for so long at most. A start takes up to a tenth of a
second of processor: two hundred at once would keep the leases of each other from being renewed in time. It mostly
waits. No more are begun with than can start: one that waits here for its turn would seem to be free."""

_SHUTDOWN_SECONDS, _LEAVE_SECONDS = 8.5, 0.5
"""How long the tenants may take to end, and then those that are broken off, and the store to take our leave."""

_HELD_SECONDS = 2.0
"""Until one that another process holds is tried again, where that cannot be looked up."""


class Workers(Protocol):
    """The processes that share the tenants; `store.postgresql.workers.Workers`. Every call may raise `StoreError`."""

    id: str

    async def beat(self, held: int) -> Mapping[str, int]:
        """Show that this process lives and serves so many tenants; how many each that lives serves."""
        ...

    async def holders(self, tenants: Collection[str]) -> Mapping[str, Holder | None]:
        """Who serves each of these tenants, None for nobody."""
        ...

    async def leave(self) -> None:
        """Count no longer."""
        ...


@dataclass(slots=True)
class Alone:
    """On SQLite there is one process: another one finds the stores held."""

    id: str

    async def beat(self, held: int) -> Mapping[str, int]:
        """See `Workers.beat`."""
        return {self.id: held}

    async def holders(self, tenants: Collection[str]) -> Mapping[str, Holder | None]:
        """See `Workers.holders`."""
        return dict.fromkeys(tenants)

    async def leave(self) -> None:
        """See `Workers.leave`."""


def workers_on(store_url: str) -> Workers:
    """The processes that share the tenants of this store, as this one sees them."""
    me = secrets.token_hex(8)
    if not names_postgresql(store_url):
        return Alone(me)
    from relay.store.postgresql.workers import Workers

    return Workers(url=store_url, id=me, who=f"process {os.getpid()} on {socket.gethostname()}")


@dataclass(frozen=True, slots=True)
class Decision:
    """Which tenants this process begins with, and which it leaves to another one."""

    take: tuple[str, ...] = ()
    give: str | None = None


def decide(me: str, workers: Mapping[str, int], mine: Collection[str], free: Mapping[str, float]) -> Decision:
    """What to do now. Pure. `free`: the tenants that nobody serves, and for how many seconds."""
    # Each that is free goes to who has the fewest then. All processes work that out by themselves, and mostly alike;
    # where they do not, the lease decides.
    held, quota = dict(workers), 0
    for _ in free:
        emptiest = min(held, key=lambda worker: (held[worker], worker))
        held[emptiest] += 1
        quota += emptiest == me
    preferred = sorted(free, key=lambda tenant: _order(me, workers, tenant))
    take = preferred[:quota] + [tenant for tenant in preferred[quota:] if free[tenant] >= _ORPHAN_SECONDS]
    # One gives at a time, so that not more than one is without anybody.
    fullest = max(workers, key=lambda worker: (workers[worker], worker))
    if not free and fullest == me and len(mine) > min(workers.values()) + 1:
        return Decision(give=max(mine))
    return Decision(take=tuple(take))


def _order(me: str, workers: Iterable[str], tenant: str) -> tuple[int, bytes]:
    """By which processes that look at the same moment begin with different ones: each tenant has an order of them."""

    def draw(worker: str) -> bytes:
        return blake2b(f"{worker} {tenant}".encode(), digest_size=8).digest()

    return sum(draw(worker) < draw(me) for worker in workers), draw(me)


@dataclass(slots=True, kw_only=True, eq=False)
class Tenant:
    """One community, as this process sees it."""

    name: str
    path: Path
    task: asyncio.Task[None] | None = None
    daemon: app.Daemon | None = None
    # Which Discord it speaks to, while it is served here.
    api_url: str = ""
    # Who serves it, where that is another process.
    elsewhere: str = ""
    # What is wrong with it; "" if nothing is.
    problem: str = ""
    # Its file as it was when that was found: it is tried again when the file has changed. None: at `again`.
    refused: Stamp = None
    again: float = 0.0
    # Since when nobody has served it (monotonic).
    free_since: float | None = None
    # Whether this process ends it: that takes seconds, and is asked for once.
    stopping: bool = False
    backoff: Backoff

    @property
    def runs(self) -> bool:
        """Whether this process serves it, or tries to."""
        return self.task is not None and not self.task.done()

    def stop(self) -> None:
        """Finish what is in flight, and leave it to others. Once: a start that is broken off gives its lease back."""
        if self.stopping:
            return
        self.stopping = True
        if self.daemon is not None:
            self.daemon.stop()
        elif self.task is not None:
            self.task.cancel()


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Tenants:
    """All communities of one configuration. A `StatusSource` of the web server."""

    # The tenants' files, by their names.
    files: Callable[[], Mapping[str, Path]]
    # A tenant's settings. Raises `ConfigurationError`.
    load: Callable[[str], Settings]
    # Told of the secrets of each, which the log must hide, and of what finds the names of channels.
    hide: Callable[[Iterable[str]], None]
    name_channels: Callable[[Callable[[str], str | None], str], None]
    workers: Workers
    web: WebSettings
    # Told that this was told to end.
    on_stop: Callable[[], None] = lambda: None
    clock: Clock = field(default_factory=SystemClock)
    _tenants: dict[str, Tenant] = field(init=False, default_factory=dict)
    _stopped: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _lost: int = field(init=False, default=0)
    # Those that are starting.
    _starts: set[asyncio.Task[None]] = field(init=False, default_factory=set)
    # Whether others wait for their turn; and set where one of them may have it, as another one has started.
    _others_wait: bool = field(init=False, default=False)
    _next: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. SIGHUP reads all files again."""
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._read_again,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        if not self.files():
            remedy = "write a file for each into the folder that tenants in relay.toml names, like name.toml"
            _log.warning("there are no tenants, so nothing is mirrored", remedy=remedy)
        web = WebServer(status=self, settings=self.web, tenants=self.sources)
        page = asyncio.create_task(serve_when_free(web, self.clock), name="web")
        try:
            with ungrouped(RelayError):
                async with asyncio.TaskGroup() as group:
                    looks = group.create_task(self._look_on(), name="who serves what")
                    await self._stopped.wait()
                    looks.cancel()  # a server that is silent would keep it waiting
            _log.info("stopping", tenants=len(self._running()))
        finally:
            page.cancel()
            await self._end()
            await asyncio.wait((page,))

    def _stop(self) -> None:
        self.on_stop()
        self._stopped.set()

    async def _end(self) -> None:
        for tenant in self._tenants.values():
            tenant.stop()
        tasks = [tenant.task for tenant in self._tenants.values() if tenant.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_SHUTDOWN_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_LEAVE_SECONDS)
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self.workers.leave()
        except (StoreError, TimeoutError) as error:
            reason = error.reason if isinstance(error, StoreError) else "the store does not answer"
            _log.warning("other processes are not told that this one has ended", reason=reason)

    def _read_again(self) -> None:
        for tenant in self._tenants.values():
            tenant.refused, tenant.again = None, 0.0
            if tenant.daemon is not None:
                tenant.daemon.read_again()

    def _running(self) -> list[Tenant]:
        return [tenant for tenant in self._tenants.values() if tenant.runs]

    # --- Who serves what ----------------------------------------------------------------------------------

    async def _look_on(self) -> None:
        while True:
            await self._look()
            await wait_at_most(self._next, _LOOK_SECONDS)
            if self._next.is_set():
                await self.clock.sleep(_LOOK_SOON_SECONDS)  # Mostly several start at a time.
            self._next.clear()

    async def _look(self) -> None:
        """Look who serves what, begin with what is ours to serve, and give what others have too little of."""
        self._find()
        mine = {tenant.name for tenant in self._running()}
        try:
            # In this order: a tenant that another one has just taken then counts among those that it serves.
            # Of ours, too: to ask the same each time costs less than to ask for fewer.
            holders = await self.workers.holders(self._tenants.keys())
            workers = {**await self.workers.beat(len(mine)), self.workers.id: len(mine)}
            now = self.clock.monotonic()
            others = {name: holder for name, holder in holders.items() if name not in mine}
            free = {name: long for name, holder in others.items() if (long := self._free(name, holder, now)) >= 0}
            decision = decide(self.workers.id, workers, mine, free)
            take = decision.take[: _STARTS_AT_ONCE - len(self._starts)]
            self._others_wait = len(take) < len(decision.take)
            if take:
                # Before the leases say so: who still sees the old number would give up one more of its own.
                await self.workers.beat(len(mine) + len(take))
        except StoreError as error:
            self._lost += 1
            _log.warning("it is not known who serves which tenant", reason=error.reason, tries=self._lost)
            return
        self._lost = 0
        for name in take:
            self._begin(self._tenants[name])
        if decision.give is not None and not self._tenants[decision.give].stopping:
            _log.info("left to another process", tenant=decision.give, workers=len(workers))
            self._tenants[decision.give].stop()

    def _find(self) -> None:
        """Follow the folder."""
        files = self.files()
        for name in self._tenants.keys() - files.keys():
            tenant = self._tenants[name]
            if tenant.runs:
                tenant.stop()
            else:
                del self._tenants[name]
                _log.info("tenant removed", tenant=name)
        for name in files.keys() - self._tenants.keys():
            backoff = Backoff(random.Random(), first=2.0)
            self._tenants[name] = Tenant(name=name, path=files[name], backoff=backoff)

    def _free(self, name: str, holder: Holder | None, now: float) -> float:
        """For how many seconds a tenant could have been served by this process; -1 if it cannot be."""
        tenant = self._tenants[name]
        tenant.elsewhere = "" if holder is None else f"process {holder.pid} on {holder.host}"
        if tenant.refused is not None and stamp(tenant.path) != tenant.refused:
            tenant.refused = None
        if holder is not None:
            tenant.problem, tenant.free_since = "", None
            return -1.0
        if tenant.refused is not None or now < tenant.again:
            return -1.0
        if tenant.free_since is None:
            tenant.free_since = now
        return now - tenant.free_since

    # --- Serving one --------------------------------------------------------------------------------------

    def _begin(self, tenant: Tenant) -> None:
        tenant.free_since, tenant.stopping = None, False
        ended = asyncio.Event()
        tenant.task = asyncio.create_task(self._serve(tenant), name=f"tenant {tenant.name}")
        tenant.task.add_done_callback(lambda _: ended.set())  # also where it was stopped before it had begun
        hurry()
        starting = asyncio.create_task(self._until_started(tenant, ended), name=f"start of tenant {tenant.name}")
        self._starts.add(starting)
        starting.add_done_callback(self._started)

    def _started(self, starting: asyncio.Task[None]) -> None:
        self._starts.discard(starting)
        if not self._starts:
            take_time()
        if self._others_wait:
            self._next.set()

    async def _serve(self, tenant: Tenant) -> None:
        """Serve a tenant until it is stopped. Whatever is wrong with it stays with it."""
        TENANT.set(tenant.name)
        seen = stamp(tenant.path)
        try:
            settings = await asyncio.to_thread(self.load, tenant.name)
            self._check(tenant, settings)
            self.hide(settings.secrets())
            tenant.problem = ""
            tenant.daemon = app.Daemon(
                settings=settings,
                saved=seen,
                config=tenant.path,
                reload=partial(self.load, tenant.name),
                name_channels=lambda name_of: self.name_channels(name_of, tenant.name),
                is_tenant=True,
            )
            with ungrouped(RelayError):
                await tenant.daemon.serve()
            tenant.backoff.reset()
        except ConfigurationError as error:
            for mistake in error.mistakes:
                _log.error("configuration refused; the tenant is not served", mistake=str(mistake))
            tenant.problem, tenant.refused = str(error.mistakes[0]), seen
        except (FatalError, StoreTooNew) as error:
            _log.error("the tenant is not served until its file changes", reason=error.reason, remedy=error.remedy)
            tenant.problem, tenant.refused = str(error), seen
        except StoreHeld as error:
            _log.info("another process serves the tenant", reason=error.reason)
            tenant.again = self.clock.monotonic() + _HELD_SECONDS
        except RelayError as error:
            self._failed(tenant, str(error))
        except Exception as error:  # noqa: BLE001 - the top of a tenant: others go on
            _log.exception("a bug ended the tenant", error)
            self._failed(tenant, f"a bug ended it ({type(error).__name__})")
        finally:
            tenant.daemon, tenant.api_url = None, ""

    async def _until_started(self, tenant: Tenant, ended: asyncio.Event) -> None:
        """Until both sides are ready, or it has ended, or that takes too long: then the next one may start."""
        until = self.clock.monotonic() + _START_SECONDS
        while not ended.is_set() and self.clock.monotonic() < until:
            status = None if tenant.daemon is None else tenant.daemon.status
            if status is not None and all(side.state == "ready" for side in status.sides().values()):
                return
            await wait_at_most(ended, _LOOK_SOON_SECONDS)

    def _failed(self, tenant: Tenant, reason: str) -> None:
        seconds = tenant.backoff.next()
        _log.error("the tenant ended; it is started again", reason=reason, seconds=round(seconds, 1))
        tenant.problem, tenant.again = reason, self.clock.monotonic() + seconds

    def _check(self, tenant: Tenant, settings: Settings) -> None:
        """Raise `ConfigurationError` for what cannot be served beside the others."""
        tenant.api_url = settings.discord.api_url
        other = next((one for one in self._running() if one.api_url not in {"", tenant.api_url}), None)
        if other is not None:
            # discord.py knows one only.
            what, remedy = f"another address than that of tenant {other.name}", "serve it by a process of its own"
            raise ConfigurationError((Mistake(f"{tenant.path}: [discord] api_url", what, remedy),))

    # --- What is shown ------------------------------------------------------------------------------------

    def sources(self) -> Mapping[str, StatusSource | None]:
        """The status of each tenant that this process serves; None where one cannot be served."""
        found: dict[str, StatusSource | None] = {}
        for name, tenant in self._tenants.items():
            if tenant.problem:
                found[name] = None
            elif tenant.daemon is not None and tenant.daemon.status is not None:
                found[name] = tenant.daemon.status
        return found

    async def report(self) -> Report:
        """All tenants that this process serves, in one report."""
        there = {name: one for name, one in self.sources().items() if one is not None}
        return self._together(dict(zip(there, await asyncio.gather(*map(latest, there.values())), strict=True)))

    def last_report(self) -> Report:
        """Without I/O."""
        return self._together({name: one.last_report() for name, one in self.sources().items() if one is not None})

    def glance(self) -> Report:
        """Without the pairs."""
        return self._together({name: one.glance() for name, one in self.sources().items() if one is not None})

    def _together(self, reports: Mapping[str, Report]) -> Report:
        return Report(
            pairs=tuple(
                replace(pair, name=f"{name}/{pair.name}") for name, one in reports.items() for pair in one.pairs
            ),
            sides={f"{name}: {side}": how for name, one in reports.items() for side, how in one.sides.items()},
            taken_at=self.clock.now(),
            daemon=DaemonStatus(running=True),
            undeclared=tuple(lane for one in reports.values() for lane in one.undeclared),
            store_problem=next((one.store_problem for one in reports.values() if one.store_problem), None),
            findings=tuple(self._findings(reports)),
        )

    def _findings(self, reports: Mapping[str, Report]) -> list[Finding]:
        found = []
        for name, tenant in sorted(self._tenants.items()):
            if tenant.problem:
                found.append(Finding(f"tenant {name}", "wrong", f"it is not served: {tenant.problem}"))
            elif tenant.elsewhere and not tenant.runs:
                found.append(Finding(f"tenant {name}", "note", f"{tenant.elsewhere} serves it"))
            elif name not in reports:
                found.append(Finding(f"tenant {name}", "note", "it is starting, or nobody serves it yet"))
            else:
                of_tenant = (replace(one, subject=f"tenant {name}, {one.subject}") for one in reports[name].findings)
                found.extend(of_tenant)
        return found

    def delivery_seconds(self) -> Mapping[str, Histogram]:
        """Each tenant has its own."""
        return {}

    def limits(self) -> Mapping[str, LimitStatus]:
        """Each tenant has its own."""
        return {}
