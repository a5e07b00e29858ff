"""The daemon as an operator runs it: `python -m relay run --config …`, watched through its own HTTP interface."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from relay.demo.configuration import without_settings
from relay.demo.processes import ChildProcess
from relay.domain.jsontext import Json
from relay.errors import FatalError

_START_SECONDS = 120.0
_STOP_SECONDS = 11.0
_POLL_SECONDS = 0.03


@dataclass(frozen=True, slots=True)
class Counters:
    """What `/metrics` says: by direction (`to_matrix`, `to_discord`), drops by direction and feature."""

    messages: Mapping[str, int]
    dropped: Mapping[tuple[str, str], int]

    def drops(self, direction: str, feature: str) -> int:
        """How often `feature` was dropped on its way `direction`."""
        return self.dropped.get((direction, feature), 0)


class DaemonProcess:
    """`relay run` on `config`; its log is `relay.log` next to it. Use as `async with`."""

    def __init__(self, config: Path) -> None:
        self._log = config.with_name("relay.log")
        self._process = ChildProcess(
            [sys.executable, "-m", "relay", "run", "--config", str(config)],
            log=self._log,
            directory=config.parent,
            environ=without_settings(os.environ),
        )
        self._url = ""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))
        self._process.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
        await self.stop()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL where that does not end it in time."""
        await self._process.stop(_STOP_SECONDS)

    @property
    def url(self) -> str:
        """The address of its status page."""
        return self._url

    async def wait_until_ready(self) -> None:
        """Return once `/readyz` answers 200. Raises `FatalError` with the last lines of the log."""
        deadline = time.monotonic() + _START_SECONDS
        reason = "its status page is not up"
        while time.monotonic() < deadline:
            if self._process.exit_status is not None:
                raise FatalError(f"the daemon ended with status {self._process.exit_status}", self._lines())
            self._url = self._url or await asyncio.to_thread(_address, self._log)
            if self._url:
                health = await self.health()
                if health.get("ready"):
                    return
                reason = json.dumps(health)
            await asyncio.sleep(_POLL_SECONDS)
        raise FatalError(f"the daemon was not ready within {_START_SECONDS:.0f} s ({reason})", self._lines())

    def logged(self, event: str) -> int:
        """How often its log says an event."""
        return len(_entries(self._log, event))

    async def until_logged(self, event: str, times: int) -> None:
        """Wait until its log has said an event so many times. Raises `TimeoutError`."""
        deadline = time.monotonic() + _START_SECONDS
        while await asyncio.to_thread(self.logged, event) < times:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the daemon has not logged: {event}")
            await asyncio.sleep(_POLL_SECONDS)

    async def health(self) -> Json:
        """What `/readyz` says; empty where nothing answers."""
        with suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with self._client.get(f"{self._url}readyz") as answer:
                found: Json = await answer.json()
                return found
        return {}

    async def counters(self) -> Counters:
        """What `/metrics` says. Raises `aiohttp.ClientError`."""
        async with self._client.get(f"{self._url}metrics", headers={"Accept": "text/plain"}) as answer:
            text = await answer.text()
        messages: dict[str, int] = {}
        dropped: dict[tuple[str, str], int] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                way = sample.labels.get("direction", "")
                if sample.name == "relay_messages_total":
                    messages[way] = messages.get(way, 0) + int(sample.value)
                elif sample.name == "relay_dropped_total":
                    key = (way, sample.labels["feature"])
                    dropped[key] = dropped.get(key, 0) + int(sample.value)
        return Counters(messages, dropped)

    @property
    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use `async with`")
        return self._session

    def _lines(self) -> str:
        return f"the last lines of its log:\n{self._process.last_lines(15)}"


def _address(log: Path) -> str:
    """Where the daemon listens: the system chose the port, and the log says which."""
    return next((str(entry["url"]) for entry in _entries(log, "status page is up")), "")


def _entries(log: Path, event: str) -> list[Json]:
    """What the log says of an event."""
    found: list[Json] = []
    with suppress(FileNotFoundError):
        for line in log.read_text(errors="replace").splitlines():
            with suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("event") == event:
                    found.append(entry)
    return found
