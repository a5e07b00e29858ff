"""`relay directory`: the community's page of rooms. It works whether the daemon runs or not."""

from enum import StrEnum
from typing import Annotated

import typer

from relay.cli.commands import ConfigOption, JsonOption, invocation_of
from relay.cli.common import known_channels, print_json, print_problem, printable, run_async
from relay.errors import StoreError

# How many of the rooms that are left out are named.
_NAMED = 3


class Format(StrEnum):
    """How the page is printed."""

    MARKDOWN = "markdown"
    HTML = "html"
    JSON = "json"


def _format(word: str) -> Format:
    try:
        return Format(word)
    except ValueError:
        raise typer.BadParameter(f"{printable(word)} is none of {', '.join(Format)}") from None


def directory(
    context: typer.Context,
    config: ConfigOption = None,
    format_: Annotated[
        Format | None,
        typer.Option("--format", metavar="WORD", parser=_format, help="Print it as markdown, html or json."),
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown (the default).")] = False,
    as_html: Annotated[bool, typer.Option("--html", help="Print one HTML document.")] = False,
    as_json: JsonOption = False,
    private: Annotated[
        bool, typer.Option("--private", help="Show also what only invited people may know of a room.")
    ] = False,
) -> None:
    """Print the directory of rooms from the configuration, with names and topics from the rooms themselves."""
    asked = zip(Format, (as_markdown, as_html, as_json), strict=True)
    chosen = {kind for kind, on in asked if on} | ({format_} if format_ is not None else set())
    if len(chosen) > 1:
        raise typer.BadParameter("choose one of --markdown, --html and --json", ctx=context)
    from relay.web import directory_pages
    from relay.web.directory import directory_of

    settings = invocation_of(context).load(config)
    try:
        known = run_async(known_channels(settings))
    except StoreError as error:
        print_problem(f"names and topics of the rooms are not known: {error}", "note")
        known = {}
    found = directory_of(settings, known, private=private)
    match chosen.pop() if chosen else Format.MARKDOWN:
        case Format.MARKDOWN:
            typer.echo(directory_pages.markdown(found), nl=False)
        case Format.HTML:
            typer.echo(directory_pages.html(found), nl=False)
        case Format.JSON:
            print_json(found.as_json())
    if left_out := found.left_out:
        listed = ", ".join(left_out) if len(left_out) <= _NAMED else f"{', '.join(left_out[:_NAMED])} and more"
        which = f"{listed} is" if len(left_out) == 1 else f"{len(left_out)} rooms ({listed}) are"
        words = f"{which} left out: only invited people may enter; give each a purpose that anybody may read"
        print_problem(f"{words}, or print the page for your own people with --private", "note")
