"""Commands that people give to the relay, and what it answers. How a command is written is the adapters' affair."""

from collections.abc import Iterator
from dataclasses import dataclass

from relay.core.pairs import PairDirectory
from relay.core.ports import CommandCall
from relay.core.status.counters import Status
from relay.core.storage import UnitOfWork
from relay.domain.pair import LaneKey, Pair
from relay.domain.text import nodes as n

_LONGEST_QUOTED = 40
"""Characters of somebody's words that an answer repeats."""


@dataclass(frozen=True, slots=True)
class Argument:
    """What may follow the name of a command."""

    name: str
    summary: str
    required: bool = False
    # The only values that it may have; empty: any one word.
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """One command, as adapters offer it and as `help` explains it."""

    name: str
    # What it does, in one line of at most 100 characters.
    summary: str
    argument: Argument | None = None


COMMANDS = (
    CommandSpec("help", "Shows what you can ask the relay for."),
    CommandSpec("status", "Shows whether messages of this room cross."),
    CommandSpec("whoami", "Shows what the relay knows about you."),
)


@dataclass(slots=True, kw_only=True)
class Commands:
    """Answers commands."""

    pairs: PairDirectory
    status: Status

    async def answer(self, uow: UnitOfWork, call: CommandCall) -> n.RichText:
        """Carry out a command in the transaction `uow`, and say what came of it."""
        name = call.words[0].casefold() if call.words else "help"
        match name:
            case "help":
                return _help()
            case "status":
                return await self._status(uow, call)
            case "whoami":
                return self._whoami(call)
            case _:
                said = name if len(name) <= _LONGEST_QUOTED else f"{name[:_LONGEST_QUOTED]}…"
                return n.RichText((_line("I do not know ", n.Code(said), ". "), *_help().blocks))

    async def _status(self, uow: UnitOfWork, call: CommandCall) -> n.RichText:
        pair = self.pairs.pair_of(call.channel)
        if pair is None:
            return n.RichText.plain("This room is not connected to another one.")
        waiting = {lane: depth.waiting for lane, depth in (await uow.outbox.depths()).items()}
        out = self.pairs.lane_from(call.channel, pair)
        lines = [_line(self._condition(pair))]
        for lane, way in ((out, "From here to"), (out.back, "Here from")):
            if lane.destination.platform in pair.destinations:
                other = (lane.source if lane is not out else lane.destination).platform
                lines.append(_line(f"{way} {other.title()}: ", *self._way(lane, waiting.get(lane, 0))))
        return n.RichText(tuple(lines))

    def _condition(self, pair: Pair) -> str:
        """Whether a pair works. Not why it does not: that is the operator's affair, and may name private things."""
        if self.status.problem(pair) is None:
            return "This room is connected, and it works."
        return "This room is connected, but something keeps messages from crossing. The operator can see why."

    def _way(self, lane: LaneKey, waiting: int) -> Iterator[str | n.Inline]:
        last = self.status.lane(lane).last_message_at
        if last is None:
            yield "no message yet"
        else:
            yield "last message "
            yield n.Timestamp(last, "R")
        yield f", {waiting} waiting." if waiting else ", nothing waits."

    def _whoami(self, call: CommandCall) -> n.RichText:
        return n.RichText((_line("You are ", n.Code(call.user.id), f" on {call.user.platform.title()}."),))


def _help() -> n.RichText:
    items = tuple(n.ListItem((_line(n.Code(_written(spec)), f": {spec.summary}"),)) for spec in COMMANDS)
    return n.RichText((n.Paragraph((n.Text("You can ask the relay for:"),)), n.BulletList(items)))


def _written(spec: CommandSpec) -> str:
    if spec.argument is None:
        return spec.name
    return f"{spec.name} {spec.argument.name}" if spec.argument.required else f"{spec.name} [{spec.argument.name}]"


def _line(*parts: str | n.Inline) -> n.Paragraph:
    return n.Paragraph(tuple(n.Text(part) if isinstance(part, str) else part for part in parts))
