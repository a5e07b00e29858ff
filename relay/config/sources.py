"""Reads `relay.toml`, the environment and the files that hold secrets: the values before they are checked."""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import create_model
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from relay.config.mistakes import (
    Location,
    Origin,
    did_you_mean,
    find_key,
    holds_keys,
    instead_of,
    positions,
    sections_with,
    shown,
)
from relay.config.settings import CONFIG_VARIABLE, DEFAULT_FILE, HOST_VARIABLE, keys_of
from relay.errors import Mistake

PREFIX = "RELAY_"
_NO_SETTINGS = frozenset({CONFIG_VARIABLE, HOST_VARIABLE})
# Secrets. Each can also be in a file, which the key `<name>_file` names.
SECRETS = (
    ("discord", "token"),
    ("matrix", "access_token"),
    ("matrix", "password"),
    ("matrix", "appservice", "as_token"),
    ("store", "url"),
    ("web", "token"),
)
# The sections that are arrays of tables.
LISTS = ("pairs", "rooms", "people")

# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables: a service called "relay"
# gives every container of its namespace variables of these names.
_KUBERNETES = re.compile(r"RELAY_(?:SERVICE_(?:HOST|PORT\w*)|PORT(?:_\d+_\w+)?)")
_SECRET_LIMIT = 65536


@dataclass(slots=True)
class Source:
    """The values before they are checked, and where each comes from."""

    values: dict[str, Any]
    origin: Origin
    # Relative paths start here.
    folder: Path
    # The file could not be read, so nobody knows what is missing from it.
    broken: bool
    # What is already known to be wrong.
    mistakes: list[Mistake] = field(default_factory=list)
    # See `Settings.overridden`.
    overridden: tuple[tuple[str, str], ...] = ()
    # The secrets whose files could not be read: something else stands in their places.
    unread: set[Location] = field(default_factory=set)


class _Checker(BaseSettings):
    """A configuration as pydantic-settings checks it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: object, **__: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only what is passed in. Pydantic must not read the environment by itself."""
        return (init_settings,)


@cache
def checker_of(model: type[Any]) -> type[BaseSettings]:
    """What checks a `Settings`, section by section."""
    sections: dict[str, Any] = {
        name: (one.type, ... if one.default is MISSING else one.default) for name, one in keys_of(model).items()
    }
    return create_model(model.__name__, __base__=_Checker, **sections)


def gather(
    file: Path,
    environ: Mapping[str, str],
    model: type[Any],
    text: str | None = None,
    options: Mapping[Location, str] = MappingProxyType({}),
) -> Source:
    """The values of the file, of the environment (which wins) and of the secrets' files."""
    text, unread = read_file(file) if text is None else (text, [])
    document, broken = _parse(text, file)
    environment, variables, unknown = _read_environment(environ, model)
    values = _overlay(document, environment)
    origin = Origin(str(file), positions(text) if not broken else {}, variables, options, _pair_names(values))
    source = Source(values, origin, file.parent, bool(unread or broken), [*unread, *broken, *unknown])
    source.overridden = tuple(_overridden(document, Origin(str(file), origin.lines), variables, environ))
    for location in SECRETS:
        _open_secret(source, environment, location, file.parent)
    return source


def read_file(file: Path) -> tuple[str, list[Mistake]]:
    try:
        return file.read_text(encoding="utf-8-sig"), []
    except FileNotFoundError:
        remedy = "run `relay init`, which asks and writes it, or name another one with --config or RELAY_CONFIG"
        return "", [Mistake(str(file), "there is no such file", remedy)]
    except IsADirectoryError:
        return "", [Mistake(str(file), "is a directory", _instead_of_directory(file))]
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        return "", [Mistake(str(file), f"cannot be read: {reason}", "let the relay's user read it")]
    except UnicodeDecodeError:
        return "", [Mistake(str(file), "is not UTF-8 text", "save it as UTF-8")]


def _instead_of_directory(folder: Path) -> str:
    try:
        # Nobody removes the folder that they are in.
        empty = not any(folder.iterdir()) and not folder.samefile(Path.cwd())
    except OSError:
        empty = False
    if empty:  # Docker makes one where a file is to be mounted that is not there.
        return "remove the directory (rmdir), and run `relay init`, which asks and writes the file"
    return f"name the file in it, like {folder / DEFAULT_FILE}"


def _parse(text: str, file: Path) -> tuple[dict[str, Any], list[Mistake]]:
    try:
        return tomllib.loads(text), []
    except tomllib.TOMLDecodeError as error:
        # The message is a sentence about syntax, with line and column, and at most one character of the file.
        reason = str(error)
    except RecursionError:
        reason = "nested too deeply"
    except ValueError:
        reason = "a number has too many digits"
    remedy = (
        instead_of(text, LISTS) or "correct the TOML there (text in quotes, one key = value per line, lists in [ ])"
    )
    return {}, [Mistake(str(file), f"is not valid TOML: {reason[:1].lower()}{reason[1:]}", remedy)]


def _read_environment(
    environ: Mapping[str, str], model: type[Any]
) -> tuple[dict[str, Any], dict[Location, str], list[Mistake]]:
    known: dict[str, str] = {}
    names: dict[Location, str] = {}
    mistakes: list[Mistake] = []
    for variable, value in sorted(environ.items()):
        if not variable.startswith(PREFIX) or variable in _NO_SETTINGS or _KUBERNETES.fullmatch(variable):
            continue
        location = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        problem = _problem_of_variable(location, value, model)
        if problem is not None:
            mistakes.append(Mistake(f"environment variable {shown(variable)}", *problem))
        else:
            known[variable.lower()] = value
            names[location] = variable
    source = EnvSettingsSource(checker_of(model))  # type: ignore[arg-type]  # mypy takes no class for hashable
    source.env_vars = known
    return source(), names, mistakes


