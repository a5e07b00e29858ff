"""What is said of mistakes in `relay.toml` and the environment: one clear line each, whatever the file holds."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.loading import load
from relay.config.mistakes import positions
from relay.errors import ConfigurationError, Mistake
from tests.support.settings import PAIRS, SIDES, mistakes, only, pair, write


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path / "nowhere.toml", {"RELAY_PAIRZ": "1", "RELAY_WEB_LISTEN": "1"})
    first, second, third = caught.value.mistakes
    assert str(first).startswith(f"{tmp_path}/nowhere.toml: there is no such file; run `relay init`")
    assert second.remedy == "did you mean RELAY_PAIRS?"
    assert third.remedy == "did you mean RELAY_WEB__LISTEN?"
    with pytest.raises(ConfigurationError, match="is a directory; remove the directory"):
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
        (
            SIDES + "[web]\nport = 1",
            (
                "relay.toml:9: [web] port: there is no such key; write one of avatars, directory, hosts, "
                "link_lifetime, listen, public_url, token, token_file"
            ),
        ),
        (
            SIDES + "[web]\navatars = true",
            (
                "relay.toml:9: [web] avatars: Discord reaches no picture: there is no public_url; write the address "
                'that the world reaches, like public_url = "https://relay.example.org"'
            ),
        ),
        (
            SIDES + '[web]\nlisten = ""\npublic_url = "https://relay.example.org"',
            (
                "relay.toml:10: [web] public_url: nothing listens there: [web] listen is empty; write an address like "
                'listen = "127.0.0.1:9464", or remove public_url'
            ),
        ),
        (
            SIDES + '[web]\npublic_url = "relay.example.org"',
            (
                "relay.toml:9: [web] public_url: is not a web address; write it with its scheme, like "
                '"https://example.org"'
            ),
        ),
        (
            'listen = ""\n' + SIDES,
            "relay.toml:1: [listen]: it cannot stand there; write it as listen below [web]",
        ),
        (
            SIDES + '[moderation]\nblocked = ["@spam:*"]',
            "relay.toml:8: [moderation]: it cannot stand there; write it as [defaults.moderation]",
        ),
        (
            SIDES + "[defaults]\ndiscord_channel = 1234567890123456789",
            (
                "relay.toml:9: [defaults] discord_channel: is of one pair, and not of all; move it below that one's "
                "[[pairs]]"
            ),
        ),
        (
            SIDES + "appservice = true",
            (
                "relay.toml:8: [matrix] appservice: must be a table; start it with [matrix.appservice] and write its "
                "keys below, one per line"
            ),
        ),
        (
            SIDES + '[log]\nfile = "relay.log"',
            (
                "relay.toml:9: [log] file: the log goes to standard error only; append 2>> and a file's name to the "
                "command, or let systemd or Docker keep it"
            ),
        ),
        (
            SIDES + '[pairs]\nname = "x"',
            ("relay.toml:8: [pairs]: must be a list of pairs; start each of them with [[pairs]], in double brackets"),
        ),
        (
            "store = 1\n" + SIDES,
            ("relay.toml:1: [store]: must be a table; start it with [store] and write its keys below, one per line"),
        ),
        (
            SIDES + '[store]\nurl = "mysql://u:p@h/d"',
            (
                "relay.toml:9: [store] url: is the address of neither an SQLite file nor a PostgreSQL database; write "
                '"sqlite:///relay.db" or "sqlite:////var/lib/relay/relay.db", or "postgresql://user@host/relay"'
            ),
        ),
        (
            SIDES + '[store]\nurl = "postgresql://u:p@h"',
            'relay.toml:9: [store] url: names no database; write "postgresql://user:password@host/relay"',
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
            ("relay.toml:9: [defaults] thread_messages: is not an allowed value; write 'drop' or 'flatten'"),
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
                'discord_channel: is already in [[pairs]] 1 "#a:example.org" (line 9); a channel can be in '
                "one pair only: "
                "remove one of the two"
            ),
        ),
        (
            SIDES + pair() + pair(1),
            (
                'relay.toml:14: [[pairs]] 2 "#a:example.org" matrix_room: is already in [[pairs]] 1 '
                '"#a:example.org" (line 10); a room can be listed once only: remove one of the two'
            ),
        ),
        (
            SIDES + pair(more='name = "x"') + pair(1, "#b:c", 'name = "x"'),
            (
                'relay.toml:15: [[pairs]] 2 "x" name: '
                'is already in [[pairs]] 1 "x" (line 11); give each pair a name of its own (a room\'s alias '
                "is the name of "
                "a pair without one)"
            ),
        ),
        (
            SIDES + '[[people]]\ndiscord = "ada"\nmatrix = "@ada:b.c"',
            (
                "relay.toml:9: [[people]] 1 discord: is not a user ID; write the number that “Copy User ID” gives in "
                "Discord’s developer mode, like 1234567890123456789"
            ),
        ),
        (
            SIDES + '[[people]]\ndiscord = 1\nmatrix = "ada"',
            'relay.toml:10: [[people]] 1 matrix: is not a Matrix user ID; write it in full, like "@relay:example.org"',
        ),
        (
            SIDES + "[[people]]\ndiscord = 1",
            'relay.toml:8: [[people]] 1 matrix: is missing; write, for example, matrix = "@ada:example.org"',
        ),
        (
            SIDES + '[[people]]\ndiscord = 1\nmatrix = "@a:b.c"\n[[people]]\ndiscord = "1"\nmatrix = "@b:b.c"',
            (
                "relay.toml:12: [[people]] 2 discord: is already in [[people]] 1 (line 9); one account can be in one "
                "link only: remove one of the two"
            ),
        ),
        (
            SIDES + '[[people]]\ndiscord = 1\nmatrix = "@a:b.c"\n[[people]]\ndiscord = 2\nmatrix = "@a:b.c"',
            (
                "relay.toml:13: [[people]] 2 matrix: is already in [[people]] 1 (line 10); one account can be in one "
                "link only: remove one of the two"
            ),
        ),
        (
            SIDES + '[[people]]\ndiscord = 1\nmatrix = "@relay:example.org"',
            "relay.toml:10: [[people]] 1 matrix: is the relay's own account; write the account of a person",
        ),
        (
            SIDES + "[people]\nada = 1",
            "relay.toml:8: [people]: must be a list of people; start each of them with [[people]], in double brackets",
        ),
        (SIDES + '[[pair]]\nname = "x"', "relay.toml:8: [pair]: there is no such section; did you mean [[pairs]]?"),
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
        "[[pairs]] 2 discord_channel: is already in [[pairs]] 1",
        "environment variable RELAY_LOG__LEVEL: is not an allowed value",
        "environment variable RELAY_WEB__LISTN: there is no such key; did you mean RELAY_WEB__LISTEN?",
    ):
        assert words in found
    assert len(found.splitlines()) == 10


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("RELAY_TOKEN", "x", "there is no such section; did you mean RELAY_DISCORD__TOKEN or RELAY_WEB__TOKEN?"),
        ("RELAY_MODERATION__BLOCKED", "[]", "did you mean RELAY_DEFAULTS__MODERATION__BLOCKED?"),
        ("RELAY_DISCORD", '{"token": "x"}', "write RELAY_DISCORD__<KEY>"),
        ("RELAY_DISCORD__TOKEN__X", "x", "write RELAY_DISCORD__<KEY>"),
        (
            "RELAY_MATRIX__APPSERVICE_AS_TOKEN",
            "x",
            "AS_TOKEN: there is no such key; did you mean RELAY_MATRIX__APPSERVICE__AS_TOKEN?",
        ),
        (
            "RELAY_DIRECTORY__MATRIX_SPACE_ALTERNATIVE",
            "x",
            "ALTERNATIVE: there is no such key; did you mean RELAY_DIRECTORY__MATRIX_SPACE_ALTERNATIVES?",
        ),
        ("RELAY_PAIRS__0__NAME", "x", "write the whole list as JSON into RELAY_PAIRS"),
        ("RELAY_PAIRS", "[{", "is not a JSON list"),
        ("RELAY_PAIRS", '[{"discord_channel": 1}]', "RELAY_PAIRS: [[pairs]] 1 matrix_room: is missing"),
        ("RELAY_PAIRS", '{"name": "x"}', "is not a JSON list"),
        ("RELAY_DEFAULTS__MAX_PARTS", "many", "must be a whole number"),
    ],
)
def test_mistakes_in_the_environment_name_the_variable(tmp_path: Path, variable: str, value: str, words: str) -> None:
    found = only(tmp_path, SIDES, **{variable: value})
    assert found.startswith(f"environment variable {variable}: ")
    assert words in found


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
_SECTIONS = st.sampled_from(["discord", "matrix", "store", "web", "log", "defaults", "pairs", "rooms", "people", "x"])
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


def test_what_is_valid_is_not_blamed_for_what_is_not(tmp_path: Path) -> None:
    """Dotted keys, lists of several lines and texts of several lines stand before the line that is wrong."""
    valid = 'a.bans = true\na.deletions = true\nlists = [\n  "#a:b",\n]\npurpose = """\n// x = y\n"""\n'
    tables = f"[[pairs]]\n{valid}[pairs.more]\n{valid}[[pairs.more.list]]\n{valid}"
    for text in (SIDES, PAIRS, f"[defaults]\n{valid}{tables}{tables}"):
        number = text.count("\n") + 1
        assert f"in line {number} put the value in quotes" in only(tmp_path, f"{text}odd = a b\n")
