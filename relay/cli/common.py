"""What every command needs: the settings, the store, and how to print."""

import asyncio
import io
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from relay.errors import ConfigurationError, Mistake, RelayError, StoreError, StoreTooNew, reason_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from relay.config.settings import Settings
    from relay.core.ports import ChannelInfo
    from relay.domain.ids import ChannelAddress
    from relay.logs import ChannelNames
    from relay.store.unit_of_work import SqlStore


T = TypeVar("T")

_ERRORS = 2
"""The number of the stream for errors, the highest of the three that every process has."""
# What is to be typed as it stands.
_COMMAND = re.compile(r"`[^`]{1,40}`")


class Invocation:
    """One run of the program. Typer keeps it as the context's object."""

    def __init__(self, config: Path | None = None) -> None:
        # `--config`, wherever it stands among the arguments.
        self.config = config
        # Replaces secrets in a text.
        self.redact: Callable[[str], str] = str
        # What log lines call channels and rooms; the daemon fills it.
        self.channel_names: ChannelNames | None = None

    def choose(self, tenant: str) -> None:
        """Be about this tenant of the configuration. Raises `ConfigurationError`."""
        from relay.config.settings import HOST_VARIABLE, locate
        from relay.config.tenants import load_host

        host = load_host(self.config, os.environ)
        if host is None:
            where, remedy = str(locate(self.config, os.environ)), "leave out --tenant"
            raise ConfigurationError.of(where, "this configuration has no tenants", remedy)
        self.config = host.path_of(tenant)
        os.environ[HOST_VARIABLE] = str(host.file)

    def load(self, config: Path | None, *, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Load the settings, and configure logging with them."""
        from relay import logs
        from relay.config.loading import load

        self.redact = logs.Redactor()
        settings = load(config or self.config, environ)
        self.use(settings)
        return settings

    def use(self, settings: "Settings", *, daemon: bool = False) -> None:
        """Configure logging with these settings. Only the daemon logs more than warnings."""
        from relay import logs

        self.channel_names = logs.ChannelNames()
        self.log_with(settings, daemon=daemon)

    def log_with(self, settings: "Settings", *, daemon: bool) -> None:
        """Log as these settings say, and hide their secrets."""
        from relay import logs

        self.redact = logs.Redactor(settings.secrets())
        level = settings.log.level if daemon or settings.log.level == "error" else "warning"
        form = settings.log.format if daemon else "console"
        logs.configure(level, form, self.redact, names=self.channel_names)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """See `relay.core.offload.run_unhindered`, which is imported only where it is used."""
    from relay.core.offload import run_unhindered

    return run_unhindered(work)


def without_settings() -> None:
    """Configure logging for a command that runs before there is a configuration: warnings only."""
    from relay import logs

    logs.configure("warning", "console", logs.Redactor())


class OutputFailed(RelayError):
    """Where the output goes takes no more."""


class _Output(io.FileIO):
    """Standard output, whose failures are told from those of other files. Nobody who reads any more is none."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            words = f"the output cannot be written: {reason_of(error)}"
            raise OutputFailed(f"{words}; make room, or send it somewhere else") from error


def prepare_output() -> None:
    """Make sure that there is an output, if only one that nobody reads, and that it can take every text."""
    while (stream := os.open(os.devnull, os.O_RDWR)) <= _ERRORS:
        pass  # it was closed (`>&-`): else the next file that is opened would be the output
    os.close(stream)
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        encoding = getattr(sys.stdout, "encoding", "utf-8")
        raw = _Output(1, "w", closefd=False)
        # To a terminal at once, as it would be without us.
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=raw.isatty()
        )


def finish_output() -> None:
    """Write what is still kept back. Exits with status 1 if nobody reads it any more. Raises `OutputFailed`."""
    try:
        sys.stdout.flush()
    except (OSError, OutputFailed) as error:
        # The interpreter would try once more with either, and from 3.13 on say what happened.
        failed, sys.stdout = sys.stdout, Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        with suppress(OSError, OutputFailed):
            failed.close()
        if isinstance(error, OutputFailed):
            raise
        sys.exit(1)


def print_error(error: RelayError, redact: Callable[[str], str] = str) -> None:
    """Print to standard error what is wrong, one line for each mistake."""
    mistakes = error.mistakes if isinstance(error, ConfigurationError) else (error,)
    for mistake in mistakes:
        print_problem(redact(str(mistake)))


def print_problem(words: str, kind: str = "error") -> None:
    """Print to standard error something that is wrong or, as a `note`, that could be better."""
    line = f"{kind}: {printable(words)}"
    if sys.stderr.isatty():
        lines = wrapped(line, shutil.get_terminal_size().columns, indent="  ")
        color = "31" if kind == "error" else "33"
        line = "\n".join(lines).replace(f"{kind}:", f"\x1b[{color}m{kind}:\x1b[0m", 1)
    try:
        sys.stderr.write(f"{line}\n")
    except OSError:
        # The exit status is left to tell of it. What is kept back would fail once more at the end, and change that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _ERRORS)


