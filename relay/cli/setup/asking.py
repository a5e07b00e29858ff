"""Questions to the operator: on a terminal, or answered by a file."""

import getpass
import shutil
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import typer

from relay.cli.common import printable, wrapped
from relay.errors import ConfigurationError, Mistake, reason_of

# The problem with an answer, as a sentence; None if it is good.
Check = Callable[[str], str | None]
_WIDEST = 88


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One thing to be asked."""

    # Its name in a file of answers. A secret may also be in a file that `<key>_file` names.
    key: str
    # What stands before the cursor.
    words: str
    # What no answer means; None: an answer is needed.
    default: str | None = None
    secret: bool = False


class Asker(Protocol):
    """Asks questions."""

    # Whether somebody is there, who can do something and have it looked at again.
    present: bool

    def ask(self, question: Question, check: Check = lambda _: None) -> str:
        """The answer, which `check` finds nothing wrong with."""
        ...

    def agrees(self, question: Question) -> bool:
        """Yes or no."""
        ...

    def pairs(self, question: Question, check: Check) -> list[str]:
        """Pairs: each of them a channel and a room with a space between."""
        ...


class Terminal:
    """Somebody at a terminal, who is asked again until the answer is good."""

    present = True

    def ask(self, question: Question, check: Check = lambda _: None) -> str:
        """See `Asker.ask`."""
        while True:
            answer = self._read(question)
            problem = check(answer) if answer else "That was an empty line: write an answer, or leave with Ctrl-C."
            if problem is None:
                return answer
            say(problem, sign="✗")

    def agrees(self, question: Question) -> bool:
        """See `Asker.agrees`."""
        yes = question.default == "yes"
        shown = Question(key=question.key, words=f"{question.words} [{'Y/n' if yes else 'y/N'}]", default="")
        while True:
            answer = self._read(shown).casefold()
            if not answer:
                return yes
            if answer in {"y", "yes", "n", "no"}:
                return answer.startswith("y")
            say("Write y or n.", sign="✗")

    def pairs(self, question: Question, check: Check) -> list[str]:
        """See `Asker.pairs`: one after the other, until an empty line."""
        found: list[str] = []
        while answer := self._read(question):
            for one in answer.split(","):
                if (problem := check(one.strip())) is None:
                    found.append(one.strip())
                else:
                    say(problem, sign="✗")
        return found

    def _read(self, question: Question) -> str:
        default = f" [{question.default}]" if question.default else ""
        prompt = f"{question.words}{default}: "
        try:
            answer = getpass.getpass(prompt) if question.secret else input(prompt)
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            say("Nothing was written.")
            raise typer.Exit(1) from None
        return answer.strip() or question.default or ""


@dataclass(slots=True)
class Answers:
    """A TOML file with the answers. What it does not say has its default."""

    path: Path
    # The keys that a file may have, and those of lists.
    known: Sequence[str]
    present: bool = field(init=False, default=False)
    _values: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        from relay.config.mistakes import did_you_mean, instead_of

        text = ""
        try:
            text = self.path.read_text(encoding="utf-8-sig")
            self._values = tomllib.loads(text)
        except OSError as error:
            raise self._wrong("", f"cannot be read: {reason_of(error)}", "name a file with answers") from error
        except ValueError as error:
            remedy = instead_of(text, ()) or "write one key = value per line, in UTF-8"
            raise self._wrong("", "is not valid TOML", remedy) from error

        unknown = [key for key in self._values if key not in self.known and key.removesuffix("_file") not in self.known]
        if unknown:
            raise ConfigurationError(
                tuple(
                    Mistake(f"{self.path}: {printable(key)}", "there is no such answer", did_you_mean(key, self.known))
                    for key in unknown
                )
            )

    def ask(self, question: Question, check: Check = lambda _: None) -> str:
        """See `Asker.ask`."""
        answer = self._secret(question.key) if question.secret else self._values.get(question.key, question.default)
        if isinstance(answer, int) and not isinstance(answer, bool):
            answer = str(answer)
        if not isinstance(answer, str) or not answer:
            raise self._wrong(question.key, "is missing", f'write {question.key} = "…"')
        if (problem := check(answer)) is not None:
            raise self._wrong(question.key, problem, "correct it")
        return answer

    def agrees(self, question: Question) -> bool:
        """See `Asker.agrees`."""
        answer = self._values.get(question.key, question.default == "yes")
        if not isinstance(answer, bool):
            raise self._wrong(question.key, "must be true or false", f"write {question.key} = true")
        return answer

    def pairs(self, question: Question, check: Check) -> list[str]:
        """See `Asker.pairs`."""
        listed = self._values.get(question.key, [])
        if not isinstance(listed, list) or not all(isinstance(one, list) and len(one) == 2 for one in listed):
            raise self._wrong(question.key, "must be a list", f'write {question.key} = [["CHANNEL", "#room:server"]]')
        found = [" ".join(map(str, one)) for one in listed]
        for one in found:
            if (problem := check(one)) is not None:
                raise self._wrong(question.key, problem, "correct it")
        return found

    def has(self, key: str) -> bool:
        """Whether the file answers a question, or names a file that does."""
        return key in self._values or f"{key}_file" in self._values

    def _secret(self, key: str) -> Any:
        if (name := self._values.get(f"{key}_file")) is None:
            return self._values.get(key)
        try:
            return (self.path.parent / str(name)).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise self._wrong(f"{key}_file", f"the file cannot be read: {reason}", "correct it") from error

    def _wrong(self, key: str, what: str, remedy: str) -> ConfigurationError:
        where = f"{self.path}: {key}" if key else str(self.path)
        return ConfigurationError.of(where, what.rstrip("."), remedy)


def say(text: str, *, sign: str = "", indent: int = 0) -> None:
    """Print a paragraph that fits into the terminal."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    first = " " * indent + (f"{sign} " if sign else "")
    for line in wrapped(printable(text), width, first=first, indent=" " * len(first)):
        typer.echo(line)


def heading(text: str) -> None:
    """Print what comes next."""
    typer.echo()
    typer.secho(text, bold=True)


def rows(cells: Iterable[Sequence[str]]) -> None:
    """Print a table without lines. Cells but the last are as wide as the widest, a third of the terminal at most."""
    from rich.cells import cell_len

    from relay.cli.status_text import cut, shortened

    table = [[printable(cell) for cell in row] for row in cells]
    if not table:
        return
    most = max(16, min(shutil.get_terminal_size().columns, _WIDEST) // 3)
    widths = [min(most, max(cell_len(row[column]) for row in table)) for column in range(len(table[0]) - 1)]
    for row in table:
        padded = [cut(cell, width) for cell, width in zip(row, widths, strict=False)]
        used = sum(widths) + 2 * len(widths) + 2
        rest = shortened(row[-1], max(16, min(shutil.get_terminal_size().columns, _WIDEST) - used))
        typer.echo(f"  {'  '.join([*padded, rest])}".rstrip())
