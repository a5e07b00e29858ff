"""The composition root: builds everything, owns the tasks and the shutdown. Only here are concrete classes seen."""

import asyncio
import random
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import structlog

from relay.adapters.discord.adapter import DiscordAdapter
from relay.adapters.matrix.adapter import MatrixAdapter
from relay.config.settings import Settings
from relay.core.bootstrap import Core, assemble
from relay.core.clock import Backoff, SystemClock
from relay.core.offload import Conversions
from relay.core.ports import Adapter
from relay.core.status.recorder import StatusKeeper
from relay.core.storage import Store
from relay.domain.ids import ChannelAddress
from relay.domain.pair import Pair
from relay.errors import ConfigurationError, RelayError, StoreUnavailable, ungrouped
from relay.media.library import Library
from relay.store.lease import hold
from relay.store.migrate import upgrade
from relay.store.pruning import Pruner
from relay.store.unit_of_work import open_store
from relay.web.server import WebServer

_log = structlog.get_logger(__name__)

_SHUTDOWN_SECONDS = 5.0
"""What is in flight may take this long after SIGTERM; the contract gives the whole shutdown ten seconds."""

_BUSY_SECONDS = 1.5
"""How long one statement waits for another process's transaction; a few of them have to fit into the shutdown."""

_RELOAD_SECONDS = 1.0


