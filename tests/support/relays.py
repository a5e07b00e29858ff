"""Relays on one account, in virtual time: their lines may break, and in the end one of them has each pair."""

import asyncio
import random
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from relay.core.claims.agreement import Claims
from relay.core.claims.register import Claim, NoRegister, Positions, Values
from relay.core.clock import Backoff
from relay.domain.jsontext import Json
from relay.errors import StoreUnavailable, Transient
from tests.simulation.loop import VirtualLoop
from tests.support.clocks import LoopClock

PAIRS = frozenset({"100", "200"})
_POLL = 30.0


@dataclass(slots=True)
class Account:
    """The account's data on the platform, and who listens."""

    value: dict[str, Json] = field(default_factory=dict)
    # Of the next change: each has an event of its own.
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    version: int = 0
    writes: int = 0
    refused: bool = False

    async def replace(self, name: str, value: Json) -> None:
        """A request arrives."""
        self.value = {**self.value, name: value}
        self.version += 1
        self.writes += 1
        self.changed.set()
        self.changed = asyncio.Event()

    async def replace_late(self, seconds: float, name: str, value: Json) -> None:
        """A request arrives on which its relay has long given up."""
        await asyncio.sleep(seconds)
        await self.replace(name, value)


@dataclass(slots=True)
class Line:
    """One relay's connection to the account; implements `Register` as the adapter does."""

    account: Account
    rng: random.Random
    up: bool = True
    # A process that is stopped does nothing at all.
    running: asyncio.Event = field(default_factory=asyncio.Event)
    confirmed: float = float("-inf")
    # How many readings go wrong in a way that nobody has thought of.
    faults: int = 0
    # How often a request takes seconds.
    slowness: float = 0.0
    # How often a writing is given up on, and arrives all the same, up to two minutes later.
    lateness: float = 0.0
    # When a change arrived that is not settled.
    told: float | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    late: set[asyncio.Task[None]] = field(default_factory=set)

    async def _travel(self) -> None:
        await self.running.wait()
        await asyncio.sleep(self.rng.uniform(0.001, 8.0 if self.rng.random() < self.slowness else 0.1))
        if not self.up:
            await self.running.wait()
            raise Transient("cut off")
        if self.account.refused:
            raise NoRegister("M_UNRECOGNIZED")

    async def read(self) -> Values:
        await self._travel()
        found = dict(self.account.value)
        if self.faults:
            self.faults -= 1
            raise KeyError("a fault")
        # The answer is on its way, also to a process that is stopped meanwhile.
        await self._travel()
        await self.running.wait()
        return found

    async def write(self, name: str, value: Json) -> None:
        if self.lateness and self.rng.random() < self.lateness:
            self._send_late(self.rng.choice((0.5, 5.0, 120.0)), name, value)
            await self._travel()
            raise Transient("given up on")
        try:
            await self._travel()
        except asyncio.CancelledError:
            # The process ends while its request is on the way.
            if self.lateness and self.running.is_set():
                self._send_late(5.0, name, value)
            raise
        await self.account.replace(name, value)
        await self._travel()
        await self.running.wait()

    def _send_late(self, seconds: float, name: str, value: Json) -> None:
        late = asyncio.ensure_future(self.account.replace_late(self.rng.uniform(0, seconds), name, value))
        self.late.add(late)
        late.add_done_callback(self.late.discard)

    async def changed(self) -> None:
        while self.told is None:
            await self.arrived.wait()
            self.arrived.clear()
        await self.running.wait()

    def settle(self, asked: float) -> None:
        if self.told is not None and self.told <= asked:
            self.told = None
        self.confirmed = max(self.confirmed, asked)

    async def poll(self) -> None:
        """Ask for changes for ever, as sync does."""
        version = 0
        while True:
            asked = asyncio.get_running_loop().time()
            try:
                await self._travel()
                if self.account.version == version:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_POLL):
                            await self.account.changed.wait()
                before, version = version, self.account.version
                await self._travel()
                await self.running.wait()
            except Transient:
                await asyncio.sleep(5)
                continue
            if version != before:
                self.told = asyncio.get_running_loop().time()
                self.arrived.set()
            elif self.told is None:
                self.confirmed = max(self.confirmed, asked)