def print_line(words: str, *, indent: int = 0, leads_to: Mapping[str, str | None] = MappingProxyType({})) -> None:
    """Print something that other people may have written; on a terminal, in lines that fit.

    `indent`: of the second line and those that follow. `leads_to`: what a click on a word opens, in terminals that do.
    """
    import typer  # the daemon does without

    text = printable(words)
    if is_terminal():
        text = "\n".join(wrapped(text, shutil.get_terminal_size((80, 24)).columns, indent=" " * indent))
        for word, link in leads_to.items():
            if link and _knows_links():
                text = text.replace(
                    printable(word), f"\x1b]8;;{printable(link)}\x1b\\{printable(word)}\x1b]8;;\x1b\\", 1
                )
    typer.echo(text)


def print_link(link: str | None, *, indent: int = 0) -> None:
    """Print a link that `print_line` has put behind a word, unless it is wider than the terminal."""
    import typer

    line = f"{'':<{indent}}{printable(link or '')}"
    if link and not (is_terminal() and _knows_links() and len(line) > shutil.get_terminal_size((80, 24)).columns):
        typer.echo(line)


def _knows_links() -> bool:
    """Whether the terminal can put a link behind a word, or at least leaves it out (OSC 8): nearly all do."""
    return os.environ.get("TERM", "dumb") not in ("dumb", "linux")


def wrapped(text: str, width: int, *, indent: str = "", first: str = "") -> list[str]:
    """`text` in lines of so many columns; `indent` is before each line, but for the first, which has `first`.

    They are broken between words only, so that paths and addresses can be copied: a longer word has a line to itself.
    A short command in backticks counts as one word.
    """
    from rich.cells import cell_len  # a sign may be two columns wide

    words = _COMMAND.sub(lambda found: found[0].replace(" ", "\0"), text).split(" ")
    words = [word.replace("\0", " ") for word in words]
    lines = [f"{first}{words[0]}"]
    for word in words[1:]:
        if cell_len(longer := f"{lines[-1]} {word}") > width and lines[-1].strip():
            lines.append(f"{indent}{word}")
        else:
            lines[-1] = longer
    return [line.rstrip() for line in lines]


def no_such_pairs(where: str, names: Iterable[str], known: Collection[str]) -> ConfigurationError:
    """That relay.toml has no pairs of these names, which the command line has at `where`."""
    return ConfigurationError(
        tuple(
            Mistake(where, f"there is no pair {printable(name)}", meant(name, known) or "`relay pairs list` shows them")
            for name in names
        )
    )


def meant(name: str, known: Iterable[str]) -> str | None:
    """Which pair is probably meant: most have its name in other letters, or are one letter off."""
    from difflib import get_close_matches  # only for mistakes

    spelled = {_spelling(one): one for one in known}
    close = get_close_matches(_spelling(name), spelled, n=1)
    return f"did you mean {printable(spelled[close[0]])}?" if close else None


def _spelling(name: str) -> str:
    """A pair's name without what people leave out or add: capitals, the # of a channel, the server of an alias."""
    return name.casefold().lstrip("#").partition(":")[0].replace("_", "-").replace(" ", "-")


def printable(text: str) -> str:
    """`text` on one line and without control characters for the terminal: other people wrote it."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def print_json(value: object) -> None:
    """Print JSON without control characters for the terminal."""
    from relay.logs import readable_json

    text = readable_json(value, indent=2)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)  # with the escapes of JSON, and no others
    sys.stdout.write(f"{text}\n")


def way(direction: str) -> str:
    """A direction in words: "to Discord"."""
    return f"to {direction.removeprefix('to_').capitalize()}"


@asynccontextmanager
async def existing_store(url: str) -> "AsyncIterator[SqlStore]":
    """Open the store of a daemon that runs or has run. It is not created or migrated. Raises `StoreError`."""
    from relay.store.migrate import check
    from relay.store.unit_of_work import store_at

    store = store_at(url)
    schema = await asyncio.to_thread(check, url)
    match schema.state:
        case "missing" | "empty":
            raise StoreError(store.name, "it does not exist yet", "start the daemon once with `relay run`")
        case "outdated":
            raise StoreError(store.name, "it was made by an older relay", "run `relay db upgrade`, or start the daemon")
        case "too_new":
            raise StoreTooNew(store.name, "it was made by a newer relay", "use that version of the relay")
    try:
        yield store
    finally:
        await store.close()


async def known_channels(settings: "Settings") -> "Mapping[ChannelAddress, ChannelInfo]":
    """What people know the channels by, as the daemon has told last; of new ones nothing. Raises `StoreError`."""
    from relay.core.operations.channel_lookups import read_known_channels
    from relay.core.pairs import PairDirectory

    if settings.store.is_missing:
        return {}
    async with existing_store(settings.store.url) as store:
        return await read_known_channels(store, PairDirectory(settings.declared_pairs()))


def is_terminal() -> bool:
    """Whether standard output is one."""
    return sys.stdout.isatty()
