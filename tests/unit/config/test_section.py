"""A table of the configuration: what its values may be, and what is said of the others."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from relay.config.section import After, Before, Invalid, SecretStr, Section, Wrong, key


def _halved(value: object) -> object:
    return value[: len(value) // 2] if isinstance(value, str) else value


def _not_odd(value: str) -> str:
    if len(value) % 2:
        raise Wrong("told", "is odd", "make it even")
    return value


class Inner(Section):
    on: bool = key(example="true", default=False)


class Table(Section):
    text: str
    secret: SecretStr | None = None
    path: Path | None = None
    count: int = key(example="5", default=1, at_least=1, at_most=9)
    seconds: float | None = 1.5
    way: Literal["in", "out"] = "in"
    words: tuple[str, ...] = ()
    inner: Inner = key(example="{}", default=Inner())
    inners: tuple[Inner, ...] = ()
    even: Annotated[str, Before(_halved), After(_not_odd)] = ""


class Wider(Table):
    more: str = ""


@pytest.mark.parametrize(
    ("name", "written", "found"),
    [
        *(("count", value, 5) for value in (5, 5.0, "5", " 5 ")),
        *(("seconds", value, 2.0) for value in (2, 2.0)),
        *(("inner", {"on": value}, Inner(on=True)) for value in (True, 1, "1", "Yes", "on", "t", "TRUE")),
        *(("inner", {"on": value}, Inner()) for value in (False, 0, "0", "no", "OFF", "f", "n")),
        ("secret", "x", SecretStr("x")),
        ("secret", SecretStr("x"), SecretStr("x")),
        ("secret", None, None),
        ("path", "a/b", Path("a/b")),
        ("words", ["a", "b"], ("a", "b")),
        ("inners", [{}, {"on": True}], (Inner(), Inner(on=True))),
        ("way", "out", "out"),
        ("even", "12345678", "1234"),
    ],
)
def test_what_a_value_may_be(name: str, written: object, found: object) -> None:
    read = getattr(Table.of({"text": "x", name: written}), name)
    assert (read, type(read)) == (found, type(found))


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ({"text": 1}, "text", ()),
        ({"text": "\udcff"}, "other", ()),
        ({"count": 1.5}, "whole number", ()),
        ({"count": "many"}, "whole number", ()),
        ({"count": [1]}, "whole number", ()),
        ({"count": float("inf")}, "whole number", ()),
        ({"count": 0}, "too small", ("1",)),
        ({"count": 10}, "too large", ("9",)),
        ({"seconds": float("nan")}, "other", ()),
        ({"seconds": 10**400}, "other", ()),
        ({"way": "up"}, "choice", ("'in' or 'out'",)),
        ({"way": ["in"]}, "choice", ("'in' or 'out'",)),
        ({"words": "a"}, "list", ()),
        ({"inner": 1}, "table", ()),
        ({"path": 1}, "other", ()),
        ({"secret": 1}, "text", ()),
        ({"even": "123456"}, "told", ("is odd", "make it even")),
        ({"self": 1}, "unknown key", ()),
    ],
)
def test_what_it_may_not_be(values: dict[str, Any], kind: str, said: tuple[str, ...]) -> None:
    with pytest.raises(Invalid) as caught:
        Wider.of({"text": "x", **values})
    (problem,) = caught.value.problems
    assert (problem.location, problem.kind, problem.said) == (tuple(values), kind, said)


def test_everything_that_is_wrong_is_named_with_its_place() -> None:
    with pytest.raises(Invalid) as caught:
        Table.of({"inner": {"on": "perhaps", "off": 1}, "inners": [{}, 7, {"on": 2}], "words": ["a", 1]})
    assert [(one.location, one.kind) for one in caught.value.problems] == [
        (("text",), "missing"),
        (("words", 1), "text"),
        (("inner", "on"), "switch"),
        (("inner", "off"), "unknown key"),
        (("inners", 1), "table"),
        (("inners", 2, "on"), "switch"),
    ]


def test_tables_are_values() -> None:
    one, other = Table(text="x"), Wider(text="x", more="y")
    assert one == Table(text="x") != Table(text="y")
    assert hash(one) == hash(Table(text="x"))
    assert one != other
    changed = other.replace(text="z")
    assert (changed.text, changed.more, other.text) == ("z", "y", "x")
    with pytest.raises(AttributeError, match="Table is frozen"):
        one.text = "y"  # type: ignore[misc]
    assert "hidden" not in repr(Table(text="x", secret=SecretStr("hidden")))
