"""`relay dead`: dead letters, which are commands that failed for good. They are kept until somebody decides."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.commands import ConfigOption, JsonOption, invocation_of
from relay.cli.common import (
    existing_store,
    is_terminal,
    print_json,
    print_line,
    print_problem,
    printable,
    run_async,
    way,
)

if TYPE_CHECKING:
    from datetime import datetime

    from relay.config.settings import Settings
    from relay.core.storage import DeadLetter, Outbox

# Whoever searches the output finds all about a dead letter on one line.
_PIPED = 10_000

commands = typer.Typer(help="List, show, retry or discard what failed for good.", no_args_is_help=True)


def _number(text: str) -> int:
    # Longer numbers fit into no database.
    if re.fullmatch(r"-?[0-9]{1,18}", text.strip()) is None:
        raise typer.BadParameter(f"{printable(text)} is no ID of a dead letter; `relay dead list` shows them")
    return int(text)


IdsArgument = Annotated[
    list[int] | None, typer.Argument(metavar="ID", parser=_number, help="Which; `relay dead list` shows them.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All of them.")]


@commands.command("list")
def list_(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the dead letters, without their text."""
    from relay.core.operations.dead_letters import summary

    letters = run_async(_letters(invocation_of(context).load(config)))
    if as_json:
        print_json([summary(letter) for letter in letters])
    elif not letters:
        typer.echo("There are no dead letters.")
    else:
        _print_table(letters)
        print_line(
            "`relay dead show ID` shows what one says, `relay dead retry ID` tries it again, `relay dead discard ID`"
            " deletes it."
        )


@commands.command()
def show(
    context: typer.Context,
    entry: Annotated[int, typer.Argument(metavar="ID", parser=_number, help="Which; `relay dead list` shows them.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one dead letter with its reason and its text."""
    from relay.core.operations.dead_letters import summary

    letters = run_async(_letters(invocation_of(context).load(config)))
    letter = next((letter for letter in letters if letter.entry.id == entry), None)
    if letter is None:
        _unknown(entry)
        raise typer.Exit(1)
    if as_json:
        print_json({**summary(letter), "text": _text(letter)})
        return
    for key, value in _in_words(letter).items():
        for number, line in enumerate((value or "–").split("\n")):
            print_line(f"{'' if number else key:<12} {line}", indent=13)


def _in_words(letter: "DeadLetter") -> "dict[str, str | None]":
    """All about a dead letter, as people read it."""
    from relay.core.operations.dead_letters import summary, what_died

    values = summary(letter)
    source = values["source"] or {}
    return {
        "id": str(letter.entry.id),
        "pair": values["pair"],
        "way": way(values["direction"]),
        "what": what_died(letter),
        "author": values["author"],
        "message": source.get("id"),
        "in": source.get("channel"),
        "queued": _moment(letter.entry.queued_at),
        "failed": _moment(letter.died_at),
        "reason": letter.reason,
        "text": _text(letter),
    }


def _moment(moment: "datetime") -> str:
    """In the operator's own zone."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


@commands.command()
def retry(
    context: typer.Context, entries: IdsArgument = None, every: AllOption = False, config: ConfigOption = None
) -> None:
    """Try dead letters again, behind what waits for their pair."""
    _each(context, config, entries, every, lambda outbox, entry: outbox.retry(entry), "queued again")


@commands.command()
def discard(
    context: typer.Context, entries: IdsArgument = None, every: AllOption = False, config: ConfigOption = None
) -> None:
    """Delete dead letters: what they say will never cross."""
    _each(context, config, entries, every, lambda outbox, entry: outbox.discard(entry), "discarded")


def _each(
    context: typer.Context,
    config: ConfigOption,
    entries: Sequence[int] | None,
    every: bool,
    act: "Callable[[Outbox, int], Awaitable[bool]]",
    done: str,
) -> None:
    """Apply `act` to the named dead letters. Exit status 1 if one of them does not exist."""
    if bool(entries) == every:
        raise typer.BadParameter("give some IDs, or --all", ctx=context)
    url = invocation_of(context).load(config).store.url
    results = run_async(_act(url, None if every else list(dict.fromkeys(entries or ())), act))
    for entry, there in results.items():
        if there:
            typer.echo(f"{entry}: {done}")
        else:
            _unknown(entry)
    if every and not results:
        typer.echo("There are no dead letters.")
    raise typer.Exit(0 if all(results.values()) else 1)


async def _act(
    url: str, entries: Sequence[int] | None, act: "Callable[[Outbox, int], Awaitable[bool]]"
) -> dict[int, bool]:
    async with existing_store(url) as store, store.write() as unit:
        wanted = [letter.entry.id for letter in await unit.outbox.dead()] if entries is None else entries
        return {entry: await act(unit.outbox, entry) for entry in wanted}


async def _letters(settings: "Settings") -> "Sequence[DeadLetter]":
    from relay.core.operations.dead_letters import DeadLetters
    from relay.core.pairs import PairDirectory

    async with existing_store(settings.store.url) as store:
        async with store.read() as unit:
            declared = PairDirectory(settings.declared_pairs(), await unit.channels.known())
        return await DeadLetters(store=store, pairs=declared).newest()


def _unknown(entry: int) -> None:
    print_problem(f"there is no dead letter {entry}; `relay dead list` shows them")


def _text(letter: "DeadLetter") -> str | None:
    """The text and the names of the files. For an unreadable entry, what is in the store."""
    from relay.core.storage import Unreadable
    from relay.domain.commands import Digest, EditMessage, PostNotice, SendMessage
    from relay.domain.text.nodes import plain_text

    command = letter.entry.command
    if isinstance(command, Unreadable):
        return command.payload
    if isinstance(command, PostNotice):
        return plain_text(command.text)
    if isinstance(command, Digest):
        return "\n".join(plain_text(item.content.text) for item in command.items)
    if not isinstance(command, SendMessage | EditMessage):
        return None
    files = [f"[{attachment.name}]" for attachment in command.content.attachments]
    return "\n".join([plain_text(command.content.text), *files]).strip("\n")


def _print_table(letters: "Sequence[DeadLetter]") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from relay.core.operations.dead_letters import summary, what_died

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("ID", "Pair", "Way", "What", "Author", "Failed", "Reason"):
        table.add_column(head, justify="right" if head == "ID" else "left", overflow="fold")
    for letter in letters:
        values = summary(letter)
        words = (values["pair"] or "–", way(values["direction"]), what_died(letter), values["author"] or "–")
        row = (values["id"], *words, _moment(letter.died_at), letter.reason)
        table.add_row(*(Text(printable(str(word))) for word in row))
    Console(highlight=False, markup=False, width=None if is_terminal() else _PIPED).print(table)
