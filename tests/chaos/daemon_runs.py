"""The daemon's runs: started, killed at a chosen moment, started again."""

import asyncio
import itertools
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay.sandbox.world.dispatch import OMNISCIENT, Dispatch
from tests.support.stack import Daemon

# Between the send and the record, and everywhere before and after: what happens where the daemon cannot see it yet.
POINTS = (
    "discord copy posted",
    "discord copy edited",
    "discord copy deleted",
    "matrix send asked",
    "matrix send committed",
    "matrix redact committed",
    "matrix upload committed",
    "matrix sync committed",
    "somebody wrote on discord",
)
_UNRECORDED = frozenset(point for point in POINTS if point.endswith(("posted", "edited", "deleted"))) | {
    "matrix send committed",
    "matrix redact committed",
    "matrix upload committed",
}
"""The platform has done what the daemon asked for, and the daemon has not heard of it."""
_FREQUENT = frozenset(
    {"discord copy posted", "matrix send asked", "matrix send committed", "somebody wrote on discord"}
)
OFFSETS = (0, 0, 0, 1, 2, 3, 5, 8, 12, 20, 40)
"""Milliseconds after a point; 0 is within it: what the platform has done, nobody has been told yet."""

_LONGEST_UNTIL_READY = 30.0
_PROVOKED_EVERY = 0.5
_UNLESS_BY_THEN = 25.0  # seconds after which a point that never comes is given up for a random moment
_CLEAN_EXIT = 10.0


@dataclass(frozen=True, slots=True)
class Death:
    """How a life ends: `offset` ms after `point` is passed, `skip` times spared; after `seconds` where it is "".

    `once_ready`: not before the daemon is ready. `gently`: with SIGTERM.
    """

    point: str = ""
    offset: int = 0
    skip: int = 0
    seconds: float = 0.0
    once_ready: bool = False
    gently: bool = False


