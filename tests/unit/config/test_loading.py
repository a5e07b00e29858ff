"""What is read from `relay.toml` and the environment, and what each pair's settings then are."""

import os
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from relay.config.loading import load
from relay.config.settings import stamp
from relay.domain.ids import ChannelAddress, Platform
from relay.errors import ConfigurationError
from tests.support.patience import PATIENCE
from tests.support.settings import PAIRS, PASSWORD, SIDES, TOKEN, pair, write


def test_the_whole_file(tmp_path: Path) -> None:
    settings = load(write(tmp_path, SIDES + PAIRS), {})
    assert settings.discord.token.get_secret_value() == TOKEN
    assert settings.discord.api_url == "https://discord.com/api/v10"
    assert settings.matrix.homeserver_url == "https://matrix.example.org"
    assert settings.web.listen == "127.0.0.1:9464"
    assert settings.store.path == tmp_path.resolve() / "relay.db"
    assert settings.store.reconcile_window == 48 * 3600
    assert settings.rooms[0].matrix_room == "#general:unredacted.org"
    first, second, third = settings.declared_pairs()
    assert first.name == "help"
    assert first.sides == (
        ChannelAddress(Platform.DISCORD, "1234567890123456789"),
        ChannelAddress(Platform.MATRIX, "#stash-help:unredacted.org"),
    )
    assert first.destinations == {Platform.DISCORD, Platform.MATRIX}
    assert (first.policy.thread_messages, first.policy.max_parts) == ("flatten", 7)
    assert (first.policy.batch_when_behind, first.policy.catchup_limit) == (20.0, 5000)
    assert (second.name, second.destinations) == ("#old:unredacted.org", frozenset())
    assert third.name == third.sides[1].value
    assert third.destinations == {Platform.MATRIX}
    assert (second.policy.max_parts, third.policy.max_parts) == (3, 3)


def test_a_pair_s_moderation_goes_before_the_default_and_is_read_from_the_environment(tmp_path: Path) -> None:
    pairs = pair() + pair(7, "#b:example.org", "moderation.deletions = false")
    settings = load(write(tmp_path, SIDES + "[defaults]\nmoderation.deletions = true\n" + pairs), {})
    assert [found.policy.moderate_deletions for found in settings.declared_pairs()] == [True, False]
    settings = load(write(tmp_path, SIDES + pairs), {"RELAY_DEFAULTS__MODERATION__DELETIONS": "true"})
    assert [found.policy.moderate_deletions for found in settings.declared_pairs()] == [True, False]
    with pytest.raises(ConfigurationError, match="did you mean deletions"):
        load(write(tmp_path, SIDES + pair(more="moderation.deletion = true")), {})


def test_who_is_blocked_and_which_lists_are_followed(tmp_path: Path) -> None:
    chosen = (
        'moderation.blocked = "1234567890123456789, @spam*:example.org"\nmoderation.policy_lists = "#a:b.c, !d:e.f"'
    )
    [found] = load(write(tmp_path, SIDES + pair(more=chosen)), {}).declared_pairs()
    assert found.policy.blocked == (
        (Platform.DISCORD, "1234567890123456789"),
        (Platform.MATRIX, "@spam*:example.org"),
    )
    assert [one.value for one in found.policy.policy_lists] == ["#a:b.c", "!d:e.f"]
    for wrong in ("*", "spam*", "@spam", "evil.example", "@a b:c", "12*", "@" + "a" * 300 + ":b"):
        with pytest.raises(ConfigurationError, match="is not a list of accounts"):
            load(write(tmp_path, SIDES + pair(more=f'moderation.blocked = "{wrong}"')), {})


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = load(write(tmp_path, SIDES), {})
    with pytest.raises(FrozenInstanceError):
        settings.web.listen = ""  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        settings.pairs = ()  # type: ignore[misc]


def test_the_environment_wins_and_may_hold_everything(tmp_path: Path) -> None:
    environ = {
        "RELAY_DISCORD__TOKEN": "from-the-environment",
        "RELAY_MATRIX__HOMESERVER_URL": "http://127.0.0.1:8008",
        "RELAY_MATRIX__USER_ID": "@other:example.org",
        "RELAY_MATRIX__PASSWORD": PASSWORD,
        "RELAY_STORE__URL": "sqlite:////var/lib/relay/relay.db",
        "RELAY_STORE__RECONCILE_WINDOW": "2d",
        "RELAY_WEB__LISTEN": "",
        "RELAY_LOG__LEVEL": "debug",
        "RELAY_DEFAULTS__ALLOW_BROADCAST": "true",
        "RELAY_DEFAULTS__BATCH_WHEN_BEHIND": "0",
        "RELAY_STORE__RETENTION": "36h",
        "RELAY_STORE__DEAD_LETTER_RETENTION": "forever",
        "RELAY_PAIRS": '[{"discord_channel": 1, "matrix_room": "#a:b"}]',
        "PATH": "/bin",
    }
    settings = load(write(tmp_path, ""), environ)
    assert settings.discord.token.get_secret_value() == "from-the-environment"
    assert settings.matrix.password is not None
    assert settings.store.url == "sqlite:////var/lib/relay/relay.db"
    assert settings.store.reconcile_window == 2 * 86400
    assert (settings.store.retention, settings.store.dead_letter_retention) == (36 * 3600, None)
    assert settings.web.listen == ""
    (only_pair,) = settings.declared_pairs()
    assert (only_pair.policy.allow_broadcast, only_pair.policy.batch_when_behind) == (True, 0)
    assert load(write(tmp_path, SIDES), {"RELAY_DISCORD__TOKEN": "x"}).discord.token.get_secret_value() == "x"


