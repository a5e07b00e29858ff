"""`relay login`: an access token of the Matrix account, for a device of its own."""

import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.commands import ConfigOption, invocation_of
from relay.cli.common import run_async, without_settings
from relay.errors import ConfigurationError, reason_of

if TYPE_CHECKING:
    from relay.config.settings import MatrixSettings

HELP = """Log the Matrix account in, and print an access token for a device of its own.

homeserver_url, user_id and password are taken from relay.toml where they are there; a password that is \
not is asked for, or read from standard input. Nothing in relay.toml changes. The token stays good until somebody logs \
that device out, which clients list as “relay”."""


def login(
    context: typer.Context,
    homeserver: Annotated[
        str | None, typer.Option("--homeserver", metavar="URL", help="Instead of homeserver_url in relay.toml.")
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="@NAME:SERVER", help="Instead of user_id in relay.toml.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write it into a new file that only you may read."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """See `HELP`."""
    from relay import setup
    from relay.config.editing import write_private
    from relay.config.loading import load_account
    from relay.config.settings import locate, may_be_there

    without_settings()
    given = {"homeserver_url": ("--homeserver", homeserver), "user_id": ("--user", user)}
    path = locate(config or invocation_of(context).config, os.environ)
    if not may_be_there(path) and None in (homeserver, user):
        remedy = "write --homeserver URL and --user @NAME:SERVER, or name another file with --config"
        raise ConfigurationError.of(str(path), "there is no such file", remedy)
    settings = load_account(
        path,
        os.environ,
        {key: (option, value) for key, (option, value) in given.items() if value is not None},
    )
    if output is not None:
        _try(output)
    kept = settings.password if user is None else None
    password = _password(settings) if kept is None else kept.get_secret_value()
    refused = "write it again, or name another account with --user" if kept is None else "correct [matrix] password"
    made = run_async(
        setup.log_in(settings.homeserver_url, settings.user_id, password, refused=refused, typed=homeserver is not None)
    )
    typer.echo(f"{made.user_id} is logged in, with the device {made.device_id}.", err=True)
    if output is None:
        typer.echo(made.access_token)
        return
    try:
        write_private(output, f"{made.access_token}\n")
    except OSError as error:
        raise _unwritten(output, error) from error
    typer.echo(f'Its token is in {output}. In [matrix] write access_token_file = "{output.resolve()}".', err=True)


def _try(output: Path) -> None:
    """Raise `ConfigurationError` if the file cannot be written: found out after the login, its token would be lost."""
    from relay.config.editing import write_private

    try:
        write_private(output, "")
        output.unlink()
    except FileExistsError as error:
        raise ConfigurationError.of(
            "--output", f"{output} is there already", "name a new file, or remove that one"
        ) from error
    except OSError as error:
        raise _unwritten(output, error) from error


def _unwritten(output: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError.of(
        "--output", f"{output} cannot be written: {reason_of(error)}", "name a file where your user may write"
    )


def _password(settings: "MatrixSettings") -> str:
    if not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        try:
            password = getpass.getpass(f"Password of {settings.user_id}: ")
        except EOFError:
            password = ""
    if not password:
        raise ConfigurationError.of("the password", "is empty", "write it, or send it to standard input")
    return password