def _overridden(
    document: Mapping[str, Any], file: Origin, variables: Mapping[Location, str], environ: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """The environment variables that go before something else in the file: each, and where that is."""
    for (*above, key), variable in variables.items():
        table: Any = document
        for name in above:
            table = table.get(name) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            continue
        # A secret, or the file that it is in.
        other = str(key).removesuffix("_file") if str(key).endswith("_file") else f"{key}_file"
        for name in (key, other):
            if name in table and (name != key or str(table[name]) != environ[variable]):
                yield variable, file.where((*above, name))


def _problem_of_variable(location: Location, value: str, model: type[Any]) -> tuple[str, str] | None:
    """The mistake and the fix, if a variable's name or its JSON is wrong."""
    section, *keys = map(str, location)
    if section not in (sections := keys_of(model)):
        name, _, key = section.partition("_")
        if not keys and name in sections:  # most forget the second underscore
            return "there is no such section", f"did you mean {_variable(name, key)}?"
        if inside := sections_with(section, model):
            meant = [_variable(one, "__".join((section, *keys))) for one in inside]
            return "there is no such section", f"did you mean {' or '.join(meant)}?"
        return "there is no such section", did_you_mean(section, sections, _variable)
    if section in LISTS:
        return _problem_of_list(section, keys, value)
    for number, key in enumerate(keys, 1):
        inner, found = find_key(model, location[: number + 1])
        if found is None:
            above = "__".join((section, *keys[: number - 1]))
            tables = (name for name, one in keys_of(inner).items() if holds_keys(one) and key.startswith(f"{name}_"))
            if (table := next(tables, None)) is not None:  # as above, within a section
                instead = _variable(f"{above}__{table}", key.removeprefix(f"{table}_"))
                return "there is no such key", f"did you mean {instead}?"
            return "there is no such key", did_you_mean(key, keys_of(inner), partial(_variable, above))
        if not holds_keys(found):
            return None if number == len(keys) else ("names no key", f"write {_variable(section)}")
    return "names no key", f"write {_variable('__'.join((section, *keys)))}"


def _variable(section: str, key: str = "<KEY>") -> str:
    return f"{PREFIX}{section.upper()}" if section in LISTS else f"{PREFIX}{section.upper()}__{key.upper()}"


def _problem_of_list(section: str, keys: list[str], value: str) -> tuple[str, str] | None:
    remedy = f"write the whole list as JSON into {_variable(section)}"
    example = (
        '{"discord": 1234567890123456789, …}' if section == "people" else '{"matrix_room": "#help:example.org", …}'
    )
    if keys:
        return "one key of a list cannot be set", remedy
    try:
        well = isinstance(json.loads(value), list)
    except (ValueError, RecursionError):
        well = False
    return None if well else ("is not a JSON list", f"{remedy}, like [{example}]")


def _overlay(document: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(document)
    for section, given in environment.items():
        below = values.get(section)
        values[section] = _overlay(below, given) if isinstance(below, dict) and isinstance(given, dict) else given
    return values


def _pair_names(values: Mapping[str, Any]) -> list[str]:
    pairs = values.get("pairs")
    tables = pairs if isinstance(pairs, list) else []
    names = (pair.get("name") or pair.get("matrix_room") if isinstance(pair, dict) else None for pair in tables)
    return [shown(name) if isinstance(name, str) else "" for name in names]


def _printable(path: Path) -> str:
    text = str(path)
    return text if text.isprintable() else repr(text)


def _open_secret(source: Source, environment: Mapping[str, Any], location: tuple[str, ...], folder: Path) -> None:
    """Set a key to the content of `<key>_file`. If the environment sets one of the two, that one wins."""
    *tables, key = location
    around, outside, name = source.values, environment, f"{key}_file"
    for part in tables:
        table, given = around.get(part), outside.get(part, {})
        if not isinstance(table, dict):
            return
        # A copy: the values of the file are shared with others.
        around[part] = around = dict(table)
        outside = given if isinstance(given, dict) else {}
    if not isinstance(around.get(name), str):
        return
    if key in around:
        if (key in outside) == (name in outside):
            remedy = f"keep only one of {key} and {name}"
            source.mistakes.append(Mistake(source.origin.where((*tables, name)), f"{key} is also set", remedy))
            return
        if key in outside:
            return
    source.origin.secrets[*tables, key] = name
    path = folder / around[name]
    try:
        with path.open(encoding="utf-8-sig") as stream:
            text = stream.read(_SECRET_LIMIT).strip()
        problem = None if text else "is empty"
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        text, problem = "", f"cannot be read: {reason[:1].lower()}{reason[1:]}"
    if problem:
        # Somebody may have written the secret itself there, which is never shown.
        may_be_shown = os.sep in around[name] or os.path.lexists(path)
        which = f"the file {_printable(path)}" if may_be_shown else "the file that it names"
        remedy = f"write the path of a file that contains only the {key} and that the relay's user may read"
        source.mistakes.append(Mistake(source.origin.where((*tables, name)), f"{which} {problem}", remedy))
        source.unread.add(location)
    # A placeholder if there is no secret: otherwise the same mistake would be reported again, as a missing key.
    around[key] = text or "-"
