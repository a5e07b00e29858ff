"""`relay status`: what is in the store. It works whether the daemon runs or not."""

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from relay.cli.common import ConfigOption, JsonOption, existing_store, invocation_of, print_json, printable

if TYPE_CHECKING:
    from rich.table import Table

    from relay.config.settings import Settings
    from relay.core.status.report import DirectionStatus, Report

_DIRECTIONS = {"to_matrix": "to Matrix", "to_discord": "to Discord"}
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def status(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show each pair: last message, backlog, retries, drops and dead letters. Exit status 1 if something is wrong."""
    settings = invocation_of(context).load(config)
    report = asyncio.run(_report(settings))
    if as_json:
        print_json(report.as_json())
    else:
        _print(report)
    raise typer.Exit(0 if report.well else 1)


async def _report(settings: "Settings") -> "Report":
    from relay.core.status.report import read_report
    from relay.store.lease import SqlLeases, is_running, last_seen

    now = datetime.now(UTC)
    pairs = settings.declared_pairs()
    if not settings.store.path.exists():
        return await read_report(None, pairs, running=False, now=now)
    async with existing_store(settings.store.url) as store:
        async with store.read() as unit:
            holder = await SqlLeases(unit.transaction).get()
        running = is_running(holder, store.path)
        return await read_report(store, pairs, running=running, now=now, seen=last_seen(store.path))


def _print(report: "Report") -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    daemon = report.daemon
    if daemon.running:
        process = f"process {daemon.pid} on {printable(daemon.host or '?')}" if daemon.pid else "it is starting"
        console.print(f"The daemon runs: {process}{_since(daemon.since)}.")
    elif daemon.updated_at is None:
        console.print("The daemon has never run here.", style="red")
    else:
        console.print(f"The daemon is not running; it was last seen {_when(daemon.updated_at)}.", style="red")
    for name, side in report.sides.items():
        style = "green" if side.connected else "red"
        words = side.problem or side.state
        console.print(f"{name.capitalize()}: {printable(words)}", style=style)
    if report.pairs:
        console.print(_table(report), soft_wrap=False)
    for lane in report.undeclared:
        name = printable(lane.pair or "a pair whose name is not known")
        channels = f"{printable(lane.lane.source.id)} -> {printable(lane.lane.destination.id)}"
        oldest = "" if lane.oldest_seconds is None else f", the oldest for {_age(lane.oldest_seconds)}"
        console.print(
            f"{name} is not declared ({channels}): {lane.waiting} waiting{oldest}, {lane.dead} dead."
            " `relay outbox discard` forgets what waits.",
            style="yellow",
        )
    for pair in report.pairs:
        if pair.problem:
            console.print(f"{printable(pair.name)}: {printable(pair.problem)}", style="red")
        if pair.note:
            console.print(f"{printable(pair.name)}: {printable(pair.note)}", style="yellow")


def _table(report: "Report") -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("Pair", "Way", "Last message"):
        table.add_column(head, overflow="fold")
    for head in ("Backlog", "Oldest", "Retries", "Dropped", "Dead"):
        table.add_column(head, justify="right")
    for pair in report.pairs:
        for number, (name, direction) in enumerate(pair.directions.items()):
            label = Text(printable(pair.name) if number == 0 else "", style="red" if pair.problem else "")
            table.add_row(label, _DIRECTIONS.get(name, name), *_cells(direction))
    return table


def _cells(direction: "DirectionStatus") -> tuple[str, ...]:
    last, oldest = direction.last_message_at, direction.oldest_undelivered_seconds
    dropped = ", ".join(f"{printable(feature)} {count}" for feature, count in sorted(direction.dropped.items()))
    return (
        _when(last) if last else "–",
        str(direction.backlog),
        "–" if oldest is None else _age(oldest),
        str(direction.retries),
        dropped or "0",
        str(direction.dead_letters),
    )


def _since(moment: datetime | None) -> str:
    return f" since {_when(moment)}" if moment else ""


def _when(moment: datetime) -> str:
    """In the operator's own zone."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def _age(seconds: float) -> str:
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "0 s"
