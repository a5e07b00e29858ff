"""Several processes on one PostgreSQL: one serves, the others stand by. Whoever serves is struck, in several ways."""

import asyncio
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from relay.store.postgresql.connections import ERRORS
from tests.chaos.daemon_runs import DaemonRuns, Death
from tests.chaos.database import Database
from tests.support.cut_line import CutLine, cut_line
from tests.support.stack import Daemon

_WATCHED_EVERY = 0.05
_LEASE = 5.0
"""Seconds after which another process serves, whatever has become of the one that did."""
_WAYS = {"killed": 6, "all killed": 1, "stopped": 3, "cut off": 2, "disconnected": 1, "answers lost": 1}
_ENDED_WITHOUT_DATABASE = 1


@dataclass(slots=True, kw_only=True)
class Processes(DaemonRuns):
    """As `DaemonRuns`, with a process for each of `lines` that its supervisor starts again whenever it has ended.

    `daemon` is the one that serves, as the lease says, or did last.
    """

    database: Database
    # The way of each process to the database.
    lines: list[CutLine]
    folders: list[Path]
    rng: random.Random
    _all: list[Daemon] = field(init=False, default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(init=False, default_factory=list)
    _stopping: bool = field(init=False, default=False)
    _serving: int = field(init=False, default=0)
    _asleep: set[int] = field(init=False, default_factory=set)
    # Those that were told to end.
    _told: set[int] = field(init=False, default_factory=set)
    _mending: set[asyncio.Task[None]] = field(init=False, default_factory=set)

    async def start(self) -> Daemon:
        """Begin all lives; a supervisor each keeps them going until `stop`."""
        if not self._tasks:
            self._stopping = False
            self._all = [self._process(number) for number in range(len(self.lines))]
            self.daemon = self._all[0]
            self._tasks = [
                asyncio.create_task(self._supervise(number), name=f"supervisor {number}")
                for number in range(len(self._all))
            ]
            self._tasks.append(asyncio.create_task(self._watch(), name="who serves"))
            for task in self._tasks:
                task.add_done_callback(self._failed)
        assert self.daemon is not None
        return self.daemon

    def _process(self, number: int) -> Daemon:
        daemon = Daemon(self.config, self.folder / f"relay-{number}.log")
        url = self.database.server.url("postgres").replace(str(self.database.server.folder), str(self.folders[number]))
        daemon.environment = {"RELAY_STORE__URL": url}
        return daemon

    async def live(self, death: Death, waits: Callable[[], object], provoke: Callable[[str], object]) -> None:
        """One blow: whoever serves then is struck."""
        await self.start()
        self._dead.clear()
        self._skipped = 0
        never = asyncio.create_task(asyncio.Event().wait(), name="no end")
        try:
            if death.gently:
                waits()
                await self._wait(never, death.seconds)
                await self._terminate_serving()
                return
            if death.once_ready:
                await self._until_served(self.until_it_is_ready)
            waits()
            if death.point:
                self._armed = death
                await self._wait_for(death.point, never, provoke)
            else:
                await self._wait(never, death.seconds)
            self._armed = None
            if not self._dead.is_set():
                self._kill("at random" if not death.point else f"in vain for {death.point}")
        finally:
            self._armed = None
            never.cancel()

    async def until_ready(self) -> None:
        """Wait until one of them serves."""
        await self._until_served(120.0)

    async def freeze(self, seconds: float) -> None:
        """See `DaemonRuns.freeze`. A blow may have stopped it already: it is left alone then."""
        if self.daemon is not None and self.daemon.running and self.daemon.pid not in self._asleep:
            await self._sleep(self.daemon, seconds)

    async def stop(self) -> None:
        """All end in good order."""
        await self._mended()
        self._stopping = True
        self._dead.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for daemon in self._all:
            await self._terminate(daemon)

    async def end(self) -> None:
        """Leave nothing running."""
        self._stopping = True
        for task in [*self._tasks, *self._mending]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._mending, return_exceptions=True)
        for daemon in self._all:
            if daemon.running:
                await daemon.kill()

    # --- Parts --------------------------------------------------------------------------------------------

    def _failed(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.problems.append(f"{task.get_name()}: {error!r}")

    async def _supervise(self, number: int) -> None:
        daemon = self._all[number]
        while not self._stopping:
            await daemon.start("--standby", ready=False)
            pid = daemon.pid
            self.trace(f"PROCESS {number} begins: {pid}")
            status = await daemon.wait()
            # One that has only just begun listens to no signal yet.
            told = status == -signal.SIGTERM and pid in self._told
            if status == -signal.SIGKILL or status == 0 or told:
                self.trace(f"PROCESS {number} has ended with {status}")
            elif status == _ENDED_WITHOUT_DATABASE and "this is a bug" not in daemon.log():
                self.trace(f"PROCESS {number} ended by itself: no database")
            else:
                self.problems.append(f"process {number} ended by itself with {status}")
            await asyncio.sleep(self.rng.choice((0.2, 0.5, 1.0, 4.0)))

    async def _watch(self) -> None:
        """Follow the lease: who has it has to be known at once when it is to be struck."""
        connection: asyncpg.Connection | None = None
        while True:
            try:
                if connection is None or connection.is_closed():
                    connection = await asyncpg.connect(self.database.url, timeout=2, command_timeout=2)
                holder = await connection.fetchval("SELECT pid FROM lease")
            except ERRORS:
                holder = None
            serving = next((each for each in self._all if each.running and each.pid == holder), None)
            if serving is not None and serving.pid != self._serving:
                self._number += 1
                self.daemon, self._serving = serving, serving.pid
                self.trace(f"SERVES {serving.pid}")
            await asyncio.sleep(_WATCHED_EVERY)

    async def _until_served(self, patience: float) -> None:
        deadline = asyncio.get_running_loop().time() + patience
        while asyncio.get_running_loop().time() < deadline:
            with suppress(AssertionError, OSError):
                if self.daemon is not None and self.daemon.running and self.daemon.pid not in self._asleep:
                    async with asyncio.timeout(2):
                        if await self.daemon.ready():
                            return
            await asyncio.sleep(0.1)

    def _kill(self, why: str) -> bool:
        """Strike whoever serves; whether that was death."""
        daemon = self.daemon
        if daemon is None or not daemon.running or daemon.pid in self._asleep or self._dead.is_set():
            return False
        self._dead.set()
        way = self.rng.choices(list(_WAYS), list(_WAYS.values()))[0]
        self.happened_to[f"process {way}"] += 1
        self.trace(f"BLOW {way} {daemon.pid} {why}")
        line = self.lines[self._all.index(daemon)]
        match way:
            case "killed" | "all killed":
                for each in self._all if way == "all killed" else [daemon]:
                    if each.running:
                        os.kill(each.pid, signal.SIGKILL)
                        self.kills += 1
                self.killed_at[why.split(" +", maxsplit=1)[0]] += 1
                return True
            case "stopped":
                os.kill(daemon.pid, signal.SIGSTOP)  # at once, and not when a task has its turn
                self._mend(self._sleep(daemon, self._beyond_the_lease()))
            case "cut off":
                line.passes.clear()
                self._mend(self._join(line, self._beyond_the_lease()))
            case "disconnected":
                line.hang_up()
            case "answers lost":
                line.answers_lost += 1
        return False

    def _beyond_the_lease(self) -> float:
        return self.rng.choice((self.rng.uniform(0.5, _LEASE), self.rng.uniform(_LEASE, 2 * _LEASE)))

    def _mend(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._mending.add(task)
        task.add_done_callback(self._mending.discard)

    async def _sleep(self, daemon: Daemon, seconds: float) -> None:
        pid = daemon.pid
        self._asleep.add(pid)
        try:
            with suppress(ProcessLookupError):
                daemon.send_signal(signal.SIGSTOP)
                await asyncio.sleep(seconds)
        finally:
            self._asleep.discard(pid)
            if daemon.running and daemon.pid == pid:
                daemon.send_signal(signal.SIGCONT)
                self.trace(f"CONTINUED {pid}")

    async def _join(self, line: CutLine, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            if self.rng.random() < 0.5:
                line.hang_up()
            line.passes.set()
            self.trace("JOINED again")

    async def _mended(self) -> None:
        """Wait until every process goes on and has its way to the database."""
        while self._mending:
            await asyncio.wait(tuple(self._mending))

    async def _terminate_serving(self) -> None:
        await self._mended()
        daemon = self.daemon
        if daemon is not None and daemon.running:
            self.trace(f"SIGTERM {daemon.pid}")
            self._told.add(daemon.pid)
            daemon.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(20):
                    await daemon.wait()
                    return
            self.problems.append(f"process {daemon.pid} did not end within 20 s of SIGTERM")


@asynccontextmanager
async def lines_to(database: Database, number: int) -> AsyncIterator[tuple[list[CutLine], list[Path]]]:
    """A line to the database for each of so many processes, and the folders of their sockets."""
    folders = [database.server.folder.with_name(f"{database.server.folder.name}-{each}") for each in range(number)]
    async with AsyncExitStack() as exits:
        lines = []
        for folder in folders:
            folder.mkdir()
            exits.callback(shutil.rmtree, folder, ignore_errors=True)
            lines.append(await exits.enter_async_context(cut_line(database.server.folder, folder)))
        yield lines, folders
