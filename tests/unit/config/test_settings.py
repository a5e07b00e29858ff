"""`relay.toml` and the environment: what is read from them, and what is said of mistakes."""

import json
import logging
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.loading import load
from relay.config.mistakes import positions
from relay.domain.ids import ChannelAddress, Platform
from relay.domain.pair import SYSTEM_MESSAGES
from relay.errors import ConfigurationError, Mistake

TOKEN = "MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.secret-discord-token"
ACCESS = "syt_cmVsYXk_secretaccesstoken_1x2y3z"
PASSWORD = "correct horse battery staple"

SIDES = f"""
[discord]
token = "{TOKEN}"
[matrix]
homeserver_url = "https://matrix.example.org/"
user_id = "@relay:example.org"
access_token = "{ACCESS}"
"""
PAIRS = """
[defaults]
thread_messages = "flatten"
max_parts = 3
[[pairs]]
name = "help"
discord_channel = 1234567890123456789
matrix_room = "#stash-help:unredacted.org"
max_parts = 7
[[pairs]]
discord_channel = "1234567890123456790"
matrix_room = "#old:unredacted.org"
archived = true
[[pairs]]
discord_channel = 1234567890123456791
matrix_room = "!Sm6dzhCfj3GGxrSMPWbrFu0nVvvyf5KGUFUvCV2CC0Y"
direction = "to_matrix"
[[rooms]]
matrix_room = "#general:unredacted.org"
purpose = "Discussions outside of Discord"
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "relay.toml"
    file.write_text(text, encoding="utf-8")
    return file


def mistakes(folder: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(write(folder, text), environ)
    return [str(mistake) for mistake in caught.value.mistakes]


def only(folder: Path, text: str, **environ: str) -> str:
    found = mistakes(folder, text, **environ)
    assert len(found) == 1, found
    return found[0].replace(f"{folder}/", "")


def pair(channel: object = 1234567890123456789, room: str = "#a:example.org", more: str = "") -> str:
    return f'[[pairs]]\ndiscord_channel = {json.dumps(channel)}\nmatrix_room = "{room}"\n{more}\n'


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


def test_system_messages_are_chosen_for_each_pair(tmp_path: Path) -> None:
    chosen = pair(more='system_messages = "pin boost"') + pair(7, "#b:example.org", 'system_messages = ""')
    settings = load(write(tmp_path, SIDES + chosen + pair(8, "#c:example.org")), {})
    chosen_kinds = [sorted(found.policy.system_messages) for found in settings.declared_pairs()]
    assert chosen_kinds == [["boost", "pin"], [], sorted(SYSTEM_MESSAGES)]


def test_a_pair_s_moderation_goes_before_the_default_and_is_read_from_the_environment(tmp_path: Path) -> None:
    pairs = pair() + pair(7, "#b:example.org", "moderation.deletions = false")
    settings = load(write(tmp_path, SIDES + "[defaults]\nmoderation.deletions = true\n" + pairs), {})
    assert [found.policy.moderate_deletions for found in settings.declared_pairs()] == [True, False]
    settings = load(write(tmp_path, SIDES + pairs), {"RELAY_DEFAULTS__MODERATION__DELETIONS": "true"})
    assert [found.policy.moderate_deletions for found in settings.declared_pairs()] == [True, False]
    with pytest.raises(ConfigurationError, match="did you mean deletions"):
        load(write(tmp_path, SIDES + pair(more="moderation.deletion = true")), {})


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = load(write(tmp_path, SIDES), {})
    with pytest.raises(ValueError, match="frozen"):
        settings.web.listen = ""
    with pytest.raises(ValueError, match="frozen"):
        settings.pairs = ()


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
    [(None, "no such file"), ("", "the file is empty"), (b"\xff\xfe\xff", "not a text file"), ("a b", "holds a space")],
)
def test_a_secret_file_that_is_no_use(tmp_path: Path, content: str | bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content if isinstance(content, bytes) else content.encode())
    text = SIDES.replace(f'token = "{TOKEN}"', 'token_file = "token"')
    found = only(tmp_path, text).lower()
    assert found.startswith("relay.toml:")
    assert "[discord] token" in found
    assert words in found


def test_a_secret_and_its_file(tmp_path: Path) -> None:
    found = only(tmp_path, SIDES.replace("[matrix]", 'token_file = "x"\n[matrix]'))
    assert found == "relay.toml:4: [discord] token_file: token is set too; keep one of token and token_file"


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path / "nowhere.toml", {"RELAY_PAIRZ": "1"})
    first, second = caught.value.mistakes
    assert str(first).startswith(f"{tmp_path}/nowhere.toml: there is no such file; create it")
    assert second.remedy == "did you mean RELAY_PAIRS?"
    with pytest.raises(ConfigurationError, match="cannot be read: is a directory"):
        load(tmp_path, {})


def test_broken_toml_names_line_and_column(tmp_path: Path) -> None:
    found = only(tmp_path, '[discord]\ntoken = "x"\napi_url = https://x\n')
    assert "is not valid TOML" in found
    assert "at line 3, column 11" in found
    (tmp_path / "relay.toml").write_bytes(b"[discord]\ntoken = '\xff'\n")
    with pytest.raises(ConfigurationError, match="is not UTF-8 text"):
        load(tmp_path / "relay.toml", {})
    assert load(write(tmp_path, "\ufeff" + SIDES), {}).pairs == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            SIDES.replace("access_token", "acess_token") + "[matrix.x]",
            None,
        ),
        (SIDES + "[stoer]\nurl = 1", "relay.toml:8: [stoer]: there is no such section; did you mean [store]?"),
        (
            SIDES + "[web]\nlisten = 9464",
            (
                "relay.toml:9: [web] listen: must be text; put it in quotes; write, for "
                'example, listen = "127.0.0.1:9464"'
            ),
        ),
        (
            SIDES + '[web]\nlisten = "9464"',
            (
                "relay.toml:9: [web] listen: is not an address to listen on; write "
                '"127.0.0.1:9464" or "[::1]:9464", or "" to turn it off'
            ),
        ),
        (
            SIDES + '[web]\nhosts = "https://relay:9464"',
            (
                "relay.toml:9: [web] hosts: is not a list of host names; write names without scheme and port, like "
                '"relay, status.example.org"'
            ),
        ),
        (SIDES + "[web]\nport = 1", "relay.toml:9: [web] port: there is no such key; write one of hosts, listen"),
        (
            SIDES + '[pairs]\nname = "x"',
            ("relay.toml:8: [pairs]: must be a list of pairs; begin each of them with [[pairs]], in double brackets"),
        ),
        (
            "store = 1\n" + SIDES,
            ("relay.toml:1: [store]: must be a table; begin it with [store] and write its keys below, one to a line"),
        ),
        (
            SIDES + '[store]\nurl = "postgresql://u:p@h/d"',
            (
                "relay.toml:9: [store] url: is not the address of an "
                'SQLite file; write "sqlite:///relay.db" or "sqlite:////var/lib/relay/relay.db"'
            ),
        ),
        (
            SIDES + '[store]\nreconcile_window = "soon"',
            (
                "relay.toml:9: [store] reconcile_window: is not a length of "
                'time; write seconds as a number, or with a unit: "90s", "30m", "48h", "7d"'
            ),
        ),
        (
            SIDES + '[store]\nretention = "never"',
            (
                "relay.toml:9: [store] retention: is not a length of time; "
                'write a number with a unit: "90d", "36h", or "forever"'
            ),
        ),
        (SIDES + "[defaults]\nmax_parts = 0", "relay.toml:9: [defaults] max_parts: is too small; write at least 1"),
        (
            SIDES + "[defaults]\nmax_parts = true",
            ("relay.toml:9: [defaults] max_parts: must be a whole number; write it in digits"),
        ),
        (SIDES + "[defaults]\nbatch_when_behind = inf", None),
        (
            SIDES + '[defaults]\nsystem_messages = "join, leave"',
            (
                "relay.toml:9: [defaults] system_messages: is not a list of kinds; write "
                'some of "join, pin, boost, other", or "" for none'
            ),
        ),
        (
            SIDES + '[defaults]\nthread_messages = "keep"',
            ("relay.toml:9: [defaults] thread_messages: is none of the values it can have; write 'drop' or 'flatten'"),
        ),
        (
            SIDES + pair(more='nsfw = "maybe"'),
            (
                'relay.toml:11: [[pairs]] 1 "#a:example.org" nsfw: must be true or '
                "false; write nsfw = true or nsfw = false, without quotes"
            ),
        ),
        (
            SIDES + pair(channel="general"),
            (
                'relay.toml:9: [[pairs]] 1 "#a:example.org" discord_channel: is not a '
                "channel ID; write the number that “Copy Channel ID” gives in Discord’s developer mode, like "
                "1234567890123456789"
            ),
        ),
        (
            SIDES + pair(room="a:example.org", more='name = "x"'),
            (
                'relay.toml:10: [[pairs]] 1 "x" matrix_room: is '
                "neither a room alias nor a room ID: it begins with neither # nor !; write an alias like "
                '"#help:example.org", or a room ID like "!opaque:example.org"'
            ),
        ),
        (
            SIDES + pair() + pair(1234567890123456789, "#b:example.org"),
            (
                'relay.toml:13: [[pairs]] 2 "#b:example.org" '
                'discord_channel: stands in [[pairs]] 1 "#a:example.org" (line 9) too; a channel can be in '
                "one pair only: "
                "remove one of the two"
            ),
        ),
        (
            SIDES + pair() + pair(1),
            (
                'relay.toml:14: [[pairs]] 2 "#a:example.org" matrix_room: stands in [[pairs]] 1 '
                '"#a:example.org" (line 10) too; a room can be listed once only: remove one of the two'
            ),
        ),
        (
            SIDES + pair(more='name = "x"') + pair(1, "#b:c", 'name = "x"'),
            (
                'relay.toml:15: [[pairs]] 2 "x" name: '
                'stands in [[pairs]] 1 "x" (line 11) too; give each pair a name of its own (a room\'s alias '
                "is the name of "
                "a pair without one)"
            ),
        ),
        (SIDES + pair(room="#b:c") + pair(1, "#c:d", 'name = "#b:c"'), None),
        (SIDES + pair() + '[[rooms]]\nmatrix_room = "#a:example.org"', None),
        (SIDES.replace("access_token", "password_file"), None),
        (SIDES.replace("access_token", "device_id"), None),
    ],
)
def test_one_clear_line_each(tmp_path: Path, text: str, expected: str | None) -> None:
    if expected is None:
        assert mistakes(tmp_path, text)
    else:
        assert only(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = " + "1" * 5000, "is not valid TOML: a number has too many digits"),
        ("x = " + "[" * 5000, "is not valid TOML"),
        ("pairs = [1]\n" + SIDES, "relay.toml:1: [[pairs]] 1: must be a table; begin it with [[pairs]]"),
        (SIDES + pair(channel=10**30), "discord_channel: is not a channel ID"),
        (SIDES + pair(channel=-5), "discord_channel: is not a channel ID"),
        (SIDES + pair(channel=True), "discord_channel: is not a channel ID"),
        (SIDES + pair(channel=1.5), "discord_channel: is not a channel ID"),
        ("_cli_parse_args = true\n" + SIDES, "relay.toml:1: [_cli_parse_args]: there is no such section"),
        ("__pydantic_self__ = 1\n" + SIDES, "there is no such section"),
        ("self = 1\n" + SIDES, "there is no such section"),
        (SIDES.replace(TOKEN, "…"), "[discord] token: holds a space, a line break or another character"),
    ],
    ids=range(11),
)
def test_odd_values(tmp_path: Path, text: str, words: str) -> None:
    assert words in only(tmp_path, text)


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    text = """
[discord]
tokn = "x"
[matrix]
homeserver_url = "example.org"
user_id = "relay"
[[pairs]]
discord_channel = 1
matrix_room = "#a"
[[pairs]]
discord_channel = 1
"""
    found = "\n".join(mistakes(tmp_path, text, RELAY_LOG__LEVEL="loud", RELAY_WEB__LISTN=""))
    for words in (
        "relay.toml:3: [discord] tokn: there is no such key; did you mean token?",
        "relay.toml:2: [discord] token: is missing; write token = ",
        "or set RELAY_DISCORD__TOKEN",
        "[matrix] homeserver_url: is not a web address",
        "[matrix] user_id: is not a Matrix user ID",
        "[matrix] access_token: there is neither an access token nor a password",
        '[[pairs]] 1 "#a" matrix_room: is neither a room alias nor a room ID: it names no server',
        "[[pairs]] 2 matrix_room: is missing",
        "[[pairs]] 2 discord_channel: stands in [[pairs]] 1",
        "environment variable RELAY_LOG__LEVEL: is none of the values it can have",
        "environment variable RELAY_WEB__LISTN: there is no such key; did you mean RELAY_WEB__LISTEN?",
    ):
        assert words in found
    assert len(found.splitlines()) == 10


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("RELAY_TOKEN", "x", "there is no such section"),
        ("RELAY_DISCORD", '{"token": "x"}', "write RELAY_DISCORD__<KEY>"),
        ("RELAY_DISCORD__TOKEN__X", "x", "write RELAY_DISCORD__<KEY>"),
        ("RELAY_PAIRS__0__NAME", "x", "write the whole list as JSON into RELAY_PAIRS"),
        ("RELAY_PAIRS", "[{", "is not a JSON list"),
        ("RELAY_PAIRS", '{"name": "x"}', "is not a JSON list"),
        ("RELAY_DEFAULTS__MAX_PARTS", "many", "must be a whole number"),
    ],
)
def test_mistakes_in_the_environment_name_the_variable(tmp_path: Path, variable: str, value: str, words: str) -> None:
    found = only(tmp_path, SIDES, **{variable: value})
    assert found.startswith(f"environment variable {variable}: ")
    assert words in found


def test_kubernetes_puts_variables_of_its_own(tmp_path: Path) -> None:
    environ = {"RELAY_SERVICE_HOST": "10.0.0.1", "RELAY_PORT": "tcp://x", "RELAY_PORT_9464_TCP_ADDR": "10.0.0.1"}
    assert load(write(tmp_path, SIDES), {**environ, "RELAY_SERVICE_PORT_HTTP": "1"}).pairs == ()


@pytest.mark.parametrize(
    ("room", "valid"),
    [
        ("#a:example.org", True),
        ("#köln café".replace(" ", "-") + ":example.org", True),
        ("#a:localhost:8448", True),
        ("#a:[::1]:8448", True),
        ("!opaque:example.org", True),
        ("!Sm6dzhCfj3GGxrSMPWbrFu0nVvvyf5KGUFUvCV2CC0Y", True),
        ("!short", False),
        ("#a", False),
        ("a:example.org", False),
        ("#:example.org", False),
        ("#a:", False),
        ("#a b:example.org", False),
        ("#a:example.org\n", False),
        ("#a:example.org/x", False),
        ("https://matrix.to/#/#a:example.org", False),
        ("#" + "a" * 250 + ":example.org", False),
        ("", False),
    ],
)
def test_room_addresses(tmp_path: Path, room: str, valid: bool) -> None:
    text = SIDES + f"[[pairs]]\ndiscord_channel = 1\nmatrix_room = {json.dumps(room)}\n"
    if valid:
        assert load(write(tmp_path, text), {}).pairs[0].matrix_room == room
    else:
        assert "matrix_room" in only(tmp_path, text)


# --- Secrets ----------------------------------------------------------------------------------------------


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
    texts = (all_text_of(settings), all_text_of(settings.discord), settings.model_dump_json(), str(settings.matrix))
    for text in texts:
        assert not any(secret in text for secret in settings.secrets())
    with pytest.raises(ValueError, match="frozen") as caught:
        settings.discord.token = TOKEN  # type: ignore[assignment]
    assert TOKEN not in all_text_of(caught.value)


# --- Whatever stands in the file --------------------------------------------------------------------------

_SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(),
    st.text(max_size=20),
    st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    st.sampled_from(["#a:b", "!x:y", "@u:s", "https://x", "1", "drop", "sqlite:///x"]),
)
_KEYS = st.sampled_from(
    [
        *("token", "token_file", "access_token", "homeserver_url", "user_id", "url", "listen"),
        *("name", "discord_channel", "matrix_room", "max_parts", "catchup_limit", "x"),
    ]
)
_VALUES = _SCALARS | st.lists(_SCALARS, max_size=2)
_TABLES = st.dictionaries(_KEYS, _VALUES, max_size=4)
_SECTIONS = st.sampled_from(["discord", "matrix", "store", "web", "log", "defaults", "pairs", "rooms", "x"])
_DOCUMENTS = st.dictionaries(_SECTIONS, _VALUES | _TABLES | st.lists(_TABLES, max_size=3), max_size=5)


def as_toml(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {as_toml(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(as_toml, value)) + "]"
        case datetime():
            return value.isoformat()
        case float() | bool():
            return str(value).lower()
        case _:
            return json.dumps(value).replace("\x7f", "\\u007f")


@given(_DOCUMENTS)
def test_any_toml_gives_settings_or_mistakes(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    text = "\n".join(f"{key} = {as_toml(value)}" for key, value in document.items())
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    found: tuple[Mistake, ...] = ()
    try:
        load(file, {})
    except ConfigurationError as error:
        found = error.mistakes
    complete = {"token", "homeserver_url", "user_id", "access_token"} <= {
        key for section in ("discord", "matrix") for key in _keys(document.get(section))
    }
    assert found or complete
    assert all(str(mistake).isprintable() for mistake in found)


def _keys(table: object) -> set[str]:
    return set(table) if isinstance(table, dict) else set()


@given(st.text())
def test_positions_never_fail(text: str) -> None:
    assert all(1 <= line <= len(text.splitlines()) for line in positions(text).values())


def test_positions() -> None:
    text = 'a = 1\n[b]\n  c = """\nd = 2\n"""\ne.f = 1 # x\n[[g]] # y\nh = 1\n[[ g ]]\n"h" = [\n1]\n'
    assert positions(text) == {
        ("a",): 1,
        ("b",): 2,
        ("b", "c"): 3,
        ("b", "e"): 6,
        ("g", 0): 7,
        ("g", 0, "h"): 8,
        ("g", 1): 9,
        ("g", 1, "h"): 10,
    }


@pytest.mark.parametrize("written", ['"relay, Status.example.org"', '["relay", "Status.example.org"]'])
def test_names_of_the_web_server(tmp_path: Path, written: str) -> None:
    settings = load(write(tmp_path, f"{SIDES}[web]\nhosts = {written}\n"), {})
    assert settings.web.hosts == "relay, Status.example.org"


@pytest.mark.parametrize("name", ["büro.example", "xn--bro-hoa.example.", "[fe80::1%eth0]", "192.0.2.7"])
def test_a_name_of_the_web_server(tmp_path: Path, name: str) -> None:
    assert load(write(tmp_path, f'{SIDES}[web]\nhosts = "{name}"\n'), {}).web.hosts == name


@pytest.mark.parametrize("name", ["relay:9464", "bü/ro", "ü" * 70, "a..b", "[fe80::1%]"], ids=ascii)
def test_no_name_of_the_web_server(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="hosts: is not a list of host names"):
        load(write(tmp_path, f'{SIDES}[web]\nhosts = "{name}"\n'), {})
