"""`relay pairs`: the pairs of relay.toml. The file keeps its comments and its order; a running daemon follows it."""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.commands import ConfigOption, JsonOption, invocation_of
from relay.cli.common import (
    Invocation,
    existing_store,
    known_channels,
    no_such_pairs,
    print_json,
    print_line,
    printable,
    run_async,
)
from relay.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    from relay.config.editing import Scalar
    from relay.config.mistakes import Location
    from relay.config.settings import PairSettings, Settings

commands = typer.Typer(help="List and change the pairs of relay.toml; a running daemon follows.", no_args_is_help=True)

NamesArgument = Annotated[
    list[str], typer.Argument(metavar="NAME", help="Pairs by name, as `relay pairs list` shows them, or by channel.")
]
_ARROWS = {"both": "<->", "to_matrix": "-->", "to_discord": "<--"}
_VARIABLE = "RELAY_PAIRS"
_ARGUMENTS = {"discord_channel": "CHANNEL", "matrix_room": "ROOM"}

# Typer keeps the line breaks of a docstring, but for its first paragraph.
_REMOVE = """Remove pairs from the file.

What waits for one is kept, and posted nowhere: it crosses if the same two channels are paired again, and \
`relay outbox discard --pair NAME` discards it. What is said in the meantime does not cross."""
_PAUSE = """Let nothing cross until `relay pairs resume`.

What waits is kept and crosses when the pair is resumed, and so do edits and deletions that people make meanwhile. \
New messages that they write meanwhile never cross: they are counted as dropped, and `!relay status` says in the room \
that it is paused.

The directory of rooms lists the pair as before; for one that has come to its end, write `archived = true` instead."""


