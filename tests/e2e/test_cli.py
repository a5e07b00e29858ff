"""The program as the operator starts it: a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOKEN = "MTk4NjIyNDgzNDcxOTI1MjQ4.secret-discord-token"


def relay(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relay", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_does_not_load_the_platforms(tmp_path: Path) -> None:
    result = relay(tmp_path, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert result.returncode == 0
    for command in ("run", "status", "dead", "db"):
        assert f" {command} " in result.stdout
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "relay.cli" in loaded
    assert not loaded & {"discord", "nio", "sqlalchemy", "alembic", "aiohttp", "pydantic"}


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
