"""What every command needs: the settings, the store, and a way to complain."""

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relay.errors import ConfigurationError, RelayError, StoreError, StoreTooNew

if TYPE_CHECKING:
    from relay.config.settings import Settings
    from relay.store.unit_of_work import SqlStore

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="PATH", help="The configuration; else $RELAY_CONFIG, else ./relay.toml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Invocation:
    """One run of the program. `config` is what was given before the command's name; `hide` hides the secrets.

    Typer keeps it as the context's object.
    """

    def __init__(self) -> None:
        self.config: Path | None = None
        self.hide: Callable[[str], str] = str

    def load(self, config: Path | None, *, daemon: bool = False) -> "Settings":
        """The settings; logging is set up with them. Only the daemon says more than warnings."""
        from relay import logs
        from relay.config.loading import load

        self.hide = logs.redactor(())
        settings = load(config or self.config, os.environ)
        self.hide = logs.redactor(settings.secrets())
        level = settings.log.level if daemon or settings.log.level == "error" else "warning"
        logs.configure(level, settings.log.format if daemon else "console", settings.secrets())
        return settings


def invocation_of(context: typer.Context) -> Invocation:
    """The invocation that a command belongs to."""
    return context.ensure_object(Invocation)


def complain(error: RelayError, hide: Callable[[str], str] = str) -> None:
    """Say on standard error what is wrong, a line for each mistake."""
    mistakes = error.mistakes if isinstance(error, ConfigurationError) else (error,)
    for mistake in mistakes:
        typer.secho("error: ", err=True, nl=False, fg=typer.colors.RED)
        typer.echo(printable(hide(str(mistake))), err=True)


def printable(text: str) -> str:
    """`text` on one line and without anything that steers a terminal: other people wrote it."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def print_json(value: object) -> None:
    """Print JSON. Nothing in it steers a terminal."""
    from relay.logs import readable_json

    typer.echo(readable_json(value, indent=2))


@asynccontextmanager
async def opened_store(url: str) -> "AsyncIterator[SqlStore]":
    """The store of a daemon that runs or has run. Nothing is made or migrated. Raises `StoreError`."""
    from relay.store.migrate import check
    from relay.store.sqlite.engine import database_path
    from relay.store.unit_of_work import SqlStore

    path = database_path(url)
    schema = check(url)
    match schema.state:
        case "missing" | "empty":
            raise StoreError(path, "there is none yet", "start the daemon once with `relay run`")
        case "outdated":
            raise StoreError(path, "it was made by an older relay", "run `relay db upgrade`, or start the daemon")
        case "too_new":
            raise StoreTooNew(path, "it was made by a newer relay", "use that version")
    store = SqlStore(path)
    try:
        yield store
    finally:
        await store.close()


def is_terminal() -> bool:
    """Whether standard output is one."""
    return sys.stdout.isatty()
