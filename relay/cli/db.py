"""`relay db`: create, change and check the tables of the store, back it up, restore it. `relay run` upgrades them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.commands import ConfigOption, invocation_of
from relay.cli.common import run_async
from relay.config.store_url import names_postgresql, problem_with_database
from relay.errors import ConfigurationError, RelayError, StoreError, StoreUnavailable, how_many

if TYPE_CHECKING:
    from relay.config.settings import StoreSettings

commands = typer.Typer(help="Create, change, check, back up or restore the store.", no_args_is_help=True)

# What stands beside a store or a backup while it is made or held.
_BESIDE = (".part", ".replacement.part", "-lock")
_STATES = {
    "missing": "it does not exist yet; `relay run` or `relay db upgrade` creates it",
    "empty": "it has no tables yet; `relay run` or `relay db upgrade` creates them",
    "outdated": "it was made by an older relay; `relay run` or `relay db upgrade` brings it up to date",
    "current": "it is up to date",
    "too_new": "it was made by a newer relay; use that version of the relay",
}


@commands.command()
def upgrade(context: typer.Context, config: ConfigOption = None) -> None:
    """Create the store if it does not exist, and bring its tables up to date."""
    settings = invocation_of(context).load(config)
    from relay.store.migrate import upgrade

    schema = upgrade(settings.store.url)
    typer.echo(f"store {settings.store.name}: at revision {schema.revision}")


@commands.command()
def downgrade(
    context: typer.Context,
    revision: Annotated[
        str,
        typer.Argument(
            metavar="REVISION",
            help="The revision to go back to; `base` removes all tables. Default: one step back.",
            show_default=False,
        ),
    ] = "-1",
    config: ConfigOption = None,
) -> None:
    """Downgrade the tables for an older relay. Data that the older tables cannot hold is lost."""
    settings = invocation_of(context).load(config)
    from relay.store.migrate import downgrade, known_revisions

    known = ["base", *known_revisions("postgresql" if names_postgresql(settings.store.url) else "sqlite")]
    if revision not in known and re.fullmatch(r"-[1-9][0-9]?", revision) is None:
        raise ConfigurationError.of("REVISION", "there is no such revision", f"write one of {', '.join(known)}")
    if settings.store.is_missing:
        raise StoreError(settings.store.name, "it does not exist yet", "there is nothing to downgrade")
    schema = downgrade(settings.store.url, revision)
    typer.echo(f"store {settings.store.name}: at revision {schema.revision or 'base (no tables)'}")


@commands.command()
def check(context: typer.Context, config: ConfigOption = None) -> None:
    """Tell whether the tables are up to date. Exit status 1 if not."""
    settings = invocation_of(context).load(config)
    from relay.store.migrate import check

    schema = check(settings.store.url)
    revision = f" (revision {schema.revision}, this relay needs {schema.head})" if schema.revision else ""
    typer.echo(f"store {settings.store.name}: {_STATES[schema.state]}{revision}")
    raise typer.Exit(0 if schema.state == "current" else 1)


@commands.command()
def backup(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="FILE", help="A new file, or a folder for one named by the time.")],
    config: ConfigOption = None,
) -> None:
    """Copy the store into one file, also while the daemon runs."""
    settings = invocation_of(context).load(config)
    from relay.store.backup import back_up

    path = Path(target).absolute()
    # Else a folder that is not there would become a file of its name.
    is_folder = target.endswith("/") or os.path.isdir(path)  # noqa: PTH112 - `Path.is_dir` raises where it may not look
    folder = path if is_folder else path.parent
    _need(folder)
    with _about(path):
        typer.echo(back_up(_file(settings.store, "pg_dump"), path, datetime.now(UTC)))


@commands.command()
def restore(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `relay db backup` made.")],
    config: ConfigOption = None,
) -> None:
    """Put a backup in the store's place, while no daemon runs. The old store is kept beside it."""
    settings = invocation_of(context).load(config)
    from relay.store.backup import restore

    path, backup = _file(settings.store, "pg_restore"), Path(file).absolute()
    made = "name a file that `relay db backup` made"
    if "://" in file:
        remedy = f"{made}; `relay db copy` takes an address"
        raise ConfigurationError.of("FILE", "is an address, and a backup is a file", remedy)
    if os.path.isdir(backup):  # noqa: PTH112 - as above
        raise ConfigurationError.of(str(file), "is a folder", made)
    try:
        with _about(path):
            old = restore(backup, path)
    except StoreUnavailable as error:
        if not str(error).startswith(f"store {backup}:"):
            raise
        raise RelayError(f"{file}: {error.reason}; {made}") from error  # it is no store that anybody uses
    typer.echo(f"store {settings.store.name}: restored" + (f"; the old one is {old}" if old else ""))


@commands.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A file, or a URL: sqlite:///… or postgresql://…")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The same, for the new store.")],
) -> None:
    """Copy a store into a new one, between SQLite and PostgreSQL, and compare them. No daemon may use either.

    Other users of this machine see the arguments: give PostgreSQL's password in PGPASSWORD, or in ~/.pgpass.
    """
    from relay.core.clock import SystemClock
    from relay.store.copying import copy_store, prepared

    old, new = _url("FROM", source), _url("TO", target)
    if not names_postgresql(new):
        _need(Path(new.removeprefix("sqlite:///")).parent)
    with _about(Path(new.removeprefix("sqlite:///"))), prepared(old, new) as made:
        counts = run_async(copy_store(old, made, SystemClock()))
    rows, messages = how_many(sum(counts.values()), "row"), how_many(counts["message"], "message")
    typer.echo(f"copied {rows}, {messages} among them; both hold the same.")
    typer.echo("The relay uses the new store once [store] url names it.")


def _need(folder: Path) -> None:
    if not os.path.isdir(folder):  # noqa: PTH112 - as above
        raise ConfigurationError.of(str(folder), "there is no such folder", f"make it: mkdir -p -m 0700 {folder}")


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """What keeps a file from being written is said of it: the files beside it, like `.part`, tell nobody anything."""
    try:
        yield
    except StoreUnavailable as error:
        if not any(str(error).startswith(f"store {path}{suffix}:") for suffix in _BESIDE):
            raise
        words = f"{path} cannot be written: {error.reason[:1].lower()}{error.reason[1:]}"
        raise RelayError(f"{words}; make room there and let your user write, or name another folder") from error


def _url(argument: str, store: str) -> str:
    """The URL of a store that is given as a file or as a URL. Raises `ConfigurationError`."""
    problem = problem_with_database(store) if names_postgresql(store) else None
    if "://" in store and not names_postgresql(store) and not store.startswith("sqlite:///"):
        problem = "is neither a file nor the address of a store", "write sqlite:///… or postgresql://…"
    if Path(store.removeprefix("sqlite:///")).is_dir():
        problem = "is a folder", "name a file in it"
    if problem is not None:
        raise ConfigurationError.of(argument, *problem)
    if "://" in store:
        return store
    return f"sqlite:///{Path(store).absolute()}"


def _file(store: "StoreSettings", tool: str) -> Path:
    """The file of the store. Raises `StoreError` for one that is in no file."""
    if store.path is None:
        remedy = f"use {tool}, or `relay db copy` while no daemon runs"
        raise StoreError(store.name, "a store on PostgreSQL is in no file of ours", remedy)
    return store.path
