"""How slash commands are registered and read. Whether Discord takes a definition is the sandbox's word."""

from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.adapters.discord.commands import Interaction, definition, read_interaction, same_definition
from relay.core.people.commands import COMMANDS
from relay.domain.jsontext import Json
from relay.sandbox.interactions.commands import Commands, read_command, render_command
from relay.sandbox.messages.forms import Form
from relay.sandbox.world.state import State


def _registered(given: Json) -> Json:
    """A definition as Discord gives it back."""
    form = Form(given)
    read = read_command(form, in_guild=False)
    assert form.report == {}
    state = State()
    return render_command(Commands(state).put(state.add_application("relay"), None, read)[0])


def test_discord_takes_the_definition_and_we_recognise_it() -> None:
    ours = definition()
    assert same_definition(ours, _registered(ours))
    assert [option["name"] for option in ours["options"]] == [spec.name for spec in COMMANDS]


@pytest.mark.parametrize(
    "change",
    [
        {"description": "Something else."},
        {"contexts": None},
        {"name": "bridge"},
        {"options": [{"type": 1, "name": "help", "description": "Only this."}]},
    ],
)
def test_another_definition_is_another_one(change: Json) -> None:
    assert not same_definition(definition(), _registered(definition() | change))


def test_arguments_and_choices_count_too() -> None:
    ours = definition()
    option: Json = {"type": 3, "name": "account", "description": "d", "max_length": 255}
    with_argument = ours | {"options": [{"type": 1, "name": "link", "description": "d", "options": [option]}]}
    choices = {"choices": [{"name": "copies", "value": "copies"}]}
    for other in (option | {"required": True}, option | {"max_length": 9}, option | choices):
        theirs = ours | {"options": [{"type": 1, "name": "link", "description": "d", "options": [other]}]}
        assert same_definition(theirs, _registered(theirs))
        assert not same_definition(with_argument, _registered(theirs))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["30", "relay", 2, 11]),
    lambda inner: (
        st.lists(inner, max_size=12)
        | st.dictionaries(st.sampled_from(["id", "user", "type", "name", "value", "options", "parent_id"]), inner)
    ),
    max_leaves=30,
)
# In Discord's form: Base64 of "interaction:", the ID, and 128 characters.
TOKEN = b64encode(b"interaction:1060320610921762816:" + b"x" * 128).decode().rstrip("=")
GIVEN: Json = {
    "id": "10",
    "type": 2,
    "token": TOKEN,
    "channel_id": "20",
    "channel": {"id": "20", "type": 0, "parent_id": "5"},
    "member": {"user": {"id": "30"}},
    "data": {
        "name": "relay",
        "options": [{"type": 1, "name": "link", "options": [{"type": 3, "name": "account", "value": "@ada:x.org"}]}],
    },
}
READ = Interaction("10", TOKEN, "30", "", "20", "", "relay", ("link", "@ada:x.org"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, READ),
        ({"channel": {"type": 11, "parent_id": "5"}}, replace(READ, parent="5")),
        ({"member": None, "user": {"id": "30"}}, READ),
        ({"member": {"nick": "Ada", "user": {"id": "30", "global_name": "A"}}}, replace(READ, name="Ada")),
        ({"member": {"nick": None, "user": {"id": "30", "username": "ada"}}}, replace(READ, name="ada")),
        ({"data": {"name": "relay"}}, replace(READ, words=())),
        ({"data": {"name": "relay", "options": [None, 5]}}, replace(READ, words=())),
        ({"data": None}, replace(READ, command="None", words=())),
        ({"type": 3}, None),
        ({"id": "x"}, None),
        ({"token": "../../channels"}, None),
        ({"token": None}, None),
        ({"channel_id": None}, None),
        ({"member": {"user": {"id": "me"}}}, None),
    ],
)
def test_what_is_read_of_an_interaction(change: Json, expected: Any) -> None:
    assert read_interaction(GIVEN | change) == expected


@given(JSON, st.sampled_from([*GIVEN, "user"]))
@example({"type": []}, "channel")
def test_nothing_that_comes_makes_it_fail(value: Any, field: str) -> None:
    found = read_interaction(GIVEN | {field: value})
    assert found is None or (len(found.words) <= 8 and all(len(word) <= 255 for word in found.words))


def test_the_token_is_in_no_text_of_it() -> None:
    assert READ.token not in repr(READ)


def test_words_are_cut_where_an_id_cannot_be_that_long() -> None:
    options = [{"type": 1, "name": "link", "options": [{"type": 3, "name": "account", "value": "x" * 6000}]}]
    found = read_interaction(GIVEN | {"data": {"name": "relay", "options": options}})
    assert found is not None
    assert [len(word) for word in found.words] == [4, 255]
