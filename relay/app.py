"""The daemon's life: from its store's lease to the last transaction, and what runs side by side in between."""

import asyncio
import random
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from relay.composition import Parts, build
from relay.config.settings import Settings, Stamp, stamp
from relay.core.bootstrap import Core
from relay.core.claims.agreement import Claims
from relay.core.claims.register import NoRegister
from relay.core.clock import Backoff, SystemClock, wait_at_most
from relay.core.operations.findings import Finding
from relay.core.ports import Adapter, Clock
from relay.core.status.counters import Status
from relay.core.status.report import STOPPED, DaemonEnd
from relay.doctor import clock_finding, local_findings, pairs_finding
from relay.domain.ids import Platform
from relay.errors import (
    FatalError,
    RelayError,
    StoreError,
    StoreHeld,
    StoreUnavailable,
    Transient,
    leaves,
    sentence,
    ungrouped,
)
from relay.logs import get_logger
from relay.memory import give_back, settle
from relay.reload import SETTLE_SECONDS, Reloader
from relay.standby import Standby, read_again, serve_when_free
from relay.store.lease import HeldLease, hold
from relay.store.migrate import check, in_background, is_current, refuse_newer, upgrade
from relay.store.unit_of_work import SqlStore, open_store

_log = get_logger(__name__)

_SHUTDOWN_SECONDS, _LEAST_SECONDS = 5.0, 0.5
"""How long messages in flight may take after SIGTERM, and a store that does not answer; how long that one each time at
least. The whole shutdown may take ten seconds."""

_BUSY_SECONDS = 1.5
"""How long one statement waits for the transaction of another process. Several such waits must fit into a shutdown."""

_LOOKS_SECONDS, _TENANT_LOOKS_SECONDS = 1, 5
"""Between two looks whether a command (`relay dead retry`, say) has queued something. For many tenants in one process
this was two thirds of what they cost while nothing happens."""

_HELD_SECONDS = 1.0
"""Until a standby asks again whether the tables can be changed."""

_LOOK_AGAIN_SECONDS, _LOOK_SOON_SECONDS = 600.0, 30.0
"""Until the disks and the clock are looked at again; sooner as long as no platform has told its time."""

