"""`relay status`: what is in the store. It works whether the daemon runs or not."""

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.commands import ConfigOption, JsonOption, invocation_of
from relay.cli.common import (
    existing_store,
    is_terminal,
    no_such_pairs,
    print_error,
    print_json,
    printable,
    run_async,
)
from relay.cli.status_text import Screen
from relay.errors import ConfigurationError, StoreError, how_many

if TYPE_CHECKING:
    from pathlib import Path

    from relay.cli.common import Invocation
    from relay.config.settings import StoreSettings
    from relay.config.tenants import Host
    from relay.core.status.report import Report
    from relay.domain.pair import Pair

_WATCH_SECONDS = 2.0
_CLEAR = "\x1b[2J\x1b[H"

PairsArgument = Annotated[list[str] | None, typer.Argument(metavar="PAIR…", help="Show only these, in detail.")]
ProblemsOption = Annotated[bool, typer.Option("--problems", help="Leave out the pairs that are well.")]
WatchOption = Annotated[bool, typer.Option("--watch", help="Show it again every two seconds, until Ctrl-C.")]


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is asked about."""

    store: "StoreSettings"
    # None: the configuration has mistakes; those that the daemon works with are shown.
    pairs: "tuple[Pair, ...] | None"


def status(
    context: typer.Context,
    pairs: PairsArgument = None,
    problems: ProblemsOption = False,
    watch: WatchOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show each pair: last message, backlog, drops, dead letters, what is wrong and what to do.

    → is from Discord to Matrix, ← is back. Exit status 1 if something is wrong, 2 if a name or the file is.
    """
    if watch and as_json:
        raise typer.BadParameter("--watch is for people, --json for programs", ctx=context)
    invocation = invocation_of(context)
    # A pair is one of a tenant: which, the command line has to say.
    host = None if pairs else _with_tenants(invocation)
    screen = Screen(wanted=tuple(pairs or ()), problems_only=problems)
    show = partial(_show, invocation, config, screen) if host is None else partial(_show_tenants, host)
    if not watch:
        raise typer.Exit(show(as_json=as_json))
    with suppress(KeyboardInterrupt):
        while True:
            show(clear=is_terminal())
            typer.echo()
            time.sleep(_WATCH_SECONDS)


def _with_tenants(invocation: "Invocation") -> "Host | None":
    """The configuration, if it has tenants and none was named."""
    from relay import logs
    from relay.config.settings import HOST_VARIABLE
    from relay.config.tenants import load_host

    host = None if HOST_VARIABLE in os.environ else load_host(invocation.config, os.environ)
    if host is not None:
        logs.configure("warning", "console", logs.Redactor(host.settings.secrets()))
    return host


def _show_tenants(host: "Host", *, as_json: bool = False, clear: bool = False) -> int:
    """A line for each tenant. Returns the exit status."""
    found = run_async(_tenants(host))
    if clear:
        typer.echo(_CLEAR, nl=False)
    if as_json:
        print_json(
            {"tenants": {name: {"problem": one} if isinstance(one, str) else one.as_json() for name, one in found}}
        )
    else:
        for name, one in found:
            well = not isinstance(one, str) and one.well
            for line in _in_words(one).splitlines():
                typer.secho(f"{name}: {printable(line)}", fg="green" if well else "red")
        if not found:
            typer.echo(f"There are no tenants in {host.folder}: write a file for each, like name.toml.")
    return 0 if all(not isinstance(one, str) and one.well for _, one in found) else 1


def _in_words(report: "Report | str") -> str:
    if isinstance(report, str):
        return report
    daemon, troubled = report.daemon, sum(bool(pair.problems) for pair in report.pairs)
    served = f"process {daemon.pid} on {daemon.host} serves it" if daemon.running else "nobody serves it"
    away = [f"{name.capitalize()}: {side.problem}" for name, side in report.sides.items() if side.problem]
    pairs = how_many(len(report.pairs), "pair") + (f", {troubled} in trouble" if troubled else "")
    store = [f"the store: {report.store_problem}"] if report.store_problem else []
    wrong = [f"{one.subject}: {one.words}" for one in report.findings if one.state == "wrong"]
    return "; ".join([served, pairs, *store, *(away if daemon.running else []), *wrong])


async def _tenants(host: "Host") -> "list[tuple[str, Report | str]]":
    """The report of each tenant, or what is wrong with it."""
    few = asyncio.Semaphore(8)

    async def look(name: str) -> "Report | str":
        try:
            settings = host.load(name)
            async with few:
                return await read_status(settings.store, settings.declared_pairs())
        except (ConfigurationError, StoreError) as error:
            return str(error)

    names = list(host.files())
    return list(zip(names, await asyncio.gather(*map(look, names)), strict=True))


def _show(
    invocation: "Invocation", config: "Path | None", screen: Screen, *, as_json: bool = False, clear: bool = False
) -> int:
    """Show it once. Returns the exit status. Raises `RelayError`, also where there is no such pair."""
    subject, mistakes = _subject(invocation, config)
    try:
        report = run_async(read_status(subject.store, subject.pairs))
    except StoreError:
        if mistakes is not None:
            print_error(mistakes, invocation.redact)
        raise
    if mistakes is not None and not report.daemon.running and report.daemon.ended is None:
        raise mistakes  # No daemon has left anything to show.
    names = [pair.name for pair in report.pairs]
    if unknown := [name for name in screen.wanted if name not in names]:
        if mistakes is not None:
            print_error(mistakes, invocation.redact)
        raise no_such_pairs("PAIR", unknown, names)
    report = _narrowed(report, screen)
    # What was shown stays until there is something else to show.
    if clear:
        typer.echo(_CLEAR, nl=False)
    if as_json:
        print_json(report.as_json())
    else:
        screen.show(report)
    if mistakes is not None:
        print_error(mistakes, invocation.redact)
        typer.echo("This shows the pairs as the daemon knows them.", err=True)
        return mistakes.exit_status
    return 0 if report.well else 1


def _narrowed(report: "Report", screen: Screen) -> "Report":
    """With those pairs only that are asked about."""
    if not screen.wanted:
        return report
    return replace(report, pairs=tuple(pair for pair in report.pairs if pair.name in screen.wanted))


def _subject(invocation: "Invocation", config: "Path | None") -> tuple[_Subject, ConfigurationError | None]:
    """Raises `ConfigurationError` where the configuration does not even tell which store is meant."""
    try:
        settings = invocation.load(config)
    except ConfigurationError as error:
        from relay import logs
        from relay.config.loading import store_settings
        from relay.config.settings import locate

        store = store_settings(locate(config or invocation.config, os.environ), os.environ)
        if store is None or store.is_missing:
            raise
        logs.configure("warning", "console", logs.Redactor())
        return _Subject(store, None), error
    return _Subject(settings.store, settings.declared_pairs()), None


async def read_status(settings: "StoreSettings", pairs: "tuple[Pair, ...] | None") -> "Report":
    """What the store tells. `pairs` None: those that the daemon works with. Raises `StoreError`."""
    from relay.core.status.reading import read_report
    from relay.store.lease import is_held, last_seen, standbys

    now = datetime.now(UTC)
    if settings.is_missing:
        return await read_report(None, pairs, running=False, now=now)
    async with existing_store(settings.url) as store:
        running, seen = await is_held(store), await last_seen(store)
        report = await read_report(store, pairs, running=running, now=now, seen=seen)
        problem = report.store_problem or await store.problem()
        return replace(report, standbys=tuple(await standbys(store)), store_problem=problem)
