"""`relay explain`: the life of one message, from what is on record of it. It works whether the daemon runs or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.commands import ConfigOption, JsonOption, invocation_of
from relay.cli.common import existing_store, print_json, print_line, print_link, printable, run_async

if TYPE_CHECKING:
    from relay.config.settings import Settings
    from relay.core.operations.explain import Life, Step
    from relay.core.ports import ChannelInfo
    from relay.domain.ids import ChannelRef, MessageRef

_FORMS = (
    "write a link to a message (Copy Message Link on Discord, Share on Matrix), the ID of a message on Discord, or "
    "that of an event on Matrix; in single quotes, because the shell changes what has $ or ! in it"
)
_NOT_ON_RECORD = (
    "The message was not received, or it is older than `retention` in [store], or it is one of those of which nothing "
    "is recorded: encrypted, or a reaction; written before the first start, by somebody who has opted out or was "
    "forgotten, or by the relay itself. A copy is not on record once it has been deleted."
)
_TIME_WIDTH = len("2026-11-28 18:00:00.000  ")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the operator asks about."""

    message: str
    # None: a bare ID, or a link by an alias.
    channel: "ChannelRef | None" = None


@dataclass(frozen=True, slots=True)
class _Answer:
    lives: "Sequence[Life]"
    # What people know the channels by.
    channels: "Mapping[ChannelRef, ChannelInfo]"
    # The channel that was asked about is in no pair.
    is_undeclared: bool
    # Of the Matrix account, as the daemon keeps it.
    session: str | None


def explain(
    context: typer.Context,
    message: Annotated[
        str,
        typer.Argument(
            metavar="MESSAGE",
            help="A link to a message of either side, or its ID. Of Matrix: in 'single quotes'.",
        ),
    ],
    config: ConfigOption = None,
    with_text: Annotated[
        bool, typer.Option("--text", help="Show also what it says, as far as that is still stored.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell the life of one message: received, sent, copied where, why not, edited, deleted. Exit status 1 if it failed.

    MESSAGE is the original or a copy of it. A terminal has long links behind the IDs; a pipe has them whole.
    """
    settings = invocation_of(context).load(config)
    asked = _read(message.strip().removeprefix("<").removesuffix(">"))
    if asked is None:
        raise typer.BadParameter(f"it is neither a link to a message nor an ID: {_FORMS}", ctx=context)
    answer = run_async(_answer(settings, asked))
    if as_json:
        lives = [
            {**life.as_json(with_text=with_text), "link": _link(life.message, answer.channels)} for life in answer.lives
        ]
        print_json({"messages": lives, "reason": None if lives else _reason(answer)})
    elif not answer.lives:
        print_line("Nothing is on record of that message.")
        print_line(_reason(answer))
    for number, life in enumerate(() if as_json else answer.lives):
        if number:
            typer.echo()
        _print_life(life, answer.channels, run_async(_author(settings, life, answer)), with_text=with_text)
    raise typer.Exit(0 if answer.lives and all(life.well for life in answer.lives) else 1)


def _read(written: str) -> _Asked | None:
    from relay.adapters.discord.identifiers import copied_message, is_snowflake
    from relay.adapters.matrix.identifiers import copied_event, is_event_id, is_room_id
    from relay.domain.ids import ChannelRef, Platform

    if (found := copied_message(written)) is not None:
        return _Asked(found[1], ChannelRef(Platform.DISCORD, found[0]))
    if (link := copied_event(written)) is not None:
        return _Asked(link.event, ChannelRef(Platform.MATRIX, link.id) if is_room_id(link.id) else None)
    return _Asked(written) if is_snowflake(written) or is_event_id(written) else None


async def _answer(settings: "Settings", asked: _Asked) -> _Answer:
    from relay.core.operations.explain import lives_of
    from relay.core.pairs import PairDirectory
    from relay.core.status.reading import read_channels, read_report
    from relay.core.status.report import CHANNELS_KEY, PAUSED
    from relay.doctor import MATRIX_SESSION
    from relay.store.lease import is_held

    declared = settings.declared_pairs()
    pairs = PairDirectory(declared)
    async with existing_store(settings.store.url) as store:
        async with store.read() as unit:
            channels = read_channels(await unit.key_values.get(CHANNELS_KEY))
            session = await unit.key_values.get(MATRIX_SESSION)
        running = await is_held(store)
        report = await read_report(store, declared, running=running, now=datetime.now(UTC))
        # A pause is no trouble, but why something waits.
        pauses = {pair.name: PAUSED for pair in declared if pair.paused}
        problems = {pair.name: " ".join(pair.problems) or pauses.get(pair.name, "") for pair in report.pairs}
        if not running:
            problems = {pair.name: "The daemon is not running." for pair in report.pairs}
        lives = await lives_of(store, pairs, asked.message, problems)
    return _Answer(lives, channels, asked.channel is not None and pairs.pair_of(asked.channel) is None, session)


async def _author(settings: "Settings", life: "Life", answer: _Answer) -> str:
    """Who wrote a message: the name, if their platform tells it now, and the ID; "" if that is not on record."""
    from relay.setup import author_name

    if life.author is None:
        return ""
    name = await author_name(settings, life.message, life.author.id, answer.session)
    return f"{name} ({life.author.id})" if name else life.author.id


def _reason(answer: _Answer) -> str:
    if answer.is_undeclared:
        return f"Its channel, or thread, is in no pair of relay.toml. {_NOT_ON_RECORD}"
    return _NOT_ON_RECORD


def _link(message: "MessageRef", channels: "Mapping[ChannelRef, ChannelInfo]") -> str | None:
    """What opens a message; None for one of Discord in a server that is not known."""
    from relay.adapters.matrix.identifiers import permalink
    from relay.domain.ids import Platform

    if message.platform is Platform.MATRIX:
        return permalink(message)
    info = channels.get(message.channel)
    return f"{info.link}/{message.id}" if info is not None and info.link else None


def _print_life(life: "Life", channels: "Mapping[ChannelRef, ChannelInfo]", author: str, *, with_text: bool) -> None:
    info = channels.get(life.message.channel)
    place = life.message.channel.id if info is None else info.label
    pair = f" (pair {life.pair})" if life.pair else " (in no pair now)"
    by = f", by {author}" if author else ""
    link = _link(life.message, channels)
    print_line(f"Message {life.message.id} in {place}{pair}{by}", leads_to={life.message.id: link})
    print_link(link)
    summary = printable(life.summary)
    typer.echo(summary if life.well else typer.style(summary, fg=typer.colors.RED))
    for step in life.steps:
        _print_step(step, channels)
    if with_text:
        kept = "it is stored only until the message is delivered."
        print_line(f"Text: {kept if life.text is None else life.text}")


def _print_step(step: "Step", channels: "Mapping[ChannelRef, ChannelInfo]") -> None:
    when = "" if step.at is None else f"{step.at.astimezone():%Y-%m-%d %H:%M:%S.%f}"[:-3]
    copy, leads_to = "", {}
    if step.copy is not None:
        copy, leads_to = f" as {step.copy.id}", {step.copy.id: _link(step.copy, channels)}
    print_line(f"{when:<{_TIME_WIDTH - 2}}  {step.what}{copy}", indent=_TIME_WIDTH, leads_to=leads_to)
    for link in leads_to.values():
        print_link(link, indent=_TIME_WIDTH)
