"""Random histories of several relays on one account, and what must hold in each of them.

Relays are started on stores that are moved, copied and restored, on machines that restart; they are killed, stopped and
continued, cut off, and write requests that arrive late. A pair's messages are its seconds: who reads a pair has read up
to now, and what it has read and may send is sent. No second may be sent twice, and no two relays may send at once.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from relay.core.claims.agreement import RIGHT_SECONDS, SILENCE_SECONDS, Claims
from relay.core.claims.board import said_in
from relay.core.claims.register import Claim, Positions
from relay.core.clock import Backoff
from relay.errors import StoreHeld, StoreUnavailable, Transient
from tests.support.clocks import LoopClock
from tests.support.relays import Account, Line, Watched, play, until

KEYS = ("100", "200")
_MOST_VOLUMES = 5
_PAUSES = (0.0, 0.05, 0.5, 1.0, 5.0, 30.0, 46.0, 100.0)
_MOST_ROUNDS = 6
_DIES_WITHIN = 6.0
"""Seconds after which a process has noticed that it has lost its lease."""


class Broken(Exception):
    """What must hold does not."""


@dataclass(slots=True, eq=False)
class Machine:
    """Restarts, and then its processes have ended and its boot is another one."""

    name: str
    boots: int = 0

    @property
    def boot(self) -> str:
        return f"{self.name}/{self.boots}"


@dataclass(slots=True, eq=False)
class Volume:
    """A store: up to where each pair was read, and what of that waits to be sent."""

    store: str
    file: str
    # None: a database, which all machines reach.
    machine: Machine | None
    restored: bool = False
    # What was on the other side when a relay first began on it, if it is a backup: each later one looks for that, too.
    finds_before: float = float("-inf")
    read: dict[str, float] = field(default_factory=dict)
    waiting: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class World:
    """Everything there is."""

    rng: random.Random
    slowness: float
    lateness: float
    account: Account = field(default_factory=Account)
    machines: list[Machine] = field(default_factory=lambda: [Machine("m"), Machine("n")])
    volumes: list[Volume] = field(default_factory=list)
    processes: list["Process"] = field(default_factory=list)
    # All that were ever started, by what their claims are told by.
    ended: set[str] = field(default_factory=set)
    # What was sent of each pair: from, to, and by whom.
    sent: dict[str, list[tuple[float, float, "Process"]]] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)
    number: int = 10
    # What was found first that must not be.
    broken: str = ""

    def tell(self, what: str) -> None:
        self.story.append(f"{asyncio.get_running_loop().time():9.2f} {what}")

    def check(self) -> None:
        """No two may send at once."""
        if self.broken:
            raise Broken(self.broken)
        for process in self.processes:
            process.look()
        for key in KEYS:
            busy = [process.name for process in self.processes if key in process.sends]
            if len(busy) > 1:
                raise Broken(f"{key} is mirrored by {' and '.join(busy)}")

    def send(self, key: str, begin: float, end: float, by: "Process") -> None:
        """One relay sends what was said in that time."""
        sent = self.sent.setdefault(key, [])
        for begun, ended, other in sent:
            overlap = min(end, ended) - max(begin, begun)
            if overlap > 1e-6 and min(end, ended) > by.finds_before:
                what = f"{key} of {max(begin, begun):.2f} to {min(end, ended):.2f}: {by.name} after {other.name}"
                self.broken = self.broken or what
        if sent and sent[-1][2] is by and sent[-1][1] == begin:
            begin = sent.pop()[0]
        sent.append((begin, end, by))


@dataclass(slots=True, eq=False)
class Process:
    """A daemon on a volume; what its claims tell it to do with pairs it does (`PairSwitch`)."""

    world: World
    volume: Volume
    machine: Machine
    name: str
    take_over: bool
    wanted: frozenset[str]
    line: Line = field(init=False)
    claims: Claims = field(init=False)
    tasks: list[asyncio.Task[None]] = field(init=False)
    # Whether others on this machine see that it has ended: not from another container.
    seen: bool = True
    has_lease: bool = True
    # See `PairSwitch.is_ready`.
    ready_at: float = 0.0
    # One file is used after the other.
    reloading: asyncio.Lock = field(default_factory=asyncio.Lock)
    # What it found on the other side, as its store is a backup: everything until then.
    finds_before: float = float("-inf")
    reasons: Mapping[str, str] = field(default_factory=dict)
    leaving: frozenset[str] = frozenset()
    # It has been told to end: nothing is read or sent any more.
    ending: bool = False
    reads: frozenset[str] = frozenset()
    sends: frozenset[str] = frozenset()
    # Until when it may send for sure, and up to when what it does is written down.
    sends_until: float = 0.0
    settled: float = 0.0

    def __post_init__(self) -> None:
        world = self.world
        self.line = Line(world.account, world.rng, slowness=world.slowness, lateness=world.lateness)
        self.line.running.set()
        self.settled = self.ready_at = asyncio.get_running_loop().time()
        self.ready_at += world.rng.choice((0.0, 0.0, 2.0, 60.0))
        self.seen = world.rng.random() < 0.8
        file = self.volume.file
        me = Claim(self.volume.store, file, self.machine.name, self.machine.boot, world.number, self.name, "")
        self.claims = Claims(
            register=self.line,
            switch=self,
            clock=StoppableClock(self.line),
            backoff=Backoff(world.rng, first=0.5, longest=10),
            me=me,
            has_ended=lambda claim: claim.boot == self.machine.boot and claim.started in world.ended,
            may_write=lambda: self.has_lease,
            take_over=self.take_over,
            restored=self.volume.restored,
            wanted=self.wanted,
        )
        self.tasks = [asyncio.ensure_future(self.line.poll()), asyncio.ensure_future(self._live())]

    async def _live(self) -> None:
        await self.claims.begin()
        if self.claims.restored:
            self.volume.finds_before = asyncio.get_running_loop().time()
        self.finds_before = self.volume.finds_before
        await self.claims.run()

    # --- What it mirrors ----------------------------------------------------------------------------------

    def look(self) -> None:
        """Find out what it mirrors from now on."""
        running = (
            bool(self.tasks)
            and not self.ending
            and self.line.running.is_set()
            and self.has_lease
            and self.claims.begun.is_set()
        )
        open_pairs = self.wanted - self.reasons.keys() if running else frozenset[str]()
        reads, sends = open_pairs - self.leaving, open_pairs if self.claims.valid() else frozenset[str]()
        if (reads, sends) != (self.reads, self.sends):
            self.settle()
            self.reads, self.sends = reads, sends
            self.world.tell(f"{self.name} reads {sorted(reads)} sends {sorted(sends)}")
        if sends:
            self.sends_until = self.line.confirmed + RIGHT_SECONDS

    def settle(self) -> None:
        """Write down what it has read and sent until now."""
        now = asyncio.get_running_loop().time()
        for key in sorted(self.reads):
            begin = self.volume.read.get(key, self.settled)
            if now > begin:
                self.volume.waiting.setdefault(key, []).append((begin, now))
            self.volume.read[key] = now
        for key in sorted(self.sends):
            for begin, end in self.volume.waiting.pop(key, []):
                last = min(end, self.sends_until)
                if last > begin:
                    self.world.send(key, begin, last, self)
                if end > max(begin, last):
                    self.volume.waiting.setdefault(key, []).append((max(begin, last), end))
        self.settled = now

    def is_ready(self) -> bool:
        return asyncio.get_running_loop().time() >= self.ready_at

    async def positions(self, keys: Collection[str]) -> Mapping[str, Positions]:
        self._use_store()
        read = {key: self.volume.read.get(key) for key in sorted(self.wanted.intersection(keys))}
        return {key: {} if until is None else {"x": repr(until)} for key, until in read.items()}

    async def hold_back(self, reasons: Mapping[str, str]) -> None:
        self.look()
        self.settle()
        self.reasons, self.leaving = dict(reasons), self.leaving - reasons.keys()
        self.look()
        await asyncio.sleep(0)

    async def hand_over(self, keys: Collection[str]) -> Mapping[str, Positions]:
        self._use_store()
        self.leaving |= frozenset(keys)
        positions = await self.positions(keys)
        await asyncio.sleep(self.world.rng.choice((0.0, 0.1, 5.0, 125.0)))
        return positions

    async def stand_down(self, keys: Collection[str]) -> None:
        self._use_store()
        for key in keys:
            self.volume.waiting.pop(key, None)
        await asyncio.sleep(0)

    async def read_from(self, positions: Mapping[str, Positions]) -> None:
        self._use_store()
        now = asyncio.get_running_loop().time()
        for key, told in positions.items():
            if key not in self.wanted:
                # It is not declared yet. What is declared anew is read from then on.
                continue
            if key not in self.reasons:
                self.world.broken = self.world.broken or f"{self.name} has opened {key} before it was told from where"
            self.volume.read[key] = float(told["x"]) if told else now

    def _use_store(self) -> None:
        self.look()
        self.settle()
        if not self.has_lease:
            raise StoreHeld("the store", "lost", "run one daemon only")
        if self.world.rng.random() < 0.01:
            raise StoreUnavailable("the store", "full", "make room")

    # --- Its end ------------------------------------------------------------------------------------------

    async def kill(self) -> None:
        self.look()
        self.settle()
        tasks, self.tasks = self.tasks, []
        self.look()
        self.world.processes.remove(self)
        if self.seen:
            self.world.ended.add(self.name)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self) -> None:
        """As at SIGTERM: others may have the pairs in which nothing waits."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.look()
        self.settle()
        self.ending = True
        self.look()
        idle = frozenset(key for key in self.claims.held if not self.volume.waiting.get(key))
        with suppress(Transient, TimeoutError, StoreHeld, StoreUnavailable):
            async with asyncio.timeout(2):
                await self.claims.give_up(await self.positions(idle))
        await self.kill()

    async def want(self, keys: frozenset[str]) -> None:
        """The operator saves a file with other pairs."""
        async with self.reloading:
            with suppress(StoreHeld, StoreUnavailable):
                await self.claims.before_declaring(keys)
                self.look()
                new = keys - self.wanted
                self.wanted = keys
                self.volume.read |= dict.fromkeys(new, asyncio.get_running_loop().time())
                self.look()
                await self.claims.declared(keys)


