"""What a name shows, which names look the same, what steers a terminal, and what a file may be called."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.domain.names import (
    MAX_NAME_BYTES,
    MAX_NAME_LENGTH,
    content_type,
    file_name,
    shortened,
    skeleton,
    visible,
    with_suffix,
    without_controls,
)


@pytest.mark.parametrize(
    "blank",
    [
        "\u3164",
        "\u2800",
        "\u115f\u1160",
        "\uffa0",
        "\u034f",
        "\u180e",
        "\ufe0f",
        "\U000e0041",
        "\U000e0100",
        " \u200b\u00a0",
        "\u2062",
    ],
)
def test_what_shows_nothing_is_no_name(blank: str) -> None:
    assert visible(blank) == ""
    assert visible(f"A{blank}da").replace(" ", "") in {"Ada", f"A{blank}da"}


@pytest.mark.parametrize(
    "name", ["Ada", "Ada Lovelace", "👩\u200d👩\u200d👧", "❤\ufe0f Zoë", "עברית", "ไทยก็ดี", "नमस्ते", "+"]
)
def test_what_people_are_called_stays(name: str) -> None:
    assert visible(name) == name


@pytest.mark.parametrize(
    "twin",
    ["ADA", "Аda", "Ａｄａ", "𝐀𝐝𝐚", "A d a", "Ada.", "Ad\u200ba", "Adá", "Ada\u3164", "🅐🅓🅐", "ᴀᴅᴀ", "Adа", "Αda"],
)
def test_twins_look_the_same(twin: str) -> None:
    assert skeleton(twin) == skeleton("Ada")


@pytest.mark.parametrize(
    ("one", "other"), [("Ada", "Ida"), ("🦊", "🐸"), ("Ada 🦊", "Ada"), ("Ada 2", "Ada 3"), ("Яна", "Ада")]
)
def test_others_do_not(one: str, other: str) -> None:
    assert skeleton(one) != skeleton(other)


def test_letters_that_only_a_lens_tells_apart() -> None:
    assert skeleton("AIice") == skeleton("Alice") == skeleton("A1ice")


@given(st.text(max_size=300), st.text(max_size=40))
def test_a_suffix_stays_in_sight(name: str, suffix: str) -> None:
    shown = with_suffix(name, f"({suffix})")
    assert shown.endswith(f" ({suffix})")
    assert len(shown) <= MAX_NAME_LENGTH
    if len(suffix.encode("utf-8", "replace")) < 100:
        assert len(shown.encode("utf-8", "replace")) <= MAX_NAME_BYTES


@given(st.text(max_size=300))
def test_visible_is_done_once(name: str) -> None:
    assert visible(visible(name)) == visible(name)
    assert len(shortened(name)) <= MAX_NAME_LENGTH


@pytest.mark.parametrize(
    ("character", "kept"),
    [("👨‍👩‍👧‍👦", 10), ("👍🏽", 31), ("e\u0301", 40), ("❤️", 40), ("👩🏽‍❤️‍💋‍👨🏿", 7), ("字", 80), ("👨", 63)],
    ids=ascii,
)
def test_a_name_is_cut_between_what_is_seen_as_characters(character: str, kept: int) -> None:
    assert shortened(character * 81) == character * kept


def test_a_name_of_one_endless_emoji_is_cut_all_the_same() -> None:
    assert 60 < len(shortened("👨\u200d" * 50)) <= MAX_NAME_LENGTH


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


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("cat.png", "image/png", "cat.png"),
        ("wave", "image/png", "wave.png"),
        ("../../etc/passwd", "text/plain", "_.._etc_passwd.txt"),
        ("a\u202egnp.exe", "application/octet-stream", "agnp.exe"),
        ("  two   words .txt", "text/plain", "two words.txt"),
        ("two\nlines.txt", "text/plain", "two lines.txt"),
        ("", "image/jpeg", "file.jpg"),
        ("...", "application/octet-stream", "file"),
        (".profile", "text/plain", "profile.txt"),
        ("日本語.pdf", "application/pdf", "日本語.pdf"),
        ("x" * 300 + ".png", "image/png", "x" * 116 + ".png"),
    ],
)
def test_safe_names(name: str, kind: str, expected: str) -> None:
    assert file_name(name, kind) == expected


@given(st.text(max_size=400), st.sampled_from(["image/png", "application/octet-stream", "text/plain"]))
def test_any_name_is_one_visible_segment(name: str, kind: str) -> None:
    safe = file_name(name, kind)
    assert 0 < len(safe) <= 120
    assert not set('/\\:*?"<>|') & set(safe)
    assert safe not in {".", ".."}
    assert not any(unicodedata.category(char) in {"Cc", "Cf", "Cs"} for char in safe)
    assert file_name(safe, kind) == safe


@pytest.mark.parametrize("ending", ["://[", "://\u2100", "", ".", " png", "data:,x"])
def test_an_odd_ending_tells_no_type(ending: str) -> None:
    """Python 3.12 and later read a name as an address, and raise where it is none."""
    assert content_type(f"file.{ending}") == "application/octet-stream"