_REST_SECONDS, _GIVE_UP_SECONDS = 1.0, 2.0
"""How long the end waits until nothing is half received, and until the register of relays has taken our leave."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Daemon:
    """One `relay run`, or one tenant of it."""

    settings: Settings
    # The file as it was when they were read: what somebody has saved since counts before this one serves.
    saved: Stamp
    # The file with the pairs, which is read again when somebody saves it.
    config: Path
    # Reads the configuration again. Raises `ConfigurationError`.
    reload: Callable[[], Settings]
    # Told what finds the name of a channel by its ID, for the log.
    name_channels: Callable[[Callable[[str], str | None]], None] | None = None
    # Take over what another relay on the same accounts holds now.
    take_over: bool = False
    # Where another process holds the store, wait until it has ended, instead of ending.
    standby: bool = False
    # One of several in this process: it ends to be started again where a saved file changes more than the pairs.
    is_tenant: bool = False
    # Told of settings that were read while this waited: the log must know their secrets.
    log_with: Callable[[Settings], None] = lambda _: None
    _clock: Clock = field(init=False, default_factory=SystemClock)
    _rng: random.Random = field(init=False, default_factory=random.Random)
    _starting: bool = field(init=False, default=True)
    # Until when the end waits for what is in flight and for the store (monotonic), once the daemon was told to stop.
    _ends_until: float | None = field(init=False, default=None)
    # Messages that the platforms had accepted when the daemon was told to stop.
    _accepted_before: int = field(init=False, default=0)
    _stopped: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _reload_now: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _main: asyncio.Task[None] | None = field(init=False, default=None)
    # How things are, once it serves.
    status: Status | None = field(init=False, default=None)

    async def serve(self) -> None:
        """Work until `stop`. Raises `RelayError` for an error that ends the daemon."""
        self._main = asyncio.current_task()
        try:
            await self._live()
        except asyncio.CancelledError:
            if not self._stopped.is_set():
                raise
            _log.info("stopped before it had begun")

    @property
    def is_stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """End `serve`: what is in flight is finished."""
        self._stopped.set()
        # Nothing is in flight yet. Whatever it waits for (a migration, another daemon's lease) can be abandoned.
        if self._starting and self._main is not None:
            self._main.cancel()

    def read_again(self) -> None:
        """Read the file again, also if nobody has saved it."""
        self._reload_now.set()

    async def _live(self) -> None:
        await self._upgrade()
        async with AsyncExitStack() as stack:
            store = await open_store(self.settings.store.url, busy_timeout=_BUSY_SECONDS)
            stack.push_async_callback(store.close)
            lease = await self._take(store, stack)
            if not self.is_tenant:
                await self._read_saved()
            parts = await build(
                self.settings,
                store=store,
                lease=lease,
                clock=self._clock,
                rng=self._rng,
                take_over=self.take_over,
                outbox_every=_TENANT_LOOKS_SECONDS if self.is_tenant else _LOOKS_SECONDS,
                stack=stack,
            )
            self.status = parts.core.status
            if self.name_channels is not None:
                self.name_channels(parts.core.status.label_of)
            await parts.recorder.restore(lease.before)
            # From now on `relay status` can tell that it was this process that ended without a word.
            await parts.recorder.look()
            try:
                await parts.core.inbox.begin()
                await parts.core.moderation.declare(parts.declared.pairs)
                await self._work(parts)
            except Exception as error:
                await self._record_end(parts, _end_of(error))
                # What was read last without mistakes, for whoever stands by again.
                self.settings = replace(parts.declared.settings, store=self.settings.store)
                raise
            await self._record_end(parts, STOPPED)
            _log.info("stopped", **await self._left(parts))

    async def _upgrade(self) -> None:
        """Bring the tables to this version. A standby of a newer one has to wait for that, too."""
        tries = 0
        if await is_current(self.settings.store.url, _BUSY_SECONDS):
            return
        while True:
            try:
                await in_background(upgrade, self.settings.store.url)
            except StoreHeld as error:
                if not self.standby:
                    raise
                tries += 1
                _log.warning("standing by until the tables can be changed", reason=error.reason, tries=tries)
                await self._clock.sleep(_HELD_SECONDS)
            else:
                return

    async def _take(self, store: SqlStore, stack: AsyncExitStack) -> HeldLease:
        """The lease, until `stack` gives it back. Raises `StoreHeld`."""
        waited = False
        while True:
            try:
                lease = await stack.enter_async_context(hold(store, self._clock))
                if waited:
                    # The other one may have been newer.
                    schema = await in_background(check, self.settings.store.url)
                    refuse_newer(store.name, schema)
                return lease
            except (StoreHeld, StoreUnavailable) as error:
                if not self.standby or (isinstance(error, StoreUnavailable) and not waited):
                    raise
                standby = Standby(
                    store=store,
                    settings=self.settings,
                    saved=self.saved,
                    config=self.config,
                    reload=self.reload,
                    log_with=self.log_with,
                    reload_now=self._reload_now,
                    clock=self._clock,
                )
                await standby.wait()
                self.settings, self.saved, waited = standby.settings, standby.saved, True

    async def _read_saved(self) -> None:
        """Use what somebody has saved while this was waiting for the store, or was serving it before."""
        while (now := stamp(self.config)) != self.saved:
            await self._clock.sleep(SETTLE_SECONDS)  # half of a file would be half of the pairs
            if now == stamp(self.config):
                self.saved = now
                self.settings = await read_again(self.settings, self.reload, self.log_with)

    async def _left(self, parts: Parts) -> dict[str, int]:
        """What crossed while the daemon was stopping, and what waits for the next start."""
        try:
            async with self._last_words():
                report = await parts.core.status.report()
        except (StoreError, TimeoutError):
            return {}
        waiting = sum(way.backlog for pair in report.pairs for way in pair.directions.values())
        return {"finished": self._accepted(parts.core) - self._accepted_before, "waiting": waiting}

    def _accepted(self, core: Core) -> int:
        return sum(map(core.status.accepted, Platform))

    async def _record_end(self, parts: Parts, end: DaemonEnd) -> None:
        """Leave word for `relay status`."""
        try:
            async with self._last_words():
                await parts.recorder.finish(end)
        except StoreError as error:
            _log.error("the last status could not be written", reason=error.reason)
        except TimeoutError:
            _log.error("the last status could not be written", reason="the store does not answer")

    def _last_words(self) -> asyncio.Timeout:
        """How long the store may take at the end. From a server that cannot be reached no answer ever comes."""
        until = self._ends_until or self._clock.monotonic() + _GIVE_UP_SECONDS
        return asyncio.timeout(max(_LEAST_SECONDS, until - self._clock.monotonic()))

    # --- What runs side by side ---------------------------------------------------------------------------

    async def _work(self, parts: Parts) -> None:
        """Run everything until the daemon is stopped, or one part raises an error that ends it."""
        self._starting = False
        core = parts.core
        async with asyncio.TaskGroup() as group:
            dispatcher = group.create_task(core.dispatcher.run(), name="dispatcher")
            others = [
                group.create_task(core.dispatcher.watch(), name="watch"),
                group.create_task(parts.recorder.run(), name="status"),
                group.create_task(parts.pruner.run(), name="pruning"),
                group.create_task(self._reloader(parts).run(), name="pairs"),
                group.create_task(core.forgetter.run(), name="forgetting"),
                group.create_task(core.backfills.run(), name="backfills"),
                group.create_task(core.memberships.run(), name="memberships"),
                group.create_task(core.moderation.bans.run(), name="bans"),
                group.create_task(parts.lookups.run(), name="directory of rooms"),
                group.create_task(core.operators.run(), name="operators"),
                group.create_task(self._look_around(parts), name="findings"),
                group.create_task(self._save_memory(core), name="memory"),
            ]
            if parts.web is not None:
                # The one that this one stood by for may be stopped, and still have the address.
                serving = serve_when_free(parts.web, self._clock) if self.standby or self.is_tenant else parts.web.run()
                others.append(group.create_task(serving, name="web"))
            await parts.handover.watch()
            others += [
                group.create_task(self._supervise(parts.matrix, core), name=str(parts.matrix.platform)),
                group.create_task(self._supervise(parts.discord, core, parts.claims), name=str(parts.discord.platform)),
                group.create_task(parts.claims.run(), name="claims"),
            ]
            await self._stopped.wait()
            self._accepted_before = self._accepted(core)
            _log.info("stopping: finishing what is in flight")
            until = self._ends_until = self._clock.monotonic() + _SHUTDOWN_SECONDS
            async with parts.handover.resting(_REST_SECONDS) as rests:
                for task in others:
                    task.cancel()
                await asyncio.wait(others, timeout=_REST_SECONDS)
            core.dispatcher.stop()
            _, unfinished = await asyncio.wait((dispatcher,), timeout=max(0.0, until - self._clock.monotonic()))
            for task in unfinished:
                _log.warning("gave up waiting for what was in flight", seconds=_SHUTDOWN_SECONDS)
                task.cancel()
            if rests:
                await self._give_up_claims(parts)

    def _reloader(self, parts: Parts) -> Reloader:
        return Reloader(
            declared=parts.declared,
            started_with=self.settings,
            saved=self.saved,
            config=self.config,
            read=self.reload,
            read_now=self._reload_now,
            restart=self.stop if self.is_tenant else None,
            core=parts.core,
            claims=parts.claims,
            handover=parts.handover,
            lookups=parts.lookups,
        )

    async def _save_memory(self, core: Core) -> None:
        """Once both sides are ready, most of what stays is there. Later, give back what a burst has left."""
        while any(side.state != "ready" for side in core.status.sides().values()):
            await core.status.news.wait(self._clock, _LOOK_SOON_SECONDS)
        # What belongs to a tenant ends with it, before the process does.
        if not self.is_tenant:
            settle()
        while True:
            give_back()
            await self._clock.sleep(_LOOK_AGAIN_SECONDS)

    async def _give_up_claims(self, parts: Parts) -> None:
        """Let another relay that waits go on where this one ends, in all pairs in which nothing is left to do."""
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS):
                keys = await parts.handover.idle(parts.claims.held)
                await parts.claims.give_up(await parts.handover.positions(keys))
        except (Transient, NoRegister, StoreUnavailable, TimeoutError) as error:
            _log.info("other relays are not told that this one has ended", reason=str(error) or "no answer in time")

    async def _supervise(self, adapter: Adapter, core: Core, claims: Claims | None = None) -> None:
        """Run an adapter. An unexpected error does not end the daemon: it is logged, and the adapter starts again.

        `claims`: it is not started before it is known what other relays hold.
        """
        if claims is not None:
            await claims.begun.wait()
        backoff = Backoff(self._rng)
        while True:
            try:
                await adapter.run(core.inbox)
            except RelayError:
                raise
            except Exception:  # noqa: BLE001 - the top of a worker
                tries = backoff.tries + 1
                _log.exception("adapter failed; starting it again", platform=str(adapter.platform), tries=tries)
            await self._clock.sleep(backoff.next())

    # --- What `relay check` looks at too ------------------------------------------------------------------

    async def _look_around(self, parts: Parts) -> None:
        """Look at what takes no request to anybody, at the start and now and then: the status and the log say it."""
        declared, told = parts.declared, set[Finding]()
        while True:
            found = await asyncio.to_thread(local_findings, declared.settings, self.config)
            pairs = pairs_finding(declared.settings, self.config)
            if (skew := parts.discord.clock_skew()) is not None:
                found.append(clock_finding("Discord's", skew))
            parts.core.status.findings = tuple(finding for finding in found if finding.state != "ok")
            # That there are no pairs, the status says by itself.
            wanting = {finding for finding in (*found, pairs) if finding.state != "ok"}
            for finding in sorted(wanting - told, key=str):
                _log.warning("found by check", subject=finding.subject, reason=finding.words, remedy=finding.remedy)
            told = wanting
            declared.changed.clear()
            await wait_at_most(declared.changed, _LOOK_AGAIN_SECONDS if skew is not None else _LOOK_SOON_SECONDS)


async def run(make: Callable[[], Daemon], on_stop: Callable[[], None] = lambda: None) -> None:
    """Run a daemon until SIGTERM or SIGINT; SIGHUP reads its file again. Raises `RelayError` for an error that ends it.

    `make`: makes it, and once more each time that a standby has lost the store to another one. `on_stop`: is told that
    it was told to end.
    """
    loop = asyncio.get_running_loop()
    daemon = make()

    # Whichever lives then: between two of them no signal may be lost, or end the process.
    def stop() -> None:
        on_stop()
        daemon.stop()

    def read_again() -> None:
        daemon.read_again()

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: read_again}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        while True:
            try:
                with ungrouped(RelayError):
                    return await daemon.serve()
            except StoreHeld as error:
                if not daemon.standby:
                    raise
                if daemon.is_stopped:
                    # It was told so before it found out.
                    _log.info("stopped, after another process had taken over", reason=error.reason)
                    return None
                _log.warning("another process serves now; standing by again", reason=error.reason)
                settings, daemon = daemon.settings, make()
                daemon.settings = settings
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _end_of(error: Exception) -> DaemonEnd:
    """What is left to say of a daemon that an error ends. Nothing of a bug but its kind: it may hold people's words."""
    errors = list(leaves(error))
    if bug := next((one for one in errors if not isinstance(one, RelayError)), None):
        remedy = "Report the end of its log, and start it again with `relay run`."
        return DaemonEnd(f"A bug ended it ({type(bug).__name__}).", remedy)
    known = errors[0]
    if isinstance(known, FatalError | StoreError):
        return DaemonEnd(sentence(known.reason), sentence(known.remedy))
    return DaemonEnd(sentence(str(known)), "Start it again with `relay run`.")