@dataclass(slots=True)
class StoppableClock(LoopClock):
    """A process that is stopped does not notice that its time has come."""

    line: Line

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.line.running.wait()


# --- What happens -----------------------------------------------------------------------------------------


async def _start(world: World) -> None:
    volume = world.rng.choice(world.volumes)
    on_it = [process for process in world.processes if process.volume is volume and process.has_lease]
    before = on_it[0] if on_it else None
    if before is not None:
        if volume.machine is not None or before.line.running.is_set():
            return
        # A database's process that is stopped loses its lease, and notices that when it goes on.
        before.look()
        before.settle()
        before.has_lease = False
        world.tell(f"{before.name} loses its lease")
    start_on(world, volume, take_over=world.rng.random() < 0.4)


def start_on(world: World, volume: Volume, *, take_over: bool, wanted: frozenset[str] | None = None) -> Process:
    """Start a daemon."""
    rng = world.rng
    world.number += 1
    machine = volume.machine or rng.choice(world.machines)
    if wanted is None:
        wanted = frozenset(KEYS if rng.random() < 0.7 else [rng.choice(KEYS)])
    name = f"{volume.store}{volume.file}#{world.number}"
    world.tell(f"{name} starts on {machine.boot}, take_over={take_over}, wants {sorted(wanted)}")
    process = Process(world, volume, machine, name, take_over, wanted)
    world.processes.append(process)
    volume.restored = False
    return process


