"""Globs: what they match, and that no glob costs time."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.moderation.globs import LONGEST_GLOB, MOST_CHARACTERS, GlobSet

# Few letters, so that many of them match.
_GLOBS = st.text(alphabet="ab*?.[\\", max_size=12)
_NAMES = st.text(alphabet="ab.[\\", max_size=12)


def by_regular_expression(glob: str, name: str) -> bool:
    """The same, the slow way."""
    parts = {"*": ".*", "?": "."}
    return (
        bool(glob) and re.fullmatch("".join(parts.get(it, re.escape(it)) for it in glob), name, re.DOTALL) is not None
    )


@given(st.lists(_GLOBS, max_size=12), _NAMES)
def test_it_finds_what_regular_expressions_find(globs: list[str], name: str) -> None:
    expected = tuple(place for place, glob in enumerate(globs) if by_regular_expression(glob, name))
    assert GlobSet(globs).matching(name) == expected


@pytest.mark.parametrize(
    ("glob", "matched", "others"),
    [
        ("@spam*:example.org", "@spam1:example.org", "@spam1:example.org.evil"),
        ("@*:evil.example", "@a:evil.example", "@a:good.example"),
        ("@?:x", "@a:x", "@ab:x"),
        ("*", "@a:x", ""),
        ("@[ab]:x", "@[ab]:x", "@a:x"),
        ("@a.b:x", "@a.b:x", "@acb:x"),
        ("@A:x", "@A:x", "@a:x"),
        ("@ä:x", "@ä:x", "@a:x"),
    ],
)
def test_only_two_characters_are_special(glob: str, matched: str, others: str) -> None:
    assert GlobSet([glob]).matching(matched) == (0,)
    assert GlobSet([glob]).matching(others) == (() if others or glob != "*" else (0,))


def test_what_cannot_be_used_is_named() -> None:
    made = GlobSet(["", "a" * (LONGEST_GLOB + 1), "ä*", "b*"])
    assert made.unused == (0, 1, 2)
    assert made.matching("bc") == (3,)
    assert made.matching("") == ()


@pytest.mark.parametrize(
    "globs",
    [
        [f"{'*a' * 127}*b{number}" for number in range(10_000)],
        [f"@{'*a?' * 80}{number}" for number in range(10_000)],
        ["*" * LONGEST_GLOB] * 2_000,
        [f"@spam{number}*:evil*.example" for number in range(10_000)],
        [f"@spam{number}:evil.example" for number in range(10_000)],
    ],
)
def test_no_globs_cost_time(globs: list[str]) -> None:
    made = GlobSet(globs)
    assert len(globs) - len(made.unused) >= MOST_CHARACTERS // LONGEST_GLOB
    started = time.process_time()
    made.matching("@" + "a" * 254)
    assert time.process_time() - started < 0.2  # some 10 ms on a quiet machine; glob by glob it would be minutes
