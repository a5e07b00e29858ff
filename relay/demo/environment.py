"""Everything that the demo runs on, started in order and stopped in the reverse one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from relay.demo.configuration import GHOST_PREFIX, Configuration
from relay.demo.daemon import DaemonProcess
from relay.demo.feed import Feed
from relay.demo.homeserver import Homeserver, free_port
from relay.demo.script.edge_cases import edges
from relay.demo.script.files import files
from relay.demo.script.opening import introduce
from relay.demo.script.people import people
from relay.demo.script.runner import Line, Mismatch, ScriptRun
from relay.demo.script.structured import more
from relay.demo.script.talk import talk
from relay.demo.sides.base import ChangeSignal
from relay.demo.sides.discord import DiscordSide
from relay.demo.sides.matrix import RELAY, MatrixSide
from relay.domain.jsontext import Json
from relay.logs import get_logger
from relay.sandbox.server import SandboxServer

_log = get_logger(__name__)

Step = Callable[[str], AbstractContextManager[None]]
"""Brackets one step of the start; its name is for people."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What the demo runs on."""

    discord: DiscordSide
    matrix: MatrixSide
    daemon: DaemonProcess
    feed: Feed
    changes: ChangeSignal
    configuration: Configuration

    def new_run(self) -> ScriptRun:
        """What playing the script once needs."""
        return ScriptRun(self.discord, self.matrix, self.daemon, self.changes, ghosts=self.ghosts is True)

    @property
    def ghosts(self) -> bool | None:
        """Whether people of Discord have accounts of their own on the homeserver; None if they cannot have any."""
        return self.configuration.ghosts if self.configuration.can_ghosts else None

    async def use_ghosts(self, ghosts: bool) -> None:
        """Give them accounts of their own from the next message on, or take them away: a setting of the pair."""
        if self.ghosts in (None, ghosts):
            return
        self.configuration.ghosts = ghosts
        before = self.daemon.logged("pair changed")
        await asyncio.to_thread(self.configuration.write)
        await self.daemon.until_logged("pair changed", before + 1)
        self.feed.tell("ghosts", ghosts)


def script() -> tuple[Line, ...]:
    """The whole script."""
    return (*talk(), *people(), *more(), *files(), *edges())


@asynccontextmanager
async def running_environment(directory: Path, step: Step, *, ghosts: bool = False) -> AsyncIterator[Environment]:
    """Start everything, with all its files in `directory`. Raises `FatalError` where a part does not come up.

    `ghosts`: with a registration on the homeserver, by which people of Discord have accounts of their own there.
    """
    changes = ChangeSignal()
    async with AsyncExitStack() as stack:
        with step("Discord sandbox"):
            server = await stack.enter_async_context(SandboxServer(directory=directory))
            discord = DiscordSide(server, changes.notify)
        settings: Json = {}
        configuration = Configuration(directory=directory, user_id=f"@{RELAY}:localhost", can_ghosts=ghosts)
        if ghosts:
            with step("relay registration"):
                settings = {"app_service_config_files": [str(await configuration.registration())]}
        homeserver = Homeserver(directory / "homeserver", settings=settings)
        # What is about to be removed need not be put in order first.
        stack.push_async_callback(homeserver.kill)
        with step("homeserver (Synapse)"):
            await homeserver.start()
        with step("accounts and rooms"):
            prefix = GHOST_PREFIX if ghosts else None
            matrix = await stack.enter_async_context(MatrixSide(homeserver, changes.notify, prefix))
        with step("relay.toml"):
            configuration.discord = {"token": discord.app.token, "api_url": server.api_url}
            configuration.matrix = {"homeserver_url": homeserver.url, "access_token": matrix.relay_token}
            # Links to files that are too large for the other side lead to the daemon: its port has to be known before.
            listen = f"127.0.0.1:{free_port()}"
            configuration.web = {"listen": listen, "public_url": f"http://{listen}"}
            configuration.pair = {"discord_channel": str(discord.channel.id), "matrix_room": matrix.alias}
            await asyncio.to_thread(configuration.write)
        with step("daemon (relay run)"):
            daemon = await stack.enter_async_context(DaemonProcess(configuration.path))
            await daemon.wait_until_ready()
        await stack.enter_async_context(_at_work("demo room", matrix.follow()))
        # Where nothing crosses, the page shows what is wrong better than an error here.
        with suppress(Mismatch), step("faces"):
            await introduce(ScriptRun(discord, matrix, daemon, changes))
        feed = Feed({"discord": discord, "matrix": matrix}, daemon, changes, await daemon.counters())
        await stack.enter_async_context(_at_work("demo feed", feed.run()))
        yield Environment(discord, matrix, daemon, feed, changes, configuration)


@asynccontextmanager
async def _at_work(name: str, work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """A task that lasts as long as the block. No TaskGroup: that would wrap an error of the block in a group."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_report)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.exception("a part of the demo broke off", error, part=task.get_name())
