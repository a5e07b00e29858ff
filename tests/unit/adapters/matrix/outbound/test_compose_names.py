"""The name of an author of the other side: never empty, never longer than a profile may hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.matrix.outbound.compose import display_name
from relay.domain.content import Author
from relay.domain.ids import Platform, UserRef


def shown(name: str) -> str:
    return display_name(Author(UserRef(Platform.DISCORD, "1"), name))


@pytest.mark.parametrize("name", ["👨\u200d" * 39 + "👨", "e" + "\u0301" * 300, "\ud800" * 300], ids=ascii)
def test_a_name_that_is_one_long_character(name: str) -> None:
    assert 0 < len(shown(name).encode("utf-8", "replace")) <= 255


@given(st.text(max_size=300))
def test_any_name(name: str) -> None:
    assert 0 < len(shown(name).encode("utf-8", "replace")) <= 255
    assert shown(name).strip() == shown(name)
