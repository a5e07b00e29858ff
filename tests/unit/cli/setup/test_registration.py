"""The registration that `relay registration` prints: valid, the same each time, and for our ghosts only."""

import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from relay.cli import main
from relay.cli.setup.registration import registration_file
from relay.config.mistakes import validated
from relay.config.settings import MatrixSettings
from relay.domain.jsontext import Json

CONFIG = """
[discord]
token = "MTk4NjIyNDgzNDcxOTI1MjQ4.secret-discord-token"
[matrix]
homeserver_url = "https://matrix.example.org"
user_id = "@relay:example.org"
access_token = "syt_secret_matrix_token"
"""


def registration(**appservice: str) -> Json:
    settings = {
        "homeserver_url": "https://matrix.example.org",
        "user_id": "@relay:example.org",
        "access_token": "x",
        "appservice": {"as_token": "secret"} | appservice,
    }
    found: Json = yaml.safe_load(registration_file(validated(MatrixSettings, settings)))
    return found


def printed(folder: Path, capsys: pytest.CaptureFixture[str], appservice: str = "") -> tuple[Json, str]:
    (folder / "relay.toml").write_text(CONFIG + appservice)
    with pytest.raises(SystemExit) as ended:
        main(["registration", "--config", str(folder / "relay.toml")])
    assert not ended.value.code
    out, err = capsys.readouterr()
    return yaml.safe_load(out), err


def test_nothing_is_pushed_and_nothing_is_limited() -> None:
    found = registration()
    assert found["url"] is None
    assert found["rate_limited"] is False
    assert found["as_token"] == "secret"
    assert found["hs_token"] not in ("", "secret")
    assert found == registration()


def test_it_claims_exactly_the_ghosts() -> None:
    [namespace] = registration(prefix="_a.b_")["namespaces"]["users"]
    assert namespace["exclusive"] is True
    regex = re.compile(namespace["regex"])
    assert regex.match("@_a.b_1:example.org")
    for other in ("@_axb_1:example.org", "@_a.b_1:example-org", "@_a.b_x:example.org", "@relay:example.org"):
        assert not regex.match(other)
    sender = registration(prefix="_relay_")
    assert not re.match(sender["namespaces"]["users"][0]["regex"], f"@{sender['sender_localpart']}:example.org")


def test_a_token_is_made_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, words = printed(tmp_path, capsys)
    second, _ = printed(tmp_path, capsys, '[matrix.appservice]\nid = "mine"\n')
    assert first["as_token"] != second["as_token"]
    assert second["id"] == "mine"
    assert first["as_token"] not in words
    for server in ("Synapse", "continuwuity", "tuwunel", "Dendrite"):
        assert server in words
    assert "as_token =" in words


def test_the_token_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "as_token").write_text("from_a_file\n")
    for written in ('as_token = "from_a_file"', 'as_token_file = "as_token"'):
        found, words = printed(tmp_path, capsys, f"[matrix.appservice]\n{written}\n")
        assert found["as_token"] == "from_a_file"
        assert "as_token =" not in words


@pytest.mark.parametrize("prefix", ["_discord_1", "discord_", "_", "_Discord_", "_d d_", "_" + "x" * 50])
def test_a_prefix_that_could_be_mistaken_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prefix: str
) -> None:
    (tmp_path / "relay.toml").write_text(f'{CONFIG}[matrix.appservice]\nprefix = "{prefix}"\n')
    with pytest.raises(SystemExit) as ended:
        main(["registration", "--config", str(tmp_path / "relay.toml")])
    assert ended.value.code == 2
    assert "is not the beginning of a user name" in capsys.readouterr().err


def test_the_relay_s_own_account_is_no_ghost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = CONFIG.replace("@relay:", "@_relay_bot:")
    (tmp_path / "relay.toml").write_text(f'{config}[matrix.appservice]\nprefix = "_relay_"\n')
    with pytest.raises(SystemExit) as ended:
        main(["registration", "--config", str(tmp_path / "relay.toml")])
    assert ended.value.code == 2
    assert "[matrix] user_id begins with it" in capsys.readouterr().err
