"""The line of each key in a TOML file, and pydantic's errors as sentences for the operator.

They never contain a value: it may be a secret under the wrong key.
"""

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field
from functools import partial
from typing import Any, TypeVar, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from relay.config.settings import Section, keys_of
from relay.config.values import Wrong
from relay.errors import Mistake

# The path to a value: `("discord", "token")`, `("pairs", 0, "name")`.
Location = tuple[str | int, ...]

_Table = TypeVar("_Table", bound=Section)

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]#]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')\s*[=.]")
# A value in quotes that an editor has made curly.
_CURLY = re.compile(r"^[^#\"']*=\s*\[?\s*([“”„‟‘’«»])")
# A key and its value, as TOML and as YAML write it.
_ASSIGNMENT = re.compile(r"\s*((?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*=(.*)")
_COLON = re.compile(r"\s*[a-z_]+\s*:(?:\s|$)")
_LONGEST_KEY = 32
_LONGEST_WORDS = 80
# Some words, as keys and the names of variables are, and no secret.
_WORDS = re.compile(r"[a-z]{1,14}(__?[a-z]{1,14})+|[A-Z]{1,14}(__?[A-Z]{1,14})+")


def positions(text: str) -> dict[Location, int]:
    """The line (from 1) of each table and key in a TOML document, which `tomllib` does not tell.

    Keys inside inline tables are not found; `Origin.where` then names the key around them.
    """
    found: dict[Location, int] = {}
    counts: dict[str, int] = {}
    table: Location = ()
    for number, line in outside_strings(text):
        if header := table_header(line):
            table, is_list = header
            if is_list:
                name = ".".join(map(str, table))
                table = (name, counts.setdefault(name, 0))
                counts[name] += 1
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault((*table, key[1].strip("\"'")), number)
    return found


def outside_strings(text: str) -> Iterator[tuple[int, str]]:
    """The lines (from 1) of a TOML document that do not begin inside a text of several lines."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        if fence:
            fence = "" if fence in line else fence
            continue
        yield number, line
        fence = next((mark for mark in ('"""', "'''") if line.count(mark) % 2), "")


def table_header(line: str) -> tuple[tuple[str, ...], bool] | None:
    """The name of the table that begins in a line, and whether it is one of a list; None if none does."""
    header = _HEADER.match(line)
    if header is None:
        return None
    return _names(header[2]), header[1] == "[["


def _names(written: str) -> tuple[str, ...]:
    return tuple(part.strip("\"' ") for part in written.strip("\"' ").split("."))


def instead_of(text: str, lists: Iterable[str]) -> str:
    """What to write in a file that is no TOML, where what people mostly mean is in it; "": that is not known."""
    single = re.compile(rf"\s*\[\s*({'|'.join(lists) or '(?!)'})\s*\]")
    table: Location = ()
    known: dict[Location, int] = {}
    for number, line in outside_strings(text):
        if header := single.match(line):
            return f"in line {number} write [[{header[1]}]], in double brackets, and so before each of them"
        if curly := _CURLY.search(line):
            return f'in line {number} write straight quotes ("), and not {curly[1]}'
        if (head := table_header(line)) is not None:
            table, is_list = head
            if is_list:  # another one begins, with the same keys and tables in it
                known = {one: first for one, first in known.items() if one[: len(table)] != table}
            if (first := known.setdefault(table, number)) != number:
                return f"line {number} begins the section of line {first} again: move what is below it up there"
        elif (key := _ASSIGNMENT.match(line)) and (
            first := known.setdefault((*table, *_names(key[1])), number)
        ) != number:
            return f"line {number} gives the key of line {first} again: remove one of the two"
        if (remedy := _instead_of_line(line)) is not None:
            return f"in line {number} {remedy}"
    return ""


def _instead_of_line(line: str) -> str | None:
    """What to write in a line that is no TOML; None: it may be some, or nobody knows what is meant."""
    if line.lstrip().startswith(("//", "--", ";")):
        return "write # before a comment"
    if _COLON.match(line):
        return "write = and not :"
    if (key := _ASSIGNMENT.match(line)) is None or (value := key[2].strip()).startswith(("[", "{", '"""', "'''")):
        return None
    try:
        tomllib.loads(line)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError):
        return _instead_of_value(value)
    return None


