"""`relay backfill`: what was said in a pair before the relay came crosses. The daemon is asked for it, and watched."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Self

import typer

from relay.cli.commands import ConfigOption, invocation_of
from relay.cli.common import existing_store, is_terminal, no_such_pairs, print_line, print_problem, printable, run_async
from relay.errors import ConfigurationError, how_many

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from relay.config.settings import Settings
    from relay.core.operations.backfill_wishes import Progress, Wanted, Wish
    from relay.domain.ids import Platform
    from relay.domain.pair import Pair
    from relay.store.unit_of_work import SqlStore

_LOOK_SECONDS = 0.5
_LINE_SECONDS = 30.0
"""Where the output is no terminal, how often it is told how far it is."""


def _day(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d")  # noqa: DTZ007 - see `_in_utc`
    except ValueError:
        raise typer.BadParameter(f"{printable(text)} is no day: write it like 2026-11-30") from None


DateOption = Annotated[
    datetime | None,
    typer.Option("--since", metavar="DATE", parser=_day, help="Only what was said since this day."),
]
BeforeOption = Annotated[
    datetime | None,
    typer.Option(
        "--before",
        metavar="DATE",
        parser=_day,
        help="Only what was said before this day. Needed where the store does not know since when the pair mirrors.",
    ),
]


def backfill(
    context: typer.Context,
    pair: Annotated[str, typer.Argument(metavar="PAIR", help="Its name; `relay pairs list` shows them.")],
    since: DateOption = None,
    before: BeforeOption = None,
    to: Annotated[str | None, typer.Option("--to", metavar="SIDE", help="To one side only: discord or matrix.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Let it rest; without this it goes on from there.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Show how far it is until it is done. It needs no one to wait.")
    ] = True,
    config: ConfigOption = None,
) -> None:
    """Bring across what was said in a pair before the relay came, oldest first, and show how far it is.

    The daemon does it, a few messages at a time between those of today, and goes on after a restart. Nobody is
    notified of them. Exit status 1 if it cannot be done.
    """
    from relay.core.operations.backfill_wishes import Wanted

    settings = invocation_of(context).load(config)
    if stop and (since or before or to):
        raise typer.BadParameter("--stop takes no other options", ctx=context)
    if since and before and since >= before:
        raise typer.BadParameter("--since has to be earlier than --before", ctx=context)
    towards = None if to is None else _side(context, to)
    wanted = Wanted(
        _pair(settings, pair, may_be_archived=stop), datetime.now(UTC), towards, _in_utc(since), _in_utc(before)
    )
    try:
        raise typer.Exit(run_async(_stop(settings, wanted) if stop else _carry(settings, wanted, wait=wait)))
    except KeyboardInterrupt:
        typer.echo(f"\nIt goes on without you: `relay backfill {pair}` shows it again, and with --stop it rests.")


def _side(context: typer.Context, name: str) -> "Platform":
    from relay.domain.ids import Platform

    if name not in list(Platform):
        sides = " or ".join(Platform)
        raise typer.BadParameter(f"{printable(name)} is no side of a pair: write {sides}", ctx=context)
    return Platform(name)


def _pair(settings: "Settings", name: str, *, may_be_archived: bool) -> "Pair":
    declared = {pair.name: pair for pair in settings.declared_pairs()}
    if name not in declared:
        raise no_such_pairs("PAIR", [name], declared)
    if not declared[name].destinations and not may_be_archived:
        raise ConfigurationError.of("PAIR", f"{name} is archived: nothing crosses there", "take `archived` out first")
    return declared[name]


def _in_utc(day: datetime | None) -> datetime | None:
    """The beginning of a day in the operator's own zone."""
    try:
        return None if day is None else day.astimezone(UTC)
    except (ValueError, OverflowError):  # on the first or the last day of the calendar
        return None if day is None else day.replace(tzinfo=UTC)


async def _stop(settings: "Settings", wanted: "Wanted") -> int:
    from relay.core.operations.backfill_wishes import stop

    async with existing_store(settings.store.url) as store, store.write() as unit:
        known = await stop(unit, wanted.pair)
    if not known:
        print_problem(f"there is no backfill of {wanted.pair.name}")
        return 1
    typer.echo(f"It rests. `relay backfill {wanted.pair.name}` lets it go on from there.")
    return 0


