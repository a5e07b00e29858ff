"""Which message carries which file, and what is said of those that stay behind."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core.convert.degrade import Dropped, all_in_words, degrade, in_words
from relay.domain.content import Attachment, Author, Capabilities, Content
from relay.domain.ids import MediaRef, Platform, UserRef
from relay.domain.pair import PairPolicy
from relay.domain.text import nodes as n

ANN = Author(UserRef(Platform.DISCORD, "1"), "Ann")
ONE_EACH = Capabilities(100, native_replies=True, max_attachments=1, max_file_size=50, max_request_size=50)
THREE = Capabilities(100, native_replies=True, max_attachments=3, max_file_size=50, max_request_size=100)


def file(name: str, size: int | None = 10, **more: Any) -> Attachment:
    return Attachment(name, f"{name}.bin", "file", MediaRef(Platform.DISCORD, f"https://cdn/{name}"), size=size, **more)


def cut(text: str, *files: Attachment, to: Capabilities) -> list[tuple[str, str]]:
    """The parts: their words, and the files in each."""
    parts = degrade(
        Content(n.RichText.plain(text), files),
        author=ANN,
        capabilities=to,
        policy=PairPolicy(),
        measure=lambda said: len(n.plain_text(said)),
    )
    assert not isinstance(parts, Dropped)
    return [(n.plain_text(part.text), "".join(one.id for one in part.attachments)) for part in parts]


def test_a_caption_goes_with_the_first_file() -> None:
    files = (file("a"), file("b"), file("c"))
    assert cut("look", *files, to=ONE_EACH) == [("look", "a"), ("", "b"), ("", "c")]
    assert cut("look", *files, to=THREE) == [("look", "abc")]
    assert cut("", *files, to=THREE) == [("", "abc")]


def test_files_are_grouped_by_number_and_by_size() -> None:
    assert cut("", *map(file, "abcd"), to=THREE) == [("", "abc"), ("", "d")]
    assert cut("", file("a", 40), file("b", 50), file("c", 20), to=THREE) == [("", "ab"), ("", "c")]
    assert cut("", file("a", None), file("b", None), file("c", 1), to=THREE) == [("", "ab"), ("", "c")]


def test_files_stand_before_the_rest_of_a_long_text_so_that_an_edit_moves_none() -> None:
    long = " ".join(["word"] * 40)
    [first, second, third] = cut(long, file("a"), file("b"), to=ONE_EACH)
    assert (first[1], second, third[1]) == ("a", ("", "b"), "")
    assert f"{first[0]} {third[0]}" == long


def test_of_many_files_ten_cross_and_the_rest_is_named_and_counted_in_one_line() -> None:
    files = [file(f"{number:02}", spoiler=number == 11) for number in range(40)]
    many = replace(THREE, max_text_length=200, max_attachments=10, max_request_size=50)
    line = "and 30 more files, not carried over: 10.bin, 12.bin, 13.bin, 14.bin, 15.bin, …"
    assert cut("look", *files, to=many)[0] == (f"look\n{line}", "0001020304")
    assert [attached for _, attached in cut("look", *files, to=many)] == ["0001020304", "0506070809"]
    one = cut("", *files[:11], to=many)
    assert one[0][0] == "and 1 more file, not carried over: 10.bin"
    none = cut("", *(replace(one, size=1000) for one in files), to=replace(many, max_text_length=2_000))
    assert none[0][0].count("\n") == 10, "what is too large counts as well"


def test_what_is_too_large_is_named_with_its_size_and_a_link() -> None:
    large = file("film", 2_500_000, url="https://cdn/film", alt="the harbour")
    [part] = cut("look", large, file("a"), to=THREE)
    assert part == ("look\nfile: film.bin (2.5 MB)\nthe harbour", "a")
    content = degrade(
        Content(n.RichText(), (replace(large, spoiler=True),)),
        author=ANN,
        capabilities=THREE,
        policy=PairPolicy(),
        measure=lambda said: len(n.plain_text(said)),
    )
    assert not isinstance(content, Dropped)
    [paragraph] = content[0].text.blocks
    assert isinstance(paragraph, n.Paragraph)
    spoiler = paragraph.children[1]
    assert isinstance(spoiler, n.Spoiler)
    assert isinstance(spoiler.children[0], n.Link)
    assert spoiler.children[0].url == "https://cdn/film"


@pytest.mark.parametrize(
    ("gone", "words"), [(False, "file: a.bin (10 B, too large) · message"), (True, "file: a.bin (10 B, lost)")]
)
def test_beside_an_address_that_expires_stands_one_that_does_not(gone: bool, words: str) -> None:
    kept = replace(file("a", url="https://cdn/a"), page="https://chat/1/2")
    said = in_words(Content(n.RichText(), (kept,)), "a", "lost" if gone else "too large", gone=gone)
    assert n.plain_text(said.text) == words
    [paragraph] = said.text.blocks
    assert isinstance(paragraph, n.Paragraph)
    links = [node.url for node in paragraph.children if isinstance(node, n.Link)]
    assert links == ([] if gone else ["https://cdn/a", "https://chat/1/2"])


def test_where_no_files_are_taken_they_are_named() -> None:
    none = replace(THREE, max_attachments=0)
    assert cut("", file("a", None), to=none) == [("file: a.bin", "")]


@pytest.mark.parametrize(("gone", "linked"), [(True, False), (False, True)])
def test_a_file_that_turns_out_not_to_cross_becomes_words(gone: bool, linked: bool) -> None:
    content = Content(n.RichText.plain("look"), (file("a", url="https://cdn/a"), file("b")))
    said = in_words(content, "a", "out of reach", gone=gone)
    assert n.plain_text(said.text) == "look\nfile: a.bin (10 B, out of reach)"
    assert [one.id for one in said.attachments] == ["b"]
    last = said.text.blocks[-1]
    assert isinstance(last, n.Paragraph)
    assert isinstance(last.children[1], n.Link) is linked


def test_a_channel_that_takes_files_no_more_gets_words() -> None:
    said = all_in_words(Content(n.RichText.plain("look"), (file("a"), file("b", None))))
    assert (n.plain_text(said.text), said.attachments) == ("look\nfile: a.bin (10 B)\nfile: b.bin", ())


def test_a_very_long_text_crosses_as_a_file_under_its_first_lines() -> None:
    long = "\n".join(f"line {number}" for number in range(200))
    content = Content(n.RichText.plain(long), (file("a"),))

    def parts(*, as_file: bool, to: Capabilities = THREE, max_parts: int = 5) -> tuple[Content, ...]:
        found = degrade(
            content,
            author=ANN,
            capabilities=replace(to, max_file_size=10_000, max_request_size=20_000),
            policy=PairPolicy(max_parts=max_parts),
            measure=lambda said: len(n.plain_text(said)),
            as_file=as_file,
        )
        assert not isinstance(found, Dropped)
        return found

    (only,) = parts(as_file=True)
    assert n.plain_text(only.text).startswith("line 0\nline 1")
    assert n.plain_text(only.text).endswith("…")
    assert [one.name for one in only.attachments] == ["message.txt", "a.bin"]
    assert only.attachments[0].text == long
    assert len(parts(as_file=False)) > 5
    assert len(parts(as_file=True, max_parts=50)) > 5
    assert len(parts(as_file=True, to=replace(THREE, max_attachments=0))) > 5


def test_what_becomes_a_file_anyway_is_not_measured_whole() -> None:
    measured = 0

    def measure(text: n.RichText) -> int:
        nonlocal measured
        measured += len(n.plain_text(text))
        return len(n.plain_text(text))

    parts = degrade(
        Content(n.RichText.plain("word " * 13_000)),
        author=ANN,
        capabilities=replace(THREE, max_text_length=2_000, max_file_size=1 << 20),
        policy=PairPolicy(),
        measure=measure,
        as_file=True,
    )
    assert not isinstance(parts, Dropped)
    assert [one.attachments[0].name for one in parts] == ["message.txt"]
    assert measured < 5_000


def test_the_description_of_a_spoiler_that_stays_behind_is_hidden() -> None:
    (block,) = all_in_words(Content(n.RichText(), (file("a", alt="the end", spoiler=True),))).text.blocks
    assert "the end" not in n.plain_text(n.RichText((block,)))
