"""`relay outbox`: what waits for delivery."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.common import ConfigOption, invocation_of, opened_store, printable

if TYPE_CHECKING:
    from relay.config.settings import Settings
    from relay.domain.pair import LaneKey

commands = typer.Typer(help="What waits for delivery.", no_args_is_help=True)

PairOption = Annotated[
    str | None, typer.Option("--pair", metavar="NAME", help="The pair, as it was called last; `relay status` shows it.")
]
ChannelsOption = Annotated[
    tuple[str, str] | None,
    typer.Option("--channels", metavar="ID ID", help="Its two channels instead, where the name says too little."),
]

_STEP = 1000
"""Rows that are discarded in one transaction: a daemon that runs is not kept from its work."""


@commands.callback()
def _group() -> None:
    """A group of one command is still a group."""


@commands.command()
def discard(
    context: typer.Context, pair: PairOption = None, channels: ChannelsOption = None, config: ConfigOption = None
) -> None:
    """Discard what waits for a pair that is not declared any more. It never crosses then."""
    if (pair is None) == (channels is None):
        raise typer.BadParameter("name the pair with --pair, or its channels with --channels", ctx=context)
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

    async with opened_store(settings.store.url) as store:
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
