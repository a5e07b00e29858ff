"""What `relay status` shows: 80 columns, a line a pair, the troubled ones first."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len

from relay.cli.status import _in_words
from relay.cli.status_text import Screen, encodable
from relay.core.operations.findings import Finding
from relay.core.ports import ChannelInfo, SideHealth
from relay.core.status.report import (
    KILLED,
    RESTORED,
    ChannelStatus,
    DaemonEnd,
    DaemonStatus,
    DirectionStatus,
    PairStatus,
    Report,
    UndeclaredLane,
)
from relay.domain.ids import ChannelRef, Platform
from relay.domain.pair import LaneKey

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
READY = {"discord": SideHealth("ready"), "matrix": SideHealth("ready")}
RUNNING = DaemonStatus(running=True, pid=4711, host="bridge", since=NOW - timedelta(hours=3), updated_at=NOW)
LONG = (
    "@relay:unredacted.org may not write in #stash-help:unredacted.org: give it the power level 50 there.",
    "The bot may not see #help: give its role View Channel there.",
)


def way(ago: float | None = None, *, backlog: int = 0, dead: int = 0, dropped: int = 0) -> DirectionStatus:
    last = None if ago is None else NOW - timedelta(seconds=ago)
    return DirectionStatus(
        7, last, backlog, 240.0 if backlog else None, 2, {"reaction": dropped} if dropped else {}, dead
    )


def pair(name: str = "help", *problems: str, notes: Sequence[str] = (), backlog: int = 0, dead: int = 0) -> PairStatus:
    link = "https://discord.com/channels/1/1234567890123456789"
    channels = {
        "discord": ChannelStatus(
            "1234567890123456789", "1234567890123456789", ChannelInfo("#help", "A server", link=link)
        ),
        "matrix": ChannelStatus("#help:example.org", "!a:example.org", ChannelInfo("Help room")),
    }
    ways = {"to_matrix": way(3), "to_discord": way(60, backlog=backlog, dead=dead, dropped=3)}
    return PairStatus(name, problems, ways, tuple(notes), channels)


def report(*pairs: PairStatus, daemon: DaemonStatus = RUNNING, **sides: SideHealth) -> Report:
    return Report(pairs, READY | sides, NOW, daemon)


def shown(of: Report, screen: Screen | None = None, width: int = 80) -> list[str]:
    lines = [line.text for line in (screen or Screen()).lines(of, width)]
    assert max(map(cell_len, lines)) <= width
    return lines


def test_one_line_a_pair() -> None:
    lines = shown(report(pair(), pair("staff", backlog=12)))
    assert lines[:2] == ["The daemon runs for 3 h (process 4711 on bridge).", "✓ Discord   ✓ Matrix"]
    assert "help  ✓ → 3 s    ← 1 min  #help ⇄ Help room" in lines
    assert "staff ✓ → 3 s    ← 1 min  12 waiting for 4 min" in lines
    assert lines[-1] == "Dropped so far, because it cannot cross: reaction 6."


def test_the_troubled_ones_come_first_and_each_problem_is_a_line_of_its_own() -> None:
    lines = shown(report(pair("good"), pair("bad", *LONG)))
    at = lines.index("bad  ✗ → 3 s    ← 1 min  #help ⇄ Help room")
    assert lines[at + 1].startswith("  @relay:unredacted.org may not write in")
    assert lines[at + 3] == f"  {LONG[1]}"
    assert at < lines.index("good ✓ → 3 s    ← 1 min  #help ⇄ Help room")
    assert "✓ Discord   ✓ Matrix   ✗ 1 pair in trouble" in lines
    only = shown(report(pair("good"), pair("bad", *LONG)), Screen(problems_only=True))
    assert "1 pair well." in only
    assert not any(line.startswith("good") for line in only)


def test_sixty_pairs_in_seventy_lines() -> None:
    names = [f"#stash-room-{number}:unredacted.org" for number in range(60)]
    pairs = [pair(name, *(LONG[:1] if number < 2 else ()), dead=number == 5) for number, name in enumerate(names)]
    assert len(shown(report(*pairs))) <= 70
    assert len(shown(report(*(replace(one, problems=()) for one in pairs)))) <= 66


def test_sixty_pairs_in_trouble_in_seventy_lines() -> None:
    pairs = [
        pair(
            f"#stash-room-{number}:unredacted.org", *(f"{number}: {words}" for words in LONG), notes=[f"note {number}"]
        )
        for number in range(60)
    ]
    for width in (80, 10_000):
        lines = shown(report(*pairs), width=width)
        assert len(lines) <= 70
        for one in pairs:
            start = f"✗ {one.problems[0][:30]}"
            assert sum(line.startswith(one.name[:20]) and start in line for line in lines) == 1
        # A line that may be as long as it has to be holds all of it.
        cut_off = any(line.startswith("`relay status --problems` shows all that is wrong") for line in lines)
        assert cut_off == (width == 80)
        everything = " ".join(shown(report(*pairs), Screen(problems_only=True), width))
        assert all(word in everything for one in pairs for problem in one.problems for word in problem.split())
        assert "60 notes: `relay status PAIR` shows them." in lines


@pytest.mark.parametrize("troubled", [1, 2, 3])
def test_a_remedy_is_shown_rather_than_a_note(troubled: int) -> None:
    """Of 60 pairs, those in trouble lost theirs to a note of three lines, and to how the last daemon ended."""
    pairs = [
        pair(f"p{number}", notes=["Without this right it works less well: give it, and it does." * 3])
        for number in range(60)
    ]
    for number in range(troubled):
        pairs[number] = replace(pairs[number], problems=(f"{LONG[0]} Here it is {number}.",))
    again = replace(RUNNING, previous=replace(KILLED, at=NOW - timedelta(hours=3)))
    could_be_better = Finding(
        "relay.toml", "note", "it holds secrets, and everybody may read it", "chmod 600 relay.toml"
    )
    lines: list[str] = []
    for daemon, findings in ((RUNNING, 0), (again, 0), (RUNNING, 4)):
        lines = shown(replace(report(*pairs, daemon=daemon), findings=(could_be_better,) * findings))
        assert len(lines) <= 70
        assert all(f"Here it is {number}." in " ".join(lines) for number in range(troubled))
    assert "– 4 things could be better: `relay check` names them." in lines
    assert "1 note: `relay status PAIR` shows them." in lines


def test_the_line_above_the_pairs_is_one_line_when_the_daemon_has_ended() -> None:
    ended = replace(RUNNING, running=False, ended=replace(KILLED, at=NOW))
    heads = [
        line for line in shown(report(*(pair(f"p{number}") for number in range(60)), daemon=ended)) if "→ to" in line
    ]
    assert heads == ["60 pairs as it left them (→ to Matrix, ← to Discord: age of last message):"]


def test_what_is_wrong_with_many_pairs_is_said_once() -> None:
    pairs = [pair(f"p{number}", LONG[number % 2]) for number in range(60)]
    lines = shown(report(*pairs))
    assert len(lines) <= 70
    at = lines.index("p58 ✗ → 3 s    ← 1 min  #help ⇄ Help room")
    assert lines[at + 1] == "  Each of these 30: @relay:unredacted.org may not write in"
    assert sum("may not see" in line for line in lines) == 1


@pytest.mark.parametrize("width", [50, 60, 80, 120])
@pytest.mark.parametrize(
    "name", ["日本語の部屋がここにありますよね、長い名前", "x" * 200, "a\u202e\x1b[31mb", "👩‍👩‍👧‍👦 family"]
)
def test_strange_names_keep_to_the_columns(name: str, width: int) -> None:
    lines = shown(report(pair(name, *LONG, notes=["Do this."]), pair()), width=width)
    assert not any("\x1b" in line or "\u202e" in line for line in lines)


def test_a_note_is_shown_once_with_the_pairs_that_it_is_about() -> None:
    lines = shown(report(*(pair(f"p{number}", notes=["Give Manage Webhooks."]) for number in range(5))))
    assert "Note (p0, p1, p2 and 2 more): Give Manage Webhooks." in lines
    assert report(pair(notes=["Give Manage Webhooks."])).well


def test_what_is_closed_or_archived_says_so() -> None:
    one_way = replace(pair("news"), carried=frozenset({"to_matrix"}))
    archived = replace(pair("old"), carried=frozenset())
    paused = replace(pair("late", backlog=3), paused=True)
    lines = shown(report(one_way, archived, paused))
    assert "late – → 3 s    ← 1 min  paused, 3 waiting for 4 min" in lines
    assert "late ✓ → 3 s    ← 1 min  pausing" in shown(report(replace(pair("late"), pending="pausing")))
    assert "news ✓ → 3 s    ← off    #help ⇄ Help room" in lines
    assert "old  – → off    ← off    archived" in lines


def test_one_pair_in_detail() -> None:
    lines = shown(report(pair("help", *LONG[1:], dead=1), pair("staff")), Screen(wanted=["help"]), width=100)
    assert "help: in trouble" in lines
    assert "  Matrix: Help room (#help:example.org, !a:example.org)" in lines
    assert "  ← to Discord: last message 1 min ago; 7 so far; 2 tried again; 1 dead; dropped: reaction 3" in lines
    assert any("#help on A server (1234567890123456789)" in line for line in lines)
    assert [line.split()[0] for line in lines if "last message" in line] == ["→", "←"]
    assert not any("staff" in line for line in lines)


def test_when_and_why_the_daemon_ended_and_the_remedy() -> None:
    end = DaemonEnd("Discord refused the bot's token.", "Make a new one.", NOW - timedelta(minutes=5))
    ended = replace(RUNNING, running=False, ended=end)
    lines = shown(report(pair(), daemon=ended, discord=SideHealth("stopped"), matrix=SideHealth("stopped")))
    assert lines[0].startswith("The daemon is not running; it ended 5 min ago (2026-11-2")
    assert lines[1] == "Discord refused the bot's token. Make a new one."
    assert not any("✗ Discord" in line or "✓" in line for line in lines)
    assert shown(report(daemon=DaemonStatus(running=False)))[0].startswith("The daemon has never run here")
    killed = replace(RUNNING, running=False, ended=replace(KILLED, at=NOW - timedelta(hours=5)))
    assert shown(report(daemon=killed))[0].startswith("The daemon is not running; it was last seen 5 h ago")
    again = replace(RUNNING, previous=replace(KILLED, at=NOW - timedelta(hours=3)))
    assert "The one before ended 3 h ago. It left no word" in " ".join(shown(report(pair(), daemon=again)))
    restored = replace(RESTORED, at=NOW - timedelta(hours=3))
    text = " ".join(shown(report(pair(), daemon=replace(RUNNING, previous=restored))))
    assert "This store is a restored backup: what has crossed since it was made is looked for" in text
    assert ("That was 3 h ago (2026-11-2" in text, "The one before" in text) == (True, False)
    text = " ".join(shown(report(daemon=replace(RUNNING, running=False, ended=restored))))
    assert text.startswith("The daemon is not running. This store is a restored backup")
    assert "Start it with `relay run`." in text


def test_sides_in_trouble_and_no_pairs() -> None:
    lines = shown(report(matrix=SideHealth("connecting", "No answer from the homeserver.")))
    assert "✓ Discord" in lines
    assert "✗ Matrix: No answer from the homeserver." in lines
    away = shown(report(pair(), matrix=SideHealth("connecting", "No answer.")))
    assert any(line.startswith("1 pair with no trouble of its own (") for line in away)
    assert "help – → 3 s    ← 1 min  #help ⇄ Help room" in away
    assert any(line.startswith("There are no pairs") for line in lines)


def test_what_waits_for_a_pair_that_is_not_declared() -> None:
    lane = LaneKey(ChannelRef(Platform.DISCORD, "77"), ChannelRef(Platform.MATRIX, "!gone:b"))
    waiting = UndeclaredLane(lane, "old", 3, 60.0, 1, source=ChannelInfo("#old", "A server"))
    text = " ".join(shown(replace(report(pair()), undeclared=(waiting,))))
    assert "old is not declared (#old on A server, 77 → !gone:b): 3 waiting for 1 min, 1 dead." in text


def test_a_terminal_without_the_signs() -> None:
    assert encodable("кухня ✓ → 3 s", "ascii") == "????? + > 3 s"
    assert encodable("кухня ✓ → 3 s", "utf-8") == "кухня ✓ → 3 s"


def test_the_line_of_a_tenant_says_why_it_is_red() -> None:
    """A full disk made it red, and the command end with 1, without a word."""
    full = Finding("the disk of the store", "wrong", "only 0 MiB free", "make room")
    note = Finding("relay.toml", "note", "it holds secrets", "")
    troubled = replace(report(pair()), findings=(full, note), store_problem="the database is locked")
    assert not troubled.well
    assert _in_words(troubled) == (
        "process 4711 on bridge serves it; 1 pair; the store: the database is locked;"
        " the disk of the store: only 0 MiB free"
    )
