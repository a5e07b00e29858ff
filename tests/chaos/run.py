"""One run: traffic, trouble and death together, then quiet, then the verdict."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import aiohttp

from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.sandbox.rate_limits import Limits
from relay.sandbox.world.dispatch import OMNISCIENT, Dispatch
from tests.chaos.daemon_runs import DaemonRuns, deaths
from tests.chaos.database import Database, database
from tests.chaos.judge import Judge, Look
from tests.chaos.ledger import is_past
from tests.chaos.operator import Operator, in_file
from tests.chaos.outcome import Outcome, Plan, Trace
from tests.chaos.pairs import Pairs
from tests.chaos.processes import Processes, lines_to
from tests.chaos.proxy import Proxy
from tests.chaos.reading import discord_copy, files_of
from tests.chaos.sides import DiscordSide, MatrixSide, Side, View
from tests.chaos.traffic import Act, Pace, Traffic
from tests.chaos.trouble import Trouble
from tests.support.ghosts import APPSERVICE, GhostHomeserver, ghost
from tests.support.preloaded import preloaded
from tests.support.stack import FullStack, stack

_HEARTBEAT = 8.0
_PER_SECOND = 20
"""Messages, where no kills set the pace."""
_START = 4.0
"""Seconds that the first start takes at most on a machine of its own."""
_MOST_BEFORE = 30
"""Messages that people write in a channel before the first start."""
_QUIET = 4.0
_QUIET_IN_VAIN = 45.0
"""Seconds of quiet after which what is wrong will stay so: there is nothing that the daemon leaves for later."""
_PATIENCE = 180.0
_BATCHED = "batch_when_behind = 1"
"""Every other pair has its messages cross together as soon as it falls behind at all."""


# Who has to do what, so that a point is passed: 0 writes on Discord, 1 on Matrix.
_PROVOKED_BY: dict[str, tuple[int, Act]] = {
    "discord copy posted": (1, "say"),
    "discord copy edited": (1, "edit"),
    "discord copy deleted": (1, "delete"),
    "matrix send asked": (0, "say"),
    "matrix send committed": (0, "say"),
    "matrix redact committed": (0, "delete"),
    "matrix upload committed": (0, "file"),
    "matrix sync committed": (1, "say"),
    "somebody wrote on discord": (0, "say"),
}


class Run:
    """Everything of one run."""

    def __init__(
        self,
        plan: Plan,
        place: FullStack,
        proxy: Proxy,
        runs: DaemonRuns,
        noa: Person,
        trace: Trace,
        store: Database | None,
    ) -> None:
        self._plan = plan
        # None: the store is a file.
        self._database = store
        self._stack = place
        self._trace = trace
        self._runs = runs
        self._pairs = tuple(place.channels)
        self._led = Pairs(self._pairs)
        self._judge = Judge(self._pairs, self._led, trace)
        sides: tuple[Side, Side] = (
            DiscordSide(place.control, place.guild, place.channels, place.people),
            MatrixSide(
                {"Mia": place.mia, "Noa": noa},
                place.rooms,
                place.relay_user,
                ghosts={ghost(place, name): name for name in place.people} if plan.ghosts else {},
            ),
        )
        self._traffic = tuple(self._people(side) for side in sides)
        ledgers = [people.ledgers for people in self._traffic]
        config = place.daemon.config
        known = store.known if store is not None else partial(in_file, config.with_name("relay.db"))
        self._operator = Operator(self._led, config, known, ledgers, runs, trace)
        self._trouble = Trouble(
            stack=place,
            proxy=proxy,
            rng=random.Random(f"trouble {plan.seed}"),
            trace=trace,
            freeze=runs.freeze,
            webhook_deleted=self._judge.webhook_deleted,
            operator=self._operator,
        )
        self._past = random.Random(f"past {plan.seed}")
        self._provoking: asyncio.Task[None] | None = None
        place.sandbox.state.listeners.append(self._on_dispatch)

    def _people(self, side: Side) -> Traffic:
        rng = random.Random(f"traffic {side.letter} {self._plan.seed}")
        return Traffic(side, rng, self._pairs, Pace(), self._led, self._trace)

    def _on_dispatch(self, dispatch: Dispatch) -> None:
        if dispatch.event not in {"MESSAGE_CREATE", "MESSAGE_UPDATE"} or dispatch.user_id is not None:
            return
        data = dispatch.render(OMNISCIENT)
        pair = next((pair for pair, channel in self._stack.channels.items() if channel == data["channel_id"]), None)
        if pair is None or data["author"]["id"] in self._stack.people.values():
            return
        self._judge.copy_stands(pair, discord_copy(data, files_of(data)), new=dispatch.event == "MESSAGE_CREATE")

    async def play(self) -> Outcome:
        """From the first start to the verdict."""
        started = time.monotonic()
        for people in self._traffic:
            await people.say_before(self._past, _MOST_BEFORE)
        slower = await self._first_start()
        self._runs.be_patient(slower)
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            halves = (self._plan.messages // 2, self._plan.messages - self._plan.messages // 2)
            talk = [group.create_task(people.run(half)) for people, half in zip(self._traffic, halves, strict=True)]
            trouble = group.create_task(self._trouble.run(self._plan.faults, over, slower))
            others = [] if self._database is None else [group.create_task(self._database.disturb(slower))]
            wish = group.create_task(self._let_past_cross())
            await self._die_again_and_again(halves)
            await asyncio.wait([*talk, wish])
            over.set()
            await trouble
            for task in others:
                task.cancel()
        self._trace("TROUBLE ends")
        await self._trouble.end()
        for pair in self._pairs:
            await self._trouble.let_in(pair)
        if self._runs.daemon is None or not self._runs.daemon.running:
            await self._runs.start()  # it had found no database
        await self._operator.let_past_cross(self._stack.daemon.relay)  # its pair may have been away for too long
        calm = time.monotonic()
        look = await self._until_quiet("quiet")
        drained = time.monotonic() - calm
        if not look.verdict:
            await self._runs.stop()
            await self._runs.start()
            look = await self._until_quiet("quiet after another start")
        await self._runs.stop()
        return self._outcome(look, time.monotonic() - started, drained)

    def _outcome(self, look: Look, seconds: float, drained: float) -> Outcome:
        others = () if self._database is None else (self._database.happened,)
        return Outcome(
            verdict=look.verdict,
            sent=sum(people.sent for people in self._traffic),
            files=sum(people.files for people in self._traffic),
            edited=sum(people.edited for people in self._traffic),
            deleted=sum(people.deleted for people in self._traffic),
            replies=look.replies,
            batches=look.batches,
            moved=look.moved,
            kills=self._runs.kills,
            unrecorded=self._runs.unrecorded,
            shortly_after=self._runs.shortly_after,
            killed_at=self._runs.killed_at,
            faults=sum((self._runs.happened_to, *others), self._trouble.counts),
            problems=self._runs.problems,
            seconds=seconds,
            drained_in=drained,
        )

    async def _first_start(self) -> float:
        """Nothing older than the first start crosses, so trouble begins when the relay has been ready once.

        How many times slower than on a machine of its own that was: so much more rarely something else goes wrong.
        Else, where everything takes its time to come back, nothing would ever be there, and nobody could write.
        """
        began = time.monotonic()
        await self._runs.start()
        await self._runs.until_ready()
        slower = max(1.0, (time.monotonic() - began) / _START)
        self._trace(f"READY for the first time: trouble comes {slower:.1f} times more rarely")
        await self._runs.stop()
        return slower

    async def _let_past_cross(self) -> None:
        """At some moment of the run."""
        at = self._past.uniform(0, 0.8) * self._plan.messages
        while sum(people.sent for people in self._traffic) < at:  # noqa: ASYNC110 - they write many times a second
            await asyncio.sleep(0.5)
        for people in self._traffic:
            for pair in self._pairs:
                keys = [key for copy in (await people.side.view(pair)).copies for key in copy.keys]
                if early := [key for key in keys if is_past(key)]:
                    self._runs.problems.append(f"crossed in {pair} before anybody asked for it: {early}")
        await self._operator.let_past_cross(self._stack.daemon.relay)

    async def _die_again_and_again(self, halves: tuple[int, int]) -> None:
        ends = deaths(self._plan.seed, self._plan.kills)
        shares = [_shares(half, len(ends) + 1) for half in halves]
        async with asyncio.TaskGroup() as group:
            for number, death in enumerate(ends):
                # Some of it while the daemon is away.
                self._grant([share[number] // 3 for share in shares])
                rest = self._grant_later([share[number] - share[number] // 3 for share in shares])
                self._trace(f"NEXT {death}")
                await self._runs.live(
                    death, partial(group.create_task, rest), partial(self._provoke, group.create_task)
                )
                if number % 10 == 9:
                    self._trace(f"STATE {self._figures()}")
        await self._runs.start()
        last = [share[-1] for share in shares]
        while any(last):
            portion = [min(left, _PER_SECOND // 4) for left in last]
            self._grant(portion)
            last = [left - part for left, part in zip(last, portion, strict=True)]
            await asyncio.sleep(0.5)

    def _grant(self, portions: Sequence[int]) -> None:
        for people, portion in zip(self._traffic, portions, strict=True):
            people.pace.grant(portion)

    async def _grant_later(self, portions: Sequence[int]) -> None:
        """The rest of a life's messages, while it lasts."""
        left = list(portions)
        while any(left):
            await asyncio.sleep(0.15)
            self._grant([1 if count else 0 for count in left])
            left = [max(0, count - 1) for count in left]

    def _provoke(self, start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]], point: str) -> None:
        """Let people do what leads to a point, unless they are still at it."""
        if self._provoking is not None and not self._provoking.done():
            return
        number, act = _PROVOKED_BY[point]
        people = self._traffic[number]
        self._trace(f"PROVOKED {point}")
        self._provoking = start(people.do(act))

    def _figures(self) -> str:
        return f"sent {[people.sent for people in self._traffic]}, kills {self._runs.kills}"

    # --- The end ------------------------------------------------------------------------------------------

    async def _until_quiet(self, what: str) -> Look:
        """Until nothing is wrong and nothing moves any more; what is still wrong when patience is at an end.

        That begins anew whenever less waits than ever before: a slow machine takes long for what has piled up.
        """
        deadline = time.monotonic() + _PATIENCE
        quiet_since = time.monotonic()
        least = float("inf")
        last: list[View] = []
        look = Look()
        while time.monotonic() < deadline:
            await asyncio.sleep(0.5)
            if waiting := await self._waiting():
                quiet_since = time.monotonic()
                if waiting < least:
                    least, deadline = waiting, time.monotonic() + _PATIENCE
                continue
            look = await self._judge.look(self._traffic)
            if look.seen != last:
                last, quiet_since = look.seen, time.monotonic()
            if time.monotonic() - quiet_since >= (_QUIET_IN_VAIN if look.verdict else _QUIET):
                self._trace(f"QUIET {what}")
                break
        else:
            self._runs.problems.append(f"never {what}")
            look = await self._judge.look(self._traffic)
        if look.verdict or self._runs.problems:
            self._judge.write_down(look, self._traffic)
        return look

    async def _waiting(self) -> float:
        """How much waits, as the daemon says; infinite while it is not ready."""
        daemon = self._runs.daemon
        if daemon is None or not daemon.running:
            return float("inf")
        with suppress(aiohttp.ClientError, KeyError, AssertionError, TimeoutError):
            _, text = await daemon.get("/metrics")
            depths = [line for line in text.splitlines() if line.startswith("relay_outbox_depth{")]
            if await daemon.ready():
                return sum(float(line.rpartition(" ")[2]) for line in depths)
        return float("inf")