class Daemon:
    """One life of the daemon, from the settings to the last transaction.

    `reload` reads the configuration again; it raises `ConfigurationError`.
    """

    def __init__(self, settings: Settings, *, config: Path, reload: Callable[[], Settings]) -> None:
        self._settings = settings
        self._config = config
        self._reload = reload
        self._clock = SystemClock()
        self._rng = random.Random()
        self._conversions = Conversions()
        self._pairs = settings.declared_pairs()
        self._starting = True
        self._stopped = asyncio.Event()
        self._reload_now = asyncio.Event()

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT. Raises `RelayError` for what it cannot go on with."""
        with self._signals():
            try:
                await self._live()
            except asyncio.CancelledError:
                if not self._stopped.is_set():
                    raise
                _log.info("stopped before it had begun")

    async def _live(self) -> None:
        url = self._settings.store.url
        await asyncio.to_thread(upgrade, url)
        async with AsyncExitStack() as stack:
            store = await open_store(url, busy_timeout=_BUSY_SECONDS)
            stack.push_async_callback(store.close)
            lease = await stack.enter_async_context(hold(store, self._clock))
            await store.recount()
            files = Library(store=store, clock=self._clock)
            stack.push_async_callback(files.close)
            adapters = self._adapters(store, files)
            for adapter in adapters:
                stack.push_async_callback(adapter.close)
            core = assemble(
                store=store,
                pairs=self._pairs,
                adapters={adapter.platform: adapter for adapter in adapters},
                files=files,
                clock=self._clock,
                rng=self._rng,
                reconcile_window=timedelta(seconds=self._settings.store.reconcile_window),
                may_send=lease.valid,
                conversions=self._conversions,
            )
            await core.inbox.begin()
            keeper = StatusKeeper(store=store, status=core.status, dispatcher=core.dispatcher, clock=self._clock)
            await keeper.restore()
            pruner = Pruner(
                store=store,
                clock=self._clock,
                messages=self._settings.store.retention,
                dead_letters=self._settings.store.dead_letter_retention,
                discard_undeclared=core.inbox.discard_undeclared,
                declared=core.pairs.declared_channels,
                forget_counters=core.status.forget_undeclared,
            )
            await self._work(core, keeper, pruner, adapters)
            try:
                await keeper.save(running=False)
            except StoreUnavailable as error:
                _log.error("the last status could not be written", reason=error.reason)

    def _adapters(self, store: Store, files: Library) -> tuple[DiscordAdapter, MatrixAdapter]:
        adapters = (
            DiscordAdapter(
                settings=self._settings.discord,
                clock=self._clock,
                rng=self._rng,
                files=files,
                conversions=self._conversions,
            ),
            MatrixAdapter(
                settings=self._settings.matrix,
                load_session=partial(_read_note, store, "matrix session"),
                save_session=partial(_write_note, store, "matrix session"),
                clock=self._clock,
                rng=self._rng,
                catchup_limit=self._catchup_limit,
                files=files,
                conversions=self._conversions,
            ),
        )
        for adapter in adapters:
            files.serve(adapter.platform, adapter)
        return adapters

    def _catchup_limit(self, address: ChannelAddress) -> int:
        """How many missed messages a declared channel still catches up on."""
        return next((pair.policy.catchup_limit for pair in self._pairs if address in pair.sides), 0)

    async def _work(self, core: Core, keeper: StatusKeeper, pruner: Pruner, adapters: tuple[Adapter, ...]) -> None:
        """Everything that runs side by side, until it is stopped or one part cannot go on."""
        self._starting = False
        async with asyncio.TaskGroup() as group:
            dispatcher = group.create_task(core.dispatcher.run(), name="dispatcher")
            others = [
                group.create_task(keeper.run(), name="status"),
                group.create_task(pruner.run(), name="pruning"),
                group.create_task(self._keep_pairs(core, adapters), name="pairs"),
            ]
            if self._settings.web.listen:
                web = WebServer(core.status, self._settings.web.listen, self._settings.web.hosts.split(", "))
                others.append(group.create_task(web.run(), name="web"))
            for adapter in adapters:
                await adapter.watch(core.pairs.watched(adapter.platform))
                others.append(group.create_task(self._supervise(adapter, core), name=str(adapter.platform)))
            await self._stopped.wait()
            for task in others:
                task.cancel()
            core.dispatcher.stop()
            _, unfinished = await asyncio.wait((dispatcher,), timeout=_SHUTDOWN_SECONDS)
            for task in unfinished:
                _log.warning("gave up waiting for what was in flight", seconds=_SHUTDOWN_SECONDS)
                task.cancel()

    async def _supervise(self, adapter: Adapter, core: Core) -> None:
        """Run an adapter; what it cannot explain must not end the daemon."""
        backoff = Backoff(self._rng)
        while True:
            try:
                await adapter.run(core.inbox)
            except RelayError:
                raise
            except Exception:  # noqa: BLE001 - the top of a worker: it is logged, and the adapter starts again
                _log.exception("adapter failed; starting it again", platform=str(adapter.platform))
            await self._clock.sleep(backoff.next())

    # --- The pairs ----------------------------------------------------------------------------------------

    async def _keep_pairs(self, core: Core, adapters: tuple[Adapter, ...]) -> None:
        """Take over the pairs of a saved file; keep those that run when the file is broken."""
        known = seen = _stamp(self._config)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_RELOAD_SECONDS):
                    await self._reload_now.wait()
            # A file that still changes is being written: half of it would be the end of half of the pairs.
            before, seen = seen, _stamp(self._config)
            if not self._reload_now.is_set() and (seen == known or seen != before):
                continue
            self._reload_now.clear()
            known = seen
            try:
                settings = await asyncio.to_thread(self._reload)
            except ConfigurationError as error:
                for mistake in error.mistakes:
                    _log.error("configuration refused; the pairs stay as they are", mistake=str(mistake))
                continue
            await self._take_over(settings, core, adapters)

    async def _take_over(self, settings: Settings, core: Core, adapters: tuple[Adapter, ...]) -> None:
        _log_difference(core.pairs.pairs, settings.declared_pairs())
        aside = {"pairs": (), "rooms": (), "defaults": self._settings.defaults}
        if settings.model_copy(update=aside) != self._settings.model_copy(update=aside):
            _log.warning("settings other than pairs changed; they take effect when the daemon is started again")
        self._pairs = settings.declared_pairs()
        core.inbox.declare(self._pairs)
        for adapter in adapters:
            await adapter.watch(core.pairs.watched(adapter.platform))
        await core.inbox.keep_names()

    # --- Signals ------------------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        whole = asyncio.current_task()

        def stop() -> None:
            self._stopped.set()
            # Nothing is in flight yet: whatever it is waiting for (a migration, another daemon's lease) can be left.
            if self._starting and whole is not None:
                whole.cancel()

        handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: self._reload_now.set}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)


async def run(settings: Settings, *, config: Path, reload: Callable[[], Settings]) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises `RelayError` for what it cannot go on with."""
    with ungrouped(RelayError):
        await Daemon(settings, config=config, reload=reload).run()


def _log_difference(before: Iterable[Pair], after: Iterable[Pair]) -> None:
    """A pair is its two channels: with another name it is renamed, and the name may be another pair's by now."""
    known = {pair.sides: pair for pair in before}
    declared = {pair.sides: pair for pair in after}
    for sides, pair in declared.items():
        old = known.get(sides)
        if old is None:
            _log.info("pair added", pair=pair.name)
        elif old.name != pair.name:
            _log.info("pair renamed", pair=pair.name, before=old.name)
        if old is not None and replace(old, name=pair.name) != pair:
            _log.info("pair changed", pair=pair.name)
    for sides, pair in known.items():
        if sides not in declared:
            _log.info("pair removed", pair=pair.name)


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when somebody saves the file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


async def _read_note(store: Store, name: str) -> str | None:
    async with store.read() as uow:
        return await uow.key_values.get(name)


async def _write_note(store: Store, name: str, value: str) -> None:
    async with store.write() as uow:
        await uow.key_values.put(name, value)
