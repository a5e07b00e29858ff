"""What docker-compose.yml runs, without Docker: from nothing to a bridged message, healthy, watched, and stopped."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
import yaml  # type: ignore[import-untyped]

from relay.demo.homeserver import Homeserver
from relay.doctor import _LITTLE_ON_THE_WAY, disk_finding
from tests.support.compose import COMPOSE, ROOT, Container
from tests.support.patience import PATIENCE
from tests.support.stack import FullStack, eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

PASSWORD = "correct horse battery staple"
WEB_TOKEN = "0123456789abcdef0123456789abcdef"


@pytest_asyncio.fixture(loop_scope="session")
async def place(homeserver: Homeserver, tmp_path: Path) -> AsyncIterator[FullStack]:
    async with stack(tmp_path, homeserver) as made:
        yield made


async def test_from_nothing_to_a_bridged_message(place: FullStack, tmp_path: Path) -> None:
    (tmp_path / "compose").mkdir()
    container = Container(tmp_path / "compose")
    config, store = container.folders["/etc/relay"], container.folders["/var/lib/relay"]
    # Of a file or two on their way nobody is warned.
    assert disk_finding("files", tmp_path, container.memory_for_files() // 2, _LITTLE_ON_THE_WAY).state == "ok"
    (config / "web_token").write_text(f"{WEB_TOKEN}\n")
    (config / "answers.toml").write_text(
        f'discord_token = "{place.bot_token}"\ndiscord_api_url = "{place.sandbox.api_url}"\n'
        f'matrix_account = "{place.relay_user}"\nhomeserver_url = "{place.homeserver.url}"\n'
        f'matrix_access_token = "{place.relay_token}"\n'
    )
    status, told = await container.relay("init", "--answers", container.here("/etc/relay/answers.toml"))
    assert status == 0, told
    assert (config / "secrets" / "discord_token").read_text().strip() == place.bot_token

    assert not await container.is_healthy()
    daemon = await container.start()
    bearer = {"Authorization": f"Bearer {WEB_TOKEN}"}
    try:
        await _until_healthy(container)
        # A daemon that lives is healthy; on its first start it carries what is said once it is ready.
        await eventually(lambda: _status(container, "127.0.0.1", bearer, "/readyz"), lambda status: status == 200)
        place.say("help", "hello from Discord")
        await place.tell("help", "hello from Matrix")
        await place.until_matrix("help", lambda words: "hello from Discord" in words)
        await place.until_discord("help", lambda words: "hello from Matrix" in words)
        status, told = await container.relay("status")
        assert (status, "1 pair well" in told) == (0, True), told
        # The store is where the volume is, and nothing is written beside the folders that are mounted.
        assert (store / "relay.db").is_file()
        assert {one.name for one in config.iterdir()} == {"answers.toml", "relay.toml", "secrets", "web_token"}

        # An editor puts another file in the place of the old one.
        (config / "relay.toml~").write_text(f"{(config / 'relay.toml').read_text()}paused = true\n")
        (config / "relay.toml~").replace(config / "relay.toml")
        await eventually(lambda: _shown(container), lambda told: "Paused" in told)

        # Prometheus is a container of its own: it calls the relay by its name, and brings the token.
        prometheus = yaml.safe_load((ROOT / "deploy/monitoring/compose/prometheus.yml").read_text(encoding="utf-8"))
        [scraped] = prometheus["scrape_configs"]
        volumes = [one for one in COMPOSE["services"]["prometheus"]["volumes"] if isinstance(one, dict)]
        [token_file] = [one["target"] for one in volumes if one["source"] == "./config/web_token"]
        assert scraped["authorization"]["credentials_file"] == token_file
        [host] = scraped["static_configs"][0]["targets"]
        assert await _status(container, host, bearer) == 200
        assert await _status(container, host, {}) == 401
        assert await _status(container, "evil.example:9464", bearer) == 421
    finally:
        daemon.send_signal(signal.SIGTERM)
        assert await daemon.wait() == 0
    assert not await container.is_healthy()


async def _shown(container: Container) -> str:
    return (await container.relay("status"))[1]


async def _until_healthy(container: Container) -> None:
    await eventually(container.is_healthy, bool, what=container.log.read_text)


async def _status(container: Container, host: str, headers: dict[str, str], path: str = "/metrics") -> int:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)) as session,
        session.get(f"{container.url()}{path}", headers={"Host": host, **headers}) as answer,
    ):
        return answer.status
