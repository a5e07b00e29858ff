"""The configuration as the daemon gets it: as a child process has read it, or why that one ended early."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from relay.config.child import begin, read_again
from relay.config.loading import load
from relay.config.settings import Settings
from relay.config.tenants import Host, load_host
from relay.errors import ConfigurationError, ConfigurationUnread
from tests.support.patience import PATIENCE
from tests.support.settings import ACCESS, PAIRS, SIDES, TOKEN, write


def begun(path: Path) -> object:
    return begin(path).result()


BOTH = pytest.mark.parametrize("read", [begun, read_again])


@BOTH
def test_it_is_what_was_read(tmp_path: Path, read: Callable[[Path], Settings]) -> None:
    people = '[[people]]\ndiscord = 1\nmatrix = "@ada:example.org"\n[matrix.appservice]\nas_token = "abc"\n'
    path = write(tmp_path, SIDES + people + PAIRS + '[log]\nlevel = "debug"\n')
    found, same = read(path), load(path, os.environ)
    assert found == same
    assert found.secrets() == {TOKEN, ACCESS, "abc"}
    # What no two configurations are compared by.
    assert [room.line for room in found.listed_rooms()] == [room.line for room in same.listed_rooms()]


@BOTH
def test_mistakes_are_told(tmp_path: Path, read: Callable[[Path], Settings]) -> None:
    path = write(tmp_path, f'{SIDES}[web]\nlisten = 1\n[discrod]\ntoken = "{TOKEN}"\n')
    with pytest.raises(ConfigurationError) as caught:
        read(path)
    with pytest.raises(ConfigurationError) as same:
        load(path, os.environ)
    assert caught.value.mistakes == same.value.mistakes
    assert caught.value.exit_status == 2


@BOTH
def test_the_environment_is_read_as_it_is_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], Settings]
) -> None:
    monkeypatch.setenv("RELAY_DISCORD__TOKEN", "other")
    found = read(write(tmp_path, SIDES))
    assert found.discord.token.get_secret_value() == "other"
    assert [variable for variable, _ in found.overridden] == ["RELAY_DISCORD__TOKEN"]


def test_a_configuration_may_have_tenants(tmp_path: Path) -> None:
    (tmp_path / "tenants.d").mkdir()
    (tmp_path / "tenants.d" / "stash.toml").write_text(SIDES)
    path = write(tmp_path, 'tenants = "tenants.d"\n')
    found = begun(path)
    assert isinstance(found, Host)
    assert found == load_host(path, os.environ)
    # Those that a daemon was started without are nothing that a reload can bring.
    with pytest.raises(ConfigurationError, match="this configuration has tenants"):
        read_again(path)
    (tmp_path / "tenants.d" / "stash.toml").unlink()
    (tmp_path / "tenants.d").rmdir()
    with pytest.raises(ConfigurationError, match="there is no folder"):
        begun(path)


def test_the_first_one_is_killed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    reading = begin(write(tmp_path, SIDES.replace(f'token = "{TOKEN}"', 'token_file = "token"')))
    os.kill(reading.process, signal.SIGKILL)
    with pytest.raises(
        ConfigurationUnread, match=r"relay.toml: reading it ended early .SIGKILL.; see whether"
    ) as caught:
        reading.result()
    assert caught.value.exit_status == 1  # a service manager may start it again


def test_the_first_one_ends_with_the_daemon(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    path = write(tmp_path, SIDES.replace(f'token = "{TOKEN}"', 'token_file = "token"'))
    script = f"from pathlib import Path\nfrom relay.config.child import begin\nbegin(Path({str(path)!r}))"
    # The child has this output, too: only when it has ended is there nobody any more who could write.
    subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=PATIENCE, check=True)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (None, "no process can be started that reads it: no such file or directory; start the relay again"),
        ("kill -KILL $$", "reading it ended early (SIGKILL); see whether there is enough memory"),
        ("kill -ALRM $$", "reading it took more than 60 seconds; see which of the files that it names does not end"),
        (
            "echo 'Traceback\nModuleNotFoundError: No module named relay' >&2; exit 1",
            "nothing reads it any more (ModuleNotFoundError); start the relay again",
        ),
        ("echo something else", "another version of the relay was installed meanwhile; start the relay again"),
    ],
)
def test_a_later_one_cannot_be_what_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, told: str
) -> None:
    interpreter = tmp_path / "python"
    if script is not None:
        interpreter.write_text(f"#!/bin/sh\n{script}\n")
        interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    with pytest.raises(ConfigurationUnread, match=re.escape(f"{tmp_path}/relay.toml: {told}") + "$"):
        read_again(write(tmp_path, SIDES))


def test_what_the_daemon_was_given_open_can_be_read_again(tmp_path: Path) -> None:
    """A shell's `--config /dev/fd/3 3< relay.toml`."""
    given = os.open(write(tmp_path, SIDES), os.O_RDONLY)
    os.set_inheritable(given, True)
    try:
        assert read_again(Path(f"/dev/fd/{given}")).discord.token.get_secret_value() == TOKEN
    finally:
        os.close(given)
