"""The forms that values may have: channels, rooms, host names, kinds of system messages."""

import json
from pathlib import Path

import pytest

from relay.config.loading import load
from relay.domain.ids import Platform
from relay.domain.pair import SYSTEM_MESSAGES
from relay.errors import ConfigurationError
from tests.support.settings import SIDES, TOKEN, only, pair, write


def test_system_messages_are_chosen_for_each_pair(tmp_path: Path) -> None:
    chosen = pair(more='system_messages = "pin boost"') + pair(7, "#b:example.org", 'system_messages = ""')
    settings = load(write(tmp_path, SIDES + chosen + pair(8, "#c:example.org")), {})
    chosen_kinds = [sorted(found.policy.system_messages) for found in settings.declared_pairs()]
    assert chosen_kinds == [["boost", "pin"], [], sorted(SYSTEM_MESSAGES)]


def test_lists_are_text_with_commas_in_the_environment(tmp_path: Path) -> None:
    variables = {"RELAY_WEB__HOSTS": "relay, status.example.org", "RELAY_DEFAULTS__SYSTEM_MESSAGES": "pin, join"}
    settings = load(write(tmp_path, SIDES + pair()), variables)
    assert settings.web.hosts == ("relay", "status.example.org")
    assert settings.pairs[0].system_messages == ("pin", "join")
    settings = load(write(tmp_path, SIDES + pair()), dict.fromkeys(variables, ""))
    assert (settings.web.hosts, settings.pairs[0].system_messages) == ((), ())


def test_the_kinds_of_system_messages_are_text(tmp_path: Path) -> None:
    found = only(tmp_path, SIDES + '[defaults]\nsystem_messages = ["join"]\n')
    remedy = 'put it in quotes; write, for example, system_messages = "join, pin, boost, other"'
    assert found.endswith(f"system_messages: must be text; {remedy}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = " + "1" * 5000, "is not valid TOML: a number has too many digits"),
        ("x = " + "[" * 5000, "is not valid TOML"),
        ("pairs = [1]\n" + SIDES, "relay.toml:1: [[pairs]] 1: must be a table; start it with [[pairs]]"),
        (SIDES + pair(channel=10**30), "discord_channel: is not a channel ID"),
        (SIDES + pair(channel=-5), "discord_channel: is not a channel ID"),
        (SIDES + pair(channel=True), "discord_channel: is not a channel ID"),
        (SIDES + pair(channel=1.5), "discord_channel: is not a channel ID"),
        ("_cli_parse_args = true\n" + SIDES, "relay.toml:1: [_cli_parse_args]: there is no such section"),
        ("__pydantic_self__ = 1\n" + SIDES, "there is no such section"),
        ("self = 1\n" + SIDES, "there is no such section"),
        (SIDES.replace(TOKEN, "…"), "[discord] token: contains a space, a line break or another character"),
    ],
    ids=range(11),
)
def test_odd_values(tmp_path: Path, text: str, words: str) -> None:
    assert words in only(tmp_path, text)


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
        ("#a\n:example.org", False),
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


@pytest.mark.parametrize("written", ['"relay, Status.example.org"', '["relay", "Status.example.org"]'])
def test_names_of_the_web_server(tmp_path: Path, written: str) -> None:
    settings = load(write(tmp_path, f"{SIDES}[web]\nhosts = {written}\n"), {})
    assert settings.web.hosts == ("relay", "Status.example.org")


@pytest.mark.parametrize("name", ["büro.example", "xn--bro-hoa.example.", "[fe80::1%eth0]", "192.0.2.7"])
def test_a_name_of_the_web_server(tmp_path: Path, name: str) -> None:
    assert load(write(tmp_path, f'{SIDES}[web]\nhosts = "{name}"\n'), {}).web.hosts == (name,)


@pytest.mark.parametrize("name", ["relay:9464", "bü/ro", "ü" * 70, "a..b", "[fe80::1%]"], ids=ascii)
def test_no_name_of_the_web_server(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="hosts: is not a list of host names"):
        load(write(tmp_path, f'{SIDES}[web]\nhosts = "{name}"\n'), {})


@pytest.mark.parametrize("template", ["{name}", "{name} (Matrix)", "[M] {name}", "{name} @{handle}", "{{{name}}} é"])
def test_templates_of_names(tmp_path: Path, template: str) -> None:
    text = f"{SIDES}[defaults]\nname_template = {json.dumps(template)}\n" + pair()
    (found,) = load(write(tmp_path, text), {}).declared_pairs()
    assert found.policy.name_template(Platform.DISCORD) == template
    assert found.policy.name_template(Platform.MATRIX) == "{name}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("", "is not a template of a name; write {name} once"),
        ("Matrix", "is not a template"),
        ("{name", "is not a template"),
        ("{}", "is not a template"),
        ("{0}", "is not a template"),
        ("{name} {name}", "is not a template"),
        ("{name} {nick}", "is not a template"),
        ("{name.__class__}", "is not a template"),
        ("{name!r}", "is not a template"),
        ("{name:>80}", "is not a template"),
        ("{name}\u202e", "is not a template"),
        ("{name}\u200b", "is not a template"),
        ("{name}\n", "is not a template"),
        ("{name} ⟨Matrix⟩", "is not a template"),
        ("{name}{handle}", "may give two people the same name; write a space between {name} and {handle}"),
        ("{{ }} {handle}.{name}", "may give two people the same name"),
        ("{name}" + "x" * 25, "leaves too little room for the name; write 24 characters around it at most"),
    ],
    ids=ascii,
)
def test_no_template_of_a_name(tmp_path: Path, template: str, words: str) -> None:
    text = f"{SIDES}[defaults]\nname_template = {json.dumps(template)}\n"
    assert f"[defaults] name_template: {words}" in only(tmp_path, text)
