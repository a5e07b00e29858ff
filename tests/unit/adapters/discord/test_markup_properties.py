"""What holds of Discord's markdown whatever somebody writes."""

import re

from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.discord.markup import Look, Names, parse, render
from relay.domain.normalise import normalise
from relay.domain.richtext import Paragraph, RichText, Text
from tests.support.markup import common_texts, reading, sources, words
from tests.support.trees import texts

NAMES = Names()
NOTHING = Look()
MENTION = re.compile(r"@(?:everyone|here)|<@[!&]?\d+>")


@given(sources | st.text())
def test_any_source_becomes_a_tree_in_its_one_form(source: str) -> None:
    tree = parse(source, names=NAMES)
    assert normalise(tree) == tree


@given(words)
def test_text_that_looks_like_markup_is_read_as_the_same_characters(text: str) -> None:
    tree = RichText((Paragraph((Text(text),)),))
    assert reading(parse(render(tree, look=NOTHING), names=NAMES)) == reading(tree)


@given(common_texts)
def test_a_tree_reads_the_same_after_discord(tree: RichText) -> None:
    content = render(tree, look=NOTHING)
    assert reading(parse(content, names=NAMES)) == reading(tree), content
