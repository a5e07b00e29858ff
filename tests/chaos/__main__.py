"""`python -m tests.chaos --seed N --messages 2000 --kills 100 --pairs 5 --faults all`: one run, and what it broke.

Exit status 0 if nothing was lost, doubled, out of order, wrong or undeleted. What happened when is in `trace.txt`,
beside the daemon's logs, one for each of its runs, and its store. The seed chooses everything that is done; when
exactly each of the real processes does its part is theirs, so a seed that failed may have to be played a few times.
`--messages 140 --kills 7 --pairs 2 --faults quick` takes about a minute.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path

from tests.chaos.outcome import Outcome, Plan, Trace
from tests.chaos.run import play
from tests.chaos.trouble import KINDS, SLOW

_CRITICAL = 50


def main(arguments: list[str]) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="every choice follows from it")
    parser.add_argument("--messages", type=int, default=2000, help="written on both sides together")
    parser.add_argument("--kills", type=int, default=100, help="how often the daemon is killed")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--faults", default="all", help=f"all, none, quick (what is over soon), or some of: {', '.join(KINDS)}"
    )
    parser.add_argument("--folder", type=Path, help="for the trace and the logs; by default a new temporary one")
    parser.add_argument("--ghosts", action="store_true", help="people of Discord have accounts on Matrix")
    parser.add_argument("--postgresql", action="store_true", help="the store is on PostgreSQL, which is disturbed, too")
    parser.add_argument(
        "--processes", type=int, default=1, help="so many on one PostgreSQL: one serves, others stand by"
    )
    options = parser.parse_args(arguments)
    if options.processes > 1 and not options.postgresql:
        parser.error("several processes share a PostgreSQL: add --postgresql")
    faults = _faults(parser, options.faults)
    folder = options.folder or Path(tempfile.mkdtemp(prefix=f"chaos-{options.seed}-"))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        parser.error(f"{folder} is not empty: a run begins with a new store")
    plan = Plan(
        options.seed,
        options.messages,
        options.kills,
        options.pairs,
        faults,
        folder,
        options.ghosts,
        options.postgresql,
        options.processes,
    )
    _hush()
    command = _again(options)
    with (folder / "trace.txt").open("w") as file:
        trace = Trace(file)
        trace(command)
        try:
            outcome = asyncio.run(play(plan, trace))
        except BaseException:
            print(f"to play it again: {command}", file=sys.stderr)
            raise
    outcome.save(folder / "outcome.json")
    report = _report(plan, outcome, command)
    (folder / "report.txt").write_text("\n".join(report) + "\n")
    print("\n".join(report))
    return 0 if outcome.kept else 1


def _faults(parser: argparse.ArgumentParser, given: str) -> tuple[str, ...]:
    groups: dict[str, tuple[str, ...]] = {
        "all": KINDS,
        "quick": tuple(kind for kind in KINDS if kind not in SLOW),
        "none": (),
    }
    if given in groups:
        return groups[given]
    names = tuple(name.strip() for name in given.split(","))
    if unknown := set(names) - set(KINDS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    return names


def _report(plan: Plan, outcome: Outcome, command: str) -> list[str]:
    drained = f"quiet {outcome.drained_in:.0f} s after the last trouble"
    lines = [
        *outcome.verdict.lines(),
        *outcome.problems,
        f"seed {plan.seed}: {'kept' if outcome.kept else 'BROKEN'} in {outcome.seconds:.0f} s, {drained}",
        *outcome.lines(),
        f"trace, logs and store: {plan.folder}",
    ]
    return lines if outcome.kept else [*lines, f"to play it again: {command}"]


def _again(options: argparse.Namespace) -> str:
    """The command that plays the same plan once more."""
    names = ("seed", "messages", "kills", "pairs", "faults", "processes")
    return " ".join(["python -m tests.chaos", *(f"--{name} {getattr(options, name)}" for name in names)]) + (
        (" --ghosts" if options.ghosts else "") + (" --postgresql" if options.postgresql else "")
    )


def _hush() -> None:
    """What the sandbox says of clients that are killed is no news here."""
    logging.getLogger("aiohttp").setLevel(_CRITICAL)
    logging.getLogger("relay").setLevel(_CRITICAL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
