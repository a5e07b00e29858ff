"""The name of an author of the other side: never empty, never longer than a profile may hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.matrix.outbound.compose import compose, display_name, with_author
from relay.core.ports import Delivery
from relay.domain.content import Author, Content
from relay.domain.ids import ChannelRef, Platform, UserRef
from relay.domain.text import nodes as n


def shown(name: str) -> str:
    return display_name(Author(UserRef(Platform.DISCORD, "1"), name))


@pytest.mark.parametrize("name", ["👨\u200d" * 39 + "👨", "e" + "\u0301" * 300, "\ud800" * 300], ids=ascii)
def test_a_name_that_is_one_long_character(name: str) -> None:
    assert 0 < len(shown(name).encode("utf-8", "replace")) <= 255


@given(st.text(max_size=300))
def test_any_name(name: str) -> None:
    assert 0 < len(shown(name).encode("utf-8", "replace")) <= 255
    assert shown(name).strip() == shown(name)


@pytest.mark.parametrize(
    "text",
    [
        n.RichText.plain("words"),
        n.RichText.plain("1 < 2 & 3\nin two lines"),
        n.RichText((n.Paragraph((n.Strong((n.Text("loud"),)),)), n.Paragraph((n.Text("and not"),)))),
    ],
    ids=["words", "lines", "paragraphs"],
)
def test_who_wrote_a_message_can_be_said_later(text: n.RichText) -> None:
    ada = Author(UserRef(Platform.DISCORD, "1"), "Ada <3")
    delivery = Delivery(ChannelRef(Platform.MATRIX, "!room:example.org"), "k", ada, Content(text))
    assert with_author(compose(delivery, named=False), ada) == compose(delivery)