def deaths(seed: int, kills: int) -> list[Death]:
    """`kills` of them, three of four swept over all points and offsets; with some SIGTERMs in between.

    The sweep is the same for all seeds; each begins where the one before it ended.
    """
    rng = random.Random(f"deaths {seed}")
    sweep = list(itertools.product(POINTS, OFFSETS))
    random.Random("sweep").shuffle(sweep)
    swept = kills * 3 // 4
    found = []
    for number in range(swept):
        point, offset = sweep[(seed * swept + number) % len(sweep)]
        skip = rng.choice((0, 0, 1, 4)) if point in _FREQUENT else 0
        found.append(Death(point, offset, skip=skip, once_ready=rng.random() < 0.6))
    found += [Death(seconds=rng.uniform(0.1, 5.0)) for _ in range(kills - swept)]
    found += [Death(seconds=rng.uniform(0.5, 5.0), gently=True) for _ in range(-(-kills // 8))]
    rng.shuffle(found)
    return found


@dataclass(slots=True)
class DaemonRuns:
    """One daemon after the other on the same store; each has a log of its own in `folder`.

    `unrecorded`: how many were killed after the platform had done something for them and before it said so;
    `shortly_after`: how many within milliseconds of its saying so.
    """

    config: Path
    folder: Path
    trace: Callable[[str], None]
    relay_id: str
    # With which a life may end by itself: a daemon that finds no database ends, and its supervisor starts it again.
    tolerated: frozenset[int] = frozenset()
    kills: int = 0
    unrecorded: int = 0
    shortly_after: int = 0
    killed_at: Counter[str] = field(default_factory=Counter)
    # What else was done to the process, of which it need not die.
    happened_to: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    daemon: Daemon | None = None
    # Seconds that a life may take to be ready, where it is to die only then.
    until_it_is_ready: float = 6.0
    _number: int = 0
    _copies: set[str] = field(default_factory=set)
    _armed: Death | None = None
    _skipped: int = 0
    _dead: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> Daemon:
        """Begin a life; does not wait until it is ready."""
        self._number += 1
        self.daemon = Daemon(self.config, self.folder / f"relay-{self._number:04}.log")
        await self.daemon.start(ready=False)
        self.trace(f"LIFE {self._number} begins")
        return self.daemon

    def be_patient(self, slower: float) -> None:
        """On a machine that takes so many times longer to begin a life."""
        self.until_it_is_ready = min(slower * self.until_it_is_ready, _LONGEST_UNTIL_READY)

    async def live(self, death: Death, waits: Callable[[], object], provoke: Callable[[str], object]) -> None:
        """One life, from its start to its end as planned.

        `waits` is called when it only waits for that; `provoke` makes people do what leads to a point.
        """
        daemon = await self.start()
        self._dead.clear()
        self._skipped = 0
        ended = asyncio.create_task(self._ended(daemon), name="end of the daemon")
        try:
            if death.gently:
                waits()
                await self._wait(ended, death.seconds)
                await self._terminate(daemon)
                return
            if death.once_ready:
                await self._until_ready(daemon, self.until_it_is_ready)
            waits()
            if death.point:
                self._armed = death
                await self._wait_for(death.point, ended, provoke)
            else:
                await self._wait(ended, death.seconds)
            self._armed = None
            if not self._dead.is_set():
                self._kill("at random" if not death.point else f"in vain for {death.point}")
        finally:
            self._armed = None
            ended.cancel()
        await self._reaped(daemon)

    def happened(self, point: str) -> None:
        """A point was passed: the time to die may have come."""
        death = self._armed
        if death is None or death.point != point:
            return
        self._skipped += 1
        if self._skipped <= death.skip:
            return
        self._armed = None
        if death.offset == 0:
            self.unrecorded += self._kill(point) and point in _UNRECORDED
        else:
            asyncio.get_running_loop().call_later(death.offset / 1000, self._kill_after, point, death.offset)

    def on_dispatch(self, dispatch: Dispatch) -> None:
        """What happens on Discord, as soon as it has."""
        if dispatch.user_id is not None or not dispatch.event.startswith("MESSAGE_"):
            return
        data = dispatch.render(OMNISCIENT)
        copy = data.get("application_id") is not None or data.get("author", {}).get("id") == self.relay_id
        if copy:
            self._copies.add(data["id"])
        match dispatch.event:
            case "MESSAGE_CREATE":
                self.happened("discord copy posted" if copy else "somebody wrote on discord")
            case "MESSAGE_UPDATE" if copy:
                self.happened("discord copy edited")
            case "MESSAGE_DELETE" if data["id"] in self._copies:
                self.happened("discord copy deleted")

    async def until_ready(self) -> None:
        """Wait until the daemon is."""
        assert self.daemon is not None
        await self.daemon.until_ready()

    async def freeze(self, seconds: float) -> None:
        """Stop the daemon's clock, as a laptop's lid does."""
        daemon = self.daemon
        if daemon is None or not daemon.running or self._dead.is_set():
            return
        with suppress(ProcessLookupError):
            daemon.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            if daemon.running:
                daemon.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """The last life ends in good order."""
        if self.daemon is not None and self.daemon.running:
            await self._terminate(self.daemon)

    async def end(self) -> None:
        """Leave nothing running."""
        if self.daemon is not None and self.daemon.running:
            self._dead.set()
            await self.daemon.kill()

    @property
    def number(self) -> int:
        """Which life it is, or was last."""
        return self._number

    # --- Parts --------------------------------------------------------------------------------------------

    def _kill_after(self, point: str, milliseconds: int) -> None:
        self.shortly_after += self._kill(f"{point} +{milliseconds} ms") and point in _UNRECORDED

    def _kill(self, why: str) -> bool:
        daemon = self.daemon
        if daemon is None or not daemon.running or self._dead.is_set():
            return False
        # At once: what comes next in this process has to find it dead.
        os.kill(daemon.pid, signal.SIGKILL)
        self.kills += 1
        self.killed_at[why.split(" +", maxsplit=1)[0]] += 1
        self._dead.set()
        self.trace(f"KILL {why}")
        return True

    async def _wait_for(self, point: str, ended: "asyncio.Task[Any]", provoke: Callable[[str], object]) -> None:
        """Wait until death came at `point`; people do what leads there until it has."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _UNLESS_BY_THEN
        await self._wait(ended, 2 * _PROVOKED_EVERY)
        while not self._dead.is_set() and not ended.done() and loop.time() < deadline:
            if self._armed is not None:
                provoke(point)
            await self._wait(ended, _PROVOKED_EVERY)

    async def _wait(self, ended: "asyncio.Task[Any]", seconds: float) -> None:
        waiter = asyncio.create_task(self._dead.wait())
        await asyncio.wait((ended, waiter), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()

    async def _ended(self, daemon: Daemon) -> None:
        status = await daemon.wait()
        if not self._dead.is_set() and self.daemon is daemon:
            if status in self.tolerated and "this is a bug" not in daemon.log():
                self.trace(f"ENDED by itself with {status}: no database")
                return
            self.problems.append(f"life {self._number} ended by itself with {status}")
            self.trace(f"ENDED by itself with {status}")

    async def _until_ready(self, daemon: Daemon, patience: float) -> None:
        with suppress(TimeoutError, AssertionError):
            async with asyncio.timeout(patience):
                await daemon.until_ready()

    async def _terminate(self, daemon: Daemon) -> None:
        if not daemon.running:
            return
        self._dead.set()
        self.trace("SIGTERM")
        loop = asyncio.get_running_loop()
        started = loop.time()
        daemon.send_signal(signal.SIGTERM)
        daemon.send_signal(signal.SIGCONT)
        status = await self._reaped(daemon)
        took = loop.time() - started
        if status == -signal.SIGTERM and not daemon.log():
            return  # it had not begun: nobody was there yet to hear the signal
        if status not in {0, *self.tolerated} or took > _CLEAN_EXIT:
            self.problems.append(f"life {self._number} ended after SIGTERM with {status} in {took:.1f} s")

    async def _reaped(self, daemon: Daemon) -> int:
        async with asyncio.timeout(60):
            return await daemon.wait()
