"""What the core takes for short without rendering it is short as each platform renders and counts it."""

from bisect import bisect_left
from collections.abc import Callable

import pytest

from relay.adapters.discord.outbound import body
from relay.adapters.matrix.outbound import compose
from relay.core.convert.split import is_surely_short
from relay.domain.content import Author
from relay.domain.ids import Platform, UserRef
from relay.domain.text import nodes as n

ANN = Author(UserRef(Platform.DISCORD, "1"), '"' * 500)


def measured(platform: Platform, text: n.RichText) -> tuple[int, int]:
    """The length of a text, and what its platform takes at most."""
    if platform is Platform.MATRIX:
        return compose.measure(text, ANN), compose.MAX_TEXT_LENGTH
    return body.measure(text), body.TEXT_LENGTH - body.FALLBACK_LENGTH


@pytest.mark.parametrize("platform", Platform)
@pytest.mark.parametrize(
    "sign", ['"', "'", "&", "<", "`", "*", "\\", "@", "#", "-", ">", " ", "é", "\u2028", "😀", "\ud800"]
)
def test_even_the_longest_text_that_counts_as_short_fits(platform: Platform, sign: str) -> None:
    _, limit = measured(platform, n.RichText())
    words = (n.Text(sign),)
    shapes: list[Callable[[int], n.RichText]] = [
        lambda units: n.RichText((n.Paragraph((n.Text(sign * units),)),)),
        lambda units: n.RichText((n.Paragraph((*words, n.LineBreak()) * (units // 2)),)),
        lambda units: n.RichText((n.Paragraph(words),) * (units // 2)),
    ]
    for shape in shapes:
        longest = bisect_left(range(limit), True, key=lambda units: not is_surely_short(shape(units), limit)) - 1
        assert longest > 50
        length, _ = measured(platform, shape(longest))
        assert length <= limit