@commands.command("list")
def list_(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the pairs: name, Discord channel, Matrix room, and whether one is paused or archived."""
    pairs = invocation_of(context).load(config).pairs
    if as_json:
        print_json([_as_json(pair) for pair in pairs])
    elif not pairs:
        typer.echo("There are no pairs. `relay pairs add` adds one.")
    else:
        from rich.cells import cell_len

        width = min(24, max(cell_len(printable(pair.label)) for pair in pairs))
        for pair in pairs:
            label = printable(pair.label)
            words = [f"{label}{' ' * (width - cell_len(label))}", pair.discord_channel, _ARROWS[pair.direction]]
            # A pair without a name has the room's.
            words += [pair.matrix_room, *_states(pair)]
            print_line("  ".join(words), indent=width + 2)


@commands.command()
def add(
    context: typer.Context,
    channel: Annotated[
        str | None, typer.Argument(metavar="CHANNEL", help="The Discord channel: “Copy Channel ID”.")
    ] = None,
    room: Annotated[
        str | None, typer.Argument(metavar="ROOM", help="The Matrix room: #alias:server, or its ID.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Its name; else the room's alias is it.")
    ] = None,
    direction: Annotated[
        str | None,
        typer.Option("--direction", metavar="WAY", help="Which way messages cross: both, to_matrix or to_discord."),
    ] = None,
    purpose: Annotated[
        str | None, typer.Option("--purpose", metavar="TEXT", help="What it is for, in the directory of rooms.")
    ] = None,
    section: Annotated[
        str | None, typer.Option("--section", metavar="TEXT", help="Its heading in the directory of rooms.")
    ] = None,
    nsfw: Annotated[
        bool | None,
        typer.Option("--nsfw/--no-nsfw", help="Whether the room is for adults: Matrix has no mark for that."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Add a pair, or without CHANNEL and ROOM choose from those that the accounts can see.

    What is said from now on crosses; what was said before does not.
    """
    from relay.config.editing import add_pairs

    if (channel is None) != (room is None):
        raise typer.BadParameter(
            "give both CHANNEL and ROOM, or neither to choose from a list; put an alias in quotes:"
            " the shell takes a # for the start of a comment",
            ctx=context,
        )
    more = {"name": name, "direction": direction, "purpose": purpose, "section": section, "nsfw": nsfw}
    if channel is None or room is None:
        if said := [f"--{key}" for key, value in more.items() if value is not None]:
            words = f"{', '.join(said)} is about one pair: give its CHANNEL and ROOM, too"
            raise typer.BadParameter(words, ctx=context)
        _add_chosen(_Editor.of(context, config))
        return
    given = {"name": name, "discord_channel": _number(channel), "matrix_room": room}
    pair: dict[str, Scalar] = {key: value for key, value in (given | more).items() if value is not None}
    editor = _Editor.of(context, config)
    new = len(editor.settings.pairs)
    options: dict[Location, str] = {("pairs", new, key): _ARGUMENTS.get(key, f"--{key}") for key in pair}
    settings = editor.save(editor.changed(partial(add_pairs, pairs=[pair])), options)
    label = settings.pairs[-1].label
    typer.echo(f"{printable(label)}: added. {_followed(settings)}")
    typer.echo(f"`relay check --pair {shlex.quote(printable(label))}` says whether both sides let it work.")


def _add_chosen(editor: "_Editor") -> None:
    """Add pairs that somebody chooses at the terminal, of what is in no pair yet."""
    from relay import setup
    from relay.cli.setup.asking import Terminal
    from relay.cli.setup.check import print_finding
    from relay.cli.setup.pairing import choose_pairs, declared_pairs
    from relay.config.editing import add_pairs

    if not sys.stdin.isatty():
        raise ConfigurationError.of("standard input", "is no terminal, so nobody can choose", "give CHANNEL and ROOM")
    settings = editor.settings
    discord = run_async(setup.look_at_discord(settings.discord))
    matrix = run_async(setup.look_at_matrix(settings.matrix))
    for finding in (*discord.findings, *matrix.findings):
        if finding.state == "wrong":
            print_finding(finding)
    taken = {address for pair in settings.pairs for address in (pair.discord_channel, pair.matrix_room)}
    channels, rooms = (
        [one for one in look.channels if taken.isdisjoint({one.address, *one.also})] for look in (discord, matrix)
    )
    chosen = choose_pairs(
        Terminal(), channels, rooms, lambda alias: run_async(setup.alias_problem(settings.matrix, alias))
    )
    if not chosen:
        typer.echo("Nothing was added.")
        return
    pairs = [pair for _, pair in declared_pairs(chosen, used=[pair.label for pair in settings.pairs])]
    settings = editor.save(editor.changed(partial(add_pairs, pairs=pairs)))
    for pair in pairs:
        typer.echo(f"{printable(str(pair['name']))}: added.")
    typer.echo(_followed(settings))


@commands.command(help=_REMOVE)
def remove(context: typer.Context, names: NamesArgument, config: ConfigOption = None) -> None:
    """See `_REMOVE`."""
    from relay.config.editing import remove_pair

    editor = _Editor.of(context, config)
    text = editor.text
    # From the last one: the numbers of those before stay.
    for number in sorted(editor.numbers(names), reverse=True):
        text = editor.changed(partial(remove_pair, number=number), text)
    _say(editor, editor.numbers(names), "removed", editor.save(text))


@commands.command(help=_PAUSE)
def pause(context: typer.Context, names: NamesArgument, config: ConfigOption = None) -> None:
    """See `_PAUSE`."""
    _set_paused(context, config, names, True)


@commands.command()
def resume(context: typer.Context, names: NamesArgument, config: ConfigOption = None) -> None:
    """Let messages cross again. Those written while the pair was paused stay on their side."""
    _set_paused(context, config, names, False)


def _set_paused(context: typer.Context, config: Path | None, names: Sequence[str], paused: bool) -> None:
    from relay.config.editing import set_in_pair

    editor = _Editor.of(context, config)
    # Without the key the pair has the value of [defaults].
    value = paused if paused or editor.settings.defaults.paused else None
    text = editor.text
    numbers = editor.numbers(names)
    changed = [number for number in numbers if editor.settings.pairs[number].paused is not paused]
    for number in changed:
        text = editor.changed(partial(set_in_pair, number=number, key="paused", value=value), text)
    for called in _called(editor.settings, [number for number in numbers if number not in changed]):
        print_line(f"{called}: {'already' if paused else 'not'} paused.", indent=2)
    if changed:
        _say(editor, changed, "paused" if paused else "resumed", editor.save(text))


def _say(editor: "_Editor", numbers: Sequence[int], done: str, settings: "Settings") -> None:
    for called in _called(editor.settings, numbers):
        print_line(f"{called}: {done}.", indent=2)
    typer.echo(_followed(settings))


def _called(settings: "Settings", numbers: Sequence[int]) -> list[str]:
    """Each pair by its channels too, because names move from pair to pair: the channels' names, and their IDs."""
    from relay.domain.ids import ChannelAddress, Platform

    try:
        known = run_async(known_channels(settings))
    except StoreError:
        known = {}
    found = []
    for pair in (settings.pairs[number] for number in numbers):
        sides = ((Platform.DISCORD, pair.discord_channel), (Platform.MATRIX, pair.matrix_room))
        channels = []
        for platform, address in sides:
            info = known.get(ChannelAddress(platform, address))
            name = "" if info is None or info.name == address else f"{info.name} "
            channels += [f"{name}{address}"] if name or address != pair.label else []
        found.append(f"{pair.label} ({', '.join(channels)})")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Editor:
    """The file and what it says now."""

    path: Path
    text: str
    settings: "Settings"

    @classmethod
    def of(cls, context: typer.Context, config: Path | None) -> "_Editor":
        """Read the file. Raises `ConfigurationError` if it has mistakes, or the pairs are not in it."""
        from relay.config.editing import read
        from relay.config.loading import load
        from relay.config.settings import locate

        invocation: Invocation = invocation_of(context)
        invocation.load(config)  # which says best what is wrong, if anything is
        path = locate(config or invocation.config, os.environ)
        if any(variable.upper() == _VARIABLE for variable in os.environ):
            where = f"environment variable {_VARIABLE}"
            raise ConfigurationError.of(
                where, "holds the pairs, and wins over the file", "change it there, or remove it"
            )
        text = read(path)
        # Of this text and no other: somebody may save the file at any moment, with other pairs at these places.
        return cls(path=path, text=text, settings=load(path, os.environ, text))

    def numbers(self, names: Sequence[str]) -> list[int]:
        """Which pairs are meant, from 0. Raises `ConfigurationError` if one does not exist."""
        found = {name: self._number(name) for name in names}
        missing = [name for name, number in found.items() if number is None]
        if missing:
            raise no_such_pairs("NAME", missing, [pair.label for pair in self.settings.pairs])
        return sorted({number for number in found.values() if number is not None})

    def _number(self, name: str) -> int | None:
        ways: tuple[Callable[[PairSettings], str], ...] = (
            lambda pair: pair.label,
            lambda pair: pair.discord_channel,
            lambda pair: pair.matrix_room,
        )
        return next(
            (number for way in ways for number, pair in enumerate(self.settings.pairs) if way(pair) == name), None
        )

    def changed(self, change: Callable[[str], str], text: str | None = None) -> str:
        """What the file says after a change. Raises `ConfigurationError`."""
        from relay.config.editing import NotEditable

        try:
            return change(self.text if text is None else text)
        except NotEditable:
            what = "the pairs are written in a form that the relay cannot change without touching something else"
        raise ConfigurationError.of(str(self.path), what, "change it by hand")

    def save(self, text: str, options: "Mapping[Location, str]" = MappingProxyType({})) -> "Settings":
        """Write the file, and return what it says. Raises `ConfigurationError` if that would be a mistake.

        `options`: which of the command's options is to blame for a mistake in a key.
        """
        from relay.config.editing import alone, read, replace_file
        from relay.config.loading import load

        settings = load(self.path, os.environ, text, options)
        with alone(self.path):
            if read(self.path) != self.text:
                raise ConfigurationError.of(str(self.path), "somebody else is changing it just now", "do it again")
            replace_file(self.path, text)
        return settings


def _number(channel: str) -> "Scalar":
    """The channel as people write it in the file, if it is a number."""
    return int(channel) if channel.isascii() and channel.isdigit() and not channel.startswith("0") else channel


def _followed(settings: "Settings") -> str:
    if run_async(_daemon_runs(settings)):
        return "The running daemon follows within a few seconds."
    return "It takes effect when the daemon is started."


async def _daemon_runs(settings: "Settings") -> bool:
    from relay.store.lease import is_held

    if settings.store.is_missing:
        return False
    try:
        async with existing_store(settings.store.url) as store:
            return await is_held(store)
    except StoreError:
        return False


def _states(pair: "PairSettings") -> list[str]:
    return [word for word, is_so in (("paused", pair.paused), ("archived", pair.archived)) if is_so]


def _as_json(pair: "PairSettings") -> dict[str, object]:
    return {
        "name": pair.label,
        "discord_channel": pair.discord_channel,
        "matrix_room": pair.matrix_room,
        "direction": pair.direction,
        "paused": pair.paused,
        "archived": pair.archived,
    }
