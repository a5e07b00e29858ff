"""The full stack: the Discord sandbox, a real homeserver, people on both, and the real daemon between them.

The daemon is a process of its own, started as an operator would start it. What people see is read from the
platforms themselves, never from the relay's store.
"""

import asyncio
import html
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from relay.cli.status import read_status
from relay.config.loading import load
from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person, Shown
from relay.sandbox.control.http import Control
from relay.sandbox.errors import ApiError
from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer
from tests.support import preloaded
from tests.support.patience import PATIENCE
from tests.support.store import new_store
from tests.support.timeline import Timeline

T = TypeVar("T")

# One that is stopped never answers.
_ANSWERS = aiohttp.ClientTimeout(total=30.0)


class Daemon:
    """`relay run` as a process. Started and stopped as often as a test likes, on the same store."""

    def __init__(self, config: Path, log: Path) -> None:
        self.config = config
        # Where the relay is imported from; None: this checkout.
        self.checkout: Path | None = None
        # What its environment has besides ours.
        self.environment: Mapping[str, str] = {}
        self._log = log
        # Where in the log the process that was started last begins.
        self._begins = 0
        self._process: preloaded.Process | None = None

    async def start(self, *arguments: str, ready: bool = True) -> None:
        """Start it; wait until `/readyz` answers 200."""
        with self._log.open("ab") as log:
            self._begins = log.tell()
            self._process = await preloaded.start(
                *("run", "--config", str(self.config), *arguments),
                output=log,
                checkout=self.checkout,
                environment=self.environment,
            )
        if ready:
            await self.until_ready()

    async def stop(self) -> int:
        """SIGTERM; its exit status."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> int:
        """SIGKILL."""
        return await self._end(signal.SIGKILL)

    async def exit_status(self) -> int:
        """Wait until it ends by itself."""
        assert self._process is not None
        async with asyncio.timeout(PATIENCE):
            return await self._process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Any other signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Wait until it has ended, however and whenever that is."""
        assert self._process is not None
        return await self._process.wait()

    @property
    def pid(self) -> int:
        """Its process ID."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.returncode is None

    async def ready(self) -> bool:
        """Whether `/readyz` answers 200."""
        if self._process is not None and self._process.returncode is not None:
            raise AssertionError(f"the daemon ended with {self._process.returncode}:\n{self.log()}")
        try:
            status, _ = await self.get("/readyz")
        except (aiohttp.ClientError, KeyError, TimeoutError):
            return False
        return status == 200

    async def until_ready(self) -> None:
        """Wait until `/readyz` answers 200."""
        await eventually(self.ready, bool, what=lambda: f"the daemon to be ready:\n{self.log()}")

    def rewrite(self, old: str, new: str) -> None:
        """Change its configuration as with an editor."""
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    async def get(self, path: str) -> tuple[int, str]:
        """A page of its web server."""
        async with aiohttp.ClientSession(timeout=_ANSWERS) as session, session.get(self.url + path) as answer:
            return answer.status, await answer.text()

    async def page(self) -> str:
        """The status page, as it reads."""
        return html.unescape((await self.get("/"))[1])

    async def metric(self, name: str, **labels: str) -> float:
        """One sample of `/metrics`; 0 if there is none."""
        _, text = await self.get("/metrics")
        for line in text.splitlines():
            if line.startswith(f"{name}{{") and all(f'{key}="{value}"' for key, value in labels.items()):
                head, _, value = line.rpartition(" ")
                if all(f'{key}="{wanted}"' in head for key, wanted in labels.items()):
                    return float(value)
        return 0.0

    async def relay(self, *arguments: str) -> tuple[int, str]:
        """Another command of the relay, on the same configuration; its exit status and what it printed."""
        status, output, errors = await preloaded.run(*arguments, "--config", str(self.config))
        return status, output + errors

    async def status(self) -> dict[str, Any]:
        """What `relay status --json` prints: what the daemon wrote down last. Wait for its words.

        Read in this process: that is asked again and again, and a process takes a second of a processor to start.
        """
        settings = load(self.config, os.environ)
        report = await read_status(settings.store, settings.declared_pairs())
        found: dict[str, Any] = json.loads(json.dumps(report.as_json()))
        return found

    def log(self, lines: int = 40) -> str:
        """The end of its log."""
        if not self._log.exists():
            return ""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    async def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            return await self._process.wait()

    @property
    def url(self) -> str:
        """Its web server's, found in the log: the port is the system's choice."""
        # An earlier process had another port, which may be somebody else's by now.
        with self._log.open("rb") as log:
            log.seek(self._begins)
            whole, _, _ = log.read().decode(errors="replace").rpartition("\n")  # the last line may still be written
        for line in reversed(whole.splitlines()):  # one that stood by had another
            if line.startswith("{") and (told := json.loads(line))["event"] == "status page is up":
                return str(told["url"]).rstrip("/")
        raise KeyError("no web server yet")


@dataclass(slots=True)
class FullStack:
    """Everything. `channels` and `rooms` by the name of their pair; `ada` writes on Discord, `mia` on Matrix."""

    folder: Path
    sandbox: SandboxServer
    homeserver: Homeserver
    bot_token: str
    guild: str
    bot: str
    channels: dict[str, str]
    rooms: dict[str, str]
    people: dict[str, str]
    mia: Person
    relay_user: str
    relay_token: str
    daemon: Daemon
    store_url: str
    pair_settings: dict[str, str] = field(default_factory=dict)

    @property
    def control(self) -> Control:
        """What can be done to the sandbox."""
        return self.sandbox.control

    def write_config(
        self, *, pairs: Sequence[str] | None = None, extra: str = "", homeserver_url: str | None = None
    ) -> Path:
        """Write `relay.toml` for these pairs (all of them by default).

        `homeserver_url`: of what stands in front of the homeserver.
        """
        lines = [
            "[discord]",
            f'token = "{self.bot_token}"',
            f'api_url = "{self.sandbox.api_url}"',
            "[matrix]",
            f'homeserver_url = "{homeserver_url or self.homeserver.url}"',
            f'user_id = "{self.relay_user}"',
            f'access_token = "{self.relay_token}"',
            "[store]",
            f'url = "{self.store_url}"',
            "[web]",
            'listen = "127.0.0.1:0"',
            extra,
        ]
        for name in pairs if pairs is not None else self.channels:
            lines += [
                "[[pairs]]",
                f'name = "{name}"',
                f"discord_channel = {self.channels[name]}",
                f'matrix_room = "{self.rooms[name]}"',
                self.pair_settings.get(name, ""),
            ]
        self.daemon.config.write_text("\n".join(lines) + "\n")
        return self.daemon.config

    def leaked(self) -> list[str]:
        """Which of the secrets that the daemon knows are in its log."""
        hooks = [hook for channel in self.channels.values() for hook in self._webhooks(channel)]
        secrets = [self.bot_token, self.relay_token, *(hook["token"] for hook in hooks)]
        log = self.daemon.log(1_000_000)
        return [secret for secret in secrets if secret in log]

    def _webhooks(self, channel: str) -> list[dict[str, Any]]:
        try:
            return self.control.webhooks(channel)
        except ApiError:  # the channel is gone, or never was
            return []

    # --- What readers see ---------------------------------------------------------------------------------

    def on_discord(self, pair: str) -> list[dict[str, Any]]:
        """The messages of a pair's channel, oldest first, as Discord shows them."""
        return self.control.messages(self.channels[pair])

    async def on_matrix(self, pair: str) -> list[Shown]:
        """The messages of a pair's room, oldest first, as a client shows them, without redacted ones."""
        return [message for message in await self.mia.messages(self.rooms[pair]) if not message.redacted]

    async def discord_words(self, pair: str) -> list[str]:
        """The words on Discord."""
        return [message["content"] for message in self.on_discord(pair)]

    async def matrix_words(self, pair: str) -> list[str]:
        """The words on Matrix, without the fallback of the sender's name."""
        return [_own_words(message) for message in await self.on_matrix(pair)]

    async def until_discord(self, pair: str, check: Callable[[list[str]], bool]) -> list[str]:
        """Wait for what is to be seen on Discord."""
        return await eventually(lambda: self.discord_words(pair), check, what=self.daemon.log)

    async def until_matrix(self, pair: str, check: Callable[[list[str]], bool]) -> list[str]:
        """Wait for what is to be seen on Matrix."""
        heard, timeline = self.mia.heard, Timeline(self.mia, self.rooms[pair])

        async def something() -> None:
            nonlocal heard
            heard = await self.mia.listen(heard, seconds=1.0)

        async def words() -> list[str]:
            found = [_own_words(message) for message in await timeline.read() if not message.redacted]
            # In the end as somebody sees it who comes just then.
            return await self.matrix_words(pair) if check(found) else found

        return await eventually(words, check, what=self.daemon.log, until=something)

    async def until_status(self, check: Callable[[dict[str, dict[str, Any]]], bool]) -> dict[str, dict[str, Any]]:
        """Wait for what `relay status` says of the pairs, by their names."""

        async def pairs() -> dict[str, dict[str, Any]]:
            return {pair["name"]: pair for pair in (await self.daemon.status())["pairs"]}

        return await eventually(pairs, check, what=self.daemon.log)

    async def until_metric(self, name: str, at_least: float, **labels: str) -> None:
        """Wait for a sample of `/metrics`."""
        await eventually(
            lambda: self.daemon.metric(name, **labels), lambda seen: seen >= at_least, what=self.daemon.log
        )

    async def until_struck(self, times: int = 1) -> None:
        """Wait until the fault that was armed last has struck so many requests."""

        async def fired() -> int:
            return int(self.control.faults()["rest"][-1]["fired"])

        await eventually(fired, lambda seen: seen >= times, what=self.daemon.log)

    # --- What people do -----------------------------------------------------------------------------------

    def say(self, pair: str, text: str, *, who: str = "Ada", **more: Any) -> str:
        """Somebody writes on Discord; the message's ID."""
        return str(self.control.say(self.channels[pair], self.people[who], text, **more)["id"])

    async def tell(self, pair: str, text: str) -> str:
        """Mia writes on Matrix; the event's ID."""
        return await self.mia.text(self.rooms[pair], text)

    async def talk(self, *words: str) -> None:
        """The same words on both sides of `help`, `d` in front of those on Discord and `m` in front of the others."""
        for word in words:
            self.say("help", f"d {word}")
            await self.tell("help", f"m {word}")

    async def crossed(self, *words: str) -> None:
        """Wait until the last of these words of `talk` has crossed both ways; each is there once, in order."""
        on_matrix, on_discord = [f"d {word}" for word in words], [f"m {word}" for word in words]
        await self.until_matrix("help", lambda seen: on_matrix[-1] in seen)
        await self.until_discord("help", lambda seen: on_discord[-1] in seen)
        assert [word for word in await self.matrix_words("help") if word.startswith("d ")] == on_matrix
        assert [word for word in await self.discord_words("help") if word.startswith("m ")] == on_discord


