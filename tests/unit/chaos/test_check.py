"""The checker of the chaos runs finds each way in which the promise can be broken."""

from collections.abc import Sequence

from tests.chaos import check as checker
from tests.chaos.check import Verdict
from tests.chaos.ledger import SAME, File, Written
from tests.chaos.reading import Said, Standing


def _written(*texts: str) -> list[Written]:
    return [Written(f"d{number}", f"d{number}.0 {text}", "Ada") for number, text in enumerate(texts)]


def _standing(texts: Sequence[str | Said]) -> list[Standing]:
    said = [text if isinstance(text, Said) else Said("Ada", text) for text in texts]
    return [Standing(str(number), (each,)) for number, each in enumerate(said)]


def check(written: list[Written], seen: Sequence[str | Said], moved: frozenset[str] = frozenset()) -> Verdict:
    return checker.check(written, _standing(seen), moved)


def _figures(verdict: Verdict) -> dict[str, int]:
    return {kind: count for kind, count in verdict.figures().items() if count}


def test_nothing_is_wrong_with_what_crossed_once_and_in_order() -> None:
    written = _written("one", "two", "three")
    assert not check(written, [message.text for message in written])
    assert not check([], [])


def test_a_lost_message() -> None:
    assert _figures(check(_written("one", "two"), ["d1.0 two"])) == {"lost": 1}


def test_a_doubled_message() -> None:
    assert _figures(check(_written("one", "two"), ["d0.0 one", "d0.0 one", "d1.0 two"])) == {"doubled": 1}


def test_a_reordered_message() -> None:
    written = _written("one", "two", "three", "four")
    seen = ["d0.0 one", "d2.0 three", "d3.0 four", "d1.0 two"]
    assert check(written, seen).out_of_order == ["'d1'"]
    assert not check(written, seen, frozenset({"3"}))
    assert check(written, seen, frozenset({"2"})).out_of_order


def test_what_stands_beside_what_moved_has_moved_with_it() -> None:
    same = SAME[0]
    written = [Written("d0", "d0.1 one", "Ada"), Written("d1", same, "Ada"), *_written("", "", "two")[2:]]
    together = Standing("9", (Said("Ada", "d0.1 one"), Said("Ada", same)))
    seen = [Standing("8", (Said("Ada", "d2.0 two"),)), together]
    assert checker.check(written, seen).out_of_order
    assert not checker.check(written, seen, frozenset({"9"}))


def test_a_message_with_the_words_of_before_its_edit() -> None:
    written = [Written("d0", "d0.1 after", "Ada")]
    assert _figures(check(written, ["d0.0 before"])) == {"wrong text": 1}
    assert not check(written, ["d0.1 after"])


def test_a_deleted_message_that_is_still_there() -> None:
    written = [Written("d0", "d0.0 gone", "Ada", deleted=True), Written("d1", "d1.0 here", "Ada")]
    assert _figures(check(written, ["d0.0 gone", "d1.0 here"])) == {"undeleted": 1}
    assert not check(written, ["d1.0 here"])


def test_what_nobody_wrote() -> None:
    assert _figures(check(_written("one"), ["d0.0 one", "This message did not cross"])) == {"stray": 1}
    told = "5 messages here did not cross: its copy stands where this channel is not mirrored to any more (5)."
    stays = "A message that was deleted here still stands where this channel was mirrored to before, as may others."
    assert not check(_written("one"), ["d0.0 one", told, stays])
    assert _figures(check(_written("one"), ["d0.0 one", "d7.0 from nowhere"])) == {"stray": 1}


def test_the_parts_of_a_long_message_are_joined() -> None:
    words = [f"m0.0w{number}" for number in range(6)]
    written = [Written("m0", " ".join(words), "Ada"), Written("m1", "m1.0 next", "Ada")]
    assert not check(written, ["m0.0w0 m0.0w1 m0.0w2", "m0.0w3 m0.0w4\nm0.0w5", "m1.0 next"])
    assert not check(written, ["m0.0w0 m0.0w1 m0.0w2", "m1.0 next", "m0.0w3 m0.0w4 m0.0w5"])
    missing = check(written, ["m0.0w0 m0.0w1 m0.0w2", "m1.0 next"])
    assert _figures(missing) == {"wrong text": 1}
    twice = ["m0.0w0 m0.0w1 m0.0w2", "m0.0w0 m0.0w1 m0.0w2", "m0.0w3 m0.0w4 m0.0w5", "m1.0 next"]
    assert _figures(check(written, twice)) == {"doubled": 1}
    swapped = ["m0.0w3 m0.0w4 m0.0w5", "m0.0w0 m0.0w1 m0.0w2", "m1.0 next"]
    assert _figures(check(written, swapped)) == {"wrong text": 1}


