"""A real homeserver (Synapse) as a process of our own, for the demo, the tests and the benchmarks.

It listens on 127.0.0.1 only, federates with nobody and keeps everything in one directory. Synapse comes with the
extra `demo` (`pip install '.[demo]' in a checkout`).
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import importlib.util
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self
from urllib.parse import quote

import aiohttp

from relay.domain.jsontext import Json
from relay.errors import FatalError

# The homeserver's process reads its standard input: at the end of it, the process that started it is gone, in whatever
# way. A parent-death signal would follow the thread that started it, not the process.
_SUPERVISED = """
import os, runpy, signal, sys, threading

def watch():
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=watch, daemon=True).start()
sys.argv = ["synapse.app.homeserver", *sys.argv[1:]]
runpy.run_module("synapse.app.homeserver", run_name="__main__", alter_sys=True)
"""

_UNLIMITED = {"per_second": 100_000, "burst_count": 100_000}
_RAISED: Json = {
    "rc_message": _UNLIMITED,
    "rc_registration": _UNLIMITED,
    "rc_login": {"address": _UNLIMITED, "account": _UNLIMITED, "failed_attempts": _UNLIMITED},
    "rc_admin_redaction": _UNLIMITED,
    "rc_joins": {"local": _UNLIMITED, "remote": _UNLIMITED},
    "rc_joins_per_room": _UNLIMITED,
    "rc_invites": {"per_room": _UNLIMITED, "per_user": _UNLIMITED, "per_issuer": _UNLIMITED},
    "rc_media_create": _UNLIMITED,
    "rc_room_creation": _UNLIMITED,
    "rc_profile": _UNLIMITED,
}
_REQUEST = aiohttp.ClientTimeout(total=30)


class Process(Protocol):
    """What is needed of its process; `subprocess.Popen` has it."""

    @property
    def pid(self) -> int:
        """Its process ID, and that of its group."""

    @property
    def stdin(self) -> IO[bytes] | None:
        """What it ends with, if anything."""

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, at its end. Raises `subprocess.TimeoutExpired`."""

    def send_signal(self, number: int, /) -> None:
        """Nothing if it has ended."""