def _on_one(act: Callable[[World, Process], Awaitable[None]]) -> Callable[[World], Awaitable[None]]:
    async def on_one(world: World) -> None:
        if world.processes:
            await act(world, world.rng.choice(world.processes))

    on_one.__name__ = act.__name__
    return on_one


async def _kill(world: World, process: Process) -> None:
    world.tell(f"{process.name} is killed")
    await process.kill()


async def _stop(world: World, process: Process) -> None:
    if process.line.running.is_set():
        world.tell(f"{process.name} is told to end")
        await process.stop()


async def _freeze(world: World, process: Process) -> None:
    process.look()
    world.tell(f"{process.name} is stopped")
    process.line.running.clear()


async def _continue(world: World, process: Process) -> None:
    if process.line.running.is_set():
        return
    world.tell(f"{process.name} goes on")
    process.line.running.set()
    if not process.has_lease:
        await asyncio.sleep(world.rng.uniform(0.0, _DIES_WITHIN))
        if process in world.processes:
            await process.kill()


async def _cut(world: World, process: Process) -> None:
    process.line.up = not process.line.up
    world.tell(f"{process.name} is {'connected' if process.line.up else 'cut off'}")


async def _want(world: World, process: Process) -> None:
    if process.line.running.is_set():
        keys = frozenset(world.rng.sample(KEYS, world.rng.randrange(len(KEYS) + 1)))
        world.tell(f"{process.name} is to mirror {sorted(keys)}")
        asking = asyncio.ensure_future(process.want(keys))
        process.tasks.append(asking)
        await asyncio.sleep(0)