@dataclass(slots=True)
class Switch:
    """Notes what it is told; implements `PairSwitch`."""

    name: str
    rng: random.Random
    started: dict[str, Positions] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)
    # Seconds that handing over takes at most.
    takes: float = 5.0
    # Nothing can be written any more.
    full: bool = False
    # How far the store has read, from earlier processes.
    known: Mapping[str, Positions] = field(default_factory=dict)
    ready: bool = True

    def is_ready(self) -> bool:
        return self.ready

    async def positions(self, keys: Collection[str]) -> Mapping[str, Positions]:
        return {key: self.known.get(key, {}) for key in keys}

    async def hold_back(self, reasons: Mapping[str, str]) -> None:
        self.reasons = reasons

    async def hand_over(self, keys: Collection[str]) -> Mapping[str, Positions]:
        if self.full:
            raise StoreUnavailable("the store", "full", "make room")
        await asyncio.sleep(self.takes if self.takes > 5 else self.rng.uniform(0, self.takes))
        return {key: {"x": f"{self.name} {key}"} for key in keys}

    async def stand_down(self, keys: Collection[str]) -> None:
        self.set_aside += keys

    async def read_from(self, positions: Mapping[str, Positions]) -> None:
        # A pair that nothing holds back any more is open already, and has been read from now on.
        assert positions.keys() <= self.reasons.keys()
        self.started |= positions


@dataclass(slots=True)
class Relay:
    """A process with the real claims. Its store is named by the first letter of `name`."""

    name: str
    account: Account
    rng: random.Random
    # Processes that all can see to have ended.
    dead: set[str] = field(default_factory=set)
    host: str = ""
    boot: str = ""
    slowness: float = 0.0
    lateness: float = 0.0
    life: int = 0
    has_lease: bool = True
    switch: Switch = field(init=False)
    line: Line = field(init=False)
    claims: Claims = field(init=False)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(
        self, *, take_over: bool = False, wanted: frozenset[str] = PAIRS, known: Mapping[str, Positions] | None = None
    ) -> None:
        self.life += 1
        self.line = Line(self.account, self.rng, slowness=self.slowness, lateness=self.lateness)
        self.switch = Switch(self.name, self.rng, known=known or {})
        self.line.running.set()
        host = self.host or self.name
        self.claims = Claims(
            register=self.line,
            switch=self.switch,
            clock=LoopClock(),
            backoff=Backoff(self.rng, first=0.5, longest=10),
            me=Claim(self.name[0], self.name, host, self.boot, self.life, f"{self.name} {self.life}", ""),
            has_ended=lambda claim: claim.started in self.dead,
            may_write=lambda: self.has_lease,
            take_over=take_over,
            wanted=wanted,
        )

        async def live() -> None:
            await self.claims.begin()
            await self.claims.run()

        self.tasks = [asyncio.ensure_future(self.line.poll()), asyncio.ensure_future(live())]

    async def kill(self, *, seen: bool = False) -> None:
        """`seen`: on the machine of the others."""
        if seen:
            self.dead.add(self.claims.me.started)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks = []

    async def stop(self) -> None:
        await self.kill()
        with suppress(Transient, TimeoutError):
            async with asyncio.timeout(2):
                await self.claims.give_up({key: {"x": f"{self.name} {key}"} for key in self.claims.held})

    @property
    def works(self) -> frozenset[str]:
        """What it would mirror at this moment."""
        alive = self.tasks and self.line.running.is_set() and self.claims.valid()
        return self.claims.held if alive else frozenset()


class Watched(VirtualLoop):
    """Looks after each turn."""

    each_step: Callable[[], None] | None = None

    def _run_once(self) -> None:
        super()._run_once()
        if self.each_step is not None:
            self.each_step()


def play(story: Callable[[], Coroutine[Any, Any, None]], loop: VirtualLoop | None = None) -> None:
    """Run a story on a virtual clock."""
    loop = loop or VirtualLoop(1_000.0)
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(story())
    finally:
        if isinstance(loop, Watched):
            loop.each_step = None
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()


async def until(check: Callable[[], bool], seconds: float = 200, *, every: float = 0.01) -> float:
    """Wait; how many virtual seconds it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not check():
        assert loop.time() < began + seconds, "it never happened"
        await asyncio.sleep(every)
    return loop.time() - began