def _own_words(message: Shown) -> str:
    prefix = f"{message.name}: "
    return message.body.removeprefix(prefix) if message.name else message.body


async def eventually(
    look: Callable[[], Awaitable[T]],
    check: Callable[[T], bool],
    *,
    what: Callable[[], str] = lambda: "",
    patience: float = PATIENCE,
    until: Callable[[], Awaitable[None]] | None = None,
) -> T:
    """Look again and again until `check` is satisfied; what was seen then. Fails with what was seen last.

    `until`: waits until there may be something new to see.
    """
    loop = asyncio.get_running_loop()
    begun = loop.time()
    deadline = begun + patience
    while True:
        started = loop.time()
        seen = await look()
        if check(seen):
            return seen
        if loop.time() > deadline:
            raise AssertionError(f"still {seen!r}\n{what()}")
        if until is not None:
            await until()
        else:
            # Looking costs the homeserver, too: it must not be kept from its work by being watched. What takes long is
            # looked at less often: a test that waits for a minute was a third of its homeserver's work.
            waited, took = started - begun, loop.time() - started
            await asyncio.sleep(max(0.05, 2 * took, min(0.5, waited / 8)))


@asynccontextmanager
async def stack(
    folder: Path,
    homeserver: Homeserver,
    pairs: Sequence[str] = ("help",),
    *,
    lift_limits: bool = True,
    store_url: str | None = None,
    **sandbox: Any,
) -> AsyncIterator[FullStack]:
    """A stack with these pairs; the daemon is configured but not started.

    `store_url`: of its store, by default a new file. `lift_limits`: whether the homeserver's admin lets the relay's
    account send as much as it wants.
    """
    tag = os.urandom(4).hex()
    relay_token = await homeserver.register(f"relay-{tag}")
    if lift_limits:
        await homeserver.lift_limits(f"relay-{tag}")
    mia_token = await homeserver.register(f"mia-{tag}", displayname="Mia")
    relay_user, mia_user = (f"@{name}-{tag}:{homeserver.server_name}" for name in ("relay", "mia"))
    async with AsyncExitStack() as exits:
        # Discord lets a bot identify once in five seconds; a test that restarts it need not wait for that.
        sandbox.setdefault("limits", Limits(identify_every=0))
        server = await exits.enter_async_context(SandboxServer(**sandbox))
        made = server.control.bootstrap(channels=list(pairs), people=["Ada", "Ben"])
        mia = await exits.enter_async_context(Person(homeserver.url, mia_user, mia_token))
        rooms = {name: await mia.create_room(name, invite=[relay_user]) for name in pairs}
        daemon = Daemon(folder / "relay.toml", folder / "relay.log")
        found = FullStack(
            folder=folder,
            sandbox=server,
            homeserver=homeserver,
            bot_token=made["token"],
            guild=made["guild"],
            bot=made["bot"],
            channels=made["channels"],
            rooms=rooms,
            people=made["people"],
            mia=mia,
            relay_user=relay_user,
            relay_token=relay_token,
            daemon=daemon,
            store_url=store_url or new_store(folder),
        )
        found.write_config()
        try:
            yield found
            assert not found.leaked(), "a secret is in the daemon's log"
        finally:
            # A test may have put another one in its place.
            for each in {daemon, found.daemon}:
                if each.running:
                    await each.kill()
