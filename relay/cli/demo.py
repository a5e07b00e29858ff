"""`relay demo`: the whole system on loopback, without accounts."""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.common import printable
from relay.errors import FatalError

if TYPE_CHECKING:
    from rich.console import Console

    from relay.demo.daemon import Counters
    from relay.demo.environment import Environment
    from relay.demo.script.runner import Outcome

_ARROWS = {"to_matrix": "Discord → Matrix", "to_discord": "Matrix → Discord", "both": "both ways"}
_MARKS = {"ok": "✓", "failed": "✗"}


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Play a scripted conversation, print what crossed and what was dropped.")
    ] = False,
    ghosts: Annotated[
        bool, typer.Option("--ghosts", help="Give people of Discord accounts of their own on the homeserver.")
    ] = False,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="The page's port; 0: one that is free.")
    ] = 0,
    _config: Annotated[
        Path | None, typer.Option("--config", hidden=True, help="Not used: the demo writes its own file.")
    ] = None,
) -> None:
    """Show the relay at work between a Discord sandbox and a homeserver of its own. Needs no accounts."""
    if find_spec("synapse") is None:
        remedy = "install it with: pip install '.[demo]' in a checkout"
        raise FatalError("the demo needs a homeserver, and Synapse is not installed", remedy)
    from rich.console import Console

    from relay import logs
    from relay.demo.processes import temporary_directory

    logs.configure("warning", "auto", logs.Redactor())
    console = Console(highlight=False, markup=False, emoji=False)
    try:
        with temporary_directory() as directory:
            work = _once(console, directory, ghosts) if once else _page(console, directory, ghosts, port)
            # Its threads are waited for: they use the folder.
            status = asyncio.run(_until_stopped(work))  # noqa: TID251 - it asks no name server
    except FatalError as error:
        console.print(printable(error.reason), style="bold red")
        for line in error.remedy.splitlines():
            console.print(f"  {printable(line)}", soft_wrap=True)
        status = error.exit_status
    # Ctrl-C is the normal end of the page. A script that was interrupted has proved nothing.
    raise typer.Exit(int(once) if status is None else status)


async def _until_stopped(work: Coroutine[None, None, int]) -> int | None:
    """What `work` returns. None if Ctrl-C, SIGTERM or a closed terminal ended it."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return None


async def _page(console: "Console", directory: Path, ghosts: bool, port: int) -> int:
    from relay.demo.environment import running_environment
    from relay.demo.page import Page, listen
    from relay.demo.script.opening import opening
    from relay.demo.script.runner import Mismatch

    step = _steps(console)
    # First of all: a port that cannot be used is said at once.
    with listen(port) as listening:
        async with running_environment(directory, step, ghosts=ghosts) as environment:
            # Where they do not cross, the page shows what is wrong better than an error here.
            with suppress(Mismatch), step("first words"):
                await opening(environment.new_run())
            page = Page(environment, listening)
            with step("page"):
                address = await page.start()
            try:
                console.print()
                console.print("  The demo is here:     ", address, style="bold")
                console.print("  The daemon's own page: ", environment.daemon.url)
                console.print("  Ctrl-C ends it and leaves nothing behind.")
                await asyncio.Event().wait()
            finally:
                await page.close()
    return 0


async def _once(console: "Console", directory: Path, ghosts: bool) -> int:
    from relay.demo.environment import running_environment, script
    from relay.demo.script.runner import play

    async with running_environment(directory, _steps(console), ghosts=ghosts) as environment:
        with console.status("the script") if console.is_terminal else nullcontext() as status:

            def tell(outcomes: "Sequence[Outcome]") -> None:
                now = next((item for item in outcomes if item.state == "playing"), None)
                if status is not None and now is not None:
                    done = sum(item.state in _MARKS for item in outcomes)
                    status.update(f"{done + 1} of {len(outcomes)}: {now.title}, {_ARROWS[now.way]}")

            before = await environment.daemon.counters()
            outcomes = await play(environment.new_run(), script(), tell)
        console.print()
        _print_table(console, outcomes)
        await _print_sum(console, environment, outcomes, before)
    return 0 if all(outcome.state == "ok" for outcome in outcomes) else 1


def _print_table(console: "Console", outcomes: "Sequence[Outcome]") -> None:
    rows = [
        (
            _MARKS.get(outcome.state, "?"),
            _ARROWS[outcome.way],
            outcome.title,
            "–" if outcome.ms is None else f"{outcome.ms:,.0f} ms",
            printable(outcome.seen),
        )
        for outcome in outcomes
    ]
    if not console.is_terminal:
        for mark, way, title, took, seen in rows:
            typer.echo(f"{mark}  {way:<16}  {title:<30}  {took:>9}  {seen}".rstrip())
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("", "Way", "What", "Took", "Seen"):
        table.add_column(head, justify="right" if head == "Took" else "left", no_wrap=head in ("", "Way", "Took"))
    for outcome, (mark, *cells, seen) in zip(outcomes, rows, strict=True):
        tone = "green" if outcome.state == "ok" else "bold red"
        table.add_row(Text(mark, tone), *cells, Text(seen, "dim" if outcome.state == "ok" else tone))
    console.print(table)


async def _print_sum(
    console: "Console", environment: "Environment", outcomes: "Sequence[Outcome]", before: "Counters"
) -> None:
    counters = await environment.daemon.counters()
    dropped: dict[str, int] = {}
    for (_, feature), count in counters.dropped.items():
        dropped[feature] = dropped.get(feature, 0) + count
    well = sum(outcome.state == "ok" for outcome in outcomes)
    median = environment.feed.now()["status"]["median"]
    words = [
        f"{well} of {len(outcomes)} lines check out",
        f"{sum(counters.messages.values()) - sum(before.messages.values())} messages crossed",
        *([] if median is None else [f"median {median:.0f} ms"]),
        f"dropped: {', '.join(f'{count} {feature}' for feature, count in sorted(dropped.items())) or 'nothing'}",
    ]
    console.print("; ".join(words) + ".", style="bold green" if well == len(outcomes) else "bold red", soft_wrap=True)


def _steps(console: "Console") -> Callable[[str], AbstractContextManager[None]]:
    """A context manager that shows each step of the start, and then how long it took."""

    @contextmanager
    def step(title: str) -> Iterator[None]:
        started = time.monotonic()
        mark, style = "✗", "bold red"
        try:
            with console.status(title) if console.is_terminal else nullcontext():
                yield
            mark, style = "✓", "green"
        except asyncio.CancelledError:
            mark, style = "–", ""
            raise
        finally:
            console.print(f"{mark} ", style=style, end="")
            console.print(f"{title:<24} {time.monotonic() - started:5.1f} s", soft_wrap=True)

    return step