async def _carry(settings: "Settings", wanted: "Wanted", *, wait: bool) -> int:
    """Ask for it, and show how far it is. Returns the exit status. Raises `NotNow`, `StoreError`."""
    from relay.core.operations.backfill_wishes import ask
    from relay.store.lease import is_held

    async with existing_store(settings.store.url) as store:
        async with store.write() as unit:
            wish = await ask(unit, wanted)
        if not await is_held(store):
            print_problem("no daemon runs: it begins once `relay run` does", kind="note")
        if not wait:
            print_line(f"It crosses in the background: `relay backfill {wanted.pair.name}` shows how far it is.")
            return 0
        with _Screen(wish) as screen:
            while True:
                found = await _look(store, wish)
                if found is None:
                    typer.echo("It rests: somebody has stopped it.")
                    return 1
                screen.show(found)
                if all(one is not None and one.state != "running" for one in found.values()):
                    break
                await asyncio.sleep(_LOOK_SECONDS)
    return _result(wanted.pair, found)


async def _look(store: "SqlStore", wish: "Wish") -> "Mapping[Platform, Progress | None] | None":
    """How far it is; None once it was stopped."""
    from relay.core.operations.backfill_wishes import read_progress, read_wishes

    async with store.read() as unit:
        current = (await read_wishes(unit)).get(wish.key)
        if current is None or current.id != wish.id or current.stopped:
            return None
        return await read_progress(unit, wish)


def _result(pair: "Pair", found: "Mapping[Platform, Progress | None]") -> int:
    failed = False
    for towards, progress in found.items():
        if progress is None:
            continue
        way = f"{pair.name} to {towards.title()}"
        print_line(f"{way}: {_counts(progress)}.")
        if progress.state == "failed":
            failed = True
            print_problem(f"{way}: {progress.problem}")
    return 1 if failed else 0


def _counts(progress: "Progress") -> str:
    crossed = how_many(progress.crossed, "message")
    left_out = f", {progress.left_out} left out" if progress.left_out else ""
    threads = f", without what was said in {how_many(progress.threads, 'thread')}" if progress.threads else ""
    return f"{crossed} brought across{left_out}{threads}"


@dataclass(slots=True, eq=False, repr=False)
class _Screen:
    """Shows how far each direction is: a bar each on a terminal, a line now and then elsewhere."""

    wish: "Wish"
    _bars: "Bars | None" = field(init=False, default=None)
    _tasks: "dict[Platform, TaskID]" = field(init=False, default_factory=dict)
    _told: "dict[Platform, tuple[float, str]]" = field(init=False, default_factory=dict)
    # When it was first seen under way, and how far it was then.
    _since: "dict[Platform, tuple[float, float]]" = field(init=False, default_factory=dict)

    def __enter__(self) -> Self:
        if is_terminal():
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn
            from rich.progress import Progress as Bars

            self._bars = Bars(
                TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[words]}")
            )
            for towards in self.wish.towards:
                self._tasks[towards] = self._bars.add_task(f"to {towards.title()}", total=1.0, words="")
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, found: "Mapping[Platform, Progress | None]") -> None:
        """This is how far it is now."""
        for towards, progress in found.items():
            now = asyncio.get_running_loop().time()
            part = self._share(progress)
            words = _words(progress)
            if 0.0 < part < 1.0:
                began, first = self._since.setdefault(towards, (now, part))
                words += time_left(now - began, part - first, 1.0 - part)
            if self._bars is not None:
                self._bars.update(self._tasks[towards], completed=part, words=words)
                continue
            at, before = self._told.get(towards, (now - _LINE_SECONDS, ""))
            if words != before and now >= at + _LINE_SECONDS:
                self._told[towards] = now, words
                print_line(f"to {towards.title()}: {part:.0%}, {words}")

    def _share(self, progress: "Progress | None") -> float:
        """How much of the time from the first message until the relay came has been looked through, from 0 to 1."""
        if progress is None or progress.first_at is None or progress.reached is None:
            return 0.0 if progress is None or progress.state == "running" else 1.0
        if progress.state == "done":
            return 1.0
        whole = ((self.wish.before or self.wish.asked_at) - progress.first_at).total_seconds()
        return min(1.0, max(0.0, (progress.reached - progress.first_at).total_seconds() / whole)) if whole > 0 else 0.0


def time_left(seconds: float, done: float, left: float) -> str:
    """About how long the part `left` takes if the part `done` took so many seconds; "" before that can be told."""
    if done <= 0.0 or seconds < _LINE_SECONDS:
        return ""
    minutes = max(1, round(seconds * left / done / 60))
    unit, size = ("minute", 1) if minutes < 120 else ("hour", 60) if minutes < 2880 else ("day", 1440)
    return f"; about {how_many(round(minutes / size), unit)} left"


def _words(progress: "Progress | None") -> str:
    if progress is None:
        return "not begun"
    if progress.reached is None and progress.position:
        return "looking for the first message" + (f"; waits: {progress.problem}" if progress.problem else "")
    reached = "" if progress.reached is None else f"{progress.reached:%Y-%m-%d}, "
    waits = f"; waits: {progress.problem}" if progress.problem else ""
    return f"{reached}{_counts(progress)}{waits}"
