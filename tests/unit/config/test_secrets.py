"""Secrets come from files too, and are never shown."""

import logging
import traceback
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from relay.config.loading import load
from relay.errors import ConfigurationError
from tests.support.settings import ACCESS, PASSWORD, SIDES, TOKEN, only, write


def test_secrets_from_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "password").write_text(PASSWORD + "\n")
    text = """
        [discord]
        token_file = "token"
        [matrix]
        homeserver_url = "https://matrix.example.org"
        user_id = "@relay:example.org"
        password_file = "password"
    """
    settings = load(write(tmp_path, text), {})
    assert settings.secrets() == {TOKEN, PASSWORD}
    # What the environment says wins over the file, in either form.
    assert load(write(tmp_path, text), {"RELAY_DISCORD__TOKEN": "x"}).discord.token.get_secret_value() == "x"
    (tmp_path / "other").write_text("y")
    environ = {"RELAY_DISCORD__TOKEN_FILE": "other"}
    assert load(write(tmp_path, SIDES), environ).discord.token.get_secret_value() == "y"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("", "the file token is empty; write the path of a file"),
        (b"\xff\xfe\xff", "not a text file"),
        ("a b", "contains a space"),
    ],
)
def test_a_secret_file_that_is_no_use(tmp_path: Path, content: str | bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content if isinstance(content, bytes) else content.encode())
    text = SIDES.replace(f'token = "{TOKEN}"', 'token_file = "token"')
    found = only(tmp_path, text).lower()
    assert found.startswith("relay.toml:")
    assert "[discord] token" in found
    assert words in found


def test_what_is_wrong_in_the_file_of_a_secret_is_said_of_its_key(tmp_path: Path) -> None:
    """It was said of the key `token`, which the file does not have."""
    text = SIDES.replace(f'token = "{TOKEN}"', 'token_file = "token"')
    for written, words in (
        (f'"{TOKEN}"', "has quotes too many"),
        ("a b", "contains a space"),
        ("a\nb", "a line break"),
    ):
        (tmp_path / "token").write_text(written)
        assert only(tmp_path, text).startswith("relay.toml:3: [discord] token_file: ")
        assert words in only(tmp_path, text)
    (tmp_path / "token").write_text(f"\ufeff{TOKEN}\n")
    assert load(write(tmp_path, text), {}).discord.token.get_secret_value() == TOKEN


def test_the_path_of_a_secret_is_named_but_never_what_may_be_the_secret_itself(tmp_path: Path) -> None:
    text = SIDES.replace(f'token = "{TOKEN}"', f'token_file = "{tmp_path}/gone"')
    assert "the file gone cannot be read: no such file or directory" in only(tmp_path, text)
    found = only(tmp_path, SIDES.replace("\ntoken =", "\ntoken_file ="))
    assert "the file that it names cannot be read" in found
    assert TOKEN not in found


@pytest.mark.parametrize(("section", "key"), [("web", "token"), ("store", "url"), ("matrix", "appservice.as_token")])
def test_a_secret_that_cannot_be_read_is_one_mistake(tmp_path: Path, section: str, key: str) -> None:
    """It was told besides that it can be guessed, or is no address."""
    header = "" if section == "matrix" else f"[{section}]\n"
    assert "gone cannot be read" in only(tmp_path, f'{SIDES}{header}{key}_file = "{tmp_path}/gone"\n')


def test_a_secret_and_its_file(tmp_path: Path) -> None:
    found = only(tmp_path, SIDES.replace("[matrix]", 'token_file = "x"\n[matrix]'))
    assert found == "relay.toml:4: [discord] token_file: token is also set; keep only one of token and token_file"


def all_text_of(value: BaseException | object) -> str:
    parts = [repr(value), str(value), f"{value!r:s}"]
    if isinstance(value, BaseException):
        lines = traceback.TracebackException.from_exception(value, capture_locals=False).format()
        parts += [*lines, repr(value.args), repr(vars(value)), repr(value.__cause__), repr(value.__context__)]
    return "\n".join(parts)


@pytest.mark.parametrize(
    "text",
    [
        f'[discord]\ntoken = ["{TOKEN}"]\n',
        f'[discord]\ntoken = {{ x = "{TOKEN}" }}\n',
        f'[discord]\ntoken = "{TOKEN} {TOKEN}"\n',
        f'[discord]\ntokn = "{TOKEN}"\n',
        f'[discord]\ntoken = "{TOKEN}\n',
        f"[discord]\ntoken = {TOKEN}\n",
        f'[discord]\n"{TOKEN}" = 1\n',
        f'["{TOKEN}"]\nx = 1\n',
        f'[discord]\napi_url = "{TOKEN}"\ntoken_file = "{TOKEN}"\n',
        f'[matrix]\nhomeserver_url = "https://relay:{TOKEN}@example.org"\nuser_id = "{TOKEN}"\n',
        f'[store]\nurl = "postgresql://relay:{TOKEN}@db/relay"\n[web]\nlisten = "{TOKEN}"\n',
        f'[log]\nlevel = "{TOKEN}"\n',
        SIDES + f'[[pairs]]\ndiscord_channel = "{TOKEN}"\nmatrix_room = "{TOKEN}"\n',
        SIDES + f'[[pairs]]\nname = "{TOKEN}"\nmatrix_room = ["{TOKEN}"]\n',
    ],
)
def test_no_secret_in_any_mistake(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigurationError) as caught:
        load(write(tmp_path, text), {"RELAY_MATRIX__PASSWORD__X": TOKEN, "RELAY_PAIRS": f'["{TOKEN}'})
    assert TOKEN not in all_text_of(caught.value)
    assert caught.value.__context__ is None
    assert TOKEN not in caplog.text


def test_no_secret_in_settings(tmp_path: Path) -> None:
    settings = load(write(tmp_path, SIDES), {"RELAY_MATRIX__PASSWORD": PASSWORD})
    assert settings.secrets() == {TOKEN, ACCESS, PASSWORD}
    texts = (all_text_of(settings), all_text_of(settings.discord), str(settings.matrix))
    for text in texts:
        assert not any(secret in text for secret in settings.secrets())
    with pytest.raises(FrozenInstanceError) as caught:
        settings.discord.token = TOKEN  # type: ignore[assignment, misc]
    assert TOKEN not in all_text_of(caught.value)