def _instead_of_value(value: str) -> str:
    if not value:
        return "write a value behind the =, or remove the line"
    if value.lower() in {"true", "false", "yes", "no", "on", "off"}:
        return "write true or false, in small letters"
    quote = value[0]
    if quote not in "\"'":
        return 'put the value in quotes (")'
    if value.count(quote) == 1:
        return f"close the quotes: there is no {quote} behind the value"
    if quote == '"' and "\\" in value:
        return "write single quotes (') around the value: \\ means something else within double ones"
    return "leave nothing behind the closing quote; a value with quotes in it has the other kind around it"


_OF_A_LOG = frozenset({"file", "filename", "folder", "output", "path"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the values come from."""

    # As the operator wrote it.
    file: str
    lines: Mapping[Location, int] = field(default_factory=dict)
    # The environment variables that were used.
    variables: Mapping[Location, str] = field(default_factory=dict)
    # The command's options and arguments that were used, which go before both: `--user`.
    options: Mapping[Location, str] = field(default_factory=dict)
    pair_names: Sequence[str] = ()
    # The key that names the file of a secret, by the key of that.
    secrets: dict[Location, str] = field(default_factory=dict)

    def where(self, location: Location) -> str:
        """`relay.toml:12: [[pairs]] 2 "help" discord_channel`, or the option, or the environment variable."""
        if location in self.secrets:
            location = (*location[:-1], self.secrets[location])
        for depth in range(len(location), 0, -1):
            if option := self.options.get(location[:depth]):
                return option
            if variable := self.variables.get(location[:depth]):
                # Of a list as JSON, which of its values is meant.
                inside = f": {self.label(location)}" if depth < len(location) and isinstance(location[1], int) else ""
                return f"environment variable {variable}{inside}"
        line = self.line(location)
        return f"{self.file}:{line}: {self.label(location)}" if line else f"{self.file}: {self.label(location)}"

    def line(self, location: Location) -> int:
        """The line of a key, or of the table around it. 0 if neither is in the file."""
        found = (self.lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in self.lines)
        return next(found, self.lines.get((*location, 0), 0))  # of a list's name: where its first table begins

    def label(self, location: Location) -> str:
        """The key as the operator would write it."""
        section, *keys = location
        if not keys or not isinstance(index := keys[0], int):
            return " ".join([f"[{shown(section)}]", *map(shown, keys)])
        name = self.pair_names[index] if section == "pairs" and index < len(self.pair_names) else ""
        quoted = [json.dumps(name, ensure_ascii=False)] if name else []
        return " ".join([f"[[{section}]] {index + 1}", *quoted, *map(shown, keys[1:])])


def shown(key: object) -> str:
    """A key in printable form, on one line. Of what may be a secret in the wrong place, only the beginning."""
    text = str(key)
    if len(text) > _LONGEST_KEY and not (len(text) <= _LONGEST_WORDS and _WORDS.fullmatch(text)):
        text = f"{text[:8]}…"
    return text if text.isprintable() else repr(text)


def did_you_mean(key: str, known: Iterable[str], written: Callable[[str], str] = str) -> str:
    """The fix for an unknown key. `written` turns a known key into what the operator would write."""
    from difflib import get_close_matches  # only for mistakes

    names = sorted(known)
    close = get_close_matches(key.lower(), names, n=1)
    return f"did you mean {written(close[0])}?" if close else f"write one of {', '.join(map(written, names))}"


def sections_with(key: str, model: type[Any]) -> list[str]:
    """The sections that know a key. In TOML a line belongs to the header above it, wherever it is meant for."""
    tables = [(name, one.type) for name, one in keys_of(model).items()]
    return [name for name, table in tables if table in _tables(table) and key in keys_of(table)]


def _places_of(key: str, model: type[Any]) -> list[str]:
    """How a key, or a table, is written that somebody put outside of every section."""
    found = [
        (name, inner[key])
        for name, one in keys_of(model).items()
        for table in _tables(one.type)
        if name != "pairs" and key in (inner := keys_of(table))
    ]
    return [f"[{name}.{key}]" if holds_keys(one) else f"{key} below [{name}]" for name, one in found]


def _pairs_of(model: type[Any]) -> type[Any]:
    return next(iter(_tables(keys_of(model)["pairs"].type)))


def explain(error: ErrorDetails, model: type[Any], origin: Origin) -> Mistake:
    """One of pydantic's errors about `model`, as a mistake."""
    location: Location = tuple(error["loc"])
    what, remedy = _words(error, model, location)
    return Mistake(origin.where(location), what, remedy)


def validated(table: type[_Table], values: Mapping[str, Any]) -> _Table:
    """A table with these values. Raises pydantic's `ValidationError`."""
    return TypeAdapter(table).validate_python(values)


def problem_with(table: type[Section], values: Mapping[str, str]) -> str | None:
    """The first thing that is wrong with an answer, as a sentence that does not contain it; None if nothing is."""
    try:
        validated(table, values)
    except ValidationError as error:
        match error.errors(include_url=False, include_input=False)[0].get("ctx"):
            case {"error": Wrong(what=what, remedy=str(remedy))}:
                return f"That {what}: {remedy}."
        return "That is not valid: write it again."
    return None


def find_key(model: type[Any], location: Location) -> tuple[type[Any], Field[Any] | None]:
    """The table at `location`, and its key. None for an unknown key."""
    found: Field[Any] | None = None
    for part in location:
        if isinstance(part, int):
            continue
        if found is not None:
            model = next(kind for kind in _tables(found.type))
        found = keys_of(model).get(part)
        if found is None:
            break
    return model, found


def holds_keys(key: Field[Any]) -> bool:
    """Whether what a key has is itself a table."""
    return bool(_tables(key.type))


def _header(model: type[Any], section: str) -> str:
    """How a section begins."""
    return f"[[{section}]]" if get_origin(keys_of(model)[section].type) in (tuple, list) else f"[{section}]"


def _tables(annotation: Any) -> list[type[Section]]:
    candidates = (annotation, *get_args(annotation))
    return [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, Section)]


def _words(error: ErrorDetails, model: type[Any], location: Location) -> tuple[str, str]:
    context = error.get("ctx", {})
    key = str(location[-1])
    inner, found = find_key(model, location)
    example = None if found is None else found.metadata.get("example")
    write = f"write, for example, {key} = {example}" if example else "see deploy/relay.example.toml"
    match error["type"]:
        case "value_error" if isinstance(wrong := context["error"], Wrong):
            return wrong.what, wrong.remedy or write
        case "missing" if f"{key}_file" in keys_of(inner):
            variable = f"RELAY_{'__'.join(map(str, location))}".upper()
            return "is missing", f'write {key} = "…" or {key}_file = "/run/secrets/{key}", or set {variable}'
        case "missing":
            return "is missing", write
        case "extra_forbidden" | "unexpected_keyword_argument":
            return _words_of_unknown(key, model, location, inner)
        case "string_type":
            return "must be text", f"put it in quotes; {write}"
        case "bool_type" | "bool_parsing":
            return "must be true or false", f"write {key} = true or {key} = false, without quotes"
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return "must be a whole number", write
        case "literal_error":
            return "is not an allowed value", f"write {context['expected']}"
        case "tuple_type" if len(location) == 1:
            return f"must be a list of {key}", f"start each of them with [[{key}]], in double brackets"
        case "dataclass_type":
            names = ".".join(str(part) for part in location if isinstance(part, str))
            head = f"[[{names}]]" if isinstance(location[-1], int) else f"[{names}]"
            return "must be a table", f"start it with {head} and write its keys below, one per line"
    return "is not valid", write


def _words_of_unknown(key: str, model: type[Any], location: Location, inner: type[Any]) -> tuple[str, str]:
    """Of a section or a key that there is not, or not there."""
    if len(location) == 1:
        if places := _places_of(key, model):
            return "it cannot stand there", f"write it as {' or '.join(places)}"
        return "there is no such section", did_you_mean(key, keys_of(model), partial(_header, model))
    if location[0] == "log" and key in _OF_A_LOG:
        remedy = "append 2>> and a file's name to the command, or let systemd or Docker keep it"
        return "the log goes to standard error only", remedy
    if location[0] == "defaults" and key in keys_of(_pairs_of(model)):
        return "is of one pair, and not of all", "move it below that one's [[pairs]]"
    if len(sections := sections_with(key, model)) == 1:
        return "there is no such key here", f"move it into [{sections[0]}], above the first [[pairs]]"
    return "there is no such key", did_you_mean(key, keys_of(inner))
