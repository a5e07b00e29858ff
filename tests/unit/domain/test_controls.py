"""What steers a terminal does not cross."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.domain.controls import without_controls


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07words\x1b]8;;https://example.org\x1b\\link", "wordslink"),
        ("\x1b]0;never ends", "]0;never ends"),
        ("\x1b[", "["),
        ("a\x00b\x07c\x08d\x7fe\x85f", "abcdef"),
        ("two\nlines\tand a tab\r\n", "two\nlines\tand a tab\r\n"),
        ("[31m is text", "[31m is text"),
    ],
)
def test_what_is_left(text: str, shown: str) -> None:
    assert without_controls(text) == shown


@given(st.text(st.sampled_from("\x1b[]0;m\x07\\a\n\x9b\x9c")))
def test_no_control_is_left(text: str) -> None:
    assert not set(without_controls(text)) & set("\x1b\x07\x9b\x9c")
