"""A long answer, of which the rooms are read one after the other."""

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.matrix.api.client import parse_response
from relay.adapters.matrix.api.unread import Unread, read_partly
from relay.domain.jsontext import loads

PATH = ("rooms", "join")
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT | st.sampled_from(PATH), inner),
    max_leaves=30,
)


def whole(value: Any) -> Any:
    """With all that was left unread."""
    if isinstance(value, Unread):
        return value.read()
    return {name: whole(held) for name, held in value.items()} if isinstance(value, dict) else value


def read(raw: bytes, *, levels: int = 6, most: int | None = 2_000) -> Any:
    return read_partly(raw, PATH, levels=levels, max_containers=most)


@given(st.dictionaries(TEXT | st.just("rooms"), VALUES), VALUES, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_read_one_after_the_other_it_says_the_same(answer: Any, joined: Any, indent: Any, escaped: bool) -> None:
    for one in (answer, answer | {"rooms": {"before": 1, "join": joined, "behind": "🐦"}}):
        raw = f" {json.dumps(one, indent=indent, ensure_ascii=escaped)}\n".encode()
        assert whole(read(raw)) == loads(raw, levels=6, max_containers=2_000) == one


def test_what_is_not_as_expected_is_read_as_ever() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    many = f"[{'[],' * 3_000}1]"
    for inner in (deep, many, "9" * 5_000, '"\\ud800"', '{"twice": 1, "twice": {"x": 2}}'):
        raw = f'{{"rooms": {{"join": {{"!a": 0}}, "join": {{"!a": {{"b": [{inner}]}}, "!c": 3}}}}}}'.encode()
        assert whole(read(raw)) == loads(raw, levels=6, max_containers=2_000)
    for text in ("[1]", "null", '{"rooms": null}', '{"rooms": {"join": [1]}}', '{"rooms": {"join": {}}, "rooms": 1}'):
        assert read(text.encode()) == loads(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", '{"rooms": {"join": {"!a": {}}}', '{"rooms": {"join": {"!a": {}},}}', '{"rooms": {"join": {1: 2}}}'),
        *('{"rooms": {"join": {"!a" 1}}}', '{"rooms": {"join": {"!a": 1 "!b": 2}}}', '{"rooms": {"join": {}}} more'),
        *('{"rooms": {"join": {"!a": [1, ]}}}', '{"rooms": {"join": {"!a": [1}}}', '{"rooms": {"join": {"!a": tru}}}'),
    ],
)
def test_what_is_not_json_is_refused(text: str) -> None:
    for reading in (read, loads):
        with pytest.raises(ValueError, match=r"."):
            reading(text.encode())


def test_the_state_of_many_rooms_does_not_lie_in_memory_at_once() -> None:
    events = [{"type": f"m.{number}", "content": {"a": number, "b": [str(number)]}} for number in range(10)]
    answer = {"rooms": {"join": {f"!{number}": {"state": {"events": events}} for number in range(200)}}}
    raw = json.dumps(answer).encode()
    before = sys.getallocatedblocks()
    parsed = parse_response(200, None, raw, PATH)
    # In a room there are 90 objects and more.
    assert sys.getallocatedblocks() - before < 200 * 10
    assert whole(parsed) == answer
