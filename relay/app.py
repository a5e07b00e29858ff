"""The composition root: builds everything, owns the tasks and the shutdown. Only this module knows concrete classes."""

import asyncio
import random
import signal
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from relay.adapters.discord.adapter import DiscordAdapter
from relay.adapters.matrix.adapter import MatrixAdapter
from relay.adapters.matrix.allowance import rate_finding
from relay.config.settings import Settings, differing_keys
from relay.core.bootstrap import Core, assemble
from relay.core.claims.agreement import Claims
from relay.core.claims.handover import Handover, claim_key
from relay.core.claims.register import NoRegister
from relay.core.clock import Backoff, SystemClock
from relay.core.offload import Conversions
from relay.core.operations.channel_lookups import ChannelLookups, known_channels
from relay.core.operations.dead_letters import DeadLetters
from relay.core.operations.findings import Finding
from relay.core.ports import Adapter, Clock
from relay.core.status.counters import Status
from relay.core.status.recorder import StatusRecorder
from relay.core.status.report import STOPPED, DaemonEnd
from relay.core.storage import Store
from relay.doctor import clock_finding, local_findings, pairs_finding
from relay.domain.ids import ChannelAddress, Platform
from relay.domain.pair import Pair
from relay.errors import (
    ConfigurationError,
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
from relay.media.library import Library
from relay.media.links import SignedLinks, link_key
from relay.media.proxy import MediaProxy, stands
from relay.memory import give_back, settle
from relay.standby import Standby, serve_when_free, stamp
from relay.store.backup import restored_gap
from relay.store.lease import HeldLease, claim_of, has_ended, hold, last_seen
from relay.store.migrate import check, in_background, refuse_newer, upgrade
from relay.store.pruning import Pruner
from relay.store.unit_of_work import SqlStore, open_store
from relay.web.directory import directory_of, unmirrored
from relay.web.server import WebServer

_log = get_logger(__name__)

_SHUTDOWN_SECONDS = 5.0
"""How long messages in flight may take after SIGTERM. The whole shutdown may take ten seconds."""

_BUSY_SECONDS = 1.5
"""How long one statement waits for the transaction of another process. Several such waits must fit into a shutdown."""

_HELD_SECONDS = 1.0
"""Until a standby asks again whether the tables can be changed."""

_RELOAD_SECONDS, _SETTLE_SECONDS = 2.0, 0.5
"""Between two looks at the file with the pairs; and where it has changed, until it is looked whether it goes on to."""

_LOOK_AGAIN_SECONDS, _LOOK_SOON_SECONDS = 600.0, 30.0
"""Until the disks and the clock are looked at again; sooner as long as no platform has told its time."""

_REST_SECONDS, _GIVE_UP_SECONDS = 1.0, 2.0
"""How long the end waits until nothing is half received, and until the register of relays has taken our leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What runs side by side in the daemon."""

    core: Core
    matrix: MatrixAdapter
    discord: DiscordAdapter
    # Whether another relay on the same accounts mirrors a pair.
    claims: Claims
    handover: Handover
    recorder: StatusRecorder
    pruner: Pruner
    web: WebServer | None
    # By how many seconds our clock is ahead of a platform's; None as long as that is not known.
    clock_skew: Callable[[], float | None]
    lookups: ChannelLookups

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """Both platforms."""
        return self.discord, self.matrix


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Daemon:
    """The daemon's life, from the settings to the last transaction."""

    settings: Settings
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
    _pairs: tuple[Pair, ...] = field(init=False, default=())
    # As `settings`, with what was read when the file was saved last.
    _latest: Settings = field(init=False)
    _starting: bool = field(init=False, default=True)
    # Set when other pairs are declared.
    _changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    # Messages that the platforms had accepted when the daemon was told to stop.
    _accepted_before: int = field(init=False, default=0)
    _stopped: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _reload_now: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _main: asyncio.Task[None] | None = field(init=False, default=None)
    # How things are, once it serves.
    status: Status | None = field(init=False, default=None)

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT. Raises `RelayError` for an error that ends the daemon."""
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: self.read_again}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            await self.serve()
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    async def serve(self) -> None:
        """Work until `stop`. Raises `RelayError` for an error that ends the daemon."""
        self._main = asyncio.current_task()
        try:
            await self._live()
        except asyncio.CancelledError:
            if not self._stopped.is_set():
                raise
            _log.info("stopped before it had begun")

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
            lease, seen = await self._take(store, stack)
            parts = await self._build(store, lease, stack)
            self.status = parts.core.status
            if self.name_channels is not None:
                self.name_channels(parts.core.status.label_of)
            await parts.recorder.restore(seen)
            # From now on `relay status` can tell that it was this process that ended without a word.
            await parts.recorder.look()
            try:
                await parts.core.inbox.begin()
                await parts.core.moderation.declare(self._pairs)
                await self._work(parts)
            except Exception as error:
                await self._record_end(parts, _end_of(error))
                raise
            await self._record_end(parts, STOPPED)
            _log.info("stopped", **await self._left(parts))

    async def _upgrade(self) -> None:
        """Bring the tables to this version. A standby of a newer one has to wait for that, too."""
        tries = 0
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

    async def _take(self, store: SqlStore, stack: AsyncExitStack) -> tuple[HeldLease, datetime | None]:
        """The lease, until `stack` gives it back, and when the holder before was last seen. Raises `StoreHeld`."""
        waited = False
        while True:
            try:
                seen = await last_seen(store)
                lease = await stack.enter_async_context(hold(store, self._clock))
                if waited:
                    # The other one may have been newer.
                    schema = await in_background(check, self.settings.store.url)
                    refuse_newer(store.name, schema)
                return lease, seen
            except (StoreHeld, StoreUnavailable) as error:
                if not self.standby or (isinstance(error, StoreUnavailable) and not waited):
                    raise
                standby = Standby(
                    store=store,
                    settings=self.settings,
                    config=self.config,
                    reload=self.reload,
                    log_with=self.log_with,
                    reload_now=self._reload_now,
                    clock=self._clock,
                )
                self.settings = await standby.wait()
                waited = True

    async def _left(self, parts: _Parts) -> dict[str, int]:
        """What crossed while the daemon was stopping, and what waits for the next start."""
        try:
            report = await parts.core.status.report()
        except StoreError:
            return {}
        waiting = sum(way.backlog for pair in report.pairs for way in pair.directions.values())
        return {"finished": self._accepted(parts.core) - self._accepted_before, "waiting": waiting}

    def _accepted(self, core: Core) -> int:
        return sum(map(core.status.accepted, Platform))

    async def _record_end(self, parts: _Parts, end: DaemonEnd) -> None:
        """Leave word for `relay status`."""
        try:
            await parts.recorder.finish(end)
        except StoreError as error:
            _log.error("the last status could not be written", reason=error.reason)

    # --- What is built from what --------------------------------------------------------------------------

    async def _build(self, store: SqlStore, lease: HeldLease, stack: AsyncExitStack) -> _Parts:
        """Build everything. `stack` closes it in reverse order."""
        settings, clock, rng = self.settings, self._clock, self._rng
        self._pairs, self._latest = settings.declared_pairs(), settings
        await store.recount()
        gap = await restored_gap(store, clock)
        files = Library(store=store, clock=clock)
        stack.push_async_callback(files.close)
        conversions = Conversions()
        proxy = await self._media_proxy(store)
        discord = DiscordAdapter(
            settings=settings.discord,
            clock=clock,
            rng=rng,
            files=files,
            conversions=conversions,
            store=store,
            pictures_kept=settings.store.retention,
            links=proxy if settings.web.avatars else None,
            may_write=lease.valid,
        )
        stack.push_async_callback(discord.close)

        async def agree() -> None:
            await claims.begin()

        matrix = MatrixAdapter(
            settings=settings.matrix,
            load_session=partial(_load_value, store, "matrix session"),
            save_session=partial(_save_value, store, "matrix session"),
            catchup_limit=self._catchup_limit,
            store=store,
            has_ghosts=self._has_ghosts,
            clock=clock,
            rng=rng,
            files=files,
            conversions=conversions,
            before_reading=agree,
            may_write=lease.valid,
        )
        stack.push_async_callback(matrix.close)
        files.serve(discord.platform, discord)
        files.serve(matrix.platform, matrix)
        if proxy is not None:
            stack.push_async_callback(proxy.close)
            proxy.serve(discord.platform, discord)
            proxy.serve(matrix.platform, matrix)
        core = assemble(
            store=store,
            pairs=self._pairs,
            adapters={discord.platform: discord, matrix.platform: matrix},
            files=files,
            links=proxy,
            clock=clock,
            rng=rng,
            reconcile_window=timedelta(seconds=settings.store.reconcile_window),
            may_send=lambda: lease.valid() and claims.valid(),
            conversions=conversions,
            declared_links=settings.declared_links(),
            operators=settings.operators.places(),
            gap=gap,
        )
        core.status.learnt = partial(_rate_limit, core, settings.matrix.user_id)
        lookups = ChannelLookups(
            store=store, clock=clock, adapters={matrix.platform: matrix}, wanted=lambda: unmirrored(self._latest)
        )
        web = WebServer(
            status=core.status,
            settings=settings.web,
            files=proxy,
            letters=DeadLetters(store=store, pairs=core.pairs),
            directory=lambda: directory_of(
                self._latest, known_channels(core.pairs, core.status.channels(), lookups.known), known_only=True
            ),
        )
        handover = Handover(
            store=store, pairs=core.pairs, lanes=core.dispatcher, adapters=(discord, matrix), clock=clock
        )
        claims = Claims(
            register=matrix.register,
            switch=handover,
            clock=clock,
            backoff=Backoff(rng),
            me=claim_of(lease.holder, store),
            has_ended=has_ended,
            take_over=self.take_over,
            restored=gap is not None,
            wanted=_claimed(self._pairs),
        )
        return _Parts(
            core=core,
            matrix=matrix,
            discord=discord,
            claims=claims,
            handover=handover,
            recorder=StatusRecorder(store=store, status=core.status, clock=clock),
            pruner=Pruner(
                store=store,
                clock=clock,
                messages=settings.store.retention,
                dead_letters=settings.store.dead_letter_retention,
                discard_undeclared=core.inbox.discard_undeclared,
                declared=core.pairs.declared_channels,
                forget_counters=core.status.forget_undeclared,
            ),
            web=web if settings.web.listen else None,
            clock_skew=discord.clock_skew,
            lookups=lookups,
        )

    async def _media_proxy(self, store: Store) -> MediaProxy | None:
        """What serves files to those who have a link; None if the world does not reach us."""
        web = self.settings.web
        if not web.public_url:
            return None
        key = await link_key(store)
        links = SignedLinks(public_url=web.public_url, key=key, lifetime=web.link_lifetime, clock=self._clock)
        home = self.settings.matrix.user_id.partition(":")[2].partition(":")[0]
        return MediaProxy(links, stands=partial(stands, store), home=home)

    def _catchup_limit(self, address: ChannelAddress) -> int:
        """How many missed messages a declared channel still catches up on."""
        return next((pair.policy.catchup_limit for pair in self._pairs if address in pair.sides), 0)

    def _has_ghosts(self, address: ChannelAddress) -> bool:
        """Whether people have accounts of their own in a declared channel, where that is possible."""
        return any(pair.policy.ghosts for pair in self._pairs if address in pair.sides)

    # --- What runs side by side ---------------------------------------------------------------------------

    async def _work(self, parts: _Parts) -> None:
        """Run everything until the daemon is stopped, or one part raises an error that ends it."""
        self._starting = False
        core = parts.core
        async with asyncio.TaskGroup() as group:
            dispatcher = group.create_task(core.dispatcher.run(), name="dispatcher")
            others = [
                group.create_task(core.dispatcher.watch(), name="watch"),
                group.create_task(parts.recorder.run(), name="status"),
                group.create_task(parts.pruner.run(), name="pruning"),
                group.create_task(self._reload_pairs(parts), name="pairs"),
                group.create_task(core.forgetter.run(), name="forgetting"),
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
            until = self._clock.monotonic() + _SHUTDOWN_SECONDS
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

    async def _give_up_claims(self, parts: _Parts) -> None:
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

    async def _look_around(self, parts: _Parts) -> None:
        """Look at what takes no request to anybody, at the start and now and then: the status and the log say it."""
        told: set[Finding] = set()
        while True:
            found = await asyncio.to_thread(local_findings, self._latest, self.config)
            pairs = pairs_finding(self._latest, self.config)
            if (skew := parts.clock_skew()) is not None:
                found.append(clock_finding("Discord's", skew))
            parts.core.status.findings = tuple(finding for finding in found if finding.state != "ok")
            # That there are no pairs, the status says by itself.
            wanting = {finding for finding in (*found, pairs) if finding.state != "ok"}
            for finding in sorted(wanting - told, key=str):
                _log.warning("found by check", subject=finding.subject, reason=finding.words, remedy=finding.remedy)
            told = wanting
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_SECONDS if skew is not None else _LOOK_SOON_SECONDS):
                    await self._changed.wait()

    # --- The pairs ----------------------------------------------------------------------------------------

    async def _reload_pairs(self, parts: _Parts) -> None:
        """Use the pairs of the file whenever it is saved. A file with mistakes is refused, and the old pairs stay."""
        known = seen = stamp(self.config)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_RELOAD_SECONDS if seen == known else _SETTLE_SECONDS):
                    await self._reload_now.wait()
            # Wait until the file stops changing. Half of a file would remove half of the pairs.
            before, seen = seen, stamp(self.config)
            if not self._reload_now.is_set() and (seen == known or seen != before):
                continue
            self._reload_now.clear()
            known = seen
            try:
                settings = await asyncio.to_thread(self.reload)
            except ConfigurationError as error:
                for mistake in error.mistakes:
                    _log.error("configuration refused; the pairs stay as they are", mistake=str(mistake))
                continue
            await self._use_pairs(settings, parts)

    async def _use_pairs(self, settings: Settings, parts: _Parts) -> None:
        core = parts.core
        _log_difference(core.pairs.pairs, settings.declared_pairs())
        self._latest = settings
        without_pairs = {
            "pairs": (),
            "rooms": (),
            "people": (),
            "defaults": self.settings.defaults,
            "directory": self.settings.directory,
        }
        before, now = (one.model_copy(update=without_pairs) for one in (self.settings, settings))
        changed = differing_keys(before, now)
        if changed and self.is_tenant:
            _log.info("settings changed; starting again with them", settings=changed)
            self.stop()
            return
        if changed:
            # Only their names: some of them are secrets.
            _log.warning("settings changed; they take effect when the daemon is started again", settings=changed)
        pairs = settings.declared_pairs()
        await parts.claims.want(_claimed(pairs))
        self._pairs = pairs
        try:
            await core.moderation.declare(self._pairs)
        except StoreUnavailable as error:
            _log.warning("what policy lists said before is not known", reason=error.reason)
        core.inbox.declare(self._pairs)
        if core.people.declare(settings.declared_links()):
            _log.info("declared links changed", links=len(settings.people))
        await parts.handover.watch()
        await parts.claims.drop_unwanted(_claimed(pairs))
        await core.inbox.keep_names()
        self._changed.set()
        parts.lookups.changed.set()


async def run(make: Callable[[], Daemon]) -> None:
    """Run a daemon until SIGTERM or SIGINT. Raises `RelayError` for an error that ends it.

    `make`: makes it, and once more each time that a standby has lost the store to another one.
    """
    while True:
        daemon = make()
        try:
            with ungrouped(RelayError):
                return await daemon.run()
        except StoreHeld as error:
            if not daemon.standby:
                raise
            _log.warning("another process serves now; standing by again", reason=error.reason)


def _rate_limit(core: Core, user: str) -> tuple[Finding, ...]:
    """How many messages the homeserver takes from the account, once it has refused some."""
    seconds = core.dispatcher.budgets.learnt(Platform.MATRIX)
    return (rate_finding(user, seconds),) if seconds else ()


def _claimed(pairs: Iterable[Pair]) -> frozenset[str]:
    """The claims of these pairs; nobody mirrors an archived one."""
    return frozenset(claim_key(pair) for pair in pairs if pair.destinations)


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


def _log_difference(before: Iterable[Pair], after: Iterable[Pair]) -> None:
    """Log what changed. A pair is identified by its two channels: under another name it was renamed."""
    known = {pair.sides: pair for pair in before}
    declared = {pair.sides: pair for pair in after}
    for sides, pair in declared.items():
        old = known.get(sides)
        if old is None:
            _log.info("pair added", pair=pair.name)
        elif old.name != pair.name:
            _log.info("pair renamed", pair=pair.name, before=old.name)
        if old is not None and (changes := _changes(old, pair)):
            _log.info("pair changed", pair=pair.name, changed=changes)
    for sides, pair in known.items():
        if sides not in declared:
            _log.info("pair removed", pair=pair.name)


def _changes(old: Pair, new: Pair) -> str:
    """What the operator has changed in a pair but its name, as the file calls it: `max_parts: 5 -> 7`."""
    before, after = (_settings_of(pair) for pair in (old, new))
    return ", ".join(f"{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key])


def _settings_of(pair: Pair) -> Mapping[str, str]:
    ways = {2: "both", 1: "".join(f"to_{platform}" for platform in pair.destinations), 0: "none (archived)"}
    values = {"direction": ways[len(pair.destinations)], "paused": pair.paused, **asdict(pair.policy)}
    return {key: _written(value) for key, value in values.items()}


def _written(value: object) -> str:
    return ", ".join(sorted(map(str, value))) if isinstance(value, frozenset) else str(value)


async def _load_value(store: Store, key: str) -> str | None:
    async with store.read() as uow:
        return await uow.key_values.get(key)


async def _save_value(store: Store, key: str, value: str) -> None:
    async with store.write() as uow:
        await uow.key_values.put(key, value)
