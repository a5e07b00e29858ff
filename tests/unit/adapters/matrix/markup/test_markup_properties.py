"""Properties of Matrix's parser and renderer, for any text."""

import re

from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.matrix.markup import NameLookup, Resolver, parse, render
from relay.domain.text.nodes import Paragraph, RichText, Text
from relay.domain.text.normalise import normalise
from tests.support.markup import common_texts, often, reading, sources, words
from tests.support.trees import texts

NAMES = NameLookup()
NOTHING = Resolver()
# https://spec.matrix.org/latest/client-server-api/#mroommessage-msgtypes
PERMITTED = {
    "span": {"data-mx-bg-color", "data-mx-color", "data-mx-spoiler", "data-mx-maths"},
    "a": {"target", "href"},
    "img": {"width", "height", "alt", "title", "src", "data-mx-emoticon"},
    "ol": {"start"},
    "code": {"class"},
    "div": {"data-mx-maths"},
}
PLAIN = {
    *(
        "del",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "blockquote",
        "p",
        "ul",
        "sup",
        "sub",
        "li",
        "b",
        "i",
        "u",
        "strong",
        "em",
    ),
    *("s", "hr", "br", "table", "thead", "tbody", "tr", "th", "td", "caption", "pre", "details", "summary"),
}
TAG = re.compile(r'<(/?)([a-z0-9]+)((?: [a-z-]+(?:="[^"<>]*")?)*)>')
ATTRIBUTE = re.compile(r' ([a-z-]+)(?:="([^"]*)")?')


def html(text: RichText, look: Resolver = NOTHING) -> str:
    rendered = render(text, resolver=look)
    return rendered.formatted_body or ""


def check(formatted: str) -> None:
    """Nothing but permitted tags and attributes, properly nested, at most a hundred deep."""
    assert not re.search("[<>]", TAG.sub("", formatted)), formatted
    opened: list[str] = []
    for closing, tag, attributes in TAG.findall(formatted):
        assert tag in PLAIN or tag in PERMITTED, formatted
        if closing:
            assert opened.pop() == tag, formatted
        elif tag not in ("br", "hr", "img"):
            opened.append(tag)
            assert len(opened) <= 100
        for name, value in ATTRIBUTE.findall(attributes):
            assert name in PERMITTED.get(tag, ()), formatted
            assert name != "href" or re.match("https?:|ftp:|mailto:|magnet:", value, re.IGNORECASE), formatted
            assert name != "src" or value.startswith("mxc://"), formatted
    assert not opened


@often
@given(sources | st.text())
def test_any_source_becomes_a_normal_tree(source: str) -> None:
    for tree in (parse(source, None, names=NAMES), parse("", source, names=NAMES)):
        assert normalise(tree) == tree


@often
@given(texts)
def test_only_permitted_tags_come_out_of_any_tree(tree: RichText) -> None:
    everything = Resolver(
        user=lambda mention: mention.user.id,
        channel=lambda mention: mention.channel.id,
        message=lambda link: link.url,
        emoji=lambda emoji: emoji.source.locator,
        image=lambda image: image.source.locator,
        broadcast=True,
    )
    check(html(tree))
    check(html(tree, everything))


@often
@given(sources)
def test_only_permitted_tags_come_out_of_any_source(source: str) -> None:
    check(html(parse("", source, names=NAMES)))


@often
@given(texts)
def test_nobody_is_mentioned_whom_the_resolver_does_not_name(tree: RichText) -> None:
    assert render(tree, resolver=NOTHING).mentions == ()
    assert not render(tree, resolver=NOTHING).room
    assert "matrix.to" not in html(tree)


@often
@given(words)
def test_text_that_looks_like_markup_is_read_as_the_same_characters(text: str) -> None:
    tree = RichText((Paragraph((Text(text),)),))
    rendered = render(tree, resolver=NOTHING)
    assert reading(parse(rendered.body, rendered.formatted_body, names=NAMES)) == reading(tree)


@often
@given(common_texts)
def test_a_tree_reads_the_same_after_matrix(tree: RichText) -> None:
    rendered = render(tree, resolver=NOTHING)
    again = parse(rendered.body, rendered.formatted_body, names=NAMES)
    assert reading(again) == reading(tree), rendered


@often
@given(texts)
def test_a_second_pass_changes_nothing_that_is_read(tree: RichText) -> None:
    first = render(tree, resolver=NOTHING)
    once = parse(first.body, first.formatted_body, names=NAMES)
    second = render(once, resolver=NOTHING)
    assert reading(parse(second.body, second.formatted_body, names=NAMES)) == reading(once)
