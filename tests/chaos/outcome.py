"""What a run is to do and what came of it, as figures that add up over several runs."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TextIO

from tests.chaos.check import Verdict


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for. `faults`: names of `Trouble.kinds`; `ghosts`: people of Discord have accounts on Matrix.

    `postgresql`: the store is on a server that misbehaves, too. `processes`: of which one serves, the others stand by.
    """

    seed: int
    messages: int
    kills: int
    pairs: int
    faults: tuple[str, ...]
    folder: Path
    ghosts: bool = False
    postgresql: bool = False
    processes: int = 1


@dataclass(slots=True)
class Outcome:
    """How it went. `unrecorded`, `shortly_after`: see `DaemonRuns`; `replies`: how many could be judged."""

    verdict: Verdict
    sent: int
    files: int
    edited: int
    deleted: int
    replies: int
    batches: int
    moved: int
    kills: int
    unrecorded: int
    shortly_after: int
    killed_at: Counter[str]
    faults: Counter[str]
    problems: list[str]
    seconds: float
    drained_in: float

    @property
    def kept(self) -> bool:
        """Whether the promise was."""
        return not self.verdict and not self.problems

    def lines(self) -> list[str]:
        """All of it for people."""
        figures = ", ".join(f"{kind} {count}" for kind, count in self.verdict.figures().items())
        judged = f"{self.replies} answers judged, {self.batches} copies of several messages, {self.moved} posted anew"
        window = f"{self.unrecorded} between the send and the record, {self.shortly_after} just after"
        killed = ", ".join(f"{count} {why}" for why, count in self.killed_at.most_common())
        struck = ", ".join(f"{count} {what}" for what, count in sorted(self.faults.items()))
        return [
            f"sent {self.sent} (files {self.files}), edited {self.edited}, deleted {self.deleted}; {judged}",
            f"{figures}, other {len(self.problems)}",
            f"kills {self.kills} ({window}): {killed}",
            f"faults {self.faults.total()}: {struck}",
        ]

    def save(self, file: Path) -> None:
        """Write it down."""
        figures = {each.name: getattr(self, each.name) for each in fields(self)}
        file.write_text(json.dumps(figures | {"verdict": asdict(self.verdict)}, indent=1))

    @classmethod
    def load(cls, file: Path) -> Self:
        """What was written down."""
        found: dict[str, Any] = json.loads(file.read_text())
        found["verdict"] = Verdict(**found["verdict"])
        return cls(**found | {name: Counter(found[name]) for name in ("killed_at", "faults")})


def total(outcomes: Sequence[Outcome]) -> Outcome:
    """Several runs as one."""
    verdict = Verdict()
    for number, outcome in enumerate(outcomes, 1):
        verdict.add(f"run {number}", outcome.verdict)
    faults = sum((outcome.faults for outcome in outcomes), Counter[str]())
    killed_at = sum((outcome.killed_at for outcome in outcomes), Counter[str]())
    problems = [problem for outcome in outcomes for problem in outcome.problems]
    added = {
        each.name: sum(getattr(outcome, each.name) for outcome in outcomes)
        for each in fields(Outcome)
        if each.name not in {"verdict", "faults", "killed_at", "problems"}
    }
    return Outcome(verdict=verdict, faults=faults, killed_at=killed_at, problems=problems, **added)


@dataclass(slots=True)
class Trace:
    """What happened, with the seconds since the start, in a file."""

    file: TextIO
    started: float = field(default_factory=time.monotonic)

    def __call__(self, line: str) -> None:
        self.file.write(f"{time.monotonic() - self.started:9.3f}  {line}\n")
        self.file.flush()
