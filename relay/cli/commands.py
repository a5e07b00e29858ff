"""The commands, as Typer knows them, and the options that many of them have. `relay run` alone does without."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

import relay
from relay.cli.common import Invocation

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="PATH", help="The configuration; else $RELAY_CONFIG, else ./relay.toml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_HELP = {"help_option_names": ["-h", "--help"]}


def invocation_of(context: typer.Context) -> Invocation:
    """The invocation of a command's context."""
    return context.ensure_object(Invocation)


def command_line() -> Any:
    """What parses the arguments and runs one of the commands."""
    command = typer.main.get_command(application())
    _show_what_is_typed(command)
    return command


def application() -> typer.Typer:
    """All commands."""
    # Here, because each of them needs what stands above.
    from relay.cli import backfill, db, dead, directory, explain, outbox, status
    from relay.cli.setup import check, init, login, pairs, registration

    root = typer.Typer(
        name="relay",
        help="Mirror Discord channels and Matrix rooms into each other.",
        no_args_is_help=True,
        # `main` prints the errors. Typer's tracebacks would show local variables, which hold messages and tokens.
        pretty_exceptions_enable=False,
        context_settings=_HELP,
    )
    root.callback()(_root)
    root.command("run")(_run)
    if find_spec("relay.cli.demo") is not None:
        root.command("demo")(import_module("relay.cli.demo").demo)
    root.command("init", help=init.HELP)(init.init)
    root.command("login", help=login.HELP)(login.login)
    root.command("check")(check.check)
    root.command("status")(status.status)
    root.command("explain")(explain.explain)
    root.command("backfill")(backfill.backfill)
    root.command("directory")(directory.directory)
    root.command("registration")(registration.registration)
    root.add_typer(dead.commands, name="dead")
    root.add_typer(pairs.commands, name="pairs")
    root.add_typer(outbox.commands, name="outbox")
    root.add_typer(db.commands, name="db")
    return root


def _show_what_is_typed(command: Any) -> None:
    """Typer shows `<bool>` behind flags in `--help`, as if a value had to follow, and `<list[str]>` at arguments."""
    own_help = command.get_help_option(command.context_class(command, **_HELP))
    for parameter in (*command.params, own_help):
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None
    for inner in getattr(command, "commands", {}).values():
        _show_what_is_typed(inner)


def _run(
    context: typer.Context,
    config: ConfigOption = None,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Take over the pairs that another relay on the same accounts holds."),
    ] = False,
    standby: Annotated[
        bool, typer.Option("--standby", help="Where another daemon holds the store, wait until it has ended.")
    ] = False,
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C. SIGHUP reads the pairs again."""
    from relay.cli.run import run_daemon

    run_daemon(invocation_of(context), take_over=take_over, standby=standby)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"relay {relay.__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    config: ConfigOption = None,
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", metavar="NAME", help="Which community is meant, where relay.toml has several."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """`--config` and `--tenant` are here for `--help` alone: see `without_option`."""
