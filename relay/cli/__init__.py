"""The command line: one file per command, for parsing and printing only. Nothing imports it but `__main__`.

Libraries with long import times (discord.py, nio, SQLAlchemy) are imported inside the commands that need them.
"""

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

import relay
from relay.cli import db, dead, directory, explain, outbox, run, status
from relay.cli.common import ConfigOption, Invocation, print_error
from relay.cli.setup import check, init, login, pairs, registration
from relay.errors import RelayError

_BUG_STATUS = 70  # EX_SOFTWARE of sysexits.h
_HELP = {"help_option_names": ["-h", "--help"]}


def application() -> typer.Typer:
    """All commands."""
    root = typer.Typer(
        name="relay",
        help="Mirror Discord channels and Matrix rooms into each other.",
        no_args_is_help=True,
        # `main` prints the errors. Typer's tracebacks would show local variables, which hold messages and tokens.
        pretty_exceptions_enable=False,
        context_settings=_HELP,
    )
    root.callback()(_root)
    root.command("run")(run.run)
    if find_spec("relay.cli.demo") is not None:
        root.command("demo")(import_module("relay.cli.demo").demo)
    root.command("init", help=init.HELP)(init.init)
    root.command("login", help=login.HELP)(login.login)
    root.command("check")(check.check)
    root.command("status")(status.status)
    root.command("explain")(explain.explain)
    root.command("directory")(directory.directory)
    root.command("registration")(registration.registration)
    root.add_typer(dead.commands, name="dead")
    root.add_typer(pairs.commands, name="pairs")
    root.add_typer(outbox.commands, name="outbox")
    root.add_typer(db.commands, name="db")
    return root


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status.

    0: ok. 1: a problem. 2: wrong usage or configuration. 3: another daemon holds the store. 4: the daemon cannot go on
    and says why. 70: a bug.
    """
    words, config = without_config(sys.argv[1:] if arguments is None else arguments)
    invocation = Invocation(config)
    try:
        command = typer.main.get_command(application())
        _show_flags_as_flags(command)
        command(args=words, prog_name="relay", obj=invocation)
    except RelayError as error:
        print_error(error, invocation.redact)
        sys.exit(error.exit_status)
    except Exception as error:  # noqa: BLE001
        # The top of the program. We format the traceback ourselves: no local variables, no secrets.
        text = "".join(traceback.format_exception(error))
        typer.echo(invocation.redact(text), err=True, nl=False)
        typer.echo(f"error: {type(error).__name__}: this is a bug in relay; please report the lines above", err=True)
        sys.exit(_BUG_STATUS)


def without_config(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments without `--config PATH`, and that path: it may stand anywhere, and the last one counts.

    A `--config` without a path stays, for the parser to complain about.
    """
    words: list[str] = []
    config, place = None, 0
    while place < len(arguments):
        word = arguments[place]
        if word == "--":
            return [*words, *arguments[place:]], config
        name, equals, value = word.partition("=")
        if name == "--config" and (equals or place + 1 < len(arguments)):
            config = Path(value if equals else arguments[place + 1])
            place += 1 if equals else 2
        else:
            words.append(word)
            place += 1
    return words, config


def _show_flags_as_flags(command: Any) -> None:
    """Typer shows `<bool>` behind them in `--help`, as if a value had to follow."""
    own_help = command.get_help_option(command.context_class(command, **_HELP))
    for parameter in (*command.params, own_help):
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    for inner in getattr(command, "commands", {}).values():
        _show_flags_as_flags(inner)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"relay {relay.__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    config: ConfigOption = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """`--config` is here for `--help` alone: see `without_config`."""
