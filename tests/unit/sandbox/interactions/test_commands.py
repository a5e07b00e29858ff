"""What the definition of an application command may hold, and how commands are kept."""

from typing import Any

import pytest

from relay.sandbox.errors import ApiError
from relay.sandbox.interactions.commands import Commands, read_command, valid_name
from relay.sandbox.messages.forms import Form
from relay.sandbox.world.models import Json
from relay.sandbox.world.state import State

PLAIN: Json = {"name": "relay", "description": "Talks to the relay."}


def _text(name: str = "text", **more: Any) -> Json:
    return {"type": 3, "name": name, "description": "d"} | more


def _sub(name: str = "sub", *options: Json) -> Json:
    return {"type": 1, "name": name, "description": "d", "options": list(options)}


def _group(name: str, *options: Json) -> Json:
    return _sub(name, *options) | {"type": 2}


def _read(body: Json, *, in_guild: bool = False) -> tuple[Json, Json]:
    form = Form(body)
    return read_command(form, in_guild=in_guild), form.report


def _codes(report: Any) -> set[str]:
    if isinstance(report, list):
        return {error["code"] for error in report}
    return set().union(*(_codes(part) for part in report.values())) if report else set()


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        ("relay", True), ("a-b_c'9", True), ("Relay", False), ("two words", False), ("straße", True), ("日本", True),
        ("हिन्दी", True), ("a.b", False), ("a/b", False), ("😀", False),
    ],
)  # fmt: skip
def test_names_of_slash_commands(name: str, fine: bool) -> None:
    assert valid_name(name) is fine


def test_what_discord_makes_of_a_definition() -> None:
    given = PLAIN | {"options": [_sub("link", _text("account", required=True)), _sub("help")], "unknown": 1}
    made, report = _read(given)
    assert report == {}
    assert made == {
        "type": 1,
        "name": "relay",
        "name_localizations": None,
        "description": "Talks to the relay.",
        "description_localizations": None,
        "default_member_permissions": None,
        "nsfw": False,
        "contexts": None,
        "integration_types": [0],
        "dm_permission": True,
        "options": [
            {"type": 1, "name": "link", "description": "d", "options": [_text("account", required=True)]},
            {"type": 1, "name": "help", "description": "d"},
        ],
    }
    assert "dm_permission" not in _read(given, in_guild=True)[0]


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        ({"name": "No Spaces"}, {"APPLICATION_COMMAND_INVALID_NAME"}),
        ({"name": "x" * 33}, {"BASE_TYPE_BAD_LENGTH"}),
        ({"description": ""}, {"BASE_TYPE_BAD_LENGTH"}),
        ({"description": "x" * 101}, {"BASE_TYPE_BAD_LENGTH"}),
        ({"description": None}, {"BASE_TYPE_REQUIRED"}),
        ({"type": 2}, {"APPLICATION_COMMAND_CONTEXT_MENU_INVALID"}),
        ({"type": 9}, {"NUMBER_TYPE_MAX"}),
        ({"options": [_text(f"o{number}") for number in range(26)]}, {"BASE_TYPE_MAX_LENGTH"}),
        ({"options": [_text("a"), _text("a")]}, {"APPLICATION_COMMAND_OPTIONS_NAME_INVALID"}),
        ({"options": [_text("a"), _text("b", required=True)]}, {"APPLICATION_COMMAND_OPTIONS_REQUIRED_INVALID"}),
        ({"options": [_sub("a"), _text("b")]}, {"APPLICATION_COMMAND_OPTIONS_TYPE_INVALID"}),
        ({"options": [_group("a", _text("b"))]}, {"APPLICATION_COMMAND_OPTIONS_TYPE_INVALID"}),
        ({"options": [_sub("a", _sub("b"))]}, {"APPLICATION_COMMAND_OPTIONS_TYPE_INVALID"}),
        ({"options": [_group("a", _sub("b", _text("c"))), _sub("d")]}, set()),
        ({"options": [_text("a", choices=[{"name": "n", "value": 1}])]},
         {"APPLICATION_COMMAND_OPTIONS_CHOICE_VALUE_INVALID"}),
        ({"options": [_text("a", max_length=6001)]}, {"NUMBER_TYPE_MAX"}),
        ({"options": [_sub(f"s{a}", *(_text(f"t{b}", description="x" * 100) for b in range(4))) for a in range(25)]},
         {"APPLICATION_COMMAND_TOO_LARGE"}),
        ({"default_member_permissions": "manage"}, {"NUMBER_TYPE_COERCE"}),
        ({"contexts": [0, 7]}, {"BASE_TYPE_CHOICES"}),
    ],
)  # fmt: skip
def test_mistakes_in_a_definition(change: Json, codes: set[str]) -> None:
    assert _codes(_read(PLAIN | change)[1]) == codes


def test_overwriting_keeps_what_has_the_same_name() -> None:
    state = State()
    app, commands = state.add_application("relay"), Commands(state)
    one, two, three = (_read(PLAIN | {"name": name})[0] for name in ("one", "two", "three"))
    first = commands.overwrite(app, None, [one, two])
    versions = [command.version for command in first]
    second = commands.overwrite(app, None, [two | {"nsfw": True}, three])
    assert [command.id for command in second][:1] == [first[1].id]
    assert (versions[1] != second[0].version, {command.id for command in second} == set(app.commands)) == (True, True)
    again = commands.overwrite(app, None, [command.definition for command in second])
    assert [(command.id, command.version) for command in again] == [(one.id, one.version) for one in second]


def test_two_hundred_creations_a_day_and_guild() -> None:
    now = 1_000_000.0
    state = State(lambda: now)
    app, commands = state.add_application("relay"), Commands(state)
    definition = _read(PLAIN)[0]
    for _ in range(200):
        command, new = commands.put(app, 1, definition)
        assert new
        commands.delete(app, command)
    with pytest.raises(ApiError) as refused:
        commands.put(app, 1, definition)
    assert (refused.value.status, refused.value.code) == (400, 30034)
    assert commands.put(app, None, definition)[1]
    now += 86_401
    assert commands.put(app, 1, definition)[1]
    assert not commands.put(app, 1, definition | {"nsfw": True})[1]


def test_a_hundred_slash_commands_a_scope() -> None:
    state = State()
    app, commands = state.add_application("relay"), Commands(state)
    many = [_read(PLAIN | {"name": f"c{number}"})[0] for number in range(101)]
    commands.overwrite(app, None, many[:100])
    with pytest.raises(ApiError) as refused:
        commands.put(app, None, many[100])
    assert refused.value.code == 30032
    commands.overwrite(app, None, many[1:])
    assert len(app.commands) == 100