def test_the_last_words_of_a_message_that_has_grown_in_a_full_copy_stand_by_themselves() -> None:
    written = [Written("m0", "m0.1 one two three", "Ada"), Written("m1", "m1.0 next", "Ben")]
    together = Standing("1", (Said("Ada", "m0.1 one"), Said("Ben", "m1.0 next")))

    def found(*texts: str, author: str = "Ada") -> dict[str, int]:
        rest = [Standing(str(number), (Said(author, text),)) for number, text in enumerate(texts, 2)]
        return _figures(checker.check(written, [together, *rest]))

    assert found("two three") == {}
    assert found("two") == found("two three", author="Ben") == {"wrong text": 1, "stray": 1}
    assert found("two three", "two three") == {"wrong text": 1, "stray": 1}
    assert found() == {"wrong text": 1}


def test_a_part_that_an_edit_should_have_taken_away() -> None:
    written = [Written("m0", "m0.1 short now", "Ada")]
    assert _figures(check(written, ["m0.1 short now", "m0.0w7 m0.0w8"])) == {"wrong text": 1}


def test_messages_that_say_the_same_are_counted_and_keep_their_place() -> None:
    same = SAME[0]
    written = [Written("d0", same, "Ada"), Written("d1", "d1.0 between", "Ada"), Written("d2", same, "Ada")]
    assert not check(written, [same, "d1.0 between", same])
    assert _figures(check(written, [same, "d1.0 between"])) == {"lost": 1}
    assert _figures(check(written, [same, same, "d1.0 between", same])) == {"doubled": 1}
    assert _figures(check(written, ["d1.0 between", same, same])) == {"out of order": 1}
    written[2].deleted = True
    assert _figures(check(written, [same, "d1.0 between", same])) == {"undeleted": 1}


def test_files_are_there_with_their_content() -> None:
    notes, cat = File("d0.0-notes.pdf", "aa"), File("d1.0-cat.png", "bb")
    written = [Written("d0", "d0.0 see here", "Ada", notes), Written("d1", "", "Ada", cat)]
    good = [Said("Ada", "d0.0 see here", files=(notes,)), Said("Ada", "", files=(cat,))]
    assert not check(written, good)
    assert _figures(check(written, ["d0.0 see here", good[1]])) == {"wrong file": 1}
    assert _figures(check(written, [good[0], Said("Ada", "", files=(File(cat.name, "cc"),))])) == {"wrong file": 1}
    assert _figures(check(written, good[:1])) == {"lost": 1}
    assert _figures(check(written, [*good, good[1]])) == {"doubled": 1}


def test_everybody_speaks_under_their_own_name() -> None:
    assert _figures(check(_written("one"), [Said("Ben", "d0.0 one")])) == {"wrong author": 1}
    same = [Written("d0", SAME[0], "Ada"), Written("d1", SAME[0], "Ben")]
    assert not check(same, [SAME[0], Said("Ben", SAME[0])])
    assert _figures(check(same, [SAME[0], SAME[0]])) == {"wrong author": 1}


def test_disorder_between_what_is_in_order() -> None:
    written = _written(*map(str, range(9)))
    seen = [message.text for message in written]
    seen[3], seen[4] = seen[4], seen[3]
    assert len(check(written, seen).out_of_order) == 1


def test_verdicts_of_several_places_add_up() -> None:
    both = Verdict()
    both.add("p0 to Matrix", check(_written("one"), []))
    both.add("p1 to Discord", check(_written("one"), ["d0.1 other"]))
    assert both.lines() == [
        "lost: p0 to Matrix: d0 'd0.0 one'",
        "wrong text: p1 to Discord: d0 'd0.0 one' shows 'd0.1 other'",
    ]
