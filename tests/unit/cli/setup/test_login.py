"""`relay login`: whom it names for a mistake."""

from pathlib import Path

import pytest

from relay.cli import main

CONFIG = """\
[matrix]
homeserver_url = "http://127.0.0.1:9"
user_id = "@relay:example.org"
password = "secret"
"""


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--user", "bot2"), "--user: is not a Matrix user ID; write it in full"),
        (("--homeserver", "matrix.example.org"), "--homeserver: is not a web address; write it with its scheme"),
        # Found out after the login, the token would be lost.
        (("--output", "/proc/token"), "--output: /proc/token cannot be written: no such file"),
        (("--homeserver", "http://127.0.0.1:9"), "nothing answers at http://127.0.0.1:9 (connection refused)"),
    ],
)
def test_a_mistake_in_an_option_names_the_option(
    arguments: tuple[str, ...], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "relay.toml").write_text(CONFIG)
    with pytest.raises(SystemExit):
        main(["login", *arguments])
    told = capsys.readouterr().err
    assert error in told
    assert "relay.toml" not in told
    assert "[matrix]" not in told


def test_a_mistake_in_the_file_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "relay.toml").write_text(CONFIG.replace("@", ""))
    with pytest.raises(SystemExit):
        main(["login", "--homeserver", "http://127.0.0.1:9"])
    assert "relay.toml:3: [matrix] user_id: is not a Matrix user ID" in capsys.readouterr().err
    (tmp_path / "relay.toml").write_text(CONFIG)
    with pytest.raises(SystemExit):
        main(["login"])
    assert "; correct [matrix] homeserver_url" in capsys.readouterr().err


def test_without_a_file_its_options_are_enough(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["login", "--user", "@relay:example.org"])
    assert "relay.toml: there is no such file; write --homeserver URL and --user" in capsys.readouterr().err
