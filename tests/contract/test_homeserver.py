"""The demo's homeserver is a real one, keeps its data when it restarts, and stops when its owner does."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import aiohttp
import pytest

from relay.demo.homeserver import Homeserver, _reserve, free_port
from relay.errors import FatalError
from tests.support.patience import PATIENCE


async def who(url: str, token: str) -> str:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{url}/_matrix/client/v3/account/whoami") as answer,
    ):
        return str((await answer.json())["user_id"])


async def test_accounts_survive_a_stop_and_a_kill(tmp_path: Path) -> None:
    async with Homeserver(tmp_path / "data") as homeserver:
        url = homeserver.url
        token = await homeserver.register("ann", displayname="Ann")
        assert await who(url, token) == "@ann:localhost"

        await homeserver.stop()
        assert not homeserver.running
        await homeserver.start()
        assert homeserver.url == url
        assert await who(url, token) == "@ann:localhost"

        await homeserver.kill()
        assert not homeserver.running
        await homeserver.start()
        assert await who(url, token) == "@ann:localhost"
        await homeserver.lift_limits("ann")
    assert not homeserver.running
    assert (tmp_path / "data" / "homeserver.db").exists()


async def test_a_start_that_fails_says_the_last_lines(tmp_path: Path) -> None:
    homeserver = Homeserver(tmp_path, settings={"database": {"name": "sqlite3", "args": {"database": "/nowhere/x"}}})
    with pytest.raises(FatalError, match=r"(?s)Synapse .*unable to open database"):
        await homeserver.start()
    assert not homeserver.running


async def test_synapse_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FatalError, match=r"\.\[demo\]"):
        await Homeserver().start()


def test_nobody_else_is_given_a_port_before_its_server_listens() -> None:
    # Several runs of the tests at once, with one seed: they would all choose the same.
    random.seed(1)
    port = free_port()
    assert port in range(20_000, 32_000)
    program = "import random, relay.demo.homeserver as it; random.seed(1); print(it.free_port())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) != port
    with pytest.raises(OSError, match="in use"):
        _reserve(port)


async def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import asyncio, pathlib, sys
        from relay.demo.homeserver import Homeserver
        async def main():
            homeserver = Homeserver(pathlib.Path(sys.argv[1]))
            await homeserver.start()
            print(homeserver._process.pid, flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert parent.stdout is not None
    pid = int(await asyncio.to_thread(parent.stdout.readline))
    assert alive(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + PATIENCE
    while alive(pid) and time.monotonic() < deadline:  # noqa: ASYNC110 - another process has no event for us
        await asyncio.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False
