"""`relay db`: the store's tables. `relay run` upgrades them by itself."""

from typing import Annotated

import typer

from relay.cli.common import ConfigOption, invocation_of

commands = typer.Typer(help="Make, change or check the store's tables.", no_args_is_help=True)

_STATES = {
    "missing": "there is none yet; `relay run` or `relay db upgrade` makes it",
    "empty": "it has no tables yet; `relay run` or `relay db upgrade` makes them",
    "outdated": "it was made by an older relay; `relay run` or `relay db upgrade` brings it up to date",
    "current": "it is up to date",
    "too_new": "it was made by a newer relay; use that version",
}


@commands.command()
def upgrade(context: typer.Context, config: ConfigOption = None) -> None:
    """Make the store if there is none, and bring its tables up to date."""
    settings = invocation_of(context).load(config)
    from relay.store.migrate import upgrade

    schema = upgrade(settings.store.url)
    typer.echo(f"store {settings.store.path}: at revision {schema.revision}")


@commands.command()
def downgrade(
    context: typer.Context,
    revision: Annotated[
        str, typer.Argument(help="Where to go back to; `base` removes every table. Else one step back.")
    ] = "-1",
    config: ConfigOption = None,
) -> None:
    """Take the tables back, for an older relay. What the older tables cannot hold is lost."""
    settings = invocation_of(context).load(config)
    from relay.store.migrate import downgrade

    schema = downgrade(settings.store.url, revision)
    typer.echo(f"store {settings.store.path}: at revision {schema.revision or 'base (no tables)'}")


@commands.command()
def check(context: typer.Context, config: ConfigOption = None) -> None:
    """Say whether the tables are up to date. Exit status 1 if not."""
    settings = invocation_of(context).load(config)
    from relay.store.migrate import check

    schema = check(settings.store.url)
    revision = f" (revision {schema.revision}, this relay needs {schema.head})" if schema.revision else ""
    typer.echo(f"store {settings.store.path}: {_STATES[schema.state]}{revision}")
    raise typer.Exit(0 if schema.state == "current" else 1)
