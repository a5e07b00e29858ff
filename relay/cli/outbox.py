"""`relay outbox`: the messages that wait for delivery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.commands import ConfigOption, invocation_of
from relay.cli.common import existing_store, meant, print_line, print_problem, run_async

if TYPE_CHECKING:
    from relay.config.settings import Settings
    from relay.core.ports import ChannelInfo
    from relay.domain.ids import ChannelRef
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
        print_problem(
            f"the pair {pair} is declared: what waits for it may still cross. What another pair of that name left"
            " behind goes with --channels"
        )
        raise typer.Exit(1)
    found = run_async(_discard(settings, pair, channels))
    for lane, count in found.discarded.items():
        source, destination = (found.called(channel) for channel in (lane.source, lane.destination))
        print_line(f"{source} -> {destination}: {count} discarded", indent=2)
    if not found.discarded:
        close = None if pair is None else meant(pair, found.left)
        remedy = close or "`relay status` shows what does"
        print_problem(f"nothing waits for an undeclared pair like that; {remedy}")
    raise typer.Exit(0 if found.discarded else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    # How much was discarded from each lane.
    discarded: "Mapping[LaneKey, int]"
    # The names of the undeclared pairs for which something waits, or did.
    left: Sequence[str]
    # What people know channels by.
    channels: "Mapping[ChannelRef, ChannelInfo]"

    def called(self, channel: "ChannelRef") -> str:
        """A channel by its name, with the ID behind."""
        info = self.channels.get(channel)
        return channel.id if info is None else f"{info.name} ({channel.id})"


async def _discard(settings: "Settings", pair: str | None, channels: Sequence[str] | None) -> _Outcome:
    from relay.core.pairs import PairDirectory
    from relay.core.status.reading import read_channels
    from relay.core.status.report import CHANNELS_KEY

    async with existing_store(settings.store.url) as store:
        async with store.read() as unit:
            depths = await unit.outbox.depths()
            declared = PairDirectory(settings.declared_pairs(), await unit.channels.known())
            infos = read_channels(await unit.key_values.get(CHANNELS_KEY))
        undeclared = {
            lane: depth.pair
            for lane, depth in sorted(depths.items())
            if depth.waiting and declared.pair_for(lane) is None
        }
        wanted = [
            lane
            for lane, name in undeclared.items()
            if (name == pair if channels is None else {lane.source.id, lane.destination.id} <= set(channels))
        ]
        discarded = dict.fromkeys(wanted, 0)
        for lane in wanted:
            while True:
                async with store.write() as unit:
                    count = await unit.outbox.clear(lane, _STEP)
                discarded[lane] += count
                if count < _STEP:
                    break
        return _Outcome(discarded=discarded, left=[name for name in undeclared.values() if name], channels=infos)
