"""`relay run`: the daemon."""

import asyncio
import gc
import os
import signal
import sys
from functools import partial

import typer

from relay.cli.common import ConfigOption, invocation_of


def run(context: typer.Context, config: ConfigOption = None) -> None:
    """Run the daemon until SIGTERM or Ctrl-C. SIGHUP reads the pairs again."""
    # Until the daemon takes the signals over: there is nothing to finish yet, and no pairs to read again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    invocation = invocation_of(context)
    settings = invocation.load(config, daemon=True)
    from relay import app
    from relay.config.loading import load, locate

    path = locate(config or invocation.config, os.environ)
    # What was imported stays. Looking through it for garbage, which strangers can bring about with events of a thousand
    # lists, would hold the loop for a tenth of a second each time.
    gc.collect()
    gc.freeze()
    asyncio.run(app.run(settings, config=path, reload=partial(load, path, os.environ)))
