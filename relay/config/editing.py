"""Changes to `relay.toml` that leave everything else in it as the operator wrote it, comments too.

Which lines a pair has is found by its headers, so that a comment stays with what it is about; tomlkit writes values and
changes lists in one line. Each result is read again and compared with what was wanted: no guess about the text can
change another setting.
"""

import fcntl
import os
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from relay.config.mistakes import outside_strings, table_header
from relay.errors import ConfigurationError, reason_of

Scalar = str | int | bool

_PAIRS = "pairs"
_PRIVATE = 0o600


class NotEditable(ValueError):
    """The file says what is wanted in a form that we cannot change safely."""


# --- What the text becomes --------------------------------------------------------------------------------


def add_pairs(text: str, pairs: Sequence[Mapping[str, Scalar]]) -> str:
    """`text` with these pairs behind those that it has. Raises `NotEditable`."""

    def change(document: dict[str, Any]) -> None:
        document.setdefault(_PAIRS, []).extend(dict(pair) for pair in pairs)

    def in_lines() -> str:
        lines = text.splitlines()
        blocks = _blocks(lines)
        at = blocks[-1].end if blocks else len(lines)
        head, tail = _trimmed(lines[:at]), lines[at:]
        new = "\n\n".join(pair_table(pair) for pair in pairs)
        return "\n".join([*head, *([""] if head else []), new, *(["", *tail] if tail else []), ""])

    def in_document() -> str:
        document = tomlkit.parse(text)
        for pair in pairs:
            table = tomlkit.inline_table()
            table.update(pair)
            document[_PAIRS].append(table)
        return tomlkit.dumps(document)

    return _first_right(text, change, in_lines, in_document)


def remove_pair(text: str, number: int) -> str:
    """`text` without its pair of that number, from 0. Raises `NotEditable`."""

    def change(document: dict[str, Any]) -> None:
        del document[_PAIRS][number]
        if not document[_PAIRS]:
            del document[_PAIRS]

    def in_lines() -> str:
        lines = text.splitlines()
        block = _blocks(lines)[number]
        # What stands above the first pair may be about all of them.
        start = block.header if number == 0 else block.start
        head, tail = lines[:start], lines[block.end :]
        return "\n".join([*(head if tail else _trimmed(head)), *tail, ""])

    def in_document() -> str:
        document = tomlkit.parse(text)
        del document[_PAIRS][number]
        if not document[_PAIRS]:
            del document[_PAIRS]
        return tomlkit.dumps(document)

    return _first_right(text, change, in_lines, in_document)


def set_in_pair(text: str, number: int, key: str, value: Scalar | None) -> str:
    """`text` with another value in its pair of that number, from 0. None removes the key. Raises `NotEditable`."""

    def change(document: dict[str, Any]) -> None:
        if value is None:
            document[_PAIRS][number].pop(key, None)
        else:
            document[_PAIRS][number][key] = value

    def in_lines() -> str:
        lines = text.splitlines()
        block = _blocks(lines)[number]
        own = range(block.header + 1, block.own_end)
        if value is None:
            (line,) = (each for each in own if lines[each].partition("=")[0].strip() == key)
            return "\n".join([*lines[:line], *lines[line + 1 :], ""])
        at = 1 + max((each for each in own if _says_something(lines[each])), default=block.header)
        return "\n".join([*lines[:at], f"{key} = {_written(value)}", *lines[at:], ""])

    def in_document() -> str:
        document = tomlkit.parse(text)
        pair: Any = document[_PAIRS][number]
        if value is None:
            pair.pop(key, None)
        else:
            pair[key] = value
        return tomlkit.dumps(document)

    there = key in tomllib.loads(text)[_PAIRS][number]
    # A value that is there already keeps its comment: tomlkit replaces it where it stands.
    order = (in_document,) if there and value is not None else (in_lines, in_document)
    return _first_right(text, change, *order)


def pair_table(pair: Mapping[str, Scalar]) -> str:
    """A pair as a table of its own."""
    return "\n".join(["[[pairs]]", *(f"{key} = {_written(value)}" for key, value in pair.items())])


