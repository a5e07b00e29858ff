"""JSON from outside is read whatever one value in it is."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.domain.jsontext import MOST_LEVELS, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)
LEVELS = st.integers(0, 8)
DEEP = (MOST_LEVELS + 10, 500, 980, 1_000, 100_000)


def nested(depth: int) -> str:
    return '{"a":[' * (depth // 2) + "1" + "]}" * (depth // 2)


def depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level := [held for held in level if isinstance(held, dict | list)]:
        deepest += 1
        level = [child for held in level for child in (held.values() if isinstance(held, dict) else held)]
    return deepest


@given(VALUES, LEVELS, st.sampled_from([None, 1]), st.booleans())
def test_what_json_reads_is_read_alike(value: object, levels: int, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert loads(text, levels=levels) == value


@given(VALUES, LEVELS, st.data())
def test_what_is_no_json_is_refused(value: object, levels: int, data: st.DataObject) -> None:
    whole = json.dumps(value)
    at = data.draw(st.integers(0, len(whole)))
    text = whole[:at] + data.draw(st.sampled_from(["", ",", "]", "}", "[", "{", '"', ":", "x", "1"])) + whole[at + 1 :]
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(json.JSONDecodeError):
            loads(text, levels=levels)
    else:
        assert loads(text, levels=levels) == expected


@pytest.mark.parametrize("levels", [0, 1, 6])
@pytest.mark.parametrize("deep", DEEP)
def test_what_is_nested_too_deep_is_left_out_of_what_stands_around_it(levels: int, deep: int) -> None:
    text = '{"rooms":{"!a":[{"body":"]}\\"[{"},{"body":"tea","x":' + nested(deep) + '},{"body":"cake"}]}}'
    found = loads(text, levels=levels)
    said = found["rooms"]["!a"]
    assert [event["body"] for event in said] == [']}"[{', "tea", "cake"]
    assert depth(found) <= MOST_LEVELS + levels


@pytest.mark.parametrize("levels", [0, 1, 6])
def test_a_number_of_too_many_digits_is_left_out(levels: int) -> None:
    text = '{"a":{"b":[' + "1" * 9_000 + ",-" + "2" * 9_000 + ", 1]}}"
    assert loads(text, levels=levels) == {"a": {"b": [None, None, 1]}}


def test_what_never_closes_is_no_json() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        loads("[" * 100_000)
