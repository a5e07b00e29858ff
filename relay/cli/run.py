"""`relay run`: the daemon."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from relay.cli.common import Invocation, run_async
from relay.errors import RelayError
from relay.memory import begin, import_libraries, import_without_docstrings, settle

if TYPE_CHECKING:
    from relay.config.tenants import Host

_AT_LAST_SECONDS = 20.0
"""After SIGTERM. The end takes ten at most, and more only where the processor is busy with other things."""


def run_daemon(invocation: Invocation, *, take_over: bool = False, standby: bool = False) -> None:
    """Run the daemon until SIGTERM or Ctrl-C. SIGHUP reads the pairs again."""
    # Until the daemon handles the signals itself: it has nothing to finish yet, and no pairs to read again. Not by an
    # exception: it may come up in what a library does while it is imported, and some of that swallows every exception.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    import_without_docstrings()
    from relay.config import child
    from relay.config.settings import Settings, locate, stamp

    path = locate(invocation.config, os.environ)
    saved = stamp(path)
    reading = child.begin(path)
    import_libraries()  # takes longer than reading
    settings = reading.result()
    from relay import app

    if not isinstance(settings, Settings):
        _run_tenants(invocation, settings)
        return
    invocation.use(settings, daemon=True)
    settle()
    begin()
    names = invocation.channel_names
    make = partial(
        app.Daemon,
        settings=settings,
        saved=saved,
        config=path,
        reload=partial(child.read_again, path),
        name_channels=None if names is None else names.use,
        take_over=take_over,
        standby=standby,
        log_with=partial(invocation.log_with, daemon=True),
    )
    with _last_line():
        run_async(app.run(make, on_stop=_end_at_last))


@contextmanager
def _last_line() -> Iterator[None]:
    """Whoever collects the log has in it why the daemon ended. On a terminal the line below the log says that."""
    from relay import logs

    try:
        yield
    except RelayError as error:
        if logs.is_for_programs():
            logs.get_logger(__name__).error("the daemon cannot go on", reason=str(error), status=error.exit_status)
        raise


def _run_tenants(invocation: Invocation, host: "Host") -> None:
    """Serve the tenants of a configuration that has some. `--standby` is not needed: each process takes its share."""
    from relay import logs
    from relay.tenants import Tenants, workers_on

    names = logs.ChannelNames()
    # One for all tenants: each of its lines may be about any of them.
    hide = invocation.redact = logs.Redactor(host.settings.secrets())
    logs.configure(host.settings.log.level, host.settings.log.format, hide, names=names)
    settle()
    tenants = Tenants(
        files=host.files,
        load=host.load,
        hide=hide.learn,
        name_channels=names.use,
        workers=workers_on(host.settings.store.url),
        web=host.settings.web,
        on_stop=_end_at_last,
    )
    with _last_line():
        run_async(tenants.run())


def _end_at_last() -> None:
    """Let the process end after a while, also where a task does not: one that swallows its cancellation, say."""
    asyncio.get_running_loop().call_later(_AT_LAST_SECONDS, _end_now)


def _end_now() -> None:
    from relay.cli import BUG_STATUS
    from relay.logs import get_logger

    names = sorted(task.get_name() for task in asyncio.all_tasks())
    words = "it is ended while tasks still run: this is a bug in relay; please report this line"
    get_logger(__name__).error(words, tasks=", ".join(names))
    os._exit(BUG_STATUS)
