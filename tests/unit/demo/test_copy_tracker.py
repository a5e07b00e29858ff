"""The demo finds out which message is a copy of which, and how long each took."""

from dataclasses import replace

from relay.demo.copy_tracker import CopyTracker, Entry
from relay.demo.sides.base import DisplayedMessage, File, Kind, MessageAuthor, Quoted

NOW = 1_000_000.0


def seen(
    name: str, body: str, author: str = "Mira", *, kind: Kind = "person", at: int = 0, edited_at: int | None = None
) -> DisplayedMessage:
    return DisplayedMessage(name, at, at, MessageAuthor(author), kind, body, edited_at=edited_at)


def copy(name: str, body: str, author: str = "Mira", *, at: int = 0, edited_at: int | None = None) -> DisplayedMessage:
    return seen(name, body, author, kind="copy", at=at, edited_at=edited_at)


def linked(tracker: CopyTracker, message: DisplayedMessage) -> list[str]:
    found = tracker.of("discord", message)
    return [] if found is None else list(found["with"])


def test_copy_belongs_to_the_message_that_says_the_same() -> None:
    tracker = CopyTracker()
    first, second = seen("1", "**ebb**", at=10), seen("2", "flow", at=20)
    entries = tracker.look(
        {"discord": [first, second], "matrix": [copy("b", "flow", at=57), copy("a", "ebb", at=41)]}, NOW
    )
    assert linked(tracker, first) == ["a"]
    assert linked(tracker, second) == ["b"]
    assert [entry.ms for entry in entries] == [37, 31]
    assert tracker.median == 37


def test_copy_of_another_author_is_not_taken() -> None:
    tracker = CopyTracker()
    message = seen("1", "ebb")
    assert tracker.look({"discord": [message], "matrix": [copy("a", "ebb", "Jonas")]}, NOW) == []
    assert linked(tracker, message) == []


def test_rewritten_words_go_to_the_oldest_message_that_waits() -> None:
    tracker = CopyTracker()
    first, second = seen("1", "<:wave:1>"), seen("2", "flow")
    tracker.look({"discord": [first, second], "matrix": [copy("a", "a picture of something")]}, NOW)
    assert linked(tracker, first) == ["a"]
    assert linked(tracker, second) == []


def test_parts_of_a_long_message_belong_together() -> None:
    tracker = CopyTracker()
    long, short = seen("1", "one two three four"), seen("2", "five")
    parts = [copy("a", "one two"), copy("b", "three four"), copy("c", "five")]
    entries = tracker.look({"discord": [long, short], "matrix": parts}, NOW)
    assert linked(tracker, long) == ["a", "b"]
    assert linked(tracker, short) == ["c"]
    assert len(entries) == 2


def test_edit_counts_once_the_copy_has_followed() -> None:
    tracker = CopyTracker()
    tracker.look({"discord": [seen("1", "fife", at=1)], "matrix": [copy("a", "fife", at=2)]}, NOW)
    edited = seen("1", "five", at=1, edited_at=100)
    assert tracker.look({"discord": [edited], "matrix": [copy("a", "fife", at=2)]}, NOW) == []
    sides = {"discord": [edited], "matrix": [copy("a", "five", at=2, edited_at=130)]}
    assert tracker.look(sides, NOW) == [Entry("to_matrix", "edit", "Mira", ms=30, source="1")]  # type: ignore[arg-type]
    assert tracker.look(sides, NOW) == []  # type: ignore[arg-type]


def test_deletion_takes_from_one_vanishing_to_the_other() -> None:
    tracker = CopyTracker()
    tracker.look({"discord": [seen("1", "ebb")], "matrix": [copy("a", "ebb")]}, NOW)
    assert tracker.look({"discord": [], "matrix": [copy("a", "ebb")]}, NOW + 5) == []
    assert tracker.look({"discord": [], "matrix": []}, NOW + 45) == [Entry("to_matrix", "deletion", "Mira", ms=40)]
    assert tracker.look({"discord": [], "matrix": []}, NOW + 50) == []


def test_what_stays_is_said_under_its_message() -> None:
    tracker = CopyTracker()
    message = seen("1", "ebb")
    tracker.look({"discord": [message], "matrix": []}, NOW)
    tracker.dropped("discord", "1", "👍")
    assert tracker.of("discord", message) == {
        "state": "crossing",
        "ms": None,
        "with": [],
        "changes": [],
        "dropped": ["👍"],
    }


def test_notices_are_nobodys_copy() -> None:
    tracker = CopyTracker()
    notice = seen("a", "Threads do not cross.", "relay", kind="notice")
    assert tracker.look({"discord": [seen("1", "Threads do not cross.")], "matrix": [notice]}, NOW) == []
    assert tracker.of("matrix", notice) is None


def test_quoted_line_of_a_reply_is_not_compared() -> None:
    tracker = CopyTracker()
    reply = DisplayedMessage("e", 1, 1, MessageAuthor("Ines"), "person", "yes", reply=Quoted("d", "Mira", "ebb?"))
    tracker.look({"matrix": [reply], "discord": [copy("1", "> ↪ Mira: ebb?\nyes", "Ines")]}, NOW)
    found = tracker.of("matrix", reply)
    assert found is not None
    assert found["with"] == ["1"]


def test_copy_of_a_file_belongs_to_the_message_with_that_file() -> None:
    tracker = CopyTracker()
    image, text = File("a.png", 10, "image"), File("b.txt", 20)
    both = replace(seen("1", "look", at=1), files=(image, text))
    other = seen("2", "later", at=2)
    copies = [
        replace(copy("a", "look", at=3), files=(image,)),
        replace(copy("b", "", at=4), files=(text,)),
        copy("c", "later", at=5),
    ]
    tracker.look({"discord": [both, other], "matrix": copies}, NOW)
    assert linked(tracker, both) == ["a", "b"]
    assert linked(tracker, other) == ["c"]


def test_copy_is_never_older_than_its_message() -> None:
    tracker = CopyTracker()
    tracker.look({"discord": [], "matrix": [copy("a", "of something unseen", at=50)]}, NOW)
    late = seen("1", "quite another", at=90)
    tracker.look({"discord": [late], "matrix": [copy("a", "of something unseen", at=50)]}, NOW)
    assert linked(tracker, late) == []


def test_parts_that_an_edit_took_back_are_no_longer_counted() -> None:
    tracker = CopyTracker()
    long = seen("1", "one two")
    tracker.look({"discord": [long], "matrix": [copy("a", "one"), copy("b", "two")]}, NOW)
    assert linked(tracker, long) == ["a", "b"]
    short = seen("1", "one", edited_at=5)
    tracker.look({"discord": [short], "matrix": [copy("a", "one", edited_at=9)]}, NOW)
    assert linked(tracker, short) == ["a"]