def test_the_file_is_the_argument_or_relay_config_or_relay_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, SIDES)
    other = tmp_path / "other.toml"
    other.write_text(SIDES + '[web]\nlisten = ""\n')
    assert load(None, {}).web.listen
    assert not load(None, {"RELAY_CONFIG": str(other)}).web.listen
    assert load(tmp_path / "relay.toml", {"RELAY_CONFIG": str(other)}).web.listen


def test_the_process_environment_is_not_read_behind_our_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_WEB__LISTEN", "0.0.0.0:1")
    assert load(write(tmp_path, SIDES), {}).web.listen == "127.0.0.1:9464"


def test_kubernetes_puts_variables_of_its_own(tmp_path: Path) -> None:
    environ = {"RELAY_SERVICE_HOST": "10.0.0.1", "RELAY_PORT": "tcp://x", "RELAY_PORT_9464_TCP_ADDR": "10.0.0.1"}
    assert load(write(tmp_path, SIDES), {**environ, "RELAY_SERVICE_PORT_HTTP": "1"}).pairs == ()


def test_what_a_variable_goes_before_is_known(tmp_path: Path) -> None:
    """A forgotten `.env`: the token in the file was corrected again and again, and nothing changed."""
    file = write(tmp_path, f'{SIDES}[web]\nlisten = "127.0.0.1:1"\n[log]\nlevel = "info"\n')
    variables = {"RELAY_DISCORD__TOKEN": "x", "RELAY_WEB__LISTEN": "127.0.0.1:2", "RELAY_LOG__LEVEL": "info"}
    environ = variables | {"RELAY_LOG__FORMAT": "json"}
    assert load(file, environ).overridden == (
        ("RELAY_DISCORD__TOKEN", f"{file}:3: [discord] token"),
        ("RELAY_WEB__LISTEN", f"{file}:9: [web] listen"),
    )
    (tmp_path / "token").write_text("y")
    file = write(tmp_path, SIDES.replace(f'token = "{TOKEN}"', 'token_file = "token"', 1))
    assert load(file, environ).overridden == (("RELAY_DISCORD__TOKEN", f"{file}:3: [discord] token_file"),)
    assert load(file, {}).overridden == ()


def test_each_secret_knows_where_it_was_taken_from(tmp_path: Path) -> None:
    plain = write(tmp_path, SIDES)
    assert load(plain, {}).discord.token.source == f"{plain}:3: [discord] token"
    in_file = {"RELAY_DISCORD__TOKEN_FILE": "token"}
    (tmp_path / "token").write_text(TOKEN)
    file = write(tmp_path, SIDES.replace(f'token = "{TOKEN}"', 'token_file = "token"', 1))
    assert load(file, {}).discord.token.source == f"the file {tmp_path / 'token'}"
    assert load(write(tmp_path, SIDES), in_file).discord.token.source == f"the file {tmp_path / 'token'}"
    environ = {"RELAY_DISCORD__TOKEN": TOKEN}
    assert load(file, environ).discord.token.source == "environment variable RELAY_DISCORD__TOKEN"


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: text.replace("\n", "\n\t")])
def test_what_editors_and_people_do_to_a_file_changes_nothing(tmp_path: Path, change: Callable[[str], str]) -> None:
    blanks = SIDES.replace('"@relay', '" @relay').replace(f'"{TOKEN}"', f'"""{TOKEN}\n"""')
    text = change(f'{blanks}[[pairs]]\ndiscord_channel = " 7 "\nmatrix_room = " #a:b"\n')
    (tmp_path / "relay.toml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    settings = load(tmp_path / "relay.toml", {})
    assert (settings.matrix.user_id, settings.discord.token.get_secret_value()) == ("@relay:example.org", TOKEN)
    assert (settings.pairs[0].discord_channel, settings.pairs[0].matrix_room) == ("7", "#a:b")


def test_an_address_with_a_scheme_is_one_mistake(tmp_path: Path) -> None:
    """That it lets other machines in was said of loopback, too."""
    (tmp_path / "relay.toml").write_text('[web]\nlisten = "http://127.0.0.1:9464"\n')
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path / "relay.toml", {})
    (told,) = [str(mistake) for mistake in caught.value.mistakes if "[web]" in str(mistake)]
    assert "is not an address to listen on" in told


def test_a_file_that_may_be_read_now_counts_as_saved(tmp_path: Path) -> None:
    """Refused for its mode or owner, it was mended by chmod or chown, and nobody looked at it again."""
    file = write(tmp_path, SIDES)
    os.utime(file, ns=(1, 1))
    before, deadline = stamp(file), time.monotonic() + PATIENCE
    while stamp(file) == before:  # the system's clock for files has ticks
        assert time.monotonic() < deadline
        file.chmod(0o600)
    assert file.stat().st_mtime_ns == 1
