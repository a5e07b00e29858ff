"""What holds of Discord's markdown whatever somebody writes."""

import re

from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.discord.markup import NameLookup, ReferenceCodes, parse, render
from relay.domain.text.nodes import Paragraph, RichText, Text
from relay.domain.text.normalise import normalise
from tests.support.markup import common_texts, often, reading, sources, words
from tests.support.trees import texts

NAMES = NameLookup()
NOTHING = ReferenceCodes()
MENTION = re.compile(r"@(?:everyone|here)|<@[!&]?\d+>")


@often
@given(sources | st.text())
def test_any_source_becomes_a_tree_in_its_one_form(source: str) -> None:
    tree = parse(source, names=NAMES)
    assert normalise(tree) == tree


@often
@given(words)
def test_text_that_looks_like_markup_is_read_as_the_same_characters(text: str) -> None:
    tree = RichText((Paragraph((Text(text),)),))
    assert reading(parse(render(tree, codes=NOTHING), names=NAMES)) == reading(tree)


@often
@given(common_texts)
def test_a_tree_reads_the_same_after_discord(tree: RichText) -> None:
    content = render(tree, codes=NOTHING)
    assert reading(parse(content, names=NAMES)) == reading(tree), content


@often
@given(texts)
def test_no_tree_mentions_anybody_whom_the_look_up_does_not_name(tree: RichText) -> None:
    content = render(tree, codes=NOTHING)
    # What stands in code mentions nobody; it has to stay as it is.
    assert not MENTION.search(re.sub(r"```[\s\S]*?```|(`+)(?!`).*?(?<!`)\1(?!`)", "", content)), content


@often
@given(texts)
def test_a_second_pass_changes_nothing_that_is_read(tree: RichText) -> None:
    once = parse(render(tree, codes=NOTHING), names=NAMES)
    assert reading(parse(render(once, codes=NOTHING), names=NAMES)) == reading(once)