def quoted(value: str) -> str:
    """A text as TOML has it."""
    return tomlkit.item(value).as_string()


def _written(value: Scalar) -> str:
    return str(tomlkit.item(value).as_string())


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _trimmed(lines: Sequence[str]) -> list[str]:
    """Without the empty lines at their end."""
    kept = list(lines)
    while kept and not kept[-1].strip():
        kept.pop()
    return kept


@dataclass(frozen=True, slots=True)
class _Block:
    """The lines of one `[[pairs]]`, counted from 0."""

    # The comments right above it, its header, where its own keys end (and tables within it begin), and its end.
    start: int
    header: int
    own_end: int
    end: int


def _blocks(lines: Sequence[str]) -> list[_Block]:
    headers = [
        (number - 1, header) for number, line in outside_strings("\n".join(lines)) if (header := table_header(line))
    ]
    starts = [_first_comment(lines, line) for line, _ in headers]
    ends = [*starts[1:], len(lines)][: len(starts)]
    blocks: list[_Block] = []
    within = False
    for (line, (name, is_list)), start, end in zip(headers, starts, ends, strict=True):
        if name == (_PAIRS,) and is_list:
            blocks.append(_Block(start, line, end, end))
            within = True
        elif within and name[0] == _PAIRS:
            last = blocks[-1]
            blocks[-1] = _Block(last.start, last.header, last.own_end, end)
        else:
            within = False
    return blocks


def _first_comment(lines: Sequence[str], header: int) -> int:
    start = header
    while start and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return start


def _first_right(text: str, change: Callable[[dict[str, Any]], None], *ways: Callable[[], str]) -> str:
    """The first result that says exactly what is wanted."""
    wanted = deepcopy(tomllib.loads(text))
    change(wanted)
    for way in ways:
        with suppress(
            TOMLKitError, tomllib.TOMLDecodeError, KeyError, IndexError, ValueError, TypeError, AttributeError
        ):
            result = way()
            if tomllib.loads(result) == wanted:
                return result
    raise NotEditable


# --- Files ------------------------------------------------------------------------------------------------


def read(path: Path) -> str:
    """The text of the file. Raises `ConfigurationError`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError.of(str(path), f"cannot be read: {reason}", "let your user read it") from error


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other commands of the relay from changing the file meanwhile, where its folder can be locked."""
    folder = None
    with suppress(OSError):
        folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if folder is not None:
            os.close(folder)


def replace_file(path: Path, text: str) -> None:
    """Write another text into a file that is there. Raises `ConfigurationError`.

    At once, so that nobody can read half of it; in place where only the file itself may be written (a container that
    has it mounted). The daemon waits until a file stops changing.
    """
    # What a link leads to: replacing the link itself would leave that as it was.
    path = path.resolve()
    try:
        newline = "\r\n" if b"\r\n" in path.read_bytes() else "\n"
        try:
            status = path.stat()
            with _beside(path, text, newline) as new:
                new.chmod(status.st_mode & 0o7777)
                os.chown(new, status.st_uid, status.st_gid)
                new.replace(path)
        except OSError:
            with path.open("w", encoding="utf-8", newline=newline) as stream:
                stream.write(text)
    except OSError as error:
        raise ConfigurationError.of(
            str(path), f"cannot be written: {reason_of(error)}", "let your user write it"
        ) from error


def write_private(path: Path, text: str, *, replace: bool = False) -> None:
    """Write a file that nobody else may read. Raises `FileExistsError`, unless it may be replaced, and `OSError`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if replace:
        path = path.resolve()
        with _beside(path, text) as new:
            new.replace(path)
        return
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE), "w", encoding="utf-8") as stream:
        stream.write(text)


@contextmanager
def _beside(path: Path, text: str, newline: str = "\n") -> Iterator[Path]:
    """A new private file with this text in the folder of another one; gone afterwards, unless it was moved."""
    try:
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # nobody knows the other one
        raise
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline=newline) as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