def _shares(whole: int, parts: int) -> list[int]:
    """`whole` in equal parts; the remainder in the last."""
    each = whole // parts
    return [each] * (parts - 1) + [whole - each * (parts - 1)]


@asynccontextmanager
async def world(plan: Plan, trace: Trace) -> AsyncIterator[Run]:
    """Everything that a run needs, and nothing of it afterwards."""
    async with AsyncExitStack() as exits:
        plain = GhostHomeserver(plan.folder) if plan.ghosts else Homeserver()
        homeserver = await exits.enter_async_context(plain)
        pairs = [f"p{number}" for number in range(plan.pairs)]
        limits = Limits(identify_every=0, identifies_per_day=1_000_000)
        store = await exits.enter_async_context(database(plan.seed, trace)) if plan.postgresql else None
        url = None if store is None else store.url
        place = await exits.enter_async_context(
            stack(plan.folder, homeserver, pairs, store_url=url, limits=limits, heartbeat_interval=_HEARTBEAT)
        )
        noa_id = f"@noa-{plan.seed}:{homeserver.server_name}"
        token = await homeserver.register(f"noa-{plan.seed}", displayname="Noa")
        noa = await exits.enter_async_context(Person(homeserver.url, noa_id, token))
        for room in place.rooms.values():
            await noa.join(room)
            await place.mia.set_power(room, users={noa_id: 50})  # for when only the relay has to be silent
        tolerated = frozenset((1,)) if plan.postgresql else frozenset[int]()
        runs = DaemonRuns(place.daemon.config, plan.folder, trace, place.bot, tolerated)
        if store is not None and plan.processes > 1:
            exits.enter_context(preloaded())
            lines, folders = await exits.enter_async_context(lines_to(store, plan.processes))
            runs = Processes(
                config=place.daemon.config,
                folder=plan.folder,
                trace=trace,
                relay_id=place.bot,
                tolerated=tolerated,
                database=store,
                lines=lines,
                folders=folders,
                rng=random.Random(f"processes {plan.seed}"),
            )
        exits.push_async_callback(runs.end)
        place.sandbox.state.listeners.append(runs.on_dispatch)
        proxy = await exits.enter_async_context(Proxy(homeserver.url, runs.happened))
        place.pair_settings.update(dict.fromkeys(pairs[1::2], _BATCHED))
        config = place.write_config(extra=APPSERVICE if plan.ghosts else "")
        config.write_text(config.read_text().replace(homeserver.url, proxy.url))
        yield Run(plan, place, proxy, runs, noa, trace, store)


async def play(plan: Plan, trace: Trace) -> Outcome:
    """One run of `plan`."""
    async with world(plan, trace) as run:
        return await run.play()