async def _restart_machine(world: World) -> None:
    machine = world.rng.choice(world.machines)
    world.tell(f"{machine.boot} restarts")
    for process in [process for process in world.processes if process.machine is machine]:
        await process.kill()
    machine.boots += 1


async def _move(world: World) -> None:
    used = [process.volume for process in world.processes]
    free = [volume for volume in world.volumes if volume.machine is not None and volume not in used]
    if free:
        volume = world.rng.choice(free)
        volume.machine, volume.file = world.rng.choice(world.machines), _new_file(world)
        world.tell(f"a store {volume.store} is moved to {volume.machine.name}, and is {volume.file}")


async def _copy(world: World) -> None:
    volume = world.rng.choice(world.volumes)
    for process in world.processes:
        process.look()
        process.settle()
    made = Volume(
        volume.store,
        _new_file(world),
        world.rng.choice(world.machines),
        restored=world.rng.random() < 0.5,
        read=dict(volume.read),
        waiting={key: list(waiting) for key, waiting in volume.waiting.items()},
    )
    world.tell(f"{volume.file} is {'restored' if made.restored else 'copied'} as {made.file}")
    used = [process.volume for process in world.processes]
    if len(world.volumes) < _MOST_VOLUMES:
        world.volumes.append(made)
    elif lost := [place for place, old in enumerate(world.volumes) if old not in used]:
        world.volumes[world.rng.choice(lost)] = made


def _new_file(world: World) -> str:
    world.number += 1
    return str(world.number)


_WHAT: list[tuple[int, Callable[[World], Awaitable[None]]]] = [
    (12, _start),
    (4, _on_one(_kill)),
    (4, _on_one(_stop)),
    (4, _on_one(_freeze)),
    (6, _on_one(_continue)),
    (6, _on_one(_cut)),
    (2, _on_one(_want)),
    (1, _restart_machine),
    (1, _move),
    (1, _copy),
]


async def _calm_down(world: World) -> None:
    """When nothing happens any more, each pair has one relay, unless somebody who may come back holds it."""
    world.tell("nothing happens any more")
    world.lateness = 0.0
    for process in list(world.processes):
        process.line.up, process.line.lateness = True, 0.0
        if not process.line.running.is_set():
            await _continue(world, process)
        if process in world.processes and process.tasks[1].done():
            await process.kill()
    before, rounds = -1, 0
    while before != world.account.writes:
        before, rounds = world.account.writes, rounds + 1
        if rounds > _MOST_ROUNDS:
            raise Broken(f"writes for ever, {world.account.writes} times until now")
        await asyncio.sleep(8 * SILENCE_SECONDS)
    alive = {process.claims.me.place() for process in world.processes}
    for key in KEYS:
        who = [process for process in world.processes if key in process.wanted]
        if who and not any(key in process.sends for process in who):
            gone = [claim for claim in said_in(world.account.value) if claim.place() not in alive]
            if not any(key in claim.channels for claim in gone):
                raise Broken(f"nobody mirrors {key}")
    # Where one is told to take over, each pair has somebody soon: mostly that one, but it may hand over to one that has
    # died since it asked, which nobody sees, and then the next one takes it.
    for process in list(world.processes):
        if process.volume is world.volumes[0]:
            await process.kill()
    start_on(world, world.volumes[0], take_over=True, wanted=frozenset(KEYS))
    await until(
        lambda: frozenset(KEYS) == frozenset().union(*(process.sends for process in world.processes)), 500, every=0.5
    )


def play_history(seed: int) -> tuple[str, list[str]]:
    """What is wrong in this one ("": nothing), and what happened in it."""
    rng = random.Random(seed)
    loop = Watched(1_000.0)
    world = World(rng, slowness=rng.choice((0.0, 0.1)), lateness=rng.choice((0.0, 0.0, 0.1)))
    first, second = world.machines
    world.volumes = [Volume("a", "1", first), Volume("b", "2", first), Volume("c", "3", second)]
    if seed % 3 == 0:
        world.volumes[2] = Volume("d", "database 1/1", None)

    async def story() -> None:
        weights = [weight for weight, _ in _WHAT]
        pauses = _PAUSES[: rng.randrange(4, len(_PAUSES) + 1)]
        for _ in range(60):
            [(_, happen)] = rng.choices(_WHAT, weights)
            await happen(world)
            await asyncio.sleep(rng.choice(pauses))
        await _calm_down(world)

    loop.each_step = world.check
    try:
        play(story, loop)
    except (Broken, AssertionError) as error:
        return str(error), world.story
    return "", world.story
