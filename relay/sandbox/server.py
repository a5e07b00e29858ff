"""The sandbox as a running server, and what it is put together from."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from relay.sandbox.control.base import Parts
from relay.sandbox.control.http import Control, ControlRoutes
from relay.sandbox.control.journal import Journal
from relay.sandbox.faults import Faults
from relay.sandbox.gateway.server import Gateway
from relay.sandbox.gateway.sessions import Sessions
from relay.sandbox.interactions.commands import Commands
from relay.sandbox.interactions.interactions import Interactions
from relay.sandbox.messages.messages import Messages
from relay.sandbox.messages.reactions import Reactions
from relay.sandbox.messages.threads import Threads
from relay.sandbox.rate_limits import Limits
from relay.sandbox.rest.api import PREFIX, Api
from relay.sandbox.rest.avatars import AvatarFetcher
from relay.sandbox.rest.cdn import Cdn
from relay.sandbox.rest.channels import ChannelRoutes
from relay.sandbox.rest.commands import CommandRoutes
from relay.sandbox.rest.emojis import EmojiRoutes
from relay.sandbox.rest.guilds import BotRoutes, GuildRoutes
from relay.sandbox.rest.interactions import InteractionRoutes
from relay.sandbox.rest.messages import MessageRoutes
from relay.sandbox.rest.webhooks import WebhookRoutes, Webhooks
from relay.sandbox.world.files import FileStore
from relay.sandbox.world.models import Interaction
from relay.sandbox.world.state import State

_MAX_JSON = 26 * 1024 * 1024


class SandboxServer:
    """A Discord-compatible server; an async context manager.

    `port` 0: the system chooses. `limits`: `Limits(factor=0)` turns rate limits off. `heartbeat_interval` and
    `resume_window` are in seconds; each session keeps `event_buffer` events for a resume. Uploaded files are kept in
    `directory`, by default a temporary one.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
        heartbeat_interval: float = 41.25,
        resume_window: float = 180.0,
        event_buffer: int = 5000,
        directory: Path | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.limits = limits if limits is not None else Limits()
        self.state = State(clock)
        self.files = FileStore(directory)
        self.faults = Faults()
        self.api = Api(self.state, self.files, self.faults, self.limits)
        self.messages = Messages(self.state)
        self.reactions = Reactions(self.messages)
        self.threads = Threads(self.messages)
        self.webhooks = Webhooks(self.state)
        self.sessions = Sessions(self.state, self.limits, resume_window=resume_window, buffer_size=event_buffer)
        self.gateway = Gateway(self.sessions, self.faults, heartbeat_interval)
        self.journal = Journal(self.state)
        self.gateway.listeners.append(lambda entry: self.journal.add("SANDBOX_GATEWAY", entry))
        self.commands = Commands(self.state)
        self.interactions = Interactions(self.messages, self._tell_interaction)
        self.avatars = AvatarFetcher(self.state, self.files, lambda seen: self.journal.add("SANDBOX_AVATAR", seen))
        parts = Parts(
            self.state,
            self.files,
            self.api,
            self.messages,
            self.reactions,
            self.threads,
            self.webhooks,
            self.interactions,
            self.gateway,
            self.journal,
            self.limits,
        )
        self.control = Control(parts)
        self._control_routes = ControlRoutes(self.control, parts)
        self._runner: web.AppRunner | None = None

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://{self.host}:{self.port}"

    @property
    def api_url(self) -> str:
        """Where the REST API starts: what `discord.api_url` is set to."""
        return self.origin + PREFIX

    @property
    def control_url(self) -> str:
        """Where the control interface starts."""
        return self.origin + "/_sandbox"

    async def start(self) -> None:
        """Listen. Returns once the port is open."""
        application = web.Application(client_max_size=_MAX_JSON)
        self._register(application.router)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.state.signer.origin = self.origin
        self.avatars.start()
        self.sessions.gateway_url = f"ws://{self.host}:{self.port}"

    async def stop(self) -> None:
        """Close every connection and remove the files."""
        for connection in tuple(self.gateway.connections):
            connection.close(1001)
        await asyncio.sleep(0)
        await self.avatars.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        self.files.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _tell_interaction(self, interaction: Interaction) -> None:
        guild = self.state.channel(interaction.channel_id).guild_id
        seen = self.control.interaction(interaction.id)
        self.journal.add("SANDBOX_INTERACTION", seen, str(guild), str(interaction.channel_id))

    def _register(self, router: web.UrlDispatcher) -> None:
        BotRoutes(self.api, self.sessions).register(router)
        GuildRoutes(self.api).register(router)
        ChannelRoutes(self.api, self.threads).register(router)
        MessageRoutes(self.api, self.messages, self.reactions).register(router)
        interactions = InteractionRoutes(self.api, self.interactions)
        interactions.register(router)
        WebhookRoutes(self.api, self.messages, self.webhooks, interactions).register(router)
        CommandRoutes(self.api, self.commands).register(router)
        EmojiRoutes(self.api).register(router)
        Cdn(self.api, self.state, self.faults, self.avatars).register(router)
        self._control_routes.register(router)
        router.add_get("/", self.gateway.accept)
        router.add_route("*", "/api/{tail:.*}", self.api.not_found)
