"""What a name shows, and which names look the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.domain.names import LONGEST, LONGEST_IN_BYTES, shortened, skeleton, visible, with_suffix


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
    assert len(shown) <= LONGEST
    if len(suffix.encode("utf-8", "replace")) < 100:
        assert len(shown.encode("utf-8", "replace")) <= LONGEST_IN_BYTES


@given(st.text(max_size=300))
def test_visible_is_done_once(name: str) -> None:
    assert visible(visible(name)) == visible(name)
    assert len(shortened(name)) <= LONGEST


@pytest.mark.parametrize(
    ("character", "kept"),
    [("👨‍👩‍👧‍👦", 10), ("👍🏽", 31), ("e\u0301", 40), ("❤️", 40), ("👩🏽‍❤️‍💋‍👨🏿", 7), ("字", 80), ("👨", 63)],
    ids=ascii,
)
def test_a_name_is_cut_between_what_is_seen_as_characters(character: str, kept: int) -> None:
    assert shortened(character * 81) == character * kept


def test_a_name_of_one_endless_emoji_is_cut_all_the_same() -> None:
    assert 60 < len(shortened("👨\u200d" * 50)) <= LONGEST
