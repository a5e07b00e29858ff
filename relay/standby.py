"""A hot standby (`relay run --standby`): everything is loaded and the store is open, but another process serves.

It connects to no platform, and writes nothing. It looks four times a second whether the other one has ended.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from relay.config.settings import Settings, Stamp, stamp
from relay.core.ports import Clock
from relay.core.status.counters import Histogram, LimitStatus
from relay.core.status.reading import read_report
from relay.core.status.report import DaemonStatus, Report
from relay.errors import ConfigurationError, FatalError, StoreUnavailable
from relay.logs import get_logger
from relay.store.lease import Holder, last_seen, standing_by
from relay.store.unit_of_work import SqlStore
from relay.web.server import WebServer

_log = get_logger(__name__)

_LOOK_SECONDS = 0.25
_FAILED_SECONDS = 1.0
_LISTEN_AGAIN_SECONDS = 5.0


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Standby:
    """Waits until nobody holds the store, and shows meanwhile that it does. A `StatusSource` of the web server."""

    store: SqlStore
    # As they were read last; the file is read again whenever somebody saves it. `saved`: the file as it was then.
    settings: Settings
    saved: Stamp
    config: Path
    reload: Callable[[], Settings]
    # Told what was read: the log must know the secrets.
    log_with: Callable[[Settings], None]
    # Set when they are to be read again.
    reload_now: asyncio.Event
    clock: Clock
    # Whom it stands by for, in words.
    _holder: str = field(init=False, default="another process")

    async def wait(self) -> None:
        """Until the store is free. `settings` and `saved` are those of then."""
        async with self._shown(), standing_by(self.store) as look:
            tries = 0
            while True:
                try:
                    holder = await look()
                    tries = 0
                except StoreUnavailable as error:
                    tries += 1
                    _log.warning("the store does not tell who serves", reason=error.reason, tries=tries)
                    await self.clock.sleep(_FAILED_SECONDS)
                    continue
                if holder is None:
                    return
                self._tell(holder)
                if self.reload_now.is_set() or stamp(self.config) != self.saved:
                    self.reload_now.clear()
                    self.saved = stamp(self.config)
                    self.settings = await read_again(self.settings, self.reload, self.log_with)
                await self.clock.sleep(_LOOK_SECONDS)

    def _tell(self, holder: Holder) -> None:
        who = f"process {holder.pid} on {holder.host}"
        if who != self._holder:
            self._holder = who
            _log.info("standing by", serves=who, since=holder.since.isoformat())

    # --- What is shown ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _shown(self) -> AsyncIterator[None]:
        web = self.settings.web
        serving = asyncio.create_task(serve_when_free(WebServer(status=self, settings=web), self.clock), name="web")
        try:
            yield
        finally:
            serving.cancel()
            await asyncio.wait((serving,))

    async def report(self) -> Report:
        """What the store tells of the one that serves. Raises `StoreError`."""
        pairs, now = self.settings.declared_pairs(), self.clock.now()
        report = await read_report(self.store, pairs, running=True, now=now, seen=await last_seen(self.store))
        return replace(report, stands_by_for=self._holder)

    def last_report(self) -> Report:
        """Without I/O."""
        daemon = DaemonStatus(running=True)
        return Report(pairs=(), sides={}, taken_at=self.clock.now(), daemon=daemon, stands_by_for=self._holder)

    def glance(self) -> Report:
        """The same."""
        return self.last_report()

    def delivery_seconds(self) -> Mapping[str, Histogram]:
        """None: it delivers nothing."""
        return {}

    def limits(self) -> Mapping[str, LimitStatus]:
        """None: it sends nothing."""
        return {}


async def serve_when_free(web: WebServer, clock: Clock) -> None:
    """Serve until cancelled; wait while the address is in use, since the other process may have it."""
    if not web.settings.listen:
        return
    tries = 0
    while True:
        try:
            await web.run()
        except FatalError as error:
            tries += 1
            _log.warning("no status page yet", reason=error.reason, tries=tries)
            await clock.sleep(_LISTEN_AGAIN_SECONDS)


async def read_again(
    settings: Settings, reload: Callable[[], Settings], log_with: Callable[[Settings], None]
) -> Settings:
    """The settings as the file says them by now, but for the store; those from before if it has mistakes."""
    try:
        found = await asyncio.to_thread(reload)
    except ConfigurationError as error:
        for mistake in error.mistakes:
            _log.error("configuration refused; what was read before still counts", mistake=str(mistake))
        return settings
    if found.store.url != settings.store.url:
        _log.warning("another store takes effect when this standby is started again")
    log_with(found)
    _log.info("configuration read again", pairs=len(found.pairs))
    return replace(found, store=settings.store)
