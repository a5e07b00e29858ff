"""`relay outbox`: the messages that wait for delivery."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.commands import ConfigOption, invocation_of
from relay.cli.common import existing_store, printable

if TYPE_CHECKING:
    from relay.config.settings import Settings
    from relay.domain.pair import LaneKey

commands = typer.Typer(help="Messages that wait for delivery.", no_args_is_help=True)

PairOption = Annotated[
    str | None, typer.Option("--pair", metavar="NAME", help="The pair's last name; `relay status` shows it.")
]
ChannelsOption = Annotated[
    tuple[str, str] | None,
    typer.Option("--channels", metavar="ID ID", help="Its two channels instead, if the name is not enough."),
]

# Rows that are deleted in one transaction. They are few, so that a running daemon does not have to wait.
_STEP = 1000


@commands.callback()
def _group() -> None:
    """Without a callback, Typer would turn a group of one command into that command."""


@commands.command()
def discard(
    context: typer.Context, pair: PairOption = None, channels: ChannelsOption = None, config: ConfigOption = None
) -> None:
    """Discard what waits for a pair that is not declared any more. It will never cross."""
    if (pair is None) == (channels is None):
        raise typer.BadParameter("give the pair with --pair, or its channels with --channels", ctx=context)
    settings = invocation_of(context).load(config)
    if pair is not None and any(pair == one.name for one in settings.declared_pairs()):
        typer.echo(
            f"error: the pair {printable(pair)} is declared: what waits for it may still cross. What another pair of"
            " that name left behind goes with --channels",
            err=True,
        )
        raise typer.Exit(1)
    discarded = asyncio.run(_discard(settings, pair, channels))
    for lane, count in discarded.items():
        typer.echo(f"{printable(lane.source.id)} -> {printable(lane.destination.id)}: {count} discarded")
    if not discarded:
        typer.echo("error: nothing waits for an undeclared pair like that; `relay status` shows what does", err=True)
    raise typer.Exit(0 if discarded else 1)


async def _discard(settings: "Settings", pair: str | None, channels: Sequence[str] | None) -> "dict[LaneKey, int]":
    from relay.core.pairs import PairDirectory

    async with existing_store(settings.store.url) as store:
        async with store.read() as unit:
            depths = await unit.outbox.depths()
            declared = PairDirectory(settings.declared_pairs(), await unit.channels.known())
        wanted = [
            lane
            for lane, depth in sorted(depths.items())
            if depth.waiting
            and declared.pair_for(lane) is None
            and (depth.pair == pair if channels is None else {lane.source.id, lane.destination.id} <= set(channels))
        ]
        discarded = dict.fromkeys(wanted, 0)
        for lane in wanted:
            while True:
                async with store.write() as unit:
                    count = await unit.outbox.clear(lane, _STEP)
                discarded[lane] += count
                if count < _STEP:
                    break
        return discarded
