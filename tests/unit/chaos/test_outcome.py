"""Figures of several runs add up."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from tests.chaos.check import Verdict
from tests.chaos.outcome import Outcome, total


def _outcome() -> Outcome:
    return Outcome(
        verdict=Verdict(lost=["d1"]),
        sent=10,
        files=1,
        edited=2,
        deleted=3,
        replies=4,
        batches=5,
        moved=6,
        kills=7,
        unrecorded=2,
        shortly_after=3,
        killed_at=Counter({"at random": 7}),
        faults=Counter({"gateway abort": 2}),
        problems=[],
        seconds=1.5,
        drained_in=0.5,
    )


def test_what_is_written_down_is_read_back(tmp_path: Path) -> None:
    _outcome().save(tmp_path / "outcome.json")
    assert Outcome.load(tmp_path / "outcome.json") == _outcome()


def test_runs_add_up() -> None:
    good = replace(_outcome(), verdict=Verdict(), faults=Counter({"gateway abort": 1, "frozen": 1}))
    both = total([_outcome(), good])
    assert (both.sent, both.kills, both.seconds) == (20, 14, 3.0)
    assert both.faults == {"gateway abort": 3, "frozen": 1}
    assert both.verdict.lost == ["run 1: d1"]
    assert not both.kept
    assert good.kept
