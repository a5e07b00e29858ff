"""Long texts are split into messages that each fit, and nothing is lost."""

import sys
from collections.abc import Callable
from types import FrameType

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from relay.core.convert.split import split
from relay.domain.ids import MediaRef, Platform
from relay.domain.text import nodes as n
from tests.support.trees import texts

IMAGE = MediaRef(Platform.MATRIX, "mxc://a.b/c")


def length(text: n.RichText) -> int:
    """One for each visible character; marks cost two, blocks one."""
    return len(n.plain_text(text)) + 2 * repr(text).count("children=(")


def parts(text: n.RichText, limit: int, measure: Callable[[n.RichText], int] = length) -> list[str]:
    return [n.plain_text(part) for part in split(text, limit=limit, measure=measure)]


def words(count: int) -> str:
    return " ".join(f"w{number}" for number in range(count))


def test_what_fits_stays_whole() -> None:
    text = n.RichText.plain("short\n\nand sweet")
    assert split(text, limit=100, measure=length) == (text,)


def test_blocks_come_before_lines_before_sentences_before_words() -> None:
    assert parts(n.RichText.plain("aaaa aaaa\n\nbbbb bbbb"), 14) == ["aaaa aaaa", "bbbb bbbb"]
    assert parts(n.RichText.plain("aaaa aaaa\nbbbb bbbb"), 16) == ["aaaa aaaa", "bbbb bbbb"]
    assert parts(n.RichText.plain("Aaaa aaaa. Bbbb bbbb"), 17) == ["Aaaa aaaa.", "Bbbb bbbb"]
    assert parts(n.RichText.plain("aaaa aaaa bbbb bbbb"), 17) == ["aaaa aaaa bbbb", "bbbb"]


def test_no_more_parts_are_made_than_are_asked_for() -> None:
    text = n.RichText.plain(words(50))
    whole = split(text, limit=30, measure=length)
    assert split(text, limit=30, measure=length, max_parts=3) == whole[:3]
    assert split(text, limit=30, measure=length, max_parts=len(whole)) == whole
    assert split(text, limit=30, measure=length, max_parts=99) == whole


def test_a_long_text_is_not_measured_whole_for_each_part() -> None:
    measured = 0

    def counted(text: n.RichText) -> int:
        nonlocal measured
        measured += len(n.plain_text(text))
        return length(text)

    for size in (2_000, 8_000):
        measured = 0
        split(n.RichText.plain("x" * size), limit=100, measure=counted)
        assert measured < 40 * size


def test_a_better_boundary_is_not_taken_at_the_price_of_an_empty_part() -> None:
    long = words(40)
    cut = parts(n.RichText((n.Heading(1, (n.Text("T"),)), n.Paragraph((n.Text(long),)))), 60)
    assert len(cut[0]) > 30
    assert "".join(cut).replace(" ", "").replace("\n", "") == "T" + long.replace(" ", "")


def test_marks_are_closed_and_opened_again() -> None:
    text = n.RichText((n.Paragraph((n.Strong((n.Emphasis((n.Text(words(10)),)),)),)),))
    first, *rest = split(text, limit=25, measure=length)
    for part in (first, *rest):
        (paragraph,) = part.blocks
        assert isinstance(paragraph, n.Paragraph)
        (strong,) = paragraph.children
        assert isinstance(strong, n.Strong)
        assert isinstance(strong.children[0], n.Emphasis)


def test_spoilers_quotes_and_code_keep_what_they_are() -> None:
    quote = n.Quote((n.Paragraph((n.Spoiler((n.Text(words(10)),), "why"),)),))
    for part in split(n.RichText((quote,)), limit=25, measure=length):
        (block,) = part.blocks
        assert isinstance(block, n.Quote)
        assert isinstance(block.blocks[0], n.Paragraph)
        spoiler = block.blocks[0].children[0]
        assert isinstance(spoiler, n.Spoiler)
        assert spoiler.reason == "why"
    code = n.CodeBlock("\n".join(f"line {number}" for number in range(9)), "py")
    cut = split(n.RichText((code,)), limit=22, measure=length)
    assert all(isinstance(part.blocks[0], n.CodeBlock) and part.blocks[0].language == "py" for part in cut)
    assert "\n".join(n.plain_text(part) for part in cut) == code.text


def test_an_ordered_list_goes_on_counting() -> None:
    items = tuple(n.ListItem((n.Paragraph((n.Text(f"item {number}"),)),)) for number in range(6))
    cut = split(n.RichText((n.BulletList(items, 3),)), limit=24, measure=length)
    starts = [part.blocks[0].start for part in cut if isinstance(part.blocks[0], n.BulletList)]
    counts = [len(part.blocks[0].items) for part in cut if isinstance(part.blocks[0], n.BulletList)]
    assert starts == [3 + sum(counts[:index]) for index in range(len(cut))]
    assert sum(counts) == 6


def test_a_link_is_moved_rather_than_cut() -> None:
    url = "https://example.org/a/rather/long/path"
    text = n.RichText((n.Paragraph((n.Text("see here: "), n.Link(url, (n.Text(url),)))),))
    assert parts(text, 44)[1] == url


def test_what_no_part_can_hold_is_cut_as_text() -> None:
    url = "https://example.org/" + "x" * 100
    text = n.RichText((n.Paragraph((n.Strong((n.Link(url, (n.Text(url),)),)),)),))
    assert "".join(parts(text, 50)) == url
    row = tuple(n.TableCell((n.Text("cell" * 10),)) for _ in range(3))
    assert all(len(part) <= 60 for part in parts(n.RichText((n.Table((row,)),)), 60))


