"""`relay check`: the doctor. One line for each thing that it looked at, and the remedy under what is wrong."""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.commands import ConfigOption, JsonOption, invocation_of
from relay.cli.common import is_terminal, no_such_pairs, print_json, printable, run_async, wrapped
from relay.cli.setup.asking import heading

if TYPE_CHECKING:
    from pathlib import Path

    from relay.config.settings import Settings
    from relay.core.operations.findings import Finding
    from relay.domain.pair import Pair

_SIGNS = {"ok": "✓", "note": "~", "wrong": "✗"}
_COLOURS = {"ok": typer.colors.GREEN, "note": typer.colors.YELLOW, "wrong": typer.colors.RED}
_PIPED = 10_000
"""The width where the output is no terminal: one line for a finding, one for its remedy."""

PairOption = Annotated[
    list[str] | None, typer.Option("--pair", metavar="NAME", help="Look at this pair only; may be given again.")
]


def check(
    context: typer.Context, config: ConfigOption = None, pair: PairOption = None, as_json: JsonOption = False
) -> None:
    """Look at accounts, permissions, rooms, store and clock, and say how to mend what is wrong (exit status 1)."""
    from relay.config.settings import locate

    invocation = invocation_of(context)
    settings = invocation.load(config)
    path = locate(config or invocation.config, os.environ)
    chosen = None if pair is None else _chosen(settings, pair)
    found = run_async(_examine(settings, path, chosen, silent=as_json))
    wrong = any(finding.state == "wrong" for finding in found)
    if as_json:
        print_json({"well": not wrong, "findings": [finding.as_json() for finding in found]})
    else:
        if again := _out_of_sight(found) if is_terminal() else []:
            heading("Once more, what is wrong")
            for finding in again:
                print_finding(finding)
        typer.echo(_summary(found))
    raise typer.Exit(1 if wrong else 0)


async def _examine(
    settings: "Settings", path: "Path", pairs: "Sequence[Pair] | None", *, silent: bool
) -> "list[Finding]":
    from relay.doctor import Doctor

    found = []
    async for finding in Doctor(settings=settings, config=path, pairs=pairs, measures=pairs is None).run():
        found.append(finding)
        if not silent:
            print_finding(finding)
    return found


def print_finding(finding: "Finding") -> None:
    """Print one finding, and its remedy below it. It may hold names that other people chose."""
    width = min(shutil.get_terminal_size().columns, 100) if is_terminal() else _PIPED
    pair = "" if finding.pair is None or finding.pair in finding.subject else f" (pair {finding.pair})"
    text = printable(f"{finding.subject}{pair}: {finding.words}")
    lines = wrapped(text, width - 2)
    typer.secho(_SIGNS[finding.state], fg=_COLOURS[finding.state], nl=False)
    typer.echo(f" {lines[0]}")
    for line in lines[1:]:
        typer.echo(f"  {line}")
    if finding.remedy:
        for number, line in enumerate(wrapped(printable(finding.remedy), width - 4)):
            typer.echo(f"  {'→' if number == 0 else ' '} {line}")


def _chosen(settings: "Settings", names: Sequence[str]) -> "list[Pair]":
    declared = {pair.name: pair for pair in settings.declared_pairs()}
    unknown = [name for name in names if name not in declared]
    if unknown:
        raise no_such_pairs("--pair", unknown, declared)
    return [declared[name] for name in names]


def _out_of_sight(found: "Sequence[Finding]") -> "list[Finding]":
    """What is wrong, to be shown once more, where more than a screen of other lines is below the first of it."""
    first = next((number for number, one in enumerate(found) if one.state == "wrong"), len(found))
    if len(found) - first < shutil.get_terminal_size().lines:
        return []
    return [one for one in found if one.state == "wrong"]


def _summary(found: "Sequence[Finding]") -> str:
    counts = Counter(finding.state for finding in found)
    if not counts["wrong"] and not counts["note"]:
        return "All is well."
    wrong = f"{counts['wrong']} wrong" if counts["wrong"] else "Nothing is wrong"
    return f"{wrong}, {counts['note']} could be better." if counts["note"] else f"{wrong}."
