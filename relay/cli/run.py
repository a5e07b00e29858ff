"""`relay run`: the daemon."""

import asyncio
import gc
import os
import signal
from functools import partial

from relay.cli.common import Invocation


def run_daemon(invocation: Invocation, *, take_over: bool = False, standby: bool = False) -> None:
    """Run the daemon until SIGTERM or Ctrl-C. SIGHUP reads the pairs again."""
    # Until the daemon handles the signals itself: it has nothing to finish yet, and no pairs to read again. Not by an
    # exception: it may come up in what a library does while it is imported, and some of that swallows every exception.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = invocation.load(invocation.config, daemon=True)
    from relay import app
    from relay.config.loading import load, locate

    path = locate(invocation.config, os.environ)
    # Imported modules are never garbage. Scanning them would block the event loop for 0.1 s each time, and strangers
    # can trigger a scan with events that contain a thousand lists.
    gc.collect()
    gc.freeze()
    names = invocation.channel_names
    make = partial(
        app.Daemon,
        settings=settings,
        config=path,
        reload=partial(load, path, os.environ),
        name_channels=None if names is None else names.use,
        take_over=take_over,
        standby=standby,
        log_with=partial(invocation.log_with, daemon=True),
    )
    asyncio.run(app.run(make))
