"""JSON from outside is read whatever one value in it is."""

import json
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.domain.jsontext import MAX_LEVELS, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)
LEVELS = st.integers(0, 8)
DEEP = (MAX_LEVELS + 10, 500, 980, 1_000, 100_000)


def nested(depth: int) -> str:
    return '{"a":[' * (depth // 2) + "1" + "]}" * (depth // 2)


def depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level := [held for held in level if isinstance(held, dict | list)]:
        deepest += 1
        level = [child for held in level for child in (held.values() if isinstance(held, dict) else held)]
    return deepest


def holders(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + sum(map(holders, value.values() if isinstance(value, dict) else value))


def sync(*events: str) -> str:
    return '{"rooms":{"join":{"!a:b":{"timeline":{"events":[' + ",".join(events) + "]}}}}}"


def said(answer: Any) -> list[Any]:
    return [event["content"] for event in answer["rooms"]["join"]["!a:b"]["timeline"]["events"]]


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
    assert depth(found) <= MAX_LEVELS + levels


@pytest.mark.parametrize("levels", [0, 1, 6])
def test_a_number_of_too_many_digits_is_left_out(levels: int) -> None:
    text = '{"a":{"b":[' + "1" * 9_000 + ",-" + "2" * 9_000 + ", 1]}}"
    assert loads(text, levels=levels) == {"a": {"b": [None, None, 1]}}


@pytest.mark.parametrize("levels", [0, 6])
def test_what_is_just_deep_enough_beside_many_others_is_whole(levels: int) -> None:
    inside = nested(MAX_LEVELS - 2)
    others = ",".join(["{}"] * 100)
    assert depth(loads(f"[[{others}],[{inside}]]", levels=levels)) == MAX_LEVELS
    found = loads(f"[[{others}],[[[{inside}]]]]", levels=0)
    assert depth(found) == MAX_LEVELS
    assert found[0] == [{}] * 100


def test_what_never_closes_is_no_json() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        loads("[" * 100_000)


@pytest.mark.parametrize(
    "odd", ["[" * 70 + "]" * 70, "[" * 1_100 + "]" * 1_100, "9" * 5_000], ids=["70", "1100", "digits"]
)
def test_what_stands_beside_an_odd_value_is_not_read_piece_by_piece(odd: str) -> None:
    text = sync('{"content":{"body":"tea","x":[' + odd + ",1" * 30_000 + "]}}")
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        found = loads(text, levels=6)
    finally:
        sys.setprofile(before)
    # A number of too many digits is looked for among all the others: one call for each.
    assert calls < (500 if odd[0] == "[" else 30_500)
    (content,) = said(found)
    assert content["body"] == "tea"
    assert content["x"][1:] == [1] * 30_000


@pytest.mark.parametrize("many", ["[]", "{}", "[[],{}]", '{"a":[[1]]}'])
def test_lists_and_objects_that_are_too_many_are_left_out_of_one_event(many: str) -> None:
    text = sync('{"content":{"x":[' + ",".join([many] * 5_000) + '],"y":"tea","z":[2]}}', '{"content":{"body":"cake"}}')
    odd, ordinary = said(loads(text, levels=6, max_containers=2_000))
    assert holders(odd) == 1_999
    assert len(odd["x"]) == 5_000
    assert odd["x"][0] is not None
    assert odd["x"][-1] is None
    assert (odd["y"], odd["z"], ordinary) == ("tea", [2], {"body": "cake"})


def test_brackets_in_a_text_are_no_lists() -> None:
    text = json.dumps({"content": {"body": "[{" * 5_000, "list": [{"a": []}]}})
    assert loads(text, max_containers=10) == json.loads(text)


@given(VALUES, st.integers(1, 20))
def test_no_more_than_the_most_are_kept(value: object, most: int) -> None:
    found = loads(json.dumps(value), max_containers=most)
    assert holders(found) == min(holders(value), most)
    if holders(value) <= most:
        assert found == value
