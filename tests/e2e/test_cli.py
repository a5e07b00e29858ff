"""The program as the operator starts it: a process of its own."""

import json
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.demo.homeserver import free_port
from tests.support.patience import PATIENCE

ROOT = Path(__file__).parents[2]
TOKEN = "MTk4NjIyNDgzNDcxOTI1MjQ4.secret-discord-token"


SECRETS = (TOKEN, "syt_secret_matrix_token")


def environment(**more: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "COLUMNS": "200", **more}


def relay(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relay", *arguments],
        cwd=folder,
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_the_environment_alone_configures_and_secrets_stay_in(tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_text("")
    environ = {
        "RELAY_DISCORD__TOKEN": TOKEN,
        "RELAY_MATRIX__HOMESERVER_URL": "https://matrix.example.org",
        "RELAY_MATRIX__USER_ID": "@relay:example.org",
        "RELAY_MATRIX__ACCESS_TOKEN": "syt_secret_matrix_token",
    }
    result = relay(tmp_path, "db", "upgrade", **environ)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "relay.db").exists()
    result = relay(tmp_path, "status", "--json", RELAY_WEB__PORT=TOKEN, **environ)
    assert (result.returncode, result.stdout) == (2, "")
    assert "RELAY_WEB__PORT: there is no such key" in result.stderr
    assert TOKEN not in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(tmp_path: Path, shell: str) -> None:
    result = relay(tmp_path, _RELAY_COMPLETE=f"source_{shell}")
    assert result.returncode == 0
    assert "_RELAY_COMPLETE" in result.stdout


def configure(folder: Path, *, listen: str = "127.0.0.1:0") -> None:
    """A relay between two platforms that nobody answers for."""
    nobody = f"http://127.0.0.1:{free_port()}"
    (folder / "relay.toml").write_text(f"""
        [discord]
        token = "{SECRETS[0]}"
        api_url = "{nobody}/api/v10"
        [matrix]
        homeserver_url = "{nobody}"
        user_id = "@relay:example.org"
        access_token = "{SECRETS[1]}"
        [web]
        listen = "{listen}"
        [log]
        level = "debug"
        [[pairs]]
        name = "help"
        discord_channel = 1234567890123456789
        matrix_room = "#help:example.org"
    """)


@contextmanager
def daemon(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A daemon that is up, the address of its status page, and the lines that it has logged, complete at its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "relay", "run"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    addresses: queue.Queue[str | None] = queue.Queue()

    def follow() -> None:
        for line in process.stderr or ():
            lines.append(line)
            if "status page is up" in line:
                addresses.put(json.loads(line)["url"])
        addresses.put(None)

    reader = threading.Thread(target=follow)
    reader.start()
    try:
        address = addresses.get(timeout=PATIENCE)
        assert address, "".join(lines)
        yield process, address, lines
    finally:
        process.kill()
        reader.join()
        process.communicate()


def until_told(address: str, *sides: str) -> None:
    """Ask `/readyz` until it answers 503 and says why of these sides: at first it says nothing of one that begins."""
    deadline = time.monotonic() + PATIENCE
    while True:
        code, body = fetch(f"{address}readyz")
        assert code == 503
        if all(body[side]["problem"] for side in sides):
            return
        assert time.monotonic() < deadline, body


def until_written_down(folder: Path, process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Ask `relay status --json` until it is told of this daemon: what it says was written down a moment ago."""
    deadline = time.monotonic() + PATIENCE
    while True:
        asked = relay(folder, "status", "--json")
        if json.loads(asked.stdout)["daemon"]["pid"] == process.pid:
            return asked
        assert time.monotonic() < deadline, asked.stdout


def fetch(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


def test_the_daemon_and_those_who_ask_about_it(tmp_path: Path) -> None:
    configure(tmp_path)
    with daemon(tmp_path) as (process, address, lines):
        assert fetch(f"{address}healthz") == (200, {"alive": True})
        until_told(address, "discord", "matrix")

        asked = until_written_down(tmp_path, process)
        report = json.loads(asked.stdout)
        assert asked.returncode == 1
        assert report["daemon"]["running"] is True
        assert report["discord"]["connected"] is False
        assert [pair["name"] for pair in report["pairs"]] == ["help"]

        # Somebody is editing the file: the daemon is shown all the same.
        written = (tmp_path / "relay.toml").read_text()
        (tmp_path / "relay.toml").write_text(f"{written}\n[[pairs]\nname = ")
        asked = relay(tmp_path, "status")
        assert asked.returncode == 2
        assert f"(process {process.pid} on " in asked.stdout
        assert "\nhelp" in asked.stdout
        assert "relay.toml: is not valid TOML" in asked.stderr
        (tmp_path / "relay.toml").write_text(written)

        second = relay(tmp_path, "run")
        assert second.returncode == 3
        last = second.stderr.splitlines()[-1]
        assert last.startswith(f"error: store {tmp_path}/relay.db: process {process.pid} on ")

        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == 0
    asked = relay(tmp_path, "status")
    assert asked.returncode == 1
    assert "The daemon is not running; it ended " in asked.stdout
    assert "It was told to stop." in asked.stdout
    with daemon(tmp_path) as (process, _, _):
        until_written_down(tmp_path, process)
        process.kill()
        process.wait(timeout=PATIENCE)
        asked = relay(tmp_path, "status", "--json")
        assert "it was killed" in json.loads(asked.stdout)["daemon"]["ended"]["reason"]
    for line in lines:
        assert json.loads(line)["event"]
        assert not any(secret in line for secret in SECRETS)


def test_a_port_in_use_ends_the_daemon_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        configure(tmp_path, listen=listen)
        result = relay(tmp_path, "run")
    asked = relay(tmp_path, "status")
    assert f"Another program listens on {listen} already." in asked.stdout
    assert result.returncode == 4
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith(f"error: another program listens on {listen} already; ")
    # Whoever collects the log reads it there.
    logged = json.loads([line for line in result.stderr.splitlines() if line.startswith("{")][-1])
    assert (logged["event"], logged["status"]) == ("the daemon cannot go on", 4)
    assert line == f"error: {logged['reason']}"
