"""`python -m relay.sandbox`: the server as a process of its own, until SIGTERM or SIGINT."""

import argparse
import asyncio
import errno
import json
import os
import signal
import sys
from typing import Any

from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer

_HIGHEST_PORT = 65535


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m relay.sandbox", description="A Discord-compatible server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_port, default=0, help="0: chosen by the system")
    parser.add_argument("--print-ready", action="store_true", help="print one JSON line once it listens")
    parser.add_argument("--limit-factor", type=float, default=1.0, help="multiplies every rate limit; 0: no limits")
    parser.add_argument("--identify-every", type=float, default=5.0, help="seconds between two IDENTIFYs of a bot")
    parser.add_argument("--heartbeat-interval", type=float, default=41.25, help="seconds")
    parser.add_argument("--resume-window", type=float, default=180.0, help="seconds that a lost session is kept")
    parser.add_argument("--bootstrap", action="store_true", help="make a guild, a channel, two people and a bot")
    return parser.parse_args()


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > _HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is no number up to {_HIGHEST_PORT}")
    return int(text)


async def _serve(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = SandboxServer(
        arguments.host,
        arguments.port,
        limits=Limits(factor=arguments.limit_factor, identify_every=arguments.identify_every),
        heartbeat_interval=arguments.heartbeat_interval,
        resume_window=arguments.resume_window,
    )
    async with server:
        ready: dict[str, Any] = {"url": server.origin, "api_url": server.api_url, "control_url": server.control_url}
        ready |= {"gateway_url": server.sessions.gateway_url}
        if arguments.bootstrap:
            ready |= {"world": server.control.bootstrap()}
        if arguments.print_ready:
            sys.stdout.write(json.dumps(ready) + "\n")
            sys.stdout.flush()
        else:
            where = f"its API at {server.api_url}, what changes its world at {server.control_url}"
            sys.stderr.write(f"The sandbox is at {server.origin}: {where}. Ctrl-C ends it.\n")
        await stop.wait()


def main() -> None:
    """Run it."""
    arguments = _arguments()
    try:
        asyncio.run(_serve(arguments))  # noqa: TID251 - it imports nothing of relay
    except OSError as error:
        # Newer Pythons give no number where none of a host's addresses is this machine's.
        number = errno.EADDRNOTAVAIL if error.errno is None else error.errno
        reason = os.strerror(number).lower() if number > 0 else error.strerror
        sys.exit(f"{arguments.host}:{arguments.port} cannot be used: {reason}; name another port, or host")


if __name__ == "__main__":
    main()