@pytest.mark.parametrize("character", ["👨‍👩‍👧‍👦", "e\u0301", "🇩🇪", "👍🏽", "क्षि"])
def test_no_character_is_torn(character: str) -> None:
    text = n.RichText((n.Paragraph((n.Text(character * 40),)),))
    for limit in range(24, 40):
        for part in parts(text, limit):
            assert part == character * (len(part) // len(character))


def test_line_breaks_at_a_cut_belong_to_neither_part() -> None:
    text = n.RichText((n.Paragraph((n.Text("aaaaaaaa"), n.LineBreak(), n.Text("bbbbbbbb"))),))
    assert parts(text, 12) == ["aaaaaaaa", "bbbbbbbb"]


def has_tables(text: n.RichText) -> bool:
    return "Table(" in repr(text)


@given(texts, st.integers(150, 300))
def test_every_part_fits_and_no_word_is_lost(text: n.RichText, limit: int) -> None:
    cut = split(text, limit=limit, measure=length)
    assert cut
    for part in cut:
        assert length(part) <= limit
    if not has_tables(text):  # a table that is cut becomes lines, without its caption
        whole = regex.sub(r"\s+", "", n.plain_text(text))
        assert regex.sub(r"\s+", "", "".join(map(n.plain_text, cut))) == whole


@given(st.lists(st.text("abc \n.!é👍🏽", max_size=80), max_size=6), st.integers(20, 60))
def test_plain_text_survives_but_for_white_space(paragraphs: list[str], limit: int) -> None:
    text = n.RichText.plain("\n\n".join(paragraphs))
    cut = split(text, limit=limit, measure=length)
    assert all(length(part) <= limit for part in cut)
    whole = regex.sub(r"\s+", "", n.plain_text(text))
    assert regex.sub(r"\s+", "", "".join(map(n.plain_text, cut))) == whole


def test_a_very_long_text_is_cut_in_reasonable_work() -> None:
    calls = 0

    def counting(text: n.RichText) -> int:
        nonlocal calls
        calls += 1
        return length(text)

    cut = split(n.RichText.plain("word " * 13_000), limit=2000, measure=counting)
    assert len(cut) < 40
    assert calls < 40 * 16


def calls_of_split(text: n.RichText, **arguments: int) -> int:
    """How many functions `split` calls in its own file."""
    calls = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename == split.__code__.co_filename

    sys.setprofile(count)
    try:
        split(text, measure=length, **arguments)
    finally:
        sys.setprofile(None)
    return calls


def nested(blocks: tuple[n.Block, ...], depth: int) -> n.RichText:
    for _ in range(depth):
        blocks = (n.Paragraph((n.Text("a"),)), n.BulletList((n.ListItem((n.Quote(blocks),)),)))
    return n.RichText(blocks)


def test_a_deep_and_wide_text_is_cut_in_reasonable_work() -> None:
    size = 1_000
    wide = tuple(n.Paragraph((n.Text("a"),)) for _ in range(size))
    items = n.BulletList(tuple(n.ListItem((paragraph,)) for paragraph in wide))
    for text in (nested(wide, 40), nested((items,), 40)):
        assert calls_of_split(text, limit=400, max_parts=4) < 150 * size


def written(text: n.RichText) -> int:
    """All that a platform might have to write: names, addresses, reasons, languages."""
    return len(repr(text))


@pytest.mark.parametrize(
    ("uncut", "shown"),
    [
        (n.Paragraph((n.CustomEmoji("n" * 3_000, "", IMAGE),)), [f":{'n' * 64}…:"]),
        (n.Paragraph((n.Link(f"https://a.b/{'u' * 3_000}", (n.Text("words"),)),)), ["words", "(https://a.b/", "uuu"]),
        (n.Paragraph((n.Spoiler((n.Text("secret"),), "r" * 3_000),)), ["(rrr", "▒▒▒"]),
        (n.CodeBlock("words", "l" * 3_000), ["words"]),
        (n.Table(((n.TableCell((n.Text("c" * 3_000),)),),), (n.Text("caption"),)), ["caption", "ccc"]),
        (n.Quote((n.Paragraph((n.Strong((n.Link(f"https://a.b/{'u' * 3_000}", (n.Text("x"),)),)),)),)), ["x", "uuu"]),
    ],
)
def test_what_cannot_be_cut_does_not_make_a_part_too_long(uncut: n.Block, shown: list[str]) -> None:
    found = split(n.RichText((n.Paragraph((n.Text("before"),)), uncut)), limit=1_000, measure=written)
    assert all(written(part) <= 1_000 for part in found)
    words = "".join(n.plain_text(part) for part in found)
    assert words.startswith("before")
    assert all(word in words for word in shown)


def test_where_everything_around_a_letter_takes_more_than_there_is_its_words_remain() -> None:
    deep: n.Block = n.Paragraph((n.Text("secret words"),))
    for _ in range(100):
        deep = n.Quote((deep,))
    found = split(n.RichText((deep,)), limit=100, measure=written)
    assert all(written(part) <= 100 for part in found)
    assert "".join(n.plain_text(part) for part in found) == "secret words"


def test_rows_of_a_table_are_measured_by_the_dozen() -> None:
    calls = 0

    def counting(text: n.RichText) -> int:
        nonlocal calls
        calls += 1
        return length(text)

    rows = tuple((n.TableCell((n.Text("ab"),)),) for _ in range(5_000))
    split(n.RichText((n.Table(rows),)), limit=2_000, measure=counting, max_parts=3)
    assert calls < 200
