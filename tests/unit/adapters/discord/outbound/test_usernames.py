"""Names that Discord takes and that fool nobody."""

import re
import unicodedata
from collections import OrderedDict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.discord.markup import ReferenceCodes, render
from relay.adapters.discord.outbound.body import (
    FALLBACK_LENGTH,
    NAME_LENGTH,
    username,
    usernames,
    with_author_name,
)
from relay.core.author_names import _decided
from relay.domain.content import Author
from relay.domain.ids import Platform, UserRef
from relay.domain.names import visible
from relay.domain.text.nodes import CodeBlock, RichText
from relay.sandbox.messages.forms import Form
from relay.sandbox.rest.webhooks import read_name

FORBIDDEN = ("discord", "clyde", "everyone", "here", "@", "#", ":", "```")


def author(name: str, user: str = "@alice:example.org") -> Author:
    return Author(UserRef(Platform.MATRIX, user), name)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Alice", "Alice"),
        ("  Alice \n  B.  ", "Alice B."),
        ("Discord Support", "Dіscord Support"),
        ("DISCORD", "DІSCORD"),
        ("clyde", "clуde"),
        ("@everyone", "＠evеryone"),
        ("here", "hеre"),
        ("SYSTEM  MESSAGE", "SYSTЕM MESSAGE"),
        ("dis\u200bcord", "dіscord"),
        ("ali\u202ece", "alice"),
        ("ｄｉｓｃｏｒｄ", "dіscord"),
        ("here ｈｅｒｅ", "hеre hеre"),
        ("👨\u200d👩\u200d👧 Family", "👨\u200d👩\u200d👧 Family"),
        ("\u200d\u200d", "alice"),
        ("", "alice"),
        ("ㅤ", "alice"),
        ("x" * 100, "x" * 80),
        ("dıscord", "dіscord"),
        ("DİSCORD", "DІSCORD"),
        ("diſcord", "dіscord"),
        ("díscord", "dіscord"),
        ("hereveryone", "hеrevеryone"),
        ("\U000e0064\u115f\u1160\u2800\u034f", "alice"),
        ("a" + "\u0301" * 40, "a\u0301\u0301\u0301"),
    ],
)
def test_username(name: str, shown: str) -> None:
    assert username(author(name)) == shown


def test_of_an_endless_name_only_the_beginning_is_looked_at() -> None:
    """Each forbidden word costs a look at the whole name: uncut, this one would take for ever."""
    assert username(author("@everyone" * 20_000)) == username(author("@everyone" * 40))


def test_a_user_whose_id_shows_nothing_either() -> None:
    assert username(author("\u200b", "@\u200b:example.org")) == "user"


@given(st.text(max_size=200), st.text(max_size=60))
def test_username_is_always_acceptable(name: str, local_part: str) -> None:
    shown = username(author(name, f"@{local_part}:example.org"))
    assert 1 <= len(shown) <= NAME_LENGTH
    assert shown == " ".join(shown.split())
    folded = unicodedata.normalize("NFKC", shown).casefold()
    assert not any(word in shown.casefold() for word in FORBIDDEN)
    assert not any(word in folded for word in FORBIDDEN[:4])
    hidden = [c for c in shown if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and c != "\u200d"]
    assert not hidden


@given(st.text(max_size=200) | st.text(alphabet="dısScCoOrRdDİſclyeverhEH ｄ\u0307\u0301\u3164`@ı", max_size=60))
def test_the_sandbox_takes_every_username(name: str) -> None:
    for shown in usernames(author(name)):
        form = Form({"username": shown})
        assert read_name(form, "username") == shown
        form.check()


def test_what_discord_refuses_all_the_same_is_tried_in_other_words() -> None:
    assert usernames(author("Dіscord fan"))[:2] == ("Dіscord fan", "D·іscord fan")
    assert usernames(author("Dіscord fan"))[2] == usernames(author("x"))[1]


LETTERS = (
    "Sam",
    "Sаm",
    "ｄｉｓｃｏｒｄ",
    "dıscord",
    "here",
    "everyone",
    "x:y",
    "x꞉y",
    "a\u0301",
    "á",
    "d·iscord",
    "ǆ",
    "ﬃ",
    "ß",
)
SIGNS = (
    "`",
    "ˋ",
    "｀｀｀",
    "@",
    "＠",
    "#",
    "\u3164",
    "·",
    "¨",
    "´",
    "\u202e",
    "\ud800",
    "👨\u200d👩",
    " ",
    "\ufdfa",
    "\ufdfa" * 80,
)
NASTY = st.sampled_from(LETTERS) | st.sampled_from(SIGNS)


@given(
    st.lists(st.tuples(st.lists(NASTY | st.text(max_size=90), max_size=4).map("".join), st.integers(0, 4)), max_size=12)
)
def test_no_two_people_are_shown_under_one_name(said: list[tuple[str, int]]) -> None:
    owners: OrderedDict[str, str] = OrderedDict()
    seen: dict[str, tuple[int, str]] = {}
    for name, number in said:
        somebody = author(name, f"@sam{number % 3}:{'ab'[number // 3]}.test")
        somebody = replace(somebody, handle=f"sam{number % 3}")
        decided, _ = _decided(owners, somebody)
        for shown in usernames(replace(somebody, name=decided))[:2]:
            folded = visible(unicodedata.normalize("NFKC", shown)).casefold().replace(" ", "")
            assert len(folded) <= NAME_LENGTH
            assert seen.setdefault(folded, (number, name))[0] == number


def test_the_mark_of_a_name_outlives_what_is_done_to_the_name() -> None:
    name = "ｄｉｓｃｏｒｄ" + "\ufdfa" * 80
    owners: OrderedDict[str, str] = OrderedDict()
    sam, mallory = author(name, "@sam:one.test"), author(name, "@mallory:two.test")
    shown = [usernames(replace(one, name=_decided(owners, one)[0])) for one in (sam, mallory)]
    assert shown[1][0].endswith(" ⟨mallory꞉two.test⟩")
    assert len({unicodedata.normalize("NFKC", first) for first, *_ in shown}) == 2
    assert all(len(unicodedata.normalize("NFKC", one)) <= NAME_LENGTH for names in shown for one in names)


def test_stand_ins_are_nobody_elses() -> None:
    assert re.fullmatch(r"member-[0-9a-f]{16}", usernames(author("x"))[-1])


@given(st.text(alphabet="discordclyeverh @\u200d\u200bＤｉ", max_size=100))
def test_username_of_what_is_nearly_a_forbidden_word(name: str) -> None:
    folded = unicodedata.normalize("NFKC", username(author(name))).casefold()
    assert not any(word in folded for word in FORBIDDEN[:4])


@given(st.text(max_size=200))
def test_an_introduction_fits_into_what_is_reserved_for_it(name: str) -> None:
    text = RichText.plain("hello")
    assert len(render(with_author_name(text, author(name)), codes=ReferenceCodes())) <= len("hello") + FALLBACK_LENGTH


def test_an_introduction_stands_on_the_line_of_a_paragraph_and_above_anything_else() -> None:
    assert (
        render(with_author_name(RichText.plain("hello"), author("Al*ce")), codes=ReferenceCodes())
        == r"**Al\*ce**: hello"
    )
    block = RichText((CodeBlock("x = 1"),))
    assert render(with_author_name(block, author("Alice")), codes=ReferenceCodes()) == "**Alice**:\n```\nx = 1\n```"