class Homeserver:
    """A Synapse that lives as long as the `async with` block, and never longer than this process.

    `directory`: where its data is; a temporary one, removed at the end, by default. `port` 0 lets the system
    choose; it stays the same over restarts. `default_limits` leaves Synapse's own rate limits as they ship;
    otherwise they are out of the way. `settings` is laid over `homeserver.yaml`. Bound to no event loop.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int = 0,
        server_name: str = "localhost",
        default_limits: bool = False,
        settings: Json | None = None,
        start_timeout: float = 120.0,
    ) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._given = directory
        self._directory: Path | None = directory
        self._port = port
        self._port_is_given = port != 0
        self._server_name = server_name
        self._default_limits = default_limits
        self._settings = settings or {}
        self._start_timeout = start_timeout
        self._secret = secrets.token_urlsafe(24)
        self._process: Process | None = None
        self._admin_token = ""

    @property
    def url(self) -> str:
        """Its base URL, without a slash at the end."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def server_name(self) -> str:
        """The part behind the colon in its user IDs and aliases."""
        return self._server_name

    @property
    def directory(self) -> Path:
        """Where its configuration, database, media and log are."""
        if self._directory is None:
            raise RuntimeError("the homeserver has not been started")
        return self._directory

    @property
    def log(self) -> Path:
        """What it wrote to its standard output and error, over all starts."""
        return self.directory / "homeserver.log"

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- The process --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start it and return once it answers: on the first call and after `stop` or `kill`, with the same data.

        Raises `FatalError` where Synapse is not installed or does not come up, with the last lines of its log.
        """
        if self.running:
            return
        if importlib.util.find_spec("synapse") is None:
            raise FatalError("Synapse is not installed", "install it with: pip install '.[demo]' in a checkout")
        for attempt in range(3):
            await asyncio.to_thread(self._prepare, attempt)
            self._launch()
            try:
                await self._answering()
            except FatalError:
                await self.kill()
                # Another process may have taken the port between choosing and binding it.
                if attempt == 2 or self._port_is_given or "Address already in use" not in self.last_lines(40):
                    raise
            except BaseException:
                await self.kill()
                raise
            else:
                self._port_is_given = True
                return

    async def stop(self) -> None:
        """Stop it (SIGTERM; SIGKILL after 15 s). Its data stays."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, 15)
        except subprocess.TimeoutExpired:
            await self.kill()
        self._reap()

    async def kill(self) -> None:
        """End it at once, as a crash would (SIGKILL). Its data stays."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)
        self._reap()

    async def close(self) -> None:
        """Stop it, and remove its directory if that is a temporary one."""
        # Its data is removed anyway: no need for an orderly stop.
        await (self.kill() if self._given is None else self.stop())
        if self._temporary is not None:
            await asyncio.to_thread(self._temporary.cleanup)
            self._temporary = None
            self._directory = None

    def last_lines(self, count: int = 15) -> str:
        """The end of its log."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])
        return ""

    def _prepare(self, attempt: int) -> None:
        if self._directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="relay-homeserver-", ignore_cleanup_errors=True)
            self._directory = Path(self._temporary.name)
        self._directory.mkdir(parents=True, exist_ok=True)
        if not self._port or (attempt and not self._port_is_given):
            self._port = free_port()
        secret = self._directory / "registration_secret"
        if secret.exists():
            self._secret = secret.read_text()
        secret.write_text(self._secret)
        config = self._directory / "homeserver.yaml"
        config.write_text(json.dumps(self._configuration(self._directory), indent=1))  # JSON is YAML
        (self._directory / "log.yaml").write_text(json.dumps(_LOG_CONFIGURATION))
        if not (self._directory / "signing.key").exists():
            # What `--generate-keys` writes, without the second that starting Synapse for it takes.
            seed = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
            (self._directory / "signing.key").write_text(f"ed25519 a_{secrets.token_hex(2)} {seed}\n")

    def _configuration(self, directory: Path) -> Json:
        limits = {} if self._default_limits else _RAISED
        return {
            "server_name": self._server_name,
            "public_baseurl": f"{self.url}/",
            "listeners": [
                {
                    "port": self._port,
                    "type": "http",
                    "bind_addresses": ["127.0.0.1"],
                    "resources": [{"names": ["client"], "compress": False}],
                }
            ],
            "database": {"name": "sqlite3", "args": {"database": str(directory / "homeserver.db")}},
            "media_store_path": str(directory / "media"),
            "signing_key_path": str(directory / "signing.key"),
            "pid_file": str(directory / "homeserver.pid"),
            "log_config": str(directory / "log.yaml"),
            "registration_shared_secret": self._secret,
            "macaroon_secret_key": self._secret,
            "form_secret": self._secret,
            "bcrypt_rounds": 4,
            "federation_domain_whitelist": [],
            # Of another process, which is not there: nobody asks for what this would prepare of each event, for other
            # servers and for a search of people. It was an eighth of what a message and a room cost.
            "federation_sender_instances": ["nobody"],
            "update_user_directory_from_worker": "nobody",
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "report_stats": False,
            "enable_registration": False,
            "presence": {"enabled": False},
            "user_directory": {"enabled": False},
            "push": {"enabled": False},
            "url_preview_enabled": False,
        } | (limits | self._settings)

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self._process = self._spawn(self.directory / "homeserver.yaml", log)

    def _spawn(self, configuration: Path, log: IO[bytes]) -> Process:
        """Start Synapse in a process group of its own, in its directory."""
        return subprocess.Popen(  # noqa: S603 - our own program and arguments
            [sys.executable, "-c", _SUPERVISED, "-c", str(configuration)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=self.directory,
            start_new_session=True,
        )

    async def _answering(self) -> None:
        deadline = time.monotonic() + self._start_timeout
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                if not self.running:
                    raise FatalError("Synapse ended while it started", f"its last lines:\n{self.last_lines()}")
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"{self.url}/_matrix/client/versions") as answer:
                        if answer.status == 200:
                            return
                if time.monotonic() > deadline:
                    raise FatalError(
                        f"Synapse did not answer within {self._start_timeout:.0f} s",
                        f"its last lines:\n{self.last_lines()}",
                    )
                await asyncio.sleep(0.05)

    def _reap(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None

    # --- Accounts -----------------------------------------------------------------------------------------

    async def register(
        self, localpart: str, *, admin: bool = False, displayname: str | None = None, password: str | None = None
    ) -> str:
        """Make an account and return an access token of it; its ID is `@<localpart>:<server_name>`."""
        path = f"{self.url}/_synapse/admin/v1/register"
        async with aiohttp.ClientSession(timeout=_REQUEST) as session:
            async with session.get(path) as answer:
                nonce: str = (await _body(answer))["nonce"]
            password = password or secrets.token_urlsafe(16)
            role = "admin" if admin else "notadmin"
            signed = "\0".join((nonce, localpart, password, role)).encode()
            request = {
                "nonce": nonce,
                "username": localpart,
                "password": password,
                "admin": admin,
                "mac": hmac.new(self._secret.encode(), signed, hashlib.sha1).hexdigest(),
                "displayname": displayname or localpart,
            }
            async with session.post(path, json=request) as answer:
                token: str = (await _body(answer))["access_token"]
        return token

    async def lift_limits(self, localpart: str) -> None:
        """Exempt one account from the rate limits of messages, where `default_limits` keeps them for the others."""
        user = quote(f"@{localpart}:{self._server_name}")
        await self.administer("POST", f"/_synapse/admin/v1/users/{user}/override_ratelimit", {"messages_per_second": 0})

    async def administer(self, method: str, path: str, body: Json | None = None) -> Json:
        """Call Synapse's admin API (https://element-hq.github.io/synapse/latest/usage/administration/admin_api/)."""
        if not self._admin_token:
            self._admin_token = await self.register(f"admin-{secrets.token_hex(4)}", admin=True)
        headers = {"Authorization": f"Bearer {self._admin_token}"}
        async with (
            aiohttp.ClientSession(timeout=_REQUEST, headers=headers) as session,
            session.request(method, self.url + path, json=body if body is not None else {}) as answer,
        ):
            return await _body(answer)


_LOG_CONFIGURATION = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"level": "WARNING", "handlers": ["stderr"]},
}


async def _body(answer: aiohttp.ClientResponse) -> Json:
    body: Json = await answer.json(content_type=None)
    if answer.status != 200:
        raise RuntimeError(f"the homeserver answered {answer.status}: {body.get('errcode')} {body.get('error')}")
    return body


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now, and that the system does not give away while nobody listens on it.

    Each connection takes one of the ports that the system gives away, 32768 to 60999 on Linux: a server that starts
    again could find its own taken. And until a server listens, seconds from now, another process of ours would find
    the same port free, and take the answers of the first server for its own: a port is ours until this process ends.
    """
    chance = random.SystemRandom()  # whoever seeds `random`, as tests do, would get the same ports again
    while True:
        port = chance.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            _reserve(port)
            probe.bind(("127.0.0.1", port))
            return port


def _reserve(port: int) -> None:
    """Raises `OSError` where a process of ours has chosen this port. Only Linux knows names that end with a process."""
    if sys.platform == "linux":
        with socket.socket(socket.AF_UNIX) as name:
            name.bind(f"\0relay-port-{port}")
            name.detach()  # closed by the end of this process only
